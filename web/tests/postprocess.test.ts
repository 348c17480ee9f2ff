/** Answers and events are those of Python, on the same scores. */

import { expect, test } from "vitest";

import { answer, columns, predictionSet } from "../src/decisions";
import { type Event, PostProcessor } from "../src/postprocess";
import { expected } from "./expected";

test.each(expected.events.map((each, i) => [i, each] as const))("events of case %i", (_, known) => {
  const post = new PostProcessor(known.settings, known.decision, known.hop, known.rate);
  const events: Event[] = [];
  known.scores.forEach((scores, i) => {
    const begin = i * known.hop + Math.floor((known.size - known.hop) / 2);
    const span = { begin, end: begin + known.hop, decided: i * known.hop + known.size };
    const step = post.step(span, scores);
    step.smoothed.forEach((value, k) => expect(value).toBeCloseTo(known.smoothed[i][k], 9));
    events.push(...step.events);
  });
  events.push(...post.finish());
  expect(known.events.length).toBeGreaterThan(3);
  expect(events.length).toBe(known.events.length);
  events.forEach((event, i) => {
    expect(event.label).toBe(known.events[i].label);
    expect(event.startSeconds).toBe(known.events[i].start_seconds);
    expect(event.endSeconds).toBe(known.events[i].end_seconds);
    expect(event.announcedSeconds).toBe(known.events[i].announced_seconds);
    expect(event.score).toBeCloseTo(known.events[i].score as number, 9);
  });
});

test("answers", () => {
  for (const known of expected.decisions) {
    expect(columns(known.decision)).toEqual(known.columns);
    expect(answer(known.decision, known.scores)).toEqual(known.answer);
    expect(predictionSet(known.decision, known.scores)).toEqual(known.set);
  }
});

/** What was lost or skipped, against Python's stream: no window goes missing, none is made up. */

import { expect, test, vi } from "vitest";

import type { Capturer } from "../src/capture";
import type { Inference, Scored } from "../src/inference";
import { type Heard, Listening } from "../src/listening";
import type { Model } from "../src/model";
import { PostProcessor } from "../src/postprocess";
import { expected } from "./expected";

const microphone = vi.hoisted(() => ({ sampleRate: 0, capturer: null as unknown }));
vi.mock("../src/capture", () => ({
  Capture: {
    start: (capturer: Capturer) => {
      microphone.capturer = capturer;
      return { sampleRate: microphone.sampleRate, stop: () => Promise.resolve() };
    },
  },
}));

const SCORES = [0.875, 0.125, 0];

async function listen(
  known: (typeof expected.streams)[number],
  score: () => Promise<Partial<Scored>>,
) {
  microphone.sampleRate = known.rate;
  const model = { ...known.cutting, ...known.decision, page: { stream: known.settings } };
  const heard: Heard[] = [];
  const listening = await Listening.start(
    model as unknown as Model,
    { score } as unknown as Inference,
    {
      onHeard: (each) => void heard.push(each),
      onTrouble: () => undefined,
      onEnd: (error) => {
        throw error;
      },
    },
  );
  return { listening, heard, capturer: microphone.capturer as Capturer };
}

const soon = () => Promise.resolve({ scores: Float32Array.from(SCORES), milliseconds: 1 });
const settle = () => new Promise((resolve) => setTimeout(resolve));

test.each(expected.streams)("lost sound at $rate Hz, as Python's stream", async (known) => {
  const { heard, capturer, listening } = await listen(known, soon);
  for (const piece of known.pieces) {
    if (piece < 0) capturer.onGap(-piece);
    await settle();
    for (let at = 0; at < piece; at += 1024) {
      capturer.onBlock(new Float32Array(Math.min(1024, piece - at)).fill(0.1));
      await settle();
    }
  }
  await settle();
  expect(listening.skipped).toBe(0);
  const { settings, decision, cutting } = known;
  const post = new PostProcessor(settings, decision, settings.hop_samples, cutting.sample_rate);
  // The two resamplers wait for a different number of samples to come.
  expect(Math.abs(heard.length - known.windows.length)).toBeLessThanOrEqual(1);
  heard.slice(0, known.windows.length).forEach(({ span, scores, milliseconds }, i) => {
    const window = known.windows[i];
    expect(span).toEqual(window.span);
    expect([i, milliseconds > 0]).toEqual([i, window.isScored]);
    const { smoothed, events } = post.step(span, scores);
    smoothed.forEach((value, k) => expect(value).toBeCloseTo(window.smoothed[k], 6));
    const times = events.map(({ label, startSeconds, endSeconds }) => [
      label,
      startSeconds,
      endSeconds,
    ]);
    expect(times).toEqual(
      window.events.map((event) => [event.label, event.start_seconds, event.end_seconds]),
    );
  });
  expect(known.windows.filter(({ isScored }) => !isScored).length).toBeGreaterThan(10);
  expect(known.windows.flatMap(({ events }) => events).length).toBeGreaterThan(4);
});

test("skipped windows keep their places, score nothing and are not shown", async () => {
  const [known] = expected.streams;
  const release: (() => void)[] = [];
  const busy = () => new Promise<void>((resolve) => release.push(resolve)).then(soon);
  const { heard, capturer, listening } = await listen(known, busy);
  const { hop_samples: hop } = known.settings;
  capturer.onBlock(new Float32Array(known.cutting.segment_samples).fill(0.1));
  await settle();
  capturer.onBlock(new Float32Array(4 * hop).fill(0.1));
  // The first is with the model, two wait, and two had no place.
  for (let i = 0; i < 3; i++) {
    release[i]();
    await settle();
  }
  expect(listening.skipped).toBe(2);
  expect(heard.map(({ isShown }) => isShown)).toEqual([true, true, true, false, false]);
  expect(heard.map(({ scores }) => scores[0])).toEqual([0.875, 0.875, 0.875, 0, 0]);
  heard.forEach(({ span }, i) => expect(span.begin).toBe(heard[0].span.begin + i * hop));
});

test("an hour that was lost is passed over", async () => {
  const known = expected.streams[1];
  const { heard, capturer } = await listen(known, soon);
  capturer.onGap(3600 * known.rate);
  await settle();
  const { hop_samples: hop } = known.settings;
  const { sample_rate: rate, segment_samples: size } = known.cutting;
  const count = Math.floor((3600 * rate - size) / hop) + 1;
  expect(Math.abs(heard.length - count)).toBeLessThanOrEqual(1);
  expect(heard.every(({ scores }) => scores[0] === 0)).toBe(true);
  expect(heard.filter(({ isShown }) => isShown).length).toBe(1);
});

/** All segments of a recording, as `Predictor.predict` scores them. */

import { meanScores } from "./decisions";
import type { Inference, Scored } from "./inference";
import { type Model, PageError } from "./model";
import type { Recording } from "./recording";
import { Resampler } from "./resampler";
import { Cutter, padSegment, type Segment, type Span, spanOf } from "./segments";

export interface Row {
  /** In seconds; the last segment ends with the recording, though the model saw it filled up. */
  start: number;
  end: number;
  span: Span;
  scores: Float32Array;
}

export interface Result {
  name: string;
  seconds: number;
  rows: Row[];
  /** Mean over the segments. */
  scores: number[];
}

/** `onRow` is told of each segment; `signal` stops between two. */
export async function scoreRecording(
  recording: Recording,
  model: Model,
  inference: Inference,
  onRow: (row: Row, scored: Scored) => void,
  signal: AbortSignal,
): Promise<Result> {
  const { sample_rate: rate, segment_samples: size } = model;
  const rows: Row[] = [];
  for await (const segment of segments(recording, model)) {
    signal.throwIfAborted();
    const scored = await inference.score(padSegment(segment.samples, size, model.padding));
    const start = segment.start / rate;
    const end = Math.max(start, Math.min(start + size / rate, recording.seconds));
    const span = spanOf(segment, size, model.hop_samples);
    rows.push({ start, end, span, scores: scored.scores });
    onRow(rows[rows.length - 1], scored);
  }
  if (!rows.length) {
    throw new PageError(
      `${recording.name} is shorter than a segment of ${size / rate} s, and the model drops those.`,
    );
  }
  const { name, seconds } = recording;
  return { name, seconds, rows, scores: meanScores(rows.map((row) => row.scores)) };
}

async function* segments(recording: Recording, model: Model): AsyncGenerator<Segment> {
  const resampler = new Resampler(recording.sampleRate, model.sample_rate);
  const cutter = new Cutter(model.segment_samples, model.hop_samples);
  for await (const block of recording.blocks()) {
    if (!block.every(Number.isFinite)) {
      throw new PageError(`${recording.name} holds NaN or infinite samples. Write the file again.`);
    }
    yield* cutter.cut(resampler.push(block));
  }
  yield* cutter.cut(resampler.finish());
  const rest = cutter.rest();
  if (rest && model.tail === "keep") yield rest;
}

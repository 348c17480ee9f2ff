/** From samples at the model's rate to segments, as `windows.py` and `audio.py` cut them. */

import type { Cutting } from "./model";

/** What a window speaks for, and its own end; in samples. */
export interface Span {
  begin: number;
  end: number;
  decided: number;
}

export interface Segment {
  /** In samples, from the start of the recording or the stream. */
  start: number;
  /** As many as were heard; fewer than a segment only for the last one. */
  samples: Float32Array;
}

/** Cuts segments, one every hop, out of blocks of any size. */
export class Cutter {
  private readonly pending: Float32Array;
  private fill = 0;
  /** Of the next segment, in samples. */
  start = 0;

  constructor(
    private readonly size: number,
    private readonly hop: number,
  ) {
    this.pending = new Float32Array(size);
  }

  /** Each segment that a block completes. */
  cut(block: Float32Array): Segment[] {
    const segments: Segment[] = [];
    for (let at = 0; at < block.length;) {
      const taken = block.subarray(at, at + this.size - this.fill);
      this.pending.set(taken, this.fill);
      this.fill += taken.length;
      at += taken.length;
      if (this.fill === this.size) segments.push(this.next());
    }
    return segments;
  }

  /** What no whole segment has covered, if there is any. */
  rest(): Segment | null {
    const covered = this.start ? this.size - this.hop : 0;
    if (this.fill <= covered) return null;
    return { start: this.start, samples: this.pending.slice(0, this.fill) };
  }

  private next(): Segment {
    const segment = { start: this.start, samples: this.pending.slice() };
    this.pending.copyWithin(0, this.hop);
    this.fill = this.size - this.hop;
    this.start += this.hop;
    return segment;
  }
}

/** (at most size,) -> (size,), followed by zeros or by itself again. */
export function padSegment(samples: Float32Array, size: number, padding: Cutting["padding"]) {
  if (samples.length === size) return samples;
  const padded = new Float32Array(size);
  padded.set(samples);
  if (padding === "repeat") {
    for (let i = samples.length; i < size; i++) padded[i] = samples[i % samples.length];
  }
  return padded;
}

/** A window says what is in its middle: the hop around its centre. */
export function spanOf(segment: Segment, size: number, hop: number): Span {
  const begin = segment.start + Math.floor((size - hop) / 2);
  const whole = { begin, end: begin + hop, decided: segment.start + size };
  if (segment.samples.length === size) return whole;
  // The rest of a recording speaks for what is left up to its end.
  const end = segment.start + segment.samples.length;
  return { begin: segment.start ? begin : 0, end: Math.min(whole.end, end), decided: end };
}

const LOWEST_DB = -120;

/** RMS in dBFS, at least -120. */
export function levelDb(samples: Float32Array): number {
  let power = 0;
  for (const sample of samples) power += sample * sample;
  return Math.max(LOWEST_DB, 10 * Math.log10(Math.max(power / samples.length, 1e-300)));
}

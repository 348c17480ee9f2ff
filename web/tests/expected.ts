/** What `fixtures.py` wrote. */

import { readFileSync } from "node:fs";
import { join } from "node:path";

import type { Cutting, Decision, StreamSettings } from "../src/model";
import type { Span } from "../src/segments";

export interface Expected {
  recordings: Record<
    string,
    { label: string; scores: number[]; segments: number[][]; starts: number[]; ends: number[] }
  >;
  events: {
    decision: Decision;
    settings: StreamSettings;
    hop: number;
    rate: number;
    size: number;
    scores: number[][];
    smoothed: number[][];
    events: Record<string, string | number | null>[];
  }[];
  streams: {
    rate: number;
    pieces: number[];
    cutting: Cutting;
    decision: Decision;
    settings: StreamSettings;
    windows: {
      span: Span;
      isScored: boolean;
      smoothed: number[];
      events: Record<string, string | number | null>[];
    }[];
  }[];
  images: { recording: string; file: string; shape: [number, number, number, number] };
  decisions: {
    decision: Decision;
    columns: string[];
    scores: number[];
    answer: string[];
    set: string[] | null;
  }[];
  sweeps: { rate: number; newRate: number; top: number; seconds: number; files: string[] }[];
}

export function fixture(name: string): string {
  return join(process.env.FIXTURES as string, name);
}

export const expected: Expected = JSON.parse(readFileSync(fixture("expected.json"), "utf8"));

/** Samples in float32. */
export function readSamples(name: string): Float32Array {
  const bytes = readFileSync(fixture(name));
  return new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
}

/** The resampler against soxr, on sweeps through all that a rate can hold. */

import { describe, expect, test } from "vitest";

import { joined, Resampler } from "../src/resampler";
import { expected, readSamples } from "./expected";

const EDGE_SECONDS = 0.1;

function resample(samples: Float32Array, rate: number, newRate: number, block: number) {
  const resampler = new Resampler(rate, newRate);
  let out: Float32Array = new Float32Array(0);
  for (let at = 0; at < samples.length; at += block) {
    out = joined(out, resampler.push(samples.subarray(at, at + block)));
  }
  return joined(out, resampler.finish());
}

function energy(samples: Float32Array): number {
  return samples.reduce((sum, each) => sum + each * each, 0) / samples.length;
}

describe.each(expected.sweeps)(
  "from $rate to $newRate Hz",
  ({ rate, newRate, top, seconds, files }) => {
    const [sweep, reference] = files.map(readSamples);
    const out = resample(sweep, rate, newRate, sweep.length);
    const lower = Math.min(rate, newRate) / 2;
    /** The part of the output where the sweep is between two frequencies. */
    const between = (samples: Float32Array, low: number, high: number) => {
      const at = (hertz: number) => Math.round((hertz / top) * seconds * newRate);
      const edge = EDGE_SECONDS * newRate;
      return samples.subarray(Math.max(at(low), edge), Math.min(at(high), samples.length - edge));
    };

    test("as long as soxr's", () => {
      expect(Math.abs(out.length - reference.length)).toBeLessThanOrEqual(1);
    });

    test("in the passband, soxr's samples within 0.1 dB", () => {
      const [ours, theirs] = [out, reference].map((each) => between(each, 100, 0.9 * lower));
      expect(Math.abs(10 * Math.log10(energy(ours) / energy(theirs)))).toBeLessThan(0.01);
      const worst = ours.reduce((most, each, i) => Math.max(most, Math.abs(each - theirs[i])), 0);
      // 0.1 dB of an amplitude of 0.5, in every sample: neither level nor place differ.
      expect(worst).toBeLessThan(0.5 * (10 ** (0.1 / 20) - 1));
    });

    test.runIf(newRate < rate)("above, nothing comes back: -60 dB", () => {
      const alias = energy(between(out, lower * 1.02, top));
      const level = 10 * Math.log10(alias / (0.5 ** 2 / 2));
      console.log(`${rate} to ${newRate} Hz: alias ${level.toFixed(1)} dB`);
      expect(level).toBeLessThan(-60);
    });

    test("the same bits in blocks of 128 as in one", () => {
      expect(resample(sweep, rate, newRate, 128)).toEqual(out);
    });
  },
);

test("the same rate passes", () => {
  const samples = Float32Array.from({ length: 1000 }, (_, i) => Math.sin(i));
  expect(resample(samples, 16000, 16000, 128)).toEqual(samples);
});

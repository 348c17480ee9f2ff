/** Headers that no recording has, and rates that would need huge tables. */

import { describe, expect, test } from "vitest";

import { Resampler } from "../src/resampler";
import { readWavFormat } from "../src/wav";

/** A WAV in 16 bits with a second of samples, cut off after so many bytes. */
function wav(rate: number, channels: number, fmtBytes = 16, cut = Infinity): Blob {
  const bytes = new DataView(new ArrayBuffer(44 + 16000));
  const write = (at: number, text: string) =>
    [...text].forEach((each, i) => bytes.setUint8(at + i, each.charCodeAt(0)));
  write(0, "RIFF");
  write(8, "WAVEfmt ");
  bytes.setUint32(16, fmtBytes, true);
  bytes.setUint16(20, 1, true);
  bytes.setUint16(22, channels, true);
  bytes.setUint32(24, rate, true);
  bytes.setUint16(34, 16, true);
  write(36, "data");
  bytes.setUint32(40, 16000, true);
  return new Blob([bytes.buffer]).slice(0, cut);
}

describe("the header of a WAV", () => {
  test("is read", async () => {
    expect(await readWavFormat(wav(8000, 1), "a.wav")).toMatchObject({
      sampleRate: 8000,
      frames: 8000,
    });
  });

  test.each([
    [4294967291, 1],
    [1_000_001, 1],
    [0, 1],
    [8000, 0],
    [8000, 65],
  ])("of %i Hz and %i channels is refused", async (rate, channels) => {
    const read = readWavFormat(wav(rate, channels), "a.wav");
    await expect(read).rejects.toThrow(
      `a.wav has ${rate} Hz and ${channels} channels in its header; allowed: 1 to 1000000 Hz`,
    );
  });

  test.each([20, 22, 30, 35])("cut off after %i bytes is none", async (cut) => {
    expect(await readWavFormat(wav(8000, 1, 16, cut), "a.wav")).toBeNull();
  });

  test("with too small a format is none", async () => {
    expect(await readWavFormat(wav(8000, 1, 4), "a.wav")).toBeNull();
  });
});

// The first has as many phases as the new rate has Hz, the second many weights for each phase too.
test.each([
  [47999, 16000],
  [999983, 16000],
])("from %i to %i Hz in bounded memory, within -70 dB", (rate, newRate) => {
  const resampler = new Resampler(rate, newRate);
  const weights = (resampler as unknown as { weights: Float32Array[] }).weights;
  expect(weights.length * weights[0].length).toBeLessThan(2 ** 22 + 2 * weights[0].length);
  const sine = (hertz: number, rate: number, count: number) =>
    Float32Array.from({ length: count }, (_, i) => Math.sin((2 * Math.PI * hertz * i) / rate));
  // 6 kHz: near the end of the passband, where a wrong phase shows most.
  const out = resampler.push(sine(6000, rate, Math.round(0.2 * rate)));
  const right = sine(6000, newRate, out.length);
  const middle = out.subarray(800, out.length - 800);
  const errors = middle.map((each, i) => Math.abs(each - right[i + 800]));
  const worst = Math.max(...errors);
  console.log(`${rate} to ${newRate} Hz: ${(20 * Math.log10(worst)).toFixed(0)} dB`);
  expect(worst).toBeLessThan(10 ** (-70 / 20));
});

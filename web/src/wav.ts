/**
 * Recordings in WAV, read piece by piece: exact, at their own rate, in little memory.
 *
 * The format: Microsoft, Multiple Channel Audio Data and WAVE Files, and RIFF's chunks.
 */

import { PageError } from "./model";

export interface WavFormat {
  sampleRate: number;
  channels: number;
  bits: number;
  isFloat: boolean;
  /** Where the samples begin, in bytes, and how many frames there are. */
  offset: number;
  frames: number;
}

const PCM = 1;
const FLOAT = 3;
const EXTENSIBLE = 0xfffe;
const MOST_CHUNKS = 100;
// As in `decode.py`: beyond these a header is broken, and its numbers would decide on memory.
const MAX_SAMPLE_RATE = 1_000_000;
const MAX_CHANNELS = 64;
const FMT_BYTES = 16;
const BLOCK_FRAMES = 2 ** 16;

/**
 * The format of a WAV file; null: another kind of file, or an encoding that is not plain.
 *
 * @throws PageError: a sample rate or a number of channels that no recording has
 */
export async function readWavFormat(file: Blob, name: string): Promise<WavFormat | null> {
  const head = await view(file, 0, 12);
  if (text(head, 0) !== "RIFF" || text(head, 8) !== "WAVE") return null;
  let format: Omit<WavFormat, "offset" | "frames"> | null = null;
  for (let at = 12, chunk = 0; at + 8 <= file.size && chunk < MOST_CHUNKS; chunk++) {
    const header = await view(file, at, 40 + 8);
    const size = header.getUint32(4, true);
    if (text(header, 0) === "fmt ") format = readFormat(header, size);
    if (text(header, 0) === "data") {
      if (format) checkFormat(name, format.sampleRate, format.channels);
      return format && withLength(format, at + 8, size, file.size);
    }
    at += 8 + size + (size % 2);
  }
  return null;
}

/** Blocks of (num_samples,), mono, at the recording's own rate. */
export async function* readWav(file: Blob, format: WavFormat): AsyncGenerator<Float32Array> {
  const frameBytes = (format.channels * format.bits) / 8;
  // A second at most, which a low rate makes long at the model's, and a high rate large.
  const most = Math.min(BLOCK_FRAMES, format.sampleRate);
  for (let frame = 0; frame < format.frames; frame += most) {
    const count = Math.min(most, format.frames - frame);
    const bytes = await view(file, format.offset + frame * frameBytes, count * frameBytes);
    yield toMono(bytes, count, format);
  }
}

function checkFormat(name: string, rate: number, channels: number): void {
  if (rate >= 1 && rate <= MAX_SAMPLE_RATE && channels >= 1 && channels <= MAX_CHANNELS) return;
  throw new PageError(
    `${name} has ${rate} Hz and ${channels} channels in its header; allowed: 1 to ` +
      `${MAX_SAMPLE_RATE} Hz and 1 to ${MAX_CHANNELS} channels.`,
  );
}

/** Null: cut off, or not plain. */
function readFormat(header: DataView, size: number) {
  if (size < FMT_BYTES || header.byteLength < 8 + FMT_BYTES) return null;
  const code = header.getUint16(8, true);
  const bits = header.getUint16(22, true);
  const encoding =
    code === EXTENSIBLE && header.byteLength >= 34 ? header.getUint16(32, true) : code;
  const isFloat = encoding === FLOAT && (bits === 32 || bits === 64);
  const isPcm = encoding === PCM && [8, 16, 24, 32].includes(bits);
  const channels = header.getUint16(10, true);
  const sampleRate = header.getUint32(12, true);
  if (!(isFloat || isPcm)) return null;
  return { sampleRate, channels, bits, isFloat };
}

function withLength(
  format: Omit<WavFormat, "offset" | "frames">,
  offset: number,
  size: number,
  fileSize: number,
): WavFormat {
  // A recorder that was switched off, or wrote into a pipe, leaves a size that is too large or 0.
  const bytes = Math.min(size || Infinity, fileSize - offset);
  return { ...format, offset, frames: Math.floor(bytes / ((format.channels * format.bits) / 8)) };
}

/** The mean of the channels. */
function toMono(bytes: DataView, frames: number, { channels, bits, isFloat }: WavFormat) {
  const read = reader(bytes, bits, isFloat);
  const mono = new Float32Array(frames);
  for (let frame = 0, i = 0; frame < frames; frame++) {
    let sum = 0;
    for (let channel = 0; channel < channels; channel++, i++) sum += read((i * bits) / 8);
    mono[frame] = sum / channels;
  }
  return mono;
}

/** From a place in bytes to a sample, with full scale at 1. */
function reader(bytes: DataView, bits: number, isFloat: boolean): (at: number) => number {
  if (isFloat && bits === 64) return (at) => bytes.getFloat64(at, true);
  if (isFloat) return (at) => bytes.getFloat32(at, true);
  if (bits === 8) return (at) => (bytes.getUint8(at) - 128) / 2 ** 7;
  if (bits === 16) return (at) => bytes.getInt16(at, true) / 2 ** 15;
  if (bits === 32) return (at) => bytes.getInt32(at, true) / 2 ** 31;
  return (at) => (bytes.getInt16(at + 1, true) * 256 + bytes.getUint8(at)) / 2 ** 23;
}

async function view(file: Blob, start: number, size: number): Promise<DataView> {
  return new DataView(await file.slice(start, start + size).arrayBuffer());
}

function text(bytes: DataView, at: number): string {
  if (bytes.byteLength < at + 4) return "";
  return String.fromCharCode(...new Uint8Array(bytes.buffer, at, 4));
}

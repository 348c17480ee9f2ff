/** A recording that was dropped in or chosen: what the browser decodes, up to a stated length. */

import { PageError } from "./model";
import { readWav, readWavFormat, type WavFormat } from "./wav";

export interface Recording {
  name: string;
  seconds: number;
  /** Of the blocks, in Hz. */
  sampleRate: number;
  /** Blocks of (num_samples,), mono. */
  blocks(): AsyncIterable<Float32Array>;
}

const MINUTES_OF_WAV = 120;
// The browser decodes the other kinds in one piece, into 23 MB a minute of stereo.
const MINUTES_OF_OTHERS = 30;
// Where no length can be found, what a file of that length has at 6 kbit/s: the least that Opus is
// made for (RFC 6716, section 2.1.1). At more it is shorter.
const BYTES_WITHOUT_LENGTH = (60 * MINUTES_OF_OTHERS * 6000) / 8;
// Where the file's own rate is not known: none of the usual encodings hold more than half of this.
const USUAL_RATE = 48000;
const LOWEST_RATE = 8000;
const HIGHEST_RATE = 96000;
const METADATA_MILLISECONDS = 10_000;
const BEYOND_ANY_END = 1e9;

/** Open a recording, whose length is read first: an hour decoded would fill a phone's memory. */
export async function openRecording(file: File): Promise<Recording> {
  if (!file.size) throw new PageError(`${file.name} is empty.`);
  const format = await readWavFormat(file, file.name);
  if (format) return openWav(file, format);
  const seconds = await readLength(file);
  checkLength(file.name, seconds, MINUTES_OF_OTHERS);
  if (seconds === null && file.size > BYTES_WITHOUT_LENGTH) {
    const allowed = `${BYTES_WITHOUT_LENGTH / 1e6} MB`;
    throw new PageError(
      `${file.name} does not say how long it is; such files may have ${allowed}.`,
    );
  }
  return decode(file);
}

function openWav(file: File, format: WavFormat): Recording {
  const { sampleRate, frames } = format;
  if (!frames) throw new PageError(`${file.name} has no samples.`);
  checkLength(file.name, frames / sampleRate, MINUTES_OF_WAV);
  const blocks = () => readWav(file, format);
  return { name: file.name, seconds: frames / sampleRate, sampleRate, blocks };
}

function checkLength(name: string, seconds: number | null, minutes: number): void {
  if (seconds === null || seconds <= 60 * minutes) return;
  const length =
    seconds >= 3600
      ? `${(seconds / 3600).toFixed(1)} hours`
      : `${Math.round(seconds / 60)} minutes`;
  throw new PageError(
    `${name} lasts ${length}; this page takes up to ${MINUTES_OF_WAV / 60} hours of WAV, or ` +
      `${MINUTES_OF_OTHERS} minutes of other formats. Cut it, or use \`deepspectrumlite predict\`.`,
  );
}

/** In seconds; null: the file does not say. Raised where the browser does not know the format. */
function readLength(file: File): Promise<number | null> {
  const url = URL.createObjectURL(file);
  const audio = new Audio();
  audio.preload = "metadata";
  return new Promise<number | null>((resolve, reject) => {
    // What a browser has recorded has no length in its header: its end has to be looked for.
    audio.onloadedmetadata = audio.ondurationchange = () => {
      if (Number.isFinite(audio.duration)) resolve(audio.duration);
      else audio.currentTime = BEYOND_ANY_END;
    };
    audio.onerror = () => reject(unreadable(file.name));
    setTimeout(() => resolve(null), METADATA_MILLISECONDS);
    audio.src = url;
  }).finally(() => {
    audio.onloadedmetadata = audio.ondurationchange = audio.onerror = null;
    audio.removeAttribute("src");
    audio.load();
    URL.revokeObjectURL(url);
  });
}

async function decode(file: File): Promise<Recording> {
  const bytes = await file.arrayBuffer();
  const context = new OfflineAudioContext(1, 1, ownRate(bytes) ?? USUAL_RATE);
  let audio: AudioBuffer;
  try {
    audio = await context.decodeAudioData(bytes);
  } catch {
    throw unreadable(file.name);
  }
  const { duration: seconds, sampleRate } = audio;
  return { name: file.name, seconds, sampleRate, blocks: () => monoBlocks(audio) };
}

/** The sample rate of a FLAC file, RFC 9639 section 8.2; null: another format. */
function ownRate(bytes: ArrayBuffer): number | null {
  if (bytes.byteLength < 22) return null;
  const head = new DataView(bytes);
  if (head.getUint32(0) !== 0x664c6143) return null;
  const rate = head.getUint32(18) >>> 12;
  return rate >= LOWEST_RATE && rate <= HIGHEST_RATE ? rate : null;
}

async function* monoBlocks(audio: AudioBuffer): AsyncGenerator<Float32Array> {
  for (let start = 0; start < audio.length; start += audio.sampleRate) {
    const mono = new Float32Array(Math.min(audio.sampleRate, audio.length - start));
    for (let channel = 0; channel < audio.numberOfChannels; channel++) {
      const samples = audio.getChannelData(channel).subarray(start, start + mono.length);
      samples.forEach((sample, i) => (mono[i] += sample / audio.numberOfChannels));
    }
    yield mono;
  }
}

function unreadable(name: string): PageError {
  return new PageError(
    `${name} is no recording that this browser can decode. Choose WAV, FLAC, MP3, M4A or Ogg.`,
  );
}

/** Runs the model, off the page: one segment at a time, with LiteRT.js in WebAssembly. */

import {
  type CompiledModel,
  loadAndCompile,
  loadLiteRt,
  supportsFeature,
  Tensor,
} from "@litertjs/core";

import type { Answer, LoadRequest, Loaded, ScoreRequest } from "./inference";

// What the start of a .tflite file says: FlatBuffers' identifier.
const IDENTIFIER = "TFL3";
const MODULE = "Module";

let model: CompiledModel;
/** What the runtime wrote last: it tells why a model cannot be loaded. */
let lastWords = "";

self.onmessage = async ({ data }: MessageEvent<LoadRequest | ScoreRequest>) => {
  try {
    if (data.kind === "load") self.postMessage(await load(data));
    else await score(data);
  } catch (error) {
    const said = error instanceof Error ? error.message : String(error);
    const message = [said, lastWords].filter(Boolean).join("; ");
    self.postMessage({ kind: "error", message } satisfies Answer);
  }
};

async function load(request: LoadRequest): Promise<Loaded> {
  const began = performance.now();
  const bytes = await download(request);
  const runtime = await chooseRuntime(request.threads);
  const script = `${request.runtimes}${runtime}.js`;
  // Where the runtime's files and its threads' script lie: it would look beside this worker.
  const locateFile = (name: string) => request.runtimes + name;
  const printErr = (line: string) => (lastWords = /^(INFO|WARNING)/.test(line) ? lastWords : line);
  // From a blob, like this worker: so its threads too inherit the page's Content-Security-Policy.
  const mainScriptUrlOrBlob = new Blob([`importScripts(${JSON.stringify(script)})`]);
  Object.assign(self, { [MODULE]: { locateFile, printErr, mainScriptUrlOrBlob } });
  const { liteRtWasm } = await loadOnProcessor(script);
  const threads = Math.min(request.threads, liteRtWasm.getThreadCount());
  model = await loadAndCompile(bytes, { accelerator: "wasm", cpuOptions: { numThreads: threads } });
  check(request);
  return { kind: "loaded", runtime, threads, milliseconds: performance.now() - began };
}

/** Without the graphics card, which the runtime would ask for first, and warn if there is none. */
async function loadOnProcessor(script: string) {
  Object.defineProperty(navigator, "gpu", { value: undefined });
  const { warn } = console;
  console.warn = () => undefined;
  try {
    return await loadLiteRt(script);
  } finally {
    console.warn = warn;
  }
}

/** With threads where the server's headers allow them, without newer instructions where need be. */
async function chooseRuntime(threads: number): Promise<string> {
  if (!(await supportsFeature("relaxedSimd"))) return "litert_wasm_compat_internal";
  if (crossOriginIsolated && threads !== 1) return "litert_wasm_threaded_internal";
  return "litert_wasm_internal";
}

async function download(request: LoadRequest): Promise<Uint8Array> {
  const response = await fetch(request.model);
  if (!response.ok) throw new Error(`${response.status} ${response.statusText}`);
  const bytes = new Uint8Array(await response.arrayBuffer());
  if (new TextDecoder("latin1").decode(bytes.slice(4, 8)) !== IDENTIFIER) {
    throw new Error("it does not begin like a .tflite file");
  }
  if (bytes.length !== request.bytes) {
    throw new Error(`it has ${bytes.length} bytes instead of ${request.bytes}`);
  }
  return bytes;
}

function check(request: LoadRequest): void {
  const size = (shape: Int32Array) => shape.reduce((product, each) => product * each, 1);
  const inputs = model.getInputDetails().map(({ shape }) => size(shape));
  const outputs = model.getOutputDetails().map(({ shape }) => size(shape));
  if (inputs.join() !== String(request.segmentSamples) || outputs[0] !== request.scores) {
    throw new Error(`it takes ${inputs} and gives ${outputs} numbers, unlike its description`);
  }
}

async function score({ segment, shape, wantsImage }: ScoreRequest): Promise<void> {
  const began = performance.now();
  const input = new Tensor(segment, Array.from(model.getInputDetails()[0].shape));
  const outputs = await model.run(input);
  const scores = Float32Array.from(outputs[0].toTypedArray());
  const milliseconds = performance.now() - began;
  const image = wantsImage ? toPixels(outputs[1].toTypedArray(), shape) : null;
  for (const tensor of [input, ...outputs]) tensor.delete();
  const transfer = image ? [scores.buffer, image.buffer] : [scores.buffer];
  self.postMessage({ kind: "scored", scores, image, milliseconds } satisfies Answer, { transfer });
}

/** (3, height, width), from 0 to 1 -> (height, width, 4), from 0 to 255. */
function toPixels(image: ArrayLike<number>, [, height, width]: number[]) {
  const size = height * width;
  const pixels = new Uint8ClampedArray(4 * size).fill(255);
  for (let channel = 0; channel < 3; channel++) {
    for (let i = 0; i < size; i++) pixels[4 * i + channel] = 255 * image[channel * size + i];
  }
  return pixels;
}

/** The page's side of the worker that runs the model. */

import { columns } from "./decisions";
import { AGAIN, type Model, PageError } from "./model";
import workerUrl from "./inference.worker.ts?worker&url";

export interface LoadRequest {
  kind: "load";
  /** Where the runtime and the model lie. */
  runtimes: string;
  model: string;
  bytes: number;
  threads: number;
  segmentSamples: number;
  scores: number;
}

export interface ScoreRequest {
  kind: "score";
  segment: Float32Array;
  shape: number[];
  wantsImage: boolean;
}

export interface Loaded {
  kind: "loaded";
  /** Name of the variant of the runtime that this browser runs. */
  runtime: string;
  threads: number;
  milliseconds: number;
}

export interface Scored {
  kind: "scored";
  /** (n_columns,) */
  scores: Float32Array;
  /** (height, width, 4): what the network saw, if the file gives it. */
  image: Uint8ClampedArray<ArrayBuffer> | null;
  milliseconds: number;
}

export type Answer = Loaded | Scored | { kind: "error"; message: string };

// More threads than this make a small network slower, not faster.
const MOST_THREADS = 4;

/** The model in its worker. */
export class Inference {
  private queue: Promise<unknown> = Promise.resolve();

  private constructor(
    private readonly model: Model,
    private readonly worker: Worker,
  ) {}

  threads = 1;
  runtime = "";

  /** Fetch runtime and model, and make them ready; `threads` of 0: as many as are of use. */
  static async start(model: Model, threads = 0): Promise<Inference> {
    if (typeof WebAssembly !== "object" || typeof Worker !== "function") {
      throw new PageError("This browser cannot run WebAssembly in a worker. Use a newer one.");
    }
    const inference = new Inference(model, startWorker());
    try {
      await inference.load(threads || Math.min(MOST_THREADS, navigator.hardwareConcurrency));
    } catch (error) {
      inference.worker.terminate();
      const why = error instanceof Error ? error.message : String(error);
      throw new PageError(`The model ${model.page.file} cannot be loaded: ${why}. ${AGAIN}`);
    }
    return inference;
  }

  /** (segment_samples,) -> its scores. One at a time: a second call waits for the first. */
  async score(segment: Float32Array): Promise<Scored> {
    const { image, image_shape } = this.model.page;
    const wantsImage = image && image_shape !== null;
    const shape = image_shape ?? [];
    return (await this.ask({ kind: "score", segment, shape, wantsImage })) as Scored;
  }

  private async load(threads: number): Promise<void> {
    const answer = (await this.ask({
      kind: "load",
      runtimes: absolute("wasm/"),
      model: absolute("model.tflite"),
      bytes: this.model.page.bytes,
      threads,
      segmentSamples: this.model.segment_samples,
      scores: columns(this.model).length,
    })) as Loaded;
    this.threads = answer.threads;
    this.runtime = answer.runtime;
  }

  private ask(request: LoadRequest | ScoreRequest): Promise<Answer> {
    const answer = this.queue.then(() => this.send(request));
    this.queue = answer.catch(() => undefined);
    return answer;
  }

  private send(request: LoadRequest | ScoreRequest): Promise<Answer> {
    return new Promise((resolve, reject) => {
      this.worker.onmessage = ({ data }: MessageEvent<Answer>) => {
        if (data.kind === "error") reject(new PageError(data.message));
        else resolve(data);
      };
      this.worker.onerror = (event) => {
        event.preventDefault();
        reject(new PageError(event.message || "the worker could not be started"));
      };
      this.worker.postMessage(request);
    });
  }
}

function startWorker(): Worker {
  // A worker from a blob inherits the page's Content-Security-Policy; one from a file would not.
  const script = `importScripts(${JSON.stringify(absolute(workerUrl))})`;
  const url = URL.createObjectURL(new Blob([script], { type: "text/javascript" }));
  return new Worker(url);
}

function absolute(path: string): string {
  return new URL(path, document.baseURI).href;
}

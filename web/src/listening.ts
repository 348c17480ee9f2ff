/** From the microphone to scores of windows, for as long as one likes, in bounded memory. */

import { Capture } from "./capture";
import { columns } from "./decisions";
import type { Inference } from "./inference";
import type { Model, PageError } from "./model";
import { Resampler } from "./resampler";
import { Cutter, levelDb, type Segment, type Span, spanOf } from "./segments";

/** What was found in one window. */
export interface Heard {
  span: Span;
  scores: Float32Array;
  image: Uint8ClampedArray<ArrayBuffer> | null;
  /** 0 where the window was below the gate, and was not scored. */
  milliseconds: number;
}

// Windows that may wait for the model: when the page hiccups, several come at once.
const MOST_WAITING = 2;

export class Listening {
  /** Windows that were left out since the model was still busy. */
  skipped = 0;
  private waiting: Segment[] = [];
  private isBusy = false;
  private isStopped = false;
  private capture!: Capture;
  private resampler!: Resampler;
  private readonly cutter: Cutter;
  private readonly hop: number;

  private constructor(
    private readonly model: Model,
    private readonly inference: Inference,
    private readonly onHeard: (heard: Heard) => void,
    private readonly onEnd: (error: PageError) => void,
  ) {
    this.hop = model.page.stream.hop_samples;
    this.cutter = new Cutter(model.segment_samples, this.hop);
  }

  /** `onEnd` is told why it stopped, if it was not by `stop`. */
  static async start(
    model: Model,
    inference: Inference,
    onHeard: (heard: Heard) => void,
    onEnd: (error: PageError) => void,
  ): Promise<Listening> {
    const listening = new Listening(model, inference, onHeard, onEnd);
    const fail = (error: PageError) => void listening.fail(error);
    listening.capture = await Capture.start((block) => listening.hear(block), fail);
    return listening;
  }

  get lostSamples(): number {
    return this.capture.lostSamples;
  }

  /** Of the microphone, in Hz. */
  get sampleRate(): number {
    return this.capture.sampleRate;
  }

  async stop(): Promise<void> {
    this.isStopped = true;
    await this.capture.stop();
  }

  private hear(block: Float32Array): void {
    if (this.isStopped || !this.capture) return;
    this.resampler ??= new Resampler(this.capture.sampleRate, this.model.sample_rate);
    for (const segment of this.cutter.cut(this.resampler.push(block))) {
      if (this.waiting.length < MOST_WAITING) this.waiting.push(segment);
      else this.skipped++;
    }
    void this.work();
  }

  private async work(): Promise<void> {
    if (this.isBusy) return;
    this.isBusy = true;
    try {
      for (let next = this.waiting.shift(); next; next = this.waiting.shift()) {
        const heard = await this.score(next);
        if (!this.isStopped) this.onHeard(heard);
      }
    } catch (error) {
      await this.fail(error as PageError);
    } finally {
      this.isBusy = false;
    }
  }

  private async score(segment: Segment): Promise<Heard> {
    const span = spanOf(segment, this.model.segment_samples, this.hop);
    const gate = this.model.page.stream.gate_db;
    if (gate !== null && levelDb(segment.samples) < gate) {
      return { span, scores: nothing(this.model), image: null, milliseconds: 0 };
    }
    return { span, ...(await this.inference.score(segment.samples)) };
  }

  private async fail(error: PageError): Promise<void> {
    if (this.isStopped) return;
    await this.stop();
    this.onEnd(error);
  }
}

/** The scores of a window that was not scored: 0, or for numbers none. */
function nothing(model: Model): Float32Array {
  const missing = model.output === "softmax" || model.output === "sigmoid" ? 0 : NaN;
  return new Float32Array(columns(model).length).fill(missing);
}

/** From the microphone to scores of windows, for as long as one likes, in bounded memory. */

import { Capture } from "./capture";
import { columns } from "./decisions";
import { Gaps } from "./gaps";
import type { Inference } from "./inference";
import type { Model, PageError } from "./model";
import { Resampler } from "./resampler";
import { Cutter, levelDb, type Segment, type Span, spanOf } from "./segments";

/** What was found in one window. */
export interface Heard {
  span: Span;
  scores: Float32Array;
  image: Uint8ClampedArray<ArrayBuffer> | null;
  /** 0 where the window was not scored: lost, skipped or below the gate. */
  milliseconds: number;
  /** Worth showing: it was not skipped, and no newer one follows at once. */
  isShown: boolean;
}

/** What a listener is told. */
export interface Listener {
  onHeard(heard: Heard): void;
  /** Why no sound comes; null: it comes again. */
  onTrouble(trouble: string | null): void;
  /** Why it stopped, if it was not by `stop`. */
  onEnd(error: PageError): void;
}

/** A window to come: one that was lost or skipped has no samples any more. */
interface Waiting {
  span: Span;
  samples: Float32Array | null;
  isSkipped: boolean;
}

// Windows that may wait for the model: when the page hiccups, several come at once.
const MOST_WAITING = 2;
// An hour that was lost is not made of silence all at once.
const GAP_BLOCK = 2 ** 16;

export class Listening {
  /** Windows that were left out since the model was still busy. */
  skipped = 0;
  private waiting: Waiting[] = [];
  private audible = 0;
  private isBusy = false;
  private isStopped = false;
  private capture!: Capture;
  private resampler!: Resampler;
  private gaps!: Gaps;
  private readonly cutter: Cutter;
  private readonly hop: number;

  private constructor(
    private readonly model: Model,
    private readonly inference: Inference,
    private readonly listener: Listener,
  ) {
    this.hop = model.page.stream.hop_samples;
    this.cutter = new Cutter(model.segment_samples, this.hop);
  }

  static async start(model: Model, inference: Inference, listener: Listener): Promise<Listening> {
    const listening = new Listening(model, inference, listener);
    listening.capture = await Capture.start({
      onBlock: (block) => listening.hear(block),
      onGap: (count) => listening.lose(count),
      onTrouble: (trouble) => listener.onTrouble(trouble),
      onEnd: (error) => void listening.fail(error),
    });
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
    if (!this.prepare()) return;
    this.gaps.hear(block.length);
    this.cut(block, MOST_WAITING);
    void this.work();
  }

  /** Silence stands for what is lost, and the clock goes on. */
  private lose(count: number): void {
    if (!this.prepare()) return;
    this.gaps.lose(count, this.cutter.start);
    // All windows that reach into the gap from before it come at once.
    const most = MOST_WAITING + Math.ceil(this.model.segment_samples / this.hop);
    for (let at = 0; at < count; at += GAP_BLOCK) {
      this.cut(new Float32Array(Math.min(GAP_BLOCK, count - at)), most);
    }
    void this.work();
  }

  private prepare(): boolean {
    if (this.isStopped || !this.capture) return false;
    const { sampleRate } = this.capture;
    this.resampler ??= new Resampler(sampleRate, this.model.sample_rate);
    this.gaps ??= new Gaps(sampleRate, this.model.sample_rate);
    return true;
  }

  private cut(block: Float32Array, mostWaiting: number): void {
    const segments = this.cutter.cut(this.resampler.push(block));
    for (const segment of segments) this.waiting.push(this.admit(segment, mostWaiting));
  }

  /** A window that is left out keeps its place, so that events end where nothing was scored. */
  private admit(segment: Segment, mostWaiting: number): Waiting {
    const span = spanOf(segment, this.model.segment_samples, this.hop);
    const isLost = this.gaps.cover(segment.start, span.decided);
    const isSkipped = !isLost && this.audible >= mostWaiting;
    if (isSkipped) this.skipped++;
    if (isLost || isSkipped) return { span, samples: null, isSkipped };
    this.audible++;
    return { span, samples: segment.samples, isSkipped };
  }

  private async work(): Promise<void> {
    if (this.isBusy) return;
    this.isBusy = true;
    try {
      for (let next = this.waiting.shift(); next; next = this.waiting.shift()) {
        if (next.samples) this.audible--;
        const found = await this.score(next.samples);
        const isFollowed = this.waiting.length > 0 && !this.waiting[0].samples;
        const isShown = !next.isSkipped && (next.samples !== null || !isFollowed);
        if (!this.isStopped) this.listener.onHeard({ span: next.span, ...found, isShown });
      }
    } catch (error) {
      await this.fail(error as PageError);
    } finally {
      this.isBusy = false;
    }
  }

  private async score(
    samples: Float32Array | null,
  ): Promise<Pick<Heard, "scores" | "image" | "milliseconds">> {
    const gate = this.model.page.stream.gate_db;
    if (!samples || (gate !== null && levelDb(samples) < gate)) {
      return { scores: nothing(this.model), image: null, milliseconds: 0 };
    }
    return this.inference.score(samples);
  }

  private async fail(error: PageError): Promise<void> {
    if (this.isStopped) return;
    await this.stop();
    this.listener.onEnd(error);
  }
}

/** The scores of a window that was not scored: 0, or for numbers none. */
function nothing(model: Model): Float32Array {
  const missing = model.output === "softmax" || model.output === "sigmoid" ? 0 : NaN;
  return new Float32Array(columns(model).length).fill(missing);
}

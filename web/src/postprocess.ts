/** From the scores of windows to smoothed scores and events, as `postprocess.py` does it. */

import { hasShares, known } from "./decisions";
import type { Decision, StreamSettings } from "./model";
import type { Span } from "./segments";

/** A label that was recognised for a while; `endSeconds` is null while it lasts. */
export interface Event {
  label: string;
  startSeconds: number;
  endSeconds: number | null;
  score: number;
  announcedSeconds: number;
}

/** Smooths scores over time; NaN (nothing was scored) is passed over. */
class Smoother {
  private readonly share: number;
  private readonly length: number;
  private last: number[][] = [];

  constructor(
    private readonly settings: StreamSettings,
    hopSeconds: number,
  ) {
    this.share = 1 - Math.exp(-hopSeconds / settings.smoothing_seconds);
    this.length = Math.max(1, roundHalfEven(settings.smoothing_seconds / hopSeconds));
  }

  step(scores: number[]): number[] {
    if (this.settings.smoothing === "mean") return this.mean(scores);
    if (this.settings.smoothing === "ema") return this.ema(scores);
    return scores;
  }

  private mean(scores: number[]): number[] {
    this.last = [...this.last, scores].slice(-this.length);
    const heard = this.last.filter((each) => !each.some(Number.isNaN));
    if (!heard.length) return scores;
    return scores.map((_, i) => heard.reduce((sum, each) => sum + each[i], 0) / heard.length);
  }

  private ema(scores: number[]): number[] {
    const [before] = this.last;
    const isHeard = !scores.some(Number.isNaN);
    const now = !before
      ? scores
      : isHeard
        ? before.map((each, i) => each + this.share * (scores[i] - each))
        : before;
    if (!now.some(Number.isNaN)) this.last = [now];
    return now;
  }
}

/** Finds the events of one label in its smoothed scores. */
class LabelEvents {
  private readonly low: number;
  private readonly minSamples: number;
  private readonly refractory: number;
  private start: number | null = null;
  private announced: number | null = null;
  private end = 0;
  private freeFrom = 0;
  private peak = 0;

  constructor(
    readonly label: string,
    private readonly threshold: number,
    settings: StreamSettings,
    private readonly rate: number,
  ) {
    this.low = Math.max(threshold - settings.hysteresis, threshold / 2);
    this.minSamples = roundHalfEven(settings.min_duration_seconds * rate);
    this.refractory = roundHalfEven(settings.refractory_seconds * rate);
  }

  /** The event, when this window is the one that announces or ends it. */
  step(span: Span, score: number, mayStart: boolean): Event | null {
    if (this.start === null) {
      // Not "score < threshold": a NaN must not start an event.
      const isHigh = score >= this.threshold;
      if (!isHigh || !mayStart || span.begin < this.freeFrom) return null;
      this.start = span.begin;
      this.peak = score;
    } else if (!(score >= this.low)) {
      return this.finish();
    }
    this.end = span.end;
    this.peak = Math.max(this.peak, score);
    if (this.announced === null && this.end - this.start >= this.minSamples) {
      this.announced = span.decided;
      return this.event(null);
    }
    return null;
  }

  /** End the event that lasts, if one does; it is returned if it was announced. */
  finish(): Event | null {
    let ended: Event | null = null;
    if (this.announced !== null) {
      ended = this.event(this.end / this.rate);
      this.freeFrom = this.end + this.refractory;
    }
    this.start = this.announced = null;
    return ended;
  }

  private event(endSeconds: number | null): Event {
    return {
      label: this.label,
      startSeconds: (this.start ?? 0) / this.rate,
      endSeconds,
      score: this.peak,
      announcedSeconds: (this.announced ?? 0) / this.rate,
    };
  }
}

/** All of it, for one stream: scores of windows in, smoothed scores and events out. */
export class PostProcessor {
  private readonly smoother: Smoother;
  private readonly events: { index: number; events: LabelEvents }[] = [];

  constructor(
    private readonly settings: StreamSettings,
    private readonly decision: Decision,
    hopSamples: number,
    rate: number,
  ) {
    this.smoother = new Smoother(settings, hopSamples / rate);
    if (!hasShares(decision)) return;
    decision.labels.forEach((label, index) => {
      if (settings.ignore.includes(label)) return;
      const threshold = settings.thresholds[label] ?? settings.threshold;
      this.events.push({ index, events: new LabelEvents(label, threshold, settings, rate) });
    });
  }

  /** (n_columns,) -> the smoothed scores, (n_columns,), and what began or ended. */
  step(span: Span, scores: ArrayLike<number>): { smoothed: number[]; events: Event[] } {
    const smoothed = this.smoother.step(Array.from(scores));
    const highest = Math.max(...known(this.decision, smoothed));
    const found = this.events.map(({ index, events }) => {
      const mayStart = !this.settings.only_strongest || smoothed[index] === highest;
      return events.step(span, smoothed[index], mayStart);
    });
    return { smoothed, events: found.filter((event) => event !== null) };
  }

  /** End what lasts. */
  finish(): Event[] {
    return this.events.map(({ events }) => events.finish()).filter((event) => event !== null);
  }
}

/** As Python rounds. */
function roundHalfEven(x: number): number {
  const low = Math.floor(x);
  if (x - low !== 0.5) return Math.round(x);
  return low % 2 === 0 ? low : low + 1;
}

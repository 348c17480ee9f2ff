/** What the page says: the answer in large letters, the state, and what went wrong. */

import { Bars } from "./bars";
import { answer, hasShares, predictionSet } from "./decisions";
import { byId, make } from "./dom";
import { clock, percent, short } from "./format";
import type { Model, StreamSettings } from "./model";
import { reason } from "./model";

// A screen reader says each new status, and would never stop.
const SAID_MILLISECONDS = 10_000;
let saidAt = 0;

export function showStatus(text: string): void {
  saidAt = performance.now();
  if (byId("status").textContent !== text) byId("status").textContent = text;
}

/** How far a recording is scored, from 0 to 1; in words only now and then. */
export function showProgress(text: string, share: number): void {
  const bar = byId<HTMLProgressElement>("progress");
  bar.hidden = false;
  bar.value = share;
  if (performance.now() - saidAt > SAID_MILLISECONDS) showStatus(text);
}

export function hideProgress(): void {
  byId("progress").hidden = true;
}

/** Null: all is well again. */
export function showError(error: unknown): void {
  const box = byId("error");
  box.hidden = error === null;
  box.textContent = error === null ? "" : reason(error);
}

export function showListening(isListening: boolean): void {
  byId("listen").classList.toggle("live", isListening);
  byId("listen-text").textContent = isListening ? "Stop" : "Listen";
}

export function enableSources(isEnabled: boolean): void {
  byId<HTMLButtonElement>("listen").disabled = !isEnabled;
  byId<HTMLInputElement>("file").disabled = !isEnabled;
}

export class Answer {
  private readonly bars: Bars;

  constructor(private readonly model: Model) {
    this.bars = new Bars(byId("bars"), model);
  }

  clear(settings: StreamSettings): void {
    byId("answer").textContent = "–";
    byId("answer").classList.add("weak");
    byId("detail").textContent = "";
    this.bars.show(null, settings);
  }

  /** Scores of a stream: a label counts from the threshold that is set. */
  showStream(scores: number[], settings: StreamSettings): void {
    const threshold = (label: string) => settings.thresholds[label] ?? settings.threshold;
    const thresholds = this.model.labels.map(threshold);
    this.show(scores, answer({ ...this.model, thresholds }, scores), settings);
    const score = Math.max(...this.model.labels.map((_, i) => scores[i] - thresholds[i]));
    byId("answer").classList.toggle("weak", hasShares(this.model) && !(score >= 0));
  }

  /** Scores of a recording: what the model itself says of them. */
  showRecording(scores: number[], settings: StreamSettings): void {
    this.show(scores, answer(this.model, scores), settings);
    byId("answer").classList.remove("weak");
    const set = predictionSet(this.model, scores);
    if (set) byId("detail").textContent += ` · likely enough: ${set.join(", ") || "none"}`;
  }

  private show(scores: number[], labels: string[], settings: StreamSettings): void {
    const isNumber = !labels.length && !hasShares(this.model);
    const numbers = () => scores.map(short).join(" / ");
    byId("answer").textContent = isNumber ? numbers() : labels.join(", ") || "none";
    byId("detail").textContent = isNumber
      ? this.model.labels.join(" / ")
      : this.detail(scores, labels);
    this.bars.show(scores, settings);
  }

  private detail(scores: number[], labels: string[]): string {
    if (this.model.output === "ordinal") return `value ${short(scores[0])}`;
    const known = labels.filter((label) => this.model.labels.includes(label));
    return known.map((label) => percent(scores[this.model.labels.indexOf(label)])).join(", ");
  }
}

/** The frequencies beside the spectrogram. */
export function showTicks(ticks: [number, string][]): void {
  const marks = ticks.map(([position, text]) => {
    const mark = make("span", "", text);
    mark.style.bottom = `${100 * position}%`;
    return mark;
  });
  byId("ticks").replaceChildren(...marks);
}

/** How much time the spectrogram shows. */
export function showSpan(seconds: number, isStream: boolean): void {
  byId("span").textContent = isStream ? `last ${short(seconds)} s` : clock(seconds);
}

/** What the page says of the model, and of how fast it is here. */

import { byId, make } from "./dom";
import { megabytes, short } from "./format";
import type { Inference } from "./inference";
import type { Model } from "./model";

/** All that the file says of itself, for people. */
export function showFacts(model: Model, inference: Inference): void {
  const seconds = (samples: number) => `${short(samples / model.sample_rate)} s`;
  const threads = inference.threads === 1 ? "1 thread" : `${inference.threads} threads`;
  const facts: [string, string][] = [
    [model.output === "linear" ? "Numbers" : "Labels", model.labels.join(", ")],
    ["Output", model.output],
    ["Sample rate", `${model.sample_rate} Hz`],
    ["Segment", seconds(model.segment_samples)],
    ["Hop of a recording", seconds(model.hop_samples)],
    ["Hop of a stream", `${short(model.page.stream.hop_seconds)} s`],
    ["Network", model.recipe.model?.backbone ?? "–"],
    ["Weights", model.precision],
    ["File", `${model.page.file}, ${megabytes(model.page.bytes)}`],
    ["Digest", model.digest],
    ["Made with", `deepspectrumlite ${model.version}`],
    ["Runs on", `LiteRT.js, WebAssembly, ${threads}`],
  ];
  const rows = facts.map(([name, value]) =>
    make("div", "", make("dt", "", name), make("dd", "", value)),
  );
  byId("facts").replaceChildren(...rows);
  byId("card").hidden = model.page.card === null;
  // As text: what a card holds is no part of the page. Comments are for those who write it.
  byId("card").textContent = (model.page.card ?? "").replace(/<!--[\s\S]*?-->\s*/g, "");
}

const LAST = 20;

/** How long inference takes: the median of the last segments. */
export class Speed {
  private last: number[] = [];

  /** @param seconds between two segments: the time that inference may take */
  constructor(private readonly seconds: number) {}

  add(milliseconds: number): void {
    this.last = [...this.last, milliseconds].slice(-LAST);
    const median = [...this.last].sort((a, b) => a - b)[Math.floor(this.last.length / 2)];
    byId("inference").textContent = `${short(median)} ms`;
    byId("factor").textContent = short(median / 1000 / this.seconds);
  }
}

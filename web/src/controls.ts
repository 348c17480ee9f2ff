/** Threshold and smoothing, which start as the exported file has them. */

import { hasShares } from "./decisions";
import { byId } from "./dom";
import { percent } from "./format";
import type { Model, StreamSettings } from "./model";

const NAMES = ["threshold", "smoothing", "smoothing-seconds"] as const;

export class Controls {
  settings: StreamSettings;
  private readonly threshold = byId<HTMLInputElement>("threshold");
  private readonly smoothing = byId<HTMLSelectElement>("smoothing");
  private readonly seconds = byId<HTMLInputElement>("smoothing-seconds");

  constructor(
    private readonly model: Model,
    private readonly onChange: () => void,
  ) {
    this.settings = model.page.stream;
    byId("settings").hidden = false;
    for (const name of NAMES) byId(name).onchange = () => this.change(name);
    // While a slider is dragged only its number changes: new settings end events that last.
    this.threshold.oninput = () => this.tell("threshold", percent(Number(this.threshold.value)));
    this.seconds.oninput = () => this.tell("smoothing", `${this.seconds.value} s`);
    byId("reset").onclick = () => this.reset();
    // A number has no threshold.
    this.threshold.closest<HTMLElement>(".control")!.hidden = !hasShares(model);
    this.fill();
  }

  /** Of what was changed only: a slider rounds the file's value, which else stays as it is. */
  private change(name: (typeof NAMES)[number]): void {
    const changed: Record<typeof name, () => Partial<StreamSettings>> = {
      // One threshold for all, once it is moved; before, each label can have its own.
      threshold: () => ({ threshold: Number(this.threshold.value), thresholds: {} }),
      smoothing: () => ({ smoothing: this.smoothing.value as StreamSettings["smoothing"] }),
      "smoothing-seconds": () => ({ smoothing_seconds: Number(this.seconds.value) }),
    };
    this.settings = { ...this.settings, ...changed[name]() };
    this.fill();
    this.onChange();
  }

  private reset(): void {
    this.settings = this.model.page.stream;
    this.fill();
    this.onChange();
    this.threshold.focus();
  }

  private fill(): void {
    const { settings } = this;
    const own = new Set(Object.values(settings.thresholds));
    const [first = settings.threshold] = own;
    this.threshold.value = String(first);
    this.tell("threshold", own.size > 1 ? "by label" : percent(first));
    this.smoothing.value = settings.smoothing;
    this.seconds.max = String(Math.max(Number(this.seconds.max), settings.smoothing_seconds));
    this.seconds.value = String(settings.smoothing_seconds);
    this.tell("smoothing", `${settings.smoothing_seconds} s`);
    byId("smoothing-control").hidden = settings.smoothing === "none";
    byId("reset").hidden = settings === this.model.page.stream;
  }

  private tell(name: "threshold" | "smoothing", text: string): void {
    byId(`${name}-value`).textContent = text;
    const slider = name === "threshold" ? this.threshold : this.seconds;
    slider.setAttribute("aria-valuetext", text);
  }
}

/** The scores as bars, or as numbers where they are no shares. */

import { columns, hasShares, UNKNOWN } from "./decisions";
import { make } from "./dom";
import { percent, short } from "./format";
import type { Model, StreamSettings } from "./model";

// More than fit on a screen: then only the strongest are shown.
const MOST_BARS = 10;

interface Bar {
  label: HTMLElement;
  fill: HTMLElement;
  mark: HTMLElement;
  value: HTMLElement;
}

export class Bars {
  private readonly names: string[];
  private readonly bars: Bar[];

  constructor(
    list: HTMLElement,
    private readonly model: Model,
  ) {
    this.names = columns(model);
    this.bars = this.names.slice(0, MOST_BARS).map(() => makeBar(hasShares(model)));
    const rows = this.bars.map(({ label, fill, mark, value }) => {
      const track = make("div", "track", fill, mark);
      track.hidden = !hasShares(model);
      track.setAttribute("aria-hidden", "true");
      const row = make("div", "bar", label, track, value);
      row.setAttribute("role", "listitem");
      return row;
    });
    list.replaceChildren(...rows);
  }

  /** (n_columns,), or null: nothing was scored yet. */
  show(scores: ArrayLike<number> | null, settings: StreamSettings): void {
    const order = this.names.map((_, i) => i);
    // With few labels each keeps its place, which the eye finds again.
    if (scores && order.length > MOST_BARS) order.sort((a, b) => scores[b] - scores[a]);
    this.bars.forEach((bar, row) => {
      const name = this.names[order[row]];
      const score = scores ? scores[order[row]] : NaN;
      bar.label.textContent = bar.label.title = name;
      bar.value.textContent = Number.isNaN(score) ? "–" : this.text(score);
      bar.value.dataset.score = String(score);
      bar.fill.style.transform = `scaleX(${Number.isNaN(score) ? 0 : score})`;
      bar.mark.hidden = name === UNKNOWN || settings.ignore.includes(name);
      bar.mark.style.left = `${100 * (settings.thresholds[name] ?? settings.threshold)}%`;
    });
  }

  private text(score: number): string {
    return hasShares(this.model) ? percent(score) : short(score);
  }
}

function makeBar(hasTrack: boolean): Bar {
  const mark = make("div", "mark");
  mark.hidden = !hasTrack;
  return { label: make("span"), fill: make("div", "fill"), mark, value: make("span") };
}

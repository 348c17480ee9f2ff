/** The list of events: the newest first, and those that last are marked. */

import { byId, make } from "./dom";
import { clock, percent } from "./format";
import type { Event } from "./postprocess";

// A stream may never end, a list has to.
const MOST_EVENTS = 200;

export class EventList {
  private readonly list = byId("events");
  /** Those that last, by label. */
  private readonly lasting = new Map<string, HTMLElement>();

  /** Events as the post-processing gives them: each comes when it begins, and when it has ended. */
  add(events: Event[]): void {
    for (const event of events) this.show(event);
    while (this.list.children.length > MOST_EVENTS) this.list.lastElementChild?.remove();
    byId("no-events").hidden = this.list.children.length > 0;
  }

  clear(): void {
    this.lasting.clear();
    this.list.replaceChildren();
    this.add([]);
  }

  private show(event: Event): void {
    const { label, startSeconds, endSeconds, score } = event;
    const end = endSeconds === null ? "…" : clock(endSeconds);
    const row = this.lasting.get(label) ?? make("li", "lasting", make("span"), make("span"));
    const [name, times] = row.children;
    name.textContent = label;
    times.textContent = `${clock(startSeconds)} – ${end} · ${percent(score)}`;
    if (!row.isConnected) this.list.prepend(row);
    if (endSeconds === null) {
      this.lasting.set(label, row);
    } else {
      row.classList.remove("lasting");
      this.lasting.delete(label);
    }
  }
}

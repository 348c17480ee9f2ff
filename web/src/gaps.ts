/** Sound that was lost: windows that lie wholly in it are not scored, as `stream.py` does it. */

export class Gaps {
  /** [begin, end] of those that windows to come can lie in, in samples of the input. */
  private gaps: [number, number][] = [];
  private pushed = 0;

  constructor(
    private readonly inputRate: number,
    private readonly rate: number,
  ) {}

  /** So many samples were heard. */
  hear(count: number): void {
    this.pushed += count;
  }

  /** So many samples are lost; `oldest` is where the next window starts, at the model's rate. */
  lose(count: number, oldest: number): void {
    const begin = this.pushed;
    this.pushed += count;
    const least = this.toInput(oldest);
    this.gaps = this.gaps.filter(([, end]) => end > least || end === begin);
    const last = this.gaps.at(-1);
    if (last?.[1] === begin) last[1] = this.pushed;
    else this.gaps.push([begin, this.pushed]);
  }

  /** Whether nothing was heard from a window's start to its end, at the model's rate. */
  cover(windowStart: number, windowEnd: number): boolean {
    const end = Math.min(this.toInput(windowEnd), this.pushed);
    const start = Math.min(this.toInput(windowStart), end - 1);
    return this.gaps.some((gap) => gap[0] <= start && end <= gap[1]);
  }

  private toInput(samples: number): number {
    return Math.ceil((samples * this.inputRate) / this.rate);
  }
}

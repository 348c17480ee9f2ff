/** What the network sees, drawn as it comes: the file gives the image as its second output. */

import type { Page } from "./model";

// How much of a stream is in view: at least so many segments, and so many seconds.
const LEAST_SEGMENTS = 2;
const LEAST_SECONDS = 8;
// A canvas wider than this gains nothing on a screen.
const MOST_COLUMNS = 2048;

export class Spectrogram {
  private readonly view: CanvasRenderingContext2D;
  private readonly image: CanvasRenderingContext2D;
  private readonly width: number;
  private readonly height: number;
  /** In seconds: what the canvas shows, and from when on. */
  private shown = 0;
  private from = 0;
  private isStream = true;
  private isEmpty = true;

  constructor(
    canvas: HTMLCanvasElement,
    private readonly page: Page,
  ) {
    [, this.height, this.width] = page.image_shape as [number, number, number];
    this.view = context(canvas);
    this.image = context(document.createElement("canvas"));
    this.image.canvas.width = this.width;
    this.image.canvas.height = this.height;
    this.showStream();
  }

  /** Seconds across the whole canvas. */
  get seconds(): number {
    return this.shown;
  }

  /** Start anew with a stream, which scrolls. */
  showStream(): void {
    this.clear(Math.max(LEAST_SECONDS, LEAST_SEGMENTS * this.page.axis.seconds), true);
  }

  /** Start anew with a recording, all of which fits. */
  showRecording(seconds: number): void {
    this.clear(Math.max(seconds, this.page.axis.seconds), false);
  }

  /**
   * Draw the image of a segment, of which what came before stays as it was drawn.
   *
   * @param pixels (height, width, 4)
   * @param start of the segment, in seconds
   * @param fresh how much of its end is new, in seconds
   */
  draw(pixels: Uint8ClampedArray<ArrayBuffer>, start: number, fresh: number): void {
    this.image.putImageData(new ImageData(pixels, this.width, this.height), 0, 0);
    const { seconds } = this.page.axis;
    const end = start + seconds;
    if (this.isStream) this.scrollTo(end);
    // The first one is drawn whole.
    const part = this.isEmpty ? 1 : Math.min(1, fresh / seconds);
    this.isEmpty = false;
    const left = this.column(end - part * seconds);
    const width = this.column(end) - left;
    const source = part * this.width;
    const { canvas } = this.image;
    this.view.drawImage(
      canvas,
      this.width - source,
      0,
      source,
      this.height,
      left,
      0,
      width,
      this.height,
    );
  }

  private clear(seconds: number, isStream: boolean): void {
    const { canvas } = this.view;
    const columns = Math.round((seconds / this.page.axis.seconds) * this.width);
    canvas.width = Math.min(MOST_COLUMNS, columns);
    canvas.height = this.height;
    this.view.imageSmoothingEnabled = canvas.width < columns;
    this.shown = seconds;
    this.isStream = isStream;
    this.isEmpty = true;
    // A stream comes in from the right.
    this.from = isStream ? -seconds : 0;
  }

  private scrollTo(end: number): void {
    const { canvas } = this.view;
    const before = this.column(0);
    this.from = Math.max(this.from, end - this.shown);
    // Whole columns, counted from the start of the stream, so that rounding does not add up.
    const shift = before - this.column(0);
    if (!shift) return;
    this.view.globalCompositeOperation = "copy";
    this.view.drawImage(canvas, -shift, 0);
    this.view.globalCompositeOperation = "source-over";
  }

  /** Where a time lies on the canvas. */
  private column(seconds: number): number {
    const scale = this.view.canvas.width / this.shown;
    return Math.round(seconds * scale) - Math.round(this.from * scale);
  }
}

function context(canvas: HTMLCanvasElement): CanvasRenderingContext2D {
  return canvas.getContext("2d", { willReadFrequently: true }) as CanvasRenderingContext2D;
}

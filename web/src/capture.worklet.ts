/** Hands the microphone's samples to the page in blocks, from the browser's audio thread. */

declare abstract class AudioWorkletProcessor {
  readonly port: MessagePort;
}
declare function registerProcessor(name: string, processor: unknown): void;
declare const currentFrame: number;

// 8 of the audio thread's own blocks: some 20 ms, so that few messages cross.
const BLOCK = 1024;

class Capture extends AudioWorkletProcessor {
  private block = new Float32Array(BLOCK);
  private fill = 0;
  private start = 0;
  private hasPosted = false;

  process([channels]: Float32Array[][]): boolean {
    if (!channels.length) return true;
    const frames = channels[0].length;
    // Frames that are not next to those before begin a block of their own: the page sees the gap.
    if (this.fill && currentFrame !== this.start + this.fill) this.interrupt();
    if (!this.fill) this.start = currentFrame;
    for (let i = 0; i < frames; i++) {
      let sum = 0;
      for (const channel of channels) sum += channel[i];
      this.block[this.fill + i] = sum / channels.length;
    }
    this.fill += frames;
    if (this.fill + frames > BLOCK) this.post();
    return true;
  }

  private interrupt(): void {
    // A device that starts comes and goes: nothing is lost before the first whole block.
    if (this.hasPosted) this.post();
    this.fill = 0;
  }

  private post(): void {
    this.hasPosted = true;
    const samples = this.block.slice(0, this.fill);
    this.port.postMessage({ start: this.start, samples }, [samples.buffer]);
    this.fill = 0;
  }
}

registerProcessor("capture", Capture);

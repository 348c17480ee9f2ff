/** The microphone, at the device's own rate. */

import { PageError, reason } from "./model";
import workletUrl from "./capture.worklet.ts?worker&url";

interface Block {
  /** Of its first sample, on the clock of the audio thread. */
  start: number;
  samples: Float32Array;
}

/** What a recogniser does not want changed, as it did not learn from changed sound. */
const UNCHANGED = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };

const REFUSALS: Record<string, string> = {
  NotAllowedError:
    "The microphone was refused. Allow it for this page in the browser's settings, then listen " +
    "again; or choose a recording.",
  NotFoundError: "No microphone was found. Connect one, or choose a recording.",
  NotReadableError: "The microphone cannot be read. Perhaps another program holds it.",
};

export class Capture {
  /** Samples that the audio thread has not handed over; silence stands for them. */
  lostSamples = 0;
  private next: number | null = null;

  private constructor(
    private readonly context: AudioContext,
    private readonly stream: MediaStream,
    private readonly onBlock: (samples: Float32Array) => void,
  ) {}

  /** In Hz. */
  get sampleRate(): number {
    return this.context.sampleRate;
  }

  /** Ask for the microphone. `onEnd` is told why it stopped, if it was not by `stop`. */
  static async start(
    onBlock: (samples: Float32Array) => void,
    onEnd: (error: PageError) => void,
  ): Promise<Capture> {
    if (!isSecureContext || !navigator.mediaDevices) {
      throw new PageError(
        "Browsers give the microphone only to pages that come by https or from localhost. " +
          "Open this page so, or choose a recording.",
      );
    }
    if (typeof AudioWorkletNode !== "function") {
      throw new PageError("This browser has no audio worklets. Use a newer one.");
    }
    const stream = await askForMicrophone();
    const { sampleRate } = stream.getAudioTracks()[0].getSettings();
    // Without a rate it would be that of the loudspeakers, to which the browser would resample.
    const capture = new Capture(new AudioContext({ sampleRate }), stream, onBlock);
    try {
      await capture.connect(onEnd);
    } catch (error) {
      await capture.stop();
      throw new PageError(`The microphone cannot be heard: ${reason(error)}`);
    }
    return capture;
  }

  /** Free the microphone. */
  async stop(): Promise<void> {
    for (const track of this.stream.getTracks()) {
      track.onended = null;
      track.stop();
    }
    if (this.context.state !== "closed") await this.context.close();
  }

  private async connect(onEnd: (error: PageError) => void): Promise<void> {
    const [track] = this.stream.getTracks();
    track.onended = () => onEnd(new PageError("The microphone was taken away. Listen again."));
    await this.context.audioWorklet.addModule(workletUrl);
    const node = new AudioWorkletNode(this.context, "capture", { numberOfOutputs: 0 });
    node.port.onmessage = ({ data }: MessageEvent<Block>) => this.hear(data);
    this.context.createMediaStreamSource(this.stream).connect(node);
    // Not awaited: a browser that wants another click would never answer.
    this.context.resume().catch(() => undefined);
  }

  private hear({ start, samples }: Block): void {
    const gap = this.next === null ? 0 : start - this.next;
    this.next = start + samples.length;
    if (gap > 0) {
      this.lostSamples += gap;
      this.onBlock(new Float32Array(gap));
    }
    this.onBlock(samples);
  }
}

async function askForMicrophone(): Promise<MediaStream> {
  try {
    return await navigator.mediaDevices.getUserMedia({ audio: UNCHANGED });
  } catch (error) {
    const name = error instanceof DOMException ? error.name : "";
    throw new PageError(REFUSALS[name] ?? `The microphone cannot be used: ${reason(error)}`);
  }
}

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

/** What whoever captures is told. */
export interface Capturer {
  onBlock(samples: Float32Array): void;
  /** So many samples were not handed over by the audio thread. */
  onGap(count: number): void;
  /** Why no sound comes; null: it comes again. */
  onTrouble(trouble: string | null): void;
  /** Why it stopped, if it was not by `stop`. */
  onEnd(error: PageError): void;
}

const RESUME_MILLISECONDS = 5000;
const QUIET_MILLISECONDS = 2000;
const WATCH_MILLISECONDS = 500;
const MUTED = "The microphone is muted, by the device or by the browser.";
const QUIET = "No sound arrives from the microphone.";

export class Capture {
  /** Samples that the audio thread has not handed over. */
  lostSamples = 0;
  private next: number | null = null;
  private heardAt = performance.now();
  private trouble: string | null = null;
  private watch = 0;

  private constructor(
    private readonly context: AudioContext,
    private readonly stream: MediaStream,
    private readonly capturer: Capturer,
  ) {}

  /** In Hz. */
  get sampleRate(): number {
    return this.context.sampleRate;
  }

  /** Ask for the microphone. */
  static async start(capturer: Capturer): Promise<Capture> {
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
    const capture = new Capture(new AudioContext({ sampleRate }), stream, capturer);
    try {
      await capture.connect();
    } catch (error) {
      await capture.stop();
      throw new PageError(`The microphone cannot be heard: ${reason(error)}`);
    }
    return capture;
  }

  /** Free the microphone. */
  async stop(): Promise<void> {
    clearInterval(this.watch);
    this.context.onstatechange = null;
    for (const track of this.stream.getTracks()) {
      track.onended = null;
      track.stop();
    }
    if (this.context.state !== "closed") await this.context.close();
  }

  private async connect(): Promise<void> {
    const [track] = this.stream.getTracks();
    const taken = new PageError("The microphone was taken away. Listen again.");
    track.onended = () => this.capturer.onEnd(taken);
    await this.context.audioWorklet.addModule(workletUrl);
    const node = new AudioWorkletNode(this.context, "capture", { numberOfOutputs: 0 });
    node.port.onmessage = ({ data }: MessageEvent<Block>) => this.hear(data);
    this.context.createMediaStreamSource(this.stream).connect(node);
    await this.resume();
    // A call or a locked screen can stop the audio thread, which then says nothing.
    this.context.onstatechange = () => void this.context.resume().catch(() => undefined);
    this.heardAt = performance.now();
    this.watch = window.setInterval(() => this.check(track), WATCH_MILLISECONDS);
  }

  private async resume(): Promise<void> {
    // A browser that wants another click never answers.
    const late = new Promise((resolve) => setTimeout(resolve, RESUME_MILLISECONDS));
    await Promise.race([this.context.resume(), late]);
    if (this.context.state !== "running") {
      throw new PageError("the browser does not start its audio. Click Listen again");
    }
  }

  private check(track: MediaStreamTrack): void {
    const isQuiet = performance.now() - this.heardAt > QUIET_MILLISECONDS;
    const trouble = track.muted ? MUTED : isQuiet ? QUIET : null;
    if (trouble !== this.trouble) this.capturer.onTrouble((this.trouble = trouble));
    if (isQuiet && this.context.state !== "running") this.context.resume().catch(() => undefined);
  }

  private hear({ start, samples }: Block): void {
    this.heardAt = performance.now();
    const gap = this.next === null ? 0 : start - this.next;
    this.next = start + samples.length;
    if (gap > 0) {
      this.lostSamples += gap;
      this.capturer.onGap(gap);
    }
    this.capturer.onBlock(samples);
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

/** The page: from the microphone or a recording to an answer, with a model that lies beside it. */

import "./style.css";
import { keepAwake } from "./awake";
import { Controls } from "./controls";
import { csvText, saveText } from "./csv";
import { answer, columns, hasShares } from "./decisions";
import { byId } from "./dom";
import { EventList } from "./events";
import { Speed, showFacts } from "./facts";
import { clock, megabytes } from "./format";
import { Inference } from "./inference";
import { type Heard, Listening } from "./listening";
import { loadModel, type Model, PageError } from "./model";
import { keepOffline } from "./offline";
import { PostProcessor } from "./postprocess";
import { openRecording } from "./recording";
import { type Result, scoreRecording } from "./scoring";
import { Spectrogram } from "./spectrogram";
import {
  Answer,
  enableSources,
  hideProgress,
  showError,
  showListening,
  showProgress,
  showSpan,
  showStatus,
  showTicks,
} from "./view";

class App {
  private readonly answer: Answer;
  private readonly controls: Controls;
  private readonly events = new EventList();
  private readonly spectrogram: Spectrogram | null;
  private post!: PostProcessor;
  private speed!: Speed;
  private listening: Listening | null = null;
  private scoring: AbortController | null = null;
  private result: Result | null = null;
  /** Why no sound comes from the microphone, if it does not. */
  private trouble: string | null = null;

  constructor(
    private readonly model: Model,
    private readonly inference: Inference,
  ) {
    const { image, image_shape, axis } = model.page;
    this.answer = new Answer(model);
    this.controls = new Controls(model, () => this.applySettings());
    const canvas = byId<HTMLCanvasElement>("spectrogram");
    this.spectrogram = image && image_shape ? new Spectrogram(canvas, model.page) : null;
    byId("seen").hidden = !this.spectrogram;
    byId("no-image").hidden = this.spectrogram !== null;
    showTicks(axis.ticks);
    // Numbers make no events.
    byId("no-events").hidden = byId("events").hidden = !hasShares(model);
    this.begin(model.page.stream.hop_samples);
    this.connect();
  }

  private connect(): void {
    byId("listen").onclick = () => void (this.listening ? this.stop() : this.listen());
    byId("save").onclick = () => this.save();
    const input = byId<HTMLInputElement>("file");
    input.onchange = () => {
      const [file] = input.files ?? [];
      if (file) void this.score(file);
      // So that the same file can be chosen again.
      input.value = "";
    };
    this.acceptDrops();
    enableSources(true);
  }

  private acceptDrops(): void {
    const show = (isOver: boolean) => (byId("drop").hidden = !isOver);
    document.ondragover = (event) => {
      event.preventDefault();
      show(true);
    };
    document.ondragleave = (event) => show(event.relatedTarget !== null);
    document.ondrop = (event) => {
      event.preventDefault();
      show(false);
      const [file] = event.dataTransfer?.files ?? [];
      if (file) void this.score(file);
    };
  }

  /** Forget what was heard before. */
  private begin(hopSamples: number): void {
    const { sample_rate: rate } = this.model;
    this.post = new PostProcessor(this.controls.settings, this.model, hopSamples, rate);
    this.speed = new Speed(hopSamples / rate);
    this.result = null;
    this.events.clear();
    this.answer.clear(this.controls.settings);
    byId("save").hidden = true;
    byId("skipped").textContent = "0";
    byId("lost").textContent = "0 s";
    hideProgress();
  }

  private async listen(): Promise<void> {
    this.scoring?.abort();
    showError(null);
    this.begin(this.model.page.stream.hop_samples);
    this.spectrogram?.showStream();
    showSpan(this.spectrogram?.seconds ?? 0, true);
    showStatus("Waiting for the microphone…");
    enableSources(false);
    try {
      this.trouble = null;
      this.listening = await Listening.start(this.model, this.inference, {
        onHeard: (heard) => this.show(heard),
        onTrouble: (trouble) => this.showTrouble(trouble),
        onEnd: (error) => void this.stop(error),
      });
      void keepAwake(true);
      showListening(true);
      this.showState();
    } catch (error) {
      showStatus("");
      showError(error);
    }
    enableSources(true);
  }

  private async stop(error: PageError | null = null): Promise<void> {
    const { listening } = this;
    this.listening = null;
    void keepAwake(false);
    await listening?.stop();
    this.events.add(this.post.finish());
    showListening(false);
    showStatus("Stopped.");
    showError(error);
  }

  private show(heard: Heard): void {
    if (!this.listening) return;
    const { span, scores, image, milliseconds } = heard;
    const { settings } = this.controls;
    const { smoothed, events } = this.post.step(span, scores);
    this.events.add(events);
    if (!heard.isShown) return;
    this.answer.showStream(smoothed, settings);
    if (image) {
      const end = span.decided / this.model.sample_rate;
      this.spectrogram?.draw(image, end - this.model.page.axis.seconds, settings.hop_seconds);
    }
    if (milliseconds) this.speed.add(milliseconds);
    this.showLosses(this.listening);
  }

  private showLosses({ skipped, lostSamples, sampleRate }: Listening): void {
    byId("skipped").textContent = String(skipped);
    byId("lost").textContent = `${(lostSamples / sampleRate).toFixed(lostSamples ? 2 : 0)} s`;
    this.showState();
  }

  private showTrouble(trouble: string | null): void {
    this.trouble = trouble;
    this.showState();
  }

  /** The same words until the state is another one, as screen readers say each change. */
  private showState(): void {
    if (!this.listening) return;
    const { skipped, sampleRate } = this.listening;
    const state = skipped ? "segments are skipped, as this device is too slow" : null;
    const usual = state ? `Listening; ${state}.` : `Listening, at ${sampleRate} Hz.`;
    showStatus(this.trouble ?? usual);
  }

  private async score(file: File): Promise<void> {
    // While the browser asks for the microphone, a recording can only be dropped in.
    if (byId<HTMLInputElement>("file").disabled) return;
    if (this.listening) await this.stop();
    this.scoring?.abort();
    const { signal } = (this.scoring = new AbortController());
    showError(null);
    this.begin(this.model.hop_samples);
    showStatus(`Reading ${file.name}…`);
    const { settings } = this.controls;
    try {
      const result = await this.scoreAll(file, signal);
      this.result = result;
      byId("save").hidden = false;
      // What was judged before a control moved is judged as the rest.
      if (settings !== this.controls.settings) this.applySettings();
      this.answer.showRecording(result.scores, this.controls.settings);
      hideProgress();
      showStatus(`${file.name}: ${clock(result.seconds)}, ${result.rows.length} segments.`);
    } catch (error) {
      // Another source was chosen in the meantime, and has the page now.
      if (signal.aborted) return;
      this.begin(this.model.hop_samples);
      showStatus("");
      showError(error);
    }
  }

  private async scoreAll(file: File, signal: AbortSignal): Promise<Result> {
    const recording = await openRecording(file);
    signal.throwIfAborted();
    this.spectrogram?.showRecording(recording.seconds);
    showSpan(recording.seconds, false);
    const hop = this.model.hop_samples / this.model.sample_rate;
    const total = clock(recording.seconds);
    const result = await scoreRecording(
      recording,
      this.model,
      this.inference,
      (row, scored) => {
        if (signal.aborted) return;
        const { smoothed, events } = this.post.step(row.span, row.scores);
        this.answer.showStream(smoothed, this.controls.settings);
        this.events.add(events);
        this.speed.add(scored.milliseconds);
        if (scored.image) this.spectrogram?.draw(scored.image, row.start, hop);
        showProgress(`${file.name}: ${clock(row.end)} of ${total}`, row.end / recording.seconds);
      },
      signal,
    );
    signal.throwIfAborted();
    this.events.add(this.post.finish());
    return result;
  }

  /** New settings start anew; of a recording, all is kept and judged again. */
  private applySettings(): void {
    const { settings } = this.controls;
    const { model, result } = this;
    const hop = this.listening ? model.page.stream.hop_samples : model.hop_samples;
    this.events.add(this.post.finish());
    this.post = new PostProcessor(settings, model, hop, model.sample_rate);
    if (!result) return this.answer.clear(settings);
    this.events.clear();
    for (const row of result.rows) this.events.add(this.post.step(row.span, row.scores).events);
    this.events.add(this.post.finish());
    this.answer.showRecording(result.scores, settings);
  }

  private save(): void {
    if (!this.result) return;
    const { name, rows } = this.result;
    const header = ["path", "start", "end", "label", ...columns(this.model)];
    const lines = rows.map(({ start, end, scores }) => {
      return [name, start, end, answer(this.model, scores).join(", "), ...scores];
    });
    saveText(`${name}.csv`, csvText([header, ...lines]));
  }
}

async function start(): Promise<void> {
  const model = await loadModel();
  document.title = byId("title").textContent = model.page.title;
  showStatus(`Loading the model, ${megabytes(model.page.bytes)}…`);
  const threads = Number(new URLSearchParams(location.search).get("threads") ?? 0);
  const inference = await Inference.start(model, threads);
  showFacts(model, inference);
  new App(model, inference);
  showStatus("Ready.");
  await keepOffline(inference.runtime);
}

start().catch((error: unknown) => {
  showStatus("");
  showError(error);
});

/** What the exported file says of itself: `model.json`, which is all that the page knows. */

export type Output = "softmax" | "sigmoid" | "linear" | "ordinal";

/** How scores of windows become events; see `stream_settings.py`, whose names these are. */
export interface StreamSettings {
  hop_seconds: number;
  hop_samples: number;
  smoothing: "none" | "mean" | "ema";
  smoothing_seconds: number;
  threshold: number;
  thresholds: Record<string, number>;
  hysteresis: number;
  min_duration_seconds: number;
  refractory_seconds: number;
  gate_db: number | null;
  ignore: string[];
  only_strongest: boolean;
}

/** How recordings become segments; see `audio.py`. */
export interface Cutting {
  sample_rate: number;
  segment_samples: number;
  hop_samples: number;
  padding: "zero" | "repeat";
  tail: "keep" | "drop";
}

/** What the scores mean; see `decisions.py`. */
export interface Decision {
  output: Output;
  labels: string[];
  thresholds: number[];
  values: number[];
  unknown: "none" | "score" | "energy";
  unknown_below: number;
  conformal: number | null;
}

export interface Page {
  title: string;
  file: string;
  bytes: number;
  image: boolean;
  image_shape: [number, number, number] | null;
  stream: StreamSettings;
  axis: { seconds: number; ticks: [number, string][] };
  card: string | null;
}

export interface Model extends Cutting, Decision {
  version: string;
  precision: string;
  digest: string;
  recipe: { model?: { backbone?: string } };
  page: Page;
}

/** Something that the user can understand and perhaps mend; its message is shown as it is. */
export class PageError extends Error {}

/** Read `model.json`, which lies beside the page. */
export async function loadModel(): Promise<Model> {
  const about = "model.json";
  let model: Model;
  try {
    const response = await fetch(about);
    if (!response.ok) throw new Error(`${response.status} ${response.statusText}`);
    model = (await response.json()) as Model;
  } catch (error) {
    throw new PageError(`${about} cannot be read (${reason(error)}). ${AGAIN}`);
  }
  const needed: (keyof Model)[] = ["labels", "output", "sample_rate", "segment_samples", "page"];
  const missing = needed.find((name) => !model?.[name]);
  if (missing) throw new PageError(`${about} has no "${missing}". ${AGAIN}`);
  return model;
}

export const AGAIN = "Make this page again with `deepspectrumlite web`.";

/** What went wrong, in its own words. */
export function reason(error: unknown): string {
  return error instanceof Error ? error.message || error.name : String(error);
}

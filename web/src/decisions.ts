/** From the scores of the model to an answer, as `decisions.py` gives it. */

import type { Decision } from "./model";

export const UNKNOWN = "unknown";

/** Names of the scores: the labels, and at times that of being unknown. */
export function columns(decision: Decision): string[] {
  if (decision.output === "ordinal") return ["value"];
  return decision.unknown === "energy" ? [...decision.labels, UNKNOWN] : decision.labels;
}

/** Whether the scores are shares from 0 to 1, of which events can be made. */
export function hasShares(decision: Decision): boolean {
  return decision.output === "softmax" || decision.output === "sigmoid";
}

/** (n_columns,) -> (n_outputs,): without the score of being unknown. */
export function known(decision: Decision, scores: ArrayLike<number>): number[] {
  const all = Array.from(scores);
  return decision.unknown === "energy" ? all.slice(0, decision.labels.length) : all;
}

/** (n_columns,) -> the labels that are recognised, or that it is unknown; none for "linear". */
export function answer(decision: Decision, scores: ArrayLike<number>): string[] {
  const { output, labels, thresholds, values } = decision;
  if (output === "linear") return [];
  if (output === "sigmoid") return labels.filter((_, i) => scores[i] >= thresholds[i]);
  if (isRefused(decision, scores)) return [UNKNOWN];
  const found =
    output === "ordinal"
      ? values.map((value) => -Math.abs(scores[0] - value))
      : known(decision, scores);
  return [labels[found.indexOf(Math.max(...found))]];
}

function isRefused(decision: Decision, scores: ArrayLike<number>): boolean {
  if (decision.unknown === "energy") return scores[scores.length - 1] >= 0.5;
  if (decision.unknown === "score") {
    return Math.max(...Array.from(scores)) < decision.unknown_below;
  }
  return false;
}

/** (n_columns,) -> the labels that are likely enough, the likeliest first; null: no sets. */
export function predictionSet(decision: Decision, scores: ArrayLike<number>): string[] | null {
  const lowest = decision.conformal;
  if (lowest === null || decision.output !== "softmax") return null;
  return known(decision, scores)
    .map((score, i) => ({ score, label: decision.labels[i] }))
    .filter(({ score }) => score >= lowest)
    .sort((a, b) => b.score - a.score)
    .map(({ label }) => label);
}

/** (n_segments, n_columns) -> (n_columns,): what a recording is judged by. */
export function meanScores(rows: ArrayLike<number>[]): number[] {
  return Array.from(rows[0], (_, i) => rows.reduce((sum, row) => sum + row[i], 0) / rows.length);
}

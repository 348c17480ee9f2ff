/** Numbers as people read them. */

/** 0.834 -> "83 %" */
export function percent(share: number): string {
  return `${Math.round(100 * share)} %`;
}

/** 83.44 -> "1:23.4" */
export function clock(seconds: number): string {
  const tenths = Math.round(10 * seconds);
  const [hours, minutes] = [Math.floor(tenths / 36000), Math.floor(tenths / 600) % 60];
  const rest = ((tenths % 600) / 10).toFixed(1).padStart(4, "0");
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`;
}

/** With three digits that count: 0.0123, 1.23, 123. */
export function short(value: number): string {
  if (!Number.isFinite(value)) return "–";
  return String(Number(value.toPrecision(3)));
}

/** 19781698 -> "19.8 MB" */
export function megabytes(bytes: number): string {
  return `${(bytes / 1e6).toFixed(1)} MB`;
}

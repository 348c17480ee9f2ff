/** Keeps the screen on while the page listens, where the browser can. */

let lock: WakeLockSentinel | null = null;

export async function keepAwake(isWanted: boolean): Promise<void> {
  document.onvisibilitychange = isWanted ? () => void request() : null;
  if (isWanted) return request();
  const held = lock;
  lock = null;
  await held?.release().catch(() => undefined);
}

/** The browser takes the lock back when the page is out of sight. */
async function request(): Promise<void> {
  if (document.visibilityState !== "visible" || !("wakeLock" in navigator)) return;
  // Refused with a low battery, for one: the page listens all the same.
  const held = await navigator.wakeLock.request("screen").catch(() => null);
  if (document.onvisibilitychange) lock = held;
  else await held?.release();
}

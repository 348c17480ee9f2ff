/** Keeps the page on the device: from the second visit on it needs no network. */

/**
 * Install the service worker for the files that `files.json` lists, with only the runtime in use.
 *
 * The version stands in the worker's address: another model makes another worker, which fetches
 * what has changed.
 */
export async function keepOffline(runtime: string): Promise<void> {
  if (!("serviceWorker" in navigator)) return;
  try {
    // Not from a cache: this tells whether there is something new.
    const response = await fetch("files.json", { cache: "no-store" });
    const { version } = (await response.json()) as { version: string };
    await navigator.serviceWorker.register(`sw.js?version=${version}&runtime=${runtime}`);
  } catch {
    // Without a network, or where service workers are refused: the page works as it is.
  }
}

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
    const address = `sw.js?version=${version}&runtime=${runtime}`;
    const registration = await navigator.serviceWorker.register(address);
    const { waiting, installing } = registration;
    if (waiting) offer(waiting);
    installing?.addEventListener("statechange", () => {
      // On the first visit, nothing older has the page, and the new one does not wait.
      if (installing === registration.waiting) offer(installing);
    });
  } catch {
    // Without a network, or where service workers are refused: the page works as it is.
  }
}

/** A button to go on with the newer version, which waits until no page uses the older one. */
function offer(waiting: ServiceWorker): void {
  if (!navigator.serviceWorker.controller || document.getElementById("newer")) return;
  const button = document.createElement("button");
  button.id = "newer";
  button.type = "button";
  button.textContent = "A newer version is here: reload";
  button.onclick = () => {
    navigator.serviceWorker.oncontrollerchange = () => location.reload();
    waiting.postMessage("take over");
  };
  document.querySelector("header")?.append(button);
}

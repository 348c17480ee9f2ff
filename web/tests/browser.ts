/** A plain file server, and Chromium without a window. */

import { readFile } from "node:fs/promises";
import { createServer, type Server } from "node:http";
import { extname, join, normalize } from "node:path";

import { type Browser, type BrowserContext, chromium, type Page } from "playwright-core";

import { fixture } from "./expected";

const TYPES: Record<string, string> = {
  ".css": "text/css",
  ".html": "text/html",
  ".js": "text/javascript",
  ".json": "application/json",
  ".png": "image/png",
  ".svg": "image/svg+xml",
  ".wasm": "application/wasm",
  ".webmanifest": "application/manifest+json",
};
/** What a server adds that allows threads. */
const ISOLATED = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
};
const ARGUMENTS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--autoplay-policy=no-user-gesture-required",
];

export interface Site {
  url: string;
  close(): void;
}

/** Serve a folder, under a path if one is given; `replaced` gives other content for some files. */
export async function serve(
  folder: string,
  options: { under?: string; isIsolated?: boolean; replaced?: Record<string, Buffer> } = {},
): Promise<Site> {
  const under = options.under ?? "/";
  const server: Server = createServer(async (request, response) => {
    const path = decodeURIComponent(new URL(request.url ?? "/", "http://localhost").pathname);
    const name =
      normalize(path.slice(under.length)) === "." ? "index.html" : path.slice(under.length);
    try {
      if (!path.startsWith(under)) throw new Error("outside");
      const content = options.replaced?.[name] ?? (await readFile(join(folder, normalize(name))));
      response.writeHead(200, {
        "Content-Type": TYPES[extname(name)] ?? "application/octet-stream",
        ...(options.isIsolated ? ISOLATED : {}),
      });
      response.end(content);
    } catch {
      response.writeHead(404).end();
    }
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  const port = typeof address === "object" && address ? address.port : 0;
  const close = () => {
    server.closeAllConnections();
    server.close();
  };
  return { url: `http://localhost:${port}${under}`, close };
}

/** `microphone`: a WAV file that is heard again and again; null: one that nobody allows. */
export async function launch(microphone?: string | null): Promise<Browser> {
  const device = microphone === undefined ? [] : ["--use-fake-device-for-media-stream"];
  const heard = [
    "--use-fake-ui-for-media-stream",
    `--use-file-for-fake-audio-capture=${microphone}`,
  ];
  return chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: [...ARGUMENTS, ...device, ...(microphone ? heard : [])],
  });
}

/**
 * For a page: the microphone says that it has this rate, in Hz, at which the page then listens.
 * Chromium's fake one says 44100, whatever the rate of its file.
 */
export function sayRate(rate: number): void {
  const { getSettings } = MediaStreamTrack.prototype;
  MediaStreamTrack.prototype.getSettings = function () {
    return { ...getSettings.call(this), sampleRate: rate };
  };
}

/** A page, with all that it complains of and all that it asks for elsewhere. */
export async function openPage(
  browser: Browser,
  url: string,
  options: Parameters<Browser["newContext"]>[0] = {},
): Promise<{ page: Page; context: BrowserContext; complaints: string[] }> {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  const complaints: string[] = [];
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) complaints.push(message.text());
  });
  page.on("pageerror", (error) => complaints.push(String(error)));
  context.on("request", (request) => {
    const asked = new URL(request.url());
    const isOwn =
      asked.origin === new URL(url).origin || ["blob:", "data:"].includes(asked.protocol);
    if (!isOwn) complaints.push(`asked for ${request.url()}`);
  });
  await page.goto(url);
  return { page, context, complaints };
}

/** The page has loaded its model. */
export async function whenReady(page: Page): Promise<void> {
  await page.waitForSelector("#listen:enabled, #error:not([hidden])");
  const error = await page.textContent("#error");
  if (error) throw new Error(error);
}

/** Choose a recording of the fixtures. */
export async function choose(page: Page, name: string): Promise<void> {
  await page.setInputFiles("#file", fixture(name));
}

export async function whenScored(page: Page, name: string): Promise<void> {
  await page.waitForFunction(
    (name) =>
      new RegExp(`^${name}: .* segments`).test(
        document.querySelector("#status")?.textContent ?? "",
      ),
    name,
  );
}

/** What the bars show, by label, as the model gave it. */
export async function shownScores(page: Page): Promise<Record<string, number>> {
  return page.$$eval(".bar", (bars) =>
    Object.fromEntries(
      bars.map((bar) => {
        const value = bar.lastElementChild as HTMLElement;
        return [bar.firstElementChild?.textContent ?? "", Number(value.dataset.score)];
      }),
    ),
  );
}

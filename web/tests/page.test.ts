/** The whole page in Chromium: recordings, microphone, what can go wrong, offline, and access. */

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";

import axe from "axe-core";
import type { Browser, Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import {
  choose,
  launch,
  openPage,
  sayRate,
  serve,
  shownScores,
  type Site,
  whenReady,
  whenScored,
} from "./browser";
import { expected, fixture, readSamples } from "./expected";

const LABELS = ["high", "low", "noise"];
let site: Site;
let browser: Browser;

beforeAll(async () => {
  site = await serve(fixture("site"), { under: "/some/folder/" });
  browser = await launch();
});
afterAll(async () => {
  await browser.close();
  site.close();
});

async function readCsv(page: Page): Promise<string[][]> {
  const [download] = await Promise.all([page.waitForEvent("download"), page.click("#save")]);
  const text = readFileSync(await download.path(), "utf8");
  return text
    .trimEnd()
    .split("\r\n")
    .map((line) => line.split(","));
}

describe("a recording", () => {
  const names = [
    "mixed.wav",
    "high.wav",
    "low.wav",
    "noise.wav",
    "stereo24.wav",
    "float.wav",
    "high.flac",
    "high44.wav",
  ];
  const encodings = ["double.wav", "bytes.wav", "long32.wav", "extensible.wav"];

  test.each([...names, ...encodings])("%s: the scores of Predictor within 1e-3", async (name) => {
    const { page, context, complaints } = await openPage(browser, site.url);
    await whenReady(page);
    await choose(page, name);
    await whenScored(page, name);
    const known = expected.recordings[name];
    expect(await page.textContent("#answer")).toBe(known.label);
    const shown = await shownScores(page);
    LABELS.forEach((label, i) =>
      expect(Math.abs(shown[label] - known.scores[i])).toBeLessThan(1e-3),
    );

    const [header, ...rows] = await readCsv(page);
    expect(header).toEqual(["path", "start", "end", "label", ...LABELS]);
    expect(rows.length).toBe(known.segments.length);
    let worst = 0;
    rows.forEach(([path, start, end, , ...scores], i) => {
      expect(path).toBe(name);
      expect(Number(start)).toBeCloseTo(known.starts[i], 6);
      expect(Number(end)).toBeCloseTo(known.ends[i], 6);
      scores.forEach((score, k) => {
        worst = Math.max(worst, Math.abs(Number(score) - known.segments[i][k]));
      });
    });
    console.log(`${name}: largest difference ${worst.toExponential(1)}`);
    expect(worst).toBeLessThan(1e-3);
    expect(complaints).toEqual([]);
    await context.close();
  });

  test("of another kind is decoded by the browser", async () => {
    const { page, context, complaints } = await openPage(browser, site.url);
    await whenReady(page);
    await choose(page, "high.ogg");
    await whenScored(page, "high.ogg");
    const known = expected.recordings["high.ogg"];
    const shown = await shownScores(page);
    // Decoders cut the ends of such recordings differently.
    LABELS.forEach((label, i) =>
      expect(Math.abs(shown[label] - known.scores[i])).toBeLessThan(0.02),
    );
    expect(complaints).toEqual([]);
    await context.close();
  });

  test("can be dropped", async () => {
    const { page, context, complaints } = await openPage(browser, site.url);
    await whenReady(page);
    const bytes = [...readFileSync(fixture("low.wav"))];
    const transfer = await page.evaluateHandle((bytes) => {
      const transfer = new DataTransfer();
      transfer.items.add(new File([new Uint8Array(bytes)], "low.wav"));
      return transfer;
    }, bytes);
    await page.dispatchEvent("main", "dragover", { dataTransfer: transfer });
    expect(await page.isVisible("#drop")).toBe(true);
    await page.dispatchEvent("main", "drop", { dataTransfer: transfer });
    await whenScored(page, "low.wav");
    expect(await page.textContent("#answer")).toBe("low");
    expect(complaints).toEqual([]);
    await context.close();
  });

  test("is judged again when the threshold moves", async () => {
    const { page, context } = await openPage(browser, site.url);
    await whenReady(page);
    await choose(page, "high.wav");
    await whenScored(page, "high.wav");
    expect(await page.textContent("#events")).toContain("0:00.0 – 0:02.3");
    await page.focus("#threshold");
    await page.keyboard.press("End");
    expect(await page.textContent("#threshold-value")).toBe("100 %");
    expect(await page.locator("#events li").count()).toBe(0);
    await page.click("#reset");
    expect(await page.locator("#events li").count()).toBe(1);
    await context.close();
  });

  test("draws the image that the network saw: Python's pixels within 2 of 255", async () => {
    const { page, context } = await openPage(browser, site.url);
    await whenReady(page);
    const { recording, file, shape } = expected.images;
    await choose(page, recording);
    await whenScored(page, recording);
    const [n, , height, width] = shape;
    const drawn = await page.$eval(
      "#spectrogram",
      (canvas, [width, height]) => {
        const view = (canvas as HTMLCanvasElement).getContext("2d") as CanvasRenderingContext2D;
        return [...view.getImageData(0, 0, width, height).data];
      },
      [n * width, height],
    );
    const known = readSamples(file);
    let worst = 0;
    for (let segment = 0; segment < n; segment++) {
      for (let i = 0; i < 3 * height * width; i++) {
        const [channel, row] = [Math.floor(i / (height * width)), Math.floor(i / width) % height];
        const at = 4 * (row * n * width + segment * width + (i % width)) + channel;
        const wanted = 255 * known[segment * 3 * height * width + i];
        worst = Math.max(worst, Math.abs(drawn[at] - wanted));
      }
    }
    console.log(`spectrogram: largest difference ${worst.toFixed(2)} of 255`);
    expect(worst).toBeLessThan(2);
    await context.close();
  });
});

describe("the microphone", () => {
  const cases = [...LABELS, "mixed"].map((label) => [label, 48000] as const);

  test.each([...cases, ["mixed", 44100] as const])(
    "hears %s at %i Hz, within 0.02 of Predictor",
    async (label, rate) => {
      const own = await launch(fixture(`${label}-microphone.wav`));
      const { page, complaints } = await openPage(own, site.url);
      await page.addInitScript(sayRate, rate);
      await page.reload();
      await whenReady(page);
      await page.click("#listen");
      const { segments, label: right } = expected.recordings[`${label}-microphone.wav`];
      await page.waitForFunction(
        (right) => document.querySelector("#answer")?.textContent === right,
        right,
      );
      // Past the beginning, where the device itself may still be starting.
      const heard: Record<string, number>[] = [];
      for (let i = 0; i < 8; i++) {
        await page.waitForTimeout(500);
        heard.push(await shownScores(page));
      }
      expect(await page.textContent("#status")).toBe(`Listening, at ${rate} Hz.`);
      await page.click("#listen");
      expect(await page.textContent("#status")).toBe("Stopped.");
      LABELS.forEach((name, i) => {
        const [ours, theirs] = [heard.map((each) => each[name]), segments.map((row) => row[i])].map(
          median,
        );
        console.log(
          `${label} microphone, score of ${name}: ${ours.toFixed(5)}, Predictor ${theirs.toFixed(5)}`,
        );
        expect(Math.abs(ours - theirs)).toBeLessThan(0.02);
      });
      expect(await page.textContent("#events li")).toContain(right);
      expect(await page.textContent("#lost")).toBe("0 s");
      expect(await page.textContent("#skipped")).toBe("0");
      expect(complaints).toEqual([]);
      await own.close();
    },
  );

  test("refused: says so, and recordings still work", async () => {
    // A device, but nobody who would allow it.
    const own = await launch(null);
    const { page, complaints } = await openPage(own, site.url);
    await whenReady(page);
    await page.click("#listen");
    await page.waitForSelector("#error:not([hidden])");
    expect(await page.textContent("#error")).toContain("The microphone was refused");
    await choose(page, "low.wav");
    await whenScored(page, "low.wav");
    expect(await page.isVisible("#error")).toBe(false);
    expect(complaints).toEqual([]);
    await own.close();
  });

  test("on a page that came by http: says so", async () => {
    const { page, context } = await openPage(browser, site.url);
    await whenReady(page);
    await page.evaluate(() => Object.defineProperty(window, "isSecureContext", { value: false }));
    await page.click("#listen");
    await page.waitForSelector("#error:not([hidden])");
    expect(await page.textContent("#error")).toContain("https or from localhost");
    await context.close();
  });

  test("on a slow device: whole segments are skipped, and the page says so", async () => {
    const own = await launch(fixture("high-microphone.wav"));
    const { page, complaints } = await openPage(own, site.url);
    await whenReady(page);
    await page.evaluate(() => {
      const { postMessage } = Worker.prototype;
      Worker.prototype.postMessage = function (message: unknown) {
        setTimeout(() => postMessage.call(this, message), 1500);
      };
    });
    await page.click("#listen");
    await page.waitForFunction(() =>
      document.querySelector("#status")?.textContent?.includes("too slow"),
    );
    expect(Number(await page.textContent("#skipped"))).toBeGreaterThan(0);
    expect(await page.textContent("#answer")).toBe("high");
    expect(await page.textContent("#lost")).toBe("0 s");
    expect(complaints).toEqual([]);
    await own.close();
  });

  test("absent: says so", async () => {
    const { page, context, complaints } = await openPage(browser, site.url, {
      permissions: ["microphone"],
    });
    await whenReady(page);
    await page.click("#listen");
    await page.waitForSelector("#error:not([hidden])");
    expect(await page.textContent("#error")).toContain("No microphone was found");
    expect(complaints).toEqual([]);
    await context.close();
  });
});

describe("what can go wrong", () => {
  const files = [
    ["text.wav", "is no recording that this browser can decode"],
    ["long.wav", "long.wav lasts 8.0 hours; this page takes up to 2 hours"],
    ["labels.csv", "is no recording"],
  ];

  test.each(files)("%s: a message", async (name, message) => {
    const { page, context, complaints } = await openPage(browser, site.url);
    await whenReady(page);
    await choose(page, name);
    await page.waitForSelector("#error:not([hidden])");
    expect(await page.textContent("#error")).toContain(message);
    await choose(page, "low.wav");
    await whenScored(page, "low.wav");
    expect(complaints).toEqual([]);
    await context.close();
  });

  const model = () => readFileSync(fixture("site/model.tflite"));
  const broken: [string, string, () => Buffer][] = [
    ["model.tflite", "instead of", () => model().subarray(0, 1000)],
    [
      "model.tflite",
      "does not begin like a .tflite file",
      () => Buffer.from("<html>not found</html>"),
    ],
    ["model.tflite", "cannot be loaded", () => model().fill(0xff, 16, 100_000)],
    ["model.json", "model.json cannot be read", () => Buffer.from("{")],
    ["model.json", 'model.json has no "labels"', () => Buffer.from("{}")],
  ];

  test.each(broken)("a broken %s: %s", async (name, message, content) => {
    const own = await serve(fixture("site"), { replaced: { [name]: content() } });
    const { page, context } = await openPage(browser, own.url);
    await page.waitForSelector("#error:not([hidden])");
    expect(await page.textContent("#error")).toContain(message);
    expect(await page.isDisabled("#listen")).toBe(true);
    await context.close();
    own.close();
  });

  test("a model without the image", async () => {
    const about = JSON.parse(readFileSync(fixture("site/model.json"), "utf8"));
    Object.assign(about.page, { image: false, image_shape: null });
    const own = await serve(fixture("site"), {
      replaced: { "model.json": Buffer.from(JSON.stringify(about)) },
    });
    const { page, context, complaints } = await openPage(browser, own.url);
    await whenReady(page);
    expect(await page.isVisible("#spectrogram")).toBe(false);
    expect(await page.textContent("#facts")).toContain("WebAssembly, 1 thread");
    expect(await page.textContent("#no-image")).toContain("export --image");
    await choose(page, "low.wav");
    await whenScored(page, "low.wav");
    expect(complaints).toEqual([]);
    await context.close();
    own.close();
  });

  test("another origin is out of reach, for the page and its worker", async () => {
    const { page, context } = await openPage(browser, site.url);
    await whenReady(page);
    const other = await serve(fixture("site"));
    const isRefused = (url: string) =>
      fetch(url, { mode: "no-cors" }).then(
        () => false,
        () => true,
      );
    expect(await page.evaluate(isRefused, other.url)).toBe(true);
    expect(await page.workers()[0].evaluate(isRefused, other.url)).toBe(true);
    await context.close();
    other.close();
  });
});

test("works offline after the first visit", async () => {
  const own = await serve(fixture("site"), { under: "/app/" });
  const { page, context, complaints } = await openPage(browser, own.url);
  await whenReady(page);
  await page.waitForFunction(() => navigator.serviceWorker.controller !== null);
  own.close();
  await context.setOffline(true);
  await page.reload();
  await whenReady(page);
  await choose(page, "high.wav");
  await whenScored(page, "high.wav");
  expect(await page.textContent("#answer")).toBe("high");
  expect(complaints.filter((each) => !each.includes("ERR_INTERNET_DISCONNECTED"))).toEqual([]);
  await context.close();
});

test("a new version replaces the old one", async () => {
  const about = JSON.parse(readFileSync(fixture("site/model.json"), "utf8"));
  const list = JSON.parse(readFileSync(fixture("site/files.json"), "utf8"));
  const replaced: Record<string, Buffer> = {};
  const own = await serve(fixture("site"), { replaced });
  const { page, context } = await openPage(browser, own.url);
  await whenReady(page);
  await page.waitForFunction(() => navigator.serviceWorker.controller !== null);
  about.page.title = "Newer tones";
  list.version = "newer";
  const entry = list.files.find(({ path }: { path: string }) => path === "model.json");
  entry.sha256 = "0".repeat(64);
  replaced["model.json"] = Buffer.from(JSON.stringify(about));
  replaced["files.json"] = Buffer.from(JSON.stringify(list));
  // The list says another digest: half an upload, say. Nothing of that version is taken.
  const fate = page.evaluate(async () => {
    const { version } = await (await fetch("files.json")).json();
    const { installing } = await navigator.serviceWorker.register(`sw.js?version=${version}`);
    return new Promise<string>((resolve) => {
      installing?.addEventListener("statechange", () => resolve(installing.state));
    });
  });
  expect(await fate).toBe("redundant");
  entry.sha256 = createHash("sha256").update(replaced["model.json"]).digest("hex");
  replaced["files.json"] = Buffer.from(JSON.stringify(list));
  await page.reload();
  await whenReady(page);
  const isWaiting = () =>
    navigator.serviceWorker.getRegistration().then((each) => Boolean(each?.waiting));
  await expect.poll(() => page.evaluate(isWaiting), { timeout: 20_000 }).toBe(true);
  expect(await page.title()).toBe("Tones");
  await page.click("#newer");
  await page.waitForFunction(() => document.title === "Newer tones");
  await whenReady(page);
  expect(await page.locator("#newer").count()).toBe(0);
  expect((await page.evaluate(() => caches.keys())).length).toBe(1);
  await context.close();
  own.close();
});

test("runs with threads where the server's headers allow them", async () => {
  const own = await serve(fixture("site"), { isIsolated: true });
  const { page, context, complaints } = await openPage(browser, own.url);
  await whenReady(page);
  expect(await page.evaluate(() => crossOriginIsolated)).toBe(true);
  expect(await page.textContent("#facts")).toMatch(/WebAssembly, [2-9] threads/);
  await choose(page, "low.wav");
  await whenScored(page, "low.wav");
  expect((await shownScores(page)).low).toBeCloseTo(expected.recordings["low.wav"].scores[1], 3);
  expect(complaints).toEqual([]);

  // The policy holds in the workers too: a server that would let anyone in hears nothing.
  const heard: string[] = [];
  const other = createServer((request, response) => {
    heard.push(request.url ?? "");
    response.setHeader("Cross-Origin-Resource-Policy", "cross-origin");
    response.writeHead(200, { "Access-Control-Allow-Origin": "*" }).end();
  });
  await new Promise<void>((resolve) => other.listen(0, "127.0.0.1", resolve));
  const { port } = other.address() as AddressInfo;
  const workers = page.workers();
  expect(workers.length).toBeGreaterThan(1);
  // Threads that wait for work can be asked nothing; but what is from a blob inherits the policy.
  for (const worker of workers) expect(worker.url()).toMatch(/^blob:/);
  const ask = (url: string) =>
    fetch(url).then(
      () => "let in",
      () => "refused",
    );
  expect(await workers[0].evaluate(ask, `http://localhost:${port}/`)).toBe("refused");
  expect(heard).toEqual([]);
  other.close();
  await context.close();
  own.close();
});

test("works with the keyboard alone", async () => {
  const { page, context } = await openPage(browser, site.url);
  await whenReady(page);
  const reached: string[] = [];
  for (let i = 0; i < 12; i++) {
    await page.keyboard.press("Tab");
    reached.push(
      await page.evaluate(
        () => document.activeElement?.id || document.activeElement?.tagName || "",
      ),
    );
  }
  expect(reached).toEqual(
    expect.arrayContaining(["listen", "file", "threshold", "smoothing", "SUMMARY"]),
  );
  await page.focus("summary");
  await page.keyboard.press("Enter");
  expect(await page.isVisible("#facts")).toBe(true);
  await page.focus("#file");
  const outline = await page.$eval("#choose span", (span) => getComputedStyle(span).outlineStyle);
  expect(outline).toBe("solid");
  await context.close();
});

describe.each([360, 1280])("at %i pixels", (width) => {
  test.each(["light", "dark"] as const)("in %s, axe finds nothing", async (colorScheme) => {
    const { page, context } = await openPage(browser, site.url, {
      colorScheme,
      viewport: { width, height: 800 },
      // axe itself is put into the page for this test.
      bypassCSP: true,
    });
    await whenReady(page);
    await page.addScriptTag({ content: axe.source });
    const violations = async () => {
      const found = await page.evaluate(() =>
        (globalThis as unknown as { axe: typeof axe }).axe.run(),
      );
      return found.violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html)}`);
    };
    expect(await violations()).toEqual([]);
    await choose(page, "high.wav");
    await whenScored(page, "high.wav");
    await page.click("summary");
    expect(await violations()).toEqual([]);
    await choose(page, "text.wav");
    await page.waitForSelector("#error:not([hidden])");
    expect(await violations()).toEqual([]);
    const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    expect(overflow).toBeLessThanOrEqual(0);
    await context.close();
  });
});

function median(values: number[]): number {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)];
}

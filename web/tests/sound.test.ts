/** The page in Chromium, where sound stops or does not say its length, and where controls move. */

import { readFileSync } from "node:fs";

import axe from "axe-core";
import type { Browser, Page } from "playwright-core";
import { afterAll, beforeAll, expect, test } from "vitest";

import { choose, launch, openPage, serve, type Site, whenReady, whenScored } from "./browser";
import { fixture } from "./expected";

let site: Site;
let browser: Browser;

beforeAll(async () => {
  site = await serve(fixture("site"));
  browser = await launch(fixture("high-microphone.wav"));
});
afterAll(async () => {
  await browser.close();
  site.close();
});

async function whenStatus(page: Page, text: string): Promise<void> {
  await page.waitForFunction(
    (text) => document.querySelector("#status")?.textContent?.includes(text),
    text,
  );
}

test("a microphone that falls silent is told of, and heard again", async () => {
  const { page, context, complaints } = await openPage(browser, site.url);
  await page.addInitScript(() => {
    const Usual = AudioContext;
    globalThis.AudioContext = class extends Usual {
      constructor(options?: AudioContextOptions) {
        super(options);
        Object.assign(globalThis, { theContext: this });
      }
    };
  });
  await page.reload();
  await whenReady(page);
  await page.click("#listen");
  await page.waitForFunction(() => document.querySelector("#answer")?.textContent === "high");
  await page.evaluate(async () => {
    const { theContext } = globalThis as unknown as { theContext: AudioContext };
    theContext.resume = () => new Promise(() => undefined);
    await theContext.suspend();
  });
  await whenStatus(page, "No sound arrives");
  await page.evaluate(() => {
    const { theContext } = globalThis as unknown as { theContext: AudioContext };
    return AudioContext.prototype.resume.call(theContext);
  });
  await whenStatus(page, "Listening, at");
  expect(complaints).toEqual([]);
  await context.close();
});

test("a browser that does not start its audio: a message", async () => {
  const { page, context } = await openPage(browser, site.url);
  await whenReady(page);
  await page.evaluate(() => {
    AudioContext.prototype.resume = () => new Promise(() => undefined);
    Object.defineProperty(AudioContext.prototype, "state", { value: "suspended" });
  });
  await page.click("#listen");
  await page.waitForSelector("#error:not([hidden])");
  expect(await page.textContent("#error")).toContain("does not start its audio");
  expect(await page.textContent("#listen-text")).toBe("Listen");
  await context.close();
});

test("while listening, axe finds nothing, and the status is not said again", async () => {
  const { page, context } = await openPage(browser, site.url, { bypassCSP: true });
  await whenReady(page);
  await page.addScriptTag({ content: axe.source });
  await page.click("#listen");
  await page.waitForFunction(() => document.querySelector("#answer")?.textContent === "high");
  const changes = page.evaluate(
    () =>
      new Promise<number>((resolve) => {
        let count = 0;
        const status = document.querySelector("#status") as HTMLElement;
        new MutationObserver(() => count++).observe(status, { childList: true, subtree: true });
        setTimeout(() => resolve(count), 3000);
      }),
  );
  const found = await page.evaluate(() =>
    (globalThis as unknown as { axe: typeof axe }).axe.run(),
  );
  expect(found.violations.map(({ id, nodes }) => `${id}: ${nodes[0].html}`)).toEqual([]);
  expect(await changes).toBe(0);
  expect(await page.getAttribute("#listen", "aria-pressed")).toBeNull();
  expect(await page.innerText("#listen")).toBe("Stop");
  await context.close();
});

test("a control changes only what it says, once it is let go", async () => {
  const about = JSON.parse(readFileSync(fixture("site/model.json"), "utf8"));
  Object.assign(about.page.stream, { smoothing: "mean", smoothing_seconds: 0.25 });
  const own = await serve(fixture("site"), {
    replaced: { "model.json": Buffer.from(JSON.stringify(about)) },
  });
  const { page, context } = await openPage(browser, own.url);
  await whenReady(page);
  await choose(page, "high.wav");
  await whenScored(page, "high.wav");
  const events = () => page.locator("#events li").count();
  expect(await events()).toBe(1);
  await page.$eval("#threshold", (slider) => {
    (slider as HTMLInputElement).value = "1";
    slider.dispatchEvent(new Event("input", { bubbles: true }));
  });
  expect(await page.textContent("#threshold-value")).toBe("100 %");
  expect(await events()).toBe(1);
  await page.dispatchEvent("#threshold", "change");
  expect(await events()).toBe(0);
  expect(await page.textContent("#smoothing-value")).toBe("0.25 s");
  await context.close();
  own.close();
});

test("a threshold that moves while a recording is scored holds for all of it", async () => {
  const { page, context } = await openPage(browser, site.url);
  await whenReady(page);
  await page.evaluate(() => {
    const { postMessage } = Worker.prototype;
    Worker.prototype.postMessage = function (message: unknown) {
      setTimeout(() => postMessage.call(this, message), 400);
    };
  });
  await choose(page, "high.wav");
  await page.waitForSelector("#events li");
  expect(await page.isVisible("#progress")).toBe(true);
  await page.focus("#threshold");
  await page.keyboard.press("End");
  await whenScored(page, "high.wav");
  expect(await page.locator("#events li").count()).toBe(0);
  expect(await page.isVisible("#progress")).toBe(false);
  await context.close();
});

/** Drop what the browser itself has recorded, which does not say how long it is. */
async function dropOwnRecording(page: Page, padding: number): Promise<void> {
  await page.evaluate(async (padding) => {
    const context = new AudioContext();
    const tone = new OscillatorNode(context, { frequency: 2000 });
    const destination = context.createMediaStreamDestination();
    tone.connect(destination);
    tone.start();
    const recorder = new MediaRecorder(destination.stream, { mimeType: "audio/webm" });
    const parts: Blob[] = [];
    recorder.ondataavailable = ({ data }) => parts.push(data);
    const stopped = new Promise((resolve) => (recorder.onstop = resolve));
    recorder.start();
    await new Promise((resolve) => setTimeout(resolve, 2500));
    recorder.stop();
    await stopped;
    const transfer = new DataTransfer();
    transfer.items.add(new File([...parts, new Uint8Array(padding)], "own.webm"));
    document.dispatchEvent(new DragEvent("drop", { dataTransfer: transfer }));
  }, padding);
}

test("a recording without a length is searched for its end", async () => {
  const { page, context, complaints } = await openPage(browser, site.url);
  await whenReady(page);
  await dropOwnRecording(page, 0);
  await whenScored(page, "own.webm");
  expect(await page.textContent("#status")).toMatch(/: 0:0[23]\.\d, [4-7] segments/);
  expect(await page.textContent("#answer")).toBe("high");
  expect(complaints).toEqual([]);
  await context.close();
});

test("a recording whose length cannot be found may be small", async () => {
  const { page, context } = await openPage(browser, site.url);
  await whenReady(page);
  await page.evaluate(() =>
    Object.defineProperty(HTMLMediaElement.prototype, "duration", { value: Infinity }),
  );
  await dropOwnRecording(page, 2e6);
  await page.waitForSelector("#error:not([hidden])");
  expect(await page.textContent("#error")).toContain("does not say how long it is");
  await context.close();
});

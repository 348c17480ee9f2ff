/**
 * Listens for minutes: memory does not grow, and no block is lost.
 *
 * `npm run soak`; MINUTES, 5 by default, says how long.
 */

import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";

import type { CDPSession, Page } from "playwright-core";
import { expect, test } from "vitest";

import { launch, openPage, serve, whenReady } from "./browser";
import { fixture } from "./expected";

const MINUTES = Number(process.env.MINUTES ?? 5);
const EVERY_SECONDS = 15;
const MEGABYTE = 2 ** 20;
// The worker's garbage goes in steps of some 10 MB, which the page cannot ask for.
const ALLOWED_MEGABYTES = { heap: 1, all: 15 };

interface Sample {
  seconds: number;
  heap: number;
  all: number;
  lost: string;
  skipped: string;
}

test("listens for minutes", { timeout: (MINUTES + 2) * 60_000 }, async () => {
  const site = await serve(fixture("site"), { isIsolated: true });
  const browser = await launch(fixture("high-microphone.wav"));
  const { page, context, complaints } = await openPage(browser, site.url);
  const cdp = await context.newCDPSession(page);
  await whenReady(page);
  await page.click("#listen");
  const samples: Sample[] = [];
  for (let seconds = EVERY_SECONDS; seconds <= 60 * MINUTES; seconds += EVERY_SECONDS) {
    await page.waitForTimeout(1000 * EVERY_SECONDS);
    samples.push(await measure(page, cdp, seconds));
    console.log(JSON.stringify(samples[samples.length - 1]));
  }
  // The first minute warms up.
  const settled = samples.filter(({ seconds }) => seconds > 60 || MINUTES <= 1);
  expect(growth(settled.map(({ heap }) => heap))).toBeLessThan(ALLOWED_MEGABYTES.heap);
  expect(growth(settled.map(({ all }) => all))).toBeLessThan(ALLOWED_MEGABYTES.all);
  expect(samples.at(-1)).toMatchObject({ lost: "0 s", skipped: "0" });
  expect(await page.textContent("#listen-text")).toBe("Stop");
  expect(complaints).toEqual([]);
  await browser.close();
  site.close();
});

/** In MB: JavaScript's memory after a collection, and all that the page and its workers hold. */
async function measure(page: Page, cdp: CDPSession, seconds: number): Promise<Sample> {
  await cdp.send("HeapProfiler.collectGarbage");
  const { usedSize } = await cdp.send("Runtime.getHeapUsage");
  return {
    seconds,
    heap: round(usedSize / MEGABYTE),
    all: round(rendererMegabytes()),
    lost: (await page.textContent("#lost")) ?? "",
    skipped: (await page.textContent("#skipped")) ?? "",
  };
}

/** Resident memory of the browser's largest page process, in MB. */
function rendererMegabytes(): number {
  const lines = execFileSync("ps", ["-eo", "ppid,pid,rss,args"], { encoding: "utf8" }).split("\n");
  const sizes = lines
    .filter((line) => line.includes("--type=renderer") && isOurs(line))
    .map((line) => Number(line.trim().split(/\s+/)[2]) / 1024);
  return Math.max(...sizes);
}

/** Whether a process was started below this one. */
function isOurs(line: string): boolean {
  let pid = line.trim().split(/\s+/)[1];
  while (Number(pid) > 1) {
    if (pid === String(process.pid)) return true;
    pid = parentOf(pid);
  }
  return false;
}

function parentOf(pid: string): string {
  // The name of a process, in brackets, may hold spaces.
  return readFileSync(`/proc/${pid}/stat`, "utf8")
    .replace(/^.*\) /s, "")
    .split(" ")[1];
}

/** Median of the last third less that of the first. */
function growth(values: number[]): number {
  const third = Math.max(1, Math.floor(values.length / 3));
  return median(values.slice(-third)) - median(values.slice(0, third));
}

function median(values: number[]): number {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)];
}

function round(value: number): number {
  return Math.round(10 * value) / 10;
}

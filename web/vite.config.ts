import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

import type { Plugin } from "vite";
import { defineConfig } from "vitest/config";

const OUT = "../deepspectrumlite/web_site";
const RUNTIME = "node_modules/@litertjs/core";
// What the page chooses between: threads, one thread, and older browsers.
const VARIANTS = ["_threaded", "", "_compat"];
const HOME = "https://github.com/google-ai-edge/LiteRT";
const ALLOWED = "Apache-2.0";

/** Copies the runtime's WebAssembly beside the page, with its licence. */
function runtime(): Plugin {
  return {
    name: "runtime",
    writeBundle() {
      mkdirSync(join(OUT, "wasm"), { recursive: true });
      for (const variant of VARIANTS) {
        for (const kind of ["js", "wasm"]) {
          const file = `litert_wasm${variant}_internal.${kind}`;
          copyFileSync(join(RUNTIME, "wasm", file), join(OUT, "wasm", file));
        }
      }
      writeFileSync(join(OUT, "LICENSES.txt"), licences());
    },
  };
}

function licences(): string {
  const about = bundled(".").map((name) => {
    const { version, license } = readPackage(`node_modules/${name}`);
    if (license !== ALLOWED) throw new Error(`${name}: licence ${license}; allowed: ${ALLOWED}`);
    return `${name} ${version}: ${license}, ${HOME}`;
  });
  const intro =
    "This page is part of deepspectrumlite, under the Apache License 2.0.\n\n" +
    "In it runs LiteRT.js, the work of the LiteRT authors, unchanged, in assets/ and wasm/:\n" +
    `${about.join("\n")}\n\n`;
  const apache = "\n\nApache License 2.0, of all that is named above with Apache-2.0:\n\n";
  const notice = readFileSync("NOTICE.txt", "utf8");
  return intro + notice + apache + readFileSync("../LICENSE", "utf8");
}

/** What a package needs at run time, and what that needs. */
function bundled(folder: string): string[] {
  const names = Object.keys(readPackage(folder).dependencies ?? {});
  return [...new Set(names.flatMap((name) => [name, ...bundled(`node_modules/${name}`)]))];
}

function readPackage(folder: string) {
  return JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
}

export default defineConfig({
  base: "./",
  plugins: [runtime()],
  worker: { format: "iife" },
  build: {
    outDir: OUT,
    emptyOutDir: true,
    target: "es2022",
    // The page's Content-Security-Policy allows neither inlined files nor inlined scripts.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    rolldownOptions: {
      input: { index: "index.html", sw: "src/sw.ts" },
      output: {
        entryFileNames: ({ name }) => (name === "sw" ? "sw.js" : "assets/[name]-[hash].js"),
      },
    },
  },
  test: {
    include: [process.env.npm_lifecycle_event === "soak" ? "tests/soak.ts" : "tests/*.test.ts"],
    globalSetup: "tests/setup.ts",
    // Browsers that listen in real time want the machine for themselves.
    fileParallelism: false,
    testTimeout: 60_000,
    hookTimeout: 300_000,
  },
});

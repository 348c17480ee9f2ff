/** Before all tests: what Python finds, and a site of a tiny model, in a temporary folder. */

import { execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** FIXTURES names a folder that is kept and used again; PYTHON the interpreter. */
export default function setup(): (() => void) | undefined {
  const kept = process.env.FIXTURES;
  const folder = kept ?? mkdtempSync(join(tmpdir(), "web-"));
  process.env.FIXTURES = folder;
  if (!existsSync(join(folder, "expected.json"))) {
    const python = process.env.PYTHON ?? "python";
    execFileSync(python, ["tests/fixtures.py", folder], { stdio: "inherit" });
  }
  return kept ? undefined : () => rmSync(folder, { recursive: true });
}

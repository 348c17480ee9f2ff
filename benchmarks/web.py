"""What a recogniser costs in the browser: inference beside the native runtime, and the first load.

    make web
    python benchmarks/web.py > benchmarks/web.md
    python benchmarks/web.py --keep FOLDER

Prints a page of Markdown. FOLDER keeps the converted files, so that a second run converts nothing.
"""

import argparse
import datetime
import gzip
import json
import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from device import NETWORKS, converted, demo_segments, markdown, tell
from playwright.sync_api import Browser, Page, Playwright, sync_playwright

from deepspectrumlite.benchmark import describe_machine
from deepspectrumlite.convert import add_image
from deepspectrumlite.description import read_description
from deepspectrumlite.metadata import write_metadata
from deepspectrumlite.runtime import Predictor, litert_run, open_litert
from deepspectrumlite.serve import SiteServer, open_server
from deepspectrumlite.web import BUILT, write_site

THREADS = (1, 2)
WARM_UP = 3
# Where others work on the machine, too, the fast calls are those that they did not disturb.
PERCENTILES = {50: "medians", 10: "10th percentiles"}
# As sandboxes want privileges that a container has not, and nothing is to call home.
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
READY = '#status:text-is("Ready.")'
SYSTEMS = ("native", "browser")
KEPT = "navigator.serviceWorker.ready.then(() => caches.keys()).then((names) => names.length)"
# The page's own worker, once for each number of threads, beside the page.
START = """
async ([threads, worker, bytes, segment, scores]) => {
  const at = (path) => new URL(path, document.baseURI).href;
  const script = `importScripts(${JSON.stringify(at(worker))})`;
  const made = new Worker(URL.createObjectURL(new Blob([script], { type: "text/javascript" })));
  const ask = (request) =>
    new Promise((resolve, reject) => {
      made.onerror = ({ message }) => reject(new Error(message));
      made.onmessage = ({ data }) =>
        data.kind === "error" ? reject(new Error(data.message)) : resolve(data);
      made.postMessage(request);
    });
  const samples = new Float32Array(segment);
  const answer = await ask({
    kind: "load", runtimes: at("wasm/"), model: at("model.tflite"), bytes, threads,
    segmentSamples: samples.length, scores,
  });
  if (answer.threads !== threads) throw new Error(`${answer.threads} threads`);
  (window.benchmark ??= {})[threads] = () =>
    ask({ kind: "score", segment: samples, shape: [], wantsImage: false });
}
"""
CALL = """
async (threads) => {
  const { milliseconds, scores } = await window.benchmark[threads]();
  return [milliseconds, Array.from(scores)];
}
"""
METHOD = """# Speed in the browser

Made by `python benchmarks/web.py` on {date}.

The networks are those of [device.md](device.md): our head of 512 units for 7 labels, 224 x 224
pixels from 3 s at 16 kHz, **random weights**, which change no speed; int8 is calibrated on
{calibration} segments of the bundled recordings. The files give the image as a second output.

The very same file runs in LiteRT's wheel for Python (XNNPACK, **native**) and in the page's own
worker (LiteRT.js, XNNPACK in WebAssembly) in headless Chromium, with one thread and with two. The
four take turns, {rounds} rounds of one call each after {warm_up} calls to warm up, on the same
segment; a call is from samples in to scores out, without the picture. What counts is the median; a
ratio is one of medians of the same run, and beside it of 10th percentiles, which other
work on the machine disturbs less. The largest difference of a score between the two is told.

Chromium {chromium}; LiteRT.js {litert_js}.
"""
FIRST_LOAD = """## First load

A fresh profile of Chromium, from `deepspectrumlite serve` on the same machine, so without a network
in between: until the page says "Ready." (page, runtime, model; compiled), and, in another fresh
profile, until the service worker has kept all that it takes to do without the server. Bytes are
those of the answers' bodies, not compressed; {starts} loads each, medians. 1 MB is 10^6 bytes.
"""


@dataclass(frozen=True)
class Load:
    """Of one first load: seconds and MB until the page is ready, and until it is kept."""

    ready_seconds: float
    ready_mb: float
    kept_seconds: float
    kept_mb: float


@dataclass(frozen=True)
class Result:
    """Of one file: milliseconds of all calls by system and threads, and the largest difference."""

    ms: dict[tuple[str, int], list[float]]
    difference: float
    mb: float
    loads: list[Load]


def main() -> None:
    arguments, load_before = parse(), os.getloadavg()[0]
    waveforms = demo_segments(arguments.calibration)
    results = {}
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        folder = arguments.keep or Path(temporary)
        for name in arguments.networks:
            paths = converted(name, folder / name, waveforms)
            for precision, path in paths.items():
                tell(f"{name} {precision}: measuring")
                shown = with_image(path, Path(temporary) / f"{name}-{precision}.tflite")
                site = write_site(shown, Path(temporary) / f"{name}-{precision}").folder
                results[name, precision] = measure(site, waveforms[0], playwright, arguments)
        about = vars(arguments) | {"date": datetime.date.today(), "warm_up": WARM_UP}
        with browser(playwright, arguments.chromium) as chromium:
            about |= {"chromium": chromium.version, "litert_js": litert_js()}
    print(METHOD.format(**about))
    print(machine(load_before))
    print(latency(results))
    print(ratios(results))
    print(FIRST_LOAD.format(**about))
    print(first_load(results))
    print(runtimes())


def machine(load_before: float) -> str:
    found = describe_machine()
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return (
        f"{found['cpu']}, {found['cores']} cores; {found['system']}; Python {found['python']}; "
        f"{versions}. Load average over a minute, before and at the end: {load_before:.1f}, "
        f"{os.getloadavg()[0]:.1f}. The benchmark itself makes 1 to 2; where it was more, other "
        "programs had a part of the cores, and all figures are rough.\n"
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", type=Path, help="folder for the converted files")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--starts", type=int, default=3, help="first loads of each file")
    parser.add_argument("--calibration", type=int, default=32, help="segments for int8")
    parser.add_argument("--chromium", type=Path, default=Path("/usr/bin/chromium"))
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    return parser.parse_args()


@contextmanager
def browser(playwright: Playwright, executable: Path) -> Iterator[Browser]:
    chromium = playwright.chromium.launch(executable_path=executable, args=list(FLAGS))
    yield chromium
    chromium.close()


def with_image(path: Path, out: Path) -> Path:
    """The file as `export --image` would have written it."""
    description = replace(read_description(path), image=True)
    out.write_bytes(path.read_bytes())
    add_image(out, description.image_shape)
    write_metadata(out, description)
    return out


@contextmanager
def served(site: Path) -> Iterator[tuple[str, Counter[str]]]:
    """Where it is, and how many bytes of which file have been given out."""
    with open_server(site, port=0) as server:
        sent = count_bytes(server)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.url, sent
        server.shutdown()
        thread.join()


def count_bytes(server: SiteServer) -> Counter[str]:
    sent, handler = Counter[str](), server.RequestHandlerClass

    class Counted(handler.func):
        def copyfile(self, source, outputfile):
            sent[self.path.partition("?")[0]] += os.fstat(source.fileno()).st_size
            super().copyfile(source, outputfile)

    server.RequestHandlerClass = partial(Counted, **handler.keywords)
    return sent


def measure(
    site: Path, segment: np.ndarray, playwright: Playwright, arguments: argparse.Namespace
) -> Result:
    executable, size = arguments.chromium, (site / "model.tflite").stat().st_size / 1e6
    with served(site) as (url, sent):
        loads = [load(playwright, executable, url, sent) for _ in range(arguments.starts)]
        with browser(playwright, executable) as chromium:
            page = chromium.new_page(service_workers="block")
            page.goto(url)
            page.wait_for_selector(READY)
            ms, difference = in_turn(page, site, segment, arguments.rounds)
    return Result(ms, difference, size, loads)


def in_turn(
    page: Page, site: Path, segment: np.ndarray, rounds: int
) -> tuple[dict[tuple[str, int], list[float]], float]:
    """Native and browser, with one thread and with two: A B C D A B C D ..."""
    path = site / "model.tflite"
    expected = Predictor(path).score(segment[None])[0]
    [worker] = (site / "assets").glob("inference*.js")
    native = {}
    for threads in THREADS:
        native[threads] = litert_run(open_litert(path, threads))
        worker_path, size = worker.relative_to(site).as_posix(), path.stat().st_size
        given = [threads, worker_path, size, segment.tolist(), len(expected)]
        page.evaluate(START, given)
    times: dict[tuple[str, int], list[float]] = {}
    difference = 0.0
    for turn in range(WARM_UP + rounds):
        for threads in THREADS:
            began = time.perf_counter()
            native[threads](segment[None])
            milliseconds = 1000 * (time.perf_counter() - began)
            in_page, scores = page.evaluate(CALL, threads)
            difference = max(difference, float(np.abs(np.array(scores) - expected).max()))
            if turn >= WARM_UP:
                times.setdefault(("native", threads), []).append(milliseconds)
                times.setdefault(("browser", threads), []).append(in_page)
    return times, difference


def load(playwright: Playwright, executable: Path, url: str, sent: Counter[str]) -> Load:
    """First visits of browsers that have never been there: without service worker, and with it."""
    seconds, mb = [], []
    for workers in ("block", "allow"):
        sent.clear()
        with (
            tempfile.TemporaryDirectory() as profile,
            playwright.chromium.launch_persistent_context(
                profile, executable_path=executable, args=list(FLAGS), service_workers=workers
            ) as context,
        ):
            [page] = context.pages
            began = time.perf_counter()
            page.goto(url)
            page.wait_for_selector(READY)
            if workers == "allow":
                page.evaluate(KEPT)
            seconds.append(time.perf_counter() - began)
        mb.append(sent.total() / 1e6)
    return Load(seconds[0], mb[0], seconds[1], mb[1])


def latency(results: dict[tuple[str, str], Result]) -> str:
    rows = []
    for (name, precision), result in results.items():
        keys = [(where, n) for where in SYSTEMS for n in THREADS]
        times = [f"{np.median(result.ms[key]):.1f}" for key in keys]
        rows.append([f"{NETWORKS[name]} {precision}", *times, f"{result.difference:.0e}"])
    heads = [f"{where}, {n}" for where in SYSTEMS for n in THREADS]
    heads = ["median ms, by threads", *heads, "scores differ by"]
    return "## Inference\n\n" + markdown(heads, rows)


def ratios(results: dict[tuple[str, str], Result]) -> str:
    rows = []
    for (name, precision), result in results.items():
        cells = []
        for percent in PERCENTILES:
            for n in THREADS:
                native, inside = (np.percentile(result.ms[key, n], percent) for key in SYSTEMS)
                cells.append(f"{inside / native:.2f}")
        rows.append([f"{NETWORKS[name]} {precision}", *cells])
    heads = [f"{what}, {n}" for what in PERCENTILES.values() for n in THREADS]
    return markdown(["browser / native, by threads", *heads], rows)


def first_load(results: dict[tuple[str, str], Result]) -> str:
    rows = []
    for (name, precision), result in results.items():
        found = np.median([astuple(each) for each in result.loads], axis=0)
        cells = [f"{value:.2f}" for value in found]
        rows.append([f"{NETWORKS[name]} {precision}", f"{result.mb:.2f}", *cells])
    heads = ["", "model, MB", "ready, s", "ready, MB", "kept, s", "kept, MB"]
    return markdown(heads, rows)


def runtimes() -> str:
    """The variants of the runtime, of which a browser loads one, as they are and compressed."""
    rows = []
    for path in sorted((BUILT / "wasm").glob("*.wasm")):
        data = path.read_bytes()
        rows.append([path.name, f"{len(data) / 1e6:.2f}", f"{len(gzip.compress(data)) / 1e6:.2f}"])
    return markdown(["runtime, one of", "MB", "gzip, MB"], rows)


def litert_js() -> str:
    package = Path(__file__).parent.parent / "web" / "node_modules" / "@litertjs" / "core"
    return str(json.loads((package / "package.json").read_text(encoding="utf-8"))["version"])


if __name__ == "__main__":
    main()

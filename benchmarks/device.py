"""What three networks cost on a device: the front-end, the bare network, and both together.

    python benchmarks/device.py > benchmarks/device.md
    python benchmarks/device.py --keep FOLDER

Prints a page of Markdown. FOLDER keeps the converted files, so that a second run converts nothing;
give another one, or none, after a change of the converter.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from torch import nn

from deepspectrumlite.audio import cut_segments, load_audio
from deepspectrumlite.benchmark import (
    FirstPrediction,
    describe_machine,
    first_prediction,
    time_in_turn,
)
from deepspectrumlite.config import load_recipe
from deepspectrumlite.convert import convert
from deepspectrumlite.description import read_description
from deepspectrumlite.errors import ModelError
from deepspectrumlite.graph import write_graph
from deepspectrumlite.metadata import describe, digest_weights, write_metadata
from deepspectrumlite.model import Classifier
from deepspectrumlite.subjects import STAGES, TfliteFile

NETWORKS = {
    "mobilenet_v2": "MobileNetV2",
    "efficientnet_lite0": "EfficientNet-Lite0",
    "densenet121": "DenseNet121",
}
PRECISIONS = ("float32", "int8")
LABELS = [f"class {i}" for i in range(7)]
SETTING = (
    "data.segment_seconds=3",
    "data.hop_seconds=3",
    "frontend.window_seconds=0.128",
    "frontend.hop_seconds=0.064",
    "frontend.image_height=224",
    "frontend.image_width=224",
)
# End to end over the bare network.
RATIO_AIMS = {
    ("mobilenet_v2", "float32"): 1.2,
    ("mobilenet_v2", "int8"): 1.3,
    ("efficientnet_lite0", "float32"): 1.15,
    ("efficientnet_lite0", "int8"): 1.2,
    ("densenet121", "float32"): 1.03,
    ("densenet121", "int8"): 1.08,
}
BLOCKS, CALLS, PAUSE_SECONDS = 12, 200, 0.2
FRONTEND_AIM_MS, FRONTEND_AIM_MB = 0.8, 0.7
INT8_OVER_FLOAT_AIMS = {"densenet121": 0.35}
FILE_AIMS_MB = {("densenet121", "int8"): 8.0}
MEMORY_AIMS_MB = {
    ("densenet121", "int8"): 100.0,
    ("efficientnet_lite0", "float32"): 150.0,
    ("efficientnet_lite0", "int8"): 150.0,
}
START_AIMS_SECONDS = {
    ("efficientnet_lite0", "float32"): 0.8,
    ("efficientnet_lite0", "int8"): 0.8,
}
CONTENTS = {
    "backbone": "weights and biases of the backbone",
    "head": "weights and biases of the head",
    "front-end": "constants of the front-end",
    "scales": "scales",
    "zero points": "zero points",
    "rest": "the rest: operations, shapes, names, description",
    "all": "all",
}
METHOD = """# Speed, memory and size on the CPU

Made by `python benchmarks/device.py`.

The networks are those of `timm` with our head of {units} units for 7 labels, on images of
224 x 224 pixels from 3 s at 16 kHz (window 128 ms, hop 64 ms, 128 mels, viridis). Weights are
random, which changes no speed; BatchNorm has drawn scales and offsets, and the statistics of the
bundled drum recordings, since fresh ones would fold away and trained ones do not. int8 is
calibrated on {calibration} segments of the same recordings.

The **front-end** and the **bare network** are the two parts of the very file that is measured end
to end, cut at the image; so the bare network is converted as the whole is. All have **one thread**
of LiteRT, and take turns, {rounds} rounds: front-end, network float32, network int8, end to end
float32, end to end int8. What counts is the median; a ratio is one of medians of the same run.

In turn with the networks, the front-end finds the CPU's caches full of their weights. What it takes
by itself is measured once, as it is the same graph for all three: {blocks} blocks of {calls} calls
in a row, with {pause:g} s between blocks. What counts is the median of the blocks' medians; the
lowest and the highest block are in brackets.

Process memory is the highest resident size of a fresh process that imports our runtime, loads the
file and predicts once; its seconds are those of all three steps, without the start of Python. Both
are the median of {starts} such processes. 1 MB is 10^6 bytes.
"""


@dataclass(frozen=True)
class FrontEnd:
    """By itself: median milliseconds of each block of calls, and its size."""

    ms: list[float]
    mb: float


@dataclass(frozen=True)
class Result:
    """Of one network: milliseconds by work, MB and first predictions by file, MB inside int8."""

    ms: dict[str, float]
    mb: dict[str, float]
    first: dict[str, FirstPrediction]
    int8: dict[str, float]


def main() -> None:
    arguments = parse()
    waveforms = demo_segments(arguments.calibration)
    frontend, results = None, {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        for name in arguments.networks:
            paths = converted(name, folder / name, waveforms)
            tell(f"{name}: measuring")
            frontend = frontend or measure_frontend(paths["float32"])
            results[name] = measure(paths, arguments.rounds, arguments.starts)
    units = load_recipe("default", SETTING).model.units
    alone = {"blocks": BLOCKS, "calls": CALLS, "pause": PAUSE_SECONDS}
    print(METHOD.format(units=units, **alone, **vars(arguments)))
    print(machine())
    print(by_itself(frontend))
    for table in (latency, ratios, files_and_memory, int8_contents):
        print(table(results))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", type=Path, help="folder for the converted files")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--starts", type=int, default=5, help="fresh processes for each file")
    parser.add_argument("--calibration", type=int, default=32, help="segments for int8")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    return parser.parse_args()


def tell(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def demo_segments(count: int) -> np.ndarray:
    """(count, num_samples): the bundled recordings, each filled up to a segment."""
    cutting = load_recipe("default", SETTING).data
    paths = sorted(Path(str(files("deepspectrumlite") / "demo_drums" / "audio")).glob("*.flac"))
    chosen = paths[:: max(1, len(paths) // count)][:count]
    segments = [cut_segments(load_audio(path, cutting.sample_rate), cutting) for path in chosen]
    return np.concatenate(segments)[:count].astype(np.float32)


def make_model(name: str, waveforms: np.ndarray) -> Classifier:
    """A network of which nothing folds away, as of a trained one."""
    torch.manual_seed(0)
    recipe = load_recipe("default", [*SETTING, f"model.backbone={name}"])
    model = Classifier(recipe, LABELS, weights="random")
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.1)
        norm.momentum = None  # The statistics become those of the one batch below.
    model.train()
    with torch.no_grad():
        model(torch.from_numpy(waveforms[:8]))
    return model.eval()


def converted(name: str, folder: Path, waveforms: np.ndarray) -> dict[str, Path]:
    """The file of each precision; those in the folder where they are of the same weights."""
    folder.mkdir(parents=True, exist_ok=True)
    model = make_model(name, waveforms)
    paths = {precision: folder / f"{precision}.tflite" for precision in PRECISIONS}
    if all(is_of(path, digest_weights(model)) for path in paths.values()):
        return paths
    tell(f"{name}: converting")
    kinds = [path.name for path in paths.values()]
    convert(
        model,
        kinds,
        folder,
        calibration=waveforms,
        progress=lambda what, done, total: tell(f"{what}: {done} of {total}"),
    )
    for precision, path in paths.items():
        write_metadata(path, describe(model, precision=precision))
    return paths


def is_of(path: Path, digest: str) -> bool:
    try:
        return read_description(path).digest == digest
    except ModelError:
        return False


def measure_frontend(path: Path) -> FrontEnd:
    file, medians = TfliteFile(path), []
    works = {"front-end": file.stages(threads=1)["front-end"]}
    for _ in range(BLOCKS):
        time.sleep(PAUSE_SECONDS)
        medians.append(1000 * float(np.median(time_in_turn(works, CALLS)["front-end"])))
    return FrontEnd(medians, len(write_graph(file.graph("frontend"))) / 1e6)


def measure(paths: dict[str, Path], rounds: int, starts: int) -> Result:
    works = {}
    for precision, path in paths.items():
        file = TfliteFile(path)
        for stage, work in file.stages(threads=1).items():
            works[f"{stage} {precision}"] = work
    # It is float32 in both files: once is enough.
    del works["front-end int8"]
    order = [f"{stage} {precision}" for stage in STAGES for precision in paths]
    turns = {name: works[name] for name in order if name in works}
    times = time_in_turn(turns, rounds)
    ms = {name: 1000 * float(np.median(found)) for name, found in times.items()}
    return Result(
        ms,
        {precision: path.stat().st_size / 1e6 for precision, path in paths.items()},
        {precision: first_prediction(path, starts) for precision, path in paths.items()},
        contents(paths["int8"]),
    )


def contents(path: Path) -> dict[str, float]:
    """MB of what a file holds; of equal arrays, which are written once, the first one counts."""
    file = TfliteFile(path)
    graph = file.graph()
    tensors, found, written = graph.subgraphs[0].tensors, Counter(), set()

    def count(what: str, array: np.ndarray | None) -> None:
        key = None if array is None else (array.dtype, array.tobytes())
        if key is not None and key not in written:
            written.add(key)
            found[what] += array.nbytes

    for operator, layer in zip(graph.subgraphs[0].operators, file.layers(), strict=True):
        for index in (index for index in operator.inputs if index >= 0):
            count(layer.part, graph.buffers[tensors[index].buffer].data)
    for scaled in (tensor.quantization for tensor in tensors if tensor.quantization is not None):
        count("scales", scaled.scale)
        count("zero points", scaled.zeroPoint)
    found["rest"] = path.stat().st_size - found.total()
    return {what: size / 1e6 for what, size in found.items()}


def machine() -> str:
    found = describe_machine()
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    load = ", ".join(f"{value:.2f}" for value in found["load_average"] or [])
    return (
        f"{found['cpu']}, {found['cores']} cores; {found['system']}; Python {found['python']}; "
        f"{versions}. Load average at the end (1, 5, 15 minutes): {load}; the benchmark itself is "
        "about 1.\n"
    )


def by_itself(frontend: FrontEnd) -> str:
    ms, *judgement = judged(float(np.median(frontend.ms)), FRONTEND_AIM_MS)
    blocks = f"({min(frontend.ms):.2f} to {max(frontend.ms):.2f})"
    rows = [
        ["front-end in a row, ms", f"{ms} {blocks}", *judgement],
        ["front-end, MB", *judged(frontend.mb, FRONTEND_AIM_MB)],
    ]
    return "## Front-end by itself\n\n" + markdown(["", "measured", "aim at most", ""], rows)


def latency(results: dict[str, Result]) -> str:
    works = [f"{stage} {precision}" for stage in STAGES[1:] for precision in PRECISIONS]
    rows = [
        [NETWORKS[name], *(f"{result.ms[work]:.2f}" for work in ("front-end float32", *works))]
        for name, result in results.items()
    ]
    heads = ["ms", "front-end, in turn", *works]
    return "## Latency\n\n" + markdown(heads, rows)


def ratios(results: dict[str, Result]) -> str:
    rows = []
    for name, result in results.items():
        for precision in PRECISIONS:
            ratio = result.ms[f"end to end {precision}"] / result.ms[f"network {precision}"]
            aim = RATIO_AIMS[name, precision]
            rows.append(
                [f"{NETWORKS[name]} {precision}, end to end / network", *judged(ratio, aim, ".3f")]
            )
        ratio = result.ms["end to end int8"] / result.ms["end to end float32"]
        aim = INT8_OVER_FLOAT_AIMS.get(name)
        rows.append([f"{NETWORKS[name]} end to end, int8 / float32", *judged(ratio, aim, ".3f")])
    return "## Ratios\n\n" + markdown(["ratio", "measured", "aim at most", ""], rows)


def files_and_memory(results: dict[str, Result]) -> str:
    rows = []
    for name, result in results.items():
        for precision, first in result.first.items():
            key = name, precision
            memory = float("nan") if first.memory_bytes is None else first.memory_bytes / 1e6
            size = judged(result.mb[precision], FILE_AIMS_MB.get(key))
            peak = judged(memory, MEMORY_AIMS_MB.get(key), ".0f")
            start = judged(first.seconds, START_AIMS_SECONDS.get(key))
            rows.append([f"{NETWORKS[name]} {precision}", *size[:2], *peak[:2], *start[:2]])
    heads = ["", "file, MB", "aim", "process, MB", "aim", "import, load, predict, s", "aim"]
    return "## Files and fresh processes\n\n" + markdown(heads, rows)


def int8_contents(results: dict[str, Result]) -> str:
    files = [result.int8 | {"all": result.mb["int8"]} for result in results.values()]
    rows = [[told, *(f"{file[key]:.2f}" for file in files)] for key, told in CONTENTS.items()]
    heads = ["MB of the int8 file", *(NETWORKS[name] for name in results)]
    return "What the int8 files consist of:\n\n" + markdown(heads, rows)


def judged(value: float, aim: float | None, spec: str = ".2f") -> list[str]:
    """The value, the aim, and whether it is met."""
    if aim is None:
        return [f"{value:{spec}}", "-", ""]
    return [f"{value:{spec}}", f"{aim:g}", "met" if value <= aim else "missed"]


def markdown(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


if __name__ == "__main__":
    main()

"""How fast and how large models are: latency of their parts, memory, parameters and MACs.

An exported .tflite file needs no torch for this, and a .onnx file only onnxruntime; its parts and
its multiplications are told where the package onnx is there, too.
"""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from deepspectrumlite import __version__
from deepspectrumlite.errors import MissingExtraError, ModelError
from deepspectrumlite.layers import Layer
from deepspectrumlite.progress import Progress, silent
from deepspectrumlite.subjects import STAGES, Subject, Work, open_subject

K = TypeVar("K", bound=Hashable)

# The first calls plan, allocate and pack weights.
WARM_UP = 3
STARTS = 3
_FIRST_PREDICTION = """
import time
began = time.perf_counter()
import sys
from pathlib import Path
import numpy
from deepspectrumlite.predict import open_recogniser
recogniser = open_recogniser(Path(sys.argv[1]), device="cpu")
recogniser.score(numpy.zeros((1, recogniser.cutting.segment_samples), numpy.float32))
seconds = time.perf_counter() - began
from deepspectrumlite.benchmark import peak_memory
print(seconds, peak_memory())
"""


@dataclass(frozen=True)
class Latency:
    """Of one segment, in seconds: the median, and what 95 % of the calls do not exceed."""

    median: float
    p95: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Latency":
        """From the times of single calls."""
        return cls(float(np.median(seconds)), float(np.percentile(seconds, 95)))


@dataclass(frozen=True)
class FirstPrediction:
    """Of fresh processes: medians of seconds (import, load, predict) and of peak memory."""

    seconds: float
    memory_bytes: float | None


@dataclass(frozen=True)
class Measured:
    """What was measured of one model; ``latency`` is by threads, then by stage. None: unknown."""

    path: str
    kind: str
    precision: str
    file_bytes: int
    segment_seconds: float
    parameters: int | None
    macs: dict[str, int] | None
    first: FirstPrediction
    latency: dict[int, dict[str, Latency]]

    def real_time_factor(self, threads: int) -> float:
        """Median latency over the length of a segment."""
        return self.latency[threads]["end to end"].median / self.segment_seconds

    def to_json(self) -> dict[str, Any]:
        """Plain values, with the real-time factor by threads."""
        factors = {threads: self.real_time_factor(threads) for threads in self.latency}
        return asdict(self) | {"real_time_factor": factors}


def benchmark(
    paths: Sequence[Path],
    *,
    threads: Sequence[int] = (1,),
    repeats: int = 50,
    seconds: float | None = None,
    progress: Progress = silent,
) -> list[Measured]:
    """Measure models side by side: they take turns, so that a slow moment hits all alike.

    Args:
        paths: exported files, model folders, run folders
        threads: numbers of CPU threads, one after the other
        repeats: calls of each stage of each model
        seconds: instead of ``repeats``, how long all these calls may take together
        progress: told of every step

    Raises:
        ModelError: no model there, or a broken, foreign or newer one
        MissingExtraError: a .onnx file, and onnxruntime is not installed
    """
    subjects = [open_subject(path) for path in paths]
    latency: list[dict[int, dict[str, Latency]]] = [{} for _ in subjects]
    budget = seconds and seconds / len(threads)
    for count in threads:
        told = partial(progress, f"timing, {count} thread{'s'[: count > 1]}")
        staged = [subject.stages(count) for subject in subjects]
        works = {
            (i, name): work for i, stages in enumerate(staged) for name, work in stages.items()
        }
        times = time_in_turn(works, repeats, budget, told)
        for i, stages in enumerate(staged):
            latency[i][count] = {name: Latency.of(times[i, name]) for name in stages}
    firsts = []
    for i, path in enumerate(paths):
        progress("starting fresh processes", i, len(paths))
        firsts.append(first_prediction(path))
    return [_measured(*each) for each in zip(paths, subjects, firsts, latency, strict=True)]


def _measured(
    path: Path, subject: Subject, first: FirstPrediction, latency: dict[int, dict[str, Latency]]
) -> Measured:
    parameters, macs = None, None
    try:
        layers = subject.layers()
        parameters, macs = sum(layer.parameters for layer in layers), _macs_by_stage(layers)
    except MissingExtraError:
        pass  # A .onnx file can be timed without the package that reads its graph.
    size = file_bytes(path)
    seconds = subject.cutting.segment_samples / subject.cutting.sample_rate
    kind, precision = subject.kind, subject.precision
    return Measured(str(path), kind, precision, size, seconds, parameters, macs, first, latency)


def _macs_by_stage(layers: Sequence[Layer]) -> dict[str, int]:
    total = sum(layer.macs for layer in layers)
    if any(layer.part == "not known" for layer in layers):
        return {"end to end": total}
    frontend = sum(layer.macs for layer in layers if layer.part == "front-end")
    return dict(zip(STAGES, (frontend, total - frontend, total), strict=True))


def file_bytes(path: Path) -> int:
    """Size of a file, or of the weights in a model folder."""
    if path.is_file():
        return path.stat().st_size
    from deepspectrumlite.predict import model_folder

    return (model_folder(path) / "model.safetensors").stat().st_size


def time_in_turn(
    works: Mapping[K, Work],
    repeats: int,
    seconds: float | None = None,
    told: Callable[[int, int], None] = lambda done, total: None,
) -> dict[K, list[float]]:
    """Seconds of each call, A B C A B C ..., after a warm-up.

    Args:
        works: what is called
        repeats: rounds; not used where there is a time limit
        seconds: how long to go on instead, for at least three rounds
        told: progress in rounds, or in whole seconds where there is a time limit
    """
    for work in works.values():
        for _ in range(WARM_UP):
            work()
    times: dict[K, list[float]] = {key: [] for key in works}
    began, done, spent = time.perf_counter(), 0, 0.0
    while done < repeats if seconds is None else done < 3 or spent < seconds:
        for key, work in works.items():
            start = time.perf_counter()
            work()
            times[key].append(time.perf_counter() - start)
        done, spent = done + 1, time.perf_counter() - began
        told(*((done, repeats) if seconds is None else (int(spent), round(seconds))))
    return times


def first_prediction(path: Path, starts: int = STARTS) -> FirstPrediction:
    """Import, load and predict one segment in fresh processes, as a user's program would.

    Raises:
        ModelError: such a process fails
    """
    command = [sys.executable, "-c", _FIRST_PREDICTION, str(path)]
    rows = []
    for _ in range(starts):
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        if found.returncode:
            last = (found.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise ModelError(
                f"{path}: a fresh process that predicts with it ended with {found.returncode} "
                f"({last}); is there enough memory?"
            )
        rows.append(found.stdout.split()[-2:])
    seconds = float(np.median([float(seconds) for seconds, _ in rows]))
    peaks = [float(peak) for _, peak in rows if peak != "None"]
    return FirstPrediction(seconds, float(np.median(peaks)) if peaks else None)


def peak_memory() -> int | None:
    """The most memory that this process ever held, in bytes; None where the system does not say."""
    status = Path("/proc/self/status")
    if status.is_file():
        # Not ru_maxrss, as that begins with what the process that started this one held.
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        return 1024 * int(lines["VmHWM"].split()[0])
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def describe_machine() -> dict[str, Any]:
    """CPU, cores, system, load, and the versions of what runs models."""
    packages = ("ai-edge-litert", "onnxruntime", "torch", "numpy")
    versions = {name: found for name in packages if (found := _version(name))}
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        # Not what was noted when the package was installed: it may have gone on since, in place.
        "versions": {"deepspectrumlite": __version__} | versions,
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    entries = [(key.strip(), value.strip()) for key, _, value in (x.partition(":") for x in lines)]
    # ARM boards have no "model name", but tell what they are.
    wanted = ("model name", "Model", "Hardware")
    found = [value for name in wanted for key, value in entries if key == name and value]
    return found[0] if found else platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def write_report(path: Path, machine: Mapping[str, Any], measured: Sequence[Measured]) -> None:
    """Write what was measured, and on which machine, as JSON.

    Raises:
        OSError: the file cannot be written
    """
    report = {"machine": machine, "models": [each.to_json() for each in measured]}
    text = json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")

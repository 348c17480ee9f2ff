"""Exported files in the report: their proofs against the model, and how fast they are here."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepspectrumlite import benchmark
from deepspectrumlite.errors import ModelError
from deepspectrumlite.progress import Progress, silent
from deepspectrumlite.report_facts import TITLES, Facts, Table, read_object, with_interval


@dataclass(frozen=True)
class Exports:
    """Exported files: what they are worth, how fast they are here if that was asked for, notes."""

    parity: Table
    latency: Table | None
    notes: list[str]


def read_exports(
    facts: Facts,
    named: Sequence[Path] = (),
    *,
    latency: bool = False,
    progress: Progress = silent,
) -> Exports | None:
    """What is known of the files that were named and of those in the run folder.

    Args:
        facts: of the run
        named: exported files that are elsewhere
        latency: time all of them on this machine
        progress: told of every file that is timed

    Returns:
        None where there are no such files

    Raises:
        ModelError: no such file, the report beside it is broken, or it cannot be timed
        MissingExtraError: a .onnx file is to be timed, and onnxruntime is not installed
    """
    inside = [path for kind in ("*.tflite", "*.onnx") for path in sorted(facts.run.glob(kind))]
    paths = list(dict.fromkeys(path.resolve() for path in (*named, *inside)))
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise ModelError(f"{missing[0]}: no such exported file; give those that `export` wrote")
    if not paths:
        return None
    notes, rows, metric = [], [], TITLES[facts.metric]
    for path in paths:
        proof, note = _proof(path)
        notes.append(note)
        agreement, difference = proof.get("agreement"), proof.get("max_difference")
        rows.append(
            [
                path.name,
                proof.get("kind", path.suffix[1:]),
                f"{path.stat().st_size / 1e6:.2f} MB",
                with_interval(proof.get("value", {})),
                with_interval(proof.get("drop", {})),
                "–" if agreement is None else f"{100 * agreement:.1f} %",
                "–" if difference is None else f"{difference:.1e}",
            ]
        )
    columns = [
        "file",
        "kind",
        "size",
        metric,
        f"{metric} lost",
        "same answer",
        "largest difference",
    ]
    caption = "Exported files against the model, on recordings; 95 % intervals over files"
    timed = _latency(paths, progress) if latency else None
    return Exports(Table(caption, columns, rows), timed, notes)


def _latency(paths: list[Path], progress: Progress) -> Table:
    """How fast the files are on this machine."""
    rows = []
    for each in benchmark.benchmark(paths, progress=progress):
        found, memory = each.latency[1]["end to end"], each.first.memory_bytes
        rows.append(
            [
                Path(each.path).name,
                f"{1e3 * found.median:.1f} ms",
                f"{1e3 * found.p95:.1f} ms",
                f"{each.real_time_factor(1):.4f}",
                f"{each.first.seconds:.2f} s",
                "–" if memory is None else f"{memory / 1e6:.0f} MB",
            ]
        )
    machine = benchmark.describe_machine()
    caption = (
        "Time for one segment on one thread, and for the first prediction of a fresh process with "
        f"the memory that it takes: {machine['cpu']}, {machine['system']}"
    )
    columns = [
        "file",
        "median",
        "95th percentile",
        "real-time factor",
        "first prediction",
        "memory",
    ]
    return Table(caption, columns, rows)


def _proof(path: Path) -> tuple[dict[str, Any], str]:
    """What the report beside an exported file says of it, and a note about that."""
    # One report stands for a .tflite file and for the .onnx file that was written with it.
    for report in (f"{path.name}.json", f"{path.stem}.tflite.json"):
        if not path.with_name(report).is_file():
            continue
        found = read_object(path.with_name(report))
        for each in found.get("files", []):
            if each.get("file") == path.name:
                if each.get("bytes") != path.stat().st_size:
                    return {}, f"{path.name} is not the file that {report} tells of."
                what = f"{found.get('clips')} recordings of {found.get('split')}"
                return each, f"{path.name} was compared with the model on {what}."
    return {}, f"{path.name} has no report of `deepspectrumlite export` beside it."

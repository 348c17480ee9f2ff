"""The commands that measure: how fast models are, and what they are made of."""

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from deepspectrumlite.terminal import library, out, progress

if TYPE_CHECKING:
    from deepspectrumlite.benchmark import Measured
    from deepspectrumlite.layers import Layer, Total

MAX_THREADS = 256
_NOT_KNOWN = "-"


def benchmark(
    models: Annotated[
        list[Path],
        typer.Argument(
            metavar="MODEL...",
            help="Exported .tflite or .onnx files, run folders or model folders.",
            show_default=False,
        ),
    ],
    threads: Annotated[
        list[str] | None,
        typer.Option(
            metavar="N",
            help="CPU threads; repeat it, or give several as 1,4.  \\[default: 1 and all cores]",
            show_default=False,
        ),
    ] = None,
    repeats: Annotated[
        int | None,
        typer.Option(min=3, help="Calls that are timed of each.  \\[default: 50]"),
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(min=0.1, help="Instead: how long all calls may take together.")
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write all figures, and the machine, too."),
    ] = None,
) -> None:
    """Measure speed, memory and size of models, side by side, on this machine.

    Example: [bold]deepspectrumlite benchmark model.tflite model-int8.tflite --threads 1,4[/bold]
    """
    if repeats is not None and seconds is not None:
        raise typer.BadParameter("--repeats and --seconds exclude each other; give one of them")
    counts = _thread_counts(threads)
    with library():
        from deepspectrumlite import benchmark as measure

        machine = measure.describe_machine()
        with progress() as tell:
            measured = measure.benchmark(
                models, threads=counts, repeats=repeats or 50, seconds=seconds, progress=tell
            )
        versions = ", ".join(f"{name} {found}" for name, found in machine["versions"].items())
        about = f"{machine['cpu']}, {machine['cores']} cores; {machine['system']}; {versions}"
        out.print(about, soft_wrap=True, highlight=False, markup=False)
        out.print(benchmark_table(measured))
        typer.echo(
            "Latency of one segment: median (95th percentile). First prediction: import, load and "
            "predict in a fresh process, and the most memory that this takes."
        )
        if report is not None:
            measure.write_report(report, machine, measured)
            typer.echo(f"Report: {report}")


def _thread_counts(given: Sequence[str] | None) -> list[int]:
    if not given:
        return sorted({1, os.cpu_count() or 1})
    counts = []
    for text in (part for each in given for part in each.split(",")):
        if not text.strip().isdecimal() or not 1 <= int(text) <= MAX_THREADS:
            raise typer.BadParameter(
                f"--threads is {text!r}; allowed: 1 to {MAX_THREADS}, or several as 1,4"
            )
        counts.append(int(text))
    return list(dict.fromkeys(counts))


def benchmark_table(measured: "Sequence[Measured]") -> Table:
    """A column for each model; the median latency, and in brackets the 95th percentile."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    for each in measured:
        table.add_column(escape(_short_name(each.path)), justify="right", overflow="fold")
    for title, cell in _rows(measured):
        table.add_row(title, *[cell(each) for each in measured])
    return table


def _short_name(path: str) -> str:
    # The file of every run has the same name; the folder tells which it is.
    return str(Path(*Path(path).parts[-2:]))


def _rows(measured: "Sequence[Measured]") -> "Iterable[tuple[str, Callable[[Measured], str]]]":
    from deepspectrumlite.subjects import STAGES

    yield "kind", lambda each: f"{each.kind} {each.precision}"
    yield "segment, s", lambda each: f"{each.segment_seconds:g}"
    yield "size, MB", lambda each: _millions(each.file_bytes, 2)
    yield "parameters, millions", lambda each: _millions(each.parameters, 2)
    for stage in ("front-end", "network"):
        yield f"MACs of {stage}, millions", _macs(stage)
    yield "first prediction, s", lambda each: f"{each.first.seconds:.2f}"
    yield "memory for it, MB", lambda each: _millions(each.first.memory_bytes, 0)
    for threads in measured[0].latency:
        yield f"[bold]{threads} thread{'s' if threads > 1 else ''}[/bold]", lambda each: ""
        for stage in STAGES:
            yield f"{stage}, ms", _latency(threads, stage)
        yield "real-time factor", _factor(threads)


def _macs(stage: str) -> "Callable[[Measured], str]":
    return lambda each: _millions((each.macs or {}).get(stage), 1)


def _latency(threads: int, stage: str) -> "Callable[[Measured], str]":
    def cell(each: "Measured") -> str:
        found = each.latency[threads].get(stage)
        return f"{1e3 * found.median:.2f} ({1e3 * found.p95:.2f})" if found else _NOT_KNOWN

    return cell


def _factor(threads: int) -> "Callable[[Measured], str]":
    return lambda each: f"{each.real_time_factor(threads):.4f}"


def _millions(value: float | None, digits: int) -> str:
    return _NOT_KNOWN if value is None else f"{value / 1e6:.{digits}f}"


def stats(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL",
            help="A run folder, a model folder, or an exported .tflite or .onnx file.",
            show_default=False,
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show a model's layers with their parameters and multiplications, and sums for its parts.

    Example: [bold]deepspectrumlite stats runs/first[/bold]
    """
    with library():
        from deepspectrumlite.layers import totals
        from deepspectrumlite.subjects import open_subject

        layers = open_subject(model).layers()
        sums = totals(layers)
    if as_json:
        parts = {part: asdict(each) for part, each in sums.items()}
        listed = [asdict(layer) for layer in layers]
        found = {"path": str(model), "layers": listed, "totals": parts}
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    out.print(layer_table(layers))
    out.print(total_table(sums))
    learned, parameters = sums["all"].learned, sums["all"].parameters
    if learned is not None:
        typer.echo(
            f"Trainable parameters, by the recipe's fine_tune_share: {learned:,} of {parameters:,}"
        )


def layer_table(layers: "Sequence[Layer]") -> Table:
    """A row for each module of a model folder, or for each operation of an exported file."""
    is_folder = any(layer.learns is not None for layer in layers)
    table = Table(title="layers, in the order in which they run", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("name" if is_folder else "part", overflow="fold")
    table.add_column("kind", overflow="fold")
    numbers = ("parameters", "MACs") if is_folder else ("stored", "bytes", "MACs")
    for name in ("output", *numbers):
        table.add_column(name, justify="right")
    if is_folder:
        table.add_column("learns")
    for layer in layers:
        shape = " x ".join(map(str, layer.shape))
        first = escape(layer.name if is_folder else layer.part)
        stored = (layer.constants, layer.constant_bytes)
        counts = [*((layer.parameters,) if is_folder else stored), layer.macs]
        learns = ["yes" if layer.learns else ""] if is_folder else []
        table.add_row(first, escape(layer.kind), shape, *map(_count, counts), *learns)
    return table


def total_table(sums: "dict[str, Total]") -> Table:
    """A row for each sum, and a column for each part."""
    table = Table(title="in all", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for part in sums:
        table.add_column(part, justify="right")
    titles = {"constants": "stored numbers", "constant_bytes": "their bytes", "macs": "MACs"}
    for field in fields(next(iter(sums.values()))):
        counts = [getattr(each, field.name) for each in sums.values()]
        if counts[-1] is not None:
            table.add_row(titles.get(field.name, field.name), *map(_count, counts))
    return table


def _count(value: int) -> str:
    return f"{value:,}"

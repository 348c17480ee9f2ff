"""The command that makes one file for the device, and shows what it is worth."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from deepspectrumlite.config import ExportOptions
from deepspectrumlite.terminal import library, progress
from deepspectrumlite.terminal import out as terminal

if TYPE_CHECKING:
    from deepspectrumlite.export import Exported
    from deepspectrumlite.metrics import Estimate


_DEFAULTS = ExportOptions()


def export(
    model: Annotated[Path, typer.Argument(help="A run or model folder.", show_default=False)],
    out: Annotated[
        Path, typer.Option(help="The .tflite or .onnx file to write.", show_default=False)
    ],
    int8: Annotated[
        bool, typer.Option("--int8", help="The network in int8: a third of the size, faster.")
    ] = False,
    float16: Annotated[
        bool, typer.Option("--float16", help="The network's weights in float16: half the size.")
    ] = False,
    onnx: Annotated[bool, typer.Option("--onnx", help="Also write FILE.onnx, in float32.")] = False,
    manifest: Annotated[
        Path | None,
        typer.Option(
            "--data",
            help="Clips to prove and calibrate with.  \\[default: those of the run]",
            show_default=False,
        ),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            help="Length of what the file takes, for a model of whole recordings.",
            show_default=False,
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="Of the clips to prove with.")] = _DEFAULTS.split,
    max_drop: Annotated[
        float,
        typer.Option(min=0, max=1, help="Of UAR, MAP or CCC, that --int8 or --float16 may cost."),
    ] = _DEFAULTS.max_drop,
    calibration: Annotated[
        int, typer.Option(min=1, help="Segments of the training split, to calibrate int8 with.")
    ] = _DEFAULTS.calibration_segments,
    image: Annotated[
        bool,
        typer.Option("--image", help="Give what the network sees as a second output, too."),
    ] = False,
    stream: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Settings for streaming to put in, as JSON.  "
            "\\[default: stream.json of the run, if any]",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write one file that takes samples and gives scores, after it has proved itself.

    What is written runs in its own runtime on real clips and is compared with the model: float32
    has to agree within 1e-4, and int8 and float16 may lose at most --max-drop. Otherwise nothing
    is written but a report, FILE.failed.json.

    Example: [bold]deepspectrumlite export runs/first --out drums.tflite --int8[/bold]
    """
    if int8 and float16:
        raise typer.BadParameter("--int8 and --float16 exclude each other; give one of them")
    with library("export"):
        from deepspectrumlite.export import export_model

        precision = "int8" if int8 else "float16" if float16 else "float32"
        options = ExportOptions(
            precision, onnx, manifest, split, max_drop, stream, calibration, seconds, image
        )
        with progress() as tell:
            exported = export_model(model, out, options, progress=tell)
    terminal.print(_table(exported, split))
    for each in exported:
        if each.path is not None:
            typer.echo(f"{each.path}: {each.size / 1e6:.2f} MB; report: {out}.json")


def _table(exported: "Sequence[Exported]", split: str) -> Table:
    metric = next(each.difference.metric for each in exported if each.difference)
    table = Table(title=f"Against the model, {split}, 95 % intervals over clips")
    table.add_column("file", no_wrap=True)
    for name in ("size", metric, f"{metric} lost", "same answer", "largest difference"):
        table.add_column(name, justify="right")
    for each in exported:
        found = each.difference
        assert found is not None, "handed over without a comparison"
        agreement = "-" if found.agreement is None else f"{100 * found.agreement:.1f} %"
        table.add_row(
            escape(each.kind),
            f"{each.size / 1e6:.1f} MB",
            _interval(found.value),
            _interval(found.drop),
            agreement,
            f"{found.max_difference:.1e}",
        )
    return table


def _interval(estimate: "Estimate") -> str:
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"

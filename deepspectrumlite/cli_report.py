"""The command that writes one page about a run, and its model card."""

from pathlib import Path
from typing import Annotated

import typer

from deepspectrumlite.config import ReportOptions
from deepspectrumlite.terminal import library, progress

_SPLITS = ("train", "devel", "test")
_DEFAULTS = ReportOptions()
_METHODS = ("gradcam", "shap", "occlusion")


def report(
    run: Annotated[Path, typer.Argument(help="A run folder.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="The page.  \\[default: RUN/report.html]"),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help="Whose scores to show.  \\[default: test, or devel without one]"),
    ] = None,
    comparison: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Where `compare` has written.  \\[default: the folder that the run is in]",
        ),
    ] = None,
    exported: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="An exported file to tell about; repeat it for more."),
    ] = None,
    latency: Annotated[
        bool, typer.Option("--latency", help="Time the exported files here, on one thread.")
    ] = False,
    worst: Annotated[
        int, typer.Option(min=0, max=50, help="How many recordings that went most wrong.")
    ] = _DEFAULTS.worst,
    method: Annotated[
        str, typer.Option(help="Of explaining: gradcam, or shap or occlusion, which take minutes.")
    ] = _DEFAULTS.method,
    no_explain: Annotated[
        bool, typer.Option("--no-explain", help="Without what spoke for and against them.")
    ] = False,
    no_audio: Annotated[
        bool, typer.Option("--no-audio", help="Without these recordings in the page.")
    ] = False,
) -> None:
    """Write all that is known of a run as one page that needs no network, and a model card.

    The page holds recordings of the test set to listen to; mind that before it is passed on. A
    model that was not evaluated yet is evaluated first.

    Example: [bold]deepspectrumlite report runs/first --exported drums.tflite[/bold]
    """
    if split is not None and split not in _SPLITS:
        raise typer.BadParameter(f"{split!r}; allowed: {', '.join(_SPLITS)}")
    if method not in _METHODS:
        raise typer.BadParameter(f"{method!r}; allowed: {', '.join(_METHODS)}")
    with library():
        from deepspectrumlite.report import write_report

        options = ReportOptions(
            split=split,
            comparison=comparison,
            exported=tuple(exported or ()),
            latency=latency,
            worst=worst,
            explain=not no_explain,
            method=method,
            audio=not no_audio,
        )
        with progress() as tell:
            page, card = write_report(run, out, options, progress=tell)
    typer.echo(f"Report: {page} ({page.stat().st_size / 1e6:.1f} MB)   model card: {card}")

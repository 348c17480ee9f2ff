"""The command that fits temperatures, thresholds, sets and refusals of a trained model again."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape
from rich.table import Table

from deepspectrumlite.tables import with_interval
from deepspectrumlite.terminal import Device, SkipBad, err, library, progress
from deepspectrumlite.terminal import out as terminal

if TYPE_CHECKING:
    from deepspectrumlite.model import Classifier

_KEPT = "\\[default: as trained]"


def calibrate(
    model: Annotated[Path, typer.Argument(help="A run or model folder.", show_default=False)],
    manifest: Annotated[
        Path | None,
        typer.Argument(
            help="As for `data`, with a split column.  \\[default: that of the run]",
            show_default=False,
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="To fit on: devel, train, test, or all.")] = "devel",
    coverage: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help=f"How often a set of labels is to hold the true one; 0: no sets.  {_KEPT}",
            show_default=False,
        ),
    ] = None,
    unknown: Annotated[
        Literal["none", "score", "energy"] | None,
        typer.Option(help=f"What a recording is refused by, as unknown.  {_KEPT}"),
    ] = None,
    false_rejection: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help=f"Share of known recordings that may be refused.  {_KEPT}",
            show_default=False,
        ),
    ] = None,
    skip_bad: SkipBad = False,
    device: Device = "auto",
) -> None:
    """Fit again how scores become answers, and write it into the model's folder.

    The network stays as it is. A file that was exported before does not change: export it again.

    Example: [bold]deepspectrumlite calibrate runs/first --unknown energy[/bold]
    """
    given = {"coverage": coverage, "unknown": unknown, "false_rejection": false_rejection}
    changes = {key: value for key, value in given.items() if value is not None}
    with library():
        from deepspectrumlite.manifest import SPLITS
        from deepspectrumlite.runs import Options, calibrate_run

        if split not in (*SPLITS, "all"):
            raise typer.BadParameter(f"{split!r}; allowed: {', '.join(SPLITS)}, all")
        options = Options(skip_bad=skip_bad, device=device)
        with progress() as tell:
            found = calibrate_run(model, manifest, split, changes, options, progress=tell)
        if split in ("train", "all"):
            note = "fitted on recordings that may have been trained on, so the answers are too sure"
            err.print(f"[yellow]Note:[/yellow] {note}", soft_wrap=True)
        _print_fitted(found.model, found.n_files)
    for line in decision_lines(found.decisions):
        typer.echo(f"On {split}: {line}")
    typer.echo(f"Written to {model}; export it again if it was exported")


def _print_fitted(model: "Classifier", n_files: int) -> None:
    if model.recipe.model.output == "sigmoid":
        table = Table(title=f"Fitted on {n_files} files")
        for name in ("label", "temperature", "threshold"):
            table.add_column(name, justify="left" if name == "label" else "right")
        columns = (model.temperature.tolist(), model.thresholds.tolist())
        for label, *numbers in zip(model.labels, *columns, strict=True):
            table.add_row(escape(label), *[f"{number:.2f}" for number in numbers])
        terminal.print(table)
        return
    typer.echo(f"Fitted on {n_files} files: temperature {float(model.temperature):.2f}")
    for line in _bounds(model, n_files):
        typer.echo(line)


def _bounds(model: "Classifier", n_files: int) -> list[str]:
    """What sets hold and what is refused, or that there are too few files to tell."""
    from deepspectrumlite.calibration import smallest_count

    section, decision, lines = model.recipe.decision, model.decision, []
    if decision.conformal is not None:
        needed = smallest_count(1 - section.coverage)
        enough = f"the labels with a score of at least {decision.conformal:.3f}"
        few = f"all labels, as a coverage of {section.coverage:g} needs {needed} files"
        lines.append(f"Sets hold {enough if n_files >= needed else few}")
    if decision.unknown != "none":
        needed = smallest_count(section.false_rejection)
        by = f"a highest score below {decision.unknown_below:.3f}"
        if decision.unknown == "energy":
            by = f"a negative energy of at most {float(model.energy_below):.2f}"
        few = f"nothing, as a share of {section.false_rejection:g} needs {needed} files"
        lines.append(f"Refused as unknown is {by if n_files >= needed else few}")
    return lines


def decision_lines(decisions: dict[str, Any] | None) -> list[str]:
    """What a report's "decisions" say, with 95 % intervals: a line for sets, one for refusals."""
    lines, found = [], decisions or {}
    if "coverage" in found:
        coverage, size = found["coverage"], found["mean_set_size"]
        lines.append(
            f"sets hold the true label of {with_interval(coverage)} of the files (wanted: "
            f"{coverage['wanted']:g}), with {with_interval(size, 2)} labels each"
        )
    if "unknown" in found:
        refused, rest = (
            found["unknown"]["false_rejection"],
            found["unknown"]["accuracy_of_accepted"],
        )
        lines.append(
            f"{with_interval(refused)} of the files are refused as unknown (wanted: at most "
            f"{refused['wanted']:g}); accuracy of the others {with_interval(rest)}"
        )
    return lines

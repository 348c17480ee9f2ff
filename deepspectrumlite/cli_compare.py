"""The commands that test systems on the same folds, and put them into one table."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from deepspectrumlite.metrics import RESAMPLES
from deepspectrumlite.tables import epoch_printer, with_interval
from deepspectrumlite.terminal import (
    Device,
    Intervals,
    Overlap,
    Recipe,
    Set,
    SkipBad,
    check_choice,
    err,
    library,
    progress,
)
from deepspectrumlite.terminal import out as terminal

if TYPE_CHECKING:
    from deepspectrumlite.runs import Options
    from deepspectrumlite.systems import System

# More are in scores.json.
_MOST_GROUPS = 30
_SYSTEMS = "finetune, deepspectrum, egemaps, compare, logmel, majority"
_Folds = Annotated[
    str | None,
    typer.Option(
        help="manifest: its own split. groups: leave one group out (LOSO). 5: stratified, with "
        "whole groups. column:NAME: a fold for each value.  \\[default: those in OUT, or manifest]",
        show_default=False,
    ),
]
_Choose = Annotated[
    list[str] | None,
    typer.Option(
        metavar="SECTION.KEY=[V, V]",
        help="Settings of fine-tuning that the devel of each fold chooses from.",
    ),
]
_Layer = Annotated[str, typer.Option(help="Of the network, for deepspectrum; as in `extract`.")]
_FitDevel = Annotated[
    bool, typer.Option("--fit-devel", help="Fit baselines on train and devel, after their choice.")
]
_Resamples = Annotated[int, typer.Option(min=100, help="Of the bootstrap.")]


def crossvalidate(
    manifest: Annotated[Path, typer.Argument(help="As for `data`.", show_default=False)],
    out: Annotated[
        Path, typer.Option(help="The experiment's folder; it may hold other systems already.")
    ],
    system: Annotated[
        str, typer.Option(help=f"{_SYSTEMS}; finetune:RECIPE, and NAME=SYSTEM for a folder's name.")
    ] = "finetune",
    folds: _Folds = None,
    recipe: Recipe = "default",
    changes: Set = None,
    choose: _Choose = None,
    layer: _Layer = "",
    fit_devel: _FitDevel = False,
    resamples: _Resamples = RESAMPLES,
    skip_bad: SkipBad = False,
    overlap: Overlap = False,
    device: Device = "auto",
) -> None:
    """Train and test one system on every fold, and pool the results.

    Folds are written to OUT/folds, and used by every system that is tried in OUT. What is finished
    is kept: the same command goes on where it was stopped.

    Example: [bold]deepspectrumlite crossvalidate labels.csv --folds groups --out loso[/bold]

    Example: [bold]deepspectrumlite crossvalidate labels.csv --folds groups --system egemaps \
--out loso[/bold]
    """
    with library():
        settings = {"layer": layer, "fit_devel": fit_devel}
        made = _systems([system], recipe, changes, choose, settings)
        options = _options(skip_bad, overlap, device)
        reports = _run(made, manifest, folds, out, resamples, options)
    for name, report in reports.items():
        _show(report, out / name)


def compare(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[FOLDER]...",
            help="Systems of `crossvalidate`, or runs that were evaluated on test.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Where the table goes, and the experiment, if one is run.")
    ] = Path("comparison"),
    manifest: Annotated[
        Path | None,
        typer.Option("--data", help="Run --systems on this manifest first.", show_default=False),
    ] = None,
    systems: Annotated[
        str, typer.Option(help=f"Separated by commas: {_SYSTEMS}; finetune:RECIPE, NAME=SYSTEM.")
    ] = "finetune,deepspectrum,logmel,majority",
    folds: _Folds = None,
    recipe: Recipe = "default",
    changes: Set = None,
    choose: _Choose = None,
    layer: _Layer = "",
    fit_devel: _FitDevel = False,
    resamples: _Resamples = RESAMPLES,
    intervals: Intervals = "percentile",
    skip_bad: SkipBad = False,
    overlap: Overlap = False,
    device: Device = "auto",
) -> None:
    """Put several systems on identical folds into one table, with intervals and differences.

    It runs them (--data), or collects what was run (FOLDER...), or both. The first system is the
    one that the others are compared with.

    Example: [bold]deepspectrumlite compare --data labels.csv --systems \
finetune,deepspectrum,egemaps,logmel --out results[/bold]

    Example: [bold]deepspectrumlite compare runs/first runs/second --out table[/bold]
    """
    if not folders and manifest is None:
        raise typer.BadParameter("needed: --data MANIFEST to run systems on, or folders to collect")
    check_choice("--intervals", intervals, ("percentile", "bca"))
    with library():
        from deepspectrumlite.comparison import compare_systems, read_system
        from deepspectrumlite.comparison_tables import caption, comparison_table, write_comparison

        given = [folder.resolve() for folder in folders or []]
        if len(set(given)) < len(given):
            raise typer.BadParameter("a folder is given twice; give each system once")
        found = [read_system(folder) for folder in folders or []]
        if manifest is not None:
            names = [name.strip() for name in systems.split(",") if name.strip()]
            settings = {"layer": layer, "fit_devel": fit_devel}
            made = _systems(names, recipe, changes, choose, settings)
            options = _options(skip_bad, overlap, device)
            _run(made, manifest, folds, out, resamples, options)
            found += [read_system(out / system.name) for system in made]
        with progress() as tell:
            comparison = compare_systems(
                found, n_resamples=resamples, method=intervals, progress=tell
            )
        written = write_comparison(comparison, out)
        header, rows = comparison_table(comparison)
        # As many columns as a terminal has room for; the files hold all of them.
        table = Table(*map(escape, header[:4]))
        for row in rows:
            table.add_row(*map(escape, row[:4]))
    terminal.print(table)
    terminal.print(escape(caption(comparison)), highlight=False)
    typer.echo(f"Written to {out}: {', '.join(path.name for path in written)}")


def _systems(
    names: list[str],
    recipe: str,
    changes: list[str] | None,
    choose: list[str] | None,
    settings: dict[str, Any],
) -> "list[System]":
    from deepspectrumlite.systems import parse_system

    made = [parse_system(name, recipe, changes or [], choose or [], **settings) for name in names]
    repeated = {system.name for system in made if [s.name for s in made].count(system.name) > 1}
    if repeated:
        raise typer.BadParameter(
            f"{', '.join(sorted(repeated))} twice; give each system a name: NAME=SYSTEM"
        )
    return made


def _options(skip_bad: bool, overlap: bool, device: str) -> "Options":
    from deepspectrumlite.runs import Options

    return Options(skip_bad=skip_bad, allow_group_overlap=overlap, device=device)


def _run(
    systems: "list[System]",
    manifest: Path,
    folds: str | None,
    out: Path,
    resamples: int,
    options: "Options",
) -> dict[str, dict[str, Any]]:
    """Every system on every fold; each one's report by its name."""
    from deepspectrumlite.crossvalidate import crossvalidate as run
    from deepspectrumlite.crossvalidate import prepare

    reports = {}
    with progress() as tell:
        manifests = prepare(systems[0], manifest, folds, out, options, tell)
    for system in systems:
        count = len(manifests)
        folds_word = "fold" if count == 1 else "folds"
        err.print(f"{escape(system.title)}: {count} {folds_word}", highlight=False)
        tell_fold = _fold_teller(count)
        try:
            with progress() as tell:
                reports[system.name] = run(
                    system,
                    manifests,
                    out,
                    options,
                    n_resamples=resamples,
                    progress=tell,
                    on_fold=tell_fold,
                    on_epoch=epoch_printer(),
                )
        except KeyboardInterrupt:
            raise KeyboardInterrupt("Interrupted; the same command goes on.") from None
    return reports


def _fold_teller(count: int) -> Callable[[str], None]:
    """A function that prints a line at the begin of each of several folds."""
    numbers = itertools.count(1)

    def tell(name: str) -> None:
        if count > 1:
            err.print(f"fold {next(numbers)} of {count}: {escape(name)}", highlight=False)

    return tell


def _value(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _show(report: dict[str, Any], folder: Path) -> None:
    """The score over all folds, of each fold, and of each group."""
    from deepspectrumlite.scores import quoted, quoted_over
    from deepspectrumlite.significance import MAIN_METRIC

    files, metric = report["files"], MAIN_METRIC[report["output"]]
    table = Table(title=escape(report["split"]))
    for name in ("fold", "recordings", metric):
        table.add_column(name, overflow="fold")
    for row in report["folds"]:
        table.add_row(escape(row["fold"]), str(row["n"]), _value(row["test"]))
    terminal.print(table)
    # Where each fold is a group, it stands above already.
    if 1 < len(report["groups"]) <= _MOST_GROUPS and len(report["groups"]) != len(report["folds"]):
        table = Table("group", "recordings", metric)
        for row in report["groups"]:
            table.add_row(escape(row["group"]), str(row["n"]), _value(row["value"]))
        terminal.print(table)
    if report["seen_in_training"]:
        seen = f"{report['seen_in_training']} recordings were trained on in their own fold"
        err.print(f"[yellow]Warning:[/yellow] {seen}, so the scores are too good", soft_wrap=True)
    if report["files_without_a_segment"]:
        left_out = report["files_without_a_segment"]
        typer.echo(f"{left_out} recordings shorter than a segment left out", err=True)
    warning = files.get("by_group", {}).get("warning")
    if warning:
        err.print(f"[yellow]Note:[/yellow] {escape(warning)}", soft_wrap=True)
    value = with_interval(quoted(files)[metric.lower()])
    over = quoted_over(files)
    typer.echo(
        f"{metric} over {files['n']} recordings: {value} (95 % interval over {over})\n"
        f"Written to {folder}: scores.json, predictions.csv"
    )

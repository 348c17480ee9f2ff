"""The commands that gather what a sweep gave, and take its best."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from deepspectrumlite.cli_scores import tell_scores
from deepspectrumlite.config import SweepBudget
from deepspectrumlite.terminal import Device, err, library, progress
from deepspectrumlite.terminal import out as terminal

if TYPE_CHECKING:
    from deepspectrumlite.sweeps.experiment import Experiment
    from deepspectrumlite.sweeps.plan import SweepPlan
    from deepspectrumlite.sweeps.trials import Row

# More are in results.csv.
_MOST_ROWS = 30

Sweep = Annotated[Path, typer.Argument(metavar="OUT", help="The --out of a sweep.")]
Latency = Annotated[
    float | None,
    typer.Option(min=0, help="Of a segment on one thread, as an exported file, measured here."),
]
Size = Annotated[float | None, typer.Option(min=0, help="Of the exported file, in 10^6 bytes.")]


def results(out: Sweep) -> None:
    """Gather the trials that are done in tables and pictures; also while others still train.

    Example: [bold]deepspectrumlite sweep results sweeps/first[/bold]
    """
    with library():
        from deepspectrumlite.runs import Options
        from deepspectrumlite.sweeps.experiment import read_experiment

        show_results(read_experiment(out, Options()))


def show_results(experiment: "Experiment") -> None:
    """Write tables and pictures, and print the best trials."""
    from deepspectrumlite.sweeps.results import ranked, warnings, write_results

    rows, written = write_results(experiment)
    terminal.print(_table(ranked(rows)[:_MOST_ROWS], experiment.plan))
    count = experiment.plan.count
    for line in warnings(rows, experiment):
        warn(line)
    typer.echo(f"{len(rows)} of {count} trials are done")
    typer.echo(f"Written to {experiment.out}: {', '.join(path.name for path in written)}")


def warn(line: str) -> None:
    """Something to beware of, on the error stream."""
    err.print(f"[yellow]Warning:[/yellow] {escape(line)}", soft_wrap=True, highlight=False)


def _table(rows: "Sequence[Row]", plan: "SweepPlan") -> Table:
    table = Table(title="Trials, the best on devel first")
    timed = any(row["latency_ms"] is not None for row in rows)
    table.add_column("trial", justify="right", no_wrap=True)
    for each in plan.dimensions:
        # Without the sections, which would leave the values no room.
        names = (key.partition(".")[2] for key in each.keys)
        table.add_column(escape(", ".join(names)), overflow="fold")
    table.add_column(f"devel {plan.metric}", justify="right")
    for name in ("epochs", "seconds", *(("latency", "size") if timed else ())):
        table.add_column(name, justify="right")
    table.add_column("status", overflow="fold")
    for row in rows:
        told = f"{row['status']}: {row['reason']}" if row["reason"] else row["status"]
        settings = [
            [_setting(row["settings"][key]) for key in each.keys] for each in plan.dimensions
        ]
        cells = [str(row["number"]), *[", ".join(dict.fromkeys(each)) for each in settings]]
        cells += [shown(row["devel"]), str(row["epochs"]), f"{row['seconds']:.1f}"]
        if timed:
            cells += [shown(row["latency_ms"], " ms", 2), shown(row["size_mb"], " MB", 2)]
        table.add_row(*[escape(cell) for cell in (*cells, told)])
    return table


def _setting(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def shown(value: float | None, unit: str = "", digits: int = 3) -> str:
    """A number with its unit, or a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}f}{unit}"


def best(
    out: Sweep,
    recipe: Annotated[
        Path | None,
        typer.Option("--out", help="The recipe to write.  \\[default: best.toml in OUT]"),
    ] = None,
    max_latency_ms: Latency = None,
    max_size_mb: Size = None,
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="Take the best so far of a sweep that goes on.")
    ] = False,
    device: Device = "auto",
) -> None:
    """Write the recipe of the trial that is best on devel, and score that one on test.

    With a budget, among the trials that keep it; without one, that of the sweep counts. Which
    trial met test is noted in OUT/best.json.

    Example: [bold]deepspectrumlite sweep best sweeps/first --out best.toml[/bold]
    """
    with library():
        from deepspectrumlite.runs import Options
        from deepspectrumlite.sweeps.best import choose_best, score_best, tested, write_best
        from deepspectrumlite.sweeps.experiment import read_experiment
        from deepspectrumlite.sweeps.results import warnings
        from deepspectrumlite.sweeps.trials import read_trials, trial_folder

        experiment = read_experiment(out, Options(device=device))
        given = max_latency_ms is not None or max_size_mb is not None
        budget = SweepBudget(max_latency_ms, max_size_mb) if given else None
        row = choose_best(experiment, budget, unfinished=unfinished)
        path = recipe or out / "best.toml"
        write_best(experiment, row, path)
        for line in warnings(read_trials(out), experiment):
            warn(line)
        others = [number for number in tested(experiment) if number != row["number"]]
        with progress() as tell:
            report = score_best(experiment, row, tell)
    typer.echo(f"Trial {row['number']}: devel {row['metric']} {shown(row['devel'])}")
    typer.echo(f"Recipe: {path}")
    typer.echo(f"Run:    {trial_folder(out, row['number'])}")
    if report is not None:
        _warn_of_others(row["number"], others)
        typer.echo(tell_scores(report, trial_folder(out, row["number"]) / "test"))


def _warn_of_others(number: int, others: Sequence[int]) -> None:
    if others:
        names = ", ".join(str(other) for other in others)
        warn(
            f"test was met before, by trial {names}: choosing between trials by their test scores "
            f"makes the chosen one look too good, so this score of trial {number} is no longer a "
            "fair one"
        )

"""The commands that try many settings, gather what they gave, and take the best."""

import os
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from typer.core import TyperGroup

from deepspectrumlite.cli_sweep_results import (
    Latency,
    Size,
    best,
    results,
    show_results,
    shown,
    warn,
)
from deepspectrumlite.config import RayOptions, SweepBudget
from deepspectrumlite.terminal import Device, Overlap, Set, SkipBad, err, library, progress

if TYPE_CHECKING:
    from deepspectrumlite.sweeps.experiment import Experiment
    from deepspectrumlite.sweeps.local import Listener
    from deepspectrumlite.sweeps.trials import Row


class Engine(StrEnum):
    """Where trials run."""

    local = "local"
    slurm = "slurm"
    ray = "ray"


class Precision(StrEnum):
    """Of the network in the exported file."""

    float32 = "float32"
    float16 = "float16"
    int8 = "int8"


class _RunByDefault(TyperGroup):
    """`sweep RECIPE ...` is short for `sweep run RECIPE ...`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, "--help"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(cls=_RunByDefault, no_args_is_help=True, rich_markup_mode="rich")


@app.callback()
def _group() -> None:
    r"""Train many variants of a recipe, on this machine or on a cluster, and take the best.

    What is tried stands in the recipe's table \[sweep]: lists for a grid, ranges for a random or
    guided search. `sweep RECIPE ...` is short for `sweep run RECIPE ...`.

    Example: [bold]deepspectrumlite sweep mine.toml --data labels.csv --out sweeps/first[/bold]

    Example: [bold]deepspectrumlite sweep best sweeps/first --out best.toml[/bold]
    """


@app.command()
def run(
    recipe: Annotated[
        Path, typer.Argument(help="A TOML file with a table \\[sweep].", show_default=False)
    ],
    manifest: Annotated[
        Path, typer.Option("--data", help="The manifest; as for `train`.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="The folder of the sweep; what is there goes on.")],
    engine: Annotated[
        Engine, typer.Option(help="This machine, a job array of Slurm, or Ray Tune.")
    ] = Engine.local,
    processes: Annotated[
        int | None,
        typer.Option(
            min=1, help="Trials at the same time.  \\[default: 1; of slurm, as many as it lets]"
        ),
    ] = None,
    changes: Set = None,
    max_latency_ms: Latency = None,
    max_size_mb: Size = None,
    precision: Annotated[
        Precision, typer.Option(help="Of the exported file that is measured.")
    ] = Precision.float32,
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure latency and size without a limit too.")
    ] = False,
    seconds: Annotated[
        float | None,
        typer.Option(min=0.01, help="What the exported file takes, for whole recordings."),
    ] = None,
    retry: Annotated[
        bool,
        typer.Option("--retry", help="Try anew what failed, or was over the budget, before."),
    ] = False,
    sbatch: Annotated[
        list[str] | None,
        typer.Option(metavar="OPTION", help="For Slurm, like --sbatch=--time=2:00:00; repeatable."),
    ] = None,
    preamble: Annotated[
        list[str] | None,
        typer.Option(metavar="LINE", help="Of shell, before each job of Slurm; repeatable."),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            help="Of Ray's head node; auto: the cluster that runs.  "
            "\\[default: RAY_ADDRESS, or a Ray on this machine]",
            show_default=False,
        ),
    ] = None,
    cpus: Annotated[
        float | None,
        typer.Option(
            "--cpus-per-trial", min=0, help=f"Of Ray.  \\[default: {RayOptions.cpus_per_trial:g}]"
        ),
    ] = None,
    gpus: Annotated[
        float | None,
        typer.Option(
            "--gpus-per-trial", min=0, help=f"Of Ray.  \\[default: {RayOptions.gpus_per_trial:g}]"
        ),
    ] = None,
    retries: Annotated[
        int | None,
        typer.Option(
            min=0, help=f"Of a trial whose node is lost.  \\[default: {RayOptions.retries}]"
        ),
    ] = None,
    stop_early: Annotated[
        bool, typer.Option("--stop-early", help="Ray stops trials that are worse than others.")
    ] = False,
    grace_epochs: Annotated[
        int | None, typer.Option(min=1, help="Before a trial may be stopped early.")
    ] = None,
    skip_bad: SkipBad = False,
    overlap: Overlap = False,
    device: Device = "auto",
) -> None:
    """Train every point of a sweep; the same command goes on where it was stopped.

    With a budget, networks are exported and timed first, and those beyond it are not trained.

    Slurm: writes OUT/sweep.sbatch, a job array with a task for each point; then `sbatch` starts
    it, and `sweep results OUT` gathers what is done.

    Example: [bold]deepspectrumlite sweep mine.toml --data labels.csv --out sweeps/first \
--processes 2[/bold]

    Example: [bold]deepspectrumlite sweep mine.toml --data labels.csv --out sweeps/small \
--max-latency-ms 20 --max-size-mb 5 --precision int8[/bold]

    Example: [bold]deepspectrumlite sweep mine.toml --data labels.csv --out sweeps/first \
--engine slurm --sbatch=--time=2:00:00 --sbatch=--gres=gpu:1[/bold]
    """
    if engine is not Engine.slurm and (sbatch or preamble):
        raise typer.BadParameter("--sbatch and --preamble go with --engine slurm only")
    asked = {
        "address": address,
        "cpus_per_trial": cpus,
        "gpus_per_trial": gpus,
        "retries": retries,
        "stop_early": stop_early or None,
        "grace_epochs": grace_epochs,
    }
    of_ray = {name: value for name, value in asked.items() if value is not None}
    _check_ray(engine, of_ray, processes)
    budget = SweepBudget(max_latency_ms, max_size_mb, precision.value, measure, seconds)
    if not budget.wanted and (precision is not Precision.float32 or seconds is not None):
        raise typer.BadParameter(
            "--precision and --seconds are of the exported file that is measured; give --measure, "
            "--max-latency-ms or --max-size-mb too"
        )
    with library("ray" if engine is Engine.ray else "export" if budget.wanted else "train"):
        from deepspectrumlite.runs import Options
        from deepspectrumlite.sweeps.engine import forget_failed
        from deepspectrumlite.sweeps.experiment import prepare_sweep
        from deepspectrumlite.sweeps.plan import load_sweep

        plan = load_sweep(recipe, changes or [])
        options = Options(skip_bad=skip_bad, allow_group_overlap=overlap, device=device)
        with progress() as tell:
            experiment = prepare_sweep(plan, manifest, out, options, budget, progress=tell)
        if retry and _in_no_array():
            count = forget_failed(experiment)
            typer.echo(
                f"{count} trials that failed or were over the budget are tried anew", err=True
            )
        if engine is Engine.slurm:
            _slurm(experiment, processes, sbatch or [], preamble or [])
        else:
            _try_all(experiment, processes or 1, of_ray if engine is Engine.ray else None)


def _in_no_array() -> bool:
    return "SLURM_ARRAY_TASK_ID" not in os.environ


def _check_ray(engine: Engine, of_ray: dict[str, Any], processes: int | None) -> None:
    if of_ray and engine is not Engine.ray:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in of_ray)
        raise typer.BadParameter(f"{names}: with --engine ray only")
    if processes is not None and engine is Engine.ray:
        raise typer.BadParameter("--processes does not go with --engine ray; use --cpus-per-trial")


def _try_all(experiment: "Experiment", processes: int, of_ray: dict[str, Any] | None) -> None:
    with progress() as tell:
        listener = _listener(experiment, tell)
        if of_ray is not None:
            from deepspectrumlite.sweeps.ray_tune import run_ray

            run_ray(experiment, RayOptions(**of_ray), listener)
        else:
            from deepspectrumlite.sweeps.local import run_local

            run_local(experiment, processes, listener)
    show_results(experiment)


def _listener(experiment: "Experiment", tell: Any) -> "Listener":
    """Prints which trial of how many, its epochs, and the best so far."""
    from deepspectrumlite.sweeps.local import Listener
    from deepspectrumlite.sweeps.plan import describe
    from deepspectrumlite.sweeps.trials import best_of

    count, metric = experiment.plan.count, experiment.plan.metric
    rows: list[Row] = []

    def on_start(number: int, point: dict[str, Any]) -> None:
        _tell(f"trial {number} ({number + 1} of {count}): {describe(point)}")

    def on_epoch(number: int, record: dict[str, Any]) -> None:
        star = "  best of this trial" if record["best"] else ""
        value = shown(record[f"devel_{metric}"])
        _tell(f"  {number}: epoch {record['epoch']:>3}  devel {metric} {value}{star}")

    def on_row(row: "Row", before: bool) -> None:
        rows.append(row)
        if before:
            return
        best = best_of(rows)
        so_far = f"; best so far: {shown(best['devel'])} (trial {best['number']})" if best else ""
        told = row["reason"] or f"devel {metric} {shown(row['devel'])}"
        _tell(f"  {row['number']}: {row['status']}, {told}{so_far}")

    return Listener(tell, on_start, on_epoch, on_row, warn)


def _tell(line: str) -> None:
    err.print(escape(line), soft_wrap=True, highlight=False)


def _slurm(
    experiment: "Experiment", at_once: int | None, sbatch: Sequence[str], preamble: Sequence[str]
) -> None:
    from deepspectrumlite.sweeps.slurm import SCRIPT, array_index, run_task, write_script

    index = array_index(os.environ)
    if index is None:
        script = experiment.out / SCRIPT
        before = script.read_text(encoding="utf-8") if script.is_file() else None
        with progress() as tell:
            path = write_script(
                experiment,
                sys.argv[1:],
                at_once=at_once,
                sbatch=sbatch,
                preamble=preamble,
                progress=tell,
            )
        if before not in (None, path.read_text(encoding="utf-8")):
            typer.echo(f"{path} was there with other options, and is replaced", err=True)
        typer.echo(f"Start it with: sbatch {path}")
        typer.echo(f"Then, at any time: deepspectrumlite sweep results {experiment.out}")
        return
    with progress() as tell:
        listener = _listener(experiment, tell)
        row = run_task(
            experiment,
            index,
            progress=tell,
            on_epoch=lambda record: listener.on_epoch(index, record),
        )
    listener.on_row(row, False)


app.command()(results)
app.command()(best)

"""What a sweep gave: one table of all trials, pictures, and the recipe of the winner."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from deepspectrumlite.benchmark import describe_machine
from deepspectrumlite.checkpoint import write_atomically
from deepspectrumlite.config import SweepBudget, recipe_toml
from deepspectrumlite.errors import TrainingError
from deepspectrumlite.manifest import load_manifest
from deepspectrumlite.progress import Progress, silent
from deepspectrumlite.runs import evaluate_run
from deepspectrumlite.sweeps.budget import pareto_front, within
from deepspectrumlite.sweeps.experiment import Experiment
from deepspectrumlite.sweeps.pictures import plot_pareto, plot_sweep
from deepspectrumlite.sweeps.plan import describe, recipe_of
from deepspectrumlite.sweeps.trials import (
    FINISHED,
    OVER_BUDGET,
    Row,
    best_of,
    goodness,
    read_trials,
    trial_folder,
)


def write_results(experiment: Experiment) -> tuple[list[Row], list[Path]]:
    """Gather the trials that are done, and write them as tables and pictures.

    ``results.csv`` and ``results.parquet`` have a row for each trial, ``sweep.png`` shows the devel
    metric by each setting. Where latency was measured, ``pareto.csv``, ``pareto.md`` and
    ``pareto.png`` tell which trials no other one beats.

    Returns:
        the rows by number, and the files

    Raises:
        TrainingError: no trial is done
    """
    out, rows = experiment.out, read_trials(experiment.out)
    if not rows:
        raise TrainingError(f"{out}: no trial is done yet; start the sweep, or wait")
    table = results_table(rows)
    written = [_written(table, out / "results.csv"), _written(table, out / "results.parquet")]
    if any(row["devel"] is not None for row in rows):
        plot_sweep(rows, experiment.plan, out / "sweep.png")
        written.append(out / "sweep.png")
    front = pareto_front(rows)
    if front:
        written.append(_written(results_table(front), out / "pareto.csv"))
        text = pareto_markdown(front, rows, experiment)
        write_atomically(out / "pareto.md", lambda file: file.write(text.encode()))
        plot_pareto(front, rows, experiment, out / "pareto.png")
        written += [out / "pareto.md", out / "pareto.png"]
    return rows, written


def results_table(rows: Sequence[Row]) -> pd.DataFrame:
    """A row for each trial: its number and status, its settings, and what it reached."""
    settings = list(dict.fromkeys(key for row in rows for key in row["settings"]))
    columns: dict[str, Any] = {"trial": [row["number"] for row in rows]}
    columns["status"] = [row["status"] for row in rows]
    columns |= {key: _column([row["settings"].get(key) for row in rows]) for key in settings}
    columns["metric"] = [row["metric"] for row in rows]
    for key in ("devel", "epoch", "epochs", "seconds", "model_mb", "latency_ms", "size_mb"):
        values = pd.Series([row[key] for row in rows], dtype="object")
        columns[key] = values.astype("Int64" if key.startswith("epoch") else "Float64")
    columns["reason"] = [row["reason"] for row in rows]
    return pd.DataFrame(columns)


def _column(values: list[Any]) -> list[Any]:
    """As they are, or as text where they differ in kind, which Parquet does not allow."""
    kinds = {
        bool if isinstance(x, bool) else float if isinstance(x, int) else type(x) for x in values
    }
    if len(kinds) == 1 and kinds <= {bool, float, str}:
        return values
    return [x if isinstance(x, str) else json.dumps(x) for x in values]


def _written(table: pd.DataFrame, path: Path) -> Path:
    unfinished = path.with_name(f"unfinished-{os.getpid()}{path.suffix}")
    if path.suffix == ".csv":
        table.to_csv(unfinished, index=False)
    else:
        table.to_parquet(unfinished, index=False)
    unfinished.replace(path)
    return path


def ranked(rows: Sequence[Row]) -> list[Row]:
    """The best first; what has no devel metric last, by number."""
    return sorted(rows, key=lambda row: (row["status"] != FINISHED, -goodness(row), row["number"]))


def pareto_markdown(front: Sequence[Row], rows: Sequence[Row], experiment: Experiment) -> str:
    """The front as a table, and what was measured where."""
    keys = list(front[0]["settings"])
    metric, budget = experiment.plan.metric, experiment.budget
    lines = [["trial", *keys, f"devel {metric}", "latency (ms)", "size (MB)"]]
    lines.append(["---"] * len(lines[0]))
    for row in front:
        settings = [describe({key: row["settings"][key]}).partition("=")[2] for key in keys]
        measured = [f"{row['devel']:.3f}", f"{row['latency_ms']:.2f}", f"{row['size_mb']:.2f}"]
        lines.append([str(row["number"]), *settings, *measured])
    cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    table = "\n".join(f"| {' | '.join(line)} |" for line in cells)
    return f"{table}\n\n{_caption(rows, budget)}\n"


def _caption(rows: Sequence[Row], budget: SweepBudget) -> str:
    counts = {
        status: sum(row["status"] == status for row in rows) for status in (FINISHED, OVER_BUDGET)
    }
    limits = [
        f"at most {most:g} {unit}"
        for most, unit in ((budget.max_latency_ms, "ms"), (budget.max_size_mb, "MB"))
        if most is not None
    ]
    asked = f", {counts[OVER_BUDGET]} beyond the budget ({', '.join(limits)})" if limits else ""
    return (
        f"Trials that no other one beats in both, of {counts[FINISHED]} that were trained{asked}. "
        f"Latency: median for one segment, the exported {budget.precision} file on one thread of "
        f"{describe_machine()['cpu']}."
    )


def choose_best(experiment: Experiment, budget: SweepBudget | None = None) -> Row:
    """The finished trial that is best on devel among those that keep a budget.

    Raises:
        TrainingError: there is none
    """
    budget = budget or experiment.budget
    rows = read_trials(experiment.out)
    best = best_of([row for row in rows if within(row, budget)])
    if best is None:
        finished = sum(row["status"] == FINISHED for row in rows)
        raise TrainingError(
            f"{experiment.out}: {len(rows)} trials are done, {finished} of them well, and none of "
            "these is known to keep the budget; allow more, or try further settings"
        )
    return best


def write_best(experiment: Experiment, best: Row, path: Path) -> None:
    """Write the recipe of the winner, for ``deepspectrumlite train``.

    Raises:
        OSError: that cannot be written
    """
    recipe = recipe_of(experiment.plan, best["settings"])
    told = f"# Trial {best['number']} of a sweep: {describe(best['settings'])}\n\n"
    text = told + recipe_toml(recipe)
    write_atomically(path, lambda file: file.write(text.encode()))


def score_best(
    experiment: Experiment, best: Row, progress: Progress = silent
) -> dict[str, Any] | None:
    """Score the winner, and only the winner, on test; None where the manifest has no test.

    Returns:
        the report as of :func:`deepspectrumlite.runs.evaluate_run`
    """
    splits = load_manifest(experiment.manifest, need_labels=False)["split"]
    if not (splits == "test").any():
        return None
    folder = trial_folder(experiment.out, best["number"])
    options = experiment.options
    return evaluate_run(folder, experiment.manifest, "test", options, progress=progress)[0]

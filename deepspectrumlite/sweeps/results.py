"""What a sweep gave: one table of all trials, pictures, and what to beware of."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from deepspectrumlite.checkpoint import write_atomically
from deepspectrumlite.errors import TrainingError
from deepspectrumlite.sweeps.budget import machines, pareto_front
from deepspectrumlite.sweeps.experiment import Experiment
from deepspectrumlite.sweeps.pictures import plot_pareto, plot_sweep
from deepspectrumlite.sweeps.plan import describe
from deepspectrumlite.sweeps.trials import FINISHED, OVER_BUDGET, Row, goodness, read_trials

_NUMBERS = (
    *("devel", "devel_files", "epoch", "epochs"),
    *("seconds", "model_mb", "latency_ms", "size_mb"),
)
_COUNTS = ("devel_files", "epoch", "epochs")


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
    columns |= {key: _numbers(rows, key) for key in _NUMBERS}
    columns["reason"] = [row["reason"] for row in rows]
    return pd.DataFrame(columns)


def _numbers(rows: Sequence[Row], key: str) -> Any:
    values = pd.Series([row[key] for row in rows], dtype="object")
    return values.astype("Int64" if key in _COUNTS else "Float64")


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
    metric = experiment.plan.metric
    lines = [["trial", *keys, f"devel {metric}", "latency (ms)", "size (MB)"]]
    lines.append(["---"] * len(lines[0]))
    for row in front:
        settings = [describe({key: row["settings"][key]}).partition("=")[2] for key in keys]
        measured = [f"{row['devel']:.3f}", f"{row['latency_ms']:.2f}", f"{row['size_mb']:.2f}"]
        lines.append([str(row["number"]), *settings, *measured])
    cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    table = "\n".join(f"| {' | '.join(line)} |" for line in cells)
    return "\n\n".join([table, _caption(rows, experiment), *warnings(rows, experiment)]) + "\n"


def _caption(rows: Sequence[Row], experiment: Experiment) -> str:
    budget = experiment.budget
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
        f"{' or of '.join(machines(experiment))}."
    )


def warnings(rows: Sequence[Row], experiment: Experiment) -> list[str]:
    """Why trials of a sweep may not be compared, a sentence each; none where they may.

    Args:
        rows: of the trials that are done
        experiment: the sweep, whose folder tells where latency was measured
    """
    found = []
    files = {row["devel_files"] for row in rows} - {None}
    if len(files) > 1:
        found.append(
            f"Devel is not the same for all trials: {min(files)} to {max(files)} recordings. With "
            'data.tail = "drop", those shorter than a segment have none; use "keep".'
        )
    places = machines(experiment)
    if len(places) > 1:
        found.append(
            f"Latency was not measured in the same place for all trials: {'; '.join(places)}."
        )
    return found

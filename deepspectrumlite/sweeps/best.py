"""The winner of a sweep: its recipe, and its score on test, which is met once."""

import json
from pathlib import Path
from typing import Any

from deepspectrumlite.checkpoint import write_atomically
from deepspectrumlite.config import SweepBudget, recipe_toml
from deepspectrumlite.errors import TrainingError
from deepspectrumlite.manifest import load_manifest
from deepspectrumlite.model import write_json
from deepspectrumlite.progress import Progress, silent
from deepspectrumlite.runs import evaluate_run
from deepspectrumlite.sweeps.budget import within
from deepspectrumlite.sweeps.experiment import Experiment
from deepspectrumlite.sweeps.plan import describe, recipe_of
from deepspectrumlite.sweeps.trials import FINISHED, Row, best_of, read_trials, trial_folder

TESTED = "best.json"


def choose_best(
    experiment: Experiment, budget: SweepBudget | None = None, *, unfinished: bool = False
) -> Row:
    """The finished trial that is best on devel among those that keep a budget.

    Args:
        experiment: the sweep
        budget: None: that of the sweep
        unfinished: allow that trials are still to be trained

    Raises:
        TrainingError: there is none, or trials are still to be trained
    """
    budget = budget or experiment.budget
    rows, out = read_trials(experiment.out), experiment.out
    missing = len(set(range(experiment.plan.count)) - {row["number"] for row in rows})
    if missing and not unfinished:
        raise TrainingError(
            f"{out}: {missing} of {experiment.plan.count} trials are still to be trained, and test "
            "is for the best of all; go on with the sweep, or take the best so far with "
            "--unfinished"
        )
    _check_measured(rows, budget, out)
    best = best_of([row for row in rows if within(row, budget)])
    if best is None:
        finished = sum(row["status"] == FINISHED for row in rows)
        raise TrainingError(
            f"{out}: {len(rows)} trials are done, {finished} of them well, and none of these is "
            "known to keep the budget; allow more, or try further settings"
        )
    return best


def _check_measured(rows: list[Row], budget: SweepBudget, out: Path) -> None:
    limited = budget.max_latency_ms is not None or budget.max_size_mb is not None
    finished = [row for row in rows if row["status"] == FINISHED]
    if limited and finished and all(row["size_mb"] is None for row in finished):
        raise TrainingError(
            f"{out}: latency and size were not measured in this sweep; run it with --measure, in "
            "another --out, or choose the best without a limit"
        )


def write_best(experiment: Experiment, best: Row, path: Path) -> None:
    """Write the recipe of the winner, for ``deepspectrumlite train``; folders are made.

    Raises:
        OSError: that cannot be written
    """
    recipe = recipe_of(experiment.plan, best["settings"])
    told = f"# Trial {best['number']} of a sweep: {describe(best['settings'])}\n\n"
    text = told + recipe_toml(recipe)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: file.write(text.encode()))


def tested(experiment: Experiment) -> list[int]:
    """The trials that were scored on test so far, in this order.

    Raises:
        TrainingError: the note about them is broken
    """
    return [int(entry["trial"]) for entry in _read_tested(experiment.out / TESTED)]


def _read_tested(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    try:
        entries: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["tested"]
        _ = [int(entry["trial"]) for entry in entries]
    except (ValueError, KeyError, TypeError) as error:
        raise TrainingError(
            f"{path}: broken ({error}); remove it, and remember which trials were scored on test"
        ) from None
    return entries


def score_best(
    experiment: Experiment, best: Row, progress: Progress = silent
) -> dict[str, Any] | None:
    """Score the winner, and only the winner, on test; None where the manifest has no test.

    ``best.json`` in the folder of the sweep notes each trial that was scored so, how many trials
    were done by then, and which others had been scored before it.

    Returns:
        the report as of :func:`deepspectrumlite.runs.evaluate_run`

    Raises:
        TrainingError: the note is broken
    """
    splits = load_manifest(experiment.manifest, need_labels=False)["split"]
    if not (splits == "test").any():
        return None
    path = experiment.out / TESTED
    entries = _read_tested(path)
    folder = trial_folder(experiment.out, best["number"])
    options = experiment.options
    report = evaluate_run(folder, experiment.manifest, "test", options, progress=progress)[0]
    before = [int(entry["trial"]) for entry in entries]
    if best["number"] not in before:
        entry = {"trial": best["number"], "settings": best["settings"], "metric": best["metric"]}
        entry |= {"devel": best["devel"], "trials_done": len(read_trials(experiment.out))}
        entry |= {"trials": experiment.plan.count, "tested_before": before}
        write_json(path, {"tested": [*entries, entry]})
    return report

"""One trial of a sweep: a run folder for one point, and a row about it, ``trial.json``.

A trial that fails costs its own row only. What was stopped goes on from its checkpoint, and what
is done is not done again.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from deepspectrumlite.audio import segment_starts
from deepspectrumlite.config import DataSection, Recipe, parse_recipe
from deepspectrumlite.errors import MissingExtraError, TrainingError
from deepspectrumlite.model import write_json
from deepspectrumlite.optim import LOWER_IS_BETTER
from deepspectrumlite.progress import Progress, silent
from deepspectrumlite.runs import Options, resume_run, train_run, was_started
from deepspectrumlite.sweeps.plan import Point
from deepspectrumlite.train import Record

Row: TypeAlias = dict[str, Any]
"""What is known of a trial: see :func:`run_trial`."""

TRIALS, ROW = "trials", "trial.json"
FINISHED, FAILED, OVER_BUDGET, STOPPED = "finished", "failed", "over budget", "stopped early"
_KEYS = {
    *("number", "settings", "status", "reason", "metric", "devel", "epoch", "epochs", "seconds"),
    *("model_mb", "latency_ms", "size_mb"),
}


def trial_folder(sweep: Path, number: int) -> Path:
    """Where a trial is, by its number from 0."""
    return sweep / TRIALS / f"{number:04d}"


def run_trial(
    sweep: Path,
    number: int,
    point: Point,
    recipe: Recipe,
    manifest: Path,
    options: Options,
    *,
    more: Mapping[str, Any] | None = None,
    progress: Progress = silent,
    on_epoch: Callable[[Record], None] = lambda record: None,
) -> Row:
    """Train one point, or go on with it, or tell at once what it gave before.

    The test split is never looked at.

    Args:
        sweep: the folder of the sweep
        number: of the trial, from 0
        point: its settings
        recipe: that these settings make
        manifest: with splits, the same for all trials
        options: for the device, and how to treat the manifest
        more: columns of the row that are known already: ``latency_ms``, ``size_mb``
        progress: told of every recording and batch
        on_epoch: told of every epoch from here on

    Returns:
        the row, which is also in ``trial.json``: ``number``, ``settings``, ``status`` ("finished",
        "failed"), ``reason``, ``metric`` and ``devel`` (its name, and its value at the ``epoch``
        that was kept), ``epochs``, ``seconds`` of training, ``devel_files`` (recordings of devel
        that have a segment), ``model_mb`` of the run's weights, ``latency_ms`` and ``size_mb`` of
        the exported file where that was measured

    Raises:
        Interrupted: Ctrl-C; the same call goes on
        MissingExtraError: no trial can be trained here
        OSError: nor can any be written
    """
    folder = trial_folder(sweep, number)
    before = read_trial(folder)
    if before is not None:
        return before
    try:
        _train(folder, recipe, manifest, options, progress, on_epoch)
        row = describe_trial(folder, number, point, **(more or {}))
    except (MissingExtraError, ModuleNotFoundError, OSError):
        raise
    except Exception as error:  # Whatever a network or a setting can cause is that trial's own.
        row = describe_trial(folder, number, point, FAILED, _reason(error), **(more or {}))
    write_trial(folder, row)
    return row


def _train(
    folder: Path,
    recipe: Recipe,
    manifest: Path,
    options: Options,
    progress: Progress,
    on_epoch: Callable[[Record], None],
) -> None:
    if was_started(folder, recipe):
        resume_run(folder, options, progress=progress, on_epoch=on_epoch)
        return
    # What was stopped before its first batch holds nothing of worth.
    options = replace(options, overwrite=True)
    train_run(recipe, manifest, folder, options, progress=progress, on_epoch=on_epoch)


def describe_trial(
    folder: Path,
    number: int,
    point: Point,
    status: str = FINISHED,
    reason: str | None = None,
    **more: Any,
) -> Row:
    """The row of a trial, from what its run folder holds by now."""
    row = {"number": number, "settings": point, "status": status, "reason": reason}
    found: Row = {"metric": None, "devel": None, "epoch": None, "epochs": 0, "seconds": 0.0}
    found["devel_files"] = None
    plan, history = folder / "run.json", read_history(folder)
    if plan.is_file() and history:
        described = json.loads(plan.read_text(encoding="utf-8"))["recipe"]
        recipe = parse_recipe(described, str(plan))
        found = _kept(history, recipe) | {"devel_files": _devel_files(folder, recipe.data)}
    weights = folder / "model" / "model.safetensors"
    size = weights.stat().st_size / 1e6 if weights.is_file() else None
    known: Row = {"model_mb": size, "latency_ms": None, "size_mb": None}
    return row | found | known | more


def read_history(folder: Path) -> list[Record]:
    """The epochs of a trial so far; none before the first has ended."""
    path = folder / "history.jsonl"
    if not path.is_file():
        return []
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        with suppress(ValueError):  # half a line, where a run was killed
            found.append(json.loads(line))
    return found


def _kept(history: list[Record], recipe: Recipe) -> Row:
    """The epoch whose model is handed over, and what it reached."""
    last = recipe.train.keep == "last"
    record = history[-1] if last else [entry for entry in history if entry["best"]][-1]
    return {
        "metric": recipe.monitor,
        "devel": record[f"devel_{recipe.monitor}"],
        "epoch": record["epoch"],
        "epochs": len(history),
        "seconds": sum(entry["seconds"] for entry in history),
    }


def _devel_files(folder: Path, data: DataSection) -> int:
    """Recordings of devel that have a segment: with ``tail = "drop"``, those too short have none.

    Trials with segments of other lengths may so be judged on other recordings.
    """
    table = pd.read_csv(folder / "manifest.csv", usecols=["split", "duration"])
    seconds = table.loc[table["split"] == "devel", "duration"].to_numpy(np.float64)
    lengths, counts = np.unique(np.rint(seconds * data.sample_rate), return_counts=True)
    has_some = [bool(segment_starts(int(length), data)) for length in lengths]
    return int(counts[has_some].sum())


def write_trial(folder: Path, row: Row) -> None:
    """Note a trial as done; from then on it is not trained again.

    Raises:
        OSError: that cannot be written
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / ROW, row)


def read_trial(folder: Path) -> Row | None:
    """The row of a trial; None where it is not done.

    Raises:
        TrainingError: the file is broken
    """
    path = folder / ROW
    try:
        row: Row = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise _broken(path, str(error)) from None
    missing = _KEYS.difference(row if isinstance(row, dict) else ())
    if missing:
        raise _broken(path, f"without {', '.join(sorted(missing))}")
    # Rows from before it was counted go on being rows.
    return {"devel_files": None} | row


def _broken(path: Path, why: str) -> TrainingError:
    return TrainingError(f"{path}: broken ({why}); remove {path.parent} to train it anew")


def read_trials(sweep: Path) -> list[Row]:
    """The rows of all trials that are done, by number."""
    found = [read_trial(path.parent) for path in (sweep / TRIALS).glob(f"*/{ROW}")]
    return sorted((row for row in found if row is not None), key=lambda row: int(row["number"]))


def forget_trials(sweep: Path, rows: Iterable[Row]) -> None:
    """Remove the folders of trials, so that they are trained anew."""
    for row in rows:
        shutil.rmtree(trial_folder(sweep, row["number"]))


def goodness(row: Row) -> float:
    """The devel metric so that more is better; minus infinity where there is none."""
    if row["devel"] is None:
        return float("-inf")
    return float(row["devel"]) * (-1 if row["metric"] in LOWER_IS_BETTER else 1)


def best_of(rows: list[Row]) -> Row | None:
    """The finished trial that is best on devel, the first of equals; None: none is finished."""
    finished = [row for row in rows if row["status"] == FINISHED]
    return max(finished, key=goodness, default=None)


def _reason(error: Exception) -> str:
    """One line."""
    text = " ".join(str(error).split())
    known = type(error).__module__.startswith("deepspectrumlite")
    return text if known and text else f"{type(error).__name__}: {text}"[:500]

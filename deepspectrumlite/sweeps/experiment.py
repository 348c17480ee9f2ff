"""The folder of a sweep: what was asked for, the recordings with their splits, and the trials.

``sweep.json`` tells what was asked for, ``manifest.csv`` holds the splits that all trials share,
``trials/`` a run folder for each point, and ``points.json`` the points of a guided search so far.
"""

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from deepspectrumlite import __version__
from deepspectrumlite.config import SweepBudget
from deepspectrumlite.errors import TrainingError
from deepspectrumlite.manifest import write_manifest
from deepspectrumlite.model import write_json
from deepspectrumlite.progress import Progress, silent
from deepspectrumlite.runs import Options, scan_split, with_splits
from deepspectrumlite.sweeps.plan import SweepPlan, parse_plan
from deepspectrumlite.sweeps.trials import TRIALS
from deepspectrumlite.targets import load_labelled

ASKED, MANIFEST, SKIPPED = "sweep.json", "manifest.csv", "skipped.csv"


@dataclass(frozen=True)
class Experiment:
    """A sweep whose folder stands ready; it can be sent to other processes and machines.

    Attributes:
        plan: what is tried
        out: the folder
        options: for the device, and how to treat the manifest
        budget: what the exported file may cost
    """

    plan: SweepPlan
    out: Path
    options: Options
    budget: SweepBudget

    @property
    def manifest(self) -> Path:
        """With the splits that all trials share."""
        return self.out / MANIFEST


def prepare_sweep(
    plan: SweepPlan,
    manifest: Path,
    out: Path,
    options: Options,
    budget: SweepBudget | None = None,
    *,
    progress: Progress = silent,
) -> Experiment:
    """Make the folder of a sweep, or find that of the same sweep, which then goes on.

    Every recording is decoded once, and the splits are drawn where the manifest has none. More
    ``trials`` than before are allowed.

    Args:
        plan: what to try
        manifest: of recordings, or a folder of them
        out: the folder; not there yet, empty, or of the same sweep
        options: for the device, and how to treat the manifest
        budget: what the exported file may cost
        progress: told of every recording

    Raises:
        TrainingError: the folder holds another sweep, or something else; or torchrun started this
        ManifestError: the manifest is inconsistent
        AudioError: a recording is bad, without ``options.skip_bad``
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise TrainingError(
            "a sweep was started by torchrun or accelerate, but each of its trials trains in one "
            "process; start it without, with --processes for several trials at once"
        )
    budget, recipe = budget or SweepBudget(), plan.recipe
    table = load_labelled(manifest, recipe.data, recipe.model.output)
    asked = _describe(plan, table, budget)
    if not (out / ASKED).is_file():
        _check_empty(out)
        _write_recordings(table, plan, out, options, progress)
    elif other := _differences(_read(out), asked):
        if (out / TRIALS).is_dir():
            raise TrainingError(
                f"{out}: holds another sweep (it differs in: {', '.join(other)}); give the same as "
                "before to go on with it, or choose another --out"
            )
        # Nothing has been tried: it was refused after all, or was meant otherwise.
        _write_recordings(table, plan, out, options, progress)
    _write_asked(out, asked | {"version": __version__, "source": plan.source})
    return Experiment(plan, out, options, budget)


def read_experiment(out: Path, options: Options) -> Experiment:
    """The sweep that a folder was made for.

    Raises:
        TrainingError: no sweep there, or a broken one
    """
    if not (out / ASKED).is_file():
        raise TrainingError(
            f"{out}: no sweep in it (no {ASKED}); allowed: the --out of deepspectrumlite sweep"
        )
    asked = _read(out)
    plan = parse_plan(asked["recipe"], str(asked.get("source", out / ASKED)))
    return Experiment(plan, out, options, SweepBudget(**asked["budget"]))


def _describe(plan: SweepPlan, table: pd.DataFrame, budget: SweepBudget) -> dict[str, Any]:
    values = plan.values | {"sweep": plan.sweep.model_dump(mode="json")}
    digest = hashlib.sha256(table.to_csv(index=False).encode()).hexdigest()
    described: dict[str, Any] = json.loads(
        json.dumps({"recipe": values, "recordings": digest, "budget": asdict(budget)}, default=str)
    )
    return described


def _read(out: Path) -> dict[str, Any]:
    path = out / ASKED
    try:
        asked: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        _ = asked["recipe"]["sweep"], asked["recordings"], asked["budget"]
    except (ValueError, KeyError, TypeError) as error:
        raise TrainingError(
            f"{path}: broken ({error}); remove {out} to start the sweep anew"
        ) from None
    return asked


def _differences(before: dict[str, Any], asked: dict[str, Any]) -> list[str]:
    """In what two sweeps differ; the number of trials may change."""

    def told(each: dict[str, Any]) -> dict[str, Any]:
        recipe, sweep = dict(each["recipe"]), dict(each["recipe"]["sweep"])
        sweep.pop("trials", None)
        recipe.pop("sweep")
        parts = {"recipe": recipe, "[sweep]": sweep, "manifest": each["recordings"]}
        return parts | {"budget": each["budget"]}

    was, is_now = told(before), told(asked)
    return [name for name in was if was[name] != is_now[name]]


def _check_empty(out: Path) -> None:
    if out.is_file():
        raise TrainingError(f"{out}: already there, and a file; choose another --out")
    # Its own files were being written when the process was killed.
    own = (MANIFEST, SKIPPED)
    others = [p for p in out.iterdir() if not p.name.startswith(own)] if out.is_dir() else []
    if others:
        raise TrainingError(f"{out}: not empty, and no sweep; choose another --out")


def _write_recordings(
    table: pd.DataFrame, plan: SweepPlan, out: Path, options: Options, progress: Progress
) -> None:
    recipe = plan.recipe
    scanned, skipped = scan_split(
        with_splits(table, recipe, options), recipe.data, options, progress
    )
    # Again: without the bad recordings a label or a split may be gone.
    scanned = with_splits(scanned, recipe, options)
    out.mkdir(parents=True, exist_ok=True)
    if len(skipped):
        skipped.to_csv(out / SKIPPED, index=False)
    unfinished = out / f"{MANIFEST}.{os.getpid()}"
    write_manifest(scanned, unfinished)
    unfinished.replace(out / MANIFEST)


def _write_asked(out: Path, asked: dict[str, Any]) -> None:
    """Only where something is new: jobs that start at once all come here."""
    if not (out / ASKED).is_file() or _read(out) != asked:
        write_json(out / ASKED, asked)

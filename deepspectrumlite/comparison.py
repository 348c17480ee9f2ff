"""Several systems on the same recordings and folds: one table, with what is known of differences.

The systems are folders of :mod:`deepspectrumlite.crossvalidate`, or run folders that were
evaluated on test. The first is what the others are compared with.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from deepspectrumlite.config import Recipe, parse_recipe
from deepspectrumlite.crossvalidate import ABOUT, encode_predictions, pooled_decision
from deepspectrumlite.decisions import UNKNOWN, Decision
from deepspectrumlite.errors import ManifestError, ModelError
from deepspectrumlite.evaluate import find_groups
from deepspectrumlite.metrics import RESAMPLES
from deepspectrumlite.progress import Progress, silent
from deepspectrumlite.scores import quoted, quoted_over, score_report
from deepspectrumlite.significance import (
    MAIN_METRIC,
    holm,
    mcnemar,
    paired_difference,
    permutation_test,
)
from deepspectrumlite.targets import Targets, find_targets


@dataclass(frozen=True)
class Scored:
    """What one system said of the recordings, in their common order.

    Attributes:
        name: of its folder
        title: for tables
        targets: what is recognised
        target: (n_files, n_outputs), the truth
        scores: (n_files, n_outputs)
        keys: (n_files,), which recording in which fold
        recordings: digest of which they are, without folds
        groups: (n_files,), or None
        seconds: of training, over all folds; None: unknown
        size: of what predicts, in bytes; None: unknown
    """

    name: str
    title: str
    targets: Targets
    target: npt.NDArray[Any]
    scores: npt.NDArray[Any]
    keys: npt.NDArray[Any]
    recordings: str
    groups: npt.NDArray[Any] | None
    seconds: float | None
    size: int | None

    @property
    def decision(self) -> Decision:
        """What the scores mean."""
        return pooled_decision(self.targets)


def read_system(folder: Path) -> Scored:
    """What a folder of an experiment, or an evaluated run, holds.

    Raises:
        ModelError: it is neither
    """
    folder = Path(folder)
    if (folder / ABOUT).is_file() and (folder / "predictions.csv").is_file():
        about = _read(folder / ABOUT)
        return _scored(folder, folder, parse_recipe(about["recipes"][0], str(folder)), about)
    if (folder / "test" / "predictions.csv").is_file() and (folder / "model").is_dir():
        described = _read(folder / "model" / "recipe.json")
        known = {key: value for key, value in described.items() if key not in ("format", "version")}
        history = [json.loads(line) for line in (folder / "history.jsonl").open(encoding="utf-8")]
        about = {
            "title": folder.name,
            "seconds": sum(record["seconds"] for record in history),
            "bytes": (folder / "model" / "model.safetensors").stat().st_size,
        }
        return _scored(folder, folder / "test", parse_recipe(known, str(folder)), about)
    raise ModelError(
        f"{folder}: nothing to compare there; allowed: a system's folder that `deepspectrumlite "
        "crossvalidate` has finished, or a run that `deepspectrumlite evaluate` has scored on test"
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: broken ({error}); make it again") from None
    return found


def _scored(folder: Path, where: Path, recipe: Recipe, about: dict[str, Any]) -> Scored:
    table = pd.read_csv(where / "predictions.csv", dtype=str, keep_default_na=False)
    # A single fold has no need of a name: so a run can be compared with a system.
    several = "fold" in table and table["fold"].nunique() > 1
    columns = [*(["fold"] if several else []), *_known(table)]
    table = table.sort_values(columns, ignore_index=True)
    table.attrs["manifest"] = str(where / "predictions.csv")
    targets = _targets(table, recipe, where)
    target, scores = encode_predictions(table, targets)
    return Scored(
        name=folder.name,
        title=about["title"],
        targets=targets,
        target=target,
        scores=scores,
        keys=table[columns].agg(" | ".join, axis=1).to_numpy(str),
        recordings=recordings_digest(table),
        groups=find_groups(table),
        seconds=about.get("seconds"),
        size=about.get("bytes"),
    )


def _known(table: pd.DataFrame) -> list[str]:
    """The columns that name a recording, or a span of one."""
    return [name for name in ("path", "start", "end") if name in table]


def recordings_digest(predictions: pd.DataFrame) -> str:
    """What recordings a table of predictions is about, whatever their order."""
    rows = predictions[_known(predictions)].astype(str).agg(" | ".join, axis=1)
    return hashlib.blake2b("\n".join(sorted(rows)).encode(), digest_size=16).hexdigest()


def _targets(table: pd.DataFrame, recipe: Recipe, where: Path) -> Targets:
    """The labels are those with a score: test may lack some of them."""
    data, output = recipe.data, recipe.model.output
    if output not in ("softmax", "sigmoid"):
        return find_targets(table, data, output)
    energy = recipe.decision.unknown == "energy"
    columns = [str(name) for name in table if not (energy and name == f"score_{UNKNOWN}")]
    labels = [name.removeprefix("score_") for name in columns if name.startswith("score_")]
    return Targets(output, labels, data)


def compare_systems(
    systems: Sequence[Scored],
    *,
    n_resamples: int = RESAMPLES,
    method: str = "percentile",
    seed: int = 0,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Metrics, differences to the first system, and what may be chance.

    Args:
        systems: at least one, on the same recordings
        n_resamples: of the bootstrap and of the permutations
        method: of the intervals, "percentile" or "bca"
        seed: of both
        progress: told of every system

    Returns:
        ready for JSON: "metric", "title", "n_files", "over" (what the intervals were drawn over),
        "warning", "correction", and "systems", each with "value", "low", "high", "difference" to
        the first (with "p" and Holm's "p_corrected"), "mcnemar_p" and "mcnemar_p_corrected" (one
        label, intervals over files), "chance_p", "seconds_train", "bytes"

    Raises:
        ManifestError: they were not tested on the same recordings, folds and labels
    """
    first = systems[0]
    for other in systems[1:]:
        _check_same(first, other)
    output = first.targets.output
    metric = MAIN_METRIC[output].lower()
    block: dict[str, Any] = {}
    rows = []
    for i, system in enumerate(systems):
        progress("comparing systems", i, len(systems))
        block = score_report(
            system.decision,
            system.target,
            system.scores,
            groups=system.groups,
            n_resamples=n_resamples,
            method=method,
            seed=seed,
        )
        row: dict[str, Any] = {"name": system.name, "title": system.title}
        row |= {key: quoted(block)[metric][key] for key in ("value", "low", "high")}
        row |= {"difference": None, "mcnemar_p": None}
        if i > 0:
            row |= _against(first, system, n_resamples, method, seed)
        chance = permutation_test(
            system.decision,
            system.target,
            system.scores,
            groups=system.groups,
            n=n_resamples,
            seed=seed,
        )
        row["chance_p"] = None if math.isnan(chance) else chance
        rows.append(row | {"seconds_train": system.seconds, "bytes": system.size})
    _correct(rows)
    return {
        "metric": metric,
        "title": MAIN_METRIC[output],
        "n_files": len(first.target),
        "over": quoted_over(block),
        "recordings": first.recordings,
        "warning": block.get("by_group", {}).get("warning"),
        "correction": "Holm",
        "resamples": n_resamples,
        "method": method,
        "systems": rows,
    }


def _check_same(first: Scored, other: Scored) -> None:
    both = f"{first.name} and {other.name}"
    advice = "compare what was tested on the same folds of the same manifest"
    missing = set(first.keys) ^ set(other.keys)
    if missing or len(first.keys) != len(other.keys):
        raise ManifestError(
            f"{both}: not tested on the same recordings and folds ({len(missing)} are in one only, "
            f"such as {min(missing, default='a repeated one')}); {advice}"
        )
    if first.targets.output != other.targets.output or first.targets.labels != other.targets.labels:
        raise ManifestError(
            f"{both}: not the same output and labels ({first.targets.output}: "
            f"{', '.join(first.targets.labels)}; {other.targets.output}: "
            f"{', '.join(other.targets.labels)}); {advice}"
        )
    if not np.array_equal(first.target, other.target):
        row = int((first.target != other.target).any(axis=1).argmax())
        raise ManifestError(f"{both}: different truth for {first.keys[row]}; {advice}")


def _against(
    first: Scored, system: Scored, n_resamples: int, method: str, seed: int
) -> dict[str, Any]:
    found = paired_difference(
        system.decision,
        system.target,
        system.scores,
        first.scores,
        groups=system.groups,
        n_resamples=n_resamples,
        method=method,
        seed=seed,
    )
    p = None if math.isnan(found.p_value) else found.p_value
    row: dict[str, Any] = {"difference": found.difference.to_json() | {"p": p}}
    # It takes recordings for independent, which those of one group are not.
    if system.targets.output == "softmax" and not found.over.endswith("groups"):
        truth = system.decision.classes(system.target)
        right = [truth == system.decision.classes(each.scores) for each in (first, system)]
        row["mcnemar_p"] = mcnemar(*right)
    return row


def _correct(rows: list[dict[str, Any]]) -> None:
    """Holm's correction over all systems but the first, of each test by itself."""
    differences = [row["difference"] for row in rows if row["difference"] is not None]
    for difference, p in zip(differences, _holm([d["p"] for d in differences]), strict=True):
        difference["p_corrected"] = p
    for row, p in zip(rows, _holm([row["mcnemar_p"] for row in rows]), strict=True):
        row["mcnemar_p_corrected"] = p


def _holm(values: Sequence[float | None]) -> list[float | None]:
    """Holm's correction of those that are known."""
    corrected = holm([math.nan if p is None else p for p in values])
    return [None if math.isnan(p) else p for p in corrected]

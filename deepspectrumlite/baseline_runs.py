"""Baselines as folders: fitted, scored and written like a run, for comparison with runs."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from deepspectrumlite import __version__
from deepspectrumlite.baselines import TITLES, Baseline, Floats, file_values, fit_baseline
from deepspectrumlite.config import Recipe
from deepspectrumlite.evaluate import find_groups, prediction_table
from deepspectrumlite.features import Features
from deepspectrumlite.manifest import write_manifest
from deepspectrumlite.metrics import RESAMPLES
from deepspectrumlite.model import write_json
from deepspectrumlite.runs import plot_scores
from deepspectrumlite.scores import score_report
from deepspectrumlite.splits import require_splits
from deepspectrumlite.targets import Targets


def run_baseline(
    system: str,
    recipe: Recipe,
    scanned: pd.DataFrame,
    features: Features | None,
    out: Path,
    *,
    fit_devel: bool = False,
    splits: Sequence[str] = ("devel", "test"),
    n_resamples: int = RESAMPLES,
) -> dict[str, dict[str, Any]]:
    """Fit a system and write a folder like that of a run.

    It holds ``manifest.csv``, ``baseline.json`` (what was fitted and how, seconds, bytes), and a
    folder per split with ``scores.json``, ``predictions.csv`` and pictures, as
    :func:`deepspectrumlite.runs.evaluate_run` writes them, but without scores of segments.

    Args:
        system: as of :func:`fit_baseline`, like recipe, scanned, features and fit_devel
        recipe: all settings; its seed is that of the fitting and the bootstrap
        scanned: recordings with splits
        features: of all of them
        out: the folder
        fit_devel: fit again on train and devel
        splits: which to score
        n_resamples: of the bootstrap

    Returns:
        the report of each split, by its name

    Raises:
        RecipeError: no such system
        ManifestError: a split is missing or without a segment
    """
    require_splits(scanned, splits)
    begin = time.perf_counter()
    seed = recipe.train.seed
    baseline = fit_baseline(system, recipe, scanned, features, fit_devel=fit_devel, seed=seed)
    seconds = time.perf_counter() - begin
    out.mkdir(parents=True, exist_ok=True)
    write_manifest(scanned, out / "manifest.csv")
    described = {
        "system": system,
        "title": TITLES[system],
        "version": __version__,
        "recipe": recipe.model_dump(mode="json"),
        "chosen": baseline.chosen,
        "seconds": {"extract": features.seconds if features else 0.0, "fit": seconds},
        "bytes": {
            "extractor": features.extractor_bytes if features else 0,
            "classifier": baseline.n_bytes,
        },
    }
    write_json(out / "baseline.json", described)
    values, kept = file_values(recipe, scanned, features)
    scores = baseline.score(values)
    return {
        split: _write_split(
            baseline, recipe, scanned, kept, scores, split, out / split, n_resamples
        )
        for split in splits
    }


def _write_split(
    baseline: Baseline,
    recipe: Recipe,
    scanned: pd.DataFrame,
    kept: npt.NDArray[np.int64],
    scores: Floats,
    split: str,
    out: Path,
    n_resamples: int,
) -> dict[str, Any]:
    """Scores (n_kept, n_outputs) of the kept rows, of which those of one split count."""
    decision = baseline.decision
    inside = scanned["split"].to_numpy() == split
    ours = inside[kept]
    rows = scanned.iloc[kept[ours]].reset_index(drop=True)
    target = Targets(decision.output, decision.labels, recipe.data).encode(rows)
    report = {
        "split": split,
        "skipped": 0,
        "seen_in_training": _count_seen(rows, scanned, baseline.chosen["trained_on"]),
        "output": decision.output,
        "files": score_report(
            decision,
            target,
            scores[ours],
            groups=find_groups(rows),
            n_resamples=n_resamples,
            seed=recipe.train.seed,
        ),
        "files_without_a_segment": int(inside.sum() - ours.sum()),
    }
    out.mkdir(exist_ok=True)
    write_json(out / "scores.json", report)
    predictions = prediction_table(decision, recipe.data, rows, scores[ours])
    predictions.to_csv(out / "predictions.csv", index=False)
    plot_scores(report, predictions, decision, recipe.data, out)
    return report


def _count_seen(rows: pd.DataFrame, scanned: pd.DataFrame, trained_on: Sequence[str]) -> int:
    """Recordings with a content that was trained on."""
    trained = scanned["split"].isin(trained_on)
    return int(rows["digest"].isin(scanned.loc[trained, "digest"]).sum())

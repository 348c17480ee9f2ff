"""The report on predictions with known truth: every metric with its interval, ready for JSON."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from deepspectrumlite.metrics import (
    RESAMPLES,
    Estimate,
    Floats,
    Ints,
    accuracy,
    bootstrap,
    confusion_matrix,
    count_per_group,
    interval,
    macro_f1,
    recalls,
    uar,
)

# Below this, the groups drawn are too few for their spread to tell how new groups would do.
FEW_GROUPS = 5

_METRICS: dict[str, Callable[[Ints], Floats]] = {
    "uar": uar,
    "accuracy": accuracy,
    "macro_f1": macro_f1,
}


def classification_report(
    truth: Ints,
    predicted: Ints,
    labels: Sequence[str],
    *,
    units: npt.NDArray[Any] | None = None,
    groups: npt.NDArray[Any] | None = None,
    n_resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """All metrics with their 95 % intervals, ready for JSON.

    Args:
        truth: (n_files,) indices into labels.
        predicted: (n_files,) indices into labels.
        labels: (n_classes,) different names.
        units: (n_files,) what is drawn for the intervals, where that is not each row by itself:
            the file that each segment was cut from, say.
        groups: (n_files,) who or what each file came from. Files of one speaker are alike, so
            intervals over files are too narrow for new speakers; "by_group" draws whole groups.
        n_resamples: how many times to resample.
        seed: of the resampling.

    Returns:
        "n" (files), "uar", "accuracy", "macro_f1", "recall" (by label), each with "value", "low",
        "high", "level"; "confusion" (rows truth, columns predicted). With groups also "by_group":
        "n_groups", the same metrics with intervals over groups, and, with fewer than 5 groups, a
        "warning". An interval is null where a single file (or group) is all there is to resample,
        for a recall: a single one with that class. A recall is null without files of the class.

    Raises:
        ValueError: there is no file, labels repeat, or the arrays do not fit together.

    >>> report = classification_report(np.array([0, 0, 1]), np.array([0, 1, 1]), ["no", "yes"])
    >>> report["uar"]["value"], report["recall"]["yes"]
    (0.75, {'value': 1.0, 'low': None, 'high': None, 'level': 0.95})
    """
    n_classes = len(labels)
    if len(set(labels)) != n_classes:
        raise ValueError(f"labels repeat: {list(labels)}; give each class its own name")
    matrix = confusion_matrix(truth, predicted, n_classes)

    def estimates(drawn: npt.NDArray[Any] | None) -> dict[str, Any]:
        samples = bootstrap(
            truth, predicted, n_classes, groups=drawn, n_resamples=n_resamples, seed=seed
        )
        names = np.arange(len(truth)) if drawn is None else drawn
        with_class = (count_per_group(names, np.asarray(truth), n_classes) > 0).sum(axis=0)
        return _estimates(matrix, samples, labels, len(np.unique(names)), with_class)

    report = {"n": len(truth), **estimates(units), "confusion": matrix.tolist()}
    if groups is not None:
        n_groups = len(np.unique(groups))
        report["by_group"] = {"n_groups": n_groups, **estimates(groups), **_warning(n_groups)}
    return report


def _estimates(
    matrix: Ints, samples: Ints, labels: Sequence[str], n_units: int, units_with_class: Ints
) -> dict[str, Any]:
    """Each metric of matrix with its interval; units are what was drawn, files or groups."""
    metrics = {
        name: _estimate(metric(matrix), metric(samples), n_units)
        for name, metric in _METRICS.items()
    }
    columns = zip(recalls(matrix), recalls(samples).T, units_with_class, strict=True)
    recall = [_estimate(*column) for column in columns]
    return {**metrics, "recall": dict(zip(labels, recall, strict=True))}


def _estimate(value: Any, samples: Floats, n_units: int) -> dict[str, float | None]:
    # A single unit drawn again and again never varies; that is ignorance, not certainty.
    low, high = interval(samples) if n_units > 1 else (math.nan, math.nan)
    return Estimate(float(value), low, high).to_json()


def _warning(n_groups: int) -> dict[str, str]:
    if n_groups >= FEW_GROUPS:
        return {}
    what = "no interval can be given" if n_groups == 1 else "the intervals are likely too narrow"
    noun = "group" if n_groups == 1 else "groups"
    text = f"only {n_groups} {noun}: {what}; test on at least {FEW_GROUPS} groups, better 20"
    return {"warning": text}

"""The report on predictions with known truth: every metric with its interval, ready for JSON."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from deepspectrumlite.decisions import Decision
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
    macro_mean,
    recalls,
    resample_counts,
    uar,
)
from deepspectrumlite.row_metrics import (
    Bools,
    average_precision,
    ccc,
    label_f1,
    mae,
    pearson,
    rmse,
    spearman,
)

# Below this, the groups drawn are too few for their spread to tell how new groups would do.
FEW_GROUPS = 5

_METRICS: dict[str, Callable[[Ints], Floats]] = {
    "uar": uar,
    "accuracy": accuracy,
    "macro_f1": macro_f1,
}
_OF_NUMBERS: dict[str, Callable[..., Floats]] = {
    "ccc": ccc,
    "pearson": pearson,
    "spearman": spearman,
    "mae": mae,
    "rmse": rmse,
}


def score_report(
    decision: Decision, target: npt.NDArray[Any], scores: npt.NDArray[Any], **options: Any
) -> dict[str, Any]:
    """The report that suits what a model gives out.

    Args:
        decision: what the scores mean
        target: (n, n_outputs), as of :meth:`deepspectrumlite.targets.Targets.encode`
        scores: (n, n_outputs)
        options: units, groups, n_resamples and seed, as of the functions below

    Returns:
        as of the function below that belongs to the output; for "ordinal" that of numbers, with
        that of one label as "classes"
    """
    output, labels = decision.output, decision.labels
    if output == "sigmoid":
        thresholds = np.asarray(decision.thresholds)
        return multilabel_report(target > 0.5, scores, thresholds, labels, **options)
    report = {}
    if output != "softmax":
        report = regression_report(target, scores, decision.columns, **options)
    if output in ("softmax", "ordinal"):
        truth, predicted = decision.classes(target), decision.classes(scores)
        classes = classification_report(truth, predicted, labels, **options)
        report = report | {"classes": classes} if report else classes
    return report


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
    _check_names("labels", labels)
    matrix = confusion_matrix(truth, predicted, n_classes)

    def estimates(drawn: npt.NDArray[Any] | None) -> dict[str, Any]:
        samples = bootstrap(
            truth, predicted, n_classes, groups=drawn, n_resamples=n_resamples, seed=seed
        )
        names = np.arange(len(truth)) if drawn is None else drawn
        with_class = (count_per_group(names, np.asarray(truth), n_classes) > 0).sum(axis=0)
        return _estimates(matrix, samples, labels, len(np.unique(names)), with_class)

    report = {"n": len(truth), **estimates(units), "confusion": matrix.tolist()}
    return report | _by_group(estimates, groups)


def regression_report(
    truth: Floats,
    predicted: Floats,
    names: Sequence[str],
    *,
    units: npt.NDArray[Any] | None = None,
    groups: npt.NDArray[Any] | None = None,
    n_resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """All metrics of predicted numbers with their 95 % intervals, ready for JSON.

    Args:
        truth: (n, n_targets) finite numbers.
        predicted: (n, n_targets) finite numbers.
        names: (n_targets,) different names of the targets.
        units: (n,) as in `classification_report`.
        groups: (n,) as in `classification_report`.
        n_resamples: how many times to resample.
        seed: of the resampling.

    Returns:
        "n" (rows), "ccc", "pearson", "spearman", "mae", "rmse", each the mean over the targets
        with "value", "low", "high", "level"; "targets": {name: the same five}. With groups also
        "by_group", as in `classification_report`. A correlation is null where truth or predicted
        is constant, and then so is its mean over the targets: leaving the target out would
        flatter a model that has learnt nothing about it.

    Raises:
        ValueError: there is no row, names repeat, a number is not finite, or the arrays do not
            fit together.

    >>> truth, predicted = np.array([[1.0], [2.0], [4.0]]), np.array([[1.0], [3.0], [2.0]])
    >>> regression_report(truth, predicted, ["arousal"])["targets"]["arousal"]["mae"]["value"]
    1.0
    """
    _check_names("names", names)
    truth, predicted = np.asarray(truth), np.asarray(predicted)
    _check_columns("truth", truth, "predicted", predicted, names)
    columns = list(zip(truth.T, predicted.T, strict=True))

    def values(metric: Callable[..., Floats], *counts: Ints) -> Floats:
        return np.stack([metric(t, p, *counts) for t, p in columns], axis=-1)

    def estimates(drawn: npt.NDArray[Any] | None) -> dict[str, Any]:
        counts = resample_counts(len(truth), units=drawn, n_resamples=n_resamples, seed=seed)
        found = {key: (values(m), values(m, counts)) for key, m in _OF_NUMBERS.items()}
        n_units = len(np.unique(_units(drawn, len(truth))))
        means = {
            key: _estimate(value.mean(), samples.mean(axis=-1), n_units)
            for key, (value, samples) in found.items()
        }
        return {**means, "targets": _by_name(names, found, [n_units] * len(names))}

    return {"n": len(truth), **estimates(units)} | _by_group(estimates, groups)


def multilabel_report(
    truth: Bools,
    scores: Floats,
    thresholds: Floats,
    labels: Sequence[str],
    *,
    units: npt.NDArray[Any] | None = None,
    groups: npt.NDArray[Any] | None = None,
    n_resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """All metrics of several labels at once with their 95 % intervals, ready for JSON.

    Args:
        truth: (n, n_labels) booleans.
        scores: (n, n_labels) finite numbers, the higher the surer.
        thresholds: (n_labels,) a label is decided where `score >= threshold`; chosen on other
            rows than these, or the F1 is too good.
        labels: (n_labels,) different names.
        units: (n,) as in `classification_report`.
        groups: (n,) as in `classification_report`.
        n_resamples: how many times to resample.
        seed: of the resampling.

    Returns:
        "n" (rows); "map", the mean average precision, and "macro_f1", each with "value", "low",
        "high", "level"; "labels": {label: "average_precision", "f1", "threshold", "positives"}.
        With groups also "by_group", as in `classification_report`, without the last two. An
        average precision is null for a label without a positive row, an F1 if it is not decided
        for any either; the means leave these out. A label all of whose positive rows are in a
        single unit (or group) has no intervals.

    Raises:
        ValueError: there is no row, labels repeat, a number is not finite, or the arrays do not
            fit together.

    >>> truth, scores = np.array([[True], [False], [True]]), np.array([[0.9], [0.8], [0.3]])
    >>> report = multilabel_report(truth, scores, np.array([0.5]), ["dog"])
    >>> report["map"]["value"], report["labels"]["dog"]["f1"]["value"]
    (0.8333333333333333, 0.5)
    """
    _check_names("labels", labels)
    truth, scores, thresholds = np.asarray(truth), np.asarray(scores), np.asarray(thresholds)
    _check_columns("truth", truth, "scores", scores, labels)
    if thresholds.shape != (len(labels),) or not np.isfinite(thresholds).all():
        raise ValueError(
            f"thresholds are {thresholds.tolist()}; give {len(labels)} finite numbers, "
            "one for each label"
        )
    decisions = scores >= thresholds

    def estimates(drawn: npt.NDArray[Any] | None) -> dict[str, Any]:
        counts = resample_counts(len(truth), units=drawn, n_resamples=n_resamples, seed=seed)
        found = {
            "average_precision": (
                average_precision(truth, scores),
                average_precision(truth, scores, counts),
            ),
            "f1": (label_f1(truth, decisions), label_f1(truth, decisions, counts)),
        }
        names = _units(drawn, len(truth))
        means = {
            mean: _estimate(macro_mean(value), macro_mean(samples), len(np.unique(names)))
            for mean, (value, samples) in zip(("map", "macro_f1"), found.values(), strict=True)
        }
        with_label = [len(np.unique(names[column])) for column in truth.T]
        return {**means, "labels": _by_name(labels, found, with_label)}

    report = {"n": len(truth), **estimates(units)}
    for label, threshold, column in zip(labels, thresholds, truth.T, strict=True):
        report["labels"][label] |= {"threshold": float(threshold), "positives": int(column.sum())}
    return report | _by_group(estimates, groups)


def _by_group(
    estimates: Callable[[npt.NDArray[Any]], dict[str, Any]], groups: npt.NDArray[Any] | None
) -> dict[str, Any]:
    if groups is None:
        return {}
    n_groups = len(np.unique(groups))
    return {"by_group": {"n_groups": n_groups, **estimates(groups), **_warning(n_groups)}}


def _units(drawn: npt.NDArray[Any] | None, n_rows: int) -> npt.NDArray[Any]:
    """(n_rows,): what each row is drawn with; by default, itself."""
    return np.arange(n_rows) if drawn is None else np.asarray(drawn)


def _by_name(
    names: Sequence[str], found: dict[str, tuple[Floats, Floats]], n_units: Sequence[int]
) -> dict[str, dict[str, Any]]:
    """Per name its estimate of each metric, from its (n_names,) and (n_resamples, n_names)."""
    return {
        name: {
            key: _estimate(value[i], samples[:, i], n_units[i])
            for key, (value, samples) in found.items()
        }
        for i, name in enumerate(names)
    }


def _check_names(what: str, names: Sequence[str]) -> None:
    if len(set(names)) != len(names):
        raise ValueError(f"{what} repeat: {list(names)}; give each class or target its own name")


def _check_columns(
    first: str,
    a: npt.NDArray[Any],
    second: str,
    b: npt.NDArray[Any],
    names: Sequence[str],
) -> None:
    if a.shape != b.shape or a.shape[1:] != (len(names),) or len(names) == 0:
        raise ValueError(
            f"{first} has shape {a.shape}, {second} {b.shape}; both must be (n, {len(names)}), "
            f"a column for each of at least one name: {list(names)}"
        )


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

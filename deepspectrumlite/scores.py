"""The report on predictions with known truth: every metric with its interval, ready for JSON."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from deepspectrumlite.decisions import Decision
from deepspectrumlite.intervals import (
    FEW_GROUPS,
    Resampled,
    few_groups,
    resample_matrices,
    resample_rows,
)
from deepspectrumlite.metrics import (
    LEVEL,
    RESAMPLES,
    Floats,
    Ints,
    accuracy,
    confusion_matrix,
    macro_f1,
    macro_mean,
    precisions,
    recalls,
    uar,
    weighted_f1,
)
from deepspectrumlite.resampling import count_per_group, number_units
from deepspectrumlite.row_metrics import (
    Bools,
    auc,
    average_precision,
    ccc,
    ece,
    label_f1,
    mae,
    pearson,
    rmse,
    spearman,
)

_METRICS: dict[str, Callable[[Ints], Floats]] = {
    "uar": uar,
    "accuracy": accuracy,
    "macro_f1": macro_f1,
    "weighted_f1": weighted_f1,
}
_OF_NUMBERS: dict[str, Callable[..., Floats]] = {
    "ccc": ccc,
    "pearson": pearson,
    "spearman": spearman,
    "mae": mae,
    "rmse": rmse,
}

# Of what is drawn (names for rows, or None for the rows themselves) and of the fewest units that
# an interval takes: the metrics with their intervals.
_Estimates = Callable[[npt.NDArray[Any] | None, int], dict[str, Any]]


def score_report(
    decision: Decision, target: npt.NDArray[Any], scores: npt.NDArray[Any], **options: Any
) -> dict[str, Any]:
    """The report that suits what a model gives out.

    Args:
        decision: what the scores mean
        target: (n, n_outputs), as of :meth:`deepspectrumlite.targets.Targets.encode`
        scores: (n, n_outputs)
        options: units, groups, n_resamples, seed and method, as of the functions below

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
        # Of ordered labels there is a number, but no probability of each.
        given = scores if output == "softmax" else None
        classes = classification_report(truth, predicted, labels, scores=given, **options)
        report = report | {"classes": classes} if report else classes
    return report


def classification_report(
    truth: Ints,
    predicted: Ints,
    labels: Sequence[str],
    *,
    scores: Floats | None = None,
    units: npt.NDArray[Any] | None = None,
    groups: npt.NDArray[Any] | None = None,
    n_resamples: int = RESAMPLES,
    seed: int = 0,
    method: str = "percentile",
) -> dict[str, Any]:
    """All metrics with their 95 % intervals, ready for JSON.

    Args:
        truth: (n_files,) indices into labels.
        predicted: (n_files,) indices into labels.
        labels: (n_classes,) different names.
        scores: (n_files, n_classes) probabilities, the highest that of predicted, if there are any.
        units: (n_files,) what is drawn for the intervals, where that is not each row by itself:
            the file that each segment was cut from, say.
        groups: (n_files,) who or what each file came from. Files of one speaker are alike, so
            intervals over files are too narrow for new speakers; "by_group" draws whole groups.
        n_resamples: how many times to resample.
        seed: of the resampling.
        method: of the intervals, "percentile" or "bca"; that of ECE is always "bca".

    Returns:
        "n" (files); "interval": "method", "level", "n_resamples"; "uar", "accuracy", "macro_f1",
        "weighted_f1", with scores "auc" and "ece", and by label "recall" and "precision", each with
        "value", "low", "high", "level"; "confusion" (rows truth, columns predicted). With groups
        also "by_group": "n_groups", the same metrics with intervals over groups, the ones to quote
        (see `quoted`), or, with fewer than 5 groups, without intervals and with a "warning". An
        interval is null where a single file (or fewer than 5 groups) is all there is to resample;
        for a recall (precision): all there is with (predicted as) that class. A recall (precision)
        is null without files of (predicted as) the class.

    Raises:
        ValueError: there is no file, labels repeat, the arrays do not fit together, or there is no
            such method.

    >>> report = classification_report(np.array([0, 0, 1]), np.array([0, 1, 1]), ["no", "yes"])
    >>> report["uar"]["value"], report["recall"]["yes"]
    (0.75, {'value': 1.0, 'low': None, 'high': None, 'level': 0.95})
    """
    n_classes = len(labels)
    _check_names("labels", labels)
    truth, predicted = np.asarray(truth), np.asarray(predicted)
    matrix = confusion_matrix(truth, predicted, n_classes)
    options: dict[str, Any] = {"n_resamples": n_resamples, "seed": seed, "method": method}

    def estimates(drawn: npt.NDArray[Any] | None, least: int) -> dict[str, Any]:
        found = resample_matrices(truth, predicted, n_classes, units=drawn, **options)
        parts = {name: found.map(metric) for name, metric in _METRICS.items()}
        if scores is not None:
            parts |= _of_scores(truth, predicted, scores, drawn, options)
        n_units = _count_units(drawn, len(truth))

        def by_class(metric: Callable[[Ints], Floats], classes: Ints) -> dict[str, Any]:
            with_class = (count_per_group(drawn, classes, n_classes) > 0).sum(axis=0)
            several = found.map(metric)
            return {
                label: _estimate(several.part(i), int(with_class[i]), least)
                for i, label in enumerate(labels)
            }

        return {
            **{name: _estimate(part, n_units, least) for name, part in parts.items()},
            "recall": by_class(recalls, truth),
            "precision": by_class(precisions, predicted),
        }

    report = _report(len(truth), estimates, units, groups, options)
    return report | {"confusion": matrix.tolist()}


def regression_report(
    truth: Floats,
    predicted: Floats,
    names: Sequence[str],
    *,
    units: npt.NDArray[Any] | None = None,
    groups: npt.NDArray[Any] | None = None,
    n_resamples: int = RESAMPLES,
    seed: int = 0,
    method: str = "percentile",
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
        method: of the intervals, "percentile" or "bca".

    Returns:
        "n" (rows) and "interval", as in `classification_report`; "ccc", "pearson", "spearman",
        "mae", "rmse", each the mean over the targets with "value", "low", "high", "level";
        "targets": {name: the same five}. With groups also "by_group", as in
        `classification_report`. A correlation is null where truth or predicted is constant, and
        then so is its mean over the targets: leaving the target out would flatter a model that has
        learnt nothing about it.

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
    options: dict[str, Any] = {"n_resamples": n_resamples, "seed": seed, "method": method}

    def metrics(counts: Ints | None = None) -> Floats:
        """(n_metrics, n_targets), with counts (n_resamples, n_metrics, n_targets)."""
        found = [[m(t, p, counts) for t, p in columns] for m in _OF_NUMBERS.values()]
        return np.stack([np.stack(row, axis=-1) for row in found], axis=-2)

    def estimates(drawn: npt.NDArray[Any] | None, least: int) -> dict[str, Any]:
        found = resample_rows(metrics, len(truth), units=drawn, **options)
        n_units = _count_units(drawn, len(truth))
        means = found.map(lambda values: values.mean(axis=-1))
        block = {
            name: _estimate(means.part(i), n_units, least) for i, name in enumerate(_OF_NUMBERS)
        }
        targets = _by_name(names, tuple(_OF_NUMBERS), found, [n_units] * len(names), least)
        return {**block, "targets": targets}

    return _report(len(truth), estimates, units, groups, options)


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
    method: str = "percentile",
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
        method: of the intervals, "percentile" or "bca".

    Returns:
        "n" (rows) and "interval", as in `classification_report`; "map", the mean average precision,
        and "macro_f1", each with "value", "low", "high", "level"; "labels": {label:
        "average_precision", "f1", "threshold", "positives"}. With groups also "by_group", as in
        `classification_report`, without the last two. An average precision is null for a label
        without a positive row, an F1 if it is not decided for any either; the means leave these
        out. A label all of whose positive rows are in a single unit (or fewer than 5 groups) has
        no intervals.

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
    options: dict[str, Any] = {"n_resamples": n_resamples, "seed": seed, "method": method}

    def metrics(counts: Ints | None = None) -> Floats:
        """(2, n_labels), with counts (n_resamples, 2, n_labels)."""
        precision = average_precision(truth, scores, counts)
        return np.stack([precision, label_f1(truth, decisions, counts)], axis=-2)

    def estimates(drawn: npt.NDArray[Any] | None, least: int) -> dict[str, Any]:
        found = resample_rows(metrics, len(truth), units=drawn, **options)
        n_units, means = _count_units(drawn, len(truth)), found.map(macro_mean)
        block = {
            name: _estimate(means.part(i), n_units, least)
            for i, name in enumerate(("map", "macro_f1"))
        }
        unit_of_row = number_units(drawn, len(truth))
        with_label = [len(np.unique(unit_of_row[column])) for column in truth.T]
        by_label = _by_name(labels, ("average_precision", "f1"), found, with_label, least)
        return {**block, "labels": by_label}

    report = _report(len(truth), estimates, units, groups, options)
    for label, threshold, column in zip(labels, thresholds, truth.T, strict=True):
        report["labels"][label] |= {"threshold": float(threshold), "positives": int(column.sum())}
    return report


def quoted(report: dict[str, Any]) -> dict[str, Any]:
    """The metrics of a report with the intervals to quote: over groups where there are enough.

    Args:
        report: of one of the functions above.

    Returns:
        "by_group" where that has at least 5 groups, for ordered labels with its own "classes";
        else the report itself.

    >>> report = classification_report(np.zeros(9, int), np.zeros(9, int), ["a"])
    >>> quoted(report) is report
    True
    """
    by_group: dict[str, Any] = report.get("by_group", {})
    if by_group.get("n_groups", 0) < FEW_GROUPS:
        return report
    if "classes" in report:
        return by_group | {"classes": quoted(report["classes"])}
    return by_group


def quoted_over(report: dict[str, Any]) -> str:
    """What the intervals of `quoted` are drawn over, for a report on files.

    >>> quoted_over({"n": 134, "by_group": {"n_groups": 6}}), quoted_over({"n": 134})
    ('6 groups', '134 files')
    """
    block = quoted(report)
    return f"{block['n_groups']} groups" if "n_groups" in block else f"{report['n']} files"


def _report(
    n_rows: int,
    estimates: _Estimates,
    units: npt.NDArray[Any] | None,
    groups: npt.NDArray[Any] | None,
    options: dict[str, Any],
) -> dict[str, Any]:
    interval = {key: options[key] for key in ("method", "n_resamples")} | {"level": LEVEL}
    # A single unit drawn again and again never varies; that is ignorance, not certainty.
    report = {"n": n_rows, "interval": interval, **estimates(units, 2)}
    if groups is None:
        return report
    n_groups = _count_units(groups, n_rows)
    warning = few_groups(n_groups)
    by_group = {"n_groups": n_groups, **estimates(groups, FEW_GROUPS)}
    return report | {"by_group": by_group | ({"warning": warning} if warning else {})}


def _of_scores(
    truth: Ints,
    predicted: Ints,
    scores: Floats,
    drawn: npt.NDArray[Any] | None,
    options: dict[str, Any],
) -> dict[str, Resampled]:
    right, confidence = truth == predicted, np.asarray(scores).max(axis=-1)

    def area(counts: Ints | None = None) -> Floats:
        return auc(truth, scores, counts)

    def error(counts: Ints | None = None) -> Floats:
        return ece(confidence, right, counts)

    # Resamples have a higher ECE than the files: percentiles of them can all lie above its value.
    corrected = options | {"method": "bca"}
    return {
        "auc": resample_rows(area, len(truth), units=drawn, **options),
        "ece": resample_rows(error, len(truth), units=drawn, **corrected),
    }


def _count_units(drawn: npt.NDArray[Any] | None, n_rows: int) -> int:
    return int(number_units(drawn, n_rows).max()) + 1


def _by_name(
    names: Sequence[str],
    metrics: Sequence[str],
    found: Resampled,
    n_units: Sequence[int],
    least: int,
) -> dict[str, dict[str, Any]]:
    """Per name its estimate of each metric, from (..., n_metrics, n_names)."""
    return {
        name: {
            metric: _estimate(found.part(j, i), n_units[i], least)
            for j, metric in enumerate(metrics)
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


def _estimate(found: Resampled, n_units: int, least: int) -> dict[str, float | None]:
    """Of a single metric, with an interval where there are enough units of what it is about."""
    return found.estimate(n_units if n_units >= least else 0).to_json()

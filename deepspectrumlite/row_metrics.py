"""Metrics over rows: of numbers (regression), of several labels at once, and of a label's scores.

Without `counts` each row counts once. With the (n_resamples, n_rows) counts of
`resampling.resample_counts` each metric gives one value a resample, in one vectorised call.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from deepspectrumlite.metrics import Floats, Ints, macro_mean, ratio

Counts = Ints | Floats
Bools = npt.NDArray[np.bool_]

# Of the scores of the label that is recognised; Guo et al. 2017, section 2.
CALIBRATION_BINS = 15


def mae(truth: Floats, predicted: Floats, counts: Counts | None = None) -> Floats:
    """(n,), (n,) -> (), with counts (n_resamples,): mean absolute error, in the unit of truth.

    `mean_i |predicted_i - truth_i|`; Hyndman & Koehler, "Another look at measures of forecast
    accuracy", Int. J. Forecasting 22, 2006, section 2.1.

    >>> float(mae(np.array([1.0, 2.0, 4.0]), np.array([1.0, 3.0, 2.0])))  # (0 + 1 + 2) / 3
    1.0
    """
    t, p, weights = _numbers(truth, predicted, counts)
    return _mean(np.abs(p - t), weights)


def rmse(truth: Floats, predicted: Floats, counts: Counts | None = None) -> Floats:
    """(n,), (n,) -> (), with counts (n_resamples,): root mean squared error, in truth's unit.

    `sqrt(mean_i (predicted_i - truth_i)^2)`; Hyndman & Koehler, "Another look at measures of
    forecast accuracy", Int. J. Forecasting 22, 2006, section 2.1.

    >>> float(rmse(np.array([1.0, 2.0]), np.array([2.0, 9.0])))  # sqrt((1 + 49) / 2)
    5.0
    """
    t, p, weights = _numbers(truth, predicted, counts)
    error: Floats = np.sqrt(_mean((p - t) ** 2, weights))
    return error


def pearson(truth: Floats, predicted: Floats, counts: Counts | None = None) -> Floats:
    """(n,), (n,) -> (), with counts (n_resamples,): the correlation coefficient r.

    `r = cov / sqrt(var_t var_p)`, NaN where truth or predicted is constant. Pearson, "Note on
    regression and inheritance in the case of two parents", Proc. R. Soc. London 58, 1895.

    >>> float(pearson(np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0])))
    0.5
    """
    return _correlation(*_numbers(truth, predicted, counts))


def spearman(truth: Floats, predicted: Floats, counts: Counts | None = None) -> Floats:
    """(n,), (n,) -> (), with counts (n_resamples,): rho, the correlation of the ranks.

    Pearson's r of the ranks within each sample, equal values sharing the mean of theirs; NaN
    where truth or predicted is constant. Spearman, "The proof and measurement of association
    between two things", Am. J. Psychology 15, 1904.

    >>> float(spearman(np.array([1.0, 2.0, 3.0]), np.array([1.0, 8.0, 27.0])))
    1.0
    """
    t, p, weights = _numbers(truth, predicted, counts)
    return _correlation(_ranks(t, weights), _ranks(p, weights), weights)


def ccc(truth: Floats, predicted: Floats, counts: Counts | None = None) -> Floats:
    """(n,), (n,) -> (), with counts (n_resamples,): concordance correlation coefficient.

    `2 cov / (var_t + var_p + (mean_t - mean_p)^2)` with moments divided by n: a correlation that
    a wrong offset or scale lowers. 0 where one of the two is constant, or both at different
    values; NaN (0/0) where both are constant and equal. Lin, "A concordance correlation
    coefficient to evaluate reproducibility", Biometrics 45, 1989.

    >>> float(ccc(np.array([0.0, 1.0]), np.array([1.0, 2.0])))  # 2/4 / (1/4 + 1/4 + 1)
    0.3333333333333333
    """
    t, p, weights = _numbers(truth, predicted, counts)
    cov, var_t, var_p = _moments(t, p, weights)
    return ratio(2 * cov, var_t + var_p + _mean(t - p, weights) ** 2)


def average_precision(truth: Bools, scores: Floats, counts: Counts | None = None) -> Floats:
    """(n, n_labels), (n, n_labels) -> (n_labels,), with counts (n_resamples, n_labels).

    `AP = sum_k (R_k - R_(k-1)) P_k` over the distinct scores k from the highest down, with recall
    R_k and precision P_k of the rows that score at least k; not interpolated. NaN for a label
    without a positive row. Its `macro_mean` is the mean average precision. Manning, Raghavan &
    Schütze, "Introduction to Information Retrieval", 2008, section 8.4.

    >>> truth, scores = np.array([[True], [False], [True]]), np.array([[0.9], [0.8], [0.3]])
    >>> average_precision(truth, scores).tolist()  # 1/2 * 1/1 + 1/2 * 2/3
    [0.8333333333333333]
    """
    scores = _finite("scores", scores)
    truth = _labelled(truth, "scores", scores)
    weights = _weights(counts, len(truth))
    columns = zip(truth.T, scores.T, strict=True)
    return np.stack([_label_precision(t, s, weights) for t, s in columns], axis=-1)


def label_auc(truth: Bools, scores: Floats, counts: Counts | None = None) -> Floats:
    """(n, n_labels), (n, n_labels) -> (n_labels,), with counts (n_resamples, n_labels).

    The area under the ROC curve of each label: the share of the pairs of a positive and a negative
    row in which the positive one scores higher, ties counted half. 0.5 is chance. NaN for a label
    without a positive or without a negative row. Hanley & McNeil, "The meaning and use of the area
    under a receiver operating characteristic (ROC) curve", Radiology 143, 1982.

    >>> truth, scores = np.array([[True], [False], [True]]), np.array([[0.9], [0.8], [0.3]])
    >>> label_auc(truth, scores).tolist()
    [0.5]
    """
    scores = _finite("scores", scores)
    truth = _labelled(truth, "scores", scores)
    weights = _weights(counts, len(truth))
    columns = zip(truth.T, scores.T, strict=True)
    return np.stack([_label_area(t, s, weights) for t, s in columns], axis=-1)


def auc(truth: Ints, scores: Floats, counts: Counts | None = None) -> Floats:
    """(n,), (n, n_classes) -> (), with counts (n_resamples,): macro AUC, one against the rest.

    The mean over the classes of `label_auc`, each class against all others, so that each counts
    alike however rare it is; a class without a row is left out. Fawcett, "An introduction to ROC
    analysis", Pattern Recognition Letters 27, 2006, section 9 (there weighted by the class's size).

    Args:
        truth: (n,) class indices.
        scores: (n, n_classes) the higher the surer.
        counts: (n_resamples, n).

    >>> scores = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.7, 0.3]])
    >>> float(auc(np.array([0, 1, 1, 0]), scores))
    1.0
    """
    scores = np.asarray(scores)
    if scores.ndim != 2 or np.shape(truth) != scores.shape[:1]:
        raise ValueError(
            f"truth has shape {np.shape(truth)}, scores {scores.shape}; "
            "they must be (n,) and (n, n_classes)"
        )
    classes = np.arange(scores.shape[1])
    return macro_mean(label_auc(np.asarray(truth)[:, np.newaxis] == classes, scores, counts))


def ece(
    confidence: Floats,
    right: Bools,
    counts: Counts | None = None,
    n_bins: int = CALIBRATION_BINS,
) -> Floats:
    """(n,), (n,) -> (), with counts (n_resamples,): expected calibration error.

    `sum_b n_b / n |right_b - confidence_b|` over bins of equal width of the confidence, with the
    share that is right and the mean confidence of each bin: how far, on the mean, "90 % sure" is
    from being right in 90 % of the rows. Guo, Pleiss, Sun & Weinberger, "On Calibration of Modern
    Neural Networks", ICML 2017, equation 3. Few rows make it too high, since the chance in each bin
    adds up, and resamples make it higher still.

    Args:
        confidence: (n,) the highest score of each row, a probability.
        right: (n,) whether that label is the true one.
        counts: (n_resamples, n).
        n_bins: how many bins.

    Raises:
        ValueError: a confidence is not between 0 and 1, or the arrays do not fit together.

    >>> float(ece(np.array([0.75, 0.75, 1.0, 1.0]), np.array([True, False, True, True])))
    0.125
    """
    confidence, right, bins = _binned(confidence, right, n_bins)
    weights = _weights(counts, len(confidence))
    gap = bins * (right - confidence)[:, np.newaxis]
    return ratio(np.abs(weights @ gap).sum(axis=-1), weights.sum(axis=-1))


def reliability(
    confidence: Floats, right: Bools, n_bins: int = CALIBRATION_BINS
) -> tuple[Floats, Floats, Ints]:
    """(n,), (n,) -> mean confidence, share right, rows: (n_bins,) each, of the bins of `ece`.

    The first two are NaN in a bin without a row: the reliability diagram of Guo et al. 2017.

    >>> confidence, right, n = reliability(np.array([0.4, 0.6, 1.0]), np.ones(3, bool), n_bins=2)
    >>> confidence.tolist(), right.tolist(), n.tolist()
    ([0.4, 0.8], [1.0, 1.0], [1, 2])
    """
    confidence, right, bins = _binned(confidence, right, n_bins)
    n_rows = bins.sum(axis=0)
    return ratio(confidence @ bins, n_rows), ratio(right @ bins, n_rows), n_rows


def label_f1(truth: Bools, decisions: Bools, counts: Counts | None = None) -> Floats:
    """(n, n_labels), (n, n_labels) -> (n_labels,), with counts (n_resamples, n_labels).

    `F1 = 2 TP / (2 TP + FP + FN)` of each label (van Rijsbergen, "Information Retrieval", 1979).
    NaN for a label that is neither in the truth nor decided, 0 where it is in only one of them.
    Its `macro_mean` is the macro F1.

    >>> truth = np.array([[True, False], [True, False], [False, False]])
    >>> label_f1(truth, np.array([[True, False], [False, False], [False, False]])).tolist()
    [0.6666666666666666, nan]
    """
    decisions = _booleans("decisions", decisions)
    truth = _labelled(truth, "decisions", decisions)
    weights = _weights(counts, len(truth))
    hits = weights @ (truth & decisions).astype(np.float64)
    return ratio(2 * hits, weights @ (truth.astype(np.float64) + decisions))


def best_thresholds(truth: Bools, scores: Floats) -> Floats:
    """(n, n_labels), (n, n_labels) -> (n_labels,): where `score >= threshold` has the best F1.

    Each lies midway between two neighbouring scores, or, where it is best to decide for every
    row, at 0.5 or the lowest score, whichever is lower. Of equally good ones the nearest to 0.5
    is taken, and 0.5 itself for a label without a positive or without a negative row. They fit
    the rows they are chosen on: the F1 to report is that of other rows. Lipton, Elkan &
    Naryanaswamy, "Optimal thresholding of classifiers to maximize F1 measure", ECML PKDD 2014.

    >>> truth, scores = np.array([[True], [True], [False]]), np.array([[0.75], [0.5], [0.25]])
    >>> best_thresholds(truth, scores).tolist()
    [0.375]
    """
    scores = _finite("scores", scores)
    truth = _labelled(truth, "scores", scores)
    weights = _weights(None, len(truth))
    columns = zip(truth.T, scores.T, strict=True)
    return np.array([_best_threshold(t, s, weights) for t, s in columns])


def _best_threshold(truth: Bools, scores: Floats, weights: Floats) -> float:
    if truth.all() or not truth.any():
        return 0.5
    found = _sum_ties(-scores, weights * truth).cumsum()
    decided = _sum_ties(-scores, weights).cumsum()
    # One correctly rounded division of whole numbers: equally good ones are exactly equal.
    f1 = 2 * found / (decided + truth.sum())
    descending = np.unique(scores)[::-1]
    upper, lower = descending[:-1], descending[1:]
    midway = (upper + lower) / 2
    # Between neighbouring floats there is nothing: midway may be rounded down to lower.
    between = np.where(midway > lower, midway, upper)
    candidates = np.append(between, min(descending[-1], 0.5))
    best = candidates[f1 == f1.max()]
    return float(best[np.abs(best - 0.5).argmin()])


def _label_precision(truth: Bools, scores: Floats, weights: Floats) -> Floats:
    """(n,), (n,), (..., n) -> (...): the average precision of one label."""
    if not truth.any():
        return np.full(weights.shape[:-1], np.nan)
    # From the highest score down, at each distinct score of a positive row.
    positives, _, through = _at_positives(truth, -scores, weights)
    # Until its first row is drawn, a resample has no precision, and no positive either.
    gained = np.where(positives > 0, positives * ratio(positives.cumsum(axis=-1), through), 0)
    return ratio(gained.sum(axis=-1), positives.sum(axis=-1))


def _label_area(truth: Bools, scores: Floats, weights: Floats) -> Floats:
    """(n,), (n,), (..., n) -> (...): the area under the ROC curve of one label."""
    if truth.all() or not truth.any():
        return np.full(weights.shape[:-1], np.nan)
    positives, before, through = _at_positives(truth, scores, weights)
    found = positives.cumsum(axis=-1)
    # Of the rows below and tied with each positive one, those that are negative.
    below, reached = before - (found - positives), through - found
    pairs = np.einsum("...i,...i->...", positives, (below + reached) / 2)
    n_positive = found[..., -1]
    return ratio(pairs, n_positive * (weights.sum(axis=-1) - n_positive))


def _at_positives(truth: Bools, values: Floats, weights: Floats) -> tuple[Floats, Floats, Floats]:
    """(n,), (n,), (..., n) -> at the distinct values of positive rows, ascending, (..., n_there).

    The weight of the positive rows there; of all rows before that value; of all rows up to it.
    """
    order = np.argsort(values, kind="stable")
    ordered, hit = values[order], np.flatnonzero(truth[order])
    _, starts = np.unique(ordered[hit], return_index=True)
    there = ordered[hit[starts]]
    ranked = np.take(weights, order, axis=-1)
    positives = np.add.reduceat(np.take(ranked, hit, axis=-1), starts, axis=-1)
    total = np.cumsum(ranked, axis=-1)
    through = np.take(total, np.searchsorted(ordered, there, side="right") - 1, axis=-1)
    first = np.searchsorted(ordered, there)
    before = np.where(first > 0, np.take(total, np.maximum(first - 1, 0), axis=-1), 0)
    return positives, before, through


def _binned(
    confidence: npt.NDArray[Any], right: npt.NDArray[Any], n_bins: int
) -> tuple[Floats, Bools, Ints]:
    """Both (n,), checked, and (n, n_bins): 1 in the bin of each row, 0 elsewhere."""
    confidence, right = _finite("confidence", confidence), _booleans("right", right)
    if confidence.ndim != 1 or confidence.shape != right.shape or n_bins < 1:
        raise ValueError(
            f"confidence has shape {confidence.shape}, right {right.shape}; "
            f"both must be (n,), and the {n_bins} bins at least 1"
        )
    # Probabilities in float32 can lie beyond 1 by a rounding error.
    if len(confidence) and not -1e-5 <= confidence.min() <= confidence.max() <= 1 + 1e-5:
        raise ValueError(
            f"confidence reaches from {confidence.min():g} to {confidence.max():g}; "
            "it must lie between 0 and 1"
        )
    # Each bin holds its upper end, the first one also 0.
    bin_of_row = np.ceil(confidence * n_bins).astype(np.int64).clip(1, n_bins) - 1
    return confidence, right, np.eye(n_bins, dtype=np.int64)[bin_of_row]


def _correlation(a: Floats, b: Floats, weights: Floats) -> Floats:
    cov, var_a, var_b = _moments(a, b, weights)
    r: Floats = np.clip(ratio(cov, np.sqrt(var_a) * np.sqrt(var_b)), -1, 1)
    return r


def _moments(a: Floats, b: Floats, weights: Floats) -> tuple[Floats, Floats, Floats]:
    """(..., n), (..., n), (..., n) -> covariance and both variances, each (...), divided by n."""
    a, b = _deviations(a, weights), _deviations(b, weights)
    return _mean(a * b, weights), _mean(a * a, weights), _mean(b * b, weights)


def _deviations(values: Floats, weights: Floats) -> Floats:
    """(n,) or (..., n), (..., n) -> (..., n): from each sample's mean; 0 if it is constant."""
    values = np.broadcast_to(values, weights.shape)
    # Seen from one of the sample's own values first: a constant is then exactly 0 throughout,
    # where subtracting its rounded mean would leave dust to be divided by dust.
    first = np.take_along_axis(values, (weights > 0).argmax(axis=-1, keepdims=True), axis=-1)
    shifted = values - first
    return shifted - _mean(shifted, weights)[..., np.newaxis]


def _ranks(values: Floats, weights: Floats) -> Floats:
    """(n,), (..., n) -> (..., n): each row's rank, from 1, in each sample; ties share the mean."""
    tied = _sum_ties(values, weights)
    ranks: Floats = tied.cumsum(axis=-1) - (tied - 1) / 2
    return ranks[..., np.unique(values, return_inverse=True)[1]]


def _sum_ties(values: Floats, weights: Floats) -> Floats:
    """(n,), (..., n) -> (..., n_distinct): the weight of each distinct value, in its order."""
    order = np.argsort(values)
    _, starts = np.unique(values[order], return_index=True)
    return np.add.reduceat(weights[..., order], starts, axis=-1)


def _mean(values: Floats, weights: Floats) -> Floats:
    """(n,) or (..., n), (..., n) -> (...): the weighted mean of each sample."""
    return ratio(np.einsum("...i,...i->...", values, weights), weights.sum(axis=-1))


def _numbers(
    truth: npt.NDArray[Any], predicted: npt.NDArray[Any], counts: Counts | None
) -> tuple[Floats, Floats, Floats]:
    """Truth (n,), predicted (n,) and weights (n,) or (n_resamples, n), all checked."""
    t, p = _finite("truth", truth), _finite("predicted", predicted)
    if t.ndim != 1 or t.shape != p.shape:
        raise ValueError(
            f"truth has shape {t.shape}, predicted {p.shape}; "
            "both must be (n,) and of the same length"
        )
    return t, p, _weights(counts, len(t))


def _labelled(truth: npt.NDArray[Any], name: str, other: npt.NDArray[Any]) -> Bools:
    """(n, n_labels), (n, n_labels) -> (n, n_labels): truth, checked."""
    truth = _booleans("truth", truth)
    if truth.ndim != 2 or truth.shape != other.shape or truth.shape[1] == 0:
        raise ValueError(
            f"truth has shape {truth.shape}, {name} {other.shape}; "
            "both must be (n, n_labels) with at least one label"
        )
    return truth


def _weights(counts: Counts | None, n_rows: int) -> Floats:
    """(n_rows,) ones, or counts (n_resamples, n_rows), as float64."""
    if n_rows == 0:
        raise ValueError("there are 0 rows; a metric needs at least 1")
    if counts is None:
        return np.ones(n_rows)
    if np.ndim(counts) != 2 or np.shape(counts)[1] != n_rows:
        raise ValueError(
            f"counts has shape {np.shape(counts)}; with {n_rows} rows it must be "
            f"(n_resamples, {n_rows})"
        )
    return np.asarray(counts, dtype=np.float64)


def _finite(name: str, values: npt.NDArray[Any]) -> Floats:
    numbers = np.asarray(values, dtype=np.float64)
    bad = np.argwhere(~np.isfinite(numbers))
    if len(bad):
        raise ValueError(
            f"{name} holds {len(bad)} values that are not finite, the first in row {bad[0][0]}; "
            "all must be finite numbers"
        )
    return numbers


def _booleans(name: str, values: npt.NDArray[Any]) -> Bools:
    flags = np.asarray(values)
    if flags.dtype != np.bool_:
        raise ValueError(f"{name} is of type {flags.dtype}; give booleans")
    return flags

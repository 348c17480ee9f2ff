"""How good is a recogniser, and how sure can one be of it: metrics with bootstrap intervals.

All metrics here are functions of the confusion matrix (rows: truth, columns: predicted) and work on
`(..., n_classes, n_classes)` stacks, so that the bootstrap is one vectorised call. Those that need
the rows (of numbers, of several labels at once, of scores) are in `row_metrics`; what is drawn for
an interval is in `intervals`.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri, stdtrit

LEVEL = 0.95
RESAMPLES = 1000

Ints = npt.NDArray[np.integer[Any]]
Floats = npt.NDArray[np.float64]


def confusion_matrix(truth: Ints, predicted: Ints, n_classes: int) -> npt.NDArray[np.int64]:
    """(n_files,), (n_files,) -> (n_classes, n_classes) counts; rows truth, columns predicted.

    Raises:
        ValueError: the arrays differ in length, are no integers, or leave 0..n_classes - 1.

    >>> confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    cells = cell_indices(truth, predicted, n_classes)
    counts = np.bincount(cells, minlength=n_classes**2).astype(np.int64)
    return counts.reshape(n_classes, n_classes)


def recalls(matrix: Ints) -> Floats:
    """(..., n_classes, n_classes) -> (..., n_classes): of each class's files, the share found.

    `recall_c = matrix[c, c] / sum_j matrix[c, j]`; NaN for a class without any true file.

    >>> recalls(np.array([[3, 1], [0, 0]])).tolist()
    [0.75, nan]
    """
    return ratio(_hits(matrix), matrix.sum(axis=-1))


def precisions(matrix: Ints) -> Floats:
    """(..., n_classes, n_classes) -> (..., n_classes): of what is called a class, the share right.

    `precision_c = matrix[c, c] / sum_i matrix[i, c]`; NaN for a class that is never predicted.

    >>> precisions(np.array([[3, 0], [1, 0]])).tolist()
    [0.75, nan]
    """
    return ratio(_hits(matrix), matrix.sum(axis=-2))


def uar(matrix: Ints) -> Floats:
    """(..., n_classes, n_classes) -> (...): unweighted average recall.

    The mean of the recalls, so that each class counts alike however rare it is; a class without
    any true file is left out. NaN without any file. Schuller, Steidl & Batliner, "The INTERSPEECH
    2009 Emotion Challenge", Proc. INTERSPEECH 2009.

    >>> float(uar(np.array([[3, 1], [1, 1]])))  # (3/4 + 1/2) / 2
    0.625
    """
    return macro_mean(recalls(matrix))


def accuracy(matrix: Ints) -> Floats:
    """(..., n_classes, n_classes) -> (...): the share of files recognised; NaN without any.

    `sum_c matrix[c, c] / sum_ij matrix[i, j]`

    >>> float(accuracy(np.array([[4, 1], [2, 1]])))
    0.625
    """
    return ratio(_hits(matrix).sum(axis=-1), matrix.sum(axis=(-2, -1)))


def macro_f1(matrix: Ints) -> Floats:
    """(..., n_classes, n_classes) -> (...): the mean over classes of the F1 score.

    `F1_c = 2 matrix[c, c] / (sum_j matrix[c, j] + sum_i matrix[i, c])`, the harmonic mean of
    precision and recall (van Rijsbergen, "Information Retrieval", 1979). A class that is neither
    in the truth nor predicted is left out; one that is in only one of them counts as 0.

    >>> float(macro_f1(np.array([[2, 0, 0], [2, 0, 0], [0, 0, 0]])))  # (2/3 + 0) / 2
    0.3333333333333333
    """
    return macro_mean(_f1(matrix))


def weighted_f1(matrix: Ints) -> Floats:
    """(..., n_classes, n_classes) -> (...): the mean F1 score, weighted by each class's files.

    `sum_c n_c F1_c / sum_c n_c` with `n_c = sum_j matrix[c, j]` and F1 as in `macro_f1`. Like
    accuracy, it favours large classes. NaN without any file.

    >>> float(weighted_f1(np.array([[2, 0, 0], [2, 0, 0], [0, 0, 0]])))  # (2 * 2/3 + 2 * 0) / 4
    0.3333333333333333
    """
    n_files = matrix.sum(axis=-1)
    # A class without files has no weight; its F1 may be NaN.
    weighted = np.where(n_files > 0, n_files * _f1(matrix), 0)
    return ratio(weighted.sum(axis=-1), n_files.sum(axis=-1))


def interval(
    samples: npt.NDArray[Any], level: float = LEVEL, n_units: int | None = None
) -> tuple[float, float]:
    """(n_resamples,) -> (low, high): the percentile interval, resamples that are NaN left out.

    Efron & Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13. (NaN, NaN) where all
    are NaN. A metric that is the same in each resample (all files right) has an interval of no
    width: this bootstrap cannot see beyond the files that it is given.

    Args:
        samples: (n_resamples,) the metric of each resample.
        level: how often the interval is to hold the true value.
        n_units: how many files or groups were drawn. If given, the interval is widened for their
            small number: see `tails`.

    Raises:
        ValueError: level is not between 0 and 1.

    >>> interval(np.arange(101), level=0.5)
    (25.0, 75.0)
    """
    z = tails(level, n_units)
    known = samples[~np.isnan(samples)]
    if len(known) == 0:
        return math.nan, math.nan
    low, high = np.quantile(known, ndtr(z))
    return float(low), float(high)


def tails(level: float = LEVEL, n_units: int | None = None) -> Floats:
    """(2,): where an interval ends, in standard deviations of the resamples: -z and z.

    Without n_units they are the normal distribution's. The resamples of n units spread too little
    by `sqrt((n - 1) / n)`, as a variance divided by n does, and n units know their own spread only
    as well as Student's t tells. The expanded percentile interval therefore ends at
    `sqrt(n / (n - 1)) t_(n - 1)`: Hesterberg, "What Teachers Should Know About the Bootstrap",
    The American Statistician 69, 2015. With 100 units that changes next to nothing, with 5 an
    interval is half as wide again.

    Raises:
        ValueError: level is not between 0 and 1.

    >>> tails(0.95).round(2).tolist(), tails(0.95, n_units=5).round(2).tolist()
    ([-1.96, 1.96], [-3.1, 3.1])
    """
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; it must lie between 0 and 1, say 0.95")
    z = float(ndtri((1 + level) / 2))
    if n_units is not None and n_units > 1:
        z = float(stdtrit(n_units - 1, (1 + level) / 2)) * math.sqrt(n_units / (n_units - 1))
    return np.array([-z, z])


@dataclass(frozen=True)
class Estimate:
    """A metric's value with its interval, which holds the true value with probability `level`.

    >>> print(Estimate(0.7131, 0.642, 0.781))
    0.713 [0.642, 0.781]
    """

    value: float
    low: float
    high: float
    level: float = LEVEL

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def to_json(self) -> dict[str, float | None]:
        """The fields by name, with None for NaN, which JSON does not know.

        >>> Estimate(0.5, math.nan, math.nan).to_json()
        {'value': 0.5, 'low': None, 'high': None, 'level': 0.95}
        """
        return {k: None if math.isnan(v) else v for k, v in asdict(self).items()}


def cell_indices(truth: Ints, predicted: Ints, n_classes: int) -> npt.NDArray[np.int64]:
    """(n_files,), (n_files,) -> (n_files,): each file's index into the flattened matrix.

    Raises:
        ValueError: as of `confusion_matrix`.

    >>> cell_indices(np.array([0, 1]), np.array([1, 1]), 2).tolist()
    [1, 3]
    """
    rows, columns = np.asarray(truth), np.asarray(predicted)
    if rows.ndim != 1 or rows.shape != columns.shape:
        raise ValueError(
            f"truth has shape {rows.shape}, predicted {columns.shape}; "
            "both must be (n_files,) and of the same length"
        )
    for name, array in (("truth", rows), ("predicted", columns)):
        if not np.issubdtype(array.dtype, np.integer):
            raise ValueError(f"{name} is of type {array.dtype}; give class indices, integers")
        if array.size and not 0 <= array.min() <= array.max() < n_classes:
            raise ValueError(
                f"{name} holds classes {array.min()} to {array.max()}; "
                f"with {n_classes} classes they must be 0 to {n_classes - 1}"
            )
    # Widened first: uint8, say, would overflow from 16 classes on.
    return rows.astype(np.int64) * n_classes + columns.astype(np.int64)


def _hits(matrix: Ints) -> Ints:
    """(..., n_classes, n_classes) -> (..., n_classes)."""
    return np.diagonal(matrix, axis1=-2, axis2=-1)


def _f1(matrix: Ints) -> Floats:
    """(..., n_classes, n_classes) -> (..., n_classes); NaN for a class that is nowhere."""
    return ratio(2 * _hits(matrix), matrix.sum(axis=-1) + matrix.sum(axis=-2))


def ratio(part: npt.NDArray[Any], whole: npt.NDArray[Any]) -> Floats:
    """Part / whole of the same shape; NaN, without numpy's warning, where whole is 0.

    >>> ratio(np.array([1, 0]), np.array([4, 0])).tolist()
    [0.25, nan]
    """
    empty = np.full(np.shape(whole), np.nan)
    quotient: Floats = np.divide(part, whole, out=empty, where=np.asarray(whole) > 0)[()]
    return quotient


def macro_mean(per_class: Floats) -> Floats:
    """(..., n_classes) -> (...): the mean over the classes that are not NaN; NaN if all are.

    >>> float(macro_mean(np.array([1.0, 0.5, np.nan])))
    0.75
    """
    present = ~np.isnan(per_class)
    return ratio(np.where(present, per_class, 0).sum(axis=-1), present.sum(axis=-1))

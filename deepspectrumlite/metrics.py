"""How good is a recogniser, and how sure can one be of it: metrics with bootstrap intervals.

All metrics here are functions of the confusion matrix (rows: truth, columns: predicted) and work on
`(..., n_classes, n_classes)` stacks, so that the bootstrap is one vectorised call. Those of numbers
and of several labels at once are in `row_metrics`; `resample_counts` is their bootstrap.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

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
    cells = _cells(truth, predicted, n_classes)
    counts = np.bincount(cells, minlength=n_classes**2).astype(np.int64)
    return counts.reshape(n_classes, n_classes)


def recalls(matrix: Ints) -> Floats:
    """(..., n_classes, n_classes) -> (..., n_classes): of each class's files, the share found.

    `recall_c = matrix[c, c] / sum_j matrix[c, j]`; NaN for a class without any true file.

    >>> recalls(np.array([[3, 1], [0, 0]])).tolist()
    [0.75, nan]
    """
    return ratio(_hits(matrix), matrix.sum(axis=-1))


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
    return macro_mean(ratio(2 * _hits(matrix), matrix.sum(axis=-1) + matrix.sum(axis=-2)))


def bootstrap(
    truth: Ints,
    predicted: Ints,
    n_classes: int,
    *,
    groups: npt.NDArray[Any] | None = None,
    n_resamples: int = RESAMPLES,
    seed: int = 0,
) -> npt.NDArray[np.int64]:
    """Confusion matrices of resampled files, or of whole resampled groups (say, speakers).

    Efron & Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 6 (files) and 8 (groups
    as the units drawn). The draw is not stratified: a resample can lack a rare class.

    Args:
        truth: (n_files,) class indices.
        predicted: (n_files,) class indices.
        n_classes: how many classes there are.
        groups: (n_files,) names or numbers; as many groups as there are get drawn with
            replacement, so that the number of files varies between resamples.
        n_resamples: how many times to resample.
        seed: the same seed gives the same resamples.

    Returns:
        (n_resamples, n_classes, n_classes)

    Raises:
        ValueError: there is no file, n_resamples < 1, or the arrays do not fit together.

    >>> bootstrap(np.array([0, 1]), np.array([0, 1]), 2, n_resamples=3).sum(axis=(1, 2)).tolist()
    [2, 2, 2]
    """
    cells = _cells(truth, predicted, n_classes)
    _check_draw(len(cells), "files", n_resamples)
    rng = np.random.default_rng(seed)
    present, cell_of_file = np.unique(cells, return_inverse=True)
    samples = np.zeros((n_resamples, n_classes**2), dtype=np.int64)
    if groups is None:
        # Files in the same cell are interchangeable: drawing files is drawing cells.
        samples[:, present] = _draw(rng, np.bincount(cell_of_file), n_resamples)
    else:
        per_group = count_per_group(groups, cell_of_file, len(present))
        # So are groups with the same counts; groups of one file each are the case above.
        distinct, copies = np.unique(per_group, axis=0, return_counts=True)
        drawn = _draw(rng, copies, n_resamples)
        # As float64, where BLAS helps and counts below 2**53 are exact.
        samples[:, present] = drawn.astype(np.float64) @ distinct.astype(np.float64)
    return samples.reshape(n_resamples, n_classes, n_classes)


def resample_counts(
    n_rows: int,
    *,
    units: npt.NDArray[Any] | None = None,
    n_resamples: int = RESAMPLES,
    seed: int = 0,
) -> npt.NDArray[np.int32]:
    """How often each row is in each resample: the bootstrap for metrics that need the rows.

    Efron & Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 6 (rows) and 8 (units).

    Args:
        n_rows: how many rows there are.
        units: (n_rows,) names or numbers of what is drawn instead of rows (files that segments
            come from, or speakers); as many units as there are get drawn with replacement, each
            with all its rows, so that the number of rows varies between resamples.
        n_resamples: how many times to resample.
        seed: the same seed gives the same resamples.

    Returns:
        (n_resamples, n_rows)

    Raises:
        ValueError: there is no row, n_resamples < 1, or units is not (n_rows,).

    >>> counts = resample_counts(3, units=np.array(["a", "b", "b"]), n_resamples=4)
    >>> (counts[:, 0] + counts[:, 1]).tolist(), (counts[:, 1] - counts[:, 2]).tolist()
    ([2, 2, 2, 2], [0, 0, 0, 0])
    """
    _check_draw(n_rows, "rows", n_resamples)
    names = np.arange(n_rows) if units is None else np.asarray(units)
    if names.shape != (n_rows,):
        raise ValueError(
            f"the units or groups have shape {names.shape}, but there are {n_rows} rows; "
            "give one for each row"
        )
    _, unit_of_row, rows = np.unique(names, return_inverse=True, return_counts=True)
    drawn = _draw(np.random.default_rng(seed), np.ones_like(rows), n_resamples)
    return drawn.astype(np.int32)[:, unit_of_row]


def interval(samples: npt.NDArray[Any], level: float = LEVEL) -> tuple[float, float]:
    """(n_resamples,) -> (low, high): the percentile interval, resamples that are NaN left out.

    Efron & Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13. (NaN, NaN) where all
    are NaN. A metric that is the same in each resample (all files right) has an interval of no
    width: this bootstrap cannot see beyond the files that it is given.

    Raises:
        ValueError: level is not between 0 and 1.

    >>> interval(np.arange(101), level=0.5)
    (25.0, 75.0)
    """
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; it must lie between 0 and 1, say 0.95")
    known = samples[~np.isnan(samples)]
    if len(known) == 0:
        return math.nan, math.nan
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


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


def _cells(truth: Ints, predicted: Ints, n_classes: int) -> npt.NDArray[np.int64]:
    """(n_files,), (n_files,) -> (n_files,): each file's index into the flattened matrix."""
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


def _check_draw(n: int, what: str, n_resamples: int) -> None:
    if n < 1 or n_resamples < 1:
        raise ValueError(f"cannot resample {n} {what} {n_resamples} times; both must be at least 1")


def _draw(rng: np.random.Generator, copies: Ints, n_resamples: int) -> npt.NDArray[np.int64]:
    """(n_kinds,) -> (n_resamples, n_kinds): how often each kind is drawn, with replacement."""
    total = copies.sum()
    return rng.multinomial(total, copies / total, size=n_resamples)


def count_per_group(groups: npt.NDArray[Any], kind: Ints, n_kinds: int) -> npt.NDArray[np.int64]:
    """(n_files,), (n_files,) -> (n_groups, n_kinds): the files of each kind in each group."""
    if np.shape(groups) != kind.shape:
        raise ValueError(
            f"groups has shape {np.shape(groups)}, but there are {len(kind)} files; "
            "give one group for each file"
        )
    names, group_of_file = np.unique(groups, return_inverse=True)
    counts = np.zeros((len(names), n_kinds), dtype=np.int64)
    np.add.at(counts, (group_of_file, kind), 1)
    return counts


def _hits(matrix: Ints) -> Ints:
    """(..., n_classes, n_classes) -> (..., n_classes)."""
    return np.diagonal(matrix, axis1=-2, axis2=-1)


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

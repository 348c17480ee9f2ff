"""How sure one can be of a metric: intervals and p-values of what `resampling` draws.

Percentile and BCa intervals, both widened where few files or groups were drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri, stdtr

from deepspectrumlite.metrics import (
    LEVEL,
    RESAMPLES,
    Estimate,
    Floats,
    Ints,
    interval,
    tails,
)
from deepspectrumlite.resampling import bootstrap, count_blocks, kinds_of_units, left_out_blocks

# Below this, the groups drawn are too few for their spread to tell how new groups would do.
FEW_GROUPS = 5
METHODS = ("percentile", "bca")

Metric = Callable[[npt.NDArray[Any]], Floats]


@dataclass(frozen=True)
class Resampled:
    """One or several metrics, or what they are computed from, of the data and of resamples of it.

    Attributes:
        value: (...) of the data itself
        samples: (n_resamples, ...) of each resample
        left_out: (n_left_out, ...) of the data without one unit, for BCa; None for percentiles
        copies: (n_left_out,) how many units each of them stands for
    """

    value: npt.NDArray[Any]
    samples: npt.NDArray[Any]
    left_out: npt.NDArray[Any] | None = None
    copies: Ints | None = None

    def map(self, function: Metric) -> Resampled:
        """The same of another metric: function takes (..., k) stacks to (..., m) or (...).

        >>> Resampled(np.ones(2), np.zeros((5, 2))).map(lambda x: x.sum(axis=-1)).samples.shape
        (5,)
        """
        left_out = None if self.left_out is None else function(self.left_out)
        return Resampled(function(self.value), function(self.samples), left_out, self.copies)

    def part(self, *index: int) -> Resampled:
        """(..., k) -> (...): one of several metrics, by its index from the end of the shape."""
        at: tuple[Any, ...] = (..., *index)
        return self.map(lambda values: values[at])

    def estimate(self, n_units: int, level: float = LEVEL) -> Estimate:
        """The value of a single metric with its interval, widened for few units: `metrics.tails`.

        Without an interval where a single unit is all there is: drawn again and again it never
        varies, but that is ignorance, not certainty. For 0 units likewise.
        """
        value = float(self.value)
        if n_units < 2:
            return Estimate(value, math.nan, math.nan, level)
        if self.left_out is None:
            return Estimate(value, *interval(self.samples, level, n_units), level)
        ends = bca_interval(value, self.samples, self.left_out, self.copies, level, n_units)
        return Estimate(value, *ends, level)


def resample_matrices(
    truth: Ints,
    predicted: Ints,
    n_classes: int,
    *,
    units: npt.NDArray[Any] | None = None,
    n_resamples: int = RESAMPLES,
    seed: int = 0,
    method: str = "percentile",
) -> Resampled:
    """The confusion matrix of the files, of `bootstrap`, and for "bca" without each unit.

    Raises:
        ValueError: as of `bootstrap`, or there is no such method.
    """
    check_method(method)
    samples = bootstrap(
        truth, predicted, n_classes, groups=units, n_resamples=n_resamples, seed=seed
    )
    cells, distinct, copies = kinds_of_units(truth, predicted, n_classes, units)
    matrix = np.zeros((1, n_classes**2), dtype=np.int64)
    matrix[:, cells] = copies @ distinct
    left_out = None
    if method == "bca":
        left_out = np.repeat(matrix, len(copies), axis=0)
        left_out[:, cells] -= distinct
        left_out = left_out.reshape(-1, n_classes, n_classes)
    return Resampled(matrix.reshape(n_classes, n_classes), samples, left_out, copies)


def resample_rows(
    metric: Callable[..., Floats],
    n_rows: int,
    *,
    units: npt.NDArray[Any] | None = None,
    n_resamples: int = RESAMPLES,
    seed: int = 0,
    method: str = "percentile",
) -> Resampled:
    """A metric of rows, of resampled rows or units, and for "bca" without each unit.

    Args:
        metric: without an argument (...), with counts (n, n_rows) -> (n, ...).
        n_rows: how many rows there are.
        units: (n_rows,) as in `resample_counts`.
        n_resamples: how many times to resample.
        seed: the same seed gives the same resamples.
        method: of the interval, one of `METHODS`.

    Raises:
        ValueError: as of `resample_counts`, or there is no such method.

    >>> values = np.array([1.0, 2.0, 6.0])
    >>> def mean(counts=np.ones(3)):
    ...     return counts @ values / counts.sum(axis=-1)
    >>> found = resample_rows(mean, 3, method="bca")
    >>> float(found.value), found.left_out.tolist(), found.samples.shape
    (3.0, [4.0, 3.5, 1.5], (1000,))
    """
    check_method(method)
    blocks = count_blocks(n_rows, units=units, n_resamples=n_resamples, seed=seed)
    samples = np.concatenate([metric(counts) for counts in blocks])
    left_out = None
    if method == "bca":
        left_out = np.concatenate([metric(c) for c in left_out_blocks(n_rows, units)])
    return Resampled(metric(), samples, left_out)


def bca_interval(
    value: float,
    samples: Floats,
    left_out: Floats,
    copies: Ints | None = None,
    level: float = LEVEL,
    n_units: int | None = None,
) -> tuple[float, float]:
    """(low, high): the bias-corrected and accelerated interval, which also suits skewed metrics.

    Efron, "Better Bootstrap Confidence Intervals", J. Am. Stat. Assoc. 82, 1987; Efron &
    Tibshirani, "An Introduction to the Bootstrap", 1993, equations 14.9 to 14.15. NaN values are
    left out. (NaN, NaN) where the value or all resamples are NaN.

    Args:
        value: the metric of the data.
        samples: (n_resamples,) the metric of each resample.
        left_out: (n_left_out,) the metric without one unit.
        copies: (n_left_out,) how many units each of them stands for; by default one.
        level: how often the interval is to hold the true value.
        n_units: as in `metrics.interval`.

    Raises:
        ValueError: level is not between 0 and 1.
    """
    z = tails(level, n_units)
    known = samples[~np.isnan(samples)]
    if len(known) == 0 or math.isnan(value):
        return math.nan, math.nan
    bias, acceleration = _bias(value, known), _acceleration(left_out, copies)
    # Against a division by 0, which takes an odder distribution than any that was seen.
    shrink = np.maximum(1 - acceleration * (bias + z), 1e-9)
    low, high = np.quantile(known, ndtr(bias + (bias + z) / shrink))
    return float(low), float(high)


def p_value(found: Resampled, n_units: int, null: float = 0.0) -> float:
    """Of a single metric, against the hypothesis that its true value is null; two-sided.

    The interval turned round: 1 - p is the level at which the interval of `Resampled.estimate` just
    reaches null, so that p < 0.05 where the 95 % interval leaves null out. Davison & Hinkley,
    "Bootstrap Methods and their Application", 1997, section 5.4 (tests from intervals) and
    equation 4.11: a share of k of n resamples counts as (k + 1) / (n + 1), since p is never 0 but
    at least `smallest_p`. With few units that is so much that the interval can leave null out while
    p is above 0.05. NaN for fewer than 2 units, and where all resamples are NaN.

    >>> found = Resampled(np.array(2.0), np.random.default_rng(0).normal(2, 1, 100_000))
    >>> round(p_value(found, n_units=1000), 3)  # 2 Phi(-2) = 0.046
    0.046
    """
    known = found.samples[~np.isnan(found.samples)]
    if n_units < 2 or len(known) == 0 or np.isnan(found.value):
        return math.nan
    counts = (known <= null).sum(), (known >= null).sum()
    z = float(ndtri(min((min(counts) + 1) / (len(known) + 1), 0.5)))
    if counts[1] < counts[0]:
        z = -z
    if found.left_out is not None:
        bias = _bias(float(found.value), known)
        acceleration = _acceleration(found.left_out, found.copies)
        z = (z - bias) / max(1 + acceleration * (z - bias), 1e-9) - bias
    return _two_sided(z, n_units)


def smallest_p(n_units: int, n_resamples: int) -> float:
    """What `p_value` gives where not one resample reaches null: no p can be smaller.

    Of percentiles: of "bca" p can be a little larger or smaller, by its corrections. The fewer the
    units, the larger it is, however much they agree. NaN for fewer than 2 units.

    Args:
        n_units: how many files or groups were drawn
        n_resamples: how many resamples have a value

    Raises:
        ValueError: n_resamples < 1

    >>> round(smallest_p(5, 1000), 4), round(smallest_p(5, 10_000), 4)
    (0.0506, 0.0292)
    >>> round(smallest_p(20, 1000), 4), round(smallest_p(1000, 1000), 4)
    (0.0072, 0.0021)
    """
    if n_resamples < 1:
        raise ValueError(f"there is no p-value of {n_resamples} resamples; give at least 1")
    return math.nan if n_units < 2 else _two_sided(float(ndtri(1 / (n_resamples + 1))), n_units)


def few_groups(n_groups: int) -> str | None:
    """What to know where there are too few groups for an interval over groups; None if enough.

    >>> few_groups(5) is None
    True
    """
    if n_groups >= FEW_GROUPS:
        return None
    noun = "group" if n_groups == 1 else "groups"
    return (
        f"only {n_groups} {noun}: too few for intervals over groups, and intervals over files say "
        f"nothing about new groups; test on at least {FEW_GROUPS} groups, better 20"
    )


def check_method(method: str) -> None:
    """Refuse a method of intervals that there is not.

    Raises:
        ValueError: it is none of `METHODS`.
    """
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; it must be one of {', '.join(METHODS)}")


def _two_sided(z: float, n_units: int) -> float:
    """The p-value of a z of the resamples: back from the widened ends of `metrics.tails`."""
    return 2 * float(stdtr(n_units - 1, -abs(z) * math.sqrt((n_units - 1) / n_units)))


def _bias(value: float, samples: Floats) -> float:
    """How far the median resample lies from the value, in standard deviations (z0)."""
    # Of resamples as good as the value half count as below it.
    below = ((samples < value).mean() + (samples <= value).mean()) / 2
    least = 1 / (len(samples) + 1)
    return float(ndtri(min(max(below, least), 1 - least)))


def _acceleration(left_out: Floats, copies: Ints | None) -> float:
    """How fast the standard error changes with the value (a), by the jackknife."""
    known = ~np.isnan(left_out)
    weights = np.ones(len(left_out)) if copies is None else copies
    values, weights = left_out[known], weights[known]
    if len(values) == 0:
        return 0.0
    apart = np.average(values, weights=weights) - values
    # Rounding apart, the metric does not depend on any unit.
    if np.abs(apart).max() <= 1e-12 * np.abs(values).max():
        return 0.0
    cubes, squares = weights @ apart**3, weights @ apart**2
    return float(cubes / (6 * squares**1.5))

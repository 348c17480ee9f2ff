"""Is one system better than another, and better than chance: tests on the same files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import bdtr

from deepspectrumlite.decisions import Decision
from deepspectrumlite.intervals import FEW_GROUPS, few_groups, p_value, resample_rows
from deepspectrumlite.metrics import RESAMPLES, Estimate, Floats, Ints, macro_mean, ratio
from deepspectrumlite.resampling import number_units
from deepspectrumlite.row_metrics import Bools, average_precision, ccc

# By the output of a model, the metric to compare by.
MAIN_METRIC = {"softmax": "UAR", "sigmoid": "MAP", "linear": "CCC", "ordinal": "CCC"}


@dataclass(frozen=True)
class Comparison:
    """Two systems on the same files.

    Attributes:
        metric: "UAR", "MAP" or "CCC"
        a: of the first system, with its interval
        b: of the second system
        difference: a - b, with the paired interval
        p_value: two-sided, of the hypothesis that there is no difference; NaN where unknown
        over: what was drawn, "6 groups" or "134 files"
        warning: what to know before relying on it
    """

    metric: str
    a: Estimate
    b: Estimate
    difference: Estimate
    p_value: float
    over: str
    warning: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields by name, with None for NaN."""
        estimates = {key: getattr(self, key).to_json() for key in ("a", "b", "difference")}
        p = None if np.isnan(self.p_value) else self.p_value
        return asdict(self) | estimates | {"p_value": p}


def main_metric(
    decision: Decision, target: Floats, scores: Floats, counts: Ints | None = None
) -> Floats:
    """The metric of `MAIN_METRIC` over files: (), or with counts (n_resamples,).

    Args:
        decision: what the scores mean
        target: (n_files, n_outputs), as of :meth:`deepspectrumlite.targets.Targets.encode`
        scores: (n_files, n_outputs)
        counts: (n_resamples, n_files), how often each file is in each resample

    >>> decision, target = Decision("softmax", ["a", "b"]), np.array([[1, 0], [0, 1], [0, 1]])
    >>> float(main_metric(decision, target, np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])))
    0.75
    """
    if decision.output == "sigmoid":
        return macro_mean(average_precision(target > 0.5, scores, counts))
    if decision.output == "softmax":
        weights = np.ones(len(target)) if counts is None else counts.astype(np.float64)
        right = decision.classes(target) == decision.classes(scores)
        return macro_mean(ratio(weights @ (target * right[:, np.newaxis]), weights @ target))
    columns = zip(target.T, scores.T, strict=True)
    found: Floats = np.mean([ccc(truth, value, counts) for truth, value in columns], axis=0)
    return found


def paired_difference(
    decision: Decision,
    target: Floats,
    scores_a: Floats,
    scores_b: Floats,
    *,
    groups: npt.NDArray[Any] | None = None,
    n_resamples: int = RESAMPLES,
    seed: int = 0,
    method: str = "percentile",
) -> Comparison:
    """How much better the first system is than the second, by the paired bootstrap.

    Each resample holds the same files for both, so that what is hard for both does not widen the
    interval of the difference. Efron & Tibshirani, "An Introduction to the Bootstrap", 1993,
    chapter 8; Berg-Kirkpatrick, Burkett & Klein, "An Empirical Investigation of Statistical
    Significance in NLP", EMNLP 2012. The p-value is that of :func:`intervals.p_value`: the interval
    turned round.

    Args:
        decision: what the scores mean
        target: (n_files, n_outputs), as in :func:`main_metric`
        scores_a: (n_files, n_outputs), of the first system
        scores_b: the same of the second
        groups: (n_files,) who or what each file came from. Whole groups are drawn; where there are
            fewer than 5, files, with a warning
        n_resamples: how many times to resample
        seed: the same seed gives the same resamples
        method: of the intervals, "percentile" or "bca"

    Raises:
        ValueError: the arrays do not fit together, or there is no such method

    >>> decision, target = Decision("softmax", ["a", "b"]), np.eye(2)[np.arange(100) % 2]
    >>> coin = np.eye(2)[np.arange(100) // 2 % 2]
    >>> found = paired_difference(decision, target, target, coin)
    >>> print(found.difference.value, found.p_value < 0.01, found.over)
    0.5 True 100 files
    """
    if not len(target) == len(scores_a) == len(scores_b):
        raise ValueError(
            f"there are {len(target)} targets, {len(scores_a)} and {len(scores_b)} scores; "
            "give both systems' scores of the same files"
        )
    n_groups = 0 if groups is None else int(number_units(groups, len(target)).max()) + 1
    by_group = n_groups >= FEW_GROUPS

    def metric(counts: Ints | None = None) -> Floats:
        """(3,) or (n_resamples, 3): a, b, and a - b."""
        a, b = (main_metric(decision, target, s, counts) for s in (scores_a, scores_b))
        return np.stack([a, b, a - b], axis=-1)

    found = resample_rows(
        metric,
        len(target),
        units=groups if by_group else None,
        n_resamples=n_resamples,
        seed=seed,
        method=method,
    )
    parts = [found.part(i) for i in range(3)]
    n_units = n_groups if by_group else len(target)
    a, b, difference = (part.estimate(n_units) for part in parts)
    return Comparison(
        metric=MAIN_METRIC[decision.output],
        a=a,
        b=b,
        difference=difference,
        p_value=p_value(parts[2], n_units),
        over=f"{n_units} {'groups' if by_group else 'files'}",
        warning=None if groups is None else few_groups(n_groups),
    )


def mcnemar(right_a: Bools, right_b: Bools) -> float:
    """(n_files,), (n_files,) -> p-value: do two systems differ in accuracy? Two-sided, exact.

    Only the files count that one system gets right and the other wrong; were both equally good,
    half of these would go to each: the binomial test. The files must be independent: not for
    several files of a speaker. McNemar, "Note on the sampling error of the difference between
    correlated proportions or percentages", Psychometrika 12, 1947; Dietterich, "Approximate
    Statistical Tests for Comparing Supervised Classification Learning Algorithms", Neural
    Computation 10, 1998. 1 where no file tells the systems apart.

    Raises:
        ValueError: the arrays are not booleans, (n_files,) and of the same length

    >>> a, b = np.array([True] * 8), np.array([False] * 6 + [True] * 2)
    >>> mcnemar(a, b)  # 2 / 2**6
    0.03125
    """
    a, b = np.asarray(right_a), np.asarray(right_b)
    if a.ndim != 1 or a.shape != b.shape or {a.dtype, b.dtype} != {np.dtype(np.bool_)}:
        raise ValueError(
            f"the systems' results are {a.dtype} {a.shape} and {b.dtype} {b.shape}; "
            "give whether each of the same files is right, booleans (n_files,)"
        )
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    return float(min(1.0, 2 * bdtr(min(only_a, only_b), only_a + only_b, 0.5)))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values of several comparisons, corrected: below 0.05, all of them hold together at 5 %.

    The smallest times m, the next one times m - 1, and so on, none below the one before, at most
    1: the chance that any is significant where there is no difference stays under the level,
    however the tests depend on each other. NaN stays, and does not count. Holm, "A simple
    sequentially rejective multiple test procedure", Scand. J. Statistics 6, 1979.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=np.float64)
    corrected = np.full(len(p), np.nan)
    order = np.argsort(p, kind="stable")[: int((~np.isnan(p)).sum())]
    scaled = p[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return [float(value) for value in corrected]


def permutation_test(
    decision: Decision,
    target: Floats,
    scores: Floats,
    *,
    groups: npt.NDArray[Any] | None = None,
    n: int = 1000,
    seed: int = 0,
) -> float:
    """P-value of the main metric against chance: how often shuffled truth fits as well.

    One-sided, `(k + 1) / (n + 1)` with k of n shuffles at least as good, so never 0: Phipson &
    Smyth, "Permutation P-values Should Never Be Zero", Stat. Appl. Genet. Mol. Biol. 9, 2010; Ojala
    & Garriga, "Permutation Tests for Studying Classifier Performance", J. Mach. Learn. Res. 11,
    2010.

    Files of one group are alike, so its files must not be shuffled among others' as if they were
    independent. Groups with different truth inside (a speaker in several moods) are shuffled
    inside, each by itself. Groups with the same truth throughout (a speaker who is ill or not)
    swap it as a whole with each other, however many files they have. Recognising the groups
    themselves is then no success. Compare the exchangeability blocks of Winkler et al.,
    "Multi-level block permutation", NeuroImage 123, 2015.

    Args:
        decision: what the scores mean
        target: (n_files, n_outputs), as in :func:`main_metric`
        scores: (n_files, n_outputs)
        groups: (n_files,) who or what each file came from
        n: how many times to shuffle
        seed: of the shuffling

    Returns:
        p; NaN where the metric itself is (no file has a label, or truth and numbers are constant)

    Raises:
        ValueError: n < 1, or the arrays do not fit together

    >>> decision, target = Decision("softmax", ["a", "b"]), np.eye(2)[np.arange(20) % 2]
    >>> permutation_test(decision, target, target, n=99)
    0.01
    """
    if n < 1:
        raise ValueError(f"cannot shuffle {n} times; give at least 1")
    rng = np.random.default_rng(seed)
    value = float(main_metric(decision, target, scores))
    if np.isnan(value):
        return float("nan")
    groups = np.zeros(len(target)) if groups is None else groups
    inside, whole = _blocks(target, number_units(groups, len(target)))
    # As good but for the rounding of a sum in another order.
    least = value - 1e-9
    as_good = 0
    for _ in range(n):
        shuffled = target[_shuffle(inside, whole, len(target), rng)]
        as_good += float(main_metric(decision, shuffled, scores)) >= least
    return (as_good + 1) / (n + 1)


def _blocks(target: Floats, group_of_file: Ints) -> tuple[list[Ints], list[Ints]]:
    """The files of each group, (n_files_of_group,): those that vary in truth, and the others."""
    order = np.argsort(group_of_file, kind="stable")
    inside: list[Ints] = []
    whole: list[Ints] = []
    for files in np.split(order, np.flatnonzero(np.diff(group_of_file[order])) + 1):
        same = (target[files] == target[files[0]]).all()
        (whole if same else inside).append(files)
    return inside, whole


def _shuffle(inside: list[Ints], whole: list[Ints], n_files: int, rng: np.random.Generator) -> Ints:
    """(n_files,): the file whose truth each file is given."""
    source = np.arange(n_files)
    for files in inside:
        source[files] = rng.permutation(files)
    for files, other in zip(whole, rng.permutation(len(whole)), strict=True):
        source[files] = whole[other][0]
    return source

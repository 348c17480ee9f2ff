"""Scores that mean what they say, and answers that admit doubt; fitted on what was not trained on.

Temperatures make probabilities of logits. Bounds on scores make sets of labels that hold the true
one as often as is wanted, and refuse what is none of the labels.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_expit, log_softmax, logit, softmax

from deepspectrumlite.config import DecisionSection
from deepspectrumlite.decisions import Decision
from deepspectrumlite.intervals import FEW_GROUPS, resample_rows
from deepspectrumlite.metrics import ratio

Numbers = npt.NDArray[np.floating[Any]]

# A few recordings, all recognised, would ask for a temperature of 0: to be sure without limit.
LOWEST, HIGHEST = 0.25, 4.0
_TINY = 1e-7
# An exported file's scores may differ by so much; a bound between two of them would flip.
MARGIN = 1e-4


def fit_temperature(scores: Numbers, target: Numbers, output: str) -> float | list[float]:
    """The temperature at which the scores are likeliest, between ``LOWEST`` and ``HIGHEST``.

    It divides the logits, so one label stays ahead of another. Source: Guo et al. 2017, "On
    calibration of modern neural networks", section 4.2; of several labels at once, each is a
    problem of two classes, with a temperature of its own.

    Args:
        scores: (n, n_labels), at a temperature of 1
        target: (n, n_labels), shares of each label
        output: "softmax" or "sigmoid"

    Returns:
        one, or for "sigmoid" one per label. A label that no row has, or every row, tells nothing of
        how sure to be, and takes the one that suits all labels together.

    >>> scores, target = np.array([[0.9], [0.9], [0.9], [0.1]]), np.array([[1], [1], [0], [0]])
    >>> np.round(fit_temperature(scores, target, "sigmoid"), 1).tolist()
    [2.0]
    """
    logits, target = _logits(scores, output), np.asarray(target)
    if output == "softmax":
        return _likeliest(lambda t: -(target * log_softmax(logits / t, axis=1)).sum(axis=1).mean())
    together = _likeliest_binary(logits, target)
    present = np.asarray(target > 0.5)
    varies = np.asarray(present.any(axis=0) & ~present.all(axis=0))
    return [
        _likeliest_binary(logits[:, i], target[:, i]) if varies[i] else together
        for i in range(target.shape[1])
    ]


def apply_temperature(
    scores: Numbers, temperature: float | Sequence[float], output: str
) -> Numbers:
    """(n, n_labels) scores at a temperature of 1 -> the same at another, or each at its own.

    >>> apply_temperature(np.array([[0.8, 0.2]]), 2.0, "softmax").round(3).tolist()
    [[0.667, 0.333]]
    """
    logits = _logits(scores, output) / np.asarray(temperature)
    scaled: Numbers = softmax(logits, axis=1) if output == "softmax" else expit(logits)
    return scaled


def _logits(scores: Numbers, output: str) -> Numbers:
    """Up to a constant for each row, which softmax does not see."""
    inside = np.clip(np.asarray(scores, np.float64), _TINY, 1 - _TINY)
    found: Numbers = np.log(inside) if output == "softmax" else logit(inside)
    return found


def _likeliest_binary(logits: Numbers, target: Numbers) -> float:
    def loss(t: float) -> float:
        return float(
            -(target * log_expit(logits / t) + (1 - target) * log_expit(-logits / t)).mean()
        )

    return _likeliest(loss)


def _likeliest(loss: Callable[[float], float]) -> float:
    bounds = (np.log(LOWEST), np.log(HIGHEST))
    found = minimize_scalar(lambda x: loss(np.exp(x)), bounds=bounds, method="bounded")
    return float(np.exp(found.x))


def lower_bound(values: Numbers, share: float, margin: float = MARGIN) -> float:
    """(n,) -> what a new value is below with a probability of at most ``share``.

    It is the k-th lowest value, ``k = floor((n + 1) * share)``, less a margin for rounding; minus
    infinity where n is too small for that share (k = 0). Of n + 1 exchangeable values each is
    equally likely to be the new one, so that it is among the k lowest with k / (n + 1) at most.
    With the scores of the true labels it is split-conformal prediction: Vovk, Gammerman & Shafer,
    "Algorithmic learning in a random world", 2005; Angelopoulos & Bates 2021, arXiv 2107.07511,
    section 1, where it is one minus the ceil((n + 1) (1 - share)) / n quantile of one minus these.

    >>> lower_bound(np.arange(19), 0.1, margin=0)
    1.0
    >>> lower_bound(np.arange(8), 0.1)
    -inf
    """
    # 20 * (1 - 0.9) is a little less than 2.
    rank = int(np.floor((len(values) + 1) * share + 1e-9))
    return float(np.sort(values)[rank - 1] - margin) if rank else -np.inf


def smallest_count(share: float) -> int:
    """How many recordings :func:`lower_bound` needs, to tell anything.

    >>> smallest_count(0.1), smallest_count(0.05)
    (9, 19)
    """
    return int(np.ceil(1 / share - 1 - 1e-9))


def file_evidence(evidence: Numbers, files: npt.NDArray[Any]) -> Numbers:
    """(n_segments,), (n_segments,) names -> (n_files,): where a file would just be refused.

    A segment's score of being unknown is ``sigmoid(bound - evidence)``, its evidence the log of the
    sum of its exponential logits, which is the negative energy. A file is refused where the mean
    score is at least one half, which grows with the bound: this is the bound where it is reached.

    >>> file_evidence(np.array([3.0, 1.0, 5.0]), np.array(["a", "b", "b"])).round(6).tolist()
    [3.0, 3.0]
    """
    _, file, counts = np.unique(files, return_inverse=True, return_counts=True)
    low, high = np.full(len(counts), evidence.min()), np.full(len(counts), evidence.max())
    for _ in range(60):
        middle = (low + high) / 2
        score = np.bincount(file, expit(middle[file] - evidence)) / counts
        low, high = np.where(score < 0.5, middle, low), np.where(score < 0.5, high, middle)
    return high


def decision_report(
    decision: Decision,
    wanted: DecisionSection,
    target: Numbers,
    scores: Numbers,
    *,
    groups: npt.NDArray[Any] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """How well sets and refusals of "softmax" keep what they were fitted for, ready for JSON.

    Args:
        decision: what the scores mean
        wanted: what was asked for
        target: (n_files, n_labels)
        scores: (n_files, n_columns)
        groups: (n_files,) who or what each came from
        options: n_resamples, seed and method, of :func:`deepspectrumlite.intervals.resample_rows`

    Returns:
        "over": "groups" where there are at least 5 for the intervals to draw, else "files". Where
        there are sets: "coverage" with "wanted", and "mean_set_size". Where recordings can be
        refused: "unknown", in it "by", "false_rejection" with "wanted", and "accuracy_of_accepted",
        null if all are refused. Each has a "value", "low", "high" and "level".
    """
    by_group = groups is not None and len(np.unique(groups)) >= FEW_GROUPS
    units = groups if by_group else None
    n_units = len(target) if units is None else len(np.unique(units))
    each = np.ones(len(target))

    def share(part: npt.NDArray[Any], whole: npt.NDArray[Any] = each) -> dict[str, Any]:
        def metric(counts: npt.NDArray[Any] = each) -> npt.NDArray[np.float64]:
            return ratio(counts @ part.astype(float), counts @ whole.astype(float))

        found = resample_rows(metric, len(target), units=units, **options)
        return found.estimate(n_units).to_json()

    report: dict[str, Any] = {"over": "groups" if by_group else "files"}
    inside, refused = decision.in_set(scores), decision.refused(scores)
    if decision.conformal is not None:
        held = np.asarray((inside & (target > 0.5)).any(axis=1))
        report["coverage"] = {"wanted": wanted.coverage, **share(held)}
        report["mean_set_size"] = share(inside.sum(axis=1))
    if decision.unknown != "none":
        right = decision.classes(scores) == target.argmax(axis=1)
        report["unknown"] = {
            "by": decision.unknown,
            "false_rejection": {"wanted": wanted.false_rejection, **share(refused)},
            "accuracy_of_accepted": share(right & ~refused, ~refused),
        }
    return report

"""Baselines: linear classifiers on features, on the same segments, splits and metrics.

What a fine-tuned network has to be ahead of. All of them are linear, so one frozen set of arrays is
the fitted system, and its complexity is chosen on devel: never on what is reported.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import expit, logit, softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC, LinearSVR

from deepspectrumlite.calibration import apply_temperature, fit_temperature
from deepspectrumlite.config import Recipe
from deepspectrumlite.data import Segments
from deepspectrumlite.decisions import Decision
from deepspectrumlite.errors import RecipeError
from deepspectrumlite.features import Features, average
from deepspectrumlite.manifest import fail
from deepspectrumlite.model import NUMBERS
from deepspectrumlite.row_metrics import best_thresholds
from deepspectrumlite.significance import MAIN_METRIC, main_metric
from deepspectrumlite.splits import require_splits
from deepspectrumlite.targets import check_labelled_splits, find_targets

SYSTEMS = ("deepspectrum", "egemaps", "compare", "logmel", "majority")
TITLES = {
    "deepspectrum": "Deep Spectrum features + linear SVM",
    "egemaps": "openSMILE eGeMAPS + linear SVM",
    "compare": "openSMILE ComParE + linear SVM",
    "logmel": "log-mel statistics + logistic regression",
    "majority": "majority class",
}
COMPLEXITIES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
MAX_ITERATIONS = 20_000
# Of a label that train cannot tell anything of: as sure as an SVM at its margin.
_MARGIN = 1.0
_TINY = 1e-7
# In deviations of the target: errors below it cost an SVR nothing.
EPSILON = 0.1

Floats = npt.NDArray[np.float64]
Part = tuple[Floats, Floats]
"""Features (n_files, n_features) and targets (n_files, n_outputs) of a split."""
Solved = tuple[Floats, Floats, bool]
"""Weights (n_features, n_outputs), bias (n_outputs,), and whether the solver has converged."""
Make = Callable[[], Any]
Fitted = tuple["Linear", bool]
Fit = Callable[[Floats, Floats, Sequence[Any]], list[Fitted]]
"""Features, targets and complexities -> a system for each complexity."""


@dataclass(frozen=True)
class Linear:
    """``(values - mean) / deviation @ weights + bias``: (n_features, n_outputs), (n_outputs,)."""

    mean: Floats
    deviation: Floats
    weights: Floats
    bias: Floats

    def __call__(self, values: Floats) -> Floats:
        """(n_files, n_features) -> (n_files, n_outputs)."""
        raw: Floats = (values - self.mean) / self.deviation @ self.weights + self.bias
        return raw


@dataclass(frozen=True)
class Baseline:
    """A fitted system.

    Attributes:
        decision: what the scores mean
        chosen: how it was chosen: "complexity" (None where there is none to choose), "metric",
            "devel" and "converged" by complexity, "trained_on", "temperature"
        linear: what was fitted
    """

    decision: Decision
    chosen: dict[str, Any]
    linear: Linear

    @property
    def n_bytes(self) -> int:
        """Size of the scaler and the coefficients, as float32."""
        return sum(4 * array.size for array in asdict(self.linear).values())

    def score(self, values: npt.NDArray[Any]) -> Floats:
        """(n_files, n_features) -> (n_files, n_outputs): probabilities, or numbers."""
        output, temperature = self.decision.output, self.chosen["temperature"]
        scores = _squash(self.linear(np.asarray(values, np.float64)), output)
        if temperature is None:
            return scores
        return np.asarray(apply_temperature(scores, temperature, output), np.float64)


def _squash(raw: Floats, output: str) -> Floats:
    if output in NUMBERS:
        return raw
    squashed: Floats = softmax(raw, axis=1) if output == "softmax" else expit(raw)
    return squashed


def fit_baseline(
    system: str,
    recipe: Recipe,
    scanned: pd.DataFrame,
    features: Features | None,
    *,
    fit_devel: bool = False,
    seed: int = 0,
) -> Baseline:
    """Fit a system on train, with the complexity that is best on devel.

    Features are the means over the segments of a recording, standardised by train alone. Of
    equally good complexities the lowest is taken.

    Args:
        system: one of :data:`SYSTEMS`
        recipe: for the targets and how recordings are cut
        scanned: recordings with the splits train and devel, and their targets
        features: of all its recordings; None for "majority"
        fit_devel: then fit again on train and devel, the scaler too; temperature and thresholds
            stay those that devel gave before, since afterwards it cannot tell any more
        seed: of the fitting

    Raises:
        RecipeError: no such system
        ManifestError: a split is missing or without a segment
    """
    if system not in SYSTEMS:
        raise RecipeError(f"baseline is {system!r}; allowed: {', '.join(SYSTEMS)}")
    require_splits(scanned, ["train", "devel"])
    targets = find_targets(scanned, recipe.data, recipe.model.output)
    # Groups were checked where the splits were made, and may have been allowed to overlap.
    check_labelled_splits(scanned, targets, allow_group_overlap=True)
    values, kept = file_values(recipe, scanned, features)
    target = targets.encode(scanned)[kept].astype(np.float64)
    split = scanned["split"].to_numpy()[kept]
    train, devel = (_part(scanned, values, target, split == name) for name in ("train", "devel"))
    thresholds = [0.5] * len(targets.labels) if targets.output == "sigmoid" else []
    decision = Decision(targets.output, targets.labels, thresholds, targets.values)
    fit = _fitter(system, decision.output, seed)
    linear, chosen = _choose(fit, system, decision, train, devel)
    baseline = _calibrate(Baseline(decision, chosen, linear), devel)
    if not fit_devel:
        return baseline
    values, target = (np.concatenate(pair) for pair in zip(train, devel, strict=True))
    ((linear, converged),) = fit(values, target, [chosen["complexity"]])
    again = {"trained_on": ["train", "devel"], "converged_on_both": converged}
    return replace(baseline, linear=linear, chosen=baseline.chosen | again)


def file_values(
    recipe: Recipe, scanned: pd.DataFrame, features: Features | None
) -> tuple[Floats, npt.NDArray[np.int64]]:
    """(n_found, n_features), and the rows (n_found,) of the recordings that have a segment."""
    if features is not None:
        return average(features, len(scanned))
    none = np.zeros((len(scanned), 0), np.float32)
    found = np.unique(Segments(scanned, recipe.data, none).file_index)
    return np.zeros((len(found), 0)), found


def _part(
    scanned: pd.DataFrame, values: Floats, target: Floats, rows: npt.NDArray[np.bool_]
) -> Part:
    if not rows.any():
        fail(scanned, "a split without a single segment; set data.tail=keep, or add recordings")
    return values[rows], target[rows]


def _choose(
    fit: Fit, system: str, decision: Decision, train: Part, devel: Part
) -> tuple[Linear, dict[str, Any]]:
    """The system with the best metric on devel, and how it was found."""
    grid = [None] if system == "majority" else list(COMPLEXITIES)
    fitted = dict(zip(grid, fit(*train, grid), strict=True))
    values = {
        complexity: float(
            main_metric(decision, devel[1], _squash(linear(devel[0]), decision.output))
        )
        for complexity, (linear, _) in fitted.items()
    }
    # Of equally good ones the first, which is the lowest; a metric that is not defined is no good.
    best = max(grid, key=lambda complexity: np.nan_to_num(values[complexity], nan=-np.inf))
    chosen = {
        "complexity": best,
        "metric": MAIN_METRIC[decision.output],
        "devel": {_name(c): None if math.isnan(value) else value for c, value in values.items()},
        "converged": {_name(c): converged for c, (_, converged) in fitted.items()},
        "trained_on": ["train"],
    }
    return fitted[best][0], chosen


def _name(complexity: float | None) -> str:
    return "none" if complexity is None else f"{complexity:g}"


def _calibrate(baseline: Baseline, devel: Part) -> Baseline:
    """With the temperature, and for "sigmoid" the thresholds, that suit devel."""
    decision, (values, target) = baseline.decision, devel
    output, temperature = decision.output, None
    if output not in NUMBERS and baseline.chosen["complexity"] is not None:
        temperature = fit_temperature(_squash(baseline.linear(values), output), target, output)
    baseline = replace(baseline, chosen=baseline.chosen | {"temperature": temperature})
    if output != "sigmoid":
        return baseline
    thresholds = best_thresholds(target > 0.5, baseline.score(values)).tolist()
    return replace(baseline, decision=replace(decision, thresholds=thresholds))


def _fitter(system: str, output: str, seed: int) -> Fit:
    if system == "majority":
        return partial(_fit_shares, output)
    solve = {"softmax": _solve_classes, "sigmoid": _solve_labels}.get(output, _solve_numbers)

    def fit(values: Floats, target: Floats, grid: Sequence[Any]) -> list[Fitted]:
        scaler = StandardScaler().fit(values)
        rotated, rotation = _rotate(scaler.transform(values))
        # Liblinear takes seconds where it solves the larger one of both problems.
        dual, found = len(rotated) <= rotated.shape[1], []
        for complexity in grid:
            make = partial(_estimator, system, output, complexity, dual, seed)
            weights, bias, converged = solve(make, rotated, target)
            linear = Linear(scaler.mean_, scaler.scale_, rotation @ weights, bias)
            found.append((linear, converged))
        return found

    return fit


def _rotate(values: Floats) -> tuple[Floats, Floats]:
    """(n_files, n_features) -> (n_files, n), and (n_features, n), where n is the smaller of both.

    What decays the sum of squared weights finds the same in any rotation of the features. There
    are no more directions than files, so ComParE's 6373 features need not be fitted one by one.
    Source: Hastie and Tibshirani 2004, "Efficient quadratic regularization for expression arrays".
    """
    if values.shape[1] <= len(values):
        return values, np.eye(values.shape[1])
    u, s, v = np.linalg.svd(values, full_matrices=False)
    return u * s, v.T


def _fit_shares(output: str, values: Floats, target: Floats, grid: Sequence[Any]) -> list[Fitted]:
    """The same for every recording: the shares of the classes, or the mean of the numbers."""
    shares = target.mean(axis=0)
    if output not in NUMBERS:
        inside = shares.clip(_TINY, 1 - _TINY)
        shares = np.log(inside) if output == "softmax" else logit(inside)
    nothing = np.zeros(values.shape[1])
    linear = Linear(nothing, nothing + 1, np.zeros((len(nothing), len(shares))), shares)
    return [(linear, True)] * len(grid)


def _estimator(system: str, output: str, complexity: float, dual: bool, seed: int) -> Any:
    options = {"C": complexity, "max_iter": MAX_ITERATIONS, "random_state": seed}
    if output in NUMBERS and system == "logmel":
        # Its weight decay is the inverse of a complexity.
        return Ridge(1 / complexity)
    if output in NUMBERS:
        return LinearSVR(epsilon=EPSILON, dual=True, **options)
    if system == "logmel":
        return LogisticRegression(class_weight="balanced", **options)
    return LinearSVC(class_weight="balanced", dual=dual, **options)


def _solve_classes(make: Make, values: Floats, target: Floats) -> Solved:
    weights, bias, converged = _fit_one(make(), values, target.argmax(axis=1))
    if len(bias) == 1:  # of two classes, one decision value: below 0 the first, above the second
        return np.concatenate([-weights, weights], axis=1), np.append(-bias, bias), converged
    return weights, bias, converged


def _solve_labels(make: Make, values: Floats, target: Floats) -> Solved:
    """Each label against its absence."""
    found = []
    for there in target.T > 0.5:
        if there.all() or not there.any():
            sure = np.array([_MARGIN if there.all() else -_MARGIN])
            found.append((np.zeros((values.shape[1], 1)), sure, True))
        else:
            found.append(_fit_one(make(), values, there))
    return _join(found)


def _solve_numbers(make: Make, values: Floats, target: Floats) -> Solved:
    """Each number by itself, fitted in units of its deviation in train."""
    scaler = StandardScaler().fit(target)
    columns = scaler.transform(target).T
    weights, bias, converged = _join([_fit_one(make(), values, column) for column in columns])
    return weights * scaler.scale_, bias * scaler.scale_ + scaler.mean_, converged


def _join(found: Sequence[Solved]) -> Solved:
    weights, bias, converged = zip(*found, strict=True)
    return np.concatenate(weights, axis=1), np.concatenate(bias), all(converged)


def _fit_one(estimator: Any, values: Floats, target: npt.NDArray[Any]) -> Solved:
    """(n_features, n), (n,), and whether it has converged, which the report tells."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        estimator.fit(values, target)
    failed = [w for w in caught if issubclass(w.category, ConvergenceWarning)]
    for warning in caught:
        if warning not in failed:
            warnings.warn(warning.message, stacklevel=2)
    return np.atleast_2d(estimator.coef_).T, np.atleast_1d(estimator.intercept_), not failed

"""Scores that mean what they say: one temperature, fitted on recordings not trained on."""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_expit, log_softmax, logit, softmax

Scores = npt.NDArray[np.floating[Any]]

# A few recordings, all recognised, would ask for a temperature of 0: to be sure without limit.
LOWEST, HIGHEST = 0.25, 4.0
_TINY = 1e-7


def fit_temperature(scores: Scores, target: Scores, output: str) -> float:
    """The temperature at which the scores are likeliest, between ``LOWEST`` and ``HIGHEST``.

    It divides the logits, so one label stays ahead of another. Source: Guo et al. 2017, "On
    calibration of modern neural networks", section 4.2.

    Args:
        scores: (n, n_labels), at a temperature of 1
        target: (n, n_labels), shares of each label
        output: "softmax" or "sigmoid"
    """
    logits = _logits(scores, output)

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        if output == "softmax":
            return float(-(target * log_softmax(scaled, axis=1)).sum(axis=1).mean())
        return float(-(target * log_expit(scaled) + (1 - target) * log_expit(-scaled)).mean())

    found = minimize_scalar(loss, bounds=(np.log(LOWEST), np.log(HIGHEST)), method="bounded")
    return float(np.exp(found.x))


def apply_temperature(scores: Scores, temperature: float, output: str) -> Scores:
    """(n, n_labels) scores at a temperature of 1 -> the same at another.

    >>> apply_temperature(np.array([[0.8, 0.2]]), 2.0, "softmax").round(3).tolist()
    [[0.667, 0.333]]
    """
    logits = _logits(scores, output) / temperature
    scaled: Scores = softmax(logits, axis=1) if output == "softmax" else expit(logits)
    return scaled


def _logits(scores: Scores, output: str) -> Scores:
    """Up to a constant for each row, which softmax does not see."""
    inside = np.clip(np.asarray(scores, np.float64), _TINY, 1 - _TINY)
    found: Scores = np.log(inside) if output == "softmax" else logit(inside)
    return found

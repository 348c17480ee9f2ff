"""Temperature scaling, against what the scores were drawn from."""

import numpy as np
import pytest
from scipy.special import expit, softmax

from deepspectrumlite.calibration import HIGHEST, LOWEST, apply_temperature, fit_temperature


def draw(output, n=4000, n_labels=4, seed=0):
    """Logits, and labels that are drawn with exactly their probabilities."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (n, n_labels))
    if output == "sigmoid":
        return logits, (rng.random(logits.shape) < expit(logits)).astype(float)
    drawn = np.array([rng.choice(n_labels, p=row) for row in softmax(logits, axis=1)])
    return logits, np.eye(n_labels)[drawn]


def to_scores(logits, output):
    return softmax(logits, axis=1) if output == "softmax" else expit(logits)


@pytest.mark.parametrize("output", ["softmax", "sigmoid"])
@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
def test_the_factor_that_spoils_probabilities_is_found_again(output, factor):
    logits, target = draw(output)
    scores = to_scores(factor * logits, output)
    temperature = fit_temperature(scores, target, output)
    assert temperature == pytest.approx(factor, rel=0.06)
    mended = apply_temperature(scores, temperature, output)
    assert np.abs(mended - to_scores(logits, output)).max() < 0.03


@pytest.mark.parametrize("output", ["softmax", "sigmoid"])
def test_few_recordings_that_are_all_right_or_wrong_do_not_go_to_extremes(output):
    scores = np.array([[0.6, 0.4], [0.3, 0.7]])
    target = np.eye(2)
    assert fit_temperature(scores, target, output) == pytest.approx(LOWEST, rel=1e-3)
    assert fit_temperature(scores, 1 - target, output) == pytest.approx(HIGHEST, rel=1e-3)


@pytest.mark.parametrize("output", ["softmax", "sigmoid"])
def test_the_order_of_scores_stays(output):
    scores = to_scores(draw(output)[0], output)
    for temperature in (LOWEST, HIGHEST):
        changed = apply_temperature(scores, temperature, output)
        assert (changed.argmax(axis=1) == scores.argmax(axis=1)).all()
    np.testing.assert_allclose(apply_temperature(scores, 1.0, output), scores, atol=1e-6)


def test_certain_scores_stay_finite():
    scores = np.array([[1.0, 0.0], [0.0, 1.0]])
    for output in ("softmax", "sigmoid"):
        assert np.isfinite(fit_temperature(scores, np.eye(2), output))
        assert np.isfinite(apply_temperature(scores, LOWEST, output)).all()

"""Temperatures, sets and refusals, against what the scores were drawn from."""

import numpy as np
import pytest
from scipy.special import expit, softmax

from deepspectrumlite.calibration import (
    HIGHEST,
    LOWEST,
    apply_temperature,
    decision_report,
    file_evidence,
    fit_temperature,
    lower_bound,
    smallest_count,
)
from deepspectrumlite.config import DecisionSection
from deepspectrumlite.decisions import Decision


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
    expected = factor if output == "softmax" else [factor] * 4
    assert temperature == pytest.approx(expected, rel=0.06 if output == "softmax" else 0.09)
    mended = apply_temperature(scores, temperature, output)
    assert np.abs(mended - to_scores(logits, output)).max() < 0.03


@pytest.mark.parametrize("output", ["softmax", "sigmoid"])
def test_few_recordings_that_are_all_right_or_wrong_do_not_go_to_extremes(output):
    scores = np.array([[0.6, 0.4], [0.3, 0.7]])
    target = np.eye(2)
    for wanted, sure in ((target, LOWEST), (1 - target, HIGHEST)):
        found = np.ravel(fit_temperature(scores, wanted, output))
        assert found.tolist() == pytest.approx([sure] * len(found), rel=1e-3)


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
        assert np.isfinite(fit_temperature(scores, np.eye(2), output)).all()
        assert np.isfinite(apply_temperature(scores, LOWEST, output)).all()


def binary_loss(scores, target):
    return -np.where(target > 0.5, np.log(scores), np.log(1 - scores)).mean(axis=0)


def test_each_of_several_labels_has_its_own_temperature():
    logits, target = draw("sigmoid")
    factors = np.array([0.5, 1.0, 2.0, 3.0])
    scores = expit(factors * logits)
    found = fit_temperature(scores, target, "sigmoid")
    assert found == pytest.approx(factors.tolist(), rel=0.09)
    mended = apply_temperature(scores, found, "sigmoid")
    assert np.abs(mended - expit(logits)).max() < 0.03
    # No temperature for all does as well for any of those that are far off.
    shared = [binary_loss(apply_temperature(scores, t, "sigmoid"), target) for t in (1, 1.6, 2)]
    own = binary_loss(mended, target)
    assert (own[:1] < np.array(shared)[:, :1]).all()
    assert own.mean() < np.mean(shared, axis=1).min()


def test_a_label_without_examples_takes_what_suits_all():
    logits, target = draw("sigmoid")
    scores = expit(2 * logits)
    for value in (0.0, 1.0):
        target[:, 1] = value
        found = fit_temperature(scores, target, "sigmoid")
        # Alone it would ask for certainty, one way or the other; the others ask for 2.
        assert LOWEST * 1.1 < found[1] < HIGHEST / 1.1
        assert [found[0], *found[2:]] == pytest.approx([2, 2, 2], rel=0.09)


def test_a_bound_is_the_quantile_of_split_conformal_prediction():
    rng = np.random.default_rng(1)
    for n in (9, 10, 57, 100, 999):
        for coverage in (0.5, 0.8, 0.9):
            scores = rng.random(n)
            # As Angelopoulos & Bates write it in section 1, of one minus the score.
            rank = int(np.ceil((n + 1) * coverage))
            bound = 1 - np.sort(1 - scores)[rank - 1]
            assert lower_bound(scores, 1 - coverage, margin=0) == pytest.approx(bound)


@pytest.mark.parametrize("share", [0.05, 0.1, 0.3])
def test_too_few_recordings_bound_nothing(share):
    needed = smallest_count(share)
    values = np.linspace(0, 1, needed)
    assert lower_bound(values[1:], share) == -np.inf
    assert lower_bound(values, share, margin=0) == 0.0


@pytest.mark.parametrize(("n", "coverage"), [(19, 0.9), (60, 0.8)])
def test_sets_hold_the_label_as_often_as_is_wanted(n, coverage):
    """Between coverage and coverage + 1 / (n + 1), on average over draws, whatever the model."""
    rng, held = np.random.default_rng(2), []
    for _ in range(2000):
        # A model that is much too sure, and always of the same classes.
        logits = rng.normal(0, 1, (n + 20, 4)) + np.array([0, 0, 1, -1])
        label = np.array([rng.choice(4, p=row) for row in softmax(logits[-20:], axis=1)])
        known = np.array([rng.choice(4, p=row) for row in softmax(logits[:n], axis=1)])
        scores = softmax(3 * logits + 1, axis=1)
        lowest = max(0.0, lower_bound(scores[np.arange(n), known], 1 - coverage, margin=0))
        inside = Decision("softmax", list("abcd"), conformal=lowest).in_set(scores[n:])
        held.append(inside[np.arange(20), label].mean())
    error = 3 * np.std(held) / np.sqrt(len(held))
    assert coverage - error < np.mean(held) < coverage + 1 / (n + 1) + error
    assert error < 0.01


def test_known_recordings_are_refused_as_often_as_is_allowed():
    rng = np.random.default_rng(3)
    rates = [
        np.mean(rng.random(50) < lower_bound(rng.random(40), 0.1, margin=0)) for _ in range(2000)
    ]
    # Of 41 the 4 lowest may be refused.
    assert np.mean(rates) == pytest.approx(4 / 41, abs=3 * np.std(rates) / np.sqrt(2000))
    for seed in range(50):
        values = np.random.default_rng(seed).random(seed + 1)
        assert np.mean(values < lower_bound(values, 0.1)) <= 0.1


def test_a_file_is_refused_from_its_evidence_on():
    rng = np.random.default_rng(4)
    files = rng.integers(0, 30, 200)
    evidence = rng.normal(3, 4, 200)
    found = file_evidence(evidence, files)
    for i, file in enumerate(np.unique(files)):
        own = evidence[files == file]
        assert own.min() <= found[i] <= own.max()
        assert expit(found[i] - 1e-6 - own).mean() < 0.5 < expit(found[i] + 1e-6 - own).mean()
    # A file of one segment has that segment's.
    assert file_evidence(evidence, np.arange(200)) == pytest.approx(evidence)


def test_the_report_counts_what_is_in_sets_and_what_is_refused():
    decision = Decision("softmax", ["a", "b"], unknown="score", unknown_below=0.65, conformal=0.35)
    scores = np.array([[0.9, 0.1], [0.6, 0.4], [0.7, 0.3], [0.2, 0.8]])
    target = np.eye(2)[[0, 1, 1, 1]]
    wanted = DecisionSection(coverage=0.8, false_rejection=0.25)
    report = decision_report(decision, wanted, target, scores, n_resamples=200)
    # Sets: a; a, b; a; b. Refused: the second. Right of the rest: the first and the last.
    assert report["coverage"]["value"] == 0.75
    assert report["coverage"]["wanted"] == 0.8
    assert report["mean_set_size"]["value"] == 1.25
    unknown = report["unknown"]
    assert (unknown["by"], unknown["false_rejection"]["value"]) == ("score", 0.25)
    assert unknown["false_rejection"]["wanted"] == 0.25
    assert unknown["accuracy_of_accepted"]["value"] == pytest.approx(2 / 3)
    assert report["over"] == "files"
    assert report["coverage"]["low"] <= 0.75 <= report["coverage"]["high"]


def test_intervals_are_over_groups_where_there_are_enough():
    decision = Decision("softmax", ["a", "b"], conformal=0.5)
    groups = np.repeat(np.arange(10), 30)
    # Speakers of whom all or no recordings are recognised.
    sure = np.where(groups % 2, 0.9, 0.1)
    scores, target = np.stack([sure, 1 - sure], axis=1), np.eye(2)[np.zeros(300, int)]
    wanted, found = DecisionSection(), {}
    for name, given in (("files", None), ("groups", groups), ("few", groups % 4)):
        found[name] = decision_report(decision, wanted, target, scores, groups=given)
    assert [each["over"] for each in found.values()] == ["files", "groups", "files"]
    width = {
        name: each["coverage"]["high"] - each["coverage"]["low"] for name, each in found.items()
    }
    assert width["groups"] > 3 * width["files"]
    assert width["few"] == width["files"]
    assert found["groups"]["coverage"]["value"] == 0.5
    assert "unknown" not in found["files"]


def test_nothing_is_left_to_be_right_where_all_is_refused():
    decision = Decision("softmax", ["a", "b"], unknown="score", unknown_below=2.0)
    report = decision_report(decision, DecisionSection(), np.eye(2), np.eye(2), n_resamples=50)
    assert report["unknown"]["false_rejection"]["value"] == 1
    assert report["unknown"]["accuracy_of_accepted"]["value"] is None
    assert "coverage" not in report

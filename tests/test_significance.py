"""Tests of one system against another and against chance, beside independent ones."""

import itertools
import json

import numpy as np
import pytest
import scipy.stats
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests

from deepspectrumlite.decisions import Decision
from deepspectrumlite.metrics import confusion_matrix, macro_mean, uar
from deepspectrumlite.resampling import resample_counts
from deepspectrumlite.row_metrics import average_precision, ccc
from deepspectrumlite.significance import (
    holm,
    main_metric,
    mcnemar,
    paired_difference,
    permutation_test,
)

CLASSES = Decision("softmax", ["a", "b", "c"])
SOUNDS = Decision("sigmoid", ["a", "b"], [0.5, 0.5])
NUMBERS = Decision("linear", ["x", "y"])
ORDERED = Decision("ordinal", ["low", "high"], values=[0, 1])


def random_case(output, n=40, seed=0):
    """A decision, target, and scores of a good and of a worse system."""
    rng = np.random.default_rng(seed)
    if output == "softmax":
        target = np.eye(3)[rng.integers(0, 3, n)]
        return CLASSES, target, *(target + sd * rng.normal(size=(n, 3)) for sd in (0.3, 0.9))
    if output == "sigmoid":
        target = (rng.random((n, 2)) < 0.4) * 1.0
        return SOUNDS, target, *(target + sd * rng.normal(size=(n, 2)) for sd in (0.4, 1.5))
    decision = NUMBERS if output == "linear" else ORDERED
    target = rng.normal(size=(n, len(decision.columns)))
    return decision, target, *(target + sd * rng.normal(size=target.shape) for sd in (0.4, 1.5))


def plain_metric(decision, target, scores):
    if decision.output == "softmax":
        return uar(confusion_matrix(target.argmax(axis=1), scores.argmax(axis=1), 3))
    if decision.output == "sigmoid":
        return macro_mean(average_precision(target > 0.5, scores))
    return np.mean([ccc(t, s) for t, s in zip(target.T, scores.T, strict=True)])


OUTPUTS = ["softmax", "sigmoid", "linear", "ordinal"]


@pytest.mark.parametrize("output", OUTPUTS)
def test_the_main_metric_of_resamples_is_that_of_repeated_files(output):
    decision, target, scores, _ = random_case(output)
    assert main_metric(decision, target, scores) == pytest.approx(
        float(plain_metric(decision, target, scores))
    )
    counts = resample_counts(40, n_resamples=20)
    expected = [
        plain_metric(decision, np.repeat(target, row, axis=0), np.repeat(scores, row, axis=0))
        for row in counts
    ]
    np.testing.assert_allclose(main_metric(decision, target, scores, counts), expected)


@pytest.mark.parametrize("method", ["percentile", "bca"])
@pytest.mark.parametrize(
    ("output", "metric"), list(zip(OUTPUTS, ("UAR", "MAP", "CCC", "CCC"), strict=True))
)
def test_a_better_system_is_better(output, metric, method):
    decision, target, good, worse = random_case(output, n=100)
    groups = np.arange(100) // 5
    found = paired_difference(decision, target, good, worse, groups=groups, method=method)
    assert (found.metric, found.over, found.warning) == (metric, "20 groups", None)
    assert found.difference.value == pytest.approx(found.a.value - found.b.value)
    assert found.a.value == pytest.approx(float(plain_metric(decision, target, good)))
    assert 0 < found.difference.low < found.difference.value < found.difference.high
    assert found.p_value < 0.02
    # The other way round the same, with the other sign.
    turned = paired_difference(decision, target, worse, good, groups=groups, method=method)
    assert turned.p_value == pytest.approx(found.p_value)
    assert turned.difference.low == pytest.approx(-found.difference.high)


def test_the_same_system_does_not_differ():
    decision, target, good, _ = random_case("softmax")
    found = paired_difference(decision, target, good, good)
    assert (found.difference.value, found.difference.low, found.difference.high) == (0, 0, 0)
    assert found.p_value == 1
    assert found.over == "40 files"


def test_a_difference_of_numbers_agrees_with_the_paired_t_test():
    """Of one class the UAR is the mean of right files, and its difference a mean of pairs."""
    decision = Decision("softmax", ["a", "b"])
    rng = np.random.default_rng(1)
    target = np.eye(2)[np.zeros(200, int)]
    right = np.stack([rng.random(200) < 0.8, rng.random(200) < 0.7])
    systems = [np.eye(2)[np.where(row, 0, 1)] for row in right]
    found = paired_difference(decision, target, *systems, n_resamples=20_000)
    a, b = right.astype(float)
    expected = scipy.stats.ttest_rel(a, b)
    assert found.p_value == pytest.approx(expected.pvalue, rel=0.2)
    interval = expected.confidence_interval(0.95)
    assert (found.difference.low, found.difference.high) == pytest.approx(tuple(interval), abs=0.01)


@pytest.mark.parametrize("n_groups", [1, 4])
def test_few_groups_fall_back_to_files_and_say_so(n_groups):
    decision, target, good, worse = random_case("softmax")
    found = paired_difference(decision, target, good, worse, groups=np.arange(40) % n_groups)
    assert found.over == "40 files"
    assert found.warning.startswith(f"only {n_groups} group")
    alone = paired_difference(decision, target, good, worse)
    assert alone.warning is None
    assert alone.difference == found.difference


def test_a_comparison_is_json():
    decision, target, good, worse = random_case("linear")
    found = paired_difference(decision, target, good, worse).to_json()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert list(found) == ["metric", "a", "b", "difference", "p_value", "over", "warning"]
    assert list(found["difference"]) == ["value", "low", "high", "level"]
    # A single file: nothing to draw.
    alone = paired_difference(decision, target[:1], good[:1], worse[:1]).to_json()
    assert alone["p_value"] is alone["difference"]["low"] is None


def test_both_systems_must_have_the_same_files():
    decision, target, good, worse = random_case("softmax")
    with pytest.raises(ValueError, match="40 targets, 40 and 39 scores"):
        paired_difference(decision, target, good, worse[1:])


def test_equal_systems_rarely_differ():
    """Of 200 sets about 5 % have p < 0.05; over files, with groups, far more."""
    rng, found = np.random.default_rng(2), []
    decision, groups = Decision("softmax", ["a", "b"]), np.repeat(np.arange(8), 20)
    for seed in range(200):
        target = np.eye(2)[rng.integers(0, 2, 160)]
        systems = [
            np.where(
                (rng.random(160) < rng.uniform(0.4, 1, 8)[groups])[:, None], target, 1 - target
            )
            for _ in range(2)
        ]
        options = {"n_resamples": 200, "seed": seed}
        found.append(
            [
                paired_difference(decision, target, *systems, groups=drawn, **options).p_value
                for drawn in (groups, None)
            ]
        )
    over_groups, over_files = (np.array(found) < 0.05).mean(axis=0)
    # The standard error of 5 % is 1.5 points.
    assert over_groups <= 0.05 + 3 * 0.0154
    assert over_files > 0.15


@pytest.mark.parametrize("discordant", [(0, 0), (1, 0), (6, 2), (5, 5), (30, 60), (700, 600)])
def test_mcnemar_equals_statsmodels(discordant):
    only_a, only_b = discordant
    a = np.repeat([True, True, False, False], [10, only_a, only_b, 4])
    b = np.repeat([True, False, True, False], [10, only_a, only_b, 4])
    table = [[10, only_a], [only_b, 4]]
    expected = statsmodels_mcnemar(table, exact=True).pvalue
    assert mcnemar(a, b) == mcnemar(b, a) == pytest.approx(expected)


def test_mcnemar_of_the_published_example():
    """Agresti, "Categorical Data Analysis": approval of a prime minister, 150 against 86 changed.

    The statistic without a correction is (150 - 86)^2 / (150 + 86) = 17.36.
    """
    a = np.repeat([True, True, False, False], [794, 150, 86, 570])
    b = np.repeat([True, False, True, False], [794, 150, 86, 570])
    assert mcnemar(a, b) == pytest.approx(scipy.stats.chi2.sf(17.36, 1), rel=0.25)


def test_mcnemar_refuses_what_is_not_right_or_wrong():
    for a, b in [(np.ones(3), np.ones(3)), (np.ones(3, bool), np.ones(2, bool))]:
        with pytest.raises(ValueError, match=r"give whether each of the same files is right"):
            mcnemar(a, b)


@pytest.mark.parametrize("seed", range(5))
def test_holm_equals_statsmodels(seed):
    p = np.random.default_rng(seed).random(7).round(2) ** 2
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])


def test_holm_worked_by_hand():
    assert holm([]) == []
    assert holm([0.3]) == [0.3]
    # Times 4, 3, 2, 1, none below the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    # What is unknown is no test.
    found = holm([0.02, np.nan, 0.03])
    assert (found[0], found[2]) == pytest.approx((0.04, 0.04))
    assert np.isnan(found[1])


def test_the_permutation_test_equals_all_permutations():
    """Six files, each order of whose truth can be tried."""
    decision = Decision("softmax", ["a", "b"])
    target = np.eye(2)[[0, 0, 0, 1, 1, 1]]
    scores = np.eye(2)[[0, 0, 1, 1, 1, 1]]
    value = main_metric(decision, target, scores)
    others = [
        main_metric(decision, target[list(o)], scores) for o in itertools.permutations(range(6))
    ]
    expected = np.mean(np.array(others) >= value - 1e-9)
    assert permutation_test(decision, target, scores, n=4000) == pytest.approx(expected, abs=0.025)
    # As Fisher's exact test, whose one-sided p is that of the same tables.
    table = [[2, 1], [0, 3]]
    assert expected == pytest.approx(scipy.stats.fisher_exact(table, "greater").pvalue)


@pytest.mark.parametrize("output", OUTPUTS)
def test_what_is_recognised_is_no_chance(output):
    decision, target, good, _ = random_case(output)
    assert permutation_test(decision, target, good, n=99) == 0.01
    noise = np.random.default_rng(3).normal(size=good.shape)
    assert permutation_test(decision, target, noise, n=99) > 0.05


@pytest.mark.parametrize(
    ("decision", "target"), [(SOUNDS, np.zeros((6, 2))), (NUMBERS, np.ones((6, 2)))]
)
def test_without_a_metric_there_is_no_p_value(decision, target):
    """No file has a label, or truth and prediction are the same constant: 0/0."""
    assert np.isnan(main_metric(decision, target, target))
    for groups in (None, np.arange(6) // 2):
        assert np.isnan(permutation_test(decision, target, target, groups=groups, n=19))


def test_groups_with_one_class_swap_it_as_a_whole():
    """Six groups, three of each class, all of them right: 1 of 20 ways to share the classes."""
    decision = Decision("softmax", ["a", "b"])
    groups = np.repeat(np.arange(6), [2, 9, 4, 7, 3, 5])
    target = np.eye(2)[np.array([0, 1, 0, 1, 0, 1])[groups]]
    p = permutation_test(decision, target, target, groups=groups, n=4000)
    assert p == pytest.approx(1 / 20, abs=0.012)
    assert permutation_test(decision, target, target, n=999) == 0.001


def test_recognising_the_group_is_no_success():
    """Each group has its mood more often than not, and the system knows nothing but the group."""
    decision = Decision("softmax", ["a", "b"])
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(10), 20)
    mostly = np.array([0, 1] * 5)[groups]
    classes = np.where(rng.random(200) < 0.8, mostly, 1 - mostly)
    target, scores = np.eye(2)[classes], np.eye(2)[mostly]
    assert permutation_test(decision, target, scores, n=199) == 0.005
    assert permutation_test(decision, target, scores, groups=groups, n=199) == 1
    # What it knows of the files inside the groups is.
    right = np.where((rng.random(200) < 0.7)[:, None], target, 1 - target)
    assert permutation_test(decision, target, right, groups=groups, n=199) == 0.005


def test_the_permutation_test_follows_the_seed_and_needs_a_shuffle():
    decision, target, good, worse = random_case("linear", n=20)
    first, again = (permutation_test(decision, target, worse, n=50, seed=4) for _ in range(2))
    assert first == again
    with pytest.raises(ValueError, match="cannot shuffle 0 times"):
        permutation_test(decision, target, good, n=0)

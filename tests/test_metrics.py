"""Metrics against scikit-learn and hand-worked examples; the bootstrap against a plain loop."""

import math

import numpy as np
import pytest
from helpers import draw_speakers, random_files
from scipy.stats import ks_2samp
from sklearn import metrics as sk

from deepspectrumlite.metrics import (
    Estimate,
    accuracy,
    bootstrap,
    confusion_matrix,
    interval,
    macro_f1,
    recalls,
    uar,
)

# Truth a a a a b b c, of which 3 a, 1 b and no c are found; nothing is called d.
HAND = np.array([[3, 1, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]])


CASES = [
    {},
    {"missing_true": (1,)},  # predicted, but never true
    {"missing_predicted": (0, 4)},  # true, but never predicted
    {"missing_true": (2,), "missing_predicted": (2,)},  # in neither
    {"n_files": 3},
    {"n_classes": 1},
    {"n_classes": 50, "n_files": 300},
]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.filterwarnings("ignore:A single label was found")
@pytest.mark.filterwarnings("ignore:The number of unique classes")
def test_metrics_equal_scikit_learn(case, seed):
    n_classes = case.get("n_classes", 5)
    truth, predicted = random_files(seed, **case)
    matrix = confusion_matrix(truth, predicted, n_classes)
    expected = sk.confusion_matrix(truth, predicted, labels=range(n_classes))
    np.testing.assert_array_equal(matrix, expected)
    assert uar(matrix) == pytest.approx(sk.balanced_accuracy_score(truth, predicted))
    assert accuracy(matrix) == pytest.approx(sk.accuracy_score(truth, predicted))
    f1 = sk.f1_score(truth, predicted, average="macro", zero_division=0)
    assert macro_f1(matrix) == pytest.approx(f1)
    per_class = sk.recall_score(
        truth, predicted, labels=range(n_classes), average=None, zero_division=np.nan
    )
    np.testing.assert_allclose(recalls(matrix), per_class)


def test_metrics_worked_by_hand():
    np.testing.assert_array_equal(recalls(HAND), [0.75, 0.5, 0.0, np.nan])
    assert uar(HAND) == pytest.approx(1.25 / 3)
    assert accuracy(HAND) == pytest.approx(4 / 7)
    # F1: a = 2*3/(4+5), b = 2*1/(2+2), c = 0; d is nowhere and left out.
    assert macro_f1(HAND) == pytest.approx((6 / 9 + 2 / 4 + 0) / 3)


@pytest.mark.parametrize("metric", [uar, accuracy, macro_f1, recalls])
def test_a_stack_gives_each_matrix_its_own_value(metric):
    rng = np.random.default_rng(0)
    stack = rng.integers(0, 4, (2, 3, 4, 4))
    stack[0, 1, 2] = 0  # a class without files in one matrix only
    values = metric(stack)
    assert values.shape[:2] == (2, 3)
    for index in np.ndindex(2, 3):
        np.testing.assert_array_equal(values[index], metric(stack[index]))


@pytest.mark.parametrize("metric", [uar, accuracy, macro_f1])
@pytest.mark.filterwarnings("error")
def test_no_files_is_nan_without_a_warning(metric):
    assert math.isnan(metric(np.zeros((3, 3), dtype=int)))


def test_confusion_matrix_counts_small_integer_types_without_overflow():
    truth = np.full(3, 40, dtype=np.uint8)
    matrix = confusion_matrix(truth, truth, 41)
    assert matrix.dtype == np.int64
    assert matrix[40, 40] == matrix.sum() == 3


@pytest.mark.parametrize(
    ("truth", "predicted", "message"),
    [
        ([0, 1], [0], "same length"),
        ([[0, 1]], [[0, 1]], "n_files"),
        ([0, 2], [0, 1], "truth holds classes 0 to 2"),
        ([0, 1], [-1, 1], "predicted holds classes -1 to 1"),
        ([0.0, 1.0], [0, 1], "truth is of type float64"),
    ],
)
def test_bad_arrays_are_named(truth, predicted, message):
    with pytest.raises(ValueError, match=message):
        confusion_matrix(np.array(truth), np.array(predicted), 2)


def naive_bootstrap(truth, predicted, n_classes, units, n_resamples, seed):
    """Draw lists of file numbers with replacement, one resample after the other."""
    rng = np.random.default_rng(seed)
    samples = []
    for _ in range(n_resamples):
        drawn = rng.integers(0, len(units), len(units))
        files = np.concatenate([units[i] for i in drawn])
        samples.append(sk.confusion_matrix(truth[files], predicted[files], labels=range(n_classes)))
    return np.array(samples)


@pytest.mark.parametrize("metric", [uar, accuracy, macro_f1])
@pytest.mark.parametrize("with_groups", [False, True])
def test_bootstrap_has_the_distribution_of_a_plain_loop(metric, with_groups):
    truth, predicted = random_files(3, n_classes=3, n_files=60)
    # Groups of different sizes, and each file's group correlated with its correctness.
    order = np.argsort(truth == predicted, kind="stable")
    groups = np.empty(60, dtype=int)
    groups[order] = np.repeat(np.arange(12), np.tile([2, 5, 8], 4))
    units = (
        [np.flatnonzero(groups == g) for g in range(12)] if with_groups else np.arange(60)[:, None]
    )
    naive = metric(naive_bootstrap(truth, predicted, 3, units, 1500, seed=1))
    samples = bootstrap(
        truth, predicted, 3, groups=groups if with_groups else None, n_resamples=20000, seed=2
    )
    ours = metric(samples)
    spread = naive.std()
    assert ours.mean() == pytest.approx(naive.mean(), abs=0.1 * spread)
    assert ours.std() == pytest.approx(spread, rel=0.08)
    # All quantiles at once, as ranks: accuracy moves in steps of a file, so its values may jump.
    # 1500 against 20000 draws of the same distribution exceed 0.05 once in 500 times.
    assert ks_2samp(ours.round(9), naive.round(9), method="asymp").statistic < 0.05


def test_each_resample_holds_as_many_files_and_only_seen_cells():
    truth, predicted = random_files(0)
    matrix = confusion_matrix(truth, predicted, 5)
    samples = bootstrap(truth, predicted, 5, n_resamples=200)
    assert samples.shape == (200, 5, 5)
    np.testing.assert_array_equal(samples.sum(axis=(1, 2)), 40)
    assert not samples[:, matrix == 0].any()
    # Not stratified: the number of files of a class varies.
    assert samples.sum(axis=2).std(axis=0).min() > 1


def test_groups_are_drawn_whole():
    # One group holds 1 right file, the other 10 wrong ones: 2 draws make 2, 11 or 20 files.
    truth = np.zeros(11, dtype=int)
    predicted = np.array([0] + [1] * 10)
    groups = np.array(["ann"] + ["bob"] * 10)
    samples = bootstrap(truth, predicted, 2, groups=groups, n_resamples=4000)
    pairs, counts = np.unique(samples[:, 0], axis=0, return_counts=True)
    assert pairs.tolist() == [[0, 20], [1, 10], [2, 0]]
    np.testing.assert_allclose(counts / 4000, [0.25, 0.5, 0.25], atol=0.03)


def test_identical_groups_give_an_interval_of_no_width():
    truth, predicted = random_files(0)
    groups = np.repeat(np.arange(6), 40)
    samples = bootstrap(np.tile(truth, 6), np.tile(predicted, 6), 5, groups=groups)
    whole = 6 * confusion_matrix(truth, predicted, 5)
    np.testing.assert_array_equal(samples, np.broadcast_to(whole, samples.shape))


def test_groups_of_one_file_are_the_bootstrap_of_files():
    truth, predicted = random_files(0)
    by_group = bootstrap(truth, predicted, 5, groups=np.arange(40)[::-1], n_resamples=5000)
    by_file = bootstrap(truth, predicted, 5, n_resamples=5000)
    np.testing.assert_array_equal(by_group.sum(axis=(1, 2)), 40)
    np.testing.assert_allclose(by_group.mean(axis=0), by_file.mean(axis=0), atol=0.15)
    np.testing.assert_allclose(by_group.std(axis=0), by_file.std(axis=0), atol=0.1)


def test_the_seed_decides_the_resamples():
    truth, predicted = random_files(0)
    first, again, other = (bootstrap(truth, predicted, 5, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def coverage(draw, true_value, n_sets, *, by_group=False):
    """The share of simulated test sets whose 95 % interval of accuracy holds the true value."""
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(n_sets):
        truth, predicted, groups = draw(rng)
        units = groups if by_group else None
        samples = bootstrap(truth, predicted, 2, groups=units, n_resamples=400, seed=seed)
        low, high = interval(accuracy(samples))
        covered += low <= true_value <= high
    return covered / n_sets


def draw_independent_files(rng):
    truth = rng.integers(0, 2, 100)
    return truth, np.where(rng.random(100) < 0.7, truth, 1 - truth), None


def test_interval_over_files_covers_the_truth():
    assert 0.90 <= coverage(draw_independent_files, 0.7, 300) <= 0.98


def test_only_the_interval_over_groups_covers_the_truth_for_new_speakers():
    assert 0.90 <= coverage(draw_speakers, 0.7, 300, by_group=True) <= 0.98
    assert coverage(draw_speakers, 0.7, 300) < 0.80


@pytest.mark.parametrize(
    ("options", "message"),
    [({"n_resamples": 0}, "2 files 0 times"), ({"groups": np.array([1])}, r"shape \(1,\)")],
)
def test_bootstrap_refuses_what_it_cannot_draw(options, message):
    with pytest.raises(ValueError, match=message):
        bootstrap(np.array([0, 1]), np.array([0, 1]), 2, **options)


def test_interval_leaves_out_nan_and_checks_the_level():
    samples = np.concatenate([np.linspace(0, 1, 201), [np.nan] * 50])
    assert interval(samples) == pytest.approx((0.025, 0.975))
    assert interval(samples, level=0.5) == pytest.approx((0.25, 0.75))
    assert all(math.isnan(end) for end in interval(np.full(3, np.nan)))
    with pytest.raises(ValueError, match="level is 95"):
        interval(samples, level=95)


def test_estimate_reads_well():
    assert str(Estimate(0.71349, 0.642, 0.7806)) == "0.713 [0.642, 0.781]"

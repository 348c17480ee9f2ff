"""Metrics against scikit-learn, scipy and hand-worked examples; the bootstrap against loops."""

import itertools
import math

import numpy as np
import pytest
from helpers import draw_speakers, random_files
from scipy.stats import ks_2samp, pearsonr, spearmanr
from sklearn import metrics as sk

from deepspectrumlite.metrics import (
    Estimate,
    accuracy,
    bootstrap,
    confusion_matrix,
    interval,
    macro_f1,
    macro_mean,
    recalls,
    resample_counts,
    uar,
)
from deepspectrumlite.row_metrics import (
    average_precision,
    best_thresholds,
    ccc,
    label_f1,
    mae,
    pearson,
    rmse,
    spearman,
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


def test_resampled_rows_are_drawn_independently_with_replacement():
    counts = resample_counts(6, n_resamples=20000, seed=1)
    assert counts.shape == (20000, 6)
    np.testing.assert_array_equal(counts.sum(axis=1), 6)
    # Multinomial with 6 draws: variance 5/6, covariance -1/6.
    np.testing.assert_allclose(np.cov(counts.T), np.eye(6) - 1 / 6, atol=0.03)
    np.testing.assert_allclose((counts == 0).mean(axis=0), (5 / 6) ** 6, atol=0.015)


def test_resampled_units_are_drawn_whole():
    units = np.array(["b", "a", "c", "a", "b", "a"])
    counts = resample_counts(6, units=units, n_resamples=9000)
    first = counts[:, [1, 0, 2]]  # of a, b and c
    np.testing.assert_array_equal(counts, first[:, [1, 0, 2, 0, 1, 0]])
    np.testing.assert_array_equal(first.sum(axis=1), 3)
    np.testing.assert_allclose(np.cov(first.T), np.eye(3) - 1 / 3, atol=0.03)


def test_resampled_rows_follow_the_seed_and_are_units_by_themselves():
    first, again, other = (resample_counts(9, n_resamples=5, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    alone = resample_counts(9, units=np.arange(9), n_resamples=5, seed=1)
    np.testing.assert_array_equal(alone, first)


def test_resampled_rows_equal_the_resampled_confusion_matrices():
    truth, predicted = random_files(3, n_classes=3, n_files=60)
    groups = np.repeat(np.arange(12), np.tile([2, 5, 8], 4))
    counts = resample_counts(60, units=groups, n_resamples=20000)
    ours = counts @ (truth == predicted) / counts.sum(axis=1)
    theirs = accuracy(bootstrap(truth, predicted, 3, groups=groups, n_resamples=20000, seed=1))
    assert ours.mean() == pytest.approx(theirs.mean(), abs=0.003)
    assert ours.std() == pytest.approx(theirs.std(), rel=0.03)


@pytest.mark.parametrize(
    ("n_rows", "options", "message"),
    [
        (0, {}, "cannot resample 0 rows 1000 times"),
        (2, {"n_resamples": 0}, "cannot resample 2 rows 0 times"),
        (2, {"units": np.array([1])}, r"shape \(1,\), but there are 2 rows"),
    ],
)
def test_resample_counts_refuses_what_it_cannot_draw(n_rows, options, message):
    with pytest.raises(ValueError, match=message):
        resample_counts(n_rows, **options)


def lin(truth, predicted):
    """CCC as Lin defines it: 1 - mean squared difference / the same if pairs were independent."""
    independent = np.mean((truth[:, None] - predicted[None, :]) ** 2)
    return 1 - np.mean((truth - predicted) ** 2) / independent if independent else np.nan


def of_two(correlation):
    return lambda t, p: correlation(t, p).statistic if len(t) > 1 else np.nan


REGRESSION = [
    (mae, sk.mean_absolute_error),
    (rmse, lambda t, p: sk.mean_squared_error(t, p) ** 0.5),
    (pearson, of_two(pearsonr)),
    (spearman, of_two(spearmanr)),
    (ccc, lin),
]


def random_numbers(n=40, decimals=9, offset=0.0, scale=1.0, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=n)
    predicted = 0.3 + 0.7 * truth + rng.normal(scale=0.5, size=n)
    return offset + scale * truth.round(decimals), offset + scale * predicted.round(decimals)


NUMBERS = [
    {},
    {"decimals": 0},  # many ties
    {"n": 2, "decimals": 0},
    {"n": 3},  # a resample in nine is constant
    {"n": 4, "offset": 0.1, "scale": 1e-3},
    {"offset": 1e7, "scale": 1e-1},  # E[x^2] - E[x]^2 would lose all digits
    {"scale": 1e-80},
]


def expand(counts):
    """The row numbers of each resample, one after the other."""
    return [np.repeat(np.arange(len(row)), row) for row in counts]


@pytest.mark.parametrize("case", NUMBERS)
@pytest.mark.parametrize(("metric", "independent"), REGRESSION)
@pytest.mark.filterwarnings("ignore::scipy.stats.ConstantInputWarning")
def test_metrics_of_numbers_equal_scipy_and_scikit_learn(metric, independent, case):
    truth, predicted = random_numbers(**case)
    np.testing.assert_allclose(metric(truth, predicted), independent(truth, predicted), rtol=1e-6)
    assert np.shape(metric(truth, predicted)) == ()
    counts = resample_counts(len(truth), units=np.arange(len(truth)) // 2 * 2, n_resamples=50)
    counts[:10] = resample_counts(len(truth), n_resamples=10)
    expected = [independent(truth[rows], predicted[rows]) for rows in expand(counts)]
    np.testing.assert_allclose(metric(truth, predicted, counts), expected, rtol=1e-6, atol=1e-12)


def test_the_cases_have_constant_resamples():
    truth, predicted = random_numbers(n=3)
    samples = pearson(truth, predicted, resample_counts(3))
    assert np.isnan(samples).mean() == pytest.approx(1 / 9, abs=0.03)


def test_ccc_worked_by_hand():
    # Means 3 and 4, variances 2 and 2, covariance (-2*-2 + -1*0 + 0*-1 + 1*1 + 2*2) / 5 = 9/5.
    truth, predicted = np.array([1.0, 2, 3, 4, 5]), np.array([2.0, 4, 3, 5, 6])
    assert ccc(truth, predicted) == pytest.approx(2 * 1.8 / (2 + 2 + 1))
    assert ccc(truth, truth) == 1
    assert ccc(truth, 6 - truth) == -1
    # An offset and a scale lower it; the correlation does not see them.
    assert ccc(truth, truth + 2) == pytest.approx(2 * 2 / (2 + 2 + 4))
    assert ccc(truth, 3 * truth - 6) == pytest.approx(2 * 6 / (2 + 18))


# Whose mean is rounded, so that deviations from it are not 0.
CONSTANT = np.full(7, 0.1)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("counts", [None, np.array([[3, 0, 1, 0, 2, 0, 1], [1] * 7])])
def test_constants_have_no_correlation(counts):
    varying = np.linspace(0.3, 0.9, 7)
    for metric in (pearson, spearman):
        for pair in [(CONSTANT, varying), (varying, CONSTANT), (CONSTANT, CONSTANT)]:
            assert np.isnan(metric(*pair, counts)).all()
    assert (ccc(CONSTANT, varying, counts) == 0).all()
    assert (ccc(CONSTANT, CONSTANT + 1, counts) == 0).all()
    assert np.isnan(ccc(CONSTANT, CONSTANT, counts)).all()


def test_a_resample_that_happens_to_be_constant_has_no_correlation():
    truth = np.array([0.4, 0.1, 0.1, 0.1])
    counts = np.array([[0, 3, 3, 1], [2, 1, 0, 1]])
    for metric in (pearson, spearman, ccc):
        assert np.isnan(metric(truth, truth, counts)).tolist() == [True, False]


@pytest.mark.parametrize(
    ("truth", "predicted", "counts", "message"),
    [
        ([0.0, 1.0], [0.0], None, "same length"),
        ([[0.0, 1.0]], [[0.0, 1.0]], None, r"truth has shape \(1, 2\)"),
        ([0.0, np.nan], [0.0, 1.0], None, "truth holds 1 values that are not finite, .* row 1"),
        ([0.0, 1.0], [np.inf, 1.0], None, "predicted holds 1 values .* row 0"),
        ([], [], None, "0 rows"),
        ([0.0, 1.0], [0.0, 1.0], [1, 1], r"counts has shape \(2,\); with 2 rows"),
        ([0.0, 1.0], [0.0, 1.0], [[1, 1, 1]], r"counts has shape \(1, 3\); with 2 rows"),
    ],
)
@pytest.mark.parametrize("metric", [mae, rmse, pearson, spearman, ccc])
def test_bad_numbers_are_named(metric, truth, predicted, counts, message):
    with pytest.raises(ValueError, match=message):
        metric(np.array(truth), np.array(predicted), None if counts is None else np.array(counts))


def random_labels(n=40, decimals=9, rare=0.1, seed=0):
    """(n, 4), (n, 4): truth and scores; one label is rare, and one has no positive."""
    rng = np.random.default_rng(seed)
    truth = rng.random((n, 4)) < [0.5, 0.3, rare, 0]
    truth[0] = [True, True, True, False]
    return truth, (0.3 * truth + 0.7 * rng.random((n, 4))).round(decimals)


def sk_average_precision(truth, scores):
    columns = zip(truth.T, scores.T, strict=True)
    return [sk.average_precision_score(t, s) if t.any() else np.nan for t, s in columns]


def sk_f1(truth, decisions):
    return sk.f1_score(truth, decisions, average=None, zero_division=np.nan)


LABELLED = [{}, {"decimals": 1}, {"decimals": 0}, {"rare": 0}, {"n": 5, "decimals": 1}, {"n": 1}]


@pytest.mark.parametrize("case", LABELLED)
@pytest.mark.parametrize("seed", range(3))
def test_average_precision_equals_scikit_learn(case, seed):
    truth, scores = random_labels(**case, seed=seed)
    expected = sk_average_precision(truth, scores)
    np.testing.assert_allclose(average_precision(truth, scores), expected)
    counts = resample_counts(len(truth), n_resamples=40)
    expected = [sk_average_precision(truth[rows], scores[rows]) for rows in expand(counts)]
    np.testing.assert_allclose(average_precision(truth, scores, counts), expected)


@pytest.mark.parametrize("case", LABELLED)
@pytest.mark.parametrize("seed", range(3))
def test_label_f1_equals_scikit_learn(case, seed):
    truth, scores = random_labels(**case, seed=seed)
    decisions = scores >= [0.4, 0.6, 0.9, 0.69]
    np.testing.assert_allclose(label_f1(truth, decisions), sk_f1(truth, decisions))
    counts = resample_counts(len(truth), n_resamples=40)
    samples = label_f1(truth, decisions, counts)
    expected = [sk_f1(truth[rows], decisions[rows]) for rows in expand(counts)]
    np.testing.assert_allclose(samples, expected)
    np.testing.assert_allclose(macro_mean(samples), np.nanmean(expected, axis=1))


@pytest.mark.filterwarnings("error")
def test_average_precision_worked_by_hand():
    truth = np.array([[True, False], [False, False], [True, False], [False, False]])
    # From the top: a hit of 1, then a tie of a hit and a miss: 1/2 * 1 + 1/2 * 2/3.
    scores = np.array([[0.9, 0.1], [0.5, 0.2], [0.5, 0.3], [0.1, 0.4]])
    np.testing.assert_allclose(average_precision(truth, scores), [5 / 6, np.nan])
    # The top row left out, the tied hit doubled: 2 hits in 3. No hit drawn: unknown.
    counts = np.array([[0, 1, 2, 1], [0, 3, 0, 1]])
    samples = average_precision(truth, scores, counts)
    np.testing.assert_allclose(samples, [[2 / 3, np.nan], [np.nan, np.nan]])


def brute_force_threshold(truth, scores):
    distinct = sorted(set(scores))
    candidates = [min(0.5, distinct[0])]
    candidates += [(a + b) / 2 for a, b in itertools.pairwise(distinct)]
    f1 = [sk.f1_score(truth, scores >= threshold) for threshold in candidates]
    best = [c for c, value in zip(candidates, f1, strict=True) if value == pytest.approx(max(f1))]
    # Nothing in between does better.
    fine = np.linspace(min(scores) - 0.1, max(scores), 60)
    assert max(sk.f1_score(truth, scores >= threshold) for threshold in fine) <= max(f1) + 1e-9
    return min(best, key=lambda threshold: (abs(threshold - 0.5), -threshold))


@pytest.mark.parametrize("case", [{}, {"decimals": 1}, {"n": 6, "decimals": 1}, {"n": 4}])
@pytest.mark.parametrize("seed", range(5))
def test_best_thresholds_equal_brute_force(case, seed):
    truth, scores = random_labels(**case, seed=seed)
    truth[1, :3] = False
    found = best_thresholds(truth, scores)
    expected = [brute_force_threshold(truth[:, i], scores[:, i]) for i in range(3)]
    np.testing.assert_allclose(found, [*expected, 0.5])


def threshold_of(truth, scores):
    return best_thresholds(np.array(truth)[:, None] == 1, np.array(scores)[:, None])[0]


def test_best_thresholds_worked_by_hand():
    assert threshold_of([1, 0, 0], [0.75, 0.25, 0.0]) == 0.5
    # Two of equal F1, 2/3: above 0.875, or (of two hits) above 0.25. The latter is nearer to 0.5.
    assert threshold_of([1, 0, 0, 1], [0.875, 0.75, 0.5, 0.25]) == 0.25
    # All rows decided for: the lowest score, or 0.5 if that is lower.
    assert threshold_of([1, 0, 1], [0.75, 0.5, 0.25]) == 0.25
    assert threshold_of([1, 0, 1], [0.9, 0.8, 0.7]) == 0.5
    # Nothing to choose from.
    assert threshold_of([1, 1], [0.2, 0.1]) == 0.5
    assert threshold_of([0, 0], [0.2, 0.1]) == 0.5


def test_best_thresholds_part_neighbouring_floats():
    for upper in (0.7, np.nextafter(0.7, 0)):  # in one of them the mean is rounded down
        lower = np.nextafter(upper, 0)
        assert lower < threshold_of([1, 0], [upper, lower]) <= upper


@pytest.mark.parametrize("metric", [average_precision, label_f1, best_thresholds])
def test_bad_labels_are_named(metric):
    truth = np.array([[True], [False]])
    other = truth if metric is label_f1 else np.array([[0.1], [0.2]])
    with pytest.raises(ValueError, match="truth is of type int64; give booleans"):
        metric(truth.astype(int), other)
    with pytest.raises(ValueError, match=r"truth has shape \(1, 1\), \w+ \(2, 1\); both"):
        metric(truth[:1], other)
    with pytest.raises(ValueError, match=r"truth has shape \(2,\), \w+ \(2,\); both"):
        metric(truth[:, 0], other[:, 0])
    with pytest.raises(ValueError, match="at least one label"):
        metric(truth[:, :0], other[:, :0])
    with pytest.raises(ValueError, match="0 rows"):
        metric(truth[:0], other[:0])
    with pytest.raises(ValueError, match=r"not finite|decisions is of type float64"):
        metric(truth, np.array([[0.1], [np.nan]]))


def draw_pairs(rng):
    """100 pairs of normal numbers with correlation 0.6, the second 0.5 higher."""
    truth = rng.normal(size=100)
    return truth, 0.5 + 0.6 * truth + 0.8 * rng.normal(size=100), None


def draw_speakers_with_offsets(rng):
    """30 speakers with 10 pairs each, whose errors share the speaker's offset."""
    groups = np.repeat(np.arange(30), 10)
    truth = rng.normal(size=300)
    error = 0.8 * rng.normal(size=30)[groups] + 0.6 * rng.normal(size=300)
    return truth, truth + error, groups


def coverage_of_numbers(metric, draw, true_value, n_sets=300):
    """The share of simulated test sets whose 95 % interval holds the true value."""
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(n_sets):
        truth, predicted, units = draw(rng)
        counts = resample_counts(len(truth), units=units, n_resamples=400, seed=seed)
        low, high = interval(metric(truth, predicted, counts))
        covered += low <= true_value <= high
    return covered / n_sets


def drop_units(draw):
    return lambda rng: (*draw(rng)[:2], None)


def test_intervals_of_numbers_cover_the_truth():
    # Both of variance 1: CCC = 2 * 0.6 / (1 + 1 + 0.25). The difference is normal with mean 0.5
    # and variance 0.8; the mean of its absolute value is that of the folded normal distribution.
    mean, sd = 0.5, 0.8**0.5
    folded = sd * (2 / math.pi) ** 0.5 * math.exp(-(mean**2) / (2 * sd**2))
    folded += mean * math.erf(mean / (sd * 2**0.5))
    assert 0.90 <= coverage_of_numbers(ccc, draw_pairs, 1.2 / 2.25) <= 0.98
    assert 0.90 <= coverage_of_numbers(mae, draw_pairs, folded) <= 0.98


def test_only_intervals_over_units_cover_the_truth_for_new_speakers():
    # Errors of variance 1: the mean of |error| is sqrt(2 / pi).
    true_value = (2 / math.pi) ** 0.5
    assert 0.90 <= coverage_of_numbers(mae, draw_speakers_with_offsets, true_value) <= 0.98
    by_row = drop_units(draw_speakers_with_offsets)
    assert coverage_of_numbers(mae, by_row, true_value) < 0.80

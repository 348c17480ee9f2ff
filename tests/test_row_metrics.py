"""Metrics of rows against scipy, scikit-learn and hand-worked examples."""

import itertools

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from deepspectrumlite.metrics import macro_mean
from deepspectrumlite.resampling import resample_counts
from deepspectrumlite.row_metrics import (
    auc,
    average_precision,
    best_thresholds,
    ccc,
    ece,
    label_auc,
    label_f1,
    mae,
    pearson,
    reliability,
    rmse,
    spearman,
)


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


def sk_auc(truth, scores):
    columns = zip(truth.T, scores.T, strict=True)
    return [sk.roc_auc_score(t, s) if 0 < t.sum() < len(t) else np.nan for t, s in columns]


@pytest.mark.parametrize("case", LABELLED)
@pytest.mark.parametrize("seed", range(3))
def test_auc_of_labels_equals_scikit_learn(case, seed):
    truth, scores = random_labels(**case, seed=seed)
    np.testing.assert_allclose(label_auc(truth, scores), sk_auc(truth, scores))
    counts = resample_counts(len(truth), n_resamples=40)
    expected = [sk_auc(truth[rows], scores[rows]) for rows in expand(counts)]
    np.testing.assert_allclose(label_auc(truth, scores, counts), expected)


@pytest.mark.parametrize("decimals", [1, 6])
def test_auc_of_classes_equals_scikit_learn(decimals):
    rng = np.random.default_rng(0)
    truth, scores = rng.integers(0, 4, 60), rng.dirichlet(np.ones(4), 60)
    scores[np.arange(60), truth] += 0.2
    scores = (scores / scores.sum(axis=1, keepdims=True)).round(decimals)
    # scikit-learn takes only what sums to 1, which the order of scores does not need.
    expected = np.mean([sk.roc_auc_score(truth == c, scores[:, c]) for c in range(4)])
    assert auc(truth, scores) == pytest.approx(expected)
    if decimals == 6:
        whole = scores / scores.sum(axis=1, keepdims=True)
        expected = sk.roc_auc_score(truth, whole, multi_class="ovr", average="macro")
        assert auc(truth, whole) == pytest.approx(expected)
    counts = resample_counts(60, n_resamples=20)
    samples = [auc(truth[rows], scores[rows]) for rows in expand(counts)]
    np.testing.assert_allclose(auc(truth, scores, counts), samples)


def test_auc_leaves_out_a_class_that_is_missing():
    truth = np.array([0, 0, 1, 1])
    scores = np.array([[0.9, 0.1, 0.0], [0.4, 0.5, 0.1], [0.5, 0.4, 0.1], [0.1, 0.8, 0.1]])
    # Of class a 3 of 4 pairs are in order, of b 3 of 4; c has no file.
    assert auc(truth, scores) == pytest.approx(0.75)
    assert np.isnan(auc(np.zeros(4, int), scores))
    with pytest.raises(ValueError, match=r"truth has shape \(3,\), scores \(4, 3\)"):
        auc(truth[:3], scores)


def loop_ece(confidence, right, n_bins):
    found = 0.0
    for b in range(n_bins):
        inside = (confidence > b / n_bins) & (confidence <= (b + 1) / n_bins)
        if inside.any():
            found += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return found


@pytest.mark.parametrize("n_bins", [1, 10, 15])
def test_ece_equals_a_loop_over_bins(n_bins):
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.2, 1, 80)
    right = rng.random(80) < confidence**2
    expected = loop_ece(confidence, right, n_bins)
    assert ece(confidence, right, n_bins=n_bins) == pytest.approx(expected)
    counts = resample_counts(80, n_resamples=30)
    samples = [loop_ece(confidence[rows], right[rows], n_bins) for rows in expand(counts)]
    np.testing.assert_allclose(ece(confidence, right, counts, n_bins), samples)


def test_ece_worked_by_hand():
    # Three that are 0.9 sure and two of them right; two that are 0.5 sure, both right.
    confidence = np.array([0.9, 0.9, 0.9, 0.5, 0.5])
    right = np.array([True, True, False, True, True])
    assert ece(confidence, right) == pytest.approx(3 / 5 * (0.9 - 2 / 3) + 2 / 5 * 0.5)
    # All sure and all right; 0 has a bin too.
    assert ece(np.ones(3), np.ones(3, bool)) == 0
    assert ece(np.zeros(2), np.zeros(2, bool)) == 0
    # A rounding error beyond 1 is none of the user's business.
    assert ece(np.array([1 + 1e-7]), np.array([True])) == pytest.approx(0, abs=1e-6)


def test_the_reliability_diagram_is_that_of_scikit_learn():
    rng = np.random.default_rng(1)
    confidence = rng.uniform(0.3, 1, 200)
    right = rng.random(200) < confidence
    found, share, n = reliability(confidence, right, n_bins=10)
    there = n > 0
    assert n.sum() == 200
    assert not there[:3].any()
    assert np.isnan(found[:3]).all()
    expected_share, expected = calibration_curve(right, confidence, n_bins=10)
    np.testing.assert_allclose(found[there], expected)
    np.testing.assert_allclose(share[there], expected_share)
    gaps = n[there] / 200 @ np.abs(share - found)[there]
    assert gaps == pytest.approx(float(ece(confidence, right, n_bins=10)))


@pytest.mark.parametrize(
    ("confidence", "right", "message"),
    [
        (np.array([0.5, 1.2]), np.ones(2, bool), "reaches from 0.5 to 1.2; it must lie"),
        (np.array([0.5]), np.ones(2, bool), r"shape \(1,\), right \(2,\)"),
        (np.array([0.5]), np.ones(1), "right is of type float64"),
        (np.array([]), np.ones(0, bool), "0 rows"),
    ],
)
def test_bad_confidences_are_named(confidence, right, message):
    with pytest.raises(ValueError, match=message):
        ece(confidence, right)


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


@pytest.mark.parametrize("metric", [average_precision, label_auc, label_f1, best_thresholds])
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

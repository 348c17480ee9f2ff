"""Metrics of confusion matrices against scikit-learn and hand-worked examples; intervals."""

import math

import numpy as np
import pytest
from helpers import random_files
from sklearn import metrics as sk

from deepspectrumlite.metrics import (
    Estimate,
    accuracy,
    confusion_matrix,
    interval,
    macro_f1,
    precisions,
    recalls,
    uar,
    weighted_f1,
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
    per_class = sk.precision_score(
        truth, predicted, labels=range(n_classes), average=None, zero_division=np.nan
    )
    np.testing.assert_allclose(precisions(matrix), per_class)
    f1 = sk.f1_score(truth, predicted, average="weighted", zero_division=0)
    assert weighted_f1(matrix) == pytest.approx(f1)


def test_metrics_worked_by_hand():
    np.testing.assert_array_equal(recalls(HAND), [0.75, 0.5, 0.0, np.nan])
    assert uar(HAND) == pytest.approx(1.25 / 3)
    assert accuracy(HAND) == pytest.approx(4 / 7)
    # F1: a = 2*3/(4+5), b = 2*1/(2+2), c = 0; d is nowhere and left out.
    assert macro_f1(HAND) == pytest.approx((6 / 9 + 2 / 4 + 0) / 3)
    assert weighted_f1(HAND) == pytest.approx((4 * 6 / 9 + 2 * 2 / 4 + 1 * 0) / 7)
    np.testing.assert_array_equal(precisions(HAND), [3 / 5, 1 / 2, np.nan, np.nan])


@pytest.mark.parametrize("metric", [uar, accuracy, macro_f1, weighted_f1, recalls, precisions])
def test_a_stack_gives_each_matrix_its_own_value(metric):
    rng = np.random.default_rng(0)
    stack = rng.integers(0, 4, (2, 3, 4, 4))
    stack[0, 1, 2] = 0  # a class without files in one matrix only
    values = metric(stack)
    assert values.shape[:2] == (2, 3)
    for index in np.ndindex(2, 3):
        np.testing.assert_array_equal(values[index], metric(stack[index]))


@pytest.mark.parametrize("metric", [uar, accuracy, macro_f1, weighted_f1])
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


def test_interval_leaves_out_nan_and_checks_the_level():
    samples = np.concatenate([np.linspace(0, 1, 201), [np.nan] * 50])
    assert interval(samples) == pytest.approx((0.025, 0.975))
    assert interval(samples, level=0.5) == pytest.approx((0.25, 0.75))
    assert all(math.isnan(end) for end in interval(np.full(3, np.nan)))
    with pytest.raises(ValueError, match="level is 95"):
        interval(samples, level=95)


def test_estimate_reads_well():
    assert str(Estimate(0.71349, 0.642, 0.7806)) == "0.713 [0.642, 0.781]"

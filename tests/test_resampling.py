"""The draws of the bootstrap against plain loops."""

import numpy as np
import pytest
from helpers import random_files
from scipy.stats import ks_2samp
from sklearn import metrics as sk

from deepspectrumlite import resampling
from deepspectrumlite.metrics import accuracy, confusion_matrix, macro_f1, uar
from deepspectrumlite.resampling import bootstrap, count_blocks, left_out_blocks, resample_counts


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


@pytest.mark.parametrize(
    ("options", "message"),
    [({"n_resamples": 0}, "2 files 0 times"), ({"groups": np.array([1])}, r"shape \(1,\)")],
)
def test_bootstrap_refuses_what_it_cannot_draw(options, message):
    with pytest.raises(ValueError, match=message):
        bootstrap(np.array([0, 1]), np.array([0, 1]), 2, **options)


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


@pytest.mark.parametrize("units", [None, np.array([3, 1, 1, 2, 2, 2, 0, 0, 1])])
def test_blocks_of_resamples_are_the_same_resamples(monkeypatch, units):
    truth, predicted = random_files(2, n_classes=3, n_files=9)
    options = {"n_resamples": 11, "seed": 4}
    whole = resample_counts(9, units=units, **options)
    matrices = bootstrap(truth, predicted, 3, groups=units, **options)
    for size in (1, 20, 30):
        monkeypatch.setattr(resampling, "BLOCK", size)
        blocks = list(count_blocks(9, units=units, **options))
        assert max(len(block) for block in blocks) == max(1, size // 9)
        np.testing.assert_array_equal(np.concatenate(blocks), whole)
        np.testing.assert_array_equal(
            bootstrap(truth, predicted, 3, groups=units, **options), matrices
        )


@pytest.mark.parametrize("units", [None, np.array(["b", "a", "b", "c"])])
def test_each_unit_is_left_out_once(monkeypatch, units):
    monkeypatch.setattr(resampling, "BLOCK", 8)
    counts = np.concatenate(list(left_out_blocks(4, units)))
    names = np.arange(4) if units is None else units
    expected = [(names != name).astype(int) for name in np.unique(names)]
    np.testing.assert_array_equal(counts, expected)

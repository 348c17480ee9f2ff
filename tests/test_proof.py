"""The comparison of a file with its model, against numbers worked out by hand."""

from types import SimpleNamespace

import numpy as np
import pytest

from deepspectrumlite.decisions import Decision
from deepspectrumlite.proof import compare, score_all

RNG = np.random.default_rng(0)


def clips(target, counts=None):
    """What ``compare`` needs of Segments: clips with so many segments each."""
    counts = [1] * len(target) if counts is None else counts
    index = np.repeat(np.arange(len(target)), counts)
    return SimpleNamespace(file_index=index, target=np.asarray(target, np.float32))


def one_hot(classes, n=2):
    return np.eye(n, dtype=np.float32)[classes]


CLASSES = Decision("softmax", ["a", "b"])


def test_the_drop_of_uar_and_the_agreement():
    target = one_hot([0, 0, 0, 0, 1, 1])
    model = one_hot([0, 0, 0, 1, 1, 1])
    file = one_hot([0, 0, 1, 1, 1, 0])
    found = compare(CLASSES, model, file, clips(target))
    assert found.metric == "UAR"
    assert found.value.value == pytest.approx((2 / 4 + 1 / 2) / 2)
    assert found.drop.value == pytest.approx((3 / 4 + 2 / 2) / 2 - (2 / 4 + 1 / 2) / 2)
    assert found.agreement == pytest.approx(4 / 6)
    assert found.max_difference == 1


def test_equal_scores_differ_in_nothing():
    scores = RNG.dirichlet([1, 1], 20).astype(np.float32)
    found = compare(CLASSES, scores, scores, clips(one_hot(RNG.integers(0, 2, 20))))
    assert (found.max_difference, found.agreement) == (0, 1)
    assert (found.drop.value, found.drop.low, found.drop.high) == (0, 0, 0)


def test_the_interval_is_of_paired_clips():
    """Two systems that err on the same clips differ for sure; on other clips they may not."""
    target = one_hot(np.repeat([0, 1], 100))
    wrong = np.arange(200) % 4 == 0
    model = one_hot(np.where(wrong, 1 - target.argmax(1), target.argmax(1)))
    same_errors = compare(CLASSES, model, model, clips(target)).drop
    shifted = one_hot(np.where(np.roll(wrong, 1), 1 - target.argmax(1), target.argmax(1)))
    other_errors = compare(CLASSES, model, shifted, clips(target)).drop
    assert same_errors.high - same_errors.low == 0
    assert other_errors.low < 0 < other_errors.high


def test_the_interval_covers_what_a_formula_gives():
    """For one class the drop is a mean over clips, with a known standard error."""
    target = one_hot(np.zeros(400, int))
    file = one_hot((np.arange(400) % 5 == 0).astype(int))
    drop = compare(CLASSES, target, file, clips(target)).drop
    error = np.sqrt(0.2 * 0.8 / 400)
    assert drop.value == pytest.approx(0.2)
    assert drop.low == pytest.approx(0.2 - 1.96 * error, abs=0.006)
    assert drop.high == pytest.approx(0.2 + 1.96 * error, abs=0.006)


def test_segments_are_averaged_over_their_clip():
    target = one_hot([0, 1])
    model = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]], np.float32)
    file = np.array([[0.1, 0.9], [0.4, 0.6], [0.2, 0.8]], np.float32)
    found = compare(CLASSES, model, file, clips(target, [2, 1]))
    assert found.agreement == 0.5  # (0.9 + 0.4) / 2 > 0.5, but (0.1 + 0.4) / 2 < 0.5
    assert found.drop.value == pytest.approx(0.5)


def test_several_labels_agree_where_all_do():
    decision = Decision("sigmoid", ["a", "b"], [0.5, 0.2])
    target = np.array([[1, 0], [0, 1], [1, 1]])
    model = np.array([[0.9, 0.1], [0.1, 0.9], [0.8, 0.3]], np.float32)
    file = np.array([[0.9, 0.1], [0.1, 0.9], [0.8, 0.19]], np.float32)
    found = compare(decision, model, file, clips(target))
    assert found.metric == "MAP"
    assert found.agreement == pytest.approx(2 / 3)
    assert found.drop.value == 0  # the order is the same


def test_numbers_are_compared_in_their_own_deviation():
    truth = RNG.normal(50, 10, (60, 1)).astype(np.float32)
    decision = Decision("linear", ["age"])
    found = compare(decision, truth, truth + 1, clips(truth), scale=np.array([10.0]))
    assert found.metric == "CCC"
    assert found.agreement is None
    assert found.max_difference == pytest.approx(0.1, rel=1e-4)
    variance = truth.astype(float).var()
    assert found.drop.value == pytest.approx(1 - 2 * variance / (2 * variance + 1), rel=1e-3)


def test_ordered_labels_agree_by_class():
    decision = Decision("ordinal", ["low", "high"], values=[0, 1])
    truth = np.array([[0.0], [1.0], [1.0]], np.float32)
    file = np.array([[0.1], [0.4], [0.9]], np.float32)
    assert compare(decision, truth, file, clips(truth)).agreement == pytest.approx(2 / 3)


class Scaled:
    """A recogniser that returns the first two samples, scaled, and remembers what it saw."""

    def __init__(self, factor):
        self.factor, self.sizes = factor, []

    def score(self, segments):
        self.sizes.append(len(segments))
        return self.factor * segments[:, :2]


def test_every_segment_is_read_once_for_all_systems():
    reads = []

    class Segments:
        def __len__(self):
            return 7

        def __getitem__(self, i):
            reads.append(i)
            return np.full(4, i, np.float32), None, i

    systems = {"one": Scaled(1), "two": Scaled(2)}
    steps = []
    scores = score_all(systems, Segments(), lambda *step: steps.append(step), batch_size=3)
    assert reads == list(range(7))
    assert systems["one"].sizes == [3, 3, 1]
    np.testing.assert_array_equal(scores["two"][:, 0], 2 * np.arange(7))
    assert [done for _, done, _ in steps] == [0, 3, 6]

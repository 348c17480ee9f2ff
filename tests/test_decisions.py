"""From scores to answers: every output, ties, and nothing at all."""

import numpy as np
import pytest

from deepspectrumlite.decisions import Decision
from deepspectrumlite.postprocess import PostProcessor, Span
from deepspectrumlite.stream_settings import StreamSettings

LABELS = ["a", "b", "c"]
SOFTMAX = Decision("softmax", LABELS)
SIGMOID = Decision("sigmoid", LABELS, thresholds=[0.5, 0.25, 0.9])
ORDINAL = Decision("ordinal", LABELS, values=[1, 2, 10])
LINEAR = Decision("linear", ["age", "height"])
BY_SCORE = Decision("softmax", LABELS, unknown="score", unknown_below=0.5, conformal=0.25)
BY_ENERGY = Decision("softmax", LABELS, unknown="energy")


def test_columns_are_labels_names_of_numbers_or_the_value():
    assert SOFTMAX.columns == SIGMOID.columns == LABELS
    assert LINEAR.columns == ["age", "height"]
    assert ORDINAL.columns == ["value"]


@pytest.mark.parametrize(
    ("scores", "label"),
    [
        ([0.2, 0.5, 0.3], "b"),
        ([0.0, 0.0, 1.0], "c"),
        # Of equal ones the first.
        ([0.2, 0.4, 0.4], "b"),
        ([1 / 3, 1 / 3, 1 / 3], "a"),
    ],
)
def test_one_label_is_the_likeliest(scores, label):
    assert SOFTMAX.answer(np.array(scores)) == [label]
    assert SOFTMAX.describe(np.array(scores)) == {
        "label": label,
        "scores": dict(zip(LABELS, scores, strict=True)),
    }


@pytest.mark.parametrize(
    ("scores", "labels"),
    [
        ([0.6, 0.3, 0.95], ["a", "b", "c"]),
        ([0.49, 0.26, 0.89], ["b"]),
        # At the threshold is there, just below is not.
        ([0.5, 0.25, 0.9], ["a", "b", "c"]),
        (np.nextafter([0.5, 0.25, 0.9], 0), []),
        ([0.0, 0.0, 0.0], []),
    ],
)
def test_several_labels_each_have_a_threshold(scores, labels):
    scores = np.array(scores)
    assert SIGMOID.answer(scores) == labels
    assert SIGMOID.present(scores).tolist() == [label in labels for label in LABELS]
    found = SIGMOID.describe(scores)
    assert found["labels"] == labels
    assert list(found["scores"].values()) == scores.tolist()
    assert set(found) == {"labels", "scores"}


@pytest.mark.parametrize(
    ("value", "label"),
    [
        (-1e9, "a"),
        (1.4, "a"),
        # Midway the lower one.
        (1.5, "a"),
        (1.6, "b"),
        (6.0, "b"),
        (6.1, "c"),
        (99.0, "c"),
    ],
)
def test_the_nearest_of_ordered_labels(value, label):
    assert ORDINAL.answer(np.array([value])) == [label]
    assert ORDINAL.describe(np.array([value])) == {"label": label, "values": {"value": value}}


def test_numbers_are_no_labels():
    assert LINEAR.answer(np.array([31.5, -1.75])) == []
    assert LINEAR.describe(np.array([31.5, -1.75])) == {"values": {"age": 31.5, "height": -1.75}}


@pytest.mark.parametrize("shape", [(), (4,), (2, 5)])
def test_many_rows_at_once_as_one_by_one(shape):
    rng = np.random.default_rng(0)
    scores = rng.random((*shape, 3))
    classes, present = SOFTMAX.classes(scores), SIGMOID.present(scores)
    values = rng.uniform(0, 12, (*shape, 1))
    ordered = ORDINAL.classes(values)
    assert classes.shape == ordered.shape == shape
    assert present.shape == (*shape, 3)
    assert classes.dtype == ordered.dtype == np.int64
    for i in np.ndindex(shape):
        assert [LABELS[classes[i]]] == SOFTMAX.answer(scores[i])
        assert [x for x, there in zip(LABELS, present[i], strict=True) if there] == SIGMOID.answer(
            scores[i]
        )
        assert [LABELS[ordered[i]]] == ORDINAL.answer(values[i])


def test_encoded_targets_are_their_own_answers():
    assert SOFTMAX.classes(np.eye(3, dtype=np.float32)).tolist() == [0, 1, 2]
    assert ORDINAL.classes(np.array([[1], [2], [10]], np.float32)).tolist() == [0, 1, 2]


def test_numbers_of_json_are_plain():
    for decision, n in ((SOFTMAX, 3), (SIGMOID, 3), (ORDINAL, 1), (LINEAR, 2)):
        found = decision.describe(np.full(n, 0.1, np.float32))
        for value in found.get("scores", found.get("values")).values():
            assert type(value) is float


def test_scores_that_do_not_fit_are_refused():
    for decision, n in ((SOFTMAX, 2), (ORDINAL, 3), (LINEAR, 1)):
        with pytest.raises(ValueError, match=r"zip\(\) argument 2 is"):
            decision.describe(np.zeros(n))


@pytest.mark.parametrize(
    ("scores", "label", "inside"),
    [
        ([0.1, 0.2, 0.7], "c", ["c"]),
        # At the bound it is accepted, and at the other one in the set.
        ([0.5, 0.25, 0.25], "a", ["a", "b", "c"]),
        ([0.26, 0.25, 0.49], "unknown", ["c", "a", "b"]),
        ([0.24, 0.52, 0.24], "b", ["b"]),
    ],
)
def test_a_low_score_is_refused_and_a_set_holds_what_is_likely(scores, label, inside):
    scores = np.array(scores)
    assert BY_SCORE.answer(scores) == [label]
    assert BY_SCORE.refused(scores) == (label == "unknown")
    assert BY_SCORE.prediction_set(scores) == inside
    assert BY_SCORE.describe(scores) == {
        "label": label,
        "set": inside,
        "scores": dict(zip(LABELS, scores.tolist(), strict=True)),
    }
    # What it is likeliest to be, whether refused or not.
    assert BY_SCORE.classes(scores) == scores.argmax()


def test_a_set_can_hold_nothing_or_everything():
    scores = np.array([0.4, 0.3, 0.3])
    assert Decision("softmax", LABELS, conformal=0.5).prediction_set(scores) == []
    assert Decision("softmax", LABELS, conformal=0.0).prediction_set(scores) == LABELS
    assert "set" not in SOFTMAX.describe(scores)


def test_one_score_more_tells_by_energy_what_is_unknown():
    assert BY_ENERGY.columns == [*LABELS, "unknown"]
    accepted = np.array([0.2, 0.5, 0.3, np.nextafter(0.5, 0)])
    refused = np.array([0.2, 0.5, 0.3, 0.5])
    assert BY_ENERGY.refused(np.stack([accepted, refused])).tolist() == [False, True]
    assert BY_ENERGY.answer(accepted) == ["b"]
    assert BY_ENERGY.answer(refused) == ["unknown"]
    assert BY_ENERGY.describe(refused)["scores"] == {"a": 0.2, "b": 0.5, "c": 0.3, "unknown": 0.5}
    # It is no label, however high.
    sure = np.array([0.2, 0.5, 0.3, 0.99])
    assert BY_ENERGY.classes(sure) == 1
    assert BY_ENERGY.known(sure).tolist() == [0.2, 0.5, 0.3]
    assert Decision("softmax", LABELS, unknown="energy", conformal=0.3).prediction_set(sure) == [
        "b",
        "c",
    ]


@pytest.mark.parametrize("decision", [SOFTMAX, SIGMOID, ORDINAL, LINEAR])
def test_without_a_bound_nothing_is_refused(decision):
    scores = np.full((2, len(decision.columns)), 0.01)
    assert decision.refused(scores).tolist() == [False, False]
    assert decision.known(scores) is scores


def test_what_is_unknown_makes_no_event():
    settings = StreamSettings(threshold=0.4, smoothing="none")
    events = {}
    for decision, more in ((SOFTMAX, []), (BY_ENERGY, [0.9])):
        post = PostProcessor(settings, decision, 100, 1000)
        found = []
        for i, score in enumerate([0.1, 0.6, 0.7, 0.1, 0.1]):
            span = Span(100 * i, 100 * i + 100, 100 * i + 100)
            smoothed, new = post.step(span, np.array([score, 0.2, 0.1, *more]))
            assert len(smoothed) == len(decision.columns)
            found += new
        events[decision.unknown] = found + post.finish()
    assert events["energy"] == events["none"]
    assert {event.label for event in events["energy"]} == {"a"}

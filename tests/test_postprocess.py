"""Settings, smoothing and events: against plain formulas, and times written out by hand."""

import json
import math
from dataclasses import fields

import numpy as np
import pytest
from stream_helpers import Cutting

from deepspectrumlite.decisions import Decision
from deepspectrumlite.errors import ModelError
from deepspectrumlite.postprocess import Event, LabelEvents, PostProcessor, Smoother, Span
from deepspectrumlite.stream_settings import StreamSettings

ONE = Decision("sigmoid", ["dog"], thresholds=[0.3])
TWO = Decision("softmax", ["dog", "noise"])


def run(scores, settings, decision=TWO, hop=10, size=20, rate=10):
    """Post-process (n_windows, n_labels) scores: the smoothed ones, and the events."""
    post = PostProcessor(settings, decision, hop, rate)
    smoothed, events = [], []
    for k, row in enumerate(scores):
        begin = k * hop + (size - hop) // 2
        now, found = post.step(Span(begin, begin + hop, k * hop + size), np.array(row))
        smoothed.append(now)
        events += found
    return np.array(smoothed), events + post.finish()


def dog(*scores):
    """Of two labels, hop 1 s, windows of 2 s: window k speaks for k + 0.5 s to k + 1.5 s."""
    return [[score, 1 - score] for score in scores]


def times(events):
    """(start, end, announced) of each."""
    return [(event.start_seconds, event.end_seconds, event.announced_seconds) for event in events]


def test_an_event_begins_and_ends_with_the_hops_of_its_windows():
    _, events = run(dog(0.1, 0.6, 0.9, 0.7, 0.2, 0.1), StreamSettings(ignore=["noise"]))
    # Window 1, from 1 to 3 s, decides; windows 1 to 3 speak for 1.5 to 4.5 s.
    assert events == [Event("dog", 1.5, None, 0.6, 3.0), Event("dog", 1.5, 4.5, 0.9, 3.0)]


def test_what_lasts_is_ended_by_the_end():
    _, events = run(dog(0.1, 0.6), StreamSettings(ignore=["noise"]))
    assert times(events) == [(1.5, None, 3.0), (1.5, 2.5, 3.0)]


def test_hysteresis_bridges_a_dip():
    scores = dog(0.6, 0.42, 0.6, 0.38, 0.6)
    _, events = run(scores, StreamSettings(hysteresis=0.1, ignore=["noise"]))
    assert times(events) == [(0.5, None, 2), (0.5, 3.5, 2), (4.5, None, 6), (4.5, 5.5, 6)]
    _, events = run(scores, StreamSettings(hysteresis=0, ignore=["noise"]))
    assert [event.end_seconds for event in events] == [None, 1.5, None, 3.5, None, 5.5]


def test_the_threshold_itself_starts_and_its_lower_end_keeps():
    settings = StreamSettings(threshold=0.5, hysteresis=0.25, ignore=["noise"])
    _, events = run(dog(0.5, 0.25, 0.2), settings)
    assert times(events) == [(0.5, None, 2), (0.5, 2.5, 2)]


def test_a_low_threshold_ends_too():
    settings = StreamSettings(threshold=0.05, hysteresis=0.1, ignore=["noise"])
    _, events = run(dog(0.06, 0.03, 0.02, 0.0), settings)
    assert times(events) == [(0.5, None, 2), (0.5, 2.5, 2)]


def test_a_short_event_is_never_announced_and_a_long_one_late():
    settings = StreamSettings(min_duration_seconds=3, ignore=["noise"])
    _, events = run(dog(0.9, 0.9, 0.0, 0.8, 0.9, 0.7, 0.6, 0.0), settings)
    # From 3.5 s on; 3 s long with window 5, which ends at 7 s.
    assert events == [Event("dog", 3.5, None, 0.9, 7.0), Event("dog", 3.5, 7.5, 0.9, 7.0)]


def test_no_other_event_within_the_refractory_time():
    settings = StreamSettings(refractory_seconds=2, ignore=["noise"])
    # Ends at 1.5 s; window 2 (from 2.5 s) comes too early, window 3 (from 3.5 s) does not.
    _, events = run(dog(0.9, 0.0, 0.9, 0.9, 0.0), settings)
    assert times(events) == [(0.5, None, 2), (0.5, 1.5, 2), (3.5, None, 5), (3.5, 4.5, 5)]


def test_an_event_that_was_not_announced_has_no_refractory_time():
    settings = StreamSettings(refractory_seconds=9, min_duration_seconds=2, ignore=["noise"])
    _, events = run(dog(0.9, 0.0, 0.9, 0.9, 0.0), settings)
    assert times(events) == [(2.5, None, 5), (2.5, 4.5, 5)]


def test_only_the_strongest_starts_but_it_may_last():
    settings = StreamSettings(threshold=0.3, only_strongest=True, ignore=["noise"])
    _, events = run(dog(0.4, 0.6, 0.4, 0.1), settings)
    assert times(events) == [(1.5, None, 3), (1.5, 3.5, 3)]
    _, events = run(dog(0.4, 0.6, 0.4, 0.1), StreamSettings(threshold=0.3, ignore=["noise"]))
    assert times(events) == [(0.5, None, 2), (0.5, 3.5, 2)]


def test_labels_have_their_own_thresholds_and_events():
    settings = StreamSettings(threshold=0.6, thresholds={"noise": 0.8})
    _, events = run([[0.7, 0.7], [0.5, 0.9]], settings)
    assert [(event.label, event.start_seconds) for event in events] == [
        ("dog", 0.5),
        ("noise", 1.5),
        ("dog", 0.5),
        ("noise", 1.5),
    ]


@pytest.mark.parametrize("output", ["linear", "ordinal"])
def test_numbers_make_no_events(output):
    decision = Decision(output, ["a", "b"], values=[0, 1])
    scores = np.full((3, len(decision.columns)), 9.0)
    smoothed, events = run(scores, StreamSettings(smoothing="mean"), decision)
    assert events == []
    np.testing.assert_array_equal(smoothed, scores)


def test_mean_and_ema_are_their_formulas():
    rng = np.random.default_rng(0)
    scores = rng.random((50, 2))
    mean, _ = run(scores, StreamSettings(smoothing="mean", smoothing_seconds=5))
    plain = [scores[max(0, k - 4) : k + 1].mean(axis=0) for k in range(50)]
    np.testing.assert_allclose(mean, plain, rtol=1e-12)
    ema, _ = run(scores, StreamSettings(smoothing="ema", smoothing_seconds=5))
    # Weights that fall by exp(-1/5) a window; the first score has what is left to 1.
    for k in (0, 1, 49):
        weights = (1 - math.exp(-0.2)) * np.exp(-0.2 * (k - np.arange(1, k + 1)))
        wanted = weights @ scores[1 : k + 1] + (1 - weights.sum()) * scores[0]
        np.testing.assert_allclose(ema[k], wanted, rtol=1e-12)
    same, _ = run(scores, StreamSettings())
    np.testing.assert_array_equal(same, scores)


def test_a_mean_shorter_than_a_hop_is_the_score_itself():
    scores = np.random.default_rng(1).random((9, 2))
    smoothed, _ = run(scores, StreamSettings(smoothing="mean", smoothing_seconds=0.1))
    np.testing.assert_array_equal(smoothed, scores)


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [("mean", [1, 1, 3, 3, math.nan, math.nan]), ("ema", [1, 1, 2, 2, 2, 2])],
)
def test_smoothing_passes_over_what_was_not_scored(kind, wanted):
    # The mean is of two windows; with this time constant the ema takes half of each new score.
    seconds = {"mean": 2.0, "ema": 1 / math.log(2)}[kind]
    smoother = Smoother(StreamSettings(smoothing=kind, smoothing_seconds=seconds), 1.0)
    scores = [1.0, math.nan, 3.0, math.nan, math.nan, math.nan]
    found = [float(smoother.step(np.array([score]))[0]) for score in scores]
    np.testing.assert_allclose(found, wanted)


def test_nan_starts_nothing_and_ends_what_lasts():
    events = LabelEvents("dog", 0.5, StreamSettings(), 10)
    assert events.step(Span(0, 10, 20), math.nan) is None
    assert events.step(Span(10, 20, 30), 0.9) == Event("dog", 1, None, 0.9, 3)
    assert events.step(Span(20, 30, 40), math.nan) == Event("dog", 1, 2, 0.9, 3)


def test_events_agree_with_a_plain_search():
    rng = np.random.default_rng(2)
    for _ in range(200):
        scores = rng.random(30).round(2)
        threshold, hysteresis = rng.uniform(0.3, 0.8), rng.uniform(0, 0.3)
        settings = StreamSettings(threshold=threshold, hysteresis=hysteresis, ignore=["noise"])
        _, events = run(dog(*scores), settings)
        ended = [(e.start_seconds, e.end_seconds, e.score) for e in events if e.end_seconds]
        assert ended == plain_search(scores, threshold, max(threshold - hysteresis, threshold / 2))


def plain_search(scores, threshold, low):
    """Runs above `low`, from their first score that reaches the threshold on."""
    found, k = [], 0
    while k < len(scores):
        end = k
        while end < len(scores) and scores[end] >= low:
            end += 1
        high = [i for i in range(k, end) if scores[i] >= threshold]
        if high:
            found.append((high[0] + 0.5, end + 0.5, max(scores[high[0] : end])))
        k = end + 1
    return found


def test_thresholds_of_the_model_stand_until_one_is_given():
    assert StreamSettings().label_thresholds(ONE) == {"dog": 0.3}
    assert StreamSettings(threshold=0.7).label_thresholds(ONE) == {"dog": 0.7}
    assert StreamSettings(thresholds={"dog": 0.9}).label_thresholds(ONE) == {"dog": 0.9}
    assert StreamSettings(ignore=["noise"]).label_thresholds(TWO) == {"dog": 0.5}


def test_json_holds_every_setting_and_comes_back():
    settings = StreamSettings(
        hop_seconds=0.1,
        smoothing="ema",
        thresholds={"dog": 0.7},
        gate_db=-50,
        ignore=("noise",),
        only_strongest=True,
    )
    text = json.dumps(settings.to_json())
    assert list(json.loads(text)) == [each.name for each in fields(StreamSettings)]
    assert StreamSettings.from_json(text) == settings
    assert StreamSettings.from_json({}) == StreamSettings()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("{", "stream settings: not JSON: "),
        ("[]", "stream settings: a list; allowed: a JSON object"),
        ({"treshold": 0.5}, "stream settings: unknown: treshold; allowed: hop_seconds, smoothing,"),
        ({"threshold": 0}, "threshold is 0; allowed: a number above 0 and up to 1, or null"),
        ({"threshold": True}, "threshold is true; allowed: a number above 0"),
        ({"threshold": math.nan}, "threshold is NaN; allowed: a number above 0"),
        ({"thresholds": {"dog": 2}}, 'thresholds is {"dog": 2}; allowed: numbers above 0 and up'),
        ({"thresholds": None}, "thresholds is null; allowed: numbers"),
        ({"hysteresis": "0.1"}, 'hysteresis is "0.1"; allowed: a number from 0 to 1'),
        ({"smoothing": "median"}, 'smoothing is "median"; allowed: none, mean, ema'),
        ({"smoothing": ["mean"]}, 'smoothing is ["mean"]; allowed: none, mean, ema'),
        ({"smoothing_seconds": 0}, "smoothing_seconds is 0; allowed: a number of seconds above 0"),
        ({"hop_seconds": -1}, "hop_seconds is -1; allowed: a number of seconds above 0"),
        ({"refractory_seconds": -1}, "refractory_seconds is -1; allowed: a number of seconds from"),
        ({"gate_db": 10}, "gate_db is 10; allowed: a level from -120 to 0 dBFS, or null"),
        ({"ignore": "noise"}, 'ignore is "noise"; allowed: a list of labels'),
        ({"only_strongest": 1}, "only_strongest is 1; allowed: true, false"),
    ],
)
def test_bad_settings_are_refused_by_name(given, message):
    with pytest.raises(ModelError) as caught:
        StreamSettings.from_json(given)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("given", [{"thresholds": {"cat": 0.5}}, {"ignore": ["cat"]}])
def test_labels_that_the_model_does_not_know(given):
    name = next(iter(given))
    with pytest.raises(ModelError, match=f"{name} names 'cat', which .* allowed: dog, noise"):
        StreamSettings(**given).check(TWO.labels)
    with pytest.raises(ModelError, match=f"{name} names 'cat', which .* allowed: dog, noise"):
        StreamSettings(**given).check_for(Cutting(), TWO)


def test_a_hop_has_to_fit_the_window_of_the_model():
    cutting = Cutting(sample_rate=1000, segment_samples=400, hop_samples=100)
    settings = [StreamSettings(hop_seconds=given) for given in (None, 0.4, 0.25, 1e-9)]
    for given in settings:
        given.check_for(cutting, TWO)
    assert [given.hop_samples(cutting) for given in settings] == [100, 400, 250, 1]
    with pytest.raises(ModelError, match=r"hop_seconds is 0\.401, .* at most 0\.4, the length"):
        StreamSettings(hop_seconds=0.401).check_for(cutting, TWO)

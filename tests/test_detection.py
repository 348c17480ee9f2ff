"""Detection: counted by hand, matched by brute force, and the same as the stream itself."""

import csv
import json
import sys
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from helpers import rms, save
from matplotlib.image import imread
from stream_helpers import RATE, Cutting, Loudness

from deepspectrumlite.decisions import Decision
from deepspectrumlite.detection import (
    THRESHOLDS,
    choose_thresholds,
    curve,
    evaluate_stream,
    find_events,
    score_recording,
)
from deepspectrumlite.detection_report import curve_figure
from deepspectrumlite.errors import AudioError, ManifestError, ModelError
from deepspectrumlite.matching import Reference, count, match, read_references
from deepspectrumlite.postprocess import Event
from deepspectrumlite.progress import silent
from deepspectrumlite.soundscapes import lay_out
from deepspectrumlite.stream import StreamingClassifier, StreamSettings

HERE = Path("a.wav")
LOUD = StreamSettings(ignore=["quiet"], hysteresis=0.05)


def known(start, end, label="dog"):
    return Reference(HERE, start, end, label)


def found(start, end, label="dog", announced=None):
    return Event(label, start, end, 0.9, start + 1 if announced is None else announced)


def kinds(references, events, collar=0.0):
    return [outcome.kind for outcome in match(references, events, collar)]


def test_outcomes_by_hand():
    references = [known(10, 12), known(20, 22), known(30, 32, "cat"), known(40, 41)]
    events = [
        found(1, 2),  # far from all
        found(11, 11.5),  # inside the first
        found(11.8, 13),  # the first again
        found(22.3, 23),  # after the second
        found(30, 32),  # a cat, but called a dog
        found(31, 33, "cat"),
    ]
    outcomes = match(references, events, 0.0)
    assert [(each.kind, each.label) for each in outcomes] == [
        ("false alarm", "dog"),
        ("hit", "dog"),
        ("repeat", "dog"),
        ("miss", "dog"),
        ("false alarm", "dog"),
        ("false alarm", "dog"),
        ("hit", "cat"),
        ("miss", "dog"),
    ]
    # With a collar of 0.5 s the one after the second hits it.
    assert kinds(references, events, 0.5).count("hit") == 3
    assert kinds(references, events, 0.2).count("hit") == 2


def test_a_detection_hits_one_event_at_most():
    assert kinds([known(1, 2), known(3, 4)], [found(0, 9)]) == ["hit", "miss"]
    assert kinds([known(1, 2), known(3, 4)], [found(0, 3.5), found(3.6, 9)]) == ["hit", "hit"]


def test_rates_and_latencies_by_hand():
    references = [known(10, 12), known(20, 22), known(30, 32), known(40, 42)]
    events = [
        found(0, 1),
        found(10, 12, announced=10.5),
        found(20, 22, announced=22),
        found(30, 31),
    ]
    counts = count(match(references, events, 0.0), hours=0.5)
    assert counts == {
        "events": 4,
        "hits": 3,
        "misses": 1,
        "miss_rate": 0.25,
        "false_alarms": 1,
        "false_alarms_per_hour": 2.0,
        "repeats": 0,
        "latency_median_seconds": 1.0,  # of 0.5, 2 and 1
        "latency_95_percent_seconds": pytest.approx(1.9),
    }
    # Announced before the event, as the collar allows: not a latency below 0.
    early = count(match([known(10, 12), known(20, 22)], [found(9, 9.8, announced=9.7),
                        found(20, 22, announced=20.4)], 0.5), hours=1)  # fmt: skip
    assert (early["hits"], early["latency_median_seconds"]) == (2, pytest.approx(0.2))
    empty = count([], hours=2)
    assert (empty["miss_rate"], empty["latency_median_seconds"]) == (None, None)


def most_hits(references, events, collar):
    """The most events that can be hit by a detection of their own: all ways are tried."""
    overlap = [
        [e.start_seconds < r.end_seconds + collar and e.end_seconds > r.start_seconds - collar
         for r in references]
        for e in events
    ]  # fmt: skip
    places = list(range(len(references))) + [None] * len(events)
    best = 0
    for order in set(permutations(places, len(events))):
        best = max(best, sum(r is not None and overlap[i][r] for i, r in enumerate(order)))
    return best, sum(not any(row) for row in overlap)


def intervals(rng, n_most):
    """Up to n intervals that do not overlap."""
    edges = np.sort(rng.uniform(0, 10, 2 * rng.integers(0, n_most, endpoint=True)))
    return edges.reshape(-1, 2).tolist()


def test_matching_agrees_with_brute_force():
    rng = np.random.default_rng(0)
    for _ in range(150):
        references = [known(*times) for times in intervals(rng, 4)]
        if rng.random() < 0.3:
            # Events of one label that overlap each other, as a careless list has them.
            references = [known(*sorted(rng.uniform(0, 10, 2))) for _ in range(3)]
        events = [found(*times) for times in intervals(rng, 4)]
        collar = float(rng.choice([0, 0.3]))
        outcomes = kinds(references, events, collar)
        hits, alarms = most_hits(references, events, collar)
        assert outcomes.count("hit") == hits
        assert outcomes.count("false alarm") == alarms
        assert outcomes.count("miss") == len(references) - hits
        assert outcomes.count("repeat") == len(events) - hits - alarms


def write_list(path, *lines):
    path.write_text("\n".join(["path,start,end,label", *lines]), encoding="utf-8")
    return path


def test_references_are_read(tmp_path):
    manifest = write_list(
        tmp_path / "events.csv", "a.wav,1,2.5,dog", "b.wav,,,", "a.wav,0,1,cat", "/c.wav,3,4,dog"
    )
    a = tmp_path / "a.wav"
    assert read_references(manifest) == {
        a: [Reference(a, 1, 2.5, "dog"), Reference(a, 0, 1, "cat")],
        tmp_path / "b.wav": [],
        Path("/c.wav"): [Reference(Path("/c.wav"), 3, 4, "dog")],
    }


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.wav,1,2,", "line 2: only a part of start, end and label"),
        ("a.wav,1", "line 2: only a part of start, end and label"),
        ("a.wav,2,1,dog", "line 2: start is 2, end is 1; allowed: seconds, 0 <= start < end"),
        ("a.wav,one,2,dog", "line 2: start is one, end is 2; allowed"),
        ("a.wav,nan,2,dog", "line 2: start is nan"),
        ("a.wav,-1,2,dog", "line 2: start is -1"),
        ("a.wav,0,inf,dog", "line 2: start is 0, end is inf"),
        (",1,2,dog", "line 2: an empty path"),
    ],
)
def test_bad_rows_are_named(tmp_path, line, message):
    manifest = write_list(tmp_path / "events.csv", line)
    with pytest.raises(ManifestError, match=f"events.csv, {message}"):
        read_references(manifest)


def test_bad_lists_are_refused(tmp_path):
    with pytest.raises(ManifestError, match="cannot be read: No such file"):
        read_references(tmp_path / "none.csv")
    with pytest.raises(ManifestError, match="no recording"):
        read_references(write_list(tmp_path / "empty.csv"))
    (tmp_path / "columns.csv").write_text("path,start\na.wav,1\n")
    with pytest.raises(ManifestError, match="no column end, label; needed: path, start, end, lab"):
        read_references(tmp_path / "columns.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ManifestError, match="not a CSV in UTF-8"):
        read_references(tmp_path / "binary.csv")


def ambience(seconds, seed=0):
    return np.random.default_rng(seed).normal(0, 0.05, round(seconds * RATE)).astype(np.float32)


def clips(count, seed=0):
    """Loud clips of 0.5 to 1 s."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(RATE // 2, RATE, count)
    return [("loud", rng.uniform(-1, 1, length).astype(np.float32)) for length in lengths]


def test_a_layout_has_its_events_where_it_says():
    background, laid = ambience(60), clips(12)
    mixed, references = lay_out(background, laid, RATE, level_db=20, gap_seconds=1.5, path=HERE)
    assert (len(mixed), mixed.dtype) == (60 * RATE, np.float32)
    assert len(references) == 12
    added, free = mixed - background, np.ones(len(mixed), bool)
    for reference in references:
        start, end = (round(t * RATE) for t in (reference.start_seconds, reference.end_seconds))
        assert (reference.path, reference.label) == (HERE, "loud")
        assert rms(added[start:end]) == pytest.approx(10 * rms(background), rel=1e-3)
        free[start:end] = False
    assert not added[free].any()
    starts = [reference.start_seconds for reference in references]
    assert starts == sorted(starts)
    gaps = np.array(starts[1:]) - [reference.end_seconds for reference in references[:-1]]
    assert gaps.min() >= 1.5 - 1e-9
    lengths = sorted(round((r.end_seconds - r.start_seconds) * RATE) for r in references)
    assert lengths == sorted(len(clip) for _, clip in laid)


def test_layouts_repeat_with_their_seed_only():
    background, laid = ambience(60), clips(5)
    one, two, other = (
        lay_out(background, laid, RATE, level_db=10, seed=seed) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one[0], two[0])
    assert one[1] == two[1]
    assert one[1] != other[1]


def test_layouts_that_fill_all_and_those_that_do_not_fit():
    clip = np.ones(1000, np.float32)
    background = np.full(4000, 0.1, np.float32)
    laid = [("a", clip), ("b", clip)]
    _, references = lay_out(background, laid, RATE, level_db=0, gap_seconds=2)
    assert [(r.start_seconds, r.end_seconds) for r in references] == [(0, 1), (3, 4)]
    with pytest.raises(AudioError, match=r"2 clips with gaps of 2\.5 s are 0\.5 s longer than"):
        lay_out(background, laid, RATE, level_db=0, gap_seconds=2.5)
    with pytest.raises(AudioError, match="the background is silent"):
        lay_out(0 * background, laid, RATE, level_db=0)
    with pytest.raises(AudioError, match="a clip of 'a' is silent"):
        lay_out(background, [("a", 0 * clip)], RATE, level_db=0)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A list of two recordings, of which one has 12 loud events; and their waveforms."""
    folder = tmp_path_factory.mktemp("scene")
    mixed, references = lay_out(ambience(90), clips(12), RATE, level_db=22, gap_seconds=2)
    quiet = ambience(40, seed=1)
    # Three sounds that are not in the list.
    for at in (5, 15, 25):
        quiet[at * RATE : at * RATE + 300] *= 4
    save(folder / "mixed.wav", mixed, RATE, subtype="FLOAT")
    save(folder / "quiet.wav", quiet, RATE, subtype="FLOAT")
    rows = [f"mixed.wav,{r.start_seconds},{r.end_seconds},{r.label}" for r in references]
    return write_list(folder / "events.csv", *rows, "quiet.wav,,,"), {
        "mixed": mixed,
        "quiet": quiet,
    }


def streamed(waveform, settings):
    classifier = StreamingClassifier(Loudness(), settings)
    events = classifier.push(waveform) + classifier.finish()
    return sorted(
        (event for event in events if event.end_seconds is not None),
        key=lambda event: (event.label, event.start_seconds),
    )


@pytest.mark.parametrize(
    "settings",
    [
        StreamSettings(hysteresis=0.02),
        StreamSettings(only_strongest=True, smoothing="mean", smoothing_seconds=0.3),
        StreamSettings(
            smoothing="ema",
            smoothing_seconds=0.2,
            min_duration_seconds=0.4,
            refractory_seconds=3,
            gate_db=-22,
        ),
    ],
)
def test_events_of_kept_scores_are_those_of_the_stream(scene, settings):
    manifest, waveforms = scene
    scored = score_recording(Loudness(), manifest.parent / "mixed.wav", [], settings, silent)
    n_events = 0
    for threshold in (0.02, 0.2, 0.5, 0.8, 0.97):
        wanted = streamed(waveforms["mixed"], replace(settings, threshold=threshold))
        events = [
            event
            for column, label in enumerate(["loud", "quiet"])
            for event in find_events(scored, column, label, threshold, settings)
        ]
        assert events == wanted
        n_events += len(events)
    assert n_events > 15


def test_the_curve_is_what_streaming_at_each_threshold_gives(scene):
    manifest, waveforms = scene
    references = read_references(manifest)
    recogniser = Loudness()
    scored = [
        score_recording(recogniser, path, known, LOUD, silent) for path, known in references.items()
    ]
    n_scored = len(recogniser.heard)
    points = curve(scored, recogniser.decision, LOUD, 0.2)
    assert len(recogniser.heard) == n_scored  # not scored again
    assert len(points) == 2 * len(THRESHOLDS)
    for row in points[1 : 2 * 60 : 18]:
        wanted = streamed(waveforms["mixed"], replace(LOUD, threshold=row["threshold"]))
        more = streamed(waveforms["quiet"], replace(LOUD, threshold=row["threshold"]))
        (in_mixed, in_quiet) = references.values()
        outcomes = match(in_mixed, wanted, 0.2) + match(in_quiet, more, 0.2)
        plain = count(outcomes, 130 / 3600)
        assert row["label"] == "loud"
        assert {name: row[name] for name in ("hits", "misses", "false_alarms")} == {
            name: plain[name] for name in ("hits", "misses", "false_alarms")
        }
        assert row["false_alarms_per_hour"] == pytest.approx(plain["false_alarms_per_hour"])


def points_of(label, alarms):
    """A curve with these false alarms an hour, from the lowest threshold to the highest."""
    return [
        {"label": label, "threshold": (i + 1) / 10, "false_alarms_per_hour": number}
        for i, number in enumerate(alarms)
    ]


def test_thresholds_share_the_false_alarms():
    points = points_of("a", [0, 9, 2, 1, 0]) + points_of("b", [1, 1, 1, 0.5, 0])
    points += points_of("c", [9, 9, 9, 9, 7])
    # One each: "a" has few again at 0.1, where all melts into one; "c" never has so few.
    chosen, reached = choose_thresholds(points, ["a", "b", "c"], 3.0)
    assert chosen == {"a": 0.4, "b": 0.1, "c": 0.5}
    assert reached == {"a": True, "b": True, "c": False}
    chosen, _ = choose_thresholds(points, ["a", "b"], 0.0)
    assert chosen == {"a": 0.5, "b": 0.5}
    with pytest.raises(ModelError, match="allowed: a number from 0 on"):
        choose_thresholds(points, ["a"], -1)


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_an_evaluation_writes_what_it_found(scene, tmp_path):
    manifest, _ = scene
    told = []
    report = evaluate_stream(
        Loudness(),
        manifest,
        replace(LOUD, min_duration_seconds=0.2),
        false_alarms_per_hour=0.0,
        out=tmp_path / "out",
        progress=lambda *step: told.append(step),
    )
    names = ["curve.csv", "curve.png", "detection.json", "events.csv", "stream.json"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    assert json.loads((tmp_path / "out" / "detection.json").read_text()) == report
    assert report["notice"] is None
    overall, loud = report["overall"], report["labels"]["loud"]
    assert (report["recordings"], report["hours"]) == (2, pytest.approx(130 / 3600))
    # At 22 dB nothing has to be missed, though the three other sounds must stay out.
    assert (overall["events"], overall["hits"], overall["false_alarms"]) == (12, 12, 0)
    assert loud["reached"] is True
    assert 0 < loud["latency_median_seconds"] <= loud["latency_95_percent_seconds"] < 1
    settings = StreamSettings.from_json((tmp_path / "out" / "stream.json").read_text())
    assert settings.thresholds == {"loud": loud["threshold"]}
    # One step lower there is a false alarm.
    lower = [
        row
        for row in rows_of(tmp_path / "out" / "curve.csv")
        if row["label"] == "loud" and float(row["threshold"]) == round(loud["threshold"] - 0.01, 2)
    ]
    assert int(lower[0]["false_alarms"]) >= 1
    events = rows_of(tmp_path / "out" / "events.csv")
    assert [row["outcome"] for row in events].count("hit") == 12
    assert all(float(row["score"]) >= loud["threshold"] for row in events)
    assert told[-1] == ("trying thresholds", 99, 99)
    assert ("scoring mixed.wav", 90, 90) in told
    picture = imread(tmp_path / "out" / "curve.png")
    assert picture.shape[0] > 500
    assert picture.std() > 0.05


def test_the_figure_has_a_line_per_label_with_events(scene, tmp_path):
    manifest, _ = scene
    settings = StreamSettings()
    report = evaluate_stream(Loudness(), manifest, settings, out=tmp_path)
    points = [
        {name: value if name == "label" else float(value or "nan") for name, value in row.items()}
        for row in rows_of(tmp_path / "curve.csv")
    ]
    axes = curve_figure(points, report).axes[0]
    named = {line.get_label(): line for line in axes.lines if line.get_label()[0] != "_"}
    # No event is "quiet", so it can have false alarms, but no miss rate.
    assert list(named) == ["loud", "all labels"]
    wanted = [row["false_alarms_per_hour"] for row in points if row["label"] == "loud"]
    shown = named["loud"].get_xdata()
    np.testing.assert_allclose(shown, wanted[len(wanted) - len(shown) :])
    assert shown[0] == max(wanted)
    assert max(shown[1:], default=0) < shown[0]
    assert report["labels"]["quiet"]["miss_rate"] is None


def test_lists_that_do_not_fit_the_model(scene, tmp_path):
    manifest, _ = scene
    path = manifest.parent / "mixed.wav"
    strange = write_list(tmp_path / "a.csv", f"{path},1,2,dog")
    with pytest.raises(ManifestError, match="does not know: dog; allowed: loud, quiet"):
        evaluate_stream(Loudness(), strange, LOUD, out=tmp_path / "out")
    late = write_list(tmp_path / "b.csv", f"{path},100,102,loud")
    with pytest.raises(ManifestError, match="an event starts at 100 s; allowed: before the end of"):
        evaluate_stream(Loudness(), late, LOUD, out=tmp_path / "out")
    numbers = Loudness(Cutting(), Decision("linear", ["age"]))
    with pytest.raises(ModelError, match="no label that makes events"):
        evaluate_stream(numbers, manifest, StreamSettings(), out=tmp_path / "out")
    long = replace(LOUD, hop_seconds=0.5)
    with pytest.raises(ModelError, match=r"hop_seconds is 0.5, .* at most 0.4"):
        evaluate_stream(Loudness(), manifest, long, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_is_scored_before_all_is_checked(scene, tmp_path):
    manifest, _ = scene
    recogniser, good = Loudness(), manifest.parent / "quiet.wav"
    for name in ("false_alarms_per_hour", "collar_seconds"):
        for number in (np.nan, np.inf, -1.0):
            with pytest.raises(ModelError, match=f": {number}; allowed: a number from 0 on"):
                evaluate_stream(recogniser, manifest, LOUD, **{name: number}, out=tmp_path / "out")
    late = write_list(
        tmp_path / "late.csv", f"{good},,,", f"{manifest.parent}/mixed.wav,90,91,loud"
    )
    with pytest.raises(ManifestError, match="an event starts at 90 s"):
        evaluate_stream(recogniser, late, LOUD, out=tmp_path / "out")
    missing = write_list(tmp_path / "missing.csv", f"{good},,,", "none.wav,,,")
    with pytest.raises(AudioError, match=r"none.wav: no such file"):
        evaluate_stream(recogniser, missing, LOUD, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    for out in (late, late / "below"):
        with pytest.raises(OSError, match=r"late.csv.*: cannot be written \(.*choose another"):
            evaluate_stream(recogniser, manifest, LOUD, out=out)
    assert recogniser.batches == []


def test_without_matplotlib_there_is_a_notice_and_no_picture(scene, tmp_path, monkeypatch):
    manifest, _ = scene
    (tmp_path / "curve.png").write_text("of another evaluation")
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    report = evaluate_stream(Loudness(), manifest, LOUD, out=tmp_path)
    assert report["notice"].startswith("no curve.png: Drawing a plot needs the package 'matplotl")
    names = ["curve.csv", "detection.json", "events.csv", "stream.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert json.loads((tmp_path / "detection.json").read_text()) == report

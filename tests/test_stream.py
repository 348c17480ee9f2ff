"""Streaming: the same for every chunking, the same as for recordings, in bounded memory."""

import json
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from helpers import save
from stream_helpers import PROCESS, RATE, Cutting, Loudness, random_chunks

from deepspectrumlite.audio import cut_segments, load_audio
from deepspectrumlite.decisions import Decision
from deepspectrumlite.errors import AudioError, ModelError
from deepspectrumlite.postprocess import Event
from deepspectrumlite.predict import predict_file
from deepspectrumlite.stream import StreamingClassifier, StreamSettings


def stream(chunks, recogniser=None, settings=None, sample_rate=None, **options):
    """(windows, events) of a whole stream, and the classifier."""
    windows, events = [], []
    classifier = StreamingClassifier(
        recogniser or Loudness(),
        settings,
        sample_rate=sample_rate,
        on_window=windows.append,
        **options,
    )
    for chunk in chunks:
        events += classifier.push(chunk)
    return windows, events + classifier.finish(), classifier


def bursts(rng, seconds, rate):
    """(num_samples,): noisy 50 Hz, loud for half a second, then quiet for as long."""
    time = np.arange(round(seconds * rate)) / rate
    tone = np.sin(2 * np.pi * 50 * time) + rng.uniform(-0.1, 0.1, len(time))
    return (tone * np.where(time % 1 < 0.5, 0.9, 0.05)).astype(np.float32)


def scores_of(windows):
    return np.array([window.scores for window in windows])


def same(one, other):
    """Two results of `stream` are equal bit for bit."""
    assert one[1] == other[1]
    assert len(one[0]) == len(other[0])
    for a, b in zip(one[0], other[0], strict=True):
        assert replace(a, scores=None, smoothed=None) == replace(b, scores=None, smoothed=None)
        np.testing.assert_array_equal(a.scores, b.scores, strict=True)
        np.testing.assert_array_equal(a.smoothed, b.smoothed, strict=True)


@pytest.mark.parametrize(
    ("rate", "kind", "channels"),
    [
        (1000, "float32", None),
        (1000, "float64", 3),
        (1000, "int16", 1),
        (4410, "float32", 3),
        (4410, "int16", None),
        (700, "float64", 1),
        (700, "int16", 3),
    ],
)
def test_every_chunking_gives_the_same(rate, kind, channels):
    rng = np.random.default_rng(rate)
    samples = bursts(rng, 4, rate)
    if channels:
        samples = samples[:, None] * rng.uniform(0.9, 1, channels)
    samples = np.asarray(samples * (32767 if kind == "int16" else 1)).astype(kind)
    settings = StreamSettings(
        hop_seconds=0.07,
        smoothing="mean",
        smoothing_seconds=0.2,
        thresholds={"loud": 0.2, "quiet": 0.8},
        gate_db=-30,
    )
    whole = stream([samples], None, settings, rate)
    assert len(whole[1]) >= 16
    for longest in (20, 1000, 5000):
        chunks = random_chunks(rng, samples, longest)
        same(stream(chunks, None, settings, rate), whole)
    same(stream(samples.reshape(len(samples), 1, *samples.shape[1:]), None, settings, rate), whole)


def test_memory_layout_does_not_matter():
    samples = np.random.default_rng(0).uniform(-1, 1, (2000, 9)).astype(np.float32)
    same(stream([np.asfortranarray(samples)]), stream(np.split(samples, 40)))


@pytest.mark.parametrize("tail", ["keep", "drop"])
@pytest.mark.parametrize("padding", ["zero", "repeat"])
@pytest.mark.parametrize("num_samples", [0, 1, 399, 400, 401, 499, 500, 501, 1234])
def test_windows_are_the_segments_of_a_recording(num_samples, padding, tail):
    recogniser = Loudness(Cutting(padding=padding, tail=tail))
    samples = np.random.default_rng(num_samples).uniform(-1, 1, num_samples).astype(np.float32)
    wanted = cut_segments(samples, recogniser.cutting) if num_samples else np.empty((0, 400))
    windows, _, _ = stream(np.array_split(samples, 7), recogniser)
    assert [window.start_seconds for window in windows] == [k / 10 for k in range(len(wanted))]
    if len(wanted):
        np.testing.assert_array_equal(recogniser.heard, wanted, strict=True)


@pytest.mark.parametrize("rate", [1000, 8000, 11025])
def test_scores_are_those_of_predict(tmp_path, rate):
    samples = bursts(np.random.default_rng(3), 9.3, rate)[:, None] * [1, 0.5]
    path = save(tmp_path / "stereo.wav", samples, rate, subtype="FLOAT")
    recogniser = Loudness()
    predicted = predict_file(recogniser, path)
    windows, _, _ = stream(np.array_split(samples.astype(np.float32), 91), None, None, rate)
    np.testing.assert_array_equal(scores_of(windows), predicted.segment_scores, strict=True)
    starts = [window.start_seconds for window in windows]
    np.testing.assert_array_equal(starts, predicted.segment_starts)


def test_int16_is_what_a_wav_of_16_bits_holds(tmp_path):
    samples = np.random.default_rng(4).integers(-(2**15), 2**15, 2000, dtype=np.int16)
    path = save(tmp_path / "int.wav", samples, RATE, subtype="PCM_16")
    recogniser = Loudness()
    stream([samples], recogniser)
    wanted = cut_segments(load_audio(path, RATE), recogniser.cutting)
    np.testing.assert_array_equal(recogniser.heard, wanted)


def test_batches_give_the_same_scores():
    samples = bursts(np.random.default_rng(5), 5, RATE)
    recogniser = Loudness()
    same(stream([samples], recogniser, max_batch=4), stream([samples]))
    assert [len(batch) for batch in recogniser.batches] == [4] * 11 + [3]


def test_times_of_an_event_written_out():
    # Loud from 1.0 to 2.0 s. Windows of 0.4 s, hop 0.1 s; their power reaches 0.5 when half of
    # them is loud: from the one at 0.8 s to the one at 1.8 s.
    samples = np.zeros(3000, np.float32)
    samples[1000:2000] = 1
    windows, events, _ = stream([samples], None, StreamSettings(hysteresis=0, ignore=["quiet"]))
    assert events == [Event("loud", 0.95, None, 0.5, 1.2), Event("loud", 0.95, 2.05, 1.0, 1.2)]
    assert windows[8].events == (events[0],)
    assert windows[19].events == (events[1],)
    assert (windows[8].start_seconds, windows[8].end_seconds) == (0.8, 1.2)
    assert windows[8].level_db == pytest.approx(-3.01, abs=0.01)


def test_an_announcement_comes_with_the_sample_that_completes_its_window():
    samples = np.zeros(3000, np.float32)
    samples[1000:2000] = 1
    classifier = StreamingClassifier(Loudness(), StreamSettings(ignore=["quiet"]))
    assert classifier.push(samples[:1199]) == []
    assert [event.announced_seconds for event in classifier.push(samples[1199:1200])] == [1.2]
    assert classifier.seconds == 1.2


def test_events_stay_inside_a_stream_shorter_than_a_window():
    _, events, _ = stream([np.ones(120, np.float32)], None, StreamSettings(ignore=["quiet"]))
    assert [(each.start_seconds, each.end_seconds) for each in events] == [(0, None), (0, 0.12)]
    _, events, _ = stream([np.ones(405, np.float32)], None, StreamSettings(ignore=["quiet"]))
    assert [(each.start_seconds, each.end_seconds) for each in events][1] == (0.15, 0.35)


def test_spans_follow_each_other_without_a_gap():
    for hop in (1, 7, 100, 399, 400):
        recogniser = Loudness(Cutting(hop_samples=hop, tail="drop"))
        windows, _, _ = stream([np.ones(1500, np.float32)], recogniser)
        for one, other in pairwise(windows):
            assert one.span.end == other.span.begin
            assert one.span.decided + hop == other.span.decided


def test_quiet_windows_are_not_scored_with_a_gate():
    samples = np.zeros(2000, np.float32)
    samples[1000:1400] = 0.1  # -20 dBFS
    recogniser = Loudness()
    windows, _, _ = stream([samples], recogniser, StreamSettings(gate_db=-20.01))
    assert [k for k, window in enumerate(windows) if window.is_scored] == [10]
    assert len(recogniser.heard) == 1
    np.testing.assert_array_equal(windows[3].scores, [0, 0])
    assert windows[3].level_db == -120
    # A window with half of it has 3 dB less.
    windows, _, _ = stream([samples], None, StreamSettings(gate_db=-23.02))
    assert [k for k, window in enumerate(windows) if window.is_scored] == [8, 9, 10, 11, 12]


def test_the_gate_does_not_hear_padding():
    samples = np.concatenate([np.zeros(400), np.full(100, 0.1)]).astype(np.float32)
    for padding in ("zero", "repeat"):
        recogniser = Loudness(Cutting(hop_samples=400, padding=padding))
        windows, _, _ = stream([samples], recogniser, StreamSettings(gate_db=-20.01))
        # -20 dBFS; with 300 zeros it would have 6 dB less.
        assert [window.is_scored for window in windows] == [False, True]
        assert windows[1].level_db == pytest.approx(-20, abs=1e-3)
        assert recogniser.heard.shape == (1, 400)


@pytest.mark.parametrize("output", ["linear", "ordinal"])
def test_numbers_of_what_was_not_scored_are_nan(output):
    decision = Decision(output, ["a"], values=[0])
    samples = np.concatenate([np.ones(400), np.zeros(800)]).astype(np.float32)
    windows, events, _ = stream(
        [samples], Loudness(Cutting(hop_samples=400), decision), StreamSettings(gate_db=-60)
    )
    assert events == []
    np.testing.assert_array_equal(scores_of(windows)[:, 0], [1, np.nan, np.nan])


def test_nan_and_infinity_become_silence_and_are_counted():
    samples = np.random.default_rng(6).uniform(-1, 1, (1000, 2))
    clean = samples.copy()
    for at, value in ((3, np.nan), (500, np.inf), (501, -np.inf), (999, 1e300)):
        samples[at, at % 2] = value
        clean[at] = 0
    found, wanted = stream(np.split(samples, 10)), stream([clean])
    same(found, wanted)
    assert (found[2].num_bad_samples, wanted[2].num_bad_samples) == (4, 0)
    both = np.array([[np.inf, -np.inf]], np.float32)
    assert stream([both])[2].num_bad_samples == 1


@pytest.mark.parametrize("rate", [1000, 4410])
def test_a_gap_keeps_the_clock_and_what_nobody_heard_is_not_scored(rate):
    loud = np.ones(rate, np.float32)
    windows, events = [], []
    recogniser = Loudness()
    settings = StreamSettings(threshold=0.45, hysteresis=0, ignore=["quiet"])
    classifier = StreamingClassifier(
        recogniser, settings, sample_rate=rate, on_window=windows.append
    )
    for _ in range(2):
        events += classifier.push(loud)
        # Two gaps, one after the other, are one.
        events += classifier.push_gap(rate) + classifier.push_gap(0) + classifier.push_gap(rate)
    events += classifier.push(loud) + classifier.finish()
    assert classifier.num_lost_samples == 4 * rate
    assert classifier.seconds == 7
    # Loud from 0, 3 and 6 s on for 1 s; half of a window is enough, as above.
    starts = [event.start_seconds for event in events if event.end_seconds is None]
    np.testing.assert_allclose(starts, [0.15, 2.95, 5.95], atol=1e-9)
    lost = [round(window.start_seconds, 3) for window in windows if not window.is_scored]
    np.testing.assert_allclose(
        lost, [1 + k / 10 for k in range(17)] + [4 + k / 10 for k in range(17)]
    )


@pytest.mark.parametrize("rate", [1000, 4410, 700])
@pytest.mark.parametrize("max_batch", [1, 8])
def test_a_tail_that_nobody_heard_is_not_scored(rate, max_batch):
    recogniser = Loudness(Cutting(hop_samples=400))

    def run(heard, lost):
        windows = []
        classifier = StreamingClassifier(
            recogniser, sample_rate=rate, on_window=windows.append, max_batch=max_batch
        )
        classifier.push(np.ones(heard, np.float32))
        classifier.push_gap(lost)
        classifier.finish()
        return [window.is_scored for window in windows]

    window = round(0.4 * rate)
    assert run(window, window // 2) == [True, False]
    assert run(0, window // 2) == [False]
    assert run(0, 2 * window + 7) == [False, False, False]
    # One sample that was heard is enough.
    assert run(window + 1, window // 2) == [True, True]
    assert run(1, window // 2) == [True]


@pytest.mark.parametrize("rate", [1000, 4410, 700])
@pytest.mark.parametrize("seed", range(4))
def test_windows_are_scored_where_a_sample_was_heard(rate, seed):
    """Also where the resampler, or one long push, completes them when another gap has begun."""
    rng = np.random.default_rng(seed)
    windows, heard = [], []
    classifier = StreamingClassifier(
        Loudness(), sample_rate=rate, on_window=windows.append, max_batch=4
    )
    for _ in range(12):
        n_heard, n_lost = (int(rng.choice([1, 2, 0.2 * rate, rate])) for _ in range(2))
        classifier.push(np.ones(n_heard, np.float32))
        classifier.push_gap(n_lost)
        heard += [True] * n_heard + [False] * n_lost
    classifier.push_gap(rate)
    classifier.finish()
    heard = np.array(heard + [False] * rate)
    times = np.arange(len(heard)) * 1000  # in 1 / (1000 * rate) s
    wanted = []
    for k, window in enumerate(windows):
        inside = (times >= 100 * k * rate) & (times < window.span.decided * rate)
        wanted.append(bool(heard[inside].any()))
    assert [window.is_scored for window in windows] == wanted
    assert 4 < sum(wanted) < len(wanted) - 4


def test_many_gaps_are_not_kept_for_ever():
    classifier = StreamingClassifier(Loudness(keep=False), sample_rate=4410)
    for _ in range(3000):
        classifier.push(np.ones(3, np.float32))
        classifier.push_gap(30)
    # Those of a window and of what the resampler holds back.
    assert len(classifier._gaps) < 150


def test_chunks_around_gaps_do_not_matter():
    rng = np.random.default_rng(7)
    parts = [bursts(rng, 1.5, 4410) for _ in range(3)]

    def run(split):
        windows, events = [], []
        classifier = StreamingClassifier(Loudness(), sample_rate=4410, on_window=windows.append)
        for part in parts:
            for chunk in split(part):
                events += classifier.push(chunk)
            gap = 3333 if split is whole else 1111
            for _ in range(3333 // gap):
                events += classifier.push_gap(gap)
        return windows, events + classifier.finish()

    def whole(part):
        return [part]

    same(run(whole), run(lambda part: random_chunks(rng, part, 500)))


def test_hours_in_bounded_memory_with_every_sample_heard_once():
    """Four hours of a ramp: each window is where it should be, and nothing piles up."""
    hours, rate, size = 4, 100, 400

    class Ramp(Loudness):
        next_start, num_windows = 0, 0

        def score(self, segments):
            # Its samples are their own positions, modulo 2^20, which float32 holds exactly.
            wanted = (self.next_start + np.arange(size)) % 2**20
            np.testing.assert_array_equal(segments[0], wanted)
            self.next_start += self.cutting.hop_samples
            self.num_windows += 1
            return np.array([[self.num_windows % 7 == 0, 0]], np.float32)

    recogniser = Ramp(Cutting(rate, size, 400), keep=False)
    settings = StreamSettings(smoothing="mean", smoothing_seconds=8, threshold=0.2)
    classifier = StreamingClassifier(recogniser, settings)
    rng = np.random.default_rng(8)
    total, at, num_events, peaks = hours * 3600 * rate, 0, 0, []
    tracemalloc.start()
    while at < total:
        chunk = (np.arange(at, at + rng.integers(0, 3000)) % 2**20).astype(np.float32)
        at += len(chunk)
        num_events += len(classifier.push(chunk))
        if at % 7 == 0:
            peaks.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert recogniser.num_windows == at // 400
    assert classifier.num_windows == at // 400
    assert num_events == pytest.approx(2 * (at // 400 / 7), abs=2)
    assert abs(np.mean(peaks[-30:]) - np.mean(peaks[10:40])) < 20_000


def test_resampling_keeps_the_clock():
    """Five minutes at 4410 Hz are 3000 windows of 0.1 s at 1000 Hz, in bounded memory."""
    recogniser = Loudness(Cutting(segment_samples=100), keep=False)
    classifier = StreamingClassifier(recogniser, sample_rate=4410)
    second = np.sin(np.arange(4410)).astype(np.float32)
    tracemalloc.start()
    for number in range(300):
        classifier.push(second)
        if number == 60:
            early = tracemalloc.get_traced_memory()[0]
    late = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    classifier.finish()
    assert classifier.num_windows == 3000
    assert abs(late - early) < 20_000


def soak(code):
    """What a soak found, in a process whose memory nothing else fills."""
    command = [sys.executable, "-c", f"import stream_helpers\n{code}"]
    found = subprocess.run(
        command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout)


needs_proc = pytest.mark.skipif(not PROCESS.exists(), reason=f"no {PROCESS} that tells VmRSS")


@pytest.mark.slow
@needs_proc
def test_three_hours_with_gaps_and_nan_lose_no_sample_and_fill_no_memory():
    found = soak(
        "from stream_helpers import Cutting, Loudness, soak\n"
        "soak(Loudness(Cutting(16_000, 12_000, 12_000), keep=False), 3 * 3600, 0.5)"
    )
    assert found["windows"] == found["wanted_windows"] >= 3 * 3600 / 0.5
    assert found["gaps"] > 300
    assert found["bad_samples"] > 1000
    assert found["unscored"] > 300
    assert found["late_kib"] - found["early_kib"] < 1024


@pytest.mark.slow
@needs_proc
def test_twenty_minutes_of_a_real_model_fill_no_memory(exported):
    found = soak(
        "from deepspectrumlite.runtime import Predictor\n"
        f"stream_helpers.soak(Predictor({str(exported)!r}), 1200, 0.25)"
    )
    assert found["windows"] == found["wanted_windows"] >= 1200 / 0.25
    assert found["gaps"] > 30
    assert found["late_kib"] - found["early_kib"] < 1024


@pytest.mark.parametrize(
    "samples",
    [np.zeros(3, np.int32), np.zeros(3, complex), np.zeros((3, 1, 1)), np.float32(1), ["a"]],
)
def test_samples_of_another_kind_are_refused(samples):
    with pytest.raises(AudioError, match="allowed: int16, float32 or float64, "):
        StreamingClassifier(Loudness()).push(samples)


def test_what_does_not_fit_is_refused():
    with pytest.raises(AudioError, match="without a channel"):
        StreamingClassifier(Loudness()).push(np.zeros((3, 0)))
    with pytest.raises(AudioError, match="sample_rate is 0; allowed: 1 to 1000000 Hz"):
        StreamingClassifier(Loudness(), sample_rate=0)
    with pytest.raises(AudioError, match="a gap of -1 samples"):
        StreamingClassifier(Loudness()).push_gap(-1)
    with pytest.raises(ModelError, match=r"hop_seconds is 0.5, .* at most 0.4, the length"):
        StreamingClassifier(Loudness(), StreamSettings(hop_seconds=0.5))
    with pytest.raises(ModelError, match="ignore names 'cat'"):
        StreamingClassifier(Loudness(), StreamSettings(ignore=["cat"]))
    classifier = StreamingClassifier(Loudness())
    classifier.finish()
    assert classifier.finish() == []
    with pytest.raises(AudioError, match="finished; make a new"):
        classifier.push(np.zeros(3))


def test_little_is_imported():
    names = ("torch", "pandas", "matplotlib", "rich", "typer", "sounddevice", "scipy")
    code = (
        "import sys, deepspectrumlite.stream, deepspectrumlite.sources, "
        "deepspectrumlite.microphone, deepspectrumlite.detection\n"
        f"print(*[name for name in {names} if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []

import re
import tracemalloc

import numpy as np
import pytest
import soundfile
from helpers import RATE, refused, rms, save, sweep

from deepspectrumlite import audio
from deepspectrumlite.audio import (
    cut_segments,
    load_audio,
    pad_segment,
    segment_starts,
    stream_audio,
    stream_segments,
)
from deepspectrumlite.config import DataSection
from deepspectrumlite.errors import AudioError


def tone(frequency: float, rate: int, seconds: float, amplitude: float = 0.5) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    return (amplitude * np.sin(2 * np.pi * frequency * time)).astype(np.float32)


def data(**values: object) -> DataSection:
    return DataSection(sample_rate=1000, **values)


# Channels and rates


@pytest.mark.parametrize("channels", [1, 2, 3, 8, 64])
def test_mono_is_the_mean_of_the_channels(tmp_path, channels):
    frames = np.random.default_rng(0).uniform(-1, 1, (9000, channels)).astype(np.float32)
    path = save(tmp_path / "a.wav", frames, subtype="FLOAT")
    np.testing.assert_allclose(load_audio(path, RATE), frames.mean(axis=1), atol=1e-6)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000])
def test_resampled_tone_is_the_analytical_one(tmp_path, rate):
    path = save(tmp_path / "a.wav", tone(1000, rate, 2.0), rate, subtype="FLOAT")
    waveform = load_audio(path, RATE)
    assert len(waveform) == pytest.approx(2 * RATE, abs=1)
    inner = slice(1000, 30_000)  # the filter rings where the recording starts and ends
    assert np.abs(waveform[inner] - tone(1000, RATE, 2.0)[inner]).max() < 1e-4


def test_resampling_suppresses_aliases(tmp_path):
    path = save(tmp_path / "a.wav", tone(10_000, 48_000, 2.0), 48_000, subtype="FLOAT")
    assert rms(load_audio(path, RATE)[1000:-1000]) < 1e-5


def test_blocks_joined_are_the_whole(tmp_path, monkeypatch):
    path = save(tmp_path / "a.wav", np.stack([sweep(44_100, 3), tone(50, 44_100, 3)], 1), 44_100)
    whole = load_audio(path, RATE)
    monkeypatch.setattr(audio, "BLOCK_SAMPLES", 5001)
    blocks = list(stream_audio(path, RATE))
    assert len(blocks) > 20
    assert max(map(len, blocks)) < 5001
    np.testing.assert_allclose(np.concatenate(blocks), whole, atol=1e-6)


# A part of a recording


@pytest.mark.parametrize(
    ("suffix", "kind", "tolerance"),
    [
        ("wav", {"subtype": "PCM_16"}, 0),
        ("wav", {"subtype": "GSM610"}, 0),  # cannot seek
        ("flac", {"subtype": "PCM_16"}, 0),
        ("mp3", {}, 1e-4),
        ("ogg", {"subtype": "VORBIS"}, 1e-4),
        ("opus", {"format": "OGG", "subtype": "OPUS"}, 1e-3),
    ],
)
@pytest.mark.parametrize(("start", "end"), [(0.0, 1.0), (1.2345, 2.5), (2.0, None)])
def test_a_part_is_a_slice_of_the_whole(tmp_path, suffix, kind, tolerance, start, end):
    path = save(tmp_path / f"a.{suffix}", sweep(RATE, 4.0), **kind)
    first, last = round(start * RATE), None if end is None else round(end * RATE)
    whole = load_audio(path, RATE)[first:last]
    part = load_audio(path, RATE, start=start, end=end)
    assert part.shape == whole.shape
    assert np.abs(part - whole).max() <= tolerance


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        (-0.5, None, r"start is -0\.500 s; allowed: from 0 .* at 2\.000 s"),
        (2.0, None, r"start is 2\.000 s; allowed: from 0 .* at 2\.000 s"),
        (float("nan"), None, "start is nan s"),
        (0.0, 2.2, r"end is 2\.200 s; allowed: after the start, 0\.000 s, .* at 2\.000 s"),
        (1.0, 1.0, r"end is 1\.000 s; allowed: after the start, 1\.000 s"),
        (1.0, 0.5, r"end is 0\.500 s"),
        (0.0, float("inf"), "end is inf s"),
        (1.0, 1.00001, "not a single sample at 16000 Hz"),
    ],
)
@pytest.mark.parametrize("suffix", ["wav", "mp3"])
def test_a_part_outside_the_recording(tmp_path, suffix, start, end, message):
    path = save(tmp_path / f"a.{suffix}", sweep(RATE, 2.0))
    with pytest.raises(AudioError, match=re.escape(f"{path}: ") + message):
        load_audio(path, RATE, start=start, end=end)


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "ogg"])
def test_a_rounded_end_is_the_end(tmp_path, suffix):
    path = save(tmp_path / f"a.{suffix}", sweep(RATE, 2.0))
    np.testing.assert_array_equal(load_audio(path, RATE, end=2.01), load_audio(path, RATE))


# Samples and rates that are refused, or just legal


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("position", [0, 9000, -1])
def test_samples_that_are_not_numbers(tmp_path, bad, position):
    waveform = sweep(RATE, 1.0)
    waveform[position] = bad
    path = save(tmp_path / "a.wav", waveform, subtype="FLOAT")
    refused(path, r"NaN or infinite samples, in the block from 0\.000 s on")


@pytest.mark.parametrize("rate", [0, -1, 1_000_001])
def test_an_impossible_rate_is_asked_for(tmp_path, rate):
    path = save(tmp_path / "a.wav", sweep(RATE, 1.0))
    with pytest.raises(AudioError, match=f"sample_rate is {rate}; allowed: 1 to 1000000 Hz"):
        load_audio(path, rate)


def test_silence_and_the_shortest_recording_are_legal(tmp_path):
    assert not load_audio(save(tmp_path / "a.wav", np.zeros(RATE)), RATE).any()
    one = save(tmp_path / "one.wav", np.full(1, 0.5), subtype="FLOAT")
    np.testing.assert_array_equal(load_audio(one, RATE), np.float32([0.5]))
    # A single sample at 48 kHz is less than one at 16 kHz.
    refused(save(tmp_path / "short.wav", np.full(1, 0.5), 48_000), "not a single sample at 16000")


# Segments


@pytest.mark.parametrize(
    ("num_samples", "keep", "drop"),
    [
        (0, [], []),
        (1, [0], []),
        (1999, [0], []),
        (2000, [0], [0]),
        (2001, [0, 1000], [0]),
        (3000, [0, 1000], [0, 1000]),
        (3001, [0, 1000, 2000], [0, 1000]),
    ],
)
def test_segment_starts(num_samples, keep, drop):
    for tail, expected in (("keep", keep), ("drop", drop)):
        settings = data(segment_seconds=2.0, hop_seconds=1.0, tail=tail)
        assert segment_starts(num_samples, settings) == expected


@pytest.mark.parametrize(("segment", "hop"), [(7, 7), (7, 3), (7, 1), (8, 4), (1, 1)])
def test_every_sample_is_in_a_segment_and_no_segment_is_needless(segment, hop):
    keep = data(segment_seconds=segment / 1000, hop_seconds=hop / 1000)
    drop = keep.model_copy(update={"tail": "drop"})
    for num_samples in range(60):
        starts = segment_starts(num_samples, keep)
        ends = [at + segment for at in starts]
        covered = {sample for at in starts for sample in range(at, at + segment)}
        assert covered >= set(range(num_samples))
        assert starts == [index * hop for index in range(len(starts))]
        assert all(end < num_samples for end in ends[:-1])
        full = [at for at in range(0, num_samples, hop) if at + segment <= num_samples]
        assert segment_starts(num_samples, drop) == full


def test_pad_segment():
    waveform = np.float32([1, 2, 3])
    np.testing.assert_array_equal(pad_segment(waveform, 5, "zero"), [1, 2, 3, 0, 0])
    np.testing.assert_array_equal(pad_segment(waveform, 8, "repeat"), [1, 2, 3, 1, 2, 3, 1, 2])
    for padding in ("zero", "repeat"):
        np.testing.assert_array_equal(pad_segment(waveform, 3, padding), waveform)
        assert pad_segment(waveform, 7, padding).dtype == np.float32
    with pytest.raises(AssertionError, match="3 samples do not fit into 2"):
        pad_segment(waveform, 2, "zero")


def test_cut_segments():
    small = data(segment_seconds=0.004, hop_seconds=0.002, padding="zero")
    rows = cut_segments(np.arange(1, 8, dtype=np.float32), small)
    np.testing.assert_array_equal(rows, [[1, 2, 3, 4], [3, 4, 5, 6], [5, 6, 7, 0]])
    assert rows.dtype == np.float32
    empty = cut_segments(np.ones(3, np.float32), small.model_copy(update={"tail": "drop"}))
    assert empty.shape == (0, 4)


@pytest.mark.parametrize(
    ("padding", "tail"), [("zero", "keep"), ("repeat", "keep"), ("repeat", "drop")]
)
@pytest.mark.parametrize(("segment", "hop"), [(50, 50), (50, 20), (64, 1)])
def test_streamed_segments_are_the_cut_ones(tmp_path, monkeypatch, segment, hop, padding, tail):
    monkeypatch.setattr(audio, "BLOCK_SAMPLES", 37)  # smaller and larger than what a hop needs
    settings = data(
        segment_seconds=segment / 1000, hop_seconds=hop / 1000, padding=padding, tail=tail
    )
    for num_samples in [1, 2, 19, 20, 21, 36, 37, 38, *range(48, 52), *range(62, 104), 300]:
        waveform = np.random.default_rng(num_samples).uniform(-1, 1, num_samples)
        path = save(tmp_path / "a.wav", waveform, 1000, subtype="FLOAT")
        streamed = list(stream_segments(path, settings))
        starts = [round(start * 1000) for start, _ in streamed]
        assert starts == segment_starts(num_samples, settings)
        rows = np.array([row for _, row in streamed]).reshape(-1, segment)
        np.testing.assert_array_equal(rows, cut_segments(load_audio(path, 1000), settings))


def test_streamed_segments_of_a_part_count_from_the_beginning(tmp_path):
    path = save(tmp_path / "a.flac", sweep(44_100, 6.0), 44_100)
    settings = DataSection(segment_seconds=1.0, hop_seconds=0.5)
    streamed = list(stream_segments(path, settings, start=1.5, end=4.2))
    assert [start for start, _ in streamed] == pytest.approx([1.5, 2.0, 2.5, 3.0, 3.5])
    rows = cut_segments(load_audio(path, RATE, start=1.5, end=4.2), settings)
    np.testing.assert_array_equal(np.stack([row for _, row in streamed]), rows)


def test_streaming_needs_little_memory(tmp_path):
    path = tmp_path / "long.wav"
    second = np.stack([tone(440, 44_100, 1.0)] * 2, axis=1)
    with soundfile.SoundFile(path, "w", 44_100, 2) as file:
        for _ in range(600):
            file.write(second)
    settings = DataSection(segment_seconds=2.0, hop_seconds=1.0)
    tracemalloc.start()
    try:
        count = sum(1 for _ in stream_segments(path, settings))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 599
    assert peak < 10e6  # the recording itself is 212 MB in float32

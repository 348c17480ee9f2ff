import pickle
import sys

import numpy as np
import pandas as pd
import pytest
import soundfile

from deepspectrumlite.audio import AudioInfo, load_audio
from deepspectrumlite.config import DataSection
from deepspectrumlite.data import Segments, scan
from deepspectrumlite.errors import AudioError, ManifestError
from deepspectrumlite.manifest import load_manifest
from deepspectrumlite.targets import Targets

RATE = 8000
DATA = DataSection(sample_rate=RATE, segment_seconds=1.0, hop_seconds=0.5)


def noise(seconds, seed=0, rate=RATE):
    rng = np.random.default_rng(seed)
    return rng.uniform(-0.5, 0.5, round(seconds * rate)).astype(np.float32)


def save(folder, waveform, rate=RATE, name="a.wav", subtype="PCM_16"):
    soundfile.write(folder / name, waveform, rate, subtype=subtype)
    return str(folder / name)


def rows(*paths, **columns):
    return pd.DataFrame({"path": list(paths)}, dtype=object).assign(**columns)


def test_scan_measures(tmp_path):
    stereo = np.stack([noise(1.5, rate=16_000), noise(1.5, rate=16_000)], axis=1)
    loud = noise(2.0)
    loud[5] = -0.75
    table = rows(
        save(tmp_path, loud), save(tmp_path, stereo, 16_000, "b.wav"), label=["x", "y"], note="n"
    )
    calls = []
    good, skipped = scan(table, DATA, progress=lambda *call: calls.append(call), workers=2)
    assert list(good)[:3] == ["path", "label", "note"]
    assert good["duration"].tolist() == pytest.approx([2.0, 1.5], abs=1e-3)
    assert good["sample_rate"].tolist() == [RATE, 16_000]
    assert good["channels"].tolist() == [1, 2]
    assert good["peak"][0] == 0.75
    assert not good[["clipped", "silent"]].any(axis=None)
    assert skipped.empty
    assert list(skipped) == ["path", "reason"]
    assert calls == [(1, 2), (2, 2)]


def test_scan_honours_start_and_end(tmp_path):
    waveform = noise(3.0)
    path = save(tmp_path, waveform)
    table = rows(path, path, path, start=[0.0, 0.5, 1.0], end=[np.nan, 1.75, np.nan])
    good, _ = scan(table, DATA)
    assert good["duration"].tolist() == pytest.approx([3.0, 1.25, 2.0])
    part = save(tmp_path, waveform[4000:14000], name="part.wav")
    assert scan(rows(part), DATA)[0]["digest"][0] == good["digest"][1]
    assert good["digest"].nunique() == 3


def test_clipped_needs_three_samples_in_a_row(tmp_path):
    waveforms = [noise(1.0) for _ in range(4)]
    waveforms[0][100:103] = 1.0
    waveforms[1][100:102] = waveforms[1][200:202] = 1.0
    waveforms[2][100:103] = [1.0, -1.0, 1.0]
    waveforms[3][100:103] = 0.99
    paths = [save(tmp_path, w, name=f"{i}.wav") for i, w in enumerate(waveforms)]
    assert scan(rows(*paths), DATA)[0]["clipped"].tolist() == [True, False, True, False]


def test_clipping_across_blocks(tmp_path, monkeypatch):
    blocks = [np.array([0, 1], np.float32), np.array([1], np.float32), np.ones(1, np.float32)]
    path = save(tmp_path, noise(1.0))
    monkeypatch.setattr("deepspectrumlite.data.stream_audio", lambda *_, **__: iter(blocks))
    assert scan(rows(path), DATA)[0]["clipped"].tolist() == [True]
    blocks[1:] = [np.zeros(1, np.float32), np.ones(2, np.float32)]
    assert scan(rows(path), DATA)[0]["clipped"].tolist() == [False]


def test_silent(tmp_path):
    levels = [0.0, 0.9e-4, 1.1e-4]
    paths = [
        save(tmp_path, np.full(RATE, level), name=f"{i}.wav", subtype="FLOAT")
        for i, level in enumerate(levels)
    ]
    assert scan(rows(*paths), DATA)[0]["silent"].tolist() == [True, True, False]


def test_identical_content_has_one_digest_in_any_container(tmp_path):
    # Integers: from floats, libsndfile's rounding depends on the container.
    waveform = (noise(1.0, rate=16_000) * 32768).astype(np.int16)
    paths = [save(tmp_path, waveform, 16_000, f"a.{kind}") for kind in ("wav", "flac", "aiff")]
    paths.append(save(tmp_path, np.stack([waveform] * 2, axis=1), 16_000, "stereo.wav"))
    paths.append(save(tmp_path, noise(1.0, seed=1, rate=16_000), 16_000, "other.wav"))
    good, _ = scan(rows(*paths), DATA)
    assert good["digest"][:4].nunique() == 1
    assert good["digest"].nunique() == 2


@pytest.fixture
def mixed(tmp_path):
    """Bad recordings between good ones."""
    (tmp_path / "text.wav").write_text("not audio")
    save(tmp_path, np.full(RATE, np.nan), name="nan.wav", subtype="FLOAT")
    save(tmp_path, noise(1.0), name="good1.wav")
    save(tmp_path, noise(2.0), name="good2.wav")
    names = ["good1", "nan", "missing", "good2", "text"]
    table = rows(*(str(tmp_path / f"{name}.wav") for name in names), label=list("abcde"))
    table.attrs["manifest"] = "list.csv"
    return table


def test_the_first_bad_recording_is_an_error(mixed):
    for workers in (1, 4):
        with pytest.raises(AudioError, match=r"nan.wav: NaN or infinite .*or pass --skip-bad$"):
            scan(mixed, DATA, workers=workers)
    with pytest.raises(AudioError, match=r"missing.wav: no such file.*--skip-bad$"):
        scan(mixed.drop(index=1), DATA)
    with pytest.raises(AudioError, match=r"text.wav: not a.*--skip-bad$"):
        scan(mixed[4:], DATA)


@pytest.mark.parametrize("batch", [2, 512])
def test_skip_bad(mixed, monkeypatch, batch):
    monkeypatch.setattr("deepspectrumlite.data._BATCH", batch)
    good, skipped = scan(mixed, DATA, skip_bad=True)
    assert good["label"].tolist() == ["a", "d"]
    assert good.index.tolist() == [0, 1]
    assert good["duration"].tolist() == [1.0, 2.0]
    assert good.attrs["manifest"] == "list.csv"
    assert skipped["path"].tolist() == mixed["path"][[1, 2, 4]].tolist()
    for reason, part in zip(skipped["reason"], ["NaN", "no such file", "not a"], strict=True):
        assert part in reason
        assert "--skip-bad" not in reason


def test_a_format_that_needs_pyav_is_a_bad_recording_without_it(mixed, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    _, skipped = scan(mixed, DATA, skip_bad=True)
    assert "pip install 'deepspectrumlite[av]'" in skipped["reason"][2]
    with pytest.raises(AudioError, match=r"text.wav: not a.*pip install.*--skip-bad$"):
        scan(mixed[4:], DATA)


def test_all_bad(mixed):
    with pytest.raises(ManifestError, match=r"list.csv: none of 2 .*first: .*nan.wav: NaN"):
        scan(mixed[1:3], DATA, skip_bad=True)


def test_scanning_again_replaces_the_columns(mixed):
    good, _ = scan(mixed, DATA, skip_bad=True)
    again, _ = scan(good, DATA)
    pd.testing.assert_frame_equal(again, good)


def segments_of(table, data=DATA, labels=("x", "y")):
    scanned, _ = scan(table, data)
    return Segments(scanned, data, Targets("softmax", list(labels), data).encode(scanned))


def test_segments_are_cut_from_the_whole_recording(tmp_path):
    first, second = noise(2.2), noise(1.0, seed=1)
    table = rows(
        save(tmp_path, first, name="1.wav"), save(tmp_path, second, name="2.wav"), label=["y", "x"]
    )
    segments = segments_of(table)
    assert len(segments) == 5
    assert segments.file_index.tolist() == [0, 0, 0, 0, 1]
    assert segments.start_seconds.tolist() == [0, 0.5, 1.0, 1.5, 0]
    assert segments.target.tolist() == [[0, 1], [1, 0]]
    assert segments.dropped == 0
    whole = load_audio(tmp_path / "1.wav", RATE)
    for i in range(3):
        waveform, target, index = segments[i]
        assert waveform.dtype == target.dtype == np.float32
        np.testing.assert_array_equal(waveform, whole[4000 * i : 4000 * i + 8000])
        assert (target.tolist(), index) == ([0, 1], i)
    assert segments[4][1].tolist() == [1, 0]
    tail = whole[12_000:]
    np.testing.assert_array_equal(segments[3][0], np.concatenate([tail, tail])[:8000])
    np.testing.assert_array_equal(segments[4][0], load_audio(tmp_path / "2.wav", RATE))


def test_segments_of_a_part(tmp_path):
    path = save(tmp_path, noise(3.0))
    segments = segments_of(rows(path, label="x", start=[0.75], end=[2.25]))
    whole = load_audio(tmp_path / "a.wav", RATE)
    assert segments.start_seconds.tolist() == [0, 0.5]
    np.testing.assert_array_equal(segments[0][0], whole[6000:14_000])
    np.testing.assert_array_equal(segments[1][0], whole[10_000:18_000])


@pytest.mark.parametrize("padding", ["zero", "repeat"])
def test_short_recordings_are_padded(tmp_path, padding):
    path = save(tmp_path, noise(0.4))
    data = DATA.model_copy(update={"padding": padding})
    waveform = segments_of(rows(path, label="x"), data)[0][0]
    short = load_audio(tmp_path / "a.wav", RATE)
    expected = np.tile(short, 3) if padding == "repeat" else np.append(short, np.zeros(8000))
    np.testing.assert_array_equal(waveform, expected[:8000])


def test_tail_drop(tmp_path):
    data = DATA.model_copy(update={"tail": "drop"})
    paths = [save(tmp_path, noise(s), name=f"{s}.wav") for s in (0.4, 1.7, 0.9, 1.0)]
    segments = segments_of(rows(*paths, label="x"), data)
    assert segments.dropped == 2
    assert segments.file_index.tolist() == [1, 1, 3]
    with pytest.raises(ManifestError, match=r"all 1 recordings are shorter .* 1 s.*data.tail=keep"):
        segments_of(rows(paths[0], label="x"), data)


@pytest.mark.parametrize(("rate", "kind"), [(44_100, "wav"), (11_025, "flac"), (22_050, "mp3")])
def test_lengths_that_do_not_divide_can_be_read_to_the_end(tmp_path, rate, kind):
    lengths = np.random.default_rng(0).integers(rate // 2, 3 * rate, 12)
    paths = [
        save(tmp_path, noise(n / rate, rate=rate), rate, f"{n}.{kind}", subtype=None)
        for n in lengths
    ]
    data = DATA.model_copy(update={"hop_seconds": 1.0, "sample_rate": 16_000})
    segments = segments_of(rows(*paths, label="x"), data)
    assert len(segments) >= np.ceil(lengths / rate).sum()
    for i in range(len(segments)):
        waveform, _, _ = segments[i]
        assert waveform.shape == (16_000,)
        assert np.abs(waveform).max() > 0.01


def test_a_tail_that_is_no_frame_of_the_file(tmp_path):
    # 6891 frames give 10 001 samples; sample 10 000 is nearest to frame 6891, which is the end.
    data = DataSection(sample_rate=16_000, segment_seconds=0.625, hop_seconds=0.625)
    path = save(tmp_path, noise(6891 / 11_025, rate=11_025), 11_025)
    segments = segments_of(rows(path, label="x"), data)
    assert len(segments) == 2
    assert segments[1][0].shape == (10_000,)
    assert np.abs(segments[1][0]).max() > 0.01


def test_a_last_segment_that_resampling_makes_longer(tmp_path):
    # Frames 3447 to 10 338 give 10 001 samples, one too many.
    hop = 5003 / 16_000
    data = DataSection(sample_rate=16_000, segment_seconds=0.625, hop_seconds=hop)
    path = save(tmp_path, noise(10_338 / 11_025, rate=11_025), 11_025)
    segments = segments_of(rows(path, label="x"), data)
    assert len(segments) == 2
    assert len(load_audio(tmp_path / "a.wav", 16_000, start=hop)) == 10_001
    assert segments[1][0].shape == (10_000,)


def test_the_duration_is_not_beyond_what_the_header_says(tmp_path, monkeypatch):
    path = save(tmp_path, noise(2.0))
    short = AudioInfo(sample_rate=RATE, channels=1, num_frames=12_000)
    monkeypatch.setattr("deepspectrumlite.data.audio_info", lambda _: short)
    good, _ = scan(rows(path, path, start=[0.0, 0.25]), DATA)
    assert good["duration"].tolist() == [1.5, 1.25]


def test_resampled_segments_are_close_to_the_whole(tmp_path):
    times = np.arange(3 * 44_100) / 44_100
    path = save(tmp_path, 0.5 * np.sin(2 * np.pi * 440 * times), 44_100)
    segments = segments_of(rows(path, label="x"))
    whole = load_audio(tmp_path / "a.wav", RATE)
    inner = slice(200, 7800)  # The resampler's edges differ.
    np.testing.assert_allclose(segments[2][0][inner], whole[8000:16_000][inner], atol=1e-3)


def test_segments_take_any_numbers_as_targets(tmp_path):
    paths = [save(tmp_path, noise(s), name=f"{s}.wav") for s in (0.4, 1.7, 1.0)]
    scanned, _ = scan(rows(*paths), DATA)
    target = np.array([[0.5, -1], [7, 1e6], [2, 3]], np.float32)
    segments = Segments(scanned, DATA, target)
    np.testing.assert_array_equal(segments.target[segments.file_index], target[[0, 1, 1, 1, 2]])
    for i, row in enumerate([0, 1, 1, 1, 2]):
        np.testing.assert_array_equal(segments[i][1], target[row])
    with pytest.raises(AssertionError, match="a target for each recording"):
        Segments(scanned, DATA, target[:2])


def test_a_label_that_the_model_does_not_know(tmp_path):
    path = save(tmp_path, noise(1.0))
    message = rf"label 'z' is unknown to the model; allowed: x, y; mend the row of {path}, or train"
    with pytest.raises(ManifestError, match=message):
        segments_of(rows(path, label="z"))


def test_segments_travel_to_another_process_as_arrays(tmp_path):
    path = save(tmp_path, noise(2.0), name="ä.wav")
    segments = segments_of(rows(path, label="x"))
    again = pickle.loads(pickle.dumps(segments))
    np.testing.assert_array_equal(again[1][0], segments[1][0])
    np.testing.assert_array_equal(again[1][1], segments[1][1])
    assert not [v for v in vars(segments).values() if isinstance(v, list | pd.DataFrame)]


def test_from_manifest_to_segments(tmp_path):
    for name in ("cat/1.wav", "cat/2.flac", "dog/1.ogg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        save(tmp_path, noise(1.2), name=name, subtype=None)
    segments = segments_of(load_manifest(tmp_path), labels=["cat", "dog"])
    assert segments.target.tolist() == [[1, 0], [1, 0], [0, 1]]
    assert segments.file_index.tolist() == [0, 0, 1, 1, 2, 2]

import json
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from deepspectrumlite.audio import cut_segments, load_audio
from deepspectrumlite.errors import AudioError, ModelError
from deepspectrumlite.model import Classifier, TorchRecogniser, load_model
from deepspectrumlite.predict import (
    find_recordings,
    open_recogniser,
    predict_file,
    predict_waveform,
)
from deepspectrumlite.runtime import Predictor

RATE = 8000


@pytest.fixture(scope="module")
def model(trained):
    return load_model(trained)


@pytest.fixture
def recording(tmp_path):
    def recording(waveform, rate=RATE, name="a.wav", subtype="FLOAT"):
        soundfile.write(tmp_path / name, waveform, rate, subtype=subtype)
        return tmp_path / name

    return recording


def scores_by_hand(model, path):
    segments = cut_segments(load_audio(path, RATE), model.recipe.data)
    with torch.inference_mode():
        return model(torch.from_numpy(segments)).numpy()


# 3.3 s: seven segments and so more than a batch of six; the last one is padded.
@pytest.mark.parametrize("seconds", [0.2, 0.5, 1.0, 3.3])
def test_scores_are_the_mean_over_the_segments(model, recording, tone, seconds):
    path = recording(tone("high", 3, seconds))
    found = predict_file(TorchRecogniser(model), path)
    expected = scores_by_hand(model, path)
    assert found.segment_scores.shape == expected.shape
    np.testing.assert_allclose(found.segment_scores, expected, atol=1e-5)
    np.testing.assert_allclose(found.scores, expected.mean(axis=0), atol=1e-5)
    assert found.segment_starts.tolist() == [0.5 * i for i in range(len(expected))]
    assert found.label == model.labels[expected.mean(axis=0).argmax()]
    assert found.labels == [found.label]


def test_it_hears_what_is_there(model, recording, tone):
    heard = {
        label: [
            predict_file(TorchRecogniser(model), recording(tone(label, 100 + i))).label
            for i in range(6)
        ]
        for label in model.labels
    }
    right = sum(found.count(label) for label, found in heard.items())
    assert right >= 14  # of 18; chance is 6


def test_a_change_in_the_middle_shows_in_the_segments(model, recording, tone):
    path = recording(np.concatenate([tone("noise", 7), tone("high", 8)]))
    found = predict_file(TorchRecogniser(model), path)
    row = found.to_json(segments=True)
    assert [part["start"] for part in row["segments"]] == [0.0, 0.5, 1.0, 1.5]
    assert [part["end"] for part in row["segments"]] == [0.5, 1.0, 1.5, 2.0]
    for part, scores in zip(row["segments"], found.segment_scores, strict=True):
        assert part["scores"] == dict(zip(model.labels, scores.tolist(), strict=True))
        assert part["label"] == max(part["scores"], key=part["scores"].get)
    noise = found.segment_scores[:, model.labels.index("noise")]
    assert noise[:2].min() > noise[2:].max()
    assert row["scores"] == pytest.approx(dict(zip(model.labels, found.scores, strict=True)))
    assert "segments" not in found.to_json()


LABELS = {
    "softmax": ["kick", "snare", "tom"],
    "sigmoid": ["kick", "snare", "tom"],
    "linear": ["age", "height"],
    "ordinal": ["1", "2", "10"],
}


def with_scores(make_recipe, monkeypatch, output, *segments):
    """A model that gives these scores to the segments of a recording."""
    model = Classifier(make_recipe(f"model.output={output}"), LABELS[output]).eval()
    if output == "sigmoid":
        model.thresholds.copy_(torch.tensor([0.5, 0.25, 0.75]))
    monkeypatch.setattr(model, "forward", lambda waveform: torch.tensor(segments))
    return model


# Segments of 0.5 s, the second one padded. Means are exact in float32.
@pytest.mark.parametrize(
    ("output", "segments", "mean", "answers"),
    [
        (
            "softmax",
            [[0.75, 0.125, 0.125], [0.0, 1.0, 0.0]],
            [0.375, 0.5625, 0.0625],
            [{"label": "snare"}, {"label": "kick"}, {"label": "snare"}],
        ),
        (
            # On average at one threshold and above another; in the segments otherwise.
            "sigmoid",
            [[0.0, 0.125, 0.5], [0.25, 0.375, 1.0]],
            [0.125, 0.25, 0.75],
            [{"labels": ["snare", "tom"]}, {"labels": []}, {"labels": ["snare", "tom"]}],
        ),
        ("linear", [[20.0, -1.0], [40.0, 2.0]], [30.0, 0.5], [{}, {}, {}]),
        (
            "ordinal",
            [[0.5], [13.0]],
            [6.75],
            [{"label": "10"}, {"label": "1"}, {"label": "10"}],
        ),
    ],
)
def test_json_of_each_output(make_recipe, monkeypatch, recording, output, segments, mean, answers):
    model = with_scores(make_recipe, monkeypatch, output, *segments)
    path = recording(np.ones(6000, np.float32))
    found = predict_file(TorchRecogniser(model), path)
    names = ["value"] if output == "ordinal" else LABELS[output]
    kind = "values" if output in ("linear", "ordinal") else "scores"
    scores = [dict(zip(names, row, strict=True)) for row in (mean, *segments)]
    rows = [answer | {kind: row} for answer, row in zip(answers, scores, strict=True)]
    expected = {"path": str(path)} | rows[0]
    assert found.to_json() == expected
    parts = [{"start": 0.0, "end": 0.5} | rows[1], {"start": 0.5, "end": 0.75} | rows[2]]
    assert found.to_json(segments=True) == expected | {"segments": parts}
    assert json.loads(json.dumps(found.to_json(segments=True))) == expected | {"segments": parts}
    labels = answers[0].get("labels", [answers[0]["label"]] if "label" in answers[0] else [])
    assert found.labels == labels
    assert found.label == ", ".join(labels)


def test_json_of_a_set_and_of_a_recording_that_is_none_of_the_labels(
    make_recipe, monkeypatch, recording
):
    recipe = make_recipe("decision.unknown=energy")
    model = Classifier(recipe, LABELS["softmax"]).eval()
    model.conformal.fill_(0.25)
    segments = [[0.75, 0.125, 0.125, 0.375], [0.0, 1.0, 0.0, 0.75]]
    monkeypatch.setattr(model, "forward", lambda waveform: torch.tensor(segments))
    found = predict_file(TorchRecogniser(model), recording(np.ones(6000, np.float32)))
    assert (found.label, found.labels) == ("unknown", ["unknown"])
    row = found.to_json(segments=True)
    assert row["set"] == ["snare", "kick"]
    assert row["scores"] == {"kick": 0.375, "snare": 0.5625, "tom": 0.0625, "unknown": 0.5625}
    # Sets are promised for recordings, not for segments.
    assert [set(part) for part in row["segments"]] == [{"start", "end", "label", "scores"}] * 2
    assert [part["label"] for part in row["segments"]] == ["kick", "unknown"]


def test_nothing_above_a_threshold(make_recipe, monkeypatch, recording):
    model = with_scores(make_recipe, monkeypatch, "sigmoid", [0.0, 0.125, 0.5])
    found = predict_file(TorchRecogniser(model), recording(np.ones(4000, np.float32)))
    assert found.labels == []
    assert found.label == ""
    assert found.to_json()["labels"] == []


@pytest.mark.parametrize(
    ("waveform", "rate", "n_segments"),
    [
        (np.zeros(8000, np.float32), RATE, 2),
        (np.ones(40, np.float32), RATE, 1),  # a click of 5 ms
        (np.full(1, 0.5, np.float32), RATE, 1),
        (np.full((8000, 2), 1e-30, np.float32), RATE, 2),
        (np.random.default_rng(0).uniform(-1, 1, (96_000, 8)), 96_000, 2),
    ],
    ids=["silence", "click", "sample", "underflow", "96 kHz, 8 channels"],
)
def test_odd_recordings_have_finite_scores(model, recording, waveform, rate, n_segments):
    path = recording(waveform, rate)
    found = predict_file(TorchRecogniser(model), path)
    assert found.segment_scores.shape == (n_segments, 3)
    assert np.isfinite(found.segment_scores).all()
    assert found.segment_scores.sum(axis=1) == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(found.segment_scores, scores_by_hand(model, path), atol=1e-5)


def test_a_long_recording_needs_no_more_than_a_batch(model, recording, monkeypatch):
    seconds, batches = 600, []

    def scores(waveform):
        batches.append(tuple(waveform.shape))
        return torch.full((len(waveform), 3), 1 / 3)

    monkeypatch.setattr(model, "forward", scores)
    noise = np.random.default_rng(0).uniform(-1, 1, seconds * RATE)
    path = recording(noise, subtype="PCM_16")
    told = []
    tracemalloc.start()
    found = predict_file(TorchRecogniser(model), path, lambda *step: told.append(step))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert batches == [(6, 4000)] * 200
    assert found.segment_scores.shape == (1200, 3)
    # As 32-bit floats the recording takes 19 MB; a block of it 1 MB.
    assert peak < 6e6
    assert told[-1] == ("predicting a.wav", 1200, 1200)
    assert [done for _, done, _ in told] == list(range(6, 1201, 6))


def save_silence(path, seconds):
    """A 16-bit WAV of a header alone and a hole for its samples, which takes no room on disk."""
    n_bytes = 2 * RATE * seconds
    sizes = (b"RIFF", 36 + n_bytes, b"WAVE", b"fmt ", 16, 1, 1, RATE, 2 * RATE, 2, 16)
    with path.open("wb") as file:
        file.write(struct.pack("<4sI4s4sIHHIIHH4sI", *sizes, b"data", n_bytes))
        file.truncate(44 + n_bytes)
    return path


# The peak of this program alone: ru_maxrss would start from that of the process that started it.
PREDICT_AND_TELL_THE_PEAK = """
import re, sys
from pathlib import Path
import torch
from deepspectrumlite.predict import open_recogniser, predict_file
torch.set_num_threads(1)
found = predict_file(open_recogniser(Path(sys.argv[1]), device="cpu"), Path(sys.argv[2]))
status = Path("/proc/self/status").read_text()
peak = re.search(r"VmHWM:\\s+(\\d+) kB", status)[1]
print(len(found.segment_starts), found.segment_starts[-1], peak)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_three_hours_need_little_more_memory_than_ten_seconds(make_recipe, tmp_path):
    recipe = make_recipe("data.segment_seconds=10.0", "data.hop_seconds=10.0")
    Classifier(recipe, ["a", "b"]).eval().save(tmp_path / "model")
    peaks = []
    for seconds in (10, 3 * 3600):
        path = save_silence(tmp_path / f"{seconds}.wav", seconds)
        code = [sys.executable, "-c", PREDICT_AND_TELL_THE_PEAK, tmp_path / "model", path]
        found = subprocess.run(code, capture_output=True, text=True, check=True)
        n_segments, last, kilobytes = found.stdout.split()
        assert (int(n_segments), float(last)) == (seconds // 10, seconds - 10)
        peaks.append(int(kilobytes) / 1000)
    # As 32-bit floats the recording takes 346 MB.
    assert peaks[1] - peaks[0] < 300, peaks


def test_bad_files_are_audio_errors(model, tmp_path, recording):
    (tmp_path / "text.wav").write_text("not audio")
    (tmp_path / "empty.wav").write_bytes(b"")
    nan = recording(np.array([0.1, np.nan, 0.2], np.float32), name="nan.wav")
    bad = [tmp_path / "text.wav", tmp_path / "empty.wav", tmp_path / "absent.wav", tmp_path, nan]
    for path in bad:
        with pytest.raises(AudioError) as caught:
            predict_file(TorchRecogniser(model), path)
        assert str(caught.value).startswith(f"{path}: ")


def test_too_short_for_a_model_that_drops_the_tail(model, recording, monkeypatch):
    data = model.recipe.data.model_copy(update={"tail": "drop"})
    monkeypatch.setattr(model, "recipe", model.recipe.model_copy(update={"data": data}))
    with pytest.raises(AudioError, match=r"shorter than a segment of 0\.5 s.*data\.tail"):
        predict_file(TorchRecogniser(model), recording(np.ones(3999, np.float32)))
    assert predict_file(
        TorchRecogniser(model), recording(np.ones(4001, np.float32))
    ).segment_starts == [0]


@pytest.mark.parametrize("seconds", [0.2, 0.5, 1.2])
def test_a_waveform_is_predicted_as_the_file_that_holds_it(model, recording, tone, seconds):
    waveform, recogniser = tone("noise", 4, seconds), TorchRecogniser(model)
    from_file = predict_file(recogniser, recording(waveform))
    found = predict_waveform(recogniser, waveform)
    assert found.path is None
    assert {"path": str(from_file.path)} | found.to_json(segments=True) == from_file.to_json(
        segments=True
    )


def test_what_opens_a_model_is_told_by_what_it_is(trained, exported, exported_onnx, tmp_path):
    for folder in (trained, trained / "model"):
        recogniser = open_recogniser(folder, device="cpu")
        assert isinstance(recogniser, TorchRecogniser)
        assert not recogniser.model.training
    for path in (exported, exported_onnx, str(exported)):
        opened = open_recogniser(path, threads=2)
        assert isinstance(opened, Predictor)
        assert opened.decision.labels == recogniser.decision.labels
        assert opened.recipe == recogniser.recipe
    with pytest.raises(ModelError, match="no model there; allowed: a run folder or a model folder"):
        open_recogniser(tmp_path / "absent")
    with pytest.raises(ModelError, match="no model there; allowed: a run folder, a model folder, "):
        open_recogniser(trained / "manifest.csv")


@pytest.fixture
def folder(tmp_path):
    for name in ("b.wav", "a.FLAC", "notes.txt", "sub/c.mp3", "sub/.hidden.wav", "[x].wav"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (tmp_path / "void").mkdir()
    (tmp_path / "dir.wav").mkdir()
    return tmp_path


def names(folder, *patterns):
    found = find_recordings([str(folder / pattern) for pattern in patterns])
    return [str(path.relative_to(folder)) for path in found]


def test_find_recordings(folder):
    assert names(folder, "b.wav", "notes.txt") == ["b.wav", "notes.txt"]
    assert names(folder, ".") == ["[x].wav", "a.FLAC", "b.wav", "sub/c.mp3"]
    assert names(folder, "*.wav") == ["[x].wav", "b.wav"]
    assert names(folder, "**/*.mp3") == ["sub/c.mp3"]
    # A name that looks like a pattern is taken as a name first.
    assert names(folder, "[x].wav") == ["[x].wav"]
    # What matches nothing stays, to be complained about.
    assert names(folder, "absent.wav", "*.ogg", "void") == ["absent.wav", "*.ogg", "void"]
    # Each once, where it came first.
    assert names(folder, "sub/c.mp3", "b.wav", "*.wav", "sub") == ["sub/c.mp3", "b.wav", "[x].wav"]
    assert find_recordings([]) == []


def test_find_recordings_by_relative_patterns(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert find_recordings(["sub", "b.*"]) == [Path("sub/c.mp3"), Path("b.wav")]
    assert find_recordings(["sub/c.mp3", "sub"]) == [Path("sub/c.mp3")]

"""The commands around exported files, as a user types them."""

import csv
import json

import numpy as np
import pytest
import soundfile

from deepspectrumlite.description import read_description


@pytest.mark.slow
def test_export_for_real(run, trained, tmp_path):
    """From a run to an int8 file and a .onnx one, in processes of their own."""
    out = tmp_path / "tones.tflite"
    code, text, _ = run("export", trained, "--out", out, "--int8", "--onnx", "--calibration", 12)
    assert code == 0
    assert "UAR lost" in text
    assert f"{out}: " in text
    for path, precision in ((out, "int8"), (tmp_path / "tones.onnx", "float32")):
        assert read_description(path).precision == precision
        code, text, _ = run("predict", path, trained / "manifest.csv", "--json")
        assert code == 0
        assert len(text.splitlines()) == 30
    code, text, _ = run("stats", out)
    assert code == 0
    assert "CONV_2D" in text


def test_float16(run, ready, trained, tmp_path):
    code, text, _ = run("export", trained, "--out", tmp_path / "tones.tflite", "--float16")
    assert code == 0
    assert read_description(tmp_path / "tones.tflite").precision == "float16"
    assert "UAR" in text


def test_precisions_exclude_each_other(run, trained, tmp_path):
    arguments = ("--out", tmp_path / "x.tflite", "--int8", "--float16")
    code, _, errors = run("export", trained, *arguments)
    assert code == 2
    assert "exclude each other" in " ".join(errors)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--out", "x.bin"), "Error: x.bin: the suffix is '.bin'; allowed: .tflite or .onnx"),
        (("--out", "x.tflite", "--split", "nights"), "nights"),
        (("--out", "x.tflite", "--stream", "none.json"), "none.json: cannot be read"),
        (("--out", "x.tflite", "--data", "none.csv"), "none.csv"),
    ],
)
def test_errors_are_one_line(run, ready, trained, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, _, errors = run("export", trained, *arguments)
    assert code == 1
    assert len(errors) == 1
    assert message in errors[0]
    assert list(tmp_path.iterdir()) == []


def test_an_exported_file_is_not_exported_again(run, exported, tmp_path):
    code, _, errors = run("export", exported, "--out", tmp_path / "x.tflite")
    assert code == 1
    assert "no model there" in errors[0]


def test_a_network_that_cannot_be_exported_is_not_trained(run, ready, tones, tiny_toml, tmp_path):
    """The stand-in for the conversion gives another network's file."""
    out = tmp_path / "run"
    options = ("--check-export", "--set", "data.segment_seconds=0.5")
    code, _, errors = run("train", tiny_toml, "--data", tones, "--out", out, *options)
    assert code == 1
    assert "differs from the model" in errors[-1]
    assert not out.exists()


@pytest.fixture(scope="module")
def scene(tmp_path_factory, tone):
    """Twenty seconds of soft noise with three high tones in it, and their list."""
    folder = tmp_path_factory.mktemp("scene")
    waveform = np.random.default_rng(0).uniform(-0.3, 0.3, 160_000).astype(np.float32)
    starts = (3, 9, 15)
    for seed, start in enumerate(starts):
        waveform[8000 * start : 8000 * (start + 2)] = tone("high", 90 + seed, 2.0)
    soundfile.write(folder / "scene.wav", waveform, 8000)
    with (folder / "events.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "start", "end", "label"])
        writer.writerows([["scene.wav", start, start + 2, "high"] for start in starts])
    return folder


def test_evaluate_stream_with_an_exported_file(run, exported, scene, tmp_path):
    settings = tmp_path / "settings.json"
    settings.write_text('{"ignore": ["noise", "low"], "hop_seconds": 0.25}')
    arguments = ("--settings", settings, "--false-alarms-per-hour", 5, "--out", tmp_path / "found")
    code, text, _ = run("evaluate", exported, scene / "events.csv", "--stream", *arguments)
    assert code == 0
    report = json.loads((tmp_path / "found" / "detection.json").read_text())
    found = report["overall"]
    assert (found["events"], found["hits"], found["false_alarms"]) == (3, 3, 0)
    assert report["labels"]["high"]["miss_rate"] == 0
    assert 0 < found["latency_median_seconds"] < 1.5
    assert "0.0 %" in text
    chosen = json.loads((tmp_path / "found" / "stream.json").read_text())
    assert chosen["thresholds"]["high"] == report["labels"]["high"]["threshold"]


def test_the_stream_command_hears_the_same(run, exported, scene):
    arguments = ("--json", "--hop", "0.25", "--threshold", "0.8")
    code, text, _ = run("stream", exported, scene / "scene.wav", *arguments)
    assert code == 0
    rows = [json.loads(line) for line in text.splitlines()]
    starts = [row["start"] for row in rows if row["label"] == "high" and row["event"] == "start"]
    np.testing.assert_allclose(starts, [3, 9, 15], atol=0.4)


@pytest.mark.parametrize(
    "arguments", [("--stream",), ("events.csv", "--false-alarms-per-hour", "1")]
)
def test_stream_options_belong_together(run, exported, arguments):
    code, _, errors = run("evaluate", exported, *arguments)
    assert code == 2
    assert "--stream" in " ".join(errors)

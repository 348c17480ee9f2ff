"""Export as a whole: what is handed over, what is refused, and what is left behind."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from deepspectrumlite import export
from deepspectrumlite.config import ExportOptions
from deepspectrumlite.convert import KINDS
from deepspectrumlite.description import read_description
from deepspectrumlite.errors import ExportError, ManifestError, MissingExtraError, ModelError
from deepspectrumlite.export import check_export, export_model
from deepspectrumlite.model import load_model
from deepspectrumlite.runtime import Predictor


def spoiled(monkeypatch, kind, score):
    """Let the file of one kind give other scores."""

    class Other(Predictor):
        def score(self, segments):
            scores = super().score(segments)
            return score(scores) if self.path.name == kind else scores

    monkeypatch.setattr(export, "Predictor", Other)


def test_int8_is_handed_over_with_its_report(ready, trained, tmp_path):
    out = tmp_path / "new" / "tones.tflite"
    exported = export_model(trained, out, ExportOptions("int8", onnx=True))
    assert ready["kinds"] == ["float32.tflite", "int8.tflite", "float32.onnx"]
    assert sorted(path.name for path in out.parent.iterdir()) == [
        "tones.onnx",
        "tones.tflite",
        "tones.tflite.json",
    ]
    report = json.loads((tmp_path / "new" / "tones.tflite.json").read_text())
    assert report["passed"] is True
    assert (report["split"], report["clips"], report["segments"]) == ("devel", 6, 12)
    assert [file["file"] for file in report["files"]] == [None, "tones.tflite", "tones.onnx"]
    assert report["files"][1]["bytes"] == out.stat().st_size == exported[1].size
    assert [file["agreement"] for file in report["files"]] == [1, 1, 1]
    for file in report["files"]:
        assert file["max_difference"] < (0.05 if file["kind"] == "int8.tflite" else 1e-5)
        assert file["drop"]["value"] == 0


def test_the_file_knows_what_the_model_knows(ready, trained, tmp_path):
    out = tmp_path / "tones.tflite"
    model = load_model(trained)
    export_model(trained, out, ExportOptions("int8"))
    found = read_description(out)
    assert found.precision == "int8"
    assert found.labels == model.labels
    assert found.temperature == pytest.approx(float(model.temperature))
    assert found.recipe == model.recipe.model_dump(mode="json")
    assert (found.sample_rate, found.segment_samples) == (8000, 4000)


def test_calibration_is_drawn_from_the_training_split(ready, trained, tmp_path):
    options = ExportOptions("int8", calibration_segments=7)
    export_model(trained, tmp_path / "tones.tflite", options)
    segments = ready["calibration"]
    assert segments.shape == (7, 4000)
    assert len(np.unique(segments, axis=0)) == 7
    table = pd.read_csv(trained / "manifest.csv")
    from deepspectrumlite.audio import load_audio

    train = [load_audio(trained / path, 8000) for path in table.path[table.split == "train"]]
    halves = np.concatenate([waveform.reshape(2, 4000) for waveform in train])
    assert all((halves == segment).all(axis=1).any() for segment in segments)


def test_a_float_file_that_differs_is_not_handed_over(ready, trained, tmp_path, monkeypatch):
    spoiled(monkeypatch, "float32.tflite", lambda scores: scores + 2e-4)
    out = tmp_path / "tones.tflite"
    out.write_bytes(b"older")
    with pytest.raises(ExportError, match=r"float32.tflite: scores differ .* by up to 2.0e-04"):
        export_model(trained, out)
    assert out.read_bytes() == b"older"
    report = json.loads((tmp_path / "tones.tflite.failed.json").read_text())
    assert report["passed"] is False
    assert [file["file"] for file in report["files"]] == [None]
    assert len(list(tmp_path.iterdir())) == 2


def test_an_export_that_fails_leaves_the_one_before_as_it_was(
    ready, trained, tmp_path, monkeypatch
):
    out = tmp_path / "tones.tflite"
    export_model(trained, out)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with monkeypatch.context() as patch:
        spoiled(patch, "int8.tflite", lambda scores: scores[:, ::-1])
        with pytest.raises(ExportError, match=r"--calibration with more segments, or --float16"):
            export_model(trained, out, ExportOptions("int8"))
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(after) - set(before) == {"tones.tflite.failed.json"}
    assert all(after[name] == before[name] for name in before)
    export_model(trained, out, ExportOptions("int8"))
    assert not (tmp_path / "tones.tflite.failed.json").exists()


def test_scores_that_are_not_numbers_fail(ready, trained, tmp_path, monkeypatch):
    spoiled(monkeypatch, "float32.tflite", lambda scores: scores * np.nan)
    with pytest.raises(ExportError, match="some scores are not numbers"):
        export_model(trained, tmp_path / "tones.tflite")
    assert [path.name for path in tmp_path.iterdir()] == ["tones.tflite.failed.json"]


def test_int8_that_loses_too_much_is_not_handed_over(ready, trained, tmp_path, monkeypatch):
    spoiled(monkeypatch, "int8.tflite", lambda scores: scores[:, ::-1])
    with pytest.raises(ExportError, match=r"int8.tflite: UAR is .* points lower .*--float16"):
        export_model(trained, tmp_path / "tones.tflite", ExportOptions("int8"))
    assert not (tmp_path / "tones.tflite").exists()
    generous = ExportOptions("int8", max_drop=1.0)
    export_model(trained, tmp_path / "tones.tflite", generous)
    assert (tmp_path / "tones.tflite").exists()


def test_onnx_alone(ready, trained, tmp_path):
    export_model(trained, tmp_path / "tones.onnx")
    assert ready["kinds"] == ["float32.onnx"]
    assert (tmp_path / "tones.onnx").is_file()


def test_stream_settings_of_the_run_travel_along(ready, trained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    (run / "stream.json").write_text('{"smoothing": "ema", "thresholds": {"high": 0.7}}')
    export_model(run, tmp_path / "tones.tflite")
    stream = read_description(tmp_path / "tones.tflite").stream
    assert (stream["smoothing"], stream["thresholds"]) == ("ema", {"high": 0.7})
    (run / "stream.json").write_text('{"thresholds": {"bell": 0.7}}')
    with pytest.raises(ModelError, match=r"stream settings: thresholds names 'bell'"):
        export_model(run, tmp_path / "tones.tflite")
    (run / "stream.json").write_text('{"hop_seconds": 10}')
    with pytest.raises(ModelError, match=r"hop_seconds is 10, .*at most 0.5"):
        export_model(run, tmp_path / "tones.tflite")
    (tmp_path / "other.json").write_text("{}")
    export_model(run, tmp_path / "x.tflite", ExportOptions(stream=tmp_path / "other.json"))


def test_other_recordings_can_prove_it(ready, trained, tones, tmp_path):
    shutil.copytree(trained / "model", tmp_path / "model")
    with pytest.raises(ManifestError, match=r"no manifest.csv .*--data"):
        export_model(tmp_path / "model", tmp_path / "tones.tflite")
    exported = export_model(
        tmp_path / "model", tmp_path / "tones.tflite", ExportOptions(manifest=tones, split="test")
    )
    assert exported[0].path == tmp_path / "tones.tflite"
    assert json.loads((tmp_path / "tones.tflite.json").read_text())["clips"] == 9


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("tones.bin", ExportOptions(), r"suffix is '.bin'; allowed: .tflite or .onnx"),
        ("tones.onnx", ExportOptions("int8"), r"int8 in .onnx; allowed: float32"),
        ("folder.tflite", ExportOptions(), "a folder; choose"),
    ],
)
def test_what_cannot_be_exported_is_refused_first(name, options, message, tmp_path):
    (tmp_path / "folder.tflite").mkdir()
    with pytest.raises(ExportError, match=message):
        export_model(tmp_path / "no such run", tmp_path / name, options)


def test_missing_converters_are_named(monkeypatch, trained, tmp_path):
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"deepspectrumlite\[export\]"):
        export_model(trained, tmp_path / "tones.tflite")


def test_the_dry_run_compares_with_the_model(ready, trained_model, trained, monkeypatch):
    segments = export._segments(
        export._clips(trained, ExportOptions(), trained_model),
        "train",
        trained_model,
        ExportOptions(),
        lambda *step: None,
    )
    check_export(trained_model, segments)
    assert ready["kinds"] == [KINDS[0]]
    spoiled(monkeypatch, "float32.tflite", lambda scores: scores + 1)
    with pytest.raises(ExportError, match=r"differs from the model by 1.0e\+00"):
        check_export(trained_model, segments)
    torch.manual_seed(0)

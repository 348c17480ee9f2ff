"""A recording as one segment, however long: from training to the file for the device."""

import json

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

from deepspectrumlite.config import load_recipe, parse_recipe
from deepspectrumlite.data import Segments, scan
from deepspectrumlite.errors import ExportError, ModelError, RecipeError
from deepspectrumlite.frontend import FrontEnd, images_of
from deepspectrumlite.manifest import load_manifest
from deepspectrumlite.model import TorchRecogniser, fix_length, load_model
from deepspectrumlite.predict import predict_file, predict_waveform
from deepspectrumlite.runtime import Predictor
from deepspectrumlite.stream import StreamingClassifier

RATE = 8000
SETTINGS = ("data.segment_seconds=whole", "augment.mixup_share=0")


@pytest.fixture(scope="module")
def lengths(tmp_path_factory, tone, save_manifest):
    """A manifest of recordings of 0.02 s (less than a window) to 2.5 s."""
    folder = tmp_path_factory.mktemp("lengths")
    rows, rng = [], np.random.default_rng(0)
    for split, count in (("train", 4), ("devel", 2), ("test", 2)):
        for label in ("high", "low", "noise"):
            for i in range(count):
                seconds = (
                    0.02 if (split, label, i) == ("train", "low", 0) else rng.uniform(0.3, 2.5)
                )
                name = f"{label}-{split}-{i}.wav"
                soundfile.write(folder / name, tone(label, len(rows), seconds), RATE)
                rows.append({"path": name, "label": label, "split": split})
    return save_manifest(folder / "labels.csv", rows)


@pytest.fixture(scope="module")
def whole_run(lengths, tiny_toml, small_settings, tmp_path_factory):
    from typer.testing import CliRunner

    from deepspectrumlite.cli import app

    run = tmp_path_factory.mktemp("whole") / "run"
    changes = [part for change in (*small_settings, *SETTINGS) for part in ("--set", change)]
    given = ["train", str(tiny_toml), "--data", str(lengths), "--out", str(run), *changes]
    found = CliRunner().invoke(app, given)
    assert found.exit_code == 0, found.output
    return run


def test_every_recording_is_one_segment_of_its_own_length(lengths, make_recipe):
    data = make_recipe(*SETTINGS).data
    scanned, _ = scan(load_manifest(lengths), data)
    segments = Segments(scanned, data, np.zeros((len(scanned), 1), np.float32))
    found = [len(segments[i][0]) for i in range(len(segments))]
    assert found == [soundfile.info(path).frames for path in scanned["path"]]
    assert len(set(found)) > 10


def test_spans_of_a_file_are_as_long_as_they_are(lengths, make_recipe, tmp_path):
    data = make_recipe(*SETTINGS).data
    path = lengths.parent / "long.wav"
    wave = np.linspace(-0.5, 0.5, 2 * RATE, dtype=np.float32)
    soundfile.write(path, wave, RATE, subtype="FLOAT")
    pd.DataFrame(
        {"path": [path] * 2, "label": ["a", "b"], "start": [0.0, 0.5], "end": [0.5, 2.0]}
    ).to_csv(tmp_path / "spans.csv", index=False)
    scanned, _ = scan(load_manifest(tmp_path / "spans.csv"), data)
    segments = Segments(scanned, data, np.zeros((2, 1), np.float32))
    np.testing.assert_array_equal(segments[0][0], wave[: RATE // 2])
    np.testing.assert_array_equal(segments[1][0], wave[RATE // 2 :])


@pytest.mark.parametrize("seconds", [0.1, 0.777, 3.0])
@pytest.mark.parametrize("resize", ["bilinear", "nearest", "area"])
def test_the_image_is_that_of_a_front_end_of_this_length(make_recipe, seconds, resize):
    recipe = make_recipe(*SETTINGS, f"frontend.resize={resize}")
    fixed = recipe.for_length(seconds)
    wave = torch.from_numpy(np.random.default_rng(0).normal(size=(2, round(seconds * RATE))))
    wave = wave.float()
    whole = FrontEnd(recipe.frontend, recipe.data)
    expected = FrontEnd(fixed.frontend, fixed.data)(wave)
    torch.testing.assert_close(whole(wave), expected, atol=1e-6, rtol=0)
    # A list is one by one, and lengths may differ.
    torch.testing.assert_close(
        images_of(whole, [wave[0], wave[1, : RATE // 15]])[:1], expected[:1], atol=1e-6, rtol=0
    )


def test_training_hears_recordings_of_many_lengths(whole_run, lengths):
    history = [json.loads(line) for line in (whole_run / "history.jsonl").open()]
    assert [record["phase"] for record in history] == ["head", "fine_tune"]
    assert all(np.isfinite(record["train_loss"]) for record in history)
    model = load_model(whole_run)
    recogniser = TorchRecogniser(model)
    path = lengths.parent / "high-test-0.wav"
    found = predict_file(recogniser, path)
    wave, _ = soundfile.read(path, dtype="float32")
    assert found.segment_scores.shape == (1, 3)
    assert found.segment_ends[0] == pytest.approx(len(wave) / RATE)
    fixed = TorchRecogniser(fix_length(model, len(wave) / RATE))
    np.testing.assert_allclose(found.scores, fixed.score(wave[None])[0], atol=1e-6)
    np.testing.assert_allclose(predict_waveform(recogniser, wave).scores, found.scores, atol=1e-6)


def test_a_stopped_run_goes_on_to_the_same_weights(whole_run, lengths, tmp_path, one_thread):
    from deepspectrumlite.errors import Interrupted
    from deepspectrumlite.runs import resume_run, train_run

    recipe = parse_recipe(load_model(whole_run).recipe.model_dump(mode="json"))
    train_run(recipe, lengths, tmp_path / "whole")

    def stop(record):
        raise Interrupted("stopped")

    with pytest.raises(Interrupted):
        train_run(recipe, lengths, tmp_path / "stopped", on_epoch=stop)
    resume_run(tmp_path / "stopped")
    once, again = (load_model(tmp_path / name).state_dict() for name in ("whole", "stopped"))
    assert all(torch.equal(once[name], again[name]) for name in once)


def test_every_command_takes_such_a_model(whole_run, lengths, run, tmp_path):
    code, out, _ = run("evaluate", whole_run)
    assert code == 0
    assert "UAR on test" in out
    report = json.loads((whole_run / "test" / "scores.json").read_text())
    assert (report["files"]["n"], report["segments"]["n"]) == (6, 6)
    clip = lengths.parent / "noise-test-1.wav"
    picture = tmp_path / "maps"
    for command in (
        ("predict", whole_run, clip, "--segments"),
        ("calibrate", whole_run),
        ("preview", lengths, "--out", tmp_path / "p.png", "--recipe", whole_run / "whole.toml"),
        ("explain", whole_run, clip, "--out", picture, "--method", "gradcam", "--listen"),
        ("explain", whole_run, "--split", "test", "--method", "gradcam", "--out", picture),
        ("extract", lengths, "--out", tmp_path / "features.csv", "--model", whole_run),
        ("report", whole_run, "--out", tmp_path / "report.html"),
    ):
        if "preview" in command:
            recipe = load_model(whole_run).recipe
            from deepspectrumlite.config import recipe_toml

            (whole_run / "whole.toml").write_text(recipe_toml(recipe), encoding="utf-8")
        code, _, errors = run(*command)
        assert code == 0, (command, errors)
    assert len(pd.read_csv(tmp_path / "features.csv")) == 24
    assert "whole recordings" in (tmp_path / "report.html").read_text()


@pytest.mark.slow
def test_a_file_takes_the_length_that_is_stated(whole_run, lengths, run, tmp_path):
    file = tmp_path / "whole.tflite"
    code, _, errors = run("export", whole_run, "--out", file)
    assert (code, len(errors)) == (1, 1)
    assert "--seconds" in errors[0]
    assert run("export", whole_run, "--out", file, "--seconds", "1.25")[0] == 0
    predictor = Predictor(file)
    assert predictor.description.segment_samples == round(1.25 * RATE)
    fixed = TorchRecogniser(fix_length(load_model(whole_run), 1.25))
    for clip in sorted(lengths.parent.glob("*-test-*.wav")):
        expected = predict_file(fixed, clip)
        np.testing.assert_allclose(predictor.predict(clip).scores, expected.scores, atol=1e-4)


def test_only_whole_recordings_get_another_length(trained, tmp_path):
    from deepspectrumlite.config import ExportOptions
    from deepspectrumlite.export import export_model

    with pytest.raises(ExportError, match=r"--seconds is 2, but the model has segments of 0\.5 s"):
        export_model(trained, tmp_path / "x.tflite", ExportOptions(seconds=2))


def test_what_needs_a_fixed_length_says_so(whole_run, run):
    recogniser = TorchRecogniser(load_model(whole_run))
    with pytest.raises(ModelError, match="whole recordings, which a stream has not"):
        StreamingClassifier(recogniser)
    for command in ("benchmark", "stats"):
        code, _, errors = run(command, whole_run)
        assert (code, len(errors)) == (1, 1)
        assert "whole recordings" in errors[0]


def test_whole_recordings_are_not_mixed():
    with pytest.raises(RecipeError, match="different lengths cannot be mixed"):
        load_recipe("default", ["data.segment_seconds=whole"])
    with pytest.raises(RecipeError, match='segment_seconds is "most"'):
        load_recipe("default", ["data.segment_seconds=most"])

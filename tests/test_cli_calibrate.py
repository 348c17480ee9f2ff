"""Calibrating a trained model again, and what predictions, exported files and reports then say."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import logit

from deepspectrumlite.config import parse_recipe
from deepspectrumlite.description import read_description
from deepspectrumlite.errors import ModelError
from deepspectrumlite.model import Classifier, TorchRecogniser, load_model
from deepspectrumlite.predict import open_recogniser, predict_file
from deepspectrumlite.runs import calibrate_run
from deepspectrumlite.runtime import Predictor

# The training split has 15 files: a share of 0.2 lets 3 of 16 be refused.
TRAIN = ("--split", "train", "--false-rejection", 0.2, "--coverage", 0.8)


@pytest.fixture
def copy(trained, tmp_path):
    """A run folder that may be changed."""
    return shutil.copytree(trained, tmp_path / "run")


def recordings(folder, split):
    with (folder / "manifest.csv").open(newline="") as file:
        return {row["path"]: row["label"] for row in csv.DictReader(file) if row["split"] == split}


def predictions(path, paths):
    recogniser = open_recogniser(path, device="cpu")
    return [predict_file(recogniser, Path(each)) for each in paths]


def test_sets_and_refusals_by_score_keep_what_they_promise(run, copy):
    before = load_model(copy)
    code, text, errors = run("calibrate", copy, *TRAIN, "--unknown", "score")
    assert code == 0
    assert errors == [
        "Note: fitted on recordings that may have been trained on, so the answers are too sure"
    ]
    model, truth = load_model(copy), recordings(copy, "train")
    decided = model.recipe.decision
    assert (decided.unknown, decided.coverage, decided.false_rejection) == ("score", 0.8, 0.2)
    lines = text.splitlines()
    assert lines[0] == f"Fitted on 15 files: temperature {float(model.temperature):.2f}"
    assert f"a score of at least {model.decision.conformal:.3f}" in lines[1]
    assert f"a highest score below {model.decision.unknown_below:.3f}" in lines[2]
    found = predictions(copy, truth)
    refused = [each.label == "unknown" for each in found]
    # Strictly below the third lowest of 15.
    assert sum(refused) == 2
    tops = sorted(each.scores.max() for each in found)
    assert tops[1] < model.decision.unknown_below < tops[2]
    held = [
        label in each.to_json()["set"] for each, label in zip(found, truth.values(), strict=True)
    ]
    # The third lowest true score of 15, itself included.
    assert sum(held) == 13
    assert "hold the true label of 0.867" in lines[3]
    assert "0.133" in lines[4]
    # The network is the same.
    assert torch.equal(before.state_dict()["head.0.weight"], model.state_dict()["head.0.weight"])
    code, text, _ = run("evaluate", copy, "--split", "train", "--resamples", 100)
    report = json.loads((copy / "train" / "scores.json").read_text())["decisions"]
    assert report["coverage"]["value"] == pytest.approx(13 / 15)
    assert report["unknown"]["false_rejection"]["value"] == pytest.approx(2 / 15)
    table = pd.read_csv(copy / "train" / "predictions.csv")
    assert (table["predicted"] == "unknown").tolist() == refused


def test_by_energy_the_file_rule_refuses_no_more_than_is_allowed(run, copy):
    code, text, _ = run("calibrate", copy, *TRAIN, "--unknown", "energy")
    assert code == 0
    model, truth = load_model(copy), recordings(copy, "train")
    assert f"a negative energy of at most {float(model.energy_below):.2f}" in text
    found = predictions(copy, truth)
    assert found[0].segment_scores.shape == (2, 4)
    assert sum(each.label == "unknown" for each in found) == 2
    mean = sorted(each.scores[-1] for each in found)
    # The third is just below one half: a little lower a bound would have refused it.
    assert mean[-3] == pytest.approx(0.5, abs=1e-3)
    assert mean[-3] < 0.5 <= mean[-2]
    # Of the report, only what is decided changes; metrics are those of the labels.
    code, text, errors = run("evaluate", copy, "--split", "train", "--resamples", 100)
    assert code == 0, errors
    report = json.loads((copy / "train" / "scores.json").read_text())
    right = [
        model.labels[each.scores[:3].argmax()] == label
        for each, label in zip(found, truth.values(), strict=True)
    ]
    assert report["files"]["accuracy"]["value"] == pytest.approx(np.mean(right))
    assert report["decisions"]["unknown"]["false_rejection"]["value"] == pytest.approx(2 / 15)
    table = pd.read_csv(copy / "train" / "predictions.csv")
    assert list(table.columns[-4:]) == ["score_high", "score_low", "score_noise", "score_unknown"]
    paths = list(truth)[:2]
    code, text, _ = run("predict", copy, *paths, "--csv")
    header = "path,label,set,score_high,score_low,score_noise,score_unknown"
    assert text.splitlines()[0] == header
    code, text, _ = run("predict", copy, *paths, "--json", "--segments")
    row = json.loads(text.splitlines()[0])
    assert list(row["scores"]) == ["high", "low", "noise", "unknown"]
    assert "set" in row
    assert "set" not in row["segments"][0]


def test_calibrating_twice_is_calibrating_once(copy):
    states = []
    for changes in ({"unknown": "energy"}, {}):
        found = calibrate_run(copy, None, "train", {"coverage": 0.8, **changes})
        assert found.n_files == 15
        states.append(found.model.state_dict())
        assert load_model(copy).decision == found.model.decision
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert load_model(copy).recipe.decision.unknown == "energy"


def test_too_few_recordings_say_so(run, copy):
    code, text, errors = run("calibrate", copy, "--unknown", "energy")
    assert (code, errors) == (0, [])
    lines = text.splitlines()
    assert lines[1] == "Sets hold all labels, as a coverage of 0.9 needs 9 files"
    assert lines[2] == "Refused as unknown is nothing, as a share of 0.05 needs 19 files"
    assert "hold the true label of 1.000" in lines[3]
    assert "3.00" in lines[3]
    for each in predictions(copy, recordings(copy, "test")):
        assert each.label in ("high", "low", "noise")
        assert sorted(each.to_json()["set"]) == ["high", "low", "noise"]
        assert each.scores[-1] < 1e-6
    # A set that holds everything is not worth a column.
    code, text, _ = run("predict", copy, *recordings(copy, "test"), "--csv")
    assert text.splitlines()[0].startswith("path,label,score_high")


def test_without_sets(run, copy):
    code, text, _ = run("calibrate", copy, "--coverage", 0)
    assert code == 0
    assert len(text.splitlines()) == 2
    assert load_model(copy).decision.conformal is None
    found = predictions(copy, recordings(copy, "test"))[0]
    assert set(found.to_json()) == {"path", "label", "scores"}


def test_a_model_whose_recipe_was_not_yet_written_refuses_nothing(copy):
    """As after a loss of power between its two files."""
    recipe = (copy / "model" / "recipe.json").read_text()
    calibrate_run(copy, None, "train", {"unknown": "energy", "false_rejection": 0.2})
    (copy / "model" / "recipe.json").write_text(recipe)
    model = load_model(copy)
    assert model.decision.unknown == "none"
    assert predictions(copy, recordings(copy, "test"))[0].segment_scores.shape == (2, 3)
    again = calibrate_run(copy, None, "train", {"unknown": "energy", "false_rejection": 0.2})
    assert load_model(copy).decision == again.model.decision


def several(make_recipe, tones, folder):
    """A model folder for several labels, not trained, and a manifest for it."""
    recipe = make_recipe("model.output=sigmoid", "model.backbone=resnet10t", "data.target=both")
    torch.manual_seed(0)
    Classifier(recipe, ["loud", "tone"]).eval().save(folder / "model")
    table = pd.read_csv(tones).assign(path=lambda rows: f"{tones.parent}/" + rows["path"])
    both = {"low": "tone", "high": "tone;loud", "noise": ""}
    table.assign(both=table["label"].map(both)).to_csv(folder / "both.csv", index=False)
    return folder / "model", folder / "both.csv"


def test_each_of_several_labels_gets_a_temperature_and_a_threshold(
    run, make_recipe, tones, tmp_path
):
    folder, manifest = several(make_recipe, tones, tmp_path)
    before = load_model(folder)
    code, text, errors = run("calibrate", folder, manifest, "--split", "train")
    assert code == 0, errors
    after = load_model(folder)
    assert after.temperature.shape == (2,)
    assert not torch.equal(after.temperature[0], after.temperature[1])
    for label, *numbers in zip(after.labels, after.temperature, after.thresholds, strict=True):
        row = next(line for line in text.splitlines() if label in line)
        assert all(f"{float(number):.2f}" in row for number in numbers)
    table = pd.read_csv(manifest)
    rows = table[table["split"] == "train"]
    losses = []
    for model in (before, after):
        found = [predict_file(TorchRecogniser(model), Path(path)) for path in rows["path"]]
        scores = np.stack([each.segment_scores for each in found]).clip(1e-9, 1 - 1e-9)
        truth = np.stack([rows["both"].fillna("").str.contains(x) for x in after.labels], axis=1)
        right = np.where(truth[:, None], scores, 1 - scores)
        losses.append(-np.log(right).mean(axis=(0, 1)))
        logits = logit(scores) * model.temperature.numpy()
        assert np.isfinite(logits).all()
    assert (losses[1] < losses[0]).all()


def test_what_cannot_be_calibrated_is_refused(run, copy, exported, make_recipe, tones, tmp_path):
    code, _, errors = run("calibrate", exported)
    assert (code, len(errors)) == (1, 1)
    assert "an exported file cannot be calibrated; calibrate the run folder" in errors[0]
    recipe = make_recipe("model.output=ordinal", "model.backbone=resnet10t")
    Classifier(recipe, ["1", "2"]).save(tmp_path / "numbers")
    with pytest.raises(ModelError, match='its output is "ordinal", which are numbers; allowed: '):
        calibrate_run(tmp_path / "numbers", tones)
    folder, manifest = several(make_recipe, tones, tmp_path)
    code, _, errors = run("calibrate", folder, manifest, "--unknown", "score")
    assert (code, len(errors)) == (2, 1)
    assert 'decision.unknown is "score", but model.output is "sigmoid"' in errors[0]
    code, _, errors = run("calibrate", copy, "--coverage", 1)
    assert code == 2
    assert "decision.coverage is 1.0; allowed: less than 1" in errors[0]
    code, _, errors = run("calibrate", copy, "--split", "tset")
    assert code == 2
    code, _, errors = run("calibrate", tmp_path / "none")
    assert (code, len(errors)) == (1, 1)


@pytest.mark.slow
def test_an_exported_file_refuses_what_its_model_refuses(run, copy, tone, tmp_path):
    code, _, errors = run("calibrate", copy, *TRAIN, "--unknown", "energy")
    assert code == 0, errors
    out = tmp_path / "tones.tflite"
    code, _, errors = run("export", copy, "--out", out, "--onnx", "--split", "train")
    assert code == 0, errors
    model, truth = load_model(copy), recordings(copy, "train")
    segments = np.stack([tone(label, seed, 0.5) for seed in range(5) for label in model.labels])
    expected = TorchRecogniser(model).score(segments)
    assert expected.shape == (15, 4)
    wanted = [each.to_json(segments=True) for each in predictions(copy, truth)]
    assert sum(row["label"] == "unknown" for row in wanted) == 2
    for path in (out, out.with_suffix(".onnx")):
        np.testing.assert_allclose(Predictor(path).score(segments), expected, atol=1e-5)
        description = read_description(path)
        assert (description.unknown, description.conformal) == ("energy", model.decision.conformal)
        assert parse_recipe(description.recipe) == model.recipe
        found = [each.to_json(segments=True) for each in predictions(path, truth)]
        for row, same in zip(found, wanted, strict=True):
            assert (row["label"], row["set"]) == (same["label"], same["set"])
            assert row["scores"] == pytest.approx(same["scores"], abs=1e-5)
        code, _, errors = run("evaluate", path, copy / "manifest.csv", "--split", "train")
        assert code == 0, errors
        report = json.loads((tmp_path / "tones-train" / "scores.json").read_text())
        assert report["decisions"]["unknown"]["false_rejection"]["value"] == pytest.approx(2 / 15)

"""The command `extract`: what it writes, lists and refuses."""

import numpy as np
import pandas as pd
import pytest
import soundfile

from deepspectrumlite.features import KINDS

SMALL = ("--set", "model.backbone=lcnet_035", "--set", "train.workers=0")


def test_features_of_a_manifest(run, tones, tiny_toml, tmp_path):
    out = tmp_path / "f.parquet"
    recipe = ("--recipe", tiny_toml, *SMALL)
    code, text, _ = run("extract", tones, "--out", out, *recipe, "--features", "logmel")
    assert code == 0
    assert text.splitlines()[-1] == f"{out}: 60 rows, 64 features"
    found = pd.read_parquet(out)
    assert found.shape == (60, 64 + 6)
    assert found["label"].value_counts().to_dict() == {"high": 20, "low": 20, "noise": 20}


def test_features_of_a_trained_model_and_of_recordings_without_labels(run, trained, tone, tmp_path):
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in" / "a.wav", tone("low", 0), 8000)
    (tmp_path / "in" / "b.wav").write_text("x")
    out = tmp_path / "f.npz"
    code, text, errors = run(
        "extract", tmp_path / "in", "--out", out, "--model", trained, "--skip-bad"
    )
    assert code == 0
    assert text.splitlines()[-1] == f"{out}: 2 rows, 512 features"
    assert any("b.wav" in line for line in errors)
    arrays = np.load(out)
    assert arrays["features"].shape == (2, 512)
    assert arrays["end"].tolist() == [0.5, 1.0]
    assert "label" not in arrays


def test_the_layers_of_a_network(run, tiny_toml):
    code, text, _ = run("extract", "--layers", "--recipe", tiny_toml, *SMALL)
    assert code == 0
    assert "blocks.2" in text
    assert "after pooling" in text.splitlines()[-2]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "needed: a manifest or folder"),
        (("m.csv",), "needed: a manifest or folder"),
        (("m.csv", "--out", "f.csv", "--model", "r", "--recipe", "paper"), "a recipe of its own"),
        (("m.csv", "--out", "f.csv", "--layer", "x", "--features", "logmel"), "deepspectrum only"),
        (("m.csv", "--out", "f.csv", "--features", "mfcc"), "'mfcc' is not one of"),
    ],
)
def test_what_does_not_go_together(run, arguments, expected):
    code, _, errors = run("extract", *arguments)
    assert code == 2
    assert expected in " ".join(" ".join(errors).replace("│", " ").split())


def test_mistakes_are_one_line(run, tones, tiny_toml, tmp_path):
    recipe = ("--recipe", tiny_toml, *SMALL)
    code, _, errors = run("extract", tones, "--out", tmp_path / "f.arff", *recipe)
    assert code == 1
    assert len(errors) == 1
    assert "'.arff'; allowed: .parquet, .csv, .npz" in errors[0]
    code, _, errors = run(
        "extract", tones, "--out", tmp_path / "f.csv", *recipe, "--layer", "block.2"
    )
    assert code == 1
    assert "blocks.2" in errors[-1]
    assert not (tmp_path / "f.csv").exists()


def test_the_kinds_are_those_of_the_library():
    from deepspectrumlite.cli_extract import Kind

    assert tuple(kind.value for kind in Kind) == KINDS


def test_help_tells_the_licence(run):
    _, text, _ = run("extract", "--help")
    assert "free for research and teaching only" in " ".join(text.replace("│", " ").split())

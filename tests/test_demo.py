"""The demo as a user runs it, whole, but with a small network and an epoch of each phase."""

import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from deepspectrumlite.cli import app
from deepspectrumlite.errors import TrainingError

SETTINGS = (
    "data.sample_rate=8000",
    "frontend.n_mels=32",
    "frontend.image_height=32",
    "frontend.image_width=32",
    "model.weights=random",
    "model.units=16",
    "train.head_epochs=1",
    "train.epochs=1",
    "train.workers=0",
)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The folder that the demo ran in, and the finished process."""
    folder = tmp_path_factory.mktemp("demo")
    changes = [part for setting in SETTINGS for part in ("--set", setting)]
    found = subprocess.run(
        [sys.executable, "-m", "deepspectrumlite", "demo", *changes],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "400"},
    )
    return folder, found


@pytest.mark.slow
def test_the_demo_ends_with_its_score_and_its_files(demo):
    folder, found = demo
    assert found.returncode == 0, found.stderr
    score, *named = found.stdout.rstrip().splitlines()[-4:]
    report = json.loads((folder / "runs" / "demo" / "test" / "scores.json").read_text())
    uar = report["files"]["uar"]
    interval = f"{uar['value']:.3f} [{uar['low']:.3f}, {uar['high']:.3f}]"
    assert score == f"UAR on test: {interval} (95 % bootstrap interval over 77 files)"
    assert [line.split(":")[0] for line in named] == ["Model", "Scores", "Plots"]
    paths = [path for line in named for path in line.split(":")[1].split(",")]
    assert len(paths) == 4
    for path in paths:
        assert (folder / path.strip()).exists(), path


@pytest.mark.slow
def test_the_demo_trains_on_three_kits_and_tests_on_one(demo):
    folder, found = demo
    run = folder / "runs" / "demo"
    history = [json.loads(line) for line in (run / "history.jsonl").open()]
    assert [record["phase"] for record in history] == ["head", "fine_tune"]
    report = json.loads((run / "test" / "scores.json").read_text())
    assert report["files"]["n"] == 77
    assert (report["skipped"], report["seen_in_training"]) == (0, 0)
    assert "test: 77 files" in found.stdout
    # The one prediction that it shows is of a test recording, with a label of the model.
    row = next(line for line in found.stdout.splitlines() if line.startswith("│") and "SN4" in line)
    assert row.split("│")[2].strip() in json.loads((run / "model" / "labels.json").read_text())


def test_the_demo_never_overwrites_what_is_no_run(tmp_path):
    (tmp_path / "notes.txt").write_text("keep me")
    found = CliRunner().invoke(app, ["demo", "--out", str(tmp_path)])
    assert isinstance(found.exception, TrainingError)
    assert str(found.exception).startswith(f"{tmp_path}: not a run folder, ")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]

"""Tiny recordings, a tiny recipe, and one tiny trained run for all tests that need a model."""

import csv
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import soundfile

# Shells start what runs in the background with Ctrl-C ignored, and so would be what tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

TONE_RATE = 8000
TONE_LABELS = ("high", "low", "noise")
TINY_TOML = """
[data]
sample_rate = 8000
segment_seconds = 0.5
hop_seconds = 0.5

[frontend]
n_mels = 32
image_height = 32
image_width = 32

[model]
weights = "random"
units = 16

[train]
batch_size = 4
head_epochs = 1
epochs = 1
workers = 0
"""
# Learns high, low and noise from random weights within seconds.
LEARNING = (
    "augment.mixup_alpha=0",
    "augment.cutmix_probability=0",
    "augment.time_shift=0",
    "augment.speed=0",
    "augment.time_masks=0",
    "augment.frequency_masks=0",
    "model.backbone=resnet10t",
    "model.activation=relu",
    "model.dropout=0",
    "train.batch_size=6",
    "train.head_epochs=0",
    "train.epochs=8",
    "train.learning_rate=3e-3",
    "train.average_decay=0",
)

# Trains within milliseconds per batch, with BatchNorm, dropout and averaged weights.
SMALL = ("model.backbone=lcnet_035", "model.units=8", "train.batch_size=6")


def make_tone(label, seed, seconds=1.0, rate=TONE_RATE):
    """(num_samples,): a high or a low tone, or noise."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    if label == "noise":
        wave = rng.uniform(-1, 1, len(time))
    else:
        low, high = {"low": (200, 600), "high": (1500, 2500)}[label]
        wave = np.sin(2 * np.pi * rng.uniform(low, high) * time + rng.uniform(0, 6))
    return (rng.uniform(0.2, 0.8) * wave).astype(np.float32)


def write_rows(path, rows):
    """Write dicts of the same keys as a CSV manifest."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def pytest_sessionfinish(session):
    """With NO_SKIPS set, as in CI, a test that was skipped is a failure, but for want of a GPU."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if not os.environ.get("NO_SKIPS") or reporter is None:
        return
    reasons = [str(report.longrepr) for report in reporter.stats.get("skipped", [])]
    missed = [reason for reason in reasons if "no GPU here" not in reason]
    if missed:
        reporter.write_line(
            f"\nskipped, which counts as failed here: {'; '.join(missed)}", red=True
        )
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def tone():
    """The function ``(label, seed, seconds, rate) -> waveform``."""
    return make_tone


@pytest.fixture(scope="session")
def save_manifest():
    """The function ``(path, rows) -> path`` that writes dicts as a CSV manifest."""
    return write_rows


@pytest.fixture(scope="session")
def tones(tmp_path_factory):
    """A manifest of 30 tones and noises of 1 s (two segments each), with splits."""
    folder = tmp_path_factory.mktemp("tones")
    rows = []
    for label in TONE_LABELS:
        for split, count in (("train", 5), ("devel", 2), ("test", 3)):
            for i in range(count):
                name = f"{label}-{split}-{i}.wav"
                soundfile.write(folder / name, make_tone(label, len(rows)), TONE_RATE)
                rows.append({"path": name, "label": label, "split": split})
    return write_rows(folder / "labels.csv", rows)


@pytest.fixture(scope="session")
def tiny_toml(tmp_path_factory):
    """A recipe file: images of 32 pixels, mobilenet_v2 with random weights, two epochs."""
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    path.write_text(TINY_TOML, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def make_recipe(tiny_toml):
    """The function ``(*overrides) -> Recipe`` that changes settings of the tiny recipe."""
    from deepspectrumlite.config import load_recipe

    return lambda *overrides: load_recipe(tiny_toml, overrides)


@pytest.fixture(scope="session")
def learning_settings():
    """Overrides of the tiny recipe with which it learns to tell the tones apart."""
    return LEARNING


@pytest.fixture(scope="session")
def small_settings():
    """Overrides of the tiny recipe with which a batch takes milliseconds."""
    return SMALL


@pytest.fixture
def one_thread():
    """How sums are split between threads decides on their last bits."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def start(tiny_toml, tmp_path_factory):
    """Start a real process that trains, with one thread.

    ``start(*arguments, launcher=())`` returns the process; ``.stdout_path`` and ``.stderr_path``
    are files, since a pipe would stay open until the last worker has ended.
    """
    started = []

    def start(*arguments, launcher=(), env=None, **options):
        folder = tmp_path_factory.mktemp("process")
        out, err = folder / "stdout.txt", folder / "stderr.txt"
        command = [sys.executable, *launcher, "-m", "deepspectrumlite", *map(str, arguments)]
        with out.open("wb") as stdout, err.open("wb") as stderr:
            process = subprocess.Popen(
                command,
                stdout=stdout,
                stderr=stderr,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", **(env or {})},
                start_new_session=True,  # as in a terminal, where Ctrl-C reaches all of a group
                **options,
            )
        process.stdout_path, process.stderr_path = out, err
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture(scope="session")
def trained(tmp_path_factory, make_recipe, tones):
    """A run folder with a model that knows high, low and noise; leave it as it is."""
    from deepspectrumlite.runs import train_run

    folder = tmp_path_factory.mktemp("runs") / "tones"
    train_run(make_recipe(*LEARNING), tones, folder)
    return folder


@pytest.fixture(scope="session")
def trained_model(trained):
    """The trained model itself, in evaluation mode; leave it as it is."""
    from deepspectrumlite.model import load_model

    return load_model(trained)


@pytest.fixture(scope="session")
def converted(tmp_path_factory, trained_model):
    """The file of each kind that the trained model converts to; leave them as they are."""
    import numpy as np

    from deepspectrumlite.convert import KINDS, convert
    from deepspectrumlite.metadata import describe, write_metadata

    folder = tmp_path_factory.mktemp("converted")
    tones = [make_tone(label, seed, 0.5) for seed in range(10) for label in TONE_LABELS]
    made = convert(trained_model, KINDS, folder, calibration=np.stack(tones))
    for kind, path in made.items():
        write_metadata(path, describe(trained_model, precision=kind.split(".")[0]))
    return made


@pytest.fixture(scope="session")
def exported(converted):
    """The trained model as a .tflite file that describes itself; leave it as it is."""
    return converted["float32.tflite"]


@pytest.fixture(scope="session")
def exported_onnx(converted):
    """The same as a .onnx file."""
    return converted["float32.onnx"]


@pytest.fixture
def ready(converted, monkeypatch):
    """Conversion replaced by what it gave before; returns what was asked for."""
    from deepspectrumlite import export

    asked = {}

    def convert(model, kinds, folder, *, calibration=None, progress=None):
        asked.update(kinds=list(kinds), calibration=calibration)
        return {kind: shutil.copy(converted[kind], folder / kind) for kind in kinds}

    monkeypatch.setattr(export, "convert", convert)
    return asked


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command line in this process: (exit code, standard output, lines of errors)."""
    from deepspectrumlite import cli, terminal

    # As wide as it takes, so that no cell is folded. Not "width", which would stay what it was
    # found to be.
    monkeypatch.setattr(terminal.out, "_width", 300)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["deepspectrumlite", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        caught = capsys.readouterr()
        return stopped.value.code or 0, caught.out, [x for x in caught.err.splitlines() if x]

    return run

"""Recordings to test with, shared between test files."""

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from deepspectrumlite.audio import load_audio
from deepspectrumlite.errors import AudioError

RATE = 16_000


def sweep(rate: int, seconds: float) -> np.ndarray:
    """Nowhere like itself, so that a shift by one sample shows; a codec can still follow it."""
    time = np.arange(round(seconds * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * (200 * time + 300 * time**2 / seconds))).astype(np.float32)


def save(path: Path, waveform: np.ndarray, rate: int = RATE, **kind: object) -> Path:
    soundfile.write(path, waveform, rate, **kind)
    return path


def rms(waveform: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(waveform, dtype=np.float64))))


def refused(path: Path, message: str) -> None:
    with pytest.raises(AudioError, match=re.escape(f"{path}: ") + ".*" + message) as caught:
        load_audio(path, RATE)
    assert "\n" not in str(caught.value)


def random_files(seed, n_classes=5, n_files=40, missing_true=(), missing_predicted=()):
    """(n_files,), (n_files,): true and predicted classes, about half of them right."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(np.setdiff1d(np.arange(n_classes), missing_true), n_files)
    guess = rng.choice(np.setdiff1d(np.arange(n_classes), missing_predicted), n_files)
    hit = (rng.random(n_files) < 0.5) & ~np.isin(truth, missing_predicted)
    return truth, np.where(hit, truth, guess)


def draw_speakers(rng):
    """(600,), (600,), (600,): true and predicted classes, and speakers."""
    # 30 speakers with 20 files each, who are recognised anywhere between 40 and 100 %.
    groups = np.repeat(np.arange(30), 20)
    right = rng.random(600) < rng.uniform(0.4, 1.0, 30)[groups]
    truth = rng.integers(0, 2, 600)
    return truth, np.where(right, truth, 1 - truth), groups

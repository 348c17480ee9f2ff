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

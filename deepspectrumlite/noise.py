"""Recordings that augmentation adds to segments: noise, and the impulse responses of rooms."""

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from deepspectrumlite.audio import AUDIO_EXTENSIONS, find_audio, stream_audio
from deepspectrumlite.config import DataSection
from deepspectrumlite.data import SILENCE_PEAK
from deepspectrumlite.errors import AudioError, TrainingError

# Memory for noise ends here: 38 MB at 16 kHz.
NOISE_SECONDS = 600
RESPONSE_SECONDS = 1
# Of one folder; from more, every second, third, ... is taken.
MOST_RECORDINGS = 600
# A response may begin with silence, but not with more than this.
_RESPONSE_READ_SECONDS = 60


def load_noise(folder: str, sample_rate: int) -> Tensor:
    """The beginnings of all recordings, one after the other: ``(n,)``, at most 10 minutes.

    Each is scaled to a root mean square of 1.

    Raises:
        TrainingError: the folder is missing, empty, or holds a recording that is bad or silent
    """
    key, instead = "noise_folder", '; or "white"'
    paths = _recordings(key, folder, instead)
    length = NOISE_SECONDS * sample_rate // len(paths)
    parts = [_read(key, folder, path, sample_rate, length) for path in paths]
    scaled = [part / np.sqrt(np.square(part, dtype=np.float64).mean()) for part in parts]
    return torch.from_numpy(np.concatenate(scaled).astype(np.float32))


def load_responses(folder: str, data: DataSection) -> Tensor:
    """Impulse responses from their peaks on, at most 1 s each: ``(n_responses, n_taps)``.

    From the peak, so that the direct sound is not delayed; no longer than a segment, which later
    echoes would miss. Each is scaled to unit energy, with which white noise keeps its power.

    Raises:
        TrainingError: the folder is missing, empty, or holds a recording that is bad or silent
    """
    key, rate = "reverb_folder", data.sample_rate
    longest = min(RESPONSE_SECONDS * rate, data.segment_samples or RESPONSE_SECONDS * rate)
    responses = []
    for path in _recordings(key, folder, ""):
        response = _read(key, folder, path, rate, _RESPONSE_READ_SECONDS * rate)
        peak = int(np.abs(response).argmax())
        responses.append(response[peak : peak + longest])
    n_taps = max(map(len, responses))
    padded = np.stack([np.pad(response, (0, n_taps - len(response))) for response in responses])
    return torch.from_numpy(padded / np.linalg.norm(padded, axis=1, keepdims=True))


def _recordings(key: str, folder: str, instead: str) -> list[Path]:
    paths = find_audio(Path(folder)) if Path(folder).is_dir() else []
    if not paths:
        problem = "no recordings in it" if Path(folder).is_dir() else "no such folder"
        raise TrainingError(
            f'augment.{key} is "{folder}": {problem}; allowed: a folder with files ending in '
            f"{' '.join(sorted(AUDIO_EXTENSIONS))}{instead}"
        )
    return paths[:: math.ceil(len(paths) / MOST_RECORDINGS)]


def _read(
    key: str, folder: str, path: Path, sample_rate: int, longest: int
) -> npt.NDArray[np.float32]:
    """Up to `longest` samples from the start of a recording."""
    blocks, missing = [], longest
    try:
        for block in stream_audio(path, sample_rate):
            blocks.append(block[:missing])
            missing -= len(blocks[-1])
            if not missing:
                break
    except AudioError as error:
        raise TrainingError(f'augment.{key} is "{folder}": {error}') from error
    waveform = np.concatenate(blocks)
    if np.abs(waveform).max() < SILENCE_PEAK:
        raise TrainingError(
            f'augment.{key} is "{folder}": {path.name} is silent in its first '
            f"{len(waveform) / sample_rate:.3g} s; allowed: recordings with a peak of at least "
            f"{SILENCE_PEAK:g} of full scale; cut its beginning, or remove it"
        )
    return waveform

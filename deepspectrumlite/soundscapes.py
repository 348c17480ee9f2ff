"""Long recordings with known events, made of real ambience and real clips."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from deepspectrumlite.decode import Waveform
from deepspectrumlite.errors import AudioError
from deepspectrumlite.matching import Reference


def lay_out(
    background: Waveform,
    clips: Sequence[tuple[str, Waveform]],
    sample_rate: int,
    *,
    level_db: float,
    gap_seconds: float = 1.0,
    seed: int = 0,
    path: Path = Path(),
) -> tuple[Waveform, list[Reference]]:
    """Lay each clip once onto an ambience, at a random time.

    All ways to place them, in any order and with the gap between them, are equally likely.

    Args:
        background: (num_samples,)
        clips: label and (num_samples,) of each, at the same sample rate
        sample_rate: in Hz
        level_db: RMS of each clip, in dB above the RMS of the whole background
        gap_seconds: at least so long between the end of a clip and the start of the next
        seed: of order and times
        path: where the result will be written; for the references

    Returns:
        the sum, (num_samples,) as long as the background, which may exceed 1; and the events, in
        the order of time

    Raises:
        AudioError: silence, which has no level, or clips that do not fit
    """
    gap = round(gap_seconds * sample_rate)
    free = len(background) - sum(len(clip) for _, clip in clips) - gap * max(0, len(clips) - 1)
    if free < 0:
        raise AudioError(
            f"{len(clips)} clips with gaps of {gap_seconds:g} s are {-free / sample_rate:.1f} s "
            "longer than the background; give fewer, or a longer background"
        )
    wanted = _rms(background, "the background") * 10 ** (level_db / 20)
    rng = np.random.default_rng(seed)
    # Sorted draws of the free time are what lies before each clip, but for clips and gaps.
    before = np.sort(rng.integers(0, free, len(clips), endpoint=True)).tolist()
    mixed, references, used = background.astype(np.float32), [], 0
    for index, free_before in zip(rng.permutation(len(clips)), before, strict=True):
        label, clip = clips[index]
        start = free_before + used
        end = start + len(clip)
        mixed[start:end] += clip * np.float32(wanted / _rms(clip, f"a clip of {label!r}"))
        references.append(Reference(path, start / sample_rate, end / sample_rate, label))
        used += len(clip) + gap
    return mixed, references


def _rms(waveform: Waveform, what: str) -> float:
    rms = float(np.sqrt(np.mean(np.square(waveform, dtype=np.float64)))) if len(waveform) else 0.0
    if not rms > 0:
        raise AudioError(f"{what} is silent, and has no level; leave it out")
    return rms

"""From a recording to mono segments of equal length, in memory that does not grow with it."""

import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import soxr

from deepspectrumlite.decode import (
    MAX_CHANNELS,
    MAX_SAMPLE_RATE,
    UNKNOWN_LENGTH,
    Source,
    check_info,
    open_audio,
)
from deepspectrumlite.decode import AudioInfo as AudioInfo
from deepspectrumlite.decode import Waveform as Waveform
from deepspectrumlite.errors import AudioError

AUDIO_EXTENSIONS = frozenset(
    {".aif", ".aifc", ".aiff", ".au", ".caf", ".flac", ".w64", ".wav"}
    | {".aac", ".amr", ".m4a", ".mp3", ".mp4", ".oga", ".ogg", ".opus", ".webm", ".wma"}
)
BLOCK_SAMPLES = 2**18
# The times of a manifest are often rounded, and then the last end lies behind the recording's.
END_TOLERANCE_SECONDS = 0.05


class Cutting(Protocol):
    """How recordings become segments: a recipe's ``[data]`` says it, and an exported file."""

    @property
    def sample_rate(self) -> int:
        """In Hz."""

    @property
    def segment_samples(self) -> int:
        """Samples in a segment."""

    @property
    def hop_samples(self) -> int:
        """Samples from the start of a segment to the start of the next."""

    @property
    def padding(self) -> Literal["zero", "repeat"]:
        """How a recording shorter than a segment is filled up."""

    @property
    def tail(self) -> Literal["keep", "drop"]:
        """What happens to an end, or a recording, shorter than a segment."""


def find_audio(folder: Path) -> list[Path]:
    """All recordings in a folder and below, sorted, told by their extension."""
    return sorted(path for path in folder.rglob("*") if is_recording(path))


def is_recording(path: Path) -> bool:
    """Whether a path is a file with the extension of a recording."""
    # macOS leaves a ._name.wav beside name.wav on foreign disks: not audio.
    hidden = path.name.startswith(".")
    return path.suffix.lower() in AUDIO_EXTENSIONS and not hidden and path.is_file()


def audio_info(path: Path) -> AudioInfo:
    """Sample rate in Hz, channels and frames, from the header.

    Where the header has no length (a FLAC from a pipe, a WebM from a browser) all is decoded.

    Raises:
        AudioError: the file is missing, unreadable, empty, truncated, or not audio
        MissingExtraError: soundfile does not know the format, and PyAV is not installed
    """
    with open_audio(path) as source:
        info = source.info
        if info.num_frames == UNKNOWN_LENGTH:
            frames = sum(map(len, source.blocks(0, BLOCK_SAMPLES // info.channels)))
            info = check_info(path, replace(info, num_frames=frames))
        return info


def stream_audio(
    path: Path, sample_rate: int, *, start: float = 0.0, end: float | None = None
) -> Iterator[Waveform]:
    """Blocks of (num_samples,), mono, at `sample_rate` Hz; joined they are :func:`load_audio`.

    Mono is the mean of the channels. Where the rate differs, soxr resamples in high quality.

    Args:
        path: the recording
        sample_rate: of the result, in Hz
        start: in seconds, inside the recording
        end: in seconds, after `start`; None: the end of the recording

    Raises:
        AudioError: as :func:`audio_info`, or the audio is damaged, holds NaN or infinity, or does
            not reach from `start` to `end`; raised when the first or a later block is asked for
        MissingExtraError: soundfile does not know the format, and PyAV is not installed
    """
    if not 1 <= sample_rate <= MAX_SAMPLE_RATE:
        raise AudioError(f"sample_rate is {sample_rate}; allowed: 1 to {MAX_SAMPLE_RATE} Hz")
    num_samples = 0
    with open_audio(path) as source:
        blocks = _mono_blocks(path, source, sample_rate, start, end)
        for block in _resample(blocks, source.info.sample_rate, sample_rate):
            num_samples += len(block)
            if len(block):
                yield block
    if not num_samples:
        raise AudioError(
            f"{path}: not a single sample at {sample_rate} Hz; choose a longer part, or remove it "
            "from the manifest"
        )


def load_audio(
    path: Path, sample_rate: int, *, start: float = 0.0, end: float | None = None
) -> Waveform:
    """(num_samples,), mono, at `sample_rate` Hz; see :func:`stream_audio`, also for its errors."""
    return np.concatenate(list(stream_audio(path, sample_rate, start=start, end=end)))


def convert_audio(samples: np.ndarray, sample_rate: int, new_rate: int) -> Waveform:
    """Samples from memory as :func:`load_audio` would read them from a file.

    Args:
        samples: (num_samples,) or (num_samples, channels), floating point, from -1 to 1
        sample_rate: of the samples, in Hz
        new_rate: of the result, in Hz

    Returns:
        (num_samples,), mono, at `new_rate` Hz

    Raises:
        AudioError: no samples, another shape or type, or a NaN
    """
    samples = np.asarray(samples)
    if samples.dtype.kind != "f":
        raise AudioError(
            f"samples of type {samples.dtype}; allowed: floating point, from -1 to 1; divide "
            "integers by the largest that their type can hold"
        )
    channels = samples.shape[1] if samples.ndim == 2 else 1
    if samples.ndim not in (1, 2) or not 1 <= channels <= MAX_CHANNELS:
        raise AudioError(
            f"samples of shape {samples.shape}; allowed: (num_samples,) or (num_samples, "
            f"channels), with 1 to {MAX_CHANNELS} channels"
        )
    for rate in (sample_rate, new_rate):
        if not 1 <= rate <= MAX_SAMPLE_RATE:
            raise AudioError(f"sample_rate is {rate}; allowed: 1 to {MAX_SAMPLE_RATE} Hz")
    if not np.isfinite(samples).all():
        raise AudioError("NaN or infinite samples; allowed: finite numbers")
    mono = samples.reshape(-1, channels).astype(np.float32).mean(axis=1, dtype=np.float32)
    waveform = np.concatenate([mono[:0], *_resample(iter([mono]), sample_rate, new_rate)])
    if not len(waveform):
        raise AudioError(f"{len(mono)} samples, which is not one at {new_rate} Hz; give more")
    return waveform


def segment_starts(num_samples: int, cutting: Cutting) -> list[int]:
    """Where the segments of a waveform of `num_samples` start, in samples.

    Full segments, one every hop. With ``tail = "keep"`` one more where samples are left that no
    full segment covers, so that a recording shorter than a segment gives one; with "drop" none.
    Where a segment is the whole recording, there is that one.
    """
    size, hop = cutting.segment_samples, cutting.hop_samples
    if not size:
        return [0]
    assert 1 <= hop <= size, f"a hop of {hop} in segments of {size} samples"
    full = max(0, (num_samples - size) // hop + 1)
    covered = (full - 1) * hop + size if full else 0
    keep_tail = cutting.tail == "keep" and num_samples > covered
    return [index * hop for index in range(full + keep_tail)]


def pad_segment(
    waveform: Waveform, num_samples: int, padding: Literal["zero", "repeat"]
) -> Waveform:
    """(at most num_samples,) -> (num_samples,), followed by zeros or by itself again."""
    missing = num_samples - len(waveform)
    assert len(waveform) > 0, "nothing to pad"
    assert missing >= 0, f"{len(waveform)} samples do not fit into {num_samples}"
    return np.pad(waveform, (0, missing), mode="constant" if padding == "zero" else "wrap")


def cut_segments(waveform: Waveform, cutting: Cutting) -> Waveform:
    """(num_samples,) -> (n_segments, segment_samples), as :func:`segment_starts` says."""
    size = cutting.segment_samples or len(waveform)
    starts = segment_starts(len(waveform), cutting)
    segments = [pad_segment(waveform[at : at + size], size, cutting.padding) for at in starts]
    return np.stack(segments) if segments else np.empty((0, size), dtype=np.float32)


def stream_segments(
    path: Path, cutting: Cutting, *, start: float = 0.0, end: float | None = None
) -> Iterator[tuple[float, Waveform]]:
    """The rows of :func:`cut_segments`, one at a time: (start in seconds, (segment_samples,)).

    The start counts from the beginning of the recording, not from `start`. Memory is bounded:
    three hours need no more than ten minutes, unless a segment is the whole recording. Errors as in
    :func:`stream_audio`.
    """
    rate, size, hop = cutting.sample_rate, cutting.segment_samples, cutting.hop_samples
    if not size:
        yield start, load_audio(path, rate, start=start, end=end)
        return
    pending = np.empty(0, dtype=np.float32)
    first = 0  # where `pending` starts, in samples; always the start of the next segment
    for block in stream_audio(path, rate, start=start, end=end):
        pending = np.concatenate([pending, block])
        while len(pending) >= size:
            yield start + first / rate, pending[:size].copy()
            pending = pending[hop:]
            first += hop
    for at in segment_starts(first + len(pending), cutting)[first // hop :]:
        yield start + at / rate, pad_segment(pending[at - first :], size, cutting.padding)


def _resample(blocks: Iterator[Waveform], rate: int, new_rate: int) -> Iterator[Waveform]:
    if rate == new_rate:
        yield from blocks
        return
    stream = soxr.ResampleStream(rate, new_rate, 1, dtype="float32", quality="HQ")
    for block in blocks:
        yield stream.resample_chunk(block)
    yield stream.resample_chunk(np.empty(0, dtype=np.float32), last=True)


def _mono_blocks(
    path: Path, source: Source, new_rate: int, start: float, end: float | None
) -> Iterator[Waveform]:
    """Blocks of (n_frames,) at the recording's own rate, from `start` to `end`, all finite."""
    info = source.info
    _check_range(path, info, start, end)
    # Neither many channels nor resampling to a far higher rate may make a block large.
    size = max(1, BLOCK_SAMPLES // max(info.channels, math.ceil(new_rate / info.sample_rate)))
    first = position = round(start * info.sample_rate)
    last = sys.maxsize if end is None else round(end * info.sample_rate)
    for block in source.blocks(first, size):
        mono = block[: last - position].mean(axis=1, dtype=np.float32)
        _check_finite(path, mono, position / info.sample_rate)
        position += len(mono)
        yield mono
        if position >= last:
            return
    _check_reached(path, info, first, position, position if end is None else last)


def _check_range(path: Path, info: AudioInfo, start: float, end: float | None) -> None:
    length = info.duration_seconds
    if not 0 <= start < length:
        raise AudioError(
            f"{path}: start is {start:.3f} s; allowed: from 0 to before the end of the recording, "
            f"at {length:.3f} s"
        )
    if end is not None and not start < end <= length + END_TOLERANCE_SECONDS:
        raise AudioError(
            f"{path}: end is {end:.3f} s; allowed: after the start, {start:.3f} s, up to the end "
            f"of the recording, at {length:.3f} s"
        )


def _check_finite(path: Path, mono: Waveform, seconds: float) -> None:
    if not np.isfinite(mono).all():
        raise AudioError(
            f"{path}: NaN or infinite samples, in the block from {seconds:.3f} s on; allowed: "
            "finite numbers; write the file again, or remove it from the manifest"
        )


def _check_reached(path: Path, info: AudioInfo, first: int, position: int, last: int) -> None:
    """Decoding stopped at frame `position`: refuse what lacks more than rounding explains."""
    rate = info.sample_rate
    if position == first:
        raise AudioError(
            f"{path}: no samples from {first / rate:.3f} s on; the recording is shorter than its "
            "header says; choose an earlier start, or remove it from the manifest"
        )
    if last - position > END_TOLERANCE_SECONDS * rate:
        raise AudioError(
            f"{path}: end is {last / rate:.3f} s; allowed: up to the end of the recording, which "
            f"decodes to {position / rate:.3f} s"
        )

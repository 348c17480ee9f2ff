"""From chunks of any size and type to windows at the model's rate, in bounded memory."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import soxr

from deepspectrumlite.decode import Waveform
from deepspectrumlite.errors import AudioError

LOWEST_DB = -120.0
# Resampled in blocks of this length, whatever the chunks that come in.
_BLOCK_SECONDS = 0.01


def to_mono(samples: npt.NDArray[Any]) -> tuple[Waveform, int]:
    """(num_samples,) or (num_samples, n_channels) -> mono, (num_samples,), all finite.

    Returns it with the number of samples that were not finite, and are 0.
    """
    samples = np.asarray(samples)
    if samples.dtype not in (np.int16, np.float32, np.float64) or samples.ndim not in (1, 2):
        raise AudioError(
            f"samples of type {samples.dtype} and shape {samples.shape}; allowed: int16, float32 "
            "or float64, (num_samples,) or (num_samples, n_channels)"
        )
    if samples.ndim == 2 and not samples.shape[1]:
        raise AudioError("samples without a channel; allowed: at least one")
    # Too large for float32 is infinite, and treated as that below.
    with np.errstate(over="ignore", invalid="ignore"):
        mono = np.ascontiguousarray(samples, dtype=np.float32)
        if samples.dtype == np.int16:
            mono = mono / np.float32(2**15)
        if mono.ndim == 2:
            mono = mono.mean(axis=1, dtype=np.float32)
    bad = ~np.isfinite(mono)
    return np.where(bad, np.float32(0), mono), int(bad.sum())


class _Blocks:
    """Blocks of one size out of chunks of any size; the last `keep` of one begin the next."""

    def __init__(self, size: int, keep: int = 0) -> None:
        self._pending = np.zeros(size, np.float32)
        self._fill, self._keep = 0, keep

    @property
    def rest(self) -> Waveform:
        """(less than a block,): what there is of the next one."""
        return self._pending[: self._fill]

    def push(self, chunk: Waveform) -> Iterator[Waveform]:
        """(num_samples,) -> (size,), each block that it completes."""
        size = len(self._pending)
        while len(chunk):
            taken = chunk[: size - self._fill]
            self._pending[self._fill : self._fill + len(taken)] = taken
            self._fill += len(taken)
            chunk = chunk[len(taken) :]
            if self._fill == size:
                block = self._pending.copy()
                self._pending[: self._keep] = block[size - self._keep :]
                self._fill = self._keep
                yield block


class Cutter:
    """Cuts windows, one every hop, out of chunks of any size."""

    def __init__(self, size: int, hop: int) -> None:
        self.start = 0  # of the next window, in samples
        self._hop, self._overlap = hop, size - hop
        self._blocks = _Blocks(size, keep=size - hop)

    @property
    def rest(self) -> Waveform:
        """(less than a window,): what there is of the next window."""
        return self._blocks.rest

    @property
    def covered(self) -> int:
        """How much of `rest` earlier windows have covered."""
        return self._overlap if self.start else 0

    def cut(self, chunk: Waveform) -> Iterator[tuple[int, Waveform]]:
        """(num_samples,) -> (start, (size,)) of each window that it completes."""
        for window in self._blocks.push(chunk):
            self.start += self._hop
            yield self.start - self._hop, window


class Resampler:
    """soxr in high quality, as for recordings, in blocks whose size does not depend on the chunks.

    So it costs the same for chunks of one sample, and gives the same samples.
    """

    def __init__(self, rate: int, new_rate: int) -> None:
        self._stream = None
        if rate != new_rate:
            self._stream = soxr.ResampleStream(rate, new_rate, 1, dtype="float32", quality="HQ")
        self._blocks = _Blocks(max(1, round(rate * _BLOCK_SECONDS)))

    def push(self, chunk: Waveform) -> Waveform:
        """(num_samples,) -> (any number,) at the new rate."""
        if self._stream is None:
            return chunk
        done = [self._stream.resample_chunk(block) for block in self._blocks.push(chunk)]
        return np.concatenate(done) if done else np.empty(0, np.float32)

    def finish(self) -> Waveform:
        """The last samples."""
        if self._stream is None:
            return np.empty(0, np.float32)
        last: Waveform = self._stream.resample_chunk(self._blocks.rest, last=True)
        return last


def level_db(waveform: Waveform) -> float:
    """(num_samples,) -> its RMS in dBFS, at least -120; a full-scale sine has -3.01.

    >>> round(level_db(np.full(100, 0.1, np.float32)), 3)
    -20.0
    """
    power = float(np.mean(np.square(waveform, dtype=np.float64)))
    return max(LOWEST_DB, float(10 * np.log10(max(power, 1e-300))))

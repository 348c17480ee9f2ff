"""From recordings to segments: scan what is there, and cut it for training.

A table is what :func:`deepspectrumlite.manifest.load_manifest` returns; :func:`scan` adds what
decoding each recording once tells, and everything else here works on that.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from deepspectrumlite.audio import audio_info, load_audio, pad_segment, segment_starts, stream_audio
from deepspectrumlite.config import DataSection
from deepspectrumlite.errors import AudioError, MissingExtraError
from deepspectrumlite.manifest import fail

CLIP_LEVEL, CLIP_SAMPLES = 0.999, 3
SILENCE_PEAK = 1e-4
# Submitted at once: enough to keep all threads busy, few enough to keep memory flat.
_BATCH = 512
# In seconds. A single sample at the recipe's rate may be none at the file's own, lower rate.
_SHORTEST_READ = 0.001


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one decoded recording tells; the columns that :func:`scan` adds.

    All but ``sample_rate`` (in Hz) and ``channels``, which are the file's, belong to the mono
    signal at the recipe's sample rate, which is what the model hears: ``duration`` in seconds;
    ``peak`` with full scale at 1; ``clipped``, at least 3 samples in a row at 0.999 of full scale
    or more; ``silent``, a peak below 1e-4 (-80 dB); ``digest``, equal for equal content in any
    lossless container, of the samples rounded to 16 bits.
    """

    duration: float
    sample_rate: int
    channels: int
    peak: float
    clipped: bool
    silent: bool
    digest: str


def scan(
    table: pd.DataFrame,
    data: DataSection,
    *,
    skip_bad: bool = False,
    progress: Callable[[int, int], None] | None = None,
    workers: int | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Decode every recording once, and add the columns of :class:`Measurement`.

    Args:
        table: as of ``load_manifest``
        data: for its sample rate
        skip_bad: leave bad recordings out instead of raising
        progress: called with the number of recordings done and in all, in the calling thread
        workers: threads; None: one per core

    Returns:
        The good recordings (index 0 to n - 1), and those left out with ``path`` and ``reason``.

    Raises:
        AudioError: of the first bad recording, in the order of the rows, without ``skip_bad``
        ManifestError: nothing is left
    """
    results: list[Measurement | AudioError] = []
    spans = list(zip(table["path"], *_spans(table), strict=True))

    def measure(span: tuple[str, float, float | None]) -> Measurement | AudioError:
        try:
            return _measure(Path(span[0]), data.sample_rate, span[1], span[2])
        except (AudioError, MissingExtraError) as error:
            # Without PyAV, text that is named .wav is a missing extra.
            return AudioError(str(error))

    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        for first in range(0, len(spans), _BATCH):
            for result in pool.map(measure, spans[first : first + _BATCH]):
                if isinstance(result, AudioError) and not skip_bad:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise AudioError(f"{result}; or pass --skip-bad")
                results.append(result)
                if progress:
                    progress(len(results), len(spans))
    return _good_and_skipped(table, results)


def _spans(table: pd.DataFrame) -> tuple[list[float], list[float | None]]:
    """Start and end of each row in seconds; an end of None is the end of the file."""
    start = table["start"].tolist() if "start" in table else [0.0] * len(table)
    if "end" not in table:
        return start, [None] * len(table)
    return start, [None if np.isnan(end) else end for end in table["end"].tolist()]


def _measure(path: Path, sample_rate: int, start: float, end: float | None) -> Measurement:
    info = audio_info(path)
    num_samples, peak, clipped = 0, 0.0, False
    loud = np.zeros(0, np.bool_)
    digest = hashlib.blake2b(digest_size=16)
    for block in stream_audio(path, sample_rate, start=start, end=end):
        level = np.abs(block)
        num_samples += len(block)
        peak = max(peak, float(level.max(initial=0.0)))
        # A run of clipped samples may begin in the block before.
        loud = np.concatenate((loud[-(CLIP_SAMPLES - 1) :], level >= CLIP_LEVEL))
        clipped = clipped or _has_run(loud)
        digest.update(np.rint(np.clip(block, -1, 1) * 32767).astype("<i2").tobytes())
    return Measurement(
        # Not beyond the header's length, even where more is decoded: no segment can start there.
        duration=min(num_samples / sample_rate, info.duration_seconds - start),
        sample_rate=info.sample_rate,
        channels=info.channels,
        peak=peak,
        clipped=clipped,
        silent=peak < SILENCE_PEAK,
        digest=digest.hexdigest(),
    )


def _has_run(loud: npt.NDArray[np.bool_]) -> bool:
    if len(loud) < CLIP_SAMPLES:
        return False
    return bool(np.lib.stride_tricks.sliding_window_view(loud, CLIP_SAMPLES).all(axis=1).any())


def _good_and_skipped(
    table: pd.DataFrame, results: Sequence[Measurement | AudioError]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    is_good = np.array([isinstance(result, Measurement) for result in results], np.bool_)
    if not is_good.any():
        reason = f"; the first: {results[0]}" if results else ""
        fail(table, f"none of {len(table)} recordings can be used{reason}; allowed: at least one")
    found = [result for result in results if isinstance(result, Measurement)]
    # By column: a dict for each row would take more memory than the table.
    names = [field.name for field in fields(Measurement)]
    measured = pd.DataFrame({name: [getattr(row, name) for row in found] for name in names})
    kept = table.drop(columns=measured.columns, errors="ignore").loc[is_good]
    skipped = table.loc[~is_good, ["path"]].reset_index(drop=True)
    reasons = [str(result) for result in results if isinstance(result, AudioError)]
    good = pd.concat([kept.reset_index(drop=True), measured], axis=1)
    good.attrs = dict(table.attrs)
    return good, skipped.assign(reason=reasons)


class Segments:
    """Segments of equal length, or whole recordings; serves as a map-style dataset for torch.

    Attributes, each of shape (num_segments,), as arrays, so that worker processes share memory:
        file_index: the row of the recording in the table
        start_seconds: from the start of the recording (of its span, where the row has one)
    ``target`` is (num_files, n_outputs), of the recordings. ``dropped`` is the number of recordings
    that are shorter than a segment and so have none, which happens with ``tail = "drop"`` only.

    Args:
        scanned: the good recordings of :func:`scan`
        data: how to cut
        target: (num_files, n_outputs), as of :meth:`deepspectrumlite.targets.Targets.encode`

    Raises:
        ManifestError: no recording has a segment
    """

    def __init__(
        self, scanned: pd.DataFrame, data: DataSection, target: npt.NDArray[np.float32]
    ) -> None:
        assert len(target) == len(scanned), "a target for each recording"
        self.data = data
        self.target = target
        num_samples = np.rint(scanned["duration"].to_numpy(np.float64) * data.sample_rate)
        # Once for each length: an array for every recording would take more memory than the rest.
        lengths, same = np.unique(num_samples, return_inverse=True)
        by_length = [segment_starts(int(length), data) for length in lengths]
        starts = [by_length[i] for i in same]
        counts = np.array([len(s) for s in starts], np.int64)
        self.dropped = int((counts == 0).sum())
        if self.dropped == len(scanned):
            fail(
                scanned,
                f"all {len(scanned)} recordings are shorter than a segment of "
                f'{data.segment_seconds:g} s, and data.tail is "{data.tail}"; '
                "set data.tail=keep, or a shorter data.segment_seconds",
            )
        self.file_index = np.repeat(np.arange(len(scanned)), counts)
        self.start_seconds = np.concatenate(starts) / data.sample_rate
        # Bytes: a quarter of the memory of an array of text. Rows may be spans of one file.
        self._path_index, paths = pd.factorize(scanned["path"])
        self._paths = np.array([os.fsencode(path) for path in paths])
        start, end = _spans(scanned)
        self._start = np.array(start, np.float64)
        self._end = np.array(end, np.float64)
        self._duration = num_samples / data.sample_rate

    def __len__(self) -> int:
        return len(self.file_index)

    def __getitem__(self, i: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], int]:
        """Read one segment: waveform (num_samples,) from -1 to 1, target (n_outputs,), i.

        Raises:
            AudioError: the recording cannot be read any more
        """
        row = self.file_index[i]
        start, end = self._span(int(row), float(self.start_seconds[i]))
        path = Path(os.fsdecode(bytes(self._paths[self._path_index[row]])))
        waveform = load_audio(path, self.data.sample_rate, start=start, end=end)
        size = self.data.segment_samples or len(waveform)
        # Resampling may round the length up by a sample.
        segment = pad_segment(waveform[:size], size, self.data.padding)
        return segment, self.target[row], i

    def _span(self, row: int, start: float) -> tuple[float, float | None]:
        """Where a segment stands in its file, in seconds; an end of None is that of the file."""
        begin, duration = float(self._start[row]), float(self._duration[row])
        size = self.data.segment_samples
        end = start + size / self.data.sample_rate if size else duration
        if end < duration:
            return begin + start, begin + end
        start = max(0.0, min(start, duration - _SHORTEST_READ))
        # The last one: no time that was computed from a rounded length, which the file may lack.
        stop = float(self._end[row])
        return begin + start, None if np.isnan(stop) else stop

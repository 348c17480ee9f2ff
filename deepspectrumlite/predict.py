"""Predictions for recordings of any length, in bounded memory; without torch for exported files."""

import glob
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from deepspectrumlite.audio import (
    Cutting,
    Waveform,
    audio_info,
    cut_segments,
    find_audio,
    segment_starts,
    stream_segments,
)
from deepspectrumlite.decisions import Decision
from deepspectrumlite.errors import AudioError, ModelError
from deepspectrumlite.progress import Progress, silent

Segment = tuple[float, Waveform]

FILES = ("recipe.json", "labels.json", "model.safetensors")


class Recogniser(Protocol):
    """What gives scores to segments: a model with torch, or an exported file without."""

    @property
    def cutting(self) -> Cutting:
        """How recordings become its segments."""

    @property
    def decision(self) -> Decision:
        """What its scores mean."""

    @property
    def recipe(self) -> Mapping[str, Any]:
        """The recipe it was trained by, as plain JSON values."""

    @property
    def batch_size(self) -> int:
        """How many segments are best scored at once."""

    def score(self, segments: Waveform) -> Waveform:
        """``(n_segments, segment_samples)`` -> ``(n_segments, n_columns)``."""


def open_recogniser(path: Path, *, device: str = "auto", threads: int = 1) -> Recogniser:
    """What predicts: an exported file as it is, a run or model folder with torch.

    Args:
        path: a .tflite or .onnx file, or a folder
        device: where torch computes: auto, cpu, cuda, ...
        threads: on which an exported file computes

    Raises:
        ModelError: no model there, or a broken, foreign or newer one
        MissingExtraError: a .onnx file, and onnxruntime is not installed
        TrainingError: torch does not have that device
    """
    path = Path(path)
    if path.is_file():
        from deepspectrumlite.runtime import Predictor

        return Predictor(path, threads=threads)
    model_folder(path)
    # Only here: torch takes seconds to import, and the device side does not have it.
    from deepspectrumlite.model import TorchRecogniser, load_model
    from deepspectrumlite.processes import choose_device

    return TorchRecogniser(load_model(path), choose_device(device))


def model_folder(folder: Path) -> Path:
    """The folder with the model's files: the given one, or ``model`` inside it.

    It stands here so that a mistyped path is refused without torch.

    Raises:
        ModelError: neither holds a model
    """
    for candidate in (folder, folder / "model"):
        if (candidate / "recipe.json").is_file() and (candidate / "model.safetensors").is_file():
            return candidate
    raise ModelError(
        f"{folder}: no model there; allowed: a run folder or a model folder with "
        f"{', '.join(FILES)}, as `deepspectrumlite train` writes them"
    )


@dataclass(frozen=True)
class Prediction:
    """What a model hears in one recording.

    ``path`` is None for a waveform from memory. ``segment_scores`` is (n_segments, n_columns),
    ``segment_starts`` and ``segment_ends`` (n_segments,) in seconds; the last segment ends with the
    recording, though the model saw it filled up. ``decision`` says what the scores mean.
    """

    path: Path | None
    decision: Decision
    segment_starts: np.ndarray = field(repr=False)
    segment_ends: np.ndarray = field(repr=False)
    segment_scores: np.ndarray = field(repr=False)

    @property
    def scores(self) -> np.ndarray:
        """Mean over the segments: (n_columns,)."""
        mean: np.ndarray = self.segment_scores.mean(axis=0)
        return mean

    @property
    def labels(self) -> list[str]:
        """What is recognised: one label, or "unknown"; any number for "sigmoid", or none."""
        return self.decision.answer(self.scores)

    @property
    def label(self) -> str:
        """The same as one text."""
        return ", ".join(self.labels)

    def to_json(self, *, segments: bool = False) -> dict[str, Any]:
        """A row for JSON: path, what is recognised, all scores, and the segments where wanted."""
        row: dict[str, Any] = {} if self.path is None else {"path": str(self.path)}
        row |= self.decision.describe(self.scores)
        if segments:
            row["segments"] = [
                {"start": float(start), "end": float(end)} | self._describe_segment(scores)
                for start, end, scores in zip(
                    self.segment_starts, self.segment_ends, self.segment_scores, strict=True
                )
            ]
        return row

    def _describe_segment(self, scores: np.ndarray) -> dict[str, Any]:
        described = self.decision.describe(scores)
        # What a set promises, it promises for recordings.
        described.pop("set", None)
        return described


def predict_file(
    recogniser: Recogniser,
    path: Path,
    progress: Progress = silent,
    *,
    start: float = 0.0,
    end: float | None = None,
) -> Prediction:
    """Score every segment of one recording, or of its span from start to end, in seconds.

    Raises:
        AudioError: the recording cannot be read, or is shorter than a segment and the model's
            recipe drops those
    """
    last = audio_info(path).duration_seconds if end is None else end
    segments = stream_segments(path, recogniser.cutting, start=start, end=end)
    return _predict(recogniser, segments, last, path, progress)


def predict_waveform(recogniser: Recogniser, waveform: Waveform) -> Prediction:
    """Score every segment of (num_samples,), mono, at the sample rate of ``recogniser.cutting``.

    Raises:
        AudioError: shorter than a segment, and the model's recipe drops those
    """
    cutting = recogniser.cutting
    starts = [at / cutting.sample_rate for at in segment_starts(len(waveform), cutting)]
    segments = zip(starts, cut_segments(waveform, cutting), strict=True)
    return _predict(recogniser, segments, len(waveform) / cutting.sample_rate, None, silent)


def _predict(
    recogniser: Recogniser,
    segments: Iterator[Segment],
    duration: float,
    path: Path | None,
    progress: Progress,
) -> Prediction:
    cutting, name = recogniser.cutting, "the waveform" if path is None else path.name
    seconds, total = duration, 1
    if cutting.segment_samples:
        seconds = cutting.segment_samples / cutting.sample_rate
        total = max(1, int(duration * cutting.sample_rate / cutting.hop_samples))
    starts: list[float] = []
    scores: list[np.ndarray] = []
    for batch in _batches(segments, recogniser.batch_size):
        starts += [start for start, _ in batch]
        scores.append(recogniser.score(np.stack([segment for _, segment in batch])))
        progress(f"predicting {name}", min(len(starts), total), total)
    if not scores:
        raise AudioError(
            f"{path or name}: shorter than a segment of {seconds:g} s, and the model drops "
            'those; train with data.tail = "keep" to have them padded'
        )
    # The length in a header can be an estimate: no segment ends before it starts.
    ends = np.maximum(np.minimum(np.array(starts) + seconds, duration), starts)
    return Prediction(path, recogniser.decision, np.array(starts), ends, np.concatenate(scores))


def find_recordings(patterns: Iterable[str]) -> list[Path]:
    """Files, folders (all recordings below) and glob patterns -> files, in this order.

    What matches nothing stays as it is, so that predicting it says what is wrong.
    """
    found: list[Path] = []
    for pattern in patterns:
        path = Path(pattern)
        if path.is_dir():
            found += find_audio(path) or [path]
        elif path.exists():
            found.append(path)
        else:
            # Path.glob takes no absolute pattern.
            matches = [Path(p) for p in sorted(glob.glob(pattern, recursive=True))]  # noqa: PTH207
            found += [match for match in matches if match.is_file()] or [path]
    return list(dict.fromkeys(found))


def _batches(segments: Iterator[Segment], size: int) -> Iterator[list[Segment]]:
    while batch := list(islice(segments, size)):
        yield batch

"""Predictions for recordings of any length, in bounded memory."""

import glob
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deepspectrumlite.audio import audio_info, stream_segments
from deepspectrumlite.decisions import Decision
from deepspectrumlite.errors import AudioError
from deepspectrumlite.evaluate import Progress, silent
from deepspectrumlite.manifest import find_audio
from deepspectrumlite.model import Classifier


@dataclass(frozen=True)
class Prediction:
    """What a model hears in one recording.

    ``segment_scores`` is (n_segments, n_outputs), ``segment_starts`` and ``segment_ends``
    (n_segments,) in seconds; the last segment ends with the recording, though the model saw it
    filled up. ``decision`` says what the scores mean.
    """

    path: Path
    decision: Decision
    segment_starts: np.ndarray = field(repr=False)
    segment_ends: np.ndarray = field(repr=False)
    segment_scores: np.ndarray = field(repr=False)

    @property
    def scores(self) -> np.ndarray:
        """Mean over the segments: (n_outputs,)."""
        mean: np.ndarray = self.segment_scores.mean(axis=0)
        return mean

    @property
    def labels(self) -> list[str]:
        """The labels that are recognised: one, or for "sigmoid" any number; none for "linear"."""
        return self.decision.answer(self.scores)

    @property
    def label(self) -> str:
        """The same as one text."""
        return ", ".join(self.labels)

    def to_json(self, *, segments: bool = False) -> dict[str, Any]:
        """A row for JSON: path, what is recognised, all scores, and the segments where wanted."""
        row = {"path": str(self.path)} | self.decision.describe(self.scores)
        if segments:
            row["segments"] = [
                {"start": float(start), "end": float(end)} | self.decision.describe(scores)
                for start, end, scores in zip(
                    self.segment_starts, self.segment_ends, self.segment_scores, strict=True
                )
            ]
        return row


@torch.inference_mode()
def predict_file(
    model: Classifier, path: Path, device: torch.device, progress: Progress = silent
) -> Prediction:
    """Score every segment of one recording.

    Raises:
        AudioError: the recording cannot be read, or is shorter than a segment and the model's
            recipe drops those
    """
    data, size = model.recipe.data, model.recipe.train.batch_size
    duration = audio_info(path).duration_seconds
    total = max(1, int(duration / data.hop_seconds))
    starts: list[float] = []
    scores: list[np.ndarray] = []
    for batch in _batches(stream_segments(path, data), size):
        starts += [start for start, _ in batch]
        waveform = torch.from_numpy(np.stack([segment for _, segment in batch]))
        scores.append(model(waveform.to(device)).float().cpu().numpy())
        progress(f"predicting {path.name}", min(len(starts), total), total)
    if not scores:
        raise AudioError(
            f"{path}: shorter than a segment of {data.segment_seconds:g} s, and the model drops "
            'those; train with data.tail = "keep" to have them padded'
        )
    ends = np.array(starts) + data.segment_seconds
    # The length in a header can be an estimate: no segment ends before it starts.
    ends = np.maximum(np.minimum(ends, duration), starts)
    return Prediction(path, model.decision, np.array(starts), ends, np.concatenate(scores))


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


def _batches(
    segments: Iterator[tuple[float, np.ndarray]], size: int
) -> Iterator[list[tuple[float, np.ndarray]]]:
    while batch := list(islice(segments, size)):
        yield batch

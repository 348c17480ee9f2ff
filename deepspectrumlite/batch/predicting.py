"""What a worker of a batch does to predict: the rows of a part -> a table of predictions.

Of an exported file it needs no torch.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from deepspectrumlite.audio import Waveform
from deepspectrumlite.batch.rows import Row, predict_row
from deepspectrumlite.batch.scores import answer_names, prediction_rows, score_names
from deepspectrumlite.batch.work import Made, Tell
from deepspectrumlite.predict import Recogniser, open_recogniser


@dataclass(frozen=True)
class Predicting:
    """How to predict: a row per recording, or per segment; where, and on how many threads."""

    segments: bool = False
    device: str = "auto"
    threads: int = 1

    def open(self, model: Path | None) -> "OpenPredicting":
        """Ready to predict by an exported file or a model folder; errors of `open_recogniser`."""
        assert model is not None, "no model to predict by"
        if model.is_dir():
            limit_torch(self.threads)
        recogniser = open_recogniser(model, device=self.device, threads=self.threads)
        return OpenPredicting(_Timed(recogniser), self.segments)


class OpenPredicting:
    """A model that is open, with the columns of its tables."""

    def __init__(self, recogniser: "_Timed", segments: bool) -> None:
        self._recogniser, self._segments = recogniser, segments
        self.schema = schema_of(recogniser, segments)

    def make(self, rows: Sequence[Row], first: int, tell: Tell) -> Made:
        """Predictions of rows, of which the first is the manifest's row `first`, from 0 on."""
        before = self._recogniser.seconds
        found: list[dict[str, Any]] = []
        bad, seconds = 0, 0.0
        for index, row in enumerate(rows):
            known = {"row": first + index, "path": row.path, "start": row.start, "end": row.end}
            try:
                prediction = predict_row(self._recogniser, row)
                heard = {"seconds": prediction.segment_ends[-1] - prediction.segment_starts[0]}
                parts = prediction_rows(prediction, segments=self._segments)
                found += [known | heard | part for part in parts]
                seconds += heard["seconds"]
            except Exception as error:  # Whatever it is: of millions, one costs itself.
                found.append(known | {"error": one_line(error)})
                bad += 1
            tell(index + 1)
        table = pa.Table.from_pylist(found, self.schema)
        return Made(table, bad, seconds, self._recogniser.seconds - before)


def schema_of(recogniser: Recogniser, segments: bool) -> pa.Schema:
    """Columns of the table: which row, what is recognised, the scores, and what went wrong."""
    answers = {"label": pa.string(), "labels": pa.list_(pa.string()), "set": pa.list_(pa.string())}
    decision = recogniser.decision
    return pa.schema(
        [("row", pa.int64()), ("path", pa.string()), ("start", pa.float64()), ("end", pa.float64())]
        + [("seconds", pa.float64())]
        + [(name, answers[name]) for name in answer_names(decision, segments=segments)]
        + [(name, pa.float32()) for name in score_names(decision)]
        + [("error", pa.string())]
    )


def one_line(error: Exception) -> str:
    """What an error says."""
    return " ".join(str(error).split()) or type(error).__name__


class _Timed:
    """A recogniser that adds up the seconds it computes."""

    def __init__(self, recogniser: Recogniser) -> None:
        self._recogniser = recogniser
        self.seconds = 0.0
        self.cutting, self.decision = recogniser.cutting, recogniser.decision
        self.recipe, self.batch_size = recogniser.recipe, recogniser.batch_size

    def score(self, segments: Waveform) -> np.ndarray:
        begun = time.perf_counter()
        scores = self._recogniser.score(segments)
        self.seconds += time.perf_counter() - begun
        return scores


def limit_torch(threads: int) -> None:
    """Or each of many processes would compute on all cores."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import torch

    torch.set_num_threads(threads)

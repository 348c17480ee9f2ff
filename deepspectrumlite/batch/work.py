"""A worker of a batch: takes the number of a part, and writes its Parquet file.

What it does with the rows is told by a :class:`Job`: predicting or extracting.
"""

import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from deepspectrumlite.batch.places import Folder
from deepspectrumlite.batch.plan import Rows, part_name
from deepspectrumlite.batch.rows import Row

Tell = Callable[[int], None]


@dataclass(frozen=True)
class Made:
    """The table of a part: ``bad`` rows of the manifest, ``seconds`` of audio in the others.

    ``model_seconds`` is what the network took of the time; ``replaced`` values were not finite, and
    are 0 now.
    """

    table: pa.Table
    bad: int
    seconds: float
    model_seconds: float = 0.0
    replaced: int = 0


@dataclass(frozen=True)
class Done:
    """A part that is written: ``rows`` of the manifest, and what Made says; all times in seconds.

    ``reading`` is all that is neither the model nor writing: opening, decoding, resampling.
    """

    part: int
    rows: int
    bad: int
    seconds: float
    reading: float
    model: float
    writing: float
    replaced: int = 0


class OpenJob(Protocol):
    """A job with its model in memory."""

    @property
    def schema(self) -> pa.Schema:
        """Of its tables."""

    def make(self, rows: Sequence[Row], first: int, tell: Tell) -> Made:
        """The table of rows, of which the first is the manifest's row `first`, from 0 on."""


class Job(Protocol):
    """What a worker does; can be sent to other processes and machines."""

    def open(self, model: Path | None) -> OpenJob:
        """Load what it needs, once for each worker."""


class Worker:
    """Opens the model once, and then makes any part."""

    def __init__(self, job: Job, model: Path | None, out: Folder, part_rows: int) -> None:
        """Errors as of the job, and ManifestError where the folder is not seen from here."""
        self._rows, self._out, self._part_rows = Rows(out), out, part_rows
        self._job = job.open(model)

    def __call__(self, part: int, tell: Tell = lambda done: None) -> Done:
        """Make and write a part; `tell` is called with the rows that are done."""
        rows = self._rows.part(part)
        begun = time.perf_counter()
        made = self._job.make(rows, part * self._part_rows, tell)
        written = time.perf_counter()
        content = io.BytesIO()
        pq.write_table(made.table, content)
        content.seek(0)
        self._out.write(part_name(part), content)
        return Done(
            part,
            len(rows),
            made.bad,
            made.seconds,
            written - begun - made.model_seconds,
            made.model_seconds,
            time.perf_counter() - written,
            made.replaced,
        )

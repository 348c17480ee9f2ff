"""What a worker of a batch does to extract features: the rows of a part -> a row per segment.

It is :mod:`deepspectrumlite.features` on the recordings of a part, so it needs torch; see
:mod:`deepspectrumlite.batch.exported` for that without.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import soundfile

from deepspectrumlite.batch.exported import feature_schema, further_columns
from deepspectrumlite.batch.places import local_file
from deepspectrumlite.batch.predicting import limit_torch, one_line
from deepspectrumlite.batch.rows import Row
from deepspectrumlite.batch.work import Made, Tell
from deepspectrumlite.config import Recipe
from deepspectrumlite.data import scan
from deepspectrumlite.errors import ManifestError
from deepspectrumlite.features import Features, extract
from deepspectrumlite.model import Classifier, load_model


@dataclass(frozen=True)
class Extracting:
    """Which features; ``kind``, ``recipe`` and ``layer`` as of `features.extract`."""

    kind: str
    recipe: Recipe
    layer: str = ""
    device: str = "auto"
    threads: int = 1

    def open(self, model: Path | None) -> "OpenExtracting":
        """Load the model, if there is one, and extract once, to know the names of the features.

        Errors are those of `features.extract`.
        """
        limit_torch(self.threads)
        return OpenExtracting(self, None if model is None else load_model(model))


class OpenExtracting:
    """A job with its model in memory; ``names`` are those of the features."""

    def __init__(self, job: Extracting, model: Classifier | None) -> None:
        self._job, self._model = job, model
        recipe = job.recipe if model is None else model.recipe
        # A worker is one of many processes; it has none of its own.
        train = recipe.train.model_copy(update={"workers": 0})
        self._recipe = recipe.model_copy(update={"train": train})
        if model is not None:
            model.recipe = self._recipe
        self.names = self._try()

    def _try(self) -> tuple[str, ...]:
        """Names of the features, from some noise: what is wrong is told before the work."""
        data = self._recipe.data
        # Of whole recordings, segment_samples is 0.
        size = max(data.sample_rate, data.segment_samples)
        noise = np.random.default_rng(0).uniform(-0.1, 0.1, size)
        with TemporaryDirectory(prefix="deepspectrumlite-") as folder:
            path = Path(folder) / "noise.wav"
            soundfile.write(path, noise, data.sample_rate)
            table = pd.DataFrame({"path": [str(path)]})
            return self._extract(scan(table, data, workers=1)[0]).names

    @property
    def schema(self) -> pa.Schema:
        """Of its tables, without the further columns of the manifest."""
        return feature_schema(self.names)

    def make(self, rows: Sequence[Row], first: int, tell: Tell) -> Made:
        """Features of rows, of which the first is the manifest's row `first`, from 0 on."""
        with _at_hand(rows) as (paths, errors):
            good, found, seconds = self._extract_rows(rows, paths, errors)
        # As the manifest names them, not copies of them.
        errors = {i: e.replace(paths[i] or rows[i].path, rows[i].path) for i, e in errors.items()}
        tell(len(rows))
        others = further_columns(rows, self.names)
        table = self._bad(rows, errors)
        if found is not None:
            table = pd.concat([self._good(found, good), table], ignore_index=True)
        # In the order of the manifest; of a recording, in that of its segments.
        table = table.sort_values("file_index", kind="stable", ignore_index=True)
        index = table["file_index"].to_numpy()
        table["path"] = [rows[i].path for i in index]
        for name in others:
            table[name] = [rows[i].others.get(name) for i in index]
        table["file_index"] = index + first
        arrow = pa.Table.from_pandas(
            table, feature_schema(self.names, others), preserve_index=False
        )
        if found is None:
            return Made(arrow, len(errors), seconds)
        return Made(arrow, len(errors), seconds, found.seconds, found.replaced)

    def _extract_rows(
        self, rows: Sequence[Row], paths: Sequence[str], errors: dict[int, str]
    ) -> tuple[Any, Features | None, float]:
        """Indices of the good rows, their features, and their seconds; adds the others' errors."""
        tried = np.array([i for i in range(len(rows)) if i not in errors], np.int64)
        table = pd.DataFrame(
            {
                "path": [paths[i] for i in tried],
                "start": [rows[i].start or 0.0 for i in tried],
                "end": pd.Series([rows[i].end for i in tried], dtype=float),
                "at": tried,
            }
        )
        good, reasons = _scan(table, self._recipe)
        bad = tried[~np.isin(tried, good.get("at", []))]
        errors.update(zip(bad.tolist(), reasons, strict=True))
        if good.empty:
            return tried[:0], None, 0.0
        at = good["at"].to_numpy()
        found = self._extract_any(good, errors)
        heard = np.zeros(len(at), np.bool_)
        if found is not None:
            heard[found.file_index] = True
        for i in at[~heard].tolist():
            errors.setdefault(i, "shorter than a segment")
        return at, found, float(good["duration"].to_numpy(np.float64)[heard].sum())

    def _extract_any(self, good: pd.DataFrame, errors: dict[int, str]) -> Features | None:
        """Of all; where that fails, of each by itself: one that is bad costs itself."""
        at = good["at"].tolist()
        try:
            return self._extract(good)
        except ManifestError as error:
            # Not one has a segment.
            errors.update(dict.fromkeys(at, str(error)))
        except Exception as error:
            if len(good) > 1:
                each = [self._extract_any(_only(good, i), errors) for i in range(len(good))]
                return _join(each)
            errors[at[0]] = one_line(error)
        return None

    def _extract(self, scanned: pd.DataFrame) -> Features:
        job = self._job
        return extract(
            job.kind,
            self._recipe,
            scanned,
            layer=job.layer,
            model=self._model,
            device=job.device,
        )

    def _good(self, found: Features, at: Any) -> pd.DataFrame:
        known = {"file_index": at[found.file_index], "start": found.start, "end": found.end}
        values = pd.DataFrame(found.values, columns=list(found.names))
        return pd.concat([pd.DataFrame(known), values], axis=1)

    def _bad(self, rows: Sequence[Row], errors: dict[int, str]) -> pd.DataFrame:
        index = sorted(errors)
        columns = {
            "file_index": pd.Series(index, dtype=np.int64),
            "start": pd.Series([rows[i].start for i in index], dtype=float),
            "end": pd.Series([rows[i].end for i in index], dtype=float),
            "error": pd.Series([errors[i] for i in index], dtype=object),
        }
        empty = pd.DataFrame(np.nan, range(len(index)), list(self.names), dtype=np.float32)
        return pd.concat([pd.DataFrame(columns), empty], axis=1)


def _only(table: pd.DataFrame, row: int) -> pd.DataFrame:
    return table.iloc[[row]].reset_index(drop=True)


def _join(each: Sequence[Features | None]) -> Features | None:
    """Features of recordings that were taken one by one; None: those that failed."""
    found = [replace(one, file_index=one.file_index + i) for i, one in enumerate(each) if one]
    if not found:
        return None
    return replace(
        found[0],
        values=np.concatenate([one.values for one in found]),
        file_index=np.concatenate([one.file_index for one in found]),
        start=np.concatenate([one.start for one in found]),
        end=np.concatenate([one.end for one in found]),
        seconds=sum(one.seconds for one in found),
        replaced=sum(one.replaced for one in found),
    )


def _scan(table: pd.DataFrame, recipe: Recipe) -> tuple[pd.DataFrame, list[str]]:
    """The good rows, scanned, and the reasons of the others, in order."""
    if table.empty:
        return table, []
    try:
        good, skipped = scan(table, recipe.data, skip_bad=True, workers=1)
        return good, skipped["reason"].tolist()
    except Exception:
        # None is good, of which scanning tells no reason; or one is as it did not foresee.
        return _scan_each(table, recipe)


def _scan_each(table: pd.DataFrame, recipe: Recipe) -> tuple[pd.DataFrame, list[str]]:
    found, reasons = [], []
    for i in range(len(table)):
        try:
            found.append(scan(_only(table, i), recipe.data, workers=1)[0])
        except Exception as error:
            reasons.append(one_line(error).removesuffix("; or pass --skip-bad"))
    return pd.concat(found, ignore_index=True) if found else table.iloc[:0], reasons


@contextmanager
def _at_hand(rows: Sequence[Row]) -> Iterator[tuple[list[str], dict[int, str]]]:
    """Paths on this machine of all rows, copied where needed; and errors, by index of the row."""
    paths: list[str] = []
    errors: dict[int, str] = {}
    with ExitStack() as copies:
        for i, row in enumerate(rows):
            path = ""
            try:
                row.check()
                path = str(copies.enter_context(local_file(row.path)))
            except Exception as error:  # Whatever it is: of millions, one costs itself.
                errors[i] = one_line(error)
            paths.append(path)
        yield paths, errors

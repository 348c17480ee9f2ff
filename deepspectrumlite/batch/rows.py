"""The rows of a manifest of any length, one at a time; pyarrow only for Parquet and object stores.

Other than :func:`deepspectrumlite.manifest.load_manifest` this never refuses a manifest for one of
its rows: of millions, one that is wrong costs itself.
"""

import csv
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepspectrumlite.batch.places import Folder, join, local_file, own_path, parent
from deepspectrumlite.errors import AudioError, ManifestError
from deepspectrumlite.predict import Prediction, Recogniser, predict_file
from deepspectrumlite.progress import Progress, silent

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
_OWN = ("path", "start", "end")
_PARQUET_ROWS = 4096


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a manifest: a recording, or a span of it.

    ``path`` is absolute, or a URI. ``start`` and ``end`` are in seconds; None: not given. ``error``
    says what is wrong with the row itself, "": nothing. ``others`` are the further columns, as
    text, None: nothing there.
    """

    path: str
    start: float | None = None
    end: float | None = None
    error: str = ""
    others: Mapping[str, str | None] = field(default_factory=dict)

    def check(self) -> None:
        """Raise AudioError where the row itself is wrong."""
        if self.error:
            raise AudioError(self.error)


def is_manifest(place: str) -> bool:
    """Whether its name is that of a list of recordings, not of a recording or folder."""
    return Path(place.partition("?")[0]).suffix.lower() in SUFFIXES


def read_rows(manifest: str) -> Iterator[Row]:
    """All rows, in order; a folder's recordings without spans.

    Args:
        manifest: a .csv, .tsv, .jsonl, .ndjson or .parquet file with the column ``path``, and where
            wanted ``start`` and ``end``; or a folder; each by its path or a URI

    Raises:
        ManifestError: there is none, it is of another type, or broken as a whole
    """
    own = own_path(manifest)
    if not is_manifest(manifest):
        if own is not None and not own.is_dir():
            kind = f"a manifest cannot be of type {own.suffix!r}" if own.exists() else "not there"
            raise ManifestError(
                f"{manifest}: {kind}; allowed: {', '.join(SUFFIXES)}, or a folder of recordings"
            )
        yield from map(Row, Folder(manifest).recordings())
        return
    if own is not None and not own.is_file():
        raise ManifestError(f"{manifest}: no such manifest; check the path")
    folder = parent(manifest)
    with local_file(manifest) as path:
        try:
            for number, values in _read(path):
                yield _tidy(number, values, folder)
        except (ValueError, OSError, csv.Error) as error:
            reason = " ".join(str(error).split())
            raise ManifestError(
                f"{manifest}: cannot be read as {path.suffix}: {reason}; mend it, or save it again "
                "as UTF-8"
            ) from error


def predict_row(recogniser: Recogniser, row: Row, progress: Progress = silent) -> Prediction:
    """What is heard in a recording, or in its span.

    Raises:
        AudioError: it cannot be read, or the row itself is wrong
    """
    row.check()
    with local_file(row.path) as path:
        return predict_file(recogniser, path, progress, start=row.start or 0.0, end=row.end)


def _read(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Number of each row, as editors count lines, and its values by column."""
    suffix = path.suffix.lower()
    rows = {".csv": _read_csv, ".tsv": _read_csv, ".parquet": _read_parquet}.get(suffix, _read_json)
    for number, values in rows(path):
        if "path" not in values:
            raise ValueError(f"no column path, only {', '.join(map(str, values))}")
        yield number, values


def _read_csv(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        header = file.readline()
        delimiter = "\t" if path.suffix.lower() == ".tsv" else _delimiter(header)
        names = [name.strip() for name in next(csv.reader([header], delimiter=delimiter), [])]
        lines = csv.reader(file, delimiter=delimiter)
        for fields in lines:
            if any(fields):
                # What has too few fields has no path, or no end; too many are no reason to stop.
                fields += [""] * (len(names) - len(fields))
                yield lines.line_num + 1, dict(zip(names, fields, strict=False))


def _delimiter(header: str) -> str:
    """Comma or semicolon, whichever sets the column path apart in the header."""
    fields = [name.strip() for name in next(csv.reader([header], delimiter=";"), [])]
    return ";" if "path" in fields and len(fields) > 1 else ","


def _read_json(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                # Numbers as they are written, so that a label 1.0 stays "1.0".
                values = json.loads(line, parse_int=str, parse_float=str)
            except json.JSONDecodeError as error:
                values = {"path": "", "error": f"not JSON ({error.msg}, column {error.colno})"}
            yield number, values if isinstance(values, dict) else {"path": "", "error": "no object"}


def _read_parquet(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    import pyarrow.parquet as pq

    number = 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(_PARQUET_ROWS):
            for values in batch.to_pylist():
                number += 1
                yield number, values


def _tidy(number: int, values: Mapping[str, Any], folder: str) -> Row:
    wrong: list[str] = []
    start, end = _seconds("start", values, wrong), _seconds("end", values, wrong)
    path = str(values["path"] or "")
    is_empty = not path.strip()
    if is_empty:
        wrong.append(values.get("error", "path is empty"))
    if end is not None and end <= (start or 0.0):
        wrong.append(f"end is {end:g}, not after the start")
    error = f"row {number} of the manifest: {'; '.join(wrong)}; mend the row" if wrong else ""
    others = {name: _text(value) for name, value in values.items() if name not in _OWN}
    return Row("" if is_empty else join(folder, path), start, end, error, others)


def _seconds(name: str, values: Mapping[str, Any], wrong: list[str]) -> float | None:
    given = values.get(name)
    if given is None or given == "" or str(given).strip() == "":
        return None
    try:
        seconds = float(given)
    except (TypeError, ValueError):
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        # In a table of numbers, what is missing is a NaN.
        if not isinstance(given, float) or not math.isnan(given):
            wrong.append(f"{name} is {given!r}; allowed: seconds from 0 on, or nothing")
        return None
    return seconds


def _text(value: Any) -> str | None:
    if value is None:
        return None
    return json.dumps(value, default=str) if isinstance(value, list | dict) else str(value)

"""The list of recordings: read it, check it, write it.

A manifest is a CSV, TSV, JSON Lines or Parquet file with the columns ``path`` and ``label`` (or
others to be learned), and where wanted ``split``, ``group``, ``start`` and ``end`` (in seconds); or
a folder per class.
Everywhere below, a table is what :func:`load_manifest` returns.
"""

import csv
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pandas as pd

from deepspectrumlite.audio import AUDIO_EXTENSIONS, find_audio, is_recording
from deepspectrumlite.errors import ManifestError

SPLITS = ("train", "devel", "test")
_SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("devel", "dev", "development", "val", "valid", "validation"), "devel"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def load_manifest(
    source: Path,
    *,
    need_labels: bool = True,
    targets: Sequence[str] = ("label",),
    separator: str | None = None,
    allow_empty: bool = False,
    read_folder: Callable[[Path], pd.DataFrame] | None = None,
) -> pd.DataFrame:
    """Read and check a list of recordings. Whether the recordings exist is not checked here.

    Args:
        source: a .csv, .tsv, .jsonl, .ndjson or .parquet file, or a folder with a sub-folder per
            class (``folder/label/...`` or ``folder/split/label/...``)
        need_labels: whether the targets are a must; without, a folder's recordings get no label
            at all
        targets: the columns to be learned
        separator: joins the items, where JSON Lines or Parquet hold a list as a target; without
            one, lists are refused
        allow_empty: whether a target may be empty
        read_folder: makes the rows of a folder that is not laid out by classes

    Returns:
        A table with index 0 to n - 1 and the columns ``path`` (absolute), the targets (text, as
        written); ``split`` (train, devel, test), ``group`` (text, empty: none), ``start`` (in
        seconds), ``end`` (in seconds, NaN: to the end) where given; then any others.

    Raises:
        ManifestError: the manifest is missing, of another type or inconsistent
    """
    source = Path(source)
    table = _read_source(source, need_labels, read_folder)
    # Until here and in the checks, the index is the row number that the user sees.
    needed = ("path", *(targets if need_labels else ()))
    table = _check_columns(table, source, needed, targets)
    for name in [name for name in targets if name in table]:
        table[name] = _join_lists(source, table[name], separator)
    filled = needed[:1] if allow_empty else needed
    table = _tidy(table, source, targets, filled).reset_index(drop=True)
    table.attrs["manifest"] = str(source)
    return table


def _read_source(
    source: Path, need_labels: bool, read_folder: Callable[[Path], pd.DataFrame] | None
) -> pd.DataFrame:
    if not source.is_dir():
        return _read_file(source)
    if read_folder is not None:
        return read_folder(source)
    if need_labels:
        return read_classes_folder(source)
    return pd.DataFrame(
        {"path": [str(path.absolute()) for path in find_audio(source)]}, dtype=object
    )


def _read_file(source: Path) -> pd.DataFrame:
    readers: dict[str, Callable[[Path], pd.DataFrame]] = {
        ".csv": _read_csv,
        ".tsv": _read_csv,
        ".jsonl": _read_jsonl,
        ".ndjson": _read_jsonl,
        ".parquet": _read_parquet,
    }
    allowed = f"allowed: {', '.join(readers)}, or a folder with a sub-folder per class"
    if not source.exists():
        raise ManifestError(f"{source}: no such manifest; {allowed}")
    suffix = source.suffix.lower()
    if suffix not in readers:
        raise ManifestError(f"{source}: a manifest cannot be of type {suffix!r}; {allowed}")
    try:
        return readers[suffix](source)
    except (ValueError, OSError, csv.Error) as error:
        reason = " ".join(str(error).split())
        raise ManifestError(
            f"{source}: cannot be read as {suffix}: {reason}; mend that row, or save it again "
            "as UTF-8 with one header line and as many fields in every row"
        ) from error


def _read_csv(source: Path) -> pd.DataFrame:
    table = pd.read_csv(
        source,
        sep="\t" if source.suffix.lower() == ".tsv" else _delimiter(source),
        dtype=str,
        keep_default_na=False,
        encoding="utf-8-sig",
        # Blank lines count, or the row numbers in messages would be wrong.
        skip_blank_lines=False,
    ).fillna("")
    if not isinstance(table.index, pd.RangeIndex):
        # What pandas makes of it: the first column becomes the index.
        raise ValueError("the rows have more fields than the header")  # noqa: TRY004
    table.columns = table.columns.str.strip()
    table.index = pd.RangeIndex(2, len(table) + 2)
    return table[(table != "").any(axis=1)]


def _delimiter(source: Path) -> str:
    """Comma or semicolon, whichever sets the column path apart in the header."""
    with source.open(encoding="utf-8-sig", newline="") as file:
        header = file.readline()
    fields = [name.strip() for name in next(csv.reader([header], delimiter=";"), [])]
    return ";" if "path" in fields and len(fields) > 1 else ","


def _read_jsonl(source: Path) -> pd.DataFrame:
    lines = source.read_text(encoding="utf-8-sig").split("\n")
    rows = {n: _json_object(n, line) for n, line in enumerate(lines, 1) if line.strip()}
    return pd.DataFrame(list(rows.values()), index=pd.Index(list(rows)), dtype=object)


def _json_object(row: int, line: str) -> dict[str, object]:
    try:
        # Numbers as they are written, so that a label 1.0 stays "1.0".
        values = json.loads(line, parse_int=str, parse_float=str)
    except json.JSONDecodeError as error:
        raise ValueError(f"row {row} is not JSON ({error.msg}, column {error.colno})") from None
    if not isinstance(values, dict):
        raise ValueError(f'row {row} is not an object like {{"path": "a.wav", "label": "x"}}')  # noqa: TRY004
    return values


def _read_parquet(source: Path) -> pd.DataFrame:
    # Nullable types, or one missing value would turn the group 7 into "7.0".
    table = pd.read_parquet(source, dtype_backend="numpy_nullable")
    table.index = pd.RangeIndex(1, len(table) + 1)
    return table


def read_classes_folder(source: Path) -> pd.DataFrame:
    """Path, label and where given split of each recording in a folder with a folder per class.

    Raises:
        ManifestError: another layout
    """
    folders = _folders(source)
    as_splits = [folder for folder in folders if folder.name.lower() in _SPLIT_NAMES]
    if len(as_splits) < len(folders) or not folders:
        if len(as_splits) > 1:
            raise ManifestError(
                f"{source}: the folders {', '.join(f.name for f in as_splits)} look like splits, "
                f"but {next(f.name for f in folders if f not in as_splits)} does not; allowed: "
                "only splits, or only classes; rename or move the folder"
            )
        return _read_classes(source)
    tables = [_read_classes(f).assign(split=f.name) for f in folders]
    return pd.concat(tables, ignore_index=True)


def _read_classes(source: Path) -> pd.DataFrame:
    loose = [path for path in source.iterdir() if is_recording(path)]
    if loose:
        raise ManifestError(
            f"{min(loose)}: a recording outside of a class folder; allowed: "
            f"{source / 'LABEL' / loose[0].name}; move it into the folder of its class"
        )
    paths: list[str] = []
    labels: list[str] = []
    for folder in _folders(source):
        found = find_audio(folder)
        if not found:
            raise ManifestError(
                f"{folder}: a class folder without recordings; allowed: files ending in "
                f"{' '.join(sorted(AUDIO_EXTENSIONS))}; add some, or move the folder away; or, if "
                f"{source} is a corpus, name it: --recipe esc50, for one"
            )
        paths += [str(path.absolute()) for path in found]
        labels += [folder.name] * len(found)
    return pd.DataFrame({"path": paths, "label": labels}, dtype=object)


def _folders(source: Path) -> list[Path]:
    return sorted(p for p in source.iterdir() if p.is_dir() and not p.name.startswith("."))


def _check_columns(
    table: pd.DataFrame, source: Path, needed: Sequence[str], targets: Sequence[str]
) -> pd.DataFrame:
    """Refuse what lacks rows or columns, and put the known columns first."""
    if table.empty:
        raise ManifestError(f"{source}: no recordings in it; add at least one")
    missing = [name for name in needed if name not in table]
    if missing:
        raise ManifestError(
            f"{source}: no column {' and '.join(missing)}, only {', '.join(map(str, table))}; "
            f"allowed: path, {', '.join(targets)}, and where wanted split, group, start, end; "
            "rename the columns, or set data.target to those to be learned"
        )
    order = ("path", *targets, "split", "group", "start", "end")
    known = [name for name in order if name in table]
    return table[known + [name for name in table if name not in order]].copy()


def _join_lists(source: Path, column: "pd.Series[Any]", separator: str | None) -> "pd.Series[Any]":
    """Lists of labels as text; a label that is nothing (null) is left out."""
    lists = {i: [str(x) for x in c if x is not None] for i, c in column.items() if _is_list(c)}
    refused = [isinstance(c, dict) or (separator is None and _is_list(c)) for c in column]
    allowed = 'one value; for lists of labels in one column set model.output = "sigmoid"'
    _refuse(source, column, pd.Series(refused, index=column.index), allowed)
    if not lists or separator is None:
        return column
    torn = [any(separator in label for label in lists.get(i, [])) for i in column.index]
    allowed = f"labels without {separator!r}; set data.separator to what is in none of them"
    _refuse(source, column, pd.Series(torn, index=column.index), allowed)
    joined = [separator.join(lists[i]) if i in lists else cell for i, cell in column.items()]
    return pd.Series(joined, index=column.index, name=column.name, dtype=object)


def _is_list(cell: object) -> bool:
    return isinstance(cell, list | np.ndarray)


def _tidy(
    table: pd.DataFrame, source: Path, targets: Sequence[str], filled: Sequence[str]
) -> pd.DataFrame:
    for name in ("path", *targets, "group"):
        if name in table:
            table[name] = _text(table[name])
    for name in filled:
        _refuse(
            source, table[name], table[name].str.strip() == "", "anything but nothing; fill it in"
        )
    folder = Path(os.path.normpath(source.absolute().parent))
    # Once for each file: many rows may be spans of one.
    paths = {path: os.path.normpath(folder / path) for path in table["path"].unique()}
    table["path"] = table["path"].map(paths).astype(object)
    if "split" in table:
        names = _text(table["split"]).str.strip().str.lower().map(_SPLIT_NAMES)
        _refuse(source, table["split"], names.isna(), f"{', '.join(SPLITS)}; mend the row")
        table["split"] = names
    if "start" in table:
        table["start"] = _seconds(source, table["start"]).fillna(0.0)
    if "end" in table:
        table["end"] = _seconds(source, table["end"])
        start = table.get("start", 0.0)
        _refuse(source, table["end"], table["end"] <= start, "a time after the start; mend the row")
    _refuse_duplicates(source, table)
    return table


def _text(column: "pd.Series[str]") -> "pd.Series[str]":
    return column.astype("string").fillna("").astype(object)


def _seconds(source: Path, column: "pd.Series[str]") -> "pd.Series[float]":
    text = _text(column).str.strip()
    seconds = pd.to_numeric(text.where(text != ""), errors="coerce").astype(float)
    bad = (text != "") & ~((seconds >= 0) & np.isfinite(seconds))
    _refuse(source, column, bad, "seconds from 0 on, like 1.5, or nothing; mend the row")
    return seconds


def _refuse(source: Path, column: "pd.Series[str]", bad: "pd.Series[bool]", allowed: str) -> None:
    """Raise for the first row that is bad."""
    if bad.any():
        first = int(bad.to_numpy().argmax())
        row, given = bad.index[first], str(column.iloc[first])
        raise ManifestError(f"{source}: row {row}: {column.name} is {given!r}; allowed: {allowed}")


def _refuse_duplicates(source: Path, table: pd.DataFrame) -> None:
    keys = [name for name in ("path", "start", "end") if name in table]
    repeated = table.duplicated(keys).to_numpy()
    if repeated.any():
        last = int(repeated.argmax())
        first = int(table.iloc[: last + 1].duplicated(keys, keep=False).to_numpy().argmax())
        raise ManifestError(
            f"{source}: row {table.index[last]}: path is {table['path'].iloc[last]!r}, the same "
            f"{', '.join(keys)} as in row {table.index[first]}; allowed: each once; remove one"
        )


def write_manifest(table: pd.DataFrame, path: Path) -> None:
    """Write a CSV manifest that :func:`load_manifest` reads back the same.

    Paths below the folder of the manifest become relative to it, so that both can move together.
    """
    folder = os.path.normpath(Path(path).absolute().parent)
    relative = table["path"].str.removeprefix(folder + os.sep)
    table.assign(path=relative).to_csv(path, index=False, encoding="utf-8", lineterminator="\n")


def fail(table: pd.DataFrame, problem: str) -> NoReturn:
    """Raise a ManifestError that begins with the file which the table was read from."""
    raise ManifestError(f"{table.attrs.get('manifest', 'manifest')}: {problem}")

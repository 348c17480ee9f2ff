"""What readers of corpora check alike: is it that corpus, is all of it there, what is left out?"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import pandas as pd

from deepspectrumlite.errors import ManifestError

# What a reader notes in a table's attrs, for corpus_notes to tell.
LEFT_OUT, COUNT = "left_out", "count"


def require(folder: Path, corpus: str, *names: str) -> None:
    """Raise ManifestError where a file or folder of a corpus's layout is missing."""
    missing = [name for name in names if not (folder / name).exists()]
    if missing:
        refuse(folder, corpus, f"no {missing[0]} in it", f"a folder with {' and '.join(names)}")


def refuse(folder: Path, corpus: str, problem: str, allowed: str) -> NoReturn:
    """Raise ManifestError: what is wrong with the folder, and how the corpus is laid out."""
    raise ManifestError(
        f"{folder}: not laid out as {corpus}: {problem}; allowed: {allowed}; give the folder as "
        "its owners hand it out, or a manifest of your own"
    )


def check_there(folder: Path, corpus: str, paths: Iterable[str]) -> None:
    """Raise ManifestError where recordings are listed, but not there: names the first."""
    missing = [path for path in paths if not Path(path).is_file()]
    if missing:
        others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ManifestError(
            f"{folder}: {missing[0]}{others} listed by {corpus}, but not there; unpack or download "
            "it again, or give a manifest of those that you have"
        )


def read_list(path: Path, corpus: str, columns: Sequence[str]) -> pd.DataFrame:
    """A CSV file of a corpus, every cell as text.

    Raises:
        ManifestError: it cannot be read, or lacks one of the columns
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (ValueError, OSError) as error:
        raise ManifestError(
            f"{path}: cannot be read: {' '.join(str(error).split())}; unpack or download it again"
        ) from error
    table.columns = table.columns.str.strip()
    missing = [name for name in columns if name not in table]
    if missing:
        refuse(
            path,
            corpus,
            f"no column {missing[0]}, only {', '.join(map(str, table))}",
            f"the columns {', '.join(columns)}",
        )
    return table.fillna("")


def leave_out(table: pd.DataFrame, rows: "pd.Series[bool]", reason: str) -> pd.DataFrame:
    """The table without some rows, which are counted in ``attrs["left_out"]``; index 0 to n - 1."""
    return count_left_out(table[~rows].reset_index(drop=True), {reason: int(rows.sum())})


def count_left_out(table: pd.DataFrame, counts: Mapping[str, int]) -> pd.DataFrame:
    """The same table; how many recordings it lacks, by reason, is kept in ``attrs["left_out"]``."""
    there = {reason: n for reason, n in counts.items() if n}
    table.attrs[LEFT_OUT] = table.attrs.get(LEFT_OUT, {}) | there
    return table


def compare_count(table: pd.DataFrame, found: int, described: int) -> pd.DataFrame:
    """The same table; that a corpus holds fewer or more than is described, is kept in its attrs.

    No reason to refuse it: releases differ, and some may have wanted a part only.
    """
    if found != described:
        table.attrs[COUNT] = [found, described]
    return table


def corpus_notes(table: pd.DataFrame) -> list[str]:
    """What a user should know of what a reader made of a corpus, a line each; often nothing."""
    notes = []
    counts = table.attrs.get(LEFT_OUT, {})
    if counts:
        listed = ", ".join(f"{n} ({reason})" for reason, n in counts.items())
        notes.append(f"Recordings of the corpus left out: {listed}")
    if COUNT in table.attrs:
        found, described = table.attrs[COUNT]
        notes.append(
            f"The corpus is described as of {described} recordings, and {found} were found; "
            "compare, as some may be missing"
        )
    return notes

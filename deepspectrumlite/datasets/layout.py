"""What readers of corpora check alike: is it that corpus, and is all of it there?"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NoReturn

import pandas as pd

from deepspectrumlite.errors import ManifestError


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

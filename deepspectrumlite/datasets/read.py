"""The reader of a corpus, by its name in the recipe.

Each reader is a module of this package with a function ``read(folder, data)``. It returns a table
with the columns ``path`` (absolute, text), those of ``data.targets``, and where the corpus has them
``split``, ``group``, ``start``, ``end`` (in seconds) and any others; and raises
:class:`ManifestError` where the folder is not laid out as the corpus is. What it left out, and
whether that is as many recordings as are described, stands in the table's attrs;
:func:`deepspectrumlite.datasets.layout.corpus_notes` tells it.
"""

from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd

from deepspectrumlite.config import DataSection
from deepspectrumlite.errors import ManifestError
from deepspectrumlite.manifest import load_manifest, read_classes_folder, write_manifest

# The row of the first recording in the CSV that `deepspectrumlite manifest` writes.
FIRST_ROW = 2


def load_corpus(
    source: Path,
    data: DataSection,
    *,
    need_labels: bool = True,
    separator: str | None = None,
    allow_empty: bool = False,
) -> pd.DataFrame:
    """As :func:`deepspectrumlite.manifest.load_manifest`, a folder as ``data.corpus`` says.

    Args:
        source: a manifest, or the folder of the corpus
        data: for ``corpus``, and the columns to be learned
        need_labels: as of ``load_manifest``, like those below
        separator: joins the items of a list of labels
        allow_empty: whether a target may be empty

    Raises:
        ManifestError: the manifest is inconsistent, or the folder is not laid out as the corpus
        MissingExtraError: reading that corpus needs a package that is not installed
    """
    folders = data.corpus == "folders"
    return load_manifest(
        source,
        need_labels=need_labels,
        targets=data.targets,
        separator=separator,
        allow_empty=allow_empty,
        read_folder=None if folders else lambda folder: read_corpus(folder, data),
    )


def read_corpus(folder: Path, data: DataSection) -> pd.DataFrame:
    """Read the folder of a corpus; what is in the table is not checked.

    Returns:
        a row per recording, as the reader gives them; the index counts the rows as they stand in
        a CSV with a header

    Raises:
        ManifestError: no such folder, or one that is not laid out as ``data.corpus``
        MissingExtraError: reading that corpus needs a package that is not installed
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ManifestError(
            f"{folder}: no such folder; needed: that of the corpus {data.corpus!r} (data.corpus)"
        )
    if data.corpus == "folders":
        table = read_classes_folder(folder)
    else:
        reader = import_module(f"deepspectrumlite.datasets.{data.corpus}")
        table = reader.read(folder, data)
    if table.empty:
        raise ManifestError(f"{folder}: no recordings in it; give the folder that holds the corpus")
    table.index = pd.RangeIndex(FIRST_ROW, len(table) + FIRST_ROW)
    first = ("path", *data.targets, "label", "split", "group", "start", "end")
    known = [name for name in dict.fromkeys(first) if name in table]
    return table[known + [name for name in table if name not in first]]


def write_corpus(folder: Path, data: DataSection, out: Path) -> pd.DataFrame:
    """Write what the reader of a corpus gives as a manifest, to be looked at and mended.

    Args:
        folder: of the corpus
        data: for ``corpus``, ``targets`` and ``separator``
        out: .csv or .parquet

    Returns:
        the table

    Raises:
        ManifestError: another suffix, or as :func:`read_corpus`
        MissingExtraError: as :func:`read_corpus`
    """
    out = Path(out)
    if out.suffix.lower() not in (".csv", ".parquet"):
        raise ManifestError(
            f"{out}: a manifest cannot be written as {out.suffix!r}; allowed: .csv, .parquet"
        )
    table = read_corpus(folder, data)
    for name in table.columns[[_holds_lists(table[name]) for name in table]]:
        table[name] = [data.separator.join(map(str, cell)) for cell in table[name]]
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix.lower() == ".csv":
        write_manifest(table, out)
    else:
        plain = table.convert_dtypes()
        # Parquet keeps them, but a list that was mended lacks other recordings.
        plain.attrs = {}
        plain.to_parquet(out, index=False)
    return table


def _holds_lists(column: "pd.Series[Any]") -> bool:
    return any(isinstance(cell, list) for cell in column)

"""Features as tables, a row per segment: written for other programs, and read back.

:func:`extract_manifest` is the way from a list of recordings to such a file.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from deepspectrumlite.audio import is_recording
from deepspectrumlite.config import Recipe
from deepspectrumlite.data import Measurement, scan
from deepspectrumlite.datasets.read import load_corpus
from deepspectrumlite.errors import ManifestError
from deepspectrumlite.features import Features, extract
from deepspectrumlite.model import Classifier
from deepspectrumlite.progress import Progress, silent

SUFFIXES = (".parquet", ".csv", ".npz")
_META = b"deepspectrumlite"
_TOLD = ("extractor_bytes", "seconds", "replaced")
# Told by extracting, so not taken from the manifest.
_OWN = ("path", "file_index", "start", "end", *Measurement.__dataclass_fields__)


def write_features(features: Features, scanned: pd.DataFrame, path: Path) -> None:
    """Write a row per segment: path, file_index, start, end, the manifest's columns, features.

    Args:
        features: of the scanned recordings
        scanned: the table that they were extracted from
        path: .parquet, which :func:`read_features` reads, .csv, or .npz, with an array "features"
            (n_segments, n_features), its "names", and an array for each other column

    Raises:
        ManifestError: another suffix
    """
    path = check_suffix(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    known = _describe(features, scanned)
    if path.suffix.lower() == ".npz":
        # "file" is what numpy calls its own argument.
        columns = {"file_" if k == "file" else str(k): _array(v) for k, v in known.items()}
        arrays = {"features": features.values, "names": np.array(features.names)}
        write: Any = np.savez_compressed  # of which the types want no arrays by name
        with path.open("wb") as file:
            write(file, **columns | arrays)
        return
    table = pd.concat([known, pd.DataFrame(features.values, columns=list(features.names))], axis=1)
    if path.suffix.lower() == ".csv":
        table.to_csv(path, index=False, encoding="utf-8", lineterminator="\n")
        return
    told = {key: getattr(features, key) for key in _TOLD} | {"n_features": len(features.names)}
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    arrow = arrow.replace_schema_metadata(
        {**arrow.schema.metadata, _META: json.dumps(told).encode()}
    )
    pq.write_table(arrow, path)


def _array(column: "pd.Series[Any]") -> npt.NDArray[Any]:
    """Text as text: what is pickled would run code when it is read."""
    array = column.to_numpy()
    return array if array.dtype.kind in "biuf" else column.astype(str).to_numpy(str)


def check_suffix(path: Path) -> Path:
    """Raise ManifestError where features cannot be written to such a file."""
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ManifestError(
            f"{path}: features cannot be written as {path.suffix!r}; allowed: "
            f"{', '.join(SUFFIXES)}; choose another name"
        )
    return path


def _describe(features: Features, scanned: pd.DataFrame) -> pd.DataFrame:
    """(n_segments,): which segment each row is, and what the manifest says of its recording."""
    taken = {*_OWN, *features.names}
    others = [name for name in scanned if name not in taken]
    rows = scanned[["path", *others]].iloc[features.file_index].reset_index(drop=True)
    for at, name in enumerate(("file_index", "start", "end"), 1):
        rows.insert(at, name, getattr(features, name))
    return rows


def read_features(path: Path) -> Features:
    """Read what :func:`write_features` wrote as .parquet.

    Raises:
        ManifestError: no such file, or none that was written so
    """
    try:
        arrow = pq.read_table(path)
        told = json.loads(arrow.schema.metadata[_META])
    except (OSError, pa.ArrowInvalid, KeyError, TypeError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else "not a table of them"
        raise ManifestError(
            f"{path}: features cannot be read: {reason}; allowed: a .parquet file of "
            "deepspectrumlite extract; extract them again"
        ) from None
    table = arrow.to_pandas()
    names = tuple(table.columns[-told.pop("n_features") :])
    columns = {name: table[name].to_numpy() for name in ("file_index", "start", "end")}
    return Features(table[list(names)].to_numpy(np.float32), names, **columns, **told)


def extract_manifest(
    kind: str,
    recipe: Recipe,
    manifest: Path,
    out: Path,
    *,
    layer: str = "",
    model: Classifier | None = None,
    skip_bad: bool = False,
    device: str = "auto",
    progress: Progress = silent,
) -> tuple[Features, pd.DataFrame]:
    """Extract and write the features of a list or folder of recordings.

    Args:
        kind: as of :func:`extract`, like recipe, layer, model, device and progress
        recipe: all settings
        manifest: as of :func:`deepspectrumlite.datasets.read.load_corpus`; labels are not a must
        out: as of :func:`write_features`
        layer: of a network
        model: a trained model
        skip_bad: leave bad recordings out instead of raising
        device: where the network runs
        progress: told of every recording and batch

    Returns:
        the features, and the recordings left out, with ``path`` and ``reason``
    """
    check_suffix(out)
    recipe = model.recipe if model is not None else recipe
    table = _load(Path(manifest), recipe)
    scanned, skipped = scan(
        table,
        recipe.data,
        skip_bad=skip_bad,
        progress=lambda done, total: progress("checking recordings", done, total),
    )
    features = extract(
        kind, recipe, scanned, layer=layer, model=model, device=device, progress=progress
    )
    write_features(features, scanned, out)
    return features, skipped


def _load(manifest: Path, recipe: Recipe) -> pd.DataFrame:
    """A table with labels where there are any: in a file, or as the names of sub-folders."""
    data, many = recipe.data, recipe.model.output == "sigmoid"
    separator = data.separator if many else None
    has_classes = manifest.is_dir() and not any(map(is_recording, manifest.iterdir()))
    return load_corpus(manifest, data, need_labels=has_classes, separator=separator)

"""Data sets in the format of Hugging Face `datasets`, in a folder on this machine.

Layout (https://huggingface.co/docs/datasets): what ``save_to_disk`` wrote, or a folder of Parquet
files named by split (``data/train-00000-of-00001.parquet``), as the Hub keeps them and
``hf download --repo-type dataset ORG/NAME --local-dir FOLDER`` fetches them. Nothing is downloaded
here.

The recordings are the column ``audio``, or the first one of that type. They mostly lie inside of
the data set; then they are written out as files, each once, to ``FOLDER-audio`` beside it. Class
labels become their names. The splits train, validation and test are kept; a data set of a single
split counts as one without. ``group`` is the first of ``GROUPS`` that is there.

Tested on data sets that the package itself wrote; those of the Hub could not be had.
"""

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from deepspectrumlite.audio import AUDIO_EXTENSIONS
from deepspectrumlite.config import DataSection
from deepspectrumlite.datasets.layout import count_left_out, refuse
from deepspectrumlite.errors import ManifestError, MissingExtraError

GROUPS = ("group", "speaker_id", "speaker", "client_id")
SPLITS = {"train": "train", "validation": "devel", "valid": "devel", "dev": "devel", "test": "test"}
# Columns with another meaning here; what a data set says of parts is of recordings cut already.
TAKEN = ("path", "split", "start", "end")
MAGIC = {b"RIFF": ".wav", b"fLaC": ".flac", b"OggS": ".ogg", b"FORM": ".aiff"}


def read(folder: Path, data: DataSection) -> pd.DataFrame:
    """Columns path, those of the data set that are text, numbers or class labels, split, group.

    Rows without a target are left out, and counted.

    Raises:
        ManifestError: no data set, no column of audio, another split, or a recording is missing
        MissingExtraError: without the package datasets
    """
    parts = _load(folder)
    unknown = [name for name in parts if name not in SPLITS]
    if unknown and len(parts) > 1:
        refuse(
            folder,
            "a data set with splits",
            f"the split {unknown[0]!r}",
            f"{', '.join(SPLITS)}, or a single one of any name",
        )
    rows: list[dict[str, Any]] = []
    left_out = 0
    for name, dataset in parts.items():
        split = {"split": SPLITS[name]} if len(parts) > 1 else {}
        found = list(_rows(dataset, name, folder, data))
        rows += [row | split for row in found if row is not None]
        left_out += found.count(None)
    table = count_left_out(pd.DataFrame(rows, dtype=object), {"no target": left_out})
    given = [name for name in GROUPS if name in table]
    return table.assign(group=table[given[0]]) if given else table


def _load(folder: Path) -> dict[str, Any]:
    """The parts of a data set, by the names of its splits; of one without, "all"."""
    try:
        import datasets
    except ModuleNotFoundError:
        raise MissingExtraError("datasets", f"reading {folder}", "datasets") from None
    path = str(folder.absolute())
    saved = any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))
    try:
        found = datasets.load_from_disk(path) if saved else _stream(path)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        refuse(
            folder,
            "a data set",
            reason,
            "what save_to_disk wrote, or Parquet files like data/train-00000-of-00001.parquet",
        )
    return dict(found) if isinstance(found, dict) else {"all": found}


def _stream(path: str) -> Any:
    """The data set row by row, so that Parquet is not copied to a cache first."""
    from datasets import load_dataset

    # It wants such a folder for a lock, which nobody needs later.
    with tempfile.TemporaryDirectory() as cache:
        return load_dataset(path, streaming=True, cache_dir=cache)


def _rows(
    dataset: Any, name: str, folder: Path, data: DataSection
) -> Iterator[dict[str, Any] | None]:
    """The cells of each row; None for one without a target."""
    from datasets import Audio

    features = dataset.features or {}
    audio = [column for column, kind in features.items() if isinstance(kind, Audio)]
    if not audio:
        refuse(
            folder,
            "a data set of recordings",
            f"no column of type Audio, only {', '.join(features)}",
            "cast_column(NAME, Audio()) before it is saved",
        )
    chosen = "audio" if "audio" in audio else audio[0]
    readers = {
        column: reader
        for column, kind in features.items()
        if column not in TAKEN and (reader := _reader(kind)) is not None
    }
    # As bytes, so that decoding is ours, and needs no torchcodec.
    for i, row in enumerate(dataset.cast_column(chosen, Audio(decode=False))):
        values = {column: reader(row[column]) for column, reader in readers.items()}
        if any(values.get(target, "") is None for target in data.targets):
            yield None
        else:
            yield {"path": _path(row[chosen], f"{name}-{i:06d}", folder), **values}


def _reader(kind: Any) -> Callable[[Any], Any] | None:
    """What makes a cell of a manifest of a value; None: a column that is not for one."""
    from datasets import ClassLabel, Value

    if isinstance(kind, ClassLabel):
        # -1 where a label is hidden.
        return lambda value: None if value is None or value < 0 else kind.int2str(value)
    if isinstance(kind, Value):
        return None if kind.dtype in ("binary", "large_binary") else lambda value: value
    inner = kind[0] if isinstance(kind, list) else getattr(kind, "feature", None)
    if isinstance(inner, ClassLabel):
        return lambda value: None if value is None else [inner.int2str(each) for each in value]
    is_text = isinstance(inner, Value) and inner.dtype == "string"
    return (lambda value: value) if is_text else None


def _path(recording: dict[str, Any] | None, name: str, folder: Path) -> str:
    """Where a recording is, or was written to.

    Its digest is in the name: a data set that is made anew finds no file of another one.
    """
    given = str((recording or {}).get("path") or "")
    content = (recording or {}).get("bytes")
    if content is None:
        path = folder.absolute() / given
        if not given or not path.is_file():
            raise ManifestError(
                f"{folder}: {name}: neither a recording in the data set nor a file, {given!r}; "
                "mend or remove that row"
            )
        return str(path)
    suffix = Path(given).suffix.lower()
    if suffix not in AUDIO_EXTENSIONS:
        suffix = MAGIC.get(bytes(content[:4]), ".mp3")
    beside = folder.absolute().with_name(f"{folder.absolute().name}-audio")
    path = beside / f"{name}-{hashlib.sha256(content).hexdigest()[:12]}{suffix}"
    try:
        _write_once(path, content)
    except OSError as error:
        raise ManifestError(
            f"{beside}: recordings of the data set cannot be written there: {error.strerror}; move "
            "the data set to where there is room, and you may write"
        ) from error
    return str(path)


def _write_once(path: Path, content: bytes) -> None:
    if path.is_file() and path.stat().st_size == len(content):
        return
    path.parent.mkdir(exist_ok=True)
    # By another name first: a file that is there is whole.
    partial = path.with_name(f"{path.name}.partial")
    partial.write_bytes(content)
    partial.replace(path)

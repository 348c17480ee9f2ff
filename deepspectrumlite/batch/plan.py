"""What a batch is: which rows, in which parts, by which model; written so that it can go on.

A folder of results holds ``part-00000.parquet`` and so on, of a fixed number of manifest rows each;
``_plan.parquet``, the manifest with a row group for each part, so that any worker gets the rows of
its part without the rest; and ``_batch.json``, what was asked for. What begins with an underscore
is not seen by who reads the folder as a data set.
"""

import hashlib
import io
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from deepspectrumlite import __version__
from deepspectrumlite.batch.places import Folder
from deepspectrumlite.batch.rows import Row, read_rows
from deepspectrumlite.errors import ManifestError
from deepspectrumlite.predict import FILES, model_folder
from deepspectrumlite.progress import Progress, silent

PLAN, BATCH = "_plan.parquet", "_batch.json"
# What has to be the same for finished parts to be those of this batch.
_SAME = ("what", "part_rows", "settings", "model_digest", "manifest_digest")
_OWN = ("path", "start", "end", "error")
_BROKEN = "choose another --out, or remove the folder to begin anew"


@dataclass(frozen=True)
class Asked:
    """What to do with each recording: ``what`` is the command, ``settings`` plain JSON values."""

    what: str
    model: str
    model_digest: str
    settings: Mapping[str, Any]
    columns: Sequence[str]
    keep_others: bool = False


@dataclass(frozen=True)
class Batch:
    """What stands in ``_batch.json``; ``rows`` are those of the manifest, ``columns`` of parts."""

    what: str
    manifest: str
    manifest_digest: str
    model: str
    model_digest: str
    settings: Mapping[str, Any]
    rows: int
    part_rows: int
    parts: int
    columns: Sequence[str]
    version: str = __version__


def part_name(part: int) -> str:
    """File of a part.

    >>> part_name(7)
    'part-00007.parquet'
    """
    return f"part-{part:05d}.parquet"


def model_files(model: Path) -> dict[str, bytes]:
    """The content of what makes a model, by name: an exported file, or the files of a folder.

    Raises:
        ModelError: there is none
    """
    if model.is_file():
        return {model.name: model.read_bytes()}
    folder = model_folder(model)
    return {name: (folder / name).read_bytes() for name in FILES}


def digest_files(files: Mapping[str, bytes]) -> str:
    """BLAKE2b of a model's files, as hexadecimal; how an exported file is called does not matter.

    >>> digest_files({"a.tflite": b"x"}) == digest_files({"b.tflite": b"x"})
    True
    """
    digest = hashlib.blake2b(digest_size=16)
    for content in files.values():
        digest.update(hashlib.blake2b(content).digest())
    return digest.hexdigest()


def make_plan(
    manifest: str, out: Folder, asked: Asked, part_rows: int, progress: Progress = silent
) -> tuple[Batch, list[int]]:
    """Read the manifest, and write down what is to be done, or check that it is what was begun.

    Memory does not grow with the manifest, but for its smaller half: the footer of the plan.

    Returns:
        the batch, and the numbers of the parts that are missing

    Raises:
        ManifestError: no rows in it; or the folder holds parts of something else
    """
    names = out.names()
    begun = out.read(BATCH)
    if begun is None and any(name.startswith("part-") for name in names):
        raise ManifestError(
            f"{out.place}: parts of an unknown batch, without {BATCH}; choose another --out"
        )
    with tempfile.TemporaryDirectory(prefix="deepspectrumlite-") as folder:
        path = Path(folder) / PLAN
        rows, digest = _write_plan(manifest, path, part_rows, asked.keep_others, progress)
        batch = Batch(
            asked.what,
            manifest,
            digest,
            asked.model,
            asked.model_digest,
            asked.settings,
            rows,
            part_rows,
            -(-rows // part_rows),
            list(asked.columns),
        )
        if begun is None:
            with path.open("rb") as plan:
                out.write(PLAN, plan)
            text = json.dumps(asdict(batch), indent=2, ensure_ascii=False)
            # A name that is not UTF-8 is escaped as JSON has it.
            content = text.encode(errors="backslashreplace")
            out.write(BATCH, io.BytesIO(content))
    if begun is not None:
        _check_same(out.place, batch, _parse(out.place, begun))
    return batch, [part for part in range(batch.parts) if part_name(part) not in names]


def _parse(place: str, begun: bytes) -> Mapping[str, Any]:
    try:
        values = json.loads(begun)
    except ValueError as error:
        values = f"not JSON: {error}"
    if not isinstance(values, dict):
        raise ManifestError(f"{place}: its {BATCH} is broken ({values}); {_BROKEN}")
    return values


def _check_same(place: str, batch: Batch, begun: Mapping[str, Any]) -> None:
    for name in _SAME:
        wanted, found = json.loads(json.dumps(getattr(batch, name))), begun.get(name)
        if wanted != found:
            what = name.removesuffix("_digest")
            raise ManifestError(
                f"{place}: begun with another {what} ({begun.get(what)}, not "
                f"{getattr(batch, what)}{', whose content differs' if what != name else ''}); "
                "allowed: the same again, to go on; else choose another --out"
            )


def _write_plan(
    manifest: str, path: Path, part_rows: int, keep_others: bool, progress: Progress
) -> tuple[int, str]:
    """Write the plan, a row group for each part; returns the number of rows, and their digest."""
    if part_rows < 1:
        raise ManifestError(f"--part-rows is {part_rows}; allowed: at least 1")
    digest = hashlib.blake2b(digest_size=16)
    rows = map(_as_utf8, read_rows(manifest))
    chunk = list(islice(rows, part_rows))
    if not chunk:
        raise ManifestError(f"{manifest}: no recordings in it; add at least one")
    others = [name for name in chunk[0].others if name not in _OWN] if keep_others else []
    kinds = [pa.string(), pa.float64(), pa.float64(), pa.string()]
    kinds += [pa.string()] * len(others)
    schema = pa.schema(list(zip([*_OWN, *others], kinds, strict=True)))
    done = 0
    with pq.ParquetWriter(path, schema) as writer:
        while chunk:
            table = pa.Table.from_pydict(_columns(chunk, others), schema)
            digest.update(json.dumps(table.to_pydict()).encode())
            writer.write_table(table, row_group_size=part_rows)
            done += len(chunk)
            progress("reading the manifest", done, done)
            chunk = list(islice(rows, part_rows))
    return done, digest.hexdigest()


def _as_utf8(row: Row) -> Row:
    """With what Parquet can hold; a row whose path is not UTF-8 is a bad one."""
    # Most are ASCII, of which there may be millions.
    if all(text.isascii() for text in (row.path, row.error, *row.others.values()) if text):
        return row
    path, error = _escape(row.path), _escape(row.error)
    if path != row.path and not error:
        error = f"{path}: the name is not UTF-8; rename the recording"
    others = {name: value and _escape(value) for name, value in row.others.items()}
    return replace(row, path=path, error=error, others=others)


def _escape(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()


def _columns(chunk: Sequence[Row], others: Sequence[str]) -> dict[str, list[Any]]:
    own = {name: [getattr(row, name) for row in chunk] for name in _OWN}
    return own | {name: [row.others.get(name) for row in chunk] for name in others}


class Rows:
    """The rows of each part, from the plan in the folder of a batch."""

    def __init__(self, out: Folder) -> None:
        self._out = out
        try:
            self._file = pq.ParquetFile(out.open(PLAN))
        except FileNotFoundError:
            raise ManifestError(
                f"{out.place}: a worker sees no {PLAN} there; give --out a folder that all "
                "machines share, or one on an object store"
            ) from None
        except (pa.ArrowException, OSError) as error:
            raise self._broken(error) from None

    def part(self, part: int) -> list[Row]:
        """Its rows, in order."""
        try:
            return list(self._read(part))
        except (pa.ArrowException, OSError) as error:
            raise self._broken(error) from None

    def _read(self, part: int) -> Iterator[Row]:
        for values in self._file.read_row_group(part).to_pylist():
            own = {name: values.pop(name) for name in _OWN}
            yield Row(**own, others=values)

    def _broken(self, error: Exception) -> ManifestError:
        reason = " ".join(str(error).split())
        return ManifestError(f"{self._out.place}: its {PLAN} is broken ({reason}); {_BROKEN}")

"""Files and folders by a path or a URI, on this machine, a shared folder or an object store.

A URI is ``scheme://bucket/key``, with the key as it is, not percent-encoded, and where wanted with
``?options`` of the file system behind it, as ``pyarrow.fs.FileSystem.from_uri`` takes them.
"""

import os
import re
import shutil
import socket
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote

from deepspectrumlite.errors import AudioError, DeepSpectrumLiteError, ManifestError

_URI = re.compile(r"([a-z][a-z0-9+.-]+)://([^/?]*)([^?]*)(\?.*)?", re.DOTALL)
_BLOCK_BYTES = 2**22
# Nobody is at a file still that was last written to a day ago.
_OLD_SECONDS = 86400


def is_uri(text: str) -> bool:
    """Whether it is an address on a file system of pyarrow, not a path.

    >>> is_uri("s3://bucket/a.wav"), is_uri("/data/a.wav"), is_uri("C:/data/a.wav")
    (True, False, False)
    """
    # Most are paths, of which there may be millions.
    return "://" in text and _URI.fullmatch(text) is not None


def join(folder: str, name: str) -> str:
    """A path or URI inside a folder, unless the name is absolute itself.

    >>> join("s3://bucket/corpus?region=x", "a b.wav"), join("s3://bucket", "gs://other/a.wav")
    ('s3://bucket/corpus/a b.wav?region=x', 'gs://other/a.wav')
    >>> join("/data", "../a.wav"), join("/data", "/b.wav")
    ('/a.wav', '/b.wav')
    """
    if is_uri(name):
        return name
    found = _URI.fullmatch(folder) if "://" in folder else None
    if found is None or os.path.isabs(name):  # noqa: PTH117
        # Not pathlib, which keeps each part of every path that it ever saw.
        return os.path.normpath(os.path.join(folder, name))  # noqa: PTH118
    scheme, bucket, key, options = found.groups("")
    return f"{scheme}://{bucket}{key.rstrip('/')}/{name}{options}"


def parent(place: str) -> str:
    """The folder that a path or URI stands in.

    >>> parent("s3://bucket/corpus/labels.csv?region=x")
    's3://bucket/corpus?region=x'
    """
    found = _URI.fullmatch(place)
    if found is None:
        return os.path.normpath(Path(place).absolute().parent)
    scheme, bucket, key, options = found.groups("")
    return f"{scheme}://{bucket}{key.rpartition('/')[0]}{options}"


def own_path(place: str) -> Path | None:
    """The path of what this machine can open as a file; None: it stands on an object store."""
    found = _URI.fullmatch(place)
    if found is None:
        return Path(place)
    return Path(unquote(found[3])) if found[1] == "file" else None


@lru_cache
def _file_system(address: str) -> Any:
    from pyarrow import ArrowException, fs

    try:
        return fs.FileSystem.from_uri(address)[0]
    except (ArrowException, OSError) as error:
        raise ManifestError(
            f"{address}: not a place that can be opened ({_one_line(error)}); allowed: a path, or "
            "a URI with s3://, gs://, hdfs:// or file://"
        ) from None


def _store(place: str) -> tuple[Any, str]:
    """The object store, and bucket/key on it."""
    found = _URI.fullmatch(place)
    assert found is not None, f"{place} is a path"
    scheme, bucket, key, options = found.groups("")
    return _file_system(f"{scheme}://{bucket}{options}"), bucket + key


@contextmanager
def local_file(place: str) -> Iterator[Path]:
    """The file on this machine: as it is, or copied from an object store for as long as needed.

    Messages of our errors inside name the place, not the copy.

    Raises:
        AudioError: it cannot be had from the object store
    """
    own = own_path(place)
    if own is not None:
        yield own
        return
    file_system, key = _store(place)
    with tempfile.TemporaryDirectory(prefix="deepspectrumlite-") as folder:
        # The extension tells decoders and readers what it is.
        copy = Path(folder) / f"copy{Path(key).suffix}"
        try:
            with file_system.open_input_stream(key) as source, copy.open("wb") as target:
                shutil.copyfileobj(source, target, _BLOCK_BYTES)
        except OSError as error:
            missing = isinstance(error, FileNotFoundError)
            reason = "no such file" if missing else f"cannot be read ({_one_line(error)})"
            raise AudioError(f"{place}: {reason}; check the address") from None
        try:
            yield copy
        except DeepSpectrumLiteError as error:
            raise AudioError(str(error).replace(str(copy), place)) from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


@dataclass(frozen=True)
class Folder:
    """A folder of results, whose files are written whole or not at all.

    ``run`` tells apart what several commands write there; copies in other processes keep it.
    """

    place: str
    run: str = field(default_factory=lambda: uuid.uuid4().hex[:16], compare=False)

    def check(self) -> None:
        """Raise ManifestError where it cannot be a folder, for there is a file."""
        own = own_path(self.place)
        for path in (own, *own.parents) if own is not None else ():
            if path.exists() and not path.is_dir():
                raise ManifestError(
                    f"{self.place}: {path} is a file; give --out a folder, a new one or one to go "
                    "on with"
                )

    def read(self, name: str) -> bytes | None:
        """The content of a file in it; None: there is none."""
        own = own_path(self.place)
        try:
            if own is not None:
                return (own / name).read_bytes()
            file_system, key = _store(self.place)
            with file_system.open_input_stream(f"{key}/{name}") as file:
                content: bytes = file.read()
                return content
        except FileNotFoundError:
            return None

    def open(self, name: str) -> Any:
        """A file in it, open to be read at any position."""
        own = own_path(self.place)
        if own is not None:
            return (own / name).open("rb")
        file_system, key = _store(self.place)
        return file_system.open_input_file(f"{key}/{name}")

    def write(self, name: str, content: BinaryIO) -> None:
        """Write a file whole: by renaming it, or as one object."""
        own = own_path(self.place)
        if own is None:
            file_system, key = _store(self.place)
            with file_system.open_output_stream(f"{key}/{name}") as file:
                shutil.copyfileobj(content, file, _BLOCK_BYTES)
            return
        own.mkdir(parents=True, exist_ok=True)
        # Hidden, so that who reads the folder as a data set does not see it.
        writer = f"{self.run}.{socket.gethostname()}.{uuid.uuid4().hex[:16]}"
        unfinished = own / f".{name}.{writer}"
        try:
            with unfinished.open("wb") as file:
                shutil.copyfileobj(content, file, _BLOCK_BYTES)
            unfinished.replace(own / name)
        finally:
            unfinished.unlink(missing_ok=True)

    def names(self) -> set[str]:
        """Of all files in it; none where there is no such folder."""
        own = own_path(self.place)
        if own is not None:
            return {entry.name for entry in os.scandir(own)} if own.is_dir() else set()
        from pyarrow import fs

        file_system, key = _store(self.place)
        found = file_system.get_file_info(fs.FileSelector(key, allow_not_found=True))
        return {info.base_name for info in found if info.type == fs.FileType.File}

    def clear_unfinished(self) -> None:
        """Remove what killed workers of this run left half written, and what is a day old.

        The rest may belong to another command that writes to the same folder now.
        """
        own = own_path(self.place)
        for path in own.glob(".part-*.parquet.*") if own is not None else []:
            with suppress(FileNotFoundError):
                is_own = f".parquet.{self.run}." in path.name
                if is_own or time.time() - path.stat().st_mtime > _OLD_SECONDS:
                    path.unlink()

    def recordings(self) -> Iterator[str]:
        """Paths or URIs of all recordings in it and below, in order."""
        from deepspectrumlite.audio import AUDIO_EXTENSIONS

        own = own_path(self.place)
        for name in _names_below(own, "") if own is not None else self._keys_below():
            last = name.rpartition("/")[2]
            if Path(last).suffix.lower() in AUDIO_EXTENSIONS and not last.startswith("."):
                yield join(self.place if own is None else str(own.absolute()), name)

    def _keys_below(self) -> list[str]:
        from pyarrow import fs

        file_system, key = _store(self.place)
        found = file_system.get_file_info(fs.FileSelector(key, recursive=True))
        files = (info.path for info in found if info.type == fs.FileType.File)
        return sorted((path.removeprefix(f"{key.rstrip('/')}/") for path in files), key=_parts)


def _parts(name: str) -> list[str]:
    return name.split("/")


def _names_below(folder: Path, prefix: str) -> Iterator[str]:
    """Files in the order of their parts, one folder in memory at a time."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_dir(follow_symlinks=False):
            yield from _names_below(Path(entry.path), f"{prefix}{entry.name}/")
        elif entry.is_file():
            yield prefix + entry.name

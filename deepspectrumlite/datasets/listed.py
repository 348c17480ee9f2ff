"""The recordings that the lists of a corpus name."""

from collections.abc import Sequence
from pathlib import Path

from deepspectrumlite.audio import find_audio
from deepspectrumlite.errors import ManifestError


def find_listed(folder: Path, names: Sequence[str]) -> list[str]:
    """(n_files,): the absolute path of each named recording, in a folder or below it.

    A list may leave out the extension, or write a name in another case than the disk: packages
    were made on systems that do not mind.

    Raises:
        ManifestError: recordings are missing; names the first, and how many
    """
    found: dict[str, str] = {}
    for path in find_audio(folder):
        for name in (path.name, path.stem):
            found.setdefault(name.lower(), str(path.absolute()))
    missing = [name for name in names if name.lower() not in found]
    if missing:
        raise ManifestError(
            f"{folder}: {missing[0]} is listed but not there, and so are {len(missing) - 1} more "
            f"of {len(names)}; needed: all recordings of the corpus; unpack it whole, or give a "
            "CSV manifest of those that you have"
        )
    return [found[name.lower()] for name in names]

"""The packages of the Computational Paralinguistics Challenges (ComParE) of 2017 to 2021.

``wav/`` holds all recordings, named after their split (``train_001.wav``, ``devel_...``,
``test_...``); ``lab/`` lists them with their labels, ``?`` where these are kept secret. From the
baseline scripts that the organisers published (github.com/EIHW/ComParE2021), public code for the
package of 2017 (github.com/vespero89/Snoring_Challenge, utils/dataset_manupulation.py) and memory
of that of 2019; no package was at hand, so none of it is verified against one. No list says who
speaks: that no speaker is in two splits is what the organisers say, not checked.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from deepspectrumlite.datasets.layout import compare_count, leave_out, refuse
from deepspectrumlite.datasets.listed import find_listed
from deepspectrumlite.errors import ManifestError

SPLITS = ("train", "devel", "test")
HIDDEN = "?"


@dataclass(frozen=True)
class Package:
    """What a package is called and where its labels stand.

    Attributes:
        name: of the folder that it unpacks to
        lists: below ``lab``, all needed; with a header, a column for the file and one for the label
        n_files: recordings in all, with those whose label is kept secret, as the paper counts them
        answers: a list, where it is there, with labels of the test recordings; in ``lab`` or up to
            two folders above it
    """

    name: str
    lists: tuple[str, ...]
    n_files: int
    answers: str = ""


def read_package(folder: Path, package: Package) -> pd.DataFrame:
    """The recordings with a label, as the package writes it.

    Returns:
        ``path`` (absolute), ``label``, ``split``, and ``group``, which is empty

    Raises:
        ManifestError: another layout, or recordings are missing
    """
    root = _find_root(folder, package)
    lists = [_read_list(root / "lab" / name) for name in package.lists]
    table = _add_answers(pd.concat(lists, ignore_index=True), root, package)
    table["split"] = table["file"].str.partition("_")[0].str.lower()
    strange = table.loc[~table["split"].isin(SPLITS), "file"]
    if len(strange):
        raise ManifestError(
            f"{root / 'lab'}: the recording {strange.iloc[0]} is in no split; needed: names that "
            "begin with train_, devel_ or test_; mend the list"
        )
    table = compare_count(table, len(table), package.n_files)
    table = leave_out(table, table["label"] == HIDDEN, "label kept secret")
    paths = find_listed(root / "wav", table["file"].tolist())
    return table.assign(path=paths, group="")[["path", "label", "split", "group"]]


def name_labels(table: pd.DataFrame, names: Mapping[str, str]) -> pd.DataFrame:
    """Give the labels their names.

    Raises:
        ManifestError: a label without one
    """
    strange = table[~table["label"].isin(list(names))]
    if len(strange):
        path, label = strange.iloc[0][["path", "label"]]
        raise ManifestError(
            f"{path}: the corpus labels it {label!r}; allowed: {', '.join(names)}; mend its list, "
            "or give a CSV manifest"
        )
    return table.assign(label=table["label"].map(dict(names)))


def _read_list(path: Path) -> pd.DataFrame:
    """``file`` and ``label`` of a list, separated by tabs (``.tsv``) or commas.

    The file's column is called ``filename`` or ``file_name``; the label's ``label``, or as the
    task is, and then it follows.

    Raises:
        ManifestError: no such list, or one without these columns
    """
    try:
        table = pd.read_csv(
            path,
            sep="\t" if path.suffix == ".tsv" else ",",
            dtype=str,
            keep_default_na=False,
            encoding="utf-8-sig",
        )
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ManifestError(
            f"{path}: cannot be read ({reason}); needed: a list of recordings and their labels; "
            "unpack the package whole"
        ) from error
    names = [str(name).strip() for name in table]
    files = next((i for i, name in enumerate(names) if name in ("filename", "file_name")), -1)
    labels = names.index("label") if "label" in names else files + 1
    if files < 0 or labels >= len(names):
        refuse(
            path,
            "a list of ComParE",
            f"its columns are {', '.join(names)}",
            "filename (or file_name), and label",
        )
    columns = {"file": table.iloc[:, files], "label": table.iloc[:, labels]}
    return pd.DataFrame({name: column.str.strip() for name, column in columns.items()})


def _find_root(folder: Path, package: Package) -> Path:
    """The folder that holds ``wav`` and ``lab``."""
    places = ("", "dist", package.name, f"{package.name}/dist")
    roots = [p for p in (folder / place for place in places) if _is_root(p)]
    if not roots:
        refuse(
            folder,
            package.name,
            f"no folders wav and lab in it, nor in {', '.join(places[1:])}",
            f"wav/train_... and {', '.join(f'lab/{name}' for name in package.lists)}",
        )
    return roots[0]


def _is_root(folder: Path) -> bool:
    return (folder / "wav").is_dir() and (folder / "lab").is_dir()


def _add_answers(table: pd.DataFrame, root: Path, package: Package) -> pd.DataFrame:
    """Fill in hidden labels, where the list with the answers is there.

    Raises:
        ManifestError: the list gives a recording two labels
    """
    places = [root / "lab", root, *root.absolute().parents[:2]]
    # Without a name for it this is the place itself, which is no file.
    found = [place / package.answers for place in places if (place / package.answers).is_file()]
    if not found:
        return table
    answers = _read_list(found[0]).drop_duplicates()
    twice = answers[answers.duplicated("file", keep=False)]
    if len(twice):
        name = twice["file"].iloc[0]
        labels = twice.loc[twice["file"] == name, "label"]
        raise ManifestError(
            f"{found[0]}: {name} is labelled {' and '.join(map(repr, labels))}; allowed: one label "
            "for each recording; remove the wrong row"
        )
    known = table["file"].map(answers.set_index("file")["label"]).fillna(HIDDEN)
    return table.assign(label=table["label"].where(table["label"] != HIDDEN, known))

"""Folds: the same recordings as train, devel and test several times, for every system alike.

Each fold is a manifest of its own with the column ``split``, so that any command can use it.
"""

import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd

from deepspectrumlite.checkpoint import write_atomically
from deepspectrumlite.config import Recipe
from deepspectrumlite.data import Measurement
from deepspectrumlite.errors import ManifestError
from deepspectrumlite.manifest import fail, load_manifest, write_manifest
from deepspectrumlite.splits import find_units, make_devel, require_splits
from deepspectrumlite.targets import Targets, check_labelled_splits, find_targets

FOLDER = "folds"
# Written last, so that a folder with it is whole; it holds how the folds were made.
MARK = "made-by.txt"


def make_folds(
    scanned: pd.DataFrame, scheme: str, recipe: Recipe, *, allow_group_overlap: bool = False
) -> dict[str, pd.DataFrame]:
    """Divide recordings into folds.

    Groups stay together, and the devel of each fold is drawn from what its test leaves over, so
    that every choice is made without the test. The order of the rows is of no effect.

    Args:
        scanned: recordings, as of :func:`deepspectrumlite.data.scan`
        scheme: "manifest" (the split that is given, as a single fold), "groups" (leave one group
            out, LOSO where groups are speakers), a number (stratified k-fold with whole groups),
            or "column:NAME" (a fold for each value of a column of the manifest)
        recipe: for the targets, ``data.devel_share`` and ``train.seed``
        allow_group_overlap: with "manifest", whether a group may be in two splits

    Returns:
        the table of each fold by its name, with the column ``split``

    Raises:
        ManifestError: the manifest does not allow such folds
    """
    targets = find_targets(scanned, recipe.data, recipe.model.output)
    if scheme == "manifest":
        _check_given(scanned, targets, allow_group_overlap)
        return {"manifest": scanned}
    strata = targets.strata(scanned)
    held_out = _held_out(scanned.assign(label=strata), scheme, recipe.train.seed)
    names = list(pd.unique(held_out[held_out != ""].sort_values()))
    folds = {}
    for name in names:
        table = scanned.assign(label=strata, split=np.where(held_out == name, "test", "train"))
        # What is in no fold, with "column:NAME", is always trained on.
        drawn = make_devel(table, devel_share=recipe.data.devel_share, seed=recipe.train.seed)
        fold = scanned.assign(split=drawn["split"])
        fold.attrs = {"manifest": f"{scanned.attrs.get('manifest')}, fold {name}"}
        check_labelled_splits(fold, targets)
        folds[name] = fold
    return folds


def write_folds(folds: dict[str, pd.DataFrame], scheme: str, out: Path) -> None:
    """Write a manifest for each fold, in ``out/folds``.

    Raises:
        OSError: that cannot be written
    """
    folder = out / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for unfinished in folder.glob("*.csv"):
        unfinished.unlink()
    for i, (name, table) in enumerate(folds.items(), 1):
        write_manifest(table, folder / f"{i:02d}-{_slug(name)}.csv")
    write_atomically(folder / MARK, lambda file: file.write(f"{scheme}\n".encode()))


def read_folds(out: Path) -> tuple[str, dict[str, Path]] | None:
    """How the folds of an experiment were made, and their manifests by name; None: none are there.

    The name of a fold is that of its file, without its suffix.
    """
    mark = out / FOLDER / MARK
    if not mark.is_file():
        return None
    manifests = sorted(mark.parent.glob("*.csv"))
    return mark.read_text(encoding="utf-8").strip(), {path.stem: path for path in manifests}


def check_same_recordings(scanned: pd.DataFrame, folds: dict[str, Path], out: Path) -> None:
    """Refuse folds that were made of other recordings than these.

    Raises:
        ManifestError: they were
    """
    columns = [name for name in ("path", "start", "end") if name in scanned]

    def rows(table: pd.DataFrame) -> set[tuple[str, ...]]:
        return set(table[columns].astype(str).itertuples(index=False, name=None))

    if not folds:
        raise ManifestError(f"{out / FOLDER}: no fold in it; choose another --out")
    kept = load_manifest(next(iter(folds.values())), need_labels=False)
    missing = [name for name in columns if name not in kept]
    if missing or rows(kept) != rows(scanned):
        raise ManifestError(
            f"{out / FOLDER}: made of {len(kept)} recordings, not of these {len(scanned)}; choose "
            "another --out for another manifest"
        )


def _check_given(scanned: pd.DataFrame, targets: Targets, allow_group_overlap: bool) -> None:
    if "split" not in scanned:
        fail(
            scanned,
            "no column split, so the folds cannot be those of the manifest; allowed: --folds 5 "
            "(any number), groups, or column:NAME; or add the column",
        )
    require_splits(scanned, ["train", "devel", "test"])
    check_labelled_splits(scanned, targets, allow_group_overlap=allow_group_overlap)


def _held_out(table: pd.DataFrame, scheme: str, seed: int) -> "pd.Series[str]":
    """(n_files,): in which fold each recording is tested; empty: in none."""
    if scheme == "groups":
        return _by_group(table)
    if scheme.startswith("column:"):
        return _by_column(table, scheme.removeprefix("column:"))
    if not re.fullmatch(r"[1-9][0-9]*", scheme) or int(scheme) < 2:
        raise ManifestError(
            f"--folds is {scheme!r}; allowed: manifest, groups, a number from 2 on, or column:NAME"
        )
    return _stratified(table, int(scheme), seed)


def _by_group(table: pd.DataFrame) -> "pd.Series[str]":
    if "group" not in table or (table["group"] == "").all():
        fail(
            table,
            "no column group (or nothing in it), so no group can be left out; allowed: --folds 5 "
            "(any number); or add the column",
        )
    # A recording without a group would be a fold of one.
    bare = int((table["group"] == "").sum())
    if bare:
        fail(table, f"{bare} recordings have no group; give each one, or use --folds 5")
    _check_count(table, table["group"], "groups")
    return table["group"]


def _by_column(table: pd.DataFrame, name: str) -> "pd.Series[str]":
    if name not in table:
        measured = {field.name for field in fields(Measurement)}
        given = [str(column) for column in table if column not in measured]
        fail(table, f"no column {name!r} for the folds, only {', '.join(given)}")
    values = table[name].astype("string").fillna("").str.strip().astype(object)
    _check_count(table, values[values != ""], f"values in column {name}")
    torn = values.groupby(find_units(table)).nunique()
    if (torn > 1).any():
        fail(
            table,
            f"group {torn.idxmax()!r} is in {torn.max()} folds of column {name}; allowed: each in "
            "one, or results look too good; mend its rows, or choose another column",
        )
    return values


def _check_count(table: pd.DataFrame, values: "pd.Series[str]", what: str) -> None:
    if values.nunique() < 2:
        fail(table, f"{values.nunique()} {what}; allowed: 2 or more, one for each fold")


def _stratified(table: pd.DataFrame, count: int, seed: int) -> "pd.Series[str]":
    from sklearn.model_selection import StratifiedGroupKFold

    units = find_units(table)
    if units.nunique() < count:
        fail(
            table,
            f"{units.nunique()} groups or recordings for {count} folds; allowed: --folds "
            f"{units.nunique()} at most",
        )
    # Sorted, so that the order of the rows is of no effect.
    keys = [name for name in ("path", "start", "end") if name in table]
    order = table.sort_values(keys).index
    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    found = pd.Series("", index=table.index, dtype=object)
    parts = splitter.split(order, table.loc[order, "label"], units.loc[order])
    for i, (_, test) in enumerate(parts, 1):
        found.loc[order[test]] = f"{i}"
    return found


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.]+", "-", name).strip("-.")[:40] or "fold"

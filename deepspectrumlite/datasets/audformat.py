"""Databases in audEERING's audformat: tables of labels beside recordings, as `audb` fetches them.

Layout (https://audeering.github.io/audformat, version 1.4)::

    db.yaml      schemes, splits, and the tables with their columns
    db.{table}.parquet or .csv      a row for each file, or for each part of a file
    wav/...      the recordings, anywhere below the folder

``audb.load_to("emodb", "emodb", pickle_tables=False)`` makes such a folder. Which tables are read:

1. those with a column ``data.target``;
2. of these, if any tell their split, only they do: by their split's type (train, dev, test), or
   else by such a word in the name, as in emotion.categories.train.gold_standard;
3. these have to be of one family, the name without that word, as emotion.categories.gold_standard.
   Of several, ``data.target`` names one: "emotion.categories.gold_standard/emotion".

``group`` is the column ``speaker`` of these tables, or of a table of whole files. Tables saved as
.pkl are read too, and can run code: give only databases that you trust.

Tested on databases that audformat itself wrote; published ones could not be had.
"""

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from deepspectrumlite.config import DataSection
from deepspectrumlite.datasets.layout import check_there, leave_out, refuse, require
from deepspectrumlite.errors import ManifestError, MissingExtraError

if TYPE_CHECKING:
    from audformat import Database

SPLITS = {"train": "train", "dev": "devel", "devel": "devel", "test": "test"}
Families = dict[str, dict[str, list[str]]]


def read(folder: Path, data: DataSection) -> pd.DataFrame:
    """Columns path, the targets, split, group, start and end (in seconds), others of the tables.

    Rows without a target are left out, and counted.

    Raises:
        ManifestError: no database, no table or several families with the target, or recordings
            are missing
        MissingExtraError: without the package audformat
    """
    try:
        import audformat
    except ModuleNotFoundError:
        raise MissingExtraError("audformat", f"reading {folder}", "audformat") from None
    require(folder, "an audformat database", "db.yaml")
    try:
        database = audformat.Database.load(str(folder.absolute()))
    except Exception as error:  # whatever YAML, or a broken description, raises
        reason = " ".join(str(error).split())
        raise ManifestError(
            f"{folder / 'db.yaml'}: cannot be read: {reason}; load it again"
        ) from error
    columns = [target.rpartition("/")[2] for target in data.targets]
    chosen = _choose(database, folder, data, columns)
    parts = [_rows(database, name).assign(split=split) for split, name in chosen]
    table = pd.concat(parts, ignore_index=True)
    table = leave_out(table, table[columns].isna().any(axis=1), "no target")
    if (table["split"] == "").all():
        table = table.drop(columns="split")
    for target, column in zip(data.targets, columns, strict=True):
        table[target] = table[column]
    table = _with_group(database, table)
    table["path"] = [str(folder.absolute() / name) for name in table["path"]]
    check_there(folder, "its tables", table["path"].unique())
    return table


def _choose(
    database: "Database", folder: Path, data: DataSection, columns: list[str]
) -> list[tuple[str, str]]:
    """Split ("": none) and name of each table to be read."""
    named = {target.rpartition("/")[0] for target in data.targets} - {""}
    families = _families(database, columns)
    if named:
        families = {name: tables for name, tables in families.items() if name in named}
    with_splits = {name: tables for name, tables in families.items() if set(tables) - {""}}
    families = with_splits or families
    if not families or len(named) > 1:
        known = sorted({f"{t}/{c}" for t in database.tables for c in database.tables[t].columns})
        refuse(
            folder,
            "an audformat database with that target",
            f"no table with {' and '.join(data.targets)}",
            f"data.target as a column, or TABLE/COLUMN; its tables have {', '.join(known)}",
        )
    if len(families) > 1:
        choices = ", ".join(f'"{name}/{columns[0]}"' for name in sorted(families))
        raise ManifestError(
            f"{folder}: {columns[0]} is in several tables; allowed as data.target: {choices}; "
            "choose one with --set"
        )
    tables = next(iter(families.values()))
    splits = [split for split in tables if split] or [""]
    return [(split, name) for split in splits for name in tables[split]]


def _families(database: "Database", columns: list[str]) -> Families:
    """Tables with all these columns: their names by family and split ("": none is told)."""
    families: Families = defaultdict(lambda: defaultdict(list))
    for name, table in database.tables.items():
        if not set(columns) <= set(table.columns):
            continue
        parts = name.split(".")
        if table.split_id:
            split = SPLITS.get(str(table.split.type), "")
            words = {table.split_id, str(table.split.type)}
        else:
            split = next((SPLITS[part] for part in parts if part in SPLITS), "")
            words = set(SPLITS)
        family = ".".join(part for part in parts if part not in words) if split else name
        families[family or name][split].append(name)
    return families


def _rows(database: "Database", name: str) -> pd.DataFrame:
    try:
        table: pd.DataFrame = database[name].get().reset_index()
    except Exception as error:  # as above
        reason = " ".join(str(error).split())
        raise ManifestError(
            f"{database.root}: its table {name} cannot be read: {reason}; load it again"
        ) from error
    table = table.astype({c: object for c, kind in table.dtypes.items() if kind == "category"})
    for time in ("start", "end"):
        if time in table:
            table[time] = table[time].dt.total_seconds()
    return table.rename(columns={"file": "path"})


def _with_group(database: "Database", table: pd.DataFrame) -> pd.DataFrame:
    """The speaker as group, where the database tells one."""
    if "speaker" in table:
        return table.assign(group=table["speaker"])
    for name, other in database.tables.items():
        if other.is_filewise and "speaker" in other.columns:
            speakers: Any = database[name]["speaker"].get().astype(object)
            return table.assign(group=speakers.reindex(table["path"]).to_numpy())
    return table

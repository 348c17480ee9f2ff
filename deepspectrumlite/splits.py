"""Training, development and test splits: check those of a manifest, or draw them."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from deepspectrumlite.manifest import fail

# With groups, this many random draws compete, and the most balanced one wins.
_DRAWS = 100


def require_splits(table: pd.DataFrame, names: Sequence[str]) -> None:
    """Raise ManifestError where one of the named splits has no recording."""
    present = set(table["split"]) if "split" in table else set()
    missing = [name for name in names if name not in present]
    if missing:
        fail(
            table,
            f"no recording in {' and '.join(missing)}, only in "
            f"{', '.join(sorted(present)) or 'no split at all'}; needed: {', '.join(names)}; "
            "add such rows, or name another split",
        )


def check_splits(table: pd.DataFrame, *, allow_group_overlap: bool = False) -> None:
    """Check what must hold between splits; without splits there is nothing to check.

    A recording without a group (several rows may be spans of one file) is a group of its own.

    Raises:
        ManifestError: a label of devel or test is not in train, or a group is in two splits and
            that is not allowed
    """
    if "split" not in table:
        return
    train = table["split"] == "train"
    if train.any() and "label" in table:
        unseen = table.loc[~train & ~table["label"].isin(table.loc[train, "label"])]
        if len(unseen):
            label, split = unseen.iloc[0][["label", "split"]]
            fail(
                table,
                f"label {label!r} is in {split} but not in train; allowed: labels that train "
                "has; add such recordings to train, or remove the label",
            )
    if not allow_group_overlap:
        _check_groups(table)


def _check_groups(table: pd.DataFrame) -> None:
    pairs = pd.DataFrame({"unit": find_units(table), "split": table["split"]}).drop_duplicates()
    clashes = pairs[pairs.duplicated("unit", keep=False)]
    if len(clashes):
        unit = clashes["unit"].iloc[0]
        splits = clashes.loc[clashes["unit"] == unit, "split"]
        others = clashes["unit"].nunique() - 1
        fail(
            table,
            f"group {unit!r} is in {' and '.join(splits)}"
            f"{f', and so with {others} more' if others else ''}; allowed: each group in one "
            "split, or results look too good; move its rows, or pass --allow-group-overlap",
        )


def make_splits(
    table: pd.DataFrame, *, devel_share: float, test_share: float, seed: int
) -> pd.DataFrame:
    """Add the column ``split`` where there is none; no group stands in two splits.

    Classes are kept in proportion, as far as groups allow, and all are in train. The result
    depends on the seed and on the set of rows, not on their order. Where the manifest has train
    but not devel, devel is taken from train, see :func:`make_devel`. Else nothing is changed.

    Args:
        table: with the column ``label``
        devel_share: of all recordings, or where train is given, of those in train
        test_share: of all recordings
        seed: of the random draws

    Raises:
        ManifestError: a class has too few recordings or groups for that
    """
    if "split" in table:
        present = set(table["split"])
        makes_devel = "train" in present and "devel" not in present
        return make_devel(table, devel_share=devel_share, seed=seed) if makes_devel else table
    _check_enough(table, 3)
    test = _draw(table, test_share, seed)
    table = table.assign(split=np.where(test, "test", "train"))
    return _take_devel(table, devel_share / (1 - test_share), seed)


def make_devel(table: pd.DataFrame, *, devel_share: float, seed: int) -> pd.DataFrame:
    """Move a share of train to devel, in the manner of :func:`make_splits`."""
    _check_enough(table[table["split"] == "train"], 2)
    return _take_devel(table, devel_share, seed)


def _take_devel(table: pd.DataFrame, share: float, seed: int) -> pd.DataFrame:
    train = table[table["split"] == "train"]
    devel = _draw(train, share, seed)
    split = table["split"].copy()
    split[train.index[devel]] = "devel"
    return table.assign(split=split)


def find_units(table: pd.DataFrame) -> "pd.Series[str]":
    """What must stay in one split: the group, or where there is none, the file."""
    if "group" not in table:
        return table["path"]
    return table["group"].where(table["group"] != "", table["path"])


def _check_enough(table: pd.DataFrame, splits: int) -> None:
    units = find_units(table)
    grouped = "group" in table and bool((table["group"] != "").any())
    what = "groups" if grouped else "recordings"
    advice = f"add {what}, or give the splits yourself in a column split"
    if units.nunique() < splits:
        fail(table, f"{units.nunique()} {what} in all; allowed: {splits} or more; {advice}")
    # Groups may mix classes: two suffice to have a class in train and in another split.
    needed = 2 if grouped else splits
    counts = units.groupby(table["label"]).nunique()
    if counts.min() < needed:
        fail(
            table,
            f"label {counts.idxmin()!r} has {counts.min()} {what}; allowed: {needed} or more to "
            f"be split; {advice}",
        )


def _draw(table: pd.DataFrame, share: float, seed: int) -> npt.NDArray[np.bool_]:
    """Choose the rows of a split: (num_rows,) bool.

    Whole groups are drawn, by turns within each class (of most of their rows) and from all
    groups at once; the former finds every class where groups are pure, the latter balances
    groups that mix classes. scikit-learn's stratified splitters cannot serve here: they refuse
    classes that are smaller than the number of folds, or leave them out of the split.
    """
    units = find_units(table)
    counts = pd.crosstab(units, table["label"])  # sorted: the order of the rows is of no effect
    single = bool((counts.sum(axis=1) == 1).all())
    classes = counts.to_numpy().argmax(axis=1)
    best_cost = np.inf
    best: npt.NDArray[np.int64] | None = None
    for draw in range(1 if single else _DRAWS):
        strata = classes if draw % 2 == 0 else np.zeros_like(classes)
        held = _draw_units(strata, share, seed + draw)
        cost = _imbalance(counts.to_numpy(), held, share)
        if cost < best_cost:
            best_cost, best = cost, held
    if best is None:
        fail(
            table,
            f"no draw of groups out of {len(counts)} leaves every label in train; allowed: each "
            "label in several groups; add groups, or give the splits yourself in a column split",
        )
    return units.isin(counts.index[best]).to_numpy()


def _draw_units(strata: npt.NDArray[np.int64], share: float, seed: int) -> npt.NDArray[np.int64]:
    """Draw a share of each stratum, at least one and never all; (num_drawn,) positions."""
    # Imported here: predicting reads manifests too, but needs no scikit-learn.
    from sklearn.model_selection import train_test_split

    drawn = [np.empty(0, np.int64)]
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        if len(members) > 1:
            size = min(max(1, round(share * len(members))), len(members) - 1)
            drawn.append(train_test_split(members, test_size=size, random_state=seed)[1])
    return np.concatenate(drawn)


def _imbalance(counts: npt.NDArray[np.int64], drawn: npt.NDArray[np.int64], share: float) -> float:
    """How far a draw is from the share, in all and per class; counts: (num_units, num_classes)."""
    total, held = counts.sum(axis=0), counts[drawn].sum(axis=0)
    if (held == total).any() or not held.any():
        return float("inf")
    # A class that the split lacks cannot be judged at all: worse than any disproportion.
    uneven = np.abs(held / total - share).sum() + (held == 0).sum()
    return float(uneven + abs(held.sum() / total.sum() - share))

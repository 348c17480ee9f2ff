"""What is to be learned: from the manifest's target columns to the numbers to be fitted."""

import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from deepspectrumlite.config import DataSection
from deepspectrumlite.datasets.read import load_corpus
from deepspectrumlite.errors import ManifestError
from deepspectrumlite.manifest import fail
from deepspectrumlite.splits import check_splits, find_units

YES, NO = ("1", "1.0", "true", "yes"), ("0", "0.0", "false", "no", "")
# Columns that mean something else, or that scanning and predicting write over.
TAKEN = (
    *("path", "split", "group", "start", "end", "predicted"),
    *("duration", "sample_rate", "channels", "peak", "clipped", "silent", "digest"),
)
# Into as many classes of equal size numbers are put, where splits are drawn or rows counted; each
# needs that many groups for a fifth of it to be drawn.
BINS = 5
LARGEST = float(np.finfo(np.float32).max)
# Groups that a class needs to be in train, devel and test.
SPLITTABLE = 3

Strings: TypeAlias = "pd.Series[str]"


@dataclass(frozen=True)
class Targets:
    """The meaning of the target columns.

    ``output`` is that of the recipe's ``[model]``. ``labels`` are the classes, for "ordinal" from
    low to high; for "linear" the names of the columns.
    """

    output: str
    labels: list[str]
    data: DataSection

    @property
    def values(self) -> list[float]:
        """The number of each label, for "ordinal" only: its own, or its place in ``data.order``."""
        if self.output != "ordinal":
            return []
        return [float(self.data.order.index(x) if self.data.order else x) for x in self.labels]

    def encode(self, table: pd.DataFrame) -> npt.NDArray[np.float32]:
        """(n_rows, n_outputs): 1 for a label that is there and 0 for others, or numbers.

        ``n_outputs`` is 1 for "ordinal", else the number of labels.

        Raises:
            ManifestError: a label that is not among ``labels``, or a number that is none
        """
        if self.output == "linear":
            columns = [_numbers(table, name) for name in self.data.targets]
            return np.stack(columns, axis=1).astype(np.float32)
        if self.output == "sigmoid":
            return self._encode_sets(table)
        index = pd.Index(self.labels).get_indexer(pd.Index(_column(table, self.data)))
        if (index < 0).any():
            row = int((index < 0).argmax())
            self._refuse(table, row, _column(table, self.data).iloc[row])
        if self.output == "ordinal":
            return np.array(self.values, np.float32)[index][:, None]
        return np.eye(len(self.labels), dtype=np.float32)[index]

    def strata(self, table: pd.DataFrame) -> Strings:
        """(n_rows,): one class per row, to draw splits by and to count.

        The label; of several labels the rarest; of numbers, which fifth of them it is in. What is
        too rare to be drawn from, though its labels or numbers are not, is put together.
        """
        if self.output == "linear":
            return _fifths(table, self.data.targets[0])
        if self.output == "sigmoid":
            encoded = self.encode(table)
            rarity = encoded / encoded.sum(axis=0).clip(min=1)
            names = np.array([*self.labels, "(none)"], dtype=object)
            rarest = np.where(encoded.any(axis=1), rarity.argmax(axis=1), len(self.labels))
            strata: Strings = pd.Series(names[rarest], index=table.index, dtype=object)
            return _merge_rare(table, strata, pd.DataFrame(encoded > 0, table.index, self.labels))
        return _column(table, self.data)

    def _encode_sets(self, table: pd.DataFrame) -> npt.NDArray[np.float32]:
        if _are_flags(self.data, self.output):
            columns = [_flags(table, name) for name in self.data.targets]
            return np.stack(columns, axis=1).astype(np.float32)
        encoded = np.zeros((len(table), len(self.labels)), np.float32)
        position = {label: i for i, label in enumerate(self.labels)}
        for row, names in enumerate(_sets(table, self.data)):
            for name in names:
                if name not in position:
                    self._refuse(table, row, name)
                encoded[row, position[name]] = 1
        return encoded

    def _refuse(self, table: pd.DataFrame, row: int, label: str) -> NoReturn:
        fail(
            table,
            f"label {label!r} is unknown to the model; allowed: {', '.join(self.labels)}; mend "
            f"the row of {table['path'].iloc[row]}, or train on that label too",
        )


def load_labelled(source: Path, data: DataSection, output: str) -> pd.DataFrame:
    """As :func:`deepspectrumlite.datasets.read.load_corpus`, with the target columns checked.

    What the reader of a corpus left out is in the table's attrs, for
    :func:`deepspectrumlite.datasets.layout.corpus_notes`.

    Raises:
        ManifestError: a target column is missing, or holds what does not fit the output
    """
    taken = [name for name in data.targets if name in TAKEN]
    if taken:
        raise ManifestError(
            f"{source}: data.target is {taken[0]!r}, a column with a meaning of its own; allowed: "
            f"any but {', '.join(TAKEN)}; give it another name in the manifest"
        )
    many = output == "sigmoid"
    separator = data.separator if many and not _are_flags(data, output) else None
    table = load_corpus(source, data, separator=separator, allow_empty=many)
    if output == "softmax":
        _refuse_mixed(table, data)
    return table


def find_targets(table: pd.DataFrame, data: DataSection, output: str) -> Targets:
    """The labels that occur in a table, in their order.

    Raises:
        ManifestError: too few labels, or labels without an order for "ordinal"
    """
    if _are_flags(data, output) or output == "linear":
        targets = Targets(output, list(data.targets), data)
        encoded = targets.encode(table)  # which refuses what is no number, or neither 0 nor 1
        if output == "sigmoid" and not encoded.any(axis=0).all():
            name = data.targets[int(encoded.any(axis=0).argmin())]
            fail(
                table,
                f"{name} is 0 in every row; allowed: 1 in some; or remove it from data.target",
            )
        return targets
    if output == "sigmoid":
        names = {name for names in _sets(table, data) for name in names}
        if names and names <= {*YES, *NO}:
            column = data.targets[0]
            fail(
                table,
                f"{column} holds only {', '.join(sorted(names))}; allowed: names of labels; for a "
                f"""column of 0 and 1 give a list, as in --set 'data.target=["{column}"]'""",
            )
    else:
        names = set(_column(table, data))
    labels = _in_order(table, names, data) if output == "ordinal" else sorted(names)
    return Targets(output, labels, data)


def check_enough_labels(table: pd.DataFrame, targets: Targets) -> None:
    """Raise ManifestError where there is nothing to tell apart."""
    labels = targets.labels
    needed = 2 if targets.output in ("softmax", "ordinal") else 1
    if len(labels) < needed:
        found = f"only the label {labels[0]!r}" if labels else "no label at all"
        fail(table, f"{found}; at least {'one is' if needed == 1 else 'two are'} needed")


def check_labelled_splits(
    table: pd.DataFrame, targets: Targets, *, allow_group_overlap: bool = False
) -> None:
    """Check what must hold between splits: groups in one only, and all labels in train.

    Raises:
        ManifestError: as :func:`deepspectrumlite.splits.check_splits`
    """
    named = table.drop(columns="label", errors="ignore")
    if targets.output in ("softmax", "ordinal"):
        named = named.assign(label=targets.strata(table))
    check_splits(named, allow_group_overlap=allow_group_overlap)
    in_train = (table["split"] == "train").to_numpy() if "split" in table else np.zeros(0, bool)
    if targets.output == "sigmoid" and in_train.any():
        known = targets.encode(table)[in_train].any(axis=0)
        if not known.all():
            fail(
                table,
                f"label {targets.labels[int(known.argmin())]!r} occurs, but not in train; "
                "allowed: labels that train has; add such recordings to train, or remove it",
            )


def _in_order(table: pd.DataFrame, names: set[str], data: DataSection) -> list[str]:
    """Labels from low to high."""
    if data.order:
        unknown = sorted(names - set(data.order))
        if unknown:
            fail(
                table,
                f"label {unknown[0]!r} of {_first(table, data, unknown[0])} is not in data.order; "
                f"allowed: {', '.join(data.order)}; mend the row, or add the label there",
            )
        return [label for label in data.order if label in names]
    numbers = {name: _number(name) for name in names}
    for name, number in numbers.items():
        if math.isnan(number):
            fail(
                table,
                f"label {name!r} of {_first(table, data, name)} is no number, and data.order is "
                "empty; allowed: numbers only; or name the labels from low to high, as in --set "
                """'data.order=["low", "high"]'""",
            )
    ordered = sorted(names, key=lambda name: (numbers[name], name))
    for lower, higher in pairwise(ordered):
        if numbers[lower] == numbers[higher]:
            fail(
                table,
                f"labels {lower!r} and {higher!r} are the same number; allowed: one way to write "
                f"each; mend the row of {_first(table, data, higher)}",
            )
    return ordered


def _refuse_mixed(table: pd.DataFrame, data: DataSection) -> None:
    """Refuse numbers, and rows with several labels, where one label is to be learned."""
    labels = dict.fromkeys(_column(table, data))
    name, separator = data.targets[0], data.separator
    for label in labels:
        parts = [part.strip() for part in label.split(separator)]
        # Only where a part is a label of its own: a name may well contain the separator.
        if len(parts) > 1 and any(part in labels for part in parts):
            fail(
                table,
                f"{name} is {label!r} for {_first(table, data, label)} and "
                f"{next(part for part in parts if part in labels)!r} in another row; allowed: one "
                'label in each row; for several at once set model.output = "sigmoid"',
            )
    _refuse_shared_parts(table, data, list(labels))
    fractions = [label for label in labels if _number(label) % 1 > 0]
    text = [label for label in labels if math.isnan(_number(label))]
    if fractions and text:
        fail(
            table,
            f"{name} is the number {fractions[0]} for {_first(table, data, fractions[0])} and "
            f"{text[0]!r} for {_first(table, data, text[0])}; allowed: labels only, or numbers "
            "only; mend the rows",
        )
    if not text and len(labels) > max(10, len(table) / 2):
        fail(
            table,
            f"{name} holds {len(labels)} different numbers in {len(table)} rows; allowed: labels, "
            'several rows of each; to learn numbers set model.output = "linear"',
        )
    if fractions:
        fail(
            table,
            f"{name} is the number {fractions[0]} for {_first(table, data, fractions[0])}; "
            'allowed: labels; to learn numbers set model.output = "linear", or "ordinal" where '
            "they are steps",
        )


def _refuse_shared_parts(table: pd.DataFrame, data: DataSection, labels: list[str]) -> None:
    """Refuse "a;b" beside "a;c": as single labels they would have nothing in common."""
    first: dict[str, str] = {}
    for label in labels:
        parts = [part.strip() for part in label.split(data.separator)]
        for part in parts if len(parts) > 1 else []:
            if part and first.setdefault(part, label) != label:
                fail(
                    table,
                    f"{data.targets[0]} is {first[part]!r} for {_first(table, data, first[part])} "
                    f"and {label!r} for {_first(table, data, label)}; allowed: one label in each "
                    'row; for several at once set model.output = "sigmoid"; or set data.separator '
                    "to what no label holds",
                )


def _are_flags(data: DataSection, output: str) -> bool:
    """Whether each target column says 0 or 1 of one label; a list of columns, even of one."""
    return output == "sigmoid" and not isinstance(data.target, str)


def _column(table: pd.DataFrame, data: DataSection) -> Strings:
    return table[data.targets[0]]


def _first(table: pd.DataFrame, data: DataSection, label: str) -> str:
    """The path of the first recording with a label."""
    return str(table["path"].iloc[int((_column(table, data) == label).to_numpy().argmax())])


def _sets(table: pd.DataFrame, data: DataSection) -> list[list[str]]:
    """The labels of each row, where one column lists them."""
    cells = _column(table, data).str.split(data.separator, regex=False)
    return [[part.strip() for part in cell if part.strip()] for cell in cells]


def _number(text: str) -> float:
    """A number that float32 can hold, or NaN."""
    try:
        # To Python 1_5 is 15; in a manifest it is a slip.
        number = float(text.replace("_", "?"))
    except ValueError:
        return math.nan
    return number if abs(number) <= LARGEST else math.nan


def _numbers(table: pd.DataFrame, name: str) -> npt.NDArray[np.float64]:
    numbers = np.array([_number(text) for text in table[name]])
    bad = np.isnan(numbers)
    if bad.any():
        given = table[name].iloc[int(bad.argmax())]
        fail(
            table,
            f"{name} is {given!r} for {table['path'].iloc[int(bad.argmax())]}; allowed: a number "
            'like 0.5 in every row, as model.output is "linear"; mend the row, or set data.target '
            "to the column that holds the numbers",
        )
    return numbers


def _flags(table: pd.DataFrame, name: str) -> npt.NDArray[np.bool_]:
    text = table[name].str.strip().str.lower()
    bad = ~text.isin((*YES, *NO)).to_numpy()
    if bad.any():
        given = table[name].iloc[int(bad.argmax())]
        fail(
            table,
            f"{name} is {given!r} for {table['path'].iloc[int(bad.argmax())]}; allowed: 1 or 0 "
            "(true, false, yes, no, nothing), as data.target names several columns; mend the row",
        )
    return text.isin(YES).to_numpy()


def _fifths(table: pd.DataFrame, name: str) -> Strings:
    """Up to ``BINS`` ranges of the numbers of a column, with about as many rows each, by name."""
    numbers = _numbers(table, name)
    for count in range(BINS, 0, -1):
        edges = np.unique(np.quantile(numbers[_drawn(table)], np.arange(1, count) / count))
        _, index = np.unique(np.searchsorted(edges, numbers), return_inverse=True)
        names = []
        for i in range(index.max() + 1):
            inside = numbers[index == i]
            # Numbered: they sort, and differ even where the numbers agree in four digits.
            names.append(f"{i + 1}: {inside.min():.4g} to {inside.max():.4g}")
        strata: Strings = pd.Series(np.array(names, object)[index], index=table.index)
        if len(names) == 1 or _counts(table, strata).min() >= BINS:
            break
    return strata


def _merge_rare(table: pd.DataFrame, strata: Strings, there: pd.DataFrame) -> Strings:
    """Put together strata of too few groups to be split, unless their label has no more.

    ``there`` (n_rows, n_labels) tells which label a row has; a label that is rare itself stays, so
    that the splits refuse it by its name.
    """
    counts = _counts(table, strata)
    scarce = {x for x in there if _counts(table, there[x]).get(True, 0) < SPLITTABLE}
    rare = strata.isin([x for x in counts.index[counts < SPLITTABLE] if x not in scarce])
    merged = strata.mask(rare, "(others)")
    if rare.any() and _counts(table, merged)["(others)"] < SPLITTABLE:
        return strata.mask(rare, str(counts.idxmax()))
    return merged


def _counts(table: pd.DataFrame, strata: "pd.Series[Any]") -> "pd.Series[int]":
    """How many groups (or recordings without one) each stratum has, to draw splits from."""
    drawn = _drawn(table)
    return find_units(table)[drawn].groupby(strata[drawn]).nunique()


def _drawn(table: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """(n_rows,): which rows splits are drawn from, where any are: all, or train's for devel."""
    names = set(table["split"]) if "split" in table else set()
    if "train" in names and "devel" not in names:
        return (table["split"] == "train").to_numpy()
    return np.ones(len(table), np.bool_)

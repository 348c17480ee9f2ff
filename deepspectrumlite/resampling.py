"""The draws of the bootstrap: files, or whole groups of them, again and again.

Files of one speaker are alike, so intervals over files are too narrow for new speakers; those over
groups draw whole speakers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from deepspectrumlite.metrics import RESAMPLES, Ints, cell_indices

# Counts held at a time: 16 MB as float64, so that the copies that a metric makes stay small.
BLOCK = 2_000_000


def bootstrap(
    truth: Ints,
    predicted: Ints,
    n_classes: int,
    *,
    groups: npt.NDArray[Any] | None = None,
    n_resamples: int = RESAMPLES,
    seed: int = 0,
) -> npt.NDArray[np.int64]:
    """Confusion matrices of resampled files, or of whole resampled groups (say, speakers).

    Efron & Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 6 (files) and 8 (groups
    as the units drawn). The draw is not stratified: a resample can lack a rare class.

    Args:
        truth: (n_files,) class indices.
        predicted: (n_files,) class indices.
        n_classes: how many classes there are.
        groups: (n_files,) names or numbers; as many groups as there are get drawn with
            replacement, so that the number of files varies between resamples.
        n_resamples: how many times to resample.
        seed: the same seed gives the same resamples.

    Returns:
        (n_resamples, n_classes, n_classes)

    Raises:
        ValueError: there is no file, n_resamples < 1, or the arrays do not fit together.

    >>> bootstrap(np.array([0, 1]), np.array([0, 1]), 2, n_resamples=3).sum(axis=(1, 2)).tolist()
    [2, 2, 2]
    """
    _check_draw(len(truth), "files", n_resamples)
    cells, distinct, copies = kinds_of_units(truth, predicted, n_classes, groups)
    rng, total = np.random.default_rng(seed), copies.sum()
    samples = np.zeros((n_resamples, n_classes**2), dtype=np.int64)
    in_block = max(1, BLOCK // len(copies))
    for first in range(0, n_resamples, in_block):
        block = samples[first : first + in_block]
        drawn = rng.multinomial(total, copies / total, size=len(block))
        # As float64, where BLAS helps and counts below 2**53 are exact.
        block[:, cells] = drawn.astype(np.float64) @ distinct.astype(np.float64)
    return samples.reshape(n_resamples, n_classes, n_classes)


def resample_counts(
    n_rows: int,
    *,
    units: npt.NDArray[Any] | None = None,
    n_resamples: int = RESAMPLES,
    seed: int = 0,
) -> npt.NDArray[np.int32]:
    """How often each row is in each resample: the bootstrap for metrics that need the rows.

    Efron & Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 6 (rows) and 8 (units).

    Args:
        n_rows: how many rows there are.
        units: (n_rows,) names or numbers of what is drawn instead of rows (files that segments
            come from, or speakers); as many units as there are get drawn with replacement, each
            with all its rows, so that the number of rows varies between resamples.
        n_resamples: how many times to resample.
        seed: the same seed gives the same resamples.

    Returns:
        (n_resamples, n_rows)

    Raises:
        ValueError: there is no row, n_resamples < 1, or units is not (n_rows,).

    >>> counts = resample_counts(3, units=np.array(["a", "b", "b"]), n_resamples=4)
    >>> (counts[:, 0] + counts[:, 1]).tolist(), (counts[:, 1] - counts[:, 2]).tolist()
    ([2, 2, 2, 2], [0, 0, 0, 0])
    """
    blocks = count_blocks(n_rows, units=units, n_resamples=n_resamples, seed=seed)
    return np.concatenate(list(blocks))


def count_blocks(
    n_rows: int,
    *,
    units: npt.NDArray[Any] | None = None,
    n_resamples: int = RESAMPLES,
    seed: int = 0,
) -> Iterator[npt.NDArray[np.int32]]:
    """The same counts, some resamples at a time: (n_in_block, n_rows) each.

    All counts of 10,000 resamples of 10,000 rows are 400 MB, and a metric works on several copies.

    Raises:
        ValueError: as of `resample_counts`.

    >>> [block.shape for block in count_blocks(1_000_000, n_resamples=3)]
    [(2, 1000000), (1, 1000000)]
    """
    _check_draw(n_rows, "rows", n_resamples)
    unit_of_row = number_units(units, n_rows)
    n_units = int(unit_of_row.max()) + 1
    rng = np.random.default_rng(seed)
    in_block = max(1, BLOCK // n_rows)
    for first in range(0, n_resamples, in_block):
        n_here = min(in_block, n_resamples - first)
        drawn = rng.integers(0, n_units, (n_here, n_units))
        # Each resample counts in bins of its own. Faster than a multinomial draw.
        drawn += np.arange(n_here)[:, np.newaxis] * n_units
        counts = np.bincount(drawn.ravel(), minlength=n_here * n_units).astype(np.int32)
        yield np.take(counts.reshape(n_here, n_units), unit_of_row, axis=1)


def number_units(units: npt.NDArray[Any] | None, n_rows: int) -> npt.NDArray[np.int64]:
    """(n_rows,) names -> (n_rows,): from 0, the number of the unit that each row is drawn with.

    Without names each row is a unit by itself.

    Raises:
        ValueError: units is not (n_rows,).

    >>> number_units(np.array(["b", "a", "b"]), 3).tolist()
    [1, 0, 1]
    """
    if units is None:
        return np.arange(n_rows)
    if np.shape(units) != (n_rows,):
        raise ValueError(
            f"the units or groups have shape {np.shape(units)}, but there are {n_rows} rows; "
            "give one for each row"
        )
    return np.unique(units, return_inverse=True)[1].astype(np.int64)


def count_per_group(
    groups: npt.NDArray[Any] | None, kind: Ints, n_kinds: int
) -> npt.NDArray[np.int64]:
    """(n_files,), (n_files,) -> (n_groups, n_kinds): the files of each kind in each group.

    Raises:
        ValueError: groups is not (n_files,).

    >>> count_per_group(np.array(["ann", "bob", "ann"]), np.array([0, 1, 0]), 2).tolist()
    [[2, 0], [0, 1]]
    """
    group_of_file = number_units(groups, len(kind))
    counts = np.zeros((group_of_file.max() + 1, n_kinds), dtype=np.int64)
    np.add.at(counts, (group_of_file, kind), 1)
    return counts


def kinds_of_units(
    truth: Ints, predicted: Ints, n_classes: int, units: npt.NDArray[Any] | None
) -> tuple[Ints, Ints, Ints]:
    """What is drawn: (n_cells,) seen, (n_kinds, n_cells) files in them, (n_kinds,) units.

    Files in the same cell of the confusion matrix are interchangeable, and so are groups with the
    same counts: drawing units is drawing kinds of them.
    """
    cells, cell_of_file = np.unique(cell_indices(truth, predicted, n_classes), return_inverse=True)
    if units is None:
        return cells, np.eye(len(cells), dtype=np.int64), np.bincount(cell_of_file)
    per_unit = count_per_group(units, cell_of_file, len(cells))
    distinct, copies = np.unique(per_unit, axis=0, return_counts=True)
    return cells, distinct, copies


def left_out_blocks(n_rows: int, units: npt.NDArray[Any] | None) -> Iterator[npt.NDArray[np.int32]]:
    """The counts of all rows but those of one unit: (n_in_block, n_rows), for each unit."""
    unit_of_row = number_units(units, n_rows)
    n_units = int(unit_of_row.max()) + 1
    in_block = max(1, BLOCK // n_rows)
    for first in range(0, n_units, in_block):
        several = np.arange(first, min(first + in_block, n_units))
        yield (unit_of_row != several[:, np.newaxis]).astype(np.int32)


def _check_draw(n: int, what: str, n_resamples: int) -> None:
    if n < 1 or n_resamples < 1:
        raise ValueError(f"cannot resample {n} {what} {n_resamples} times; both must be at least 1")

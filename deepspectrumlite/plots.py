"""Pictures for a training report: the confusion matrix and the training curves.

Figures are made without pyplot: no global state, no display, safe in threads and on servers.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from deepspectrumlite.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
MAX_LABEL = 30  # characters; longer names lose their middle, as ends tell siblings apart
PERCENT_CELL = 0.55  # inches; below this only the count has room
WHITE_FROM = 60  # percent; on "Blues", black text reads better up to about here
CHAR_WIDTH = 0.62  # of the font size, for the widest usual letters of DejaVu Sans
MARGIN = 1.2  # inches around the matrix; saving trims or widens it to the labels
PHASES = {"head": "head only", "fine_tune": "fine-tuning"}


def plot_confusion(
    matrix: npt.NDArray[Any], labels: Sequence[str], path: str | Path, *, title: str = ""
) -> None:
    """Write the confusion matrix, (n_classes, n_classes) counts, as a PNG.

    Raises:
        ValueError: matrix is not (n_classes, n_classes) for these labels.
        MissingExtraError: matplotlib is not installed.
        OSError: path cannot be written.
    """
    save_figure(confusion_figure(matrix, labels, title=title), path)


def plot_history(history: Sequence[dict[str, Any]], path: str | Path, *, monitor: str) -> None:
    """Write the training curves as a PNG; see `history_figure`.

    Raises:
        ValueError: history is empty or does not hold monitor.
        MissingExtraError: matplotlib is not installed.
        OSError: path cannot be written.
    """
    save_figure(history_figure(history, monitor=monitor), path)


def plot_numbers(
    truth: npt.NDArray[Any],
    predicted: npt.NDArray[Any],
    names: Sequence[str],
    path: str | Path,
    *,
    title: str = "",
) -> None:
    """Write predicted against true numbers, (n, n_targets) each, as a PNG.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OSError: path cannot be written.
    """
    figure = new_figure((4 * len(names), 4))
    figure.set_layout_engine("constrained")
    for i, axes in enumerate(np.atleast_1d(figure.subplots(1, len(names)))):
        ends = [min(truth[:, i].min(), predicted[:, i].min())]
        ends.append(max(truth[:, i].max(), predicted[:, i].max()))
        axes.plot(ends, ends, color="0.6", lw=1, zorder=0)
        axes.plot(truth[:, i], predicted[:, i], "o", ms=4, alpha=0.5)
        axes.set(xlabel="True", ylabel="Predicted", aspect="equal")
        axes.set_title(names[i], parse_math=False)
    if title:
        figure.suptitle(title, parse_math=False)
    save_figure(figure, path)


def confusion_figure(matrix: npt.NDArray[Any], labels: Sequence[str], *, title: str = "") -> Figure:
    """The confusion matrix: counts and, where there is room, percentages of the true label."""
    matrix = np.asarray(matrix)
    n = len(labels)
    if n == 0 or matrix.shape != (n, n):
        raise ValueError(f"matrix has shape {matrix.shape}; with {n} labels it must be ({n}, {n})")
    support = matrix.sum(axis=1, keepdims=True)
    # A class without files has no percentages, rather than 0 %.
    percent = 100 * matrix / np.where(support > 0, support, np.nan)
    cell = float(np.clip(8 / n, 0.38, 1.0))
    side = n * cell
    size = side + 2 * MARGIN
    figure = new_figure((size, size))
    axes = figure.add_axes((MARGIN / size, MARGIN / size, side / size, side / size))
    image = axes.imshow(percent, cmap="Blues", vmin=0, vmax=100)
    _write_cells(axes, matrix, percent, cell)
    _name_classes(axes, [shorten(label) for label in labels], cell)
    if title:
        axes.set_title(title, parse_math=False)
    bar = axes.inset_axes((1 + 0.15 / side, 0, 0.15 / side, 1))
    figure.colorbar(image, cax=bar, label="% of the true label")
    return figure


def history_figure(history: Sequence[dict[str, Any]], *, monitor: str) -> Figure:
    """Training curves: losses on the left, devel metrics on the right.

    Args:
        history: an entry per epoch with "epoch" (counted through both phases), "phase",
            "train_loss", "best", and "devel_..." values; None is a gap. The last entry with a
            true "best" is marked.
        monitor: what the best epoch is chosen by, with or without "devel_"; drawn bold.
    """
    monitor = "devel_" + monitor.removeprefix("devel_")
    keys = list(dict.fromkeys(key for entry in history for key in entry))
    # Errors have a unit; the other metrics end at 1.
    errors = ["devel_loss", "devel_mae", "devel_rmse"]
    metrics = [key for key in keys if key.startswith("devel_") and key not in errors]
    errors = [key for key in errors if key in keys]
    if monitor not in [*metrics, *errors]:
        raise ValueError(
            f"monitor {monitor!r} is not in the history of {len(history)} epochs; "
            f"it must be one of {[*metrics, *errors]}"
        )
    figure = new_figure((10, 4))
    figure.set_layout_engine("constrained")
    left, right = figure.subplots(1, 2)
    _draw_curves(left, history, ["train_loss", *errors], monitor)
    _draw_curves(right, history, metrics, monitor)
    left.set_ylabel("Loss")
    lowest = min((entry[key] for entry in history for key in metrics if entry.get(key)), default=0)
    right.set(ylabel="Devel metric", ylim=(min(0, lowest), 1.02))
    for axes in (left, right):
        _mark_phases(axes, history)
        _finish_epochs(axes, history)
    return figure


def new_figure(size: tuple[float, float]) -> Figure:
    """An empty figure of this width and height in inches.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "Drawing a plot", "train") from error
    return Figure(figsize=size, dpi=DPI)


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure as a PNG, trimmed to what it holds."""
    figure.savefig(path, format="png", bbox_inches="tight", facecolor="white")


def _write_cells(
    axes: Axes, matrix: npt.NDArray[Any], percent: npt.NDArray[Any], cell: float
) -> None:
    """Count and percentage into each cell; a cell is `cell` inches wide."""
    with_percent = cell >= PERCENT_CELL
    n_chars = max(len(str(matrix.max())), 5 if with_percent else 1)
    size = min(10, 72 * 0.85 * cell / (CHAR_WIDTH * n_chars))
    for (row, column), count in np.ndenumerate(matrix):
        share = percent[row, column]
        # Zeros are most of a large matrix: grey, so that the errors stand out.
        color = "white" if share > WHITE_FROM else "black" if count else "0.6"
        text = f"{count}\n{share:.0f} %" if with_percent and share >= 0 else f"{count}"
        axes.text(column, row, text, ha="center", va="center", fontsize=size, color=color)


def _name_classes(axes: Axes, labels: Sequence[str], cell: float) -> None:
    size = 10 if cell >= PERCENT_CELL else 8
    widest = max(len(label) for label in labels) * CHAR_WIDTH * size / 72
    ticks = range(len(labels))
    # Names come from the user: "$" in one is a dollar, not mathematics.
    axes.set_yticks(ticks, labels, fontsize=size, parse_math=False)
    axes.set_xticks(ticks, labels, fontsize=size, parse_math=False)
    if widest > cell:
        # Slanted names need a cell wider than their height; the narrowest have to stand upright.
        slant = 45 if cell >= PERCENT_CELL else 90
        anchor = {"ha": "right", "rotation_mode": "anchor"}
        anchor["va"] = "center" if slant == 90 else "top"
        for text in axes.get_xticklabels():
            text.set(rotation=slant, **anchor)
    axes.set_xlabel("Predicted label")
    axes.set_ylabel("True label")


def shorten(label: str) -> str:
    """A long name without its middle."""
    if len(label) <= MAX_LABEL:
        return label
    half = (MAX_LABEL - 1) // 2
    return f"{label[:half]}…{label[-half:]}"


def _draw_curves(
    axes: Axes, history: Sequence[dict[str, Any]], keys: Sequence[str], monitor: str
) -> None:
    epochs = [entry["epoch"] for entry in history]
    for key in keys:
        # None becomes NaN, which matplotlib leaves out; the dots keep a lone epoch visible.
        values = np.array([entry.get(key) for entry in history], dtype=float)
        bold = key == monitor
        width, order = (2.8, 3.0) if bold else (1.2, 2.0)
        name = key.replace("_", " ").replace("uar", "UAR").replace("f1", "F1").replace("ccc", "CCC")
        axes.plot(epochs, values, marker="o", ms=2 + width, lw=width, zorder=order, label=name)
        best = [i for i, entry in enumerate(history) if entry.get("best")]
        if bold and best:
            _mark_best(axes, epochs[best[-1]], values[best[-1]])


def _mark_best(axes: Axes, epoch: int, value: float) -> None:
    label = f"best: {value:.3f} in epoch {epoch}"
    axes.plot(epoch, value, "*", ms=14, mfc="gold", mec="black", zorder=4, label=label)


def _mark_phases(axes: Axes, history: Sequence[dict[str, Any]]) -> None:
    """A line, named, before the first epoch of each later phase."""
    for before, entry in pairwise(history):
        if before["phase"] == entry["phase"]:
            continue
        start = entry["epoch"] - 0.5
        axes.axvspan(start, history[-1]["epoch"] + 0.5, color="0.93", zorder=0)
        axes.axvline(start, color="0.5", ls="--", lw=1, zorder=1)
        name = PHASES.get(entry["phase"], entry["phase"])
        place = axes.get_xaxis_transform()
        axes.text(start, 1.01, name, transform=place, color="0.3", fontsize=9, va="bottom")


def _finish_epochs(axes: Axes, history: Sequence[dict[str, Any]]) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("Epoch")
    axes.set_xlim(history[0]["epoch"] - 0.5, history[-1]["epoch"] + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize=8)

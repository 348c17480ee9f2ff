"""Pictures of explanations: the spectrogram, and beside it what speaks for and against a label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from deepspectrumlite.explain import Explanation
from deepspectrumlite.faithfulness import Average, Curves
from deepspectrumlite.frontend import band_position
from deepspectrumlite.listen import smoothed
from deepspectrumlite.plots import new_figure, shorten
from deepspectrumlite.preview import image_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from deepspectrumlite.model import Classifier

COLUMNS = 4  # panels side by side
PANEL = 2.6  # inches
COLORS = "RdBu_r"  # red above 0
# The strongest pixels of a map would leave the rest pale; they get the last colour.
RANGE_QUANTILE = 0.998
# Kilohertz that stand on the axis where there is room.
TICKS = (0.05, 0.1, 0.2, 0.5, 1, 2, 4, 8, 16, 32, 64)
NEAREST = 0.06  # of the height: names closer than this would touch

Values = npt.NDArray[np.floating]
Extent = tuple[float, float, float, float]


def explanation_figure(explanation: Explanation, model: Classifier) -> Figure:
    """The segment's image, and a panel for each target: red speaks for it, blue against it.

    Times count from the start of the recording; behind a dashed line the segment was filled up.
    Each map has a range of its own, which the bar below it tells; maps of shap are smoothed.
    """
    count = 1 + len(explanation.maps)
    columns = min(count, COLUMNS)
    figure = new_figure((0.5 + PANEL * columns, PANEL * 1.3 * -(-count // columns)))
    figure.set_layout_engine("constrained")
    panels = figure.subplots(-(-count // columns), columns, squeeze=False)
    for axes in panels.ravel()[count:]:
        axes.set_visible(False)
    first, *others = panels.ravel()[:count]
    name = "waveform" if explanation.path is None else explanation.path.name
    times = f"{explanation.start:.2f} to {explanation.end:.2f} s"
    extent = _extent(model, explanation.start, explanation.end)
    _title(first, f"{shorten(name)}\n{times}")
    _draw_image(figure, first, explanation.image, model, extent)
    for axes, each in zip(others, explanation.maps, strict=True):
        score = f"score {each.score:.3g}"
        if each.baseline_score is not None:
            score += f", baseline {each.baseline_score:.3g}"
        _title(axes, f"{shorten(each.target)}\n{score}")
        _draw_map(figure, axes, each.values, explanation.image, model, extent, explanation.method)
    for axes in panels.ravel()[:count]:
        if explanation.end < extent[1]:
            axes.axvline(explanation.end, color="0.5", ls="--", lw=1)
    return figure


def average_figure(averages: Sequence[Average], model: Classifier, method: str) -> Figure:
    """A column for each class: above the mean image, below the mean map for its label."""
    columns = min(len(averages), 5)
    blocks = -(-len(averages) // columns)
    figure = new_figure((0.5 + 0.8 * PANEL * columns, 2 * PANEL * blocks))
    figure.set_layout_engine("constrained")
    panels = figure.subplots(2 * blocks, columns, squeeze=False)
    extent = _extent(model)
    for i in range(blocks * columns):
        above, below = panels[i // columns * 2 : i // columns * 2 + 2, i % columns]
        if i >= len(averages):
            above.set_visible(False)
            below.set_visible(False)
            continue
        each = averages[i]
        _title(above, f"{shorten(each.name)}\nmean of {each.count}")
        _draw_image(figure, above, each.image, model, extent, bar=False)
        _draw_map(figure, below, each.values, each.image, model, extent, method, words=False)
        above.tick_params(labelbottom=False)
        above.set_xlabel("")
    return figure


def curves_figure(curves: Curves) -> Figure:
    """Mean scores while the image is deleted, and inserted, by the map and at random."""
    figure = new_figure((8.5, 3.4))
    figure.set_layout_engine("constrained")
    panels = figure.subplots(1, 2, sharey=True)
    share = 100 * curves.shares
    for axes, name in zip(panels, ("deletion", "insertion"), strict=True):
        by_map, at_random = getattr(curves, name), getattr(curves, f"random_{name}")
        for values, label, color in ((by_map, "by the map", "C3"), (at_random, "at random", "0.5")):
            mean = values.mean(axis=0)
            error = values.std(axis=0) / np.sqrt(max(1, len(values) - 1))
            axes.plot(share, mean, color=color, label=label)
            axes.fill_between(share, mean - error, mean + error, color=color, alpha=0.2, lw=0)
        better = "lower" if name == "deletion" else "higher"
        done = "replaced" if name == "deletion" else "shown"
        axes.set_title(f"{name.capitalize()}: {better} is better", fontsize=10)
        axes.set(xlabel=f"% of the image {done}", xlim=(0, 100))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    panels[0].set_ylabel(f"Score of the label\nmean of {len(curves.deletion)}, ± standard error")
    return figure


def value_range(values: Values) -> float:
    """The largest absolute value of a map, but for its few strongest pixels; 1 for a map of 0."""
    limit = float(np.quantile(np.abs(values), RANGE_QUANTILE))
    return limit or float(np.abs(values).max()) or 1.0


def frequency_ticks(model: Classifier) -> tuple[list[float], list[str]]:
    """Places on the axis of the image and their names: round frequencies in kHz, or MFCCs."""
    section, data = model.recipe.frontend, model.recipe.data
    _, places, names = image_axes(model.recipe)
    if section.n_mfcc:
        return places, names
    low, high = section.fmin / 1000, section.fmax_hz(data.sample_rate) / 1000
    inside = [tick for tick in TICKS if low <= tick <= high]
    if len(inside) < 3:
        return places, [f"{float(name.removesuffix(' Hz')) / 1000:g}" for name in names]
    top = model.frontend.n_bands
    # The middles of the outermost bands stand within the image, fmin and fmax just outside.
    bands = np.clip(band_position(1000 * np.array(inside), section, data), 0, top)
    chosen: list[tuple[float, float]] = []
    for tick, place in sorted(zip(inside, bands.tolist(), strict=True), reverse=True):
        if not chosen or chosen[-1][1] - place > NEAREST * top:
            chosen.append((tick, place))
    return [place for _, place in chosen], [f"{tick:g}" for tick, _ in chosen]


def _extent(model: Classifier, start: float = 0, end: float = 0) -> Extent:
    num_samples = round((end - start) * model.recipe.data.sample_rate)
    left, right, bottom, top = image_axes(model.recipe, num_samples)[0]
    return start + left, start + right, bottom, top


def _draw_image(
    figure: Figure,
    axes: Axes,
    image: Values,
    model: Classifier,
    extent: Extent,
    *,
    bar: bool = True,
) -> None:
    """(3, height, width) in its colours, with seconds below and frequencies at the left."""
    name = model.recipe.frontend.color_map
    pixels = np.clip(np.moveaxis(image, 0, -1), 0, 1)
    axes.imshow(pixels, extent=extent, aspect="auto")
    if bar:
        # No decibels: the front-end scales each segment to the whole range of colours.
        _bar(figure, axes, "gray" if name == "none" else name, {0: "lowest", 1: "highest"})
    _finish(axes, model)


def _draw_map(
    figure: Figure,
    axes: Axes,
    values: Values,
    image: Values,
    model: Classifier,
    extent: Extent,
    method: str,
    *,
    words: bool = True,
) -> None:
    """The map over a faint image; the weaker a value, the more of the image shines through."""
    shown = smoothed(values.astype(np.float32)) if method == "shap" else values
    limit = value_range(shown)
    grey = image.mean(axis=0)
    low, high = float(grey.min()), float(grey.max())
    # Up to a light grey only, on which both colours still stand out.
    high = low + 3 * (high - low or 1)
    axes.imshow(grey, cmap="gray_r", vmin=low, vmax=high, extent=extent, aspect="auto")
    axes.imshow(
        shown,
        cmap=COLORS,
        vmin=-limit,
        vmax=limit,
        alpha=np.clip(np.abs(shown) / limit * 1.5, 0, 1),
        extent=extent,
        aspect="auto",
        interpolation="nearest",
    )
    against, support = ("against ", " for") if words else ("", "")
    ends = {
        -limit: f"{against}\N{MINUS SIGN}{limit:.2g}",
        0.0: "0",
        limit: f"{limit:.2g}{support}",
    }
    _bar(figure, axes, COLORS, ends)
    _finish(axes, model)


def _bar(figure: Figure, axes: Axes, colors: str, ends: Mapping[float, str]) -> None:
    """A bar of colours below some axes, with names at its ends and in its middle."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    scale = ScalarMappable(Normalize(min(ends), max(ends)), colors)
    bar = figure.colorbar(scale, ax=axes, location="bottom", aspect=28, pad=0.02)
    bar.set_ticks(list(ends), labels=list(ends.values()))
    labels = bar.ax.get_xticklabels()
    labels[0].set(ha="left")
    labels[-1].set(ha="right")
    bar.ax.tick_params(labelsize=7, length=2)


def _finish(axes: Axes, model: Classifier) -> None:
    """Ticks; the frequencies are named on the leftmost of a row only."""
    places, names = frequency_ticks(model)
    spec = axes.get_subplotspec()
    is_first = spec is None or spec.is_first_col()
    axes.set_yticks(places, names if is_first else [])
    axes.set_xlabel("Time, s", fontsize=8)
    if is_first and not model.recipe.frontend.n_mfcc:
        axes.set_ylabel("Frequency, kHz", fontsize=8)
    axes.locator_params(axis="x", nbins=5)
    axes.tick_params(labelsize=7, length=2)


def _title(axes: Axes, text: str) -> None:
    # Names come from the user: "$" in one is a dollar, not mathematics.
    axes.set_title(text, fontsize=9, parse_math=False)

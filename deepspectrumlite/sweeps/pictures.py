"""Pictures of a sweep: the devel metric by each setting, and against latency."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepspectrumlite.optim import LOWER_IS_BETTER
from deepspectrumlite.plots import new_figure, save_figure, shorten
from deepspectrumlite.sweeps.experiment import Experiment
from deepspectrumlite.sweeps.plan import Dimension, SweepPlan
from deepspectrumlite.sweeps.trials import FINISHED, OVER_BUDGET, Row, best_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PANELS_IN_A_ROW = 3


def plot_sweep(rows: Sequence[Row], plan: SweepPlan, path: Path) -> None:
    """Write a panel for each setting, with the devel metric of every trial that has one."""
    dimensions = [each for each in plan.dimensions if each.count > 1] or list(plan.dimensions)
    columns = min(_PANELS_IN_A_ROW, len(dimensions))
    lines = math.ceil(len(dimensions) / columns)
    figure = new_figure((1 + 3.2 * columns, 0.6 + 3.2 * lines))
    figure.set_layout_engine("constrained")
    panels = np.atleast_1d(figure.subplots(lines, columns, sharey=True, squeeze=False)).ravel()
    shown = [row for row in rows if row["devel"] is not None]
    for i, axes in enumerate(panels):
        if i >= len(dimensions):
            axes.set_visible(False)
            continue
        _draw_panel(axes, dimensions[i], shown, best_of(list(rows)))
        if i % columns == 0:
            axes.set_ylabel(_metric(plan.metric))
    figure.suptitle(_title(rows), fontsize=10)
    save_figure(figure, path)


def _metric(name: str) -> str:
    known = {"uar": "UAR", "map": "MAP", "ccc": "CCC"}
    hint = " (lower is better)" if name in LOWER_IS_BETTER else ""
    return f"Devel {known.get(name, name)}{hint}"


def _title(rows: Sequence[Row]) -> str:
    others = {row["status"] for row in rows} - {FINISHED}
    counts = [f"{sum(row['status'] == name for row in rows)} {name}" for name in sorted(others)]
    trained = f"{sum(row['status'] == FINISHED for row in rows)} trials finished"
    return ", ".join([trained, *counts])


def _draw_panel(axes: Axes, dimension: Dimension, rows: Sequence[Row], best: Row | None) -> None:
    places = _places(axes, dimension, rows)
    for row, x in zip(rows, places, strict=True):
        is_best = best is not None and row["number"] == best["number"]
        done = row["status"] == FINISHED
        style: dict[str, Any] = {"ms": 6, "color": "C0", "alpha": 0.6}
        if is_best:
            style = {"ms": 14, "mfc": "gold", "mec": "black", "zorder": 4}
        marker = "*" if is_best else "o"
        axes.plot(x, row["devel"], marker, mfc=style.pop("mfc", "C0" if done else "none"), **style)
    names = [shorten(key) for key in dimension.keys]
    axes.set_xlabel("\n".join(names), parse_math=False, fontsize=9)
    axes.grid(axis="y", alpha=0.3)


def _places(axes: Axes, dimension: Dimension, rows: Sequence[Row]) -> list[float]:
    """Where the points of a panel stand: at their number, or beside others of the same choice."""
    values = [dimension.value_in(row["settings"]) for row in rows]
    if dimension.range is not None:
        if dimension.range.log:
            axes.set_xscale("log")
        return values
    choices = [json.dumps(choice) for choice in dimension.choices]
    names = [_choice_name(choice) for choice in dimension.choices]
    long = max(len(name) for name in names) * len(names) > 24
    axes.set_xticks(
        range(len(choices)),
        names,
        rotation=30 if long else 0,
        ha="right" if long else "center",
        parse_math=False,
        fontsize=8,
    )
    axes.set_xlim(-0.5, len(choices) - 0.5)
    # By turns to the left and to the right, so that equal results stay apart.
    seen = dict.fromkeys(choices, 0)
    places = []
    for value in map(json.dumps, values):
        shift = (seen[value] + 1) // 2 * (-1 if seen[value] % 2 else 1)
        seen[value] += 1
        places.append(choices.index(value) + 0.35 * float(np.tanh(shift / 6)))
    return places


def _choice_name(choice: tuple[Any, ...]) -> str:
    return shorten(", ".join(dict.fromkeys(_value_name(value) for value in choice)))


def _value_name(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def plot_pareto(
    front: Sequence[Row], rows: Sequence[Row], experiment: Experiment, path: Path
) -> None:
    """Write the devel metric of all trials against latency, with the front as a line."""
    figure = new_figure((8, 5))
    figure.set_layout_engine("constrained")
    axes = figure.subplots()
    trained = [row for row in rows if row["status"] == FINISHED and row["latency_ms"] is not None]
    trained = [row for row in trained if row["devel"] is not None]
    x, y = [row["latency_ms"] for row in trained], [row["devel"] for row in trained]
    axes.plot(x, y, "o", color="0.6", ms=6, label=f"trials ({len(trained)})")
    ends = [row["latency_ms"] for row in front], [row["devel"] for row in front]
    axes.plot(*ends, "o-", color="C0", ms=8, label="Pareto front", drawstyle="steps-post")
    _draw_limits(axes, rows, experiment)
    axes.set_xlabel("Latency of a segment on one thread (ms)")
    axes.set_ylabel(_metric(experiment.plan.metric))
    known = [row["latency_ms"] for row in rows if row["latency_ms"] is not None]
    if max(known) > 8 * min(known):
        axes.set_xscale("log")
    middle = math.sqrt(max(known) * min(known))
    for row in front:
        _name_trial(axes, row, rows, to_the_left=row["latency_ms"] > middle)
    axes.margins(x=0.12, y=0.12)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside upper center", ncols=5, fontsize=8, frameon=False)
    save_figure(figure, path)


def _name_trial(axes: Axes, row: Row, rows: Sequence[Row], *, to_the_left: bool) -> None:
    """Above the front, where no trial is, or below it where that would leave the picture."""
    axes.annotate(
        f"{row['number']}: {_settings_name(row, rows)}",
        (row["latency_ms"], row["devel"]),
        (-6, 7) if to_the_left else (6, -14),
        textcoords="offset points",
        ha="right" if to_the_left else "left",
        fontsize=8,
        parse_math=False,
        bbox={"boxstyle": "square,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.7},
    )


def _draw_limits(axes: Axes, rows: Sequence[Row], experiment: Experiment) -> None:
    """The budget, and where what is beyond it stands, which was not trained."""
    beyond = [row["latency_ms"] for row in rows if row["status"] == OVER_BUDGET]
    if beyond:
        bottom = axes.get_xaxis_transform()
        label = f"beyond the budget, not trained ({len(beyond)})"
        axes.plot(
            beyond, [0.02] * len(beyond), "x", color="C3", transform=bottom, ms=7, label=label
        )
    budget = experiment.budget
    if budget.max_latency_ms is not None:
        label = f"budget: {budget.max_latency_ms:g} ms"
        axes.axvline(budget.max_latency_ms, color="C3", ls="--", lw=1, label=label)
    if budget.max_size_mb is not None:
        axes.plot([], [], " ", label=f"budget: {budget.max_size_mb:g} MB")


def _settings_name(row: Row, rows: Sequence[Row]) -> str:
    """What sets a trial apart from the others, without the names of the keys."""
    settings = row["settings"]
    differing = [key for key in settings if any(r["settings"][key] != settings[key] for r in rows)]
    return ", ".join(dict.fromkeys(shorten(_value_name(settings[key])) for key in differing))

"""What an evaluation of detection leaves: a report, tables, the settings, and a picture."""

from __future__ import annotations

import csv
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepspectrumlite.errors import MissingExtraError
from deepspectrumlite.matching import Outcome
from deepspectrumlite.plots import new_figure, save_figure, shorten
from deepspectrumlite.stream_settings import StreamSettings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Curve = list[dict[str, Any]]

CURVE_COLUMNS = ("hits", "misses", "miss_rate", "false_alarms", "false_alarms_per_hour")
_EVENT_COLUMNS = (
    *("path", "outcome", "label", "start", "end", "score", "announced"),
    *("reference_start", "reference_end"),
)
MAX_COLOURED = 8  # labels; more cannot be told apart, and are grey


def write_report(
    out: Path,
    report: dict[str, Any],
    settings: StreamSettings,
    points: Curve,
    outcomes: Mapping[Path, Sequence[Outcome]],
) -> None:
    """Write detection.json, stream.json, curve.csv, events.csv and curve.png into a folder.

    Where the report has a notice, as of :func:`why_no_picture`, there is no curve.png.

    Raises:
        OSError: the folder cannot be written
    """
    make_folder(out)
    for name, content in (("detection.json", report), ("stream.json", settings.to_json())):
        (out / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    _write_csv(out / "curve.csv", ("label", "threshold", *CURVE_COLUMNS), points)
    rows = [
        {"path": path} | _event_row(outcome)
        for path, found in outcomes.items()
        for outcome in found
    ]
    _write_csv(out / "events.csv", _EVENT_COLUMNS, rows)
    if report["notice"] is None:
        plot_curve(points, report, out / "curve.png")
    else:
        # One from before would show other results.
        (out / "curve.png").unlink(missing_ok=True)


def make_folder(out: Path) -> None:
    """Make the folder where it is missing.

    Raises:
        OSError: it cannot be made, or nothing can be written to it
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise OSError(
            f"{out}: cannot be written ({error.strerror}); choose another folder with --out"
        ) from None


def why_no_picture() -> str | None:
    """In one line; None where it can be drawn."""
    try:
        new_figure((1, 1))
    except MissingExtraError as error:
        return f"no curve.png: {error}"
    return None


def _event_row(outcome: Outcome) -> dict[str, Any]:
    row: dict[str, Any] = {"outcome": outcome.kind, "label": outcome.label}
    event, reference = outcome.event, outcome.reference
    if event is not None:
        row |= {"start": event.start_seconds, "end": event.end_seconds}
        row |= {"score": round(event.score, 6), "announced": event.announced_seconds}
    if reference is not None:
        row |= {"reference_start": reference.start_seconds}
        row |= {"reference_end": reference.end_seconds}
    return row


def _write_csv(path: Path, columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def plot_curve(points: Sequence[dict[str, Any]], report: dict[str, Any], path: Path) -> None:
    """Write :func:`curve_figure` as a PNG.

    Raises:
        MissingExtraError: matplotlib is not installed
        OSError: path cannot be written
    """
    save_figure(curve_figure(points, report), path)


def curve_figure(points: Sequence[dict[str, Any]], report: dict[str, Any]) -> Figure:
    """A line per label over all thresholds, and a star at those of the report.

    Args:
        points: as of :func:`deepspectrumlite.detection.curve`
        report: as of :func:`deepspectrumlite.detection.evaluate_stream`
    """
    figure = new_figure((7, 4.5))
    figure.set_layout_engine("constrained")
    axes = figure.subplots()
    # A label without events has no miss rate.
    labels = [name for name, found in report["labels"].items() if found["events"]]
    many = len(labels) > MAX_COLOURED
    for index, label in enumerate(labels):
        _draw(axes, points, label, report["labels"][label], "0.7" if many else f"C{index}", 1.4)
    if report["overall"]["events"]:
        _draw(axes, points, "", report["overall"], "black", 2.4)
    # Below one false alarm in all this time there is only zero.
    least = 1 / report["hours"]
    axes.set_xscale("symlog", linthresh=least, linscale=0.4)
    most = max(least, *(row["false_alarms_per_hour"] for row in points))
    powers = range(math.ceil(math.log10(least)), math.floor(math.log10(most)) + 1)
    ticks = [0.0, *([10.0**power for power in powers] or [most])]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set(
        xlabel="False alarms per hour",
        ylabel="Missed events (%)",
        xlim=(-0.1 * least, 1.3 * most),
        ylim=(-3, 103),
    )
    wanted = report["wanted_false_alarms_per_hour"]
    if wanted is not None:
        axes.axvline(wanted, color="0.4", ls="--", lw=1, label=f"wanted: {wanted:g} per hour")
    axes.grid(alpha=0.3)
    axes.set_title(f"{report['overall']['events']} events in {report['hours']:.2f} hours")
    _add_legend(axes, many)
    return figure


def _draw(
    axes: Axes,
    points: Sequence[dict[str, Any]],
    label: str,
    used: dict[str, Any],
    color: str,
    width: float,
) -> None:
    rows = [row for row in points if row["label"] == label]
    # At the lowest thresholds detections melt into one, so that there are few again.
    most = max(range(len(rows)), key=lambda i: (rows[i]["false_alarms_per_hour"], i))
    rows = rows[most:]
    alarms = [row["false_alarms_per_hour"] for row in rows]
    missed = [100 * row["miss_rate"] for row in rows]
    name = shorten(label) if label else "all labels"
    order = 3 if label else 4
    axes.plot(alarms, missed, marker=".", ms=3, lw=width, color=color, label=name, zorder=order)
    place = (used["false_alarms_per_hour"], 100 * used["miss_rate"])
    axes.plot(*place, "*", ms=13, mfc=color, mec="white", zorder=order + 2, clip_on=False)


def _add_legend(axes: Axes, many: bool) -> None:
    lines, names = axes.get_legend_handles_labels()
    if many:
        # The grey lines share one entry.
        first = len(names) - 1 - names[::-1].index("all labels")
        lines, names = [lines[0], *lines[first:]], ["each label", *names[first:]]
    legend = axes.legend(lines, names, fontsize=8)
    legend.set_title("star: the thresholds used")
    legend.get_title().set_fontsize(8)
    for text in legend.get_texts():
        text.set_parse_math(False)

"""What scanned recordings hold: counts by split and class, and what is unusual in them."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from rich.markup import escape
from rich.table import Table

from deepspectrumlite.manifest import SPLITS


def summarise(scanned: pd.DataFrame) -> pd.DataFrame:
    """Count recordings by split and class, and in all.

    Returns:
        The columns split, label, files (rows of the manifest), groups (0 without groups), minutes,
        mean and sd (sample standard deviation, ddof=1) of the duration in seconds. Per split the
        classes by name and then a row with the label "total"; at last, where there are several
        splits, a row with both "total". Without splits (or labels), all count as "all".
    """
    named = {name: scanned.get(name, "all") for name in ("split", "label")}
    frame = pd.DataFrame({"duration": scanned["duration"], **named})
    frame["group"] = scanned["group"].replace("", None) if "group" in scanned else None
    parts = []
    for split in [name for name in (*SPLITS, "all") if (frame["split"] == name).any()]:
        part = frame[frame["split"] == split]
        parts += [_count(split, str(label), rows) for label, rows in part.groupby("label")]
        parts.append(_count(split, "total", part))
    if frame["split"].nunique() > 1:
        parts.append(_count("total", "total", frame))
    return pd.DataFrame(parts)


def _count(split: str, label: str, rows: pd.DataFrame) -> dict[str, object]:
    return {
        "split": split,
        "label": label,
        "files": len(rows),
        "groups": rows["group"].nunique(),
        "minutes": rows["duration"].sum() / 60,
        "mean": rows["duration"].mean(),
        "sd": rows["duration"].std(ddof=1),
    }


@dataclass(frozen=True)
class Findings:
    """What a user should know before training; recordings by their paths.

    ``sample_rates`` and ``channels`` count recordings by value. ``identical`` holds sets of
    recordings of the same content; those of them in more than one split are in ``leaking``,
    those of more than one label in ``contradicting``.
    """

    sample_rates: dict[int, int]
    channels: dict[int, int]
    clipped: list[str]
    silent: list[str]
    identical: list[list[str]]
    leaking: list[list[str]]
    contradicting: list[list[str]]


def findings(scanned: pd.DataFrame) -> Findings:
    """Collect what is unusual in scanned recordings."""
    repeated = scanned[scanned.duplicated("digest", keep=False)]
    sets = [rows for _, rows in repeated.groupby("digest", sort=False)]

    def differing(column: str) -> list[list[str]]:
        found = [rows for rows in sets if column in rows and rows[column].nunique() > 1]
        return [rows["path"].tolist() for rows in found]

    return Findings(
        sample_rates=_value_counts(scanned["sample_rate"]),
        channels=_value_counts(scanned["channels"]),
        clipped=scanned.loc[scanned["clipped"], "path"].tolist(),
        silent=scanned.loc[scanned["silent"], "path"].tolist(),
        identical=[rows["path"].tolist() for rows in sets],
        leaking=differing("split"),
        contradicting=differing("label"),
    )


def _value_counts(column: "pd.Series[int]") -> dict[int, int]:
    values, counts = np.unique(column.to_numpy(np.int64), return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def summary_tables(scanned: pd.DataFrame) -> list[Table | str]:
    """All of :func:`summarise` and :func:`findings`, ready for ``rich`` to print."""
    table = Table(title="Recordings")
    for name in ("split", "label"):
        table.add_column(name)
    for name in ("files", "groups", "minutes", "mean (s)", "sd (s)"):
        table.add_column(name, justify="right")
    for row in summarise(scanned).to_dict("records"):
        numbers = [f"{row[name]:.2f}" for name in ("minutes", "mean", "sd")]
        counts = [str(row["files"]), str(row["groups"] or "-")]
        shown = [escape(str(row["split"])), escape(str(row["label"])), *counts, *numbers]
        table.add_row(*["-" if text == "nan" else text for text in shown])
    return [table, *_remarks(findings(scanned))]


def _remarks(found: Findings) -> list[str]:
    rates = ", ".join(f"{rate} Hz: {n}" for rate, n in found.sample_rates.items())
    channels = ", ".join(f"{n_channels}: {n}" for n_channels, n in found.channels.items())
    lists = {
        "Clipped": found.clipped,
        "Silent": found.silent,
        "Identical recordings": _equations(found.identical),
        "WARNING: identical recordings in different splits": _equations(found.leaking),
        "WARNING: identical recordings with different labels": _equations(found.contradicting),
    }
    remarks = [_shorten(title, items) for title, items in lists.items() if items]
    return [f"Sample rates: {rates}", f"Channels: {channels}", *remarks]


def _equations(sets: list[list[str]]) -> list[str]:
    return [" = ".join(paths) for paths in sets]


def _shorten(title: str, items: list[str], limit: int = 5) -> str:
    more = [f"and {len(items) - limit} more"] if len(items) > limit else []
    return escape(f"{title} ({len(items)}): {', '.join([*items[:limit], *more])}")

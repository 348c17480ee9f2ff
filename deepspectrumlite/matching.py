"""Which detected events are hits, and which are false alarms; and which events were missed."""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deepspectrumlite.errors import ManifestError
from deepspectrumlite.postprocess import Event

COLUMNS = ("path", "start", "end", "label")


@dataclass(frozen=True)
class Reference:
    """An event that is known to be in a recording."""

    path: Path
    start_seconds: float
    end_seconds: float
    label: str


@dataclass(frozen=True)
class Outcome:
    """One detection, or one event that was missed.

    ``kind`` is "hit"; "repeat", a further detection of an event that is hit already; "false
    alarm"; or "miss". ``event`` is None for a miss, ``reference`` for a false alarm.
    """

    kind: str
    label: str
    event: Event | None
    reference: Reference | None


def read_references(manifest: Path) -> dict[Path, list[Reference]]:
    """Read a CSV with a row per event, and one without start, end and label where there is none.

    Args:
        manifest: a CSV with the columns path (from the folder of the CSV on, or absolute), start
            and end (in seconds), and label; others are passed over

    Returns:
        the events of each recording, in the order of the file

    Raises:
        ManifestError: the file is missing, lacks a column or a row, or a row is inconsistent
    """
    try:
        with manifest.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise ManifestError(
                    f"{manifest}: no column {', '.join(missing)}; needed: {', '.join(COLUMNS)}"
                )
            rows = [(reader.line_num, row) for row in reader]
    except OSError as error:
        raise ManifestError(f"{manifest}: cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(f"{manifest}: not a CSV in UTF-8: {error}") from None
    if not rows:
        raise ManifestError(f"{manifest}: no recording; give a row for each event")
    found: dict[Path, list[Reference]] = {}
    for line, row in rows:
        path, reference = _read_row(f"{manifest}, line {line}", manifest.parent, row)
        found.setdefault(path, [])
        if reference is not None:
            found[path].append(reference)
    return found


def _read_row(where: str, folder: Path, row: dict[str, Any]) -> tuple[Path, Reference | None]:
    name, *event = ((row[column] or "").strip() for column in COLUMNS)
    if not name:
        raise ManifestError(f"{where}: an empty path; name the recording")
    path = folder / name
    if not any(event):
        return path, None
    if not all(event):
        raise ManifestError(
            f"{where}: only a part of start, end and label; give all three, or none for a "
            "recording without events"
        )
    try:
        start, end = float(event[0]), float(event[1])
    except ValueError:
        start = end = math.nan
    if not 0 <= start < end < math.inf:
        raise ManifestError(
            f"{where}: start is {event[0]}, end is {event[1]}; allowed: seconds, 0 <= start < end"
        )
    return path, Reference(path, start, end, event[2])


def check_labels(
    manifest: Path, references: Mapping[Path, Sequence[Reference]], labels: Sequence[str]
) -> None:
    """Raise ManifestError where an event has a label that is not among `labels`."""
    given = {each.label for known in references.values() for each in known}
    unknown = sorted(given.difference(labels))
    if unknown:
        raise ManifestError(
            f"{manifest}: labels that the model does not know: {', '.join(unknown)}; allowed: "
            f"{', '.join(labels)}"
        )


def check_starts(path: Path, references: Sequence[Reference], seconds: float) -> None:
    """Raise ManifestError where an event starts when the recording is over."""
    late = [each for each in references if each.start_seconds >= seconds]
    if late:
        raise ManifestError(
            f"{path}: an event starts at {late[0].start_seconds:g} s; allowed: before the end of "
            f"the recording, at {seconds:.3f} s"
        )


def match(
    references: Sequence[Reference], events: Sequence[Event], collar_seconds: float
) -> list[Outcome]:
    """Judge the detections of one recording; labels are independent of each other.

    A detection hits an event of its label that it overlaps, when the event is widened by the
    collar on both sides. It hits one at most: of two events that one long detection covers, a
    program is told once, so the other is missed. Otherwise a detection that never ends would hit
    all. Of all ways to assign, this one has the most hits.

    Returns:
        an outcome for each detection, and for each event that is missed, in the order of time
    """
    outcomes = []
    labels = {each.label for each in references} | {each.label for each in events}
    for label in sorted(labels):
        wanted = sorted(
            (each for each in references if each.label == label),
            key=lambda each: (each.end_seconds, each.start_seconds),
        )
        found = sorted(
            (each for each in events if each.label == label), key=lambda each: each.start_seconds
        )
        outcomes += _match_label(label, wanted, found, collar_seconds)
    return sorted(outcomes, key=_time)


def _match_label(
    label: str, wanted: Sequence[Reference], found: Sequence[Event], collar: float
) -> list[Outcome]:
    """The most hits, as `wanted` is sorted by end, and `found` does not overlap (Glover, 1967)."""
    starts = np.array([each.start_seconds for each in wanted]) - collar
    ends = np.array([each.end_seconds for each in wanted]) + collar
    is_hit = np.zeros(len(wanted), bool)
    outcomes = []
    for event in found:
        end = math.inf if event.end_seconds is None else event.end_seconds
        near = np.flatnonzero((starts < end) & (ends > event.start_seconds)).tolist()
        free = [i for i in near if not is_hit[i]]
        if free:
            is_hit[free[0]] = True
            outcomes.append(Outcome("hit", label, event, wanted[free[0]]))
        elif near:
            outcomes.append(Outcome("repeat", label, event, wanted[near[0]]))
        else:
            outcomes.append(Outcome("false alarm", label, event, None))
    missed = [each for each, hit in zip(wanted, is_hit, strict=True) if not hit]
    return outcomes + [Outcome("miss", label, None, reference) for reference in missed]


def _time(outcome: Outcome) -> float:
    if outcome.event is not None:
        return outcome.event.start_seconds
    assert outcome.reference is not None, "a miss of nothing"
    return outcome.reference.start_seconds


def count(outcomes: Iterable[Outcome], hours: float) -> dict[str, Any]:
    """Counts and rates of outcomes, as they stand in the report.

    The latency of a hit is the time from the start of the event to the announcement. It is 0 for
    a detection that is announced before, as the collar allows: that one made nobody wait, and must
    not make up for another that did. What cannot be known, such as the miss rate of no events, is
    None.
    """
    outcomes = list(outcomes)
    kinds = [outcome.kind for outcome in outcomes]
    hits, misses, alarms = (kinds.count(kind) for kind in ("hit", "miss", "false alarm"))
    latencies = [
        max(0.0, outcome.event.announced_seconds - outcome.reference.start_seconds)
        for outcome in outcomes
        if outcome.kind == "hit" and outcome.event and outcome.reference
    ]
    median, late = np.percentile(latencies, (50, 95)).tolist() if latencies else (None, None)
    return {
        "events": hits + misses,
        "hits": hits,
        "misses": misses,
        "miss_rate": misses / (hits + misses) if hits + misses else None,
        "false_alarms": alarms,
        "false_alarms_per_hour": alarms / hours,
        "repeats": kinds.count("repeat"),
        "latency_median_seconds": median,
        "latency_95_percent_seconds": late,
    }

"""How well a stream is recognised: false alarms an hour, missed events, and the thresholds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from deepspectrumlite.audio import audio_info
from deepspectrumlite.config import COLLAR_SECONDS
from deepspectrumlite.decisions import Decision
from deepspectrumlite.detection_report import (
    CURVE_COLUMNS,
    Curve,
    make_folder,
    why_no_picture,
    write_report,
)
from deepspectrumlite.errors import ModelError
from deepspectrumlite.matching import (
    Outcome,
    Reference,
    check_labels,
    check_starts,
    count,
    match,
    read_references,
)
from deepspectrumlite.postprocess import Event, LabelEvents, Span
from deepspectrumlite.progress import Progress, silent
from deepspectrumlite.sources import recording
from deepspectrumlite.stream import StreamingClassifier, Window
from deepspectrumlite.stream_settings import StreamSettings

if TYPE_CHECKING:
    from deepspectrumlite.predict import Recogniser

THRESHOLDS = tuple(round(0.01 * i, 2) for i in range(1, 100))
_BLOCK_SECONDS = 15.0  # enough for a batch, little to keep


@dataclass(frozen=True)
class ScoredRecording:
    """What is known of a recording, and the scores of its windows, which are computed once.

    ``smoothed`` is (n_windows, n_labels), and ``spans`` has as many entries.
    """

    path: Path
    seconds: float
    sample_rate: int
    references: Sequence[Reference] = field(repr=False)
    spans: Sequence[Span] = field(repr=False)
    smoothed: npt.NDArray[np.float64] = field(repr=False)


def evaluate_stream(
    recogniser: Recogniser,
    manifest: Path,
    settings: StreamSettings,
    *,
    false_alarms_per_hour: float | None = None,
    collar_seconds: float = COLLAR_SECONDS,
    out: Path,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Find the events of long recordings, and compare them with those that are known.

    That takes long, so all that can be wrong is looked at before.

    Args:
        recogniser: the model
        manifest: a CSV, as of :func:`deepspectrumlite.matching.read_references`
        settings: of post-processing
        false_alarms_per_hour: wanted, of all labels together; the thresholds are chosen for it,
            see :func:`choose_thresholds`. None: the thresholds of the settings
        collar_seconds: as of :func:`deepspectrumlite.matching.match`
        out: a folder for detection.json (the report), events.csv (each detection and each miss),
            curve.csv and curve.png (misses against false alarms over the threshold), and
            stream.json (the settings, with the chosen thresholds); without matplotlib there is no
            picture
        progress: told of the seconds that are scored

    Returns:
        the report: hours, thresholds, and counts and rates as of
        :func:`deepspectrumlite.matching.count`, overall and for each label; "notice" says why
        there is no picture, or is None

    Raises:
        ManifestError: the list is inconsistent, or names a label that the model does not know
        ModelError: a model of numbers, settings that do not fit it, or an impossible number
        AudioError: a recording cannot be read
        MissingExtraError: soundfile does not know its format, and PyAV is not installed
        OSError: the folder cannot be made or written
    """
    decision = recogniser.decision
    settings.check_for(recogniser.cutting, decision)
    labels = list(settings.label_thresholds(decision))
    if not labels:
        raise ModelError("the model has no label that makes events; give one that tells labels")
    for name, number in (
        ("false alarms an hour", false_alarms_per_hour),
        ("the collar in seconds", collar_seconds),
    ):
        _check_number(name, 0.0 if number is None else number)
    references = read_references(manifest)
    check_labels(manifest, references, decision.labels)
    for path, known in references.items():
        check_starts(path, known, audio_info(path).duration_seconds)
    notice = why_no_picture()
    make_folder(out)
    scored = [
        score_recording(recogniser, path, known, settings, progress)
        for path, known in references.items()
    ]
    points = curve(scored, decision, settings, collar_seconds, progress)
    reached: dict[str, bool] = {}
    if false_alarms_per_hour is not None:
        chosen, reached = choose_thresholds(points, labels, false_alarms_per_hour)
        settings = replace(settings, thresholds={**settings.thresholds, **chosen})
    thresholds = settings.label_thresholds(decision)
    outcomes = {
        each.path: _judge(each, decision, thresholds, settings, collar_seconds) for each in scored
    }
    report = {
        "recordings": len(scored),
        "hours": _hours(scored),
        "collar_seconds": collar_seconds,
        "wanted_false_alarms_per_hour": false_alarms_per_hour,
        "notice": notice,
        **_count_labels([one for found in outcomes.values() for one in found], scored, labels),
    }
    for label, counts in report["labels"].items():
        counts |= {"threshold": thresholds[label], "reached": reached.get(label)}
    write_report(out, report, settings, points, outcomes)
    return report


def score_recording(
    recogniser: Recogniser,
    path: Path,
    references: Sequence[Reference],
    settings: StreamSettings,
    progress: Progress,
) -> ScoredRecording:
    """Hear a recording once.

    Raises:
        AudioError: it cannot be read
        ManifestError: an event starts when the recording is over
    """
    windows: list[Window] = []
    stream = StreamingClassifier(
        recogniser, settings, on_window=windows.append, max_batch=recogniser.batch_size
    )
    rate = recogniser.cutting.sample_rate
    total = max(1, int(audio_info(path).duration_seconds))
    for block in recording(path, rate, block_seconds=_BLOCK_SECONDS):
        stream.push(block.samples)
        progress(f"scoring {path.name}", min(int(stream.seconds), total), total)
    stream.finish()
    # Once more, as the length in a header can be an estimate.
    check_starts(path, references, stream.seconds)
    smoothed = np.array([window.smoothed for window in windows], dtype=np.float64)
    decision = recogniser.decision
    smoothed = decision.known(smoothed.reshape(len(windows), len(decision.columns)))
    spans = [window.span for window in windows]
    return ScoredRecording(path, stream.seconds, rate, references, spans, smoothed)


def find_events(
    scored: ScoredRecording, column: int, label: str, threshold: float, settings: StreamSettings
) -> list[Event]:
    """The events of one label at one threshold: those that the stream would give."""
    events = LabelEvents(label, threshold, settings, scored.sample_rate)
    scores = scored.smoothed[:, column]
    may_start = np.ones(len(scores), bool)
    if settings.only_strongest:
        may_start = scores == scored.smoothed.max(axis=1, initial=0)
    # Nothing happens in windows below, but that the first of them ends an event.
    high = scores >= events.low
    high[1:] |= high[:-1].copy()
    found = [
        events.step(scored.spans[i], float(scores[i]), bool(may_start[i]))
        for i in np.flatnonzero(high).tolist()
    ]
    return [event for event in (*found, events.finish()) if event and event.end_seconds is not None]


def curve(
    scored: Sequence[ScoredRecording],
    decision: Decision,
    settings: StreamSettings,
    collar_seconds: float,
    progress: Progress = silent,
) -> Curve:
    """A row per threshold and label, and with the label "" for all labels at this threshold."""
    labels = list(settings.label_thresholds(decision))
    rows = []
    for done, threshold in enumerate(THRESHOLDS, 1):
        same = dict.fromkeys(labels, threshold)
        outcomes = [
            outcome
            for each in scored
            for outcome in _judge(each, decision, same, settings, collar_seconds)
        ]
        counts = _count_labels(outcomes, scored, labels)
        for label, found in [("", counts["overall"]), *counts["labels"].items()]:
            row = {name: found[name] for name in CURVE_COLUMNS}
            rows.append({"label": label, "threshold": threshold} | row)
        progress("trying thresholds", done, len(THRESHOLDS))
    return rows


def choose_thresholds(
    points: Curve, labels: Sequence[str], false_alarms_per_hour: float
) -> tuple[dict[str, float], dict[str, bool]]:
    """For each label the lowest threshold that keeps its share of the false alarms.

    Each label may have the same share of those that are wanted. At every higher threshold its
    share is kept as well: at the lowest ones, where detections melt into each other, there can be
    few again. Where even the highest threshold has more, that one is taken, and reported.

    Returns:
        the threshold of each label, and whether what is wanted is reached
    """
    _check_number("false alarms an hour", false_alarms_per_hour)
    share = false_alarms_per_hour / len(labels)
    chosen, reached = {}, {}
    for label in labels:
        own = sorted(
            (row for row in points if row["label"] == label), key=lambda row: -row["threshold"]
        )
        chosen[label] = own[0]["threshold"]
        reached[label] = own[0]["false_alarms_per_hour"] <= share
        for row in own:
            if row["false_alarms_per_hour"] > share:
                break
            chosen[label] = row["threshold"]
    return chosen, reached


def _judge(
    scored: ScoredRecording,
    decision: Decision,
    thresholds: dict[str, float],
    settings: StreamSettings,
    collar_seconds: float,
) -> list[Outcome]:
    events = [
        event
        for label, threshold in thresholds.items()
        for event in find_events(scored, decision.labels.index(label), label, threshold, settings)
    ]
    wanted = [each for each in scored.references if each.label in thresholds]
    return match(wanted, events, collar_seconds)


def _count_labels(
    outcomes: Sequence[Outcome], scored: Sequence[ScoredRecording], labels: Sequence[str]
) -> dict[str, Any]:
    hours = _hours(scored)
    by_label: dict[str, list[Outcome]] = {label: [] for label in labels}
    for outcome in outcomes:
        by_label[outcome.label].append(outcome)
    return {
        "overall": count(outcomes, hours),
        "labels": {label: count(found, hours) for label, found in by_label.items()},
    }


def _hours(scored: Sequence[ScoredRecording]) -> float:
    return sum(each.seconds for each in scored) / 3600


def _check_number(name: str, number: float) -> None:
    if not 0 <= number < math.inf:
        raise ModelError(f"{name}: {number}; allowed: a number from 0 on")

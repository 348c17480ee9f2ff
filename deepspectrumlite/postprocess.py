"""From the scores of windows to smoothed scores and events, one window at a time. numpy only."""

import math
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from deepspectrumlite.decisions import Decision
from deepspectrumlite.stream_settings import StreamSettings

Scores = npt.NDArray[Any]


@dataclass(frozen=True)
class Event:
    """A label that was recognised for a while.

    ``end_seconds`` is None while it lasts. ``score`` is the highest smoothed score so far.
    ``announced_seconds`` is how much of the stream had to be heard to know of it: the end of the
    window that decided it.
    """

    label: str
    start_seconds: float
    end_seconds: float | None
    score: float
    announced_seconds: float


@dataclass(frozen=True)
class Span:
    """What a window speaks for, and its own end; in samples of the stream."""

    begin: int
    end: int
    decided: int


class Smoother:
    """Smooths scores over time as the settings say; NaN (nothing was scored) is passed over."""

    def __init__(self, settings: StreamSettings, hop_seconds: float) -> None:
        self._kind = settings.smoothing
        self._share = 1 - math.exp(-hop_seconds / settings.smoothing_seconds)
        n_windows = max(1, round(settings.smoothing_seconds / hop_seconds))
        self._last: deque[Scores] = deque(maxlen=n_windows if self._kind == "mean" else 1)

    def step(self, scores: Scores) -> Scores:
        """(n_outputs,) -> (n_outputs,), float64: of the windows up to this one."""
        scores = np.asarray(scores, dtype=np.float64)
        if self._kind == "mean":
            self._last.append(scores)
            # Summed anew each time: a running sum would drift over days.
            heard = [each for each in self._last if not np.isnan(each).any()]
            return np.mean(heard, axis=0) if heard else scores
        if self._kind == "ema" and self._last:
            before = self._last[0]
            scores = before if np.isnan(scores).any() else before + self._share * (scores - before)
        if not np.isnan(scores).any():
            self._last.append(scores)
        return scores


class LabelEvents:
    """Finds the events of one label in its smoothed scores."""

    def __init__(
        self, label: str, threshold: float, settings: StreamSettings, sample_rate: int
    ) -> None:
        self.label, self.threshold = label, threshold
        self.low = max(threshold - settings.hysteresis, threshold / 2)
        self._sample_rate = sample_rate
        self._min_samples = round(settings.min_duration_seconds * sample_rate)
        self._refractory = round(settings.refractory_seconds * sample_rate)
        self._start: int | None = None
        self._end = 0
        self._free_from = 0
        self._announced: int | None = None
        self._peak = 0.0

    def step(self, span: Span, score: float, may_start: bool = True) -> Event | None:
        """The event, when this window is the one that announces or ends it."""
        if self._start is None:
            # Not "score < threshold": a NaN must not start an event.
            is_high = score >= self.threshold
            if not is_high or not may_start or span.begin < self._free_from:
                return None
            self._start, self._peak = span.begin, score
        elif not score >= self.low:
            return self.finish()
        self._end, self._peak = span.end, max(self._peak, score)
        if self._announced is None and self._end - self._start >= self._min_samples:
            self._announced = span.decided
            return self._event(None)
        return None

    def finish(self) -> Event | None:
        """End the event that lasts, if one does; it is returned if it was announced."""
        ended = None
        if self._announced is not None:
            ended = self._event(self._end / self._sample_rate)
            self._free_from = self._end + self._refractory
        self._start = self._announced = None
        return ended

    def _event(self, end_seconds: float | None) -> Event:
        assert self._start is not None, "an event without a start"
        assert self._announced is not None, "an event that was not announced"
        start, announced = self._start / self._sample_rate, self._announced / self._sample_rate
        return Event(self.label, start, end_seconds, self._peak, announced)


class PostProcessor:
    """All of it, for one stream: scores of windows in, smoothed scores and events out."""

    def __init__(
        self, settings: StreamSettings, decision: Decision, hop_samples: int, sample_rate: int
    ) -> None:
        self._smoother = Smoother(settings, hop_samples / sample_rate)
        self._only_strongest, self._known = settings.only_strongest, decision.known
        self._labels = [
            (decision.labels.index(label), LabelEvents(label, threshold, settings, sample_rate))
            for label, threshold in settings.label_thresholds(decision).items()
        ]

    def step(self, span: Span, scores: Scores) -> tuple[Scores, list[Event]]:
        """(n_outputs,) -> the smoothed scores, (n_outputs,), and what began or ended."""
        smoothed = self._smoother.step(scores)
        highest = self._known(smoothed).max()
        found = [
            events.step(
                span, float(smoothed[i]), not self._only_strongest or smoothed[i] == highest
            )
            for i, events in self._labels
        ]
        return smoothed, [event for event in found if event]

    def finish(self) -> list[Event]:
        """End what lasts."""
        found = [events.finish() for _, events in self._labels]
        return [event for event in found if event]

"""A cheap recogniser to stream with: it knows what it was given, and scores loudness.

And noise for hours, of which each window is known.
"""

import json
import math
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soxr

from deepspectrumlite.audio import segment_starts
from deepspectrumlite.decisions import Decision
from deepspectrumlite.stream import StreamingClassifier, StreamSettings

RATE = 1000
PROCESS = Path("/proc/self/status")


@dataclass(frozen=True)
class Cutting:
    sample_rate: int = RATE
    segment_samples: int = 400
    hop_samples: int = 100
    padding: str = "repeat"
    tail: str = "keep"


@dataclass
class Loudness:
    """Scores of a row depend on this row alone: its mean power, and 1 minus that."""

    cutting: Cutting = field(default_factory=Cutting)
    decision: Decision = field(default_factory=lambda: Decision("softmax", ["loud", "quiet"]))
    batch_size: int = 4
    recipe: dict = field(default_factory=dict)
    stream: dict | None = None
    batches: list = field(default_factory=list)
    keep: bool = True

    @property
    def heard(self):
        """All windows that were scored, (n, segment_samples)."""
        return np.concatenate(self.batches)

    def score(self, segments):
        assert segments.dtype == np.float32
        assert segments.shape[1:] == (self.cutting.segment_samples,)
        if self.keep:
            self.batches.append(segments.copy())
        power = np.array([np.mean(np.square(row)) for row in segments])
        scores = np.stack([power, 1 - power], axis=1).astype(np.float32)
        return scores[:, : len(self.decision.columns)]


def random_chunks(rng, samples, longest):
    """The samples in chunks of 0 to `longest`, of which some are 0 and many 1."""
    at = 0
    while at < len(samples):
        size = int(rng.choice([0, 1, 1, 2, rng.integers(0, longest, endpoint=True)]))
        yield samples[at : at + size]
        at += size


class EndlessNoise:
    """Noise at 44.1 kHz with holes, of which every sample is known at the model's rate as well.

    It repeats itself after about 10 s, which is a whole number of samples at both rates.
    """

    rate = 44_100
    margin = 100  # the filter of the resampler, in samples at the model's rate

    def __init__(self, model_rate, seed=0):
        self.model_rate = model_rate
        unit = math.gcd(self.rate, model_rate)
        size, model_size = (1009 * rate // unit for rate in (self.rate, model_rate))
        noise = np.random.default_rng(seed).uniform(-0.5, 0.5, size).astype(np.float32)
        again = soxr.resample(np.tile(noise, 3), self.rate, model_rate, quality="HQ")
        # Twice, so that every slice of up to one length is in it.
        self._noise = np.tile(noise, 2)
        self._wanted = np.tile(again[model_size : 2 * model_size], 2)
        self._at, self._end = 0, math.inf
        self._holes = deque()  # (begin, end), in samples at the model's rate

    def push(self, classifier, size, num_bad):
        """Let it hear the next samples, of which some are NaN."""
        begin = self._at % (len(self._noise) // 2)
        chunk = self._noise[begin : begin + size].copy()
        for place in np.linspace(0, size - 1, num_bad).astype(int):
            chunk[place] = np.nan
            self._add_hole(self._at + place, 1)
        self._at += size
        classifier.push(chunk)

    def lose(self, classifier, size):
        self._add_hole(self._at, size)
        self._at += size
        classifier.push_gap(size)

    def finish(self, classifier):
        self._end = self._at * self.model_rate // self.rate
        classifier.finish()

    def _add_hole(self, begin, size):
        scale = self.model_rate / self.rate
        self._holes.append((begin * scale, (begin + size) * scale))

    def wanted(self, start, size):
        """(size,) samples at the model's rate; NaN where they are unclear, as at edges of holes."""
        while self._holes and self._holes[0][1] + self.margin < start:
            self._holes.popleft()
        begin = start % (len(self._wanted) // 2)
        found = self._wanted[begin : begin + size].copy()
        for first, last in self._holes:
            edges = first - self.margin, last + self.margin
            inside = first + self.margin, last - self.margin
            for (low, high), value in ((edges, np.nan), (inside, 0)):
                low, high = max(0, math.floor(low) - start), max(0, math.ceil(high) - start)
                found[low : max(low, high)] = value
        if start + size > self._end - self.margin:
            found[max(0, self._end - self.margin - start) :] = np.nan
        return found

    def is_lost(self, start, end):
        """Whether one hole covers all of it; None where it is a matter of a sample or two."""
        for first, last in self._holes:
            if first <= start + 2 and end - 2 <= last:
                return True if first <= start - 2 and end + 2 <= last else None
        return False


@dataclass
class Soak:
    """A recogniser that compares each window with what was played, before another scores it."""

    inner: Any
    noise: EndlessNoise
    hop_samples: int
    num_windows: int = 0
    num_scored: int = 0

    def __post_init__(self):
        self.cutting, self.decision = self.inner.cutting, self.inner.decision

    def score(self, segments):
        start, size = self.num_windows * self.hop_samples, self.cutting.segment_samples
        wanted = self.noise.wanted(start, size)
        assert segments.shape == (1, size)
        wrong = np.abs(segments[0] - wanted) > 1e-4  # False for NaN
        assert not wrong.any(), f"window at {start}: sample {wrong.argmax()}"
        self.num_scored += 1
        return self.inner.score(segments)

    def window(self, window):
        start = self.num_windows * self.hop_samples
        assert window.start_seconds == start / self.cutting.sample_rate
        assert self.noise.is_lost(start, window.span.decided) in (None, not window.is_scored)
        self.num_windows += 1


def soak(inner, seconds, hop_seconds):
    """Stream noise for so long, check each window, and print what was found as JSON."""
    rng = np.random.default_rng(1)
    rate, hop = inner.cutting.sample_rate, round(hop_seconds * inner.cutting.sample_rate)
    noise = EndlessNoise(rate)
    recogniser = Soak(inner, noise, hop)
    settings = StreamSettings(
        hop_seconds=hop_seconds, smoothing="mean", smoothing_seconds=5, threshold=0.4
    )
    classifier = StreamingClassifier(
        recogniser, settings, sample_rate=noise.rate, on_window=recogniser.window
    )
    resident, num_gaps = [], 0
    while classifier.seconds < seconds:
        size, num_bad = (
            rng.integers(1, rng.choice([3, 50_000, 99_000])),
            rng.choice([0, 0, 0, 0, 0, 1, 9]),
        )
        noise.push(classifier, int(size), int(num_bad))
        if rng.random() < 0.05:
            num_gaps += 1
            noise.lose(classifier, int(rng.integers(1, 3 * noise.rate)))
        if len(resident) < 100 * classifier.seconds / seconds:
            resident.append(resident_kib())
    noise.finish(classifier)
    cutting = Cutting(rate, inner.cutting.segment_samples, hop, tail=inner.cutting.tail)
    found = {
        "windows": recogniser.num_windows,
        "wanted_windows": len(segment_starts(round(classifier.seconds * rate), cutting)),
        "unscored": recogniser.num_windows - recogniser.num_scored,
        "gaps": num_gaps,
        "bad_samples": classifier.num_bad_samples,
        "early_kib": max(resident[15:30]),
        "late_kib": max(resident[-15:]),
    }
    print(json.dumps(found))


def resident_kib():
    for line in PROCESS.read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError(f"no VmRSS in {PROCESS}")

"""A cheap recogniser to stream with: it knows what it was given, and scores loudness."""

from dataclasses import dataclass, field

import numpy as np

from deepspectrumlite.decisions import Decision

RATE = 1000


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

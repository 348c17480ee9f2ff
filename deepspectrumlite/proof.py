"""Is an exported file as good as its model: the same clips through both, and what differs."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from deepspectrumlite.data import Segments
from deepspectrumlite.decisions import Decision
from deepspectrumlite.evaluate import average_files
from deepspectrumlite.metrics import RESAMPLES, Estimate, Floats, interval
from deepspectrumlite.predict import Recogniser
from deepspectrumlite.progress import Progress, silent
from deepspectrumlite.resampling import resample_counts
from deepspectrumlite.significance import MAIN_METRIC, main_metric

Scores = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Difference:
    """One file against its model, over the same clips.

    Attributes:
        max_difference: of the scores, over all segments; of numbers in their training deviation
        agreement: share of clips with the same answer; None for "linear", which has none
        metric: "UAR", "MAP" or "CCC", over clips
        value: of the file, with its bootstrap interval over clips
        drop: value of the model minus that of the file, with the paired bootstrap interval
    """

    max_difference: float
    agreement: float | None
    metric: str
    value: Estimate
    drop: Estimate

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        estimates = {"value": self.value.to_json(), "drop": self.drop.to_json()}
        return asdict(self) | estimates


def score_all(
    systems: Mapping[str, Recogniser],
    segments: Segments,
    progress: Progress = silent,
    *,
    batch_size: int = 32,
) -> dict[str, Scores]:
    """Scores of several systems for the same segments: (n_segments, n_outputs) each.

    Every segment is read once, and none is kept.
    """
    found: dict[str, list[Scores]] = {name: [] for name in systems}
    for first in range(0, len(segments), batch_size):
        progress("comparing with the model", first, len(segments))
        several = range(first, min(first + batch_size, len(segments)))
        batch = np.stack([segments[i][0] for i in several])
        for name, system in systems.items():
            found[name].append(system.score(batch))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def compare(
    decision: Decision,
    model: Scores,
    file: Scores,
    segments: Segments,
    *,
    scale: npt.NDArray[Any] | float = 1.0,
    n_resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """What a file's scores are worth beside the model's.

    Args:
        decision: what the scores mean
        model: (n_segments, n_outputs), of the model
        file: the same of the exported file
        segments: what was scored
        scale: of numbers, their training deviation, (n_outputs,)
        n_resamples: of the bootstrap, which draws clips, the same ones for both
        seed: of the bootstrap
    """
    by_model, target = average_files(model, segments)
    by_file, _ = average_files(file, segments)
    counts = resample_counts(len(target), n_resamples=n_resamples, seed=seed)
    values = [main_metric(decision, target, scores) for scores in (by_model, by_file)]
    samples = [main_metric(decision, target, scores, counts) for scores in (by_model, by_file)]
    drop = samples[0] - samples[1]
    return Difference(
        max_difference=float((np.abs(model - file) / scale).max()),
        agreement=_agreement(decision, by_model, by_file),
        metric=MAIN_METRIC[decision.output],
        value=Estimate(float(values[1]), *interval(samples[1])),
        drop=Estimate(float(values[0] - values[1]), *interval(drop)),
    )


def _agreement(decision: Decision, one: Floats, other: Floats) -> float | None:
    if decision.output == "linear":
        return None
    if decision.output == "sigmoid":
        same = (decision.present(one) == decision.present(other)).all(axis=1)
    else:
        refused = decision.refused(one)
        same = refused == decision.refused(other)
        same &= refused | (decision.classes(one) == decision.classes(other))
    return float(same.mean())

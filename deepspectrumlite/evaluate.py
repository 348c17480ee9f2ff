"""Scores of a trained model over a split: per segment, and per file as the mean of its segments."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader

from deepspectrumlite.config import TrainSection
from deepspectrumlite.data import Segments
from deepspectrumlite.metrics import RESAMPLES
from deepspectrumlite.model import Classifier
from deepspectrumlite.scores import classification_report

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many steps are done, and how many there are."""


def silent(what: str, done: int, total: int) -> None:
    """A progress that tells nobody."""


def make_loader(segments: Segments, section: TrainSection, **options: Any) -> DataLoader[Any]:
    """Batches of (waveforms, label indices, segment indices), decoded in worker processes."""
    # Starting a process costs more than decoding a few batches.
    workers = min(section.workers, len(segments) // (4 * section.batch_size))
    return DataLoader(
        segments,  # type: ignore[arg-type]
        batch_size=section.batch_size,
        num_workers=workers,
        persistent_workers=workers > 0,
        # Of its own: how often it draws, to seed the workers, depends on their number.
        generator=torch.Generator(),
        **options,
    )


@torch.inference_mode()
def score_segments(
    model: Classifier, segments: Segments, device: torch.device, progress: Progress = silent
) -> np.ndarray:
    """``(n_segments, n_labels)`` scores, in the order of the segments."""
    model.eval()
    loader = make_loader(segments, model.recipe.train)
    scores = []
    for step, (waveform, _, _) in enumerate(loader, 1):
        scores.append(model(waveform.to(device)).float().cpu().numpy())
        progress("scoring segments", step, len(loader))
    return np.concatenate(scores)


def average_files(scores: np.ndarray, segments: Segments) -> tuple[np.ndarray, np.ndarray]:
    """``(n_segments, n_labels)`` -> ``(n_files, n_labels)`` means, and ``(n_files,)`` labels.

    Files are in the order of the table; those without a segment are left out.
    """
    _, first, inverse = np.unique(segments.file_index, return_index=True, return_inverse=True)
    sums = np.zeros((len(first), scores.shape[1]))
    np.add.at(sums, inverse, scores)
    return sums / np.bincount(inverse)[:, None], segments.label_index[first]


def evaluate_model(
    model: Classifier,
    scanned: pd.DataFrame,
    device: torch.device,
    *,
    n_resamples: int = RESAMPLES,
    progress: Progress = silent,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Score labelled recordings.

    Args:
        model: a trained model
        scanned: one split, as of :func:`deepspectrumlite.data.scan`
        device: where to compute
        n_resamples: of the bootstrap
        progress: told of every batch

    Returns:
        the report: "files" and "segments", each as of
        :func:`deepspectrumlite.metrics.classification_report`, with intervals over files, and
        over groups where there are any; and a table with the prediction and scores of each file

    Raises:
        ManifestError: a label that the model does not know, or no segment at all
        AudioError: a recording cannot be read any more
    """
    labels = model.labels
    segments = Segments(scanned, model.recipe.data, labels)
    scores = score_segments(model.to(device), segments, device, progress)
    by_file, truth = average_files(scores, segments)
    kept = scanned.iloc[np.unique(segments.file_index)].reset_index(drop=True)
    groups = _groups(kept)
    groups_of_segments = _groups(scanned)
    if groups_of_segments is not None:
        groups_of_segments = groups_of_segments[segments.file_index]
    seed = model.recipe.train.seed
    options: dict[str, Any] = {"n_resamples": n_resamples, "seed": seed}
    predicted = by_file.argmax(axis=1)
    report = {
        "files": classification_report(truth, predicted, labels, groups=groups, **options),
        "segments": classification_report(
            segments.label_index,
            scores.argmax(axis=1),
            labels,
            units=segments.file_index,
            groups=groups_of_segments,
            **options,
        ),
        "files_without_a_segment": segments.dropped,
    }
    columns = [name for name in ("path", "start", "end", "group", "label") if name in kept]
    table = kept[columns].assign(predicted=[labels[i] for i in predicted])
    return report, table.join(pd.DataFrame(by_file, columns=[f"score_{name}" for name in labels]))


def _groups(scanned: pd.DataFrame) -> np.ndarray | None:
    if "group" not in scanned or (scanned["group"] == "").all():
        return None
    # A recording without a group stands for itself.
    names = scanned["group"].where(scanned["group"] != "", "file " + scanned["path"])
    return names.to_numpy(str)

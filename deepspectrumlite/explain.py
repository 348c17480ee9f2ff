"""Explain what a model hears in a recording: maps of its segments, and what to compare with.

The methods are those of :mod:`deepspectrumlite.attribution`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from deepspectrumlite.attribution import (
    DEFAULTS,
    Map,
    MapSettings,
    Values,
    device_of,
    explain_image,
)
from deepspectrumlite.audio import stream_segments
from deepspectrumlite.data import Segments, scan
from deepspectrumlite.errors import DeepSpectrumLiteError
from deepspectrumlite.manifest import load_manifest
from deepspectrumlite.model import NUMBERS, Classifier, TorchRecogniser
from deepspectrumlite.predict import Prediction, predict_file
from deepspectrumlite.progress import Progress, silent

BACKGROUND = 40  # images


@dataclass(frozen=True)
class Explanation:
    """Maps of one segment: ``image`` (3, height, width), ``scores`` (n_outputs,), times in s.

    ``path`` is None for a waveform from memory.
    """

    path: Path | None
    start: float
    end: float
    method: str
    image: Values = field(repr=False)
    scores: Values = field(repr=False)
    maps: list[Map]


def explain_recording(
    model: Classifier,
    path: Path,
    *,
    targets: Sequence[str] | None = None,
    method: str = "shap",
    background: Tensor | None = None,
    segment: Literal["strongest", "all"] = "strongest",
    settings: MapSettings = DEFAULTS,
    progress: Progress = silent,
) -> list[Explanation]:
    """Explain one recording.

    Args:
        model: on any device
        path: the recording
        targets: labels (for "linear" names of numbers, for "ordinal" "value"); None: those that the
            model answers with, as :func:`choose_targets`
        method: shap, gradcam or occlusion
        background: (n, 3, height, width), as of :func:`background_images`; gradcam needs none
        segment: the one with the highest score of the first target, or all
        settings: details of the method
        progress: told of every map

    Raises:
        AudioError: as :func:`deepspectrumlite.predict.predict_file`
        DeepSpectrumLiteError: an unknown target or method, no background, a backbone that does not
            go with Grad-CAM
    """
    recogniser = TorchRecogniser(model, device_of(model))
    prediction = predict_file(recogniser, path, progress)
    names = check_targets(model, targets or choose_targets(prediction))
    wanted = range(len(prediction.segment_starts))
    if segment == "strongest":
        column = model.decision.columns.index(names[0])
        wanted = range((best := int(prediction.segment_scores[:, column].argmax())), best + 1)
    found = []
    for i, (_, waveform) in enumerate(stream_segments(path, recogniser.cutting)):
        if i not in wanted:
            continue

        def tell(what: str, done: int, count: int, before: int = i - wanted.start) -> None:
            progress(what, before * count + done, len(wanted) * count)

        maps = explain_segment(
            model,
            waveform,
            names,
            method=method,
            background=background,
            settings=settings,
            progress=tell,
        )
        times = float(prediction.segment_starts[i]), float(prediction.segment_ends[i])
        scores, image = prediction.segment_scores[i], image_of(model, waveform)
        found.append(Explanation(path, *times, method, image.cpu().numpy(), scores, maps))
        if i == wanted[-1]:
            break
    return found


def explain_segment(
    model: Classifier,
    waveform: npt.NDArray[np.float32],
    targets: Sequence[str],
    *,
    method: str = "shap",
    background: Tensor | None = None,
    settings: MapSettings = DEFAULTS,
    progress: Progress = silent,
) -> list[Map]:
    """A map for each target of one segment, (num_samples,); errors as :func:`explain_recording`."""
    names, maps = check_targets(model, targets), []
    image = image_of(model, waveform)
    for done, name in enumerate(names, 1):
        maps.append(explain_image(model, image, name, method, background, settings))
        progress(f"explaining, {method}", done, len(names))
    return maps


def background_images(
    model: Classifier,
    source: Path | pd.DataFrame,
    *,
    count: int = BACKGROUND,
    seed: int = 0,
    progress: Progress = silent,
) -> Tensor:
    """Images of random segments, (n, 3, height, width), to compare with.

    Args:
        model: whose front-end makes them
        source: a manifest, a folder of recordings, or a table as of ``load_manifest``; with a
            split column only train is used, as the baseline is what the model learned from
        count: of the images; fewer where there are not as many segments
        seed: chooses them
        progress: told of every recording

    Raises:
        ManifestError: the manifest is inconsistent, or no recording in it can be used
    """
    table = source if isinstance(source, pd.DataFrame) else load_manifest(source, need_labels=False)
    if "split" in table and (table["split"] == "train").any():
        table = table[table["split"] == "train"]
    rng = np.random.default_rng(seed)
    rows = table.iloc[rng.permutation(len(table))[:count]].reset_index(drop=True)
    rows.attrs = dict(table.attrs)
    data = model.recipe.data
    scanned, _ = scan(
        rows, data, skip_bad=True, progress=lambda done, n: progress("reading background", done, n)
    )
    segments = Segments(scanned, data, np.zeros((len(scanned), 1), np.float32))
    # One of each recording first, so that a long one does not stand for all.
    order = rng.permutation(len(segments))
    turn = pd.Series(segments.file_index[order]).groupby(segments.file_index[order]).cumcount()
    used = order[np.argsort(turn.to_numpy(), kind="stable")[:count]]
    return torch.stack([image_of(model, segments[int(i)][0]) for i in used])


def choose_targets(prediction: Prediction) -> list[str]:
    """What a model answers; all numbers; the likeliest label where none is recognised."""
    decision, scores = prediction.decision, prediction.scores
    if decision.output in NUMBERS:
        return decision.columns
    if decision.output == "sigmoid" and prediction.labels:
        return prediction.labels
    return [decision.labels[int(decision.classes(scores))]]


def check_targets(model: Classifier, targets: Sequence[str]) -> list[str]:
    """The targets, each once; "all" is every output.

    Raises:
        DeepSpectrumLiteError: an unknown one
    """
    decision = model.decision
    columns = decision.columns if decision.output == "ordinal" else decision.labels
    for name in targets:
        if name not in (*columns, "all"):
            raise DeepSpectrumLiteError(
                f"target {name!r} is unknown to the model; allowed: {', '.join(columns)}, or all"
            )
    if "all" in targets and "all" not in columns:
        return columns
    return list(dict.fromkeys(targets))


@torch.no_grad()
def image_of(model: Classifier, waveform: npt.NDArray[np.float32]) -> Tensor:
    """(num_samples,) -> (3, height, width), on the model's device."""
    image: Tensor = model.frontend(torch.from_numpy(waveform)[None].to(device_of(model)))[0]
    return image.clone()

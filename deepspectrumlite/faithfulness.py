"""Are maps true to the model? Deletion and insertion, a sanity check, and averages over a split.

Pictures that look right prove nothing: these figures compare maps with random ones, and with those
of a model that has learned nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

from deepspectrumlite.attribution import (
    DEFAULTS,
    Function,
    Map,
    MapSettings,
    Values,
    explain_image,
    explained,
    score_images,
)
from deepspectrumlite.data import Segments, scan
from deepspectrumlite.explain import image_of
from deepspectrumlite.metrics import Estimate, interval
from deepspectrumlite.model import Classifier
from deepspectrumlite.progress import Progress, silent
from deepspectrumlite.resampling import resample_counts
from deepspectrumlite.row_metrics import spearman

# Blocks of so many to a side are replaced together: single pixels would make textures that no
# spectrogram has, and what a network says of those tells nothing about the map.
GRID = 16
STEPS = 32
RANDOM_ORDERS = 5
# Of one recording, segments to choose the strongest from.
MOST_SEGMENTS = 32

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """A segment with the map for its own label: ``image`` (3, height, width).

    ``group`` is the manifest's, None where it names none.
    """

    path: Path
    start: float
    name: str
    image: Tensor = field(repr=False)
    map: Map
    group: str | None = None


@dataclass(frozen=True)
class Average:
    """Mean image (3, height, width) and mean map (height, width) of a class."""

    name: str
    count: int
    image: Values = field(repr=False)
    values: Values = field(repr=False)


@dataclass(frozen=True)
class Curves:
    """Scores of the target while blocks are replaced or shown, in the order of the map.

    ``shares`` is (STEPS + 1,), of the image; the others (n_cases, STEPS + 1). Random ones are means
    over :data:`RANDOM_ORDERS` orders.
    """

    shares: Floats = field(repr=False)
    deletion: Floats = field(repr=False)
    insertion: Floats = field(repr=False)
    random_deletion: Floats = field(repr=False)
    random_insertion: Floats = field(repr=False)

    def summary(self) -> dict[str, Estimate]:
        """Mean areas under the curves, with intervals over cases, and what the map is better by.

        A faithful map has a small area of deletion and a large one of insertion, so that both
        gains are above 0. Petsiuk et al. 2018, "RISE", section 4.3.
        """
        areas = {
            name: area(getattr(self, name), self.shares)
            for name in ("deletion", "random_deletion", "insertion", "random_insertion")
        }
        areas["deletion_gain"] = areas["random_deletion"] - areas["deletion"]
        areas["insertion_gain"] = areas["insertion"] - areas["random_insertion"]
        return {name: mean_of(values) for name, values in areas.items()}


@dataclass(frozen=True)
class Sanity:
    """Rank correlations (n_cases,) of maps with those of the same network with random weights.

    Near 0 the map shows what was learned. ``absolute``, of the sizes without their signs, stays
    above 0 for shap and occlusion, since where the image is as the baseline both have nothing.
    """

    signed: Floats
    absolute: Floats

    def summary(self) -> dict[str, Estimate]:
        """Means with intervals over cases."""
        return {"signed": mean_of(self.signed), "absolute": mean_of(self.absolute)}


def explain_split(
    model: Classifier,
    table: pd.DataFrame,
    background: Tensor | None,
    *,
    per_class: int,
    method: str = "shap",
    settings: MapSettings = DEFAULTS,
    progress: Progress = silent,
) -> list[Case]:
    """The map of the strongest segment of up to `per_class` random recordings of each class.

    Args:
        model: on any device
        table: labelled rows of a split, as of ``load_labelled``
        background: as of :func:`deepspectrumlite.explain.background_images`
        per_class: for output "linear", of each number
        method: shap, gradcam or occlusion
        settings: details of the method; its seed chooses the recordings
        progress: told of every map

    Raises:
        DeepSpectrumLiteError: as :func:`deepspectrumlite.explain.explain_recording`
        ManifestError: no recording can be used
    """
    rng = np.random.default_rng(settings.seed)
    chosen = [
        (name, target, row)
        for name, target, rows in _classes(model, table)
        for row in rng.permutation(rows)[:per_class]
    ]
    cases = []
    for done, (name, target, row) in enumerate(chosen, 1):
        one = table.iloc[[row]].reset_index(drop=True)
        one.attrs = dict(table.attrs)
        start, image = _strongest(model, one, target, settings, rng)
        found = explain_image(model, image, target, method, background, settings)
        group = str(one["group"].iloc[0]) if "group" in one else None
        cases.append(Case(Path(one["path"].iloc[0]), start, name, image, found, group))
        progress(f"explaining, {method}", done, len(chosen))
    return cases


def _classes(model: Classifier, table: pd.DataFrame) -> list[tuple[str, str, npt.NDArray[Any]]]:
    """Name, target and rows of each class; numbers without steps are one class each."""
    targets, output = model.targets, model.recipe.model.output
    encoded = targets.encode(table)
    if output == "linear":
        return [(name, name, np.arange(len(table))) for name in model.labels]
    if output == "ordinal":
        pairs = zip(model.labels, targets.values, strict=True)
        found = [(name, "value", np.flatnonzero(encoded[:, 0] == x)) for name, x in pairs]
    else:
        columns = zip(model.labels, encoded.T, strict=True)
        found = [(name, name, np.flatnonzero(column > 0.5)) for name, column in columns]
    return [each for each in found if len(each[2])]


def _strongest(
    model: Classifier,
    row: pd.DataFrame,
    target: str,
    settings: MapSettings,
    rng: np.random.Generator,
) -> tuple[float, Tensor]:
    """Start in seconds and image of the segment with the highest score of the target."""
    data = model.recipe.data
    scanned, _ = scan(row, data)
    segments = Segments(scanned, data, np.zeros((1, 1), np.float32))
    tried = np.sort(rng.permutation(len(segments))[:MOST_SEGMENTS])
    images = torch.stack([image_of(model, segments[int(i)][0]) for i in tried])
    column = model.decision.columns.index(target)
    best = int(score_images(explained(model, settings), images)[:, column].argmax())
    return float(segments.start_seconds[tried[best]]), images[best]


def average_maps(cases: Sequence[Case]) -> list[Average]:
    """Mean map and mean image of each class, in the order in which classes come."""
    averages = []
    for name in dict.fromkeys(case.name for case in cases):
        own = [case for case in cases if case.name == name]
        image = torch.stack([case.image for case in own]).mean(dim=0).cpu().numpy()
        values = np.mean([case.map.values for case in own], axis=0)
        averages.append(Average(name, len(own), image, values))
    return averages


def deletion_and_insertion(
    model: Classifier,
    cases: Sequence[Case],
    background: Tensor,
    *,
    settings: MapSettings = DEFAULTS,
    progress: Progress = silent,
) -> Curves:
    """Replace an image by the background's mean, or show it on that, block by block.

    The order is that of the map, and for comparison random. Petsiuk et al. 2018, "RISE: Randomized
    input sampling for explanation of black-box models", section 4.3.
    """
    function, mean = explained(model, settings), background.mean(dim=0)
    rng = np.random.default_rng(settings.seed)
    found: dict[str, list[Floats]] = {name: [] for name in Curves.__dataclass_fields__}
    shares = np.zeros(0)
    for done, case in enumerate(cases, 1):
        column = model.decision.columns.index(case.map.target)
        shares, curves = _curves(function, case.image, mean, column, block_means(case.map.values))
        shuffled = []
        for _ in range(RANDOM_ORDERS):
            order = rng.permutation(GRID * GRID).reshape(GRID, GRID).astype(np.float64)
            shuffled.append(_curves(function, case.image, mean, column, order)[1])
        for i, name in enumerate(("deletion", "insertion")):
            found[name].append(curves[i])
            found[f"random_{name}"].append(np.mean([each[i] for each in shuffled], axis=0))
        progress("deleting and inserting", done, len(cases))
    del found["shares"]
    return Curves(shares, **{name: np.stack(each) for name, each in found.items()})


def block_means(values: Values) -> Floats:
    """(height, width) -> (GRID, GRID)."""
    pooled = functional.adaptive_avg_pool2d(torch.from_numpy(values)[None, None], GRID)
    means: Floats = pooled[0, 0].double().numpy()
    return means


def _curves(
    function: Function, image: Tensor, mean: Tensor, column: int, importance: Floats
) -> tuple[Floats, Floats]:
    """Shares (STEPS + 1,), and scores (2, STEPS + 1) while deleting and inserting."""
    rank = np.empty(importance.size, np.int64)
    rank[np.argsort(-importance, axis=None, kind="stable")] = np.arange(importance.size)
    grid = torch.from_numpy(rank.reshape(1, 1, *importance.shape).astype(np.float32))
    ranks = functional.interpolate(grid, image.shape[1:], mode="nearest-exact")[0].to(image.device)
    counts = torch.linspace(0, importance.size, STEPS + 1).to(image.device)
    gone = ranks < counts.view(-1, 1, 1, 1)
    deleted = score_images(function, torch.where(gone, mean, image))[:, column]
    inserted = score_images(function, torch.where(gone, image, mean))[:, column]
    shares: Floats = gone.double().mean(dim=(1, 2, 3)).cpu().numpy()
    return shares, torch.stack([deleted, inserted]).double().cpu().numpy()


def area(scores: Floats, shares: Floats) -> Floats:
    """(n, n_steps), (n_steps,) -> (n,): the area under each curve, by trapezia."""
    middle = (scores[:, 1:] + scores[:, :-1]) / 2
    areas: Floats = middle @ np.diff(shares)
    return areas


def mean_of(values: Floats) -> Estimate:
    """(n,) -> the mean with its bootstrap interval over segments; NaN are left out.

    The interval is widened for few segments, and NaN for fewer than 2. Segments count as
    independent, which those of one group are not: it tells nothing about new groups.
    """
    known = values[~np.isnan(values)]
    if len(known) < 2:
        return Estimate(float(known[0]) if len(known) else np.nan, np.nan, np.nan)
    samples = resample_counts(len(known)) @ known / len(known)
    return Estimate(float(known.mean()), *interval(samples, n_units=len(known)))


def over_what(cases: Sequence[Case]) -> str:
    """What the intervals are over, with how many groups that is where groups are known.

    >>> over_what([])
    '0 segments'
    """
    count = len(cases)
    text = f"{count} segment{'' if count == 1 else 's'}"
    groups = {case.group for case in cases}
    if not groups or None in groups:
        return text
    return f"{text} of {len(groups)} group{'' if len(groups) == 1 else 's'}"


def sanity_check(
    model: Classifier,
    cases: Sequence[Case],
    background: Tensor | None,
    *,
    method: str = "shap",
    settings: MapSettings = DEFAULTS,
    progress: Progress = silent,
) -> Sanity:
    """Compare each map with that of the same architecture with new random weights.

    All layers are randomised at once. Adebayo et al. 2018, "Sanity checks for saliency maps",
    section 3.1. shap takes as many gradients as the map itself did.
    """
    blank = _randomised(model, settings.seed)
    signed, absolute = [], []
    for done, case in enumerate(cases, 1):
        same = replace(settings, samples=case.map.samples)
        other = explain_image(blank, case.image, case.map.target, method, background, same)
        pair = case.map.values.ravel().astype(float), other.values.ravel().astype(float)
        signed.append(float(spearman(*pair)))
        absolute.append(float(spearman(np.abs(pair[0]), np.abs(pair[1]))))
        progress("explaining a random network", done, len(cases))
    return Sanity(np.array(signed), np.array(absolute))


def _randomised(model: Classifier, seed: int) -> Classifier:
    """An untrained one of the same recipe."""
    device = next(model.parameters()).device
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        blank = Classifier(model.recipe, model.labels, weights="random")
    return blank.to(device).eval()

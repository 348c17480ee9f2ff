"""Features of segments: of an image network (Deep Spectrum), of openSMILE, or of the log-mel.

The same segments as the network is trained on, so that what is fitted on the features can be
compared with it.
"""

import difflib
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor, nn

from deepspectrumlite.backbones import Backbone, create_backbone
from deepspectrumlite.config import Recipe
from deepspectrumlite.data import Segments
from deepspectrumlite.errors import BackboneError, MissingExtraError, RecipeError
from deepspectrumlite.evaluate import make_loader
from deepspectrumlite.frontend import FrontEnd
from deepspectrumlite.model import Classifier
from deepspectrumlite.processes import choose_device
from deepspectrumlite.progress import Progress, silent

KINDS = ("deepspectrum", "egemaps", "compare", "logmel")
# The longest frame of both openSMILE sets is 60 ms; of less they give nothing.
SHORTEST_SECONDS = 0.1

Floats = npt.NDArray[np.float32]
Compute = Callable[[Tensor, npt.NDArray[np.int64]], Floats]


@dataclass(frozen=True)
class Features:
    """Features of all segments of a scanned table.

    Attributes:
        values: (n_segments, n_features), float32, all finite
        names: (n_features,)
        file_index: (n_segments,), the row of the recording in the scanned table
        start: (n_segments,), in seconds from the start of the file
        end: (n_segments,), the same; without what the segment was padded with
        extractor_bytes: weights of the network; 0 where there is none, None where unknown
        seconds: that decoding and extracting took
        replaced: values that were not finite, and are 0 now
    """

    values: Floats
    names: tuple[str, ...]
    file_index: npt.NDArray[np.int64]
    start: npt.NDArray[np.float64]
    end: npt.NDArray[np.float64]
    extractor_bytes: int | None
    seconds: float
    replaced: int = 0


@dataclass(frozen=True)
class _Extractor:
    """``compute`` takes waveforms (batch, num_samples) and how many samples of each are its own."""

    names: tuple[str, ...]
    n_bytes: int | None
    compute: Compute


def extract(
    kind: str,
    recipe: Recipe,
    scanned: pd.DataFrame,
    *,
    layer: str = "",
    model: Classifier | None = None,
    device: str = "auto",
    progress: Progress = silent,
) -> Features:
    """Features of every segment of the scanned recordings.

    Args:
        kind: one of :data:`KINDS`. "deepspectrum": what a layer of the backbone makes of the
            image (Amiriparian et al. 2017, "Snore sound classification using image-based deep
            spectrum features"); "egemaps" (88) and "compare" (6373): openSMILE's functionals
            eGeMAPSv02 (Eyben et al. 2016) and ComParE 2016 (Schuller et al. 2016); "logmel": mean
            and standard deviation over time of each band in dB
        recipe: how recordings become segments and images, and which network with which weights
        scanned: as of :func:`deepspectrumlite.data.scan`, with labels or without
        layer: of "deepspectrum", as :func:`list_layers` names it; "": after global pooling
        model: of "deepspectrum", a trained model instead of the recipe, which is then its own
        device: where the network runs
        progress: told of every batch

    Raises:
        RecipeError: no such kind
        BackboneError: no such layer or network, or its weights cannot be had
        MissingExtraError: openSMILE is not installed
        ManifestError: no recording has a segment
        AudioError: a recording cannot be read any more
    """
    recipe = model.recipe if model is not None else recipe
    extractor = _make_extractor(kind, recipe, layer, model, device)
    begin = time.perf_counter()
    segments = Segments(scanned, recipe.data, np.zeros((len(scanned), 1), np.float32))
    own = _own_samples(segments, scanned)
    values = np.empty((len(segments), len(extractor.names)), np.float32)
    same_length = recipe.data.segment_samples > 0
    for waveform, _, index in make_loader(segments, recipe.train, same_length=same_length):
        rows = index.numpy()
        values[rows] = extractor.compute(waveform, own[rows])
        progress("extracting features", int(rows[-1]) + 1, len(segments))
    bad = ~np.isfinite(values)
    values[bad] = 0
    start = segments.start_seconds.copy()
    if "start" in scanned:
        start += scanned["start"].to_numpy(np.float64)[segments.file_index]
    return Features(
        values,
        extractor.names,
        segments.file_index,
        start,
        start + own / recipe.data.sample_rate,
        extractor.n_bytes,
        time.perf_counter() - begin,
        int(bad.sum()),
    )


def average(features: Features, n_files: int) -> tuple[npt.NDArray[np.float64], Any]:
    """Mean over the segments of each recording.

    Returns:
        (n_found, n_features), and the rows (n_found,) of the recordings that have segments
    """
    counts = np.bincount(features.file_index, minlength=n_files)
    sums = np.zeros((n_files, features.values.shape[1]))
    np.add.at(sums, features.file_index, features.values)
    found = np.flatnonzero(counts)
    return sums[found] / counts[found, None], found


def _own_samples(segments: Segments, scanned: pd.DataFrame) -> npt.NDArray[np.int64]:
    """(n_segments,): how many samples of each are the recording's, and no padding."""
    rate = segments.data.sample_rate
    length = np.rint(scanned["duration"].to_numpy(np.float64) * rate)[segments.file_index]
    left = length - np.rint(segments.start_seconds * rate)
    longest = segments.data.segment_samples or left.max()
    own: npt.NDArray[np.int64] = left.clip(1, longest).astype(np.int64)
    return own


def _make_extractor(
    kind: str, recipe: Recipe, layer: str, model: Classifier | None, device: str
) -> _Extractor:
    if kind == "deepspectrum":
        return _deep_spectrum(recipe, layer, model, device)
    if kind == "logmel":
        return _log_mel(recipe)
    if kind in KINDS:
        return _open_smile(kind, recipe.data.sample_rate)
    raise RecipeError(f"features are {kind!r}; allowed: {', '.join(KINDS)}; choose one of them")


def _log_mel(recipe: Recipe) -> _Extractor:
    changes = {"scale": "db", "frequency": "mel", "n_mfcc": 0}
    frontend = FrontEnd(recipe.frontend.model_copy(update=changes), recipe.data)
    bands = range(frontend.n_bands)

    @torch.inference_mode()
    def compute(waveform: Tensor, own: npt.NDArray[np.int64]) -> Floats:
        log_mel = frontend.features(waveform)
        parts = [log_mel.mean(dim=1), log_mel.std(dim=1, correction=0)]
        return torch.cat(parts, dim=1).numpy()

    names = (f"logmel_{what}_{band}" for what in ("mean", "deviation") for band in bands)
    return _Extractor(tuple(names), 0, compute)


def _open_smile(kind: str, sample_rate: int) -> _Extractor:
    try:
        import opensmile
    except ModuleNotFoundError:
        raise MissingExtraError("opensmile", "this kind of features", "opensmile") from None
    sets = {"egemaps": "eGeMAPSv02", "compare": "ComParE_2016"}
    smile = opensmile.Smile(opensmile.FeatureSet[sets[kind]], opensmile.FeatureLevel.Functionals)

    def functionals(signal: Floats) -> Floats:
        missing = round(SHORTEST_SECONDS * sample_rate) - len(signal)
        signal = np.pad(signal, (0, max(0, missing)))
        # As integers of 16 bits, where full scale would turn into its negative.
        signal = np.clip(signal, -1, 32767 / 32768)
        found: Floats = smile(signal, sample_rate).reshape(-1)
        return found

    def compute(waveform: Tensor, own: npt.NDArray[np.int64]) -> Floats:
        signals = [row[:size] for row, size in zip(waveform.numpy(), own, strict=True)]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return np.stack(list(pool.map(functionals, signals)))

    return _Extractor(tuple(smile.feature_names), None, compute)


def _deep_spectrum(recipe: Recipe, layer: str, model: Classifier | None, device: str) -> _Extractor:
    place = choose_device(device)
    layers = list_layers(recipe, model)
    if layer not in layers:
        raise _unknown_layer(layer, recipe, layers)
    if model is None:
        frontend, backbone = FrontEnd(recipe.frontend, recipe.data), _pretrained(recipe)
    else:
        frontend, backbone = model.frontend, model.backbone
    frontend.to(place)
    backbone.to(place).eval()

    @torch.inference_mode()
    def compute(waveform: Tensor, own: npt.NDArray[np.int64]) -> Floats:
        found = _activations(backbone, [layer], frontend(waveform.to(place)))[layer]
        features: Floats = found.float().cpu().numpy()
        return features

    n_bytes = sum(x.numel() * x.element_size() for x in backbone.state_dict().values())
    return _Extractor(tuple(f"deep_{i}" for i in range(layers[layer])), n_bytes, compute)


def _pretrained(recipe: Recipe) -> Backbone:
    with torch.random.fork_rng():
        torch.manual_seed(recipe.train.seed)  # of weights = "random"
        return create_backbone(recipe.model.backbone, recipe.model.weights, _image_size(recipe))


def _image_size(recipe: Recipe) -> tuple[int, int]:
    return recipe.frontend.image_height, recipe.frontend.image_width


def list_layers(recipe: Recipe, model: Classifier | None = None) -> dict[str, int]:
    """Layers that features can be taken from, in the order of use -> how many features each has.

    The last, "", is the whole network, after global pooling.
    """
    recipe = model.recipe if model is not None else recipe
    size = _image_size(recipe)
    # Not the model's own, which may stand on another device; and the weights do not matter here.
    backbone = Backbone(recipe.model.backbone, size).eval()
    names = [name for name, _ in backbone.network.named_modules()]
    with torch.inference_mode():
        found = _activations(backbone, names, torch.zeros(2, 3, *size))
    return {name: values.shape[1] for name, values in found.items()}


def _activations(backbone: Backbone, names: Sequence[str], image: Tensor) -> dict[str, Tensor]:
    """What the named layers give for a batch, each (batch, n_features), where it can be pooled."""
    found: dict[str, Tensor] = {}

    def keep(name: str, module: nn.Module, given: Any, output: Any) -> None:
        pooled = _pool(backbone.network, module, output)
        if pooled is not None and len(pooled) == len(image):
            found[name] = pooled

    modules = dict(backbone.network.named_modules())
    hooks = [modules[name].register_forward_hook(partial(keep, name)) for name in names]
    try:
        backbone(image)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _pool(network: nn.Module, module: nn.Module, output: Any) -> Tensor | None:
    """Mean over height and width of images, and over the tokens of a transformer."""
    if not isinstance(output, Tensor) or output.ndim not in (2, 3, 4):
        return None
    if output.ndim < 4:
        return output if output.ndim == 2 else output.mean(dim=1)
    # Networks of timm that keep channels last say so; their convolutions keep them first.
    last = getattr(network, "output_fmt", None) == "NHWC" and not isinstance(module, nn.Conv2d)
    return output.mean(dim=(1, 2) if last or isinstance(module, nn.Linear) else (2, 3))


def _unknown_layer(layer: str, recipe: Recipe, layers: dict[str, int]) -> BackboneError:
    near = difflib.get_close_matches(layer, layers, n=5, cutoff=0.3)
    return BackboneError(
        f"--layer {layer!r} is no layer of {recipe.model.backbone} that gives features; "
        + (f"the nearest: {', '.join(near)}; " if near else "")
        + "list all of them with: deepspectrumlite extract --layers"
    )

"""Which parts of a spectrogram speak for a score, and which against it: maps of one image.

Three methods, all by Captum, all on the image that the network sees:

* ``shap``: expected gradients (GradientShap), an estimate of SHAP values. A point is drawn on the
  line from a baseline, the image of a training segment, to the image, and the gradient there is
  multiplied by the difference of the two; the mean over many draws and baselines adds up to the
  score less the mean score of the baselines. Draws are even, one in each piece of the line, which
  leaves the mean as it is and makes it sure sooner. Lundberg & Lee 2017, "A unified approach to
  interpreting model predictions"; Erion et al. 2021, "Improving performance of deep learning models
  with axiomatic attribution priors and expected gradients", eq. 3.
* ``gradcam``: the last layer with a place for each part of the image, its channels weighted by
  their mean gradient. Selvaraju et al. 2017, "Grad-CAM", eq. 1 and 2, but without the ReLU, so that
  what speaks against the score is there too.
* ``occlusion``: how much the score falls where a block of time and frequency is replaced by the
  mean image of the background. Zeiler & Fergus 2014, section 4.2.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from deepspectrumlite.errors import DeepSpectrumLiteError
from deepspectrumlite.model import NUMBERS, Classifier

METHODS = ("shap", "gradcam", "occlusion")
# The attributions of shap have to add up to the change of the score within this share of it.
TOLERANCE = 0.05
# Draws for each background image, as powers of 2, where no number is given.
FEWEST, MOST = 3, 6
BATCH = 32  # images that are scored at a time

Function = Callable[[Tensor], Tensor]
Values = npt.NDArray[np.float32]


@dataclass(frozen=True)
class MapSettings:
    """How maps are computed.

    ``of`` is what is explained: the score as the user sees it, or the logit, ln(p / (1 - p)), of a
    probability p, which does not saturate. ``samples`` are gradients per map of shap; None: as many
    as it takes for the sum to agree, 8 to 64 for each background image. Blocks of occlusion are
    ``block_time`` of the width and ``block_frequency`` of the height, and move by half of that.
    """

    of: Literal["score", "logit"] = "score"
    samples: int | None = None
    block_time: float = 0.125
    block_frequency: float = 0.125
    seed: int = 0


DEFAULTS = MapSettings()


@dataclass(frozen=True)
class Map:
    """What speaks for one output, and against it.

    ``values`` is (height, width), summed over the colours; row 0 is the top, the highest
    frequency. ``score`` is the value that is explained, ``baseline_score`` what it is measured
    against: the mean over the background (shap), that of the mean image (occlusion), or None
    (gradcam, whose values have no unit). ``samples`` counts gradients or images.
    ``within_tolerance`` tells whether shap's values add up to the change well enough; None: of
    another method.
    """

    target: str
    values: Values = field(repr=False)
    score: float
    baseline_score: float | None
    samples: int
    within_tolerance: bool | None = None

    @property
    def total(self) -> float:
        """Sum of the values."""
        return float(self.values.sum(dtype=np.float64))

    @property
    def change(self) -> float | None:
        """From the baseline's score to this one; what the values of shap have to add up to."""
        return None if self.baseline_score is None else self.score - self.baseline_score


def explain_image(
    model: Classifier,
    image: Tensor,
    target: str,
    method: str,
    background: Tensor | None,
    settings: MapSettings = DEFAULTS,
) -> Map:
    """The map of one target of one image, (3, height, width)."""
    if method not in METHODS:
        raise DeepSpectrumLiteError(f"method is {method!r}; allowed: {', '.join(METHODS)}")
    column, function = model.decision.columns.index(target), explained(model, settings)
    score = float(score_images(function, image[None])[0, column])
    if method == "gradcam":
        return Map(target, _gradcam(model, function, image, column), score, None, 1)
    if background is None:
        raise DeepSpectrumLiteError(
            f"{method} compares with other segments, and no background was given; allowed: "
            "recordings like those of the training, as --background MANIFEST_OR_FOLDER; or use "
            "--method gradcam, which needs none"
        )
    background = background.to(image.device)
    if method == "occlusion":
        mean = background.mean(dim=0, keepdim=True)
        values, count = _occlusion(function, image, column, mean, settings)
        return Map(target, values, score, float(score_images(function, mean)[0, column]), count)
    others = score_images(function, background)[:, column].double()
    # Where the score hardly changes, a share of the change would be out of reach.
    allowed = TOLERANCE * max(abs(score - float(others.mean())), float(others.std(correction=0)))
    goal = (score - float(others.mean()), allowed)
    values, count, adds_up = _shap(function, image, column, background, goal, settings)
    return Map(target, values, score, float(others.mean()), count, adds_up)


def explained(model: Classifier, settings: MapSettings) -> Function:
    """The function (batch, 3, height, width) -> (batch, n_outputs) that is explained.

    Raises:
        DeepSpectrumLiteError: logits are asked for where scores are no probabilities
    """
    model.eval()
    if settings.of == "score":
        return lambda image: model.scores(model.logits(image))
    output = model.recipe.model.output
    if output in NUMBERS:
        raise DeepSpectrumLiteError(
            f'of is "logit", but the output is "{output}", whose scores are no probabilities; '
            'allowed: "score"'
        )

    def log_odds(image: Tensor) -> Tensor:
        logits = model.logits(image) / model.temperature
        if output == "sigmoid":
            return logits
        same = torch.eye(logits.shape[1], dtype=torch.bool, device=logits.device)
        others = logits[:, None].masked_fill(same, -torch.inf)
        return logits - others.logsumexp(dim=-1)

    return log_odds


@torch.no_grad()
def score_images(function: Function, images: Tensor) -> Tensor:
    """(n, 3, height, width) -> (n, n_outputs), in batches."""
    return torch.cat([function(part) for part in torch.split(images, BATCH)])


def _shap(
    function: Function,
    image: Tensor,
    column: int,
    background: Tensor,
    goal: tuple[float, float],
    settings: MapSettings,
) -> tuple[Values, int, bool]:
    """The map, how many gradients it took, and whether it adds up.

    ``goal`` is what to add up to, and within what.
    """
    draws = [2**i for i in range(FEWEST, MOST + 1)]
    if settings.samples is not None:
        draws = [max(1, round(settings.samples / len(background)))]
    with _captum_seed(settings.seed):
        for n in draws:
            values = _expected_gradients(function, image, column, background, n)
            adds_up = abs(float(values.sum()) - goal[0]) <= goal[1]
            if adds_up:
                break
    return values.numpy().astype(np.float32), n * len(background), adds_up


def _expected_gradients(
    function: Function, image: Tensor, column: int, background: Tensor, draws: int
) -> Tensor:
    """(height, width), from one draw in each of so many pieces of the line from each baseline."""
    # GradientShap's own step, for chosen pairs of ends; GradientShap itself draws them, baselines
    # too, which takes several times as many gradients to add up as well.
    from captum.attr._core.gradient_shap import InputBaselineXGradient

    step, total = InputBaselineXGradient(function), torch.zeros(image.shape[1:]).double()
    pairs = torch.arange(len(background) * draws, device=image.device)
    for part in torch.split(pairs, BATCH):
        baseline = background[part // draws]
        place = (part % draws).view(-1, 1, 1, 1)
        start, end = ((image - baseline) * (place + i) / draws + baseline for i in (0, 1))
        total += step.attribute(end, start, target=column).sum(dim=(0, 1)).double().cpu()
    return total / len(background)


@contextmanager
def _captum_seed(seed: int) -> Iterator[None]:
    """Captum draws from the generators of the process; they are as before when it is done."""
    state = np.random.get_state()
    with torch.random.fork_rng():
        try:
            torch.manual_seed(seed)
            np.random.seed(seed)
            yield
        finally:
            np.random.set_state(state)


def _occlusion(
    function: Function, image: Tensor, column: int, baseline: Tensor, settings: MapSettings
) -> tuple[Values, int]:
    from captum.attr import Occlusion

    channels, height, width = image.shape
    shares = {"frequency": settings.block_frequency, "time": settings.block_time}
    for name, share in shares.items():
        if not 0 < share <= 1:
            raise DeepSpectrumLiteError(f"block_{name} is {share:g}; allowed: above 0, up to 1")
    block = max(1, round(shares["frequency"] * height)), max(1, round(shares["time"] * width))
    step = max(1, block[0] // 2), max(1, block[1] // 2)
    with torch.no_grad():
        values = Occlusion(function).attribute(
            image[None],
            sliding_window_shapes=(channels, *block),
            strides=(channels, *step),
            baselines=baseline,
            target=column,
            perturbations_per_eval=BATCH,
        )
    count = -(-max(0, height - block[0]) // step[0]) + 1
    count *= -(-max(0, width - block[1]) // step[1]) + 1
    # Captum gives each colour the block's value.
    return values[0].mean(dim=0).cpu().numpy().astype(np.float32), count


def _gradcam(model: Classifier, function: Function, image: Tensor, column: int) -> Values:
    from captum.attr import LayerAttribution, LayerGradCam

    layer = spatial_layer(model)
    rough = LayerGradCam(function, layer).attribute(image[None], column)
    size = (image.shape[1], image.shape[2])
    fine = LayerAttribution.interpolate(rough, size, "bilinear")
    values: Values = fine[0, 0].detach().cpu().numpy().astype(np.float32)
    return values


def spatial_layer(model: Classifier) -> nn.Module:
    """The last module of the backbone with an output (batch, channels, height, width).

    Raises:
        DeepSpectrumLiteError: none, or the network goes on without places (a transformer)
    """
    network, shapes = model.backbone.network, []

    def note(module: nn.Module, _: object, output: object) -> None:
        if isinstance(output, Tensor):
            shapes.append((module, tuple(output.shape)))

    hooks = [module.register_forward_hook(note) for module in network.modules()]
    section = model.recipe.frontend
    blank = torch.zeros(1, 3, section.image_height, section.image_width, device=device_of(model))
    try:
        score_images(model.logits, blank)
    finally:
        for hook in hooks:
            hook.remove()
    places = [i for i, (_, shape) in enumerate(shapes) if len(shape) == 4 and shape[2] > 1]
    after = shapes[places[-1] :] if places else [(network, ())]
    channels_last = len(after[0][1]) == 4 and after[0][1][1] == after[0][1][2] != after[0][1][3]
    if not places or channels_last or any(len(shape) == 3 for _, shape in after):
        raise DeepSpectrumLiteError(
            f"{model.recipe.model.backbone}: no layer with channels, height and width stands "
            "before its pooling, which Grad-CAM needs; allowed: --method shap or occlusion"
        )
    return after[0][0]


def device_of(model: nn.Module) -> torch.device:
    """Where a model's weights are."""
    return next(model.parameters()).device

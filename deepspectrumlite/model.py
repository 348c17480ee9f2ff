"""The classifier: front-end, backbone and head in one module, and the folder it is saved in."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from deepspectrumlite import __version__
from deepspectrumlite.backbones import create_backbone
from deepspectrumlite.checkpoint import write_atomically
from deepspectrumlite.config import (
    DataSection,
    DecisionSection,
    ModelSection,
    Recipe,
    parse_recipe,
)
from deepspectrumlite.decisions import UNKNOWN, Decision
from deepspectrumlite.errors import ModelError, RecipeError
from deepspectrumlite.frontend import FrontEnd
from deepspectrumlite.predict import model_folder
from deepspectrumlite.targets import Targets

T = TypeVar("T")

FORMAT = 1
NUMBERS = ("linear", "ordinal")
# What decisions take where nothing was fitted: no sets, and nothing is refused.
NO_SETS, NEVER = -1.0, {"score_below": 0.0, "energy_below": -1e4}


class AReLU(nn.Module):
    """Attention-based rectified linear unit with two learned parameters, elementwise.

    Positive inputs are amplified by ``1 + sigmoid(beta)``, negative ones scaled by ``alpha``,
    clamped to 0.01..0.99. Source: Chen, Li and Xu 2020, arXiv 2006.13858, eq. 6.
    """

    def __init__(self, alpha: float = 0.9, beta: float = 2.0) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.tensor(alpha))
        self.beta = nn.Parameter(torch.tensor(beta))

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> the same shape."""
        # Of two slopes of which one is larger. Written with relu(x) and relu(-x), a converter
        # would merge each with the layer before, and so write that layer's weights twice.
        return torch.maximum(x * (1 + torch.sigmoid(self.beta)), x * self.alpha.clamp(0.01, 0.99))


ACTIVATIONS: dict[str, type[nn.Module]] = {
    "arelu": AReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}


class Classifier(nn.Module):
    """``(batch, num_samples)`` waveforms to ``(batch, n_columns)`` scores.

    ``n_outputs`` is the number of labels (or names of numbers), but 1 for output "ordinal".
    ``n_columns`` is one more where ``decision.unknown`` is "energy", else the same.
    """

    temperature: Tensor
    thresholds: Tensor
    conformal: Tensor
    score_below: Tensor
    energy_below: Tensor
    offset: Tensor
    scale: Tensor

    def __init__(self, recipe: Recipe, labels: Sequence[str], weights: str | None = None) -> None:
        """Build the network; ``weights`` overrides ``recipe.model.weights``.

        Raises:
            ModelError: one of the labels has the name that is for recordings of none of them
        """
        super().__init__()
        _check_labels(recipe.decision, labels)
        self.recipe = recipe
        self.labels = list(labels)
        self.frontend = FrontEnd(recipe.frontend, recipe.data)
        size = (recipe.frontend.image_height, recipe.frontend.image_width)
        model = recipe.model
        self.backbone = create_backbone(model.backbone, weights or model.weights, size)
        self.n_outputs = 1 if model.output == "ordinal" else len(self.labels)
        self.head = make_head(model, self.backbone.num_features, self.n_outputs)
        self._register_decision()

    def _register_decision(self) -> None:
        """What comes after training: where each output has its own numbers."""
        output, unknown = self.recipe.model.output, self.recipe.decision.unknown
        if output in NUMBERS:
            # The network works on numbers of mean 0 and deviation 1; these make them the user's.
            self.register_buffer("offset", torch.zeros(self.n_outputs))
            self.register_buffer("scale", torch.ones(self.n_outputs))
        if output == "sigmoid":
            self.register_buffer("temperature", torch.ones(self.n_outputs))
            self.register_buffer("thresholds", torch.full((self.n_outputs,), 0.5))
        if output == "softmax":
            self.register_buffer("temperature", torch.ones(()))
            self.register_buffer("conformal", torch.tensor(NO_SETS))
        if unknown != "none":
            name = f"{unknown}_below"
            self.register_buffer(name, torch.tensor(NEVER[name]))

    def forward(self, waveform: Tensor) -> Tensor:
        """``(batch, num_samples)`` -> ``(batch, n_columns)``: probabilities, or values."""
        return self.scores(self.logits(self.frontend(waveform)))

    def logits(self, image: Tensor) -> Tensor:
        """``(batch, 3, height, width)`` -> ``(batch, n_outputs)``, before :meth:`scores`."""
        logits: Tensor = self.head(self.backbone(image))
        return logits

    def scores(self, logits: Tensor) -> Tensor:
        """``(batch, n_outputs)`` -> ``(batch, n_columns)``: probabilities, or the user's values.

        The column more is ``sigmoid(energy_below - logsumexp(logits / temperature))``: at least
        one half where the negative energy is not above what is asked for. Source: Liu et al. 2020,
        "Energy-based out-of-distribution detection", eq. 4 and 5.
        """
        if self.recipe.model.output == "softmax":
            logits = logits / self.temperature
            if self.recipe.decision.unknown != "energy":
                return logits.softmax(dim=-1)
            # One logit more gets that sigmoid from softmax, without overflow in any runtime.
            more = torch.cat([logits, self.energy_below.expand(len(logits), 1)], dim=-1)
            return torch.cat([logits.softmax(dim=-1), more.softmax(dim=-1)[:, -1:]], dim=-1)
        if self.recipe.model.output == "sigmoid":
            return (logits / self.temperature).sigmoid()
        return logits * self.scale + self.offset

    @property
    def targets(self) -> Targets:
        """How a manifest's columns become what this model is compared with."""
        return Targets(self.recipe.model.output, self.labels, self.recipe.data)

    @property
    def decision(self) -> Decision:
        """How this model's scores become an answer."""
        output = self.recipe.model.output
        thresholds = self.thresholds.tolist() if output == "sigmoid" else ()
        values = self.targets.values
        if output != "softmax":
            return Decision(output, self.labels, thresholds, values)
        unknown, lowest = self.recipe.decision.unknown, float(self.conformal)
        return Decision(
            output,
            self.labels,
            values=values,
            unknown=unknown,
            unknown_below=float(self.score_below) if unknown == "score" else 0.0,
            conformal=None if lowest == NO_SETS else lowest,
        )

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """As of any module; also of a model that decided otherwise, or from before it could."""
        own = self.state_dict()
        fitted = {"conformal", *NEVER}
        state = {key: value for key, value in state_dict.items() if key in own or key not in fitted}
        state |= {key: own[key] for key in fitted & set(own) if key not in state}
        if "thresholds" in own and "temperature" in state:
            # One for all labels, once.
            state["temperature"] = state["temperature"].expand(own["temperature"].shape)
        return super().load_state_dict(state, strict=strict, assign=assign)

    def save(self, folder: Path) -> None:
        """Write ``model.safetensors``, ``recipe.json`` and ``labels.json`` into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        # One entry: safetensors writes several in an order that differs from time to time.
        meta = {"labels": json.dumps(self.labels)}
        state = {key: value.contiguous() for key, value in self.state_dict().items()}
        data = save(state, meta)
        write_atomically(folder / "model.safetensors", lambda file: file.write(data))
        described = {"format": FORMAT, "version": __version__} | self.recipe.model_dump()
        write_json(folder / "recipe.json", described)
        write_json(folder / "labels.json", self.labels)


class TorchRecogniser:
    """A model on a device, as a :class:`deepspectrumlite.predict.Recogniser`."""

    def __init__(self, model: Classifier, device: torch.device | str = "cpu") -> None:
        """Move the model there, and switch dropout and BatchNorm to evaluation."""
        self.model, self.device = model.to(device).eval(), device

    @property
    def cutting(self) -> DataSection:
        """How recordings become segments."""
        return self.model.recipe.data

    @property
    def decision(self) -> Decision:
        """What the scores mean."""
        return self.model.decision

    @property
    def recipe(self) -> dict[str, Any]:
        """The recipe as plain JSON values."""
        return self.model.recipe.model_dump(mode="json")

    @property
    def batch_size(self) -> int:
        """That of training."""
        return self.model.recipe.train.batch_size

    @torch.inference_mode()
    def score(self, segments: np.ndarray) -> np.ndarray:
        """``(n_segments, segment_samples)`` -> ``(n_segments, n_columns)``, both float32."""
        scores: Tensor = self.model(torch.from_numpy(segments).to(self.device))
        return scores.float().cpu().numpy()


def make_head(model: ModelSection, num_features: int, n_outputs: int) -> nn.Sequential:
    """The MLP head: ``(batch, num_features)`` -> ``(batch, n_outputs)``."""
    if model.units == 0:
        return nn.Sequential(nn.Dropout(model.dropout), nn.Linear(num_features, n_outputs))
    return nn.Sequential(
        nn.Linear(num_features, model.units),
        ACTIVATIONS[model.activation](),
        nn.Dropout(model.dropout),
        nn.Linear(model.units, n_outputs),
    )


def load_model(folder: Path) -> Classifier:
    """Read a model folder, or a run folder that holds one; the model is in evaluation mode.

    Raises:
        ModelError: no model there, a broken file, other labels than the weights were trained
            with, or a folder written by a newer version
    """
    folder = model_folder(folder)
    described = _read_json(folder / "recipe.json", dict)
    labels = _read_json(folder / "labels.json", list)
    written, version = described.pop("format", None), described.pop("version", "unknown")
    if not isinstance(written, int) or written > FORMAT:
        raise ModelError(
            f"{folder}: written by deepspectrumlite {version} in format {written}; this is "
            f"{__version__}, which reads up to format {FORMAT}, so upgrade the package"
        )
    try:
        recipe = parse_recipe(described, str(folder / "recipe.json"))
    except RecipeError as error:
        raise ModelError(str(error)) from None
    path = folder / "model.safetensors"
    try:
        state = load_file(path)
        trained_labels = _stored_labels(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: broken ({error}); copy the folder again") from None
    if labels != trained_labels:
        raise ModelError(
            f"{folder / 'labels.json'}: the labels are {labels}, but the weights were trained "
            f"with {trained_labels}; restore the file as it was written"
        )
    model = Classifier(recipe, labels, weights="random")
    try:
        _ = model.targets.values
    except ValueError:
        raise ModelError(
            f"{folder / 'recipe.json'}: data.order is {list(recipe.data.order)}, which does not "
            f"give each of the labels {labels} a number; restore the file as it was written"
        ) from None
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ModelError(f"{path}: not the weights of its recipe: {error}") from None
    return model.eval()


def decide_by(model: Classifier, changes: Mapping[str, Any]) -> Classifier:
    """The same network with some of ``[decision]`` changed, and nothing fitted for that yet.

    Raises:
        RecipeError: the model's output cannot be decided so
        ModelError: a label is named as what is to mean none of them
    """
    described = model.recipe.model_dump()
    described["decision"] |= changes
    return _with_recipe(model, parse_recipe(described))


def fix_length(model: Classifier, seconds: float) -> Classifier:
    """The same network for segments of a fixed length instead of whole recordings.

    Raises:
        RecipeError: a window of the front-end is longer
    """
    return _with_recipe(model, model.recipe.for_length(seconds))


def _with_recipe(model: Classifier, recipe: Recipe) -> Classifier:
    changed = Classifier(recipe, model.labels, weights="random")
    changed.load_state_dict(model.state_dict())
    return changed.eval()


def _check_labels(section: DecisionSection, labels: Sequence[str]) -> None:
    if section.unknown != "none" and UNKNOWN in labels:
        raise ModelError(
            f'decision.unknown is "{section.unknown}", but "{UNKNOWN}" is one of the labels '
            f'{list(labels)}; allowed: decision.unknown "none", or another name of that label in '
            "the manifest"
        )


def _stored_labels(path: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        labels: list[str] = json.loads((file.metadata() or {}).get("labels", "[]"))
    return labels


def write_json(path: Path, value: object) -> None:
    """Write a value as indented JSON; numbers that JSON does not know are refused."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(path, lambda file: file.write(f"{text}\n".encode()))


def _read_json(path: Path, kind: type[T]) -> T:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: broken ({error}); copy the folder again") from None
    if not isinstance(value, kind):
        raise ModelError(f"{path}: holds a {type(value).__name__}, not a {kind.__name__}")
    return value

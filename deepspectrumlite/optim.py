"""What learns, and how fast: frozen layers, optimiser, schedule, averaged and best weights."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LRScheduler, OneCycleLR

from deepspectrumlite.config import Recipe, TrainSection
from deepspectrumlite.model import Classifier

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adadelta": torch.optim.Adadelta,
    "adagrad": torch.optim.Adagrad,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "nadam": torch.optim.NAdam,
    "rmsprop": torch.optim.RMSprop,
    "sgd": torch.optim.SGD,
}

LOWER_IS_BETTER = ("loss", "mae", "rmse")


def unfreeze_last(model: Classifier, share: float) -> None:
    """Let the head and the last ``share`` of the backbone's layers learn, and nothing else.

    A layer is a module with weights of its own (a convolution, a BatchNorm, ...), counted from
    the image to the features.
    """
    layers = model.backbone.layers()
    n_frozen = len(layers) - round(share * len(layers))
    for i, layer in enumerate(layers):
        for parameter in layer.parameters(recurse=False):
            parameter.requires_grad_(i >= n_frozen)


def set_training_mode(model: Classifier, section: TrainSection) -> None:
    """Dropout on; BatchNorm adapts in layers that learn, unless the recipe freezes it."""
    model.train()
    learning = [p.requires_grad for p in model.backbone.parameters()]
    if section.batch_norm == "frozen" or not any(learning):
        model.backbone.eval()
        return
    for layer in model.backbone.layers():
        if not any(p.requires_grad for p in layer.parameters(recurse=False)):
            layer.eval()


def make_optimizer(
    parameters: Sequence[nn.Parameter], section: TrainSection, learning_rate: float
) -> torch.optim.Optimizer:
    """The recipe's optimiser; biases and BatchNorm's vectors are not decayed."""
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": section.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    options = {"momentum": section.momentum} if section.optimizer in ("sgd", "rmsprop") else {}
    return OPTIMIZERS[section.optimizer](groups, lr=learning_rate, **options)


def make_schedule(
    optimizer: torch.optim.Optimizer, section: TrainSection, learning_rate: float, steps: int
) -> LRScheduler:
    """The learning rate over the steps of one phase, at its highest ``learning_rate``."""
    if section.schedule == "onecycle":
        # Stepped once more after the last batch.
        return OneCycleLR(optimizer, learning_rate, total_steps=steps + 1, cycle_momentum=False)
    if section.schedule == "cosine":
        return CosineAnnealingLR(optimizer, steps)
    return ConstantLR(optimizer, factor=1.0)


class MovingAverage:
    """A moving average of the weights, which is judged and kept instead of the last weights.

    ``average = decay * average + (1 - decay) * weights`` after each update, begun with the first;
    BatchNorm's statistics likewise. torch's own ``AveragedModel`` visits tensors one by one, which
    takes longer than the update itself on a GPU.
    """

    def __init__(self, model: Classifier, decay: float) -> None:
        self.model, self.decay, self.n_updates = copy.deepcopy(model).eval(), decay, 0
        self.model.requires_grad_(False)
        # Listed once: finding them takes longer than averaging them.
        self.averages, self.weights = _float_tensors(self.model), _float_tensors(model)

    @torch.no_grad()
    def update(self) -> None:
        """Take in the model's weights after an update."""
        share = 1.0 if self.n_updates == 0 else 1 - self.decay
        torch._foreach_lerp_(self.averages, self.weights, share)
        self.n_updates += 1

    def state_dict(self) -> dict[str, Any]:
        """All that :meth:`load_state_dict` needs."""
        return {"model": self.model.state_dict(), "n_updates": self.n_updates}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from what was saved."""
        self.model.load_state_dict(saved["model"])
        self.n_updates = saved["n_updates"]


def _float_tensors(model: Classifier) -> list[Tensor]:
    """Weights and BatchNorm's statistics; the front-end has only constants."""
    parts = (model.backbone, model.head)
    tensors = [tensor for part in parts for tensor in (*part.parameters(), *part.buffers())]
    return [tensor.detach() for tensor in tensors if tensor.is_floating_point()]


class Best:
    """The weights that are handed over, and when to stop."""

    def __init__(self, recipe: Recipe) -> None:
        self.monitor, self.section = recipe.monitor, recipe.train
        self.state: dict[str, Tensor] = {}
        self.value = -np.inf
        self.epochs_since = 0

    def new_phase(self) -> None:
        """Patience starts anew: fine-tuning may begin below what the head alone reached."""
        self.epochs_since = 0

    def update(self, model: Classifier, scores: Mapping[str, float]) -> bool:
        """Note an epoch's devel scores; whether none before was better."""
        value = scores[f"devel_{self.monitor}"] * (-1 if self.monitor in LOWER_IS_BETTER else 1)
        if np.isnan(value):  # a correlation with constant predictions
            value = -np.inf
        # Of equal epochs the later: it has learned longer.
        is_best = value >= self.value
        self.epochs_since = 0 if value > self.value else self.epochs_since + 1
        self.value = float(max(value, self.value))
        if is_best or self.section.keep == "last":
            self.state = {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}
        return bool(is_best)

    @property
    def ran_out_of_patience(self) -> bool:
        """Whether the recipe says to stop now."""
        return 0 < self.section.patience <= self.epochs_since

    def restore(self, model: Classifier) -> None:
        """Give the model the weights that were kept."""
        if self.state:
            model.load_state_dict(self.state)

    def state_dict(self) -> dict[str, Any]:
        """All that :meth:`load_state_dict` needs."""
        return {"state": self.state, "value": self.value, "epochs_since": self.epochs_since}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from what was saved."""
        self.state = saved["state"]
        self.value, self.epochs_since = saved["value"], saved["epochs_since"]

"""One phase's network, optimiser and what else changes with each batch; and a batch's update."""

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deepspectrumlite.augment import Augmentation, sap_policy, strengths
from deepspectrumlite.frontend import Waveforms, images_of
from deepspectrumlite.losses import ccc_loss, class_weights, sample_losses
from deepspectrumlite.model import NUMBERS, Classifier
from deepspectrumlite.optim import (
    MovingAverage,
    make_optimizer,
    make_schedule,
    set_training_mode,
    unfreeze_last,
)
from deepspectrumlite.processes import Processes


@dataclass(frozen=True)
class Phase:
    """One stretch of training with its own rate and its own share of the backbone."""

    name: str
    epochs: int
    learning_rate: float
    share: float


class CudaGraph:
    """A function of tensors of fixed shapes, whose many small kernels a GPU gets all at once.

    Each would take longer to launch than to run. The outputs are overwritten by the next call.
    """

    def __init__(
        self,
        function: Callable[..., tuple[Tensor, Tensor]],
        inputs: Sequence[Tensor],
        generator: torch.Generator,
    ) -> None:
        self.inputs = [tensor.clone() for tensor in inputs]
        # What is allocated and planned on first use has to be there before the recording.
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                function(*self.inputs)
        torch.cuda.current_stream().wait_stream(stream)
        seed = generator.initial_seed()
        self.graph = torch.cuda.CUDAGraph()
        self.graph.register_generator_state(generator)
        # Of this thread only: the one that pins batches allocates memory whenever it likes.
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            self.outputs = function(*self.inputs)
        generator.manual_seed(seed)  # as if nothing had been drawn yet

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Run it on other values."""
        for own, given in zip(self.inputs, inputs, strict=True):
            own.copy_(given, non_blocking=True)
        self.graph.replay()
        return self.outputs


class Learner:
    """Updates a model, batch by batch."""

    def __init__(
        self,
        model: Classifier,
        phase: Phase,
        target: np.ndarray,
        steps: int,
        augmentation: Augmentation,
        processes: Processes,
    ) -> None:
        """Begin a phase.

        Args:
            model: on the device of ``processes``
            phase: what learns, and how fast
            target: (n_segments, n_outputs), of all training segments
            steps: updates per epoch
            augmentation: on the same device
            processes: which share each batch
        """
        self.model, self.augmentation, self.processes = model, augmentation, processes
        self.recipe, self.device = model.recipe, processes.device
        section = self.recipe.train
        unfreeze_last(model, phase.share)
        network: nn.Module = nn.Sequential(model.backbone, model.head)
        if section.compile:
            network = torch.compile(network)  # type: ignore[assignment]
        self.network = processes.wrap(network)
        learning = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = make_optimizer(learning, section, phase.learning_rate)
        self.schedule = make_schedule(
            self.optimizer, section, phase.learning_rate, phase.epochs * steps
        )
        self.averaged = None
        if section.average_decay:
            self.averaged = MovingAverage(model, section.average_decay)
        # float16 has few small numbers: gradients are scaled up, and updates that overflow skipped.
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=section.precision == "float16")
        self.weights = class_weights(target, self.recipe).to(self.device)
        self.generator = torch.Generator(self.device)
        # The last known loss of each segment. Unknown ones rank last, in the order of the batch.
        self.losses = torch.full((len(target),), torch.inf, device=self.device)
        self.policy = torch.empty(0)
        self.graph: CudaGraph | None = None

    @property
    def judged(self) -> Classifier:
        """The model to evaluate and keep: that of averaged weights, where there is one."""
        return self.model if self.averaged is None else self.averaged.model

    def update(self, waveform: Waveforms, target: Tensor, index: Tensor, *, seed: int) -> Tensor:
        """Augment a batch, run the network, learn from it; returns the mean loss, a number.

        Args:
            waveform: (batch, num_samples); or a list of (num_samples,), of different lengths
            target: (batch, n_outputs), as of :class:`deepspectrumlite.targets.Targets`
            index: (batch,) of the segments, in the training set
            seed: decides on everything that is drawn here
        """
        torch.manual_seed(seed)  # dropout
        self.generator.manual_seed(seed)
        image, target = self._graphed(waveform, target, index)
        # Two segments in each part at least, or BatchNorm has nothing to average over.
        n_parts = max(1, min(self.recipe.train.accumulate, len(image) // 2))
        images, targets = image.tensor_split(n_parts), target.tensor_split(n_parts)
        parts = list(zip(images, targets, strict=True))
        losses, each = [], []
        self.optimizer.zero_grad()
        for number, (part, wanted) in enumerate(parts, 1):
            with self._synchronised(number == len(parts)):
                with self._autocast():
                    logits = self.network(part).float()
                each.append(sample_losses(logits, wanted, self.recipe, self.weights))
                loss = each[-1].sum() / len(image)
                if self.recipe.loss == "ccc":
                    loss = self._ccc_loss(logits, wanted)
                self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        self.scaler.step(self.optimizer)
        self.scaler.update()
        with warnings.catch_warnings():
            # float16 skips an update that overflowed, which the schedule takes for a mistake.
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
            self.schedule.step()
        if self.averaged is not None:
            self.averaged.update()
        if self._ranks and self.recipe.augment.rank_from == "history":
            self._remember(index, torch.cat(each).detach())
        return sum(losses[1:], losses[0])

    def _graphed(self, waveform: Waveforms, target: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`augmented_images`; on one GPU as one graph, unless the network takes part."""
        by_batch = self._ranks and self.recipe.augment.rank_from == "batch"
        alone = self.device.type == "cuda" and self.processes.count == 1
        if isinstance(waveform, list) or by_batch or not alone:
            return self.augmented_images(waveform, target, index)
        batch = (waveform, target, index)
        if self.graph is None:
            self.graph = CudaGraph(self.augmented_images, batch, self.generator)
        return self.graph(*batch)

    @torch.no_grad()
    def augmented_images(
        self, waveform: Waveforms, target: Tensor, index: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What the network sees: ``(batch, 3, height, width)``, ``(batch, n_outputs)``."""
        if self.recipe.model.output in NUMBERS:
            target = (target - self.model.offset) / self.model.scale
        waveform, target = self.augmentation.waveforms(waveform, target, self.generator)
        image = images_of(self.model.frontend, waveform)
        strength = self._strength(image, target, index) if self._ranks else None
        return self.augmentation.images(image, target, strength, self.generator)

    def state_dict(self) -> dict[str, Any]:
        """All that :meth:`load_state_dict` needs to go on as if nothing had happened."""
        return {
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict() if self.averaged else None,
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "losses": self.losses,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.model.load_state_dict(state["model"])
        if self.averaged is not None:
            self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        self.losses.copy_(state["losses"])

    @property
    def _ranks(self) -> bool:
        return self.recipe.augment.strength == "sapaugment" and self.augmentation.changes_images

    def _strength(self, image: Tensor, target: Tensor, index: Tensor) -> Tensor:
        """``(batch,)``: how strongly SapAugment lets each segment be augmented."""
        losses = self.losses[index]
        if self.recipe.augment.rank_from == "batch":
            # Ranked by one model, whichever processes saw which batches before.
            self.processes.share_buffers(self.model.backbone)
            self.model.eval()
            with self._autocast():
                logits = self.model.logits(image).float()
            losses = sample_losses(logits, target, self.recipe, self.weights)
            set_training_mode(self.model, self.recipe.train)
        # Ranks are those in the whole batch, which the processes share.
        everyones = self.processes.gather_rows(losses)
        if len(self.policy) != everyones.numel():
            augment = self.recipe.augment
            self.policy = sap_policy(everyones.numel(), augment.sap_a, augment.sap_s)
            self.policy = self.policy.to(self.device)
        ranked = strengths(everyones.flatten(), self.policy).view_as(everyones)
        return ranked[self.processes.rank]

    def _ccc_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """That of the whole batch, which the processes share."""
        everyones = list(self.processes.gather_rows(logits.detach()))
        everyones[self.processes.rank] = logits
        targets = self.processes.gather_rows(target).flatten(0, 1)
        loss = ccc_loss(torch.cat(everyones), targets)
        # Each process knows the gradient of its own part, which DDP divides by their number.
        return loss + (self.processes.count - 1) * (loss - loss.detach())

    def _remember(self, index: Tensor, losses: Tensor) -> None:
        everyones = self.processes.gather_rows(index)
        self.losses.scatter_(0, everyones.flatten(), self.processes.gather_rows(losses).flatten())

    def _autocast(self) -> AbstractContextManager[Any]:
        name = self.recipe.train.precision
        if name == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, getattr(torch, name))

    def _synchronised(self, last_part: bool) -> AbstractContextManager[Any]:
        """Processes exchange gradients once per batch, with its last part."""
        if last_part or self.processes.count == 1:
            return nullcontext()
        waiting: AbstractContextManager[Any] = self.network.no_sync()  # type: ignore[operator]
        return waiting

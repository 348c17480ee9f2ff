"""The training loop, both phases in plain sight: the head alone, then the backbone's last layers.

:func:`deepspectrumlite.runs.train_run` wraps it: from a manifest to a run folder.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, WeightedRandomSampler

from deepspectrumlite.augment import augment_images, augment_waveforms
from deepspectrumlite.config import TrainSection
from deepspectrumlite.data import Segments
from deepspectrumlite.errors import TrainingError
from deepspectrumlite.evaluate import Progress, average_files, make_loader, score_segments, silent
from deepspectrumlite.metrics import accuracy, confusion_matrix, macro_f1, uar
from deepspectrumlite.model import Classifier
from deepspectrumlite.optim import (
    Best,
    make_average,
    make_optimizer,
    make_schedule,
    set_training_mode,
    unfreeze_last,
)

Record = dict[str, Any]
"""One epoch's line in the history."""


@dataclass(frozen=True)
class Phase:
    """One stretch of training with its own rate and its own share of the backbone."""

    name: str
    epochs: int
    learning_rate: float
    share: float


def fit(
    model: Classifier,
    train: Segments,
    devel: Segments,
    *,
    device: torch.device,
    progress: Progress = silent,
    on_epoch: Callable[[Record], None] = lambda record: None,
) -> list[Record]:
    """Train a model in place; it ends with the weights of the epoch that the recipe keeps.

    Args:
        model: as built from its recipe, whose ``[train]`` and ``[augment]`` sections are used
        train: segments to learn from
        devel: segments that choose the best epoch
        device: where to compute
        progress: told of every batch
        on_epoch: told of every epoch, as soon as it ends

    Returns:
        the history: a record per epoch

    Raises:
        TrainingError: the loss is no longer finite
    """
    section = model.recipe.train
    model.to(device)
    model.backbone.to(memory_format=torch.channels_last)
    phases = (
        Phase("head", section.head_epochs, section.head_learning_rate, 0.0),
        Phase("fine_tune", section.epochs, section.learning_rate, section.fine_tune_share),
    )
    history: list[Record] = []
    best = Best(section)
    for phase in phases:
        if phase.epochs:
            for record in run_phase(model, phase, train, devel, best, device, progress):
                history.append({"epoch": len(history) + 1, **record})
                on_epoch(history[-1])
    best.restore(model)
    model.eval()
    return history


def run_phase(
    model: Classifier,
    phase: Phase,
    train: Segments,
    devel: Segments,
    best: Best,
    device: torch.device,
    progress: Progress,
) -> Iterator[Record]:
    """Train for the epochs of one phase, yielding a record after each."""
    section = model.recipe.train
    # The phases draw apart, so that a change of the first leaves the second's batches alone.
    generator = torch.Generator().manual_seed(section.seed * 2 + (phase.name == "fine_tune"))
    loader = make_train_loader(train, section, generator)
    unfreeze_last(model, phase.share)
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = make_optimizer(learning, section, phase.learning_rate)
    schedule = make_schedule(optimizer, section, phase.learning_rate, phase.epochs * len(loader))
    averaged = make_average(model, section)
    weights = class_weights(train, len(model.labels), section).to(device)
    best.new_phase()
    for epoch in range(1, phase.epochs + 1):
        started, losses = time.perf_counter(), []
        rate = optimizer.param_groups[0]["lr"]
        set_training_mode(model, section)
        for step, (waveform, label, _) in enumerate(loader, 1):
            loss = batch_loss(model, waveform.to(device), label.to(device), weights, generator)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            if averaged is not None:
                averaged.update_parameters(model)
            losses.append(loss.item())
            progress(f"{phase.name} epoch {epoch}/{phase.epochs}", step, len(loader))
        judged = model if averaged is None else averaged.module
        assert isinstance(judged, Classifier)
        scores = devel_scores(judged, devel, device)
        # The devel loss too: the last step may spoil the weights after the last training loss.
        _check_finite([*losses, scores["devel_loss"]], epoch, phase)
        yield {
            "phase": phase.name,
            "learning_rate": rate,
            "train_loss": float(np.mean(losses)),
            **scores,
            "best": best.update(judged, scores),
            "seconds": time.perf_counter() - started,
        }
        if best.ran_out_of_patience:
            return


def batch_loss(
    model: Classifier, waveform: Tensor, label: Tensor, weights: Tensor, generator: torch.Generator
) -> Tensor:
    """Augment a batch, run the network, and compare.

    Args:
        model: in training mode
        waveform: (batch, num_samples)
        label: (batch,) indices into the model's labels
        weights: (n_labels,), of the labels in the loss
        generator: of the augmentation
    """
    augment = model.recipe.augment
    target = functional.one_hot(label, len(model.labels)).float()
    waveform, target = augment_waveforms(waveform, target, augment, generator)
    image = augment_images(model.frontend(waveform), augment, generator)
    logits = model.logits(image)
    smoothing = model.recipe.train.label_smoothing
    return functional.cross_entropy(logits, target, weights, label_smoothing=smoothing)


def make_train_loader(
    train: Segments, section: TrainSection, generator: torch.Generator
) -> DataLoader[Any]:
    """Shuffled batches; with ``balance = "sampler"`` every class is drawn equally often."""
    n = len(train)
    weights = np.ones(n)
    if section.balance == "sampler":
        weights = 1 / np.bincount(train.label_index)[train.label_index]
    sampler = WeightedRandomSampler(
        weights.tolist(), n, replacement=section.balance == "sampler", generator=generator
    )
    # A last batch of one segment would give BatchNorm nothing to average over.
    drop_last = n > section.batch_size
    return make_loader(train, section, sampler=sampler, drop_last=drop_last)


def class_weights(train: Segments, n_labels: int, section: TrainSection) -> Tensor:
    """``(n_labels,)``: weights of the loss, all 1 unless ``balance = "weights"``."""
    if section.balance != "weights":
        return torch.ones(n_labels)
    counts = np.bincount(train.label_index, minlength=n_labels)
    return torch.from_numpy(len(train) / (n_labels * counts.clip(min=1))).float()


def devel_scores(model: Classifier, devel: Segments, device: torch.device) -> dict[str, float]:
    """Loss and metrics over the files of the devel split."""
    scores, truth = average_files(score_segments(model, devel, device), devel)
    matrix = confusion_matrix(truth, scores.argmax(axis=1), len(model.labels))
    likelihood = scores[np.arange(len(truth)), truth].clip(1e-12)
    return {
        "devel_loss": float(-np.log(likelihood).mean()),
        "devel_uar": float(uar(matrix)),
        "devel_accuracy": float(accuracy(matrix)),
        "devel_macro_f1": float(macro_f1(matrix)),
    }


def _check_finite(losses: list[float], epoch: int, phase: Phase) -> None:
    if not np.isfinite(losses).all():
        key = "head_learning_rate" if phase.name == "head" else "learning_rate"
        raise TrainingError(
            f"the loss is not finite in epoch {epoch} of phase {phase.name}; train.{key} is "
            f"{phase.learning_rate:g}, so try --set train.{key}={phase.learning_rate / 10:g}"
        )

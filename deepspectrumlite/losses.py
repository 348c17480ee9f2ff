"""What training minimises: one loss per sample, so that samples can be weighted and ranked."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from deepspectrumlite.config import Recipe


def sample_losses(logits: Tensor, target: Tensor, recipe: Recipe, weights: Tensor) -> Tensor:
    """The loss of each sample: ``(batch,)``; for the CCC, which only a batch has, squared errors.

    Args:
        logits: (batch, n_outputs)
        target: (batch, n_outputs): probabilities of labels, or numbers of deviation 1
        recipe: says which loss
        weights: (n_outputs,), as of :func:`class_weights`
    """
    section, name = recipe.train, recipe.loss
    smoothing, gamma = section.label_smoothing, section.focal_gamma if name == "focal" else 0.0
    if recipe.model.output == "softmax" and gamma:
        target = target * (1 - smoothing) + smoothing / target.shape[1]
        return focal_loss(logits, target * weights, gamma)
    if recipe.model.output == "softmax":
        return functional.cross_entropy(
            logits, target, weights, reduction="none", label_smoothing=smoothing
        )
    if recipe.model.output == "sigmoid":
        target = target * (1 - smoothing) + smoothing / 2
        return binary_focal_loss(logits, target, weights, gamma)
    if name == "mae":
        return (logits - target).abs().mean(dim=1)
    if name == "huber":
        delta = section.huber_delta
        return functional.huber_loss(logits, target, reduction="none", delta=delta).mean(dim=1)
    return (logits - target).square().mean(dim=1)


def focal_loss(logits: Tensor, target: Tensor, gamma: float) -> Tensor:
    """``-sum_c target_c (1 - p_c)^gamma log p_c``: ``(batch, n_labels)`` -> ``(batch,)``.

    Source: Lin et al. 2017, "Focal Loss for Dense Object
    Detection", eq. 4, for any mixture of labels.
    """
    log_p = functional.log_softmax(logits, dim=1)
    if gamma:
        # Not 0, where a power below 1 has no finite gradient.
        target = target * (-torch.expm1(log_p)).clamp(min=1e-12) ** gamma
    return -(target * log_p).sum(dim=1)


def binary_focal_loss(logits: Tensor, target: Tensor, weights: Tensor, gamma: float) -> Tensor:
    """The same for labels that do not exclude each other, mean over them: ``(batch,)``.

    ``weights`` (n_labels,) multiply the part of the labels that are there.
    """
    log_p, log_not = functional.logsigmoid(logits), functional.logsigmoid(-logits)
    there, absent = target * weights, 1 - target
    if gamma:
        there, absent = there * (gamma * log_not).exp(), absent * (gamma * log_p).exp()
    return -(there * log_p + absent * log_not).mean(dim=1)


def ccc_loss(logits: Tensor, target: Tensor) -> Tensor:
    """1 minus the concordance correlation coefficient of the batch, mean over the numbers.

    ``(batch, n_outputs)``, likewise -> a number. Source: Lin 1989, "A concordance correlation
    coefficient to evaluate reproducibility", with moments over the batch.
    """
    mean_logits, mean_target = logits.mean(dim=0), target.mean(dim=0)
    covariance = ((logits - mean_logits) * (target - mean_target)).mean(dim=0)
    spread = logits.var(dim=0, correction=0) + target.var(dim=0, correction=0)
    apart = (mean_logits - mean_target).square()
    # A batch of equal targets has no concordance to speak of: 1, with a finite gradient.
    return (1 - 2 * covariance / (spread + apart).clamp(min=1e-8)).mean()


def class_weights(target: np.ndarray, recipe: Recipe) -> Tensor:
    """``(n_segments, n_outputs)`` targets -> ``(n_outputs,)`` weights of the labels in the loss.

    All 1 unless ``balance = "weights"``. Then a label weighs in proportion to how rarely it occurs;
    where labels do not exclude each other, as much as all segments without it together.
    """
    n, n_outputs = target.shape
    if recipe.train.balance != "weights" or recipe.model.output in ("linear", "ordinal"):
        return torch.ones(n_outputs)
    counts = target.sum(axis=0).clip(min=1)
    weights = n / (n_outputs * counts)
    if recipe.model.output == "sigmoid":
        weights = (n - target.sum(axis=0)).clip(min=1) / counts
    return torch.from_numpy(weights).float()


def sampling_weights(target: np.ndarray, recipe: Recipe) -> np.ndarray | None:
    """``(n_segments, n_outputs)`` targets -> ``(n_segments,)`` chances to be drawn; None: equal.

    With ``balance = "sampler"`` each label is drawn equally often. A segment with several labels is
    drawn as often as their mean; one without any, as if that were a label of its own.
    """
    output = recipe.model.output
    if recipe.train.balance != "sampler" or output == "linear":
        return None
    if output == "ordinal":
        _, label, counts = np.unique(target[:, 0], return_inverse=True, return_counts=True)
        rarity: np.ndarray = 1 / counts[label]
        return rarity
    there = np.hstack([target, ~target.any(axis=1, keepdims=True)]).astype(np.float64)
    mean_rarity: np.ndarray = there @ (1 / there.sum(axis=0).clip(min=1)) / there.sum(axis=1)
    return mean_rarity

"""Augmentation of training batches, on the training device, without a loop over samples.

Waveforms are shifted in time and mixed before the front-end; images are masked after it. Every
function draws from the given generator, so that the same seed gives the same batches.
"""

import torch
from torch import Generator, Tensor

from deepspectrumlite.config import AugmentSection


def augment_waveforms(
    waveform: Tensor, target: Tensor, section: AugmentSection, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Shift in time and change the speed, then MixUp a share of the batches.

    Args:
        waveform: (batch, num_samples)
        target: (batch, n_labels), the probability of each label
        section: how much of each
        generator: on the CPU; source of every random number
    """
    if section.time_shift > 0 or section.speed > 0:
        waveform = shift_and_stretch(waveform, section.time_shift, section.speed, generator)
    if section.mixup_alpha > 0 and _uniform(1, generator).item() < section.mixup_share:
        waveform, target = mixup(waveform, target, section.mixup_alpha, generator)
    return waveform, target


def augment_images(image: Tensor, section: AugmentSection, generator: Generator) -> Tensor:
    """SpecAugment: ``(batch, 3, height, width)`` -> the same with masked rows and columns."""
    masked = _stripes(
        image.shape[0],
        image.shape[2],
        section.frequency_masks,
        section.frequency_mask_share,
        generator,
    )[:, None, :, None]
    masked = (
        masked
        | _stripes(
            image.shape[0], image.shape[3], section.time_masks, section.time_mask_share, generator
        )[:, None, None, :]
    )
    mean_color = image.mean(dim=(2, 3), keepdim=True)
    return torch.where(masked.to(image.device), mean_color, image)


def shift_and_stretch(
    waveform: Tensor, largest_shift: float, largest_change: float, generator: Generator
) -> Tensor:
    """Rotate each waveform in time, and play it faster or slower, pitch and all.

    ``(batch, num_samples)`` -> the same. What leaves at one end comes back at the other; slower
    playback loses the end, faster playback begins anew.

    Source of the change of speed: Ko et al. 2015, "Audio Augmentation for Speech Recognition".

    Args:
        waveform: (batch, num_samples)
        largest_shift: either way, as a share of the length
        largest_change: the speed is drawn between 1 - this and 1 + this
        generator: source of the draws
    """
    batch, num_samples = waveform.shape
    draws = 2 * _uniform((2, batch, 1), generator) - 1
    shift = (draws[0] * largest_shift * num_samples).round()
    # float32 would blur positions: it tells 32,000.4 from 32,000.5, but not much less.
    position = torch.arange(num_samples).double() * (1 + draws[1] * largest_change) + shift
    index = position.floor()
    share = (position - index).float().to(waveform.device)
    index = (index.long() % num_samples).to(waveform.device)
    here, there = waveform.gather(1, index), waveform.gather(1, (index + 1) % num_samples)
    return here + share * (there - here)


def mixup(
    waveform: Tensor, target: Tensor, alpha: float, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Mix each waveform with another one of the batch, and their targets likewise.

    Each waveform is brought to a peak of 1 first: the mixing weight would mean nothing if one
    were far louder. Source: Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization".
    """
    batch = waveform.shape[0]
    share = _beta(alpha, batch, generator).to(waveform.device)[:, None]
    other = torch.randperm(batch, generator=generator).to(waveform.device)
    waveform = waveform / waveform.abs().amax(dim=1, keepdim=True).clamp(min=1e-8)
    mixed = share * waveform + (1 - share) * waveform[other]
    return mixed, share * target + (1 - share) * target[other]


def _stripes(batch: int, size: int, count: int, share: float, generator: Generator) -> Tensor:
    """``(batch, size)`` booleans: ``count`` stripes, ``share`` of the size wide together at most.

    Each stripe's width is drawn between 0 and its part of the share, then its position.
    Source: Park et al. 2019, "SpecAugment", arXiv 1904.08779.
    """
    largest = int(share * size / max(count, 1))
    # Whole pixels: a stripe 1.5 wide may cover two, and two of those more than the share.
    width = (_uniform((batch, count, 1), generator) * (largest + 1)).floor()
    start = (_uniform((batch, count, 1), generator) * (size - width + 1)).floor()
    position = torch.arange(size)
    return ((position >= start) & (position < start + width)).any(dim=1)


def _uniform(shape: int | tuple[int, ...], generator: Generator) -> Tensor:
    return torch.rand(shape, generator=generator)


def _beta(alpha: float, n: int, generator: Generator) -> Tensor:
    """Draws from Beta(alpha, alpha): ``(n,)``, each at least 0.5 so that the own label leads."""
    # torch.distributions has no generator argument; the Gamma sampler below takes one.
    gamma = torch._standard_gamma(torch.full((2, n), alpha), generator=generator)
    share = gamma[0] / gamma.sum(dim=0).clamp(min=1e-12)
    return torch.maximum(share, 1 - share)

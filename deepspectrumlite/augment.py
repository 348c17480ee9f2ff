"""Augmentation of training batches, on the training device, without a loop over segments.

Waveforms are shifted, played faster or slower, given a room, a level and noise, and mixed before
the front-end; images are pasted into each other and masked after it. Every random number comes
from the given generator, which lives on the device of the batch: nothing is copied from or to it,
nothing waits for it, and the same seed gives the same batches.

In all functions `share` is how likely a segment is changed; one that is not stays exactly as it
is. What is drawn for each segment has the shape (batch, 1).
"""

import math
from functools import reduce

import numpy as np
import torch
from scipy.fft import next_fast_len
from scipy.special import betainc, betaincinv
from torch import Generator, Tensor, nn

from deepspectrumlite.config import AugmentSection, DataSection
from deepspectrumlite.frontend import Waveforms
from deepspectrumlite.noise import load_noise, load_responses

# Positions in time have 32 binary places, in 64-bit integers: float32 would blur them by up to
# 0.02 samples within 10 s, and not every device has float64.
_PLACES = 32
# Of the root mean square of its recording: a pause in the noise is not blown up beyond 20 dB.
_QUIETEST_NOISE = 0.1
_MIXING_WEIGHTS = 4096


class Augmentation(nn.Module):
    """The steps of a recipe's ``[augment]``, with noise, rooms and tables as buffers.

    A step that is off in the recipe costs nothing and draws nothing.

    Raises:
        TrainingError: a folder of noise or impulse responses is missing, empty or unusable
    """

    mixing_weights: Tensor
    noise: Tensor | None
    responses: Tensor

    def __init__(self, section: AugmentSection, data: DataSection) -> None:
        super().__init__()
        self.section = section
        if section.reverb_share:
            responses = load_responses(section.reverb_folder, data)
            self.register_buffer("responses", responses, persistent=False)
        recorded = section.noise_share and section.noise_folder != "white"
        noise = load_noise(section.noise_folder, data.sample_rate) if recorded else None
        self.register_buffer("noise", noise, persistent=False)
        if section.mixup_share and section.mixup_alpha:
            weights = mixing_weights(section.mixup_alpha)
            self.register_buffer("mixing_weights", weights, persistent=False)

    @property
    def changes_images(self) -> bool:
        """Whether :meth:`images` does anything."""
        s = self.section
        columns, rows = s.time_masks * s.time_mask_share, s.frequency_masks * s.frequency_mask_share
        return bool(s.cutmix_probability * s.cutmix_area or s.mask_probability * (columns + rows))

    def waveforms(
        self, waveform: Waveforms, target: Tensor, generator: Generator
    ) -> tuple[Waveforms, Tensor]:
        """What comes before the front-end: ``(batch, num_samples)``, ``(batch, n_outputs)``.

        A list of ``(num_samples,)`` of different lengths stays one; nothing in it is mixed.
        """
        s = self.section
        if isinstance(waveform, list):
            assert not s.mixup_share * s.mixup_alpha, "the recipe mixes no whole recordings"
            parts = [self.waveforms(each[None], target, generator)[0] for each in waveform]
            return [part[0] for part in parts], target
        if s.time_shift or s.speed:
            waveform = shift_and_stretch(waveform, s.time_shift, s.speed, generator)
        if s.reverb_share:
            waveform = reverb(waveform, self.responses, s.reverb_share, generator)
        if s.gain_db:
            waveform = change_level(waveform, s.gain_db, generator)
        if s.noise_share:
            snr_db = (s.snr_db_low, s.snr_db_high)
            waveform = add_noise(waveform, self.noise, s.noise_share, snr_db, generator)
        if s.mixup_share and s.mixup_alpha:
            weights = self.mixing_weights
            waveform, target = mixup(waveform, target, weights, s.mixup_share, generator)
        return waveform, target

    def images(
        self, image: Tensor, target: Tensor, strength: Tensor | None, generator: Generator
    ) -> tuple[Tensor, Tensor]:
        """What comes after it: ``(batch, 3, height, width)``, ``(batch, n_outputs)``.

        With a strength, ``(batch,)`` from 0 to 1 as of :func:`strengths`, how likely a step is
        and how much it changes run linearly from the recipe's ``..._min`` to its maximum. With
        None each step is as likely as it can be, and draws how much it changes.
        """
        s = self.section
        if s.cutmix_probability and s.cutmix_area:
            probability = (s.cutmix_probability_min, s.cutmix_probability)
            chosen = _choose(probability, image, strength, generator)
            area = _draw((s.cutmix_area_min, s.cutmix_area), image, strength, generator)
            image, target = cutmix(image, target, area * chosen, generator)
        return self._mask(image, strength, generator), target

    def _mask(self, image: Tensor, strength: Tensor | None, generator: Generator) -> Tensor:
        """SpecAugment: a segment gets masks of both kinds, or none."""
        s, (height, width) = self.section, image.shape[2:]
        has_columns = s.time_masks > 0 and s.time_mask_share > 0
        has_rows = s.frequency_masks > 0 and s.frequency_mask_share > 0
        if not s.mask_probability or not (has_columns or has_rows):
            return image
        chosen = _choose((s.mask_probability_min, s.mask_probability), image, strength, generator)
        masks = []
        if has_columns:
            shares = (s.time_mask_share_min, s.time_mask_share)
            share = _draw(shares, image, strength, generator) * chosen
            masks.append(stripes(share, s.time_masks, width, generator)[:, None, None, :])
        if has_rows:
            shares = (s.frequency_mask_share_min, s.frequency_mask_share)
            share = _draw(shares, image, strength, generator) * chosen
            masks.append(stripes(share, s.frequency_masks, height, generator)[:, None, :, None])
        mean_color = image.mean(dim=(2, 3), keepdim=True)
        return torch.where(reduce(torch.logical_or, masks), mean_color, image)


def shift_and_stretch(
    waveform: Tensor, largest_shift: float, largest_change: float, generator: Generator
) -> Tensor:
    """Rotate each waveform in time, and play it faster or slower, pitch and all.

    ``(batch, num_samples)`` -> the same. What leaves at one end comes back at the other; slower
    playback loses the end, faster playback begins anew. The shift is up to `largest_shift` of the
    length either way, in whole samples; the speed between 1 - and 1 + `largest_change`.

    Source of the change of speed: Ko et al. 2015, "Audio Augmentation for Speech Recognition".
    """
    num_samples = waveform.shape[1]
    index = torch.arange(num_samples, device=waveform.device)
    shift = None
    if largest_shift:
        shift = (_signed(waveform, generator) * (largest_shift * num_samples)).round().long()
    if not largest_change:
        return waveform if shift is None else waveform.gather(1, (index + shift) % num_samples)
    one = 2**_PLACES
    step = (_signed(waveform, generator) * (largest_change * one)).long() + one
    position = index * step
    index = position >> _PLACES
    index = (index if shift is None else index + shift) % num_samples
    share = (position & (one - 1)).to(waveform.dtype) / one
    return torch.lerp(waveform.gather(1, index), waveform.roll(-1, 1).gather(1, index), share)


def reverb(waveform: Tensor, responses: Tensor, share: float, generator: Generator) -> Tensor:
    """Play segments in a room: ``(batch, num_samples)``, ``(n_responses, n_taps)`` -> the first.

    Each is convolved with a drawn impulse response, cut to its length, and brought back to its
    root mean square, or a long room would be a loud one. Source: Ko et al. 2017, "A study on data
    augmentation of reverberant speech for robust speech recognition".
    """
    num_samples, (n_responses, n_taps) = waveform.shape[1], responses.shape
    choice, which = _uniform(2, waveform, generator).unbind()
    response = responses[(which[:, 0] * n_responses).long()]
    n_fft = next_fast_len(num_samples + n_taps - 1, real=True)
    spectrum = torch.fft.rfft(waveform, n_fft) * torch.fft.rfft(response, n_fft)
    wet = torch.fft.irfft(spectrum, n_fft)[:, :num_samples]
    # Silence stays silent: 0 / 1e-20.
    wet = wet * (_norm(waveform) / _norm(wet).clamp(min=1e-20))
    return torch.where(choice < share, wet, waveform)


def change_level(waveform: Tensor, gain_db: float, generator: Generator) -> Tensor:
    """Louder or softer by up to `gain_db`, evenly in dB: ``(batch, num_samples)`` -> the same."""
    factor = 10 ** (_signed(waveform, generator) * (gain_db / 20))
    return waveform * factor.to(waveform.dtype)


def add_noise(
    waveform: Tensor,
    noise: Tensor | None,
    share: float,
    snr_db: tuple[float, float],
    generator: Generator,
) -> Tensor:
    """Add noise: ``(batch, num_samples)``, ``(n,)`` with a root mean square of 1 -> the first.

    A stretch is drawn from the noise, which goes on at its start after its end; None is white
    noise. `snr_db` is the lowest and highest ratio of the segment's own power to the stretch's,
    in dB; a stretch below -20 dB counts as -20 dB, so that a pause stays one. Silence, which has
    no ratio to any noise, stays silent.
    """
    num_samples = waveform.shape[1]
    choice, level, at = _uniform(3, waveform, generator).unbind()
    if noise is None:
        stretch = torch.randn(
            waveform.shape, generator=generator, device=waveform.device, dtype=waveform.dtype
        )
    else:
        index = (at * len(noise)).long() + torch.arange(num_samples, device=waveform.device)
        stretch = noise[index % len(noise)].to(waveform.dtype)
    lowest, highest = snr_db
    ratio = 10 ** ((lowest + (highest - lowest) * level) / -20) * (choice < share)
    loudness = _norm(stretch).clamp(min=_QUIETEST_NOISE * math.sqrt(num_samples))
    return torch.addcmul(waveform, stretch, (ratio * _norm(waveform) / loudness).to(waveform.dtype))


def mixup(
    waveform: Tensor, target: Tensor, weights: Tensor, share: float, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Mix each segment with another one, and their targets likewise.

    ``(batch, num_samples)``, ``(batch, n_outputs)``, and the ``(n,)`` of :func:`mixing_weights`
    -> the first two. Both are brought to a peak of 1 first: a weight would mean nothing if one
    were far louder. Source: Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization".
    """
    choice, which = _uniform(2, waveform, generator).unbind()
    chosen, own = choice < share, weights[(which * len(weights)).long()]
    partner = _partners(waveform, generator)
    level = waveform / waveform.abs().amax(dim=1, keepdim=True).clamp(min=1e-8)
    mixed = torch.lerp(level[partner], level, own.to(level.dtype))
    return torch.where(chosen, mixed, waveform), _mix_target(target, partner, 1 - own, chosen)


def mixing_weights(alpha: float) -> Tensor:
    """Evenly spaced quantiles of max(l, 1 - l) with l from Beta(alpha, alpha): ``(n,)``, rising.

    A table, as not every device can draw from this distribution. The larger one of both weights,
    so that a segment's own label leads.
    """
    middle = (np.arange(_MIXING_WEIGHTS) + 0.5) / _MIXING_WEIGHTS
    # As l is distributed evenly about 0.5, its upper half is what is wanted.
    return torch.from_numpy(betaincinv(alpha, alpha, (1 + middle) / 2)).float()


def cutmix(
    image: Tensor, target: Tensor, area: Tensor, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Paste a box of another image of the batch into each, and mix the targets accordingly.

    ``(batch, 3, height, width)``, ``(batch, n_outputs)``, and the box's area ``(batch, 1)`` as a
    share of the image, 0 for none -> the first two. The box has the image's proportions, whole
    pixels, and a centre anywhere in the image; what lies outside is cut off. The target is mixed
    by the pixels that really were pasted. Source: Yun et al. 2019, "CutMix", arXiv 1905.04899.
    """
    height, width = image.shape[2:]
    y, x = _uniform(2, image, generator).unbind()
    rows, columns = _side(area, y, height), _side(area, x, width)
    pasted = rows.sum(dim=1, keepdim=True) * columns.sum(dim=1, keepdim=True) / (height * width)
    box = rows[:, None, :, None] & columns[:, None, None, :]
    partner = _partners(image, generator)
    mixed = torch.where(box, image[partner], image)
    return mixed, _mix_target(target, partner, pasted, pasted > 0)


def stripes(share: Tensor, count: int, size: int, generator: Generator) -> Tensor:
    """Lines to mask: ``(batch, 1)`` -> ``(batch, size)`` booleans.

    Exactly ``round(share * size)`` lines of each row are true, in `count` stripes as equally wide
    as whole lines allow, which may touch but not overlap. Source: Park et al. 2019, "SpecAugment",
    arXiv 1904.08779, where each width is drawn.
    """
    total = (share * size).round()
    # Where stripes end if all stand at the left; then gaps from 0 to all that is free, rising.
    ends = (total * torch.arange(count + 1, device=share.device) / count).floor()
    draws = torch.rand((len(share), count), generator=generator, device=share.device)
    gaps = (draws.sort(dim=1).values * (size - total + 1)).floor()
    return _inside(gaps + ends[:, :-1], gaps + ends[:, 1:], size).any(dim=1)


def sap_policy(batch: int, a: float, s: float) -> Tensor:
    """SapAugment's strength by rank: ``(batch,)``, from the smallest loss to the largest.

    ``1 - I_(r / batch)(s (1 - a), s a)`` for rank r from 1, I the regularised incomplete beta
    function. Source: Hu et al. 2020, "SapAugment", arXiv 2011.01156.

    >>> [round(strength, 4) for strength in sap_policy(4, a=0.5, s=10.0).tolist()]
    [0.9511, 0.5, 0.0489, 0.0]
    """
    rank = np.arange(1, batch + 1)
    return torch.from_numpy(1 - betainc(s * (1 - a), s * a, rank / batch)).float()


def strengths(losses: Tensor, policy: Tensor) -> Tensor:
    """Each segment's strength by the rank of its loss: ``(batch,)``, ``(batch,)`` -> ``(batch,)``.

    Of equal losses the first one in the batch has the lower rank.
    """
    order = losses.argsort(stable=True)
    return torch.empty_like(policy).scatter(0, order, policy)


def _uniform(count: int, like: Tensor, generator: Generator) -> Tensor:
    """``(count, batch, 1)`` random numbers from 0 to below 1."""
    return torch.rand((count, like.shape[0], 1), generator=generator, device=like.device)


def _signed(like: Tensor, generator: Generator) -> Tensor:
    """``(batch, 1)`` random numbers from -1 to below 1."""
    return 2 * _uniform(1, like, generator)[0] - 1


def _draw(
    bounds: tuple[float, float], like: Tensor, strength: Tensor | None, generator: Generator
) -> Tensor:
    """``(batch, 1)``: from lowest to highest by the given strength, or by one drawn evenly."""
    lowest, highest = bounds
    part = _uniform(1, like, generator)[0] if strength is None else strength[:, None]
    return lowest + (highest - lowest) * part


def _choose(
    bounds: tuple[float, float], like: Tensor, strength: Tensor | None, generator: Generator
) -> Tensor:
    """``(batch, 1)`` booleans, true with the probability for the strength, None: the highest."""
    draw = _uniform(1, like, generator)[0]
    return draw < (bounds[1] if strength is None else _draw(bounds, like, strength, generator))


def _partners(like: Tensor, generator: Generator) -> Tensor:
    return torch.randperm(like.shape[0], generator=generator, device=like.device)


def _mix_target(target: Tensor, partner: Tensor, share: Tensor, chosen: Tensor) -> Tensor:
    """The chosen targets with the given share, ``(batch, 1)``, of their partner's."""
    share = share.to(target.dtype)
    # Not by the weights alone: 0 * NaN, of a target that is not known, would be NaN.
    return torch.where(chosen, (1 - share) * target + share * target[partner], target)


def _side(area: Tensor, centre: Tensor, size: int) -> Tensor:
    """``(batch, size)`` booleans: what a box covers of one side of the image; centre in 0..1."""
    length = (area.sqrt() * size).round()
    start = (centre * size - length / 2).round()
    return _inside(start, start + length, size)[:, 0]


def _inside(start: Tensor, end: Tensor, size: int) -> Tensor:
    """``(batch, n)``, ``(batch, n)`` -> ``(batch, n, size)``: which positions lie in between."""
    position = torch.arange(size, device=start.device)
    return (position >= start[:, :, None]) & (position < end[:, :, None])


def _norm(waveform: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(waveform, dim=1, keepdim=True)
    return norm

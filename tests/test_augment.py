import math

import numpy as np
import pytest
import soundfile
import torch
from scipy import stats
from torch.utils._python_dispatch import TorchDispatchMode

import deepspectrumlite.noise
from deepspectrumlite.augment import (
    Augmentation,
    add_noise,
    change_level,
    cutmix,
    mixing_weights,
    mixup,
    reverb,
    sap_policy,
    shift_and_stretch,
    strengths,
    stripes,
)
from deepspectrumlite.config import AugmentSection, DataSection
from deepspectrumlite.errors import TrainingError
from deepspectrumlite.noise import load_noise, load_responses

RATE = 1000
DATA = DataSection(sample_rate=RATE, segment_seconds=0.5, hop_seconds=0.5)
NOTHING = {
    "cutmix_probability": 0.0,
    "time_shift": 0.0,
    "speed": 0.0,
    "mixup_share": 0.0,
    "time_mask_share": 0.0,
    "frequency_mask_share": 0.0,
}
EVERYTHING = {
    "time_shift": 0.2,
    "speed": 0.2,
    "gain_db": 6.0,
    "reverb_share": 0.5,
    "noise_share": 0.5,
    "mixup_share": 0.5,
    "cutmix_probability": 0.5,
    "time_mask_share": 0.3,
    "frequency_mask_share": 0.3,
}
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def seeded(seed=0, device="cpu"):
    return torch.Generator(device).manual_seed(seed)


def augmentation(**values):
    return Augmentation(AugmentSection(**{**NOTHING, **values}), DATA)


def noise(*shape, seed=0, dtype=torch.float32):
    """Evenly from -0.5 to 0.5."""
    return torch.rand(*shape, generator=seeded(seed), dtype=dtype) - 0.5


def pictures(*shape):
    """Dark and bright pixels, none of which has the mean color by chance."""
    values = noise(*shape) + 0.5
    return torch.where(values < 0.5, 0.4 * values, 1 - 0.4 * values)


def plain(batch, height, width):
    """Images of one colour each, and targets that tell who is in the mixture."""
    colors = torch.arange(batch).float()[:, None, None, None]
    return colors.expand(batch, 3, height, width) / batch, torch.eye(batch)


def changed_pixels(before, after):
    """(batch, height, width): where all colours changed; they change together."""
    changed = before != after
    assert torch.equal(changed.all(dim=1), changed.any(dim=1))
    return changed.any(dim=1)


def within_binomial_bounds(found, probability):
    """Whether a share of hits is no further from its probability than 4.5 deviations."""
    bound = 4.5 * math.sqrt(probability * (1 - probability) / len(found))
    return abs(found.double().mean().item() - probability) <= bound


def is_uniform(values, low, high):
    return stats.kstest(values.double().numpy(), stats.uniform(low, high - low).cdf).pvalue > 1e-3


@pytest.fixture
def save(tmp_path):
    """The function ``(folder, name=samples, ...) -> folder`` that writes recordings."""

    def write(folder, rate=RATE, **recordings):
        (tmp_path / folder).mkdir(exist_ok=True)
        for name, samples in recordings.items():
            soundfile.write(tmp_path / folder / f"{name}.wav", samples, rate, subtype="FLOAT")
        return str(tmp_path / folder)

    return write


@pytest.fixture
def everything(save):
    """Every step on, with recorded noise and rooms."""
    rng = np.random.default_rng(0)
    rooms = save("rooms", a=np.exp(-np.arange(200) / 40) * rng.normal(size=200))
    noises = save("noises", a=rng.normal(size=3000) / 10, b=rng.normal(size=2000) / 50)
    return Augmentation(
        AugmentSection(**EVERYTHING, reverb_folder=rooms, noise_folder=noises), DATA
    )


# Shift and speed


def rotations(waveform, shifted):
    """The number of samples by which each waveform was rotated, exactly."""
    found = []
    for before, after in zip(waveform, shifted, strict=True):
        amounts = [k for k in range(len(before)) if torch.equal(before.roll(-k), after)]
        assert len(amounts) == 1
        found += amounts
    return torch.tensor(found)


@pytest.mark.parametrize(("largest", "n"), [(0.1, 400), (0.5, 101), (1.0, 64)])
def test_shift_is_an_exact_rotation_within_its_bounds(largest, n):
    waveform = noise(64, n)
    amounts = rotations(waveform, shift_and_stretch(waveform, largest, 0.0, seeded(1)))
    if largest < 1:
        signed = torch.where(amounts > n / 2, amounts - n, amounts)
        assert signed.abs().max() <= round(largest * n)
        # Both ways, and nearly as far as allowed.
        assert signed.min() < -0.8 * largest * n
        assert signed.max() > 0.8 * largest * n
    assert len(amounts.unique()) > 20


def test_shift_and_speed_together_begin_at_a_whole_sample():
    n = 400
    waveform = noise(64, n)
    changed = shift_and_stretch(waveform, 0.2, 0.1, seeded(1))
    # The first sample lies where the shift says, before any stretching.
    start = (waveform == changed[:, :1]).int().argmax(dim=1)
    assert (waveform == changed[:, :1]).any(dim=1).all()
    signed = torch.where(start > n / 2, start - n, start)
    assert signed.abs().max() <= 80
    assert signed.abs().max() > 60
    assert len(signed.unique()) > 20


def frequency_of(waveform, rate):
    """Frequency of the peak of each zero-padded, windowed spectrum."""
    windowed = waveform * torch.hann_window(waveform.shape[1])
    n_fft = 16 * waveform.shape[1]
    return torch.fft.rfft(windowed, n_fft).abs().argmax(dim=1) * rate / n_fft


@pytest.mark.parametrize("change", [0.1, 0.3])
def test_speed_multiplies_every_frequency(change):
    rate, n, hertz = 16_000, 16_000, 500.0
    sine = torch.sin(2 * math.pi * hertz * torch.arange(n, dtype=torch.float64) / rate).float()
    faster = shift_and_stretch(sine.expand(128, n), 0.0, change, seeded(7))
    # Before anything begins anew: the fastest one has read all after n / 1.3 samples.
    factor = frequency_of(faster[:, : int(n / (1 + change))], rate) / hertz
    assert factor.min() > 1 - change - 1e-3
    assert factor.max() < 1 + change + 1e-3
    assert is_uniform(factor, 1 - change, 1 + change)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_speed_reads_between_the_samples_to_a_thousandth_and_wraps(dtype):
    # 10 s at 48 kHz; a saw of 256 steps, so that float32 can tell its values apart.
    n, period = 480_000, 256
    saw = (torch.arange(n) % period).to(dtype)
    stretched = shift_and_stretch(saw.expand(8, n), 0.0, 0.5, seeded(8)).double()
    change = 0.5 * (2 * torch.rand((1, 8, 1), generator=seeded(8)) - 1)[0].double()
    position = (torch.arange(n).double() * (1 + change)) % n % period
    # Between the last step of a tooth and the first of the next it falls.
    inner = position < period - 1
    assert inner.double().mean() > 0.99
    assert (stretched - position)[inner].abs().max() < 1e-3
    assert (change < -0.1).any()
    assert (change > 0.1).any()


def test_shift_and_speed_stay_within_the_range_of_the_samples():
    waveform = noise(32, 500)
    changed = shift_and_stretch(waveform, 1.0, 0.5, seeded(9))
    assert changed.shape == waveform.shape
    assert (changed.amin(dim=1) >= waveform.amin(dim=1) - 1e-6).all()
    assert (changed.amax(dim=1) <= waveform.amax(dim=1) + 1e-6).all()
    # Speed and shift differ from segment to segment: equal waveforms part.
    equal = shift_and_stretch(waveform[:1].expand(32, 500), 0.5, 0.5, seeded(9))
    assert len(equal.unique(dim=0)) == 32


# Reverberation


def test_reverb_by_a_unit_impulse_is_the_identity():
    waveform = noise(8, 500)
    for responses in (torch.tensor([[1.0]]), torch.tensor([[1.0, 0.0, 0.0]])):
        wet = reverb(waveform, responses, 1.0, seeded())
        torch.testing.assert_close(wet, waveform, rtol=0, atol=1e-6)


def test_reverb_with_an_echo_is_the_sum_by_hand():
    waveform = noise(8, 500)
    waveform[0] = 0
    waveform[0, -1] = 1
    wet = reverb(waveform, torch.tensor([[1.0, 0.0, 0.0, 0.5]]), 1.0, seeded())
    by_hand = waveform.clone()
    by_hand[:, 3:] += 0.5 * waveform[:, :-3]
    by_hand *= (waveform.square().mean(1) / by_hand.square().mean(1)).sqrt()[:, None]
    # Also where the echo of the last sample would come back at the start.
    torch.testing.assert_close(wet, by_hand, rtol=0, atol=1e-6)


@pytest.mark.parametrize("n_taps", [100, 101, 733])
def test_reverb_is_a_linear_convolution_of_the_same_level(n_taps):
    waveform, response = noise(2, 101, seed=1), noise(1, n_taps, seed=2)
    wet = reverb(waveform, response, 1.0, seeded())
    for before, after in zip(waveform.double().numpy(), wet.numpy(), strict=True):
        full = np.convolve(before, response[0].double().numpy())[:101]
        expected = full * np.sqrt(np.square(before).sum() / np.square(full).sum())
        np.testing.assert_allclose(after, expected, atol=1e-6)
    torch.testing.assert_close(wet.square().mean(1), waveform.square().mean(1))


def test_reverb_takes_every_response_and_that_share_of_the_segments():
    waveform = torch.zeros(4000, 8)
    waveform[:, 0] = 1
    # Told apart by where the echo is.
    responses = torch.eye(3, 4).roll(1, dims=1) + torch.eye(4)[0]
    wet = reverb(waveform, responses, 0.3, seeded(1))
    dry = (wet == waveform).all(dim=1)
    assert within_binomial_bounds(~dry, 0.3)
    for tap in (1, 2, 3):
        assert within_binomial_bounds(wet[~dry, tap] > 0.1, 1 / 3)


def test_reverb_of_silence_is_silence():
    wet = reverb(torch.zeros(2, 50), torch.ones(1, 5), 1.0, seeded())
    assert torch.equal(wet, torch.zeros(2, 50))


# Level and noise


def test_levels_are_even_in_decibels():
    factor = change_level(torch.full((3000, 2), -0.5), 6.0, seeded()) / -0.5
    assert torch.equal(factor[:, 0], factor[:, 1])
    decibels = 20 * factor[:, 0].log10()
    assert decibels.abs().max() <= 6 + 1e-5
    assert is_uniform(decibels, -6, 6)


def decibels(power, other):
    return 10 * (power.double().square().mean(1) / other.double().square().mean(1)).log10()


@pytest.mark.parametrize("recorded", [None, torch.randn(900, generator=seeded(5))])
@pytest.mark.parametrize("asked", [-5.0, 0.0, 20.0])
def test_the_measured_ratio_to_the_noise_is_the_one_asked_for(recorded, asked):
    waveform = noise(64, 700) * torch.logspace(-3, 1, 64)[:, None]
    noisy = add_noise(waveform, recorded, 1.0, (asked, asked), seeded(1))
    measured = decibels(waveform, noisy.double() - waveform.double())
    torch.testing.assert_close(measured, torch.full_like(measured, asked), rtol=0, atol=1e-3)


def test_ratios_are_even_between_their_bounds_and_for_that_share():
    waveform = noise(4000, 200)
    noisy = add_noise(waveform, None, 0.4, (5.0, 30.0), seeded(1))
    clean = (noisy == waveform).all(dim=1)
    assert within_binomial_bounds(~clean, 0.4)
    assert is_uniform(decibels(waveform, noisy - waveform)[~clean], 5, 30)


def test_white_noise_is_white_and_differs_between_segments():
    waveform = noise(64, 512)
    added = add_noise(waveform, None, 1.0, (0.0, 0.0), seeded(1)) - waveform
    power = torch.fft.rfft(added)[:, 1:-1].abs().square().mean(0)
    assert stats.variation(power.numpy()) < 2 / math.sqrt(64)
    assert torch.corrcoef(added).fill_diagonal_(0).abs().max() < 0.3


@pytest.mark.parametrize("n", [7, 64, 400])
def test_recorded_noise_is_a_stretch_that_wraps_around(n):
    waveform, recorded = noise(300, 64), noise(n, seed=3) * math.sqrt(12)
    added = add_noise(waveform, recorded, 1.0, (0.0, 0.0), seeded(1)) - waveform
    stretches = torch.stack([recorded.roll(-k).repeat(64 // n + 1)[:64] for k in range(n)])
    similarity = torch.corrcoef(torch.cat([added, stretches]))[:300, 300:]
    assert (similarity.amax(dim=1) > 1 - 1e-5).all()
    # From anywhere, so also across the end.
    starts = similarity.argmax(dim=1)
    assert starts.min() < 0.1 * n
    assert starts.max() > 0.9 * n - 1
    assert len(starts.unique()) > 0.4 * min(n, 300)


def test_a_pause_in_the_noise_stays_one():
    waveform = noise(4, 100)
    for level, expected in ((0.2, 10.0), (0.1, 10.0), (0.01, 30.0)):
        recorded = torch.ones(100).where(torch.arange(100) % 2 == 0, -1.0) * level
        noisy = add_noise(waveform, recorded, 1.0, (10.0, 10.0), seeded())
        measured = decibels(waveform, noisy.double() - waveform.double())
        torch.testing.assert_close(measured, torch.full_like(measured, expected), atol=0.01, rtol=0)
    assert torch.equal(add_noise(waveform, torch.zeros(9), 1.0, (0.0, 0.0), seeded()), waveform)


@pytest.mark.parametrize("recorded", [None, torch.ones(50)])
def test_silence_gets_no_noise(recorded):
    waveform = torch.stack([torch.zeros(100), noise(100)])
    noisy = add_noise(waveform, recorded, 1.0, (-10.0, -10.0), seeded())
    assert torch.equal(noisy[0], waveform[0])
    assert torch.isfinite(noisy).all()
    assert not torch.equal(noisy[1], waveform[1])


# MixUp


def test_mixup_is_the_weighted_sum_by_hand_and_leaves_others_alone():
    waveform = noise(64, 300) * torch.logspace(-4, 1, 64)[:, None]
    mixed, target = mixup(waveform, torch.eye(64), mixing_weights(0.4), 0.5, seeded(2))
    chosen = (mixed != waveform).any(dim=1)
    assert 16 < chosen.sum() < 48
    assert torch.equal(mixed[~chosen], waveform[~chosen])
    assert torch.equal(target[~chosen], torch.eye(64)[~chosen])
    level = waveform / waveform.abs().amax(dim=1, keepdim=True)
    torch.testing.assert_close(mixed[chosen], (target @ level)[chosen], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(target.sum(dim=1), torch.ones(64))
    assert (target.diagonal() >= 0.5).all()
    assert ((target > 0).sum(dim=1) <= 2).all()


def test_mixup_partners_are_a_permutation():
    weights = torch.tensor([0.75])
    _, target = mixup(noise(200, 4), torch.eye(200), weights, 1.0, seeded(1))
    partner = target - 0.75 * torch.eye(200)
    assert torch.equal(partner.sum(dim=0), torch.full((200,), 0.25))
    assert torch.equal(partner.amax(dim=1), torch.full((200,), 0.25))
    # All but a few are mixed with another one, and not with the next one.
    assert partner.diagonal().count_nonzero() < 8
    assert partner.diagonal(1).count_nonzero() < 8


@pytest.mark.parametrize("share", [0.25, 0.8])
def test_that_share_of_the_segments_is_mixed(share):
    waveform = noise(4000, 3)
    mixed, _ = mixup(waveform, torch.zeros(4000, 1), torch.tensor([0.6]), share, seeded(6))
    assert within_binomial_bounds((mixed != waveform).any(dim=1), share)


@pytest.mark.parametrize("alpha", [0.4, 1.0, 4.0])
def test_mixing_weights_follow_a_folded_beta_distribution(alpha):
    n, weights = 1000, mixing_weights(alpha)
    own = [
        mixup(noise(n, 2), torch.eye(n), weights, 1.0, seeded(seed))[1].diagonal()
        for seed in range(4)
    ]
    beta = stats.beta(alpha, alpha)
    test = stats.kstest(torch.cat(own).double().numpy(), lambda x: beta.cdf(x) - beta.cdf(1 - x))
    assert test.pvalue > 1e-3


@pytest.mark.parametrize("alpha", [1e-3, 0.1, 1.0, 1e4])
def test_mixing_weights_are_from_a_half_to_one(alpha):
    weights = mixing_weights(alpha)
    assert 1000 < len(weights) < 10_000
    assert weights.dtype == torch.float32
    assert (weights.diff() >= 0).all()
    assert 0.5 <= weights[0] < weights[-1] <= 1
    # The mean of |l - 0.5|, in closed form; the table takes the middle of each of its steps.
    log_beta = 2 * math.lgamma(alpha) - math.lgamma(2 * alpha)
    deviation = math.exp(-log_beta - 2 * alpha * math.log(2)) / alpha
    assert weights.double().mean().item() - 0.5 == pytest.approx(deviation, rel=1e-3)


def test_mixup_of_silence_is_finite():
    waveform = torch.stack([torch.zeros(50), noise(50)])
    mixed, target = mixup(waveform, torch.eye(2), mixing_weights(0.4), 1.0, seeded(3))
    assert torch.isfinite(mixed).all()
    torch.testing.assert_close(target.sum(dim=1), torch.ones(2))


# CutMix


@pytest.mark.parametrize(("height", "width"), [(16, 32), (33, 47), (8, 200)])
@pytest.mark.parametrize("area", [0.1, 0.4, 1.0])
def test_cutmix_weighs_targets_by_the_pixels_that_changed(height, width, area):
    batch = 400
    image, target = plain(batch, height, width)
    share = torch.full((batch, 1), area)
    mixed, weights = cutmix(image, target, share, seeded(1))
    pasted = changed_pixels(image, mixed)
    n_pasted = pasted.sum(dim=(1, 2))
    alone = n_pasted == 0
    # By chance a few are their own partner.
    assert alone.sum() < 8
    assert torch.equal(weights[alone], target[alone])
    # Exactly the pixels, and the label of the image that they come from.
    assert torch.equal(weights.diagonal(), 1 - n_pasted / (height * width))
    partner = (mixed.flatten(1).sum(1) - (mixed * ~pasted[:, None]).flatten(1).sum(1)) / (
        3 * n_pasted
    )
    partner = (partner * batch).round().long()[~alone]
    given = weights[~alone].gather(1, partner[:, None])[:, 0]
    assert torch.equal(given, n_pasted[~alone] / (height * width))
    assert len(partner.unique()) == len(partner)
    # A box of whole pixels, cut off at some borders and whole elsewhere.
    rows, columns = pasted.any(dim=2)[~alone], pasted.any(dim=1)[~alone]
    assert torch.equal(rows[:, :, None] & columns[:, None, :], pasted[~alone])
    assert ((rows[:, 1:] & ~rows[:, :-1]).sum(dim=1) + rows[:, 0] == 1).all()
    for lines, size in ((rows, height), (columns, width)):
        n_lines, full = lines.sum(dim=1), round(size * math.sqrt(area))
        assert n_lines.max() == full or (area == 1 and 0.99 * full < n_lines.max() < full)
        assert n_lines.min() < 0.7 * full
        inner = ~lines[:, 0] & ~lines[:, -1]
        assert (n_lines[inner] == full).all()
        assert inner.any() == (area < 1)


def test_cutmix_boxes_are_centred_evenly():
    n, size = 6000, 20
    image, target = plain(n, size, size)
    mixed, _ = cutmix(image, target, torch.full((n, 1), 0.16), seeded(2))
    pasted = changed_pixels(image, mixed)
    for lines in (pasted.any(dim=1), pasted.any(dim=2)):
        # A box of 8: a line k from the border is covered by centres up to 4 on either side.
        middle = torch.arange(size) + 0.5
        reach = (middle + 4).clamp(max=size) - (middle - 4).clamp(min=0)
        found = lines.double().mean(dim=0)
        torch.testing.assert_close(found, reach.double() / size, rtol=0, atol=0.03)


def test_cutmix_leaves_those_without_a_box_alone():
    image, target = pictures(8, 3, 10, 12), torch.full((8, 2), math.nan)
    target[::2] = 1
    # Half a pixel of either side is no pixel.
    area = torch.tensor([0.0, 0.3, 0.0, 0.3, 1e-3, 0.3, 0.0, 1e-3])[:, None]
    mixed, weights = cutmix(image, target, area, seeded(3))
    without = area[:, 0] < 0.1
    assert torch.equal(mixed[without], image[without])
    torch.testing.assert_close(weights[without], target[without], rtol=0, atol=0, equal_nan=True)
    assert (mixed != image).flatten(1).any(dim=1)[~without].sum() >= 2


def test_cutmix_probability_runs_linearly_with_strength():
    n, levels = 3000, torch.linspace(0, 1, 5)
    strength = levels.repeat_interleave(n)
    image, target = pictures(5 * n, 3, 3, 3), torch.zeros(5 * n, 1)
    step = augmentation(
        cutmix_probability=0.9, cutmix_probability_min=0.1, cutmix_area=1.0, cutmix_area_min=1.0
    )
    found = (step.images(image, target, strength, seeded())[0] != image).flatten(1).any(dim=1)
    for level, group in zip(levels.tolist(), found.view(5, n), strict=True):
        assert within_binomial_bounds(group, 0.1 + 0.8 * level)
    # Without a strength, the largest.
    found = (step.images(image, target, None, seeded())[0] != image).flatten(1).any(dim=1)
    assert within_binomial_bounds(found, 0.9)


def test_cutmix_area_runs_linearly_with_strength():
    n, size = 500, 100
    image, target = plain(n, size, size)
    step = augmentation(cutmix_probability=1.0, cutmix_probability_min=1.0, cutmix_area_min=0.05)
    for level in (0.0, 0.3, 1.0):
        mixed, _ = step.images(image, target, torch.full((n,), level), seeded(1))
        area = 0.05 + level * (0.4 - 0.05)
        n_pasted = changed_pixels(image, mixed).sum(dim=(1, 2))
        assert n_pasted.max() == round(size * math.sqrt(area)) ** 2
    # Drawn evenly without one: half of the boxes that were not cut off are below the middle.
    mixed, _ = step.images(image, target, None, seeded(1))
    pasted = changed_pixels(image, mixed)
    inner = ~(pasted[:, 0] | pasted[:, -1] | pasted[:, :, 0] | pasted[:, :, -1]).any(dim=1)
    drawn = pasted[inner & pasted.any(dim=(1, 2))].sum(dim=(1, 2)) / size**2
    assert len(drawn) > 100
    assert drawn.min() < 0.08
    assert drawn.max() <= 0.4
    assert drawn.max() > 0.35


# SpecAugment


@pytest.mark.parametrize("size", [1, 8, 33, 224])
@pytest.mark.parametrize("count", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("share", [0.04, 0.1, 0.25, 0.37, 0.9, 1.0])
def test_stripes_cover_exactly_their_share(size, count, share):
    lines = stripes(torch.full((50, 1), share), count, size, seeded(1))
    assert lines.shape == (50, size)
    total = round(share * size)
    assert (lines.sum(dim=1) == total).all()
    n_stripes = lines[:, 0].int() + (lines[:, 1:] & ~lines[:, :-1]).sum(dim=1)
    assert (n_stripes <= min(count, total)).all()
    if size == 224 and count < 10 and share < 0.3:
        # Mostly they do not touch; then all are there, and equally wide to a pixel.
        apart = lines[n_stripes == count].int()
        assert len(apart) > 10
        edges = torch.diff(apart, dim=1, prepend=torch.zeros(len(apart), 1, dtype=torch.int32))
        edges = torch.cat([edges, -apart[:, -1:]], dim=1)
        widths = (edges == -1).nonzero()[:, 1] - (edges == 1).nonzero()[:, 1]
        assert widths.min() == total // count
        assert widths.max() == -(-total // count)


def test_stripes_lie_everywhere():
    # One stripe of 5 of 20 starts at each of 16 places equally often.
    one = stripes(torch.full((16_000, 1), 0.25), 1, 20, seeded(2))
    starts = one.int().argmax(dim=1)
    assert stats.chisquare(torch.bincount(starts, minlength=16).numpy()).pvalue > 1e-3
    assert starts.max() == 15
    # Three of them leave no line out, and prefer neither side.
    three = stripes(torch.full((16_000, 1), 0.3), 3, 20, seeded(3)).double().mean(dim=0)
    torch.testing.assert_close(three, three.flip(0), rtol=0, atol=0.02)
    # The first line is covered where the lowest of three gaps, each 0 to 14, is 0.
    assert three[0].item() == pytest.approx(1 - (14 / 15) ** 3, abs=0.015)
    assert three.min() == min(three[0], three[-1])


def test_masks_cover_whole_columns_and_rows():
    image = pictures(200, 3, 40, 60)
    target = torch.ones(200, 1)
    always = {"mask_probability_min": 1.0, "time_mask_share_min": 0.2}
    in_time = augmentation(time_mask_share=0.2, **always)
    columns = changed_pixels(image, in_time.images(image, target, None, seeded(1))[0])
    # Time runs along the last axis, frequency along the one before.
    assert torch.equal(columns.any(dim=1), columns.all(dim=1))
    assert (columns.all(dim=1).sum(dim=1) == 12).all()
    in_frequency = augmentation(frequency_mask_share=0.2, frequency_mask_share_min=0.2)
    rows = changed_pixels(image, in_frequency.images(image, target, None, seeded(1))[0])
    assert torch.equal(rows.any(dim=2), rows.all(dim=2))
    assert (rows.all(dim=2).sum(dim=1) == 8).all()


def test_masks_take_the_mean_color_of_the_image():
    image = pictures(8, 3, 24, 32)
    step = augmentation(
        time_mask_share=0.5,
        time_mask_share_min=0.4,
        frequency_mask_share=0.5,
        frequency_mask_share_min=0.4,
    )
    masked, _ = step.images(image, torch.ones(8, 1), None, seeded(3))
    where = changed_pixels(image, masked)
    for before, after, hidden in zip(image, masked, where, strict=True):
        mean = torch.stack([channel.mean() for channel in before])
        fill = after[:, hidden]
        assert fill.shape[1] > 100
        torch.testing.assert_close(fill, mean[:, None].expand_as(fill))
        assert torch.equal(after[:, ~hidden], before[:, ~hidden])
    # Both kinds together mask what either masks.
    rows, columns = where.all(dim=2), where.all(dim=1)
    assert torch.equal(rows[:, :, None] | columns[:, None, :], where)


def test_masks_take_the_mean_color_after_cutmix():
    image, target = plain(40, 20, 20)
    values = {"cutmix_probability": 1.0, "cutmix_area": 0.9, "cutmix_area_min": 0.9}
    pasted, _ = augmentation(**values).images(image, target, None, seeded(4))
    both = augmentation(**values, time_mask_share=0.2, time_mask_share_min=0.2)
    masked, _ = both.images(image, target, None, seeded(4))
    mean = pasted.mean(dim=(2, 3), keepdim=True)
    is_mean = (masked - mean).abs().amax(dim=(1, 2)) < 1e-6
    assert (is_mean.sum(dim=1) >= 4).all()
    assert torch.equal(torch.where(is_mean[:, None, None, :], pasted, masked), pasted)


def test_mask_probability_and_share_run_linearly_with_strength():
    n, levels, size = 3000, torch.linspace(0, 1, 5), 50
    strength = levels.repeat_interleave(n)
    image = pictures(1, 3, 2, size).expand(5 * n, 3, 2, size)
    step = augmentation(
        mask_probability=0.9,
        mask_probability_min=0.2,
        time_mask_share=0.6,
        time_mask_share_min=0.2,
    )
    masked, _ = step.images(image, torch.ones(5 * n, 1), strength, seeded(1))
    n_lines = changed_pixels(image, masked).any(dim=1).sum(dim=1).view(5, n)
    for level, found in zip(levels.tolist(), n_lines, strict=True):
        assert within_binomial_bounds(found > 0, 0.2 + 0.7 * level)
        assert set(found.tolist()) == {0, round(size * (0.2 + 0.4 * level))}
    # Without a strength: as likely as can be, and any width as often as any other.
    masked, _ = step.images(image, torch.ones(5 * n, 1), None, seeded(1))
    found = changed_pixels(image, masked).any(dim=1).sum(dim=1)
    assert within_binomial_bounds(found > 0, 0.9)
    found = found[found > 0]
    # The outermost widths are rounded to from one side only.
    counts = torch.bincount(found)[10:31].double()
    assert counts.sum() == len(found)
    counts[[0, -1]] *= 2
    assert stats.chisquare((counts[1:-1]).numpy()).pvalue > 1e-3
    assert ((counts / counts.mean() - 1).abs() < 0.2).all()


def test_a_segment_gets_both_kinds_of_masks_or_none():
    image = pictures(500, 3, 20, 30)
    step = augmentation(
        mask_probability=0.5,
        time_mask_share=0.4,
        time_mask_share_min=0.2,
        frequency_mask_share=0.4,
        frequency_mask_share_min=0.2,
    )
    masked, _ = step.images(image, torch.ones(500, 1), None, seeded(1))
    where = changed_pixels(image, masked)
    columns, rows = where.all(dim=1).any(dim=1), where.all(dim=2).any(dim=1)
    assert torch.equal(columns, rows)
    assert within_binomial_bounds(columns, 0.5)
    # How wide they are is drawn apart.
    n_columns, n_rows = where.all(dim=1).sum(dim=1)[rows], where.all(dim=2).sum(dim=1)[rows]
    both = torch.stack([n_columns, n_rows]).double()
    assert torch.corrcoef(both)[0, 1].abs() < 0.25


def test_strength_zero_changes_nothing():
    image, target = pictures(64, 3, 12, 12), noise(64, 3)
    # Not by probability alone, and not by magnitude alone.
    for values in (
        {},
        {"cutmix_probability_min": 1.0, "mask_probability_min": 1.0},
        {
            "cutmix_area_min": 0.4,
            "time_mask_share_min": 0.5,
            "frequency_mask_share_min": 0.5,
        },
    ):
        step = augmentation(
            cutmix_probability=1.0, time_mask_share=0.5, frequency_mask_share=0.5, **values
        )
        found = step.images(image, target, torch.zeros(64), seeded())
        assert torch.equal(found[0], image)
        assert torch.equal(found[1], target)
        found = step.images(image, target, torch.ones(64), seeded())
        assert (found[0] != image).flatten(1).any(dim=1).all()


# SapAugment


def test_policy_is_the_published_curve():
    expected = torch.tensor([0.9975, 0.9511, 0.7834, 0.5, 0.2166, 0.0489, 0.0025, 0])
    policy = sap_policy(8, 0.5, 10.0)
    assert policy.dtype == torch.float32
    torch.testing.assert_close(policy, expected, rtol=0, atol=5e-5)


@pytest.mark.parametrize(("a", "s"), [(0.5, 10.0), (0.2, 12.0), (0.7, 25.0), (0.5, 2.0)])
def test_policy_agrees_with_numeric_integration(a, s):
    p, q, n = s * (1 - a), s * a, 80_000
    middle = (np.arange(n) + 0.5) / n
    integral = np.cumsum(middle ** (p - 1) * (1 - middle) ** (q - 1))
    at_rank = integral[n // 16 - 1 :: n // 16] / integral[-1]
    np.testing.assert_allclose(sap_policy(16, a, s).numpy(), 1 - at_rank, atol=1e-4)


def test_strengths_follow_the_rank_of_the_loss():
    policy = torch.tensor([0.9, 0.7, 0.4, 0.1, 0.0])
    losses = torch.tensor([2.0, 0.5, 7.0, 0.5, 0.1])
    # The first one of equal losses ranks lower, so is changed more.
    expected = torch.tensor([0.1, 0.7, 0.0, 0.4, 0.9])
    assert torch.equal(strengths(losses, policy), expected)
    assert torch.equal(strengths(torch.ones(5), policy), policy)
    many = torch.randint(3, (999,), generator=seeded()).float()
    found = strengths(many, torch.linspace(1, 0, 999))
    order = sorted(range(999), key=lambda i: (many[i].item(), i))
    assert torch.equal(found[order], torch.linspace(1, 0, 999))


# All together


def test_what_is_off_returns_its_input_and_draws_nothing():
    waveform, image, target = noise(8, 100), pictures(8, 3, 12, 12), torch.eye(8)
    for values in (
        {},
        {"mixup_alpha": 0.0, "mixup_share": 1.0},
        {"time_masks": 0, "time_mask_share": 1.0, "frequency_masks": 0},
        {"frequency_masks": 0, "frequency_mask_share": 1.0},
        {"mask_probability": 0.0, "time_mask_share": 1.0, "frequency_mask_share": 1.0},
        {"cutmix_probability": 1.0, "cutmix_area": 0.0},
        {"reverb_folder": "nowhere", "noise_folder": "nowhere"},
    ):
        step, generator = augmentation(**values), seeded(3)
        before = generator.get_state()
        assert step.waveforms(waveform, target, generator) == (waveform, target)
        for strength in (None, torch.ones(8)):
            found = step.images(image, target, strength, generator)
            assert found[0] is image
            assert found[1] is target
        assert torch.equal(generator.get_state(), before)
        assert list(step.buffers()) == []


def test_each_step_alone_changes_its_own_kind_of_input(save):
    waveform, image, target = noise(64, 500), pictures(64, 3, 12, 12), noise(64, 2)
    rooms = save("rooms", a=np.exp(-np.arange(100) / 20))
    for values, changes in (
        ({"time_shift": 0.5}, (True, False, False, False)),
        ({"speed": 0.5}, (True, False, False, False)),
        ({"gain_db": 3.0}, (True, False, False, False)),
        ({"reverb_share": 0.5, "reverb_folder": rooms}, (True, False, False, False)),
        ({"noise_share": 0.5}, (True, False, False, False)),
        ({"mixup_share": 0.5}, (True, True, False, False)),
        ({"cutmix_probability": 0.5}, (False, False, True, True)),
        ({"time_mask_share": 0.5}, (False, False, True, False)),
        ({"frequency_mask_share": 0.5}, (False, False, True, False)),
    ):
        step, generator = augmentation(**values), seeded(3)
        found = (
            *step.waveforms(waveform, target, generator),
            *step.images(image, target, None, generator),
        )
        same = map(torch.equal, found, (waveform, target, image, target))
        assert tuple(not equal for equal in same) == changes, values


def run(step, waveform, image, target, generator):
    mixed, first = step.waveforms(waveform, target, generator)
    pasted, second = step.images(image, target, None, generator)
    return mixed, first, pasted, second


def test_the_seed_decides(everything):
    inputs = noise(16, 500), pictures(16, 3, 24, 32), torch.eye(16)
    before = [values.clone() for values in inputs]
    first = run(everything, *inputs, seeded(7))
    assert all(map(torch.equal, first, run(everything, *inputs, seeded(7))))
    assert not any(map(torch.equal, first, run(everything, *inputs, seeded(8))))
    generator = seeded(7)
    run(everything, *inputs, generator)
    assert not any(map(torch.equal, first, run(everything, *inputs, generator)))
    # What is given is left alone.
    assert all(map(torch.equal, inputs, before))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("n_outputs", [1, 2, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_type_device_and_shape_are_preserved(everything, device, n_outputs, dtype):
    step = everything.to(device)
    inputs = [
        values.to(device)
        for values in (
            noise(6, 500, dtype=dtype),
            pictures(6, 3, 24, 32).to(dtype),
            noise(6, n_outputs),
        )
    ]
    strength = torch.linspace(0, 1, 6, device=device)
    generator = seeded(0, device)
    waveform, target = step.waveforms(inputs[0], inputs[2], generator)
    image, cut = step.images(inputs[1], inputs[2], strength, generator)
    for found, given in ((waveform, 0), (image, 1), (target, 2), (cut, 2)):
        assert found.shape == inputs[given].shape
        assert found.dtype == inputs[given].dtype
        assert found.device == inputs[given].device
        assert torch.isfinite(found).all()


class Operations(TorchDispatchMode):
    """Names of the operations that torch runs."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_nothing_waits_for_the_device_or_loops_over_segments(everything):
    found = []
    for batch in (2, 32):
        inputs = noise(batch, 500), pictures(batch, 3, 24, 32), torch.eye(batch)
        with Operations() as operations:
            run(everything, *inputs, seeded())
            strengths(torch.ones(batch), sap_policy(batch, 0.5, 10.0))
        found.append(operations.names)
    assert found[0] == found[1]
    assert "rand" in found[0]
    # What reads a number on the host, or has a shape that depends on one.
    assert not {"_local_scalar_dense", "nonzero", "masked_select", "equal"} & set(found[0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_nothing_is_copied_between_gpu_and_host(everything):
    step = everything.to("cuda")
    inputs = [v.cuda() for v in (noise(8, 500), pictures(8, 3, 24, 32), torch.eye(8))]
    policy, generator = sap_policy(8, 0.5, 10.0).cuda(), seeded(0, "cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        run(step, *inputs, generator)
        step.images(*inputs[1:], strengths(inputs[0].mean(1), policy), generator)
    finally:
        torch.cuda.set_sync_debug_mode("default")


# Folders


def test_noise_is_the_beginning_of_each_recording_at_the_same_level(save, monkeypatch):
    monkeypatch.setattr(deepspectrumlite.noise, "NOISE_SECONDS", 2)
    rng = np.random.default_rng(0)
    parts = {name: rng.normal(size=1500) * level for name, level in (("a", 1), ("b", 0.01))}
    parts["c"] = rng.normal(size=1500) * 0.1
    parts["d"] = parts["a"][:100]
    loaded = load_noise(save("noises", **parts), RATE)
    # 2 s for four recordings, one of which is shorter than its part.
    assert loaded.shape == (3 * 500 + 100,)
    assert loaded.dtype == torch.float32
    expected = [part[:500] / np.sqrt(np.mean(part[:500] ** 2)) for part in parts.values()]
    np.testing.assert_allclose(loaded.numpy(), np.concatenate(expected), rtol=1e-5)


def test_noise_is_bounded_and_resampled(save):
    minutes = np.random.default_rng(0).normal(size=11 * 60 * RATE).astype(np.float32) / 10
    loaded = load_noise(save("long", a=minutes), RATE)
    assert loaded.shape == (10 * 60 * RATE,)
    sine = np.sin(2 * np.pi * 100 * np.arange(8000) / 8000)
    loaded = load_noise(save("fast", 8000, a=np.stack([sine, 0.5 * sine], axis=1)), RATE)
    assert loaded.shape == (RATE,)
    spectrum = torch.fft.rfft(loaded).abs()
    assert spectrum.argmax() == 100


def test_of_many_recordings_some_are_taken_evenly(save, monkeypatch):
    monkeypatch.setattr(deepspectrumlite.noise, "MOST_RECORDINGS", 3)
    # One over the bound, so every second one; told apart by where the echo is.
    values = {name: np.eye(9)[0] + np.eye(9)[i + 1] / 2 for i, name in enumerate("abcd")}
    responses = load_responses(save("rooms", **values), DATA)
    assert (responses[:, 1:] > 0.1).nonzero()[:, 1].tolist() == [0, 2]


def test_responses_begin_at_their_peak_and_have_unit_energy(save):
    delayed = np.zeros(300)
    delayed[40:43] = 0.1, -0.8, 0.4
    folder = save("rooms", a=delayed, b=np.ones(2000) * np.exp(-np.arange(2000) / 1000) / 2)
    responses = load_responses(folder, DATA)
    # 1 s would be 1000 samples, but a segment has 500.
    assert responses.shape == (2, 500)
    assert responses.dtype == torch.float32
    torch.testing.assert_close(responses.square().sum(dim=1), torch.ones(2))
    torch.testing.assert_close(responses[0, 1] / responses[0, 0], torch.tensor(-0.5))
    assert torch.equal(responses[0, 2:], torch.zeros(498))
    assert responses[1, -1] > 0.5 * responses[1, 0]
    longer = DataSection(sample_rate=RATE, segment_seconds=3.0)
    assert load_responses(folder, longer).shape == (2, 1000)


def test_folders_move_with_the_module_but_are_not_saved(everything):
    names = {name for name, _ in everything.named_buffers()}
    assert names == {"noise", "responses", "mixing_weights"}
    assert everything.noise.shape == (5000,)
    assert everything.responses.shape[0] == 1
    assert everything.state_dict() == {}
    assert everything.to("meta").noise.device.type == "meta"


@pytest.mark.parametrize("kind", ["noise", "reverb"])
def test_folders_that_cannot_be_used_are_refused_in_one_line(kind, save, tmp_path):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("not audio")
    silent = save("silent", good=np.ones(100) / 2, quiet=np.full(300, 1e-5))
    broken = save("broken", a=np.full(100, np.nan))
    for folder, problem in (
        (str(tmp_path / "nowhere"), "no such folder; allowed: a folder with files ending in .aac "),
        (str(tmp_path / "texts"), "no recordings in it; allowed: a folder with files ending in "),
        (silent, "quiet.wav is silent in its first 0.3 s; allowed: recordings with a peak of at "),
        (broken, f"{tmp_path / 'broken' / 'a.wav'}: NaN or infinite samples"),
    ):
        with pytest.raises(TrainingError) as caught:
            augmentation(**{f"{kind}_share": 0.1, f"{kind}_folder": folder})
        message = str(caught.value)
        assert message.startswith(f'augment.{kind}_folder is "{folder}": {problem}')
        assert "\n" not in message
        # Only noise has an alternative to a folder.
        is_list = "files ending in" in message
        assert message.endswith('; or "white"') == (is_list and kind == "noise")

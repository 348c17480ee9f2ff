import math

import pytest
import torch

from deepspectrumlite.augment import (
    augment_images,
    augment_waveforms,
    mixup,
    shift_and_stretch,
)
from deepspectrumlite.config import AugmentSection

NOTHING = {
    "time_shift": 0.0,
    "speed": 0.0,
    "mixup_share": 0.0,
    "time_mask_share": 0.0,
    "frequency_mask_share": 0.0,
}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def section(**values):
    return AugmentSection(**{**NOTHING, **values})


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=seeded(seed))


def pictures(*shape):
    """Dark and bright pixels, none of which has the mean color by chance."""
    values = noise(*shape)
    return torch.where(values < 0.5, 0.4 * values, 1 - 0.4 * values)


def masked_pixels(before, after):
    """(batch, height, width): where all colours changed; they change together."""
    changed = before != after
    assert torch.equal(changed.all(dim=1), changed.any(dim=1))
    return changed.any(dim=1)


@pytest.mark.parametrize(("height", "width"), [(10, 16), (33, 224), (64, 100)])
@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("share", [0.1, 0.2, 0.37, 1.0])
def test_masks_are_whole_lines_and_never_above_the_share(height, width, count, share):
    image = pictures(200, 3, height, width)
    time = augment_images(image, section(time_masks=count, time_mask_share=share), seeded(1))
    frequency = augment_images(
        image, section(frequency_masks=count, frequency_mask_share=share), seeded(1)
    )
    columns, rows = masked_pixels(image, time), masked_pixels(image, frequency)
    # Time runs along the last axis, frequency along the one before.
    assert torch.equal(columns.any(dim=1), columns.all(dim=1))
    assert torch.equal(rows.any(dim=2), rows.all(dim=2))
    for lines, size in ((columns.any(dim=1), width), (rows.any(dim=2), height)):
        n_masked = lines.sum(dim=1)
        assert n_masked.max() <= share * size
        if int(share * size / count) > 0:
            # A fresh draw for each image, from nothing to nearly all that is allowed.
            assert n_masked.min() < n_masked.max()
            assert (n_masked > 0).sum() > 50
            assert n_masked.max() > 0.5 * (int(share * size / count) * count) - 1


def test_masks_lie_everywhere_and_their_widths_are_even():
    values = section(time_masks=1, time_mask_share=0.25)
    image = pictures(4000, 3, 2, 20)
    lines = masked_pixels(image, augment_images(image, values, seeded(2))).any(dim=1)
    # Widths 0 to 5 of 20 equally often.
    widths = torch.bincount(lines.sum(dim=1), minlength=6) / 4000
    assert widths.shape == (6,)
    torch.testing.assert_close(widths, torch.full((6,), 1 / 6), rtol=0, atol=0.025)
    # Each mask is one stripe: a start more than an end never.
    starts = lines[:, 0].int() + (lines[:, 1:] & ~lines[:, :-1]).sum(dim=1)
    assert set(starts.tolist()) == {0, 1}
    # Both borders are reached, and as often.
    covered = lines.float().mean(dim=0)
    torch.testing.assert_close(covered, covered.flip(0), rtol=0, atol=0.03)
    assert covered.min() > 0.02


def test_masks_take_the_mean_color_of_the_image():
    image = pictures(8, 3, 24, 32)
    values = section(time_masks=2, time_mask_share=0.5, frequency_masks=2, frequency_mask_share=0.5)
    masked = augment_images(image, values, seeded(3))
    where = masked_pixels(image, masked)
    assert (where.sum(dim=(1, 2)) > 0).all()
    for i in range(8):
        mean = torch.stack([channel.mean() for channel in image[i]])
        fill = masked[i][:, where[i]]
        torch.testing.assert_close(fill, mean[:, None].expand_as(fill))
        assert torch.equal(masked[i][:, ~where[i]], image[i][:, ~where[i]])
    # Both kinds together mask what either masks.
    crossing = where.any(dim=1)[:, None, :] & where.any(dim=2)[:, :, None]
    assert (crossing >= where).all()


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"time_masks": 0, "time_mask_share": 1.0, "frequency_masks": 0},
        {"time_masks": 5, "frequency_masks": 5},
        # A part of 0.9 pixels for each mask is no pixel.
        {"time_masks": 2, "time_mask_share": 0.15},
    ],
)
def test_no_masks_leave_the_image_as_it_is(values):
    image = pictures(16, 3, 12, 12)
    assert torch.equal(augment_images(image, section(**values), seeded()), image)


def test_masks_follow_the_generator():
    image, values = pictures(8, 3, 24, 32), section(time_mask_share=0.4)
    first = augment_images(image, values, seeded(4))
    assert torch.equal(first, augment_images(image, values, seeded(4)))
    assert not torch.equal(first, augment_images(image, values, seeded(5)))
    generator = seeded(4)
    assert torch.equal(first, augment_images(image, values, generator))
    assert not torch.equal(first, augment_images(image, values, generator))


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
    waveform = noise(64, n) - 0.5
    shifted = shift_and_stretch(waveform, largest, 0.0, seeded(1))
    amounts = rotations(waveform, shifted)
    if largest < 1:
        signed = torch.where(amounts > n / 2, amounts - n, amounts)
        assert signed.abs().max() <= round(largest * n)
        # Both ways, and nearly as far as allowed.
        assert signed.min() < -0.8 * largest * n
        assert signed.max() > 0.8 * largest * n
    assert len(amounts.unique()) > 20


def test_no_shift_and_no_change_is_the_identity():
    waveform = noise(4, 1000) - 0.5
    assert torch.equal(shift_and_stretch(waveform, 0.0, 0.0, seeded()), waveform)


def frequency_of(waveform, rate):
    """Frequency of the peak of each zero-padded, windowed spectrum."""
    windowed = waveform * torch.hann_window(waveform.shape[1])
    n_fft = 16 * waveform.shape[1]
    return torch.fft.rfft(windowed, n_fft).abs().argmax(dim=1) * rate / n_fft


@pytest.mark.parametrize("change", [0.1, 0.3])
def test_speed_multiplies_every_frequency(change):
    rate, n, hertz = 16_000, 16_000, 500.0
    sine = torch.sin(2 * math.pi * hertz * torch.arange(n, dtype=torch.float64) / rate).float()
    faster = shift_and_stretch(sine.expand(64, n), 0.0, change, seeded(7))
    # Before anything begins anew: the fastest one has read all after n / 1.3 samples.
    factor = frequency_of(faster[:, : int(n / (1 + change))], rate) / hertz
    # The same draws: the first of each pair is the shift, the second the speed.
    drawn = 1 + change * (2 * torch.rand((2, 64, 1), generator=seeded(7)) - 1)[1, :, 0]
    torch.testing.assert_close(factor, drawn, rtol=0, atol=3e-4)
    assert factor.min() > 1 - change - 1e-3
    assert factor.max() < 1 + change + 1e-3
    assert factor.min() < 1 - 0.8 * change
    assert factor.max() > 1 + 0.8 * change


def test_speed_reads_between_the_samples_and_wraps():
    n = 32_000
    ramp = torch.arange(n).float()
    stretched = shift_and_stretch(ramp.expand(32, n), 0.0, 0.5, seeded(8))
    drawn = (1 + 0.5 * (2 * torch.rand((2, 32, 1), generator=seeded(8)) - 1)[1]).double()
    position = (torch.arange(n).double() * drawn) % n
    # Between the last sample and the first the ramp falls.
    inner = position < n - 1
    assert inner.double().mean() > 0.99
    # float32 tells values near 32,000 apart by 0.002.
    torch.testing.assert_close(stretched.double()[inner], position[inner], rtol=0, atol=1.01e-3)
    slow = drawn[:, 0] < 1
    assert (stretched[slow].diff(dim=1) > 0).all()
    assert (stretched[~slow].diff(dim=1) < 0).any(dim=1).all()


def test_shift_and_speed_stay_within_the_range_of_the_samples():
    waveform = noise(32, 500) - 0.5
    changed = shift_and_stretch(waveform, 1.0, 0.5, seeded(9))
    assert changed.shape == waveform.shape
    assert (changed.amin(dim=1) >= waveform.amin(dim=1) - 1e-6).all()
    assert (changed.amax(dim=1) <= waveform.amax(dim=1) + 1e-6).all()
    # Ratio and offset differ from sample to sample: equal waveforms part.
    equal = shift_and_stretch(waveform[:1].expand(32, 500), 0.5, 0.5, seeded(9))
    assert len(equal.unique(dim=0)) == 32


def one_hot_pairs(n):
    """Waveforms that are their own targets: the mixed ones must stay equal."""
    return torch.eye(n), torch.eye(n)


def test_mixup_mixes_waveforms_and_targets_by_the_same_weights():
    waveform, target = one_hot_pairs(64)
    mixed, labels = mixup(waveform, target, 0.4, seeded(1))
    torch.testing.assert_close(mixed, labels, rtol=0, atol=1e-7)
    torch.testing.assert_close(labels.sum(dim=1), torch.ones(64))
    own = labels.diagonal()
    assert (own >= 0.5).all()
    assert ((labels > 0).sum(dim=1) <= 2).all()
    # Each is the partner of one other, or of itself.
    partner = (labels - torch.diag(own)).argmax(dim=1)
    alone = own == 1
    assert alone.sum() < 12
    assert len(partner[~alone].unique()) == (~alone).sum()
    assert len(own.unique()) > 45


def test_mixup_reconstructs_from_real_waveforms():
    waveform = (noise(16, 300) - 0.5) * torch.logspace(-4, 1, 16)[:, None]
    mixed, labels = mixup(waveform, torch.eye(16), 1.0, seeded(2))
    level = waveform / waveform.abs().amax(dim=1, keepdim=True)
    torch.testing.assert_close(mixed, labels @ level, rtol=1e-5, atol=1e-6)
    assert mixed.abs().max() <= 1 + 1e-6


def test_mixup_of_silence_is_finite():
    waveform = torch.stack([torch.zeros(50), noise(50)])
    mixed, labels = mixup(waveform, torch.eye(2), 0.4, seeded(3))
    assert torch.isfinite(mixed).all()
    torch.testing.assert_close(labels.sum(dim=1), torch.ones(2))


@pytest.mark.parametrize("alpha", [0.1, 0.4, 1.0, 4.0])
def test_mixing_weights_are_a_folded_beta_distribution(alpha):
    n = 4000
    _, labels = mixup(torch.ones(n, 1), torch.eye(n), alpha, seeded(4))
    distance = labels.diagonal() - 0.5
    # One in n on average is its own partner; that moves the mean by less than the bounds.
    # Beta(a, a) has the variance 1 / (4 (2 a + 1)) and the mean absolute deviation
    # 1 / (4^a a B(a, a)); folding at 0.5 keeps both about 0.5.
    beta = math.gamma(alpha) ** 2 / math.gamma(2 * alpha)
    deviation = 1 / (4**alpha * alpha * beta)
    variance = 1 / (4 * (2 * alpha + 1))
    assert distance.mean().item() == pytest.approx(deviation, abs=0.01)
    assert distance.square().mean().item() == pytest.approx(variance, abs=0.008)


def test_mixup_follows_the_generator():
    waveform, target = one_hot_pairs(8)
    first, _ = mixup(waveform, target, 0.4, seeded(5))
    assert torch.equal(first, mixup(waveform, target, 0.4, seeded(5))[0])
    assert not torch.equal(first, mixup(waveform, target, 0.4, seeded(6))[0])


@pytest.mark.parametrize(
    "values", [{"mixup_alpha": 0.0, "mixup_share": 1.0}, {"mixup_alpha": 0.4, "mixup_share": 0.0}]
)
def test_nothing_is_done_where_the_recipe_says_so(values):
    waveform, target = noise(8, 100) - 0.5, torch.eye(8)
    for seed in range(50):
        found = augment_waveforms(waveform, target, section(**values), seeded(seed))
        assert torch.equal(found[0], waveform)
        assert torch.equal(found[1], target)


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_that_share_of_the_batches_is_mixed(share):
    waveform, target = noise(8, 20) - 0.5, torch.eye(8)
    generator, values = seeded(6), section(mixup_share=share)
    mixed = [
        not torch.equal(augment_waveforms(waveform, target, values, generator)[1], target)
        for _ in range(600)
    ]
    assert sum(mixed) / 600 == pytest.approx(share, abs=0.05)


def test_all_together_is_reproducible_and_leaves_its_input_alone():
    waveform, target = noise(8, 200) - 0.5, torch.eye(8)
    before = waveform.clone()
    values = AugmentSection(speed=0.2, mixup_share=1.0)
    first = augment_waveforms(waveform, target, values, seeded(7))
    again = augment_waveforms(waveform, target, values, seeded(7))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert torch.equal(waveform, before)
    assert torch.equal(target, torch.eye(8))
    # The targets are mixed, but a shift leaves them as they are.
    assert (first[1].diagonal() < 1).sum() > 4
    shifted = augment_waveforms(waveform, target, section(time_shift=0.5), seeded(7))
    assert not torch.equal(shifted[0], waveform)
    assert torch.equal(shifted[1], target)

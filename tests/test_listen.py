import numpy as np
import pytest
import soundfile

from deepspectrumlite.errors import DeepSpectrumLiteError
from deepspectrumlite.explain import explain_recording
from deepspectrumlite.frontend import band_position
from deepspectrumlite.listen import resynthesise, strongest, write_parts

RATE = 8000


def tone_of(hertz, seconds=0.5):
    return np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE).astype(np.float32)


def level(waveform, hertz):
    """Amplitude of a tone, away from the ends."""
    middle = waveform[800:-800].astype(float)
    angle = 2 * np.pi * hertz * np.arange(len(middle)) / RATE
    return 2 * abs(np.mean(middle * np.exp(-1j * angle)))


def band_map(recipe, low, high):
    """A map of 1 between two frequencies, 0 elsewhere."""
    size = recipe.frontend.image_height
    edges = band_position(np.array([low, high], float), recipe.frontend, recipe.data)
    bottom, top = edges / recipe.frontend.n_mels * size
    row = size - np.arange(size) - 0.5
    values = np.zeros((size, recipe.frontend.image_width), np.float32)
    values[(row >= bottom) & (row <= top)] = 1
    return values


@pytest.mark.parametrize("changes", [(), ("frontend.frequency=linear",)])
def test_a_map_of_ones_keeps_everything(make_recipe, tone, changes):
    recipe = make_recipe(*changes)
    for label in ("noise", "low"):
        waveform = tone(label, 0, 0.5)
        again = resynthesise(
            waveform, np.ones((32, 32), np.float32), recipe.frontend, recipe.data, keep=0.2
        )
        assert again.dtype == np.float32
        np.testing.assert_allclose(again, waveform, atol=1e-6)


def test_a_map_of_nothing_keeps_nothing(make_recipe, tone):
    recipe = make_recipe()
    for values in (np.zeros((32, 32)), -np.ones((32, 32))):
        again = resynthesise(
            tone("noise", 0, 0.5), values.astype(np.float32), recipe.frontend, recipe.data
        )
        assert np.abs(again).max() < 1e-7


@pytest.mark.parametrize(
    ("kept", "gone", "band"), [(500, 2500, (200, 1000)), (2500, 500, (1900, 3300))]
)
def test_a_band_keeps_its_tone_alone(make_recipe, kept, gone, band):
    recipe = make_recipe()
    both = tone_of(kept) + tone_of(gone)
    values = band_map(recipe, *band)
    heard = resynthesise(both, values, recipe.frontend, recipe.data, keep=0.5)
    assert level(heard, kept) == pytest.approx(1, abs=0.02)
    assert level(heard, gone) < 0.001


def test_a_time_keeps_its_sound_alone(make_recipe, tone):
    recipe = make_recipe()
    values = np.zeros((32, 32), np.float32)
    values[:, 20:26] = 1
    heard = resynthesise(tone("noise", 0, 0.5), values, recipe.frontend, recipe.data, keep=0.5)
    power = (heard.reshape(-1, 80) ** 2).mean(axis=1)
    centre = (np.arange(50) * power).sum() / power.sum() / 100
    # Columns stand from the middle of the first window to that of the last.
    assert centre == pytest.approx(0.032 + 23 / 32 * (0.5 - 0.064), abs=0.02)
    assert power[:15].max() < 1e-4 * power.max()


def test_what_the_model_does_not_hear_is_left_out(make_recipe):
    recipe = make_recipe("frontend.fmin=1000", "frontend.fmax=3000")
    both = tone_of(500) + tone_of(2000) + tone_of(3500)
    ones = np.ones((32, 32), np.float32)
    heard = resynthesise(both, ones, recipe.frontend, recipe.data)
    assert level(heard, 2000) == pytest.approx(1, abs=0.001)
    assert max(level(heard, 500), level(heard, 3500)) < 0.001


def test_strongest_share():
    values = np.arange(128 * 128, dtype=np.float32).reshape(128, 128) - 128 * 64
    for keep in (0.1, 0.3):
        mask = strongest(values, keep)
        assert mask.mean() == pytest.approx(keep, abs=0.02)
        assert mask[-1].min() > 0.99
    # Only what speaks for the target, though more may be kept.
    assert strongest(values, 0.9).mean() == pytest.approx(0.5, abs=0.02)


def test_refuses_what_it_cannot_do(make_recipe, tone):
    ones = np.ones((32, 32), np.float32)
    recipe = make_recipe("frontend.n_mfcc=13")
    with pytest.raises(DeepSpectrumLiteError, match=r"n_mfcc is 13: .* leave out --listen"):
        resynthesise(tone("low", 0, 0.5), ones, recipe.frontend, recipe.data)
    recipe = make_recipe()
    with pytest.raises(DeepSpectrumLiteError, match="keep is 0; allowed: a share above 0"):
        resynthesise(tone("low", 0, 0.5), ones, recipe.frontend, recipe.data, keep=0)


def test_writes_the_segment_that_was_explained(trained_model, tone, tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.concatenate([tone("noise", 0, 0.5), tone("low", 1, 0.3)]), RATE)
    _, second = explain_recording(
        trained_model, path, targets=["low"], method="gradcam", segment="all"
    )
    (written,) = write_parts(second, trained_model, tmp_path / "b")
    assert written == tmp_path / "b-low-listen.wav"
    heard, rate = soundfile.read(written)
    assert (rate, len(heard)) == (RATE, 2400)
    recipe = trained_model.recipe
    wave, _ = soundfile.read(path, dtype="float32")
    filled = np.pad(wave[4000:], (0, 1600), mode="wrap")
    expected = resynthesise(filled, second.maps[0].values, recipe.frontend, recipe.data)
    np.testing.assert_allclose(heard, expected[:2400], atol=1e-4)

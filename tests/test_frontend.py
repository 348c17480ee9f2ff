import json
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch

import deepspectrumlite
from deepspectrumlite.config import parse_recipe
from deepspectrumlite.frontend import (
    CPU_PART,
    FrontEnd,
    RealDFT,
    color_table,
    dct_matrix,
    mel_matrix,
    resize_matrix,
)

GOLDEN = Path(__file__).parent / "golden"
SETTINGS = json.loads((GOLDEN / "index.json").read_text())
NAMES = sorted(SETTINGS)


def published(name, **changes):
    """The front-end with a golden array's settings, and the arrays."""
    given = SETTINGS[name]
    frontend = {
        # The stored waveform is normalised already, and not to a peak of 1.
        "peak_normalise": False,
        "window_seconds": given["stft_window_size"],
        "hop_seconds": given["stft_hop_size"],
        "fft_seconds": given["stft_fft_length"],
        "n_mels": given["num_mel_bins"],
        "n_mfcc": given["num_mfccs"],
        "lifter": given["cep_lifter"],
        "top_db": "none",
        "color_map": given["color_map"],
        "image_height": given["image_height"],
        "image_width": given["image_width"],
        "resize": given["resize_method"],
        "antialias": given["anti_alias"],
    } | changes
    data = {"segment_seconds": given["chunk_size"], "hop_seconds": given["chunk_hop_size"]}
    arrays = dict(np.load(GOLDEN / name))
    arrays["image_rot"] = arrays["image_rot"] / 250
    return make(frontend, data), arrays


def make(frontend=None, data=None):
    small = {"segment_seconds": 0.5, "hop_seconds": 0.5}
    recipe = parse_recipe({"frontend": frontend or {}, "data": data or small})
    return FrontEnd(recipe.frontend, recipe.data)


def batch(array):
    return torch.from_numpy(array)[None]


def noise(n, batch=2, seed=0):
    return 0.1 * torch.randn(batch, n, generator=torch.Generator().manual_seed(seed))


# Against the published implementation.


@pytest.mark.parametrize("name", NAMES)
def test_mel_agrees_with_the_published_one(name):
    frontend, golden = published(name)
    mel = frontend.power(batch(golden["waveform"]))[0].numpy()
    assert np.abs(mel - golden["mel"]).max() < 2e-5 * golden["mel"].max()


@pytest.mark.parametrize("name", [n for n in NAMES if not SETTINGS[n]["num_mfccs"]])
def test_decibels_agree_with_the_published_ones(name):
    frontend, golden = published(name)
    error = np.abs(frontend.features(batch(golden["waveform"]))[0].numpy() - golden["features"])
    below_peak = golden["features"].max() - golden["features"]
    assert error[below_peak < 60].max() < 0.01
    assert error[below_peak < 80].max() < 0.1


@pytest.mark.parametrize("name", [n for n in NAMES if SETTINGS[n]["num_mfccs"]])
def test_mfccs_agree_with_the_published_ones(name):
    frontend, golden = published(name)
    # From the stored mel: far below the peak of the chirp its bins are rounding noise.
    mfcc = frontend.scale(batch(golden["mel"]))[0].numpy()
    assert np.abs(mfcc - golden["features"]).max() < 0.05


@pytest.mark.parametrize(
    "name", [n for n in NAMES if SETTINGS[n]["num_mfccs"] and n.endswith("noise.npz")]
)
def test_mfccs_of_noise_agree_from_the_waveform_on(name):
    frontend, golden = published(name)
    mfcc = frontend.features(batch(golden["waveform"]))[0].numpy()
    assert np.abs(mfcc - golden["features"]).max() < 0.05


@pytest.mark.parametrize("name", NAMES)
def test_images_agree_with_the_published_ones(name):
    frontend, golden = published(name)
    image = frontend.colorize(batch(golden["features"]))
    assert np.abs(image[0].permute(2, 1, 0).numpy() - golden["image_map"]).max() < 1e-5
    resized = 255 * frontend.resize(image)[0].permute(1, 2, 0).numpy()
    allowed = 0.1 if SETTINGS[name]["resize_method"] == "bicubic" else 0.01
    assert np.abs(resized - golden["image_rot"]).max() < allowed


@pytest.mark.parametrize("name", [n for n in NAMES if "noise" in n])
@pytest.mark.parametrize("peak_normalise", [False, True])
def test_noise_agrees_from_end_to_end(name, peak_normalise):
    frontend, golden = published(name, peak_normalise=peak_normalise)
    image = 255 * frontend(batch(golden["waveform"]))[0].permute(1, 2, 0).numpy()
    assert np.abs(image - golden["image_rot"]).max() < 2


# Against independent derivations.


def bins_of(dft, frames, bins):
    """(n_segments * n_frames, n_bins): power of the bins that were asked for."""
    return dft(frames).flatten(1)[:, torch.from_numpy(dft.position[bins])].numpy()


@pytest.mark.parametrize("n_fft", [1, 2, 7, 12, 400, 512, 551, 1024, 1102, 2048])
@pytest.mark.parametrize("share", [(0, 1), (0.3, 0.4)])
def test_dft_agrees_with_numpy(n_fft, share):
    bins = np.arange(int(share[0] * n_fft / 2), int(share[1] * n_fft / 2) + 1)
    dft = RealDFT(n_fft, np.ones(n_fft), bins)
    frames = torch.randn(2, 3, n_fft, generator=torch.Generator().manual_seed(0))
    expected = np.abs(np.fft.rfft(frames.double().numpy()).reshape(6, -1)) ** 2
    np.testing.assert_allclose(
        bins_of(dft, frames, bins), expected[:, bins], atol=1e-5 * expected.max()
    )


def test_dft_leaves_out_what_is_not_wanted():
    dft = RealDFT(2048, np.ones(2048), np.arange(100, 200))
    assert (dft.n_rows, dft.columns, dft.n_columns) == (33, 32, 4)
    assert (dft.position[100:200] >= 0).all()
    assert (dft.position[300:] == -1).all()
    with pytest.raises(AssertionError, match="not computed"):
        dft.scatter_rows(np.ones((1025, 1)))


@pytest.mark.parametrize("n_fft", [12, 551, 1024])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.77, 1.0])
def test_dft_of_a_shorter_window_is_that_of_padded_frames(n_fft, share):
    generator = np.random.default_rng(0)
    window, frames = (generator.random((n, round(share * n_fft))) for n in (1, 6))
    bins = np.arange(n_fft // 2 + 1)
    dft = RealDFT(n_fft, window[0], bins)
    assert len(dft.first) == -(-window.size // dft.columns)
    power = bins_of(dft, torch.from_numpy(frames.astype(np.float32)).view(2, 3, -1), bins)
    expected = np.abs(np.fft.rfft(frames * window, n=n_fft)) ** 2
    np.testing.assert_allclose(power, expected, atol=1e-5 * expected.max())


@pytest.mark.parametrize("n_mels", [1, 2, 3, 20])
@pytest.mark.parametrize(("fmin", "fmax"), [(0.0, 8000.0), (300.0, 3400.0), (7000.0, 8000.0)])
def test_mel_power_is_the_spectrum_times_the_mel_matrix(n_mels, fmin, fmax):
    mel = make({"n_mels": n_mels, "fmin": fmin, "fmax": fmax})
    linear = make({"frequency": "linear"})
    waveform = noise(8000)
    matrix = mel_matrix(n_mels, mel.n_fft, 16_000, fmin, fmax)
    expected = linear.power(waveform).double().numpy() @ matrix
    np.testing.assert_allclose(mel.power(waveform), expected, atol=1e-5 * expected.max())


@pytest.mark.parametrize(
    ("window", "hop"), [(0.064, 0.016), (0.05, 0.02), (0.0313, 0.0101), (0.5, 0.1)]
)
@pytest.mark.parametrize("fft", ["window", 0.5])
def test_power_is_that_of_hann_windowed_frames(window, hop, fft):
    section = {"window_seconds": window, "hop_seconds": hop, "fft_seconds": fft}
    frontend = make(section | {"frequency": "linear"})
    waveform = noise(8000)
    win, step = round(window * 16000), round(hop * 16000)
    starts = range(0, 8000 - win + 1, step)
    n = np.arange(win)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * n / win)
    frames = np.stack([waveform.numpy()[:, s : s + win] * hann for s in starts], axis=1)
    expected = np.abs(np.fft.rfft(frames, n=frontend.n_fft)) ** 2
    power = frontend.power(waveform).numpy()
    assert power.shape == expected.shape
    np.testing.assert_allclose(power, expected, atol=2e-6 * expected.max())


def test_linear_frequencies_keep_to_the_band():
    frontend = make({"frequency": "linear", "fmin": 1000.0, "fmax": 2000.0})
    tone = torch.sin(2 * torch.pi * 1500 / 16000 * torch.arange(8000))[None]
    power = frontend.power(tone)[0].mean(dim=0)
    spacing = 16000 / 1024
    assert len(power) == 1 + int(2000 // spacing) - int(-(-1000 // spacing))
    loudest = (int(-(-1000 // spacing)) + int(power.argmax())) * spacing
    assert abs(loudest - 1500) <= spacing / 2


def test_mel_bands_are_triangles_on_the_mel_axis():
    matrix = mel_matrix(10, 4096, 16000, 300, 4000)
    hertz = np.arange(2049) * 16000 / 4096
    edges = 700 * (
        np.exp(np.linspace(*(1127 * np.log(1 + f / 700) for f in (300, 4000)), 12) / 1127) - 1
    )
    for band in range(10):
        inside = (hertz > edges[band] + 1e-6) & (hertz < edges[band + 2] - 1e-6)
        assert (matrix[inside, band] > 0).all()
        assert (matrix[~inside, band] < 1e-9).all()
        assert abs(hertz[matrix[:, band].argmax()] - edges[band + 1]) <= 16000 / 4096
        assert 0.9 < matrix[:, band].max() <= 1
    # Neighbours add up to 1 between the first and the last peak.
    between = (hertz > edges[1]) & (hertz < edges[-2])
    np.testing.assert_allclose(matrix[between].sum(axis=1), 1)


def test_the_bin_at_0_hertz_belongs_to_no_band():
    assert (mel_matrix(40, 512, 16000, 0, 8000)[0] == 0).all()


def test_dct_is_scipys_but_for_its_first_coefficient():
    from scipy.fft import dct

    mel = np.random.default_rng(0).normal(size=(3, 40))
    expected = dct(mel, type=2, norm="ortho")[:, :13]
    expected[:, 0] *= np.sqrt(2)
    np.testing.assert_allclose(mel @ dct_matrix(40, 13, 0), expected)
    lifter = 1 + 11 * np.sin(np.pi * np.arange(13) / 22)
    np.testing.assert_allclose(mel @ dct_matrix(40, 13, 22), expected * lifter)


@pytest.mark.parametrize(
    ("resize", "mode", "n_out"),
    [
        *[("nearest", "nearest-exact", n) for n in (5, 12, 40)],
        *[("bilinear", "bilinear", n) for n in (5, 12, 40)],
        # Torch averages whole points, we shares of them: equal where the lengths divide.
        *[("area", "area", n) for n in (3, 6, 12, 24)],
    ],
)
def test_resize_agrees_with_torch(resize, mode, n_out):
    # Torch's bicubic kernel has another parameter; the golden arrays check ours.
    section = parse_recipe({"frontend": {"resize": resize, "antialias": False}}).frontend
    line = torch.rand(1, 1, 1, 12, dtype=torch.float64)
    expected = torch.nn.functional.interpolate(line, size=(1, n_out), mode=mode)
    ours = line @ torch.from_numpy(resize_matrix(12, n_out, section)).T
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("name", ["viridis", "cividis", "inferno", "magma", "plasma"])
def test_colours_are_those_of_matplotlib(name):
    expected = matplotlib.colormaps[name](range(256))[:, :3]
    with np.load(Path(deepspectrumlite.__file__).parent / "colormaps.npz") as maps:
        assert len(maps.files) == 5
        np.testing.assert_array_equal(maps[name], expected.astype(np.float32))
    # Each entry and its step to the next, as the front-end mixes them.
    table = color_table(name)
    np.testing.assert_allclose(table[:, :3], expected[:-1], atol=1e-6)
    np.testing.assert_allclose(table[:, :3] + table[:, 3:], expected[1:], atol=1e-6)


def test_area_resize_weighs_points_by_their_overlap():
    section = parse_recipe({"frontend": {"resize": "area"}}).frontend
    np.testing.assert_allclose(resize_matrix(3, 2, section), [[2 / 3, 1 / 3, 0], [0, 1 / 3, 2 / 3]])


@pytest.mark.parametrize("resize", ["nearest", "bilinear", "bicubic", "area"])
@pytest.mark.parametrize(
    ("height", "width"), [(224, 224), (20, 300), (200, 40), (64, 40), (64, 300)]
)
def test_every_order_of_resizing_gives_the_same_image(resize, height, width):
    # 64 bands to a height of 64 are a flip only; others take the cheaper order: height first for
    # the first two, width first for the third.
    options = {"n_mels": 64, "image_height": height, "image_width": width, "resize": resize}
    frontend = make(options)
    rows, columns = (m.double().numpy() for m in (frontend.rows, frontend.columns))
    bands, frames = rows.shape[1], columns.shape[0]
    image = torch.rand(2, 3, bands, frames, generator=torch.Generator().manual_seed(0))
    expected = rows @ image.double().numpy() @ columns
    expected = expected.clip(0, 1) if resize == "bicubic" else expected
    # As colorize gives it, and with the other order in memory.
    for given in (image, image.mT.contiguous().mT):
        np.testing.assert_allclose(frontend.resize(given).numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("n_out", [8, 31, 100])
def test_antialiased_resize_agrees_with_pillow(n_out):
    from PIL import Image

    kernels = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    line = np.random.default_rng(0).random(31, dtype=np.float32)
    for resize, kernel in kernels.items():
        section = parse_recipe({"frontend": {"resize": resize, "antialias": True}}).frontend
        image = Image.fromarray(line[None], mode="F").resize((n_out, 1), kernel)
        np.testing.assert_allclose(
            resize_matrix(31, n_out, section) @ line, np.asarray(image)[0], atol=1e-5
        )


# What must always hold.

OPTIONS = [
    {},
    {"peak_normalise": False},
    {"scale": "power"},
    {"frequency": "linear", "fmin": 100.0, "fmax": 4000.0},
    {"n_mfcc": 20, "lifter": 22},
    {"n_mfcc": 13, "top_db": "none"},
    {"top_db": 40.0},
    {"color_map": "none"},
    {"color_map": "magma", "resize": "bicubic"},
    {"resize": "nearest", "antialias": False},
    {"resize": "area"},
    {"image_height": 96, "image_width": 160},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(
    "waveform",
    [
        torch.zeros(2, 8000),
        1e-12 * noise(8000),
        1e6 * noise(8000),
        torch.ones(2, 8000),
        noise(8000),
    ],
    ids=["silence", "faint", "loud", "constant", "noise"],
)
def test_images_are_finite_and_in_range(options, waveform):
    frontend = make(options)
    image = frontend(waveform)
    section = frontend.section
    assert image.shape == (2, 3, section.image_height, section.image_width)
    assert torch.isfinite(image).all()
    assert image.min() >= 0
    assert image.max() <= 1 + 1e-6


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_exported_graph_is_real_and_agrees(options):
    frontend, waveform = make(options), noise(8000, batch=1)
    exported = torch.export.export(frontend, (waveform,))
    torch.testing.assert_close(exported.module()(waveform), frontend(waveform), atol=1e-5, rtol=0)
    # Another waveform, so that nothing of the first one is left in the graph.
    other = 1e-3 * noise(8000, batch=1, seed=1)
    torch.testing.assert_close(exported.module()(other), frontend(other), atol=1e-5, rtol=0)
    for node in exported.graph.nodes:
        values = node.meta.get("val")
        for value in values if isinstance(values, (list, tuple)) else [values]:
            assert not (isinstance(value, torch.Tensor) and value.is_complex()), node
        if node.op == "call_function":
            assert not any(word in str(node.target) for word in ("fft", "stft", "complex")), node


def test_silence_is_one_flat_colour():
    image = make()(torch.zeros(1, 8000))
    torch.testing.assert_close(image, image[:, :, :1, :1].expand_as(image))


def test_segments_do_not_influence_each_other():
    frontend, waveform = make({"n_mfcc": 20}), noise(8000, batch=4)
    together = frontend(waveform * torch.tensor([1.0, 1e-3, 1e3, 0.0])[:, None])
    alone = torch.cat(
        [frontend(w[None]) for w in waveform * torch.tensor([1, 1e-3, 1e3, 0])[:, None]]
    )
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)


@pytest.mark.parametrize("batch", [CPU_PART, CPU_PART + 1, 2 * CPU_PART])
def test_parts_of_a_large_batch_give_the_same_features(batch):
    frontend, waveform = make({"top_db": 40.0}), noise(8000, batch=batch)
    alone = torch.cat([frontend.features(w[None]) for w in waveform])
    torch.testing.assert_close(frontend.features(waveform), alone, atol=1e-3, rtol=0)


def test_peak_normalisation_makes_loudness_irrelevant():
    frontend, waveform = make(), noise(8000)
    torch.testing.assert_close(frontend(waveform), frontend(waveform / 256), atol=1e-4, rtol=0)


def test_top_db_limits_the_dynamic_range():
    features = make({"top_db": 30.0}).features(noise(8000))
    span = features.amax(dim=(1, 2)) - features.amin(dim=(1, 2))
    torch.testing.assert_close(span, torch.full((2,), 30.0))


def test_low_frequencies_are_at_the_bottom_and_time_runs_right():
    tone = torch.sin(2 * torch.pi * 200 / 16000 * torch.arange(8000))
    tone[4000:] = 0
    size = {"image_height": 100, "image_width": 120}
    brightness = make({"color_map": "none"} | size)(tone[None])[0, 0]
    assert brightness[-20:].mean() > 2 * brightness[:20].mean()
    assert brightness[:, :40].mean() > 2 * brightness[:, -40:].mean()


def test_without_a_colour_map_the_channels_are_equal():
    image = make({"color_map": "none"})(noise(8000))
    assert torch.equal(image[:, 0], image[:, 1])
    assert torch.equal(image[:, 0], image[:, 2])


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("batch", [2, CPU_PART + 1])
def test_gradients_reach_the_waveform(options, batch):
    waveform = noise(8000, batch=batch).requires_grad_()
    make(options)(waveform).square().sum().backward()
    assert torch.isfinite(waveform.grad).all()
    assert (waveform.grad.abs().sum(dim=1) > 0).all()


@pytest.mark.parametrize("color_map", ["viridis", "none"])
def test_gradients_are_those_of_finite_differences(color_map):
    frontend = make({"color_map": color_map, "top_db": 60.0}).double()
    waveform = noise(8000, batch=1).double().requires_grad_()
    frontend(waveform).square().mean().backward()
    # So small that no pixel comes to another entry of the colour map, or nearly none.
    step = 1e-7 * noise(8000, batch=1, seed=1).double()
    with torch.no_grad():
        ahead, behind = (frontend(waveform + sign * step).square().mean() for sign in (1, -1))
    torch.testing.assert_close(
        (waveform.grad * step).sum(), (ahead - behind) / 2, rtol=1e-2, atol=0
    )

"""The front-end: waveform -> power -> log-mel (or MFCC) -> colour-mapped image, in one nn.Module.

The single place that turns samples into pixels. It uses only real matrix products, elementwise
arithmetic and one table look-up, so the very same graph trains, evaluates and exports.

Conventions, which differ silently between libraries:

* frames: periodic Hann window, no centre padding, samples after the last whole frame unused;
* spectrum: power; a frame shorter than the transform is zero-padded at its end;
* mel: ``1127 ln(1 + f / 700)``, triangles linear on the mel axis, peak 1, no area norm, and the
  bin at 0 Hz belongs to no band;
* decibels: ``10 log10(max(power, 1e-16))``, limited to ``top_db`` below the segment's maximum;
* MFCC: from the log of the *squared* mel relative to the segment's maximum, DCT-II with
  ``sqrt(2 / N)`` on every coefficient, lifter ``1 + L / 2 sin(pi n / L)``;
* colour: minimum to maximum of the segment onto a table of 256 entries, linearly interpolated;
* image: low frequencies at the bottom, time to the right; resized after the colour map, with
  half-pixel centres, and a bicubic kernel with a = -0.5.
"""

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from deepspectrumlite.axes import band_position as band_position
from deepspectrumlite.axes import hertz_to_mel, wanted_bins
from deepspectrumlite.config import DataSection, FrontEndSection

FLOOR = 1e-16
# Segments that a CPU transforms at a time: their intermediate results stay in its cache, and in
# memory that the process has already (new pages took a third of the time at 32 segments).
CPU_PART = 2
# A band is a sum over few neighbouring bins, so a matrix for all bands and bins is mostly zeros.
# Two parts, low and high bands, halve it; more parts save less than their copies cost.
MEL_PARTS = 2

Floats = npt.NDArray[np.float64]
# A batch: (batch, num_samples); or (num_samples,) each, where lengths differ.
Waveforms = Tensor | list[Tensor]

# Made by: numpy.savez_compressed("colormaps.npz", **{name: matplotlib.colormaps[name](
#     numpy.arange(256))[:, :3].astype("float32") for name in names})
_COLOR_MAPS = Path(__file__).parent / "colormaps.npz"


class FrontEnd(nn.Module):
    """``(batch, num_samples)`` waveforms to ``(batch, 3, height, width)`` images in 0..1.

    Samples are mono, float32, nominally in -1..1, at ``data.sample_rate``, and exactly
    ``data.segment_samples`` many; or any number where ``data.segment_seconds`` is "whole", which
    all come to the same width: the image of a longer recording is more squeezed.
    """

    bins: Tensor
    dct: Tensor
    colors: Tensor
    rows: Tensor
    columns: Tensor

    def __init__(self, section: FrontEndSection, data: DataSection) -> None:
        super().__init__()
        rate = data.sample_rate
        self.section = section
        self.hop_length = section.hop_length(rate)
        self.win_length = section.win_length(rate)
        self.n_fft = section.n_fft(rate)
        bins = wanted_bins(section, data)
        # tf.signal.hann_window, numpy.hanning(n + 1)[:-1]: periodic, not symmetric.
        self.dft = RealDFT(self.n_fft, np.hanning(self.win_length + 1)[:-1], bins)
        if section.frequency == "mel":
            mel = mel_matrix(section.n_mels, self.n_fft, rate, section.fmin, section.fmax_hz(rate))
            self.mel = SparseProduct(self.dft.scatter_rows(mel))
            n_bands = section.n_mels
        else:
            position = torch.from_numpy(self.dft.position[bins])
            self.register_buffer("bins", position, persistent=False)
            n_bands = len(bins)
        if section.n_mfcc:
            _constant(self, "dct", dct_matrix(section.n_mels, section.n_mfcc, section.lifter))
            n_bands = section.n_mfcc
        self.n_bands = n_bands
        if section.color_map != "none":
            _constant(self, "colors", color_table(section.color_map))
        height, width = section.image_height, section.image_width
        _constant(self, "rows", resize_matrix(n_bands, height, section)[::-1])
        if data.segment_samples:
            n_frames = self.count_frames(data.segment_samples)
            _constant(self, "columns", resize_matrix(n_frames, width, section).T)

    def forward(self, waveform: Tensor) -> Tensor:
        """``(batch, num_samples)`` -> ``(batch, 3, height, width)``, in 0..1."""
        return self.resize(self.colorize(self.features(waveform)))

    def count_frames(self, num_samples: int) -> int:
        """Frames in so many samples; a recording shorter than a window has one."""
        return 1 + max(0, num_samples - self.win_length) // self.hop_length

    def features(self, waveform: Tensor) -> Tensor:
        """``(batch, num_samples)`` -> ``(batch, n_frames, n_bands)``: dB, power, or MFCC."""
        if waveform.device.type == "cpu" and waveform.shape[0] > CPU_PART:
            parts = torch.split(waveform, CPU_PART)
            power = torch.cat([self.power(self.normalise(part)) for part in parts])
        else:
            power = self.power(self.normalise(waveform))
        return self.scale(power)

    def normalise(self, waveform: Tensor) -> Tensor:
        """``(batch, num_samples)`` -> the same with a peak of 1, where the recipe asks for it."""
        if not self.section.peak_normalise:
            return waveform
        peak = waveform.abs().amax(dim=-1, keepdim=True)
        return waveform / peak.clamp(min=1e-8)

    def power(self, waveform: Tensor) -> Tensor:
        """``(batch, num_samples)`` -> ``(batch, n_frames, n_bands)``, bands in power."""
        spectrum: Tensor = self.dft(self.frames(waveform))
        if self.section.frequency == "mel":
            bands: Tensor = self.mel(spectrum)
        else:
            # As a look-up: a gather along the last axis is slow when exported.
            bands = functional.embedding(self.bins, spectrum.flatten(1).t()).t().contiguous()
        return bands.view(waveform.shape[0], self.count_frames(waveform.shape[1]), -1)

    def scale(self, power: Tensor) -> Tensor:
        """``(batch, n_frames, n_bands)`` in power -> the same in dB, or ``n_mfcc`` coefficients."""
        if self.section.scale == "power":
            return power
        log_power = 10 * torch.log10(power.clamp(min=FLOOR))
        if self.section.n_mfcc:
            log_power = 2 * (log_power - log_power.amax(dim=(1, 2), keepdim=True))
        if self.section.top_db != "none":
            floor = log_power.amax(dim=(1, 2), keepdim=True) - self.section.top_db
            log_power = torch.maximum(log_power, floor)
        return torch.matmul(log_power, self.dct) if self.section.n_mfcc else log_power

    def frames(self, waveform: Tensor) -> Tensor:
        """``(batch, num_samples)`` -> ``(batch, n_frames, win_length)``, overlapping.

        Joins shifted slices of whole hops: ``unfold`` would become a slow gather when exported.
        """
        n_frames = self.count_frames(waveform.shape[1])
        n_slices = -(-self.win_length // self.hop_length)
        n_hops = n_frames + n_slices - 1
        missing = n_hops * self.hop_length - waveform.shape[1]
        if missing > 0:
            waveform = functional.pad(waveform, (0, missing))
        hops = waveform[:, : n_hops * self.hop_length].reshape(-1, n_hops, self.hop_length)
        slices = [hops[:, i : i + n_frames] for i in range(n_slices)]
        return torch.cat(slices, dim=-1)[..., : self.win_length]

    def colorize(self, features: Tensor) -> Tensor:
        """``(batch, n_frames, n_bands)`` -> ``(batch, 3, n_bands, n_frames)``, in 0..1.

        A constant segment (silence) has no range and takes the first colour.
        """
        low = features.amin(dim=(1, 2), keepdim=True)
        high = features.amax(dim=(1, 2), keepdim=True)
        # Below a millionth of the largest value a span is rounding noise, not a signal.
        smallest = torch.maximum(high, -low) * 1e-6
        # Not "+ 1e-30", which ONNX's optimiser takes for "+ 0".
        span = torch.maximum(high - low, smallest).clamp(min=1e-30)
        if self.section.color_map == "none":
            return ((features - low) / span).mT.unsqueeze(1).expand(-1, 3, -1, -1)
        position = (features - low) * (255 / span)
        entry = position.floor().clamp(max=254)
        colors = functional.embedding(entry.long(), self.colors)
        fraction = (position - entry).unsqueeze(-1)
        return torch.addcmul(colors[..., :3], colors[..., 3:], fraction).permute(0, 3, 2, 1)

    def resize(self, image: Tensor) -> Tensor:
        """``(batch, 3, n_bands, n_frames)`` -> ``(batch, 3, height, width)``, low bands last."""
        columns = self._columns(image)
        (height, n_bands), (n_frames, width) = self.rows.shape, columns.shape
        if n_bands == height:
            # Rows would only be turned upside down.
            resized = image.flip(2) @ columns
        # Whichever order of the two products takes fewer multiplications.
        elif height * n_frames * (n_bands + width) <= n_bands * width * (n_frames + height):
            resized = (image.mT @ self.rows.T).mT @ columns
        else:
            resized = self.rows @ (image @ columns)
        # A bicubic kernel overshoots at edges.
        return resized.clamp(0, 1) if self.section.resize == "bicubic" else resized

    def _columns(self, image: Tensor) -> Tensor:
        """``(n_frames, width)``: made for each recording where segments are whole ones."""
        if hasattr(self, "columns"):
            return self.columns
        matrix = resize_matrix(image.shape[3], self.section.image_width, self.section)
        return torch.from_numpy(matrix.T.astype(np.float32)).to(image.device)


def images_of(frontend: FrontEnd, waveform: Waveforms) -> Tensor:
    """``(batch, num_samples)``, or a list of ``(num_samples,)``, -> ``(batch, 3, height, width)``.

    Those of a list may differ in length, and go through the front-end one by one.
    """
    if isinstance(waveform, list):
        return torch.cat([frontend(each[None]) for each in waveform])
    image: Tensor = frontend(waveform)
    return image


def _constant(module: nn.Module, name: str, values: Floats) -> None:
    """Keep an array with a module, but not in its saved weights: the recipe makes it anew."""
    tensor = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
    module.register_buffer(name, tensor, persistent=False)


class RealDFT(nn.Module):
    """Power spectrum of windowed real frames by a four-step (Cooley-Tukey) transform.

    With ``n_fft = rows * columns`` and samples ``n = columns a + b``, bin ``k = p + rows q`` is
    ``sum_b W_columns^(b q) W_n_fft^(b p) sum_a W_rows^(a p) window[n] x[n]``: two small real matrix
    products with a twiddle product between them. Both have the constant on the right and the frames
    in the rows, which is what the matrix kernels of phones and of torch want.

    A real input needs ``p = 0 .. rows / 2`` only; the other bins are mirror images. The ``q`` come
    in the order 0, last, 1, last but one, ..., so that each column holds higher bins than the one
    before; columns without any of the wanted bins are left out. See :attr:`position`.

    Source: Bailey 1990, "FFTs in external or hierarchical memory".
    """

    window: Tensor
    first: Tensor
    twiddle_real: Tensor
    twiddle_imag: Tensor
    second: Tensor

    def __init__(self, n_fft: int, window: Floats, bins: npt.NDArray[np.int64]) -> None:
        """``bins``: those of 0 .. n_fft / 2 that are wanted."""
        super().__init__()
        self.rows, columns = _two_factors(n_fft)
        self.n_rows = self.rows // 2 + 1
        # A window shorter than the transform leaves whole rows of zeros: not multiplied.
        self.used_rows = -(-len(window) // columns)
        self.missing = self.used_rows * columns - len(window)
        a, b, p = np.arange(self.used_rows), np.arange(columns), np.arange(self.n_rows)
        q = np.column_stack([b, b[::-1]]).ravel()[:columns]
        k = p[:, None] + self.rows * q
        k = np.minimum(k, n_fft - k)  # either of two mirrored bins will do
        used = np.isin(k, bins).any(axis=0)
        q, k = q[used], k[:, used]
        first = np.exp(-2j * np.pi * np.outer(a, p) / self.rows)
        twiddle = np.exp(-2j * np.pi * np.outer(p, b) / n_fft)
        second = np.exp(-2j * np.pi * np.outer(b, q) / columns)
        _constant(self, "window", window)
        _constant(self, "first", np.hstack([first.real, first.imag]))
        _constant(self, "twiddle_real", twiddle.real)
        _constant(self, "twiddle_imag", twiddle.imag)
        of_real = np.hstack([second.real, second.imag])
        of_imag = np.hstack([-second.imag, second.real])
        _constant(self, "second", np.vstack([of_real, of_imag]))
        self.columns, self.n_columns = columns, len(q)
        # Index of a bin in an output of n_rows * n_columns; -1: not computed.
        self.position = np.full(n_fft // 2 + 1, -1)
        self.position[k.ravel()] = np.arange(k.size)

    def forward(self, frames: Tensor) -> Tensor:
        """``(batch, n_frames, len(window))`` -> ``(all frames, n_rows, n_columns)``, in power."""
        frames = frames * self.window
        if self.missing:
            frames = functional.pad(frames, (0, self.missing))
        grid = frames.reshape(-1, self.used_rows, self.columns).mT
        real, imag = torch.split((grid @ self.first).mT, self.n_rows, dim=1)
        turned_real = torch.addcmul(real * self.twiddle_real, imag, self.twiddle_imag, value=-1)
        turned_imag = torch.addcmul(real * self.twiddle_imag, imag, self.twiddle_real)
        spectrum = torch.cat([turned_real, turned_imag], dim=-1) @ self.second
        real, imag = torch.split(spectrum, self.n_columns, dim=-1)
        return torch.addcmul(real * real, imag, imag)

    def scatter_rows(self, matrix: Floats) -> Floats:
        """``(n_fft // 2 + 1, n)`` -> ``(n_rows, n_columns, n)``: rows where their bins come out."""
        scattered = np.zeros((self.n_rows * self.n_columns, matrix.shape[1]))
        computed = self.position >= 0
        assert not matrix[~computed].any(), "a bin is needed that is not computed"
        scattered[self.position[computed]] = matrix[computed]
        return scattered.reshape(self.n_rows, self.n_columns, -1)


class SparseProduct(nn.Module):
    """A matrix of bands, applied to a spectrum in a few parts that leave most of its zeros out."""

    def __init__(self, matrix: Floats) -> None:
        """``matrix``: ``(n_rows, n_columns, n_bands)``."""
        super().__init__()
        self.columns: list[slice] = []
        for part in np.array_split(matrix, min(MEL_PARTS, matrix.shape[2]), axis=2):
            used = np.flatnonzero(part.any(axis=(0, 2)))
            columns = slice(int(used[0]), int(used[-1]) + 1)
            weights = part[:, columns].reshape(-1, part.shape[2])
            _constant(self, f"part_{len(self.columns)}", weights)
            self.columns.append(columns)

    def forward(self, spectrum: Tensor) -> Tensor:
        """``(n, n_rows, n_columns)`` -> ``(n, n_bands)``."""
        parts = [
            spectrum[:, :, columns].flatten(1) @ self.get_buffer(f"part_{i}")
            for i, columns in enumerate(self.columns)
        ]
        return torch.cat(parts, dim=-1)


def _two_factors(n: int) -> tuple[int, int]:
    """The factors of n nearest to its square root, the larger first."""
    small = next(f for f in range(math.isqrt(n), 0, -1) if n % f == 0)
    return n // small, small


def mel_matrix(n_mels: int, n_fft: int, sample_rate: int, fmin: float, fmax: float) -> Floats:
    """Triangular bands, linear on the mel axis: ``(n_fft // 2 + 1, n_mels)``, peak 1."""
    mels = hertz_to_mel(np.arange(n_fft // 2 + 1) * sample_rate / n_fft)[:, None]
    edges = np.linspace(hertz_to_mel(fmin), hertz_to_mel(fmax), n_mels + 2)
    lower, centre, upper = edges[:-2], edges[1:-1], edges[2:]
    rising = (mels - lower) / (centre - lower)
    falling = (upper - mels) / (upper - centre)
    matrix: Floats = np.maximum(0, np.minimum(rising, falling))
    matrix[0] = 0
    return matrix


def dct_matrix(n_mels: int, n_mfcc: int, lifter: int) -> Floats:
    """DCT-II times the cepstral lifter: ``(n_mels, n_mfcc)``."""
    band, n = np.arange(n_mels)[:, None], np.arange(n_mfcc)[None, :]
    matrix: Floats = np.sqrt(2 / n_mels) * np.cos(np.pi * n * (2 * band + 1) / (2 * n_mels))
    if lifter:
        matrix *= 1 + lifter / 2 * np.sin(np.pi * n / lifter)
    return matrix


def color_table(name: str) -> Floats:
    """``(255, 6)``: each entry's red, green, blue, and the step to the next entry."""
    with np.load(_COLOR_MAPS) as maps:
        colors = maps[name]
    return np.hstack([colors[:-1], np.diff(colors, axis=0)])


def resize_matrix(n_in: int, n_out: int, section: FrontEndSection) -> Floats:
    """``(n_out, n_in)``: weights of the input points for each output point; rows sum to 1.

    With anti-aliasing the kernel is widened by the factor of reduction, as image libraries do.
    """
    scale = n_in / n_out
    centres = (np.arange(n_out) + 0.5) * scale
    if section.resize == "nearest":
        nearest: Floats = np.eye(n_in)[np.minimum(np.floor(centres).astype(int), n_in - 1)]
        return nearest
    if section.resize == "area":
        lower, upper = np.arange(n_out)[:, None] * scale, (np.arange(n_out)[:, None] + 1) * scale
        point = np.arange(n_in)[None, :]
        weights = np.clip(np.minimum(point + 1, upper) - np.maximum(point, lower), 0, None)
        return _rows_to_one(weights)
    width = max(scale, 1.0) if section.antialias else 1.0
    distance = (np.arange(n_in)[None, :] + 0.5 - centres[:, None]) / width
    kernel = _cubic if section.resize == "bicubic" else _triangle
    return _rows_to_one(kernel(np.abs(distance)))


def _rows_to_one(weights: Floats) -> Floats:
    scaled: Floats = weights / weights.sum(axis=1, keepdims=True)
    return scaled


def _triangle(distance: Floats) -> Floats:
    triangle: Floats = np.maximum(0, 1 - distance)
    return triangle


def _cubic(distance: Floats, a: float = -0.5) -> Floats:
    """Keys 1981, "Cubic convolution interpolation for digital image processing", eq. 15."""
    d = distance
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    kernel: Floats = np.where(d <= 1, near, np.where(d < 2, far, 0))
    return kernel

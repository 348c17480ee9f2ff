"""Where frequencies stand on the axis of an image, and names for them. No torch: pages use it."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from deepspectrumlite.config import DataSection, FrontEndSection

Floats = npt.NDArray[np.float64]

# In Hz: those of them that the image shows stand on its axis, where there is room.
ROUND_HERTZ = (20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000)
NEAREST = 0.08  # of the height: names closer than this would touch
_MFCC_TICKS = 5


def hertz_to_mel(hertz: Floats | float) -> Floats:
    """HTK's mel scale (O'Shaughnessy 1987), elementwise.

    >>> print(hertz_to_mel(1000.0).round(3))
    999.991
    """
    mel: Floats = 1127 * np.log1p(np.asarray(hertz) / 700)
    return mel


def band_position(hertz: Floats, section: FrontEndSection, data: DataSection) -> Floats:
    """(n,) frequencies -> (n,) where they stand on a spectrogram's axis: band k from k to k + 1."""
    rate = data.sample_rate
    low, high = section.fmin, section.fmax_hz(rate)
    if section.frequency == "mel":
        mels = (hertz_to_mel(hertz) - hertz_to_mel(low)) / (hertz_to_mel(high) - hertz_to_mel(low))
        position: Floats = mels * (section.n_mels + 1) - 0.5
        return position
    spacing = rate / section.n_fft(rate)
    linear: Floats = hertz / spacing - np.ceil(low / spacing) + 0.5
    return linear


def wanted_bins(section: FrontEndSection, data: DataSection) -> npt.NDArray[np.int64]:
    """(n,): the bins of the transform from fmin to fmax, of 0 .. n_fft / 2."""
    rate = data.sample_rate
    n_fft = section.n_fft(rate)
    hertz = np.arange(n_fft // 2 + 1) * rate / n_fft
    return np.flatnonzero((hertz >= section.fmin) & (hertz <= section.fmax_hz(rate)))


def count_bands(section: FrontEndSection, data: DataSection) -> int:
    """Rows of a spectrogram before it is resized: MFCCs, mel bands, or bins."""
    if section.n_mfcc:
        return section.n_mfcc
    return section.n_mels if section.frequency == "mel" else len(wanted_bins(section, data))


def axis_ticks(section: FrontEndSection, data: DataSection) -> list[tuple[float, str]]:
    """Places from the bottom of the image, 0, to its top, 1, and what to write there.

    They are round frequencies, or numbers of MFCCs, from low to high.
    """
    n_bands = count_bands(section, data)
    if section.n_mfcc:
        numbers = np.linspace(0, n_bands - 1, min(_MFCC_TICKS, n_bands)).round()
        return [((float(n) + 0.5) / n_bands, f"MFCC {n:g}") for n in numbers]
    low, high = section.fmin, section.fmax_hz(data.sample_rate)
    inside = np.array([hertz for hertz in ROUND_HERTZ if low <= hertz <= high], float)
    places = (band_position(inside, section, data) / n_bands).tolist()
    ticks = list(zip(places, map(_name, inside.tolist()), strict=True))
    return _apart([(place, name) for place, name in ticks if 0 <= place <= 1])


def _apart(ticks: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    """Those that have room; of two that would touch, the higher one."""
    chosen: list[tuple[float, str]] = []
    for place, name in reversed(ticks):
        if not chosen or chosen[-1][0] - place > NEAREST:
            chosen.append((place, name))
    return chosen[::-1]


def _name(hertz: float) -> str:
    return f"{hertz / 1000:g} kHz" if hertz >= 1000 else f"{hertz:g} Hz"

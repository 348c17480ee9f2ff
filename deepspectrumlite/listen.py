"""Hear what a map points at: the segment again, from the times and frequencies that matter most."""

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import torch
from scipy.ndimage import gaussian_filter

from deepspectrumlite.audio import stream_segments
from deepspectrumlite.config import DataSection, FrontEndSection
from deepspectrumlite.errors import DeepSpectrumLiteError
from deepspectrumlite.explain import Explanation
from deepspectrumlite.frontend import FrontEnd, band_position
from deepspectrumlite.model import Classifier

KEEP = 0.2
# Of an image's side. Maps are grainy, and grains of a mask would be heard as chirps.
SMOOTH, EDGE = 1 / 64, 1 / 128
# STFT frames per window: overlapped so much, edges of the mask fade in and out.
OVERLAP = 8

Floats = npt.NDArray[np.float64]


def resynthesise(
    waveform: npt.NDArray[np.float32],
    values: npt.NDArray[np.float32],
    section: FrontEndSection,
    data: DataSection,
    *,
    keep: float = KEEP,
) -> npt.NDArray[np.float32]:
    """The parts of a segment that a map calls for.

    A mask of 0 to 1 multiplies the short-time Fourier transform (periodic Hann window as long as
    the front-end's, an eighth of it per step), which overlap-add makes a waveform again (Griffin &
    Lim 1984, eq. 6). What the model does not hear, below fmin and above fmax, is left out.

    Args:
        waveform: (num_samples,), the segment at ``data.sample_rate``
        values: (height, width) of a map; row 0 is the highest frequency
        section: the front-end that made the image
        data: its sample rate and segment length
        keep: share of the image's area that is kept at most; less where less speaks for the target

    Returns:
        (num_samples,)

    Raises:
        DeepSpectrumLiteError: `keep` is no share, or the image has no axis of frequencies (MFCC)
    """
    window = section.win_length(data.sample_rate)
    hop = max(1, window // OVERLAP)
    taper = torch.hann_window(window, dtype=torch.float64)
    samples = torch.from_numpy(waveform.astype(np.float64))
    # Frames beyond both ends, so that every sample is under as many windows.
    padded = torch.nn.functional.pad(samples, (window, window))
    spectrum = torch.stft(padded, window, hop, window=taper, center=True, return_complex=True)
    bins = np.arange(spectrum.shape[0]) * data.sample_rate / window
    seconds = (np.arange(spectrum.shape[1]) * hop - window) / data.sample_rate
    mask = stft_mask(strongest(values, keep), bins, seconds, section, data)
    masked = spectrum * torch.from_numpy(mask)
    again = torch.istft(masked, window, hop, window=taper, center=True, length=len(padded))
    kept: npt.NDArray[np.float32] = again[window : window + len(samples)].numpy()
    return kept.astype(np.float32)


def write_parts(explanation: Explanation, model: Classifier, start: Path) -> list[Path]:
    """Write START-LABEL.wav for each target of an explained recording; the paths.

    Raises:
        DeepSpectrumLiteError: as :func:`resynthesise`
        AudioError: the recording cannot be read any more
        OSError: a file cannot be written
    """
    recipe, written = model.recipe, []
    assert explanation.path is not None, "only recordings can be read again"
    segments = stream_segments(explanation.path, recipe.data)
    waveform = next(wave for begin, wave in segments if begin >= explanation.start - 1e-6)
    data = recipe.data
    if data.segment_seconds == "whole":
        data = recipe.for_length(len(waveform) / data.sample_rate).data
    for each in explanation.maps:
        heard = resynthesise(waveform, each.values, recipe.frontend, data)
        label = re.sub(r"[^\w.+-]+", "_", each.target)
        path = start.with_name(f"{start.name}-{label}-listen.wav")
        # Without what the segment was filled up with.
        length = round((explanation.end - explanation.start) * recipe.data.sample_rate)
        soundfile.write(path, heard[:length], recipe.data.sample_rate)
        written.append(path)
    return written


def strongest(values: npt.NDArray[np.float32], keep: float = KEEP) -> Floats:
    """(height, width) -> the same, 0 to 1: where the map is largest and positive, softly edged."""
    if not 0 < keep <= 1:
        raise DeepSpectrumLiteError(f"keep is {keep:g}; allowed: a share above 0, up to 1")
    height, width = values.shape
    smooth = smoothed(values)
    least = np.sort(smooth, axis=None)[-max(1, round(keep * height * width))]
    # Not exactly: a blur leaves rounding noise on what was constant.
    tiny = 1e-9 * np.abs(smooth).max()
    chosen = (smooth >= least - tiny) & (smooth > tiny)
    return np.clip(_blur(chosen.astype(np.float64), EDGE), 0, 1)


def smoothed(values: npt.NDArray[np.float32]) -> Floats:
    """(height, width) -> the same without the grain of single pixels."""
    return _blur(values.astype(np.float64), SMOOTH)


def _blur(values: Floats, share: float) -> Floats:
    sigma = [share * size for size in values.shape]
    blurred: Floats = gaussian_filter(values, sigma, mode="nearest")
    return blurred


def stft_mask(
    image: Floats, hertz: Floats, seconds: Floats, section: FrontEndSection, data: DataSection
) -> Floats:
    """(height, width) of an image -> (n_bins, n_frames) at these frequencies and times."""
    height, width = image.shape
    frontend = FrontEnd(section, data)
    frame = (seconds * data.sample_rate - frontend.win_length / 2) / frontend.hop_length
    n_frames = frontend.count_frames(data.segment_samples)
    column = np.clip((frame + 0.5) / n_frames * width - 0.5, 0, width - 1)
    if section.n_mfcc:
        raise DeepSpectrumLiteError(
            f"n_mfcc is {section.n_mfcc}: the image holds coefficients, which have no frequency; "
            "allowed: models of spectrograms; leave out --listen"
        )
    band = band_position(hertz, section, data)
    row = np.clip(height - 0.5 - band / frontend.n_bands * height, 0, height - 1)
    heard = (hertz >= section.fmin) & (hertz <= section.fmax_hz(data.sample_rate))
    between = _linear(column, width)
    mask: Floats = _linear(row, height) @ image @ between.T * heard[:, None]
    return mask


def _linear(position: Floats, size: int) -> Floats:
    """(n,) places in 0 .. size - 1 -> (n, size): weights that interpolate there."""
    weights: Floats = np.maximum(0, 1 - np.abs(position[:, None] - np.arange(size)))
    return weights

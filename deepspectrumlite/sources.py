"""Where the samples of a stream come from: a recording, a pipe, or a microphone.

Each source gives blocks, and says in them what was lost and what went wrong.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from deepspectrumlite.audio import stream_audio
from deepspectrumlite.decode import MAX_CHANNELS, MAX_SAMPLE_RATE
from deepspectrumlite.errors import AudioError

BLOCK_SECONDS = 0.1
ENCODINGS = {"s16le": "<i2", "f32le": "<f4"}


@dataclass(frozen=True)
class Block:
    """(num_samples,) or (num_samples, n_channels) samples, possibly none.

    ``lost`` is how many samples are missing before them, as far as known; ``notice`` one line
    about what went wrong, or "".
    """

    samples: npt.NDArray[Any] = field(repr=False)
    lost: int = 0
    notice: str = ""


def recording(
    path: Path, sample_rate: int, *, block_seconds: float = BLOCK_SECONDS
) -> Iterator[Block]:
    """A recording of any length, mono, at `sample_rate` Hz, in bounded memory.

    Raises:
        AudioError: as :func:`deepspectrumlite.audio.stream_audio`, with the first or a later block
        MissingExtraError: soundfile does not know the format, and PyAV is not installed
    """
    size = max(1, round(block_seconds * sample_rate))
    for samples in stream_audio(path, sample_rate):
        for at in range(0, len(samples), size):
            yield Block(samples[at : at + size])


def raw_pcm(
    stream: BinaryIO,
    sample_rate: int,
    *,
    encoding: str = "s16le",
    channels: int = 1,
    block_seconds: float = BLOCK_SECONDS,
) -> Iterator[Block]:
    """Samples without a header, such as from ``arecord -t raw`` in a pipe, until it ends.

    Args:
        stream: binary, such as ``sys.stdin.buffer``; a block is given as soon as anything is there
        sample_rate: in Hz
        encoding: "s16le" (16 bits) or "f32le" (float), little-endian
        channels: interleaved
        block_seconds: the longest block

    Raises:
        AudioError: an impossible rate, encoding or number of channels
    """
    if not 1 <= sample_rate <= MAX_SAMPLE_RATE:
        raise AudioError(f"the rate is {sample_rate}; allowed: 1 to {MAX_SAMPLE_RATE} Hz")
    if not 1 <= channels <= MAX_CHANNELS:
        raise AudioError(f"{channels} channels; allowed: 1 to {MAX_CHANNELS}")
    if encoding not in ENCODINGS:
        raise AudioError(f"the format is {encoding!r}; allowed: {', '.join(ENCODINGS)}")
    dtype = np.dtype(ENCODINGS[encoding])
    frame = dtype.itemsize * channels
    size = max(1, round(block_seconds * sample_rate)) * frame
    # read1 does not wait for the whole block.
    read = getattr(stream, "read1", stream.read)
    return _pcm_blocks(read, size, frame, dtype, channels)


def _pcm_blocks(
    read: Any, size: int, frame: int, dtype: np.dtype[Any], channels: int
) -> Iterator[Block]:
    rest, notice = b"", ""
    while True:
        try:
            data = read(size)
        except OSError as error:
            # A socket as the input can break; what has come is still worth an answer.
            data, notice = b"", f"the input broke off: {error.strerror or error}"
        if not data:
            break
        data = rest + data
        whole = len(data) - len(data) % frame
        rest = data[whole:]
        if whole:
            samples = np.frombuffer(data[:whole], dtype).reshape(-1, channels)
            yield Block(samples.astype(dtype.newbyteorder("="), copy=False))
    if rest:
        left = f"{len(rest)} bytes at the end are less than a frame of {frame}, and left out"
        notice = f"{notice}; {left}" if notice else left
    if notice:
        yield Block(np.empty((0, channels), dtype.newbyteorder("=")), notice=notice)

"""From a recording to mono segments of equal length, in memory that does not grow with it.

soundfile reads WAV, FLAC, Ogg, Opus, MP3 and their like. What it does not know (M4A, WebM, AMR,
...) goes to PyAV, which the extra ``av`` installs.
"""

import math
import os
import stat
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from deepspectrumlite.config import DataSection
from deepspectrumlite.errors import AudioError, MissingExtraError

MAX_CHANNELS = 64
MAX_SAMPLE_RATE = 1_000_000
BLOCK_SAMPLES = 2**18
# The times of a manifest are often rounded, and then the last end lies behind the recording's.
END_TOLERANCE_SECONDS = 0.05

Waveform = npt.NDArray[np.float32]

# What libsndfile reports as the length where the header has none; also our own mark for that.
_UNKNOWN_LENGTH = 2**63 - 1
# A WAV written into a pipe has a placeholder for its length, from this value on (sox, ffmpeg).
_PIPE_LENGTH = 0x7FFFF000
# Frames to decode before a start inside an MP3; up to 9000 came out wrong without.
_MP3_RUN_UP = 2**15
# libsndfile's error numbers: not recognised, unsupported encoding, an MP3 without frames, a WAV
# with an unknown codec.
_NOT_KNOWN = (1, 4, 7, 64)
_BAD_HEADERS = {
    24: f"no sample rate in the header; allowed: 1 to {MAX_SAMPLE_RATE} Hz",
    32: f"0 channels in the header; allowed: 1 to {MAX_CHANNELS}",
    33: f"over 1024 channels in the header; allowed: 1 to {MAX_CHANNELS}",
}


@dataclass(frozen=True)
class AudioInfo:
    """What the header of a recording says; the length of an MP3 can be an estimate."""

    sample_rate: int
    channels: int
    num_frames: int

    @property
    def duration_seconds(self) -> float:
        """Length in seconds."""
        return self.num_frames / self.sample_rate


@dataclass(frozen=True)
class _Source:
    """An open recording; `blocks(first, size)` gives (about `size`, channels) from `first` on."""

    info: AudioInfo
    exact: bool  # whether fewer frames than info.num_frames are a sign of damage
    blocks: Callable[[int, int], Iterator[Waveform]]


def audio_info(path: Path) -> AudioInfo:
    """Sample rate in Hz, channels and frames, from the header.

    Where the header has no length (a FLAC from a pipe, a WebM from a browser) all is decoded.

    Raises:
        AudioError: the file is missing, unreadable, empty, truncated, or not audio
        MissingExtraError: soundfile does not know the format, and PyAV is not installed
    """
    with _open(path) as source:
        info = source.info
        if info.num_frames == _UNKNOWN_LENGTH:
            frames = sum(map(len, source.blocks(0, BLOCK_SAMPLES // info.channels)))
            info = _checked(path, replace(info, num_frames=frames))
        return info


def stream_audio(
    path: Path, sample_rate: int, *, start: float = 0.0, end: float | None = None
) -> Iterator[Waveform]:
    """Blocks of (num_samples,), mono, at `sample_rate` Hz; joined they are :func:`load_audio`.

    Mono is the mean of the channels. Where the rate differs, soxr resamples in high quality.

    Args:
        path: the recording
        sample_rate: of the result, in Hz
        start: in seconds, inside the recording
        end: in seconds, after `start`; None: the end of the recording

    Raises:
        AudioError: as :func:`audio_info`, or the audio is damaged, holds NaN or infinity, or does
            not reach from `start` to `end`; raised when the first or a later block is asked for
        MissingExtraError: soundfile does not know the format, and PyAV is not installed
    """
    if not 1 <= sample_rate <= MAX_SAMPLE_RATE:
        raise AudioError(f"sample_rate is {sample_rate}; allowed: 1 to {MAX_SAMPLE_RATE} Hz")
    num_samples = 0
    with _open(path) as source:
        blocks = _mono_blocks(path, source, sample_rate, start, end)
        for block in _resample(blocks, source.info.sample_rate, sample_rate):
            num_samples += len(block)
            if len(block):
                yield block
    if not num_samples:
        raise AudioError(
            f"{path}: not a single sample at {sample_rate} Hz; choose a longer part, or remove it "
            "from the manifest"
        )


def load_audio(
    path: Path, sample_rate: int, *, start: float = 0.0, end: float | None = None
) -> Waveform:
    """(num_samples,), mono, at `sample_rate` Hz; see :func:`stream_audio`, also for its errors."""
    return np.concatenate(list(stream_audio(path, sample_rate, start=start, end=end)))


def segment_starts(num_samples: int, data: DataSection) -> list[int]:
    """Where the segments of a waveform of `num_samples` start, in samples.

    Full segments, one every hop. With ``tail = "keep"`` one more where samples are left that no
    full segment covers, so that a recording shorter than a segment gives one; with "drop" none.
    """
    size, hop = data.segment_samples, data.hop_samples
    assert 1 <= hop <= size, f"a hop of {hop} in segments of {size} samples"
    full = max(0, (num_samples - size) // hop + 1)
    covered = (full - 1) * hop + size if full else 0
    keep_tail = data.tail == "keep" and num_samples > covered
    return [index * hop for index in range(full + keep_tail)]


def pad_segment(
    waveform: Waveform, num_samples: int, padding: Literal["zero", "repeat"]
) -> Waveform:
    """(at most num_samples,) -> (num_samples,), followed by zeros or by itself again."""
    missing = num_samples - len(waveform)
    assert len(waveform) > 0, "nothing to pad"
    assert missing >= 0, f"{len(waveform)} samples do not fit into {num_samples}"
    return np.pad(waveform, (0, missing), mode="constant" if padding == "zero" else "wrap")


def cut_segments(waveform: Waveform, data: DataSection) -> Waveform:
    """(num_samples,) -> (n_segments, segment_samples), as :func:`segment_starts` says."""
    size = data.segment_samples
    starts = segment_starts(len(waveform), data)
    segments = [pad_segment(waveform[at : at + size], size, data.padding) for at in starts]
    return np.stack(segments) if segments else np.empty((0, size), dtype=np.float32)


def stream_segments(
    path: Path, data: DataSection, *, start: float = 0.0, end: float | None = None
) -> Iterator[tuple[float, Waveform]]:
    """The rows of :func:`cut_segments`, one at a time: (start in seconds, (segment_samples,)).

    The start counts from the beginning of the recording, not from `start`. Memory is bounded:
    three hours need no more than ten minutes. Errors as in :func:`stream_audio`.
    """
    rate, size, hop = data.sample_rate, data.segment_samples, data.hop_samples
    pending = np.empty(0, dtype=np.float32)
    first = 0  # where `pending` starts, in samples; always the start of the next segment
    for block in stream_audio(path, rate, start=start, end=end):
        pending = np.concatenate([pending, block])
        while len(pending) >= size:
            yield start + first / rate, pending[:size].copy()
            pending = pending[hop:]
            first += hop
    for at in segment_starts(first + len(pending), data)[first // hop :]:
        yield start + at / rate, pad_segment(pending[at - first :], size, data.padding)


def _resample(blocks: Iterator[Waveform], rate: int, new_rate: int) -> Iterator[Waveform]:
    if rate == new_rate:
        yield from blocks
        return
    stream = soxr.ResampleStream(rate, new_rate, 1, dtype="float32", quality="HQ")
    for block in blocks:
        yield stream.resample_chunk(block)
    yield stream.resample_chunk(np.empty(0, dtype=np.float32), last=True)


def _mono_blocks(
    path: Path, source: _Source, new_rate: int, start: float, end: float | None
) -> Iterator[Waveform]:
    """Blocks of (n_frames,) at the recording's own rate, from `start` to `end`, all finite."""
    info = source.info
    _check_range(path, info, start, end)
    # Neither many channels nor resampling to a far higher rate may make a block large.
    size = max(1, BLOCK_SAMPLES // max(info.channels, math.ceil(new_rate / info.sample_rate)))
    first = position = round(start * info.sample_rate)
    last = sys.maxsize if end is None else round(end * info.sample_rate)
    last = min(last, info.num_frames) if source.exact else last
    for block in source.blocks(first, size):
        mono = block[: last - position].mean(axis=1, dtype=np.float32)
        _check_finite(path, mono, position / info.sample_rate)
        position += len(mono)
        yield mono
        if position >= last:
            return
    _check_reached(path, source, first, position, last if end is not None else position)


def _check_range(path: Path, info: AudioInfo, start: float, end: float | None) -> None:
    length = info.duration_seconds
    if not 0 <= start < length:
        raise AudioError(
            f"{path}: start is {start:.3f} s; allowed: from 0 to before the end of the recording, "
            f"at {length:.3f} s"
        )
    if end is not None and not start < end <= length + END_TOLERANCE_SECONDS:
        raise AudioError(
            f"{path}: end is {end:.3f} s; allowed: after the start, {start:.3f} s, up to the end "
            f"of the recording, at {length:.3f} s"
        )


def _check_finite(path: Path, mono: Waveform, seconds: float) -> None:
    if not np.isfinite(mono).all():
        raise AudioError(
            f"{path}: NaN or infinite samples, in the block from {seconds:.3f} s on; allowed: "
            "finite numbers; write the file again, or remove it from the manifest"
        )


def _check_reached(path: Path, source: _Source, first: int, position: int, last: int) -> None:
    """Decoding stopped at frame `position`: refuse what lacks more than rounding explains."""
    info, rate = source.info, source.info.sample_rate
    if source.exact:
        raise AudioError(
            f"{path}: truncated: decoding ends at {position / rate:.3f} s, but the header promises "
            f"{info.duration_seconds:.3f} s; copy the file again, or remove it from the manifest"
        )
    if position == first:
        raise AudioError(
            f"{path}: no samples from {first / rate:.3f} s on; the recording is shorter than its "
            "header says; choose an earlier start, or remove it from the manifest"
        )
    if last - position > END_TOLERANCE_SECONDS * rate:
        raise AudioError(
            f"{path}: end is {last / rate:.3f} s; allowed: up to the end of the recording, which "
            f"decodes to {position / rate:.3f} s"
        )


@contextmanager
def _open(path: Path) -> Iterator[_Source]:
    """The recording, by soundfile where it knows the format, else by PyAV."""
    with _open_file(path) as file:
        if path.suffix.lower() == ".raw":
            raise AudioError(
                f"{path}: a .raw file has no header that tells rate and format; convert it to WAV, "
                "or rename it if it is one"
            )
        _check_chunks(path, file)
        sound = _open_sound(path, file)
        if sound is None:
            with _open_av(path) as source:
                yield source
            return
        with sound:
            info = AudioInfo(sound.samplerate, sound.channels, sound.frames)
            estimated = sound.format in ("MP3", "OGG") or sound.subtype == "MPEG_LAYER_III"
            yield _Source(
                _checked(path, info),
                exact=not estimated and info.num_frames != _UNKNOWN_LENGTH,
                blocks=lambda first, size: _read_sound(path, file, sound, first, size),
            )


def _open_file(path: Path) -> BinaryIO:
    try:
        status = path.stat()
        # Not the others: to open a named pipe would wait for a writer.
        file = path.open("rb") if stat.S_ISREG(status.st_mode) else None
    except FileNotFoundError:
        raise AudioError(f"{path}: no such file; check the path, or the manifest's root") from None
    except OSError as error:
        raise AudioError(
            f"{path}: cannot be read: {error.strerror}; check its permissions"
        ) from None
    if file is None:
        kind = "a directory" if stat.S_ISDIR(status.st_mode) else "a device or a pipe"
        raise AudioError(f"{path}: {kind}; allowed: an audio file")
    if not status.st_size:
        file.close()
        raise AudioError(f"{path}: empty, 0 bytes; copy it again, or remove it from the manifest")
    return file


def _checked(path: Path, info: AudioInfo) -> AudioInfo:
    if not 1 <= info.sample_rate <= MAX_SAMPLE_RATE:
        raise AudioError(
            f"{path}: the sample rate is {info.sample_rate} Hz; allowed: 1 to {MAX_SAMPLE_RATE} Hz"
        )
    if not 1 <= info.channels <= MAX_CHANNELS:
        raise AudioError(
            f"{path}: {info.channels} channels; allowed: 1 to {MAX_CHANNELS}; mix it down first"
        )
    if info.num_frames < 1:
        raise AudioError(
            f"{path}: a header with 0 samples; remove it from the manifest, or, if a recorder was "
            "interrupted, write the header again: ffmpeg -i broken.wav mended.wav"
        )
    return info


def _check_chunks(path: Path, file: BinaryIO) -> None:
    """Refuse a WAV or AIFF that ends before its audio does: libsndfile would clip it silently."""
    size = os.fstat(file.fileno()).st_size
    kinds = {b"RIFF": ("<I", b"data"), b"RIFX": (">I", b"data"), b"FORM": (">I", b"SSND")}
    number, audio = kinds.get(file.read(4), ("<I", b""))
    position = 12 if audio else size
    while position + 8 <= size:
        file.seek(position)
        name, length = file.read(4), struct.unpack(number, file.read(4))[0]
        position += 8
        if name == audio and position + length > size and length < _PIPE_LENGTH:
            raise AudioError(
                f"{path}: truncated: the header promises {length} bytes of audio, but "
                f"{size - position} follow; copy the file again, or remove it from the manifest"
            )
        position += length + length % 2
    file.seek(0)


class _Sound(soundfile.SoundFile):  # type: ignore[misc]
    """A SoundFile that does not seek after each read.

    That seek fails at the end of a FLAC without a length, and disturbs the decoder of an MP3.
    """

    def seekable(self) -> bool:
        return False

    def skip(self, frames: int, size: int) -> None:
        """Go on from the start to frame `frames`, reading at most `size` at once."""
        if frames and super().seekable():
            # A frame of an MP3 can draw on bits of many frames before it.
            run_up = min(frames, _MP3_RUN_UP if self.format == "MP3" else 0)
            self.seek(frames - run_up)
            frames = run_up
        while frames and (got := len(self.read(min(frames, size), dtype="float32"))):
            frames -= got


def _open_sound(path: Path, file: BinaryIO) -> _Sound | None:
    """None where libsndfile does not know the format."""
    try:
        # The open file, not its path: libsndfile takes any text file named .au or .vox for audio.
        return _Sound(file)
    except soundfile.LibsndfileError as error:
        if error.code in _NOT_KNOWN:
            return None
        problem = _BAD_HEADERS.get(error.code, f"a broken header ({error.error_string})")
        raise AudioError(f"{path}: {problem}; write the file again") from None


def _read_sound(
    path: Path, file: BinaryIO, sound: _Sound, first: int, size: int
) -> Iterator[Waveform]:
    position = first
    try:
        sound.skip(first, size)
        while len(block := sound.read(size, dtype="float32", always_2d=True)):
            position += len(block)
            yield block
    except soundfile.LibsndfileError as error:
        raise AudioError(
            f"{path}: truncated or damaged, somewhere after {position / sound.samplerate:.3f} s "
            f"({error.error_string}); copy the file again, or remove it from the manifest"
        ) from None
    # libsndfile guesses the length of an MP3 without a Xing header from its first frame, and
    # stops there. With a varying bit rate that can be far too early.
    if sound.format == "MP3" and file.read(2)[:1] == b"\xff":
        raise AudioError(
            f"{path}: an MP3 of varying bit rate without a Xing header, of which soundfile reads "
            f"only {position / sound.samplerate:.3f} s; add the header: "
            "ffmpeg -i old.mp3 -codec copy new.mp3"
        )


@contextmanager
def _open_av(path: Path) -> Iterator[_Source]:
    try:
        import av
    except ImportError:
        unknown = f"{path}: not a format that soundfile reads (WAV, FLAC, Ogg, Opus, MP3, ...); "
        raise MissingExtraError("av", unknown + "to try M4A, WebM, AMR and more", "av") from None
    try:
        # "file:", because FFmpeg takes what stands before a colon in a name for a protocol.
        container = av.open(f"file:{path}", metadata_errors="ignore")
    except av.error.FFmpegError:
        raise AudioError(
            f"{path}: not an audio file that soundfile or FFmpeg knows; convert it to WAV, or "
            "remove it from the manifest"
        ) from None
    with container:
        if not container.streams.audio:
            raise AudioError(f"{path}: not an audio file: no audio stream in it")
        stream = container.streams.audio[0]
        if stream.codec_context is None:
            raise AudioError(f"{path}: a codec that FFmpeg has no decoder for; convert it to WAV")
        rate, channels = stream.codec_context.sample_rate, stream.codec_context.channels
        seconds = math.inf
        if stream.duration is not None and stream.time_base is not None:
            seconds = float(stream.duration * stream.time_base)
        elif container.duration is not None:
            seconds = container.duration / av.time_base
        frames = _UNKNOWN_LENGTH if math.isinf(seconds) else round(seconds * rate)
        info = _checked(path, AudioInfo(rate, channels, frames))
        yield _Source(
            info,
            exact=False,
            blocks=lambda first, size: _read_av(path, container, info, first, size),
        )


def _read_av(
    path: Path, container: Any, info: AudioInfo, first: int, size: int
) -> Iterator[Waveform]:
    # Decoding from the beginning, not seeking: timestamps in these containers are rounded (WebM:
    # to 1 ms), and only a count of frames cuts the same samples as a slice of the whole.
    pending: list[Waveform] = []
    num_pending = 0
    for frame in _decode_av(path, container, info):
        skipped = min(first, len(frame))
        first -= skipped
        pending.append(frame[skipped:])
        num_pending += len(frame) - skipped
        if num_pending >= size:
            yield np.concatenate(pending)
            pending, num_pending = [], 0
    if num_pending:
        yield np.concatenate(pending)


def _decode_av(path: Path, container: Any, info: AudioInfo) -> Iterator[Waveform]:
    """Frames of (num_samples, channels), as the codec cuts them."""
    import av

    resampler = av.AudioResampler(format="fltp")  # Only the number format; nothing is delayed.
    try:
        for frame in container.decode(audio=0):
            if frame.sample_rate != info.sample_rate or frame.layout.nb_channels != info.channels:
                raise AudioError(
                    f"{path}: sample rate or channels change inside; convert it to WAV"
                )
            for converted in resampler.resample(frame):
                yield converted.to_ndarray().T.astype(np.float32, copy=False)
    except av.error.FFmpegError as error:
        raise AudioError(
            f"{path}: truncated or damaged: cannot be decoded to its end ({error.strerror}); copy "
            "the file again, or remove it from the manifest"
        ) from None

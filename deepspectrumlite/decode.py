"""From a file to blocks of samples at its own rate and channels, with its damage found out.

soundfile reads WAV, FLAC, Ogg, Opus, MP3 and their like. What it does not know (M4A, WebM, AMR,
...) goes to PyAV, which the extra ``av`` installs.
"""

import os
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import soundfile

from deepspectrumlite.errors import AudioError, MissingExtraError

MAX_CHANNELS = 64
MAX_SAMPLE_RATE = 1_000_000
# What libsndfile reports as the length where the header has none; also our own mark for that.
UNKNOWN_LENGTH = 2**63 - 1
# A WAV written into a pipe has a placeholder for its length, from this value on (sox, ffmpeg).
_PIPE_LENGTH = 0x7FFFF000
# In bytes: a header of 27, 255 lengths of segments, and those segments of up to 255 each.
_LARGEST_OGG_PAGE = 27 + 255 + 255 * 255
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

Waveform = npt.NDArray[np.float32]


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
class Source:
    """An open recording; `blocks(first, size)` gives (about `size`, channels) from `first` on."""

    info: AudioInfo
    blocks: Callable[[int, int], Iterator[Waveform]]


@contextmanager
def open_audio(path: Path) -> Iterator[Source]:
    """The recording, by soundfile where it knows the format, else by PyAV."""
    with _open_file(path) as file:
        if path.suffix.lower() == ".raw":
            raise AudioError(
                f"{path}: a .raw file has no header that tells rate and format; convert it to WAV, "
                "or rename it if it is one"
            )
        _check_chunks(path, file)
        _check_last_page(path, file)
        sound = _open_sound(path, file)
        if sound is None:
            with _open_av(path) as source:
                yield source
            return
        with sound:
            info = AudioInfo(sound.samplerate, sound.channels, sound.frames)
            yield Source(
                check_info(path, info),
                lambda first, size: _read_sound(path, file, sound, first, size),
            )


def _open_file(path: Path) -> BinaryIO:
    try:
        status = path.stat()
        # Not the others: to open a named pipe would wait for a writer.
        file = path.open("rb") if stat.S_ISREG(status.st_mode) else None
    except FileNotFoundError:
        raise AudioError(f"{path}: no such file; check the path") from None
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


def check_info(path: Path, info: AudioInfo) -> AudioInfo:
    """Return `info`, or raise AudioError where no recording can have such numbers."""
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


def _check_last_page(path: Path, file: BinaryIO) -> None:
    """Refuse an Ogg file that does not end with a whole page marked as the last: RFC 3533, 6."""
    is_ogg = file.read(4) == b"OggS"
    if not is_ogg:
        file.seek(0)
        return
    file.seek(max(0, os.fstat(file.fileno()).st_size - _LARGEST_OGG_PAGE))
    tail = file.read()
    file.seek(0)
    page = tail[tail.rfind(b"OggS") :]
    lengths = page[27 : 27 + page[26]] if len(page) > 26 else b""
    whole = len(page) > 26 and len(page) >= 27 + page[26] + sum(lengths)
    if not whole or not page[5] & 4:
        raise AudioError(
            f"{path}: truncated: it does not end with the last page of an Ogg stream; copy the "
            "file again, or if it is all there is, write it anew: ffmpeg -i OLD.ogg NEW.ogg"
        )


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
    # The length is an estimate in some formats; elsewhere fewer frames are a sign of damage.
    estimated = sound.format in ("MP3", "OGG") or sound.subtype == "MPEG_LAYER_III"
    if not estimated and position < sound.frames < UNKNOWN_LENGTH:
        raise AudioError(
            f"{path}: truncated: decoding ends at {position / sound.samplerate:.3f} s, but the "
            f"header promises {sound.frames / sound.samplerate:.3f} s; copy the file again, or "
            "remove it from the manifest"
        )
    # libsndfile guesses the length of an MP3 without a Xing header from its first frame, and
    # stops there. With a varying bit rate that can be far too early.
    if sound.format == "MP3" and file.read(2)[:1] == b"\xff":
        raise AudioError(
            f"{path}: an MP3 of varying bit rate without a Xing header, of which soundfile reads "
            f"only {position / sound.samplerate:.3f} s; add the header: "
            "ffmpeg -i old.mp3 -codec copy new.mp3"
        )


@contextmanager
def _open_av(path: Path) -> Iterator[Source]:
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
        frames = UNKNOWN_LENGTH
        if stream.duration is not None and stream.time_base is not None:
            frames = round(stream.duration * stream.time_base * rate)
        elif container.duration is not None:
            frames = round(container.duration / av.time_base * rate)
        info = check_info(path, AudioInfo(rate, channels, frames))
        yield Source(info, lambda first, size: _read_av(path, container, info, first, size))


def _read_av(
    path: Path, container: Any, info: AudioInfo, first: int, size: int
) -> Iterator[Waveform]:
    # Decoding from the beginning, not seeking: timestamps in these containers are rounded (WebM:
    # to 1 ms), and only a count of frames cuts the same samples as a slice of the whole.
    pending: list[Waveform] = []
    for frame in _decode_av(path, container, info):
        if len(frame) > first:
            pending.append(frame[first:])
        first = max(0, first - len(frame))
        if sum(map(len, pending)) >= size:
            yield np.concatenate(pending)
            pending = []
    if pending:
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

"""The microphone as a source of samples that goes on when the device does not."""

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from deepspectrumlite.errors import AudioError, MissingExtraError
from deepspectrumlite.sources import BLOCK_SECONDS, Block

QUEUE_SECONDS = 5.0
STALL_SECONDS = 2.0
RETRY_SECONDS = 1.0
_NOTHING = np.empty(0, np.float32)


def microphone(sample_rate: int | None = None, device: str | int | None = None) -> "Microphone":
    """Open a microphone; use it as a context manager.

    Args:
        sample_rate: in Hz; None: that of the device
        device: its number, or a part of its name; None: the default of the system

    Raises:
        MissingExtraError: sounddevice is not installed
        AudioError: no PortAudio, no such device, or one that cannot be opened at this rate
    """
    return Microphone(_sounddevice(), sample_rate, device)


def list_microphones() -> list[str]:
    """A line for each device that records: number, name, channels and rate.

    Raises:
        MissingExtraError: sounddevice is not installed
        AudioError: PortAudio is not installed
    """
    return [
        f"{number}  {found['name']}  ({found['max_input_channels']} channels, "
        f"{found['default_samplerate']:.0f} Hz)"
        for number, found in enumerate(_sounddevice().query_devices())
        if found["max_input_channels"] > 0
    ]


class Microphone:
    """An open microphone; :meth:`blocks` gives what it hears, for ever.

    A block that nobody fetches in time is lost, the oldest first, so that the delay stays below
    `queue_seconds`. When nothing comes for `stall_seconds` the device is opened again, every
    `retry_seconds`, until it is back: by the name that it had at first, since numbers change when
    devices come and go; the default of the system is what it is by then. What is lost is counted
    in the next block, so that the clock stays right.

    Attributes:
        sample_rate: in Hz
        name: of the device
        num_failures: how often the device was lost
    """

    def __init__(
        self,
        sounddevice: Any,
        sample_rate: int | None,
        device: str | int | None,
        *,
        block_seconds: float = BLOCK_SECONDS,
        queue_seconds: float = QUEUE_SECONDS,
        stall_seconds: float = STALL_SECONDS,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        self._sounddevice, self._device = sounddevice, device
        self._stall_seconds, self._retry_seconds = stall_seconds, retry_seconds
        self.num_failures = 0
        try:
            found = sounddevice.query_devices(device, "input")
            self.name, self._host = str(found["name"]), found.get("hostapi")
            self.sample_rate = int(sample_rate or found["default_samplerate"])
            self._block_samples = max(1, round(block_seconds * self.sample_rate))
            self._queue = _Queue(self.sample_rate, max(1, round(queue_seconds * self.sample_rate)))
            self._stream = self._open(device)
        except (sounddevice.PortAudioError, ValueError) as error:
            what = "the default microphone" if device is None else f"the microphone {device!r}"
            raise AudioError(
                f"{what} cannot be opened: {_one_line(error)}; see which there are with "
                "--list-devices"
            ) from None

    @property
    def num_overruns(self) -> int:
        """How often samples were lost because the program was too slow."""
        return self._queue.num_overruns

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop recording."""
        # Once only: PortAudio frees a stream when it is closed.
        stream, self._stream = self._stream, None
        if stream is not None:
            self._discard(stream)

    def _discard(self, stream: Any) -> None:
        # A device that is gone cannot be closed either.
        with suppress(self._sounddevice.PortAudioError):
            stream.close()

    def blocks(self) -> Iterator[Block]:
        """What the microphone hears, (num_samples, 1) float32 a block, and what it does not."""
        while True:
            block = self._queue.get(self._stall_seconds)
            if block is not None:
                yield block
                continue
            self.num_failures += 1
            yield Block(_NOTHING, notice=f"{self.name}: no samples; opening it again")
            yield from self._reopen()

    def _reopen(self) -> Iterator[Block]:
        self.close()
        while True:
            # PortAudio looks for devices only when it starts. Where that failed the last time,
            # there is nothing to end.
            with suppress(self._sounddevice.PortAudioError):
                self._sounddevice._terminate()
            try:
                self._sounddevice._initialize()
                self._queue.expect_a_gap()
                self._stream = self._open(None if self._device is None else self._find())
            except (self._sounddevice.PortAudioError, ValueError):
                time.sleep(self._retry_seconds)
                yield Block(_NOTHING)  # So that a display goes on.
            else:
                yield Block(_NOTHING, notice=f"{self.name}: opened again")
                return

    def _find(self) -> int:
        """The number that the device has now; its twin's where only that is there."""
        found = [
            (device.get("hostapi") != self._host, number != self._device, number)
            for number, device in enumerate(self._sounddevice.query_devices())
            if device["name"] == self.name and device["max_input_channels"] > 0
        ]
        if not found:
            raise ValueError(f"no device {self.name!r}")
        return min(found)[-1]

    def _open(self, device: str | int | None) -> Any:
        stream = self._sounddevice.InputStream(
            samplerate=self.sample_rate,
            blocksize=self._block_samples,
            device=device,
            channels=1,
            dtype="float32",
            callback=self._queue.put,
        )
        try:
            stream.start()
        except BaseException:
            self._discard(stream)
            raise
        return stream


class _Queue:
    """Blocks between PortAudio's thread and ours, of bounded length, with a count of the lost."""

    def __init__(self, sample_rate: int, max_samples: int) -> None:
        self.num_overruns = 0
        self._rate, self._max_samples = sample_rate, max_samples
        self._blocks: deque[Block] = deque()
        self._ready = threading.Condition()
        self._num_samples = 0
        self._dropped = 0  # samples, before the oldest block
        self._heard_until = time.monotonic()
        self._adc_end: float | None = None  # when the last block ended, by the device's clock
        self._is_new = False

    def expect_a_gap(self) -> None:
        """The next block comes from a device that was opened again."""
        self._is_new = True

    def put(self, samples: npt.NDArray[np.float32], frames: int, clock: Any, status: Any) -> None:
        """As PortAudio calls it: (frames, n_channels) samples, valid only until this returns."""
        now = time.monotonic()
        seconds = frames / self._rate
        lost = 0
        if self._is_new:
            lost = round((now - seconds - self._heard_until) * self._rate)
        elif status.input_overflow and self._adc_end:
            lost = round((clock.inputBufferAdcTime - self._adc_end) * self._rate)
        overflow = bool(status.input_overflow)
        self._is_new, self._heard_until = False, now
        # 0 where the driver does not know.
        adc = clock.inputBufferAdcTime
        self._adc_end = adc + seconds if adc else None
        notice = "the system lost samples" if overflow else ""
        with self._ready:
            self.num_overruns += overflow
            self._blocks.append(Block(samples.copy(), max(0, lost), notice))
            self._num_samples += frames
            self._drop_oldest()
            self._ready.notify()

    def _drop_oldest(self) -> None:
        if self._num_samples <= self._max_samples:
            return
        self.num_overruns += self._dropped == 0
        while self._num_samples > self._max_samples and len(self._blocks) > 1:
            block = self._blocks.popleft()
            self._num_samples -= len(block.samples)
            self._dropped += len(block.samples) + block.lost

    def get(self, timeout: float) -> Block | None:
        """The oldest block, or None when there is none for `timeout` seconds."""
        with self._ready:
            if not self._ready.wait_for(lambda: bool(self._blocks), timeout):
                return None
            block = self._blocks.popleft()
            self._num_samples -= len(block.samples)
            dropped, self._dropped = self._dropped, 0
        if not dropped:
            return block
        notice = f"too slow: {dropped / self._rate:.1f} s were dropped"
        return Block(block.samples, block.lost + dropped, notice)


def _sounddevice() -> Any:
    try:
        import sounddevice
    except ImportError:
        raise MissingExtraError("sounddevice", "the microphone", "mic") from None
    except OSError as error:
        # Its wheels for Linux come without the library that they need.
        raise AudioError(
            f"the microphone needs PortAudio: {error}; mend it with: apt install libportaudio2"
        ) from None
    return sounddevice


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())

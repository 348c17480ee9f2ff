"""Recordings and pipes as streams, and a microphone that fails in all the ways they do."""

import io
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import save, sweep
from stream_helpers import RATE, Loudness

from deepspectrumlite.audio import load_audio
from deepspectrumlite.errors import AudioError, MissingExtraError
from deepspectrumlite.microphone import Microphone, list_microphones, microphone
from deepspectrumlite.sources import raw_pcm, recording
from deepspectrumlite.stream import StreamingClassifier, StreamSettings


def joined(blocks):
    return np.concatenate([block.samples for block in blocks])


def test_a_recording_comes_in_blocks_at_the_rate_of_the_model(tmp_path):
    path = save(tmp_path / "sweep.wav", sweep(44_100, 3.21), 44_100)
    blocks = list(recording(path, 16_000, block_seconds=0.25))
    assert max(len(block.samples) for block in blocks) == 4000
    assert all((block.lost, block.notice) == (0, "") for block in blocks)
    np.testing.assert_array_equal(joined(blocks), load_audio(path, 16_000), strict=True)


def test_a_recording_that_is_missing(tmp_path):
    with pytest.raises(AudioError, match="no such file"):
        next(recording(tmp_path / "none.wav", 16_000))


class Trickle(io.RawIOBase):
    """Gives its bytes in pieces of the given sizes, again and again."""

    def __init__(self, data, sizes):
        self._data, self._sizes = data, sizes
        self._reads = 0

    def read(self, size=-1):
        take = min(size, self._sizes[self._reads % len(self._sizes)])
        self._reads += 1
        piece, self._data = self._data[:take], self._data[take:]
        return piece


@pytest.mark.parametrize("sizes", [[1], [3], [1, 7, 2, 64], [10**6]])
@pytest.mark.parametrize(("encoding", "kind"), [("s16le", "<i2"), ("f32le", "<f4")])
@pytest.mark.parametrize("channels", [1, 3])
def test_pcm_at_any_split_of_its_bytes(sizes, encoding, kind, channels):
    rng = np.random.default_rng(0)
    samples = rng.integers(-(2**15), 2**15, (501, channels)).astype(kind)
    stream = Trickle(samples.tobytes(), sizes)
    blocks = list(raw_pcm(stream, 1000, encoding=encoding, channels=channels, block_seconds=0.1))
    assert max(len(block.samples) for block in blocks) <= 100
    np.testing.assert_array_equal(joined(blocks), samples, strict=True)
    assert {block.notice for block in blocks} == {""}


def test_pcm_of_a_stream_that_reads_what_is_there():
    samples = np.arange(1000, dtype=np.int16)
    np.testing.assert_array_equal(
        joined(raw_pcm(io.BytesIO(samples.tobytes()), 16_000))[:, 0], samples
    )


def test_a_frame_that_is_cut_off_is_told():
    blocks = list(raw_pcm(io.BytesIO(bytes(4 * 10 + 3)), 1000, channels=2))
    assert len(joined(blocks)) == 10
    assert blocks[-1].notice == "3 bytes at the end are less than a frame of 4, and left out"
    assert list(raw_pcm(io.BytesIO(b""), 1000)) == []


def test_a_connection_that_breaks_ends_the_stream():
    class Broken(io.BytesIO):
        def read1(self, size):
            data = super().read1(size)
            if not data:
                raise ConnectionResetError(104, "Connection reset by peer")
            return data

    blocks = list(raw_pcm(Broken(bytes(20)), 1000))
    assert len(joined(blocks)) == 10
    assert blocks[-1].notice == "the input broke off: Connection reset by peer"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sample_rate": 0}, "the rate is 0; allowed: 1 to 1000000 Hz"),
        ({"channels": 0}, "0 channels; allowed: 1 to 64"),
        ({"encoding": "mp3"}, "the format is 'mp3'; allowed: s16le, f32le"),
    ],
)
def test_impossible_pcm_is_refused(options, message):
    with pytest.raises(AudioError, match=message):
        raw_pcm(io.BytesIO(), **{"sample_rate": 1000, **options})


def test_a_real_pipe_with_odd_splits():
    """A process that writes odd numbers of bytes, slowly, and ends inside a frame."""
    code = (
        "import sys, time\n"
        "data = bytes(range(256)) * 40 + b'x'\n"
        "for at in range(0, len(data), 1537):\n"
        "    sys.stdout.buffer.write(data[at : at + 1537]); sys.stdout.buffer.flush()\n"
        "    time.sleep(0.005)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        blocks = list(raw_pcm(process.stdout, 16_000, channels=2))
    wanted = np.frombuffer(bytes(range(256)) * 40, np.int16).reshape(-1, 2)
    np.testing.assert_array_equal(joined(blocks), wanted)
    assert blocks[-1].notice.startswith("1 bytes at the end")


class PortAudioError(Exception):
    """As sounddevice has it."""


class FakeSounddevice:
    """Devices that play `script`: numbers of samples, and what else happens.

    Each stream takes its steps from the script in a thread: a number is a block of ones of this
    length; "stall" ends the thread; ("overflow", seconds) is a block after a hole. What stands in
    `fail` fails so often when it is tried again: "initialize" or "start". When PortAudio starts
    again, `later` are the devices.
    """

    PortAudioError = PortAudioError

    def __init__(self, script, *, missing_for=0, devices=1, fail=(), later=None):
        self._fail, self._later, self._is_on = dict(fail), later, True
        self.streams = []
        self.script, self.missing_for = list(script), missing_for
        self.started, self.attempts, self.options = 0, 0, None
        self._devices = [
            {"name": "speakers", "max_input_channels": 0, "default_samplerate": 48_000.0}
        ]
        if devices:
            self._devices.append(
                {"name": "mic", "max_input_channels": 1, "default_samplerate": 1000.0}
            )

    def query_devices(self, device=None, kind=None):
        if kind is None:
            return self._devices
        if device not in (None, "mic", *range(1, len(self._devices))):
            raise ValueError(f"No input device matching {device!r}")
        if len(self._devices) == 1:
            raise PortAudioError("Error querying device -1")
        return self._devices[device if isinstance(device, int) else 1]

    def fails(self, what):
        if not self._fail.get(what):
            return False
        self._fail[what] -= 1
        return True

    def _terminate(self):
        if not self._is_on:
            raise PortAudioError("PortAudio not initialized")
        self._is_on = False

    def _initialize(self):
        self.attempts += 1
        if self.fails("initialize"):
            raise PortAudioError("Error initializing PortAudio")
        self._is_on = True
        self._devices = self._later or self._devices

    def InputStream(self, **options):  # noqa: N802
        if self.started and self.attempts <= self.missing_for:
            raise PortAudioError("Device unavailable")
        if not self._is_on:
            raise PortAudioError("PortAudio not initialized")
        self.options = options
        self.streams.append(FakeStream(self, options["callback"], options["samplerate"]))
        return self.streams[-1]


class FakeStream:
    def __init__(self, module, callback, rate):
        self._module, self._callback, self._rate = module, callback, rate
        self._thread = threading.Thread(target=self._play)
        self.is_closed = False

    def start(self):
        if self._module.started and self._module.fails("start"):
            raise PortAudioError("Error starting stream")
        self._module.started += 1
        self._thread.start()

    def close(self):
        assert not self.is_closed, "PortAudio would use memory that it has freed"
        self.is_closed = True
        if self._thread.is_alive():
            self._thread.join()

    def _play(self):
        position = 1.0  # by the device's clock
        while self._module.script:
            step = self._module.script.pop(0)
            if step == "stall":
                return
            overflow = isinstance(step, tuple)
            hole, size = step[1:] if overflow else (0, step)
            position += hole
            clock = SimpleNamespace(inputBufferAdcTime=position)
            buffer = np.ones((size, 1), np.float32)
            self._callback(buffer, size, clock, SimpleNamespace(input_overflow=overflow))
            buffer[:] = np.nan  # PortAudio uses it again.
            position += size / self._rate
            time.sleep(0.002)


def listen(module, num_samples, *, device=None, stall=0.3, **options):
    """All blocks of a fake microphone until so many samples have come."""
    blocks, count = [], 0
    options = {"stall_seconds": stall, "retry_seconds": 0.02, **options}
    with Microphone(module, None, device, **options) as mic:
        for block in mic.blocks():
            blocks.append(block)
            count += len(block.samples)
            assert len(blocks) < 100, "it never comes back"
            if count >= num_samples:
                return mic, blocks
    return None


def test_a_microphone_that_works():
    module = FakeSounddevice([100, 50, 100])
    mic, blocks = listen(module, 250)
    assert (mic.name, mic.sample_rate) == ("mic", 1000)
    assert (module.options["samplerate"], module.options["channels"]) == (1000, 1)
    assert [len(block.samples) for block in blocks] == [100, 50, 100]
    assert all((block.lost, block.notice) == (0, "") for block in blocks)
    np.testing.assert_array_equal(joined(blocks), np.ones((250, 1), np.float32), strict=True)
    assert (mic.num_overruns, mic.num_failures) == (0, 0)


def test_samples_that_the_system_lost_are_counted_by_the_clock_of_the_device():
    mic, blocks = listen(FakeSounddevice([100, ("overflow", 0.123, 50), 10]), 160)
    assert [block.lost for block in blocks] == [0, 123, 0]
    assert [block.notice for block in blocks] == ["", "the system lost samples", ""]
    assert mic.num_overruns == 1


def test_a_program_that_is_too_slow_loses_the_oldest():
    module = FakeSounddevice([100] * 8)
    with Microphone(module, None, None, queue_seconds=0.3) as mic:
        mic._stream._thread.join()  # when all has been played
        blocks = mic.blocks()
        found = [next(blocks) for _ in range(3)]
    assert [block.lost for block in found] == [500, 0, 0]
    assert [block.notice for block in found] == ["too slow: 0.5 s were dropped", "", ""]
    assert mic.num_overruns == 1


def test_a_device_that_disappears_is_opened_again_and_the_clock_stays_right():
    module = FakeSounddevice([100, 100, "stall", 100, 100], missing_for=3)
    began = time.monotonic()
    mic, blocks = listen(module, 400)
    took = time.monotonic() - began
    notices = [block.notice for block in blocks if block.notice]
    assert notices == ["mic: no samples; opening it again", "mic: opened again"]
    assert (module.started, module.attempts, mic.num_failures) == (2, 4, 1)
    lost = [block.lost for block in blocks if len(block.samples)]
    assert lost[:2] == [0, 0]
    assert lost[3] == 0
    # The stall and three failed attempts, less what the new device had already recorded.
    assert 0.2 * RATE <= lost[2] <= took * RATE


def test_portaudio_that_does_not_start_at_once_is_started_again():
    module = FakeSounddevice([100, "stall", 100], fail={"initialize": 2})
    mic, _ = listen(module, 200)
    assert (module.started, module.attempts, mic.num_failures) == (2, 3, 1)


def test_a_stream_that_does_not_start_is_closed():
    module = FakeSounddevice([100, "stall", 100], fail={"start": 2})
    listen(module, 200)
    assert len(module.streams) == 4
    assert all(stream.is_closed for stream in module.streams)


def device(name, channels=1, **more):
    return {"name": name, "max_input_channels": channels, "default_samplerate": 1000.0, **more}


@pytest.mark.parametrize(
    ("given", "later", "wanted"),
    [
        # Another one has come before it.
        (1, [device("speakers", 0), device("camera"), device("mic")], 2),
        ("mic", [device("mic of a camera"), device("mic")], 1),
        # One of the same name that cannot record, and a twin.
        (1, [device("mic", 0), device("mic"), device("mic")], 1),
        (1, [device("mic"), device("camera"), device("mic")], 0),
        # The same by way of another part of the system.
        (1, [device("mic", hostapi=1), device("mic", hostapi=1), device("mic", hostapi=None)], 2),
        (None, [device("camera")], None),
    ],
)
def test_a_device_is_found_again_by_its_name(given, later, wanted):
    module = FakeSounddevice([100, "stall", 100], later=later)
    mic, _ = listen(module, 200, device=given)
    assert (mic.name, module.options["device"]) == ("mic", wanted)


def test_a_device_is_waited_for_while_only_others_are_there():
    others = [device("speakers", 0), device("camera")]
    module = FakeSounddevice([100, "stall", 100], later=others)
    with Microphone(module, None, 1, stall_seconds=0.05, retry_seconds=0.01) as mic:
        blocks = mic.blocks()
        assert [len(next(blocks).samples) for _ in range(5)] == [100, 0, 0, 0, 0]
        others.insert(1, device("mic"))
        while not len(next(blocks).samples):
            pass
    assert module.options["device"] == 1


def test_a_program_can_end_while_the_device_is_away():
    module = FakeSounddevice([100, "stall"], missing_for=10**6)
    with Microphone(module, None, None, stall_seconds=0.05, retry_seconds=0.01) as mic:
        blocks = [block for block, _ in zip(mic.blocks(), range(5), strict=False)]
    assert [len(block.samples) for block in blocks] == [100, 0, 0, 0, 0]
    assert module.started == 1


def test_a_stalled_microphone_keeps_events_in_their_place():
    module = FakeSounddevice([500, "stall", 500])
    _, blocks = listen(module, 1000)
    classifier = StreamingClassifier(Loudness(), StreamSettings(hysteresis=0, ignore=["quiet"]))
    for block in blocks:
        classifier.push_gap(block.lost)
        classifier.push(block.samples)
    lost = sum(block.lost for block in blocks)
    assert classifier.seconds == pytest.approx((1000 + lost) / RATE)
    assert classifier.num_lost_samples == lost


def test_no_microphone(monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", FakeSounddevice([], devices=0))
    with pytest.raises(AudioError, match="the default microphone cannot be opened: Error query"):
        microphone()
    assert list_microphones() == []


def test_a_microphone_that_does_not_exist(monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", FakeSounddevice([]))
    with pytest.raises(AudioError, match="the microphone 'usb' cannot be opened: No input device"):
        microphone(device="usb")
    assert list_microphones() == ["1  mic  (1 channels, 1000 Hz)"]


def test_a_microphone_at_another_rate(monkeypatch):
    module = FakeSounddevice([10])
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    with microphone(8000, "mic") as mic:
        assert mic.sample_rate == 8000
    assert (module.options["samplerate"], module.options["device"]) == (8000, "mic")


def test_sounddevice_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(MissingExtraError, match=r"the microphone needs .*deepspectrumlite\[mic\]"):
        microphone()


def test_a_system_without_portaudio(monkeypatch, tmp_path):
    (tmp_path / "sounddevice.py").write_text("raise OSError('PortAudio library not found')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    with pytest.raises(AudioError, match="PortAudio library not found; mend it with: apt install"):
        microphone()

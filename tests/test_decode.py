import io
import os
import struct
import subprocess
import sys
import threading
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from helpers import RATE, refused, rms, save, sweep

from deepspectrumlite import audio
from deepspectrumlite.audio import audio_info, load_audio
from deepspectrumlite.errors import AudioError, MissingExtraError


def save_av(path: Path, codec: str, channels: np.ndarray, rate: int, **options: str) -> Path:
    """Encode (n_channels, num_samples)."""
    layout = {1: "mono", 2: "stereo"}[len(channels)]
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        context = stream.codec_context
        context.open()
        resampler = av.AudioResampler(
            context.format, layout, context.sample_rate, frame_size=context.frame_size or 1024
        )
        frame = av.AudioFrame.from_ndarray(channels, format="fltp", layout=layout)
        frame.sample_rate = rate
        frame.pts = 0  # the encoder's delay is only noted, and so removed, where times are known
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return path


def patch(path: Path, offset: int, content: bytes) -> Path:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)
    return path


# Formats

EXACT = [
    ("wav", "WAV", "PCM_U8", 1 / 127),
    ("wav", "WAV", "PCM_16", 1 / 32767),
    ("wav", "WAV", "PCM_24", 1e-6),
    ("wav", "WAV", "PCM_32", 1e-7),
    ("wav", "WAV", "FLOAT", 0),
    ("wav", "WAV", "DOUBLE", 0),
    ("wav", "WAV", "ALAW", 0.02),
    ("wav", "WAV", "ULAW", 0.02),
    ("wav", "WAVEX", "PCM_16", 1 / 32767),
    ("rf64", "RF64", "PCM_16", 1 / 32767),
    ("w64", "W64", "PCM_16", 1 / 32767),
    ("aiff", "AIFF", "PCM_16", 1 / 32767),
    ("au", "AU", "PCM_16", 1 / 32767),
    ("caf", "CAF", "PCM_16", 1 / 32767),
    ("flac", "FLAC", "PCM_S8", 1 / 127),
    ("flac", "FLAC", "PCM_16", 1 / 32767),
    ("flac", "FLAC", "PCM_24", 1e-6),
]
LOSSY = [
    ("wav", "WAV", "GSM610"),
    ("wav", "WAV", "IMA_ADPCM"),
    ("wav", "WAV", "MS_ADPCM"),
    ("ogg", "OGG", "VORBIS"),
    ("opus", "OGG", "OPUS"),
    ("mp3", "MP3", "MPEG_LAYER_III"),
]


@pytest.mark.parametrize(("suffix", "format", "subtype", "tolerance"), EXACT)
def test_uncompressed_and_lossless_formats(tmp_path, suffix, format, subtype, tolerance):
    original = sweep(RATE, 1.5)
    path = save(tmp_path / f"a.{suffix}", original, format=format, subtype=subtype)
    info = audio_info(path)
    assert (info.sample_rate, info.channels, info.num_frames) == (RATE, 1, len(original))
    assert info.duration_seconds == 1.5
    waveform = load_audio(path, RATE)
    assert waveform.dtype == np.float32
    assert waveform.shape == original.shape
    assert np.abs(waveform - original).max() <= tolerance


@pytest.mark.parametrize(("suffix", "format", "subtype"), LOSSY)
def test_lossy_formats(tmp_path, suffix, format, subtype):
    original = sweep(RATE, 2.0)
    path = save(tmp_path / f"a.{suffix}", original, format=format, subtype=subtype)
    assert audio_info(path).duration_seconds == pytest.approx(2.0, abs=0.05)
    waveform = load_audio(path, RATE)
    assert len(waveform) == pytest.approx(len(original), abs=0.05 * RATE)
    # Aligned to the sample: the next best shift of this sweep is below 0.99.
    assert np.corrcoef(waveform[: len(original)], original)[0, 1] > 0.99


@pytest.mark.parametrize(
    ("name", "codec", "rate", "correlation"),
    [
        ("a.m4a", "aac", 44_100, 0.99),
        ("a.webm", "libopus", 48_000, 0.99),
        ("a.mka", "pcm_s16le", 44_100, 0.9999),
        ("alac.m4a", "alac", 44_100, 0.9999),
        ("yamaha.wav", "adpcm_yamaha", 44_100, 0.99),  # not in libsndfile
    ],
)
def test_containers_through_pyav(tmp_path, name, codec, rate, correlation):
    original = sweep(rate, 2.0)
    path = save_av(tmp_path / name, codec, np.stack([original, original / 2]), rate)
    info = audio_info(path)
    assert (info.sample_rate, info.channels) == (rate, 2)
    assert info.duration_seconds == pytest.approx(2.0, abs=0.05)
    waveform = load_audio(path, rate)
    assert waveform.dtype == np.float32
    n = min(len(waveform), len(original))
    assert n > 0.98 * len(original)
    assert np.corrcoef(waveform[:n], original[:n])[0, 1] > correlation
    assert rms(waveform) == pytest.approx(0.75 * rms(original), rel=0.02)
    part = load_audio(path, rate, start=0.5, end=1.25)
    np.testing.assert_array_equal(part, waveform[rate // 2 : rate * 5 // 4])


def test_a_webm_without_a_length(tmp_path):
    original = sweep(48_000, 2.0)
    path = save_av(tmp_path / "live.webm", "libopus", original[None], 48_000, live="1")
    with av.open(str(path)) as container:
        assert container.duration is None
    info = audio_info(path)
    assert info.num_frames == len(load_audio(path, 48_000))
    assert info.duration_seconds == pytest.approx(2.0, abs=0.03)


def test_a_colon_in_a_name_is_not_a_protocol(tmp_path, monkeypatch):
    save_av(tmp_path / "a.m4a", "aac", sweep(44_100, 0.5)[None], 44_100)
    (tmp_path / "a.m4a").rename(tmp_path / "data:a.m4a")
    monkeypatch.chdir(tmp_path)
    assert audio_info(Path("data:a.m4a")).sample_rate == 44_100


def test_pyav_absent(tmp_path, monkeypatch):
    path = save_av(tmp_path / "a.m4a", "aac", sweep(44_100, 0.5)[None], 44_100)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtraError, match=r"a\.m4a: not a format that soundfile") as caught:
        load_audio(path, RATE)
    assert "pip install 'deepspectrumlite[av]'" in str(caught.value)
    assert len(load_audio(save(tmp_path / "a.wav", sweep(RATE, 1)), RATE)) == RATE


def test_import_does_not_load_pyav():
    code = "import sys, deepspectrumlite.audio; sys.exit('av' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("rate", [16_000, 22_050, 44_100])
def test_a_part_of_an_mp3_of_the_lowest_bit_rate(tmp_path, rate):
    noise = np.random.default_rng(0).normal(0, 0.1, 10 * rate)
    path = save(tmp_path / "a.mp3", noise, rate, bitrate_mode="CONSTANT", compression_level=0.99)
    whole = load_audio(path, rate)
    for start in (3.3, 4.7, 8.0):
        part = load_audio(path, rate, start=start, end=start + 1)
        first = round(start * rate)
        assert np.abs(part - whole[first : first + rate]).max() < 1e-4


# Lengths that headers get wrong


def without_xing(path: Path) -> Path:
    """Drop the first frame of an MP3, which holds the Xing header and no sound."""
    content = path.read_bytes()
    assert b"Xing" in content[:200]
    kbits = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)[content[2] >> 4]
    path.write_bytes(content[144_000 * kbits // 44_100 + (content[2] >> 1 & 1) :])
    return path


@pytest.fixture
def noise_and_silence() -> tuple[np.ndarray, np.ndarray]:
    noise = np.random.default_rng(0).normal(0, 0.1, 220_500).astype(np.float32)
    return noise, np.zeros_like(noise)


def test_an_mp3_shorter_than_its_estimate(tmp_path, noise_and_silence):
    noise, silence = noise_and_silence
    path = tmp_path / "a.mp3"
    save(path, np.concatenate([silence, noise]), 44_100, bitrate_mode="VARIABLE")
    without_xing(path)
    assert audio_info(path).num_frames > 1.2 * 441_000
    assert len(load_audio(path, 44_100)) == pytest.approx(441_000, abs=3000)
    with pytest.raises(AudioError, match=r"end is 11\.\d+ s; .* decodes to 10\.\d+ s"):
        load_audio(path, RATE, end=11.5)
    with pytest.raises(AudioError, match=r"no samples from 11\.500 s on; .* an earlier start"):
        load_audio(path, RATE, start=11.5)


def test_an_mp3_longer_than_its_estimate_is_not_cut_off(tmp_path, noise_and_silence):
    path = tmp_path / "a.mp3"
    save(path, np.concatenate(noise_and_silence), 44_100, bitrate_mode="VARIABLE")
    assert len(load_audio(path, 44_100)) == 441_000
    with pytest.raises(AudioError, match="varying bit rate without a Xing header"):
        load_audio(without_xing(path), 44_100)


def test_a_flac_without_a_length(tmp_path):
    path = save(tmp_path / "a.flac", sweep(RATE, 4.0))
    whole = load_audio(path, RATE)
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0  # the 36 bits of total_samples in STREAMINFO
    content[22:26] = bytes(4)
    path.write_bytes(content)
    assert audio_info(path).num_frames == len(whole)
    np.testing.assert_array_equal(load_audio(path, RATE), whole)
    np.testing.assert_array_equal(load_audio(path, RATE, start=1, end=2), whole[RATE : 2 * RATE])


@pytest.mark.parametrize("length", [0x7FFFF000, 0x7FFFFFFF, 0xFFFFFFFF])
def test_a_wav_from_a_pipe(tmp_path, length):
    path = save(tmp_path / "a.wav", sweep(RATE, 1.0))
    whole = load_audio(path, RATE)
    patch(path, path.read_bytes().index(b"data") + 4, struct.pack("<I", length))
    np.testing.assert_array_equal(load_audio(path, RATE), whole)


# Bad input


def test_missing_directory_and_empty(tmp_path):
    (tmp_path / "empty.wav").touch()
    refused(tmp_path / "none.wav", "no such file; check the path")
    refused(tmp_path, "a directory; allowed: an audio file")
    refused(tmp_path / "empty.wav", "empty, 0 bytes")


def test_a_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    asked = threading.Thread(
        target=refused, args=(tmp_path / "pipe.wav", "a device or a pipe"), daemon=True
    )
    asked.start()
    asked.join(5)
    assert not asked.is_alive()


def test_no_permission(tmp_path, monkeypatch):
    path = save(tmp_path / "a.wav", sweep(RATE, 1.0))

    def denied(self: Path, mode: str) -> io.BufferedReader:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", denied)  # a chmod would not stop root
    refused(path, "cannot be read: Permission denied; check its permissions")


@pytest.mark.parametrize("name", ["a.txt", "a.wav", "a.mp3", "a.au", "a.vox", "a.snd"])
def test_text_is_not_audio(tmp_path, name):
    (tmp_path / name).write_text("hello world\n" * 100)
    refused(tmp_path / name, "not an audio file")


def test_random_bytes_and_images_are_not_audio(tmp_path):
    (tmp_path / "a.wav").write_bytes(np.random.default_rng(0).bytes(20_000))
    refused(tmp_path / "a.wav", "not an audio file")
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width = stream.height = 64
        container.mux(stream.encode(av.VideoFrame(64, 64, "yuv420p")))
        container.mux(stream.encode(None))
    refused(tmp_path / "a.mp4", "not an audio file: no audio stream")


def test_raw_files(tmp_path):
    path = save(tmp_path / "a.wav", sweep(RATE, 1.0))
    refused(path.rename(tmp_path / "a.RAW"), "a .raw file has no header .* convert it to WAV")


@pytest.mark.parametrize("suffix", ["wav", "aiff", "ogg"])
def test_a_header_without_samples(tmp_path, suffix):
    refused(save(tmp_path / f"a.{suffix}", np.zeros(0)), "a header with 0 samples")


def test_a_wav_whose_recorder_was_interrupted(tmp_path):
    path = save(tmp_path / "a.wav", sweep(RATE, 1.0))
    patch(path, path.read_bytes().index(b"data") + 4, bytes(4))
    refused(path, "a header with 0 samples; .* ffmpeg")


@pytest.mark.parametrize("suffix", ["wav", "aiff"])
@pytest.mark.parametrize("lost", [2, 20_000])
def test_a_truncated_file_by_its_chunks(tmp_path, suffix, lost):
    path = save(tmp_path / f"a.{suffix}", sweep(RATE, 1.0))
    os.truncate(path, path.stat().st_size - lost)
    refused(path, r"truncated: the header promises \d+ bytes of audio, but \d+ follow")
    with pytest.raises(AudioError, match="truncated"):
        audio_info(path)


def test_a_chunk_after_the_audio_may_be_cut(tmp_path):
    path = save(tmp_path / "a.wav", sweep(RATE, 1.0))
    with path.open("ab") as file:
        file.write(b"LIST" + struct.pack("<I", 1000) + b"INFO")
    assert len(load_audio(path, RATE)) == RATE


@pytest.mark.parametrize(("suffix", "subtype"), [("ogg", "VORBIS"), ("opus", "OPUS")])
@pytest.mark.parametrize("lost", [1, 30, 0.5])
def test_a_truncated_ogg(tmp_path, suffix, subtype, lost):
    path = tmp_path / f"a.{suffix}"
    noise = 0.1 * np.random.default_rng(0).normal(size=5 * 16000)
    soundfile.write(path, noise, 16000, format="OGG", subtype=subtype)
    assert abs(audio_info(path).duration_seconds - 5) < 0.1
    size = path.stat().st_size
    os.truncate(path, size - lost if lost >= 1 else int(size * lost))
    with pytest.raises(AudioError, match="truncated: it does not end with the last page"):
        load_audio(path, 16000)


def test_a_truncated_flac(tmp_path):
    path = save(tmp_path / "a.flac", sweep(RATE, 4.0))
    os.truncate(path, path.stat().st_size // 2)
    refused(path, "truncated")


def test_a_flac_whose_header_promises_more(tmp_path):
    path = save(tmp_path / "a.flac", sweep(RATE, 4.0))
    patch(path, 22, struct.pack(">I", 5 * RATE))
    refused(path, r"truncated: decoding ends at 4\.000 s, but the header promises 5\.000 s")


def test_a_damaged_flac(tmp_path, monkeypatch):
    monkeypatch.setattr(audio, "BLOCK_SAMPLES", 4096)
    path = save(tmp_path / "a.flac", sweep(RATE, 4.0))
    patch(path, path.stat().st_size // 2, bytes(2000))
    refused(path, r"truncated or damaged, somewhere after [1-2]\.\d+ s")


def test_a_truncated_m4a(tmp_path):
    path = save_av(tmp_path / "a.m4a", "aac", sweep(44_100, 2.0)[None], 44_100)
    os.truncate(path, path.stat().st_size // 2)
    refused(path, "not an audio file")


def test_a_damaged_m4a(tmp_path):
    path = save_av(tmp_path / "a.m4a", "aac", sweep(44_100, 2.0)[None], 44_100)
    start = path.read_bytes().index(b"mdat") + 2000
    patch(path, start, np.random.default_rng(0).bytes(4000))
    refused(path, "truncated or damaged: cannot be decoded to its end")


def test_a_codec_without_a_decoder(tmp_path):
    path = save_av(tmp_path / "a.m4a", "aac", sweep(44_100, 1.0)[None], 44_100)
    path.write_bytes(path.read_bytes().replace(b"mp4a", b"xxxx").replace(b"esds", b"free"))
    refused(path, "a codec that FFmpeg has no decoder for")


def test_headers_with_absurd_numbers(tmp_path):
    path = save(tmp_path / "a.wav", sweep(RATE, 1.0))
    refused(patch(path, 24, struct.pack("<I", 0)), "no sample rate in the header; allowed: 1 to")
    refused(
        patch(path, 24, struct.pack("<I", 1_000_001)),
        "the sample rate is 1000001 Hz; allowed: 1 to 1000000",
    )
    patch(path, 24, struct.pack("<I", RATE))
    refused(patch(path, 22, struct.pack("<H", 0)), "0 channels in the header; allowed: 1 to 64")
    refused(patch(path, 22, struct.pack("<H", 2000)), "over 1024 channels .* allowed: 1 to 64")
    path = save(tmp_path / "b.wav", np.zeros((100, 65)))
    refused(path, "65 channels; allowed: 1 to 64; mix it down")
    os.truncate(path, 20)
    refused(path, "not an audio file")
    path = save(tmp_path / "a.caf", sweep(RATE, 1.0))
    os.truncate(path, 20_000)
    refused(path, "a broken header .*malformed")

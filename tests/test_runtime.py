import json
import os
import random
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import soundfile

from deepspectrumlite.audio import BLOCK_SAMPLES, convert_audio, load_audio
from deepspectrumlite.description import Description, read_description
from deepspectrumlite.errors import AudioError, MissingExtraError, ModelError
from deepspectrumlite.metadata import write_metadata
from deepspectrumlite.model import TorchRecogniser, load_model
from deepspectrumlite.predict import predict_file
from deepspectrumlite.runtime import Predictor

RATE = 8000


@pytest.fixture(scope="module")
def predictor(exported):
    return Predictor(exported)


@pytest.fixture(scope="module", params=["exported", "exported_onnx"])
def of_each_kind(request):
    return Predictor(request.getfixturevalue(request.param))


@pytest.fixture(scope="module")
def recogniser(trained):
    return TorchRecogniser(load_model(trained))


def test_it_says_the_same_as_torch(of_each_kind, recogniser, tones):
    clips = sorted(tones.parent.glob("*.wav"))
    assert len(clips) == 30
    for clip in clips:
        found, expected = of_each_kind.predict(clip), predict_file(recogniser, clip)
        np.testing.assert_allclose(found.segment_scores, expected.segment_scores, atol=1e-5)
        np.testing.assert_array_equal(found.segment_ends, expected.segment_ends)
        assert found.label == expected.label


def test_extreme_segments_say_the_same_as_torch(of_each_kind, recogniser):
    rng = np.random.default_rng(0)
    segments = np.zeros((5, 4000), np.float32)
    segments[1, 0] = 1
    segments[2] = 1
    segments[3] = 1e-30 * rng.uniform(-1, 1, 4000)
    segments[4] = 1e4 * rng.uniform(-1, 1, 4000)
    found = of_each_kind.score(segments)
    np.testing.assert_allclose(found, recogniser.score(segments), atol=1e-4)
    assert found.dtype == np.float32


def test_it_is_what_the_file_says(of_each_kind, recogniser):
    assert of_each_kind.decision.labels == recogniser.decision.labels
    assert of_each_kind.decision.output == "softmax"
    assert of_each_kind.recipe == recogniser.recipe
    assert of_each_kind.cutting.segment_samples == recogniser.cutting.segment_samples
    assert (of_each_kind.batch_size, of_each_kind.stream) == (1, None)


@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (8000, 2), (44_100, 2), (6000, 3)])
def test_samples_are_predicted_as_the_file_that_holds_them(predictor, tmp_path, rate, channels):
    samples = np.random.default_rng(1).uniform(-0.9, 0.9, (int(1.3 * rate), channels))
    samples = samples.astype(np.float32)
    soundfile.write(tmp_path / "a.wav", samples, rate, subtype="FLOAT")
    from_file = predictor.predict(str(tmp_path / "a.wav"))
    found = predictor.predict(samples, rate)
    assert len(found.segment_scores) == 3
    np.testing.assert_array_equal(found.segment_scores, from_file.segment_scores)
    np.testing.assert_array_equal(found.segment_starts, from_file.segment_starts)
    np.testing.assert_allclose(found.segment_ends, from_file.segment_ends, atol=1 / RATE)
    if rate == RATE:
        np.testing.assert_array_equal(predictor.scores(samples), from_file.scores)


@pytest.mark.parametrize(("rate", "new_rate"), [(48_000, 16_000), (44_100, 8000), (8000, 22_050)])
def test_samples_from_memory_are_resampled_as_a_file_is(tmp_path, rate, new_rate):
    # Longer than a block, in which a file is read.
    samples = np.random.default_rng(2).uniform(-1, 1, (BLOCK_SAMPLES + 12_345, 1))
    soundfile.write(tmp_path / "a.wav", samples, rate, subtype="FLOAT")
    found = convert_audio(samples.astype(np.float32), rate, new_rate)
    np.testing.assert_array_equal(found, load_audio(tmp_path / "a.wav", new_rate))


ODD_SAMPLES = [
    (np.zeros(0, np.float32), None, "0 samples, which is not one at 8000 Hz"),
    (np.zeros((0, 2), np.float32), None, "0 samples"),
    (np.ones(2, np.float32), 192_000, "2 samples, which is not one"),
    (np.float32(1), None, r"samples of shape \(\); allowed"),
    (np.zeros((2, 8000), np.float32), None, r"shape \(2, 8000\); allowed.* 1 to 64 channels"),
    (np.zeros((1, 2, 3), np.float32), None, r"shape \(1, 2, 3\)"),
    (np.zeros((8000, 0), np.float32), None, r"shape \(8000, 0\)"),
    (np.array([0, np.nan], np.float32), None, "NaN or infinite samples"),
    (np.array([0, -np.inf]), None, "NaN or infinite samples"),
    (np.zeros(8000, np.int16), None, "samples of type int16; allowed: floating point"),
    ([0, 1], None, "samples of type int64"),
    (np.zeros(8000), -1, "sample_rate is -1; allowed"),
]


@pytest.mark.parametrize(("samples", "rate", "message"), ODD_SAMPLES)
def test_odd_samples_are_refused(predictor, samples, rate, message):
    with pytest.raises(AudioError, match=message):
        predictor.predict(samples, rate)


def test_odd_segments_are_refused(predictor):
    for segments in (np.zeros(4000), np.zeros((2, 3999)), np.zeros((1, 1, 4000))):
        with pytest.raises(AudioError, match=r"segments of shape .*allowed: \(n_segments, 4000\)"):
            predictor.score(segments)
    with pytest.raises(AudioError, match="NaN"):
        predictor.score(np.full((1, 4000), np.nan))
    assert predictor.score(np.zeros((0, 4000))).shape == (0, 3)


@pytest.mark.parametrize("kind", ["exported", "exported_onnx"])
def test_threads_do_not_disturb_each_other(request, kind, tones):
    path, clips = request.getfixturevalue(kind), sorted(tones.parent.glob("*.wav")) * 3
    expected = [Predictor(path).predict(clip).segment_scores for clip in clips[:30]] * 3
    shared = Predictor(path)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda clip: shared.predict(clip).segment_scores, clips))
    np.testing.assert_array_equal(found, expected)

    def by_its_own(_):
        own = Predictor(path)
        return [own.predict(clip).segment_scores for clip in clips[:30]]

    with ThreadPoolExecutor(4) as pool:
        for scores in pool.map(by_its_own, range(4)):
            np.testing.assert_array_equal(scores, expected[:30])


def test_more_threads_give_the_same_scores(exported, exported_onnx, predictor, tone):
    expected = predictor.predict(tone("low", 9)).scores
    for path in (exported, exported_onnx):
        found = Predictor(path, threads=2).predict(tone("low", 9)).scores
        np.testing.assert_allclose(found, expected, atol=1e-5)
    for threads in (0, 20_000):
        with pytest.raises(ModelError, match=f"threads is {threads}; allowed: 1 to 256"):
            Predictor(exported, threads=threads)


# Prints a line for each file: what is wrong with it, or its scores.
OPEN_EACH = """
import sys
from deepspectrumlite.errors import ModelError
from deepspectrumlite.runtime import Predictor
import numpy as np
for path in sys.argv[1:]:
    try:
        print(Predictor(path).scores(np.ones(4000, np.float32)).tolist())
    except ModelError as error:
        print("ModelError:", error)
"""


def open_each(paths):
    """In a process of its own, as a broken model can end the one that it is opened in."""
    command = [sys.executable, "-c", OPEN_EACH, *map(str, paths)]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = found.stdout.splitlines()
    assert len(lines) == len(paths)
    return lines


def damaged(data, seed=0):
    """The bytes of a file: cut off, overwritten, with flipped bits; anywhere, but not past it."""
    rng = random.Random(seed)
    size = len(data)
    yield from (data[:n] for n in (0, 7, 8, 1000, size // 2, size - 3000, size - 22, size - 1))
    yield os.urandom(5000)
    yield data[:8] + os.urandom(5000)
    yield data[: size // 2] + bytes(4096) + data[size // 2 + 4096 :]
    for place in (9, size // 3, size // 2, *(rng.randrange(size - 4000) for _ in range(5))):
        yield data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]


@pytest.mark.parametrize("kind", ["exported", "exported_onnx"])
def test_damaged_files_are_refused_and_end_no_process(request, kind, tmp_path):
    source = request.getfixturevalue(kind)
    paths = []
    for number, data in enumerate(damaged(source.read_bytes())):
        paths.append(tmp_path / f"{number}{source.suffix}")
        paths[-1].write_bytes(data)
    *lines, last = open_each([*paths, source])
    for line, path in zip(lines, paths, strict=True):
        assert line.startswith(f"ModelError: {path}: "), line
    assert len(json.loads(last)) == 3


def test_foreign_files_are_refused(exported, exported_onnx, tmp_path):
    with zipfile.ZipFile(exported) as archive:
        size = json.loads(archive.read("deepspectrumlite.json"))["file"]["bytes"]
    plain = tmp_path / "plain.tflite"
    plain.write_bytes(exported.read_bytes()[:size])
    labelled = tmp_path / "labelled.tflite"
    labelled.write_bytes(plain.read_bytes())
    with zipfile.ZipFile(labelled, "a") as archive:
        archive.writestr("labels.txt", "a\nb\n")
    import onnx

    model = onnx.load(exported_onnx)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "plain.onnx")
    for path in (plain, labelled, tmp_path / "plain.onnx"):
        with pytest.raises(ModelError, match=r"no description inside, so not exported by"):
            Predictor(path)


@pytest.mark.parametrize("kind", ["exported", "exported_onnx"])
def test_a_graph_that_is_not_what_its_description_says(request, kind, tmp_path):
    source = request.getfixturevalue(kind)
    path = tmp_path / source.name
    values = json.loads(read_description(source).to_json())
    for change in ({"labels": ["high", "low"]}, {"segment_samples": 4001}):
        path.write_bytes(source.read_bytes())
        write_metadata(path, Description.from_json(json.dumps(values | change)))
        with pytest.raises(ModelError, match=r"the graph takes and gives .*its description says"):
            Predictor(path)


@pytest.mark.parametrize("kind", ["exported", "exported_onnx"])
def test_a_newer_file_is_refused(request, kind, tmp_path):
    source = request.getfixturevalue(kind)
    path = tmp_path / source.name
    path.write_bytes(source.read_bytes())
    values = json.loads(read_description(source).to_json()) | {"version": "9.0"}
    newer = Description(**values | {"format": 2})
    write_metadata(path, newer)
    with pytest.raises(
        ModelError, match=r"written by deepspectrumlite 9\.0 in format 2; .*upgrade"
    ):
        Predictor(path)


def test_without_onnxruntime(exported_onnx, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"'onnxruntime'.*'deepspectrumlite\[onnx\]'"):
        Predictor(exported_onnx)

import json
import zipfile

import numpy as np
import onnx
import pytest
import soundfile
import torch
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from ai_edge_quantizer.quantizer import Quantizer
from ai_edge_quantizer.recipe import dynamic_wi8_afp32
from mediapipe.tasks.metadata import metadata_schema_py_generated as metadata_schema
from mediapipe.tasks.python import audio
from mediapipe.tasks.python.components.containers import AudioData
from mediapipe.tasks.python.core.base_options import BaseOptions

from deepspectrumlite.description import Description, read_description
from deepspectrumlite.errors import ModelError
from deepspectrumlite.metadata import add_tflite_metadata, describe, write_metadata
from deepspectrumlite.model import load_model
from deepspectrumlite.runtime import Predictor


@pytest.fixture(scope="module")
def bare(exported):
    """The bytes of the .tflite model alone, with the metadata's buffer, without the archive."""
    return exported.read_bytes()[: sealed(exported)["bytes"]]


def sealed(path):
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("deepspectrumlite.json"))["file"]


def run(model, segment):
    interpreter = Interpreter(model_content=model)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], segment)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


@pytest.fixture(scope="module")
def segment():
    return np.random.default_rng(0).uniform(-1, 1, (1, 4000)).astype(np.float32)


def read_metadata(path):
    """The ModelMetadata in a .tflite file, read by the classes generated from its schema."""
    model = schema.Model.GetRootAs(path.read_bytes())
    [entry] = [
        model.Metadata(i)
        for i in range(model.MetadataLength())
        if model.Metadata(i).Name() == b"TFLITE_METADATA"
    ]
    data = model.Buffers(entry.Buffer()).DataAsNumpy().tobytes()
    assert data[4:8] == b"M001"
    return metadata_schema.ModelMetadata.GetRootAs(data)


def test_the_metadata_say_what_goes_in_and_comes_out(exported):
    found = read_metadata(exported)
    assert found.Version() == read_description(exported).version.encode()
    assert found.MinParserVersion() == b"1.3.0"
    [graph] = [found.SubgraphMetadata(i) for i in range(found.SubgraphMetadataLength())]
    assert (graph.InputTensorMetadataLength(), graph.OutputTensorMetadataLength()) == (1, 1)
    waveform, scores = graph.InputTensorMetadata(0), graph.OutputTensorMetadata(0)
    assert (waveform.Name(), scores.Name()) == (b"waveform", b"scores")
    content = waveform.Content()
    assert content.ContentPropertiesType() == metadata_schema.ContentProperties.AudioProperties
    properties = metadata_schema.AudioProperties()
    union = content.ContentProperties()
    properties.Init(union.Bytes, union.Pos)
    assert (properties.SampleRate(), properties.Channels()) == (8000, 1)
    [labels] = [scores.AssociatedFiles(i) for i in range(scores.AssociatedFilesLength())]
    assert labels.Name() == b"labels.txt"
    assert labels.Type() == metadata_schema.AssociatedFileType.TENSOR_AXIS_LABELS
    with zipfile.ZipFile(exported) as archive:
        assert archive.testzip() is None
        assert archive.read("labels.txt") == b"high\nlow\nnoise\n"


# MediaPipe brings kernels of its own: one of them may round an integer the other way.
@pytest.mark.parametrize(
    ("kind", "tolerance"),
    [("float32.tflite", 1e-5), ("float16.tflite", 1e-5), ("int8.tflite", 0.02)],
)
def test_mediapipe_gives_the_same_scores(converted, tones, kind, tolerance):
    options = audio.AudioClassifierOptions(BaseOptions(model_asset_path=str(converted[kind])))
    predictor = Predictor(converted[kind])
    with audio.AudioClassifier.create_from_options(options) as classifier:
        for name in ("low-test-0", "high-test-1", "noise-test-2"):
            waveform, rate = soundfile.read(tones.parent / f"{name}.wav", dtype="float32")
            results = classifier.classify(AudioData.create_from_array(waveform, rate))
            found = [
                {x.category_name: x.score for x in result.classifications[0].categories}
                for result in results
            ]
            parts = predictor.predict(waveform, rate).to_json(segments=True)["segments"]
            assert len(found) == len(parts) == 2
            for scores, part in zip(found, parts, strict=True):
                assert scores == pytest.approx(part["scores"], abs=tolerance)


def buffers_of(model):
    """[(where its data starts, data)] of the buffers that have any."""
    root = schema.Model.GetRootAs(model)
    found = [root.Buffers(i) for i in range(root.BuffersLength())]
    return [
        (x._tab.Vector(x._tab.Offset(4)), x.DataAsNumpy().tobytes())
        for x in found
        if x.DataLength()
    ]


def test_nothing_but_the_metadata_changes(bare, segment):
    again = add_tflite_metadata(bare, b"M" * 1001)
    before, after = buffers_of(bare), buffers_of(again)
    # The same place as of the metadata before.
    assert after[-1][1] == b"M" * 1001
    assert [data for _, data in after[:-1]] == [data for _, data in before[:-1]]
    assert [start % 16 for start, _ in after] == [0] * len(after)
    root = schema.Model.GetRootAs(again)
    names = [root.Metadata(i).Name() for i in range(root.MetadataLength())]
    assert names.count(b"TFLITE_METADATA") == 1
    assert schema.Model.ModelBufferHasIdentifier(again, 0)
    assert root.Version() == 3
    np.testing.assert_array_equal(run(again, segment), run(bare, segment))


def test_weights_behind_the_flatbuffer_are_taken_in(bare, segment, tmp_path):
    (tmp_path / "float.tflite").write_bytes(bare)
    quantizer = Quantizer(str(tmp_path / "float.tflite"))
    quantizer.load_quantization_recipe(dynamic_wi8_afp32())
    quantizer.quantize().export_model(str(tmp_path / "int8.tflite"))
    quantised = (tmp_path / "int8.tflite").read_bytes()
    root = schema.Model.GetRootAs(quantised)
    outer = [root.Buffers(i).Size() for i in range(root.BuffersLength())]
    assert sum(outer) > len(quantised) / 2
    described = add_tflite_metadata(quantised, b"M" * 5000)
    np.testing.assert_array_equal(run(described, segment), run(quantised, segment))
    found = buffers_of(described)
    assert len(found[-1][1]) == 5000
    assert sum(len(data) for _, data in found) > sum(outer)
    assert [start % 16 for start, _ in found] == [0] * len(found)


def test_a_description_replaces_the_one_before(exported, exported_onnx, tmp_path):
    for source in (exported, exported_onnx):
        path = tmp_path / source.name
        path.write_bytes(source.read_bytes())
        settings = json.loads(read_description(path).to_json()) | {"stream": {"smoothing": "mean"}}
        write_metadata(path, Description.from_json(json.dumps(settings)))
        assert read_description(path).stream == {"smoothing": "mean"}
        assert path.stat().st_size < source.stat().st_size + 100
        clip = np.sin(np.arange(6000, dtype=np.float32) / 5)
        np.testing.assert_array_equal(
            Predictor(path).predict(clip).scores, Predictor(source).predict(clip).scores
        )
    read_metadata(tmp_path / exported.name)
    model = onnx.load(tmp_path / exported_onnx.name)
    assert [entry.key for entry in model.metadata_props].count("deepspectrumlite") == 1
    onnx.checker.check_model(model)
    assert model.graph == onnx.load(exported_onnx).graph


@pytest.mark.parametrize(
    ("output", "labels", "columns"),
    [
        ("sigmoid", ["cough\nor two", "b"], ["cough or two", "b"]),
        ("linear", ["age", "höhe"], ["age", "höhe"]),
        ("ordinal", ["low", "high"], ["value"]),
    ],
)
def test_labels_are_the_names_of_the_scores(exported, tmp_path, output, labels, columns):
    path = tmp_path / "a.tflite"
    path.write_bytes(exported.read_bytes())
    numbers = {"sigmoid": "thresholds", "ordinal": "values"}.get(output, "thresholds")
    changes = {"output": output, "labels": labels, numbers: [0.0, 1.0]}
    settings = json.loads(read_description(path).to_json()) | changes
    write_metadata(path, Description.from_json(json.dumps(settings)))
    with zipfile.ZipFile(path) as archive:
        assert archive.read("labels.txt").decode().splitlines() == columns
    assert read_description(path).labels == labels


def test_the_same_model_gives_the_same_file_and_digest(trained, bare, tmp_path):
    model, files = load_model(trained), []
    for name in ("a.tflite", "b.tflite"):
        (tmp_path / name).write_bytes(bare)
        write_metadata(tmp_path / name, describe(model))
        files.append((tmp_path / name).read_bytes())
    assert files[0] == files[1]
    digest = describe(model).digest
    assert digest == describe(load_model(trained)).digest
    with torch.no_grad():
        model.head[0].bias[0] += 1e-6
    assert describe(model).digest != digest


def test_the_score_of_being_unknown_is_named_last(exported, tmp_path):
    path = tmp_path / "a.tflite"
    path.write_bytes(exported.read_bytes())
    settings = json.loads(read_description(path).to_json()) | {"unknown": "energy"}
    write_metadata(path, Description.from_json(json.dumps(settings)))
    with zipfile.ZipFile(path) as archive:
        assert archive.read("labels.txt") == b"high\nlow\nnoise\nunknown\n"
    assert read_description(path).labels == ["high", "low", "noise"]
    # Which this graph does not have.
    with pytest.raises(ModelError, match=r"gives \[\[\[1, 4000\]\], \[\[1, 3\]\]\], but its desc"):
        Predictor(path)

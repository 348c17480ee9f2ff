"""Exported files that also give the image: what it is, and that nothing else changes."""

import json
import shutil

import numpy as np
import onnx
import pytest
import soundfile
import torch
from mediapipe.tasks.python import audio
from mediapipe.tasks.python.components.containers import AudioData
from mediapipe.tasks.python.core.base_options import BaseOptions
from test_convert import waveforms
from test_metadata import read_metadata

from deepspectrumlite import export
from deepspectrumlite.config import ExportOptions, parse_recipe
from deepspectrumlite.convert import KINDS, add_image, to_tflite
from deepspectrumlite.description import Description, read_description
from deepspectrumlite.errors import AudioError, ExportError, ModelError
from deepspectrumlite.export import export_model
from deepspectrumlite.graph import IMAGE, read_graph, show_image
from deepspectrumlite.layers import totals
from deepspectrumlite.metadata import describe, write_metadata
from deepspectrumlite.model import Classifier
from deepspectrumlite.runtime import Predictor
from deepspectrumlite.subjects import STAGES, open_subject


@pytest.fixture(scope="module")
def imaged(tmp_path_factory, converted, trained_model):
    """The file of each kind, with the image as a second output; leave them as they are."""
    folder, made = tmp_path_factory.mktemp("imaged"), {}
    for kind in KINDS:
        made[kind] = folder / kind
        shutil.copy(converted[kind], made[kind])
        about = describe(trained_model, precision=kind.split(".")[0], image=True)
        add_image(made[kind], about.image_shape)
        write_metadata(made[kind], about)
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_the_image_is_that_of_training(imaged, trained_model, kind):
    predictor, batch = Predictor(imaged[kind]), waveforms(4000)
    with torch.no_grad():
        expected = trained_model.frontend(torch.from_numpy(batch)).numpy()
    found = np.stack([predictor.image(row) for row in batch])
    assert found.shape == (4, 3, 32, 32)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_scores_stay_as_they_were(imaged, converted, kind):
    batch = waveforms(4000)
    found, expected = Predictor(imaged[kind]).score(batch), Predictor(converted[kind]).score(batch)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["float32.tflite", "int8.tflite", "float32.onnx"])
def test_what_takes_a_file_apart_takes_one_with_an_image(imaged, converted, kind):
    found, expected = open_subject(imaged[kind]), open_subject(converted[kind])
    assert list(found.stages(1)) == list(expected.stages(1))
    results = {name: np.squeeze(work()) for name, work in found.stages(1).items()}
    assert set(results) == set(STAGES)
    assert results["front-end"].shape == (3, 32, 32)
    np.testing.assert_allclose(results["network"], results["end to end"], atol=1e-6)
    parts = totals(found.layers()), totals(expected.layers())
    assert parts[0].keys() == parts[1].keys() == {"front-end", "backbone", "head", "all"}
    for part, total in parts[1].items():
        assert (parts[0][part].parameters, parts[0][part].macs) == (total.parameters, total.macs)
        more = 1 if part in ("front-end", "all") else 0
        assert parts[0][part].layers == total.layers + more


def test_the_commands_take_such_a_file(imaged, tones, run, tmp_path):
    path, clip = imaged["int8.tflite"], tones.parent / "low-test-0.wav"
    code, text, _ = run("predict", path, clip, "--json")
    assert code == 0
    assert json.loads(text)["label"] == Predictor(path).predict(clip).label
    code, text, _ = run("stream", path, clip, "--json")
    assert code == 0
    for arguments in (("stats", path), ("benchmark", path, "--threads", 1, "--repeats", 3)):
        assert run(*arguments)[0] == 0


def test_mediapipe_gives_the_same_scores(imaged, tones):
    path, clip = imaged["float32.tflite"], tones.parent / "low-test-0.wav"
    options = audio.AudioClassifierOptions(BaseOptions(model_asset_path=str(path)))
    waveform, rate = soundfile.read(clip, dtype="float32")
    parts = Predictor(path).predict(waveform, rate).to_json(segments=True)["segments"]
    with audio.AudioClassifier.create_from_options(options) as classifier:
        results = classifier.classify(AudioData.create_from_array(waveform, rate))
    for result, part in zip(results, parts, strict=True):
        # It takes the image for scores, too; the true ones come first.
        assert len(result.classifications) == 2
        scores = {x.category_name: x.score for x in result.classifications[0].categories}
        assert scores == pytest.approx(part["scores"], abs=1e-5)


def test_the_metadata_name_both_outputs(imaged):
    graph = read_metadata(imaged["float32.tflite"]).SubgraphMetadata(0)
    outputs = [graph.OutputTensorMetadata(i) for i in range(graph.OutputTensorMetadataLength())]
    assert [output.Name() for output in outputs] == [b"scores", b"image"]
    assert [output.AssociatedFilesLength() for output in outputs] == [1, 0]
    [signature] = read_graph(imaged["float32.tflite"].read_bytes()).signatureDefs
    assert [argument.name for argument in signature.outputs] == [b"output_0", IMAGE]
    model = onnx.load(imaged["float32.onnx"])
    onnx.checker.check_model(model)
    assert [output.name for output in model.graph.output] == ["scores", "image"]


def test_files_without_an_image_say_so(exported):
    assert read_description(exported).image_shape is None
    with pytest.raises(ModelError, match=r"gives no image; export it again with .*--image"):
        Predictor(exported).image(np.zeros(4000, np.float32))


def test_odd_segments_have_no_image(imaged):
    predictor = Predictor(imaged["float32.tflite"])
    for segment in (np.zeros(3999), np.zeros((1, 4000))):
        with pytest.raises(AudioError, match=r"allowed: \(n_segments, 4000\)"):
            predictor.image(segment)
    with pytest.raises(AudioError, match="NaN"):
        predictor.image(np.full(4000, np.nan))


@pytest.mark.parametrize("kind", ["float32.tflite", "float32.onnx"])
def test_a_description_that_promises_another_image_is_refused(imaged, converted, tmp_path, kind):
    path = tmp_path / kind
    for source, change in ((imaged, False), (converted, True)):
        shutil.copy(source[kind], path)
        values = json.loads(read_description(path).to_json())
        write_metadata(path, Description.from_json(json.dumps(values | {"image": change})))
        with pytest.raises(ModelError, match=r"\[\[1, 3\](, \[1, 3, 32, 32\])?\]\], but its desc"):
            Predictor(path)


def test_a_size_that_the_recipe_does_not_tell_is_refused(imaged):
    values = json.loads(read_description(imaged["float32.tflite"]).to_json())
    for recipe in ({}, {"frontend": 3}, {"frontend": {"image_height": 32, "image_width": "32"}}):
        with pytest.raises(ModelError, match=r"an image whose size its recipe does not tell"):
            Description.from_json(json.dumps(values | {"recipe": recipe}))


def test_descriptions_of_before_have_no_image(exported):
    values = json.loads(read_description(exported).to_json())
    del values["image"]
    assert Description.from_json(json.dumps(values)).image is False


def test_export_gives_the_image_in_every_file(ready, trained, trained_model, tmp_path):
    out = tmp_path / "tones.tflite"
    export_model(trained, out, ExportOptions("int8", onnx=True, image=True))
    segment = waveforms(4000)[0]
    with torch.no_grad():
        expected = trained_model.frontend(torch.from_numpy(segment)[None])[0].numpy()
    for path in (out, out.with_suffix(".onnx")):
        assert read_description(path).image_shape == (1, 3, 32, 32)
        np.testing.assert_allclose(Predictor(path).image(segment), expected, atol=1e-4)


def test_the_command_knows_the_option(run, ready, trained, tmp_path):
    code, _, _ = run("export", trained, "--out", tmp_path / "tones.tflite", "--image")
    assert code == 0
    assert read_description(tmp_path / "tones.tflite").image is True


def test_a_file_with_another_image_is_not_handed_over(ready, trained, tmp_path, monkeypatch):
    class UpsideDown(Predictor):
        def image(self, segment):
            return super().image(segment)[:, ::-1]

    monkeypatch.setattr(export, "Predictor", UpsideDown)
    with pytest.raises(ExportError, match=r"float32.tflite: the image differs .* without --image"):
        export_model(trained, tmp_path / "tones.tflite", ExportOptions(image=True))
    assert list(tmp_path.iterdir()) == []


def test_a_graph_without_that_image_is_refused(exported):
    graph = read_graph(exported.read_bytes())
    with pytest.raises(ValueError, match=r"shape \[3, 32, 32\], which is not that of"):
        show_image(graph, (1, 3, 32, 64))
    for tensor in graph.subgraphs[0].tensors:
        tensor.name = b"x"
    with pytest.raises(ValueError, match="no tensor named image"):
        show_image(graph, (1, 3, 32, 32))


@pytest.mark.slow
def test_an_image_that_is_limited_last(tmp_path):
    """After a bicubic kernel the image has another layout in the graph."""
    data = {"sample_rate": 8000, "segment_seconds": 0.5, "hop_seconds": 0.5}
    section = {"image_height": 48, "image_width": 64, "n_mels": 32, "resize": "bicubic"}
    network = {"backbone": "lcnet_035", "weights": "random", "units": 8}
    recipe = parse_recipe({"data": data, "frontend": section, "model": network}, "test")
    model = Classifier(recipe, ["a", "b"]).eval()
    path, about = tmp_path / "cubic.tflite", describe(model, image=True)
    path.write_bytes(to_tflite(model))
    add_image(path, about.image_shape)
    write_metadata(path, about)
    batch = waveforms(4000)
    with torch.no_grad():
        images, scores = model.frontend(torch.from_numpy(batch)), model(torch.from_numpy(batch))
    predictor = Predictor(path)
    for row, image in zip(batch, images.numpy(), strict=True):
        np.testing.assert_allclose(predictor.image(row), image, atol=1e-4)
    np.testing.assert_allclose(predictor.score(batch), scores.numpy(), atol=1e-5)

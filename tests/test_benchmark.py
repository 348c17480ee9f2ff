"""Latency, memory and layers of models: what is counted, in which order, and without what."""

import json
import subprocess
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from deepspectrumlite import __version__
from deepspectrumlite import benchmark as measure
from deepspectrumlite.benchmark import (
    FirstPrediction,
    Latency,
    Measured,
    benchmark,
    describe_machine,
    first_prediction,
    peak_memory,
    time_in_turn,
)
from deepspectrumlite.convert import to_int8, to_onnx, to_tflite
from deepspectrumlite.errors import MissingExtraError, ModelError
from deepspectrumlite.graph import read_graph, write_graph
from deepspectrumlite.layers import totals
from deepspectrumlite.metadata import describe, write_metadata
from deepspectrumlite.model import Classifier
from deepspectrumlite.runtime import Predictor
from deepspectrumlite.subjects import STAGES, OnnxFile, TfliteFile, TorchModel, open_subject

pytestmark = pytest.mark.usefixtures("one_thread")

SETTINGS = ("model.backbone=lcnet_050", "train.fine_tune_share=0.3", "model.activation=relu")


@pytest.fixture(scope="module")
def model(make_recipe):
    """A network of which nothing folds away, as of a trained one."""
    torch.manual_seed(0)
    found = Classifier(make_recipe(*SETTINGS), ["a", "b", "c"], weights="random")
    for norm in (module for module in found.modules() if isinstance(module, nn.BatchNorm2d)):
        for values in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
            values.uniform_(0.5, 1.5)
    return found.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, model):
    found = tmp_path_factory.mktemp("benchmark")
    model.save(found / "run" / "model")
    return found


@pytest.fixture(scope="module")
def tflite(folder, model):
    path = folder / "float32.tflite"
    path.write_bytes(to_tflite(model))
    write_metadata(path, describe(model))
    return path


@pytest.fixture(scope="module")
def int8(folder, model, tflite):
    path = folder / "int8.tflite"
    segments = np.random.default_rng(0).normal(0, 0.1, (4, 4000)).astype(np.float32)
    path.write_bytes(to_int8(tflite.read_bytes(), segments))
    write_metadata(path, describe(model, precision="int8"))
    return path


@pytest.fixture(scope="module")
def onnx(folder, model):
    path = folder / "float32.onnx"
    to_onnx(model, 4000, path)
    write_metadata(path, describe(model))
    return path


@pytest.fixture
def subject(request, folder):
    """The model in one of its forms."""
    if request.param == "torch":
        return TorchModel(folder / "run")
    return open_subject(request.getfixturevalue(request.param))


ALL = pytest.mark.parametrize("subject", ["torch", "tflite", "int8", "onnx"], indirect=True)


@ALL
def test_the_parts_together_do_what_the_whole_does(subject, tflite):
    stages = subject.stages(threads=1)
    assert tuple(stages) == STAGES
    image = stages["front-end"]()
    assert image.size == 3 * 32 * 32
    np.testing.assert_array_equal(image, stages["network"].args[-1])
    np.testing.assert_allclose(stages["network"](), stages["end to end"](), atol=1e-6)
    tolerance = 0.05 if subject.precision == "int8" else 1e-5
    expected = Predictor(tflite).score(stages["end to end"].args[-1])
    np.testing.assert_allclose(stages["end to end"](), expected, atol=tolerance)


@ALL
def test_layers_are_counted_alike_in_all_forms(subject, folder, model):
    expected = totals(TorchModel(folder / "run").layers())
    found = totals(subject.layers())
    assert list(found) == ["front-end", "backbone", "head", "all"]
    for part in found:
        assert found[part].macs == pytest.approx(expected[part].macs, rel=0.02)
    assert found["front-end"].parameters == 0
    # BatchNorm's parameters are in the convolutions before, in exported files.
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    assert 0.95 * n_parameters < found["all"].parameters <= n_parameters
    # Two layers with their biases: features to units, units to labels.
    n_features = model.backbone.num_features
    assert found["head"].parameters == (n_features + 1) * 16 + 17 * 3
    assert found["head"].macs == n_features * 16 + 16 * 3
    assert found["all"].macs == sum(found[part].macs for part in list(found)[:3])


def test_layers_of_a_folder_are_its_modules(folder, model):
    layers = {layer.name: layer for layer in TorchModel(folder / "run").layers()}
    assert sum(layer.parameters for layer in layers.values()) == sum(
        parameter.numel() for parameter in model.parameters()
    )
    stem = layers["backbone.network.conv_stem"]
    assert (stem.kind, stem.shape, stem.macs) == ("Conv2d", [1, 8, 16, 16], 27 * 8 * 16 * 16)
    # Two products with a matrix of constants, and what the front-end does itself.
    assert {"frontend.dft", "frontend.mel", "frontend"} <= layers.keys()
    assert layers["frontend.mel"].constants == sum(x.numel() for x in model.frontend.mel.buffers())


def test_what_learns_is_by_the_share_of_the_recipe(folder, model):
    with_weights = [x for x in TorchModel(folder / "run").layers() if x.learns is not None]
    in_backbone = [layer.learns for layer in with_weights if layer.part == "backbone"]
    n_learn = round(0.3 * len(in_backbone))
    assert in_backbone == [False] * (len(in_backbone) - n_learn) + [True] * n_learn
    assert all(layer.learns for layer in with_weights if layer.part == "head")
    learned = totals(with_weights)["all"].learned
    assert 0 < learned < sum(parameter.numel() for parameter in model.parameters())


def test_bytes_tell_the_precision(tflite, int8):
    whole, small = (totals(TfliteFile(path).layers()) for path in (tflite, int8))
    assert whole["head"].constant_bytes == 4 * whole["head"].constants
    # Weights of one byte, biases of four.
    weights, biases = whole["head"].constants - 19, 19
    assert small["head"].constant_bytes == weights + 4 * biases
    assert small["front-end"].constant_bytes == whole["front-end"].constant_bytes


def test_a_file_without_an_image_has_only_the_whole(tmp_path, tflite, model):
    graph = read_graph(tflite.read_bytes())
    for tensor in graph.subgraphs[0].tensors:
        tensor.name = tensor.name.replace(b"image", b"picture")
    path = tmp_path / "whole.tflite"
    path.write_bytes(write_graph(graph))
    write_metadata(path, describe(model))
    assert list(TfliteFile(path).stages(1)) == ["end to end"]
    measured = quick([path])[0]
    assert list(measured.macs) == list(measured.latency[1]) == ["end to end"]
    assert measured.macs["end to end"] == totals(TfliteFile(tflite).layers())["all"].macs


def quick(paths, **options):
    """Measure without fresh processes."""
    with pytest.MonkeyPatch.context() as context:
        context.setattr(measure, "first_prediction", lambda path: FirstPrediction(0.5, 6e7))
        return benchmark(paths, **{"repeats": 3, **options})


def test_models_are_measured_side_by_side(tflite, int8, onnx, folder):
    told = []
    paths = [tflite, int8, onnx, folder / "run"]
    found = quick(paths, progress=lambda *step: told.append(step))
    kinds = [(each.path, each.kind, each.precision) for each in found]
    assert kinds == [
        (str(tflite), ".tflite", "float32"),
        (str(int8), ".tflite", "int8"),
        (str(onnx), ".onnx", "float32"),
        (str(folder / "run"), "torch", "float32"),
    ]
    assert [each.file_bytes for each in found[:3]] == [x.stat().st_size for x in paths[:3]]
    weights = folder / "run" / "model" / "model.safetensors"
    assert found[3].file_bytes == weights.stat().st_size
    for each in found:
        assert tuple(each.latency[1]) == STAGES
        assert all(0 < latency.median <= latency.p95 for latency in each.latency[1].values())
        assert each.segment_seconds == 0.5
    assert told[:3] == [("timing, 1 thread", done, 3) for done in (1, 2, 3)]


def test_numbers_of_threads_come_one_after_the_other(int8):
    told = []
    (found,) = quick([int8], threads=[2, 1], progress=lambda what, *_: told.append(what))
    assert list(found.latency) == [2, 1]
    assert told[:6] == 3 * ["timing, 2 threads"] + 3 * ["timing, 1 thread"]


def test_the_real_time_factor_is_of_the_whole(tmp_path):
    latency = {1: {"front-end": Latency(0.1, 0.2), "end to end": Latency(0.3, 0.4)}}
    first = FirstPrediction(1.0, None)
    found = Measured("x", ".tflite", "int8", 1, 1.5, 2, None, first, latency)
    assert found.real_time_factor(1) == pytest.approx(0.2)
    measure.write_report(tmp_path / "x.json", describe_machine(), [found])
    report = json.loads((tmp_path / "x.json").read_text())
    assert report["models"][0]["real_time_factor"] == {"1": pytest.approx(0.2)}
    assert report["models"][0]["latency"]["1"]["front-end"] == {"median": 0.1, "p95": 0.2}
    assert report["machine"]["versions"]["deepspectrumlite"] == __version__
    assert report["machine"]["versions"]["torch"] == torch.__version__.split("+")[0]
    assert report["machine"]["cores"] >= 1
    assert report["machine"]["cpu"]


def test_latency_is_median_and_95th_percentile():
    seconds = np.random.default_rng(0).permutation(np.arange(1, 102) / 100)
    assert Latency.of(seconds) == Latency(pytest.approx(0.51), pytest.approx(0.96))


def test_works_take_turns_after_a_warm_up():
    calls, told = [], []
    works = {name: partial(calls.append, name) for name in "abc"}
    times = time_in_turn(works, 4, told=lambda *step: told.append(step))
    assert "".join(calls) == "aaabbbccc" + 4 * "abc"
    assert [len(times[name]) for name in "abc"] == [4, 4, 4]
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_time_limit_ends_the_turns(monkeypatch):
    now = iter(np.arange(1000.0))
    monkeypatch.setattr(measure.time, "perf_counter", lambda: next(now))
    # Three looks at the clock in each round: before and after the call, and at the end.
    times = time_in_turn({"a": lambda: None}, 1, seconds=30)
    assert times["a"] == [1.0] * 10
    # As many rounds as a median needs.
    assert len(time_in_turn({"a": lambda: None}, 50, seconds=0.1)["a"]) == 3


def test_a_fresh_process_does_not_carry_the_memory_of_this_one(tflite):
    held = np.ones(40_000_000)  # 320 MB
    found = first_prediction(tflite, starts=1)
    assert peak_memory() > held.nbytes
    assert 20e6 < found.memory_bytes < 150e6
    assert 0.01 < found.seconds < 60


def test_a_failure_of_a_fresh_process_is_told(tmp_path):
    (tmp_path / "x.tflite").write_bytes(b"no model")
    with pytest.raises(ModelError, match=r"x\.tflite: a fresh process .* ended with 1 ") as caught:
        first_prediction(tmp_path / "x.tflite")
    assert "\n" not in str(caught.value)


def test_tflite_files_need_no_torch(int8):
    code = (
        "import sys; from pathlib import Path; from deepspectrumlite.benchmark import benchmark; "
        "from deepspectrumlite.subjects import TfliteFile; "
        f"path = Path({str(int8)!r}); found = benchmark([path], repeats=3)[0]; "
        "assert found.parameters and len(found.latency[1]) == 3; TfliteFile(path).layers(); "
        "print([x for x in ('torch', 'onnx', 'onnxruntime', 'pydantic') if x in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_onnx_files_are_timed_without_the_package_onnx(onnx, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    found = quick([onnx])[0]
    assert (found.parameters, found.macs) == (None, None)
    assert list(found.latency[1]) == ["end to end"]
    with pytest.raises(MissingExtraError, match=r"deepspectrumlite\[export\]"):
        OnnxFile(onnx).layers()


def test_foreign_files_are_refused(tmp_path, tflite):
    path = tmp_path / "foreign.tflite"
    path.write_bytes(write_graph(read_graph(tflite.read_bytes())))
    with pytest.raises(ModelError, match=r"foreign\.tflite: no description inside"):
        benchmark([tflite, path])
    with pytest.raises(ModelError, match="no model there"):
        benchmark([tmp_path])


def test_totals_leave_out_parts_that_are_not_there(tflite):
    layers = [replace(x, part="not known") for x in TfliteFile(tflite).layers()]
    found = totals(layers)
    assert list(found) == ["all"]
    assert found["all"].layers == len(layers)
    assert found["all"].learned is None

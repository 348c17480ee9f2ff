"""Conversion: every front-end setting through LiteRT and ONNX, int8 inside, and refusals."""

import collections

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from torch import nn

from deepspectrumlite import convert
from deepspectrumlite.config import parse_recipe
from deepspectrumlite.errors import ExportError
from deepspectrumlite.frontend import FrontEnd
from deepspectrumlite.graph import (
    FRONTEND,
    IMAGE,
    foreign_operators,
    operators,
    read_graph,
    write_graph,
)
from deepspectrumlite.model import Classifier

SECONDS = 0.5
# Each setting away from its default at least once, in combinations that people use.
FRONT_ENDS = {
    "default": (8000, {}),
    "linear": (8000, {"frequency": "linear", "fmin": 300.0, "fmax": 3400.0, "color_map": "magma"}),
    "power": (8000, {"scale": "power", "color_map": "inferno", "resize": "area"}),
    "mfcc": (16_000, {"n_mels": 40, "n_mfcc": 40, "lifter": 22, "top_db": "none"}),
    "grey": (16_000, {"color_map": "none", "resize": "nearest", "peak_normalise": False}),
    "cubic": (22_050, {"color_map": "plasma", "resize": "bicubic", "fft_seconds": 0.1}),
    "odd sizes": (11_025, {"window_seconds": 0.031, "hop_seconds": 0.0107, "image_width": 77}),
    "large": (44_100, {"n_mels": 64, "color_map": "cividis", "image_height": 224}),
    "sharp": (8000, {"antialias": False, "image_height": 20, "image_width": 31}),
}


@pytest.fixture(scope="module", params=FRONT_ENDS)
def frontend(request):
    rate, section = FRONT_ENDS[request.param]
    data = {"sample_rate": rate, "segment_seconds": SECONDS, "hop_seconds": SECONDS}
    sizes = {"image_height": 48, "image_width": 64, "n_mels": 32}
    recipe = parse_recipe({"data": data, "frontend": sizes | section}, "test")
    return FrontEnd(recipe.frontend, recipe.data).eval(), recipe.data.segment_samples


def waveforms(num_samples):
    """A chirp, noise, an impulse, and silence: (4, num_samples).

    Without noise far below the chirp, bins away from it would hold rounding errors alone.
    """
    time = np.arange(num_samples) / num_samples
    noise = np.random.default_rng(0).normal(0, 0.1, num_samples)
    chirp = 0.5 * np.sin(2 * np.pi * (20 * time + num_samples / 8 * time**2)) + 1e-3 * noise
    impulse = np.zeros(num_samples)
    impulse[num_samples // 3] = 1
    return np.stack([chirp, noise, impulse, np.zeros(num_samples)]).astype(np.float32)


def run_litert(data, batch):
    interpreter = Interpreter(model_content=data)
    interpreter.allocate_tensors()
    entry = interpreter.get_input_details()[0]["index"]
    out = interpreter.get_output_details()[0]["index"]
    found = []
    for row in batch:
        interpreter.set_tensor(entry, row[None])
        interpreter.invoke()
        found.append(interpreter.get_tensor(out)[0])
    return np.stack(found)


def test_litert_gives_the_image_of_training(frontend):
    frontend, num_samples = frontend
    graph = convert.to_litert(frontend, num_samples)
    batch = waveforms(num_samples)
    expected = frontend(torch.from_numpy(batch)).numpy()
    found = run_litert(write_graph(graph), batch)
    assert np.abs(found.reshape(expected.shape) - expected).max() < 1e-4
    assert not {"GATHER_ND", "RFFT2D"} & set(operators(graph))


def test_onnx_gives_the_image_of_training(frontend, tmp_path):
    frontend, num_samples = frontend
    path = tmp_path / "frontend.onnx"
    convert.to_onnx(frontend, num_samples, path)
    batch = waveforms(num_samples)
    expected = frontend(torch.from_numpy(batch)).numpy()
    session = onnxruntime.InferenceSession(str(path))
    found = np.stack([session.run(None, {"waveform": row[None]})[0][0] for row in batch])
    assert np.abs(found - expected).max() < 1e-4


def test_onnx_has_standard_operations_only(converted):
    model = onnx.load(converted["float32.onnx"])
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    assert {node.domain for node in model.graph.node} == {""}
    assert len(model.functions) == 0


@pytest.mark.parametrize("kind", ["float32.tflite", "float16.tflite", "int8.tflite"])
def test_litert_has_builtin_operations_only(converted, kind):
    assert foreign_operators(read_graph(converted[kind].read_bytes())) == []


def test_the_whole_model_gives_the_scores_of_training(converted, trained_model):
    batch = waveforms(trained_model.recipe.data.segment_samples)
    expected = trained_model(torch.from_numpy(batch)).detach().numpy()
    found = run_litert(converted["float32.tflite"].read_bytes(), batch)
    assert np.abs(found - expected).max() < 1e-5


def kinds_of(graph):
    """Operation and type of its output, for all operations."""
    tensors = graph.subgraphs[0].tensors
    names = {value: key for key, value in vars(schema.TensorType).items()}
    outputs = [op.outputs[0] for op in graph.subgraphs[0].operators]
    return [
        (name, tensors[out].name, names[tensors[out].type])
        for name, out in zip(operators(graph), outputs, strict=True)
    ]


def test_int8_leaves_front_end_and_scores_in_float_and_nothing_between(converted):
    kinds = kinds_of(read_graph(converted["int8.tflite"].read_bytes()))
    quantise = [i for i, (name, _, _) in enumerate(kinds) if name == "QUANTIZE"]
    dequantise = [i for i, (name, _, _) in enumerate(kinds) if name == "DEQUANTIZE"]
    assert len(quantise) == len(dequantise) == 1
    before, network = kinds[: quantise[0]], kinds[quantise[0] : dequantise[0]]
    assert all(kind in ("FLOAT32", "INT32") for _, _, kind in before)
    assert all(name.startswith(FRONTEND) or name == IMAGE for _, name, _ in before)
    assert {kind for _, _, kind in network} == {"INT8"}
    counted = collections.Counter(name for name, _, _ in network)
    assert counted["CONV_2D"] > 5
    assert counted["ADD"] > 0  # the residual connections
    assert kinds[-1][0] == "SOFTMAX"
    assert kinds[-1][2] == "FLOAT32"


def test_int8_weights_have_a_scale_for_each_channel(converted):
    graph = read_graph(converted["int8.tflite"].read_bytes())
    tensors = graph.subgraphs[0].tensors
    for name, op in zip(operators(graph), graph.subgraphs[0].operators, strict=True):
        if name == "CONV_2D":
            weights = tensors[op.inputs[1]]
            assert len(weights.quantization.scale) == weights.shape[0]


def test_smaller_precisions_are_smaller(converted):
    size = {kind: path.stat().st_size for kind, path in converted.items()}
    assert size["float16.tflite"] < 0.6 * size["float32.tflite"]
    assert size["int8.tflite"] < 0.35 * size["float32.tflite"]


def test_an_operation_that_litert_lacks_is_named():
    class Transform(nn.Module):
        def forward(self, x):
            return torch.linalg.qr(x.reshape(4, -1))[0]

    with pytest.raises(ExportError, match=r"LiteRT cannot run the operation .*qr") as caught:
        convert.to_litert(Transform(), 64)
    assert "\n" not in str(caught.value)


def test_an_operation_that_onnx_lacks_is_named(tmp_path):
    class Transform(nn.Module):
        def forward(self, x):
            return torch.linalg.qr(x.reshape(4, -1))[0]

    with pytest.raises(ExportError, match=r"ONNX cannot run the operation .*qr") as caught:
        convert.to_onnx(Transform(), 64, tmp_path / "x.onnx")
    assert "\n" not in str(caught.value)


def test_what_breaks_in_the_other_process_is_told(trained_model, tmp_path, monkeypatch):
    monkeypatch.setattr(convert.sys, "executable", "/bin/false")
    with pytest.raises(ExportError, match="the converter crashed"):
        convert.convert(trained_model, ["float32.tflite"], tmp_path)


@pytest.mark.slow
def test_densenet_becomes_one_piece_of_integers():
    """Its BatchNorm stands before convolutions, and it joins up to 24 tensors at once."""
    sizes = {"n_mels": 32, "image_height": 64, "image_width": 64}
    data = {"sample_rate": 8000, "segment_seconds": SECONDS, "hop_seconds": SECONDS}
    network = {"backbone": "densenet121", "weights": "random", "units": 16}
    recipe = parse_recipe({"data": data, "frontend": sizes, "model": network}, "test")
    torch.manual_seed(0)
    model = Classifier(recipe, ["a", "b", "c"]).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            # Fresh ones would fold into a number.
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    batch = waveforms(4000)
    with torch.no_grad():
        expected = model(torch.from_numpy(batch)).numpy()
    data = convert.to_tflite(model)
    assert np.abs(run_litert(data, batch) - expected).max() < 1e-5
    names = collections.Counter(operators(read_graph(data)))
    assert names["DEPTHWISE_CONV_2D"] == 62
    graph = read_graph(convert.to_int8(data, batch))
    joins = [op for op in graph.subgraphs[0].operators if op.builtinOptionsType == JOIN]
    assert max(len(op.inputs) for op in joins if "network" in output_name(graph, op)) == 2
    kinds = kinds_of(graph)
    first, last = ([name for name, _, _ in kinds].index(x) for x in ("QUANTIZE", "DEQUANTIZE"))
    assert {kind for _, _, kind in kinds[first:last]} == {"INT8"}
    # With joins of all parts there are twice as many as joins.
    assert [name for name, _, _ in kinds].count("QUANTIZE") < 30


JOIN = schema.BuiltinOptions.ConcatenationOptions


def output_name(graph, operator):
    return graph.subgraphs[0].tensors[operator.outputs[0]].name.decode()

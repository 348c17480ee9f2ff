"""Conversion: every front-end setting through LiteRT and ONNX, int8 inside, and refusals."""

import collections

import numpy as np
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
from deepspectrumlite.graph import FRONTEND, IMAGE, operators, read_graph, write_graph

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
    return FrontEnd(recipe.frontend, recipe.data).eval()


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
    graph = convert.to_litert(frontend, frontend.num_samples)
    batch = waveforms(frontend.num_samples)
    expected = frontend(torch.from_numpy(batch)).numpy()
    found = run_litert(write_graph(graph), batch)
    assert np.abs(found.reshape(expected.shape) - expected).max() < 1e-4
    assert not {"GATHER_ND", "RFFT2D"} & set(operators(graph))


def test_onnx_gives_the_image_of_training(frontend, tmp_path):
    path = tmp_path / "frontend.onnx"
    convert.to_onnx(frontend, frontend.num_samples, path)
    batch = waveforms(frontend.num_samples)
    expected = frontend(torch.from_numpy(batch)).numpy()
    session = onnxruntime.InferenceSession(str(path))
    found = np.stack([session.run(None, {"waveform": row[None]})[0][0] for row in batch])
    assert np.abs(found - expected).max() < 1e-4


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

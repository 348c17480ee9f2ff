"""From a torch module to the files of other runtimes: .tflite in float32, float16, int8, and .onnx.

:func:`convert` works in a process of its own: converters print, take gigabytes, and can crash.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from deepspectrumlite.description import ENTRY
from deepspectrumlite.errors import ExportError
from deepspectrumlite.graph import (
    Graph,
    foreign_operators,
    name_parts,
    read_graph,
    show_image,
    simplify,
    write_graph,
)
from deepspectrumlite.model import Classifier, load_model
from deepspectrumlite.progress import Progress, silent
from deepspectrumlite.subjects import onnx_image

Segments = npt.NDArray[np.float32]

KINDS = ("float32.tflite", "float16.tflite", "int8.tflite", "float32.onnx")
OPSET = 18
# Without kernels for integers, or with too few steps of 1 / 256 for what comes after the network.
_STAY_FLOAT = ("SOFTMAX", "LOGISTIC")
_IN_NETWORK = r"^network/"
# Segments that the quantiser looks at before it tells how far it is.
_CALIBRATION_PART = 8


def convert(
    model: Classifier,
    kinds: Iterable[str],
    folder: Path,
    *,
    calibration: Segments | None = None,
    progress: Progress = silent,
) -> dict[str, Path]:
    """Convert a model in a process of its own.

    Args:
        model: in evaluation mode
        kinds: some of ``KINDS``
        folder: where to write
        calibration: (n_segments, num_samples) real segments, for int8
        progress: told of every step

    Returns:
        the file of each kind, without any description inside

    Raises:
        ExportError: an operation that the format does not know, or the converter crashed
    """
    model.save(folder / "model")
    if calibration is not None:
        np.save(folder / "calibration.npy", calibration)
    command = [sys.executable, "-m", "deepspectrumlite.convert", str(folder), *kinds]
    # Converters look for accelerators and hubs otherwise, and tell of it at length.
    env = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "JAX_PLATFORMS": "cpu"}
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=env)
        try:
            error = _follow(child, progress)
        finally:
            child.kill()
            child.wait()
        if error or child.returncode:
            log.seek(0)
            last = (log.read().strip().splitlines() or ["no reason given"])[-1]
            raise ExportError(error or f"the converter crashed ({child.returncode}): {last}")
    return {kind: folder / kind for kind in kinds}


def _follow(child: "subprocess.Popen[str]", progress: Progress) -> str | None:
    """Pass on what the other process tells; its error, if it ends with one."""
    assert child.stdout is not None
    error = None
    for line in child.stdout:
        told = json.loads(line)
        if "error" in told:
            error = told["error"]
        else:
            progress(told["what"], told["done"], told["total"])
    child.wait()
    return error


def to_tflite(model: Classifier) -> bytes:
    """A model -> the contents of a .tflite file.

    The tensor between its front-end and its network is named ``image``.

    Raises:
        ExportError: an operation that LiteRT does not know; it is named
    """
    graph = to_litert(model, model.recipe.data.segment_samples)
    name_parts(graph, _of_frontend)
    return write_graph(graph)


def to_litert(module: nn.Module, num_samples: int) -> Graph:
    """A module that takes (1, num_samples) -> a graph of LiteRT's builtin operations.

    Raises:
        ExportError: an operation that LiteRT does not know; it is named
    """
    import litert_torch

    litert_torch.config.show_progress = False
    sample = (torch.zeros(1, num_samples),)
    try:
        with warnings.catch_warnings(action="ignore"), tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "converted.tflite"
            litert_torch.convert(module.eval(), sample).export(str(path))
            graph = read_graph(path.read_bytes())
    except Exception as error:  # whatever a converter raises, down to its compiler's own errors
        raise ExportError(_refusal("LiteRT", error)) from error
    _check_builtin(graph)
    simplify(graph)
    return graph


def _check_builtin(graph: Graph) -> None:
    foreign = foreign_operators(graph)
    if foreign:
        raise ExportError(
            f"LiteRT has no builtin operation for {', '.join(foreign)}; choose another "
            "model.backbone, or export to .onnx"
        )


def _of_frontend(name: str) -> bool:
    # Operations that were merged carry the names of both.
    return "FrontEnd_frontend" in name and "Backbone_backbone" not in name


def to_int8(data: bytes, segments: Segments, progress: Progress = silent) -> bytes:
    """A float .tflite -> one with the network in int8; front-end, input and scores stay float32.

    Weights have a scale for each channel, activations one for each tensor, from what
    (n_segments, num_samples) real segments make of them.
    """
    from ai_edge_quantizer import quantizer
    from ai_edge_quantizer.algorithm_manager import AlgorithmName
    from ai_edge_quantizer.qtyping import TFLOperationName as Name

    work = quantizer.Quantizer(bytearray(data))
    work.add_static_config(_IN_NETWORK, Name.ALL_SUPPORTED, 8, 8)
    for name in _STAY_FLOAT:
        work.update_quantization_recipe(
            _IN_NETWORK, Name(name), algorithm_key=AlgorithmName.NO_QUANTIZE
        )
    signature, argument = _signature(data)
    found = None
    with warnings.catch_warnings(action="ignore"):
        for first in range(0, len(segments), _CALIBRATION_PART):
            progress("calibrating int8", first, len(segments))
            part = [{argument: x[None]} for x in segments[first : first + _CALIBRATION_PART]]
            found = work.calibrate({signature: part}, found, num_threads=os.cpu_count() or 1)
        quantised = work.quantize(found, enable_progress_bar=False, enable_progress_report=False)
    return _written(quantised)


def to_float16(data: bytes) -> bytes:
    """A float .tflite -> one with the network's weights in float16: half the size."""
    from ai_edge_quantizer import quantizer
    from ai_edge_quantizer.algorithm_manager import AlgorithmName
    from ai_edge_quantizer.qtyping import TFLOperationName as Name

    work = quantizer.Quantizer(bytearray(data))
    for name in (Name.CONV_2D, Name.DEPTHWISE_CONV_2D, Name.FULLY_CONNECTED):
        work.add_weight_only_config(
            _IN_NETWORK, name, 16, algorithm_key=AlgorithmName.FLOAT_CASTING
        )
    return _written(work.quantize(enable_progress_bar=False, enable_progress_report=False))


def _written(result: Any) -> bytes:
    # The quantiser puts constants behind the graph, where a zip has to go.
    graph = read_graph(bytes(result.quantized_model))
    _check_builtin(graph)
    return write_graph(graph)


def _signature(data: bytes) -> tuple[str, str]:
    """Names of a file's only entry point, and of its input."""
    from ai_edge_litert.interpreter import Interpreter

    signatures: Mapping[str, Any] = Interpreter(model_content=data).get_signature_list()
    name, arguments = next(iter(signatures.items()))
    return name, arguments["inputs"][0]


def to_onnx(module: nn.Module, num_samples: int, path: Path) -> None:
    """A module from (1, num_samples) to (1, n_outputs) -> an .onnx file, weights included.

    Raises:
        ExportError: an operation that ONNX does not know; it is named
    """
    try:
        with warnings.catch_warnings(action="ignore"):
            torch.onnx.export(
                module.eval(),
                (torch.zeros(1, num_samples),),
                str(path),
                input_names=["waveform"],
                output_names=["scores"],
                opset_version=OPSET,
                dynamo=True,
                external_data=False,
            )
    except Exception as error:  # as above
        raise ExportError(_refusal("ONNX", error)) from error


def add_image(path: Path, shape: tuple[int, int, int, int]) -> None:
    """Make the image, (1, 3, height, width), a second output of a file.

    A description that stands in the file is no longer that of its model: write another.

    Raises:
        ExportError: no one tensor of that size stands between front-end and network
    """
    try:
        if path.suffix == ".onnx":
            _show_onnx_image(path, shape)
        else:
            graph = read_graph(path.read_bytes())
            show_image(graph, shape)
            path.write_bytes(write_graph(graph))
    except ValueError as error:
        raise ExportError(f"{path.name}: {error}; export without --image") from error


def _show_onnx_image(path: Path, shape: tuple[int, ...]) -> None:
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(path)
    source = onnx_image(model.graph)
    if source is None:
        raise ValueError("no one tensor divides this graph")
    sizes = numpy_helper.from_array(np.array(shape, np.int64), "image_shape")
    model.graph.initializer.append(sizes)
    model.graph.node.append(helper.make_node("Reshape", [source, sizes.name], ["image"]))
    image = helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, shape)
    model.graph.output.append(image)
    others = [entry for entry in model.metadata_props if entry.key != ENTRY]
    del model.metadata_props[:]
    model.metadata_props.extend(others)
    onnx.save(model, path)


def _refusal(runtime: str, error: Exception) -> str:
    """One line that names the operation, as far as the converter's error tells it."""
    texts, cause = [], error
    while cause is not None:
        texts.append(f"{type(cause).__name__}: {cause}")
        cause = cause.__cause__ or cause.__context__  # type: ignore[assignment]
    found = re.search(
        r"\b(?:aten|prims|torchvision|quantized_decomposed)(?:\.|::)[\w.]+", " ".join(texts)
    )
    reason = " ".join(texts[-1].split())[:300]
    return (
        f"{runtime} cannot run the operation {found[0] if found else '(not named)'} of this "
        f"network ({reason}); choose another model.backbone, or another format"
    )


def main() -> None:
    """The other process: ``python -m deepspectrumlite.convert FOLDER KIND...``."""
    folder, kinds = Path(sys.argv[1]), sys.argv[2:]
    # What converters print goes to the log; only we talk to the first process.
    talk = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def tell(**message: object) -> None:
        print(json.dumps(message), file=talk, flush=True)

    def progress(what: str, done: int, total: int) -> None:
        tell(what=what, done=done, total=total)

    try:
        _convert_all(load_model(folder / "model"), kinds, folder, progress)
    except ExportError as error:
        tell(error=str(error))
        sys.exit(1)


def _convert_all(model: Classifier, kinds: list[str], folder: Path, progress: Progress) -> None:
    num_samples = model.recipe.data.segment_samples
    if "float32.onnx" in kinds:
        progress("converting to ONNX", 0, 1)
        to_onnx(model, num_samples, folder / "float32.onnx")
    if not any(kind.endswith(".tflite") for kind in kinds):
        return
    progress("converting to LiteRT", 0, 1)
    data = to_tflite(model)
    (folder / "float32.tflite").write_bytes(data)
    if "float16.tflite" in kinds:
        (folder / "float16.tflite").write_bytes(to_float16(data))
    if "int8.tflite" in kinds:
        segments = np.load(folder / "calibration.npy")
        (folder / "int8.tflite").write_bytes(to_int8(data, segments, progress))


if __name__ == "__main__":
    main()

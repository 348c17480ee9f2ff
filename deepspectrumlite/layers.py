"""What models are made of: layers of a model folder, operations of exported files, their cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

if TYPE_CHECKING:
    import torch

    from deepspectrumlite.graph import Graph, Operator
    from deepspectrumlite.model import Classifier

Part: TypeAlias = Literal["front-end", "backbone", "head", "not known"]

# By the names of the classifier's own modules.
_PARTS: dict[str, Part] = {"frontend": "front-end", "backbone": "backbone", "head": "head"}


@dataclass(frozen=True)
class Layer:
    """A layer of a model folder, or an operation of an exported file.

    Attributes:
        name: of the module, or of the tensor that it makes
        part: where it belongs
        kind: class of the module, or name of the operation
        shape: of what comes out
        parameters: numbers that were learned; the front-end has none
        constants: all numbers that are stored with it
        constant_bytes: what they take
        macs: multiplications with an addition, of convolutions and matrix products
        learns: whether the recipe fine-tunes it; None: nothing to learn, or not known
    """

    name: str
    part: Part
    kind: str
    shape: list[int]
    parameters: int
    constants: int
    constant_bytes: int
    macs: int
    learns: bool | None = None


@dataclass(frozen=True)
class Total:
    """Sums over the layers of a part, or of all; ``learned`` are the parameters fine-tuned."""

    layers: int
    parameters: int
    learned: int | None
    constants: int
    constant_bytes: int
    macs: int


def totals(layers: Sequence[Layer]) -> dict[str, Total]:
    """Sums for each part that there is, and for "all"."""
    parts = {str(part): [x for x in layers if x.part == part] for part in _PARTS.values()}
    parts["all"] = list(layers)
    is_known = any(layer.learns is not None for layer in layers)
    return {
        part: Total(
            layers=len(found),
            parameters=sum(layer.parameters for layer in found),
            learned=sum(x.parameters for x in found if x.learns) if is_known else None,
            constants=sum(layer.constants for layer in found),
            constant_bytes=sum(layer.constant_bytes for layer in found),
            macs=sum(layer.macs for layer in found),
        )
        for part, found in parts.items()
        if found
    }


def tflite_layers(graph: "Graph", recipe: Mapping[str, Any]) -> list[Layer]:
    """Operations of a .tflite file with their constants, in the order in which they run.

    Args:
        graph: the whole one
        recipe: what the model was trained by
    """
    from deepspectrumlite.graph import operators

    kinds, parts = operators(graph), _tflite_parts(graph, recipe)
    listed = zip(graph.subgraphs[0].operators, kinds, parts, strict=True)
    return [_tflite_layer(graph, *each) for each in listed]


def _tflite_parts(graph: "Graph", recipe: Mapping[str, Any]) -> list[Part]:
    """The part of each operation: by its name, and from the head's first dense layer on."""
    from deepspectrumlite.graph import FRONTEND, IMAGE, operators

    main = graph.subgraphs[0]
    names = [main.tensors[operator.outputs[0]].name for operator in main.operators]
    if not any(tensor.name == IMAGE for tensor in main.tensors):
        return ["not known"] * len(names)
    dense = [i for i, kind in enumerate(operators(graph)) if kind == "FULLY_CONNECTED"]
    n_dense = 1 if recipe.get("model", {}).get("units") == 0 else 2
    head = dense[-n_dense] if len(dense) >= n_dense else len(names)
    later: list[Part] = ["backbone" if i < head else "head" for i in range(len(names))]
    return [
        "front-end" if name == IMAGE or name.startswith(FRONTEND) else part
        for name, part in zip(names, later, strict=True)
    ]


def _tflite_layer(graph: "Graph", operator: "Operator", kind: str, part: Part) -> Layer:
    from deepspectrumlite.graph import count_cost

    main, cost = graph.subgraphs[0], count_cost(graph, operator)
    inputs = [main.tensors[i] for i in operator.inputs if i >= 0]
    data = [(tensor, graph.buffers[tensor.buffer].data) for tensor in inputs]
    held = [(tensor, len(found)) for tensor, found in data if found is not None and len(found)]
    out = main.tensors[operator.outputs[0]]
    return Layer(
        name=out.name.decode(),
        part=part,
        kind=kind,
        shape=[] if out.shape is None else [int(size) for size in out.shape],
        parameters=0 if part == "front-end" else cost.parameters,
        constants=sum(int(np.prod(tensor.shape)) for tensor, _ in held),
        constant_bytes=sum(size for _, size in held),
        macs=cost.macs,
    )


def onnx_layers(graph: Any) -> list[Layer]:
    """Nodes of a .onnx file with their constants, in the order in which they run.

    Args:
        graph: with the shapes of all values
    """
    shapes = _onnx_shapes(graph)
    constants = {each.name: each for each in graph.initializer}
    listed = zip(graph.node, onnx_parts(graph), strict=True)
    return [_onnx_layer(node, part, shapes, constants) for node, part in listed]


def onnx_parts(graph: Any) -> list[Part]:
    """The part of each node; the exporter notes of which module it was made."""
    makers, parts = dict[str, Part](), list[Part]()
    for node in graph.node:
        notes = [x.value for x in node.metadata_props if x.key.endswith(".name_scopes")]
        scopes = notes[0].strip("[]").replace("'", "").split(", ") if notes else []
        if len(scopes) > 1:
            # What follows the head, softmax, is the classifier's own.
            part = _PARTS.get(scopes[1], "head")
        else:
            # Nodes that the exporter's optimiser made have no note, but follow what they replace.
            part = next((makers[name] for name in node.input if name in makers), "not known")
        parts.append(part)
        makers |= dict.fromkeys(node.output, part)
    return parts


def _onnx_shapes(graph: Any) -> dict[str, list[int]]:
    values = (*graph.input, *graph.value_info, *graph.output)
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in values
    }
    return shapes | {each.name: list(each.dims) for each in graph.initializer}


def _onnx_layer(
    node: Any, part: Part, shapes: Mapping[str, list[int]], constants: Mapping[str, Any]
) -> Layer:
    import onnx

    held = [constants[name] for name in node.input if name in constants]
    sizes = [int(np.prod(each.dims)) for each in held]
    shape = shapes.get(node.output[0], [])
    per_output = _onnx_macs_per_output(node, shapes)
    is_learned = per_output > 0 and part != "front-end"
    return Layer(
        name=node.output[0],
        part=part,
        kind=node.op_type,
        shape=shape,
        parameters=sum(sizes) if is_learned else 0,
        constants=sum(sizes),
        constant_bytes=sum(onnx.numpy_helper.to_array(each).nbytes for each in held),
        macs=per_output * int(np.prod(shape)),
    )


def _onnx_macs_per_output(node: Any, shapes: Mapping[str, list[int]]) -> int:
    if node.op_type == "Conv":
        return int(np.prod(shapes[node.input[1]][1:]))
    if node.op_type == "MatMul":
        return shapes[node.input[0]][-1]
    if node.op_type == "Gemm":
        flipped = any(each.name == "transA" and each.i for each in node.attribute)
        return shapes[node.input[0]][-2 if flipped else -1]
    return 0


def torch_layers(model: "Classifier") -> list[Layer]:
    """Modules that compute or hold something of their own, in the order of the model.

    ``learns`` is by the recipe's ``fine_tune_share``.
    """
    from deepspectrumlite.optim import unfreeze_last

    unfreeze_last(model, model.recipe.train.fine_tune_share)
    shapes, macs = _trace(model)
    found = []
    for name, module in model.named_modules():
        children = [child for child, _ in module.named_children()]
        own = macs.get(name, 0) - sum(macs.get(f"{name}.{child}", 0) for child in children)
        has_own = own > 0 or any(True for _ in module.parameters(recurse=False))
        if name in shapes and (has_own or not children):
            found.append(_torch_layer(name, module, shapes[name], own))
    return found


def _trace(model: "Classifier") -> tuple[dict[str, list[int]], dict[str, int]]:
    """Shapes of what comes out of each module, and MACs in it and below, by its name."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    shapes: dict[str, list[int]] = {}

    def note(name: str, module: object, inputs: object, output: "torch.Tensor") -> None:
        shapes[name] = list(output.shape)

    modules = [(name, module) for name, module in model.named_modules() if name]
    hooks = [module.register_forward_hook(partial(note, name)) for name, module in modules]
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, model.recipe.data.segment_samples))
    finally:
        for hook in hooks:
            hook.remove()
    root = f"{type(model).__name__}."
    counts = counter.get_flop_counts().items()
    # The counter takes a multiplication and an addition as two.
    macs = {name.removeprefix(root): sum(ops.values()) // 2 for name, ops in counts}
    return shapes, macs


def _torch_layer(name: str, module: "torch.nn.Module", shape: list[int], macs: int) -> Layer:
    learned = list(module.parameters(recurse=False))
    held = [*learned, *module.buffers(recurse=False)]
    return Layer(
        name=name,
        part=_PARTS.get(name.split(".")[0], "not known"),
        kind=type(module).__name__,
        shape=shape,
        parameters=sum(each.numel() for each in learned),
        constants=sum(each.numel() for each in held),
        constant_bytes=sum(each.numel() * each.element_size() for each in held),
        macs=macs,
        learns=any(each.requires_grad for each in learned) if learned else None,
    )

"""The graph inside a .tflite file: read and written, made faster, cut in two, and counted.

What :func:`simplify` changes leaves the results as they are (to rounding); an export proves that.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import flatbuffers
import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools.flatbuffer_utils import read_model_from_bytearray

Graph: TypeAlias = Any  # schema.ModelT, made by flatbuffers' compiler without types
Operator: TypeAlias = Any
Vector: TypeAlias = npt.NDArray[np.float64]
Sizes: TypeAlias = npt.NDArray[np.int32]

FRONTEND, NETWORK, SCORES, IMAGE = b"frontend/", b"network/", b"scores/", b"image"
# Kernels of phones read constants faster, or only, from addresses that are multiples of this.
ALIGNMENT = 16

_CODES = schema.BuiltinOperator
_NAMES = {code: name for name, code in vars(_CODES).items() if isinstance(code, int)}
_LAYERS = {_CODES.CONV_2D, _CODES.FULLY_CONNECTED, _CODES.BATCH_MATMUL}
_LINEAR = {_CODES.ADD, _CODES.SUB, _CODES.MUL}
_NO_ACTIVATION = schema.ActivationFunctionType.NONE


def read_graph(data: bytes) -> Graph:
    """The contents of a .tflite file -> its graph, with all constants in it."""
    return read_model_from_bytearray(bytearray(data))


def write_graph(graph: Graph) -> bytes:
    """A graph -> the contents of a .tflite file."""
    size = sum(len(buffer.data) for buffer in graph.buffers if buffer.data is not None)
    builder = _Builder(size + 2**20)
    builder.Finish(graph.Pack(builder), b"TFL3")
    return bytes(builder.Output())


class _Builder(flatbuffers.Builder):  # type: ignore[misc]
    """Aligns constants, and writes equal arrays once (zero points take more space than scales)."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.written: dict[tuple[str, bytes], int] = {}

    def StartVector(self, elemSize: int, numElems: int, alignment: int) -> int:  # noqa: N802, N803
        alignment = ALIGNMENT if elemSize == 1 else alignment
        started: int = super().StartVector(elemSize, numElems, alignment)
        return started

    def CreateNumpyVector(self, x: npt.NDArray[Any]) -> int:  # noqa: N802
        key = (x.dtype.str, x.tobytes())
        if key not in self.written:
            self.written[key] = super().CreateNumpyVector(x)
        return self.written[key]


def operators(graph: Graph) -> list[str]:
    """Names of all operations, in the order in which they run; a custom one by its own name."""
    return [_name(graph, operator) for operator in graph.subgraphs[0].operators]


def foreign_operators(graph: Graph) -> list[str]:
    """Names of operations that are none of LiteRT's builtin ones, in all subgraphs."""
    used = {op.opcodeIndex for part in graph.subgraphs for op in part.operators}
    found = []
    for index in used:
        code = graph.operatorCodes[index]
        name = _NAMES.get(max(code.builtinCode, code.deprecatedBuiltinCode), "(unknown)")
        if name == "CUSTOM":
            found.append((code.customCode or b"(unnamed)").decode())
        elif name.startswith("STABLEHLO") or name == "(unknown)":
            found.append(name)
    return sorted(found)


def simplify(graph: Graph) -> None:
    """Fewer and cheaper operations with the same result, for what a converter leaves."""
    _join_linear(graph)
    _chain_concatenations(graph)
    drop_unused(graph)


def name_parts(graph: Graph, of_frontend: Callable[[str], bool]) -> None:
    """Rename tensors: ``frontend/N``, the one ``image``, ``network/N``, and ``scores/N``.

    The last are what comes after the last layer: softmax, or a scale and an offset.

    Args:
        graph: as converted
        of_frontend: whether a tensor of this name is made by the front-end
    """
    main = graph.subgraphs[0]
    last = max(i for i, op in enumerate(main.operators) if _code(graph, op) in _LAYERS)
    made, taken, after = set[int](), set[int](), set[int]()
    for index, operator in enumerate(main.operators):
        if of_frontend(main.tensors[operator.outputs[0]].name.decode()):
            made |= set(operator.outputs)
        else:
            taken |= set(operator.inputs)
        if index > last:
            after |= set(operator.outputs)
    between, ends = made & taken, set(main.inputs) | set(main.outputs)
    assert len(between) == 1, f"{len(between)} tensors between front-end and network"
    for index, tensor in enumerate(main.tensors):
        part = FRONTEND if index in made else SCORES if index in after else NETWORK
        if index in between:
            tensor.name = IMAGE
        elif index not in ends:
            tensor.name = part + str(index).encode()


def cut(graph: Graph, part: str) -> None:
    """Leave only "frontend" (samples to image) or "network" (image to scores).

    Raises:
        ValueError: no tensor of that name divides the graph
    """
    main = graph.subgraphs[0]
    image = [index for index, tensor in enumerate(main.tensors) if tensor.name == IMAGE]
    if len(image) != 1:
        raise ValueError("no tensor named image divides this graph")
    if part == "frontend":
        main.outputs = image
    else:
        # Without the image as a second output, where there is one.
        main.inputs, main.outputs = image, main.outputs[:1]
    needed, kept = set(main.outputs), []
    for operator in reversed(main.operators):
        if needed & set(operator.outputs):
            kept.append(operator)
            needed |= set(operator.inputs) - set(main.inputs)
    main.operators = kept[::-1]
    graph.signatureDefs = None
    drop_unused(graph)


def show_image(graph: Graph, shape: tuple[int, int, int, int]) -> None:
    """Make the tensor ``image`` a second output, of this shape and by the name ``image``.

    Raises:
        ValueError: no tensor of that name divides the graph, or it is laid out in another way
    """
    main, [signature] = graph.subgraphs[0], graph.signatureDefs
    image = [index for index, tensor in enumerate(main.tensors) if tensor.name == IMAGE]
    if len(image) != 1:
        raise ValueError("no tensor named image divides this graph")
    found = [int(size) for size in main.tensors[image[0]].shape if size != 1]
    if found != [size for size in shape if size != 1]:
        raise ValueError(f"the image has the shape {found}, which is not that of {shape}")
    reshaped = schema.TensorT()
    reshaped.name, reshaped.type = FRONTEND + IMAGE, schema.TensorType.FLOAT32
    reshaped.shape, reshaped.buffer = np.array(shape, np.int32), 0
    main.tensors.append(reshaped)
    output = len(main.tensors) - 1
    made = next(i for i, op in enumerate(main.operators) if image[0] in op.outputs)
    main.operators.insert(made + 1, _reshape(graph, image[0], output))
    main.outputs = [*main.outputs, output]
    argument = schema.TensorMapT()
    argument.name, argument.tensorIndex = IMAGE, output
    signature.outputs.append(argument)


def _reshape(graph: Graph, source: int, output: int) -> Operator:
    operator, options = schema.OperatorT(), schema.ReshapeOptionsT()
    shape = graph.subgraphs[0].tensors[output].shape
    operator.opcodeIndex = _opcode(graph, _CODES.RESHAPE)
    sizes = _add_constant(graph, FRONTEND + IMAGE + b"/shape", shape)
    operator.inputs, operator.outputs = [source, sizes], [output]
    options.newShape = shape
    operator.builtinOptionsType = schema.BuiltinOptions.ReshapeOptions
    operator.builtinOptions = options
    return operator


@dataclass(frozen=True)
class Cost:
    """What an operation computes and holds.

    ``macs`` are multiplications with an addition, of convolutions and matrix products; the rest of
    the work is not counted. ``parameters`` are their constants.
    """

    macs: int
    parameters: int


def count_cost(graph: Graph, operator: Operator) -> Cost:
    """Multiply-accumulate operations and parameters, from the shapes in the graph."""
    per_output = _macs_per_output(graph, operator)
    if per_output == 0:
        return Cost(0, 0)
    tensors = graph.subgraphs[0].tensors
    macs = per_output * int(np.prod(tensors[operator.outputs[0]].shape))
    constants = [i for i in operator.inputs if i >= 0 and _bytes(graph, i) is not None]
    return Cost(macs, sum(int(np.prod(tensors[i].shape)) for i in constants))


def _macs_per_output(graph: Graph, operator: Operator) -> int:
    code, tensors = _code(graph, operator), graph.subgraphs[0].tensors
    if code == _CODES.CONV_2D:
        return int(np.prod(tensors[operator.inputs[1]].shape[1:]))
    if code == _CODES.DEPTHWISE_CONV_2D:
        return int(np.prod(tensors[operator.inputs[1]].shape[1:3]))
    if code == _CODES.FULLY_CONNECTED:
        return int(tensors[operator.inputs[1]].shape[-1])
    if code == _CODES.BATCH_MATMUL:
        return int(tensors[operator.inputs[0]].shape[-2 if operator.builtinOptions.adjX else -1])
    return 0


def _join_linear(graph: Graph) -> None:
    """Sums and products with a constant for each channel, in a row -> one depthwise convolution.

    A BatchNorm without a convolution before it comes as four operations, each of which passes over
    the whole image, and in int8 each is rounded. One convolution of 1 x 1 does the same at once,
    with a scale for each channel.
    """
    main = graph.subgraphs[0]
    readers = Counter(main.outputs) + Counter(i for op in main.operators for i in op.inputs)
    chains: dict[int, _Chain] = {}
    for operator in main.operators:
        linear = _linear(graph, operator)
        if linear is None:
            continue
        source, scale, shift = linear
        before = chains.get(source)
        if before is not None and readers[source] == 1 and before.activation == _NO_ACTIVATION:
            del chains[source]
            shift = before.shift * scale + shift
            scale = before.scale * scale
            chain = _Chain(before.source, scale, shift, [*before.operators, operator])
        else:
            chain = _Chain(source, scale, shift, [operator])
        chains[operator.outputs[0]] = chain
    long = [chain for chain in chains.values() if len(chain.operators) > 1]
    replaced = {id(op): None for chain in long for op in chain.operators}
    replaced |= {id(chain.operators[-1]): _depthwise(graph, chain) for chain in long}
    kept = [replaced.get(id(op), op) for op in main.operators]
    main.operators = [op for op in kept if op is not None]


@dataclass
class _Chain:
    """``scale * source + shift``, per channel: (n_channels,)."""

    source: int
    scale: Vector
    shift: Vector
    operators: list[Operator]

    @property
    def activation(self) -> int:
        found: int = self.operators[-1].builtinOptions.fusedActivationFunction
        return found


def _linear(graph: Graph, operator: Operator) -> tuple[int, Vector, Vector] | None:
    """Source, scale and shift, where an operation is linear in each channel of an image."""
    code, tensors = _code(graph, operator), graph.subgraphs[0].tensors
    shape = tensors[operator.outputs[0]].shape
    if code not in _LINEAR or shape is None or len(shape) != 4:
        return None
    for side in (0, 1):
        source, other = operator.inputs[side], operator.inputs[1 - side]
        values = _channels(graph, other, shape[3])
        if values is None or not np.array_equal(tensors[source].shape, shape):
            continue
        one = np.ones_like(values)
        if code == _CODES.MUL:
            return source, values, 0 * one
        if code == _CODES.ADD:
            return source, one, values
        return (source, one, -values) if side == 0 else (source, -one, values)
    return None


def _channels(graph: Graph, tensor: int, n_channels: int) -> Vector | None:
    """(n_channels,) where a tensor is a constant for each channel, or one for all."""
    data = _bytes(graph, tensor)
    found = graph.subgraphs[0].tensors[tensor]
    if data is None or found.type != schema.TensorType.FLOAT32:
        return None
    values = np.frombuffer(data, np.float32).astype(np.float64)
    if len(values) != 1 and (len(values) != n_channels or found.shape[-1] != n_channels):
        return None
    return np.broadcast_to(values, (n_channels,))


def _depthwise(graph: Graph, chain: _Chain) -> Operator:
    operator = schema.OperatorT()
    operator.opcodeIndex = _opcode(graph, _CODES.DEPTHWISE_CONV_2D)
    out = chain.operators[-1].outputs[0]
    name = graph.subgraphs[0].tensors[out].name
    scale = _add_constant(graph, name + b"/scale", chain.scale.reshape(1, 1, 1, -1))
    shift = _add_constant(graph, name + b"/shift", chain.shift)
    operator.inputs, operator.outputs = [chain.source, scale, shift], [out]
    options = schema.DepthwiseConv2DOptionsT()
    options.padding = schema.Padding.VALID
    options.strideW = options.strideH = options.depthMultiplier = 1
    options.fusedActivationFunction = chain.activation
    operator.builtinOptionsType = schema.BuiltinOptions.DepthwiseConv2DOptions
    operator.builtinOptions = options
    return operator


def _chain_concatenations(graph: Graph) -> None:
    """Join [a, b], then [a, b, c] -> join [a, b] = ab, then [ab, c].

    So that no join has more parts than the fast kernels take (four or five), and so that in int8
    the parts are not brought to a common scale again each time.
    """
    seen: dict[tuple[int, tuple[int, ...]], int] = {}
    for operator in graph.subgraphs[0].operators:
        if _code(graph, operator) != _CODES.CONCATENATION:
            continue
        axis, parts = operator.builtinOptions.axis, tuple(operator.inputs)
        before = seen.get((axis, parts[:-1]))
        if operator.builtinOptions.fusedActivationFunction == _NO_ACTIVATION:
            seen[axis, parts] = operator.outputs[0]
            if before is not None and len(parts) > 2:
                operator.inputs = [before, parts[-1]]


def drop_unused(graph: Graph) -> None:
    """Leave out tensors and constants that no operation needs any more."""
    main = graph.subgraphs[0]
    used = set(main.inputs) | set(main.outputs)
    used |= {i for op in main.operators for i in (*op.inputs, *op.outputs) if i >= 0}
    tensor = {old: new for new, old in enumerate(sorted(used))} | {-1: -1}
    main.tensors = [main.tensors[old] for old in sorted(used)]
    for owner in (main, *main.operators):
        owner.inputs = [tensor[i] for i in owner.inputs]
        owner.outputs = [tensor[i] for i in owner.outputs]
    for signature in graph.signatureDefs or []:
        for argument in (*signature.inputs, *signature.outputs):
            argument.tensorIndex = tensor[argument.tensorIndex]
    owners = [*main.tensors, *(graph.metadata or [])]
    # Buffer 0 is empty, by convention.
    kept = sorted({owner.buffer for owner in owners} | {0})
    graph.buffers = [graph.buffers[old] for old in kept]
    for owner in owners:
        owner.buffer = kept.index(owner.buffer)


def _code(graph: Graph, operator: Operator) -> int:
    known = graph.operatorCodes[operator.opcodeIndex]
    code: int = max(known.builtinCode, known.deprecatedBuiltinCode)
    return code


def _name(graph: Graph, operator: Operator) -> str:
    code = _code(graph, operator)
    custom = graph.operatorCodes[operator.opcodeIndex].customCode
    name: str = custom.decode() if code == _CODES.CUSTOM and custom else _NAMES[code]
    return name


def _opcode(graph: Graph, code: int) -> int:
    """Index of an operation in the graph's list of those that it uses."""
    for index, known in enumerate(graph.operatorCodes):
        if max(known.builtinCode, known.deprecatedBuiltinCode) == code:
            return index
    added = schema.OperatorCodeT()
    # The second field is what readers older than the first one look at.
    added.builtinCode = added.deprecatedBuiltinCode = code
    graph.operatorCodes.append(added)
    return len(graph.operatorCodes) - 1


def _bytes(graph: Graph, tensor: int) -> bytes | None:
    data = graph.buffers[graph.subgraphs[0].tensors[tensor].buffer].data
    return None if data is None or len(data) == 0 else bytes(data)


def _add_constant(graph: Graph, name: bytes, values: Vector | Sizes) -> int:
    """Index of a new constant tensor: of int32 for sizes, else of float32."""
    buffer, tensor = schema.BufferT(), schema.TensorT()
    is_size = values.dtype == np.int32
    stored = values if is_size else values.astype(np.float32)
    buffer.data = np.frombuffer(stored.tobytes(), np.uint8)
    graph.buffers.append(buffer)
    tensor.name = name
    tensor.type = schema.TensorType.INT32 if is_size else schema.TensorType.FLOAT32
    tensor.shape, tensor.buffer = np.array(values.shape, np.int32), len(graph.buffers) - 1
    graph.subgraphs[0].tensors.append(tensor)
    return len(graph.subgraphs[0].tensors) - 1

"""The graph inside a .tflite file, on small graphs made by hand and on a converted model's."""

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from deepspectrumlite.graph import (
    ALIGNMENT,
    IMAGE,
    Cost,
    count_cost,
    cut,
    foreign_operators,
    name_parts,
    operators,
    read_graph,
    simplify,
    write_graph,
)

CODES, KINDS = schema.BuiltinOperator, schema.TensorType
NONE, RELU = schema.ActivationFunctionType.NONE, schema.ActivationFunctionType.RELU
# As high as there are channels: no size tells the two apart.
SHAPE = (1, 4, 5, 4)
rng = np.random.default_rng(0)


class Maker:
    """Adds constants and operations to a graph, one by one."""

    def __init__(self, shape=SHAPE):
        self.graph = schema.ModelT()
        self.graph.version, self.graph.operatorCodes = 3, []
        self.graph.buffers, self.main = [schema.BufferT()], schema.SubGraphT()
        self.graph.subgraphs, self.graph.metadata = [self.main], None
        self.main.tensors, self.main.operators = [], []
        self.input = self.tensor(shape, b"input")
        self.main.inputs = [self.input]

    def tensor(self, shape, name=None, buffer=0, kind=KINDS.FLOAT32):
        made = schema.TensorT()
        made.shape, made.type, made.buffer = np.array(shape, np.int32), kind, buffer
        made.name = name or f"tensor/{len(self.main.tensors)}".encode()
        self.main.tensors.append(made)
        return len(self.main.tensors) - 1

    def constant(self, values, shape=None):
        values = np.asarray(values, np.float32)
        self.graph.buffers.append(schema.BufferT())
        self.graph.buffers[-1].data = np.frombuffer(values.tobytes(), np.uint8)
        where = len(self.graph.buffers) - 1
        return self.tensor(values.shape if shape is None else shape, buffer=where)

    def add(self, code, inputs, shape=SHAPE, options=None, custom=None):
        found = schema.OperatorCodeT()
        found.builtinCode, found.deprecatedBuiltinCode = code, min(code, 127)
        found.customCode, found.version = custom, 1
        self.graph.operatorCodes.append(found)
        operator = schema.OperatorT()
        operator.opcodeIndex = len(self.graph.operatorCodes) - 1
        operator.inputs, operator.outputs = list(inputs), [self.tensor(shape)]
        if options is not None:
            name = type(options).__name__.removesuffix("T")
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, name)
            operator.builtinOptions = options
        self.main.operators.append(operator)
        return operator.outputs[0]

    def sum(self, a, b, activation=NONE):
        return self.add(CODES.ADD, [a, b], options=fused(schema.AddOptionsT(), activation))

    def difference(self, a, b, activation=NONE):
        return self.add(CODES.SUB, [a, b], options=fused(schema.SubOptionsT(), activation))

    def product(self, a, b, activation=NONE):
        return self.add(CODES.MUL, [a, b], options=fused(schema.MulOptionsT(), activation))

    def absolute(self, a):
        return self.add(CODES.ABS, [a], self.main.tensors[a].shape, schema.AbsOptionsT())

    def join(self, *parts):
        options = fused(schema.ConcatenationOptionsT(), NONE)
        options.axis = 3
        channels = sum(int(self.main.tensors[part].shape[3]) for part in parts)
        return self.add(CODES.CONCATENATION, parts, (*SHAPE[:3], channels), options)

    def done(self, *outputs):
        self.main.outputs = list(outputs)
        return self.graph


def fused(options, activation):
    options.fusedActivationFunction = activation
    return options


def channels():
    return rng.uniform(0.5, 1.5, (1, 1, 1, SHAPE[3]))


def run(graph, *inputs):
    """Outputs of a graph, from its first to its last."""
    return run_bytes(write_graph(graph), *inputs)


def run_bytes(data, *inputs):
    interpreter = Interpreter(model_content=data)
    interpreter.allocate_tensors()
    for entry, values in zip(interpreter.get_input_details(), inputs, strict=True):
        interpreter.set_tensor(entry["index"], values)
    interpreter.invoke()
    return [interpreter.get_tensor(out["index"]) for out in interpreter.get_output_details()]


def check_same(maker, *outputs):
    """Simplify; the results have to stay. Returns the operations that are left."""
    values = rng.normal(size=SHAPE).astype(np.float32)
    graph = maker.done(*outputs)
    before = run(graph, values)
    simplify(graph)
    for found, expected in zip(run(graph, values), before, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    return operators(graph)


def test_a_chain_becomes_one_convolution():
    maker = Maker()
    x = maker.difference(maker.input, maker.constant(channels()))
    x = maker.product(x, maker.constant(channels()))
    x = maker.product(maker.constant(channels()), x)
    x = maker.sum(x, maker.constant(channels().ravel()), RELU)
    assert check_same(maker, x) == ["DEPTHWISE_CONV_2D"]


def test_a_constant_on_the_left_of_a_difference():
    maker = Maker()
    x = maker.product(maker.input, maker.constant(channels()))
    x = maker.difference(maker.constant(channels()), x)
    assert check_same(maker, x) == ["DEPTHWISE_CONV_2D"]


@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1, 1)])
def test_one_constant_for_all_channels(shape):
    maker = Maker()
    x = maker.product(maker.input, maker.constant(np.full(shape, 0.7)))
    x = maker.difference(maker.constant(np.full(shape, 2.0)), x)
    assert check_same(maker, x) == ["DEPTHWISE_CONV_2D"]


def test_a_single_operation_stays():
    maker = Maker()
    x = maker.absolute(maker.sum(maker.input, maker.constant(channels())))
    assert check_same(maker, x) == ["ADD", "ABS"]


def test_what_is_used_twice_stays():
    maker = Maker()
    x = maker.product(maker.input, maker.constant(channels()))
    y = maker.sum(x, maker.constant(channels()))
    assert check_same(maker, maker.sum(y, maker.absolute(x))) == ["MUL", "ADD", "ABS", "ADD"]


def test_what_is_an_output_stays():
    maker = Maker()
    x = maker.product(maker.input, maker.constant(channels()))
    y = maker.sum(x, maker.constant(channels()))
    assert check_same(maker, x, y) == ["MUL", "ADD"]


def test_an_activation_inside_stays():
    maker = Maker()
    x = maker.product(maker.input, maker.constant(channels()))
    x = maker.difference(x, maker.constant(channels()), RELU)
    x = maker.product(x, maker.constant(channels()))
    x = maker.difference(x, maker.constant(channels()))
    assert check_same(maker, x) == ["DEPTHWISE_CONV_2D", "DEPTHWISE_CONV_2D"]


def test_a_constant_along_another_axis_stays():
    maker = Maker()
    rows = maker.constant(rng.uniform(1, 2, (1, SHAPE[1], 1, 1)))
    x = maker.product(maker.product(maker.input, rows), rows)
    assert check_same(maker, x) == ["MUL", "MUL"]


def test_joins_that_grow_are_chained():
    maker = Maker()
    a, b = maker.input, maker.absolute(maker.input)
    c = maker.product(a, b)
    two, three, other = maker.join(a, b), maker.join(a, b, c), maker.join(b, a, c)
    four = maker.join(a, b, c, b)
    check_same(maker, two, three, other, four)
    joins = maker.main.operators[2:]
    assert [len(op.inputs) for op in joins] == [2, 2, 3, 2]
    # What was joined before comes first.
    assert joins[1].inputs[0] == joins[0].outputs[0]
    assert joins[3].inputs[0] == joins[1].outputs[0]


def test_what_is_not_needed_is_left_out():
    maker = Maker()
    x = maker.product(maker.input, maker.constant(channels()))
    x = maker.sum(x, maker.constant(channels()))
    graph = maker.done(x)
    simplify(graph)
    # Input, scale, shift, output; and buffer 0, which is empty by convention.
    assert (len(maker.main.tensors), len(graph.buffers)) == (4, 3)


def parted():
    """A "front-end" (absolute, twice) and a "network" (dense, softmax)."""
    maker = Maker((1, 6))
    image = maker.absolute(maker.absolute(maker.input))
    weights = maker.constant(rng.normal(size=(3, 6)))
    bias = maker.constant(rng.normal(size=3))
    dense = fused(schema.FullyConnectedOptionsT(), NONE)
    logits = maker.add(CODES.FULLY_CONNECTED, [image, weights, bias], (1, 3), dense)
    options = schema.SoftmaxOptionsT()
    options.beta = 1.0
    scores = maker.add(CODES.SOFTMAX, [logits], (1, 3), options)
    scaled = maker.add(
        CODES.MUL, [scores, maker.constant(2.0)], (1, 3), fused(schema.MulOptionsT(), NONE)
    )
    made = {maker.main.tensors[i].name.decode() for i in (image, image - 1)}
    return maker.done(scaled), made


def test_parts_are_named():
    graph, made = parted()
    name_parts(graph, lambda name: name in made)
    outputs = [
        graph.subgraphs[0].tensors[op.outputs[0]].name for op in graph.subgraphs[0].operators
    ]
    parts = [name.split(b"/")[0] for name in outputs[:4]]
    assert parts == [b"frontend", IMAGE, b"network", b"scores"]
    assert len(set(outputs)) == 5


def test_both_parts_do_what_the_whole_does():
    graph, made = parted()
    name_parts(graph, lambda name: name in made)
    data = write_graph(graph)
    values = rng.normal(size=(1, 6)).astype(np.float32)
    frontend, network = read_graph(data), read_graph(data)
    cut(frontend, "frontend")
    cut(network, "network")
    assert operators(frontend) == ["ABS", "ABS"]
    assert operators(network) == ["FULLY_CONNECTED", "SOFTMAX", "MUL"]
    # Nothing of the other part is kept.
    assert not any(buffer.data is not None for buffer in frontend.buffers)
    (image,) = run(frontend, values)
    np.testing.assert_array_equal(image, np.abs(values))
    np.testing.assert_array_equal(run(network, image), run_bytes(data, values))


def test_a_graph_without_an_image_cannot_be_cut():
    with pytest.raises(ValueError, match="no tensor named image"):
        cut(parted()[0], "network")


def test_writing_and_reading_changes_nothing():
    graph, _ = parted()
    data = write_graph(graph)
    values = rng.normal(size=(1, 6)).astype(np.float32)
    again = write_graph(read_graph(data))
    np.testing.assert_array_equal(run_bytes(again, values), run_bytes(data, values))
    assert write_graph(read_graph(again)) == again


def test_constants_are_aligned_and_equal_ones_are_written_once():
    maker = Maker()
    x = maker.input
    # Sizes after which nothing is aligned by chance; and twice the same.
    for values in (rng.normal(size=(1, 1, 1, 4)), 3.0, rng.normal(size=4), 3.0, 5.0):
        x = maker.absolute(maker.sum(x, maker.constant(values)))
    data = write_graph(maker.done(x))
    start = np.frombuffer(data, np.uint8).__array_interface__["data"][0]
    model = schema.Model.GetRootAs(data)
    arrays = [model.Buffers(i).DataAsNumpy() for i in range(1, model.BuffersLength())]
    places = [each.__array_interface__["data"][0] - start for each in arrays]
    assert [place % ALIGNMENT for place in places] == [0] * 5
    assert len(set(places)) == 4
    assert places[1] == places[3]


def test_costs_are_those_counted_by_hand():
    maker = Maker((1, 8, 6, 2))
    conv = fused(schema.Conv2DOptionsT(), NONE)
    weights, bias = maker.constant(np.ones((4, 3, 3, 2))), maker.constant(np.ones(4))
    x = maker.add(CODES.CONV_2D, [maker.input, weights, bias], (1, 8, 6, 4), conv)
    deep = fused(schema.DepthwiseConv2DOptionsT(), NONE)
    x = maker.add(
        CODES.DEPTHWISE_CONV_2D, [x, maker.constant(np.ones((1, 5, 3, 4)))], (1, 8, 6, 4), deep
    )
    dense = fused(schema.FullyConnectedOptionsT(), NONE)
    x = maker.add(CODES.FULLY_CONNECTED, [x, maker.constant(np.ones((7, 4)))], (48, 7), dense)
    product = schema.BatchMatMulOptionsT()
    product.adjX = True
    x = maker.add(CODES.BATCH_MATMUL, [x, maker.tensor((48, 3))], (7, 3), product)
    x = maker.absolute(x)
    macs = 8 * 6 * 4 * (3 * 3 * 2) + 8 * 6 * 4 * (5 * 3) + 48 * 7 * 4 + 7 * 3 * 48
    parameters = (4 * 3 * 3 * 2 + 4) + 5 * 3 * 4 + 7 * 4
    graph = maker.done(x)
    costs = [count_cost(graph, operator) for operator in graph.subgraphs[0].operators]
    assert costs[-1] == Cost(0, 0)
    assert sum(cost.macs for cost in costs) == macs
    assert sum(cost.parameters for cost in costs) == parameters


def test_a_custom_operation_is_told_by_its_own_name():
    maker = Maker()
    x = maker.add(CODES.CUSTOM, [maker.absolute(maker.input)], custom=b"FlexRFFT")
    graph = maker.done(x)
    assert operators(graph) == ["ABS", "FlexRFFT"]
    assert foreign_operators(graph) == ["FlexRFFT"]


@pytest.mark.parametrize(
    ("code", "custom", "name"),
    [
        (CODES.CUSTOM, b"LOUD", "LOUD"),
        (CODES.CUSTOM, None, "(unnamed)"),
        (CODES.STABLEHLO_ADD, None, "STABLEHLO_ADD"),
    ],
)
def test_what_is_not_builtin_is_foreign_however_it_is_named(code, custom, name):
    maker = Maker()
    x = maker.add(code, [maker.absolute(maker.input)], custom=custom)
    assert foreign_operators(maker.done(maker.absolute(x))) == [name]

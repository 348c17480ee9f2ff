"""How fast and how large a model is: latency of its parts, memory, layers, parameters and MACs.

An exported .tflite file needs no torch for this, and a .onnx file only onnxruntime; its parts and
its multiplications are told where the package onnx is there, too.
"""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from copy import copy
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypeVar

import numpy as np

from deepspectrumlite.audio import Cutting, Waveform
from deepspectrumlite.description import AGAIN, file_kind, open_session, read_description
from deepspectrumlite.errors import MissingExtraError, ModelError
from deepspectrumlite.progress import Progress, silent

if TYPE_CHECKING:
    import torch

    from deepspectrumlite.graph import Graph

K = TypeVar("K", bound=Hashable)
Work: TypeAlias = Callable[[], object]
Run: TypeAlias = Callable[[Waveform], Waveform]
Part: TypeAlias = Literal["front-end", "backbone", "head", "not known"]

STAGES = ("front-end", "network", "end to end")
# The first calls plan, allocate and pack weights.
WARM_UP = 3
STARTS = 3
_FIRST_PREDICTION = """
import time
began = time.perf_counter()
import sys
from pathlib import Path
import numpy
from deepspectrumlite.predict import open_recogniser
recogniser = open_recogniser(Path(sys.argv[1]), device="cpu")
recogniser.score(numpy.zeros((1, recogniser.cutting.segment_samples), numpy.float32))
seconds = time.perf_counter() - began
from deepspectrumlite.benchmark import peak_memory
print(seconds, peak_memory())
"""


@dataclass(frozen=True)
class Latency:
    """Of one segment, in seconds: the median, and what 95 % of the calls do not exceed."""

    median: float
    p95: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Latency":
        """From the times of single calls."""
        return cls(float(np.median(seconds)), float(np.percentile(seconds, 95)))


@dataclass(frozen=True)
class FirstPrediction:
    """Of fresh processes: medians of seconds (import, load, predict) and of peak memory."""

    seconds: float
    memory_bytes: float | None


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
class Measured:
    """What was measured of one model; ``latency`` is by threads, then by stage. None: unknown."""

    path: str
    kind: str
    precision: str
    file_bytes: int
    segment_seconds: float
    parameters: int | None
    macs: dict[str, int] | None
    first: FirstPrediction
    latency: dict[int, dict[str, Latency]]

    def real_time_factor(self, threads: int) -> float:
        """Median latency over the length of a segment."""
        return self.latency[threads]["end to end"].median / self.segment_seconds

    def to_json(self) -> dict[str, Any]:
        """Plain values, with the real-time factor by threads."""
        factors = {threads: self.real_time_factor(threads) for threads in self.latency}
        return asdict(self) | {"real_time_factor": factors}


class Subject(Protocol):
    """A model that can be timed, and taken apart into layers."""

    kind: str
    precision: str

    @property
    def cutting(self) -> Cutting:
        """What it takes."""

    def stages(self, threads: int) -> dict[str, Work]:
        """Some of ``STAGES``: what runs one segment through each."""

    def layers(self) -> list[Layer]:
        """In the order in which they run."""


def open_subject(path: Path) -> Subject:
    """A model folder, or an exported file.

    Raises:
        ModelError: no model there, or a broken, foreign or newer one
        MissingExtraError: a .onnx file, and onnxruntime is not installed
    """
    if not path.is_file():
        return TorchModel(path)
    return OnnxFile(path) if file_kind(path) == "onnx" else TfliteFile(path)


def benchmark(
    paths: Sequence[Path],
    *,
    threads: Sequence[int] = (1,),
    repeats: int = 50,
    seconds: float | None = None,
    progress: Progress = silent,
) -> list[Measured]:
    """Measure models side by side: they take turns, so that a slow moment hits all alike.

    Args:
        paths: exported files, model folders, run folders
        threads: numbers of CPU threads, one after the other
        repeats: calls of each stage of each model
        seconds: instead of ``repeats``, how long all these calls may take together
        progress: told of every step

    Raises:
        ModelError: no model there, or a broken, foreign or newer one
        MissingExtraError: a .onnx file, and onnxruntime is not installed
    """
    subjects = [open_subject(path) for path in paths]
    latency: list[dict[int, dict[str, Latency]]] = [{} for _ in subjects]
    budget = seconds and seconds / len(threads)
    for count in threads:
        told = partial(progress, f"timing, {count} thread{'s'[: count > 1]}")
        staged = [subject.stages(count) for subject in subjects]
        works = {
            (i, name): work for i, stages in enumerate(staged) for name, work in stages.items()
        }
        times = time_in_turn(works, repeats, budget, told)
        for i, stages in enumerate(staged):
            latency[i][count] = {name: Latency.of(times[i, name]) for name in stages}
    firsts = []
    for i, path in enumerate(paths):
        progress("starting fresh processes", i, len(paths))
        firsts.append(first_prediction(path))
    return [_measured(*each) for each in zip(paths, subjects, firsts, latency, strict=True)]


def _measured(
    path: Path, subject: Subject, first: FirstPrediction, latency: dict[int, dict[str, Latency]]
) -> Measured:
    parameters, macs = None, None
    try:
        layers = subject.layers()
        parameters, macs = sum(layer.parameters for layer in layers), _macs_by_stage(layers)
    except MissingExtraError:
        pass  # A .onnx file can be timed without the package that reads its graph.
    size = file_bytes(path)
    seconds = subject.cutting.segment_samples / subject.cutting.sample_rate
    kind, precision = subject.kind, subject.precision
    return Measured(str(path), kind, precision, size, seconds, parameters, macs, first, latency)


def _macs_by_stage(layers: Sequence[Layer]) -> dict[str, int]:
    total = sum(layer.macs for layer in layers)
    if any(layer.part == "not known" for layer in layers):
        return {"end to end": total}
    frontend = sum(layer.macs for layer in layers if layer.part == "front-end")
    return dict(zip(STAGES, (frontend, total - frontend, total), strict=True))


def file_bytes(path: Path) -> int:
    """Size of a file, or of the weights in a model folder."""
    if path.is_file():
        return path.stat().st_size
    from deepspectrumlite.model import model_folder

    return (model_folder(path) / "model.safetensors").stat().st_size


def time_in_turn(
    works: Mapping[K, Work],
    repeats: int,
    seconds: float | None = None,
    told: Callable[[int, int], None] = lambda done, total: None,
) -> dict[K, list[float]]:
    """Seconds of each call, A B C A B C ..., after a warm-up.

    Args:
        works: what is called
        repeats: rounds; not used where there is a time limit
        seconds: how long to go on instead, for at least three rounds
        told: progress in rounds, or in whole seconds where there is a time limit
    """
    for work in works.values():
        for _ in range(WARM_UP):
            work()
    times: dict[K, list[float]] = {key: [] for key in works}
    began, done, spent = time.perf_counter(), 0, 0.0
    while done < repeats if seconds is None else done < 3 or spent < seconds:
        for key, work in works.items():
            start = time.perf_counter()
            work()
            times[key].append(time.perf_counter() - start)
        done, spent = done + 1, time.perf_counter() - began
        told(*((done, repeats) if seconds is None else (int(spent), round(seconds))))
    return times


def first_prediction(path: Path, starts: int = STARTS) -> FirstPrediction:
    """Import, load and predict one segment in fresh processes, as a user's program would.

    Raises:
        ModelError: such a process fails
    """
    command = [sys.executable, "-c", _FIRST_PREDICTION, str(path)]
    rows = []
    for _ in range(starts):
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        if found.returncode:
            last = (found.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise ModelError(
                f"{path}: a fresh process that predicts with it ended with {found.returncode} "
                f"({last}); is there enough memory?"
            )
        rows.append(found.stdout.split()[-2:])
    seconds = float(np.median([float(seconds) for seconds, _ in rows]))
    peaks = [float(peak) for _, peak in rows if peak != "None"]
    return FirstPrediction(seconds, float(np.median(peaks)) if peaks else None)


def peak_memory() -> int | None:
    """The most memory that this process ever held, in bytes; None where the system does not say."""
    status = Path("/proc/self/status")
    if status.is_file():
        # Not ru_maxrss, as that begins with what the process that started this one held.
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        return 1024 * int(lines["VmHWM"].split()[0])
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def describe_machine() -> dict[str, Any]:
    """CPU, cores, system, load, and the versions of what runs models."""
    packages = ("deepspectrumlite", "ai-edge-litert", "onnxruntime", "torch", "numpy")
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "versions": {name: found for name in packages if (found := _version(name))},
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    entries = [(key.strip(), value.strip()) for key, _, value in (x.partition(":") for x in lines)]
    # ARM boards have no "model name", but tell what they are.
    wanted = ("model name", "Model", "Hardware")
    found = [value for name in wanted for key, value in entries if key == name and value]
    return found[0] if found else platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _noise(num_samples: int) -> Waveform:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (1, num_samples))
    return noise.astype(np.float32)


def _stages(runs: Mapping[str, Run], waveform: Waveform) -> dict[str, Work]:
    """Give each run what it takes; the network gets the image that the front-end makes."""
    if "front-end" not in runs:
        return {"end to end": partial(runs["end to end"], waveform)}
    image = runs["front-end"](waveform)
    return {name: partial(runs[name], image if name == "network" else waveform) for name in STAGES}


class TfliteFile:
    """A .tflite file, and its two parts, each in an interpreter of its own."""

    kind = ".tflite"

    def __init__(self, path: Path) -> None:
        """Check what it says of itself.

        Raises:
            ModelError: broken, foreign or newer
        """
        self.path, self.cutting = path, read_description(path)
        self.precision = self.cutting.precision

    def graph(self, part: str | None = None) -> "Graph":
        """The whole graph, or what :func:`deepspectrumlite.graph.cut` leaves of it.

        Raises:
            ValueError: no tensor divides it
        """
        from deepspectrumlite.graph import cut, read_graph

        graph = read_graph(self.path.read_bytes())
        if part is not None:
            cut(graph, part)
        return graph

    def stages(self, threads: int) -> dict[str, Work]:
        """See :class:`Subject`; a file without a tensor "image" has only the whole."""
        from deepspectrumlite.graph import write_graph

        runs = {"end to end": _litert_run(self.path.read_bytes(), self.path, threads)}
        try:
            for name, part in (("front-end", "frontend"), ("network", "network")):
                runs[name] = _litert_run(write_graph(self.graph(part)), self.path, threads)
        except ValueError:
            runs = {"end to end": runs["end to end"]}
        return _stages(runs, _noise(self.cutting.segment_samples))

    def layers(self) -> list[Layer]:
        """Operations with their constants, in the order in which they run."""
        from deepspectrumlite.graph import operators

        graph = self.graph()
        kinds, parts = operators(graph), _tflite_parts(graph, self.cutting.recipe)
        listed = zip(graph.subgraphs[0].operators, kinds, parts, strict=True)
        return [_tflite_layer(graph, *each) for each in listed]


def _litert_run(data: bytes, path: Path, threads: int) -> Run:
    """What runs the contents of a .tflite file, or of a part of the one at ``path``.

    Raises:
        ModelError: LiteRT refuses it
    """
    from ai_edge_litert.interpreter import Interpreter

    try:
        interpreter = Interpreter(model_content=data, num_threads=threads)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"{path}: LiteRT cannot run it ({reason}); {AGAIN}") from None
    into = interpreter.get_input_details()[0]["index"]
    out_of = interpreter.get_output_details()[0]["index"]

    def run(values: Waveform) -> Waveform:
        interpreter.set_tensor(into, values)
        interpreter.invoke()
        found: Waveform = interpreter.get_tensor(out_of)
        return found

    return run


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


def _tflite_layer(graph: "Graph", operator: Any, kind: str, part: Part) -> Layer:
    from deepspectrumlite.graph import count_cost

    main = graph.subgraphs[0]
    alone, part_of = copy(graph), copy(main)
    part_of.operators, alone.subgraphs = [operator], [part_of]
    cost = count_cost(alone)
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


class OnnxFile:
    """A .onnx file; its parts are told by the modules that its nodes were made from."""

    kind = ".onnx"

    def __init__(self, path: Path) -> None:
        """Check what it says of itself.

        Raises:
            ModelError: broken, foreign or newer
            MissingExtraError: onnxruntime is not installed
        """
        self.path, self.cutting = path, read_description(path)
        self.precision = self.cutting.precision

    def model(self) -> Any:
        """The graph with the shapes of all values.

        Raises:
            MissingExtraError: the package onnx is not installed
        """
        try:
            import onnx
        except ImportError:
            raise MissingExtraError("onnx", f"the graph of {self.path}", "export") from None
        return onnx.shape_inference.infer_shapes(onnx.load(self.path))

    def stages(self, threads: int) -> dict[str, Work]:
        """See :class:`Subject`; without the package onnx only the whole."""
        runs = {"end to end": _onnx_run(self.path, threads)}
        try:
            model = self.model()
        except MissingExtraError:
            model = None
        image = model and _onnx_image(model.graph)
        if image:
            ends = ([model.graph.input[0].name], [image], [model.graph.output[0].name])
            for name, start, stop in (("front-end", 0, 1), ("network", 1, 2)):
                runs[name] = _onnx_part(model, ends[start], ends[stop], threads)
        return _stages(runs, _noise(self.cutting.segment_samples))

    def layers(self) -> list[Layer]:
        """Nodes with their constants, in the order in which they run.

        Raises:
            MissingExtraError: the package onnx is not installed
        """
        graph = self.model().graph
        shapes = _onnx_shapes(graph)
        constants = {each.name: each for each in graph.initializer}
        listed = zip(graph.node, _onnx_parts(graph), strict=True)
        return [_onnx_layer(node, part, shapes, constants) for node, part in listed]


def _onnx_run(path: Path, threads: int) -> Run:
    session = open_session(path, threads)
    into, out_of = session.get_inputs()[0].name, session.get_outputs()[0].name

    def run(values: Waveform) -> Waveform:
        found: Waveform = session.run([out_of], {into: values})[0]
        return found

    return run


def _onnx_part(model: Any, inputs: list[str], outputs: list[str], threads: int) -> Run:
    import onnx

    part = onnx.utils.Extractor(model).extract_model(inputs, outputs)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "part.onnx"
        onnx.save(part, path)
        return _onnx_run(path, threads)


def _onnx_image(graph: Any) -> str | None:
    """The one value that goes from the front-end to the rest."""
    made, taken = set[str](), set[str]()
    for node, part in zip(graph.node, _onnx_parts(graph), strict=True):
        if part == "front-end":
            made |= set(node.output)
        else:
            taken |= set(node.input)
    between = made & taken
    return between.pop() if len(between) == 1 else None


def _onnx_parts(graph: Any) -> list[Part]:
    """The part of each node; the exporter notes of which module it was made."""
    of_module: dict[str, Part] = {"frontend": "front-end", "backbone": "backbone"}
    makers, parts = dict[str, Part](), list[Part]()
    for node in graph.node:
        notes = [x.value for x in node.metadata_props if x.key.endswith(".name_scopes")]
        scopes = notes[0].strip("[]").replace("'", "").split(", ") if notes else []
        if len(scopes) > 1:
            # What follows the head, softmax, is the classifier's own.
            part = of_module.get(scopes[1], "head")
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


class TorchModel:
    """A model folder, in torch on the CPU."""

    kind = "torch"
    precision = "float32"

    def __init__(self, folder: Path) -> None:
        """Load it.

        Raises:
            ModelError: no model there, or a broken or newer one
        """
        # Only here: exported files are measured without torch.
        from deepspectrumlite.model import load_model

        self.model = load_model(folder)
        self.cutting = self.model.recipe.data

    def stages(self, threads: int) -> dict[str, Work]:
        """See :class:`Subject`; sets the number of threads of torch in this process."""
        import torch

        model = self.model
        functions: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
            "front-end": model.frontend,
            "network": lambda image: model.scores(model.logits(image)),
            "end to end": model,
        }
        torch.set_num_threads(threads)

        def run(function: Callable[["torch.Tensor"], "torch.Tensor"], values: Waveform) -> Waveform:
            with torch.inference_mode():
                found: Waveform = function(torch.from_numpy(values)).numpy()
            return found

        runs = {name: partial(run, function) for name, function in functions.items()}
        return _stages(runs, _noise(self.cutting.segment_samples))

    def layers(self) -> list[Layer]:
        """Modules that compute or hold something of their own, in the order of the model.

        ``learns`` is by the recipe's ``fine_tune_share``.
        """
        from deepspectrumlite.optim import unfreeze_last

        unfreeze_last(self.model, self.model.recipe.train.fine_tune_share)
        shapes, macs = self._trace()
        found = []
        for name, module in self.model.named_modules():
            own = macs.get(name, 0) - sum(
                macs.get(f"{name}.{child}", 0) for child, _ in module.named_children()
            )
            is_leaf = not any(True for _ in module.children())
            has_own = own > 0 or any(True for _ in module.parameters(recurse=False))
            if name in shapes and (is_leaf or has_own):
                found.append(_torch_layer(name, module, shapes[name], own))
        return found

    def _trace(self) -> tuple[dict[str, list[int]], dict[str, int]]:
        """Shapes of what comes out of each module, and MACs in it and below, by its name."""
        import torch
        from torch.utils.flop_counter import FlopCounterMode

        shapes: dict[str, list[int]] = {}

        def note(name: str, module: object, inputs: object, output: "torch.Tensor") -> None:
            shapes[name] = list(output.shape)

        modules = [(name, module) for name, module in self.model.named_modules() if name]
        hooks = [module.register_forward_hook(partial(note, name)) for name, module in modules]
        try:
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                self.model(torch.from_numpy(_noise(self.cutting.segment_samples)))
        finally:
            for hook in hooks:
                hook.remove()
        root = f"{type(self.model).__name__}."
        counts = counter.get_flop_counts().items()
        # The counter takes a multiplication and an addition as two.
        macs = {name.removeprefix(root): sum(ops.values()) // 2 for name, ops in counts}
        return shapes, macs


def _torch_layer(name: str, module: "torch.nn.Module", shape: list[int], macs: int) -> Layer:
    parts: dict[str, Part] = {"frontend": "front-end", "backbone": "backbone", "head": "head"}
    learned = list(module.parameters(recurse=False))
    held = [*learned, *module.buffers(recurse=False)]
    return Layer(
        name=name,
        part=parts.get(name.split(".")[0], "not known"),
        kind=type(module).__name__,
        shape=shape,
        parameters=sum(each.numel() for each in learned),
        constants=sum(each.numel() for each in held),
        constant_bytes=sum(each.numel() * each.element_size() for each in held),
        macs=macs,
        learns=any(each.requires_grad for each in learned) if learned else None,
    )


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
    parts = {
        part: [x for x in layers if x.part == part] for part in ("front-end", "backbone", "head")
    }
    parts |= {"all": list(layers)}
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


def write_report(path: Path, machine: Mapping[str, Any], measured: Sequence[Measured]) -> None:
    """Write what was measured, and on which machine, as JSON.

    Raises:
        OSError: the file cannot be written
    """
    report = {"machine": machine, "models": [each.to_json() for each in measured]}
    text = json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")

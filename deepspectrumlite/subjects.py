"""What can be measured: model folders and exported files, whole, in two parts, and in layers."""

import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from deepspectrumlite.audio import Cutting, Waveform
from deepspectrumlite.description import file_kind, open_session, read_description
from deepspectrumlite.errors import MissingExtraError, ModelError
from deepspectrumlite.layers import Layer, onnx_layers, onnx_parts, tflite_layers, torch_layers
from deepspectrumlite.predict import model_folder
from deepspectrumlite.runtime import Run, litert_run, onnx_run, open_litert

if TYPE_CHECKING:
    import torch

    from deepspectrumlite.graph import Graph

Work: TypeAlias = Callable[[], object]

STAGES = ("front-end", "network", "end to end")


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
        model_folder(path)  # before torch is imported
        return TorchModel(path)
    return OnnxFile(path) if file_kind(path) == "onnx" else TfliteFile(path)


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

        contents = {"end to end": self.path.read_bytes()}
        with suppress(ValueError):
            for name, part in (("front-end", "frontend"), ("network", "network")):
                contents[name] = write_graph(self.graph(part))
        runs = {
            name: litert_run(open_litert(self.path, threads, data))
            for name, data in contents.items()
        }
        return _stages(runs, self.cutting)

    def layers(self) -> list[Layer]:
        """Operations with their constants, in the order in which they run."""
        return tflite_layers(self.graph(), self.cutting.recipe)


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
        runs = {"end to end": onnx_run(open_session(self.path, threads))}
        try:
            model = self.model()
        except MissingExtraError:
            model = None
        image = model and onnx_image(model.graph)
        if image:
            ends = ([model.graph.input[0].name], [image], [model.graph.output[0].name])
            for name, start, stop in (("front-end", 0, 1), ("network", 1, 2)):
                runs[name] = _onnx_part(model, ends[start], ends[stop], threads)
        return _stages(runs, self.cutting)

    def layers(self) -> list[Layer]:
        """Nodes with their constants, in the order in which they run.

        Raises:
            MissingExtraError: the package onnx is not installed
        """
        return onnx_layers(self.model().graph)


def _onnx_part(model: Any, inputs: list[str], outputs: list[str], threads: int) -> Run:
    import onnx

    part = onnx.utils.Extractor(model).extract_model(inputs, outputs)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "part.onnx"
        onnx.save(part, path)
        return onnx_run(open_session(path, threads))


def onnx_image(graph: Any) -> str | None:
    """The one value that goes from the front-end to the rest."""
    made, taken = set[str](), set[str]()
    for node, part in zip(graph.node, onnx_parts(graph), strict=True):
        if part == "front-end":
            made |= set(node.output)
        else:
            taken |= set(node.input)
    between = made & taken
    return between.pop() if len(between) == 1 else None


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
        if not self.cutting.segment_samples:
            raise ModelError(
                f"{folder}: the model hears whole recordings, so it has no latency and no size of "
                "its own; export it with --seconds, and give the file"
            )

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
        return _stages(runs, self.cutting)

    def layers(self) -> list[Layer]:
        """See :func:`deepspectrumlite.layers.torch_layers`."""
        return torch_layers(self.model)


def _stages(runs: Mapping[str, Run], cutting: Cutting) -> dict[str, Work]:
    """Give each run what it takes; the network gets the image that the front-end makes."""
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (1, cutting.segment_samples))
    waveform = noise.astype(np.float32)
    if "front-end" not in runs:
        return {"end to end": partial(runs["end to end"], waveform)}
    image = runs["front-end"](waveform)
    return {name: partial(runs[name], image if name == "network" else waveform) for name in STAGES}

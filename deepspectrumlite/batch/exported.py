"""Features from an exported file, without torch: what the network gives before its head.

The graph in the file is cut there, so that what runs is the same operations without the head. This
needs the package flatbuffers for .tflite, and onnx for .onnx.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from deepspectrumlite.audio import Waveform
from deepspectrumlite.batch.predicting import one_line
from deepspectrumlite.batch.rows import Row, predict_row
from deepspectrumlite.batch.work import Made, Tell
from deepspectrumlite.decisions import Decision
from deepspectrumlite.description import Description, file_kind, open_session, read_description
from deepspectrumlite.errors import MissingExtraError, ModelError
from deepspectrumlite.runtime import Run, litert_run, onnx_run, open_litert

FEATURE_COLUMNS = ("path", "file_index", "start", "end")
_TFLITE_LAYERS = ("FULLY_CONNECTED", "BATCH_MATMUL", "CONV_2D")
_ONNX_LAYERS = ("Gemm", "MatMul", "Conv")


def feature_schema(names: Sequence[str], others: Sequence[str] = ()) -> pa.Schema:
    """Columns of a table of features, a row per segment; bad recordings have a row with `error`."""
    kinds = [pa.string(), pa.int64(), pa.float64(), pa.float64()]
    own = list(zip(FEATURE_COLUMNS, kinds, strict=True))
    told = [(name, pa.string()) for name in (*others, "error")]
    return pa.schema(own + told + [(name, pa.float32()) for name in names])


def further_columns(rows: Sequence[Row], names: Sequence[str]) -> list[str]:
    """Those of the manifest that do not have the name of one of ours."""
    taken = {*FEATURE_COLUMNS, "error", *names}
    return [name for name in rows[0].others if name not in taken]


@dataclass(frozen=True)
class ExportedExtracting:
    """How to extract features by an exported file."""

    threads: int = 1

    def open(self, model: Path | None) -> "OpenExported":
        """Open the file without its head.

        Raises:
            ModelError: no such file, a broken, foreign or newer one, or one of 8 bits
            MissingExtraError: the package that reads its graph is not installed
        """
        assert model is not None, "no model to extract by"
        return OpenExported(Features(model, self.threads))


class Features:
    """An exported file whose "scores" are the features: a Recogniser, up to what they mean."""

    batch_size = 1

    def __init__(self, path: Path, threads: int) -> None:
        self.cutting: Description = read_description(path)
        self.decision: Decision = self.cutting.decision
        self.recipe: Mapping[str, Any] = self.cutting.recipe
        if self.cutting.precision == "int8":
            raise ModelError(
                f"{path}: features of an int8 file have 8 bits; allowed: float32 and float16; "
                "export it again without --int8"
            )
        n_layers = 2 if self.recipe["model"]["units"] else 1
        cut = _cut_onnx if file_kind(path) == "onnx" else _cut_tflite
        self._run: Run = cut(path, n_layers, threads)
        self.n_features = self.score(np.zeros((1, self.cutting.segment_samples))).shape[1]

    def score(self, segments: np.ndarray) -> Waveform:
        """``(n_segments, segment_samples)`` -> ``(n_segments, n_features)``, both float32."""
        each = np.ascontiguousarray(segments, dtype=np.float32)[:, None]
        return np.stack([self._run(segment).reshape(-1) for segment in each])


def _cut_tflite(path: Path, n_layers: int, threads: int) -> Run:
    try:
        from deepspectrumlite.graph import FRONTEND, IMAGE, cut, operators, read_graph, write_graph
    except ModuleNotFoundError as error:
        raise MissingExtraError(str(error.name), f"the graph of {path}", "export") from None
    graph = read_graph(path.read_bytes())
    main = graph.subgraphs[0]
    layers = [i for i, name in enumerate(operators(graph)) if name in _TFLITE_LAYERS]
    features = main.tensors[main.operators[layers[-n_layers]].inputs[0]]
    # `cut` leaves what leads to the tensor of this name.
    for tensor in main.tensors:
        tensor.name = FRONTEND if tensor.name == IMAGE else tensor.name
    features.name = IMAGE
    cut(graph, "frontend")
    return litert_run(open_litert(path, threads, write_graph(graph)))


def _cut_onnx(path: Path, n_layers: int, threads: int) -> Run:
    try:
        import onnx
    except ModuleNotFoundError as error:
        raise MissingExtraError(str(error.name), f"the graph of {path}", "export") from None
    model = onnx.shape_inference.infer_shapes(onnx.load(path))
    layers = [node for node in model.graph.node if node.op_type in _ONNX_LAYERS]
    ends = [model.graph.input[0].name], [layers[-n_layers].input[0]]
    with tempfile.TemporaryDirectory(prefix="deepspectrumlite-") as folder:
        part = Path(folder) / "part.onnx"
        onnx.save(onnx.utils.Extractor(model).extract_model(*ends), part)
        return onnx_run(open_session(part, threads))


class OpenExported:
    """A file that is open, with the columns of its tables."""

    def __init__(self, features: Features) -> None:
        self._features = features
        self.names = [f"deep_{i}" for i in range(features.n_features)]
        self.schema = feature_schema(self.names)

    def make(self, rows: Sequence[Row], first: int, tell: Tell) -> Made:
        """Features of rows, of which the first is the manifest's row `first`, from 0 on."""
        others = further_columns(rows, self.names)
        known: list[dict[str, Any]] = []
        values: list[np.ndarray] = []
        bad, replaced, seconds = 0, 0, 0.0
        for index, row in enumerate(rows):
            of_row = {"path": row.path, "file_index": first + index}
            of_row |= {name: row.others.get(name) for name in others}
            try:
                found = predict_row(self._features, row)
            except Exception as error:  # Whatever it is: of millions, one costs itself.
                told = {"start": row.start, "end": row.end, "error": one_line(error)}
                known.append(of_row | told)
                values.append(np.full((1, len(self.names)), np.nan, np.float32))
                bad += 1
            else:
                times = zip(found.segment_starts, found.segment_ends, strict=True)
                known += [of_row | {"start": start, "end": end} for start, end in times]
                odd = ~np.isfinite(found.segment_scores)
                values.append(np.where(odd, np.float32(0), found.segment_scores))
                replaced += int(odd.sum())
                seconds += found.segment_ends[-1] - found.segment_starts[0]
            tell(index + 1)
        schema = feature_schema(self.names, others)
        n_own = len(schema) - len(self.names)
        own = pa.Table.from_pylist(known, pa.schema(list(schema)[:n_own]))
        # What is not a number was not computed.
        columns = [pa.array(column, from_pandas=True) for column in np.concatenate(values).T]
        table = pa.table([*own.columns, *columns], schema)
        return Made(table, bad, float(seconds), replaced=replaced)

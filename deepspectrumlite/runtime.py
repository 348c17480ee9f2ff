"""Run an exported file: waveform in, scores out, with numpy and one small runtime, no torch.

``Predictor("drums.tflite").predict("clip.wav").label`` is all that a program needs.
"""

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from deepspectrumlite.audio import Waveform, convert_audio
from deepspectrumlite.decisions import Decision
from deepspectrumlite.description import (
    AGAIN,
    Description,
    describe_session,
    file_kind,
    open_session,
    read_description,
)
from deepspectrumlite.errors import AudioError, ModelError
from deepspectrumlite.predict import Prediction, predict_file, predict_waveform

Run = Callable[[Waveform], Waveform]

MAX_THREADS = 256


class Predictor:
    """An exported .tflite or .onnx file, ready to run; threads may share it.

    It is a :class:`deepspectrumlite.predict.Recogniser`. Attributes: ``path``, and ``description``,
    all that the file says of itself.
    """

    def __init__(self, path: str | Path, *, threads: int = 1) -> None:
        """Open a file, to compute on so many threads of the CPU.

        Raises:
            ModelError: no such file, or a broken, foreign or newer one
            MissingExtraError: a .onnx file, and onnxruntime is not installed
        """
        self.path = Path(path)
        self.description, self._run, self._run_image = _open(self.path, threads)
        self._lock = threading.Lock()  # A runtime has one set of buffers.

    @property
    def cutting(self) -> Description:
        """How recordings become segments."""
        return self.description

    @property
    def decision(self) -> Decision:
        """What the scores mean."""
        return self.description.decision

    @property
    def recipe(self) -> Mapping[str, Any]:
        """What the model was trained by."""
        return self.description.recipe

    @property
    def stream(self) -> Mapping[str, Any] | None:
        """Settings for a stream of windows; None: the defaults."""
        return self.description.stream

    @property
    def batch_size(self) -> int:
        """One: the graph takes one segment."""
        return 1

    def predict(
        self, recording: str | Path | np.ndarray, sample_rate: int | None = None
    ) -> Prediction:
        """What is heard in a recording of any length.

        Args:
            recording: a file; or samples, (num_samples,) or (num_samples, channels), from -1 to 1
            sample_rate: of the samples, in Hz; None: that of the model

        Raises:
            AudioError: the file cannot be read, or the samples are none that could be recognised
        """
        if isinstance(recording, str | Path):
            return predict_file(self, Path(recording))
        own = self.description.sample_rate
        return predict_waveform(self, convert_audio(recording, sample_rate or own, own))

    def scores(self, waveform: np.ndarray) -> Waveform:
        """Mean scores of (num_samples,) at the model's sample rate: (n_columns,)."""
        return self.predict(waveform).scores

    def score(self, segments: np.ndarray) -> Waveform:
        """``(n_segments, segment_samples)`` -> ``(n_segments, n_columns)``, both float32.

        Raises:
            AudioError: another shape, or samples that are not finite
        """
        segments = self._checked(segments)
        scores = np.empty((len(segments), len(self.decision.columns)), np.float32)
        for index in range(len(segments)):
            with self._lock:
                scores[index] = self._run(segments[index : index + 1])[0]
        return scores

    def image(self, segment: np.ndarray) -> Waveform:
        """What the network sees of (segment_samples,): (3, height, width), float32 in 0..1.

        High frequencies come first. Computes the scores too, as that is how graphs run.

        Raises:
            ModelError: the file was exported without --image
            AudioError: another shape, or samples that are not finite
        """
        if self._run_image is None:
            raise ModelError(
                f"{self.path}: gives no image; export it again with `deepspectrumlite export "
                "--image`"
            )
        checked = self._checked(np.asarray(segment)[None])
        with self._lock:
            image: Waveform = self._run_image(checked)[0]
        return image

    def _checked(self, segments: np.ndarray) -> Waveform:
        segments = np.ascontiguousarray(segments, dtype=np.float32)
        size = self.description.segment_samples
        if segments.ndim != 2 or segments.shape[1] != size:
            raise AudioError(
                f"segments of shape {segments.shape}; allowed: (n_segments, {size}); for other "
                "lengths call predict()"
            )
        if not np.isfinite(segments).all():
            raise AudioError("NaN or infinite samples in a segment; allowed: finite numbers")
        return segments


def _open(path: Path, threads: int) -> tuple[Description, Run, Run | None]:
    """What a file says, what gives its scores, and what gives its image, if any does."""
    if not 1 <= threads <= MAX_THREADS:
        raise ModelError(f"threads is {threads}; allowed: 1 to {MAX_THREADS}")
    if file_kind(path) == "onnx":
        session = open_session(path, threads)
        description = describe_session(session, path)
        inputs, outputs = session.get_inputs(), session.get_outputs()
        _check_shapes(description, path, [x.shape for x in inputs], [x.shape for x in outputs])
        return description, onnx_run(session), onnx_run(session, 1) if description.image else None
    description = read_description(path)
    interpreter = open_litert(path, threads)
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    _check_shapes(
        description,
        path,
        [x["shape"].tolist() for x in inputs],
        [x["shape"].tolist() for x in outputs],
    )
    run_image = litert_run(interpreter, 1) if description.image else None
    return description, litert_run(interpreter), run_image


def open_litert(path: Path, threads: int, data: bytes | None = None) -> Any:
    """A .tflite file in LiteRT, or instead ``data``, what was made from that file.

    Raises:
        ModelError: LiteRT refuses it
    """
    from ai_edge_litert.interpreter import Interpreter

    try:
        interpreter = Interpreter(
            model_path=str(path) if data is None else None, model_content=data, num_threads=threads
        )
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(
            f"{path}: LiteRT cannot run it ({reason}); upgrade ai-edge-litert, or {AGAIN}"
        ) from None
    return interpreter


def litert_run(interpreter: Any, output: int = 0) -> Run:
    """What passes an array through a file that :func:`open_litert` opened."""
    into = interpreter.get_input_details()[0]["index"]
    out_of = interpreter.get_output_details()[output]["index"]

    def run(segment: Waveform) -> Waveform:
        interpreter.set_tensor(into, segment)
        interpreter.invoke()
        scores: Waveform = interpreter.get_tensor(out_of)
        return scores

    return run


def onnx_run(session: Any, output: int = 0) -> Run:
    """What passes an array through a file that ``open_session`` opened."""
    into, out_of = session.get_inputs()[0].name, session.get_outputs()[output].name

    def run(segment: Waveform) -> Waveform:
        scores: Waveform = session.run([out_of], {into: segment})[0]
        return scores

    return run


def _check_shapes(description: Description, path: Path, inputs: Any, outputs: Any) -> None:
    """Refuse a graph that is not what its description says."""
    found = [[list(shape) for shape in shapes] for shapes in (inputs, outputs)]
    expected = [[[1, description.segment_samples]], [[1, len(description.decision.columns)]]]
    if description.image_shape:
        expected[1].append(list(description.image_shape))
    if found != expected:
        raise ModelError(
            f"{path}: the graph takes and gives {found}, but its description says {expected}; "
            f"{AGAIN}"
        )

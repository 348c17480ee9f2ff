"""What an exported file says of itself: what goes in, what the scores mean, how it was made.

It is JSON behind the model, of which it holds a checksum: in a .tflite file
``deepspectrumlite.json`` in the zip archive of the TFLite metadata convention, in a .onnx file the
entry ``deepspectrumlite`` of ``metadata_props``.

At import this needs nothing but numpy, as it runs on the device.
"""

import json
import math
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from deepspectrumlite import __version__
from deepspectrumlite.decisions import Decision
from deepspectrumlite.errors import MissingExtraError, ModelError

FORMAT = 1
OUTPUTS = ("softmax", "sigmoid", "linear", "ordinal")
ENTRY = "deepspectrumlite"
MEMBER, LABELS_MEMBER = "deepspectrumlite.json", "labels.txt"
# Where the flatbuffers identifier stands, and what it is in a .tflite file.
_IDENTIFIER = (slice(4, 8), b"TFL3")
_BLOCK_BYTES = 2**20


@dataclass(frozen=True, kw_only=True)
class Description:
    """All that is needed to use an exported file, and where it comes from.

    Attributes:
        format: of this description, see :data:`FORMAT`
        version: of deepspectrumlite that wrote it
        output: "softmax", "sigmoid", "linear" or "ordinal"
        labels: the classes, or for "linear" the names of the numbers
        thresholds: for "sigmoid" one per label, else empty
        values: for "ordinal" the number of each label, from low to high, else empty
        temperature: what calibration divides the logits by, inside the graph; 1: it does not;
            for "sigmoid" one per label; None: the scores are numbers
        unknown: what a recording is refused by, "none", "score", or "energy", for which the graph
            gives a score more
        unknown_below: for "score": a highest score below is refused
        conformal: lowest score of a label in a prediction set; None: there are no sets
        sample_rate: of the waveform that goes in, in Hz
        segment_samples: samples that go in at once
        hop_samples: samples from the start of a segment to the start of the next
        padding: how a recording shorter than a segment is filled up, "zero" or "repeat"
        tail: what happens to an end shorter than a segment, "keep" or "drop"
        precision: of the weights: "float32", "float16" or "int8"
        digest: of the weights that it was exported from, BLAKE2b as hexadecimal
        recipe: what the model was trained by, as in ``recipe.json``
        stream: settings for a stream of windows; None: the defaults
        image: whether the graph also gives the image that the network sees, see
            :attr:`image_shape`
    """

    format: int = FORMAT
    version: str = __version__
    output: str
    labels: list[str]
    thresholds: Sequence[float] = ()
    values: Sequence[float] = ()
    temperature: float | Sequence[float] | None = None
    unknown: str = "none"
    unknown_below: float = 0.0
    conformal: float | None = None
    sample_rate: int
    segment_samples: int
    hop_samples: int
    padding: Literal["zero", "repeat"]
    tail: Literal["keep", "drop"]
    precision: str
    digest: str
    recipe: Mapping[str, Any]
    stream: Mapping[str, Any] | None = None
    image: bool = False

    @property
    def image_shape(self) -> tuple[int, int, int, int] | None:
        """(1, 3, height, width) of the second output, in 0..1, high frequencies first; or None."""
        if not self.image:
            return None
        height, width = (self.recipe["frontend"][key] for key in _IMAGE_SIZES)
        return 1, 3, height, width

    @property
    def decision(self) -> Decision:
        """What the scores mean."""
        return Decision(
            self.output,
            self.labels,
            self.thresholds,
            self.values,
            self.unknown,
            self.unknown_below,
            self.conformal,
        )

    def to_json(self) -> str:
        """Indented JSON; numbers that JSON does not know are refused."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes, source: str | Path = "description") -> "Description":
        """Check and read what :meth:`to_json` wrote; unknown keys are left out.

        Raises:
            ModelError: broken, or in a newer format
        """
        values = _parse(text, source)
        written = values.get("format")
        if isinstance(written, int) and written > FORMAT:
            raise ModelError(
                f"{source}: written by deepspectrumlite {values.get('version')} in format "
                f"{written}; this is {__version__}, which reads up to format {FORMAT}, so upgrade "
                "the package"
            )
        known = {field.name: values[field.name] for field in fields(cls) if field.name in values}
        needed = [field.name for field in fields(cls) if field.name not in _LATER]
        missing = [name for name in needed if name not in values]
        wrong = missing or [name for name, value in known.items() if not _CHECKS[name](value)]
        if wrong:
            given = "missing" if missing else json.dumps(known[wrong[0]])[:60]
            raise ModelError(f"{source}: a broken description: {wrong[0]} is {given}; {AGAIN}")
        description = cls(**known)
        _check_sizes(description, source)
        return description


# What files of an earlier version do not have.
_LATER = ("unknown", "unknown_below", "conformal", "image")
_IMAGE_SIZES = ("image_height", "image_width")
AGAIN = "copy the file again, or export it again"


def read_description(path: Path) -> Description:
    """Read the description of a .tflite or .onnx file, and check that the file is whole.

    Raises:
        ModelError: no such file, another kind of file, or a broken, foreign or newer one
        MissingExtraError: a .onnx file, and onnxruntime is not installed
    """
    if file_kind(path) == "onnx":
        return describe_session(open_session(path), path)
    return _read(read_member(path), path)


def file_kind(path: Path) -> Literal["tflite", "onnx"]:
    """What kind of exported file this is: .tflite told by its content, .onnx by its name.

    Raises:
        ModelError: neither, or not a readable file
    """
    try:
        with Path(path).open("rb") as file:
            start = file.read(8)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    where, identifier = _IDENTIFIER
    if start[where] == identifier:
        return "tflite"
    if Path(path).suffix.lower() == ".onnx":
        return "onnx"
    if Path(path).suffix.lower() == ".tflite":
        raise ModelError(f"{path}: broken, as it does not begin like a .tflite file; {AGAIN}")
    raise ModelError(
        f"{path}: no model there; allowed: a run folder, a model folder, or a .tflite or .onnx "
        "file that deepspectrumlite exported"
    )


def read_member(path: Path) -> bytes:
    """The JSON in the archive behind a .tflite model.

    Raises:
        ModelError: there is none
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.read(MEMBER)
    except KeyError:
        raise _foreign(path) from None
    except zipfile.BadZipFile:
        # What is cut off at the end has lost the directory of its archive.
        raise _foreign(path, ", or cut short or damaged") from None
    except (OSError, EOFError, ValueError, RuntimeError, struct.error, zlib.error) as error:
        raise ModelError(f"{path}: broken ({error}); {AGAIN}") from None


def open_session(path: Path, threads: int = 1) -> Any:
    """A .onnx file in onnxruntime.

    Raises:
        ModelError: onnxruntime refuses it
        MissingExtraError: onnxruntime is not installed
    """
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtraError("onnxruntime", f"{path}: a .onnx file", "onnx") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # It logs what it raises, too.
    try:
        return onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"], enable_fallback=0
        )
    except Exception as error:
        # Its errors have no base of their own.
        reason = " ".join(str(error).split())
        raise ModelError(f"{path}: broken ({reason}); {AGAIN}") from None


def describe_session(session: Any, path: Path) -> Description:
    """As :func:`read_description`, of a .onnx file that is already open."""
    return _read(read_entry(session, path), path)


def read_entry(session: Any, path: Path) -> str:
    """The JSON in the metadata of a .onnx file.

    Raises:
        ModelError: there is none
    """
    try:
        text: str | None = session.get_modelmeta().custom_metadata_map.get(ENTRY)
    except UnicodeDecodeError as error:
        raise ModelError(f"{path}: a broken description ({error}); {AGAIN}") from None
    if text is None:
        raise _foreign(path)
    return text


def sealed_json(description: Description, model: bytes) -> str:
    """The description's JSON with the length and checksum of the model that it stands behind."""
    seal = {"file": {"bytes": len(model), "crc32": zlib.crc32(model)}}
    return json.dumps(_parse(description.to_json(), "") | seal, indent=2, ensure_ascii=False)


def model_bytes(text: str | bytes, path: Path) -> int:
    """How many bytes at the start of the file are the model, from its description's JSON.

    Raises:
        ModelError: the JSON is broken
    """
    return _seal(text, path)[0]


def _seal(text: str | bytes, path: Path) -> tuple[int, int]:
    seal = _parse(text, path).get("file")
    try:
        return int(seal["bytes"]), int(seal["crc32"])  # type: ignore[index]
    except (TypeError, KeyError, ValueError):
        raise ModelError(f"{path}: a broken description: file is {seal!r}; {AGAIN}") from None


def _read(text: str | bytes, path: Path) -> Description:
    description = Description.from_json(text, path)
    # LiteRT maps what it is given, so this comes first there: a damaged model can take the process
    # with it. onnxruntime has parsed the file by then, which it checks itself.
    (missing, expected), checksum = _seal(text, path), 0
    with Path(path).open("rb") as file:
        while missing > 0 and (block := file.read(min(missing, _BLOCK_BYTES))):
            checksum = zlib.crc32(block, checksum)
            missing -= len(block)
    if missing or checksum != expected:
        raise ModelError(f"{path}: damaged, as its checksum is not that of its model; {AGAIN}")
    return description


def _parse(text: str | bytes, source: str | Path) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except ValueError as error:
        raise ModelError(f"{source}: a broken description ({error}); {AGAIN}") from None
    if not isinstance(values, dict):
        raise ModelError(f"{source}: a broken description, not a JSON object; {AGAIN}")
    return values


def _foreign(path: Path, or_else: str = "") -> ModelError:
    return ModelError(
        f"{path}: no description inside, so not exported by deepspectrumlite{or_else}; allowed: "
        "files that `deepspectrumlite export` wrote"
    )


def _check_sizes(description: Description, source: str | Path) -> None:
    needed = {"sigmoid": "thresholds", "ordinal": "values"}.get(description.output)
    n_labels, n_samples = len(description.labels), description.segment_samples
    if needed and len(getattr(description, needed)) != n_labels:
        raise ModelError(
            f"{source}: a broken description: {len(getattr(description, needed))} {needed} for "
            f"{n_labels} labels; {AGAIN}"
        )
    if isinstance(description.temperature, list) and len(description.temperature) != n_labels:
        raise ModelError(
            f"{source}: a broken description: {len(description.temperature)} temperatures for "
            f"{n_labels} labels; {AGAIN}"
        )
    section = description.recipe.get("frontend")
    sizes = section if isinstance(section, dict) else {}
    if description.image and not all(_is_count(sizes.get(key)) for key in _IMAGE_SIZES):
        raise ModelError(
            f"{source}: a broken description: an image whose size its recipe does not tell; {AGAIN}"
        )
    if description.hop_samples > n_samples:
        raise ModelError(
            f"{source}: a broken description: hop_samples is {description.hop_samples}, above "
            f"segment_samples ({n_samples}); {AGAIN}"
        )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and type(value) is not bool and math.isfinite(value)


def _is_count(value: object) -> bool:
    return type(value) is int and value > 0


def _are_numbers(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_number, value))


def _is_temperature(value: object) -> bool:
    several: list[Any] = value if isinstance(value, list) else [value]
    return value is None or (_are_numbers(several) and all(each > 0 for each in several))


def _is_text(value: object) -> bool:
    return isinstance(value, str)


_CHECKS: dict[str, Callable[[Any], bool]] = {
    "format": _is_count,
    "version": _is_text,
    "output": lambda value: value in OUTPUTS,
    "labels": lambda value: isinstance(value, list) and bool(value) and all(map(_is_text, value)),
    "thresholds": _are_numbers,
    "values": _are_numbers,
    "temperature": _is_temperature,
    "unknown": lambda value: value in ("none", "score", "energy"),
    "unknown_below": _is_number,
    "conformal": lambda value: value is None or _is_number(value),
    "sample_rate": _is_count,
    "segment_samples": _is_count,
    "hop_samples": _is_count,
    "padding": lambda value: value in ("zero", "repeat"),
    "tail": lambda value: value in ("keep", "drop"),
    "precision": _is_text,
    "digest": _is_text,
    "recipe": lambda value: isinstance(value, dict),
    "stream": lambda value: value is None or isinstance(value, dict),
    "image": lambda value: isinstance(value, bool),
}

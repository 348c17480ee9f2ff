"""Write into an exported file what it is, so that it needs nothing beside it.

A .tflite file follows the TFLite metadata convention, by which MediaPipe and others know the sample
rate and the labels; a .onnx file gets an entry of ``metadata_props``.
"""

import hashlib
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from deepspectrumlite.checkpoint import write_atomically
from deepspectrumlite.description import (
    ENTRY,
    LABELS_MEMBER,
    MEMBER,
    Description,
    file_kind,
    model_bytes,
    open_session,
    read_entry,
    read_member,
    sealed_json,
)
from deepspectrumlite.errors import ModelError
from deepspectrumlite.graph import drop_unused, read_graph, write_graph
from deepspectrumlite.model import NUMBERS, Classifier

_METADATA_NAME = b"TFLITE_METADATA"
# The tables of metadata_schema.fbs of TFLite that are used here. They are written as {slot: value},
# slots counted in the order of the schema; audio properties came with its version 1.3.0.
#   ModelMetadata     0 name, 1 description, 2 version, 3 subgraph_metadata, 7 min_parser_version
#   SubGraphMetadata  2 input_tensor_metadata, 3 output_tensor_metadata
#   TensorMetadata    0 name, 1 description, 3 content, 6 associated_files
#   Content           0 content_properties_type, 1 content_properties
#   AudioProperties   0 sample_rate, 1 channels
#   AssociatedFile    0 name, 1 description, 2 type
_AUDIO_PROPERTIES, _TENSOR_AXIS_LABELS, _PARSER_VERSION = 4, 2, "1.3.0"


def describe(
    model: Classifier,
    *,
    precision: str = "float32",
    stream: Mapping[str, Any] | None = None,
    image: bool = False,
) -> Description:
    """The description of a file that is exported from a model.

    Args:
        model: the trained model
        precision: of the file's weights
        stream: settings for a stream of windows
        image: whether the file has the image as a second output
    """
    decision, data = model.decision, model.recipe.data
    return Description(
        output=decision.output,
        labels=list(decision.labels),
        thresholds=list(decision.thresholds),
        values=list(decision.values),
        temperature=None if decision.output in NUMBERS else model.temperature.tolist(),
        unknown=decision.unknown,
        unknown_below=decision.unknown_below,
        conformal=decision.conformal,
        sample_rate=data.sample_rate,
        segment_samples=data.segment_samples,
        hop_samples=data.hop_samples,
        padding=data.padding,
        tail=data.tail,
        precision=precision,
        digest=digest_weights(model),
        recipe=model.recipe.model_dump(mode="json"),
        stream=stream,
        image=image,
    )


def digest_weights(model: Classifier) -> str:
    """BLAKE2b of all weights and buffers with their names, 128 bits, as hexadecimal."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        values = tensor.detach().cpu().numpy()
        digest.update(f"{name} {values.dtype} {values.shape}\n".encode())
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def write_metadata(path: Path, description: Description) -> None:
    """Write a description into a .tflite or .onnx file, in place of one that is there already.

    Raises:
        ModelError: another kind of file
        OSError: the file cannot be written; it is left as it was
    """
    write = write_onnx_metadata if file_kind(path) == "onnx" else write_tflite_metadata
    write(path, description)


def write_tflite_metadata(path: Path, description: Description) -> None:
    """The same for .tflite: TFLite metadata, with the labels and the description behind it."""
    model = _undescribed(path, read_member)
    described = add_tflite_metadata(model, tensor_metadata(description))
    names = [" ".join(name.split()) for name in description.decision.columns]
    members = {LABELS_MEMBER: "\n".join(names) + "\n", MEMBER: sealed_json(description, described)}

    def write(file: Any) -> None:
        file.write(described)
        with zipfile.ZipFile(file, "w") as archive:
            for name, text in members.items():
                # ZipInfo has a fixed date, so that the same model gives the same file.
                archive.writestr(zipfile.ZipInfo(name), text)

    write_atomically(path, write)


def write_onnx_metadata(path: Path, description: Description) -> None:
    """The same for .onnx: an entry ``deepspectrumlite`` of ``metadata_props``.

    A protobuf message may be added to where it ends, and nothing before has to be decoded: see
    https://protobuf.dev/programming-guides/encoding/#last-one-wins
    """
    model = _undescribed(path, lambda path: read_entry(open_session(path), path))
    # ModelProto.metadata_props is field 14, of StringStringEntryProto: 1 key, 2 value.
    entry = _field(1, ENTRY.encode()) + _field(2, sealed_json(description, model).encode())
    write_atomically(path, lambda file: file.write(model + _field(14, entry)))


def tensor_metadata(description: Description) -> bytes:
    """The ModelMetadata flatbuffer: a mono waveform goes in, scores (and an image) come out."""
    builder = flatbuffers.Builder()
    text = builder.CreateString
    audio = _table(builder, {}, {0: description.sample_rate, 1: 1})
    content = _table(builder, {1: audio}, {}, union_type=_AUDIO_PROPERTIES)
    about = f"{description.segment_samples} samples at {description.sample_rate} Hz, from -1 to 1"
    waveform = _table(builder, {0: text("waveform"), 1: text(about), 3: content})
    labels = _table(
        builder,
        {0: text(LABELS_MEMBER), 1: text("names of the scores")},
        enum=(2, _TENSOR_AXIS_LABELS),
    )
    files = _vector(builder, [labels])
    scores = _table(builder, {0: text("scores"), 1: text(description.output), 6: files})
    outputs = [scores]
    if description.image:
        about = "what the network sees, in 0..1: red, green, blue; high frequencies first"
        outputs.append(_table(builder, {0: text("image"), 1: text(about)}))
    tensors = {2: _vector(builder, [waveform]), 3: _vector(builder, outputs)}
    graph = _vector(builder, [_table(builder, tensors)])
    names = {0: "Deep Spectrum recogniser", 1: "from a waveform to scores", 2: description.version}
    slots = {slot: text(name) for slot, name in names.items()}
    slots |= {3: graph, 7: text(_PARSER_VERSION)}
    builder.Finish(_table(builder, slots), file_identifier=b"M001")
    return bytes(builder.Output())


def add_tflite_metadata(model: bytes, metadata: bytes) -> bytes:
    """A .tflite model with metadata in a buffer of its own, in place of any before."""
    graph = read_graph(model)
    graph.metadata = [entry for entry in graph.metadata or [] if entry.name != _METADATA_NAME]
    drop_unused(graph)
    graph.metadata.append(schema.MetadataT(_METADATA_NAME, len(graph.buffers)))
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(metadata, np.uint8)
    graph.buffers.append(buffer)
    return write_graph(graph)


def _undescribed(path: Path, read: Callable[[Path], str | bytes]) -> bytes:
    """The model in a file, without the description that may stand behind it already."""
    model = path.read_bytes()
    try:
        text = read(path)
    except ModelError:
        return model
    return model[: model_bytes(text, path)]


def _table(
    builder: flatbuffers.Builder,
    offsets: Mapping[int, int],
    numbers: Mapping[int, int] | None = None,
    *,
    union_type: int | None = None,
    enum: tuple[int, int] | None = None,
) -> int:
    """A table from offsets and 32-bit numbers by slot, a union's type in slot 0, and one enum."""
    numbers = numbers or {}
    builder.StartObject(1 + max(*offsets, *numbers, *(enum or (0,))[:1], 0))
    for slot, offset in offsets.items():
        builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
    for slot, number in numbers.items():
        builder.PrependUint32Slot(slot, number, 0)
    if union_type is not None:
        builder.PrependUint8Slot(0, union_type, 0)
    if enum is not None:
        builder.PrependInt8Slot(*enum, 0)
    return int(builder.EndObject())


def _vector(builder: flatbuffers.Builder, offsets: Sequence[int]) -> int:
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())


def _field(number: int, data: bytes) -> bytes:
    """A protobuf field of bytes: key with wire type 2, length, bytes."""
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; the eighth bit says that more follow."""
    low, high = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + _varint(high) if high else bytes([low])

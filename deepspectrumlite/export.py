"""From a model folder to one file for the device, which is handed over only if it proves itself."""

import importlib.util
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from deepspectrumlite.checkpoint import write_atomically
from deepspectrumlite.config import ExportOptions
from deepspectrumlite.convert import KINDS, add_image, convert
from deepspectrumlite.data import Segments
from deepspectrumlite.errors import ExportError, ManifestError, MissingExtraError
from deepspectrumlite.metadata import describe, write_metadata
from deepspectrumlite.model import Classifier, TorchRecogniser, fix_length, load_model
from deepspectrumlite.progress import Progress, silent
from deepspectrumlite.proof import Difference, compare, score_all
from deepspectrumlite.runs import Options, read_scanned, scan_split, used_manifest
from deepspectrumlite.runtime import Predictor
from deepspectrumlite.splits import require_splits
from deepspectrumlite.stream_settings import own_settings, read_settings
from deepspectrumlite.targets import load_labelled

# Of a float32 file's scores from the model's; conversion changes only the order of sums.
TOLERANCE = 1e-4
# Of an image, the mean difference in 0..1; near silence single pixels hold rounding errors alone.
IMAGE_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Exported:
    """One file that was made: how large it is and what it is worth.

    ``path`` is where it is handed over; None if it is only compared with, or refused.
    ``difference`` is None where scores are not numbers.
    """

    kind: str
    path: Path | None
    size: int
    difference: Difference | None
    failure: str | None

    def to_json(self) -> dict[str, Any]:
        """As one entry of the report."""
        path = None if self.path is None else self.path.name
        about = {"kind": self.kind, "file": path, "bytes": self.size, "failure": self.failure}
        return about | (self.difference.to_json() if self.difference else {})


def export_model(
    source: Path,
    out: Path,
    options: ExportOptions | None = None,
    *,
    progress: Progress = silent,
) -> list[Exported]:
    """Convert a model, run what was made on real clips, and hand over what is good enough.

    Args:
        source: a run or model folder
        out: the .tflite or .onnx file to write; the report goes to ``FILE.json`` beside it, that of
            an export that failed to ``FILE.failed.json``
        options: how; None: the defaults
        progress: told of every step

    Returns:
        every file that was made and compared; a float32 .tflite is always among them where
        a .tflite is wanted, as the reference of the smaller ones

    Raises:
        ExportError: another suffix, no conversion, or a file fails its proof; then nothing but the
            report is written, and what was there before stays
        ModelError: no model there, or wrong stream settings
        ManifestError: no clips to prove with
        MissingExtraError: the converters are not installed
    """
    options = options or ExportOptions()
    wanted = _wanted(out, options)
    check_converters()
    model = _of_fixed_length(load_model(source), source, options.seconds)
    stream = _stream_settings(source, options, model)
    table = _clips(source, options, model)
    clips = _segments(table, options.split, model, options, progress)
    calibration = None
    if options.precision == "int8":
        train = _segments(table, "train", model, options, progress)
        calibration = _draw(train, options.calibration_segments)
    with tempfile.TemporaryDirectory(dir=_folder(out)) as folder:
        made = convert(model, wanted, Path(folder), calibration=calibration, progress=progress)
        for kind, path in made.items():
            precision = kind.split(".")[0]
            about = describe(model, precision=precision, stream=stream, image=options.image)
            if about.image_shape:
                add_image(path, about.image_shape)
            write_metadata(path, about)
        if options.image:
            _check_images(model, made, clips[0][0])
        exported = _prove(model, made, clips, out, options, progress)
        failures = [each.failure for each in exported if each.failure]
        failed = out.with_name(f"{out.name}.failed.json")
        if failures:
            exported = [replace(each, path=None) for each in exported]
            _write_report(failed, exported, clips, options)
            raise ExportError(f"{'; '.join(failures)}; not written; see {failed}")
        for each in exported:
            if each.path is not None:
                made[each.kind].replace(each.path)
        _write_report(out.with_name(f"{out.name}.json"), exported, clips, options)
        failed.unlink(missing_ok=True)
    return exported


def check_export(model: Classifier, segments: Segments, *, progress: Progress = silent) -> None:
    """Convert a model that is not trained yet, and compare it on a few segments.

    Raises:
        ExportError: this network cannot be exported
        MissingExtraError: the converters are not installed
    """
    check_converters()
    if model.recipe.data.segment_seconds == "whole":
        few = segments[0][0][None]
        model = fix_length(model, few.shape[1] / model.recipe.data.sample_rate)
    else:
        few = _draw(segments, 8)
    model = model.eval()
    with tempfile.TemporaryDirectory() as folder:
        path = convert(model, KINDS[:1], Path(folder), progress=progress)[KINDS[0]]
        write_metadata(path, describe(model))
        difference = np.abs(TorchRecogniser(model).score(few) - Predictor(path).score(few)).max()
    if not difference <= TOLERANCE:
        raise ExportError(
            f"the exported network differs from the model by {difference:.1e}; allowed: "
            f"{TOLERANCE:g}; choose another model.backbone"
        )


def check_converters() -> None:
    """Raise MissingExtraError where the packages that convert are not installed."""
    for package in ("litert_torch", "ai_edge_quantizer", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, "export", "export")


def _of_fixed_length(model: Classifier, source: Path, seconds: float | None) -> Classifier:
    """The model itself; or one of whole recordings with the length that a file has to have."""
    is_whole = model.recipe.data.segment_seconds == "whole"
    if is_whole and seconds is None:
        raise ExportError(
            f"{source}: the model hears whole recordings, but a file takes a fixed length; "
            "give it with --seconds, for example --seconds 10"
        )
    if seconds is None:
        return model
    if not is_whole:
        raise ExportError(
            f"{source}: --seconds is {seconds:g}, but the model has segments of "
            f"{model.recipe.data.segment_seconds} s; leave out --seconds"
        )
    return fix_length(model, seconds)


def _wanted(out: Path, options: ExportOptions) -> list[str]:
    """The kinds of files to make, each with the float32 one to compare with."""
    if out.suffix not in (".tflite", ".onnx"):
        raise ExportError(f"{out}: the suffix is {out.suffix!r}; allowed: .tflite or .onnx")
    if out.is_dir():
        raise ExportError(f"{out}: a folder; choose the name of a file for --out")
    if out.suffix == ".onnx":
        if options.precision != "float32":
            raise ExportError(
                f"{out}: {options.precision} in .onnx; allowed: float32; for {options.precision} "
                "choose a .tflite file"
            )
        return ["float32.onnx"]
    wanted = ["float32.tflite"]
    if options.precision != "float32":
        wanted.append(f"{options.precision}.tflite")
    return wanted + ["float32.onnx"] * options.onnx


def _handed_over(kind: str, out: Path, options: ExportOptions) -> Path | None:
    """Where a file goes; None for one that is only compared with."""
    if kind.endswith(".onnx"):
        return out.with_suffix(".onnx")
    return out if kind == f"{options.precision}.tflite" else None


def _folder(out: Path) -> Path:
    """On the same disk, so that handing over is one step."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExportError(
            f"{out.parent}: cannot be made ({error.strerror}); choose another --out"
        ) from None
    return out.parent


def _stream_settings(
    source: Path, options: ExportOptions, model: Classifier
) -> Mapping[str, Any] | None:
    settings = read_settings(options.stream) if options.stream else own_settings(source)
    if settings is None:
        return None
    settings.check_for(model.recipe.data, model.decision)
    return settings.to_json()


def _clips(source: Path, options: ExportOptions, model: Classifier) -> pd.DataFrame:
    """The manifest; the run's own also tells how long its recordings are."""
    recipe, own = model.recipe, used_manifest(source)
    if options.manifest is None and own is not None:
        return read_scanned(own, recipe)
    if options.manifest is None:
        raise ManifestError(
            f"{source}: no manifest.csv beside the model, so nothing to prove the file with; give "
            "labelled recordings with --data"
        )
    return load_labelled(options.manifest, recipe.data, recipe.model.output)


def _segments(
    table: pd.DataFrame, split: str, model: Classifier, options: ExportOptions, progress: Progress
) -> Segments:
    if "split" not in table:
        raise ManifestError(f"{table.attrs['manifest']}: no column split; add one")
    require_splits(table, [split])
    rows = table[table["split"] == split].reset_index(drop=True)
    rows.attrs = dict(table.attrs)
    if "duration" not in rows:
        rows, _ = scan_split(rows, model.recipe.data, Options(), progress)
    return Segments(rows, model.recipe.data, model.targets.encode(rows))


def _draw(segments: Segments, most: int, seed: int = 0) -> npt.NDArray[np.float32]:
    """(n, segment_samples): some segments, each at most once."""
    chosen = np.random.default_rng(seed).permutation(len(segments))[:most]
    return np.stack([segments[int(i)][0] for i in chosen])


def _prove(
    model: Classifier,
    made: Mapping[str, Path],
    clips: Segments,
    out: Path,
    options: ExportOptions,
    progress: Progress,
) -> list[Exported]:
    systems = {"torch": TorchRecogniser(model)} | {k: Predictor(p) for k, p in made.items()}
    scores = score_all(systems, clips, progress)
    scale = model.scale.numpy() if "scale" in dict(model.named_buffers(recurse=False)) else 1.0
    proved = []
    for kind, path in made.items():
        difference = None
        if np.isfinite(scores[kind]).all():
            difference = compare(model.decision, scores["torch"], scores[kind], clips, scale=scale)
        proved.append(
            Exported(
                kind,
                _handed_over(kind, out, options),
                path.stat().st_size,
                difference,
                _failure(kind, difference, options.max_drop),
            )
        )
    return proved


def _check_images(
    model: Classifier, made: Mapping[str, Path], segment: npt.NDArray[np.float32]
) -> None:
    """Raise ExportError where a file gives another image of (segment_samples,) than the model."""
    with torch.inference_mode():
        expected = model.frontend(torch.from_numpy(segment)[None])[0].numpy()
    for kind, path in made.items():
        difference = float(np.abs(Predictor(path).image(segment) - expected).mean())
        if not difference <= IMAGE_TOLERANCE:
            raise ExportError(
                f"{kind}: the image differs from the model's by {difference:.1e} on average; "
                f"allowed: {IMAGE_TOLERANCE:g}; export without --image"
            )


def _failure(kind: str, difference: Difference | None, max_drop: float) -> str | None:
    """Why a file is not good enough, and what to try; None if it is."""
    another = {
        "int8.tflite": "--calibration with more segments, or --float16",
        "float16.tflite": "float32",
    }.get(kind, "another model.backbone or other frontend settings")
    if difference is None:
        return f"{kind}: some scores are not numbers; try {another}"
    if kind.startswith("float32"):
        if difference.max_difference <= TOLERANCE:
            return None
        return (
            f"{kind}: scores differ from the model's by up to {difference.max_difference:.1e}; "
            f"allowed: {TOLERANCE:g}; try {another}"
        )
    drop = difference.drop
    if drop.value <= max_drop:
        return None
    points = f"{100 * drop.value:.1f} points"
    interval = f"{100 * drop.low:.1f} to {100 * drop.high:.1f}"
    return (
        f"{kind}: {difference.metric} is {points} lower than the model's (95 % interval "
        f"{interval}); allowed: {100 * max_drop:g}; try {another}, or raise --max-drop"
    )


def _write_report(
    path: Path, exported: list[Exported], clips: Segments, options: ExportOptions
) -> None:
    report = {
        "split": options.split,
        "clips": len(np.unique(clips.file_index)),
        "segments": len(clips),
        "passed": not any(each.failure for each in exported),
        "files": [each.to_json() for each in exported],
    }
    text = json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))

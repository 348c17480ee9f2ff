"""Predict or extract over a manifest of any length, on this machine or a cluster.

The result is a folder of Parquet parts; see :mod:`deepspectrumlite.batch.plan`.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepspectrumlite.batch.exported import ExportedExtracting
from deepspectrumlite.batch.local import n_cores, run_local
from deepspectrumlite.batch.places import Folder, is_uri
from deepspectrumlite.batch.plan import Asked, Batch, digest_files, make_plan, model_files
from deepspectrumlite.batch.predicting import Predicting
from deepspectrumlite.batch.ray_data import run_ray
from deepspectrumlite.batch.work import Done, Job
from deepspectrumlite.config import PART_ROWS, Recipe
from deepspectrumlite.errors import ModelError
from deepspectrumlite.progress import Progress, silent


@dataclass(frozen=True)
class Engine:
    """Where the work is done: "local" or "ray"; ``processes`` None: as many as there are cores."""

    name: str = "local"
    processes: int | None = None
    address: str | None = None


@dataclass(frozen=True)
class Summary:
    """What was done now, in how many seconds; the parts that were there before do not count.

    ``seconds`` is of audio, without what is bad; ``reading``, ``model`` and ``writing`` are sums
    over the workers; ``replaced`` features were not finite, and are 0 now.
    """

    batch: Batch
    parts_before: int
    rows: int
    bad: int
    seconds: float
    wall_seconds: float
    reading: float
    model: float
    writing: float
    replaced: int = 0

    @property
    def hours_an_hour(self) -> float:
        """Hours of audio in an hour of time: 1 over the real-time factor."""
        return self.seconds / self.wall_seconds if self.wall_seconds else 0.0


def predict_batch(
    model: Path,
    manifest: str,
    out: str,
    *,
    segments: bool = False,
    part_rows: int = PART_ROWS,
    engine: Engine | None = None,
    device: str = "auto",
    threads: int = 1,
    progress: Progress = silent,
) -> Summary:
    """Predict every row of a manifest; the same again goes on at the parts that are missing.

    Args:
        model: an exported file, or a run or model folder
        manifest: as of :func:`deepspectrumlite.batch.rows.read_rows`
        out: the folder of the results, a path or a URI
        segments: a row for each segment, not for each recording
        part_rows: rows of the manifest in a part
        engine: where; None: all cores of this machine
        device: where torch computes, of a run or model folder
        threads: of each worker
        progress: told of rows or parts

    Raises:
        ModelError: no model there
        ManifestError: no such manifest, none in it, or `out` is a file or holds another batch
        DeepSpectrumLiteError: the workers fail
    """
    folder = _folder(out)
    job = Predicting(segments, device, threads)
    # Before any worker starts: a wrong model is one line.
    columns = job.open(model).schema.names
    files = model_files(model)
    asked = Asked("predict", str(model), digest_files(files), {"segments": segments}, columns)
    return run_batch(job, asked, model, files, manifest, folder, part_rows, engine, progress)


def extract_batch(
    kind: str,
    recipe: Recipe,
    manifest: str,
    out: str,
    *,
    layer: str = "",
    model: Path | None = None,
    part_rows: int = PART_ROWS,
    engine: Engine | None = None,
    device: str = "auto",
    progress: Progress = silent,
) -> Summary:
    """Extract features of every row of a manifest, a row per segment; else like the above.

    Args:
        kind: as of :func:`deepspectrumlite.features.extract`, like recipe, layer and device
        recipe: all settings
        manifest: as of :func:`deepspectrumlite.batch.rows.read_rows`
        out: the folder of the results, a path or a URI
        layer: of a network
        model: a trained model: a run or model folder, or an exported file
        part_rows: rows of the manifest in a part
        engine: where; None: all cores of this machine
        progress: told of rows or parts
        device: where the network runs

    Raises:
        ManifestError: as of :func:`predict_batch`
        DeepSpectrumLiteError: the errors of `features.extract`, and the workers fail
    """
    folder = _folder(out)
    files = {} if model is None else model_files(model)
    job: Job
    if model is not None and model.is_file():
        if kind != "deepspectrum" or layer:
            raise ModelError(
                f"{model}: an exported file gives the features before its head, not {layer or kind}"
                "; leave that out, or give the run folder"
            )
        job = ExportedExtracting()
    else:
        # Only here: an exported file needs no torch.
        from deepspectrumlite.batch.extracting import Extracting

        job = Extracting(kind, recipe, layer, device)
    columns = job.open(model).schema.names
    settings: dict[str, Any] = {"kind": kind, "layer": layer}
    if model is None:
        settings["recipe"] = recipe.model_dump(mode="json")
    name = "recipe" if model is None else str(model)
    asked = Asked("extract", name, digest_files(files), settings, columns, keep_others=True)
    return run_batch(job, asked, model, files, manifest, folder, part_rows, engine, progress)


def run_batch(
    job: Job,
    asked: Asked,
    model: Path | None,
    files: Mapping[str, bytes],
    manifest: str,
    folder: Folder,
    part_rows: int,
    engine: Engine | None,
    progress: Progress = silent,
) -> Summary:
    """Plan, and do what is missing; errors of :func:`predict_batch`."""
    engine = engine or Engine()
    batch, missing = make_plan(manifest, folder, asked, part_rows, progress)
    left = sum(min(part_rows, batch.rows - part * part_rows) for part in missing)

    def tell(what: str, done: int, total: int) -> None:
        progress(what, done, left)

    begun = time.perf_counter()
    done: Iterable[Done] = ()
    if missing and engine.name == "ray":
        where: dict[str, Any] = {"processes": engine.processes, "address": engine.address}
        done = run_ray(job, files, folder, missing, part_rows, **where, progress=progress)
    elif missing:
        n = engine.processes or n_cores()
        done = run_local(job, model, folder, missing, part_rows, processes=n, progress=tell)
    try:
        found = list(done)
    finally:
        folder.clear_unfinished()
    sums = {
        name: sum(getattr(part, name) for part in found)
        for name in ("rows", "bad", "seconds", "reading", "model", "writing", "replaced")
    }
    took = time.perf_counter() - begun
    return Summary(batch, batch.parts - len(missing), wall_seconds=took, **sums)


def _folder(out: str) -> Folder:
    """The folder of the results; raises ManifestError where it cannot be one."""
    # Workers may have another working folder.
    folder = Folder(out if is_uri(out) else str(Path(out).absolute()))
    folder.check()
    return folder

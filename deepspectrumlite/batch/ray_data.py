"""The parts of a batch by a Ray cluster: Ray Data gives them to workers that hold the model.

Ray starts workers again that are lost with their machine, and gives their parts to others.
"""

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from deepspectrumlite.batch.places import Folder
from deepspectrumlite.batch.work import Done, Job, Worker
from deepspectrumlite.errors import DeepSpectrumLiteError, MissingExtraError
from deepspectrumlite.progress import Progress, silent
from deepspectrumlite.ray_connection import connected, last_line, quietly

_LOUD = ("enable_progress_bars", "enable_operator_progress_bars", "print_on_execution_start")


class RayWorker:
    """An actor of Ray Data: gets the model from Ray's object store, and makes parts."""

    def __init__(self, job: Job, model: Any, out: Folder, part_rows: int) -> None:
        """``model`` refers to the files of the model by name, in Ray's object store."""
        import ray

        self._folder = tempfile.TemporaryDirectory(prefix="deepspectrumlite-")
        files = ray.get(model)
        path = place_files(files, Path(self._folder.name)) if files else None
        self._worker = Worker(job, path, out, part_rows)

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Make the part whose number is in ``row``: the fields of :class:`Done`."""
        return asdict(self._worker(int(row["part"])))


def place_files(files: Mapping[str, bytes], folder: Path) -> Path:
    """Write the files of a model to a folder: the path by which it is opened."""
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder / next(iter(files)) if len(files) == 1 else folder


def run_ray(
    job: Job,
    files: Mapping[str, bytes],
    out: Folder,
    parts: Sequence[int],
    part_rows: int,
    *,
    processes: int | None,
    address: str | None = None,
    progress: Progress = silent,
) -> Iterator[Done]:
    """Make parts on a cluster; yields each when it is written.

    Args:
        job: what to do
        files: of the model, by name; they travel to the workers
        out: the folder of the batch, which all machines must see
        parts: their numbers
        part_rows: rows of the manifest in each
        processes: workers, of one core each; None: as many as the cluster has cores
        address: as of :func:`deepspectrumlite.ray_connection.connected`
        progress: told of every part

    Raises:
        MissingExtraError: Ray is not installed
        DeepSpectrumLiteError: there is no such cluster, or the workers fail
    """
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as error:
        raise MissingExtraError(str(error.name), "--engine ray", "ray") from None
    with quietly(), connected(address):
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        try:
            yield from _run(ray, job, files, out, parts, part_rows, processes, progress)
        except (ray.exceptions.RayError, ConnectionError) as error:
            raise DeepSpectrumLiteError(f"Ray: {last_line(error)}") from error


def _run(
    ray: Any,
    job: Job,
    files: Mapping[str, bytes],
    out: Folder,
    parts: Sequence[int],
    part_rows: int,
    processes: int | None,
    progress: Progress,
) -> Iterator[Done]:
    processes = processes or int(ray.cluster_resources().get("CPU", 1))
    context = ray.data.DataContext.get_current()
    for name in _LOUD:
        if hasattr(context, name):
            setattr(context, name, False)
    model = ray.put(dict(files))
    # A block for each part: what is lost and done again is one part, and each is told when done.
    made = ray.data.from_items([{"part": part} for part in parts], override_num_blocks=len(parts))
    made = made.map(
        RayWorker,
        fn_constructor_args=(job, model, out, part_rows),
        num_cpus=1,
        compute=ray.data.ActorPoolStrategy(size=min(processes, len(parts))),
    )
    for index, row in enumerate(made.iter_rows(), 1):
        yield Done(**row)
        progress("parts", index, len(parts))

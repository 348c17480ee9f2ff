"""The Ray cluster that a sweep trains on, and whether it can train at all.

Ray is imported inside the functions: it is an extra.
"""

import uuid
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from deepspectrumlite import __version__, ray_connection

# Said again, since who trains on a cluster looks for its options here.
from deepspectrumlite.config import RayOptions as RayOptions
from deepspectrumlite.errors import TrainingError
from deepspectrumlite.manifest import load_manifest
from deepspectrumlite.ray_connection import last_line
from deepspectrumlite.sweeps.experiment import Experiment

RAY = "ray"
# Seconds that a node has to tell whether it sees the folder (its first process starts slowly).
_ANSWER = 120
# Tune tells of itself by log files and tables on the terminal.
_TUNE = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    # Else Ctrl-C would wait until each trial has ended an epoch.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # Workers start side by side; else each would wait until the one before it has loaded torch.
    "TUNE_MAX_PENDING_TRIALS_PG": "16",
}


def quietly() -> AbstractContextManager[None]:
    """Keep Ray and its Tune from talking to the terminal and over the network."""
    return ray_connection.quietly(_TUNE)


def connected(address: str | None) -> AbstractContextManager[None]:
    """A connection to a cluster, as of `ray_connection.connected`.

    Raises:
        TrainingError: no cluster at that address
    """
    return ray_connection.connected(address, TrainingError)


def fitting_nodes(options: RayOptions) -> dict[str, int]:
    """How many trials each node has room for at once, by the node's id; without those of none."""
    takes = {"CPU": options.cpus_per_trial, "GPU": options.gpus_per_trial}
    found = {}
    for node in _nodes():
        if node["Alive"]:
            rooms = [node["Resources"].get(kind, 0) / most for kind, most in takes.items() if most]
            found[node["NodeID"]] = int(min(rooms, default=1))
    return {node: room for node, room in found.items() if room}


def check_nodes(experiment: Experiment, options: RayOptions) -> None:
    """Refuse a cluster on which no trial fits, or whose nodes do not see the same files.

    Args:
        experiment: whose folder must be the same on all nodes
        options: what a trial takes

    Raises:
        TrainingError: naming the node
    """
    nodes = {node["NodeID"]: node["NodeManagerAddress"] for node in _nodes()}
    fitting = fitting_nodes(options)
    if not fitting:
        raise TrainingError(
            f"no node of the Ray cluster has room for a trial of {options.cpus_per_trial:g} CPUs "
            f"and {options.gpus_per_trial:g} GPUs; allowed: at most what one node has; lower "
            "--cpus-per-trial or --gpus-per-trial"
        )
    token = experiment.out / RAY / f"seen-{uuid.uuid4().hex}"
    token.parent.mkdir(exist_ok=True)
    token.write_text(token.name)
    recording = Path(load_manifest(experiment.manifest, need_labels=False)["path"].iloc[0])
    try:
        asked = {node: _ask(node, token, recording) for node in fitting}
        for node, answer in asked.items():
            _check_answer(nodes[node], answer, experiment.out, recording)
    finally:
        token.unlink()


def _nodes() -> list[dict[str, Any]]:
    import ray

    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return nodes


def _ask(node: str, token: Path, recording: Path) -> Any:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(node, soft=False)
    task = ray.remote(_look).options(num_cpus=0, max_retries=0, scheduling_strategy=here)
    return task.remote(token, recording)


def _look(token: Path, recording: Path) -> tuple[str, bool, bool]:
    """On the node: its version of this package, and whether it sees the files."""
    seen = token.is_file() and token.read_text() == token.name
    return __version__, seen, recording.is_file()


def _check_answer(address: str, answer: Any, out: Path, recording: Path) -> None:
    import ray

    try:
        version, seen, heard = ray.get(answer, timeout=_ANSWER)
    except ray.exceptions.RayError as error:
        raise TrainingError(
            f"node {address} of the Ray cluster cannot run deepspectrumlite ({last_line(error)}); "
            f"install version {__version__} with its extras train and ray on each node"
        ) from None
    if version != __version__:
        raise TrainingError(
            f"node {address} of the Ray cluster has deepspectrumlite {version}, and this is "
            f"{__version__}; install the same on each node"
        )
    if not seen:
        raise TrainingError(
            f"node {address} of the Ray cluster does not see {out}; allowed: an --out that all "
            "nodes share under the same path, such as a folder on NFS"
        )
    if not heard:
        raise TrainingError(
            f"node {address} of the Ray cluster does not see the recording {recording}; allowed: "
            "recordings that all nodes share under the same path"
        )

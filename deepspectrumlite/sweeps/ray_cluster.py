"""The Ray cluster that a sweep trains on: connecting to it, and whether it can train at all.

Ray is imported inside the functions: it is an extra.
"""

import logging
import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepspectrumlite import __version__
from deepspectrumlite.errors import TrainingError
from deepspectrumlite.manifest import load_manifest
from deepspectrumlite.sweeps.experiment import Experiment

RAY = "ray"
# Seconds that a node has to tell whether it sees the folder (its first process starts slowly), and
# a head node to take a connection.
_ANSWER = 120
_KNOCK = 10
# Ray tells of itself by log files, tables on the terminal, and to its makers over the network.
_SETTINGS = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    # Else Ctrl-C would wait until each trial has ended an epoch.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # Workers start side by side; else each would wait until the one before it has loaded torch.
    "TUNE_MAX_PENDING_TRIALS_PG": "16",
}


@dataclass(frozen=True)
class RayOptions:
    """Where the trials of a sweep run, and what becomes of those that are lost or bad.

    Attributes:
        address: of the head node; None: that of ``RAY_ADDRESS``, else a Ray of its own
        cpus_per_trial: cores that each trial takes
        gpus_per_trial: of a GPU, 0.5 lets two trials share one; 0: train on the CPU
        retries: of a trial whose worker or node is lost
        stop_early: stop trials that are worse than others after as many epochs
        grace_epochs: that each trial has before it may be stopped; None: those of the head alone,
            and a tenth of the others
    """

    address: str | None = None
    cpus_per_trial: float = 1
    gpus_per_trial: float = 0
    retries: int = 3
    stop_early: bool = False
    grace_epochs: int | None = None


@contextmanager
def quietly() -> Iterator[None]:
    """Keep Ray from talking to the terminal and over the network."""
    before = {key: os.environ.get(key) for key in _SETTINGS}
    logger = logging.getLogger("ray")
    level = logger.level
    os.environ.update(_SETTINGS)
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
        for key, value in before.items():
            os.environ.pop(key) if value is None else os.environ.update({key: value})


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """A connection to a cluster; the one that this process has already, where it has one.

    Raises:
        TrainingError: no cluster at that address
    """
    import ray

    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    more: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
    try:
        _knock(address)
        ray.init(address, log_to_driver=False, logging_level=logging.CRITICAL, **more)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise TrainingError(
            f"--address {address}: no Ray cluster that can be used ({_line(error)}); allowed: the "
            'address of its head node, such as 10.0.0.1:6379, "auto" for the one on this machine, '
            "or none for a Ray of its own"
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Ray itself would try for many minutes where nobody listens."""
    if address in ("auto", "local"):
        return
    host, _, port = address.rpartition(":")
    if "/" in host or not port.isdigit():
        # Ray Client would run Tune elsewhere, without this process's listener.
        raise ValueError("not HOST:PORT; run it on a node of the cluster, or by: ray job submit")
    socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK).close()


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
            f"node {address} of the Ray cluster cannot run deepspectrumlite ({_line(error)}); "
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


def _line(error: Exception) -> str:
    """The last line, where Python and Ray say what it was."""
    lines = str(error).strip().splitlines()
    return " ".join(lines[-1].split())[:300] if lines else type(error).__name__

"""Connecting to a Ray cluster, quietly: the same for batches and for sweeps.

Ray is imported inside the functions: it is an extra.
"""

import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from deepspectrumlite.errors import DeepSpectrumLiteError

# Seconds that a head node has to take a connection.
_KNOCK = 10
# Ray would tell its makers about each cluster, over the network.
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0"}


@contextmanager
def quietly(settings: Mapping[str, str] | None = None) -> Iterator[None]:
    """Keep Ray from talking to the terminal and over the network.

    Args:
        settings: further environment variables, by name
    """
    wanted = _QUIET | dict(settings or {})
    before = {key: os.environ.get(key) for key in wanted}
    logger = logging.getLogger("ray")
    level = logger.level
    os.environ.update(wanted)
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
        for key, value in before.items():
            os.environ.pop(key) if value is None else os.environ.update({key: value})


@contextmanager
def connected(
    address: str | None, kind: type[DeepSpectrumLiteError] = DeepSpectrumLiteError
) -> Iterator[None]:
    """A connection to a cluster; the one that this process has already, where it has one.

    Args:
        address: HOST:PORT of the head node; "auto": the cluster that this machine belongs to; None:
            that of ``RAY_ADDRESS``, else a Ray of its own on this machine
        kind: of the error

    Raises:
        DeepSpectrumLiteError: of that kind, where there is no cluster at that address
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
        raise kind(
            f"--address {address}: no Ray cluster that can be used ({last_line(error)}); allowed: "
            'the address of its head node, such as 10.0.0.1:6379, "auto" for the one on this '
            "machine, or none for a Ray of its own"
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
    if not host or "/" in host or not port.isdigit():
        # Ray Client (ray://) would run Tune elsewhere, without this process's listener.
        raise ValueError("not HOST:PORT; run it on a node of the cluster, or by: ray job submit")
    socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK).close()


def last_line(error: BaseException) -> str:
    """Where Python and Ray say what it was, after the traceback of a worker."""
    lines = str(error).strip().splitlines()
    return " ".join(lines[-1].split())[:300] if lines else type(error).__name__

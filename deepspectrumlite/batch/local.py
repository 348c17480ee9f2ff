"""The parts of a batch by processes of this machine, which open the model once each.

Processes of our own instead of a pool: they end at once on Ctrl-C, and one that dies (of a decoder
that crashes, or for memory) costs the part a second try, not the batch.
"""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from deepspectrumlite.batch.places import Folder
from deepspectrumlite.batch.predicting import one_line
from deepspectrumlite.batch.work import Done, Job, Worker
from deepspectrumlite.errors import DeepSpectrumLiteError
from deepspectrumlite.progress import Progress, silent

TRIES = 2
# The exit code of a process that got SIGKILL, which Windows does not name.
_KILLED = -9
# Spawned, not forked: a fork would copy locks that threads of torch or pyarrow hold.
_CONTEXT = multiprocessing.get_context("spawn")


def n_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass
class _Process:
    """A worker process, the part it is at, and how many rows of that it has done."""

    process: Any
    connection: Connection
    part: int = -1
    rows_done: int = 0


@dataclass
class _Pool:
    """What is needed to start a process, what is running, and what is still to do."""

    arguments: tuple[Any, ...]
    todo: deque[int]
    running: list[_Process] = field(default_factory=list)
    tries: dict[int, int] = field(default_factory=dict)


def run_local(
    job: Job,
    model: Path | None,
    out: Folder,
    parts: Sequence[int],
    part_rows: int,
    *,
    processes: int,
    progress: Progress = silent,
) -> Iterator[Done]:
    """Make parts in so many processes; yields each when it is written.

    Raises:
        DeepSpectrumLiteError: a worker could not start or write; or died twice at the same part
    """
    pool = _Pool((job, model, out, part_rows), deque(parts))
    rows_done = 0
    try:
        for _ in range(min(processes, len(parts))):
            pool.running.append(_start(pool.arguments))
        while pool.running:
            for worker in _ready(pool.running):
                told = _receive(worker)
                if isinstance(told, Done):
                    rows_done += told.rows
                    yield told
                if isinstance(told, int):
                    worker.rows_done = told
                else:
                    _go_on(pool, worker, told)
            under_way = sum(worker.rows_done for worker in pool.running)
            progress("rows", rows_done + under_way, len(parts) * part_rows)
    finally:
        for worker in pool.running:
            worker.process.kill()
        for worker in pool.running:
            worker.process.join()


def _ready(running: Sequence[_Process]) -> list[_Process]:
    ready = wait([worker.connection for worker in running])
    return [worker for worker in running if worker.connection in ready]


def _receive(worker: _Process) -> Done | int | str | None:
    """A part that is done; rows that are; an error; or None: it is ready, or has died."""
    try:
        told: Done | int | str = worker.connection.recv()
    except (EOFError, ConnectionResetError):
        worker.process.join()
        return None
    return told


def _go_on(pool: _Pool, worker: _Process, told: Done | str | None) -> None:
    """Give a worker its next part, or end it; start another instead of one that has died."""
    if isinstance(told, str) and told:
        raise DeepSpectrumLiteError(told)
    if told is None:
        pool.running.remove(worker)
        _count_death(pool, worker)
        worker = _start(pool.arguments)
        pool.running.append(worker)
        return
    worker.rows_done = 0
    if pool.todo:
        worker.part = pool.todo.popleft()
        worker.connection.send(worker.part)
        return
    worker.connection.close()
    worker.process.join()
    pool.running.remove(worker)


def _count_death(pool: _Pool, worker: _Process) -> None:
    code, part_rows = worker.process.exitcode, pool.arguments[-1]
    pool.tries[worker.part] = pool.tries.get(worker.part, 0) + 1
    if pool.tries[worker.part] >= TRIES:
        where, remedy = "before its first part", "try the model on one recording, without --out"
        if worker.part >= 0:
            first = worker.part * part_rows
            where = f"at part {worker.part}"
            remedy = f"leave out the recording in its rows {first} to {first + part_rows - 1}"
        if code == _KILLED:
            remedy = "no memory was left, or someone killed it; give it fewer --processes"
        raise DeepSpectrumLiteError(
            f"a worker process died twice {where} (exit code {code}): {remedy}"
        )
    if worker.part >= 0:
        pool.todo.appendleft(worker.part)


def _start(arguments: tuple[Any, ...]) -> _Process:
    ours, theirs = _CONTEXT.Pipe()
    process = _CONTEXT.Process(target=_serve, args=(theirs, *arguments), daemon=True)
    with _without_interrupts():
        process.start()
    theirs.close()
    return _Process(process, ours)


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Ctrl-C reaches all processes of a terminal; those that start here leave it to this one."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _serve(
    connection: Connection, job: Job, model: Path | None, out: Folder, part_rows: int
) -> None:
    """The life of a worker process: "" when it is ready, then a Done for each part it is given."""
    try:
        worker = Worker(job, model, out, part_rows)
        connection.send("")
        while True:
            connection.send(worker(connection.recv(), connection.send))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        # No parts are left, or the process that gave them has gone.
        return
    except Exception as error:  # Whatever it is: a message, not a death.
        kind = "" if isinstance(error, DeepSpectrumLiteError | OSError) else type(error).__name__
        connection.send(f"{kind}: {one_line(error)}" if kind else one_line(error))

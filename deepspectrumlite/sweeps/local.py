"""The trials of a sweep on this machine, one after the other or several at once.

Each of several trials has a process of its own, so that one that crashes or runs out of memory
costs its own row only.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from deepspectrumlite.errors import DeepSpectrumLiteError, Interrupted, TrainingError
from deepspectrumlite.progress import Progress, silent
from deepspectrumlite.sweeps.budget import cost_of
from deepspectrumlite.sweeps.engine import Agenda, measure_all, try_point
from deepspectrumlite.sweeps.experiment import Experiment
from deepspectrumlite.sweeps.plan import Point, recipe_of
from deepspectrumlite.sweeps.trials import (
    FAILED,
    Row,
    describe_trial,
    read_trial,
    trial_folder,
    write_trial,
)
from deepspectrumlite.train import Record

OnStart = Callable[[int, Point], None]
OnEpoch = Callable[[int, Record], None]
OnRow = Callable[[Row, bool], None]


@dataclass(frozen=True)
class Listener:
    """Whom to tell.

    Attributes:
        progress: of every recording and batch; of several processes, of trials only
        on_start: a trial begins or goes on: its number and settings
        on_epoch: an epoch has ended: the number of its trial, and the record
        on_row: a trial is done: its row, and whether it was done before
        on_warning: something to beware of, in a sentence
    """

    progress: Progress = silent
    on_start: OnStart = lambda number, point: None
    on_epoch: OnEpoch = lambda number, record: None
    on_row: OnRow = lambda row, before: None
    on_warning: Callable[[str], None] = lambda line: None


def run_local(
    experiment: Experiment, processes: int = 1, listener: Listener | None = None
) -> list[Row]:
    """Try all points of a sweep that are not done yet.

    Args:
        experiment: as of :func:`deepspectrumlite.sweeps.experiment.prepare_sweep`
        processes: trials at once; 1: in this process
        listener: whom to tell

    Returns:
        the rows of all trials, by number

    Raises:
        Interrupted: Ctrl-C; what is training is saved, and the same call goes on
        MissingExtraError: no trial can be trained, or measured, here
    """
    listener = listener or Listener()
    work = _one_by_one if processes == 1 else _at_once
    try:
        measure_all(experiment, listener.progress)
        return work(experiment, processes, listener)
    except KeyboardInterrupt:
        raise Interrupted(
            f"Interrupted; what is trained is kept in {experiment.out}. Go on with the same command"
        ) from None


def _one_by_one(experiment: Experiment, processes: int, listener: Listener) -> list[Row]:
    agenda, rows = Agenda(experiment), []
    for number in range(len(agenda)):
        point = agenda.point(number)
        before = read_trial(trial_folder(experiment.out, number))
        if before is None:
            listener.on_start(number, point)
        row = before or try_point(
            experiment,
            number,
            point,
            progress=listener.progress,
            on_epoch=partial(listener.on_epoch, number),
        )
        listener.on_row(row, before is not None)
        rows.append(row)
    return rows


def _at_once(experiment: Experiment, processes: int, listener: Listener) -> list[Row]:
    """Each trial in a process of its own, as many at a time as are asked for."""
    agenda = Agenda(experiment)
    rows: dict[int, Row] = {}
    running: dict[Connection, tuple[SpawnProcess, int]] = {}
    numbers = iter(range(len(agenda)))
    try:
        while True:
            while len(running) < processes and (number := next(numbers, None)) is not None:
                row = read_trial(trial_folder(experiment.out, number))
                if row is not None:
                    rows[number] = row
                    listener.on_row(row, True)
                    continue
                running |= _start(experiment, agenda, number, processes, listener)
            if not running:
                return [rows[number] for number in sorted(rows)]
            for pipe in wait(list(running)):
                assert isinstance(pipe, Connection)
                number = running[pipe][1]
                try:
                    listener.on_epoch(number, _told(pipe))
                except EOFError:
                    process, _ = running.pop(pipe)
                    rows[number] = _finished(experiment, agenda, process, number)
                    listener.on_row(rows[number], False)
                    listener.progress("trials", len(rows), len(agenda))
    finally:
        # As Ctrl-C does: each saves where it is. One that was told already does not mind.
        for process, _ in running.values():
            process.terminate()
        for process, _ in running.values():
            process.join()


def _start(
    experiment: Experiment, agenda: Agenda, number: int, processes: int, listener: Listener
) -> dict[Connection, tuple[SpawnProcess, int]]:
    point = agenda.point(number)
    if experiment.budget.wanted and experiment.plan.sweep.search == "guided":
        _measure_here(experiment, point, listener.progress)
    listener.on_start(number, point)
    context = multiprocessing.get_context("spawn")  # forked, torch and its threads would hang
    ours, theirs = context.Pipe(duplex=False)
    threads = max(1, (os.cpu_count() or 1) // processes)
    process = context.Process(target=_work, args=(experiment, number, point, threads, theirs))
    process.start()
    theirs.close()  # so that its end is noticed here
    return {ours: (process, number)}


def _measure_here(experiment: Experiment, point: Point, progress: Progress) -> None:
    """One at a time, so that measurements do not slow each other down."""
    try:
        cost_of(experiment, recipe_of(experiment.plan, point), progress)
    except TrainingError:
        raise
    except DeepSpectrumLiteError:
        pass  # The trial itself says what is wrong with the point.


def _told(pipe: Connection) -> Record:
    """The record of an epoch; or the trial tells of an error that is not its own."""
    found: Record = pipe.recv()
    if "error" in found:
        raise TrainingError(found["error"])
    return found


def _finished(experiment: Experiment, agenda: Agenda, process: SpawnProcess, number: int) -> Row:
    """The row that a process left, or that it left none."""
    process.join()
    folder = trial_folder(experiment.out, number)
    row = read_trial(folder)
    if row is None:
        code = process.exitcode or 0
        how = f"was killed by signal {-code}" if code < 0 else f"ended with {code}"
        reason = f"its process {how} and gave no reason; is there enough memory?"
        row = describe_trial(folder, number, agenda.point(number), FAILED, reason)
        write_trial(folder, row)
    return row


def _work(
    experiment: Experiment, number: int, point: Point, threads: int, pipe: Connection
) -> None:
    """The other process; it is stopped by the first one, which Ctrl-C reaches too."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    try:
        try_point(experiment, number, point, on_epoch=pipe.send)
    except KeyboardInterrupt:
        os._exit(130)  # without a trace on the terminal; the checkpoint is written
    except (DeepSpectrumLiteError, ModuleNotFoundError, OSError) as error:
        pipe.send({"error": str(error)})


def _end_with_parent() -> None:
    """Else a sweep that was killed and started again would train a trial twice at once."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)

"""Slurm: a job array with a task for each point, and what such a task does.

Source of the options and variables: sbatch(1) of Slurm, "--array" and "OUTPUT ENVIRONMENT
VARIABLES".
"""

import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from deepspectrumlite.checkpoint import write_atomically
from deepspectrumlite.errors import Interrupted, RecipeError, TrainingError
from deepspectrumlite.progress import Progress, silent
from deepspectrumlite.sweeps.engine import measure_all, try_point
from deepspectrumlite.sweeps.experiment import Experiment
from deepspectrumlite.sweeps.plan import SweepPlan, points
from deepspectrumlite.sweeps.trials import Row
from deepspectrumlite.train import Record

VARIABLE = "SLURM_ARRAY_TASK_ID"
SCRIPT, LOGS = "sweep.sbatch", "logs"
# What the script says itself; sbatch takes "--arr" for "--array", and "-Ha0-9" for "-H -a 0-9".
_OURS = ("--array", "--output", "--chdir")
_OURS_SHORT = re.compile(r"-[HIOQVWhksv]*[aoD]")


def check_for_slurm(plan: SweepPlan) -> None:
    """Refuse a search whose points are not known before the jobs start.

    Raises:
        RecipeError: a guided search
    """
    if plan.sweep.search == "guided":
        raise RecipeError(
            f'{plan.source}: search = "guided" with --engine slurm, whose tasks start without '
            'knowing what others gave; allowed: "grid" or "random"; or --engine local or ray'
        )


def write_script(
    experiment: Experiment,
    arguments: Sequence[str],
    *,
    at_once: int | None = None,
    sbatch: Sequence[str] = (),
    preamble: Sequence[str] = (),
    progress: Progress = silent,
) -> Path:
    """Write the script of a job array: task i trains point i.

    Where a budget is wanted, it is measured here and now, as tasks share their machines.

    Args:
        experiment: a sweep whose points are known beforehand
        arguments: of this command, for the tasks
        at_once: tasks that run at the same time, at most; None: as many as Slurm lets
        sbatch: options for Slurm, like ``--time=2:00:00``
        preamble: lines of shell before the work, like ``module load cuda``
        progress: told of every step

    Returns:
        the script, for ``sbatch``

    Raises:
        RecipeError: a guided search
        TrainingError: an option that is none, or that the script sets itself
    """
    check_for_slurm(experiment.plan)
    _check(sbatch)
    measure_all(experiment, progress)
    count = len(points(experiment.plan))
    out = experiment.out.absolute()
    (out / LOGS).mkdir(exist_ok=True)
    limit = "" if at_once is None else f"%{at_once}"
    options = [
        f"--array=0-{count - 1}{limit}",
        f"--output={out / LOGS}/%a.txt",
        f"--chdir={Path.cwd()}",
        *(() if any(o.startswith(("--job-name", "-J")) for o in sbatch) else ("--job-name=sweep",)),
        *sbatch,
    ]
    command = shlex.join([sys.executable, "-m", "deepspectrumlite", *arguments])
    lines = ["#!/bin/bash", *(f"#SBATCH {option}" for option in options), "set -e", *preamble]
    text = "\n".join([*lines, f"exec {command}"]) + "\n"
    path = experiment.out / SCRIPT
    write_atomically(path, lambda file: file.write(text.encode()))
    return path


def _check(sbatch: Sequence[str]) -> None:
    for option in sbatch:
        words = _words(option)
        name = words[0].partition("=")[0] if words else ""
        if not re.fullmatch(r"-[A-Za-z]\S*|--[a-z][a-z-]*", name) or "\n" in option:
            raise TrainingError(
                f'--sbatch {option!r}; allowed: an option of sbatch, like "--time=2:00:00"'
            )
        # All words: a line of the script may hold several options.
        if any(_is_ours(word) for word in words):
            raise TrainingError(
                f"--sbatch {option!r}, which the script sets itself; allowed: other options than "
                f"{', '.join(_OURS)}"
            )


def _words(option: str) -> list[str]:
    """None where a quote is not closed."""
    try:
        return shlex.split(option)
    except ValueError:
        return []


def _is_ours(word: str) -> bool:
    if word.startswith("--"):
        return any(ours.startswith(word.partition("=")[0]) for ours in _OURS)
    return _OURS_SHORT.match(word) is not None


def array_index(environment: Mapping[str, str]) -> int | None:
    """Which task of a job array this process is; None: it is none.

    Raises:
        TrainingError: the variable is no number
    """
    text = environment.get(VARIABLE)
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]+", text):
        raise TrainingError(f"{VARIABLE} is {text!r}; allowed: a number from 0 on")
    return int(text)


def run_task(
    experiment: Experiment,
    index: int,
    *,
    progress: Progress = silent,
    on_epoch: Callable[[Record], None] = lambda record: None,
) -> Row:
    """Train the point of one task of the job array, or go on with it; see :func:`try_point`.

    Raises:
        RecipeError: a guided search
        TrainingError: there is no such point
        Interrupted: Slurm's time is over, and the checkpoint is written
    """
    check_for_slurm(experiment.plan)
    known = points(experiment.plan)
    if index >= len(known):
        raise TrainingError(
            f"{VARIABLE} is {index}; allowed: 0 to {len(known) - 1}, as this sweep has "
            f"{len(known)} points"
        )
    try:
        return try_point(experiment, index, known[index], progress=progress, on_epoch=on_epoch)
    except KeyboardInterrupt:
        raise Interrupted(
            f"Interrupted; what is trained is kept. Go on with: sbatch {experiment.out / SCRIPT}"
        ) from None

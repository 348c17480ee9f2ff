"""The trials of a sweep on a Ray cluster, by Ray Tune: retried where a node is lost.

A trial that is retried goes on from its own checkpoint in the folder of the sweep, which all nodes
share. The same command again goes on with what is not done.
"""

import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepspectrumlite.config import RayOptions, parse_recipe
from deepspectrumlite.errors import Interrupted, MissingExtraError, TrainingError
from deepspectrumlite.sweeps.engine import measure_all
from deepspectrumlite.sweeps.experiment import ASKED, Experiment
from deepspectrumlite.sweeps.local import Listener
from deepspectrumlite.sweeps.ray_cluster import (
    RAY,
    check_nodes,
    connected,
    fitting_nodes,
    quietly,
)
from deepspectrumlite.sweeps.trials import Row, read_trials, run_trial
from deepspectrumlite.train import Record

if TYPE_CHECKING:
    from deepspectrumlite.sweeps.ray_search import Search, Watcher

# Seconds that a trial waits for a worker that trains it still, though its cluster is gone.
PATIENCE = 60


def run_ray(
    experiment: Experiment,
    options: RayOptions | None = None,
    listener: Listener | None = None,
) -> list[Row]:
    """Try all points of a sweep that are not done yet, on a Ray cluster.

    A trial that fails by its settings costs one row. One whose worker or node is lost is retried.

    Args:
        experiment: as of :func:`deepspectrumlite.sweeps.experiment.prepare_sweep`; its folder and
            the recordings must be seen by all nodes under the same path
        options: of the cluster; None: all as it comes
        listener: whom to tell; a trial that goes on elsewhere starts once more

    Returns:
        the rows of all trials, by number

    Raises:
        TrainingError: no such cluster, it cannot train, or trials were lost once too often; all
            others are done then
        Interrupted: Ctrl-C; the same call goes on
        MissingExtraError: Ray is not installed, or a converter that measures
    """
    try:
        import_module("ray.tune")
    except ModuleNotFoundError as error:
        raise MissingExtraError(str(error.name), "--engine ray", "ray") from None
    options, listener = options or RayOptions(), listener or Listener()
    experiment = _anywhere(experiment, options)
    try:
        measure_all(experiment, listener.progress)
        with quietly(), connected(options.address):
            check_nodes(experiment, options)
            if not _has_locks(experiment.out / RAY):
                # Once, here: nobody reads what workers say.
                listener.on_warning(
                    f"{experiment.out}: its file system has no locks, so nothing keeps two sweeps "
                    "in this folder from training the same trial at once; start only one"
                )
            _tune(experiment, options, listener)
    except KeyboardInterrupt:
        raise Interrupted(
            f"Interrupted; what is trained is kept in {experiment.out}. Go on with the same command"
        ) from None
    return read_trials(experiment.out)


def _anywhere(experiment: Experiment, options: RayOptions) -> Experiment:
    """With a path that means the same on each node, and no GPU where none is asked for."""
    chosen = experiment.options
    if chosen.device == "auto" and not options.gpus_per_trial:
        chosen = replace(chosen, device="cpu")
    return replace(experiment, out=experiment.out.absolute(), options=chosen)


def _tune(experiment: Experiment, options: RayOptions, listener: Listener) -> None:
    from ray import tune

    # Only here, since its classes are made of Ray's.
    from deepspectrumlite.sweeps.ray_search import Halving, Search, Watcher

    search = Search(
        experiment, lambda: sum(fitting_nodes(options).values()), options.retries, listener
    )
    grace = options.grace_epochs or _grace(experiment)
    scheduler = Halving(experiment, grace) if options.stop_early else None
    watcher = Watcher(search, scheduler)
    own = experiment.out / RAY / "tune"
    shutil.rmtree(own, ignore_errors=True)
    takes = {"cpu": options.cpus_per_trial, "gpu": options.gpus_per_trial}
    tune.Tuner(
        tune.with_resources(partial(train_trial, experiment=experiment), takes),
        tune_config=tune.TuneConfig(search_alg=search, scheduler=scheduler, num_samples=-1),
        run_config=tune.RunConfig(
            name=own.name,
            storage_path=str(own.parent),
            failure_config=tune.FailureConfig(max_failures=options.retries),
            callbacks=[watcher],
            verbose=0,
        ),
    ).fit()
    shutil.rmtree(own, ignore_errors=True)
    _check_lost(experiment, search, watcher)


def _grace(experiment: Experiment) -> int:
    """A setting of fine-tuning shows no earlier than that."""
    section = experiment.plan.recipe.train
    return max(1, section.head_epochs + -(-section.epochs // 10))


def _check_lost(experiment: Experiment, search: "Search", watcher: "Watcher") -> None:
    done = {row["number"] for row in read_trials(experiment.out)}
    lost = [number for number in range(len(search.agenda)) if number not in done]
    if lost:
        reason = watcher.reasons.get(lost[0], "unknown")
        raise TrainingError(
            f"{experiment.out}: {len(lost)} of {len(search.agenda)} trials were lost once too "
            f"often (trial {lost[0]}: {reason}); the others are done, and the same command goes "
            "on with these"
        )


def train_trial(config: dict[str, Any], experiment: Experiment) -> None:
    """On a worker: train a trial, or go on with it, and tell Ray of each epoch.

    Args:
        config: ``number`` of the trial, and ``job``, what else is to be known of it, in JSON
        experiment: whose folder this node shares

    Raises:
        TrainingError: the folder is not seen here, or another worker trains the trial still
        OSError, MissingExtraError: it cannot be trained here
    """
    from ray import tune

    from deepspectrumlite.sweeps.ray_search import report_of

    number, job = config["number"], json.loads(config["job"])
    if not (experiment.out / ASKED).is_file():  # a node that came later than the check
        raise TrainingError(f"node {socket.gethostname()} does not see {experiment.out}")
    recipe = parse_recipe(job["recipe"], f"trial {number}")

    def on_epoch(record: Record) -> None:
        tune.report(report_of(record, recipe.monitor))

    with _alone(experiment.out / RAY / f"{number:04d}.jsonl"):
        run_trial(
            experiment.out,
            number,
            job["point"],
            recipe,
            experiment.manifest,
            experiment.options,
            more=job["more"],
            on_epoch=on_epoch,
        )


def _has_locks(folder: Path) -> bool:
    """Whether the file system of a folder can lock files."""
    import fcntl

    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # nobody else has this file, so it is not a lock of others
            return False
    return True


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Note where a trial runs, and wait for a worker that has it still.

    A sweep that is killed and started again may be faster than its cluster, which has to notice.
    """
    import fcntl  # Not on Windows, for which Ray is no more than a trial itself.

    import ray

    with path.open("a", encoding="utf-8") as file:
        until = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise TrainingError(f"{path.stem}: another worker trains it still") from None
                time.sleep(0.5)
            except OSError:  # a file system without locks, of which the sweep has warned
                break
        context = ray.get_runtime_context()
        place = {"node": context.get_node_id(), "host": socket.gethostname(), "pid": os.getpid()}
        file.write(json.dumps(place | {"time": time.time()}) + "\n")
        file.flush()
        yield

"""What Ray Tune asks while a sweep runs: which trial is next, and whether one is to go on.

Only imported where Ray is installed. The truth about trials are their own files, ``trial.json``:
nothing of what Ray keeps is needed to go on with a sweep.
"""

import json
from collections import Counter, deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from ray.tune import Callback
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search import Searcher

from deepspectrumlite.errors import RecipeError
from deepspectrumlite.runs import from_anywhere
from deepspectrumlite.sweeps.budget import cost_of
from deepspectrumlite.sweeps.engine import Agenda, try_point
from deepspectrumlite.sweeps.experiment import Experiment
from deepspectrumlite.sweeps.local import Listener
from deepspectrumlite.sweeps.plan import Point, recipe_of
from deepspectrumlite.sweeps.trials import (
    FINISHED,
    STOPPED,
    Row,
    describe_trial,
    goodness,
    read_history,
    read_trial,
    read_trials,
    trial_folder,
    write_trial,
)
from deepspectrumlite.train import Record

# Of each rung of successive halving a quarter goes on, as in the paper's experiments.
REDUCTION = 4
# Rungs go on as long as there are epochs; Ray would stop a trial at the last one.
_NEVER = 10**9


class Search(Searcher):
    """Gives the trials to Ray that are not done yet, each as its number and its job.

    Those of a guided search come from where they come on one machine, not from Ray's OptunaSearch:
    so they are the same on both, and what was begun on one can go on on the other.

    Args:
        experiment: whose folder stands ready
        room: how many trials the cluster trains at once, by now
        retries: of a trial that Ray has given up
        listener: whom to tell
    """

    def __init__(
        self, experiment: Experiment, room: Callable[[], int], retries: int, listener: Listener
    ) -> None:
        super().__init__()
        self.experiment, self.room, self.retries = experiment, room, retries
        self.listener, self.agenda = listener, Agenda(experiment)
        self.waiting = deque(range(len(self.agenda)))
        self.training: dict[str, int] = {}
        self.failures: Counter[int] = Counter()

    def suggest(self, trial_id: str) -> Any:
        """The next trial; None: not now."""
        guided = self.experiment.plan.sweep.search == "guided"
        if guided and self.training and len(self.training) >= self.room():
            return None  # What those give is worth knowing before the next point is chosen.
        while self.waiting:
            number = self.waiting.popleft()
            point = self.agenda.point(number)
            job = self._job(number, point)
            if job is not None:
                self.training[trial_id] = number
                # As text: Ray would look for search spaces inside of it.
                return {"number": number, "job": json.dumps(job)}
        return None if self.training else Searcher.FINISHED

    def _job(self, number: int, point: Point) -> dict[str, Any] | None:
        """What a worker needs to know; None where there is nothing to train."""
        before = read_trial(trial_folder(self.experiment.out, number))
        if before is None and not self._is_worth_it(point):
            row = try_point(self.experiment, number, point)  # notes why
            self.tell(row, False)
            return None
        if before is not None:
            self.tell(before, True)
            return None
        recipe = recipe_of(self.experiment.plan, point)
        wanted = self.experiment.budget.wanted
        more = cost_of(self.experiment, recipe).columns if wanted else {}
        # The worker may stand in another folder than this process.
        absolute = from_anywhere(recipe).model_dump(mode="json")
        return {"point": point, "recipe": absolute, "more": more}

    def _is_worth_it(self, point: Point) -> bool:
        try:
            recipe = recipe_of(self.experiment.plan, point)
        except RecipeError:
            return False
        if not self.experiment.budget.wanted:
            return True
        cost = cost_of(self.experiment, recipe, self.listener.progress)
        return not (cost.failure or cost.over(self.experiment.budget))

    def tell(self, row: Row, before: bool) -> None:
        """That a trial is done."""
        self.listener.on_row(row, before)
        done = len(read_trials(self.experiment.out))
        self.listener.progress("trials", done, len(self.agenda))

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Take back a trial that Ray has given up, though not for ever."""
        number = self.training.pop(trial_id)
        self.failures[number] += error
        # Ray retries a trial that was training, but not one that was still to start.
        if error and self.failures[number] <= self.retries:
            self.waiting.append(number)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the folders of the trials tell all."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing."""

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray pickles all it is given, and a listener may hold a terminal."""
        return {}


class Halving(ASHAScheduler):
    """Stops trials that are worse than others were after as many epochs.

    Source: Li et al. 2020, "A system for massively parallel hyperparameter tuning", section 4
    (asynchronous successive halving, ASHA).

    Args:
        experiment: whose trials that are done count as well
        grace_epochs: that each trial has
    """

    def __init__(self, experiment: Experiment, grace_epochs: int) -> None:
        super().__init__(
            time_attr="epoch",
            metric="goodness",
            mode="max",
            max_t=_NEVER,
            grace_period=grace_epochs,
            reduction_factor=REDUCTION,
        )
        self.stopped: dict[str, int] = {}
        for row in read_trials(experiment.out):
            if row["status"] in (FINISHED, STOPPED):
                self._remember(experiment, row)

    def _remember(self, experiment: Experiment, row: Row) -> None:
        # It only asks a trial for its name.
        before: Any = SimpleNamespace(trial_id=f"before-{row['number']}")
        nobody: Any = None
        self.on_trial_add(nobody, before)
        for record in read_history(trial_folder(experiment.out, row["number"])):
            super().on_trial_result(nobody, before, report_of(record, row["metric"]))

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Whether a trial goes on after an epoch."""
        action = str(super().on_trial_result(tune_controller, trial, result))
        if action == TrialScheduler.STOP:
            self.stopped[trial.trial_id] = result["epoch"]
        return action


def report_of(record: Record, metric: str) -> dict[str, Any]:
    """What a worker tells Ray of an epoch."""
    devel = record[f"devel_{metric}"]
    report = {"epoch": record["epoch"], "record": record}
    # Where it is not defined, there is nothing to compare.
    known = {} if devel is None else {"goodness": goodness({"metric": metric, "devel": devel})}
    return report | known


class Watcher(Callback):
    """Tells the listener, and notes which trials were stopped, and which were lost and why."""

    def __init__(self, search: Search, scheduler: Halving | None) -> None:
        self.search, self.listener = search, search.listener
        self.stopped: dict[str, int] = scheduler.stopped if scheduler else {}
        self.reasons: dict[int, str] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Nothing, as for the search."""
        return {}

    def on_trial_start(self, iteration: int, trials: Any, trial: Trial, **info: Any) -> None:
        """A trial begins, or goes on on another worker."""
        number = trial.config["number"]
        self.listener.on_start(number, self.search.agenda.points[number])

    def on_trial_result(
        self, iteration: int, trials: Any, trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """An epoch has ended."""
        self.listener.on_epoch(trial.config["number"], result["record"])

    def on_trial_recover(self, iteration: int, trials: Any, trial: Trial, **info: Any) -> None:
        """A worker was lost, and Ray tries again."""
        self.search.failures[trial.config["number"]] += 1

    def on_trial_error(self, iteration: int, trials: Any, trial: Trial, **info: Any) -> None:
        """A trial was lost once too often."""
        lines = str(trial.get_error() or "unknown").strip().splitlines()
        self.reasons[trial.config["number"]] = " ".join(lines[-1].split())[:300]

    def on_trial_complete(self, iteration: int, trials: Any, trial: Trial, **info: Any) -> None:
        """A trial has ended, or the scheduler has stopped it."""
        number = trial.config["number"]
        folder = trial_folder(self.search.experiment.out, number)
        epoch = self.stopped.get(trial.trial_id)
        if epoch is not None and read_trial(folder) is None:
            reason = f"after epoch {epoch}, where others were better"
            point = self.search.agenda.points[number]
            more = json.loads(trial.config["job"])["more"]
            write_trial(folder, describe_trial(folder, number, point, STOPPED, reason, **more))
        row = read_trial(folder)
        if row is not None:
            self.search.tell(row, False)

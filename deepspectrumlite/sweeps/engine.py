"""What every engine does with a trial: which point it is, whether it is worth it, and training."""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from deepspectrumlite.config import Recipe
from deepspectrumlite.errors import RecipeError, TrainingError
from deepspectrumlite.model import write_json
from deepspectrumlite.progress import Progress, silent
from deepspectrumlite.sweeps.budget import cost_of, forget_costs, measure
from deepspectrumlite.sweeps.experiment import Experiment
from deepspectrumlite.sweeps.guided import suggest
from deepspectrumlite.sweeps.plan import Point, points, recipe_of
from deepspectrumlite.sweeps.trials import (
    FAILED,
    OVER_BUDGET,
    Row,
    describe_trial,
    forget_trials,
    read_trial,
    read_trials,
    run_trial,
    trial_folder,
    write_trial,
)
from deepspectrumlite.train import Record

POINTS = "points.json"


class Agenda:
    """The points of a sweep by number; those of a guided search are found one after the other."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment, plan = experiment, experiment.plan
        self.path: Path | None = None
        if plan.sweep.search == "guided":
            self.path = experiment.out / POINTS
            self.points: list[Point] = _read_points(self.path)
        else:
            self.points = points(plan)

    def __len__(self) -> int:
        """How many trials there are to be."""
        return self.experiment.plan.count

    def point(self, number: int) -> Point:
        """The settings of a trial; of a guided search in order, from what is known by then."""
        if number == len(self.points) and self.path is not None:
            rows = {row["number"]: row for row in read_trials(self.experiment.out)}
            self.points.append(suggest(self.experiment.plan, self.points, rows))
            # Before it trains: a search that goes on has to know what it asked for.
            write_json(self.path, self.points)
        return self.points[number]


def _read_points(path: Path) -> list[Point]:
    if not path.is_file():
        return []
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, list) or not all(isinstance(point, dict) for point in found):
        raise TrainingError(
            f"{path}: broken, no list of points; remove {path.parent} to start the sweep anew"
        )
    return found


def forget_failed(experiment: Experiment) -> int:
    """Forget trials that failed or cost too much, which are then measured and trained anew.

    A machine that was busy when it measured may have made a network look too slow.

    Returns:
        how many
    """
    rows = [row for row in read_trials(experiment.out) if row["status"] in (FAILED, OVER_BUDGET)]
    if experiment.budget.wanted:
        forget_costs(experiment, _recipes(experiment, rows))
    forget_trials(experiment.out, rows)
    return len(rows)


def _recipes(experiment: Experiment, rows: Iterable[Row]) -> Iterator[Recipe]:
    """Of trials, without those that are impossible."""
    for row in rows:
        with suppress(RecipeError):
            yield recipe_of(experiment.plan, row["settings"])


def measure_all(experiment: Experiment, progress: Progress = silent) -> None:
    """Measure what the points of a grid or of a random search cost, where that is wanted.

    Raises:
        MissingExtraError: the converters are not installed
    """
    plan = experiment.plan
    if experiment.budget.wanted and plan.sweep.search != "guided":
        recipes = [recipe_of(plan, point) for point in points(plan)]
        measure(experiment, recipes, progress=progress)


def try_point(
    experiment: Experiment,
    number: int,
    point: Point,
    *,
    progress: Progress = silent,
    on_epoch: Callable[[Record], None] = lambda record: None,
) -> Row:
    """Train a point unless it is done, impossible, or beyond the budget; see :func:`run_trial`.

    Args:
        experiment: whose folder stands ready, on this machine
        number: of the trial, from 0
        point: its settings
        progress: told of every recording and batch
        on_epoch: told of every epoch

    Returns:
        the row of the trial, which is also in its ``trial.json``

    Raises:
        Interrupted: Ctrl-C; the same call goes on
        MissingExtraError: no trial can be trained, or measured, here
    """
    folder = trial_folder(experiment.out, number)
    before = read_trial(folder)
    if before is not None:
        return before
    try:
        recipe = recipe_of(experiment.plan, point)
    except RecipeError as error:  # of a guided search, whose points are not known beforehand
        return _refused(folder, describe_trial(folder, number, point, FAILED, str(error)))
    more = {}
    if experiment.budget.wanted:
        cost = cost_of(experiment, recipe, progress)
        more, over = cost.columns, cost.over(experiment.budget)
        if cost.failure or over:
            status, reason = (FAILED, cost.failure) if cost.failure else (OVER_BUDGET, over)
            return _refused(folder, describe_trial(folder, number, point, status, reason, **more))
    return run_trial(
        experiment.out,
        number,
        point,
        recipe,
        experiment.manifest,
        experiment.options,
        more=more,
        progress=progress,
        on_epoch=on_epoch,
    )


def _refused(folder: Path, row: Row) -> Row:
    write_trial(folder, row)
    return row

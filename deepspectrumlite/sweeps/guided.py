"""Guided search: where to look next, from what the trials before gave.

Source: Bergstra et al. 2011, "Algorithms for hyper-parameter optimization", section 4 (the
tree-structured Parzen estimator, TPE), as in Optuna.
"""

import json
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from deepspectrumlite.errors import MissingExtraError
from deepspectrumlite.sweeps.plan import Dimension, Point, SweepPlan, draw_new
from deepspectrumlite.sweeps.trials import FINISHED, Row, goodness

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

# Random points before the first that is guided, as is Optuna's default.
RANDOM_FIRST = 10
_ASKS = 20


def suggest(plan: SweepPlan, before: Sequence[Point], rows: Mapping[int, Row]) -> Point:
    """The point of trial ``len(before)``, which is none of those before.

    The same for the same arguments: a search that goes on finds the points that it would have
    found without a stop, as long as trials end in the same order.

    Args:
        plan: with the dimensions of the search
        before: points of the trials before it
        rows: of those of them that are done, by number; the others are still training, and
            points near theirs are avoided

    Raises:
        MissingExtraError: optuna is not installed
    """
    try:
        import optuna
    except ImportError:
        raise MissingExtraError("optuna", 'search = "guided"', "sweep") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # else it tells of every study
    number = len(before)
    # A seed for each trial, not for each process: else a search that goes on begins with the
    # random points that it began with before.
    seed = int(np.random.SeedSequence((plan.sweep.seed, number)).generate_state(1)[0])
    with warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning):
        sampler = optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=RANDOM_FIRST, constant_liar=True
        )
    study = optuna.create_study(sampler=sampler, direction="maximize")
    for i, point in enumerate(before):
        study.add_trial(_told(plan, point, rows.get(i)))
    spaces = {each.name: _distribution(each) for each in plan.dimensions}
    for _ in range(_ASKS):
        params = study.ask(spaces).params
        parts = [each.settings(_value(each, params[each.name])) for each in plan.dimensions]
        point = {key: value for part in parts for key, value in part.items()}
        if point not in before:
            return point
    # Among few points, it may insist on the best of them, which would give the same again.
    return draw_new(plan, before, np.random.default_rng(seed))


def _told(plan: SweepPlan, point: Point, row: Row | None) -> "FrozenTrial":
    """A trial as Optuna knows it; one that failed or costs too much counts as a bad one."""
    from optuna.trial import TrialState, create_trial

    finished = row is not None and row["status"] == FINISHED and row["devel"] is not None
    state = TrialState.COMPLETE if finished else TrialState.PRUNED
    return create_trial(
        params={each.name: _parameter(each, point) for each in plan.dimensions},
        distributions={each.name: _distribution(each) for each in plan.dimensions},
        state=TrialState.RUNNING if row is None else state,
        value=goodness(row) if row is not None and finished else None,
    )


def _distribution(dimension: Dimension) -> "BaseDistribution":
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    found = dimension.range
    if found is None:
        # As text: a choice may be several values.
        return CategoricalDistribution([json.dumps(choice) for choice in dimension.choices])
    if found.step != "none":
        low, high = found.ends
        return IntDistribution(int(low), int(high), step=found.step)
    return FloatDistribution(*found.ends, log=found.log)


def _parameter(dimension: Dimension, point: Point) -> Any:
    value = dimension.value_in(point)
    return value if dimension.range else json.dumps(value)


def _value(dimension: Dimension, parameter: Any) -> Any:
    return parameter if dimension.range else tuple(json.loads(parameter))

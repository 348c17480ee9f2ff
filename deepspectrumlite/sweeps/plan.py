"""What a sweep tries: a recipe, and the points that its table ``[sweep]`` asks for.

A point is a dict from keys of the recipe (``section.key``) to values. Points are counted from 0.
"""

import itertools
import json
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from deepspectrumlite.config import Recipe, parse_recipe, read_values
from deepspectrumlite.errors import RecipeError
from deepspectrumlite.sweeps.settings import MOST_POINTS, Range, Sweep, parse_sweep

Point: TypeAlias = dict[str, Any]
Choice: TypeAlias = tuple[Any, ...]

# Of a guided search, whose points are not known beforehand.
_MOST_CORNERS = 1_000
# For each point that is known: so that the last one of a thousand is found too.
_DRAWS = 50
# Trials are compared by one metric on the same devel recordings.
_DATA = ("corpus", "target", "separator", "order", "devel_share", "test_share", "tail")
_THE_SAME = {f"data.{key}" for key in _DATA} | {"model.output", "train.monitor"}
_OF_THE_LOSS = {
    f"train.{key}" for key in ("loss", "label_smoothing", "focal_gamma", "huber_delta", "balance")
}


@dataclass(frozen=True)
class Dimension:
    """Keys of the recipe that change together, and what they change to.

    Attributes:
        keys: ``section.key`` each
        choices: a value for each of the keys, for each choice; empty where there is a range
        range: of numbers, the same for all of the keys
    """

    keys: tuple[str, ...]
    choices: tuple[Choice, ...] = ()
    range: Range | None = None

    @property
    def name(self) -> str:
        """As it is written in the recipe."""
        return ", ".join(self.keys)

    @property
    def count(self) -> float:
        """How many values there are."""
        return self.range.count if self.range else len(self.choices)

    def settings(self, value: Any) -> Point:
        """The part of a point for one of ``choices``, or for a number of the range."""
        values = (value,) * len(self.keys) if self.range else value
        return dict(zip(self.keys, values, strict=True))

    def value_in(self, point: Mapping[str, Any]) -> Any:
        """The reverse of :meth:`settings`."""
        return point[self.keys[0]] if self.range else tuple(point[key] for key in self.keys)

    def draw(self, rng: np.random.Generator) -> Point:
        """A random part of a point."""
        if self.range:
            return self.settings(self.range.draw(rng))
        return self.settings(self.choices[int(rng.integers(len(self.choices)))])

    @property
    def ends(self) -> tuple[Any, ...]:
        """What to check beforehand: all choices, or both ends of the range."""
        return self.range.ends if self.range else self.choices


@dataclass(frozen=True)
class SweepPlan:
    """A recipe, and what of it changes from trial to trial.

    Attributes:
        source: where it was read
        values: of the recipe, as in its file
        sweep: the table ``[sweep]``
        dimensions: of the search, lists first
    """

    source: str
    values: dict[str, Any]
    sweep: Sweep
    dimensions: tuple[Dimension, ...]

    @property
    def recipe(self) -> Recipe:
        """What all trials have in common, with the file's own values where they differ."""
        return parse_recipe(self.values, self.source)

    @property
    def metric(self) -> str:
        """The devel metric that trials are compared by."""
        return self.recipe.monitor

    @property
    def count(self) -> int:
        """How many trials it asks for."""
        if self.sweep.search == "grid":
            return math.prod(len(each.choices) for each in self.dimensions)
        return self.sweep.trials


def load_sweep(source: str | Path, overrides: Iterable[str] = ()) -> SweepPlan:
    """Read a recipe file with a table ``[sweep]``, and check every point of it.

    Of a guided search, whose points are not known yet, the ends of its ranges are checked in all
    combinations (the first thousand).

    Args:
        source: the path of a TOML file
        overrides: ``section.key=value`` each, also ``sweep.trials=50``

    Raises:
        RecipeError: no such table, or a key, value or combination that is not allowed
    """
    return parse_plan(read_values(source, overrides), str(source))


def parse_plan(values: Mapping[str, Any], source: str) -> SweepPlan:
    """The same from the values of such a file.

    Raises:
        RecipeError: as :func:`load_sweep`
    """
    if "sweep" not in values:
        raise RecipeError(
            f"{source}: no table [sweep], so there is nothing to try; add one (docs/sweeps.md), "
            f"or train it once with: deepspectrumlite train {source} --data MANIFEST --out RUN"
        )
    sweep = parse_sweep(values["sweep"], source)
    base = {key: value for key, value in values.items() if key != "sweep"}
    plan = SweepPlan(source, base, sweep, tuple(_dimensions(sweep, source)))
    _check_keys(plan)
    if plan.count > MOST_POINTS:
        raise RecipeError(
            f"{source}: {plan.count} points in the grid; allowed: {MOST_POINTS}; use search = "
            '"random"'
        )
    _check_enough(plan)
    candidates = _corners(plan) if sweep.search == "guided" else iter(points(plan))
    for point in candidates:
        recipe_of(plan, point)
    return plan


def points(plan: SweepPlan) -> list[Point]:
    """All points of a grid (the last key changes fastest) or of a random search, each once.

    Those of a random search depend on the seed; more trials go on with further points.

    Raises:
        RecipeError: a guided search, which chooses each point by what the ones before it gave
    """
    if plan.sweep.search == "grid":
        return list(_product(plan, [each.choices for each in plan.dimensions]))
    if plan.sweep.search == "guided":
        raise RecipeError(
            f'{plan.source}: search = "guided" has no points beforehand; allowed: "grid", "random"'
        )
    rng = np.random.default_rng(plan.sweep.seed)
    found: list[Point] = []
    while len(found) < plan.sweep.trials:
        found.append(draw_new(plan, found, rng))
    return found


def draw_new(plan: SweepPlan, before: Collection[Point], rng: np.random.Generator) -> Point:
    """A random point that is none of those before.

    Raises:
        RecipeError: none is found, as in a range that is narrower than numbers are apart
    """
    seen = {json.dumps(point) for point in before}
    for _ in range(_DRAWS * (len(seen) + _DRAWS)):
        point = {key: x for each in plan.dimensions for key, x in each.draw(rng).items()}
        if json.dumps(point) not in seen:
            return point
    raise RecipeError(
        f"{plan.source}: sweep.trials is {plan.count}, but there seem to be only {len(seen)} "
        "combinations; allowed: fewer trials, or wider ranges"
    )


def recipe_of(plan: SweepPlan, point: Mapping[str, Any]) -> Recipe:
    """The recipe with the settings of one point.

    Raises:
        RecipeError: the combination is not allowed; it is named
    """
    values = deepcopy(plan.values)
    for key, value in point.items():
        section, _, name = key.partition(".")
        values.setdefault(section, {})[name] = value
    return parse_recipe(values, f"{plan.source} with {describe(point)}")


def describe(point: Mapping[str, Any]) -> str:
    """The settings of a point in a line.

    >>> describe({"train.epochs": 5, "model.dropout": 0.25})
    'train.epochs=5 model.dropout=0.25'
    """
    return " ".join(f"{key}={_short(value)}" for key, value in point.items())


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value).strip('"')


def _dimensions(sweep: Sweep, source: str) -> Iterator[Dimension]:
    for name, values in sweep.lists.items():
        keys = _keys(name)
        choices = tuple(_choice(keys, value, source) for value in values)
        _check_once(name, values, choices, source)
        yield Dimension(keys, choices)
    for name, numbers in sweep.ranges.items():
        yield Dimension(_keys(name), range=numbers)


def _check_once(
    name: str, values: Collection[Any], choices: tuple[Choice, ...], source: str
) -> None:
    """Refuse a value that stands in a list twice: it would be trained twice."""
    for i, (value, choice) in enumerate(zip(values, choices, strict=True)):
        if choice in choices[:i]:
            raise RecipeError(
                f"{source}: sweep.lists: {name} has {json.dumps(value)} twice; allowed: each "
                "value once"
            )


def _keys(name: str) -> tuple[str, ...]:
    return tuple(key.strip() for key in name.split(","))


def _choice(keys: tuple[str, ...], value: Any, source: str) -> Choice:
    """A value for each key: the same, or one each from a list."""
    if len(keys) == 1 or not isinstance(value, list | tuple):
        return (value,) * len(keys)
    if len(value) != len(keys):
        raise RecipeError(
            f"{source}: sweep.lists: {', '.join(keys)} is {json.dumps(value)}; allowed: one value "
            f"for all, or a list of {len(keys)}"
        )
    return tuple(value)


def _check_keys(plan: SweepPlan) -> None:
    """Refuse keys that no recipe has, that stand there twice, or that must not differ."""
    seen = set[str]()
    for key in (key for each in plan.dimensions for key in each.keys):
        section, _, name = key.partition(".")
        known = Recipe.model_fields.get(section)
        fields = getattr(known.annotation, "model_fields", {}) if known else {}
        start = f"{plan.source}: [sweep] has {key!r}"
        if name not in fields:
            what = f"{section}.KEY with one of {', '.join(fields)}" if fields else "SECTION.KEY"
            where = "" if fields else f", with one of the sections {', '.join(Recipe.model_fields)}"
            raise RecipeError(f"{start}, which no recipe has; allowed: {what}{where}")
        if key in seen:
            raise RecipeError(f"{start} twice; allowed: each key once, in lists or in ranges")
        if key in _THE_SAME or (plan.metric == "loss" and key in _OF_THE_LOSS):
            why = ", since train.monitor is the loss" if key in _OF_THE_LOSS else ""
            raise RecipeError(
                f"{start}, but then trials could not be compared{why}; allowed: other keys; set "
                "this one in its own section"
            )
        seen.add(key)


def _check_enough(plan: SweepPlan) -> None:
    """Refuse a search for more points than there are."""
    there_are = math.prod(each.count for each in plan.dimensions)
    if plan.count > there_are:
        raise RecipeError(
            f"{plan.source}: sweep.trials is {plan.count}, but there are only {there_are:g} "
            f'combinations; allowed: at most {there_are:g}, or search = "grid"'
        )


def _corners(plan: SweepPlan) -> Iterator[Point]:
    ends = _product(plan, [each.ends for each in plan.dimensions])
    return itertools.islice(ends, _MOST_CORNERS)


def _product(plan: SweepPlan, values: list[tuple[Any, ...]]) -> Iterator[Point]:
    for combination in itertools.product(*values):
        parts = zip(plan.dimensions, combination, strict=True)
        yield {key: x for each, value in parts for key, x in each.settings(value).items()}

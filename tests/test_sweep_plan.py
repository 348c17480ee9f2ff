"""The table [sweep]: which points it asks for, and what it refuses."""

import itertools
import json
import math

import numpy as np
import pytest

from deepspectrumlite.config import load_recipe, recipe_toml
from deepspectrumlite.errors import RecipeError
from deepspectrumlite.sweeps.guided import suggest
from deepspectrumlite.sweeps.plan import describe, load_sweep, parse_plan, points, recipe_of

GRID = """
[sweep.lists]
"model.dropout" = [0.1, 0.2, 0.3]
"frontend.image_height, frontend.image_width" = [32, 40]
"train.head_epochs, train.epochs" = [[1, 2], [0, 5]]
"""
RANDOM = """
[sweep]
search = "random"
trials = 30
seed = 3
[sweep.lists]
"model.dropout" = [0.1, 0.2, 0.3]
[sweep.ranges]
"train.learning_rate" = { low = 1e-5, high = 1e-1, log = true }
"train.epochs" = { low = 2, high = 11, step = 4 }
"train.weight_decay" = { low = 0, high = 1 }
"""


@pytest.fixture
def plan_of(tmp_path, tiny_toml):
    """The function ``(table, *overrides) -> SweepPlan`` that reads it behind the tiny recipe."""

    def plan_of(table, *overrides):
        path = tmp_path / "sweep.toml"
        path.write_text(tiny_toml.read_text(encoding="utf-8") + table, encoding="utf-8")
        return load_sweep(path, overrides)

    return plan_of


def test_a_grid_has_every_combination_and_its_last_key_changes_fastest(plan_of):
    found = points(plan_of(GRID))
    expected = [
        {
            "model.dropout": dropout,
            "frontend.image_height": size,
            "frontend.image_width": size,
            "train.head_epochs": epochs[0],
            "train.epochs": epochs[1],
        }
        for dropout, size, epochs in itertools.product([0.1, 0.2, 0.3], [32, 40], [(1, 2), (0, 5)])
    ]
    assert found == expected
    assert plan_of(GRID).count == 12


def test_a_point_becomes_the_recipe_with_those_settings(plan_of, make_recipe):
    plan = plan_of(GRID)
    recipe = recipe_of(plan, points(plan)[-1])
    changes = ["model.dropout=0.3", "frontend.image_height=40", "frontend.image_width=40"]
    assert recipe == make_recipe(*changes, "train.head_epochs=0", "train.epochs=5")
    assert plan.recipe == make_recipe()


def test_random_points_lie_in_their_lists_and_ranges_each_once(plan_of):
    found = points(plan_of(RANDOM))
    assert len({json.dumps(point) for point in found}) == len(found) == 30
    assert {point["model.dropout"] for point in found} == {0.1, 0.2, 0.3}
    assert {point["train.epochs"] for point in found} == {2, 6, 10}
    assert all(isinstance(point["train.epochs"], int) for point in found)
    assert all(0 <= point["train.weight_decay"] <= 1 for point in found)
    rates = [point["train.learning_rate"] for point in found]
    assert all(1e-5 <= rate <= 1e-1 for rate in rates)
    # Log-uniform: half of them lie below the geometric mean; of uniform ones, one in a hundred.
    assert 8 <= sum(rate < 1e-3 for rate in rates) <= 22


def test_random_points_depend_on_the_seed_and_more_trials_go_on(plan_of):
    found = points(plan_of(RANDOM))
    assert points(plan_of(RANDOM)) == found
    assert points(plan_of(RANDOM, "sweep.seed=4")) != found
    assert points(plan_of(RANDOM, "sweep.trials=40"))[:30] == found


def test_a_random_search_of_all_points_is_the_grid_in_another_order(plan_of):
    grid = points(plan_of(GRID))
    drawn = points(plan_of(GRID, "sweep.search=random", "sweep.trials=12"))
    assert drawn != grid
    assert sorted(map(json.dumps, drawn)) == sorted(map(json.dumps, grid))


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ("", "no table [sweep]"),
        ("[sweep]", "nothing to try"),
        ("[sweep]\nsearch = 'best'", "sweep.search is \"best\"; allowed: 'grid'"),
        ("[sweep]\ntrails = 3", "sweep.trails is not a known key; allowed: search, trials"),
        ("[sweep.lists]\n'model.dropout' = []", "sweep.lists.model.dropout is []"),
        ("[sweep.lists]\n'model.dropout' = 0.1", "sweep.lists.model.dropout is 0.1"),
        ("[sweep.lists]\n'model.drop' = [1]", "'model.drop', which no recipe has; allowed: model."),
        ("[sweep.lists]\ndropout = [1]", "'dropout', which no recipe has; allowed: SECTION.KEY"),
        ("[sweep.lists]\n'model.dropout' = [0.1, 2]", "model.dropout is 2; allowed: less than 1"),
        ("[sweep.lists]\n'model.output' = ['linear']", "trials could not be compared"),
        ("[sweep.lists]\n'data.tail' = ['keep', 'drop']", "trials could not be compared"),
        ("[sweep.lists]\n'train.epochs' = [1, 2, 1]", "train.epochs has 1 twice"),
        ("[sweep.lists]\n'train.epochs, train.seed' = [3, [3, 3]]", "has [3, 3] twice"),
        (
            "[sweep]\nsearch = 'random'\ntrials = 2\n"
            "[sweep.lists]\n'train.learning_rate' = [1e-3, 1e-3]",
            "train.learning_rate has 0.001 twice",
        ),
        (
            "[sweep]\nsearch = 'random'\ntrials = 9\n[sweep.ranges]\n"
            "'train.weight_decay' = {low = 0.5, high = 0.5000000000000002}",
            "there seem to be only",
        ),
        ("[sweep.lists]\n'train.epochs, train.seed' = [[1]]", "train.epochs, train.seed is [1]"),
        ("[sweep.lists]\n'train.epochs, train.epochs' = [1]", "'train.epochs' twice"),
        ("[sweep.ranges]\n'train.epochs' = {low = 1, high = 2}", 'search = "grid"'),
        (
            "[sweep]\nsearch = 'random'\ntrials = 3\n[sweep.lists]\n'train.epochs' = [1, 2]",
            "there are only 2 combinations",
        ),
        (
            "[sweep]\nsearch = 'random'\n[sweep.ranges]\n'train.epochs' = {low = 2, high = 2}",
            "low is 2 and high is 2",
        ),
        (
            "[sweep]\nsearch = 'random'\n[sweep.ranges]\n"
            "'train.learning_rate' = {low = 0, high = 2, log = true}",
            "low is 0 with log",
        ),
        (
            "[sweep]\nsearch = 'guided'\n[sweep.ranges]\n'train.epochs' = {low = 1, high = 9}",
            "train.epochs is 1.0; allowed: integer",
        ),
        (
            "[sweep]\nsearch = 'guided'\n[sweep.ranges]\n"
            "'train.weight_decay' = {low = 0.5, high = 9, step = 2}",
            "whole numbers",
        ),
    ],
)
def test_what_is_not_allowed_is_refused_in_one_line(plan_of, table, told):
    with pytest.raises(RecipeError) as refused:
        plan_of(table)
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "allowed: " in str(refused.value) or not table


def test_an_impossible_combination_is_refused_before_anything_trains_and_named(plan_of):
    table = "[sweep.lists]\n'frontend.n_mels' = [16, 32]\n'frontend.n_mfcc' = [0, 20]"
    with pytest.raises(RecipeError, match=r"n_mels=16 frontend.n_mfcc=20: .* n_mfcc is 20"):
        plan_of(table)


def test_a_huge_grid_is_refused_at_once(plan_of):
    keys = ["train.seed", "train.epochs", "train.head_epochs"]
    lists = "\n".join(f"'{key}' = {list(range(1, 40))}" for key in keys)
    with pytest.raises(RecipeError, match="59319 points"):
        plan_of(f"[sweep.lists]\n{lists}")


def test_the_loss_is_no_measure_of_different_losses(plan_of):
    table = "[sweep.lists]\n'train.loss' = ['focal', 'cross_entropy']"
    assert plan_of(table).metric == "uar"
    with pytest.raises(RecipeError, match=r"train\.monitor is the loss"):
        plan_of(table, "train.monitor=loss")


def test_a_recipe_with_a_sweep_is_not_trained_as_one(tmp_path, tiny_toml):
    path = tmp_path / "sweep.toml"
    path.write_text(tiny_toml.read_text(encoding="utf-8") + GRID, encoding="utf-8")
    with pytest.raises(RecipeError, match=r"has a table \[sweep\].*deepspectrumlite sweep "):
        load_recipe(path)


def test_a_whole_recipe_serves_as_the_base_of_a_sweep(tmp_path, make_recipe):
    recipe = make_recipe("train.epochs=3")
    path = tmp_path / "whole.toml"
    path.write_text(recipe_toml(recipe) + GRID, encoding="utf-8")
    assert load_sweep(path).recipe == recipe


def test_points_are_told_in_a_line():
    point = {"a.b": 0.000123456, "c.d": "imagenet", "e.f": True, "g.h": ["x", "y"]}
    assert describe(point) == 'a.b=0.0001235 c.d=imagenet e.f=true g.h=["x", "y"]'


def guided_plan(make_recipe, trials=40):
    values = make_recipe().model_dump(mode="json")
    ranges = {"train.learning_rate": {"low": 1e-6, "high": 1.0, "log": True}}
    lists = {"model.dropout, train.weight_decay": [[0.1, 0.2], [0.3, 0.4]]}
    ranges["train.epochs"] = {"low": 1, "high": 9, "step": 2}
    sweep = {"search": "guided", "trials": trials, "lists": lists, "ranges": ranges}
    return parse_plan(values | {"sweep": sweep}, "guided")


def search(plan, objective, n, before=()):
    """The points of a guided search, each told what the objective gives for those before."""
    found = list(before)
    while len(found) < n:
        rows = {
            i: {"status": "finished", "metric": "uar", "devel": objective(point)}
            for i, point in enumerate(found)
        }
        found.append(suggest(plan, found, rows))
    return found


def distance(point):
    """From the best learning rate of a made-up task, in powers of ten."""
    return abs(math.log10(point["train.learning_rate"]) + 3)


def test_a_guided_search_comes_near_the_best_and_goes_on_as_if_it_had_not_stopped(make_recipe):
    plan = guided_plan(make_recipe)
    found = search(plan, lambda point: -distance(point), 40)
    assert np.median([distance(p) for p in found[20:]]) < 1
    assert np.median([distance(p) for p in found[:10]]) > 1
    assert len({json.dumps(point) for point in found}) == 40
    assert {(p["model.dropout"], p["train.weight_decay"]) for p in found} == {
        (0.1, 0.2),
        (0.3, 0.4),
    }
    assert {p["train.epochs"] for p in found} <= {1, 3, 5, 7, 9}
    for point in found:
        recipe_of(plan, point)
    again = search(plan, lambda point: -distance(point), 40, found[:17])
    assert again == found


def test_a_guided_search_never_asks_for_a_point_twice(make_recipe):
    values = make_recipe().model_dump(mode="json")
    lists = {"model.dropout": [0.1, 0.2, 0.3], "train.epochs": [1, 2, 3]}
    sweep = {"search": "guided", "trials": 9, "lists": lists}
    plan = parse_plan(values | {"sweep": sweep}, "small")
    found = search(plan, lambda point: point["model.dropout"], 9)
    assert len({json.dumps(point) for point in found}) == 9


def test_what_failed_or_still_trains_is_avoided(make_recipe):
    plan = guided_plan(make_recipe)
    good = search(plan, lambda point: -distance(point), 25)
    rows = {
        i: {"status": "finished", "metric": "uar", "devel": -distance(point)}
        for i, point in enumerate(good)
    }
    near = suggest(plan, good, rows)
    assert distance(near) < 1
    failed = {"status": "failed", "metric": None, "devel": None}
    close = {i: failed if distance(p) < 1.5 else rows[i] for i, p in enumerate(good)}
    assert distance(suggest(plan, good, close)) > 1
    assert suggest(plan, good, {}) not in good

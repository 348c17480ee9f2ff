"""Budgets: what a file costs is known before training, and what costs too much is not trained."""

import json
import random

import pytest
from sweep_helpers import OPTIONS, Notes, write_sweep

from deepspectrumlite.config import SweepBudget
from deepspectrumlite.errors import ExportError, TrainingError
from deepspectrumlite.sweeps import budget as module
from deepspectrumlite.sweeps.best import choose_best
from deepspectrumlite.sweeps.budget import Cost, machines, measure, pareto_front, within
from deepspectrumlite.sweeps.engine import forget_failed
from deepspectrumlite.sweeps.experiment import prepare_sweep
from deepspectrumlite.sweeps.local import run_local
from deepspectrumlite.sweeps.plan import load_sweep, parse_plan, points, recipe_of
from deepspectrumlite.sweeps.results import pareto_markdown, warnings, write_results
from deepspectrumlite.sweeps.trials import read_trials, trial_folder

pytestmark = pytest.mark.usefixtures("one_thread")
# What differs in weights only costs the same.
TABLE = """
[sweep.lists]
"model.units" = [4, 8, 16]
"train.learning_rate" = [1e-3, 3e-3]
"""


@pytest.fixture
def costs(monkeypatch, exported):
    """Exports replaced: hidden units are the latency in ms; each export is noted."""
    made = []

    def export(experiment, recipe, folder):
        made.append(recipe.model.units)
        if recipe.model.units == 13:
            raise ExportError("13 units bring bad luck")
        return exported

    def time_in_turn(works, repeats, seconds=None, told=None):
        assert repeats == module.REPEATS
        return {
            key: [unit / 1000, 0.001, 99.0]
            for key, unit in zip(works, made[-len(works) :], strict=True)
        }

    monkeypatch.setattr(module, "_export", export)
    monkeypatch.setattr(module, "time_in_turn", time_in_turn)
    return made


@pytest.fixture
def sweep(tmp_path, tones, make_recipe, small_settings):
    """The function ``(budget, table, *overrides) -> Experiment``."""

    def sweep(budget, table=TABLE, *overrides):
        recipe = make_recipe(*small_settings, "train.epochs=1", "train.head_epochs=0", *overrides)
        plan = load_sweep(write_sweep(tmp_path / "sweep.toml", recipe, table))
        return prepare_sweep(plan, tones, tmp_path / "out", OPTIONS, budget)

    return sweep


def test_a_point_over_the_budget_is_not_trained(sweep, costs):
    experiment, notes = sweep(SweepBudget(max_latency_ms=10)), Notes()
    rows = run_local(experiment, listener=notes)
    assert costs == [4, 8, 16]  # once each, not once for each learning rate
    assert [row["status"] for row in rows] == ["finished"] * 4 + ["over budget"] * 2
    assert [row["latency_ms"] for row in rows] == [4, 4, 8, 8, 16, 16]
    assert rows[4]["reason"] == "latency is 16.00 ms, over 10 ms"
    assert {number for number, _ in notes.epochs} == {0, 1, 2, 3}
    assert [path.name for path in trial_folder(experiment.out, 4).iterdir()] == ["trial.json"]
    assert choose_best(experiment)["number"] in range(4)
    run_local(sweep(SweepBudget(max_latency_ms=10)))
    assert costs == [4, 8, 16]
    with pytest.raises(TrainingError, match="it differs in: budget"):
        sweep(SweepBudget(max_latency_ms=11))


def test_the_best_may_have_to_keep_another_budget(sweep, costs):
    experiment = sweep(SweepBudget(measure=True))
    run_local(experiment)
    assert choose_best(experiment, SweepBudget(max_latency_ms=5))["number"] in (0, 1)
    with pytest.raises(TrainingError, match=r"6 of them well, and none .* keep the budget"):
        choose_best(experiment, SweepBudget(max_latency_ms=3))


def test_what_was_over_the_budget_is_measured_again_where_that_is_asked_for(
    sweep, costs, monkeypatch
):
    experiment = sweep(SweepBudget(max_latency_ms=10), TABLE.replace("4, 8", "13, 4"))
    run_local(experiment)
    assert costs == [13, 4, 16]
    statuses = ["failed"] * 2 + ["finished"] * 2 + ["over budget"] * 2
    assert [row["status"] for row in read_trials(experiment.out)] == statuses
    # It was a busy machine; now it is idle.
    times = module.time_in_turn
    monkeypatch.setattr(
        module,
        "time_in_turn",
        lambda works, *more: {k: [t / 2 for t in x] for k, x in times(works, *more).items()},
    )
    assert forget_failed(experiment) == 4
    rows = run_local(experiment)
    assert costs == [13, 4, 16, 13, 16]  # what kept the budget is not measured again
    statuses = ["failed"] * 2 + ["finished"] * 4
    assert [row["status"] for row in rows] == statuses
    assert rows[5]["latency_ms"] == 8


def test_it_is_told_where_latency_was_measured(sweep, costs, monkeypatch):
    machine = {"cpu": "One CPU", "versions": {"deepspectrumlite": "1.2.3"}}
    monkeypatch.setattr(module, "describe_machine", lambda: machine)
    experiment = sweep(SweepBudget(measure=True))
    run_local(experiment)
    # Whoever gathers the results may sit elsewhere.
    monkeypatch.setattr(module, "describe_machine", lambda: machine | {"cpu": "Another"})
    rows, _ = write_results(experiment)
    text = (experiment.out / "pareto.md").read_text()
    assert "on one thread of One CPU (deepspectrumlite 1.2.3)." in text
    assert warnings(rows, experiment) == []
    next((experiment.out / "measured").iterdir()).unlink()
    measure(experiment, [recipe_of(experiment.plan, p) for p in points(experiment.plan)])
    names = ["Another (deepspectrumlite 1.2.3)", "One CPU (deepspectrumlite 1.2.3)"]
    assert machines(experiment) == names
    (told,) = warnings(rows, experiment)
    assert told.endswith(f"not measured in the same place for all trials: {'; '.join(names)}.")
    assert told in pareto_markdown(pareto_front(rows), rows, experiment)


@pytest.mark.parametrize("text", ["{x", "[]", '{"size_mb": 1}', '{"machine": {"cpu": "x"}}'])
def test_a_broken_measurement_is_named(sweep, costs, text):
    experiment = sweep(SweepBudget(measure=True))
    measure(experiment, [experiment.plan.recipe])
    (path,) = (experiment.out / "measured").iterdir()
    path.write_text(text)
    with pytest.raises(TrainingError, match=r"measured/.*json: broken \(.*remove it to measure"):
        measure(experiment, [experiment.plan.recipe])


def test_a_limit_needs_measurements(sweep):
    experiment = sweep(None, '[sweep.lists]\n"model.units" = [4]')
    run_local(experiment)
    with pytest.raises(TrainingError, match=r"not measured in this sweep; run it with --measure"):
        choose_best(experiment, SweepBudget(max_latency_ms=3))


def test_what_cannot_be_exported_is_not_trained(sweep, costs):
    experiment = sweep(SweepBudget(max_size_mb=100), '[sweep.lists]\n"model.units" = [8, 13]')
    rows = run_local(experiment)
    assert [row["status"] for row in rows] == ["finished", "failed"]
    assert rows[1]["reason"] == "cannot be exported: 13 units bring bad luck"


def test_the_size_counts_too():
    cost = Cost(12.0, 5.5)
    assert cost.over(SweepBudget()) is None
    assert cost.over(SweepBudget(max_latency_ms=12, max_size_mb=5.5)) is None
    assert cost.over(SweepBudget(max_size_mb=5)) == "size is 5.50 MB, over 5 MB"
    both = cost.over(SweepBudget(max_latency_ms=1.5, max_size_mb=5))
    assert both == "latency is 12.00 ms, over 1.5 ms; size is 5.50 MB, over 5 MB"
    row = {"latency_ms": 12.0, "size_mb": None}
    assert within(row, SweepBudget(max_latency_ms=12))
    assert not within(row, SweepBudget(max_size_mb=5))


def test_whole_recordings_need_a_length(sweep, make_recipe):
    whole = ('data.segment_seconds="whole"', "augment.mixup_share=0")
    with pytest.raises(TrainingError, match="--seconds"):
        run_local(sweep(SweepBudget(measure=True), TABLE, *whole))


@pytest.mark.slow
def test_an_untrained_network_costs_what_the_trained_one_does(
    tmp_path, tones, exported, make_recipe, learning_settings
):
    recipe = make_recipe(*learning_settings)
    table = '[sweep.lists]\n"frontend.image_height, frontend.image_width" = [32, 96]'
    plan = load_sweep(write_sweep(tmp_path / "sweep.toml", recipe, table))
    experiment = prepare_sweep(plan, tones, tmp_path / "out", OPTIONS, SweepBudget(measure=True))
    found = measure(experiment, [recipe_of(plan, point) for point in points(plan)])
    assert found[0].size_mb == pytest.approx(exported.stat().st_size / 1e6, rel=0.001)
    # Nine times the pixels.
    assert found[1].latency_ms > 2 * found[0].latency_ms > 0
    values = recipe.model_dump(mode="json") | {"sweep": {"lists": {"train.seed": [1]}}}
    plan = parse_plan(values, "int8")
    small = prepare_sweep(
        plan, tones, tmp_path / "int8", OPTIONS, SweepBudget(precision="int8", measure=True)
    )
    assert measure(small, [plan.recipe])[0].size_mb < 0.5 * found[0].size_mb


def test_the_front_is_what_brute_force_finds():
    rng = random.Random(0)
    for size in (1, 2, 5, 40):
        # Few values, so that ties occur.
        rows = [
            {
                "number": i,
                "status": rng.choice(["finished", "finished", "finished", "failed"]),
                "metric": "uar",
                "devel": rng.choice([None, 0.1, 0.2, 0.3, 0.4, 0.5]),
                "latency_ms": rng.choice([None, 1.0, 2.0, 3.0, 4.0, 5.0]),
            }
            for i in range(size)
        ]
        usable = [
            row
            for row in rows
            if row["status"] == "finished" and row["devel"] and row["latency_ms"]
        ]

        def beaten(row, others):
            return any(
                other["devel"] >= row["devel"]
                and other["latency_ms"] <= row["latency_ms"]
                and (
                    (other["devel"], other["latency_ms"]) != (row["devel"], row["latency_ms"])
                    or other["number"] < row["number"]
                )
                for other in others
            )

        expected = [row["number"] for row in usable if not beaten(row, usable)]
        front = pareto_front(rows)
        assert sorted(row["number"] for row in front) == expected
        assert [r["latency_ms"] for r in front] == sorted(r["latency_ms"] for r in front)


def test_a_front_of_errors_goes_down():
    rows = [
        {"number": i, "status": "finished", "metric": "rmse", "devel": y, "latency_ms": x}
        for i, (x, y) in enumerate([(1, 3.0), (2, 4.0), (3, 1.0)])
    ]
    assert [row["number"] for row in pareto_front(rows)] == [0, 2]


def test_the_front_is_written_as_table_and_picture(sweep, costs):
    experiment = sweep(SweepBudget(max_latency_ms=10, max_size_mb=50))
    rows = run_local(experiment)
    _, written = write_results(experiment)
    names = {path.name for path in written}
    assert {"pareto.csv", "pareto.md", "pareto.png", "sweep.png", "results.csv"} <= names
    front = pareto_front(rows)
    text = (experiment.out / "pareto.md").read_text()
    assert text == pareto_markdown(front, rows, experiment)
    assert f"| {front[0]['number']} | {front[0]['settings']['model.units']} |" in text
    assert "of 4 that were trained, 2 beyond the budget (at most 10 ms, at most 50 MB)" in text
    assert json.loads((experiment.out / "sweep.json").read_text())["budget"]["max_size_mb"] == 50

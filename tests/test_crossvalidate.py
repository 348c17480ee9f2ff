"""Every system on the same folds; what was stopped goes on; test never takes part in a choice."""

import json

import numpy as np
import pandas as pd
import pytest

from deepspectrumlite import crossvalidate as module
from deepspectrumlite.config import load_recipe
from deepspectrumlite.crossvalidate import crossvalidate, prepare
from deepspectrumlite.errors import ManifestError, RecipeError, TrainingError
from deepspectrumlite.metrics import confusion_matrix, uar
from deepspectrumlite.runs import Options
from deepspectrumlite.systems import System, candidates, parse_system

OPTIONS = Options(device="cpu")


@pytest.fixture(scope="module")
def grouped(tmp_path_factory, tones):
    """The tones, of six made-up speakers who say each of them."""
    table = pd.read_csv(tones)
    folder = tones.parent
    table["path"] = [str(folder / name) for name in table["path"]]
    table["group"] = [f"speaker {i % 6}" for i in range(len(table))]
    path = tmp_path_factory.mktemp("grouped") / "labels.csv"
    table.drop(columns="split").to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def experiment(tmp_path_factory, grouped, make_recipe, small_settings):
    """Fine-tuning, log-mel statistics and the majority class on three folds."""
    out = tmp_path_factory.mktemp("experiment") / "out"
    recipe = make_recipe(*small_settings, "train.epochs=1")
    systems = [System(kind, kind, (recipe,)) for kind in ("finetune", "logmel", "majority")]
    folds = prepare(systems[0], grouped, "3", out, OPTIONS)
    return out, systems, folds, [crossvalidate(s, folds, out, OPTIONS) for s in systems]


@pytest.mark.slow
def test_all_systems_are_tested_on_the_same_recordings(experiment, grouped):
    out, systems, _, reports = experiment
    paths = sorted(pd.read_csv(grouped)["path"])
    for system, report in zip(systems, reports, strict=True):
        predictions = pd.read_csv(out / system.name / "predictions.csv")
        assert sorted(predictions["path"]) == paths
        assert report["files"]["n"] == 30
        assert report["files"]["by_group"]["n_groups"] == 6
        assert report["skipped"] == report["files_without_a_segment"] == 0
        assert (out / system.name / "confusion.png").is_file()
        assert json.loads((out / system.name / "scores.json").read_text()) == report
    # Pure tones and noise: the mean and deviation of each band tell them apart; a constant cannot.
    assert reports[1]["files"]["uar"]["value"] > 0.9
    assert reports[2]["files"]["uar"]["value"] == pytest.approx(1 / 3, abs=0.1)


@pytest.mark.slow
def test_pooled_scores_are_those_of_the_folds_together(experiment):
    out, systems, folds, reports = experiment
    for system, report in zip(systems, reports, strict=True):
        parts = [
            json.loads((out / system.name / name / "test" / "scores.json").read_text())
            for name in folds
        ]
        pooled = sum(np.array(part["files"]["confusion"]) for part in parts)
        assert report["files"]["confusion"] == pooled.tolist()
        assert report["files"]["uar"]["value"] == pytest.approx(float(uar(pooled)))
        values = [part["files"]["uar"]["value"] for part in parts]
        assert [row["test"] for row in report["folds"]] == values
        table = pd.read_csv(out / system.name / "predictions.csv")
        for row in report["groups"]:
            own = table[table["group"] == row["group"]]
            truth, predicted = (
                pd.Categorical(own[c], ["high", "low", "noise"]).codes
                for c in ("label", "predicted")
            )
            assert row["n"] == len(own)
            assert row["accuracy"] == pytest.approx((truth == predicted).mean())
            expected = float(uar(confusion_matrix(truth, predicted, 3)))
            assert row["value"] == pytest.approx(expected)


@pytest.mark.slow
def test_what_is_finished_is_kept(experiment, monkeypatch):
    out, systems, folds, reports = experiment

    def refuse(*args, **kwargs):
        raise AssertionError("done again")

    for name in ("train_run", "evaluate_run", "run_baseline", "extract"):
        monkeypatch.setattr(module, name, refuse)
    again = [crossvalidate(system, folds, out, OPTIONS) for system in systems]
    assert again == reports


@pytest.mark.slow
def test_an_interrupted_experiment_goes_on(
    tmp_path, grouped, make_recipe, small_settings, monkeypatch
):
    system = System("finetune", "finetune", (make_recipe(*small_settings),))
    folds = prepare(system, grouped, "2", tmp_path / "out", OPTIONS)
    run, calls = module.train_run, []

    def stop_in_the_second(*args, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return run(*args, **kwargs)

    monkeypatch.setattr(module, "train_run", stop_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        crossvalidate(system, folds, tmp_path / "out", OPTIONS)
    report = crossvalidate(system, folds, tmp_path / "out", OPTIONS)
    assert len(calls) == 3  # The first fold once, the second twice.
    assert report["files"]["n"] == 30


@pytest.mark.slow
def test_a_choice_is_made_on_devel_and_only_the_chosen_is_tested(
    tmp_path, grouped, make_recipe, small_settings
):
    recipes = [
        make_recipe(*small_settings, f"train.learning_rate={rate}", "train.epochs=2")
        for rate in ("1e-9", "3e-3")
    ]
    system = System("finetune", "tuned", tuple(recipes))
    out = tmp_path / "out"
    folds = prepare(system, grouped, "2", out, OPTIONS)
    crossvalidate(system, folds, out, OPTIONS)
    for name in folds:
        fold = out / "tuned" / name
        choice = json.loads((fold / "choice.json").read_text())
        assert choice["chosen"] == max(choice["devel"], key=choice["devel"].get)
        for candidate, value in choice["devel"].items():
            devel = json.loads((fold / candidate / "devel" / "scores.json").read_text())
            assert devel["files"]["uar"]["value"] == value
            assert not (fold / candidate / "test").exists()
        assert (fold / "test" / "scores.json").is_file()
    about = json.loads((out / "tuned" / "system.json").read_text())
    histories = [path.open() for path in (out / "tuned").rglob("history.jsonl")]
    seconds = [json.loads(line)["seconds"] for file in histories for line in file]
    assert about["seconds"] == pytest.approx(sum(seconds))
    assert len(histories) == 4


@pytest.mark.slow
def test_other_settings_are_not_mixed_with_what_is_there(experiment, grouped, make_recipe):
    out, systems, folds, _ = experiment
    other = System("finetune", "finetune", (make_recipe("train.epochs=3"),))
    with pytest.raises(TrainingError, match=r"other settings \(.*train\.epochs.*\); give the same"):
        crossvalidate(other, folds, out, OPTIONS)
    assert prepare(systems[0], grouped, None, out, OPTIONS) == folds
    with pytest.raises(TrainingError, match="were made by --folds 3, not groups"):
        prepare(systems[0], grouped, "groups", out, OPTIONS)


@pytest.mark.slow
def test_another_manifest_is_refused(experiment, tones):
    out, systems, _, _ = experiment
    table = pd.read_csv(tones).head(9)
    table["path"] = [str(tones.parent / name) for name in table["path"]]
    fewer = out.parent / "fewer.csv"
    table.drop(columns="split").to_csv(fewer, index=False)
    with pytest.raises(ManifestError, match="made of 30 recordings, not of these 9"):
        prepare(systems[0], fewer, "3", out, OPTIONS)


def test_a_file_is_no_place_for_an_experiment(tmp_path, grouped, make_recipe):
    (tmp_path / "out").write_text("precious")
    with pytest.raises(TrainingError, match="already there, and a file"):
        prepare(
            System("logmel", "logmel", (make_recipe(),)), grouped, "3", tmp_path / "out", OPTIONS
        )


def test_a_folder_with_something_else_is_left_alone(tmp_path, grouped, make_recipe):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(TrainingError, match="not empty, and no experiment"):
        prepare(System("logmel", "logmel", (make_recipe(),)), grouped, "3", tmp_path, OPTIONS)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_folds_that_were_not_finished_are_made_again(tmp_path, grouped, make_recipe):
    system = System("logmel", "logmel", (make_recipe(),))
    folds = prepare(system, grouped, "3", tmp_path, OPTIONS)
    written = {name: path.read_bytes() for name, path in folds.items()}
    (tmp_path / "folds" / "made-by.txt").unlink()
    (tmp_path / "folds" / "01-other.csv").write_text("path,la")
    again = prepare(system, grouped, "3", tmp_path, OPTIONS)
    assert {name: path.read_bytes() for name, path in again.items()} == written


def test_systems_are_named_on_the_command_line():
    assert parse_system("egemaps").name == "egemaps"
    paper = parse_system("finetune:paper", changes=["train.seed=3"])
    assert (paper.kind, paper.name) == ("finetune", "finetune-paper")
    assert paper.recipes == (load_recipe("paper", ["train.seed=3"]),)
    named = parse_system("seed-7=finetune", choose=["train.epochs=[5, 9]"])
    assert named.title == "Fine-tuned network (seed-7, best of 2 on devel)"
    deep = parse_system("deepspectrum", layer="blocks.3", fit_devel=True)
    assert deep.title.endswith("linear SVM (layer blocks.3, train + devel)")
    assert [recipe.train.epochs for recipe in named.recipes] == [5, 9]


@pytest.mark.parametrize(
    "text", ["svm", "finetune2", "../x=finetune", "a b=majority", ".a=logmel", "folds=logmel"]
)
def test_an_unknown_system_is_refused(text):
    with pytest.raises(RecipeError, match="allowed: "):
        parse_system(text)


def test_candidates_are_every_combination():
    found = candidates(['model.activation=["relu", "gelu"]', "train.epochs=[1, 2, 3]"])
    assert len(found) == 6
    assert found[0] == ('model.activation="relu"', "train.epochs=1")
    assert candidates([]) == [()]


@pytest.mark.parametrize("text", ["train.epochs=3", "train.epochs=[]", "train.epochs=[1", "x"])
def test_a_choice_needs_a_list(text):
    with pytest.raises(RecipeError, match="allowed: a list"):
        candidates([text])

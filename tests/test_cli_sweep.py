"""The commands of a sweep: what they print and write, and that test is met by the winner only."""

import json

import pandas as pd
import pytest
from sweep_helpers import FAILING, GRID, OPTIONS, write_sweep

from deepspectrumlite.config import RayOptions, load_recipe
from deepspectrumlite.runs import evaluate_run
from deepspectrumlite.sweeps.experiment import read_experiment
from deepspectrumlite.sweeps.plan import load_sweep, points, recipe_of
from deepspectrumlite.sweeps.results import ranked, results_table
from deepspectrumlite.sweeps.trials import best_of, read_trials, trial_folder, write_trial

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def written(tmp_path, make_recipe, small_settings):
    """The function ``(table) -> path`` of a recipe file with a sweep."""

    def written(table=GRID):
        recipe = make_recipe(*small_settings, "train.epochs=1")
        return write_sweep(tmp_path / "sweep.toml", recipe, table)

    return written


def test_a_sweep_from_the_recipe_to_the_best(run, written, tmp_path, tones, make_recipe):
    path, out = written(), tmp_path / "out"
    code, told, errors = run("sweep", path, "--data", tones, "--out", out, "--device", "cpu")
    assert code == 0, errors
    assert "4 of 4 trials are done" in told
    started = [line for line in errors if line.startswith("trial ")]
    assert started[2].startswith("trial 2 (3 of 4): train.learning_rate=0.003 ")
    assert any("best so far" in line for line in errors)

    rows = read_trials(out)
    table = pd.read_csv(out / "results.csv")
    assert list(table["trial"]) == [0, 1, 2, 3]
    assert list(table["devel"]) == pytest.approx([row["devel"] for row in rows])
    assert list(table["train.learning_rate"]) == [1e-3, 1e-3, 3e-3, 3e-3]
    assert list(table["frontend.image_width"]) == [32, 40, 32, 40]
    parquet = pd.read_parquet(out / "results.parquet")
    assert list(parquet.columns) == list(table.columns)
    assert parquet["devel"].tolist() == pytest.approx(table["devel"].tolist())
    assert (out / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert not (out / "pareto.md").exists()  # nothing was timed
    assert list(out.glob("trials/*/test")) == []

    best, recipe = best_of(rows), tmp_path / "best.toml"
    assert best["devel"] == max(row["devel"] for row in rows)
    code, told, errors = run("sweep", "best", out, "--out", recipe, "--device", "cpu")
    assert code == 0, errors
    assert f"Trial {best['number']}: devel uar {best['devel']:.3f}" in told
    # The recipe is one that `train` takes, and is that of the trial.
    assert load_recipe(recipe) == recipe_of(load_sweep(path), best["settings"])
    # Test is scored for the winner only, as `evaluate` would.
    folder = trial_folder(out, best["number"])
    assert list(out.glob("trials/*/test")) == [folder / "test"]
    found = json.loads((folder / "test" / "scores.json").read_text())
    expected, _ = evaluate_run(folder, tones, "test", OPTIONS, out=tmp_path / "test")
    assert found["files"]["uar"] == expected["files"]["uar"]
    assert f"UAR on test: {found['files']['uar']['value']:.3f} [" in told


def test_the_best_of_equals_is_the_first(run, written, tmp_path, tones):
    out = tmp_path / "out"
    run("sweep", "run", written(), "--data", tones, "--out", out, "--device", "cpu")
    rows = read_trials(out)
    for row in rows:
        value = 0.5 if row["number"] in (1, 3) else 0.4
        write_trial(trial_folder(out, row["number"]), row | {"devel": value})
    code, told, _ = run("sweep", "best", out, "--device", "cpu")
    assert code == 0
    assert "Trial 1: devel uar 0.500" in told
    assert (out / "best.toml").is_file()


def test_test_is_met_once(run, written, tmp_path, tones):
    out, recipe = tmp_path / "out", tmp_path / "new" / "folder" / "best.toml"
    run("sweep", written(), "--data", tones, "--out", out, "--device", "cpu")
    first, last = read_trials(out)[0], read_trials(out)[3]
    write_trial(trial_folder(out, 0), first | {"devel": 2.0})
    (trial_folder(out, 3) / "trial.json").rename(tmp_path / "3.json")
    arguments = ["sweep", "best", out, "--device", "cpu", "--out", recipe]
    code, _, errors = run(*arguments)
    assert code == 1
    assert "1 of 4 trials are still to be trained" in errors[-1]
    assert "--unfinished" in errors[-1]
    assert not recipe.exists()
    assert list(out.glob("trials/*/test")) == []

    for _ in range(2):  # the same trial again is the same score
        code, told, errors = run(*arguments, "--unfinished")
        assert code == 0, errors
        assert "Trial 0: devel uar 2.000" in told
        assert not any("Warning" in line for line in errors)
    assert recipe.is_file()
    (entry,) = json.loads((out / "best.json").read_text())["tested"]
    assert (entry["trial"], entry["trials_done"], entry["trials"]) == (0, 3, 4)
    assert entry["tested_before"] == []

    write_trial(trial_folder(out, 3), last | {"devel": 3.0})
    code, told, errors = run(*arguments)
    assert code == 0
    assert "Trial 3: devel uar 3.000" in told
    assert "test was met before, by trial 0" in " ".join(errors)
    noted = json.loads((out / "best.json").read_text())["tested"]
    assert [(entry["trial"], entry["tested_before"]) for entry in noted] == [(0, []), (3, [0])]
    (out / "best.json").write_text("{x")
    code, _, errors = run(*arguments)
    assert code == 1
    assert "best.json: broken" in errors[-1]


def test_a_failed_trial_is_told_and_retried(run, written, tmp_path, tones):
    path, out = written(FAILING), tmp_path / "out"
    arguments = ["sweep", path, "--data", tones, "--out", out, "--device", "cpu"]
    code, told, errors = run(*arguments)
    assert code == 0
    assert "failed: the loss is not finite" in told
    assert any(line.startswith("  1: failed, the loss") for line in errors)
    _, _, errors = run(*arguments)
    assert not any(line.startswith("trial") for line in errors)
    _, _, errors = run(*arguments, "--retry")
    assert "1 trials that failed or were over the budget are tried anew" in errors
    assert [line.split()[1] for line in errors if line.startswith("trial ")] == ["1"]


def test_a_script_that_is_replaced_is_told(run, written, tmp_path, tones, monkeypatch):
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID", raising=False)
    path, out = written('[sweep.lists]\n"train.seed" = [1, 2]'), tmp_path / "out"
    arguments = ["sweep", path, "--data", tones, "--out", out, "--engine", "slurm"]
    told = f"{out / 'sweep.sbatch'} was there with other options, and is replaced"
    code, _, errors = run(*arguments, "--preamble", "module load cuda")
    assert (code, told in errors) == (0, False)
    # The command is part of the script.
    code, _, errors = run(*arguments)
    assert (code, told in errors) == (0, True)
    code, _, errors = run(*arguments)
    assert (code, told in errors) == (0, False)


def test_without_a_test_split_the_best_is_not_scored(run, written, tmp_path, tones, save_manifest):
    table = pd.read_csv(tones)
    table["path"] = [str(tones.parent / name) for name in table["path"]]
    rows = table[table["split"] != "test"].to_dict("records")
    manifest, out = save_manifest(tmp_path / "no-test.csv", rows), tmp_path / "out"
    path = written('[sweep.lists]\n"train.seed" = [1]')
    run("sweep", path, "--data", manifest, "--out", out, "--device", "cpu")
    code, told, _ = run("sweep", "best", out, "--device", "cpu")
    assert code == 0
    assert "test" not in told.replace(str(out), "")


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["results", "{tmp}"], 1, "no sweep in it"),
        (["best", "{tmp}"], 1, "no sweep in it"),
        (["{tiny}", "--data", "x.csv", "--out", "{tmp}/out"], 2, "no table [sweep]"),
        (["{tiny}", "--out", "x"], 2, "--data"),
        (["{tiny}", "--data", "x", "--out", "y", "--sbatch=--time=1"], 2, "--engine slurm only"),
        (["{tiny}", "--data", "x", "--out", "y", "--precision", "int8"], 2, "--measure"),
        (["{tiny}", "--data", "x", "--out", "y", "--measure", "--seconds", "0"], 2, "0.01"),
    ],
)
def test_what_is_wrong_is_told(run, tmp_path, tiny_toml, arguments, code, told):
    given = [text.format(tmp=tmp_path, tiny=tiny_toml) for text in arguments]
    found, _, errors = run("sweep", *given)
    assert found == code
    assert told in " ".join(errors)
    assert not (tmp_path / "out").exists()


def test_results_before_any_trial_is_done_are_refused(run, written, tmp_path, tones, monkeypatch):
    out = tmp_path / "out"
    arguments = ["sweep", written(), "--data", tones, "--out", out, "--engine", "slurm"]
    assert run(*arguments)[0] == 0
    for command in ("results", "best"):
        code, _, errors = run("sweep", command, out)
        assert code == 1
        assert "trial" in errors[-1]
        assert len(errors) == 1


def test_train_refuses_a_sweep(run, written, tmp_path, tones):
    code, _, errors = run("train", written(), "--data", tones, "--out", tmp_path / "run")
    assert code == 2
    assert "deepspectrumlite sweep" in errors[-1]


def test_help_names_the_commands(run):
    code, told, _ = run("sweep", "--help")
    assert code == 0
    assert all(name in told for name in ("run", "results", "best"))
    told = run("sweep", "run", "--help")[1]
    assert "--max-latency-ms" in told
    words = " ".join(told.replace("│", " ").split())
    defaults = RayOptions()
    assert f"Of Ray. [default: {defaults.cpus_per_trial:g}]" in words
    assert f"a trial whose node is lost. [default: {defaults.retries}]" in words


def test_settings_of_several_kinds_fit_into_a_table(tmp_path):
    rows = [
        {
            "number": i,
            "settings": {"frontend.fmax": fmax, "train.compile": bool(i), "train.epochs": i},
            "status": "finished" if i else "failed",
            "reason": None,
            "metric": "uar",
            "devel": None if i == 1 else i / 4,
            **dict.fromkeys(("devel_files", "epoch", "seconds", "model_mb", "latency_ms")),
            "size_mb": None,
            "epochs": 1,
        }
        for i, fmax in enumerate(["nyquist", 4000.0, 3000])
    ]
    table = results_table(rows)
    assert table["frontend.fmax"].tolist() == ["nyquist", "4000.0", "3000"]
    assert table["train.compile"].tolist() == [False, True, True]
    assert table["train.epochs"].tolist() == [0, 1, 2]
    # Failed ones last, whatever they reached before.
    assert [row["number"] for row in ranked(rows)] == [2, 1, 0]
    table.to_parquet(tmp_path / "table.parquet")


def test_points_are_those_that_were_asked_for(written, tmp_path, run, tones):
    out = tmp_path / "out"
    path = written()
    changes = ["--set", "sweep.search=random", "--set", "sweep.trials=2"]
    code, _, _ = run("sweep", path, "--data", tones, "--out", out, "--device", "cpu", *changes)
    assert code == 0
    plan = read_experiment(out, OPTIONS).plan
    assert [row["settings"] for row in read_trials(out)] == points(plan)
    assert plan.sweep.search == "random"

"""A table of systems: the same recordings, differences to the first, and every format."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from deepspectrumlite.comparison import compare_systems, read_system, recordings_digest
from deepspectrumlite.comparison_tables import caption, comparison_table, write_comparison
from deepspectrumlite.crossvalidate import encode_predictions, pooled_decision
from deepspectrumlite.errors import ManifestError, ModelError
from deepspectrumlite.intervals import smallest_p
from deepspectrumlite.significance import holm, mcnemar
from deepspectrumlite.targets import Targets

LABELS = ["cough", "sneeze"]


def write_system(folder, title, share_right, recipe, *, seed=0, n=120, n_groups=12, **about):
    """A system's folder, as `crossvalidate` leaves it, that is right for a share of recordings."""
    truth = np.arange(n) % 2
    right = np.random.default_rng(seed).random(n) < share_right
    predicted = np.where(right, truth, 1 - truth)
    table = pd.DataFrame(
        {
            "path": [f"/clips/{i}.wav" for i in range(n)],
            "group": [f"speaker {i % n_groups}" for i in range(n)],
            "label": [LABELS[i] for i in truth],
            "predicted": [LABELS[i] for i in predicted],
            "score_cough": np.where(predicted == 0, 0.9, 0.2),
            "score_sneeze": np.where(predicted == 0, 0.1, 0.8),
            "fold": [f"0{i % 3}" for i in range(n)],
        }
    )
    folder.mkdir(parents=True)
    table.to_csv(folder / "predictions.csv", index=False)
    described = {"title": title, "recipes": [recipe.model_dump(mode="json")], **about}
    (folder / "system.json").write_text(json.dumps(described))
    return table


@pytest.fixture
def systems(tmp_path, make_recipe):
    recipe = make_recipe()
    write_system(tmp_path / "good", "Good & 100 %", 0.95, recipe, seconds=90.0, bytes=2_500_000)
    write_system(tmp_path / "bad", "Bad | x_1", 0.5, recipe, seed=1, seconds=600.0)
    write_system(tmp_path / "fair", "Fair", 0.9, recipe, seed=2)
    return [tmp_path / name for name in ("good", "bad", "fair")]


def test_metrics_and_differences_are_those_of_the_predictions(systems):
    comparison = compare_systems([read_system(folder) for folder in systems], n_resamples=500)
    assert (comparison["title"], comparison["over"]) == ("UAR", "12 groups")
    good, bad, fair = comparison["systems"]
    for row, folder in zip((good, bad, fair), systems, strict=True):
        table = pd.read_csv(folder / "predictions.csv")
        right = table["label"] == table["predicted"]
        assert row["value"] == pytest.approx(right.groupby(table["label"]).mean().mean())
        assert row["low"] < row["value"] < row["high"]
    assert good["difference"] is None
    assert bad["difference"]["value"] == pytest.approx(bad["value"] - good["value"])
    assert bad["difference"]["high"] < 0
    assert bad["difference"]["p_corrected"] < 0.05
    # Recordings of a group are not independent, as McNemar's test takes them to be.
    assert bad["mcnemar_p"] is None
    assert fair["difference"]["p_corrected"] >= fair["difference"]["p"]
    assert good["chance_p"] < 0.01 < bad["chance_p"]
    assert (good["bytes"], good["seconds_train"], fair["bytes"]) == (2_500_000, 90.0, None)


def test_a_system_does_not_differ_from_itself(systems):
    first = read_system(systems[0])
    _, twin = compare_systems([first, first], n_resamples=200)["systems"]
    assert twin["difference"]["value"] == 0
    assert twin["difference"]["low"] == twin["difference"]["high"] == 0
    assert twin["difference"]["p"] == 1


def test_few_groups_are_said_so_and_files_are_compared(tmp_path, make_recipe):
    recipe, shares = make_recipe(), {"one": 0.9, "two": 0.6, "three": 0.8}
    for seed, (name, share) in enumerate(shares.items()):
        write_system(tmp_path / name, name, share, recipe, seed=seed, n_groups=3)
    found = [read_system(tmp_path / name) for name in shares]
    comparison = compare_systems(found, n_resamples=200)
    assert comparison["over"] == "120 files"
    assert "3 groups" in comparison["warning"]
    tests = [row["mcnemar_p"] for row in comparison["systems"]]
    assert tests[0] is None
    assert tests[1] == mcnemar(*[_right(found[i]) for i in (0, 1)])
    corrected = [row["mcnemar_p_corrected"] for row in comparison["systems"]]
    assert corrected == [None, *holm(tests[1:])]
    header, rows = comparison_table(comparison)
    assert header[4] == "p accuracy"
    assert len(rows[0]) == len(header)


def _right(system):
    return system.decision.classes(system.target) == system.decision.classes(system.scores)


def test_a_p_value_that_cannot_be_small_is_said_so(tmp_path, make_recipe):
    for seed in range(4):
        write_system(tmp_path / str(seed), "x", 0.9, make_recipe(), seed=seed, n_groups=6)
    comparison = compare_systems([read_system(tmp_path / str(i)) for i in range(4)])
    least = 3 * smallest_p(6, 1000)
    assert least > 0.05
    assert f"which cannot be below {least:.2f} here" in caption(comparison)
    assert all(row["difference"]["p_corrected"] >= least for row in comparison["systems"][1:])


def test_several_labels_keep_their_scores_and_each_folds_thresholds(tmp_path, make_recipe):
    targets = Targets("sigmoid", ["a", "b"], make_recipe("model.output=sigmoid").data)
    table = pd.DataFrame({"label": ["a", "a;b"], "score_a": ["0.3", "0.6"]})
    table = table.assign(score_b=["0.1", "0.2"], threshold_a=["0.2", "0.7"], threshold_b="0.2")
    target, scores = encode_predictions(table, targets)
    assert target.tolist() == [[1, 0], [1, 1]]
    assert pooled_decision(targets).present(scores).tolist() == [[True, False], [False, True]]


def test_every_format_holds_every_system(systems, tmp_path):
    comparison = compare_systems([read_system(folder) for folder in systems], n_resamples=200)
    comparison["systems"][0]["chance_p"] = 0.0004
    written = write_comparison(comparison, tmp_path / "table")
    assert [path.suffix for path in written] == [".md", ".tex", ".csv", ".json", ".png"]
    assert json.loads(written[3].read_text()) == comparison
    header, rows = comparison_table(comparison)
    assert [row[0] for row in rows] == ["Good & 100 %", "Bad | x_1", "Fair"]
    assert rows[0][-2:] == ["90.0 s", "2.50 MB"]
    assert rows[1][-2:] == ["10.0 min", "unknown"]
    markdown = written[0].read_text().splitlines()
    assert all(line.replace("\\|", "").count("|") == len(header) + 1 for line in markdown[:5])
    latex = written[1].read_text()
    assert r"Good \& 100 \%" in latex
    assert r"x\_1" in latex
    assert latex.count(r" \\") == 4
    assert r"\caption{120 recordings" in latex
    assert "$<$0.001" in latex
    assert "<0" not in latex.replace("$<$0", "")
    flat = pd.read_csv(written[2])
    assert flat["difference_value"].isna().tolist() == [True, False, False]
    assert flat["value"].tolist() == [row["value"] for row in comparison["systems"]]
    assert written[4].read_bytes().startswith(b"\x89PNG")


def test_the_order_of_predictions_is_of_no_effect(systems):
    before = compare_systems([read_system(folder) for folder in systems], n_resamples=200)
    path = systems[1] / "predictions.csv"
    pd.read_csv(path, dtype=str).sample(frac=1, random_state=3).to_csv(path, index=False)
    assert compare_systems([read_system(f) for f in systems], n_resamples=200) == before


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda t: t.iloc[1:], "not tested on the same recordings"),
        (lambda t: t.assign(fold="01"), "not tested on the same recordings"),
        (lambda t: t.assign(label=LABELS[0]), "different truth for 00"),
        (lambda t: t.rename(columns={"score_cough": "score_bark"}), "not the same output and"),
    ],
)
def test_what_cannot_be_compared_is_refused(systems, change, named):
    path = systems[1] / "predictions.csv"
    table = change(pd.read_csv(path, dtype=str))
    if "score_bark" in table:
        table = table.replace("cough", "bark")
    table.to_csv(path, index=False)
    with pytest.raises(ManifestError, match=named) as error:
        compare_systems([read_system(folder) for folder in systems])
    assert "good and bad" in str(error.value)


def test_a_folder_without_results_is_refused(tmp_path):
    with pytest.raises(ModelError, match="nothing to compare there"):
        read_system(tmp_path)


@pytest.mark.slow
def test_runs_can_be_compared_once_they_are_evaluated(trained, tmp_path):
    from deepspectrumlite.runs import evaluate_run

    run = tmp_path / "first"
    shutil.copytree(trained, run)
    shutil.rmtree(run / "test", ignore_errors=True)
    with pytest.raises(ModelError, match="evaluate"):
        read_system(run)
    report, _ = evaluate_run(run, None, "test")
    comparison = compare_systems([read_system(run)], n_resamples=200)
    (row,) = comparison["systems"]
    predictions = pd.read_csv(run / "test" / "predictions.csv", dtype=str).sample(frac=1)
    assert comparison["recordings"] == recordings_digest(predictions)
    assert row["value"] == pytest.approx(report["files"]["uar"]["value"])
    assert row["bytes"] == (run / "model" / "model.safetensors").stat().st_size


@pytest.mark.slow
def test_a_run_is_compared_with_a_system_on_the_same_split(trained, tones, make_recipe, tmp_path):
    from deepspectrumlite.crossvalidate import crossvalidate, prepare
    from deepspectrumlite.runs import Options, evaluate_run
    from deepspectrumlite.systems import System

    shutil.copytree(trained, tmp_path / "first")
    evaluate_run(tmp_path / "first", tones, "test")
    system, out = System("logmel", "logmel", (make_recipe(),)), tmp_path / "out"
    folds = prepare(system, tones, "manifest", out, Options(device="cpu"))
    crossvalidate(system, folds, out, Options(device="cpu"))
    found = [read_system(tmp_path / "first"), read_system(out / "logmel")]
    assert compare_systems(found, n_resamples=200)["n_files"] == 9

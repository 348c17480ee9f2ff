"""The commands `crossvalidate` and `compare`, as a user types them."""

import json

import pandas as pd
import pytest
from test_comparison import write_system


@pytest.fixture
def grouped(tmp_path, tones):
    table = pd.read_csv(tones)
    table["path"] = [str(tones.parent / name) for name in table["path"]]
    table["group"] = [f"speaker {i % 6}" for i in range(len(table))]
    path = tmp_path / "labels.csv"
    table.to_csv(path, index=False)
    return path


@pytest.mark.slow
def test_compare_runs_systems_and_prints_their_table(run, grouped, tiny_toml, tmp_path):
    out = tmp_path / "results"
    arguments = ("compare", "--data", grouped, "--systems", "logmel,majority", "--folds", "3")
    arguments += ("--recipe", tiny_toml, "--out", out, "--resamples", "200")
    code, printed, errors = run(*arguments)
    assert code == 0, errors
    assert "log-mel" in printed.lower()
    assert "95 % intervals over 6 groups" in printed
    assert {path.name for path in out.iterdir()} == {
        *(f"comparison.{suffix}" for suffix in ("md", "tex", "csv", "json", "png")),
        "folds",
        "logmel",
        "majority",
    }
    # A run's report takes it for its own only if it is about the same recordings.
    assert "recordings" in json.loads((out / "comparison.json").read_text())
    # Again, with one more system, and the same folds.
    more = [*arguments]
    more[4] = "logmel,majority,again=logmel"
    code, printed, errors = run(*more)
    assert code == 0, errors
    again = pd.read_csv(out / "comparison.csv")
    assert again["name"].tolist() == ["logmel", "majority", "again"]
    assert again["value"][0] == again["value"][2]
    assert again["difference_value"][2] == 0


@pytest.mark.slow
def test_crossvalidate_tells_each_fold(run, grouped, tiny_toml, tmp_path):
    out = tmp_path / "loso"
    code, printed, errors = run(
        *("crossvalidate", grouped, "--folds", "groups", "--system", "logmel"),
        *("--recipe", tiny_toml, "--out", out, "--resamples", "200"),
    )
    assert code == 0, errors
    assert all(f"0{i + 1}-speaker-{i}" in printed for i in range(6))
    assert "UAR over 30 recordings: " in printed
    assert "over 6 groups" in printed


def test_compare_collects_what_was_run(run, tmp_path, make_recipe):
    write_system(tmp_path / "first", "First", 0.9, make_recipe())
    write_system(tmp_path / "second", "Second", 0.6, make_recipe(), seed=1)
    out = tmp_path / "table"
    code, printed, errors = run(
        "compare", tmp_path / "first", tmp_path / "second", "--out", out, "--resamples", "200"
    )
    assert code == 0, errors
    assert "Written to" in printed
    assert pd.read_csv(out / "comparison.csv")["title"].tolist() == ["First", "Second"]


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (("compare",), 2, "needed: --data MANIFEST"),
        (("compare", "nowhere"), 1, "nowhere: nothing to compare there"),
        (("compare", "--data", "x.csv", "--systems", "svm"), 2, "system 'svm'; allowed: finetune"),
        (("compare", "--data", "x.csv", "--systems", "logmel,logmel"), 2, "logmel twice"),
        (("crossvalidate", "x.csv", "--out", "y", "--folds", "5"), 1, "no such manifest"),
        (("crossvalidate", "x.csv", "--out", "y", "--choose", "train.epochs=3"), 2, "a list"),
    ],
)
def test_a_mistake_is_one_clear_line(run, tmp_path, monkeypatch, arguments, code, named):
    monkeypatch.chdir(tmp_path)
    found, _, errors = run(*arguments)
    assert found == code
    assert named in " ".join(errors)
    assert not any("Traceback" in line for line in errors)
    assert list(tmp_path.iterdir()) == []

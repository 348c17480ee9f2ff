import csv
import io
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from deepspectrumlite import __version__, cli
from deepspectrumlite.config import load_recipe
from deepspectrumlite.model import TorchRecogniser, load_model
from deepspectrumlite.predict import predict_file

COMMANDS = [
    command.name or command.callback.__name__.replace("_", "-")
    for command in cli.app.registered_commands
]


@pytest.fixture(scope="module")
def heard(tmp_path_factory, trained, tone):
    """Three recordings in a folder, and what the library predicts for them."""
    folder = tmp_path_factory.mktemp("heard")
    model = load_model(trained)
    found = []
    for i, label in enumerate(model.labels):
        soundfile.write(folder / f"{label}.wav", tone(label, 50 + i, 1.2), 8000)
        found.append(predict_file(TorchRecogniser(model), folder / f"{label}.wav"))
    return folder, found


def in_a_process(*arguments, code="from deepspectrumlite.cli import main; main()"):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )


def test_the_commands_are_those_of_the_documentation():
    assert set(COMMANDS) >= {"demo", "data", "train", "evaluate", "predict", "recipe"}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(run, command):
    code, text, _ = run(command, "--help")
    assert code == 0
    example = re.search(r"Example: +(deepspectrumlite \S.*)", text)
    assert example.group(1).split()[1] == command


def test_help_lists_the_commands(run):
    code, text, _ = run("--help")
    assert code == 0
    listed = re.findall(r"^\W+([\w-]+) +[A-Z]", text, flags=re.MULTILINE)
    assert set(COMMANDS) <= set(listed)


def test_version_as_a_module():
    found = subprocess.run(
        [sys.executable, "-m", "deepspectrumlite", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert (found.stdout, found.stderr) == (f"{__version__}\n", "")


def test_predict_json(run, trained, heard):
    folder, found = heard
    code, text, errors = run("predict", trained, folder, "--json", "--device", "cpu")
    assert (code, errors) == (0, [])
    rows = [json.loads(line) for line in text.splitlines()]
    assert rows == [prediction.to_json() for prediction in found]
    code, text, _ = run("predict", trained, folder, "--json", "--segments")
    rows = [json.loads(line) for line in text.splitlines()]
    assert rows == [prediction.to_json(segments=True) for prediction in found]
    assert [len(row["segments"]) for row in rows] == [3, 3, 3]


def test_predict_csv(run, trained, heard):
    folder, found = heard
    code, text, errors = run("predict", trained, folder / "*.wav", "--csv")
    assert (code, errors) == (0, [])
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["path"] for row in rows] == [str(prediction.path) for prediction in found]
    assert [row["label"] for row in rows] == [prediction.label for prediction in found]
    scores = [[float(row[f"score_{name}"]) for name in ("high", "low", "noise")] for row in rows]
    np.testing.assert_allclose(scores, [prediction.scores for prediction in found], atol=1e-6)


def test_predict_csv_with_segments(run, trained, heard):
    folder, found = heard
    code, text, _ = run("predict", trained, folder / "low.wav", "--csv", "--segments")
    assert code == 0
    rows = list(csv.reader(io.StringIO(text)))
    header = ["path", "start", "end", "label", "score_high", "score_low", "score_noise"]
    assert rows[0] == header
    assert [row[1:3] for row in rows[1:]] == [["0.0", "0.5"], ["0.5", "1.0"], ["1.0", "1.2"]]
    scores = np.array([row[4:] for row in rows[1:]], float)
    np.testing.assert_allclose(scores, found[1].segment_scores, atol=1e-6)


@pytest.mark.parametrize("kind", ["exported", "exported_onnx"])
def test_predict_by_an_exported_file(run, request, heard, kind):
    folder, found = heard
    path = request.getfixturevalue(kind)
    code, text, _ = run("predict", path, folder, "--json", "--segments", "--threads", 2)
    assert code == 0
    for line, prediction in zip(text.splitlines(), found, strict=True):
        row, expected = json.loads(line), prediction.to_json(segments=True)
        assert [part.pop("label") for part in row["segments"]] == [
            part.pop("label") for part in expected["segments"]
        ]
        rows, others = [row, *row.pop("segments")], [expected, *expected.pop("segments")]
        for part, other in zip(rows, others, strict=True):
            assert part.pop("scores") == pytest.approx(other.pop("scores"), abs=1e-5)
            assert part == other


def test_evaluate_an_exported_file(run, exported, trained, tones, tmp_path):
    path = tmp_path / "tones.tflite"
    path.write_bytes(exported.read_bytes())
    code, text, errors = run("evaluate", path)
    assert (code, text, len(errors)) == (1, "", 1)
    assert "does not know the recordings that it was trained on; give a manifest" in errors[0]
    code, text, _ = run("evaluate", path, tones, "--resamples", 100)
    assert code == 0
    written = "confusion.png, predictions.csv, scores.json"
    assert text.splitlines()[-1] == f"Written to {tmp_path / 'tones-test'}: {written}"
    run("evaluate", trained, tones, "--out", tmp_path / "torch", "--resamples", 100)
    by_file, by_folder = (
        json.loads((tmp_path / name / "scores.json").read_text())
        for name in ("tones-test", "torch")
    )
    assert by_file.pop("seen_in_training") is None
    assert by_folder.pop("seen_in_training") == 0
    for block in ("files", "segments"):
        # Of the scores themselves, which differ by a rounding error.
        error, other = (report[block].pop("ece") for report in (by_file, by_folder))
        assert error == pytest.approx(other, abs=1e-4)
    assert by_file == by_folder


def cells(line):
    return [cell.strip() for cell in line.split("│")[1:-1]]


def test_predict_table(run, trained, heard):
    folder, found = heard
    code, text, _ = run("predict", trained, folder)
    assert code == 0
    rows = [cells(line) for line in text.splitlines() if line.startswith("│")]
    for row, prediction in zip(rows, found, strict=True):
        names, scores = prediction.decision.labels, prediction.scores
        ranked = [f"{names[i]} {scores[i]:.2f}" for i in np.argsort(-scores)]
        assert row == [str(prediction.path), prediction.label, ", ".join(ranked)]


def test_predict_table_with_segments(run, trained, heard):
    folder, found = heard
    code, text, _ = run("predict", trained, folder / "noise.wav", "--segments")
    assert code == 0
    rows = [cells(line) for line in text.splitlines() if line.startswith("│")]
    assert [row[1:3] for row in rows] == [
        ["0.00 s", "0.50 s"],
        ["0.50 s", "1.00 s"],
        ["1.00 s", "1.20 s"],
    ]
    best = [f"noise {scores.max():.2f}" for scores in found[2].segment_scores]
    assert [row[4].split(", ")[0] for row in rows] == best


@pytest.mark.parametrize("options", [[], ["--json"], ["--csv"]])
def test_a_bad_file_among_good_ones(run, trained, heard, tmp_path, options):
    folder, found = heard
    (tmp_path / "[bad].wav").write_text("no audio")
    good = [folder / "high.wav", folder / "noise.wav"]
    given = [good[0], tmp_path / "[bad].wav", tmp_path / "absent.wav", good[1]]
    code, text, errors = run("predict", trained, *given, *options)
    assert code == 1
    assert errors[0].startswith(f"Error: {tmp_path / '[bad].wav'}: ")
    assert errors[1].startswith(f"Error: {tmp_path / 'absent.wav'}: no such file")
    assert errors[2:] == ["2 of 4 files could not be read."]
    for path, prediction in zip(good, (found[0], found[2]), strict=True):
        assert [prediction.label in line for line in text.splitlines() if str(path) in line] == [
            True
        ]


def test_only_bad_files_leave_the_output_empty(run, trained, tmp_path):
    code, text, errors = run("predict", trained, tmp_path)
    assert (code, text) == (1, "")
    assert errors[0] == f"Error: {tmp_path}: a directory; allowed: an audio file"


def test_train_and_evaluate(run, tones, tiny_toml, tmp_path):
    out = tmp_path / ("long" * 20) / "run [1]"  # printed unbroken, and not as markup
    settings = ["--set", "train.seed=3", "--set", "train.schedule=constant"]
    code, text, errors = run("train", tiny_toml, "--data", tones, "--out", out, *settings)
    assert code == 0
    assert text == f"Model: {out / 'model'}   curves: {out / 'curves.png'}\n"
    recipe = load_model(out).recipe
    assert recipe == load_recipe(tiny_toml, ["train.seed=3", "train.schedule=constant"])
    history = [json.loads(line) for line in (out / "history.jsonl").open()]
    table = [line.split() for line in errors if line.split()[0] in ("head", "fine_tune")]
    for row, record in zip(table, history, strict=True):
        shown = [f"{record[f'{name}']:.3f}" for name in ("train_loss", "devel_loss", "devel_uar")]
        assert row[:6] == [record["phase"], str(record["epoch"]), "1.0e-03", *shown]
        assert (row[6:] == ["best", "so", "far"]) == record["best"]

    code, text, errors = run("evaluate", out, tones, "--split", "devel", "--resamples", 200)
    assert (code, errors) == (0, [])
    report = json.loads((out / "devel" / "scores.json").read_text())
    uar = report["files"]["uar"]
    assert uar["value"] == pytest.approx(max(record["devel_uar"] for record in history))
    interval = f"{uar['value']:.3f} [{uar['low']:.3f}, {uar['high']:.3f}]"
    assert f"UAR on devel: {interval} (95 % bootstrap interval over 6 files)" in text
    assert "devel: 6 files, 12 segments" in text
    rows = {cells(line)[0]: cells(line)[1:] for line in text.splitlines() if line.startswith("│")}
    assert list(rows) == [
        "UAR",
        "accuracy",
        "macro F1",
        "weighted F1",
        "AUC",
        "ECE",
        *[f"recall {label}" for label in ("high", "low", "noise")],
        *[f"precision {label}" for label in ("high", "low", "noise")],
    ]
    for column, block in enumerate(("files", "segments")):
        recall = report[block]["recall"]["low"]
        shown = f"{recall['value']:.2f} [{recall['low']:.2f}, {recall['high']:.2f}]"
        assert rows["recall low"][column] == shown
    assert f"Written to {out / 'devel'}: confusion.png, predictions.csv, scores.json" in text


def test_evaluate_elsewhere_with_skipped_recordings(run, trained, tones, tmp_path):
    table = pd.read_csv(tones).assign(path=lambda rows: f"{tones.parent}/" + rows["path"])
    table.loc[len(table)] = [str(tmp_path / "absent.wav"), "low", "test"]
    manifest, out = tmp_path / "more.csv", tmp_path / "out"
    table.to_csv(manifest, index=False)
    assert run("evaluate", trained, manifest, "--out", out)[0] == 1
    code, text, errors = run("evaluate", trained, manifest, "--out", out, "--skip-bad")
    assert code == 0
    assert errors == [f"1 recordings skipped; see {out / 'skipped.csv'}"]
    assert f"Written to {out}: " in text
    assert json.loads((out / "scores.json").read_text())["files"]["n"] == 9


@pytest.fixture(scope="module")
def many(tones, tmp_path_factory):
    """The tones with numbers, flags and sets to be learned."""
    table = pd.read_csv(tones).assign(path=lambda rows: f"{tones.parent}/" + rows["path"])
    table["height"] = table["label"].map({"low": 1.5, "high": 20.0, "noise": 11})
    table["both"] = table["label"].map({"low": "low;tone", "high": "tone", "noise": ""})
    table["level"] = table["label"].map({"low": "calm", "high": "shrill", "noise": "rough"})
    path = tmp_path_factory.mktemp("many") / "labels.csv"
    table.to_csv(path, index=False)
    return path


@pytest.mark.parametrize(
    ("output", "settings", "metric", "header", "written"),
    [
        ("linear", ["data.target=height"], "CCC", "path,value_height", "numbers.png"),
        ("sigmoid", ["data.target=both"], "MAP", "path,label,score_low,score_tone", ""),
        (
            "ordinal",
            ["data.target=level", 'data.order=["calm", "rough", "shrill"]'],
            "CCC",
            "path,label,value",
            "confusion.png",
        ),
    ],
)
def test_other_outputs(run, many, tiny_toml, tmp_path, output, settings, metric, header, written):
    changes = [f"model.output={output}", *settings, "model.backbone=resnet10t", "train.epochs=2"]
    arguments = [part for change in changes for part in ("--set", change)]
    code, _, errors = run("data", many, *arguments)
    assert (code, errors) == (0, [])
    code, _, errors = run("train", tiny_toml, "--data", many, "--out", tmp_path / "run", *arguments)
    assert code == 0
    assert errors[0].endswith(f"devel {metric}")
    code, text, errors = run("evaluate", tmp_path / "run", "--resamples", 100)
    assert (code, errors) == (0, [])
    report = json.loads((tmp_path / "run" / "test" / "scores.json").read_text())
    value = report["files"][{"CCC": "ccc", "MAP": "map"}[metric]]["value"]
    assert f"{metric} on test: {value:.3f} [" in text
    assert written in text.splitlines()[-1]
    code, text, errors = run("predict", tmp_path / "run", tones_of(many), "--csv")
    assert (code, errors, text.splitlines()[0]) == (0, [], header)
    assert len(text.splitlines()) == 31
    code, text, _ = run("predict", tmp_path / "run", tones_of(many), "--json", "--segments")
    first = json.loads(text.splitlines()[0])
    kinds = {"linear": {"values"}, "sigmoid": {"labels", "scores"}, "ordinal": {"label", "values"}}
    assert set(first) == {"path", "segments", *kinds[output]}
    assert run("predict", tmp_path / "run", tones_of(many))[0] == 0


def tones_of(manifest):
    return Path(pd.read_csv(manifest)["path"][0]).parent


@pytest.mark.parametrize("saved", [False, True])
def test_an_interruption_outside_of_the_loop(run, tones, tiny_toml, tmp_path, monkeypatch, saved):
    def interrupt(*given, **options):
        if saved:
            (tmp_path / "run.json").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr("deepspectrumlite.runs.scan_split", interrupt)
    code, text, errors = run("train", tiny_toml, "--data", tones, "--out", tmp_path)
    hint = f" Go on with: deepspectrumlite train --resume {tmp_path}" if saved else ""
    assert (code, text, errors) == (130, "", [f"Interrupted.{hint}"])


def test_a_finished_run_is_not_resumed(run, trained):
    code, text, errors = run("train", "--resume", trained)
    assert (code, text, errors) == (0, f"{trained} is finished; nothing to do\n", [])


def test_preview(run, tones, tiny_toml, tmp_path):
    picture = tmp_path / "seen.png"
    code, text, errors = run("preview", tones, "--recipe", tiny_toml, "--out", picture)
    assert (code, text, errors) == (0, f"Picture: {picture}\n", [])
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_data_prints_the_counts(run, tones):
    code, text, errors = run("data", tones, "--set", "data.sample_rate=8000")
    assert (code, errors) == (0, [])
    rows = [cells(line) for line in text.splitlines() if line.startswith("│")]
    counts = {tuple(row[:2]): int(row[2]) for row in rows}
    expected = {("total", "total"): 30}
    for split, count in (("train", 5), ("devel", 2), ("test", 3)):
        expected |= {(split, label): count for label in ("high", "low", "noise")}
        expected |= {(split, "total"): 3 * count}
    assert counts == expected
    total = next(row for row in rows if row[0] == "total")
    assert total[4:] == ["0.50", "1.00", "0.00"]  # minutes, mean and deviation in seconds
    assert "Sample rates: 8000 Hz: 30" in text


def test_data_lists_what_it_skips(run, tones, tmp_path):
    (tmp_path / "a.wav").write_text("no audio")
    manifest = tmp_path / "list.csv"
    manifest.write_text(f"path,label\na.wav,x\n{tones.parent / 'low-test-0.wav'},x\n")
    code, _, errors = run("data", manifest)
    assert (code, len(errors)) == (1, 1)
    assert errors[0].startswith(f"Error: {tmp_path / 'a.wav'}: ")
    code, text, errors = run("data", manifest, "--skip-bad")
    assert (code, len(errors)) == (0, 1)
    assert errors[0].startswith(f"skipped {tmp_path / 'a.wav'}: ")
    assert ["all", "x", "1"] in [cells(x)[:3] for x in text.splitlines() if x.startswith("│")]


def test_user_errors_are_one_line(run, trained, tones, tiny_toml, tmp_path):
    absent, new = tmp_path / "absent", tmp_path / "new"
    train = ["train", tiny_toml, "--data"]
    cases = [
        (1, "no such manifest", ["data", f"{absent}.csv"]),
        (1, "no such manifest", [*train, f"{absent}.csv", "--out", new]),
        (1, "already there", [*train, tones, "--out", trained]),
        (1, "--device quantum: ", [*train, tones, "--out", new, "--device", "quantum"]),
        (1, "is unknown", [*train, tones, "--out", new, "--set", "model.backbone=nonsense"]),
        (1, "no model there", ["predict", absent, tones]),
        (1, "no model there", ["evaluate", absent, tones]),
        (1, "no such manifest", ["evaluate", trained, f"{absent}.csv"]),
        (1, "no model there", ["evaluate", tones, tones]),
        (1, "Not a directory", [*train, tones, "--out", tones / "run"]),
        (2, "no such recipe; allowed: .*default, demo", ["recipe", "nonsense"]),
        (2, "no such recipe", ["train", "nonsense", "--data", tones, "--out", new]),
        (2, "not of the form section.key=value", ["recipe", "--set", "seed=1"]),
        (2, "train.sede is not a known key; allowed: seed", ["recipe", "--set", "train.sede=1"]),
        (2, 'train.seed is "x"; allowed: integer', ["recipe", "--set=train.seed=x"]),
    ]
    for expected, message, arguments in cases:
        code, text, errors = run(*arguments)
        assert (code, text) == (expected, ""), arguments
        assert len(errors) == 1, errors
        assert re.match(f"Error: .*{message}", errors[0]), errors
    assert not new.exists()


def test_usage_errors(run, trained, tones, tmp_path):
    cases = [
        ("'tset'; allowed: train, devel, test", ["evaluate", trained, tones, "--split", "tset"]),
        ("exclude each other", ["predict", trained, tones, "--json", "--csv"]),
        ("Missing argument", ["predict", trained]),
        ("No such option", ["data", tones, "--nonsense"]),
        ("No such command", ["nonsense"]),
        ("100", ["evaluate", trained, tones, "--resamples", "5"]),
        ("--data MANIFEST and --out RUN", ["train", "default", "--data", tones]),
        ("takes all settings from", ["train", "default", "--resume", trained]),
        ("takes all settings from", ["train", "--resume", trained, "--overwrite"]),
    ]
    for message, arguments in cases:
        code, text, errors = run(*arguments)
        assert (code, text) == (2, ""), arguments
        assert errors[0].startswith("Usage: "), errors
        assert message in " ".join(errors), errors


def test_a_manifest_without_classes(run, tmp_path):
    code, _, errors = run("data", tmp_path)
    assert (code, len(errors)) == (1, 1)
    assert errors[0].startswith(f"Error: {tmp_path}: no recordings")


def test_recipe_schema(run):
    code, text, errors = run("recipe", "--schema")
    assert (code, errors) == (0, [])
    schema = json.loads(text)
    assert list(schema["properties"]) == [
        *("data", "frontend", "model", "augment", "train", "decision")
    ]
    assert schema["$defs"]["TrainSection"]["properties"]["seed"]["minimum"] == 0


def test_recipe_is_toml_that_can_be_read_back(run, tmp_path):
    weights = 'weights/gewichte äß "x" \\n.pth'
    changes = ["train.learning_rate=1e-5", f"model.weights='{weights}'"]
    code, text, errors = run("recipe", "demo", *[x for c in changes for x in ("--set", c)])
    assert (code, errors) == (0, [])
    assert tomllib.loads(text)["model"]["weights"] == weights
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    assert load_recipe(path) == load_recipe("demo", changes)


@pytest.mark.parametrize(
    ("package", "arguments"),
    [
        ("torch", ["predict", "RUN", "a.wav"]),
        ("torch", ["train", "default", "--data", "a.csv", "--out", "run"]),
        ("pandas", ["data", "a.csv"]),
    ],
)
def test_a_missing_extra_is_one_line(trained, package, arguments):
    # None in sys.modules: importing it fails as if it were not installed.
    code = (
        f"import sys; sys.modules['{package}'] = None; "
        "from deepspectrumlite.cli import main; main()"
    )
    arguments = [trained if argument == "RUN" else argument for argument in arguments]
    found = in_a_process(*arguments, code=code)
    assert (found.returncode, found.stdout) == (1, "")
    assert found.stderr == (
        f"Error: this command needs the package '{package}', which is not installed; "
        "mend it with: pip install 'deepspectrumlite[train]'\n"
    )


@pytest.mark.parametrize("command", ["predict", "benchmark", "stats"])
def test_a_mistyped_model_is_refused_without_torch(command):
    code = "import sys; sys.modules['torch'] = None; from deepspectrumlite.cli import main; main()"
    more = ["a.wav"] if command == "predict" else []
    found = in_a_process(command, "runs/fisrt", *more, code=code)
    assert (found.returncode, found.stdout) == (1, "")
    assert found.stderr.strip().startswith("Error: runs/fisrt: no model there; allowed: ")


def test_in_a_process_of_its_own(trained, heard):
    folder, found = heard
    result = in_a_process("predict", trained, folder / "low.wav", folder / "absent.wav", "--json")
    assert result.returncode == 1
    assert json.loads(result.stdout)["label"] == found[1].label
    lines = [line for line in result.stderr.splitlines() if line]
    assert lines == [
        f"Error: {folder / 'absent.wav'}: no such file; check the path",
        "1 of 2 files could not be read.",
    ]

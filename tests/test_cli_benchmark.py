"""The commands that measure: what they print and write, and what they refuse."""

import json
import os

import pytest
import typer
from typer.testing import CliRunner

from deepspectrumlite import cli_benchmark, terminal
from deepspectrumlite.benchmark import FirstPrediction, Latency, Measured
from deepspectrumlite.errors import ModelError
from deepspectrumlite.layers import Layer
from deepspectrumlite.model import Classifier

app = typer.Typer()
app.command()(cli_benchmark.benchmark)
app.command()(cli_benchmark.stats)

WHOLE = Measured(
    path="runs/first/model.tflite",
    kind=".tflite",
    precision="float32",
    file_bytes=12_345_678,
    segment_seconds=2.0,
    parameters=2_345_678,
    macs={"front-end": 2_340_000, "network": 300_000_000, "end to end": 302_340_000},
    first=FirstPrediction(0.25, 81_200_000),
    latency={
        threads: {
            "front-end": Latency(0.001, 0.0011),
            "network": Latency(0.008 / threads, 0.0099),
            "end to end": Latency(0.009, 0.0123),
        }
        for threads in (1, 2)
    },
)
BARE = Measured(
    path="other.onnx",
    kind=".onnx",
    precision="float32",
    file_bytes=1_000_000,
    segment_seconds=2.0,
    parameters=None,
    macs=None,
    first=FirstPrediction(0.5, None),
    latency={threads: {"end to end": Latency(0.02, 0.03)} for threads in (1, 2)},
)


@pytest.fixture
def asked(monkeypatch):
    """What the library was asked for; it answers with two models."""
    found = {}

    def benchmark(paths, **options):
        found.update(options, paths=[str(path) for path in paths])
        return [WHOLE, BARE]

    monkeypatch.setattr("deepspectrumlite.benchmark.benchmark", benchmark)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory, make_recipe):
    recipe = make_recipe("model.backbone=lcnet_035", "train.fine_tune_share=0.5")
    path = tmp_path_factory.mktemp("stats") / "model"
    Classifier(recipe, ["a", "b"], weights="random").save(path)
    return path


@pytest.fixture(autouse=True)
def _wide(monkeypatch):
    # Not by COLUMNS: what that was at the import counts.
    monkeypatch.setattr(terminal.out, "_width", 200)


def call(*arguments):
    return CliRunner().invoke(app, [str(each) for each in arguments])


def rows_of(text):
    """Cells of the printed rows by their titles; the last of a title counts."""
    lines = [line.split("  ") for line in text.splitlines()]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    return {row[0]: row[1:] for row in cells if row}


def test_models_are_shown_side_by_side(asked):
    found = call("benchmark", "a.tflite", "b.onnx", "--threads", "1,2")
    assert found.exit_code == 0
    assert asked["paths"] == ["a.tflite", "b.onnx"]
    assert (asked["threads"], asked["repeats"], asked["seconds"]) == ([1, 2], 50, None)
    rows = rows_of(found.stdout)
    assert rows["size, MB"] == ["12.35", "1.00"]
    assert rows["parameters, millions"] == ["2.35", "-"]
    assert rows["MACs of network, millions"] == ["300.0", "-"]
    assert rows["first prediction, s"] == ["0.25", "0.50"]
    assert rows["memory for it, MB"] == ["81", "-"]
    # Of two threads, which come last.
    assert rows["network, ms"] == ["4.00 (9.90)", "-"]
    assert rows["end to end, ms"] == ["9.00 (12.30)", "20.00 (30.00)"]
    assert rows["real-time factor"] == ["0.0045", "0.0100"]
    titles = [line.split("  ")[0].strip() for line in found.stdout.splitlines()]
    assert titles.index("1 thread") < titles.index("front-end, ms") < titles.index("2 threads")
    heads = next(line for line in found.stdout.splitlines() if "other.onnx" in line)
    assert "first/model.tflite" in heads


def test_the_report_holds_all_figures(asked, tmp_path):
    path = tmp_path / "report.json"
    found = call("benchmark", "a.tflite", "--json", path)
    assert found.stdout.splitlines()[-1] == f"Report: {path}"
    report = json.loads(path.read_text(encoding="utf-8"))
    assert [each["path"] for each in report["models"]] == [WHOLE.path, BARE.path]
    assert report["models"][0]["latency"]["2"]["network"] == {"median": 0.004, "p95": 0.0099}
    assert report["models"][0]["real_time_factor"]["1"] == pytest.approx(0.0045)
    assert report["machine"]["cores"] == os.cpu_count()


@pytest.mark.parametrize(
    ("arguments", "threads"),
    [
        ((), sorted({1, os.cpu_count()})),
        (("--threads", "3"), [3]),
        (("--threads", "1", "--threads", "4"), [1, 4]),
        (("--threads", "4,1,4"), [4, 1]),
    ],
)
def test_threads_may_be_repeated_or_listed(asked, arguments, threads):
    assert call("benchmark", "a.tflite", *arguments).exit_code == 0
    assert asked["threads"] == threads


def test_a_time_limit_takes_the_place_of_repeats(asked):
    assert call("benchmark", "a.tflite", "--seconds", "2.5").exit_code == 0
    assert asked["seconds"] == 2.5
    assert call("benchmark", "a.tflite", "--repeats", "7").exit_code == 0
    assert (asked["repeats"], asked["seconds"]) == (7, None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--repeats", "5", "--seconds", "5"), "exclude each other"),
        (("--repeats", "2"), "'--repeats'"),
        (("--seconds", "0"), "'--seconds'"),
        (("--threads", "0"), "--threads is '0'; allowed: 1 to 256"),
        (("--threads", "1,x"), "--threads is 'x'; allowed: 1 to 256"),
        (("--threads", "257"), "--threads is '257'"),
        (("--threads", "1,"), "--threads is ''"),
    ],
)
def test_bad_usage(asked, arguments, message):
    found = call("benchmark", "a.tflite", *arguments)
    assert found.exit_code == 2
    assert message in found.stderr
    assert asked == {}


def test_errors_of_the_user_are_told_as_such(tmp_path):
    for command in ("benchmark", "stats"):
        found = call(command, tmp_path)
        assert isinstance(found.exception, ModelError)
        assert "no model there" in str(found.exception)


def test_stats_of_a_folder(folder):
    found = call("stats", folder)
    assert found.exit_code == 0
    rows = rows_of(found.stdout)
    # 3 x 3 on three channels, eight filters, at half of 32 x 32 pixels.
    stem = rows["backbone.network.conv_stem"]
    assert stem == ["Conv2d", "1 x 8 x 16 x 16", "216", f"{216 * 256:,}"]
    assert rows["head.3"] == ["Linear", "1 x 2", "34", "32", "yes"]
    parameters = rows["parameters"]
    assert parameters[0] == "0"
    numbers = [int(cell.replace(",", "")) for cell in parameters]
    assert numbers[3] == sum(numbers[:3])
    last = found.stdout.splitlines()[-1]
    assert last.endswith(f" of {parameters[3]}")
    assert rows["learned"][3] in last


def test_stats_as_json(folder):
    found = json.loads(call("stats", folder, "--json").stdout)
    assert found["path"] == str(folder)
    parts = [layer["part"] for layer in found["layers"]]
    assert list(dict.fromkeys(parts)) == ["front-end", "backbone", "head"]
    total = found["totals"]["all"]
    for key in ("parameters", "macs", "constant_bytes"):
        assert total[key] == sum(layer[key] for layer in found["layers"])
    assert total["learned"] < total["parameters"]


def test_stats_of_a_file_are_of_its_operations():
    layer = Layer("network/7", "head", "FULLY_CONNECTED", [1, 5], 40, 40, 160, 35)
    table = cli_benchmark.layer_table([layer])
    assert [column.header for column in table.columns][:2] == ["part", "kind"]
    cells = [next(iter(column.cells)) for column in table.columns]
    assert cells == ["head", "FULLY_CONNECTED", "1 x 5", "40", "160", "35"]

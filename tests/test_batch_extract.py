"""Features over a manifest in parts are those of the single file, with a row for what is bad."""

import dataclasses
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import soundfile

from deepspectrumlite.batch import extracting
from deepspectrumlite.batch.exported import ExportedExtracting
from deepspectrumlite.batch.extracting import Extracting
from deepspectrumlite.batch.rows import Row, read_rows
from deepspectrumlite.batch.run import Engine, extract_batch
from deepspectrumlite.errors import BackboneError, ModelError
from deepspectrumlite.feature_files import extract_manifest
from deepspectrumlite.features import extract
from deepspectrumlite.model import load_model

ONE = Engine(processes=1)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, tone, save_manifest):
    """(manifest, the same without its bad rows): 1 s each, a span of 0.7 s, and two bad ones."""
    folder = tmp_path_factory.mktemp("corpus")
    rows = []
    for i in range(8):
        soundfile.write(folder / f"{i}.wav", tone(("high", "low", "noise")[i % 3], i), 8000)
        rows.append({"path": f"{i}.wav", "label": "ab"[i % 2], "start": "", "end": ""})
    rows[5] |= {"start": "0.2", "end": "0.9"}
    rows[1]["path"] = "absent.wav"
    rows[3]["start"] = "soon"
    good = [row for i, row in enumerate(rows) if i not in (1, 3)]
    return save_manifest(folder / "all.csv", rows), save_manifest(folder / "good.csv", good)


def check_parts(out, single, features, tolerance=1e-4):
    """Parts against the single file: the same, but for the bad rows and the numbers of the rows."""
    parts = [pq.read_table(path).to_pandas() for path in sorted(out.glob("part-*"))]
    found = pd.concat(parts, ignore_index=True)
    bad = found[found["error"].notna()]
    assert bad["file_index"].tolist() == [1, 3]
    assert bad["error"].iloc[0].endswith("absent.wav: no such file; check the path")
    assert "row 5 of the manifest: start is 'soon'" in bad["error"].iloc[1]
    assert bad[features].isna().all(axis=None)
    assert found["file_index"].is_monotonic_increasing
    good = found[found["error"].isna()].reset_index(drop=True)
    rows = [0, 2, 4, 5, 6, 7]
    assert good["file_index"].tolist() == [rows[i] for i in single["file_index"]]
    for name in ("path", "label"):
        assert good[name].tolist() == single[name].tolist(), name
    np.testing.assert_allclose(good[["start", "end"]], single[["start", "end"]], rtol=1e-12)
    np.testing.assert_allclose(good[features], single[features], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", ["logmel", "deepspectrum", "trained"])
def test_parts_are_the_single_file(request, corpus, make_recipe, tmp_path, kind):
    recipe = make_recipe("model.backbone=lcnet_035")
    run = request.getfixturevalue("trained") if kind == "trained" else None
    kind = "deepspectrum" if kind == "trained" else kind
    model = None if run is None else load_model(run)
    given = {"model": model, "device": "cpu"}
    found, _ = extract_manifest(kind, recipe, corpus[1], tmp_path / "f.parquet", **given)
    given["model"] = run
    out = tmp_path / "out"
    told = extract_batch(kind, recipe, str(corpus[0]), str(out), part_rows=3, engine=ONE, **given)
    assert (told.rows, told.bad, told.batch.parts) == (8, 2, 3)
    assert told.seconds == pytest.approx(5 + 0.7)
    check_parts(out, pd.read_parquet(tmp_path / "f.parquet"), list(found.names))


def test_a_part_of_bad_rows_only_has_the_same_columns(make_recipe, save_manifest, tone, tmp_path):
    soundfile.write(tmp_path / "a.wav", tone("low", 1), 8000)
    names = ["x.wav", "y.wav", "a.wav", "z.wav"]
    manifest = save_manifest(tmp_path / "m.csv", [{"path": n, "label": "x"} for n in names])
    out = str(tmp_path / "out")
    told = extract_batch("logmel", make_recipe(), str(manifest), out, part_rows=2, engine=ONE)
    assert (told.rows, told.bad) == (4, 3)
    table = pq.read_table(out).to_pandas()
    assert table["file_index"].tolist() == [0, 1, 2, 2, 3]
    assert [str(x).split(":")[0].rpartition("/")[2] for x in table["error"].dropna()] == [
        "x.wav",
        "y.wav",
        "z.wav",
    ]
    # The folder is one table: its parts have one schema.
    schemas = {str(pq.read_schema(p).remove_metadata()) for p in (tmp_path / "out").glob("part-*")}
    assert len(schemas) == 1


@pytest.mark.parametrize("kind", ["logmel", "exported"])
def test_a_row_that_nobody_foresaw_costs_itself(request, make_recipe, corpus, kind):
    """A NUL in a path is a ValueError of Python, at which scanning all rows stops."""
    job = Extracting("logmel", make_recipe()).open(None)
    if kind == "exported":
        job = ExportedExtracting().open(request.getfixturevalue("exported"))
    rows = list(read_rows(str(corpus[1])))
    expected = job.make(rows, 0, lambda done: None).table.to_pandas()
    made = job.make([rows[0], Row("a\0b.wav"), *rows[1:]], 0, lambda done: None)
    found = made.table.to_pandas()
    assert made.bad == 1
    bad = found[found["error"].notna()]
    assert bad["file_index"].tolist() == [1]
    assert "null byte" in bad["error"].iloc[0]
    good = found[found["error"].isna()].reset_index(drop=True)
    np.testing.assert_array_equal(good[list(job.names)], expected[list(job.names)])
    assert good["file_index"].tolist() == [i + (i > 0) for i in expected["file_index"]]


def test_rows_are_tried_one_by_one_where_a_part_fails(make_recipe, corpus, monkeypatch):
    """The network, or a decoder at the second reading, fails at one recording of six."""
    job = Extracting("logmel", make_recipe()).open(None)
    rows = list(read_rows(str(corpus[1])))
    expected = job.make(rows, 0, lambda done: None).table.to_pandas()

    def fail(kind, recipe, scanned, **given):
        if any(path.endswith("4.wav") for path in scanned["path"]):
            raise RuntimeError(f"cannot\nhear {scanned['path'].iloc[-1]}")
        found = extract(kind, recipe, scanned, **given)
        return dataclasses.replace(found, replaced=1)

    monkeypatch.setattr(extracting, "extract", fail)
    made = job.make(rows, 10, lambda done: None)
    found = made.table.to_pandas()
    assert (made.bad, made.replaced) == (1, 5)
    assert made.seconds == pytest.approx(4 + 0.7)
    bad = found["file_index"] == 12
    assert found["error"][bad].tolist() == [f"cannot hear {rows[2].path}"]
    assert found["error"].notna().sum() == 1
    names = ["start", "end", *job.names]
    kept = expected["file_index"] != 2
    np.testing.assert_allclose(found[~bad][names], expected[kept][names], rtol=1e-6)
    assert (found[~bad]["file_index"] - 10).tolist() == expected[kept]["file_index"].tolist()


def test_values_that_are_not_finite_are_counted(exported, corpus):
    job = ExportedExtracting().open(exported)
    rows = list(read_rows(str(corpus[1])))[:2]
    compute = job._features._run
    odd = np.array([np.nan, np.inf], np.float32)
    job._features._run = lambda segment: np.append(odd, compute(segment).reshape(-1)[2:])
    made = job.make(rows, 0, lambda done: None)
    assert (made.bad, made.replaced) == (0, 2 * made.table.num_rows)
    assert made.table.to_pandas()[["deep_0", "deep_1"]].eq(0).all(axis=None)


def test_what_is_wrong_is_told_before_any_work(corpus, make_recipe, tmp_path):
    with pytest.raises(BackboneError, match="is no layer"):
        extract_batch(
            "deepspectrum",
            make_recipe("model.backbone=lcnet_035"),
            str(corpus[0]),
            str(tmp_path / "out"),
            layer="bloks.2",
        )
    assert not (tmp_path / "out").exists()


def test_the_command_takes_a_folder(run, corpus, tiny_toml, tmp_path):
    out = tmp_path / "out"
    arguments = ("extract", corpus[0], "--out", out, "--recipe", tiny_toml, "--features", "logmel")
    code, text, errors = run(*arguments, "--processes", 1, "--part-rows", 5)
    assert code == 0
    assert text.startswith(f"{out}: 8 rows, 2 bad; 5.7 s of audio in ")
    assert errors == ["2 rows could not be read; the column error says why"]
    code, text, _ = run(*arguments, "--processes", 1, "--part-rows", 5)
    assert (code, text) == (0, f"{out}: all 2 parts are there; nothing to do\n")
    code, _, errors = run(*arguments[:3], tmp_path / "f.parquet", "--engine", "ray")
    assert code == 2
    code, _, errors = run(*arguments, "--skip-bad")
    assert code == 2
    told = " ".join(" ".join(errors).replace("│", " ").split())
    assert "in a folder each bad row is kept, with its reason" in told


@pytest.mark.parametrize("kind", ["float32.tflite", "float16.tflite", "float32.onnx"])
def test_an_exported_file_gives_the_features_of_its_model(
    corpus, trained, converted, make_recipe, tmp_path, kind
):
    model = load_model(trained)
    found, _ = extract_manifest(
        "deepspectrum", model.recipe, corpus[1], tmp_path / "f.parquet", model=model, device="cpu"
    )
    out, recipe = tmp_path / "out", make_recipe()
    path = converted[kind]
    given = {"model": path, "part_rows": 3, "engine": ONE}
    told = extract_batch("deepspectrum", recipe, str(corpus[0]), str(out), **given)
    assert (told.rows, told.bad) == (8, 2)
    assert told.seconds == pytest.approx(5 + 0.7)
    single, names = pd.read_parquet(tmp_path / "f.parquet"), list(found.names)
    # Half as many bits: three digits.
    check_parts(out, single, names, 2e-2 if "16" in kind else 1e-4)
    assert single[names].to_numpy().std() > 0.1


def test_an_exported_file_needs_no_torch_for_features(corpus, exported, tmp_path):
    code = (
        "import sys; sys.modules['torch'] = None; from pathlib import Path; "
        "from deepspectrumlite.batch.exported import ExportedExtracting; "
        "from deepspectrumlite.batch.rows import read_rows; "
        f"job = ExportedExtracting().open(Path({str(exported)!r})); "
        f"made = job.make(list(read_rows({str(corpus[0])!r})), 0, lambda done: None); "
        "print(made.table.num_rows, made.bad)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["14", "2"]


def test_what_an_exported_file_cannot_give(corpus, converted, exported, make_recipe, tmp_path):
    arguments = make_recipe(), str(corpus[0]), str(tmp_path / "out")
    with pytest.raises(ModelError, match="features of an int8 file have 8 bits"):
        extract_batch("deepspectrum", *arguments, model=converted["int8.tflite"])
    with pytest.raises(ModelError, match="features before its head, not logmel"):
        extract_batch("logmel", *arguments, model=exported)

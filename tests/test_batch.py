"""Predicting over a manifest in parts: what is written, refused, and gone on with."""

import io
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from deepspectrumlite.audio import find_audio, load_audio
from deepspectrumlite.batch.local import run_local
from deepspectrumlite.batch.places import Folder
from deepspectrumlite.batch.plan import BATCH, PLAN, Asked, Batch, Rows, make_plan
from deepspectrumlite.batch.rows import Row, predict_row, read_rows
from deepspectrumlite.batch.run import Engine, Summary, predict_batch, run_batch
from deepspectrumlite.batch.work import Made
from deepspectrumlite.cli_predict import tell_summary
from deepspectrumlite.errors import DeepSpectrumLiteError, ManifestError
from deepspectrumlite.runtime import Predictor

ASKED = Asked("predict", "a.tflite", "00", {}, ["path"])
ONE = Engine(processes=1)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, tone, save_manifest):
    """A manifest of ten recordings (two segments each), of which two are bad, and a span."""
    folder = tmp_path_factory.mktemp("corpus")
    rows = []
    for i in range(10):
        name = f"{i} {'é' if i == 1 else 'e'}.flac"
        soundfile.write(folder / name, tone(("high", "low", "noise")[i % 3], i), 8000)
        rows.append({"path": name, "start": "", "end": "", "speaker": f"s{i % 2}"})
    (folder / "4 e.flac").write_bytes(b"fLaC and nothing more")
    rows[7]["path"] = "absent.wav"
    rows[2] |= {"start": "0.25", "end": "0.75"}
    return save_manifest(folder / "corpus.csv", rows)


def read_parts(folder):
    """All parts as one table, in the order of their names."""
    return pa.concat_tables([pq.read_table(path) for path in sorted(folder.glob("part-*"))])


@pytest.fixture(scope="module")
def expected(corpus, exported):
    """(scores or None) of each row, by the runtime itself."""
    model = Predictor(exported)
    found = []
    for row in read_rows(str(corpus)):
        if "absent" in row.path or row.path.endswith("4 e.flac"):
            found.append(None)
        else:
            wave = load_audio(Path(row.path), 8000, start=row.start or 0.0, end=row.end)
            found.append(model.scores(wave))
    return found


def check_rows(table, expected):
    assert table["row"].to_pylist() == list(range(len(expected)))
    for values, scores in zip(table.to_pylist(), expected, strict=True):
        given = [values[f"score_{label}"] for label in ("high", "low", "noise")]
        if scores is None:
            assert given == [None] * 3
            assert values["label"] is None
            assert values["error"].startswith(f"{values['path']}: ")
        else:
            np.testing.assert_allclose(given, scores, atol=1e-6)
            assert values["label"] == ("high", "low", "noise")[int(np.argmax(scores))]
            assert values["error"] is None


def test_parts_hold_what_the_model_says_in_the_order_of_the_manifest(
    corpus, exported, expected, tmp_path
):
    out = tmp_path / "out"
    found = predict_batch(exported, str(corpus), str(out), part_rows=3, engine=Engine(processes=2))
    names = sorted(path.name for path in out.iterdir())
    assert names == [BATCH, PLAN, *[f"part-{i:05d}.parquet" for i in range(4)]]
    assert [len(pq.read_table(out / name)) for name in names[2:]] == [3, 3, 3, 1]
    # The folder is a data set as it is.
    check_rows(pq.read_table(out).sort_by("row"), expected)
    assert (found.rows, found.bad, found.parts_before) == (10, 2, 0)
    assert found.seconds == pytest.approx(7 * 1.0 + 0.5)
    told = json.loads((out / BATCH).read_text())
    assert (told["rows"], told["part_rows"], told["parts"]) == (10, 3, 4)
    assert told["columns"] == pq.read_schema(out / names[2]).names


def test_segments_have_rows_of_their_own(corpus, exported, tmp_path):
    predict_batch(exported, str(corpus), str(tmp_path), segments=True, engine=ONE)
    table = read_parts(tmp_path)
    assert table["row"].to_pylist() == [0, 0, 1, 1, 2, 3, 3, 4, 5, 5, 6, 6, 7, 8, 8, 9, 9]
    wave = Predictor(exported).predict(corpus.parent / "0 e.flac")
    scores = np.stack([table[f"score_{label}"] for label in ("high", "low", "noise")], axis=1)
    np.testing.assert_allclose(scores[:2].astype(float), wave.segment_scores, atol=1e-6)
    assert table["start"].to_pylist()[:5] == [0, 0.5, 0, 0.5, 0.25]
    assert table["end"].to_pylist()[4] == 0.75


def test_the_same_again_makes_only_what_is_missing(corpus, exported, tmp_path):
    predict_batch(exported, str(corpus), str(tmp_path), part_rows=3, engine=ONE)
    whole = read_parts(tmp_path)
    before = {path.name: path.stat().st_ino for path in tmp_path.glob("part-*")}
    (tmp_path / "part-00001.parquet").unlink()
    found = predict_batch(exported, str(corpus), str(tmp_path), part_rows=3, engine=ONE)
    assert (found.rows, found.bad, found.parts_before) == (3, 1, 3)
    assert read_parts(tmp_path).equals(whole)
    after = {path.name: path.stat().st_ino for path in tmp_path.glob("part-*")}
    assert {name for name in after if after[name] != before[name]} <= {"part-00001.parquet"}
    again = predict_batch(exported, str(corpus), str(tmp_path), part_rows=3, engine=ONE)
    assert (again.rows, again.parts_before) == (0, 4)


def test_another_batch_in_the_same_folder_is_refused(
    corpus, exported, converted, save_manifest, tmp_path
):
    out, other = str(tmp_path / "out"), tmp_path / "other.csv"
    predict_batch(exported, str(corpus), out, engine=ONE)
    save_manifest(other, [{"path": "a.wav"}])
    copy = corpus.with_name("copy.csv")
    copy.write_bytes(corpus.read_bytes())
    for arguments, options, problem in (
        ((exported, str(other), out), {}, "another manifest .* content differs"),
        ((converted["float32.onnx"], str(corpus), out), {}, "another model"),
        ((exported, str(corpus), out), {"segments": True}, "another settings"),
        ((exported, str(corpus), out), {"part_rows": 7}, r"another part_rows \(1000, not 7\)"),
    ):
        with pytest.raises(ManifestError, match=problem):
            predict_batch(*arguments, engine=ONE, **options)
    # What counts is what stands in the manifest, not its name.
    assert predict_batch(exported, str(copy), out, engine=ONE).rows == 0
    (tmp_path / "out" / BATCH).unlink()
    with pytest.raises(ManifestError, match="parts of an unknown batch"):
        predict_batch(exported, str(corpus), out, engine=ONE)


def test_a_run_folder_does_it_too(corpus, trained, expected, tmp_path):
    found = predict_batch(trained, str(corpus), str(tmp_path), engine=ONE, device="cpu")
    assert found.bad == 2
    table = read_parts(tmp_path)
    for values, scores in zip(table.to_pylist(), expected, strict=True):
        if scores is not None:
            given = [values[f"score_{label}"] for label in ("high", "low", "noise")]
            np.testing.assert_allclose(given, scores, atol=1e-4)


class Deadly:
    """A job whose worker kills itself at one part: the first time, or always."""

    schema = pa.schema([("row", pa.int64())])

    def __init__(self, folder, always):
        self.folder, self.always = folder, always

    def open(self, model):
        return self

    def make(self, rows, first, tell):
        tried = self.folder / "tried"
        if first == 2 and (self.always or not tried.exists()):
            tried.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return Made(pa.table({"row": [first, first + 1]}), 0, 0.0)


@pytest.mark.parametrize("always", [False, True])
def test_a_worker_that_dies_costs_a_second_try(tmp_path, save_manifest, always):
    manifest = save_manifest(tmp_path / "m.csv", [{"path": f"{i}.wav"} for i in range(6)])
    out = Folder(str(tmp_path / "out"))
    _, parts = make_plan(str(manifest), out, ASKED, 2)
    done = run_local(Deadly(tmp_path, always), None, out, parts, 2, processes=1)
    if not always:
        assert sorted(part.part for part in done) == [0, 1, 2]
        assert read_parts(tmp_path / "out")["row"].to_pylist() == list(range(6))
        return
    problem = r"died twice at part 1 \(exit code -9\): no memory was left, or .* fewer --processes$"
    with pytest.raises(DeepSpectrumLiteError, match=problem):
        list(done)


class Crashing(Deadly):
    """A job that ends its worker as a decoder does that crashes; or with an error of no kind."""

    def make(self, rows, first, tell):
        if self.always:
            os.kill(os.getpid(), signal.SIGSEGV)
        raise KeyError("no\nsuch")


@pytest.mark.parametrize(
    ("always", "problem"),
    [
        (True, r"part 0 \(exit code -11\): leave out the recording in its rows 0 to 1$"),
        (False, r"^KeyError: 'no\\nsuch'$"),
    ],
)
def test_what_ends_a_worker_is_told(tmp_path, save_manifest, always, problem):
    manifest = save_manifest(tmp_path / "m.csv", [{"path": f"{i}.wav"} for i in range(2)])
    out = Folder(str(tmp_path / "out"))
    _, parts = make_plan(str(manifest), out, ASKED, 2)
    with pytest.raises(DeepSpectrumLiteError, match=problem):
        list(run_local(Crashing(tmp_path, always), None, out, parts, 2, processes=1))


class Replacing(Deadly):
    """A job that says that it replaced two values in each part."""

    def make(self, rows, first, tell):
        return Made(pa.table({"row": [first]}), 0, 0.0, replaced=2)


def test_replaced_values_are_counted(tmp_path, save_manifest, capsys):
    manifest = save_manifest(tmp_path / "m.csv", [{"path": f"{i}.wav"} for i in range(6)])
    job, out = Replacing(tmp_path, False), tmp_path / "out"
    given = job, ASKED, None, {}, str(manifest), Folder(str(out)), 2, ONE
    found = run_batch(*given)
    assert found.replaced == 6
    tell_summary("out", found)
    assert capsys.readouterr().out.endswith("; 6 values that were not finite set to 0\n")


@pytest.mark.parametrize(
    ("seconds", "wall", "told"),
    [
        (6.0, 20.05, "6 s of audio in 20.1 s: 0.299 h an hour (real-time factor 3.34)"),
        (36000.0, 7.2, "10.00 h of audio in 7.2 s: 5000 h an hour (real-time factor 0.0002)"),
    ],
)
def test_the_last_line_has_digits_that_tell(capsys, seconds, wall, told):
    batch = Batch("predict", "m.csv", "", "a.tflite", "", {}, 3, 1000, 1, [])
    tell_summary("out", Summary(batch, 0, 3, 0, seconds, wall, 0.0, 0.0, 0.0))
    assert capsys.readouterr().out == f"out: 3 rows, 0 bad; {told}\n"


PLANNING = """
import resource, sys
from deepspectrumlite.batch.places import Folder
from deepspectrumlite.batch.plan import Asked, make_plan
for manifest in sys.argv[1:]:
    asked = Asked("predict", "a.tflite", "00", {}, ["path"])
    batch, parts = make_plan(manifest, Folder(manifest + ".out"), asked, 1000)
    print(batch.rows, len(parts), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_planning_a_million_rows_takes_no_memory(tmp_path):
    manifests = [tmp_path / "few.csv", tmp_path / "many.csv"]
    for manifest, n in zip(manifests, (20_000, 1_000_000), strict=True):
        with manifest.open("w") as file:
            file.write("path,start,end,label\n")
            file.writelines(f"/corpus/{i // 1000:04d}/{i:07d}.flac,,,x\n" for i in range(n))
    command = [sys.executable, "-c", PLANNING, *manifests]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    few, many = ([int(x) for x in line.split()] for line in told.splitlines())
    assert (few[:2], many[:2]) == ([20_000, 20], [1_000_000, 1000])
    # In KiB. The paths alone are 27 MB; as Python objects a row would take hundreds of bytes.
    assert many[2] - few[2] < 20_000
    rows = Rows(Folder(f"{manifests[1]}.out")).part(123)
    assert [row.path for row in rows[:2]] == [
        f"/corpus/0123/{i}.flac" for i in ("0123000", "0123001")
    ]


def slow_corpus(folder, tone, save_manifest, n):
    soundfile.write(folder / "long.wav", tone("low", 1, seconds=20), 8000)
    rows = [{"path": "long.wav", "start": i * 0.01, "end": 18} for i in range(n)]
    return save_manifest(folder / "m.csv", rows)


def wait_for(condition, seconds=60):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)


def children(process):
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(process.pid)],
        capture_output=True,
        text=True,
        check=False,
    )
    return [int(pid) for pid in listed.stdout.split()]


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_was_stopped_goes_on(start, exported, tone, save_manifest, tmp_path, stop):
    manifest = slow_corpus(tmp_path, tone, save_manifest, 90)
    whole, out = tmp_path / "whole", tmp_path / "out"
    predict_batch(exported, str(manifest), str(whole), part_rows=3, engine=ONE)
    arguments = ("predict", exported, manifest, "--out", out, "--part-rows", 3, "--processes", 2)
    process = start(*arguments)
    wait_for(lambda: len(list(out.glob("part-*"))) >= 3)
    workers = children(process)
    if stop == signal.SIGINT:
        os.killpg(process.pid, stop)  # as Ctrl-C does, to all of the group
    else:
        process.kill()
    assert process.wait(30) == (130 if stop == signal.SIGINT else -9)
    wait_for(lambda: not any(map(alive, workers)))
    if stop == signal.SIGINT:
        assert process.stderr_path.read_text().strip().splitlines()[-1] == "Interrupted."
        assert "Traceback" not in process.stderr_path.read_text()
    made = {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in out.glob("part-*")}
    assert 3 <= len(made) < 30
    assert start(*arguments).wait(120) == 0
    for name, known in made.items():
        assert ((out / name).stat().st_ino, (out / name).stat().st_mtime_ns) == known
    assert read_parts(out).equals(read_parts(whole))
    if stop == signal.SIGINT:
        # What a process leaves that was killed is of no known age yet.
        assert not list(out.glob(".part-*"))


def test_workers_need_no_torch(exported, corpus, tmp_path):
    """Neither the command nor its workers load it: it is not there at all."""
    blocked = tmp_path / "blocked" / "torch"
    blocked.mkdir(parents=True)
    (blocked / "__init__.py").write_text("raise ModuleNotFoundError('torch', name='torch')")
    path = os.pathsep.join([str(blocked.parent), *sys.path])
    out = tmp_path / "out"
    found = subprocess.run(
        [sys.executable, "-m", "deepspectrumlite", "predict", exported, corpus, "--out", out],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert f"{out}: 10 rows, 2 bad; " in found.stdout
    assert read_parts(out).num_rows == 10


def test_spans_are_what_a_cut_recording_is(exported, corpus, tmp_path, tone):
    model = Predictor(exported)
    wave = tone("low", 9, seconds=3)
    soundfile.write(tmp_path / "whole.wav", wave, 8000, subtype="FLOAT")
    soundfile.write(tmp_path / "cut.wav", wave[8000:18000], 8000, subtype="FLOAT")
    span = predict_row(model, Row(str(tmp_path / "whole.wav"), 1.0, 2.25))
    cut = predict_row(model, Row(str(tmp_path / "cut.wav")))
    np.testing.assert_array_equal(span.segment_scores, cut.segment_scores)
    assert span.segment_starts.tolist() == [1.0, 1.5, 2.0]
    assert span.segment_ends.tolist() == [1.5, 2.0, 2.25]


def rows_of(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    return list(read_rows(str(tmp_path / name)))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("m.csv", "path,start,end\na b.wav,,\nsub/b.wav,0.5,2\n"),
        ("m.csv", "path;start;end\na b.wav;;\nsub/b.wav;0.5;2\n"),
        ("m.tsv", "start\tpath\tend\n\ta b.wav\t\n0.5\tsub/b.wav\t2\n"),
        ("m.jsonl", '{"path": "a b.wav"}\n\n{"path": "sub/b.wav", "start": 0.5, "end": 2}\n'),
    ],
)
def test_manifests_of_all_kinds(tmp_path, name, text):
    found = rows_of(tmp_path, name, text)
    assert [(row.path, row.start, row.end, row.error) for row in found] == [
        (str(tmp_path / "a b.wav"), None, None, ""),
        (str(tmp_path / "sub" / "b.wav"), 0.5, 2.0, ""),
    ]


def test_a_parquet_manifest_and_its_empty_cells(tmp_path):
    columns = {
        "path": ["a.wav", "s3://b/c d.wav"],
        "start": [None, 1.5],
        "end": [float("nan"), 2.0],
    }
    pq.write_table(pa.table(columns | {"age": [7, None]}), tmp_path / "m.parquet")
    found = list(read_rows(str(tmp_path / "m.parquet")))
    assert [(row.path, row.start, row.end, row.error) for row in found] == [
        (str(tmp_path / "a.wav"), None, None, ""),
        ("s3://b/c d.wav", 1.5, 2.0, ""),
    ]
    assert [dict(row.others) for row in found] == [{"age": "7"}, {"age": None}]


def test_a_wrong_row_costs_itself(tmp_path):
    text = "path,start,end\na.wav,x,1\n,,\nb.wav,2,1\nc.wav,-1,\nd.wav,inf,\ne.wav,1\n"
    found = rows_of(tmp_path, "m.csv", text)
    assert [row.error.removesuffix("; mend the row") for row in found] == [
        "row 2 of the manifest: start is 'x'; allowed: seconds from 0 on, or nothing",
        "row 4 of the manifest: end is 1, not after the start",
        "row 5 of the manifest: start is '-1'; allowed: seconds from 0 on, or nothing",
        "row 6 of the manifest: start is 'inf'; allowed: seconds from 0 on, or nothing",
        "",
    ]
    found = rows_of(tmp_path, "m.jsonl", '{"path": null}\nno\n[1]\n{"path": "a.wav"}\n')
    assert [row.error.partition(": ")[2].partition(";")[0] for row in found] == [
        "path is empty",
        "not JSON (Expecting value, column 1)",
        "no object",
        "",
    ]


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("m.csv", "file,start\na.wav,1\n", "no column path, only file, start"),
        ("m.csv", "path\n", "no recordings in it"),
        ("m.parquet", "path\n", "cannot be read as .parquet"),
        ("m.xlsx", "path\n", "a manifest cannot be of type '.xlsx'"),
        ("m.jsonl", "", "no recordings in it"),
    ],
)
def test_a_wrong_manifest_is_refused(exported, tmp_path, name, text, problem):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(ManifestError, match=problem):
        predict_batch(exported, str(tmp_path / name), str(tmp_path / "out"), engine=ONE)
    with pytest.raises(ManifestError, match="no such manifest"):
        predict_batch(exported, str(tmp_path / "absent.csv"), str(tmp_path / "out"), engine=ONE)


def test_a_name_that_is_not_utf8_is_a_bad_row(exported, tone, tmp_path):
    """As Linux allows it in a folder, and JSON in a manifest."""
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    soundfile.write(corpus / "a.wav", tone("low", 1), 8000)
    try:
        os.link(corpus / "a.wav", os.fsencode(corpus) + b"/caf\xe9.wav")
    except OSError:
        pytest.skip("no such names on this file system")
    found = predict_batch(exported, str(corpus), str(tmp_path / "out"), engine=ONE)
    assert (found.rows, found.bad) == (2, 1)
    bad = read_parts(tmp_path / "out").to_pylist()[1]
    assert bad["path"] == f"{corpus}/caf\\udce9.wav"
    assert bad["error"] == f"{bad['path']}: the name is not UTF-8; rename the recording"
    listed = tmp_path / "caf\udce9.jsonl"
    listed.write_text('{"path": "corpus/a.wav"}\n{"path": "\\ud800.wav"}\n{"path": "x\\u0000"}\n')
    out = tmp_path / "listed"
    found = predict_batch(exported, str(listed), str(out), engine=ONE)
    assert (found.rows, found.bad) == (3, 2)
    assert json.loads((out / BATCH).read_bytes())["manifest"] == str(listed)


def test_broken_files_of_a_batch_are_one_line(run, exported, corpus, tmp_path):
    out = tmp_path / "out"
    arguments = ("predict", exported, corpus, "--out", out, "--processes", 1, "--part-rows", 6)
    assert run(*arguments)[0] == 0
    told, plan = (out / BATCH).read_bytes(), (out / PLAN).read_bytes()
    (out / "part-00000.parquet").unlink()
    remedy = "choose another --out, or remove the folder to begin anew"
    for name, content, problem in (
        (BATCH, b"{x", "not JSON: Expecting property name"),
        (BATCH, b"\xff", "not JSON: "),
        (BATCH, b"[1]", "[1]"),
        (PLAN, b"PAR1 and nothing more", "Parquet"),
        (PLAN, plan[:4] + bytes(400) + plan[404:], ""),
    ):
        (out / name).write_bytes(content)
        code, _, errors = run(*arguments)
        assert (code, len(errors)) == (1, 1), errors
        assert f"{out}: its {name} is broken (" in errors[0]
        assert problem in errors[0]
        assert errors[0].endswith(remedy)
        (out / BATCH).write_bytes(told)


def test_only_leftovers_of_this_run_or_of_yesterday_are_removed(tmp_path):
    ours, theirs = Folder(str(tmp_path)), Folder(str(tmp_path))
    yesterday = time.time() - 25 * 3600
    for name in (f"{ours.run}.host.1", f"{theirs.run}.host.2", "old.host.3"):
        (tmp_path / f".part-00000.parquet.{name}").touch()
    os.utime(tmp_path / ".part-00000.parquet.old.host.3", (yesterday, yesterday))
    # As it comes to a worker.
    pickle.loads(pickle.dumps(ours)).clear_unfinished()
    assert [path.name for path in tmp_path.iterdir()] == [
        f".part-00000.parquet.{theirs.run}.host.2"
    ]


def test_writers_of_the_same_file_do_not_meet(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(Path, "replace", lambda path, target: seen.append(path.name))
    folder = Folder(str(tmp_path))
    for _ in range(2):
        folder.write("part-00000.parquet", io.BytesIO(b"x"))
    assert len(set(seen)) == 2
    assert all(socket.gethostname() in name and folder.run in name for name in seen)


@pytest.mark.parametrize("below", ["", "/x/y"])
def test_out_that_is_a_file_is_refused_before_the_model_is_opened(run, tmp_path, below):
    (tmp_path / "afile").touch()
    out = f"{tmp_path}/afile{below}"
    problem = f"{out}: {tmp_path}/afile is a file; give --out a folder, a new one or one to go on"
    for command in (("predict", "absent.tflite", "m.csv"), ("extract", "m.csv")):
        code, _, errors = run(*command, "--out", out)
        assert (code, len(errors)) == (1, 1)
        assert problem in errors[0]


def test_a_folder_is_read_in_the_order_of_find_audio(tmp_path):
    names = ("b/2.wav", "b/10.flac", "b.wav", "a/x/1.mp3", ".hidden.wav", "notes.txt", "é.OGG")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = [row.path for row in read_rows(str(tmp_path))]
    assert found == [str(path) for path in find_audio(tmp_path)]
    assert len(found) == 5
    assert [row.path for row in read_rows(tmp_path.as_uri())] == found


def test_the_command_ends_with_a_line_and_fails_only_where_all_is_bad(
    run, exported, corpus, save_manifest, tmp_path
):
    out = tmp_path / "out"
    code, text, errors = run("predict", exported, corpus, "--out", out, "--processes", 1)
    assert code == 0
    assert text.startswith(f"{out}: 10 rows, 2 bad; 7.5 s of audio in ")
    assert errors == ["2 rows could not be read; the column error says why"]
    bad = save_manifest(tmp_path / "bad.csv", [{"path": "x.wav"}, {"path": "y.wav"}])
    code, text, _ = run("predict", exported, bad, "--out", tmp_path / "b", "--processes", 1)
    assert code == 1
    assert ": 2 rows, 2 bad; " in text
    code, _, errors = run("predict", exported, bad, "--out", out, "--processes", 1)
    assert code == 1
    assert len(errors) == 1
    assert "begun with another manifest" in errors[0]


def test_a_manifest_is_predicted_on_the_terminal_too(run, exported, corpus, expected):
    code, text, errors = run("predict", exported, corpus, "--json")
    found = [json.loads(line) for line in text.splitlines()]
    good = [scores for scores in expected if scores is not None]
    assert (code, len(found), len(errors)) == (1, 8, 3)
    for row, scores in zip(found, good, strict=True):
        np.testing.assert_allclose(list(row["scores"].values()), scores, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        ("--engine", "ray"),
        ("--processes", 2),
        ("--part-rows", 5),
        ("--out", "o", "--address", "auto"),
        ("--out", "o", "--json"),
        ("more.csv", "--out", "o"),
        ("--out", "o", "--engine", "slurm"),
    ],
)
def test_options_of_batches_that_do_not_fit(run, options):
    assert run("predict", "m.tflite", "a.csv", *options)[0] == 2


def test_a_table_as_out_is_bad_usage(run, tmp_path):
    code, _, errors = run("predict", "x.tflite", "x.csv", "--out", tmp_path / "scores.csv")
    assert code == 2
    assert "--csv > FILE" in " ".join(errors)

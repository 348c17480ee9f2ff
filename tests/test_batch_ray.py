"""The same on a Ray cluster: a small one on this machine, started once."""

import json
import os
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from deepspectrumlite.batch.run import Engine, extract_batch, predict_batch
from deepspectrumlite.batch.work import Made
from deepspectrumlite.errors import DeepSpectrumLiteError

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow
RAY = Engine("ray", processes=2)
ONE = Engine(processes=1)


@pytest.fixture(scope="module")
def cluster():
    """Two cores of its own, no dashboard, nothing reported; stopped in the end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # The tests' folder, for the jobs that stand in these files.
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *sys.path]))
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        yield
        ray.shutdown()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, tone, save_manifest):
    """A manifest of nine recordings by relative paths, a file:// address among them, one bad."""
    folder = tmp_path_factory.mktemp("corpus")
    rows = []
    for i in range(9):
        path = folder / f"{i} a.wav"
        soundfile.write(path, tone(("high", "low", "noise")[i % 3], i), 8000)
        rows.append({"path": path.as_uri() if i == 5 else path.name, "start": "", "end": ""})
    rows[3] |= {"path": "absent.wav"}
    rows[6] |= {"start": 0.25, "end": 0.9}
    return save_manifest(folder / "corpus.csv", rows)


def read_parts(folder):
    return pa.concat_tables([pq.read_table(path) for path in sorted(folder.glob("part-*"))])


@pytest.mark.parametrize("kind", ["exported", "exported_onnx", "trained"])
def test_ray_makes_what_this_machine_makes(cluster, request, corpus, tmp_path, kind):
    model = request.getfixturevalue(kind)
    here, there = tmp_path / "here", tmp_path / "there"
    settings = {"part_rows": 2, "device": "cpu"}
    predict_batch(model, str(corpus), str(here), engine=ONE, **settings)
    found = predict_batch(model, str(corpus), str(there), engine=RAY, **settings)
    assert (found.rows, found.bad) == (9, 1)
    assert read_parts(there).equals(read_parts(here))
    assert sorted(p.name for p in there.iterdir()) == sorted(p.name for p in here.iterdir())


@pytest.mark.parametrize("kind", ["logmel", "deepspectrum"])
def test_ray_extracts_what_this_machine_extracts(
    cluster, exported, make_recipe, corpus, tmp_path, kind
):
    here, there = tmp_path / "here", tmp_path / "there"
    model = exported if kind == "deepspectrum" else None
    for out, engine in ((here, ONE), (there, RAY)):
        given = {"model": model, "part_rows": 3, "engine": engine}
        found = extract_batch(kind, make_recipe(), str(corpus), str(out), **given)
        assert (found.rows, found.bad) == (9, 1)
    assert read_parts(there).equals(read_parts(here))


def test_ray_goes_on_at_the_missing_part(cluster, exported, corpus, tmp_path):
    out = Path(tmp_path / "out")
    predict_batch(exported, str(corpus), str(out), part_rows=2, engine=ONE)
    whole = read_parts(out)
    inodes = {path.name: path.stat().st_ino for path in out.glob("part-*")}
    (out / "part-00001.parquet").unlink()
    # What one engine began, another goes on with.
    found = predict_batch(exported, str(corpus), out.as_uri(), part_rows=2, engine=RAY)
    assert (found.rows, found.bad, found.parts_before) == (2, 1, 4)
    assert read_parts(out).equals(whole)
    del inodes["part-00001.parquet"]
    assert {name: (out / name).stat().st_ino for name in inodes} == inodes


class Modules:
    """A job that tells which packages its worker has loaded, after it has predicted."""

    def __init__(self, job):
        self.job = job

    def open(self, model):
        self.opened = self.job.open(model)
        self.schema = self.opened.schema
        return self

    def make(self, rows, first, tell):
        self.opened.make(rows, first, tell)
        heavy = [name for name in ("torch", "timm", "sklearn", "matplotlib") if name in sys.modules]
        return Made(pa.table({"loaded": [json.dumps(heavy)]}), 0, 0.0)


class Dying:
    """A job that kills its worker once."""

    schema = pa.schema([("row", pa.int64())])

    def __init__(self, folder):
        self.folder = folder

    def open(self, model):
        return self

    def make(self, rows, first, tell):
        tried = self.folder / "tried"
        if first == 2 and not tried.exists():
            tried.touch()
            os.kill(os.getpid(), 9)
        time.sleep(0.1)
        return Made(pa.table({"row": list(range(first, first + len(rows)))}), 0, 0.0)


def run_job(job, corpus, out, files):
    from deepspectrumlite.batch.places import Folder
    from deepspectrumlite.batch.plan import Asked, make_plan
    from deepspectrumlite.batch.ray_data import run_ray

    folder = Folder(str(out))
    _, parts = make_plan(str(corpus), folder, Asked("predict", "m", "0", {}, []), 2)
    return list(run_ray(job, files, folder, parts, 2, processes=2))


def test_workers_of_ray_need_no_torch(cluster, exported, corpus, tmp_path):
    from deepspectrumlite.batch.plan import model_files
    from deepspectrumlite.batch.predicting import Predicting

    run_job(Modules(Predicting()), corpus, tmp_path / "out", model_files(exported))
    assert set(read_parts(tmp_path / "out")["loaded"].to_pylist()) == {"[]"}


def test_a_worker_of_ray_that_dies_is_started_again(cluster, corpus, tmp_path):
    done = run_job(Dying(tmp_path), corpus, tmp_path / "out", {})
    assert sorted(part.part for part in done) == list(range(5))
    assert (tmp_path / "tried").exists()
    assert read_parts(tmp_path / "out")["row"].to_pylist() == list(range(9))


class Failing(Dying):
    """A job that cannot start."""

    def open(self, model):
        raise DeepSpectrumLiteError("the disk of the worker is full")


def test_what_fails_on_all_workers_is_one_line(cluster, corpus, tmp_path):
    with pytest.raises(DeepSpectrumLiteError, match="the disk of the worker is full") as error:
        run_job(Failing(tmp_path), corpus, tmp_path / "out", {})
    assert "\n" not in str(error.value)


def test_the_command_on_a_cluster(cluster, run, exported, corpus, tmp_path):
    out = tmp_path / "out"
    arguments = ("predict", exported, corpus, "--out", out, "--part-rows", 4, "--engine", "ray")
    code, text, _ = run(*arguments, "--processes", 2)
    assert code == 0
    assert f"{out}: 9 rows, 1 bad; " in text


def told_by(process):
    """Its lines of errors, without those of LiteRT's own, which tells of each delegate."""
    lines = process.stderr_path.read_text().splitlines()
    return [line for line in lines if line and not line.startswith("INFO: Created TensorFlow")]


@pytest.mark.parametrize(
    ("address", "why"),
    [("127.0.0.1:9", "refused"), ("ray://127.0.0.1:10001", "not HOST:PORT"), ("foo", "not HOST")],
)
def test_an_address_without_a_cluster_is_one_line(start, exported, corpus, tmp_path, address, why):
    """In a process of its own, that is in no cluster."""
    arguments = ("predict", exported, corpus, "--out", tmp_path / "out", "--engine", "ray")
    process = start(*arguments, "--address", address)
    assert process.wait(60) == 1
    (told,) = told_by(process)
    assert told.startswith(f"Error: --address {address}: no Ray cluster that can be used (")
    assert why in told


def test_without_an_address_a_ray_of_its_own_is_quiet(start, exported, corpus, tmp_path):
    out = tmp_path / "out"
    arguments = ("predict", exported, corpus, "--out", out, "--engine", "ray", "--processes", 1)
    process = start(*arguments)
    assert process.wait(240) == 0
    # Ray's C++ side warns of the workers' arguments; its setting against that prints a line too.
    told = [line for line in told_by(process) if " core_worker.cc:" not in line]
    assert told == ["1 rows could not be read; the column error says why"]
    assert read_parts(out)["row"].to_pylist() == list(range(9))

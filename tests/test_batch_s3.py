"""Manifest, recordings and results on an object store: an S3 server on this machine."""

import socket
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest
import soundfile
from pyarrow import fs

from deepspectrumlite.batch.places import Folder
from deepspectrumlite.batch.plan import BATCH, PLAN
from deepspectrumlite.batch.rows import read_rows
from deepspectrumlite.batch.run import Engine, extract_batch, predict_batch

pytest.importorskip("moto.server", reason="the S3 server of tests: pip install 'moto[s3,server]'")
pytestmark = pytest.mark.slow
ONE = Engine(processes=1)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def bucket():
    """Starts a server with a bucket named corpus, and points pyarrow at it."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    known = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    known |= {"AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
    try:
        until = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert time.monotonic() < until, "the server does not answer"
                time.sleep(0.1)
        with pytest.MonkeyPatch.context() as patch:
            for name, value in known.items():
                patch.setenv(name, value)
            store, _ = fs.FileSystem.from_uri("s3://corpus?allow_bucket_creation=true")
            store.create_dir("corpus")
            yield store
    finally:
        server.kill()
        server.wait()


@pytest.fixture(scope="module")
def corpus(bucket, tmp_path_factory, tone, save_manifest):
    """The same five recordings in a folder here and in the bucket; one is bad, one a span."""
    folder = tmp_path_factory.mktemp("corpus")
    rows = []
    for i in range(5):
        soundfile.write(folder / f"{i} é.flac", tone(("high", "low", "noise")[i % 3], i), 8000)
        rows.append({"path": f"{i} é.flac", "start": "", "end": ""})
    (folder / "1 é.flac").write_bytes(b"fLaC and nothing more")
    rows[3] |= {"start": 0.25, "end": 0.75}
    save_manifest(folder / "m.csv", rows)
    for path in folder.iterdir():
        with path.open("rb") as file:
            Folder("s3://corpus/data").write(path.name, file)
    return folder


def read_folder(store, key):
    """(names of the parts, rows in order) of a folder of results in the bucket."""
    names = sorted(Folder(f"s3://{key}").names())
    assert names[:2] == [BATCH, PLAN]
    tables = [pq.read_table(f"{key}/{name}", filesystem=store) for name in names[2:]]
    return names[2:], [row for table in tables for row in table.to_pylist()]


def without_place(rows, place):
    """Rows with the folder of the recordings left out of paths and errors."""
    named = ("path", "error")
    return [row | {key: (row[key] or "").replace(place, "") for key in named} for row in rows]


def test_all_on_an_object_store(bucket, corpus, exported, tmp_path):
    predict_batch(exported, str(corpus / "m.csv"), str(tmp_path), part_rows=2, engine=ONE)
    here = pq.read_table(tmp_path).sort_by("row").to_pylist()
    arguments = (exported, "s3://corpus/data/m.csv", "s3://corpus/out/scores")
    found = predict_batch(*arguments, part_rows=2, engine=ONE)
    assert (found.rows, found.bad) == (5, 1)
    names, there = read_folder(bucket, "corpus/out/scores")
    assert names == [f"part-{i:05d}.parquet" for i in range(3)]
    # Also what is said of the bad one names the address, not a copy of it.
    assert there[1]["error"].startswith("s3://corpus/data/1 é.flac: ")
    assert without_place(there, "s3://corpus/data") == without_place(here, str(corpus))
    bucket.delete_file("corpus/out/scores/part-00001.parquet")
    again = predict_batch(*arguments, part_rows=2, engine=ONE)
    assert (again.rows, again.parts_before) == (2, 2)
    assert read_folder(bucket, "corpus/out/scores")[1] == there


def test_a_folder_of_recordings_on_an_object_store(bucket, corpus):
    found = [row.path for row in read_rows("s3://corpus/data")]
    assert found == [f"s3://corpus/data/{i} é.flac" for i in range(5)]


def test_features_of_recordings_on_an_object_store(bucket, corpus, make_recipe, tmp_path):
    given = {"part_rows": 3, "engine": ONE}
    recipe = make_recipe()
    extract_batch("logmel", recipe, str(corpus / "m.csv"), str(tmp_path), **given)
    found = extract_batch("logmel", recipe, "s3://corpus/data/m.csv", "s3://corpus/f", **given)
    assert (found.rows, found.bad) == (5, 1)
    here = [
        row for path in sorted(tmp_path.glob("part-*")) for row in pq.read_table(path).to_pylist()
    ]
    _, there = read_folder(bucket, "corpus/f")
    assert len(there) == 8
    assert without_place(there, "s3://corpus/data") == without_place(here, str(corpus))


def test_a_bucket_that_is_not_there(bucket, exported):
    with pytest.raises(OSError, match="absent"):
        predict_batch(exported, "s3://corpus/data/m.csv", "s3://absent/out", engine=ONE)

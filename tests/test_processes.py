"""Two processes that train one model, as torchrun and accelerate start them."""

import json
import re
import socket
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from deepspectrumlite.errors import ElsewhereError, TrainingError
from deepspectrumlite.processes import Processes
from deepspectrumlite.runs import train_run
from deepspectrumlite.train import Batches

pytestmark = pytest.mark.usefixtures("one_thread")

WAIT = 150
# With these the update of a batch is the same, however it is shared. SqueezeNet has no BatchNorm,
# whose statistics of random weights, if frozen, would let hardly anything through.
EXACT = (
    "model.backbone=squeezenet",
    "augment.mixup_alpha=0",
    "augment.cutmix_probability=0",
    "augment.time_shift=0",
    "augment.speed=0",
    "augment.time_masks=0",
    "augment.frequency_masks=0",
    "model.dropout=0",
    "train.batch_norm=frozen",
    "train.batch_size=8",
    "train.average_decay=0.8",
    "train.optimizer=sgd",
    "train.learning_rate=1e-2",
    "train.epochs=2",
)


def launcher(kind="torchrun"):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    if kind == "torchrun":
        module, options = "torch.distributed.run", ["--nproc-per-node=2"]
    else:
        module, options = "accelerate.commands.launch", ["--cpu", "--num_processes=2"]
        options += ["--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no"]
    return [
        "-m",
        module,
        *options,
        f"--{'master-port' if kind == 'torchrun' else 'main_process_port'}={port}",
    ]


@pytest.fixture
def start_two(start, tiny_toml, small_settings, tones):
    """Start two processes that train; the arguments are settings."""

    def start_two(out, *settings, manifest=tones, kind="torchrun"):
        changes = [f"--set={setting}" for setting in (*small_settings, *settings)]
        return start(
            *("train", tiny_toml, "--data", manifest, "--out", out, *changes),
            launcher=launcher(kind),
        )

    return start_two


def finish(process, code=0):
    """Both outputs of a process that must end, and with this code."""
    assert process.wait(WAIT) == code, process.stderr_path.read_text()
    return process.stdout_path.read_text(), process.stderr_path.read_text()


def history_of(run):
    return [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]


def check_close(run, reference, atol=1e-5):
    found, expected = (load_file(r / "model" / "model.safetensors") for r in (run, reference))
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, atol=atol, rtol=1e-4, msg=key)
    records, others = history_of(run), history_of(reference)
    assert len(records) == len(others)
    for record, other in zip(records, others, strict=True):
        assert record.keys() == other.keys()
        assert record["learning_rate"] == other["learning_rate"]
        for name in set(record) - {"seconds"}:
            if isinstance(record[name], float):
                assert record[name] == pytest.approx(other[name], abs=1e-5, rel=1e-4), name
            else:
                assert record[name] == other[name], name


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("train.accumulate=2", "train.balance=weights"),
        ("model.output=linear", "train.workers=1", "train.loss=ccc"),
    ],
    ids=" ".join,
)
def test_two_processes_do_what_one_does(
    start_two, make_recipe, small_settings, tones, tmp_path, save_manifest, settings
):
    manifest = tones
    if "model.output=linear" in settings:
        rows = []
        for i, line in enumerate(tones.read_text().splitlines()[1:]):
            path, label, split = line.split(",")
            number = {"low": 10, "noise": 20, "high": 30}[label] + i / 7
            rows.append({"path": tones.parent / path, "label": number, "split": split})
        manifest = save_manifest(tmp_path / "numbers.csv", rows)
    two, one = tmp_path / "two", tmp_path / "one"
    process = start_two(two, *EXACT, *settings, manifest=manifest)
    train_run(make_recipe(*small_settings, *EXACT, *settings), manifest, one)
    out, err = finish(process)
    check_close(two, one)
    losses = [record["devel_loss"] for record in history_of(one)]
    assert abs(losses[-1] - losses[0]) > 0.01  # or all of this would say little
    # Once each: what is printed, and each epoch.
    assert out == f"Model: {two / 'model'}   curves: {two / 'curves.png'}\n"
    assert len(re.findall(r"^ *(?:head|fine_tune) +\d", err, re.MULTILINE)) == 3
    assert err.count("epoch       rate") == 1
    assert "Error" not in err
    assert sorted(p.name for p in two.iterdir()) == sorted(p.name for p in one.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [(), ("augment.strength=sapaugment",)], ids=["default", "sapaugment"]
)
def test_two_processes_learn(start_two, learning_settings, tmp_path, settings):
    # With all augmentation of the default recipe, and BatchNorm that adapts in each process.
    own = [s for s in learning_settings if not s.startswith("augment.")]
    run = tmp_path / "run"
    finish(start_two(run, *own, "train.batch_size=10", "train.epochs=24", *settings))
    records = history_of(run)
    assert [record["epoch"] for record in records] == list(range(1, 25))
    # As one process does: chance is 0.33.
    assert max(record["devel_uar"] for record in records) >= 0.8


@pytest.mark.slow
def test_two_processes_go_on_where_two_were_stopped(start, start_two, tmp_path):
    settings = (
        "augment.strength=sapaugment",
        "augment.cutmix_probability=0.5",
        "augment.rank_from=batch",
        "train.epochs=12",
        "train.checkpoint_minutes=1e-6",
    )
    whole, run = tmp_path / "whole", tmp_path / "run"
    finish(start_two(whole, *settings))
    process = start_two(run, *settings)
    wait_for_epochs(run, process, 4)
    # The launcher, which passes it on.
    process.terminate()
    process.wait(WAIT)
    _, err = process.stdout_path.read_text(), process.stderr_path.read_text()
    assert err.count(f"Go on with: deepspectrumlite train --resume {run}") == 1
    assert (run / "checkpoint.pt").is_file()
    assert 4 <= len(history_of(run)) < 13
    finish(start("train", "--resume", run, launcher=launcher()))
    one, other = (load_file(r / "model" / "model.safetensors") for r in (run, whole))
    assert [key for key in one if not torch.equal(one[key], other[key])] == []
    dropped = [{k: v for k, v in r.items() if k != "seconds"} for r in history_of(run)]
    assert dropped == [{k: v for k, v in r.items() if k != "seconds"} for r in history_of(whole)]


def wait_for_epochs(run, process, count):
    deadline = time.monotonic() + WAIT
    while not (run / "history.jsonl").exists() or len(history_of(run)) < count:
        assert time.monotonic() < deadline
        assert process.poll() is None, process.stderr_path.read_text()
        time.sleep(0.01)


def errors_of(err):
    return [line for line in err.splitlines() if line.startswith("Error: ")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "manifest", "message"),
    [
        (("train.batch_size=7",), None, "train.batch_size is 7, for 2 processes .* allowed: mult"),
        ((), "absent.csv", r".*absent\.csv: no such manifest; allowed: "),
    ],
)
def test_what_two_processes_are_refused(start_two, tones, tmp_path, settings, manifest, message):
    manifest = tmp_path / manifest if manifest else tones
    _, err = finish(start_two(tmp_path / "run", *settings, manifest=manifest), code=1)
    (line,) = errors_of(err)
    assert re.match(f"Error: {message}", line)
    # The launcher tells how its processes ended; no exception of ours is among it.
    assert "deepspectrumlite/" not in err.replace(str(tmp_path), "")


@pytest.mark.slow
def test_accelerate_launch_starts_two_processes(start_two, tmp_path):
    run = tmp_path / "run"
    out, _ = finish(start_two(run, *EXACT, kind="accelerate"))
    assert out == f"Model: {run / 'model'}   curves: {run / 'curves.png'}\n"
    assert [record["epoch"] for record in history_of(run)] == [1, 2, 3]


# In one process that pretends.
def test_a_broken_connection_is_said_to_be_one(monkeypatch):
    processes = Processes(torch.device("cpu"))
    closed = RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer")
    with pytest.raises(RuntimeError, match="pair"), processes.noticing_failures():
        raise closed
    monkeypatch.setattr(processes, "count", 2)
    with pytest.raises(ElsewhereError, match="another process"), processes.noticing_failures():
        raise closed
    with pytest.raises(RuntimeError, match="shapes"), processes.noticing_failures():
        raise RuntimeError("shapes differ")


@pytest.fixture
def pretend(monkeypatch):
    """Processes of a given count and rank, without the others."""

    def pretend(count, rank):
        processes = Processes(torch.device("cpu"))
        processes.count, processes.rank = count, rank
        return processes

    return pretend


@pytest.mark.parametrize("balance", ["sampler", "none"])
@pytest.mark.parametrize("count", [2, 3])
def test_processes_share_the_same_batches(pretend, make_recipe, balance, count):
    recipe = make_recipe("train.batch_size=12", f"train.balance={balance}", "train.seed=4")
    target = np.eye(3, dtype=np.float32)[np.arange(100) % 3]

    def batches(count, rank, *where):
        found = Batches(target, recipe, pretend(count, rank))
        found.begin(*where)
        return list(found)

    whole = batches(1, 0, 1, 3, 0)
    assert len(whole) == 100 // 12
    shares = [batches(count, rank, 1, 3, 0) for rank in range(count)]
    for parts, batch in zip(zip(*shares, strict=True), whole, strict=True):
        assert {len(part) for part in parts} == {12 // count}
        assert sorted(i for part in parts for i in part) == sorted(batch)
    # From any batch on, and another order in each epoch and phase.
    assert batches(1, 0, 1, 3, 5) == whole[5:]
    assert batches(1, 0, 1, 4, 0) != whole != batches(1, 0, 0, 3, 0)


def test_a_single_small_batch_is_shared_evenly(pretend, make_recipe):
    recipe = make_recipe("train.batch_size=12", "train.balance=none")
    target = np.eye(3, dtype=np.float32)[np.arange(7) % 3]
    shares = [list(Batches(target, recipe, pretend(2, rank))) for rank in (0, 1)]
    assert [len(share) for share in shares] == [1, 1]
    assert [len(share[0]) for share in shares] == [3, 3]


@pytest.mark.parametrize(
    ("count", "batch_size", "accumulate", "instead"),
    [(2, 7, 1, 6), (4, 32, 3, 24), (8, 8, 1, 16), (3, 100, 2, 96)],
)
def test_a_batch_that_cannot_be_shared(pretend, count, batch_size, accumulate, instead):
    processes = pretend(count, 0)
    with pytest.raises(TrainingError, match=f"--set train.batch_size={instead}$") as caught:
        processes.check_batch_size(batch_size, accumulate)
    assert "\n" not in str(caught.value)
    processes.check_batch_size(instead, accumulate)
    pretend(1, 0).check_batch_size(batch_size, accumulate)


def test_one_process_needs_no_others(monkeypatch):
    for name in ("WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    processes = Processes(torch.device("cpu"))
    assert (processes.count, processes.rank, processes.is_main) == (1, 0, True)
    assert processes.gather("x") == ["x"]
    assert processes.any(True, False) == [True, False]
    assert processes.on_main(lambda: 5) == 5
    rows = torch.rand(3, 2)
    assert torch.equal(processes.gather_rows(rows), rows[None])
    assert not torch.distributed.is_initialized()
    # As accelerate launch and torchrun say it for a single one, even of another rank's number.
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("RANK", "3")
    assert Processes(torch.device("cpu")).is_main

"""Sweeps on Ray: a lost node, a killed driver, early stopping, and bad trials."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from deepspectrumlite.config import RayOptions, SweepBudget
from deepspectrumlite.errors import MissingExtraError, TrainingError
from deepspectrumlite.runs import Options
from deepspectrumlite.sweeps import engine, ray_cluster, ray_tune
from deepspectrumlite.sweeps.budget import Cost
from deepspectrumlite.sweeps.experiment import prepare_sweep
from deepspectrumlite.sweeps.guided import suggest
from deepspectrumlite.sweeps.local import Listener, run_local
from deepspectrumlite.sweeps.plan import load_sweep
from deepspectrumlite.sweeps.ray_tune import run_ray
from deepspectrumlite.sweeps.trials import describe_trial, trial_folder, write_trial

STORE = 80 * 1024**2
CPU = Options(device="cpu")


@pytest.fixture(scope="module", autouse=True)
def _one_thread_each():
    """As workers of one CPU have it, so that sums come out the same."""
    import torch

    before, torch_before = os.environ.get("OMP_NUM_THREADS"), torch.get_num_threads()
    os.environ |= {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(torch_before)
    if before is None:
        del os.environ["OMP_NUM_THREADS"]
    else:
        os.environ["OMP_NUM_THREADS"] = before


@pytest.fixture
def make_cluster():
    """Start a Ray cluster of one head with so many CPUs, by Ray's own utility, and connect."""
    import ray
    from ray.cluster_utils import Cluster

    started = []

    def make(cpus):
        head = {
            "num_cpus": cpus,
            "object_store_memory": STORE,
            "include_dashboard": False,
            # A node that says nothing for so long is lost.
            "_system_config": {
                "health_check_initial_delay_ms": 1000,
                "health_check_period_ms": 1000,
                "health_check_failure_threshold": 10,
            },
        }
        cluster = Cluster(initialize_head=True, head_node_args=head)
        started.append(cluster)
        ray.init(cluster.address, log_to_driver=False, logging_level="critical")
        return cluster

    yield make
    ray.shutdown()
    for cluster in started:
        cluster.shutdown()


@pytest.fixture
def make_sweep(tiny_toml, tones, small_settings, tmp_path):
    """The function ``(text of [sweep], *overrides, name, budget) -> Experiment``."""

    def make(text, *overrides, name="sweep", budget=None):
        path = tmp_path / "sweep.toml"
        text = tiny_toml.read_text() + "\n" + textwrap.dedent(text)
        path.write_text(text, encoding="utf-8")
        plan = load_sweep(path, (*small_settings, *overrides))
        return prepare_sweep(plan, tones, tmp_path / name, CPU, budget)

    return make


FOUR = """
[sweep.lists]
"train.learning_rate" = [1e-4, 1e-3]
"model.dropout" = [0.1, 0.4]
"""


class Notes:
    """A listener that writes down what it hears, and may act on an epoch."""

    def __init__(self, act=lambda number, record: None):
        self.starts, self.epochs, self.rows = [], {}, []
        self.act = act

    def listener(self):
        return Listener(on_start=self.start, on_epoch=self.epoch, on_row=self.row)

    def start(self, number, point):
        self.starts.append(number)

    def epoch(self, number, record):
        self.epochs.setdefault(number, []).append(record["epoch"])
        self.act(number, record)

    def row(self, row, before):
        self.rows.append((row["number"], row["status"], before))


def places(experiment, number):
    """Where a trial was started, one dict each time."""
    text = (experiment.out / "ray" / f"{number:04d}.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def history(experiment, number, without=("seconds",)):
    text = (trial_folder(experiment.out, number) / "history.jsonl").read_text()
    records = [json.loads(line) for line in text.splitlines()]
    return [{key: x for key, x in each.items() if key not in without} for each in records]


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
        return file.read().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.slow
def test_a_killed_node_costs_no_trial(make_cluster, make_sweep):
    cluster = make_cluster(1)
    doomed = cluster.add_node(num_cpus=1, object_store_memory=STORE)
    cluster.wait_for_nodes()
    epochs = ("train.epochs=9", "train.head_epochs=1")
    experiment, killed = make_sweep(FOUR, *epochs), []

    def kill(number, record):
        place = places(experiment, number)[-1]
        if record["epoch"] >= 4 and not killed and place["node"] == doomed.node_id:
            killed.append((number, record["epoch"], place))
            cluster.remove_node(doomed, allow_graceful=False)

    notes = Notes(kill)
    rows = run_ray(experiment, listener=notes.listener())

    assert [row["status"] for row in rows] == ["finished"] * 4
    [(lost, epoch, place)] = killed
    # It goes on where it was, on the other node; of the others none starts twice.
    assert sorted(notes.starts) == sorted([0, 1, 2, 3, lost])
    assert [len(places(experiment, number)) for number in range(4)] == [
        2 if number == lost else 1 for number in range(4)
    ]
    assert places(experiment, lost)[1]["node"] == cluster.head_node.node_id
    assert not is_running(place["pid"])
    after = notes.epochs[lost][notes.epochs[lost].index(epoch) + 1 :]
    assert after[0] in (epoch + 1, epoch + 2)  # one may have ended between report and kill
    assert after == list(range(after[0], 11))
    # As if nothing had happened, and as on one machine.
    local = make_sweep(FOUR, *epochs, name="local")
    assert [row["devel"] for row in run_local(local)] == [row["devel"] for row in rows]
    for number in range(4):
        assert history(experiment, number) == history(local, number)
        assert [record["epoch"] for record in history(local, number)] == list(range(1, 11))


DRIVER = """
import json, sys
from pathlib import Path
from deepspectrumlite.runs import Options
from deepspectrumlite.sweeps.experiment import read_experiment
from deepspectrumlite.sweeps.local import Listener
from deepspectrumlite.config import RayOptions
from deepspectrumlite.sweeps.ray_tune import run_ray

experiment = read_experiment(Path(sys.argv[1]), Options(device="cpu"))
tell = lambda number, record: print(number, record["epoch"], flush=True)
run_ray(experiment, RayOptions(address=sys.argv[2]), Listener(on_epoch=tell))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "told"),
    [(signal.SIGKILL, ""), (signal.SIGINT, "Go on with the same command\n")],
    ids=["killed", "Ctrl-C"],
)
def test_a_stopped_driver_goes_on(make_cluster, make_sweep, tmp_path, how, told):
    cluster = make_cluster(1)
    experiment = make_sweep('[sweep.lists]\n"model.dropout" = [0.1, 0.4]', "train.epochs=7")
    command = [sys.executable, "-c", DRIVER, str(experiment.out), cluster.address]
    with (tmp_path / "errors.txt").open("wb") as errors:
        driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            for line in driver.stdout:
                if line == "1 3\n":  # the third epoch of the second trial
                    driver.send_signal(how)
                    break
            driver.wait(60)
        finally:
            driver.kill()
            driver.wait()
    assert (tmp_path / "errors.txt").read_text()[-len(told) or None :] == told  # Ray keeps quiet
    done = trial_folder(experiment.out, 0) / "trial.json"
    before = done.stat().st_mtime_ns

    notes = Notes()
    rows = run_ray(experiment, listener=notes.listener())

    assert [row["status"] for row in rows] == ["finished"] * 2
    assert notes.rows == [(0, "finished", True), (1, "finished", False)]
    assert notes.starts == [1]
    assert done.stat().st_mtime_ns == before
    assert notes.epochs[1] == list(range(notes.epochs[1][0], 9))
    assert notes.epochs[1][0] > 3
    for number in range(2):
        assert [record["epoch"] for record in history(experiment, number)] == [*range(1, 9)]
    assert not (experiment.out / "ray" / "tune").exists()


@pytest.mark.slow
def test_a_bad_trial_is_stopped_early(make_cluster, make_sweep, learning_settings):
    make_cluster(1)
    text = '[sweep.lists]\n"train.learning_rate" = [3e-3, 1e-7]'
    experiment = make_sweep(text, *learning_settings)
    notes = Notes()
    options = RayOptions(stop_early=True, grace_epochs=4)
    rows = run_ray(experiment, options, notes.listener())
    assert [row["status"] for row in rows] == ["finished", "stopped early"]
    assert [row["epochs"] for row in rows] == [8, 4]
    assert rows[1]["devel"] < rows[0]["devel"]
    assert rows[1]["reason"] == "after epoch 4, where others were better"
    assert notes.epochs == {0: [*range(1, 9)], 1: [*range(1, 5)]}
    # It is done, too.
    assert run_ray(experiment, options) == rows


def test_what_was_tried_before_counts_for_stopping(make_sweep):
    from deepspectrumlite.sweeps.ray_search import Halving, report_of

    experiment = make_sweep(FOUR)
    first = trial_folder(experiment.out, 0)
    first.mkdir(parents=True)
    records = [{"epoch": i + 1, "devel_uar": x} for i, x in enumerate((0.5, 0.6, 0.7, 0.8))]
    (first / "history.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n")
    row = describe_trial(first, 0, {}) | {"metric": "uar", "devel": 0.8}
    write_trial(first, row)

    def judge(scheduler, values):
        trial = SimpleNamespace(trial_id="new")
        scheduler.on_trial_add(None, trial)
        reports = [report_of({"epoch": i + 1, "devel_uar": x}, "uar") for i, x in enumerate(values)]
        return [scheduler.on_trial_result(None, trial, report) for report in reports]

    assert judge(Halving(experiment, 2), (0.1, 0.5, 0.9)) == ["CONTINUE", "STOP", "CONTINUE"]
    assert judge(Halving(experiment, 2), (0.1, 0.7, 0.1)) == ["CONTINUE"] * 3
    # Not defined: nothing to compare.
    assert judge(Halving(experiment, 2), (0.1, None)) == ["CONTINUE"] * 2


@pytest.mark.slow
def test_each_failure_costs_its_own_row(make_cluster, make_sweep, monkeypatch):
    from deepspectrumlite.sweeps import ray_search

    make_cluster(2)
    text = '[sweep.lists]\n"train.learning_rate" = [1e-3, 1e25]\n"model.units" = [8, 16]'
    experiment = make_sweep(text, budget=SweepBudget(max_latency_ms=5.0))
    cost = lambda experiment, recipe, progress=None: Cost(  # noqa: E731
        9.0 if recipe.model.units == 16 and recipe.train.learning_rate > 1 else 3.0, 1.5
    )
    monkeypatch.setattr(ray_tune, "measure_all", lambda experiment, progress: None)
    monkeypatch.setattr(ray_search, "cost_of", cost)
    monkeypatch.setattr(engine, "cost_of", cost)
    # A trial that no worker can write, as on a full disk: not its settings' fault.
    blocked = trial_folder(experiment.out, 1)
    blocked.parent.mkdir(parents=True)
    blocked.symlink_to(blocked.parent / "nowhere")
    notes = Notes()
    with pytest.raises(TrainingError, match=r"1 of 4 trials .*\(trial 1: .*File exists") as failed:
        run_ray(experiment, RayOptions(retries=1), notes.listener())
    assert "\n" not in str(failed.value)
    assert sorted(notes.starts) == [0, 1, 1, 2]
    blocked.unlink()
    rows = run_ray(experiment, RayOptions(retries=1))
    assert [row["status"] for row in rows] == ["finished", "finished", "failed", "over budget"]
    assert "not finite" in rows[2]["reason"]
    assert rows[3]["reason"] == "latency is 9.00 ms, over 5 ms"
    assert [row["latency_ms"] for row in rows] == [3.0, 3.0, 3.0, 9.0]
    assert not trial_folder(experiment.out, 3).joinpath("run.json").exists()


@pytest.mark.slow
def test_a_guided_search_asks_for_the_same_points_as_on_one_machine(make_cluster, make_sweep):
    make_cluster(1)
    experiment = make_sweep("""
        [sweep]
        search = "guided"
        trials = 3
        [sweep.ranges]
        "train.learning_rate" = { low = 1e-4, high = 1e-2, log = true }
        """)
    rows = run_ray(experiment)
    assert [row["status"] for row in rows] == ["finished"] * 3
    found = []
    for number in range(3):
        found.append(suggest(experiment.plan, found, {row["number"]: row for row in rows[:number]}))
    assert [row["settings"] for row in rows] == found


@pytest.mark.slow
def test_clusters_that_cannot_train_are_refused(make_cluster, make_sweep, monkeypatch):
    import ray

    make_cluster(1)
    experiment = make_sweep(FOUR)
    with pytest.raises(TrainingError, match=r"room for a trial of 2 CPUs and 0 GPUs"):
        run_ray(experiment, RayOptions(cpus_per_trial=2))
    with pytest.raises(TrainingError, match=r"room for a trial of 1 CPUs and 0\.5 GPUs"):
        run_ray(experiment, RayOptions(gpus_per_trial=0.5))

    def answer(version, seen, heard):
        monkeypatch.setattr(ray_cluster, "_ask", lambda *given: ray.put((version, seen, heard)))

    version = ray_cluster.__version__
    for given, problem in (
        (("0.0", True, True), r"has deepspectrumlite 0\.0, and this is"),
        ((version, False, True), r"does not see .*sweep; allowed: an --out that all nodes share"),
        ((version, True, False), r"does not see the recording .*high-train-0\.wav; allowed:"),
    ):
        answer(*given)
        with pytest.raises(TrainingError, match=problem):
            run_ray(experiment)
    assert list((experiment.out / "ray").iterdir()) == []  # nothing trained, nothing left


@pytest.mark.parametrize(
    ("address", "why"),
    [("127.0.0.1:1", "refused"), ("ray://127.0.0.1:10001", "not HOST:PORT"), ("x", "not HOST")],
)
def test_no_cluster_at_an_address(make_sweep, address, why):
    pattern = rf"^--address {address}: no Ray cluster that can be used \(.*{why}.*\); allowed: "
    with pytest.raises(TrainingError, match=pattern) as failed:
        run_ray(make_sweep(FOUR), RayOptions(address=address))
    assert "\n" not in str(failed.value)


@pytest.mark.parametrize(("error", "warned"), [(None, 0), (OSError(38, "no locks"), 1)])
def test_a_file_system_without_locks_is_told_once(make_sweep, monkeypatch, error, warned):
    import fcntl

    def flock(file, how):
        if error:
            raise error

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(ray_tune, "connected", lambda address: nullcontext())
    tuned, told = [], []
    # What a cluster would do; it makes the folder too.
    monkeypatch.setattr(
        ray_tune, "check_nodes", lambda experiment, options: (experiment.out / "ray").mkdir()
    )
    monkeypatch.setattr(ray_tune, "_tune", lambda *given: tuned.append(given))
    experiment = make_sweep(FOUR)
    run_ray(experiment, listener=Listener(on_warning=told.append))
    assert len(tuned) == 1
    assert len(told) == warned
    assert all("its file system has no locks" in line for line in told)
    assert list((experiment.out / "ray").iterdir()) == []


def test_without_ray(make_sweep, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray.tune", None)
    with pytest.raises(MissingExtraError, match=r"deepspectrumlite\[ray\]"):
        run_ray(make_sweep(FOUR))

"""Sweeps on this machine: what is stopped goes on, what fails costs its own row only."""

import csv
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pandas as pd
import pytest
from sweep_helpers import FAILING, GRID, OPTIONS, Notes, history_of, write_sweep

from deepspectrumlite.errors import AudioError, Interrupted, MissingExtraError, TrainingError
from deepspectrumlite.runs import Options
from deepspectrumlite.sweeps import trials as trials_module
from deepspectrumlite.sweeps.engine import Agenda, forget_failed
from deepspectrumlite.sweeps.experiment import prepare_sweep, read_experiment
from deepspectrumlite.sweeps.local import Listener, run_local
from deepspectrumlite.sweeps.plan import load_sweep, points
from deepspectrumlite.sweeps.results import results_table, warnings
from deepspectrumlite.sweeps.trials import (
    best_of,
    read_trial,
    read_trials,
    trial_folder,
)

pytestmark = pytest.mark.usefixtures("one_thread")
WAIT = 180


@pytest.fixture
def sweep(tmp_path, tones, make_recipe, small_settings):
    """The function ``(table, *overrides) -> Experiment``, ready in ``tmp_path / "out"``."""

    def sweep(table=GRID, *overrides, manifest=tones, options=OPTIONS):
        recipe = make_recipe(*small_settings, "train.epochs=2", *overrides)
        plan = load_sweep(write_sweep(tmp_path / "sweep.toml", recipe, table))
        return prepare_sweep(plan, manifest, tmp_path / "out", options)

    return sweep


def test_every_point_is_trained_once(sweep):
    experiment, notes = sweep(), Notes()
    rows = run_local(experiment, listener=notes)
    assert notes.started == [0, 1, 2, 3]
    assert notes.epochs == [(trial, epoch) for trial in range(4) for epoch in (1, 2, 3)]
    assert [row["settings"] for row in rows] == points(experiment.plan)
    for row in rows:
        folder = trial_folder(experiment.out, row["number"])
        assert json.loads((folder / "trial.json").read_text()) == row
        best = [record for record in history_of(folder) if record["best"]][-1]
        assert (row["status"], row["metric"], row["reason"]) == ("finished", "uar", None)
        assert (row["devel"], row["epoch"]) == (best["devel_uar"], best["epoch"])
        assert row["epochs"] == 3
        assert row["devel_files"] == (pd.read_csv(experiment.manifest)["split"] == "devel").sum()
        weights = folder / "model" / "model.safetensors"
        assert row["model_mb"] == weights.stat().st_size / 1e6
        recipe = json.loads((folder / "run.json").read_text())["recipe"]
        assert recipe["train"]["learning_rate"] == row["settings"]["train.learning_rate"]
        assert recipe["frontend"]["image_width"] == row["settings"]["frontend.image_height"]
        # Neither the model nor anything else of a trial has met the test split.
        assert not (folder / "test").exists()
    before = Path(experiment.out / "trials").stat().st_mtime_ns
    again = Notes()
    assert run_local(sweep(), listener=again) == rows
    assert again.started == again.epochs == []
    assert again.rows == [(number, True) for number in range(4)]
    assert Path(experiment.out / "trials").stat().st_mtime_ns == before


def test_a_trial_that_fails_costs_its_own_row(sweep):
    experiment = sweep(FAILING)
    rows = run_local(experiment)
    assert [row["status"] for row in rows] == ["finished", "failed", "finished"]
    assert "the loss is not finite in epoch" in rows[1]["reason"]
    assert rows[1]["devel"] is None or rows[1]["epochs"] < 3
    assert best_of(rows)["number"] in (0, 2)
    # It is not tried again, unless that is asked for.
    notes = Notes()
    run_local(experiment, listener=notes)
    assert notes.started == []
    assert forget_failed(experiment) == 1
    run_local(experiment, listener=notes)
    assert notes.started == [1]


@pytest.mark.parametrize("error", [RuntimeError("CUDA out of memory"), MemoryError("no more")])
def test_running_out_of_memory_costs_a_row(sweep, monkeypatch, error):
    def train_run(recipe, *arguments, **more):
        raise error

    monkeypatch.setattr(trials_module, "train_run", train_run)
    rows = run_local(sweep())
    assert [row["status"] for row in rows] == ["failed"] * 4
    assert rows[0]["reason"] == f"{type(error).__name__}: {error}"
    assert rows[0]["epochs"] == 0


def test_what_is_missing_for_all_trials_stops_the_sweep(sweep, monkeypatch):
    def train_run(recipe, *arguments, **more):
        raise MissingExtraError("timm", "training", "train")

    monkeypatch.setattr(trials_module, "train_run", train_run)
    experiment = sweep()
    with pytest.raises(MissingExtraError):
        run_local(experiment)
    assert read_trials(experiment.out) == []


def test_splits_are_drawn_once_for_all_trials(sweep, tones, tmp_path, save_manifest):
    with tones.open(encoding="utf-8") as file:
        rows = [row | {"path": str(tones.parent / row["path"])} for row in csv.DictReader(file)]
    bare = save_manifest(
        tmp_path / "bare.csv", [{k: row[k] for k in ("path", "label")} for row in rows]
    )
    experiment = sweep('[sweep.lists]\n"train.seed" = [1, 2]', manifest=bare)
    run_local(experiment)
    splits = [
        pd.read_csv(path)[["label", "split"]]
        for path in (
            experiment.manifest,
            *(trial_folder(experiment.out, i) / "manifest.csv" for i in range(2)),
        )
    ]
    assert set(splits[0]["split"]) == {"train", "devel", "test"}
    assert splits[0].equals(splits[1])
    assert splits[0].equals(splits[2])


def test_a_bad_recording_stops_it_before_anything_trains(sweep, tones, tmp_path, save_manifest):
    with tones.open(encoding="utf-8") as file:
        rows = [row | {"path": str(tones.parent / row["path"])} for row in csv.DictReader(file)]
    (tmp_path / "bad.wav").write_bytes(b"no audio")
    rows.append({"path": "bad.wav", "label": "low", "split": "train"})
    manifest = save_manifest(tmp_path / "bad.csv", rows)
    with pytest.raises(AudioError, match=r"bad\.wav"):
        sweep(manifest=manifest)
    assert not (tmp_path / "out").exists()
    experiment = sweep(manifest=manifest, options=Options(device="cpu", skip_bad=True))
    assert len(pd.read_csv(experiment.manifest)) == 30
    assert len(pd.read_csv(experiment.out / "skipped.csv")) == 1


def test_a_sweep_that_has_tried_nothing_may_change(sweep):
    before = sweep().plan
    after = sweep('[sweep.lists]\n"train.seed" = [1, 2, 3]')
    assert after.plan != before
    assert read_experiment(after.out, Options()).plan.count == 3


def test_another_sweep_is_not_mixed_in(sweep, tmp_path, tones, save_manifest):
    experiment = sweep()
    (experiment.out / "trials").mkdir()
    for changed in ('[sweep.lists]\n"train.seed" = [1, 2]', GRID + "[sweep]\nseed = 3"):
        with pytest.raises(TrainingError, match=r"holds another sweep \(it differs in: \[sweep\]"):
            sweep(changed)
    with pytest.raises(TrainingError, match="it differs in: recipe"):
        sweep(GRID, "train.epochs=3")
    with tones.open(encoding="utf-8") as file:
        rows = [row | {"path": str(tones.parent / row["path"])} for row in csv.DictReader(file)]
    fewer = save_manifest(tmp_path / "fewer.csv", rows[1:])
    with pytest.raises(TrainingError, match="it differs in: manifest"):
        sweep(manifest=fewer)
    assert sweep() == experiment
    assert read_experiment(experiment.out, OPTIONS).plan.dimensions == experiment.plan.dimensions
    with pytest.raises(TrainingError, match="no sweep in it"):
        read_experiment(tmp_path, OPTIONS)
    (experiment.out / "sweep.json").unlink()
    (experiment.out / "precious.txt").touch()
    with pytest.raises(TrainingError, match="not empty, and no sweep"):
        sweep()


def test_several_processes_that_train_one_model_are_refused(sweep, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TrainingError, match="start it without, with --processes"):
        sweep()


def test_a_random_search_takes_more_trials_later(sweep):
    table = (
        "[sweep]\nsearch = 'random'\ntrials = {}\n[sweep.ranges]\n"
        "'train.weight_decay' = {{low = 0.1, high = 0.2}}"
    )
    first = run_local(sweep(table.format(2)))
    notes = Notes()
    rows = run_local(sweep(table.format(3)), listener=notes)
    assert notes.started == [2]
    assert rows[:2] == first


def test_a_guided_search_keeps_its_points(sweep, monkeypatch):
    table = (
        "[sweep]\nsearch = 'guided'\ntrials = 3\n[sweep.ranges]\n"
        "'train.weight_decay' = {low = 0.1, high = 0.2}"
    )
    experiment, killed = sweep(table), Notes()

    def stop(number, record):
        if (number, record["epoch"]) == (1, 2):
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="Go on with the same command"):
        run_local(experiment, listener=Listener(on_epoch=stop))
    asked = json.loads((experiment.out / "points.json").read_text())
    assert len(asked) == 2
    rows = run_local(sweep(table), listener=killed)
    assert killed.started == [1, 2]
    assert killed.epochs == [(1, 3), (2, 1), (2, 2), (2, 3)]
    assert [row["settings"] for row in rows][:2] == asked
    assert json.loads((experiment.out / "points.json").read_text()) == [
        row["settings"] for row in rows
    ]


def wait_for(condition, process, seconds=WAIT):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stderr_path.read_text()
        assert time.monotonic() < end, "nothing happens"
        time.sleep(0.02)


def epochs_of(out, number):
    history = trial_folder(out, number) / "history.jsonl"
    return len(history.read_text().splitlines()) if history.is_file() else 0


def children_of(process):
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(pid) for pid in path.read_text().split()] if path.is_file() else []


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_sweep_goes_on_and_trains_nothing_twice(
    tmp_path, tones, make_recipe, small_settings, start, processes
):
    recipe = make_recipe(*small_settings, "train.epochs=25", "train.head_epochs=0")
    table = '[sweep.lists]\n"train.learning_rate" = [1e-3, 2e-3, 3e-3]'
    path, out = write_sweep(tmp_path / "sweep.toml", recipe, table), tmp_path / "out"
    arguments = ["sweep", path, "--data", tones, "--out", out, "--device", "cpu"]
    process = start(*arguments, "--processes", processes)
    # The last trial is under way, and at least one is done.
    wait_for(lambda: epochs_of(out, 2) >= 2 and read_trials(out), process)
    workers = children_of(process)
    assert len(workers) >= (processes > 1)
    process.kill()
    process.wait()
    end = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < end, "trials go on without their sweep"
        time.sleep(0.05)
    done = {row["number"]: row for row in read_trials(out)}
    assert 0 < len(done) < 3
    noted = epochs_of(out, 2)
    times = {n: (trial_folder(out, n) / "trial.json").stat().st_mtime_ns for n in done}

    notes = Notes()
    experiment = prepare_sweep(load_sweep(path), tones, out, OPTIONS)
    rows = run_local(experiment, processes, notes)
    assert [row["status"] for row in rows] == ["finished"] * 3
    assert set(notes.started) == {0, 1, 2} - set(done)
    assert all(rows[n] == row for n, row in done.items())
    assert all(
        (trial_folder(out, n) / "trial.json").stat().st_mtime_ns == t for n, t in times.items()
    )
    # From the checkpoint: at most the epoch that was being written is done again.
    again = [epoch for number, epoch in notes.epochs if number == 2]
    assert again == list(range(again[0], 26))
    assert again[0] in (noted, noted + 1)
    assert [record["epoch"] for record in history_of(trial_folder(out, 2))] == [*range(1, 26)]


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_ctrl_c_saves_and_says_how_to_go_on(
    tmp_path, tones, make_recipe, small_settings, start, processes
):
    recipe = make_recipe(*small_settings, "train.epochs=400", "train.head_epochs=0")
    path, out = write_sweep(tmp_path / "sweep.toml", recipe), tmp_path / "out"
    arguments = ["sweep", path, "--data", tones, "--out", out, "--device", "cpu"]
    process = start(*arguments, "--processes", processes)
    wait_for(lambda: epochs_of(out, processes - 1) >= 2, process)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 130
    told = process.stderr_path.read_text()
    assert "Go on with the same command" in told
    assert "Traceback" not in told
    assert read_trials(out) == []
    for number in range(processes):
        assert (trial_folder(out, number) / "checkpoint.pt").is_file()


@pytest.mark.slow
def test_a_process_that_dies_costs_its_own_row(sweep):
    experiment = sweep(GRID, "train.epochs=6")
    killed = []

    def kill_first(number, record):
        if not killed:
            killed.append(number)
            # Of the processes that train, the one that told of this epoch has the oldest trial.
            oldest = min(multiprocessing.active_children(), key=lambda child: child.pid)
            os.kill(oldest.pid, signal.SIGKILL)

    rows = run_local(experiment, 2, Listener(on_epoch=kill_first))
    failed = [row for row in rows if row["status"] == "failed"]
    assert len(failed) == 1
    assert "killed by signal 9" in failed[0]["reason"]
    assert "memory" in failed[0]["reason"]
    assert [row["number"] for row in rows] == [0, 1, 2, 3]
    assert [row["status"] for row in rows].count("finished") == 3


@pytest.mark.slow
def test_processes_give_what_one_gives(tmp_path, tones, make_recipe, small_settings):
    recipe = make_recipe(*small_settings, "train.epochs=2")
    table = '[sweep.lists]\n"train.learning_rate" = [1e-3, 3e-3]'
    plan = load_sweep(write_sweep(tmp_path / "sweep.toml", recipe, table))
    found = []
    for processes in (1, 2):
        out = tmp_path / f"out-{processes}"
        run_local(prepare_sweep(plan, tones, out, OPTIONS), processes)
        found.append([history_of(trial_folder(out, number)) for number in range(2)])
    # Sums are split between other numbers of threads.
    for one, other in zip(*found, strict=True):
        for a, b in zip(one, other, strict=True):
            assert a["epoch"] == b["epoch"]
            assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-3)


@pytest.mark.parametrize("text", ["{", "[]", "3", '{"number": 0}', '"number"'])
def test_a_broken_row_is_named(sweep, text):
    experiment = sweep()
    folder = trial_folder(experiment.out, 0)
    folder.mkdir(parents=True)
    (folder / "trial.json").write_text(text, encoding="utf-8")
    for call in (lambda: read_trial(folder), lambda: read_trials(experiment.out)):
        with pytest.raises(TrainingError, match=r"trial.json: broken \(.*\); remove ") as refused:
            call()
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["{x", "{}", "[3]"])
def test_broken_points_are_named(sweep, text):
    experiment = sweep(
        "[sweep]\nsearch = 'guided'\ntrials = 3\n[sweep.ranges]\n"
        "'train.weight_decay' = {low = 0.1, high = 0.2}"
    )
    (experiment.out / "points.json").write_text(text, encoding="utf-8")
    with pytest.raises(TrainingError, match=r"points\.json: broken, no list of points; remove "):
        Agenda(experiment)


def test_devel_counts_what_has_a_segment(sweep, tones, tmp_path, save_manifest):
    with tones.open(encoding="utf-8") as file:
        rows = [row | {"path": str(tones.parent / row["path"])} for row in csv.DictReader(file)]
    # Half of devel lasts 0.3 s only.
    devel = [row for row in rows if row["split"] == "devel"]
    for row in devel[::2]:
        row |= {"start": 0.0, "end": 0.3}
    cut = [{"start": 0.0, "end": "", **row} for row in rows]
    manifest = save_manifest(tmp_path / "cut.csv", cut)
    table = '[sweep.lists]\n"data.segment_seconds, data.hop_seconds" = [0.25, 0.5]'
    experiment = sweep(table, 'data.tail="drop"', manifest=manifest)
    found = [row["devel_files"] for row in run_local(experiment)]
    assert found == [len(devel), len(devel) - len(devel[::2])]
    rows = read_trials(experiment.out)
    (told,) = warnings(rows, experiment)
    assert f"{found[1]} to {found[0]} recordings" in told
    assert warnings(rows[:1], experiment) == []
    assert results_table(rows)["devel_files"].tolist() == found

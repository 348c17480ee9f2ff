"""A run that is stopped at any moment and goes on ends as if it had never stopped."""

import errno
import json
import os
import random
import re
import resource
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from deepspectrumlite import checkpoint as checkpoint_module
from deepspectrumlite import runs as runs_module
from deepspectrumlite.errors import AudioError, Interrupted, TrainingError
from deepspectrumlite.runs import resume_run, train_run

pytestmark = pytest.mark.usefixtures("one_thread")

OFTEN = "train.checkpoint_minutes=1e-6"
# Everything that is random or has a memory.
FULL = (
    OFTEN,
    "augment.strength=sapaugment",
    "augment.cutmix_probability=0.7",
    "augment.noise_share=0.5",
    "model.dropout=0.3",
    "train.average_decay=0.9",
    "train.schedule=onecycle",
    "train.patience=50",
    "train.learning_rate=3e-3",
)
EPOCHS, BATCHES = (2, 24), 5
TOTAL = sum(EPOCHS) * BATCHES
KILLS = 10
SHORT = (*FULL, "train.batch_size=10", "train.head_epochs=1", "train.epochs=2")
WAIT = 120


class Killed(BaseException):
    """Stands for a kill: nothing of the package catches it."""


def weights_of(run):
    return load_file(run / "model" / "model.safetensors")


def history_of(run):
    lines = (run / "history.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    return [{k: v for k, v in record.items() if k != "seconds"} for record in records]


def check_same(run, reference):
    """The same weights, bit by bit, and the same history but for the seconds."""
    assert history_of(run) == history_of(reference)
    found, expected = weights_of(run), weights_of(reference)
    assert found.keys() == expected.keys()
    assert [key for key in found if not torch.equal(found[key], expected[key])] == []
    one, other = (folder / "model" / "model.safetensors" for folder in (run, reference))
    assert one.read_bytes() == other.read_bytes()
    assert sorted(path.name for path in run.iterdir()) == sorted(
        path.name for path in reference.iterdir()
    )


def position(run):
    """Batches that the checkpoint holds; 0 without one."""
    if not (run / "checkpoint.pt").is_file():
        return 0
    state = torch.load(run / "checkpoint.pt", weights_only=True)["state"]
    return (len(state["history"])) * BATCHES + state["step"]


def one_line(process):
    """The only thing that a process wrote to its error stream besides epochs."""
    text = process.stderr_path.read_text()
    assert "Traceback" not in text
    epoch = re.compile(r" *(epoch +rate|head|fine_tune) .*|")
    lines = [line for line in text.splitlines() if not epoch.fullmatch(line)]
    assert len(lines) == 1, text
    return lines[0]


# In one process: a kill after each batch.


def stop_after(count):
    """A progress that ends training when it is told of one more batch than this."""
    told = []

    def progress(what, done, total):
        if what.startswith(("head", "fine_tune")):
            told.append((what, done))
            if len(told) > count:
                raise Killed

    return progress


def go_on_killed(work, limit=100):
    """Call again and again, each time with leave to do one batch; how often it was killed."""
    for kills in range(limit):
        try:
            work(kills, progress=stop_after(1))
        except Killed:
            continue
        return kills
    raise AssertionError("never finished")


@pytest.fixture
def train_twice(make_recipe, small_settings, tones, tmp_path, monkeypatch):
    """Train uninterrupted, and killed at each batch: (run, run, number of kills)."""
    monkeypatch.setattr(runs_module, "plot_history", lambda *_, **__: None)

    def train_twice(*settings, manifest=tones):
        recipe = make_recipe(*small_settings, *SHORT, *settings)
        whole, parts = tmp_path / "whole", tmp_path / "parts"
        # Which saves nothing within an epoch: nor does saving change anything.
        seldom = make_recipe(*small_settings, *SHORT, *settings, "train.checkpoint_minutes=10")
        train_run(seldom, manifest, whole)

        def work(kills, **options):
            if kills == 0:
                train_run(recipe, manifest, parts, **options)
            else:
                resume_run(parts, **options)

        return whole, parts, go_on_killed(work)

    return train_twice


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("augment.rank_from=batch",),
        ("augment.strength=random", "train.average_decay=0"),
        ("train.accumulate=2", "train.balance=weights"),
        ("train.balance=none", "train.schedule=cosine", "train.batch_norm=frozen"),
        ("train.optimizer=sgd", "train.schedule=constant", "train.learning_rate=1e-2"),
        ("train.optimizer=adam", "train.fine_tune_share=0.5"),
        ("train.precision=bfloat16", "train.keep=last"),
        ("train.precision=float16", "train.monitor=loss"),
        ("train.loss=focal", "train.optimizer=rmsprop"),
    ],
    ids=" ".join,
)
def test_killed_after_each_batch(train_twice, settings):
    whole, parts, kills = train_twice(*settings)
    # Three batches in each of three epochs. The last one of an epoch is not saved by itself.
    assert kills >= 8
    check_same(parts, whole)


def numbered(tones, save_manifest, tmp_path, change):
    """A manifest of the tones with other targets, by label and number."""
    rows = []
    for i, line in enumerate(tones.read_text().splitlines()[1:]):
        path, label, split = line.split(",")
        rows.append({"path": str(tones.parent / path), "split": split, **change(label, i)})
    return save_manifest(tmp_path / "other.csv", rows)


def test_killed_with_numbers_to_learn(train_twice, tones, save_manifest, tmp_path):
    def change(label, i):
        return {"label": {"low": 100, "noise": 200, "high": 300}[label] + i / 10}

    manifest = numbered(tones, save_manifest, tmp_path, change)
    settings = ("model.output=linear", "train.monitor=mae")
    whole, parts, kills = train_twice(*settings, manifest=manifest)
    assert kills >= 8
    check_same(parts, whole)
    assert weights_of(parts)["scale"].item() > 10
    assert "devel_mae" in history_of(parts)[0]


def test_killed_with_several_labels_at_once(train_twice, tones, save_manifest, tmp_path):
    def change(label, i):
        return {"label": label if i % 2 else f"{label};odd"}

    manifest = numbered(tones, save_manifest, tmp_path, change)
    whole, parts, kills = train_twice("model.output=sigmoid", manifest=manifest)
    assert kills >= 8
    check_same(parts, whole)
    thresholds = weights_of(parts)["thresholds"]
    assert thresholds.shape == (4,)
    assert (thresholds != 0.5).any()  # or nothing has set them


def test_killed_with_patience_that_stops_early(train_twice, monkeypatch):
    # With a rate this small the loss stays where it is: each phase ends by patience.
    from deepspectrumlite import train as train_module

    real = train_module.devel_scores

    def scores(*given):
        return real(*given) | {"devel_uar": 0.5}

    monkeypatch.setattr(train_module, "devel_scores", scores)
    whole, parts, kills = train_twice("train.patience=2", "train.head_epochs=9", "train.epochs=9")
    # The first epoch is better than nothing, two more are not; in fine-tuning none is.
    assert [r["phase"] for r in history_of(whole)] == ["head"] * 3 + ["fine_tune"] * 2
    assert kills >= 9
    check_same(parts, whole)


def test_killed_as_each_epoch_ends(make_recipe, small_settings, tones, tmp_path):
    """After the checkpoint was written, and before the epoch was noted or told."""
    recipe = make_recipe(*small_settings, *SHORT, "train.checkpoint_minutes=10")
    whole, parts, told = tmp_path / "whole", tmp_path / "parts", []
    train_run(recipe, tones, whole)

    def stop(record):
        told.append(record["epoch"])
        raise Killed

    with pytest.raises(Killed):
        train_run(recipe, tones, parts, on_epoch=stop)
    (parts / "history.jsonl").write_text("")
    for _ in range(2):
        with pytest.raises(Killed):
            resume_run(parts, on_epoch=stop)
    resume_run(parts, on_epoch=stop)  # the last epoch was done
    assert told == [1, 2, 3]
    check_same(parts, whole)


@pytest.mark.parametrize("moment", ["plot_history", "Classifier.save", "Path.unlink"])
def test_killed_while_the_results_are_written(
    make_recipe, small_settings, tones, tmp_path, monkeypatch, moment
):
    recipe = make_recipe(*small_settings, *SHORT, "train.head_epochs=0", "train.epochs=1")
    whole, run = tmp_path / "whole", tmp_path / "run"
    train_run(recipe, tones, whole)
    owner, _, name = moment.rpartition(".")
    place = getattr(runs_module, owner) if owner else runs_module

    def kill(*given, **options):
        if name == "unlink" and given[0].name != "checkpoint.pt":
            return real(*given, **options)
        raise Killed

    real = getattr(place, name)
    with monkeypatch.context() as patched:
        patched.setattr(place, name, kill)
        with pytest.raises(Killed):
            train_run(recipe, tones, run)
    assert (run / "checkpoint.pt").exists()
    assert resume_run(run) is not None
    check_same(run, whole)
    assert resume_run(run) is None


# In processes of their own, killed for good.


@pytest.fixture(scope="module")
def arguments(tiny_toml, tones, small_settings):
    """Of the command that trains, but for --out."""
    settings = (*FULL, f"train.head_epochs={EPOCHS[0]}", f"train.epochs={EPOCHS[1]}")
    changes = [f"--set={setting}" for setting in (*small_settings, *settings)]
    return ["train", tiny_toml, "--data", tones, *changes]


@pytest.fixture(scope="module")
def uninterrupted(arguments, start, tmp_path_factory):
    """A run folder, and the seconds that a batch took."""
    run = tmp_path_factory.mktemp("uninterrupted") / "run"
    process = start(*arguments, "--out", run)
    wait_for(lambda: (run / "run.json").exists(), process)
    began = time.monotonic()
    assert process.wait(WAIT) == 0, process.stderr_path.read_text()
    assert len(history_of(run)) == sum(EPOCHS)
    return run, (time.monotonic() - began) / TOTAL


def wait_for(condition, process):
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        assert process.poll() is None, "ended too soon: " + process.stderr_path.read_text()
        time.sleep(0.002)


def wait_for_position(run, process, wanted):
    """Until a running process has saved so many batches; for 0, until there is a run."""
    known = [None, 0]

    def reached():
        try:
            changed = (run / "checkpoint.pt").stat().st_mtime_ns
        except FileNotFoundError:
            return wanted == 0 and (run / "run.json").exists()
        if changed != known[0]:
            known[:] = changed, position(run)
        return known[1] >= wanted

    wait_for(reached, process)


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "kills", "seed"), [(0, KILLS, 1), (1, 3, 2)])
def test_killed_at_random_moments(arguments, start, uninterrupted, tmp_path, workers, kills, seed):
    reference, batch_seconds = uninterrupted
    run, rng = tmp_path / "run", random.Random(seed)
    # From the moment that there is a run, before or after its first checkpoint, to near the end.
    spacing = (TOTAL - 2 * BATCHES) / kills
    targets = [int((number + rng.random() * (number > 0)) * spacing) for number in range(kills)]
    found = []
    for number, target in enumerate(targets):
        if number == 0:
            process = start(*arguments, f"--set=train.workers={workers}", "--out", run)
        else:
            process = start("train", "--resume", run)
        wait_for_position(run, process, target)
        time.sleep(rng.uniform(0, 2 * batch_seconds))
        process.kill()
        assert process.wait(WAIT) == -signal.SIGKILL
        found.append(position(run))
    print(f"seed {seed}: killed at batches {found} of {TOTAL}")
    assert found == sorted(found)
    assert sum(0 < at < TOTAL for at in found) >= kills - 1
    # Nobody began anew: each epoch was noted by the one process that ended it.
    epochs = [record["epoch"] for record in history_of(run)]
    assert epochs == sorted(set(epochs))
    process = start("train", "--resume", run)
    assert process.wait(WAIT) == 0, process.stderr_path.read_text()
    assert str(run / "model") in process.stdout_path.read_text()
    check_same(run, reference)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "workers", "whole_group"),
    [
        (signal.SIGINT, 0, False),
        (signal.SIGINT, 1, True),  # as Ctrl-C in a terminal does
        (signal.SIGTERM, 0, False),
        (signal.SIGTERM, 1, True),  # as a batch system does
    ],
)
def test_a_signal_stops_and_saves(
    arguments, start, uninterrupted, tmp_path, number, workers, whole_group
):
    run = tmp_path / "run"
    process = start(*arguments, f"--set=train.workers={workers}", "--out", run)
    wait_for_position(run, process, TOTAL // 3)
    (os.killpg if whole_group else os.kill)(process.pid, number)
    assert process.wait(WAIT) == 130
    assert one_line(process) == interrupted(run)
    assert process.stdout_path.read_text() == ""
    assert TOTAL // 3 <= position(run) < TOTAL
    epochs = [record["epoch"] for record in history_of(run)]
    resume_run(run)
    assert [r["epoch"] for r in history_of(run)][: len(epochs)] == epochs
    check_same(run, uninterrupted[0])


def interrupted(run):
    """What the user is told."""
    epochs, batches = divmod(position(run), BATCHES)
    return (
        f"Interrupted after {epochs} epochs and {batches} batches, which are saved. Go on with: "
        f"deepspectrumlite train --resume {run}"
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_end_of_a_batch(
    make_recipe, small_settings, tones, tmp_path, number
):
    # Not due for a checkpoint of its own.
    settings = (*small_settings, *SHORT, "train.checkpoint_minutes=10")
    recipe, run, before = make_recipe(*settings), tmp_path / "run", signal.getsignal(number)

    def progress(what, done, total):
        if (what, done) == ("fine_tune epoch 1/2", 2):
            os.kill(os.getpid(), number)

    message = f"after 1 epochs and 2 batches, which are saved.*--resume {re.escape(str(run))}$"
    with pytest.raises(Interrupted, match=message):
        train_run(recipe, tones, run, progress=progress)
    assert signal.getsignal(number) == before
    state = torch.load(run / "checkpoint.pt", weights_only=True)["state"]
    assert (state["phase"], state["epoch"], state["step"]) == (1, 0, 2)
    resume_run(run)
    train_run(recipe, tones, tmp_path / "whole")
    check_same(run, tmp_path / "whole")


def test_a_signal_while_devel_is_scored(make_recipe, small_settings, tones, tmp_path, monkeypatch):
    from deepspectrumlite import train as train_module

    real, calls = train_module.devel_scores, []

    def scores(*given):
        calls.append(given)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return real(*given)

    recipe, run = make_recipe(*small_settings, *SHORT), tmp_path / "run"
    train_run(recipe, tones, tmp_path / "whole")
    with monkeypatch.context() as patched:
        patched.setattr(train_module, "devel_scores", scores)
        with pytest.raises(Interrupted, match="after 2 epochs and 0 batches"):
            train_run(recipe, tones, run)
    assert len(history_of(run)) == 2
    resume_run(run)
    check_same(run, tmp_path / "whole")


def test_a_second_signal_ends_at_once(make_recipe, small_settings, tones, tmp_path):
    def progress(what, done, total):
        if what.startswith("fine_tune"):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.3)  # Two that are pending at once count as one.
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(1000):
                time.sleep(0.01)  # until it arrives, on a busy machine late

    with pytest.raises(KeyboardInterrupt) as caught:
        train_run(make_recipe(*small_settings, *SHORT), tones, tmp_path / "run", progress=progress)
    assert not isinstance(caught.value, Interrupted)
    assert position(tmp_path / "run") > 0


def test_fit_without_a_checkpoint_says_only_that_it_stopped(
    make_recipe, small_settings, tones, monkeypatch, tmp_path
):
    from deepspectrumlite import train as train_module

    real = train_module.fit
    monkeypatch.setattr(
        runs_module,
        "fit",
        lambda *given, **options: real(*given, **(options | {"checkpoint": None})),
    )
    with pytest.raises(Interrupted, match=r"^Interrupted after 0 epochs\.$"):
        train_run(
            make_recipe(*small_settings, *SHORT),
            tones,
            tmp_path / "run",
            progress=lambda what, *_: (
                os.kill(os.getpid(), signal.SIGINT) if what.startswith("head") else None
            ),
        )
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


# Disks and folders that cannot be written.


@pytest.fixture
def cut_off(make_recipe, small_settings, tones, tmp_path):
    """A run with a checkpoint after its first epoch, and the same one uninterrupted."""
    recipe, run = make_recipe(*small_settings, *SHORT), tmp_path / "run"

    def stop(record):
        raise Killed

    with pytest.raises(Killed):
        train_run(recipe, tones, run, on_epoch=stop)
    train_run(recipe, tones, tmp_path / "whole")
    return run, tmp_path / "whole"


def check_goes_on(run, whole, before):
    assert (run / "checkpoint.pt").read_bytes() == before
    assert not (run / "checkpoint.pt.new").exists()
    resume_run(run)
    check_same(run, whole)


CANNOT = r"checkpoint\.pt: cannot be written \({}\); the checkpoint before is intact; make room"


def test_a_file_that_may_not_grow_leaves_the_checkpoint_before(cut_off, start):
    run, whole = cut_off
    before = (run / "checkpoint.pt").read_bytes()
    limit = len(before) // 2

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    process = start("train", "--resume", run, preexec_fn=limited)
    assert process.wait(WAIT) == 1
    line = one_line(process)
    assert re.search("Error: .*" + CANNOT.format("File too large"), line)
    assert line.endswith(f"--resume {run}")
    check_goes_on(run, whole, before)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_leaves_the_checkpoint_before(cut_off):
    run, whole = cut_off
    before = (run / "checkpoint.pt").read_bytes()
    (run / "checkpoint.pt.new").symlink_to("/dev/full")
    with pytest.raises(TrainingError, match=CANNOT.format("No space left on device")) as caught:
        resume_run(run)
    assert "\n" not in str(caught.value)
    check_goes_on(run, whole, before)


@pytest.mark.parametrize("name", ["model", "curves.png"])
def test_the_model_cannot_be_written(cut_off, name):
    run, whole = cut_off
    if name == "model":
        (run / name).write_text("in the way")
    else:
        (run / name).mkdir()
    message = r"the model cannot be written \(.+\); make room .* --resume "
    with pytest.raises(TrainingError, match=message):
        resume_run(run)
    assert (run / "checkpoint.pt").is_file()
    (run / name).unlink() if name == "model" else (run / name).rmdir()
    resume_run(run)
    check_same(run, whole)


def test_a_folder_that_may_not_be_written_any_more(cut_off, monkeypatch):
    run, whole = cut_off
    before, real = (run / "checkpoint.pt").read_bytes(), Path.open

    def refuse(path, mode="r", *given, **options):
        # Even for root, whom permissions do not stop.
        if path.parent == run and "w" in mode:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path, mode, *given, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", refuse)
        with pytest.raises(TrainingError, match=CANNOT.format("Permission denied")):
            resume_run(run)
    check_goes_on(run, whole, before)


def test_the_first_checkpoint_cannot_be_written(
    make_recipe, small_settings, tones, tmp_path, monkeypatch
):
    def full(path, write):
        if path.name == "checkpoint.pt":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(path, write)

    recipe, run, real = (
        make_recipe(*small_settings, *SHORT),
        tmp_path / "run",
        checkpoint_module.write_atomically,
    )
    monkeypatch.setattr(checkpoint_module, "write_atomically", full)
    with pytest.raises(TrainingError, match=r"left on device\); there is none before it"):
        train_run(recipe, tones, run)
    monkeypatch.undo()
    # Nothing is lost but time.
    resume_run(run)
    train_run(recipe, tones, tmp_path / "whole")
    check_same(run, tmp_path / "whole")


def test_an_out_that_cannot_be_a_folder(arguments, start, tmp_path):
    (tmp_path / "file").write_text("mine")
    process = start(*arguments, "--out", tmp_path / "file" / "run")
    assert process.wait(WAIT) == 1
    found = r"Error: .*file/run: cannot be written \(Not a directory\); choose another --out"
    assert re.match(found, one_line(process))
    assert (tmp_path / "file").read_text() == "mine"


# What resuming refuses.


def test_a_finished_run_and_no_run(trained, start, tmp_path):
    before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    finished, nowhere = start("train", "--resume", trained), start("train", "--resume", tmp_path)
    assert finished.wait(WAIT) == 0
    assert finished.stdout_path.read_text() == f"{trained} is finished; nothing to do\n"
    assert {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()} == before
    assert nowhere.wait(WAIT) == 1
    assert one_line(nowhere).startswith(f"Error: {tmp_path}: no run to go on with; allowed: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "others",
    [
        ("demo",),
        ("--data", "labels.csv"),
        ("--out", "other"),
        ("--set", "train.epochs=1"),
        ("--skip-bad",),
        ("--allow-group-overlap",),
        ("--overwrite",),
    ],
    ids=" ".join,
)
def test_resume_stands_alone(trained, others):
    from typer.testing import CliRunner

    from deepspectrumlite.cli import app

    result = CliRunner().invoke(app, ["train", "--resume", str(trained), *others])
    assert result.exit_code == 2
    assert "--resume takes all settings from the run" in " ".join(result.output.split())


@pytest.mark.parametrize("kept", [0, 10, 0.3, 0.5, 0.99])
def test_a_broken_checkpoint_is_named(cut_off, kept):
    run, whole = cut_off
    path = run / "checkpoint.pt"
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data)) if isinstance(kept, float) else kept])
    match = rf"{re.escape(str(path))}: broken \(.+\); remove it to start this run anew$"
    with pytest.raises(TrainingError, match=match) as caught:
        resume_run(run)
    assert "\n" not in str(caught.value)
    # Which works.
    path.unlink()
    resume_run(run)
    check_same(run, whole)


@pytest.mark.parametrize("part", ["state", "best", "learner"])
def test_a_checkpoint_that_does_not_fit_is_named(cut_off, part):
    run, _ = cut_off
    path = run / "checkpoint.pt"
    saved = torch.load(path, weights_only=True)
    torch.save(saved | {part: {"phase": 0, "unheard_of": 1}}, path)
    with pytest.raises(
        TrainingError, match=r"checkpoint\.pt: does not fit this run \(.+\)"
    ) as caught:
        resume_run(run)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{}", '{"recipe": ', "[]"])
def test_a_broken_plan_is_named(cut_off, text):
    run, _ = cut_off
    (run / "run.json").write_text(text)
    with pytest.raises(TrainingError, match=r"run\.json: broken \(.+\)") as caught:
        resume_run(run)
    assert "\n" not in str(caught.value)


def test_a_recording_that_has_gone_is_named_and_can_come_back(
    make_recipe, small_settings, tones, tmp_path
):
    shutil.copytree(tones.parent, tmp_path / "tones")
    recipe, run, whole = (
        make_recipe(*small_settings, *SHORT, "train.balance=none"),
        tmp_path / "run",
        tmp_path / "whole",
    )
    with pytest.raises(Killed):
        train_run(recipe, tmp_path / "tones" / "labels.csv", run, progress=stop_after(4))
    gone = tmp_path / "tones" / "low-devel-1.wav"
    gone.rename(tmp_path / "elsewhere.wav")
    with pytest.raises(AudioError, match=r"low-devel-1\.wav"):
        resume_run(run)
    (tmp_path / "elsewhere.wav").rename(gone)
    resume_run(run)
    train_run(recipe, tmp_path / "tones" / "labels.csv", whole)
    check_same(run, whole)

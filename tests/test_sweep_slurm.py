"""Slurm: the script, what a task of its job array does, and a real cluster of one node."""

import os
import re
import shlex
import tempfile
from pathlib import Path

import pytest
import slurm_helpers
from sweep_helpers import FAILING, GRID, OPTIONS, write_sweep

from deepspectrumlite.errors import Interrupted, RecipeError, TrainingError
from deepspectrumlite.sweeps.experiment import prepare_sweep
from deepspectrumlite.sweeps.plan import load_sweep, points
from deepspectrumlite.sweeps.slurm import array_index, run_task, write_script
from deepspectrumlite.sweeps.trials import read_trials

pytestmark = pytest.mark.usefixtures("one_thread")
GUIDED = """
[sweep]
search = "guided"
[sweep.ranges]
"train.weight_decay" = { low = 0.1, high = 0.2 }
"""


@pytest.fixture
def sweep(tmp_path, tones, make_recipe, small_settings):
    """The function ``(table) -> Experiment``."""

    def sweep(table=GRID):
        recipe = make_recipe(*small_settings)
        plan = load_sweep(write_sweep(tmp_path / "sweep.toml", recipe, table))
        return prepare_sweep(plan, tones, tmp_path / "out", OPTIONS)

    return sweep


def test_the_script_asks_for_a_task_for_each_point(sweep):
    experiment = sweep()
    arguments = ["sweep", "my recipe.toml", "--out", "x", "--engine", "slurm"]
    path = write_script(
        experiment,
        arguments,
        at_once=2,
        sbatch=["--time=2:00:00", "--gres=gpu:1"],
        preamble=["module load cuda"],
    )
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "#!/bin/bash"
    options = [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH ")]
    assert options[0] == "--array=0-3%2"
    assert options[1] == f"--output={experiment.out.absolute()}/logs/%a.txt"
    assert options[2:] == [
        f"--chdir={Path.cwd()}",
        "--job-name=sweep",
        "--time=2:00:00",
        "--gres=gpu:1",
    ]
    assert (experiment.out / "logs").is_dir()
    assert lines[-2] == "module load cuda"
    assert shlex.split(lines[-1])[-len(arguments) :] == arguments
    named = write_script(experiment, arguments, sbatch=["--job-name=mine"]).read_text()
    assert "--array=0-3\n" in named
    assert "--job-name=sweep" not in named


@pytest.mark.parametrize("option", ["time=2", "--time=1\nrm -r x", "", "--comment='open"])
def test_options_that_are_none_are_refused(sweep, option):
    with pytest.raises(TrainingError, match=r"--sbatch .*; allowed: an option of sbatch"):
        write_script(sweep(), [], sbatch=[option])


@pytest.mark.parametrize(
    "option",
    [
        *("--array=0-9", "--arr=0-9", "--a 0-9", "--output x", "--outp=x", "--chdir=/", "--ch=/"),
        *("-a0-9", "-a 0-9", "-o x", "-ofile", "-Ddir", "-Ha0-9", "--time=1 --array=0-9"),
        *("--time=1 -ox", "-t 5 -D /"),
    ],
)
def test_options_that_are_ours_are_refused(sweep, option):
    with pytest.raises(TrainingError, match=r"--sbatch .*, which the script sets itself"):
        write_script(sweep(), [], sbatch=[option])


def test_options_that_look_like_ours_are_passed_on(sweep):
    options = ["--account=me", "--open-mode=append", "-t5", "-A me", "-HA me", "-pdebug"]
    options += ["--comment='an array'", "--error=%a.err", "--oversubscribe", "--constraint=a|o"]
    lines = write_script(sweep(), [], sbatch=options).read_text().splitlines()
    assert [line for line in lines if line.removeprefix("#SBATCH ") in options] == [
        f"#SBATCH {option}" for option in options
    ]


def test_a_task_trains_its_point_only(sweep):
    experiment = sweep()
    row = run_task(experiment, 2)
    assert row["settings"] == points(experiment.plan)[2]
    assert read_trials(experiment.out) == [row]
    assert [path.name for path in (experiment.out / "trials").iterdir()] == ["0002"]
    with pytest.raises(TrainingError, match=r"is 4; allowed: 0 to 3"):
        run_task(experiment, 4)


def test_a_task_whose_time_is_over_says_how_to_go_on(sweep):
    def stop(record):
        raise KeyboardInterrupt

    experiment = sweep()
    with pytest.raises(Interrupted, match=r"Go on with: sbatch .*sweep\.sbatch"):
        run_task(experiment, 1, on_epoch=stop)
    told = []
    assert run_task(experiment, 1, on_epoch=told.append)["status"] == "finished"
    assert [record["epoch"] for record in told] == [2]


def test_the_variable_is_a_number():
    assert array_index({}) is None
    assert array_index({"SLURM_ARRAY_TASK_ID": "0"}) == 0
    with pytest.raises(TrainingError, match="is '-1'; allowed: a number from 0 on"):
        array_index({"SLURM_ARRAY_TASK_ID": "-1"})


def test_a_guided_search_is_refused(sweep):
    experiment = sweep(GUIDED)
    for call in (lambda: write_script(experiment, []), lambda: run_task(experiment, 0)):
        with pytest.raises(RecipeError, match="without knowing what others gave"):
            call()


def test_the_command_writes_the_script_and_trains_in_a_job(
    tmp_path, tones, make_recipe, small_settings, run, monkeypatch
):
    path, out = write_sweep(tmp_path / "s.toml", make_recipe(*small_settings)), tmp_path / "out"
    arguments = ["sweep", path, "--data", tones, "--out", out, "--device", "cpu"]
    code, told, _ = run(*arguments, "--engine", "slurm", "--sbatch=--time=5")
    assert code == 0
    assert f"sbatch {out / 'sweep.sbatch'}" in told
    assert read_trials(out) == []
    command = shlex.split((out / "sweep.sbatch").read_text().splitlines()[-1])
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    # As the script does, in this process.
    assert run(*command[4:])[0] == 0
    assert [row["number"] for row in read_trials(out)] == [3]
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "4")
    code, _, errors = run(*command[4:])
    assert code == 1
    assert "SLURM_ARRAY_TASK_ID is 4; allowed: 0 to 3" in errors[-1]
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID")
    code, told, _ = run("sweep", "results", out)
    assert code == 0
    assert "1 of 4 trials are done" in told


@pytest.mark.slow
@pytest.mark.skipif(
    bool(slurm_helpers.missing()) or os.name != "posix" or os.geteuid() != 0,
    reason="slurmctld, slurmd and munged are not installed, or this is not root",
)
def test_a_job_array_on_a_real_cluster(tmp_path, tones, make_recipe, small_settings, run):
    recipe = make_recipe(*small_settings)
    path, out = write_sweep(tmp_path / "sweep.toml", recipe, FAILING), tmp_path / "out"
    arguments = ["sweep", path, "--data", tones, "--out", out, "--device", "cpu"]
    arguments += ["--engine", "slurm", "--processes", "2", "--preamble=export OMP_NUM_THREADS=1"]
    assert run(*arguments)[0] == 0
    script = out / "sweep.sbatch"
    # Not below tmp_path: the path of a socket may have 107 characters.
    with (
        tempfile.TemporaryDirectory() as folder,
        slurm_helpers.Cluster(Path(folder)) as cluster,
    ):
        told = cluster.call("sbatch", "--wait", script)
        logs = {p.name: p.read_text() for p in (out / "logs").iterdir()}
        assert re.search(r"Submitted batch job \d+", told), told + cluster.logs()
        rows = read_trials(out)
        assert [row["status"] for row in rows] == ["finished", "failed", "finished"], logs
        assert sorted(logs) == ["0.txt", "1.txt", "2.txt"]
        assert [row["settings"] for row in rows] == points(load_sweep(path))
        # Started again, nothing is trained again.
        times = [p.stat().st_mtime_ns for p in sorted((out / "trials").glob("*/trial.json"))]
        cluster.call("sbatch", "--wait", script)
        assert read_trials(out) == rows
        after = [p.stat().st_mtime_ns for p in sorted((out / "trials").glob("*/trial.json"))]
        assert after == times
    code, told, _ = run("sweep", "results", out)
    assert code == 0
    assert "3 of 3 trials are done" in told
    assert "the loss is not finite" in told

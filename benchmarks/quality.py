"""Fine-tuning on real tasks: with and without augmentation, of numbers, and by other settings.

    python benchmarks/quality.py --data FOLDER
    python benchmarks/quality.py --data FOLDER --table numbers
    python benchmarks/quality.py --data FOLDER --table trials --trial NAME:KEY=VALUE,...

Trains with three seeds on each task, evaluates on the held-out groups, and prints a Markdown table.
"trials" never looks at test: it redraws devel from the groups of train and devel with each seed,
and prints devel scores. Runs that are finished, and were made with the same recipe, are kept, so
that an interrupted benchmark goes on where it was. The recordings are not part of this repository:
FOLDER holds a folder per task with a labels.csv; a task that is missing is named and left out.
"""

import argparse
import json
import multiprocessing
import platform
import re
import time
from collections.abc import Hashable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from deepspectrumlite.config import Recipe, load_recipe
from deepspectrumlite.manifest import write_manifest
from deepspectrumlite.model import load_model
from deepspectrumlite.runs import Options, evaluate_run, train_run
from deepspectrumlite.splits import make_devel
from deepspectrumlite.targets import find_targets, load_labelled

K = TypeVar("K", bound=Hashable)

TASKS = ("drum_hits", "sound_events")
# Of the waveforms as well, so that what is compared is the images' augmentation alone.
NONE = (
    "augment.time_shift=0",
    "augment.speed=0",
    "augment.mixup_share=0",
    "augment.mask_probability=0",
    "augment.cutmix_probability=0",
    "augment.strength=random",
)
MASKS, CUTMIX = ("augment.mask_probability=1",), ("augment.cutmix_probability=0.5",)
SAP = ("augment.strength=sapaugment",)
AUGMENTATION = {
    "no augmentation": NONE,
    "SpecAugment": (*NONE, *MASKS),
    "CutMix": (*NONE, *CUTMIX),
    "SapAugment + both": (*NONE, *MASKS, *CUTMIX, *SAP),
    "default": (),
    "default with one grey channel": ("frontend.color_map=none",),
}


@dataclass(frozen=True)
class Job:
    """One run: trained and evaluated in ``folder`` unless that was done before."""

    recipe: Recipe
    manifest: Path
    folder: Path
    split: str


def main() -> None:
    arguments = parse()
    tables = {
        "augmentation": augmentation_table,
        "numbers": numbers_table,
        "trials": trials_table,
    }
    tables[arguments.table](arguments)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/quality"))
    parser.add_argument(
        "--table", choices=("augmentation", "numbers", "trials"), default="augmentation"
    )
    parser.add_argument("--trial", dest="trials", action="append", default=[])
    parser.add_argument("--recipe", default="default")
    parser.add_argument("--set", dest="changes", action="append", default=[])
    parser.add_argument("--tasks", nargs="+")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time")
    parser.add_argument("--threads", type=int, help="of torch in each; default: one per core")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    return arguments


def recipe_of(arguments: argparse.Namespace, seed: int, changes: Iterable[str] = ()) -> Recipe:
    return load_recipe(arguments.recipe, [*arguments.changes, *changes, f"train.seed={seed}"])


def manifests(arguments: argparse.Namespace, default: Iterable[str]) -> dict[str, Path]:
    """The manifest of each task that is there."""
    found = {}
    for task in arguments.tasks or default:
        manifest = arguments.data / task / "labels.csv"
        if manifest.is_file():
            found[task] = manifest
        else:
            print(f"{task}: left out, because {manifest} is missing")
    return found


def augmentation_table(arguments: argparse.Namespace) -> None:
    tasks = manifests(arguments, TASKS)
    jobs = {
        (task, name, seed): Job(
            recipe_of(arguments, seed, changes),
            manifest,
            arguments.out / task / f"{slug(name)}-seed{seed}",
            "test",
        )
        for task, manifest in tasks.items()
        for name, changes in AUGMENTATION.items()
        for seed in arguments.seeds
    }
    reports = run_all(jobs, arguments)
    rows = []
    for task in tasks:
        for name in AUGMENTATION:
            found = [reports[task, name, seed]["files"]["uar"] for seed in arguments.seeds]
            mean = np.mean([uar["value"] for uar in found])
            each = [f"{uar['value']:.3f} ({interval(uar)})" for uar in found]
            rows.append((task, name, f"**{mean:.3f}**", *each))
    seeds = [f"seed {seed} (95 % over files)" for seed in arguments.seeds]
    print_table(("task", "augmentation", "mean test UAR", *seeds), rows, arguments)


def numbers_table(arguments: argparse.Namespace) -> None:
    arguments.recipe = "regression" if arguments.recipe == "default" else arguments.recipe
    jobs = {
        (task, seed): Job(
            recipe_of(arguments, seed), manifest, arguments.out / task / f"seed{seed}", "test"
        )
        for task, manifest in manifests(arguments, ("piano_velocity_norm",)).items()
        for seed in arguments.seeds
    }
    rows = []
    for (task, seed), report in run_all(jobs, arguments).items():
        names = ("pearson", "ccc", "mae")
        found = [report["files"][name] for name in names]
        each = [f"{estimate['value']:.3f} ({interval(estimate)})" for estimate in found]
        rows.append((task, f"seed {seed}", *each))
    print_table(("task", "", "Pearson r (95 % over files)", "CCC", "MAE"), rows, arguments)


def trials_table(arguments: argparse.Namespace) -> None:
    """Devel scores of settings, each seed with other groups held out of train and devel."""
    trials = {}
    for trial in arguments.trials:
        name, _, changes = trial.partition(":")
        trials[name] = tuple(change for change in changes.split(",") if change)
    tasks = manifests(arguments, TASKS)
    jobs = {}
    for task, manifest in tasks.items():
        for seed in arguments.seeds:
            redrawn = redraw_devel(manifest, seed, arguments)
            for name, changes in trials.items():
                folder = arguments.out / "trials" / task / f"{slug(name)}-seed{seed}"
                recipe = recipe_of(arguments, seed, changes)
                jobs[task, name, seed] = Job(recipe, redrawn, folder, "")
    histories = run_all(jobs, arguments)
    rows = []
    for task in tasks:
        for name in trials:
            found = [histories[task, name, seed] for seed in arguments.seeds]
            rows.append((task, name, *devel_summary(found)))
    print_table(("task", "trial", "monitor", "best", "last 5", "each seed"), rows, arguments)


def redraw_devel(manifest: Path, seed: int, arguments: argparse.Namespace) -> Path:
    """The manifest without its test, and with other groups as devel for each seed."""
    recipe = recipe_of(arguments, seed)
    table = load_labelled(manifest, recipe.data, recipe.model.output)
    table = table[table["split"] != "test"].reset_index(drop=True)
    strata = find_targets(table, recipe.data, recipe.model.output).strata(table)
    table["split"] = "train"
    drawn = make_devel(table.assign(label=strata), devel_share=0.25, seed=seed)
    path = arguments.out / "trials" / f"{manifest.parent.name}-{seed}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_manifest(table.assign(split=drawn["split"]), path)
    return path


def devel_summary(histories: list[list[dict]]) -> tuple[str, ...]:
    """Monitor's name, its mean best and mean over the last 5 epochs, and the last 5 of each."""
    first = histories[0][0]
    name = next(key for key in ("devel_ccc", "devel_uar", "devel_map") if key in first)
    values = [[record[name] or 0.0 for record in history] for history in histories]
    last = [np.mean(each[-5:]) for each in values]
    loss = np.mean([record["devel_loss"] for h in histories for record in h[-5:]])
    best = np.mean([max(each) for each in values])
    each = " ".join(f"{value:.3f}" for value in last)
    return name, f"{best:.3f}", f"{np.mean(last):.3f} (loss {loss:.2f})", each


def run_all(jobs: dict[K, Job], arguments: argparse.Namespace) -> dict[K, Any]:
    """What each job gives, several at a time."""
    if arguments.jobs == 1:
        return {key: run(job) for key, job in jobs.items()}
    threads = (arguments.threads or 1,)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        arguments.jobs, context, initializer=torch.set_num_threads, initargs=threads
    ) as pool:
        return dict(zip(jobs, pool.map(run, jobs.values()), strict=True))


def run(job: Job) -> Any:
    """The report on a split; without a split, the history."""
    done = job.folder / (f"{job.split}/scores.json" if job.split else "model/recipe.json")
    if not done.is_file() or load_model(job.folder).recipe != job.recipe:
        start = time.perf_counter()
        train_run(job.recipe, job.manifest, job.folder, Options(overwrite=True))
        if job.split:
            evaluate_run(job.folder, job.manifest, job.split)
        print(f"{job.folder}: {time.perf_counter() - start:.0f} s", flush=True)
    if job.split:
        return json.loads(done.read_text())
    return [json.loads(line) for line in (job.folder / "history.jsonl").open()]


def slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def interval(estimate: dict) -> str:
    return "none" if estimate["low"] is None else f"{estimate['low']:.3f} to {estimate['high']:.3f}"


def print_table(
    header: tuple[str, ...], rows: list[tuple[str, ...]], arguments: argparse.Namespace
) -> None:
    recipe = recipe_of(arguments, 0)
    size = f"{recipe.frontend.image_height} x {recipe.frontend.image_width}"
    cuda = torch.cuda.is_available()
    machine = torch.cuda.get_device_name() if cuda else f"{platform.machine()}, no GPU"
    print(f"\nRecipe {arguments.recipe!r}, {recipe.model.backbone}, {size} pixels; ", end="")
    print(f"torch {torch.__version__}, {machine}.\n")
    print(f"| {' | '.join(header)} |\n|{' --- |' * len(header)}")
    for cells in rows:
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()

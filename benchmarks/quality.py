"""Fine-tuning against a linear SVM on the frozen features of the same network, on real tasks.

    python benchmarks/quality.py --data FOLDER --out runs/quality

Trains the default recipe with three seeds on each task, evaluates on the held-out groups, and
prints a Markdown table. Runs that are finished, and were made with the same recipe, are kept, so
that an interrupted benchmark goes on where it was. The recordings are not part of this repository:
FOLDER holds a folder per task with a labels.csv; a task that is missing is named and left out.
"""

import argparse
import json
import platform
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from deepspectrumlite.config import Recipe, load_recipe
from deepspectrumlite.data import Segments, scan
from deepspectrumlite.evaluate import average_files, make_loader
from deepspectrumlite.manifest import load_manifest
from deepspectrumlite.metrics import confusion_matrix, uar
from deepspectrumlite.model import Classifier, load_model
from deepspectrumlite.runs import Options, evaluate_run, train_run
from deepspectrumlite.scores import classification_report

TASKS = ("drum_hits", "sound_events", "mandarin_tone")
COMPLEXITIES = tuple(10.0**e for e in range(-5, 1))


def main() -> None:
    arguments = parse()
    rows = []
    for task in arguments.tasks:
        manifest = arguments.data / task / "labels.csv"
        if not manifest.is_file():
            print(f"{task}: left out, because {manifest} is missing")
            continue
        reports = {"SVM on frozen features": svm(manifest, arguments)}
        for seed in arguments.seeds:
            reports[f"fine-tuned, seed {seed}"] = fine_tuned(manifest, seed, arguments)
        rows += [row(task, system, report) for system, report in reports.items()]
        tuned = [r["uar"]["value"] for name, r in reports.items() if "seed" in name]
        mean = f"**{np.mean(tuned):.3f}**"
        rows.append((task, f"**fine-tuned, mean of {len(tuned)}**", mean, "", ""))
    print_table(rows, arguments)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/quality"))
    parser.add_argument("--recipe", default="default")
    parser.add_argument("--set", dest="changes", action="append", default=[])
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--threads", type=int, help="of torch; default: one per core")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    return arguments


def recipe_of(arguments: argparse.Namespace, seed: int) -> Recipe:
    return load_recipe(arguments.recipe, [*arguments.changes, f"train.seed={seed}"])


def fine_tuned(manifest: Path, seed: int, arguments: argparse.Namespace) -> dict:
    """Train and evaluate one seed, unless that was done before."""
    run = arguments.out / manifest.parent.name / f"seed{seed}"
    scores = run / "test" / "scores.json"
    recipe = recipe_of(arguments, seed)
    if not scores.is_file() or load_model(run).recipe != recipe:
        print(f"{run}: training", flush=True)
        train_run(
            recipe,
            manifest,
            run,
            Options(overwrite=True),
            on_epoch=lambda r: print(
                f"{run} epoch {r['epoch']}: devel UAR {r['devel_uar']:.3f}, {r['seconds']:.0f} s",
                flush=True,
            ),
        )
        evaluate_run(run, manifest, "test")
    return json.loads(scores.read_text())["files"]


def svm(manifest: Path, arguments: argparse.Namespace) -> dict:
    """Mean frozen features of a file's segments, standardised; complexity chosen on devel."""
    recipe = recipe_of(arguments, 0)
    scanned, _ = scan(load_manifest(manifest), recipe.data)
    labels = sorted(scanned["label"].unique())
    model = Classifier(recipe, labels).eval()
    features, truth = {}, {}
    for split in ("train", "devel", "test"):
        rows = scanned[scanned["split"] == split].reset_index(drop=True)
        features[split], truth[split] = frozen_features(model, rows, labels)

    def fit(complexity: float):
        classifier = LinearSVC(
            C=complexity, class_weight="balanced", dual=True, max_iter=20_000, random_state=0
        )
        return make_pipeline(StandardScaler(), classifier).fit(features["train"], truth["train"])

    def devel_uar(complexity: float) -> float:
        predicted = fit(complexity).predict(features["devel"])
        return uar(confusion_matrix(truth["devel"], predicted, len(labels)))

    predicted = fit(max(COMPLEXITIES, key=devel_uar)).predict(features["test"])
    groups = scanned.loc[scanned["split"] == "test", "group"].to_numpy(str)
    return classification_report(truth["test"], predicted, labels, groups=groups)


@torch.inference_mode()
def frozen_features(
    model: Classifier, rows: pd.DataFrame, labels: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """``(n_files, num_features)``, ``(n_files,)``."""
    segments = Segments(rows, model.recipe.data, labels)
    batches = [
        model.backbone(model.frontend(waveform)).numpy()
        for waveform, _, _ in make_loader(segments, model.recipe.train)
    ]
    return average_files(np.concatenate(batches), segments)


def row(task: str, system: str, report: dict) -> tuple[str, ...]:
    over_files, over_groups = report["uar"], report["by_group"]["uar"]
    intervals = [
        interval(over_files),
        f"{interval(over_groups)} ({report['by_group']['n_groups']})",
    ]
    return task, system, f"{over_files['value']:.3f}", *intervals


def interval(estimate: dict) -> str:
    return "none" if estimate["low"] is None else f"{estimate['low']:.3f} to {estimate['high']:.3f}"


def print_table(rows: list[tuple[str, ...]], arguments: argparse.Namespace) -> None:
    recipe = recipe_of(arguments, 0)
    size = f"{recipe.frontend.image_height} x {recipe.frontend.image_width}"
    print(f"\nRecipe {arguments.recipe!r}, {recipe.model.backbone}, {size} pixels; ", end="")
    print(f"torch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} threads.\n")
    print("| task | system | test UAR | 95 % interval over files | over groups (how many) |")
    print("| --- | --- | --- | --- | --- |")
    for cells in rows:
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()

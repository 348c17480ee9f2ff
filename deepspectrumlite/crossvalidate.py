"""One system on every fold: trained, chosen on devel, tested, and pooled.

An experiment is a folder with ``folds/`` (see :mod:`deepspectrumlite.folds`) and a folder for each
system, which holds a folder for each fold (a run, or a baseline, with ``devel/`` and ``test/``),
and over all of them ``scores.json``, ``predictions.csv``, a picture, and ``system.json``.
"""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from deepspectrumlite import __version__
from deepspectrumlite.baseline_runs import run_baseline
from deepspectrumlite.decisions import Decision
from deepspectrumlite.errors import TrainingError
from deepspectrumlite.evaluate import find_groups
from deepspectrumlite.feature_files import read_features, write_features
from deepspectrumlite.features import Features, extract
from deepspectrumlite.folds import (
    FOLDER,
    check_same_recordings,
    make_folds,
    read_folds,
    write_folds,
)
from deepspectrumlite.metrics import RESAMPLES
from deepspectrumlite.model import NUMBERS, write_json
from deepspectrumlite.progress import Progress, silent
from deepspectrumlite.runs import (
    Options,
    evaluate_run,
    plot_scores,
    read_scanned,
    resume_run,
    scan_split,
    train_run,
    was_started,
)
from deepspectrumlite.scores import score_report
from deepspectrumlite.significance import MAIN_METRIC, main_metric
from deepspectrumlite.systems import FINETUNE, System
from deepspectrumlite.targets import Targets, find_targets, load_labelled
from deepspectrumlite.train import Record

ABOUT = "system.json"
# What is counted over all folds: what a score does not say of itself.
LEFT_OUT = ("skipped", "seen_in_training", "files_without_a_segment")


def prepare(
    system: System,
    manifest: Path,
    scheme: str | None,
    out: Path,
    options: Options,
    progress: Progress = silent,
) -> dict[str, Path]:
    """Make the folds of an experiment, or find those that were made before.

    Args:
        system: for its first recipe, which says what is learned
        manifest: all recordings
        scheme: see :func:`deepspectrumlite.folds.make_folds`; None: that of the folds that are
            there, or else "manifest"
        out: the experiment's folder
        options: how to treat this manifest
        progress: told of every recording

    Returns:
        the manifest of each fold, by its name

    Raises:
        ManifestError: the manifest does not allow it, or is not that of the folds that are there
        AudioError: a recording is bad, without ``options.skip_bad``
    """
    recipe = system.recipes[0]
    table = load_labelled(manifest, recipe.data, recipe.model.output)
    before = read_folds(out)
    # Folds that were being written when the process was killed are written again.
    if out.is_file():
        raise TrainingError(f"{out}: already there, and a file; choose another --out")
    others = [path for path in out.iterdir() if path.name != FOLDER] if out.is_dir() else []
    if before is None and others:
        raise TrainingError(f"{out}: not empty, and no experiment; choose another --out")
    scanned, skipped = scan_split(table, recipe.data, options, progress)
    scheme = scheme or (before[0] if before else "manifest")
    if before is None:
        overlap = options.allow_group_overlap
        folds = make_folds(scanned, scheme, recipe, allow_group_overlap=overlap)
        write_folds(folds, scheme, out)
        if len(skipped):
            skipped.to_csv(out / "skipped.csv", index=False)
        before = read_folds(out)
        assert before is not None, "just written"
    made_by, manifests = before
    if made_by != scheme:
        raise TrainingError(
            f"{out}: its folds were made by --folds {made_by}, not {scheme}; give the same, or "
            "choose another --out"
        )
    check_same_recordings(scanned, manifests, out)
    return manifests


def crossvalidate(
    system: System,
    folds: dict[str, Path],
    out: Path,
    options: Options,
    *,
    n_resamples: int = RESAMPLES,
    progress: Progress = silent,
    on_fold: Callable[[str], None] = lambda name: None,
    on_epoch: Callable[[Record], None] = lambda record: None,
) -> dict[str, Any]:
    """Train and test one system on every fold; what is done already is kept.

    Args:
        system: what to train
        folds: their manifests, as of :func:`prepare`
        out: the experiment's folder; the system's own is inside it
        options: for the device, and whether a group may be in two splits
        n_resamples: of the bootstrap
        progress: told of every long step
        on_fold: told of every fold, by its name, when it begins
        on_epoch: told of every epoch of fine-tuning

    Returns:
        what ``scores.json`` holds: the report over all folds' test recordings as "files", each
        fold's main metric as "folds", and each group's as "groups"

    Raises:
        TrainingError: the folder holds a run of other settings, or training fails
        AudioError: a recording cannot be read any more
        Interrupted: Ctrl-C; the same call goes on
    """
    folder = out / system.name
    _check_same_system(system, folder)
    features = _features(system, next(iter(folds.values())), out, options.device, progress)
    parts = {}
    for i, (name, manifest) in enumerate(folds.items()):
        progress(f"{system.name}: folds", i, len(folds))
        on_fold(name)
        if system.kind == FINETUNE:
            _finetune(system, manifest, folder / name, options, n_resamples, progress, on_epoch)
        else:
            _baseline(system, manifest, folder / name, features, n_resamples, progress)
        parts[name] = folder / name
    progress(f"{system.name}: folds", len(folds), len(folds))
    report = _pool(system, folds, parts, folder, n_resamples)
    write_json(folder / ABOUT, _describe(system) | _cost(system, list(parts.values())))
    return report


def _describe(system: System) -> dict[str, Any]:
    known = asdict(system) | {
        "recipes": [recipe.model_dump(mode="json") for recipe in system.recipes]
    }
    return {"version": __version__, "title": system.title} | known


def _check_same_system(system: System, folder: Path) -> None:
    """Refuse to mix two systems of one name; its folder holds what it is from the start."""
    wanted = {key: value for key, value in _describe(system).items() if key != "version"}
    path = folder / ABOUT
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        differing = _differences(found, json.loads(json.dumps(wanted)))
        if differing:
            raise TrainingError(
                f"{folder}: made with other settings ({', '.join(differing)}); give the same "
                "--recipe and --set as before, choose another name "
                f"(NAME={system.kind}), or remove that folder"
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, _describe(system))


def _differences(found: Any, wanted: Any, name: str = "") -> list[str]:
    """The settings in which two descriptions differ, as ``recipe.section.key``."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        keys = [key for key in wanted if found.get(key) != wanted[key]]
        parts = [_differences(found.get(key), wanted[key], f"{name}.{key}") for key in keys]
        return [text for part in parts for text in part]
    if isinstance(found, list) and isinstance(wanted, list) and len(found) == len(wanted):
        pairs = [pair for pair in zip(found, wanted, strict=True) if pair[0] != pair[1]]
        return list(dict.fromkeys(n for a, b in pairs for n in _differences(a, b, name)))
    return [] if found == wanted else [name.removeprefix(".recipes.").removeprefix(".")]


def _features(
    system: System, manifest: Path, out: Path, device: str, progress: Progress
) -> Features | None:
    """Features of all recordings, which are the same for every fold."""
    if system.kind in (FINETUNE, "majority"):
        return None
    recipe, path = system.recipes[0], out / system.name / "features.parquet"
    if path.is_file():
        return read_features(path)
    scanned = read_scanned(manifest, recipe)
    features = extract(
        system.kind, recipe, scanned, layer=system.layer, device=device, progress=progress
    )
    unfinished = path.with_name("unfinished.parquet")
    write_features(features, scanned, unfinished)
    unfinished.replace(path)
    return features


def _finetune(
    system: System,
    manifest: Path,
    folder: Path,
    options: Options,
    n_resamples: int,
    progress: Progress,
    on_epoch: Callable[[Record], None],
) -> None:
    """Train each candidate, and test the one that is best on devel."""
    options = replace(options, overwrite=True)
    several = len(system.recipes) > 1
    found = {}
    for i, recipe in enumerate(system.recipes, 1):
        run = folder / f"candidate-{i}" if several else folder
        if was_started(run, recipe):
            resume_run(run, options, progress=progress, on_epoch=on_epoch)
        else:
            train_run(recipe, manifest, run, options, progress=progress, on_epoch=on_epoch)
        value = _score(run, manifest, "devel", run / "devel", n_resamples, options, progress)
        # One that the metric is not defined for is worse than any.
        found[run] = -1.0 if value is None else value
    best = max(found, key=lambda run: found[run])
    if several:
        write_json(
            folder / "choice.json",
            {"chosen": best.name, "devel": {run.name: value for run, value in found.items()}},
        )
    _score(best, manifest, "test", folder / "test", n_resamples, options, progress)


def _score(
    run: Path,
    manifest: Path,
    split: str,
    out: Path,
    n_resamples: int,
    options: Options,
    progress: Progress,
) -> float | None:
    """The main metric of a run on a split, which is scored unless that was done before."""
    if not (out / "predictions.csv").is_file() or not (out / "scores.json").is_file():
        evaluate_run(
            run, manifest, split, options, out=out, n_resamples=n_resamples, progress=progress
        )
    return main_value(json.loads((out / "scores.json").read_text(encoding="utf-8")))


def main_value(report: dict[str, Any]) -> float | None:
    """The metric of a report that counts; None where it is not defined."""
    value: float | None = report["files"][MAIN_METRIC[report["output"]].lower()]["value"]
    return value


def _baseline(
    system: System,
    manifest: Path,
    folder: Path,
    features: Features | None,
    n_resamples: int,
    progress: Progress,
) -> None:
    if (folder / "test" / "predictions.csv").is_file():
        return
    recipe = system.recipes[0]
    scanned = read_scanned(manifest, recipe)
    progress(f"{system.name}: fitting", 0, 1)
    run_baseline(
        system.kind,
        recipe,
        scanned,
        features,
        folder,
        fit_devel=system.fit_devel,
        n_resamples=n_resamples,
    )


def _pool(
    system: System,
    folds: dict[str, Path],
    parts: dict[str, Path],
    folder: Path,
    n_resamples: int,
) -> dict[str, Any]:
    """Scores over the test recordings of all folds together; written, and returned."""
    recipe = system.recipes[0]
    data, output = recipe.data, recipe.model.output
    first = read_scanned(next(iter(folds.values())), recipe)
    targets = find_targets(first, data, output)
    tables, rows = [], []
    left_out: Counter[str] = Counter()
    for name, part in parts.items():
        report = json.loads((part / "test" / "scores.json").read_text(encoding="utf-8"))
        table = pd.read_csv(part / "test" / "predictions.csv", dtype=str, keep_default_na=False)
        tables.append(_with_thresholds(table, report).assign(fold=name))
        left_out.update({key: report[key] for key in LEFT_OUT})
        rows.append({"fold": name, "n": len(table), "test": main_value(report)})
    predictions = pd.concat(tables, ignore_index=True)
    decision = pooled_decision(targets)
    target, scores = encode_predictions(predictions, targets)
    report = {
        "split": f"test of {len(folds)} folds" if len(folds) > 1 else "test",
        "output": output,
        **{key: left_out[key] for key in LEFT_OUT},
        "files": score_report(
            decision,
            target,
            scores,
            groups=find_groups(predictions),
            n_resamples=n_resamples,
            seed=recipe.train.seed,
        ),
        "folds": rows,
        "groups": _by_group(decision, target, scores, predictions),
    }
    write_json(folder / "scores.json", report)
    predictions.to_csv(folder / "predictions.csv", index=False)
    plot_scores(report, predictions, decision, data, folder)
    return report


def pooled_decision(targets: Targets) -> Decision:
    """Of predictions over all folds, whose thresholds were brought to 0.5."""
    labels = targets.labels
    thresholds = [0.5] * len(labels) if targets.output == "sigmoid" else ()
    return Decision(targets.output, labels, thresholds, targets.values)


def encode_predictions(
    predictions: pd.DataFrame, targets: Targets
) -> tuple[np.ndarray, np.ndarray]:
    """(n_files, n_outputs) each: the truth, and the scores, of a table of predictions.

    Several labels: scores are moved so that each fold's own thresholds are at 0.5.
    """
    kind = "predicted" if targets.output in NUMBERS else "score"
    names = pooled_decision(targets).columns
    scores = predictions[[f"{kind}_{name}" for name in names]].to_numpy(np.float64)
    thresholds = [f"threshold_{name}" for name in names]
    if targets.output == "sigmoid" and set(thresholds) <= set(predictions):
        scores = scores - predictions[thresholds].to_numpy(np.float64) + 0.5
    return targets.encode(predictions), scores


def _with_thresholds(table: pd.DataFrame, report: dict[str, Any]) -> pd.DataFrame:
    """Several labels: with each one's threshold, which differs between folds."""
    if report["output"] != "sigmoid":
        return table
    labels = report["files"]["labels"]
    return table.assign(**{f"threshold_{name}": labels[name]["threshold"] for name in labels})


def _by_group(
    decision: Decision, target: np.ndarray, scores: np.ndarray, predictions: pd.DataFrame
) -> list[dict[str, Any]]:
    """Each group's number of recordings and main metric; None where it has none."""
    groups = find_groups(predictions)
    if groups is None:
        return []
    rows = []
    for name in np.unique(groups):
        own = groups == name
        value = float(main_metric(decision, target[own], scores[own]))
        row = {"group": str(name), "n": int(own.sum())}
        row["value"] = None if np.isnan(value) else value
        if decision.output == "softmax":
            right = decision.classes(target[own]) == decision.classes(scores[own])
            row["accuracy"] = float(right.mean())
        rows.append(row)
    return rows


def _chosen(fold: Path) -> Path:
    """The run that was tested: the fold's folder, or the candidate that its devel chose."""
    choice = fold / "choice.json"
    if not choice.is_file():
        return fold
    name: str = json.loads(choice.read_text(encoding="utf-8"))["chosen"]
    return fold / name


def _cost(system: System, parts: list[Path]) -> dict[str, Any]:
    """Seconds of training over all folds and candidates, and bytes of what predicts."""
    if system.kind == FINETUNE:
        histories = [path for part in parts for path in part.rglob("history.jsonl")]
        records = [json.loads(line) for path in histories for line in path.open(encoding="utf-8")]
        seconds = sum(record["seconds"] for record in records)
        model = _chosen(parts[0]) / "model" / "model.safetensors"
        return {"seconds": seconds, "bytes": model.stat().st_size}
    found = [json.loads((part / "baseline.json").read_text(encoding="utf-8")) for part in parts]
    # Features are extracted once for all folds.
    seconds = found[0]["seconds"]["extract"] + sum(each["seconds"]["fit"] for each in found)
    sizes = found[0]["bytes"]
    known = sizes["extractor"] is not None
    return {
        "seconds": seconds,
        "bytes": sizes["extractor"] + sizes["classifier"] if known else None,
    }

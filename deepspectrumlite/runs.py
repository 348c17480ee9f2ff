"""Run folders: from a manifest to a trained model with everything that made it, and its scores.

A run folder holds ``run.json`` (what was asked for), ``manifest.csv`` with the splits that were
used, ``skipped.csv`` if recordings were skipped, ``history.jsonl``, ``curves.png``, ``model/``
(weights, recipe, labels), and after an evaluation a folder per split: ``scores.json``,
``predictions.csv``, and pictures. While training goes on, ``checkpoint.pt`` holds all that
:func:`resume_run` needs.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from deepspectrumlite import __version__
from deepspectrumlite.calibration import decision_report
from deepspectrumlite.checkpoint import write_atomically
from deepspectrumlite.config import DataSection, Recipe, parse_recipe
from deepspectrumlite.data import Segments, scan
from deepspectrumlite.datasets.layout import corpus_notes
from deepspectrumlite.decisions import Decision
from deepspectrumlite.errors import ManifestError, ModelError, RecipeError, TrainingError
from deepspectrumlite.evaluate import (
    calibrate,
    evaluate_model,
    fit_decisions,
    score_segments,
)
from deepspectrumlite.manifest import load_manifest, write_manifest
from deepspectrumlite.metrics import RESAMPLES
from deepspectrumlite.model import (
    FORMAT,
    NUMBERS,
    Classifier,
    decide_by,
    load_model,
    write_json,
)
from deepspectrumlite.plots import plot_confusion, plot_history, plot_numbers
from deepspectrumlite.predict import Recogniser, model_folder, open_recogniser
from deepspectrumlite.processes import Processes, choose_device
from deepspectrumlite.progress import Progress, silent
from deepspectrumlite.splits import make_splits, require_splits
from deepspectrumlite.targets import (
    Targets,
    check_enough_labels,
    check_labelled_splits,
    find_targets,
    load_labelled,
)
from deepspectrumlite.train import Record, Run, fit

PLAN, CHECKPOINT = "run.json", "checkpoint.pt"


@dataclass(frozen=True)
class Options:
    """What concerns this machine and this manifest, not the recipe."""

    skip_bad: bool = False
    allow_group_overlap: bool = False
    overwrite: bool = False
    device: str = "auto"
    check_export: bool = False


@dataclass(frozen=True)
class Trained:
    """What training gave: a model, and the recordings of train and devel that it did without.

    ``skipped`` counts unreadable recordings, ``dropped`` those shorter than a segment;
    ``drew_splits`` tells whether the manifest left splits to be drawn; ``notes`` says what the
    reader of a corpus left out, a line each.
    """

    model: Classifier
    skipped: int
    dropped: int
    drew_splits: bool
    notes: tuple[str, ...] = ()


def train_run(
    recipe: Recipe,
    manifest: Path,
    out: Path,
    options: Options = Options(),
    *,
    progress: Progress = silent,
    on_epoch: Callable[[Record], None] = lambda record: None,
) -> Trained:
    """Train on a manifest and write a run folder.

    Args:
        recipe: all settings
        manifest: see :func:`deepspectrumlite.manifest.load_manifest`; without a split column,
            splits are made
        out: the run folder; must not exist yet, or be empty, unless ``options.overwrite``
        options: how to treat this manifest on this machine
        progress: told of every recording and batch
        on_epoch: told of every epoch

    Returns:
        the trained model, in evaluation mode, and how many recordings it did not learn from

    Raises:
        TrainingError: the folder is taken or cannot be written, or training fails
        ManifestError: the manifest is inconsistent
        AudioError: a recording is bad, without ``options.skip_bad``
        Interrupted: Ctrl-C; :func:`resume_run` goes on
    """
    processes = Processes(choose_device(options.device))

    def prepare() -> pd.DataFrame:
        data, output = recipe.data, recipe.model.output
        given = load_labelled(manifest, data, output)
        table = with_splits(given, recipe, options)
        _check_folder(out, options.overwrite)
        scanned, skipped = scan_split(table, data, options, progress)
        # Again: without the bad recordings a label or a split may be gone.
        targets = _check(scanned, recipe, options)
        model = Classifier(recipe, targets.labels)
        train, devel = (_segments(_rows(scanned, split), model) for split in ("train", "devel"))
        Run(model, train, devel, processes, None, silent)  # refuses what cannot be trained
        if options.check_export:
            # Only here, since exporting builds on runs.
            from deepspectrumlite.export import check_export

            check_export(model, train, progress=progress)
        # Only now: what fails before leaves everything as it was.
        _make_folder(out)
        _write_skipped(skipped, out)
        write_manifest(scanned, out / "manifest.csv")
        drew = "split" not in given or set(given["split"]) != set(table["split"])
        # At last: a folder with this file can go on from wherever it was stopped.
        plan = {"recipe": from_anywhere(recipe).model_dump(mode="json"), "labels": targets.labels}
        told = {"skipped": len(skipped), "drew_splits": drew, "notes": corpus_notes(given)}
        _write_plan(plan | told, out)
        return scanned

    return _train(out, processes.on_main(prepare), processes, progress, on_epoch)


def resume_run(
    out: Path,
    options: Options = Options(),
    *,
    progress: Progress = silent,
    on_epoch: Callable[[Record], None] = lambda record: None,
) -> Trained | None:
    """Go on with a run that was stopped, from its last checkpoint; None where it is finished.

    On the CPU it ends with the same weights and history, bit by bit (but for the seconds), as if it
    had never stopped.

    Args:
        out: the run folder
        options: for the device
        progress: told of every batch
        on_epoch: told of every epoch from here on

    Raises:
        TrainingError: no run there that could go on, or training fails
        AudioError: a recording cannot be read any more
        Interrupted: Ctrl-C
    """
    if not (out / PLAN).is_file():
        raise TrainingError(
            f"{out}: no run to go on with; allowed: the folder of a run that has read its "
            "recordings; start it anew with: deepspectrumlite train RECIPE --data MANIFEST "
            f"--out {out}"
        )
    if (out / "model" / "model.safetensors").is_file() and not (out / CHECKPOINT).is_file():
        return None
    plan = _read_plan(out)
    scanned = read_scanned(out / "manifest.csv", parse_recipe(plan["recipe"], str(out / PLAN)))
    return _train(out, scanned, Processes(choose_device(options.device)), progress, on_epoch)


def was_started(out: Path, recipe: Recipe) -> bool:
    """Whether a run of this recipe has begun in a folder, so that :func:`resume_run` goes on.

    Raises:
        TrainingError: a run of another recipe has
    """
    if not (out / PLAN).is_file():
        return False
    if parse_recipe(_read_plan(out)["recipe"], str(out / PLAN)) != from_anywhere(recipe):
        raise TrainingError(
            f"{out}: made with other settings than these; choose another --out or --name, or "
            "remove that folder"
        )
    return True


def _train(
    out: Path,
    scanned: pd.DataFrame,
    processes: Processes,
    progress: Progress,
    on_epoch: Callable[[Record], None],
) -> Trained:
    """Train what a prepared run folder asks for, from its checkpoint if there is one."""
    plan = _read_plan(out)
    recipe = parse_recipe(plan["recipe"], str(out / PLAN))
    torch.manual_seed(recipe.train.seed)
    model = Classifier(recipe, plan["labels"])
    train, devel = (_segments(_rows(scanned, split), model) for split in ("train", "devel"))
    recorder = Recorder(out, recipe, on_epoch) if processes.is_main else None
    with processes.noticing_failures():
        history = fit(
            model,
            train,
            devel,
            processes=processes,
            checkpoint=out / CHECKPOINT,
            progress=progress,
            on_epoch=recorder or (lambda record: None),
        )
        calibrate(model, devel, processes)

    def finish() -> None:
        try:
            _write_history(history, out)
            if history:
                plot_history(history, out / "curves.png", monitor=recipe.monitor)
            model.save(out / "model")
        except OSError as error:
            raise TrainingError(
                f"{out}: the model cannot be written ({error}); make room or mend the permissions, "
                f"then go on with: deepspectrumlite train --resume {out}"
            ) from error
        (out / CHECKPOINT).unlink(missing_ok=True)

    processes.on_main(finish)
    return Trained(
        model,
        skipped=plan["skipped"],
        dropped=train.dropped + devel.dropped,
        drew_splits=plan["drew_splits"],
        # Not in runs that were begun with an older version.
        notes=tuple(plan.get("notes", ())),
    )


def evaluate_run(
    source: Path,
    manifest: Path | None,
    split: str,
    options: Options = Options(),
    *,
    out: Path | None = None,
    n_resamples: int = RESAMPLES,
    method: str = "percentile",
    threads: int = 1,
    progress: Progress = silent,
) -> tuple[dict[str, Any], Path]:
    """Evaluate a model on one split of a manifest, and write scores and pictures.

    Args:
        source: a run or model folder, or an exported file
        manifest: with a split column unless ``split`` is "all"; None: the run's own
        split: train, devel, test, or all
        options: how to treat this manifest on this machine
        out: where to write; None: a folder named after the split, inside the run; or beside an
            exported file, ``drums-test`` for ``drums.tflite``
        n_resamples: of the bootstrap
        method: of the intervals, "percentile" or "bca"
        threads: on which an exported file computes
        progress: told of every recording and batch

    Returns:
        the report as of :func:`deepspectrumlite.evaluate.evaluate_model`, and where it was written

    Raises:
        ModelError: no model there, or an unusable one
        ManifestError: none given for an exported file, the split is not in it, or a label is
            unknown to the model
        AudioError: a recording is bad, without ``options.skip_bad``
    """
    source = Path(source)
    recogniser = open_recogniser(source, device=options.device, threads=threads)
    recipe = _recipe_of(recogniser, source)
    data, output = recipe.data, recogniser.decision.output
    table = load_labelled(manifest or _own_manifest(source), data, output)
    if split != "all":
        _check_has_splits(table, source)
        require_splits(table, [split])
        table = _rows(table, split)
    beside = source.with_name(f"{source.stem}-{split}")
    out = out or (beside if source.is_file() else source / split)
    scanned, skipped = scan_split(table, data, options, progress)
    out.mkdir(parents=True, exist_ok=True)
    _write_skipped(skipped, out)
    report, predictions = evaluate_model(
        recogniser, recipe, scanned, n_resamples=n_resamples, method=method, progress=progress
    )
    report = {
        "split": split,
        "skipped": len(skipped),
        "seen_in_training": _count_seen(scanned, source),
        **report,
    }
    write_json(out / "scores.json", report)
    predictions.to_csv(out / "predictions.csv", index=False)
    plot_scores(report, predictions, recogniser.decision, data, out)
    return report, out


@dataclass(frozen=True)
class Calibrated:
    """A model that was calibrated again, and what that gave where it was fitted.

    ``decisions`` is the report of :func:`deepspectrumlite.calibration.decision_report` over the
    ``n_files``; None where the model gives several labels.
    """

    model: Classifier
    n_files: int
    decisions: dict[str, Any] | None


def calibrate_run(
    source: Path,
    manifest: Path | None = None,
    split: str = "devel",
    changes: Mapping[str, Any] | None = None,
    options: Options = Options(),
    *,
    progress: Progress = silent,
) -> Calibrated:
    """Fit again what makes answers of a model's scores, and write it into the model's folder.

    The network stays as it is. A file that was exported before is another copy: export it again.

    Args:
        source: a run or model folder
        manifest: with a split column unless ``split`` is "all"; None: the run's own
        split: to fit on: train, devel, test, or all
        changes: of the recipe's ``[decision]``, by key
        options: how to treat this manifest on this machine
        progress: told of every recording

    Raises:
        ModelError: no model folder there, or one that gives numbers
        RecipeError: ``[decision]`` cannot be changed so
        ManifestError: the split is not there, or a label is unknown to the model
        AudioError: a recording is bad, without ``options.skip_bad``
    """
    source = Path(source)
    if source.is_file():
        raise ModelError(
            f"{source}: an exported file cannot be calibrated; calibrate the run folder that it "
            "is from, then export it again"
        )
    folder = model_folder(source)
    model = load_model(folder)
    if model.recipe.model.output in NUMBERS:
        raise ModelError(
            f'{source}: its output is "{model.recipe.model.output}", which are numbers; allowed: '
            '"softmax" or "sigmoid", whose scores are probabilities'
        )
    model = decide_by(model, dict(changes or {}))
    data = model.recipe.data
    table = load_labelled(manifest or _own_manifest(source), data, model.recipe.model.output)
    if split != "all":
        _check_has_splits(table, source)
        require_splits(table, [split])
        table = _rows(table, split)
    scanned, _ = scan_split(table, data, options, progress)
    processes = Processes(choose_device(options.device))
    model.to(processes.device)
    segments = _segments(scanned, model)
    logits = score_segments(model, segments, processes, logits=True)
    scores = fit_decisions(model, logits, segments)
    model.to("cpu").save(folder)
    decisions = None
    if model.recipe.model.output == "softmax":
        target = segments.target[np.unique(segments.file_index)]
        decisions = decision_report(model.decision, model.recipe.decision, target, scores)
    return Calibrated(model, len(scores), decisions)


def _recipe_of(recogniser: Recogniser, source: Path) -> Recipe:
    try:
        return parse_recipe(recogniser.recipe, str(source))
    except RecipeError as error:
        raise ModelError(f"{error}; it was made by another version; upgrade the package") from None


def _own_manifest(source: Path) -> Path:
    """The manifest that a run or model folder was trained on, where none is given."""
    if source.is_file():
        raise ManifestError(
            f"{source}: an exported file does not know the recordings that it was trained on; "
            "give a manifest too: deepspectrumlite evaluate FILE MANIFEST"
        )
    return used_manifest(source) or source.parent / "manifest.csv"


def plot_scores(
    report: dict[str, Any],
    predictions: pd.DataFrame,
    decision: Decision,
    data: DataSection,
    out: Path,
) -> None:
    """The confusion matrix where there are classes, and truth against prediction of numbers."""
    output, title = decision.output, f"{report['split']}, files"
    if output in ("softmax", "ordinal"):
        files = report["files"]
        matrix = np.array(files.get("classes", files)["confusion"])
        plot_confusion(matrix, decision.labels, out / "confusion.png", title=title)
    if output in NUMBERS:
        truth = Targets(output, decision.labels, data).encode(predictions)
        names = decision.columns
        predicted = predictions[[f"predicted_{name}" for name in names]].to_numpy()
        plot_numbers(truth, predicted, names, out / "numbers.png", title=title)


def with_splits(table: pd.DataFrame, recipe: Recipe, options: Options) -> pd.DataFrame:
    """The table with train and devel in it, made where they are missing, and checked."""
    data = recipe.data
    targets = find_targets(table, data, recipe.model.output)
    check_enough_labels(table, targets)
    drawn = make_splits(
        table.assign(label=targets.strata(table)),
        devel_share=data.devel_share,
        test_share=data.test_share,
        seed=recipe.train.seed,
    )
    table = table.assign(split=drawn["split"])
    _check(table, recipe, options)
    return table


def _check(table: pd.DataFrame, recipe: Recipe, options: Options) -> Targets:
    """Refuse a table that one cannot train on."""
    require_splits(table, ["train", "devel"])
    targets = find_targets(table, recipe.data, recipe.model.output)
    check_enough_labels(table, targets)
    check_labelled_splits(table, targets, allow_group_overlap=options.allow_group_overlap)
    return targets


def read_scanned(manifest: Path, recipe: Recipe) -> pd.DataFrame:
    """A run's own manifest, with what decoding the recordings told."""
    table = load_labelled(manifest, recipe.data, recipe.model.output)
    return table.assign(duration=table["duration"].astype(float))


def _segments(rows: pd.DataFrame, model: Classifier) -> Segments:
    return Segments(rows, model.recipe.data, model.targets.encode(rows))


def scan_split(
    table: pd.DataFrame, data: DataSection, options: Options, progress: Progress
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Decode every recording once: the good ones, and the bad ones if they are allowed."""
    return scan(
        table,
        data,
        skip_bad=options.skip_bad,
        progress=lambda done, total: progress("checking recordings", done, total),
    )


def used_manifest(source: Path) -> Path | None:
    """The manifest that a model was trained on, given its run or model folder; None: not there."""
    beside = [] if source.is_file() else [source / "manifest.csv", source.parent / "manifest.csv"]
    return next((path for path in beside if path.is_file()), None)


def _check_folder(out: Path, overwrite: bool) -> None:
    taken = out.is_dir() and any(out.iterdir())
    if out.is_file():
        raise TrainingError(f"{out}: already there, and a file; choose another --out")
    if taken and not overwrite:
        raise TrainingError(
            f"{out}: already there; choose another --out, or pass --overwrite to replace it"
        )
    # Not manifest.csv: a folder of recordings may hold one, and must never be deleted.
    if taken and not (out / "history.jsonl").is_file():
        raise TrainingError(
            f"{out}: not a run folder, so it is not overwritten; choose another --out"
        )


def _make_folder(out: Path) -> None:
    try:
        if out.is_dir() and any(out.iterdir()):
            shutil.rmtree(out)
        out.mkdir(parents=True, exist_ok=True)
        (out / "history.jsonl").touch()  # marks a run folder from the start
    except OSError as error:
        raise TrainingError(
            f"{out}: cannot be written ({error.strerror}); choose another --out, or mend the "
            "permissions"
        ) from None


def from_anywhere(recipe: Recipe) -> Recipe:
    """The recipe with absolute folders, so that a run can go on from another directory."""
    folders = {"noise_folder": "white", "reverb_folder": "none"}
    given = {key: getattr(recipe.augment, key) for key in folders}
    absolute = {key: str(Path(x).absolute()) for key, x in given.items() if x != folders[key]}
    return recipe.model_copy(update={"augment": recipe.augment.model_copy(update=absolute)})


def _write_plan(plan: dict[str, Any], out: Path) -> None:
    text = json.dumps({"format": FORMAT, "version": __version__} | plan, indent=2)
    write_atomically(out / PLAN, lambda file: file.write(text.encode()))


def _read_plan(out: Path) -> dict[str, Any]:
    path = out / PLAN
    try:
        plan: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        missing = {"format", "recipe", "labels", "skipped", "drew_splits"} - set(plan)
    except (OSError, ValueError, TypeError) as error:
        raise TrainingError(f"{path}: broken ({error}); start the run anew") from None
    if not isinstance(plan, dict) or missing:
        raise TrainingError(f"{path}: broken (no {', '.join(sorted(missing))}); start the run anew")
    if plan["format"] > FORMAT:
        raise TrainingError(
            f"{path}: written by deepspectrumlite {plan.get('version')} in format "
            f"{plan['format']}; this is {__version__}, which reads up to format {FORMAT}, so "
            "upgrade the package"
        )
    return plan


def _write_skipped(skipped: pd.DataFrame, out: Path) -> None:
    listing = out / "skipped.csv"
    listing.unlink(missing_ok=True)
    if len(skipped):
        skipped.to_csv(listing, index=False)


class Recorder:
    """Writes each epoch down as soon as it ends, and tells the user."""

    def __init__(self, out: Path, recipe: Recipe, on_epoch: Callable[[Record], None]) -> None:
        self.history, self.on_epoch, self.writer = out / "history.jsonl", on_epoch, None
        if recipe.train.tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(out / "tensorboard")

    def __call__(self, record: Record) -> None:
        """Note an epoch."""
        try:
            with self.history.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise TrainingError(
                f"{self.history}: cannot be written ({error.strerror}); make room, then go on "
                f"with: deepspectrumlite train --resume {self.history.parent}"
            ) from error
        if self.writer is not None:
            for name, value in record.items():
                if isinstance(value, float):
                    self.writer.add_scalar(name, value, record["epoch"])
            self.writer.flush()
        self.on_epoch(record)


def _write_history(history: list[Record], out: Path) -> None:
    """All of it anew: a killed run may have noted an epoch that its checkpoint does not know."""
    lines = "".join(json.dumps(record) + "\n" for record in history)
    write_atomically(out / "history.jsonl", lambda file: file.write(lines.encode()))


def _check_has_splits(table: pd.DataFrame, source: Path) -> None:
    """Refuse to call all recordings the test set: training may have drawn its own from them."""
    if "split" in table:
        return
    used = used_manifest(source)
    hint = f", such as {used}, which holds the splits of this run" if used else ""
    raise ManifestError(
        f"{table.attrs['manifest']}: no column split; give a manifest with one{hint}, or pass "
        "--split all to score every recording"
    )


def _count_seen(scanned: pd.DataFrame, source: Path) -> int | None:
    """Recordings whose content the model was trained on; None where no run tells."""
    used = used_manifest(source)
    if used is None:
        return None
    trained = load_manifest(used, need_labels=False)
    digests = trained.loc[trained["split"] == "train", "digest"]
    return int(scanned["digest"].isin(digests).sum())


def _rows(table: pd.DataFrame, split: str) -> pd.DataFrame:
    rows = table[table["split"] == split].reset_index(drop=True)
    rows.attrs = dict(table.attrs)
    return rows

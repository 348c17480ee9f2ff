"""Run folders: from a manifest to a trained model with everything that made it, and its scores.

A run folder holds ``model/`` (weights, recipe, labels), ``manifest.csv`` with the splits that were
used, ``skipped.csv`` if recordings were skipped, ``history.jsonl``, ``curves.png``, and after an
evaluation a folder per split: ``scores.json``, ``predictions.csv``, ``confusion.png``.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from deepspectrumlite.config import DataSection, Recipe
from deepspectrumlite.data import Segments, scan
from deepspectrumlite.errors import ManifestError, TrainingError
from deepspectrumlite.evaluate import Progress, evaluate_model, silent
from deepspectrumlite.manifest import load_manifest, write_manifest
from deepspectrumlite.metrics import RESAMPLES
from deepspectrumlite.model import Classifier, load_model, write_json
from deepspectrumlite.plots import plot_confusion, plot_history
from deepspectrumlite.splits import check_splits, make_splits, require_splits
from deepspectrumlite.train import Record, fit


@dataclass(frozen=True)
class Options:
    """What concerns this machine and this manifest, not the recipe."""

    skip_bad: bool = False
    allow_group_overlap: bool = False
    overwrite: bool = False
    device: str = "auto"


@dataclass(frozen=True)
class Trained:
    """What training gave: a model, and the recordings of train and devel that it did without.

    ``skipped`` counts unreadable recordings, ``dropped`` those shorter than a segment;
    ``drew_splits`` tells whether the manifest left splits to be drawn.
    """

    model: Classifier
    skipped: int
    dropped: int
    drew_splits: bool


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
        TrainingError: the folder is taken, or the recipe asks for what cannot be trained
        ManifestError: the manifest is inconsistent
        AudioError: a recording is bad, without ``options.skip_bad``
    """
    if recipe.model.output != "softmax":
        raise TrainingError(
            f'model.output is "{recipe.model.output}", for which there is no training yet; '
            'allowed: "softmax"'
        )
    device = choose_device(options.device)
    given = load_manifest(manifest)
    table = with_splits(given, recipe, options)
    _check_folder(out, options.overwrite)
    scanned, skipped = scan_split(table, recipe.data, options, progress)
    check_splits(scanned, allow_group_overlap=options.allow_group_overlap)
    require_splits(scanned, ["train", "devel"])
    labels = sorted(scanned["label"].unique())
    if len(labels) < 2:
        raise TrainingError(f"{manifest}: only the label {labels[0]!r}; at least two are needed")
    torch.manual_seed(recipe.train.seed)
    model = Classifier(recipe, labels)
    # Only now: what fails before leaves everything as it was.
    _make_folder(out)
    _write_skipped(skipped, out)
    write_manifest(scanned, out / "manifest.csv")
    train, devel = (Segments(_rows(scanned, s), recipe.data, labels) for s in ("train", "devel"))
    history = fit(
        model,
        train,
        devel,
        device=device,
        progress=progress,
        on_epoch=_recorder(out, recipe, on_epoch),
    )
    model.save(out / "model")
    if history:
        plot_history(history, out / "curves.png", monitor=recipe.train.monitor)
    return Trained(
        model,
        skipped=len(skipped),
        dropped=train.dropped + devel.dropped,
        drew_splits="split" not in given or set(given["split"]) != set(table["split"]),
    )


def evaluate_run(
    folder: Path,
    manifest: Path | None,
    split: str,
    options: Options = Options(),
    *,
    out: Path | None = None,
    n_resamples: int = RESAMPLES,
    progress: Progress = silent,
) -> tuple[dict[str, Any], Path]:
    """Evaluate a model on one split of a manifest, and write scores and pictures.

    Args:
        folder: a run or model folder
        manifest: with a split column unless ``split`` is "all"; None: the run's own
        split: train, devel, test, or all
        options: how to treat this manifest on this machine
        out: where to write; None: a folder named after the split in ``folder``
        n_resamples: of the bootstrap
        progress: told of every recording and batch

    Returns:
        the report as of :func:`deepspectrumlite.evaluate.evaluate_model`, and where it was written

    Raises:
        ModelError: no model there
        ManifestError: the split is not in the manifest, or a label is unknown to the model
        AudioError: a recording is bad, without ``options.skip_bad``
    """
    model = load_model(folder)
    table = load_manifest(manifest or used_manifest(folder))
    if split != "all":
        _check_has_splits(table, folder)
        require_splits(table, [split])
        table = _rows(table, split)
    out = out or folder / split
    scanned, skipped = scan_split(table, model.recipe.data, options, progress)
    out.mkdir(parents=True, exist_ok=True)
    _write_skipped(skipped, out)
    report, predictions = evaluate_model(
        model,
        scanned,
        choose_device(options.device),
        n_resamples=n_resamples,
        progress=progress,
    )
    report = {
        "split": split,
        "skipped": len(skipped),
        "seen_in_training": _count_seen(scanned, folder),
        **report,
    }
    write_json(out / "scores.json", report)
    predictions.to_csv(out / "predictions.csv", index=False)
    matrix = np.array(report["files"]["confusion"])
    plot_confusion(matrix, model.labels, out / "confusion.png", title=f"{split}, files")
    return report, out


def with_splits(table: pd.DataFrame, recipe: Recipe, options: Options) -> pd.DataFrame:
    """The table with train and devel in it, made where they are missing, and checked."""
    data = recipe.data
    table = make_splits(
        table,
        devel_share=data.devel_share,
        test_share=data.test_share,
        seed=recipe.train.seed,
    )
    require_splits(table, ["train", "devel"])
    check_splits(table, allow_group_overlap=options.allow_group_overlap)
    return table


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


def used_manifest(folder: Path) -> Path:
    """Where the manifest that a model was trained on stands, given its run or model folder."""
    beside = folder / "manifest.csv"
    return beside if beside.is_file() else folder.parent / "manifest.csv"


def choose_device(name: str) -> torch.device:
    """A device by its name; ``auto`` takes a GPU where there is one.

    Raises:
        TrainingError: torch does not know or have that device
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # which "meta" cannot
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise TrainingError(
            f"--device {name}: {reason}; allowed: auto, cpu, cuda, cuda:0, mps, where present"
        ) from None
    return device


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
    if out.is_dir() and any(out.iterdir()):
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "history.jsonl").touch()  # marks a run folder from the start


def _write_skipped(skipped: pd.DataFrame, out: Path) -> None:
    listing = out / "skipped.csv"
    listing.unlink(missing_ok=True)
    if len(skipped):
        skipped.to_csv(listing, index=False)


def _recorder(
    out: Path, recipe: Recipe, on_epoch: Callable[[Record], None]
) -> Callable[[Record], None]:
    """Write each epoch down as soon as it ends."""
    history = out / "history.jsonl"
    writer = None
    if recipe.train.tensorboard:
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(out / "tensorboard")

    def record_epoch(record: Record) -> None:
        with history.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        if writer is not None:
            for name, value in record.items():
                if isinstance(value, float):
                    writer.add_scalar(name, value, record["epoch"])
            writer.flush()
        on_epoch(record)

    return record_epoch


def _check_has_splits(table: pd.DataFrame, folder: Path) -> None:
    """Refuse to call all recordings the test set: training may have drawn its own from them."""
    if "split" in table:
        return
    used = used_manifest(folder)
    hint = f", such as {used}, which holds the splits of this run" if used.is_file() else ""
    raise ManifestError(
        f"{table.attrs['manifest']}: no column split; give a manifest with one{hint}, or pass "
        "--split all to score every recording"
    )


def _count_seen(scanned: pd.DataFrame, folder: Path) -> int | None:
    """Recordings whose content the model was trained on; None where no run tells."""
    used = used_manifest(folder)
    if not used.is_file():
        return None
    trained = load_manifest(used)
    digests = trained.loc[trained["split"] == "train", "digest"]
    return int(scanned["digest"].isin(digests).sum())


def _rows(table: pd.DataFrame, split: str) -> pd.DataFrame:
    rows = table[table["split"] == split].reset_index(drop=True)
    rows.attrs = dict(table.attrs)
    return rows

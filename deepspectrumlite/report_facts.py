"""What a run folder tells about its model, as plain tables and sentences."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from deepspectrumlite.config import DataSection, Recipe
from deepspectrumlite.errors import ManifestError, ModelError
from deepspectrumlite.intervals import FEW_GROUPS
from deepspectrumlite.manifest import SPLITS
from deepspectrumlite.model import NUMBERS, Classifier, load_model
from deepspectrumlite.predict import model_folder
from deepspectrumlite.progress import Progress, silent
from deepspectrumlite.runs import evaluate_run, read_scanned
from deepspectrumlite.scores import quoted, quoted_over
from deepspectrumlite.summary import summarise

TITLES = {
    "uar": "UAR",
    "map": "MAP",
    "ccc": "CCC",
    "accuracy": "Accuracy",
    "macro_f1": "Macro F1",
    "weighted_f1": "Weighted F1",
    "auc": "AUC",
    "ece": "Calibration error (ECE)",
    "pearson": "Pearson's r",
    "spearman": "Spearman's rho",
    "mae": "MAE",
    "rmse": "RMSE",
}
MEANINGS = {
    "uar": "Unweighted average recall: the mean of the recalls of the classes.",
    "map": "Mean average precision: the mean over the labels; it needs no threshold.",
    "ccc": "Concordance correlation coefficient: a correlation that a wrong scale lowers.",
}
_ANSWERS = {
    "softmax": "one of {} labels",
    "sigmoid": "any number of {} labels",
    "linear": "{} numbers",
    "ordinal": "one of {} ordered labels, and a number",
}


@dataclass(frozen=True)
class Table:
    """A table to be shown; the first cell of each row names it."""

    caption: str
    columns: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Facts:
    """What a run folder holds.

    ``manifest`` is the run's own, None where it is not there. ``split`` is the one that ``scores``
    (``scores.json``) and ``predictions`` (``predictions.csv``, all text) belong to.
    """

    run: Path
    model: Classifier
    manifest: pd.DataFrame | None
    history: list[dict[str, Any]]
    plan: dict[str, Any]
    split: str
    scores: dict[str, Any]
    predictions: pd.DataFrame

    @property
    def recipe(self) -> Recipe:
        """What the model was trained by."""
        return self.model.recipe

    @property
    def output(self) -> str:
        """The kind of answer: softmax, sigmoid, linear or ordinal."""
        return self.model.recipe.model.output

    @property
    def metric(self) -> str:
        """The score to quote, by its key in the scores."""
        return {"softmax": "uar", "sigmoid": "map"}.get(self.output, "ccc")

    @property
    def output_names(self) -> list[str]:
        """(n_outputs,): the labels, or what the numbers are called."""
        return ["value"] if self.output == "ordinal" else self.model.labels

    @property
    def target(self) -> npt.NDArray[np.float32]:
        """(n_files, n_outputs): the truth of the predictions."""
        return self.model.targets.encode(self.predictions)

    @property
    def predicted(self) -> npt.NDArray[np.float64]:
        """(n_files, n_outputs): the scores of the predictions."""
        kind = "predicted" if self.output in NUMBERS else "score"
        columns = [f"{kind}_{name}" for name in self.output_names]
        return self.predictions[columns].to_numpy(np.float64)


def read_facts(run: Path, split: str | None = None, *, progress: Progress = silent) -> Facts:
    """Read a run folder; evaluate its model first where that has not been done.

    Args:
        run: the run folder
        split: whose scores are wanted; None: test where the run's manifest has it, else devel
        progress: told of every recording and batch where the model has to be evaluated

    Raises:
        ModelError: no run there, or a file of it is broken
        ManifestError: no such split
        AudioError: a recording that has to be scored cannot be read
    """
    check_run(run)
    model = load_model(run)
    own = run / "manifest.csv"
    manifest = read_scanned(own, model.recipe) if own.is_file() else None
    known = SPLITS if manifest is None else [x for x in SPLITS if x in set(manifest["split"])]
    split = split or ("test" if "test" in known else "devel")
    folder = run / split
    if not (folder / "scores.json").is_file():
        if split not in known:
            raise ManifestError(f"{own}: no split {split!r}; allowed: {', '.join(known)}")
        evaluate_run(run, None, split, progress=progress)
    predictions = pd.read_csv(folder / "predictions.csv", dtype=str, keep_default_na=False)
    predictions.attrs["manifest"] = str(folder / "predictions.csv")
    history = run / "history.jsonl"
    lines = history.read_text(encoding="utf-8").splitlines() if history.is_file() else []
    return Facts(
        run=run,
        model=model,
        manifest=manifest,
        history=[json.loads(line) for line in lines],
        plan=read_object(run / "run.json") if (run / "run.json").is_file() else {},
        split=split,
        scores=read_object(folder / "scores.json"),
        predictions=predictions,
    )


def check_run(run: Path) -> None:
    """Refuse what is no run folder.

    Raises:
        ModelError: nothing there, a model without its run, or a system of several folds
    """
    if (run / "system.json").is_file() and not (run / "model").is_dir():
        folds = sorted(path.parent for path in run.glob("*/model") if path.is_dir())
        if folds:
            raise ModelError(
                f"{run}: a system of several folds, with a run in each of them; allowed: one of "
                f"these {len(folds)} runs, such as {folds[0]}"
            )
        raise ModelError(
            f"{run}: a system without runs (a baseline, or not trained yet), which has no page; "
            "allowed: a run folder, as `deepspectrumlite train` writes it"
        )
    model_folder(run)
    if not (run / "model").is_dir():
        raise ModelError(
            f"{run}: a model without its run; allowed: a run folder, as `deepspectrumlite train` "
            "writes it, with model, manifest.csv and history.jsonl"
        )


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ModelError: it cannot be read, or holds something else
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: broken ({error}); make it again") from None
    if not isinstance(found, dict):
        raise ModelError(f"{path}: holds a {type(found).__name__}, not an object; make it again")
    return found


def with_interval(estimate: Mapping[str, Any], digits: int = 3) -> str:
    """A value and what is known of its interval, as text: 0.712 [0.601, 0.803]."""
    if estimate.get("value") is None:
        return "–"
    value = f"{estimate['value']:.{digits}f}"
    if estimate.get("low") is None:
        return value
    return f"{value} [{estimate['low']:.{digits}f}, {estimate['high']:.{digits}f}]"


def data_table(facts: Facts) -> Table | None:
    """What was trained, chosen and tested on, per split; None where the manifest is not there."""
    if facts.manifest is None:
        return None
    rows = []
    for split, counts in _counts(facts).groupby("split", sort=False):
        classes = str(int((counts["label"] != "total").sum())) if split != "total" else ""
        rows.append([str(split), classes, *_count_cells(counts.iloc[-1])])
    columns = ["split", "classes", "files", "groups", "minutes", "mean (s)", "SD (s)"]
    return Table("Recordings by split; mean and standard deviation of the duration", columns, rows)


def class_table(facts: Facts) -> Table | None:
    """The same for each class (or range of numbers) of each split."""
    if facts.manifest is None:
        return None
    counts = _counts(facts)
    counts = counts[counts["label"] != "total"]
    rows = [
        [str(row["label"]), str(row["split"]), *_count_cells(row)] for _, row in counts.iterrows()
    ]
    columns = ["label", "split", "files", "groups", "minutes", "mean (s)", "SD (s)"]
    return Table("Recordings by split and label", columns, rows)


def _counts(facts: Facts) -> pd.DataFrame:
    assert facts.manifest is not None, "counted without a manifest"
    strata = facts.model.targets.strata(facts.manifest)
    return summarise(facts.manifest.assign(label=strata))


def _count_cells(row: "pd.Series[Any]") -> list[str]:
    numbers = [f"{row[name]:.2f}" for name in ("minutes", "mean", "sd")]
    cells = [str(row["files"]), str(row["groups"] or "–"), *numbers]
    return ["–" if cell == "nan" else cell for cell in cells]


def score_table(facts: Facts) -> Table:
    """Each metric over groups (where there are any), files, and segments, with its intervals."""
    files = facts.scores["files"]
    blocks = {quoted_over(files): quoted(files), f"{files['n']} files": files}
    if "segments" in facts.scores:
        blocks[f"{facts.scores['segments']['n']} segments"] = facts.scores["segments"]
    rows = []
    for found in (blocks, {name: block.get("classes", {}) for name, block in blocks.items()}):
        for key, title in TITLES.items():
            if any(key in block for block in found.values()):
                rows.append(
                    [title, *[with_interval(block.get(key, {})) for block in found.values()]]
                )
    return Table(f"Scores on {facts.split}, each with its 95 % interval", ["score", *blocks], rows)


def label_table(facts: Facts) -> Table | None:
    """Scores of each label, or of each number; None where there is a single number."""
    files = facts.scores["files"]
    block, over = quoted(files), quoted_over(files)
    block, files = block.get("classes", block), files.get("classes", files)
    caption = f"Scores of each label on {facts.split}, with 95 % intervals over {over}"
    if "recall" in block:
        support = np.array(files["confusion"]).sum(axis=1)
        precision = block.get("precision", {})
        rows = [
            [label, str(n), with_interval(recall)]
            for (label, recall), n in zip(block["recall"].items(), support, strict=True)
        ]
        if precision:
            rows = [[*row, with_interval(precision[row[0]])] for row in rows]
        columns = ["label", "files", "recall", "precision"]
        return Table(caption, columns[: 3 + bool(precision)], rows)
    if "labels" in block:
        known = files["labels"]
        rows = [
            [
                label,
                str(known[label]["positives"]),
                with_interval(found["average_precision"]),
                with_interval(found["f1"]),
                f"{known[label]['threshold']:.3f}",
            ]
            for label, found in block["labels"].items()
        ]
        columns = ["label", "files", "average precision", "F1", "threshold"]
        return Table(caption, columns, rows)
    if len(block["targets"]) == 1:
        return None
    keys = ("ccc", "pearson", "spearman", "mae", "rmse")
    rows = [
        [name, *[with_interval(found[key]) for key in keys]]
        for name, found in block["targets"].items()
    ]
    columns = ["number", *[TITLES[key] for key in keys]]
    return Table(caption.replace("each label", "each number"), columns, rows)


def group_table(facts: Facts) -> Table | None:
    """How well each group is recognised; None without several. The values are plain, worst first.

    For one label: the share of files that is right, and the mean of the recalls of the classes that
    the group has. For several labels: the share of all their decisions that is right. For numbers:
    the mean absolute error.
    """
    groups = facts.predictions.get("group", pd.Series(dtype=str))
    if groups.nunique() < 2:
        return None
    target, scores, rows = facts.target, facts.predicted, []
    for name in sorted(set(groups)):
        inside = (groups == name).to_numpy()
        values = _group_scores(facts, target[inside], scores[inside])
        rows.append((name or "(none)", int(inside.sum()), values))
    better = -1 if facts.output == "linear" else 1
    rows.sort(key=lambda row: better * row[2][0])
    columns = {
        "softmax": ["accuracy", "UAR of its classes"],
        "sigmoid": ["share of right decisions"],
        "linear": ["MAE"],
        "ordinal": ["accuracy", "MAE"],
    }[facts.output]
    shown = [[name, str(n), *[f"{value:.3f}" for value in values]] for name, n, values in rows]
    return Table(f"Groups of {facts.split}", ["group", "files", *columns], shown)


def _group_scores(
    facts: Facts, target: npt.NDArray[np.float32], scores: npt.NDArray[np.float64]
) -> list[float]:
    decision = facts.model.decision
    if facts.output == "sigmoid":
        return [float(((target > 0.5) == decision.present(scores)).mean())]
    error = float(np.abs(target - scores).mean())
    if facts.output == "linear":
        return [error]
    truth, predicted = decision.classes(target), decision.classes(scores)
    right = truth == predicted
    if facts.output == "ordinal":
        return [float(right.mean()), error]
    recalls = [float(right[truth == label].mean()) for label in np.unique(truth)]
    return [float(right.mean()), float(np.mean(recalls))]


def limits(facts: Facts) -> list[str]:
    """What a reader has to know before believing the scores."""
    files, found = facts.scores["files"], []
    if facts.split == "devel":
        found.append(
            "These are the scores on devel, by which the best epoch was chosen: on new recordings "
            "they will be lower."
        )
    if facts.split == "train":
        found.append("These are the scores on what the model learned from: they say little.")
    by_group = files.get("by_group", {})
    if "warning" in by_group:
        found.append(f"{by_group['warning'][:1].upper()}{by_group['warning'][1:]}.")
    if facts.metric == "ccc" and FEW_GROUPS <= by_group.get("n_groups", 0) <= 20:
        # As benchmarks/coverage.md counts.
        found.append("Over so few groups, the interval of the CCC is likely too narrow.")
    if not by_group:
        found.append(
            "The manifest names no groups (speakers, places): recordings of the same one may be in "
            "train and test, and then the scores are too good."
        )
    if facts.scores.get("seen_in_training") and facts.split != "train":
        n = facts.scores["seen_in_training"]
        found.append(f"{n} of these recordings were trained on, so the scores are too good.")
    for key, what in (
        ("skipped", "were unreadable and left out"),
        ("files_without_a_segment", "were shorter than a segment and left out"),
    ):
        if facts.scores.get(key):
            found.append(f"{facts.scores[key]} recordings of this split {what}.")
    if facts.plan.get("skipped"):
        found.append(f"{facts.plan['skipped']} unreadable recordings were left out of the run.")
    return [*found, *_mismatches(facts)]


def _mismatches(facts: Facts) -> list[str]:
    """Where scores, model and manifest do not belong together."""
    found = []
    if facts.manifest is not None:
        rows = facts.manifest["split"] == facts.split
        foreign = ~facts.predictions["path"].isin(facts.manifest.loc[rows, "path"])
        if foreign.any():
            found.append(
                f"{int(foreign.sum())} of the {len(foreign)} scored recordings are not in the "
                f"run's manifest as {facts.split}: another manifest was evaluated, or it has moved."
            )
    weights = facts.run / "model" / "model.safetensors"
    scores = facts.run / facts.split / "scores.json"
    # A copy can be off by a second or two.
    if weights.stat().st_mtime > scores.stat().st_mtime + 2:
        found.append(
            "The model's file is newer than its scores; if it was changed, evaluate it again."
        )
    return found


def _cutting(data: DataSection) -> str:
    if data.segment_seconds == "whole":
        return "whole recordings"
    return f"{data.segment_seconds:g} s every {data.hop_seconds:g} s"


def setting_rows(facts: Facts) -> list[tuple[str, str]]:
    """What was trained, in a few lines: (name, value)."""
    data, frontend, model = facts.recipe.data, facts.recipe.frontend, facts.recipe.model
    train, monitor = facts.recipe.train, facts.recipe.monitor
    image = f"{frontend.image_height} × {frontend.image_width} pixels"
    bands = f"{frontend.n_mels} mel bands" if frontend.frequency == "mel" else "linear frequency"
    if frontend.n_mfcc:
        bands = f"{frontend.n_mfcc} MFCC"
    top = frontend.fmax_hz(data.sample_rate)
    n_parameters = sum(p.numel() for p in facts.model.parameters())
    return [
        ("answer", _ANSWERS[facts.output].format(len(facts.model.labels))),
        (
            "segments",
            f"{_cutting(data)}, {data.sample_rate} Hz",
        ),
        ("image", f"{image}: {bands}, {frontend.fmin:g} to {top:g} Hz, {frontend.color_map}"),
        ("backbone", f"{model.backbone}, {n_parameters / 1e6:.2f} million parameters in all"),
        ("weights to start from", model.weights),
        ("training", f"{train.head_epochs} epochs of the head, {train.epochs} of fine-tuning"),
        ("optimiser", f"{train.optimizer}, {train.schedule}, batches of {train.batch_size}"),
        ("loss", facts.recipe.loss),
        ("seed", str(train.seed)),
        ("best epoch chosen by", f"devel {TITLES.get(monitor, monitor)}"),
    ]

"""Scores of a model over a split: per segment, and per file as the mean of its segments."""

import signal
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.special import logsumexp
from torch.utils.data import DataLoader, Subset

from deepspectrumlite.calibration import (
    MARGIN,
    decision_report,
    file_evidence,
    fit_temperature,
    lower_bound,
)
from deepspectrumlite.config import DataSection, Recipe, TrainSection
from deepspectrumlite.data import Segments
from deepspectrumlite.decisions import Decision
from deepspectrumlite.metrics import (
    RESAMPLES,
    accuracy,
    confusion_matrix,
    macro_f1,
    macro_mean,
    uar,
)
from deepspectrumlite.model import NEVER, NO_SETS, NUMBERS, Classifier, TorchRecogniser
from deepspectrumlite.predict import Recogniser
from deepspectrumlite.processes import Processes
from deepspectrumlite.progress import Progress, silent
from deepspectrumlite.row_metrics import (
    average_precision,
    best_thresholds,
    ccc,
    label_f1,
    mae,
    pearson,
    rmse,
    spearman,
)
from deepspectrumlite.scores import score_report
from deepspectrumlite.targets import Targets

_OF_NUMBERS = {"ccc": ccc, "pearson": pearson, "spearman": spearman, "mae": mae, "rmse": rmse}


def make_loader(
    segments: Any, section: TrainSection, *, same_length: bool, **options: Any
) -> DataLoader[Any]:
    """Batches of (waveforms, targets, segment indices), decoded in worker processes.

    Waveforms are (batch, num_samples). Those of different lengths come one at a time; or, with a
    ``batch_sampler``, as a list of (num_samples,).
    """
    # Starting a process costs more than decoding a few batches.
    workers = min(section.workers, len(segments) // (4 * section.batch_size))
    if "batch_sampler" not in options:
        options["batch_size"] = section.batch_size if same_length else 1
    elif not same_length:
        options["collate_fn"] = _as_lists
    return DataLoader(
        segments,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_ignore_signals,
        # Of its own: how often it draws, to seed the workers, depends on their number.
        generator=torch.Generator(),
        **options,
    )


def _as_lists(batch: list[tuple[np.ndarray, np.ndarray, int]]) -> tuple[Any, ...]:
    waveforms, targets, indices = zip(*batch, strict=True)
    target = torch.from_numpy(np.stack(targets))
    return [torch.from_numpy(waveform) for waveform in waveforms], target, torch.tensor(indices)


def _ignore_signals(worker: int) -> None:
    """Ctrl-C and a batch system's SIGTERM reach all processes; the main one decides when to stop.

    A worker ends with it in any case.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def score_segments(
    model: Classifier, segments: Segments, processes: Processes, *, logits: bool = False
) -> np.ndarray:
    """``(n_segments, n_outputs)`` scores, in the order of the segments, by all processes.

    Those of the labels alone; or, with ``logits``, what they are made of.
    """
    own = range(processes.rank, len(segments), processes.count)
    recogniser = (_Logits if logits else TorchRecogniser)(model, processes.device)
    found = _score(recogniser, Subset(segments, own), model.recipe.train, silent)  # type: ignore[arg-type]
    scores = np.zeros((len(segments), model.n_outputs), np.float32)
    for rank, part in enumerate(processes.gather(found)):
        scores[rank :: processes.count] = part[:, : model.n_outputs]
    return scores


class _Logits(TorchRecogniser):
    """Gives what scores are made of."""

    @property
    def decision(self) -> Decision:
        return replace(super().decision, unknown="none")

    @torch.inference_mode()
    def score(self, segments: np.ndarray) -> np.ndarray:
        images = self.model.frontend(torch.from_numpy(segments).to(self.device))
        return self.model.logits(images).float().cpu().numpy()


def _score(
    recogniser: Recogniser, segments: Any, section: TrainSection, progress: Progress
) -> np.ndarray:
    loader = make_loader(segments, section, same_length=recogniser.cutting.segment_samples > 0)
    found = [np.zeros((0, len(recogniser.decision.columns)), np.float32)]
    for step, (waveform, _, _) in enumerate(loader, 1):
        found.append(recogniser.score(waveform.numpy()))
        progress("scoring segments", step, len(loader))
    return np.concatenate(found)


def average_files(scores: np.ndarray, segments: Segments) -> tuple[np.ndarray, np.ndarray]:
    """``(n_segments, n_outputs)`` -> ``(n_files, n_outputs)``: means, and the targets.

    Files are in the order of the table; those without a segment are left out.
    """
    files, inverse = np.unique(segments.file_index, return_inverse=True)
    sums = np.zeros((len(files), scores.shape[1]))
    np.add.at(sums, inverse, scores)
    return sums / np.bincount(inverse)[:, None], segments.target[files]


def devel_scores(model: Classifier, devel: Segments, processes: Processes) -> dict[str, float]:
    """Loss and metrics over the files of the devel split."""
    scores, target = average_files(score_segments(model, devel, processes), devel)
    loss = _loss(model, scores, target)
    # Where the weights have diverged there is nothing to measure.
    found = _metrics(model, scores, target) if np.isfinite(scores).all() else {}
    return {f"devel_{name}": float(value) for name, value in {"loss": loss, **found}.items()}


def _loss(model: Classifier, scores: np.ndarray, target: np.ndarray) -> float:
    """Of files: cross-entropy, or for numbers the squared error in units of train's variance."""
    output = model.recipe.model.output
    if output in NUMBERS:
        error = (scores - target) / model.scale.cpu().numpy()
        return float(np.square(error).mean())
    likelihood = -target * np.log(scores.clip(1e-12))
    if output == "softmax":
        return float(likelihood.sum(axis=1).mean())
    return float((likelihood - (1 - target) * np.log((1 - scores).clip(1e-12))).mean())


def _metrics(model: Classifier, scores: np.ndarray, target: np.ndarray) -> dict[str, Any]:
    output, decision = model.recipe.model.output, model.decision
    found: dict[str, Any] = {}
    if output == "sigmoid":
        there = target > 0.5
        decided = scores >= best_thresholds(there, scores)
        found["map"] = macro_mean(average_precision(there, scores))
        found["macro_f1"] = macro_mean(label_f1(there, decided))
    if output in NUMBERS:
        columns = list(zip(target.T, scores.T, strict=True))
        for name, metric in _OF_NUMBERS.items():
            found[name] = np.mean([metric(truth, value) for truth, value in columns])
    if output in ("softmax", "ordinal"):
        truth, predicted = decision.classes(target), decision.classes(scores)
        matrix = confusion_matrix(truth, predicted, len(model.labels))
        found |= {"uar": uar(matrix), "accuracy": accuracy(matrix), "macro_f1": macro_f1(matrix)}
    return found


def calibrate(model: Classifier, devel: Segments, processes: Processes) -> None:
    """Fit on devel what makes answers of logits; numbers stay as they are."""
    if model.recipe.model.output not in NUMBERS:
        fit_decisions(model, score_segments(model, devel, processes, logits=True), devel)


def fit_decisions(model: Classifier, logits: np.ndarray, devel: Segments) -> np.ndarray:
    """Fit what makes scores of logits, and answers of the scores of files.

    That is the temperature, of output "sigmoid" each label's, and its threshold with the best F1;
    of "softmax" what the recipe's ``[decision]`` asks for.

    Args:
        model: what is fitted
        logits: (n_segments, n_labels)
        devel: what they are of

    Returns:
        (n_files, n_columns) scores, now calibrated
    """
    output, decision = model.recipe.model.output, model.decision
    model.temperature.fill_(1)
    scores = decision.known(_scores(model, logits))
    temperature = fit_temperature(scores, devel.target[devel.file_index], output)
    model.temperature.copy_(torch.tensor(temperature))
    by_file, target = average_files(_scores(model, logits), devel)
    if output == "sigmoid":
        model.thresholds.copy_(torch.from_numpy(best_thresholds(target > 0.5, by_file)))
        return by_file
    _fit_sets(model, decision.known(by_file), target)
    _fit_unknown(model, decision.known(by_file), logits / temperature, devel)
    return average_files(_scores(model, logits), devel)[0]


@torch.no_grad()
def _scores(model: Classifier, logits: np.ndarray) -> np.ndarray:
    scores: np.ndarray = (
        model.scores(torch.from_numpy(logits).to(model.temperature.device)).cpu().numpy()
    )
    return scores


def _fit_sets(model: Classifier, scores: np.ndarray, target: np.ndarray) -> None:
    coverage, lowest = model.recipe.decision.coverage, NO_SETS
    if coverage:
        # Of too few files nothing is known: every label of every file is likely enough.
        lowest = max(0.0, lower_bound((scores * target).sum(axis=1), 1 - coverage))
    model.conformal.fill_(lowest)


def _fit_unknown(
    model: Classifier, scores: np.ndarray, logits: np.ndarray, devel: Segments
) -> None:
    """From ``(n_files, n_labels)`` scores, or ``(n_segments, n_labels)`` calibrated logits."""
    section = model.recipe.decision
    if section.unknown == "score":
        bound = lower_bound(scores.max(axis=1), section.false_rejection)
        model.score_below.fill_(max(bound, NEVER["score_below"]))
    if section.unknown == "energy":
        evidence = file_evidence(logsumexp(logits, axis=1), devel.file_index)
        bound = lower_bound(evidence, section.false_rejection, margin=10 * MARGIN)
        model.energy_below.fill_(max(bound, NEVER["energy_below"]))


def evaluate_model(
    recogniser: Recogniser,
    recipe: Recipe,
    scanned: pd.DataFrame,
    *,
    n_resamples: int = RESAMPLES,
    method: str = "percentile",
    progress: Progress = silent,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Score labelled recordings.

    Args:
        recogniser: a trained model, or an exported file
        recipe: what it was trained by
        scanned: one split, as of :func:`deepspectrumlite.data.scan`
        n_resamples: of the bootstrap
        method: of the intervals, "percentile" or "bca"
        progress: told of every batch

    Returns:
        the report: "files" and "segments", each as of the function of
        :mod:`deepspectrumlite.scores` for the model's output, with intervals over files, and over
        groups where there are any; "decisions", where there are sets of labels or refusals, as of
        :func:`deepspectrumlite.calibration.decision_report`; and a table with the prediction and
        scores of each file

    Raises:
        ManifestError: a label that the model does not know, or no segment at all
        AudioError: a recording cannot be read any more
    """
    decision = recogniser.decision
    targets = Targets(decision.output, decision.labels, recipe.data)
    segments = Segments(scanned, recipe.data, targets.encode(scanned))
    scores = _score(recogniser, segments, recipe.train, progress)
    by_file, truth = average_files(scores, segments)
    kept = scanned.iloc[np.unique(segments.file_index)].reset_index(drop=True)
    groups, groups_of_segments = find_groups(kept), find_groups(scanned)
    if groups_of_segments is not None:
        groups_of_segments = groups_of_segments[segments.file_index]
    options: dict[str, Any] = {"n_resamples": n_resamples, "seed": recipe.train.seed}
    by_method = options | {"method": method}
    known = decision.known(by_file)
    report = {
        "output": decision.output,
        "files": score_report(decision, truth, known, groups=groups, **by_method),
        "segments": score_report(
            decision,
            segments.target[segments.file_index],
            decision.known(scores),
            units=segments.file_index,
            groups=groups_of_segments,
            **by_method,
        ),
        "files_without_a_segment": segments.dropped,
    }
    if decision.conformal is not None or decision.unknown != "none":
        wanted = recipe.decision
        found = decision_report(decision, wanted, truth, by_file, groups=groups, **by_method)
        report["decisions"] = found
    return report, prediction_table(decision, recipe.data, kept, by_file)


def prediction_table(
    decision: Decision, data: DataSection, kept: pd.DataFrame, scores: np.ndarray
) -> pd.DataFrame:
    """A row per file: what is known of it, what is predicted, and the scores."""
    output = decision.output
    known = ("path", "start", "end", "group", *data.targets)
    table = kept[[name for name in known if name in kept]].copy()
    if output != "linear":
        joined = [data.separator.join(decision.answer(row)) for row in scores]
        table["predicted"] = joined
    kind = "predicted" if output in NUMBERS else "score"
    names = [f"{kind}_{name}" for name in decision.columns]
    return table.join(pd.DataFrame(scores, columns=names))


def find_groups(scanned: pd.DataFrame) -> np.ndarray | None:
    """(n_files,): who or what each recording came from; None where no group is given."""
    if "group" not in scanned or (scanned["group"] == "").all():
        return None
    # A recording without a group stands for itself.
    names = scanned["group"].where(scanned["group"] != "", "file " + scanned["path"])
    return names.to_numpy(str)

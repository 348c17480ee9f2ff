"""The training loop, both phases in plain sight: the head alone, then the backbone's last layers.

:func:`deepspectrumlite.runs.train_run` wraps it: from a manifest to a run folder.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from deepspectrumlite.augment import Augmentation
from deepspectrumlite.checkpoint import Signals, held_back, load_checkpoint, save_checkpoint
from deepspectrumlite.config import Recipe
from deepspectrumlite.data import Segments
from deepspectrumlite.errors import Interrupted, TrainingError
from deepspectrumlite.evaluate import devel_scores, make_loader
from deepspectrumlite.learner import Learner, Phase
from deepspectrumlite.losses import sampling_weights
from deepspectrumlite.model import NUMBERS, Classifier
from deepspectrumlite.optim import Best, set_training_mode
from deepspectrumlite.processes import Processes
from deepspectrumlite.progress import Progress, silent

Record = dict[str, Any]
"""One epoch's line in the history."""


@dataclass
class State:
    """Where training stands; a checkpoint holds this, the learner's state, and the best weights.

    ``epoch`` and ``step`` are those that are done, in the phase and in the epoch. ``rate`` (with
    which it began), ``losses`` and ``seconds`` belong to the epoch that is under way.
    """

    phase: int = 0
    epoch: int = 0
    step: int = 0
    rate: float = 0.0
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0
    history: list[Record] = field(default_factory=list)


def fit(
    model: Classifier,
    train: Segments,
    devel: Segments,
    *,
    processes: Processes,
    checkpoint: Path | None = None,
    progress: Progress = silent,
    on_epoch: Callable[[Record], None] = lambda record: None,
) -> list[Record]:
    """Train a model in place; it ends with the weights of the epoch that the recipe keeps.

    Args:
        model: as built from its recipe, whose ``[train]`` and ``[augment]`` sections are used
        train: segments to learn from
        devel: segments that choose the best epoch
        processes: where to compute
        checkpoint: the file to save to, after every epoch and every so many minutes. Where it
            exists, training goes on from it, and ends as if it had never stopped
        progress: told of every batch
        on_epoch: told of every epoch, as soon as it ends

    Returns:
        the history: a record per epoch

    Raises:
        TrainingError: the loss is no longer finite, or the checkpoint cannot be written
        Interrupted: Ctrl-C; the checkpoint is written
    """
    run = Run(model, train, devel, processes, checkpoint, progress)
    saved = load_checkpoint(checkpoint, processes.device) if checkpoint else None
    if saved is not None:
        with _fitting(checkpoint):
            run.state = State(**saved["state"])
            run.best.load_state_dict(saved["best"])
    with held_back() as signals:
        while run.state.phase < len(run.phases):
            learner = run.new_learner()
            if saved is not None:
                with _fitting(checkpoint):
                    learner.load_state_dict(saved["learner"])
                saved = None
            for record in run_phase(run, learner, signals):
                on_epoch(record)
            run.state.phase, run.state.epoch = run.state.phase + 1, 0
            run.best.new_phase()
    run.best.restore(model)
    model.eval()
    return run.state.history


class Run:
    """What stays the same through training, and the state, which does not."""

    def __init__(
        self,
        model: Classifier,
        train: Segments,
        devel: Segments,
        processes: Processes,
        checkpoint: Path | None,
        progress: Progress,
    ) -> None:
        recipe, section = model.recipe, model.recipe.train
        processes.check_batch_size(section.batch_size, section.accumulate)
        self.model, self.devel, self.processes = model, devel, processes
        self.checkpoint, self.progress = checkpoint, progress
        self.target = train.target[train.file_index]
        model.to(processes.device)
        model.backbone.to(memory_format=torch.channels_last)
        if recipe.model.output in NUMBERS:
            _set_unit(model, self.target)
        self.augmentation = Augmentation(recipe.augment, recipe.data).to(processes.device)
        self.batches = Batches(self.target, recipe, processes)
        self.loader: DataLoader[Any] = make_loader(
            train,
            section,
            same_length=model.recipe.data.segment_samples > 0,
            batch_sampler=self.batches,
        )
        self.phases = (
            Phase("head", section.head_epochs, section.head_learning_rate, 0.0),
            Phase("fine_tune", section.epochs, section.learning_rate, section.fine_tune_share),
        )
        self.best, self.state = Best(recipe), State()

    def new_learner(self) -> Learner:
        """For the phase that the state says."""
        return Learner(
            self.model,
            self.phases[self.state.phase],
            self.target,
            len(self.batches),
            self.augmentation,
            self.processes,
        )

    def save(self, learner: Learner) -> None:
        """Write the checkpoint, in the main process."""
        if self.checkpoint is None:
            return
        state = {
            "state": asdict(self.state),
            "learner": learner.state_dict(),
            "best": self.best.state_dict(),
        }
        path = self.checkpoint
        self.processes.on_main(lambda: save_checkpoint(path, state))


def run_phase(run: Run, learner: Learner, signals: Signals) -> Iterator[Record]:
    """Train for what is left of a phase, yielding a record after each epoch."""
    state = run.state
    phase = run.phases[state.phase]
    while state.epoch < phase.epochs and not run.best.ran_out_of_patience:
        if state.step == 0:
            state.rate = learner.optimizer.param_groups[0]["lr"]
        run_epoch(run, learner, signals)
        started = time.perf_counter()
        run.processes.share_buffers(learner.judged)
        scores = devel_scores(learner.judged, run.devel, run.processes)
        # The devel loss too: the last step may spoil the weights after the last training loss.
        _check_finite([*state.losses, scores["devel_loss"]], state.epoch + 1, phase)
        record = {
            "epoch": len(state.history) + 1,
            "phase": phase.name,
            "learning_rate": state.rate,
            "train_loss": float(np.mean(state.losses)),
            **{name: None if np.isnan(value) else value for name, value in scores.items()},
            "best": run.best.update(learner.judged, scores),
            "seconds": state.seconds + time.perf_counter() - started,
        }
        state.history.append(record)
        state.epoch, state.step, state.losses, state.seconds = state.epoch + 1, 0, [], 0.0
        run.save(learner)
        yield record
        if run.processes.any(signals.stop)[0]:
            raise _interrupted(run)


def run_epoch(run: Run, learner: Learner, signals: Signals) -> None:
    """Train on what is left of an epoch; a checkpoint is due now and then."""
    state, section = run.state, run.model.recipe.train
    phase, device = run.phases[state.phase], run.processes.device
    what = f"{phase.name} epoch {state.epoch + 1}/{phase.epochs}"
    run.batches.begin(state.phase, state.epoch, state.step)
    set_training_mode(run.model, section)
    losses: list[Tensor] = []
    started = saved_at = time.perf_counter()
    for waveform, target, index in run.loader:
        seed = draw_seed(section.seed, state.phase, state.epoch, state.step, run.processes.rank)
        if isinstance(waveform, list):  # of different lengths
            waveform = [each.to(device, non_blocking=True) for each in waveform]
        else:
            waveform = waveform.to(device, non_blocking=True)
        target, index = (part.to(device, non_blocking=True) for part in (target, index))
        losses.append(learner.update(waveform, target, index, seed=seed))
        state.step += 1
        run.progress(what, state.step, len(run.batches))
        due = time.perf_counter() - saved_at > 60 * section.checkpoint_minutes
        stop, due = run.processes.any(signals.stop, due)
        if (stop or due) and state.step < len(run.batches):
            saved_at = time.perf_counter()
            _note(run, losses, saved_at - started)
            losses, started = [], saved_at
            run.save(learner)
            if stop:
                raise _interrupted(run)
    _note(run, losses, time.perf_counter() - started)


def _note(run: Run, losses: list[Tensor], seconds: float) -> None:
    run.state.seconds += seconds
    if losses:
        # Once for many batches: it waits for the device. The mean over the processes' parts.
        everyones = run.processes.gather_rows(torch.stack(losses))
        run.state.losses += everyones.mean(dim=0).tolist()


class Batches(Sampler[list[int]]):
    """The batches of an epoch, of segment indices; the same however many processes share them.

    With ``balance = "sampler"`` every class is drawn equally often, with replacement; else each
    segment comes once. Everything depends on the recipe's seed and the epoch alone.
    """

    def __init__(self, target: np.ndarray, recipe: Recipe, processes: Processes) -> None:
        self.n, self.section, self.processes = len(target), recipe.train, processes
        weights = sampling_weights(target, recipe)
        self.weights = None if weights is None else weights / weights.sum()
        self.begin(0, 0, 0)

    def begin(self, phase: int, epoch: int, step: int) -> None:
        """Go to an epoch, and there to the first batch that is not done yet."""
        self.phase, self.epoch, self.step = phase, epoch, step

    def __len__(self) -> int:
        """Batches in a whole epoch."""
        return max(1, self.n // self.section.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        """This process's part of each batch that is left."""
        rng = np.random.default_rng((self.section.seed, self.phase, self.epoch))
        size, count = self.section.batch_size, self.processes.count
        if self.weights is None:
            order = rng.permutation(self.n)
        else:
            order = rng.choice(self.n, self.n, p=self.weights)
        for step in range(self.step, len(self)):
            # An incomplete last batch is left out, unless it is all there is: a single segment
            # would give BatchNorm nothing to average over.
            batch = order[step * size : (step + 1) * size]
            batch = batch[: len(batch) // count * count]
            yield batch[self.processes.rank :: count].tolist()


def draw_seed(*numbers: int) -> int:
    """A seed for one step from what names it, so that no random state needs to be saved."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


@contextmanager
def _fitting(checkpoint: Path | None) -> Iterator[None]:
    """Refuse a checkpoint that is whole, but of another recipe or version."""
    try:
        yield
    except (KeyError, TypeError, ValueError, RuntimeError, IndexError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise TrainingError(
            f"{checkpoint}: does not fit this run ({reason}); go on with the version that wrote "
            "it, or remove it to start this run anew"
        ) from error


def _set_unit(model: Classifier, target: np.ndarray) -> None:
    """Let the network work on numbers of mean 0 and deviation 1 over the training segments."""
    deviation = target.std(axis=0)
    if (deviation == 0).any():
        name = model.decision.columns[int((deviation == 0).argmax())]
        raise TrainingError(
            f"{name} is the same number, {target[0, int((deviation == 0).argmax())]:g}, in all of "
            "train; allowed: numbers that differ, or there is nothing to learn"
        )
    model.offset.copy_(torch.from_numpy(target.mean(axis=0)))
    model.scale.copy_(torch.from_numpy(deviation))


def _interrupted(run: Run) -> Interrupted:
    epochs = len(run.state.history)
    if run.checkpoint is None:
        return Interrupted(f"Interrupted after {epochs} epochs.")
    return Interrupted(
        f"Interrupted after {epochs} epochs and {run.state.step} batches, which are saved. Go on "
        f"with: deepspectrumlite train --resume {run.checkpoint.parent}"
    )


def _check_finite(losses: list[float], epoch: int, phase: Phase) -> None:
    if not np.isfinite(losses).all():
        key = "head_learning_rate" if phase.name == "head" else "learning_rate"
        raise TrainingError(
            f"the loss is not finite in epoch {epoch} of phase {phase.name}; train.{key} is "
            f"{phase.learning_rate:g}, so start again with --overwrite and --set "
            f"train.{key}={min(phase.learning_rate / 10, 1e-3):g}"
        )

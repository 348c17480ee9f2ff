"""What the exported file of a recipe costs, before anything is trained, and what is worth it.

Latency and size depend on the network and the front-end, not on what the weights are: an untrained
network is exported and timed, once for all points that differ in nothing else.
"""

import hashlib
import json
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deepspectrumlite.benchmark import describe_machine, time_in_turn
from deepspectrumlite.config import Recipe, SweepBudget
from deepspectrumlite.convert import convert
from deepspectrumlite.errors import DeepSpectrumLiteError, MissingExtraError, TrainingError
from deepspectrumlite.export import check_converters
from deepspectrumlite.metadata import describe, write_metadata
from deepspectrumlite.model import Classifier, write_json
from deepspectrumlite.progress import Progress, silent
from deepspectrumlite.subjects import TfliteFile, Work
from deepspectrumlite.sweeps.experiment import Experiment
from deepspectrumlite.sweeps.trials import FINISHED, Row, goodness
from deepspectrumlite.targets import find_targets, load_labelled

MEASURED = "measured"
REPEATS = 50
# Networks that are open at once, and take turns.
_TOGETHER = 12
# Segments of noise that int8 is calibrated with: what comes out is of no use, but as fast.
_CALIBRATION = 4


@dataclass(frozen=True)
class Cost:
    """Of one exported file: median latency of a segment on one thread, and size in 10**6 bytes.

    ``failure`` says why there is none, ``machine`` where and with what it was measured, as of
    :func:`deepspectrumlite.benchmark.describe_machine`.
    """

    latency_ms: float | None
    size_mb: float | None
    failure: str | None = None
    machine: dict[str, Any] = field(default_factory=dict)

    @property
    def columns(self) -> dict[str, Any]:
        """For the row of a trial."""
        return {"latency_ms": self.latency_ms, "size_mb": self.size_mb}

    def over(self, budget: SweepBudget) -> str | None:
        """By what it is beyond a budget; None where it is within."""
        found = [
            f"{name} is {value:.2f} {unit}, over {most:g} {unit}"
            for name, value, most, unit in (
                ("latency", self.latency_ms, budget.max_latency_ms, "ms"),
                ("size", self.size_mb, budget.max_size_mb, "MB"),
            )
            if value is not None and most is not None and value > most
        ]
        return "; ".join(found) or None


def within(row: Row, budget: SweepBudget) -> bool:
    """Whether a trial is known to keep a budget."""
    return all(
        most is None or (row[key] is not None and row[key] <= most)
        for key, most in (("latency_ms", budget.max_latency_ms), ("size_mb", budget.max_size_mb))
    )


def cost_of(experiment: Experiment, recipe: Recipe, progress: Progress = silent) -> Cost:
    """The cost of one recipe, measured now unless it was before."""
    return measure(experiment, [recipe], progress=progress)[0]


def measure(
    experiment: Experiment,
    recipes: Iterable[Recipe],
    *,
    repeats: int = REPEATS,
    progress: Progress = silent,
) -> list[Cost]:
    """Export and time every distinct network, on one thread; they take turns, A B C A B C.

    What was measured is kept in the folder of the sweep.

    Args:
        experiment: whose labels say how many outputs there are
        recipes: of the points
        repeats: calls of each network
        progress: told of every step

    Returns:
        the cost of each recipe

    Raises:
        MissingExtraError: the converters are not installed
        TrainingError: recipes of whole recordings, without ``budget.seconds``
    """
    fixed = [_fixed(recipe, experiment.budget) for recipe in recipes]
    keys = [_key(recipe, experiment.budget) for recipe in fixed]
    distinct = dict(zip(keys, fixed, strict=True))
    unknown = {key: each for key, each in distinct.items() if not _path(experiment, key).is_file()}
    if unknown:
        check_converters()
    for done in range(0, len(unknown), _TOGETHER):
        part = dict(list(unknown.items())[done : done + _TOGETHER])
        _measure(experiment, part, repeats, partial(_tell, progress, done, len(unknown)))
    known = {key: _read(_path(experiment, key)) for key in distinct}
    return [known[key] for key in keys]


def machines(experiment: Experiment) -> list[str]:
    """Where latencies of a sweep were measured, and with which version of this package."""
    costs = [_read(path) for path in sorted((experiment.out / MEASURED).glob("*.json"))]
    return sorted({_told(cost.machine) for cost in costs if cost.latency_ms is not None})


def _told(machine: Mapping[str, Any]) -> str:
    if not machine:
        return "a machine that was not noted"
    return f"{machine['cpu']} (deepspectrumlite {machine['versions']['deepspectrumlite']})"


def forget_costs(experiment: Experiment, recipes: Iterable[Recipe]) -> None:
    """Remove what was measured of networks that cost too much, or could not be exported."""
    for recipe in recipes:
        path = _path(experiment, _key(_fixed(recipe, experiment.budget), experiment.budget))
        if path.is_file():
            cost = _read(path)
            if cost.failure or cost.over(experiment.budget):
                path.unlink()


def _read(path: Path) -> Cost:
    try:
        cost = Cost(**json.loads(path.read_text(encoding="utf-8")))
        _ = _told(cost.machine)
    except (ValueError, TypeError, KeyError) as error:
        raise TrainingError(f"{path}: broken ({error}); remove it to measure anew") from None
    return cost


def _tell(progress: Progress, before: int, total: int, what: str, done: int) -> None:
    progress(what, before + done, total)


def _fixed(recipe: Recipe, budget: SweepBudget) -> Recipe:
    """With segments of one length, as a file has."""
    if recipe.data.segment_seconds != "whole":
        return recipe
    if budget.seconds is None:
        raise TrainingError(
            'data.segment_seconds is "whole", and the latency of a recording depends on its '
            "length; give the length that a file takes with --seconds"
        )
    return recipe.for_length(budget.seconds)


def _key(recipe: Recipe, budget: SweepBudget) -> str:
    """The same for recipes whose files differ in nothing but the values of their weights."""
    data = (recipe.data.sample_rate, recipe.data.segment_samples, recipe.decision.unknown)
    model = recipe.model.model_dump(exclude={"weights", "dropout"})
    told = [data, recipe.frontend.model_dump(), model, budget.precision]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


def _path(experiment: Experiment, key: str) -> Path:
    return experiment.out / MEASURED / f"{key}.json"


def _measure(
    experiment: Experiment, recipes: Mapping[str, Recipe], repeats: int, told: Any
) -> None:
    works: dict[str, Work] = {}
    costs: dict[str, Cost] = {}
    with tempfile.TemporaryDirectory() as folder:
        for done, (key, recipe) in enumerate(recipes.items()):
            told("exporting untrained networks", done)
            try:
                path = _export(experiment, recipe, Path(folder) / key)
                works[key] = TfliteFile(path).stages(1)["end to end"]
                costs[key] = Cost(None, path.stat().st_size / 1e6)
            except MissingExtraError:
                raise
            except DeepSpectrumLiteError as error:
                costs[key] = Cost(None, None, f"cannot be exported: {error}")
        times = time_in_turn(works, repeats, None, lambda done, total: None)
        told("timing untrained networks", len(recipes))
    machine = describe_machine()
    for key, cost in costs.items():
        if key in times:
            cost = Cost(1000 * float(np.median(times[key])), cost.size_mb, machine=machine)
        _path(experiment, key).parent.mkdir(exist_ok=True)
        write_json(_path(experiment, key), asdict(cost))


def _export(experiment: Experiment, recipe: Recipe, folder: Path) -> Path:
    """The .tflite file of an untrained network."""
    table = load_labelled(experiment.manifest, recipe.data, recipe.model.output)
    labels = find_targets(table, recipe.data, recipe.model.output).labels
    model = Classifier(recipe, labels, weights="random").eval()
    _make_uneven(model)
    precision = experiment.budget.precision
    calibration = None
    if precision == "int8":
        shape = (_CALIBRATION, recipe.data.segment_samples)
        calibration = np.random.default_rng(0).uniform(-0.5, 0.5, shape).astype(np.float32)
    folder.mkdir()
    kind = f"{precision}.tflite"
    path = convert(model, [kind], folder, calibration=calibration)[kind]
    write_metadata(path, describe(model, precision=precision))
    return path


@torch.no_grad()
def _make_uneven(model: Classifier) -> None:
    """Make of constants what training would: a scale of zeros lets a converter drop whole layers.

    Some networks begin with such scales in the last BatchNorm of each block.
    """
    generator = torch.Generator().manual_seed(0)
    for part in (model.backbone, model.head):
        for tensor in (*part.parameters(), *part.buffers()):
            if tensor.is_floating_point() and tensor.numel() > 1 and tensor.min() == tensor.max():
                tensor += torch.empty_like(tensor).uniform_(0.01, 0.1, generator=generator)


def pareto_front(rows: Iterable[Row]) -> list[Row]:
    """The finished trials that no other one beats, by ascending latency.

    A trial is beaten by one that is at least as good on devel and at least as fast, and better in
    one of them (Pareto dominance). Of trials equal in both the first one stays.
    """
    usable = [
        row
        for row in rows
        if row["status"] == FINISHED and row["devel"] is not None and row["latency_ms"] is not None
    ]
    front, best = [], float("-inf")
    for row in sorted(usable, key=lambda row: (row["latency_ms"], -goodness(row), row["number"])):
        if goodness(row) > best:
            front.append(row)
            best = goodness(row)
    return front

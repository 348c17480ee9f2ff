"""Do 95 % intervals hold the true value in 95 % of test sets, and do tests reject too often?

    python benchmarks/coverage.py > benchmarks/coverage.md

Draws test sets with a known true value, makes the intervals that `evaluate` would make of each, and
counts how often they hold it. Then two systems that are equally good, and scores that are chance:
how often is p < 0.05? About a quarter of an hour on a CPU core; `--sets 100` for a first look, and
`--tables intervals --only "rare classes"` for some rows alone: each has its own random numbers.
"""

import argparse
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.integrate import quad
from scipy.special import ndtr
from scipy.stats import norm

from deepspectrumlite.decisions import Decision
from deepspectrumlite.intervals import Resampled, resample_matrices, resample_rows, smallest_p
from deepspectrumlite.metrics import interval, macro_mean, uar
from deepspectrumlite.row_metrics import auc, average_precision, ccc, ece
from deepspectrumlite.significance import mcnemar, paired_difference, permutation_test

FILES_PER_GROUP = 20
RESAMPLES = 1000
CLASSES = Decision("softmax", ["a", "b"])
# Of seven classes with rare ones, and of labels: how many files have each.
RARE = np.array([0.40, 0.22, 0.14, 0.10, 0.07, 0.05, 0.02])
LABELS = np.array([0.4, 0.2, 0.1, 0.05])
MANY_RESAMPLES = 10_000


@dataclass(frozen=True)
class Drawn:
    """A test set: what resamples it over some units, and its groups, (n_files,), if any."""

    resample: Callable[..., Resampled]
    n_files: int
    groups: np.ndarray | None = None


def uar_of_files(rng: np.random.Generator, n_files: int) -> Drawn:
    """Each file is recognised with 70 %."""
    return _uar(rng, rng.integers(0, 2, n_files), np.full(n_files, 0.7))


def uar_of_groups(rng: np.random.Generator, n_groups: int) -> Drawn:
    """The files of each group are recognised anywhere between 40 and 100 %."""
    groups = np.repeat(np.arange(n_groups), FILES_PER_GROUP)
    chance = rng.uniform(0.4, 1, n_groups)[groups]
    return _uar(rng, rng.integers(0, 2, len(groups)), chance, groups)


def rare_of_files(rng: np.random.Generator, n_files: int) -> Drawn:
    """Seven classes, from 40 to 2 % of the files, each recognised with 70 %."""
    truth = rng.choice(len(RARE), n_files, p=RARE)
    return _uar(rng, truth, np.full(n_files, 0.7), n_classes=len(RARE))


def rare_of_groups(rng: np.random.Generator, n_groups: int) -> Drawn:
    """Groups of 5 to 59 files that differ in their classes too, and in how well they are heard."""
    groups = np.repeat(np.arange(n_groups), rng.integers(5, 60, n_groups))
    shares = rng.dirichlet(len(RARE) * RARE, n_groups)
    truth = np.array([rng.choice(len(RARE), p=shares[group]) for group in groups])
    return _uar(rng, truth, rng.uniform(0.4, 1, n_groups)[groups], groups, len(RARE))


def _uar(
    rng: np.random.Generator,
    truth: np.ndarray,
    chance: np.ndarray,
    groups: np.ndarray | None = None,
    n_classes: int = 2,
) -> Drawn:
    predicted = np.where(rng.random(len(truth)) < chance, truth, (truth + 1) % n_classes)

    def resample(**options: object) -> Resampled:
        return resample_matrices(truth, predicted, n_classes, **options).map(uar)

    return Drawn(resample, len(truth), groups)


def ccc_of_files(rng: np.random.Generator, n_files: int) -> Drawn:
    """Normal numbers with correlation 0.6, predicted 0.5 too high: CCC = 1.2 / 2.25."""
    truth = rng.normal(size=n_files)
    return _ccc(truth, 0.5 + 0.6 * truth + 0.8 * rng.normal(size=n_files), None)


def ccc_of_groups(rng: np.random.Generator, n_groups: int) -> Drawn:
    """Truth of variance 1, plus errors of variance 1, two thirds of it shared in a group."""
    groups = np.repeat(np.arange(n_groups), FILES_PER_GROUP)
    shared, own = rng.normal(size=n_groups)[groups], rng.normal(size=len(groups))
    truth = rng.normal(size=len(groups))
    return _ccc(truth, truth + math.sqrt(2 / 3) * shared + math.sqrt(1 / 3) * own, groups)


def _ccc(truth: np.ndarray, predicted: np.ndarray, groups: np.ndarray | None) -> Drawn:
    def metric(counts: np.ndarray | None = None) -> np.ndarray:
        return ccc(truth, predicted, counts)

    return Drawn(lambda **options: resample_rows(metric, len(truth), **options), len(truth), groups)


def auc_of_files(rng: np.random.Generator, n_files: int) -> Drawn:
    """Scores of two classes, normal and one deviation apart: AUC = Phi(1 / sqrt(2))."""
    truth = rng.integers(0, 2, n_files)
    score = truth + rng.normal(size=n_files)

    def metric(counts: np.ndarray | None = None) -> np.ndarray:
        return auc(truth, np.stack([-score, score], axis=1), counts)

    return Drawn(lambda **options: resample_rows(metric, n_files, **options), n_files)


def map_of_files(rng: np.random.Generator, n_files: int) -> Drawn:
    """Four labels, from 40 to 5 % of the files, whose scores are normal, 1.5 deviations apart."""
    return _map(rng, rng.normal(size=(n_files, len(LABELS))))


def map_of_groups(rng: np.random.Generator, n_groups: int) -> Drawn:
    """The same, half of the scores' variance shared in a group."""
    groups = np.repeat(np.arange(n_groups), FILES_PER_GROUP)
    shared = rng.normal(size=(n_groups, len(LABELS)))[groups]
    own = rng.normal(size=(len(groups), len(LABELS)))
    return _map(rng, math.sqrt(0.5) * (shared + own), groups)


def _map(rng: np.random.Generator, noise: np.ndarray, groups: np.ndarray | None = None) -> Drawn:
    truth = rng.random(noise.shape) < LABELS
    scores = noise + 1.5 * truth

    def metric(counts: np.ndarray | None = None) -> np.ndarray:
        return macro_mean(average_precision(truth, scores, counts))

    return Drawn(lambda **options: resample_rows(metric, len(truth), **options), len(truth), groups)


def true_map() -> float:
    """Of all files there could be: the mean precision at the scores of files with the label."""

    def precision(score: float, share: float) -> float:
        found, false = share * norm.sf(score - 1.5), (1 - share) * norm.sf(score)
        return norm.pdf(score - 1.5) * found / (found + false)

    return float(np.mean([quad(precision, -6, 9, args=(share,))[0] for share in LABELS]))


def ece_of(too_sure: float) -> Callable[[np.random.Generator, int], Drawn]:
    """Confidences from 0.4 to 1, right too_sure less often: so much is the ECE."""

    def draw(rng: np.random.Generator, n_files: int) -> Drawn:
        confidence = rng.uniform(0.4, 1, n_files)
        right = rng.random(n_files) < confidence - too_sure

        def metric(counts: np.ndarray | None = None) -> np.ndarray:
            return ece(confidence, right, counts)

        return Drawn(lambda **options: resample_rows(metric, n_files, **options), n_files)

    return draw


CASES = [
    ("UAR, {} independent files", uar_of_files, 0.7, (30, 100, 300)),
    (f"UAR, {{}} groups of {FILES_PER_GROUP} files", uar_of_groups, 0.7, (5, 10, 20, 50)),
    ("UAR with rare classes, {} independent files", rare_of_files, 0.7, (60, 134, 300, 1000)),
    ("UAR with rare classes, {} groups of 5 to 59 files", rare_of_groups, 0.7, (5, 10, 20)),
    ("MAP, {} independent files", map_of_files, true_map(), (100,)),
    (f"MAP, {{}} groups of {FILES_PER_GROUP} files", map_of_groups, true_map(), (5, 10, 20)),
    ("CCC, {} independent files", ccc_of_files, 1.2 / 2.25, (30, 100, 300)),
    (f"CCC, {{}} groups of {FILES_PER_GROUP} files", ccc_of_groups, 2 / 3, (5, 10, 20, 50)),
    ("AUC, {} independent files", auc_of_files, float(ndtr(math.sqrt(0.5))), (30, 100, 300)),
    ("ECE of 0.1, {} independent files", ece_of(0.1), 0.1, (100, 1000)),
    ("ECE of 0, {} independent files", ece_of(0.0), 0.0, (100, 1000)),
]


def holding(drawn: Drawn, true_value: float, seed: int, n_resamples: int) -> list[float]:
    """Whether each interval holds the true value, 1 or 0: (4,), the columns of the table."""
    over_files = drawn.resample(n_resamples=n_resamples, seed=seed).estimate(drawn.n_files)
    ends = [(over_files.low, over_files.high)]
    over = drawn.groups
    n_units = drawn.n_files if over is None else len(np.unique(over))
    for method in ("percentile", "bca"):
        found = drawn.resample(units=over, n_resamples=n_resamples, seed=seed, method=method)
        if method == "percentile":
            ends.append(interval(found.samples))
        estimate = found.estimate(n_units)
        ends.append((estimate.low, estimate.high))
    return [float(low <= true_value <= high) for low, high in ends]


def coverage_rows(n_sets: int, n_resamples: int, only: str) -> Iterator[list[str]]:
    for title, draw, true_value, sizes in CASES:
        for size in sizes:
            if only not in title.format(size):
                continue
            rng = np.random.default_rng(0)
            held = [holding(draw(rng, size), true_value, i, n_resamples) for i in range(n_sets)]
            share = np.mean(held, axis=0)
            cells = [f"{100 * value:.1f}" for value in share]
            if "groups" not in title:
                cells[0] = ""
            yield [title.format(size), *cells]


def equal_systems(rng: np.random.Generator, n_units: int, *, clustered: bool) -> tuple:
    """Target, scores of two systems, and groups: each right with 70 % on the whole."""
    size = FILES_PER_GROUP if clustered else 1
    groups = np.repeat(np.arange(n_units), size)
    target = np.eye(2)[rng.integers(0, 2, len(groups))]
    chances = [
        rng.uniform(0.4, 1, n_units)[groups] if clustered else np.full(n_units, 0.7)
        for _ in range(2)
    ]
    systems = [
        np.where((rng.random(len(groups)) < chance)[:, np.newaxis], target, 1 - target)
        for chance in chances
    ]
    return target, *systems, groups


def differing_rows(n_sets: int, n_resamples: int) -> Iterator[list[str]]:
    for clustered, sizes in ((False, (30, 100, 300)), (True, (5, 10, 20, 50))):
        for size in sizes:
            rng, found = np.random.default_rng(0), []
            for seed in range(n_sets):
                target, a, b, groups = equal_systems(rng, size, clustered=clustered)
                options = {"n_resamples": n_resamples, "seed": seed}
                tests = [paired_difference(CLASSES, target, a, b, **options).p_value]
                for method in ("percentile", "bca"):
                    over = options | {"groups": groups, "method": method}
                    tests.append(paired_difference(CLASSES, target, a, b, **over).p_value)
                right = [(scores == target).all(axis=1) for scores in (a, b)]
                found.append([*tests, mcnemar(*right)])
            share = np.mean(np.array(found) < 0.05, axis=0)
            cells = [f"{100 * value:.1f}" for value in share]
            if not clustered:
                cells[0] = ""
            what = f"groups of {FILES_PER_GROUP} files" if clustered else "independent files"
            yield [f"{size} {what}", *cells]


def few_groups_rows(n_sets: int) -> Iterator[list[str]]:
    for size in (5, 6, 7, 8, 10):
        cells = [f"{size} groups of {FILES_PER_GROUP} files"]
        for n_resamples in (RESAMPLES, MANY_RESAMPLES):
            rng, found = np.random.default_rng(0), []
            for seed in range(n_sets):
                target, a, b, groups = equal_systems(rng, size, clustered=True)
                options = {"groups": groups, "n_resamples": n_resamples, "seed": seed}
                found.append(paired_difference(CLASSES, target, a, b, **options).p_value)
            share = 100 * np.mean(np.array(found) < 0.05)
            cells += [f"{smallest_p(size, n_resamples):.4f}", f"{share:.1f}"]
        yield cells


def chance_systems(rng: np.random.Generator, n_groups: int, *, constant: bool) -> tuple:
    """Target, scores that know the group but not the class, and groups."""
    groups = np.repeat(np.arange(n_groups), FILES_PER_GROUP)
    of_groups = rng.integers(0, 2, n_groups)[groups]
    classes = of_groups if constant else rng.integers(0, 2, len(groups))
    # What is predicted depends on the group alone, but for a fifth of the files.
    guess = np.where(rng.random(len(groups)) < 0.8, rng.integers(0, 2, n_groups)[groups], 0)
    return np.eye(2)[classes], np.eye(2)[guess], groups


def chance_rows(n_sets: int) -> Iterator[list[str]]:
    for constant in (False, True):
        rng, found = np.random.default_rng(0), []
        for seed in range(n_sets):
            target, scores, groups = chance_systems(rng, 20, constant=constant)
            options = {"n": 199, "seed": seed}
            freely = permutation_test(CLASSES, target, scores, **options)
            grouped = permutation_test(CLASSES, target, scores, groups=groups, **options)
            found.append([freely, grouped])
        share = np.mean(np.array(found) <= 0.05, axis=0)
        what = "one class in each group" if constant else "all classes in each group"
        yield [f"20 groups, {what}", *[f"{100 * value:.1f}" for value in share]]


def print_table(header: list[str], rows: Iterator[list[str]]) -> None:
    print(f"\n| {' | '.join(header)} |\n| --- |{' ---: |' * (len(header) - 1)}")
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


def print_intervals(asked: argparse.Namespace) -> None:
    print("\n## 95 % intervals: per cent that hold the true value\n")
    print("Over files, and over groups where there are any: plain percentiles, percentiles widened")
    print("for the number of files or groups (`percentile`, the default), and `bca`, widened too.")
    header = ["test set", "over files instead", "plain percentiles", "percentile", "bca"]
    print_table(header, coverage_rows(asked.sets, asked.resamples, asked.only))


def print_differing(asked: argparse.Namespace) -> None:
    print("\n## Two systems that are equally good: per cent with p < 0.05\n")
    print("Of the UAR by the paired bootstrap, and of accuracy by McNemar's test (over files).")
    header = ["test set", "over files instead", "percentile", "bca", "McNemar"]
    print_table(header, differing_rows(asked.sets, asked.resamples))


def print_few_groups(asked: argparse.Namespace) -> None:
    print("\n## The same over few groups, by the number of resamples\n")
    print("The smallest p that there can be, and the per cent with p < 0.05 (`percentile`).")
    numbers = [f"{n:,} resamples" for n in (RESAMPLES, MANY_RESAMPLES)]
    header = [f"{what}, {n}" for n in numbers for what in ("smallest p", "p < 0.05")]
    print_table(["test set", *header], few_groups_rows(asked.sets))


def print_chance(asked: argparse.Namespace) -> None:
    print("\n## Scores that know the group, not the class: per cent with p <= 0.05\n")
    print("Of the permutation test against chance.")
    print_table(["test set", "without groups", "with groups"], chance_rows(asked.sets))


TABLES = {
    "intervals": print_intervals,
    "differing": print_differing,
    "few-groups": print_few_groups,
    "chance": print_chance,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sets", type=int, default=1000)
    parser.add_argument("--resamples", type=int, default=RESAMPLES)
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--only", default="", help="intervals of test sets with these words")
    asked = parser.parse_args()
    error = 100 * math.sqrt(0.95 * 0.05 / asked.sets)
    print("# How often intervals hold, and how often tests reject\n")
    print(f"`python benchmarks/coverage.py`: {asked.sets:,} simulated test sets for each row,")
    print(f"{asked.resamples:,} resamples; what should be 95 (or 5) % has a standard error of")
    print(f"{error:.1f} points.")
    for name in asked.tables:
        TABLES[name](asked)


if __name__ == "__main__":
    main()

"""How much audio one machine predicts in an hour, by one and two workers, here and on Ray.

    python benchmarks/batch.py > batch.md

Exports a model of a recipe with random weights (which scores what, does not matter for the time),
makes a corpus from the bundled drum recordings, each repeated to a given length, as WAV and as
FLAC, and predicts it in every way, one after the other, several times. Prints Markdown: medians of
the rounds, and ratios within a round. The time includes the start of the workers, not that of Ray.
"""

import argparse
import os
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np
import soundfile

from deepspectrumlite.audio import load_audio
from deepspectrumlite.batch.run import Engine, Summary, predict_batch
from deepspectrumlite.config import load_recipe

Way = tuple[str, str, int]
FORMATS = ("wav", "flac")
# Of most recordings; the models take 16 kHz.
RATE = 44_100
LABELS = [f"class_{i}" for i in range(10)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="default", help="of the model")
    parser.add_argument("--set", action="append", default=[], help="a change of the recipe")
    parser.add_argument("--files", type=int, default=240, help="recordings of each format")
    parser.add_argument("--seconds", type=float, default=10, help="length of a recording")
    parser.add_argument("--part-rows", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    # One thread for each worker, as there is a worker for each core.
    os.environ |= {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    with tempfile.TemporaryDirectory() as folder:
        model = export_random(given.recipe, given.set, Path(folder))
        for kind in FORMATS:
            make_corpus(Path(folder) / kind, kind, given.files, given.seconds)
        found = measure(model, Path(folder), given.rounds, given.part_rows)
    print_tables(found, given)


def export_random(recipe: str, changes: Sequence[str], folder: Path) -> Path:
    """A .tflite file of the recipe, with random weights."""
    from deepspectrumlite.convert import convert
    from deepspectrumlite.metadata import describe, write_metadata
    from deepspectrumlite.model import Classifier

    settings = load_recipe(recipe, [*changes, 'model.weights="random"'])
    model = Classifier(settings, LABELS).eval()
    (made,) = convert(model, ["float32.tflite"], folder).values()
    write_metadata(made, describe(model, precision="float32"))
    return Path(made)


def make_corpus(folder: Path, kind: str, n: int, seconds: float) -> None:
    """So many recordings, each a drum of the demo over and over, to be resampled."""
    folder.mkdir()
    drums = sorted(Path(str(files("deepspectrumlite") / "demo_drums" / "audio")).glob("*.flac"))
    for i in range(n):
        wave = load_audio(drums[i % len(drums)], RATE)
        soundfile.write(folder / f"{i:05d}.{kind}", np.resize(wave, round(seconds * RATE)), RATE)


def measure(model: Path, folder: Path, rounds: int, part_rows: int) -> dict[Way, list[Summary]]:
    """What each way took, a value for each round; ways take turns."""
    import ray

    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    found: dict[Way, list[Summary]] = defaultdict(list)
    for index in range(rounds):
        for kind in FORMATS:
            for engine in ("local", "ray"):
                for workers in (1, 2):
                    out = folder / f"out-{index}-{kind}-{engine}-{workers}"
                    found[kind, engine, workers].append(
                        predict_batch(
                            model,
                            str(folder / kind),
                            str(out),
                            part_rows=part_rows,
                            engine=Engine(engine, workers),
                        )
                    )
                    print(index, kind, engine, workers, file=sys.stderr, flush=True)
    ray.shutdown()
    return found


def print_tables(found: dict[Way, list[Summary]], given: argparse.Namespace) -> None:
    hours = given.files * given.seconds / 3600
    print(
        f"{given.files} recordings of {given.seconds:g} s ({hours:.2f} h) of each format, mono, "
        f"at {RATE} Hz, {given.part_rows} to a part, ",
        end="",
    )
    print(f"recipe {' '.join([given.recipe, *given.set])} with random weights as .tflite, ", end="")
    print(f"{os.cpu_count()} cores, medians of {given.rounds} rounds.\n")
    print("| format | engine | workers | hours of audio an hour | against local, 1 worker |")
    print("| --- | --- | --- | --- | --- |")
    for (kind, engine, workers), runs in found.items():
        base = found[kind, "local", 1]
        ratios = [a.hours_an_hour / b.hours_an_hour for a, b in zip(runs, base, strict=True)]
        speed = statistics.median(run.hours_an_hour for run in runs)
        print(
            f"| {kind} | {engine} | {workers} | {speed:.0f} | {statistics.median(ratios):.2f} |",
        )
    print("\nWhere the time of one worker goes (local):\n")
    print("| format | reading, decoding, resampling | model | writing | start and the rest |")
    print("| --- | --- | --- | --- | --- |")
    for kind in FORMATS:
        runs = found[kind, "local", 1]
        shares = [
            statistics.median(getattr(run, name) / run.wall_seconds for run in runs)
            for name in ("reading", "model", "writing")
        ]
        cells = [f"{100 * share:.1f} %" for share in (*shares, 1 - sum(shares))]
        print(f"| {kind} | {' | '.join(cells)} |")
    print("\nHours of audio an hour of one worker once it is at work (without its start):\n")
    for kind in FORMATS:
        rates = [
            run.seconds / (run.reading + run.model + run.writing) for run in found[kind, "local", 1]
        ]
        print(f"- {kind}: {statistics.median(rates):.0f}")


if __name__ == "__main__":
    main()

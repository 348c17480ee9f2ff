"""How often a recogniser cries wolf on long recordings, and how much it misses.

    deepspectrumlite train default --data FOLDER/labels.csv --out runs/events
    python benchmarks/streaming.py runs/events FOLDER/labels.csv --out streaming

Lays the clips of a manifest out at random times (seeded) on the ambience of the same split, joined
to one long recording: one of the devel split, on which the thresholds are chosen, and one of the
test split, on which they are reported. Prints a Markdown table, and writes recordings, events,
curves and settings to the folder.
"""

import argparse
import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import soundfile

from deepspectrumlite.audio import load_audio
from deepspectrumlite.detection import evaluate_stream
from deepspectrumlite.predict import open_recogniser
from deepspectrumlite.soundscapes import lay_out
from deepspectrumlite.stream_settings import StreamSettings, read_settings

SETTINGS = StreamSettings(
    hop_seconds=0.25, smoothing="ema", smoothing_seconds=0.25, refractory_seconds=0.5
)
WANTED_PER_HOUR = (10.0, 60.0)
FADE_SECONDS = 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="a run folder or an exported file")
    parser.add_argument("manifest", type=Path, help="with splits, and a label for the ambience")
    parser.add_argument("--background", default="ambience", help="the label of the ambience")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--level-db", type=float, default=10, help="of clips above the ambience")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    recogniser = open_recogniser(given.model)
    rate = recogniser.cutting.sample_rate
    lists = {split: make_recording(given, split, rate) for split in ("devel", "test")}
    base = replace(SETTINGS, ignore=[given.background])
    print("| wanted false alarms / h | | false alarms / h | missed | latency, median |")
    print("| --- | --- | --- | --- | --- |")
    for wanted in WANTED_PER_HOUR:
        folder = given.out / f"{wanted:g}"
        evaluate_stream(
            recogniser, lists["devel"], base, false_alarms_per_hour=wanted, out=folder / "devel"
        )
        chosen = read_settings(folder / "devel" / "stream.json")
        report = evaluate_stream(recogniser, lists["test"], chosen, out=folder / "test")
        rows = {**report["labels"], "**all**": report["overall"]}
        for label, row in rows.items():
            print(f"| {wanted:g} | {label} | {show(row)} |", flush=True)


def show(row: dict[str, Any]) -> str:
    missed = (
        "-" if row["miss_rate"] is None else f"{100 * row['miss_rate']:.0f} % of {row['events']}"
    )
    latency = row["latency_median_seconds"]
    late = "-" if latency is None else f"{latency:.2f} s"
    return f"{row['false_alarms_per_hour']:.1f} | {missed} | {late}"


def make_recording(given: argparse.Namespace, split: str, rate: int) -> Path:
    """Write SPLIT.flac and its events; each clip occurs once."""
    given.out.mkdir(parents=True, exist_ok=True)
    table = pd.read_csv(given.manifest)
    table = table[table["split"] == split]
    rows = [(row.label, given.manifest.parent / row.path) for row in table.itertuples()]
    clips = [(label, load_audio(path, rate)) for label, path in rows]
    ambience = [clip for label, clip in clips if label == given.background]
    events = [(label, clip) for label, clip in clips if label != given.background and clip.any()]
    background = join(ambience, round(given.minutes * 60 * rate), rate, given.seed)
    path = given.out / f"{split}.flac"
    mixed, references = lay_out(
        background, events, rate, level_db=given.level_db, seed=given.seed, path=path
    )
    soundfile.write(path, 0.9 * mixed / np.abs(mixed).max(), rate)
    listing = given.out / f"{split}.csv"
    with listing.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "start", "end", "label"])
        for event in references:
            times = (f"{time:.3f}" for time in (event.start_seconds, event.end_seconds))
            writer.writerow([path.name, *times, event.label])
    return listing


def join(clips: Sequence[np.ndarray], size: int, rate: int, seed: int) -> np.ndarray:
    """(size,): clips in random order, again and again, each as loud, faded into each other."""
    fade = round(FADE_SECONDS * rate)
    ramp = np.linspace(0, 1, fade, dtype=np.float32)
    rng, joined = np.random.default_rng(seed), np.zeros(size + max(map(len, clips)), np.float32)
    at = 0
    while at < size:
        for index in rng.permutation(len(clips)):
            clip = clips[index] / max(float(np.sqrt(np.mean(clips[index] ** 2))), 1e-4)
            if at >= size or len(clip) < 2 * fade:
                continue
            faded = clip.copy()
            faded[:fade] *= ramp
            faded[-fade:] *= ramp[::-1]
            joined[at : at + len(clip)] += faded
            at += len(clip) - fade
    return 0.01 * joined[:size]


if __name__ == "__main__":
    main()

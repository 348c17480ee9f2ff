"""What our training step costs beyond the network itself, and what the front-end does a second.

    python benchmarks/training.py
    python benchmarks/training.py --device cuda
    python benchmarks/training.py --memory

Prints Markdown tables. Everything that is compared runs in turn in the same process, several times,
and the median counts, since machines are shared and their clocks vary. MobileNetV2, 224 x 224
pixels, batches of 32 segments of 4 s at 16 kHz, window 128 ms, hop 64 ms, 128 mels, viridis.
"""

import argparse
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor
from torch.nn import functional

from deepspectrumlite.augment import Augmentation
from deepspectrumlite.config import Recipe, load_recipe
from deepspectrumlite.frontend import FrontEnd
from deepspectrumlite.learner import Learner, Phase
from deepspectrumlite.model import Classifier
from deepspectrumlite.optim import make_optimizer, set_training_mode
from deepspectrumlite.processes import Processes

LABELS = [f"class {i}" for i in range(7)]
SETTING = (
    "data.segment_seconds=4",
    "data.hop_seconds=4",
    "frontend.window_seconds=0.128",
    "frontend.hop_seconds=0.064",
    "frontend.image_height=224",
    "frontend.image_width=224",
    "model.weights=random",
    "train.average_decay=0",
    "augment.time_shift=0",
    "augment.speed=0",
    "augment.mixup_alpha=0",
    "augment.mask_probability=0",
    "augment.cutmix_probability=0",
)
BOTH = (
    "augment.mask_probability=1",
    "augment.cutmix_probability=1",
    "augment.strength=sapaugment",
)
DEFAULTS = ("augment.time_shift=0.1", "augment.speed=0.1", "augment.mixup_alpha=0.4")
STEPS = {
    "front-end": (),
    "front-end, SapAugment (history) + CutMix + SpecAugment": BOTH,
    "the same, ranks from the batch": (*BOTH, "augment.rank_from=batch"),
    "the same (history), time shift, speed, MixUp": (*BOTH, *DEFAULTS),
    "the same, averaged weights": (*BOTH, *DEFAULTS, "train.average_decay=0.98"),
}


def main() -> None:
    arguments = parse()
    if arguments.rows:
        print(train_rows(arguments.rows, arguments.recordings))
        return
    if arguments.memory:
        memory()
        return
    device = torch.device(arguments.device)
    torch.set_num_threads(arguments.threads)
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.machine()
    print(
        f"{name}, {arguments.threads} threads, torch {torch.__version__}, {arguments.precision}\n"
    )
    step_table(device, arguments)
    torch.set_num_threads(1)
    front_end_table(device, arguments.repeats)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--memory", action="store_true", help="peak memory by manifest rows")
    parser.add_argument("--rows", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--recordings", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def step_table(device: torch.device, arguments: argparse.Namespace) -> None:
    waveform = torch.rand(arguments.batch, 64_000) * 2 - 1
    target = functional.one_hot(torch.arange(arguments.batch) % len(LABELS), len(LABELS)).float()
    index = torch.arange(arguments.batch)
    extra = (f"train.precision={arguments.precision}", f"train.batch_size={arguments.batch}")
    works = {"plain step on one ready image batch": plain_step(device, target, extra)}
    for name, changes in STEPS.items():
        recipe = load_recipe("default", [*SETTING, *extra, *changes])
        works[name] = our_step(recipe, device, waveform, target, index)
    # On a GPU a step is short: several at once, and the more often in turn.
    inner, repeats = (
        (5, 10 * arguments.repeats) if device.type == "cuda" else (1, arguments.repeats)
    )
    seconds = in_turn(works, device, repeats, inner)
    print("| training step, all layers | median | over the plain step |\n| --- | --- | --- |")
    plain = statistics.median(seconds["plain step on one ready image batch"])
    for name, times in seconds.items():
        median = statistics.median(times)
        print(f"| {name} | {1000 * median:.1f} ms | {median / plain:.3f} |")
    print()


def plain_step(
    device: torch.device, target: Tensor, extra: tuple[str, ...]
) -> Callable[[], object]:
    recipe = load_recipe("default", [*SETTING, *extra])
    model = Classifier(recipe, LABELS).to(device)
    model.backbone.to(memory_format=torch.channels_last)
    set_training_mode(model, recipe.train)
    optimizer = make_optimizer(list(model.parameters()), recipe.train, 1e-3)
    image = torch.rand(len(target), 3, 224, 224, device=device)
    image = image.to(memory_format=torch.channels_last)
    wanted = target.to(device)
    dtype = getattr(torch, recipe.train.precision)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, dtype, enabled=dtype is not torch.float32):
            logits = model.logits(image)
        functional.cross_entropy(logits.float(), wanted, label_smoothing=0.1).backward()
        optimizer.step()

    return step


def our_step(
    recipe: Recipe, device: torch.device, waveform: Tensor, target: Tensor, index: Tensor
) -> Callable[[], object]:
    processes = Processes(device)
    model = Classifier(recipe, LABELS).to(device)
    model.backbone.to(memory_format=torch.channels_last)
    augmentation = Augmentation(recipe.augment, recipe.data).to(device)
    phase = Phase("fine_tune", 10_000, 1e-3, 1.0)
    learner = Learner(model, phase, target.numpy(), 1, augmentation, processes)
    set_training_mode(model, recipe.train)
    if device.type == "cuda":
        # As the loader gives them.
        waveform, target, index = (part.pin_memory() for part in (waveform, target, index))

    def step() -> None:
        batch = (part.to(device, non_blocking=True) for part in (waveform, target, index))
        learner.update(*batch, seed=1)

    return step


def front_end_table(device: torch.device, repeats: int) -> None:
    recipe = load_recipe("default", SETTING)
    front_end = FrontEnd(recipe.frontend, recipe.data).to(device)
    waveform = torch.rand(32, 64_000, device=device) * 2 - 1
    with torch.inference_mode():
        inner = 5 if device.type == "cpu" else 50
        times = in_turn({"": lambda: front_end(waveform)}, device, 3 * repeats, inner)[""]
    speed = 32 / statistics.median(times)
    where = "one core" if device.type == "cpu" else "GPU"
    print(f"Front-end alone: {speed:.0f} images of 4 s a second ({where}).")


def in_turn(
    works: dict[str, Callable[[], object]], device: torch.device, repeats: int, inner: int
) -> dict[str, list[float]]:
    """Seconds per call of each work, ``repeats`` times in turn, after a warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(repeats + 1):
        for name, work in works.items():
            wait(device)
            start = time.perf_counter()
            for _ in range(inner):
                work()
            wait(device)
            if repeat:
                seconds[name].append((time.perf_counter() - start) / inner)
    return seconds


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def memory() -> None:
    """Peak memory of a real training epoch on 1,000 and on 100,000 rows of the same file."""
    print("| manifest rows | peak memory |\n| --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        recording = Path(folder) / "long.wav"
        samples = np.random.default_rng(0).uniform(-0.5, 0.5, 8000 * 1000)
        soundfile.write(recording, samples.astype(np.float32), 8000)
        peaks = {}
        for rows in (1_000, 100_000):
            # A process each: a peak never falls.
            command = [sys.executable, __file__, "--rows", str(rows), "--recordings", folder]
            found = subprocess.run(command, capture_output=True, text=True, check=True)
            peaks[rows] = float(found.stdout.split()[-1])
            print(f"| {rows:,} | {peaks[rows]:.0f} MB |")
    print(f"\nRatio: {peaks[100_000] / peaks[1_000]:.3f}")


def train_rows(rows: int, folder: Path) -> float:
    """Train one epoch on so many spans of one file; returns the peak memory in MB."""
    from deepspectrumlite.runs import Options, train_run

    manifest = folder / f"{rows}.csv"
    with manifest.open("w") as file:
        file.write("path,label,split,start,end\n")
        for i in range(rows):
            # Ten milliseconds apart at most, so that all spans differ.
            start = i * 990 / rows
            split = "devel" if i % 100 == 0 else "train"
            file.write(f"long.wav,{'ab'[i % 2]},{split},{start:.4f},{start + 0.25:.4f}\n")
    changes = (
        *("data.sample_rate=8000", "data.segment_seconds=0.25", "data.hop_seconds=0.25"),
        *("frontend.n_mels=16", "frontend.image_height=32", "frontend.image_width=32"),
        *("model.backbone=resnet10t", "model.weights=random", "train.head_epochs=1"),
        *("train.epochs=0", "train.batch_size=64", "train.workers=0", "model.units=16"),
    )
    overlap = Options(allow_group_overlap=True, overwrite=True)
    train_run(load_recipe("default", changes), manifest, folder / f"run{rows}", overlap)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()

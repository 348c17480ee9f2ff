"""A picture of what the network sees: segments as images, without and with augmentation."""

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from deepspectrumlite.augment import Augmentation, sap_policy
from deepspectrumlite.config import Recipe
from deepspectrumlite.data import Segments, scan
from deepspectrumlite.errors import AudioError, DeepSpectrumLiteError
from deepspectrumlite.frontend import FrontEnd, Waveforms, band_position, images_of
from deepspectrumlite.manifest import fail
from deepspectrumlite.plots import new_figure, save_figure, shorten
from deepspectrumlite.progress import Progress, silent
from deepspectrumlite.targets import Targets, find_targets, load_labelled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# So many recordings are read at least: of a batch of one, nothing could be mixed with another.
FEWEST = 4
HEIGHT = 1.3  # inches of an image
LINE = 0.12  # inches of a line of text
LINE_LENGTH = 20  # characters above an image that is as wide as high


@dataclass(frozen=True)
class Preview:
    """What :func:`draw_preview` shows.

    ``images`` is (rows, 1 + columns, height, width, 3), bytes; the first of each row is without
    augmentation. ``titles`` is what stands above them, ``names`` where each row comes from.
    """

    images: npt.NDArray[np.uint8]
    titles: list[list[str]]
    names: list[str]


def draw_preview(
    recipe: Recipe,
    manifest: Path,
    picture: Path,
    *,
    split: str = "all",
    rows: int = 6,
    columns: int = 5,
    seed: int = 0,
    progress: Progress = silent,
) -> None:
    """Write a PNG with a row per segment: its image, and augmented versions of it.

    Args:
        recipe: its front-end and augmentation
        manifest: as for training; only the recordings that are used here are decoded
        picture: the PNG
        split: of the recordings to choose from, or "all"
        rows: number of segments
        columns: number of augmented versions of each
        seed: chooses segments and augmentation
        progress: told of every recording

    Raises:
        DeepSpectrumLiteError: `picture` is no .png, or as :func:`make_preview`
        OSError: `picture` cannot be written
    """
    if picture.suffix.lower() != ".png":
        raise DeepSpectrumLiteError(f"{picture}: not a picture's name; allowed: one ending in .png")
    if not picture.absolute().parent.is_dir():
        raise DeepSpectrumLiteError(
            f"{picture}: its folder does not exist; allowed: an existing one; make it first"
        )
    preview = make_preview(
        recipe, manifest, split=split, rows=rows, columns=columns, seed=seed, progress=progress
    )
    save_figure(_draw(preview, recipe), picture)


def make_preview(
    recipe: Recipe,
    manifest: Path,
    *,
    split: str = "all",
    rows: int = 6,
    columns: int = 5,
    seed: int = 0,
    progress: Progress = silent,
) -> Preview:
    """The images and texts of :func:`draw_preview`.

    Raises:
        ManifestError: the manifest is inconsistent, or has no such split
        AudioError: a chosen recording is bad
        TrainingError: as :class:`deepspectrumlite.augment.Augmentation`
    """
    table = load_labelled(manifest, recipe.data, recipe.model.output)
    targets = find_targets(table, recipe.data, recipe.model.output)
    chosen = _choose(_of_split(table, split), targets, max(rows, FEWEST), seed)
    scanned, bad = scan(
        chosen,
        recipe.data,
        skip_bad=True,
        progress=lambda done, total: progress("reading recordings", done, total),
    )
    if len(bad):
        raise AudioError(bad["reason"].iloc[0])
    segments = Segments(scanned, recipe.data, targets.encode(scanned))
    # One segment of each recording that has any, anywhere in it.
    rng = np.random.default_rng(seed)
    files = np.unique(segments.file_index)
    used = [int(rng.choice(np.flatnonzero(segments.file_index == file))) for file in files]
    waveform, target, _ = zip(*(segments[i] for i in used), strict=True)
    several = [torch.from_numpy(each) for each in waveform]
    heard = torch.stack(several) if recipe.data.segment_samples else several
    wanted = torch.from_numpy(np.stack(target))
    images, titles = _augment(recipe, targets, heard, wanted, columns, seed)
    starts, paths = segments.start_seconds[used], scanned["path"].iloc[files]
    names = [
        f"{shorten(Path(path).name)}\nfrom {start:.2f} s"
        for path, start in zip(paths, starts, strict=True)
    ]
    return Preview(images[:rows], titles[:rows], names[:rows])


def _of_split(table: pd.DataFrame, split: str) -> pd.DataFrame:
    if split == "all":
        return table
    if "split" not in table:
        fail(table, f'no column split, but the split "{split}" was asked for; allowed: "all"')
    if not (table["split"] == split).any():
        known = ", ".join(sorted(set(table["split"])))
        fail(table, f'no recording in the split "{split}"; allowed: {known}, all')
    return table[table["split"] == split]


def _choose(table: pd.DataFrame, targets: Targets, count: int, seed: int) -> pd.DataFrame:
    """Up to `count` rows in random order, but a second one of a class only after one of each."""
    mixed = table.iloc[np.random.default_rng(seed).permutation(len(table))]
    strata = targets.strata(mixed)
    turn = strata.groupby(strata).cumcount().to_numpy()
    chosen = mixed.iloc[turn.argsort(kind="stable")[:count]].reset_index(drop=True)
    chosen.attrs = dict(table.attrs)
    return chosen


@torch.no_grad()
def _augment(
    recipe: Recipe,
    targets: Targets,
    waveform: Waveforms,
    target: torch.Tensor,
    columns: int,
    seed: int,
) -> tuple[npt.NDArray[np.uint8], list[list[str]]]:
    """Waveforms, ``(batch, n_outputs)`` -> images and titles of all columns."""
    frontend = FrontEnd(recipe.frontend, recipe.data)
    augmentation = Augmentation(recipe.augment, recipe.data)
    generator = torch.Generator().manual_seed(seed)
    shown, texts = (
        [images_of(frontend, waveform)],
        [[_label(row, targets) for row in target.tolist()]],
    )
    for _ in range(columns):
        heard, wanted = augmentation.waveforms(waveform, target, generator)
        strength = _strength(recipe, len(waveform), generator)
        image = images_of(frontend, heard)
        image, wanted = augmentation.images(image, wanted, strength, generator)
        text = [_label(row, targets) for row in wanted.tolist()]
        if strength is not None:
            text = [f"{a}\nstrength {b:.2f}" for a, b in zip(text, strength.tolist(), strict=True)]
        shown.append(image)
        texts.append(text)
    images = (torch.stack(shown, dim=1) * 255).round().byte().permute(0, 1, 3, 4, 2).numpy()
    return images, [list(row) for row in zip(*texts, strict=True)]


def _strength(recipe: Recipe, count: int, generator: torch.Generator) -> torch.Tensor | None:
    """SapAugment's strengths by random ranks in a batch as large as in training: ``(count,)``."""
    augment = recipe.augment
    if augment.strength != "sapaugment":
        return None
    policy = sap_policy(max(count, recipe.train.batch_size), augment.sap_a, augment.sap_s)
    return policy[torch.randperm(len(policy), generator=generator)[:count]]


def _label(values: list[float], targets: Targets) -> str:
    """What a target means: "snare", "snare 0.7 + tom 0.3", "2.5", "arousal 0.2, valence 0.6"."""
    names = [shorten(label) for label in targets.labels]
    if targets.output == "ordinal":
        known = dict(zip(targets.values, names, strict=True))
        return known.get(values[0], f"{values[0]:.4g}")
    if targets.output == "linear" and len(names) == 1:
        return f"{values[0]:.4g}"
    pairs = list(zip(names, values, strict=True))
    if targets.output == "linear":
        return ", ".join(f"{name} {value:.4g}" for name, value in pairs)
    there = [(name, round(value, 2)) for name, value in pairs if value >= 0.005]
    there.sort(key=lambda pair: -pair[1])
    # What is there as a whole needs no number.
    return " + ".join(n if share == 1 else f"{n} {share:g}" for n, share in there) or "(none)"


def _draw(preview: Preview, recipe: Recipe) -> "Figure":
    """The grid as a figure: times below, frequencies at the left."""
    rows, columns, height, width, _ = preview.images.shape
    cell = HEIGHT * float(np.clip(width / height, 0.75, 3))
    length = round(LINE_LENGTH * cell / HEIGHT)
    titles = [[_wrap(title, length) for title in row] for row in preview.titles]
    above = LINE * (1.6 + max(title.count("\n") for row in titles for title in row))
    figure = new_figure((columns * cell * 1.08, rows * (HEIGHT + above)))
    grid = {"left": 0, "right": 1, "bottom": 0, "top": 1, "wspace": 0.08, "hspace": above / HEIGHT}
    axes = figure.subplots(rows, columns, squeeze=False, gridspec_kw=grid)
    extent, places, names = image_axes(recipe)
    for (row, column), one in np.ndenumerate(axes):
        one.imshow(preview.images[row, column], extent=extent, aspect="auto")
        one.set_title(titles[row][column], fontsize=7, pad=3, parse_math=False)
        one.tick_params(labelsize=6, length=2, pad=1.5, labelbottom=row == rows - 1)
        one.locator_params(axis="x", nbins=4)
        one.xaxis.set_major_formatter("{x:g} s" if recipe.data.segment_samples else "{x:g} %")
        one.set_yticks(places, names if column == 0 else [])
    for one, name in zip(axes[:, 0], preview.names, strict=True):
        one.set_ylabel(name, fontsize=6, parse_math=False)
    for column, one in enumerate(axes[0]):
        head = f"augmented {column}" if column else "original"
        place = {"xycoords": "axes fraction", "textcoords": "offset points", "ha": "center"}
        one.annotate(head, (0.5, 1), (0, 72 * above + 2), fontsize=8, weight="bold", **place)
    return figure


def _wrap(title: str, length: int) -> str:
    """Cut lines that are too long, but not before a number or a plus."""
    lines = re.sub(r" (?=[-+.\d])", "\xa0", title).split("\n")
    return "\n".join(part for line in lines for part in textwrap.wrap(line, length))


def image_axes(
    recipe: Recipe, num_samples: int = 0
) -> tuple[tuple[float, ...], list[float], list[str]]:
    """Left, right (seconds), bottom, top (bands) of an image; ticks at bands, and their names.

    Where segments are whole recordings: of one with so many samples; without, from 0 to 100 %.
    """
    section, rate = recipe.frontend, recipe.data.sample_rate
    frontend = FrontEnd(section, recipe.data)
    # Frames and bands stand where their middles are.
    start = (frontend.win_length - frontend.hop_length) / 2 / rate
    extent: tuple[float, ...] = (0, 100, 0, frontend.n_bands)
    if num_samples := recipe.data.segment_samples or num_samples:
        seconds = frontend.count_frames(num_samples) * frontend.hop_length / rate
        extent = (start, start + seconds, 0, frontend.n_bands)
    if section.n_mfcc:
        numbers = np.linspace(0, section.n_mfcc - 1, min(4, section.n_mfcc)).round()
        return extent, [n + 0.5 for n in numbers], [f"MFCC {n:g}" for n in numbers]
    low, high = section.fmin, section.fmax_hz(rate)
    hertz = np.linspace(low, high, 10_000)
    bands = band_position(hertz, section, recipe.data)
    exact = np.interp((np.arange(4) + 0.5) / 4 * frontend.n_bands, bands, hertz)
    # As few digits as still give four ticks within the image.
    for digits in range(1, 6):
        ticks = np.array([float(f"{f:.{digits}g}") for f in exact])
        places = np.interp(ticks, hertz, bands, left=-1, right=-1)
        if len(set(ticks)) == 4 and ((places >= 0) & (places <= frontend.n_bands)).all():
            break
    return extent, places.tolist(), [f"{f:g} Hz" for f in ticks]

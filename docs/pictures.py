"""Draw docs/pictures/*.png, from the bundled drum recordings: python docs/pictures.py.

explain.png needs a trained model, that of `deepspectrumlite demo`, and is drawn alone:
python docs/pictures.py runs/demo.
"""

import io
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile
import torch
from PIL import Image
from torch import Tensor

import deepspectrumlite
from deepspectrumlite.audio import load_audio, pad_segment
from deepspectrumlite.augment import Augmentation, cutmix, mixup, sap_policy
from deepspectrumlite.config import Recipe, load_recipe
from deepspectrumlite.explain import background_images, explain_recording
from deepspectrumlite.explain_plots import explanation_figure
from deepspectrumlite.frontend import FrontEnd
from deepspectrumlite.model import load_model
from deepspectrumlite.plots import new_figure
from deepspectrumlite.preview import image_axes

PICTURES = Path(__file__).parent / "pictures"
AUDIO = Path(deepspectrumlite.__file__).parent / "demo_drums" / "audio"
DRUMS = {
    "crash": "fluidr3mono__Crsh_1_L",
    "tom": "fluidr3mono__Low_Studio_L",
    "snare": "BJA_Pacific__BJA_Pacific__SN4_07",
    "kick": "sonic-pi__drum_bass_hard",
}
OFF = (
    "augment.time_shift=0",
    "augment.speed=0",
    "augment.mixup_share=0",
    "augment.mask_probability=0",
    "augment.cutmix_probability=0",
    "data.padding=zero",
)
# Seeds whose first draw is far above the middle, and far below.
EARLIER, LATER = 5, 11
DPI = 96
SIDE = 1.5  # inches of an image

Cell = tuple[Tensor, str]


def main() -> None:
    """Draw them all."""
    PICTURES.mkdir(exist_ok=True)
    time_shift_and_speed()
    gain()
    noise()
    with tempfile.TemporaryDirectory() as folder:
        reverb(Path(folder))
    mixup_of_two()
    cutmix_of_two()
    masks()
    sapaugment()


def time_shift_and_speed() -> None:
    """Of a snare, whose lower partials show the pitch."""
    snare = load("snare")
    shifts = augmented(snare, settings("augment.time_shift=0.3"), seeds=(EARLIER, LATER))
    speeds = augmented(snare, settings("augment.speed=0.3"), seeds=(LATER, EARLIER))
    titles = ("original", "shifted, earlier", "shifted, later", "slower, lower", "faster, higher")
    images = (image_of(snare, settings()), *shifts, *speeds)
    save_grid([list(zip(images, titles, strict=True))], "time_shift_speed")


def gain() -> None:
    """Of a kick that ends in digital silence, with and without a limit of the range."""
    rows = []
    for top_db in ("80", "none"):
        recipe = settings("frontend.peak_normalise=false", f"frontend.top_db={top_db}")
        levels = (0, 20, -20, -40)
        images = [image_of(load("kick") * 10 ** (db / 20), recipe) for db in levels]
        titles = [f"{db:+d} dB" if db else f"top_db = {top_db}, 0 dB" for db in levels]
        rows.append(list(zip(images, titles, strict=True)))
    save_grid(rows, "gain")


def noise() -> None:
    """The same noise at three levels."""
    snare = load("snare")
    cells = [(image_of(snare, settings()), "original")]
    for snr in (20, 10, 0):
        keys = (f"augment.snr_db_low={snr}", f"augment.snr_db_high={snr}")
        (image,) = augmented(snare, settings("augment.noise_share=1", *keys), seeds=(0,))
        cells.append((image, f"white noise, {snr} dB"))
    save_grid([cells], "noise")


def reverb(folder: Path) -> None:
    """Rooms as noise that decays by 60 dB in the given time."""
    snare, rate = load("snare"), settings().data.sample_rate
    cells = [(image_of(snare, settings()), "original")]
    for seconds in (0.3, 1.0, 3.0):
        room = folder / f"{seconds}"
        room.mkdir()
        time = np.arange(round(seconds * rate)) / rate
        decay = np.random.default_rng(0).standard_normal(len(time)) * 10 ** (-3 * time / seconds)
        decay[0] = np.abs(decay).max()  # the direct sound
        soundfile.write(room / "room.wav", decay / np.abs(decay).max(), rate)
        keys = ("augment.reverb_share=1", f"augment.reverb_folder={room}")
        (image,) = augmented(snare, settings(*keys), seeds=(0,))
        cells.append((image, f"room of {seconds:g} s"))
    save_grid([cells], "reverb")


def mixup_of_two() -> None:
    """Two drums at three weights."""
    waveform, recipe = torch.cat([load("kick"), load("crash")]), settings()
    cells = [(image_of(waveform[:1], recipe), "kick"), (image_of(waveform[1:], recipe), "crash")]
    for weight in (0.9, 0.7, 0.5):
        both = mixup(waveform, torch.eye(2), torch.tensor([weight]), 1.0, swap())
        cells.append((image_of(both[0][:1], recipe), shares(both[1][0])))
    save_grid([cells], "mixup")


def cutmix_of_two() -> None:
    """The same two with a growing box."""
    recipe = settings()
    image = torch.cat([image_of(load(name), recipe) for name in ("kick", "crash")])
    cells = [(image[:1], "kick"), (image[1:], "crash")]
    for area in (0.1, 0.25, 0.4):
        both = cutmix(image, torch.eye(2), torch.full((2, 1), area), swap())
        cells.append((both[0][:1], shares(both[1][0])))
    save_grid([cells], "cutmix")


def masks() -> None:
    """Four draws of the default masks."""
    tom = load("tom")
    images = augmented(tom, settings("augment.mask_probability=1"), seeds=(0, 2, 4, 6))
    cells = [(image_of(tom, settings()), "original")]
    cells += [(image, f"masked, draw {n}") for n, image in enumerate(images, 1)]
    save_grid([cells], "specaugment")


def sapaugment() -> None:
    """Above the policy, below one segment at five strengths."""
    figure = new_figure((5 * SIDE * 1.1, SIDE * 2.9))
    upper, lower = figure.subfigures(2, 1, height_ratios=(1.35, 1))
    upper.subplots_adjust(0.07, 0.2, 0.99, 0.9, wspace=0.08)
    by_a, by_s = upper.subplots(1, 2, sharey=True)
    for a in (0.2, 0.5, 0.8):
        draw_policy(by_a, a, 10.0)
    for s in (2.0, 10.0, 50.0):
        draw_policy(by_s, 0.5, s)
    by_a.set_title("a: how much of the batch is left nearly alone (s = 10)", fontsize=8)
    by_s.set_title("s: how steeply strength falls (a = 0.5)", fontsize=8)
    by_a.set_ylabel("strength", fontsize=8)
    recipe = settings(
        *(
            f"augment.{step}_probability{end}=1"
            for step in ("mask", "cutmix")
            for end in ("", "_min")
        )
    )
    augmentation = Augmentation(recipe.augment, recipe.data)
    image = torch.cat([image_of(load(name), recipe) for name in ("snare", "crash")])
    cells = []
    for strength in (0.0, 0.25, 0.5, 0.75, 1.0):
        changed, target = augmentation.images(
            image, torch.eye(2), torch.full((2,), strength), swap(27)
        )
        cells.append((changed[:1], f"strength {strength:g}\n{shares(target[0], 'snare', 'crash')}"))
    lower.subplots_adjust(0.07, 0.1, 0.99, 0.8, wspace=0.08)
    draw_grid(lower.subplots(1, 5, squeeze=False), [cells], recipe)
    save(figure, "sapaugment")


def draw_policy(axes, a: float, s: float) -> None:
    """A curve of strengths by rank."""
    axes.plot(range(1, 33), sap_policy(32, a, s), marker=".", ms=4, lw=1.2, label=f"{a=:g}, {s=:g}")
    axes.set_xlabel("rank of the loss in a batch of 32: small to large", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)


def settings(*changes: str) -> Recipe:
    """The default recipe without augmentation, but for the changes."""
    keys = {change.partition("=")[0] for change in changes}
    off = [item for item in OFF if item.partition("=")[0] not in keys]
    return load_recipe("default", [*off, *changes])


def load(name: str) -> Tensor:
    """The first second of a drum: ``(1, num_samples)``."""
    data = settings().data
    waveform = load_audio(AUDIO / f"{DRUMS[name]}.flac", data.sample_rate)
    size = data.segment_samples
    return torch.from_numpy(pad_segment(waveform[:size], size, "zero"))[None]


def image_of(waveform: Tensor, recipe: Recipe) -> Tensor:
    """``(batch, num_samples)`` -> ``(batch, 3, height, width)``."""
    return FrontEnd(recipe.frontend, recipe.data)(waveform)


def augmented(waveform: Tensor, recipe: Recipe, seeds: tuple[int, ...]) -> list[Tensor]:
    """An image for each seed."""
    augmentation, images = Augmentation(recipe.augment, recipe.data), []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        heard, target = augmentation.waveforms(waveform, torch.ones(1, 1), generator)
        image = image_of(heard, recipe)
        images.append(augmentation.images(image, target, None, generator)[0])
    return images


def explanation(run: Path) -> None:
    """SHAP maps of a kick for two labels."""
    model = load_model(run)
    background = background_images(model, AUDIO.parent / "labels.csv")
    kick = AUDIO / "BJA_Pacific__BJA_Pacific__BD_01.flac"
    (found,) = explain_recording(model, kick, targets=["kick", "snare"], background=background)
    # Which colours are most frequent would leave the bars of three scales without theirs.
    save(explanation_figure(found, model), "explain", 256, Image.Quantize.MAXCOVERAGE)


def swap(seed: int = 12) -> torch.Generator:
    """With these seeds two segments become each other's partners."""
    return torch.Generator().manual_seed(seed)


def shares(target: Tensor, one: str = "kick", other: str = "crash") -> str:
    """A target in words."""
    named = [
        (round(float(share), 2), name) for share, name in zip(target, (one, other), strict=True)
    ]
    return " + ".join(f"{name} {share:g}" if share < 1 else name for share, name in named if share)


def save_grid(rows: list[list[Cell]], name: str) -> None:
    """Write rows of images with titles."""
    n_columns = len(rows[0])
    figure = new_figure((n_columns * SIDE * 1.08, len(rows) * SIDE * 1.2))
    figure.subplots_adjust(0, 0, 1, 1, wspace=0.08, hspace=0.2)
    axes = figure.subplots(len(rows), n_columns, squeeze=False)
    draw_grid(axes, rows, settings())
    save(figure, name)


def draw_grid(axes, rows: list[list[Cell]], recipe: Recipe) -> None:
    """Images with titles, times below and frequencies at the left."""
    extent, places, names = image_axes(recipe)
    for (row, column), one in np.ndenumerate(axes):
        image, title = rows[row][column]
        one.imshow(image[0].permute(1, 2, 0).clamp(0, 1), extent=extent, aspect="auto")
        one.set_title(title, fontsize=8, pad=3)
        one.set_yticks(places, names if column == 0 else [])
        one.tick_params(labelsize=7, length=2, pad=1.5)
        one.set_xticks((0.25, 0.5, 0.75))
        one.set_xticklabels(("0.25 s", "0.5 s", "0.75 s") if row == len(axes) - 1 else [])


def save(figure, name: str, colors: int = 128, method: int = Image.Quantize.MEDIANCUT) -> None:
    """As a PNG of few colours, which is a third of the size."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, bbox_inches="tight", facecolor="white")
    with Image.open(buffer) as image:
        small = image.convert("RGB").quantize(colors, method, dither=Image.Dither.NONE)
    small.save(PICTURES / f"{name}.png", optimize=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        explanation(Path(sys.argv[1]))
    else:
        main()

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from deepspectrumlite.errors import AudioError, DeepSpectrumLiteError, ManifestError
from deepspectrumlite.frontend import FrontEnd
from deepspectrumlite.preview import Preview, _draw, _label, _wrap, draw_preview, image_axes
from deepspectrumlite.preview import make_preview as preview_of
from deepspectrumlite.targets import Targets

OFF = (
    "augment.time_shift=0",
    "augment.speed=0",
    "augment.mixup_share=0",
    "augment.mask_probability=0",
    "augment.cutmix_probability=0",
)


@pytest.fixture(scope="module")
def default_preview(make_recipe, tones):
    return preview_of(make_recipe(), tones, rows=5, columns=4, seed=3)


def some_tones(folder, tone, rows, save_manifest):
    """A manifest of one tone per row, whose values it takes."""
    for i in range(len(rows)):
        soundfile.write(folder / f"{i}.wav", tone("high", i), 8000)
    return save_manifest(
        folder / "labels.csv", [{"path": f"{i}.wav", **row} for i, row in enumerate(rows)]
    )


def test_picture_shows_every_column(make_recipe, tones, tmp_path):
    picture = tmp_path / "preview.png"
    draw_preview(make_recipe(), tones, picture, rows=3, columns=2)
    with Image.open(picture) as image:
        pixels = np.asarray(image.convert("RGB"), dtype=float)
    assert image.format == "PNG"
    assert pixels.shape[1] > 500
    for part in np.array_split(pixels, 3, axis=1):
        assert part.std() > 20


def test_heads_titles_and_ticks_are_written(make_recipe, default_preview):
    axes = np.reshape(_draw(default_preview, make_recipe()).axes, (5, 5))
    assert [text.get_text() for one in axes[0] for text in one.texts] == [
        "original",
        *(f"augmented {i}" for i in range(1, 5)),
    ]
    for (row, column), one in np.ndenumerate(axes):
        shown = one.get_title().replace("\n", " ").replace("\xa0", " ")
        assert shown == default_preview.titles[row][column]
        named = [label.get_text() for label in one.get_yticklabels()]
        assert all(name.endswith(" Hz") == (column == 0) for name in named)
        assert one.xaxis.get_tick_params()["labelbottom"] == (row == 4)


def test_images_have_the_size_that_the_network_sees(default_preview):
    assert default_preview.images.shape == (5, 5, 32, 32, 3)
    assert default_preview.images.dtype == np.uint8
    # The default recipe shifts and masks everything: no version is the original.
    for row in default_preview.images:
        assert all((image != row[0]).any() for image in row[1:])


def test_first_column_is_what_the_frontend_gives(make_recipe, tones, tone):
    recipe = make_recipe(*OFF)
    preview = preview_of(recipe, tones, split="devel", rows=6, columns=2)
    assert (preview.images[:, 1:] == preview.images[:, :1]).all()
    frontend = FrontEnd(recipe.frontend, recipe.data)
    for name, image in zip(preview.names, preview.images[:, 0], strict=True):
        file, start = name.split("\nfrom ")
        waveform, _ = soundfile.read(tones.parent / file, dtype="float32")
        first = round(float(start.removesuffix(" s")) * 8000)
        expected = frontend(torch.from_numpy(waveform[None, first : first + 4000]))
        np.testing.assert_allclose(image, expected[0].permute(1, 2, 0) * 255, atol=0.51)


def test_no_column_but_the_original(make_recipe, tones, tmp_path):
    preview = preview_of(make_recipe(), tones, rows=1, columns=0)
    assert preview.images.shape == (1, 1, 32, 32, 3)
    draw_preview(make_recipe(), tones, tmp_path / "one.png", rows=1, columns=0)
    assert (tmp_path / "one.png").stat().st_size > 1000


def test_labels_take_turns(make_recipe, tones):
    for seed in range(4):
        preview = preview_of(make_recipe(*OFF), tones, rows=7, columns=0, seed=seed)
        labels = [row[0] for row in preview.titles]
        assert len({*labels[:3]}) == len({*labels[3:6]}) == 3
        assert len({*preview.names}) == 7
        for name, label in zip(preview.names, labels, strict=True):
            assert name.startswith(label)


def test_rows_end_where_the_recordings_do(make_recipe, tones):
    preview = preview_of(make_recipe(*OFF), tones, split="devel", rows=50, columns=0)
    assert len(preview.images) == len(preview.titles) == len(preview.names) == 6
    assert all("devel" in name for name in preview.names)


def test_mixed_labels_have_shares_that_sum_to_one(make_recipe, tones):
    recipe = make_recipe(*OFF, "augment.mixup_share=1")
    preview = preview_of(recipe, tones, rows=6, columns=6)
    mixed = [title for row in preview.titles for title in row[1:] if " + " in title]
    assert len(mixed) > 10
    for title in mixed:
        shares = [float(part.split()[1]) for part in title.split(" + ")]
        assert shares[0] >= shares[1]
        assert sum(shares) == pytest.approx(1, abs=0.011)


def test_a_single_row_finds_partners_too(make_recipe, tones):
    recipe = make_recipe(*OFF, "augment.cutmix_probability=1", "augment.cutmix_area_min=0.4")
    titles = preview_of(recipe, tones, rows=1, columns=12).titles[0]
    assert sum(" + " in title for title in titles[1:]) >= 4


def test_same_seed_same_preview(make_recipe, tones, default_preview):
    again = preview_of(make_recipe(), tones, rows=5, columns=4, seed=3)
    assert (again.images == default_preview.images).all()
    assert (again.titles, again.names) == (default_preview.titles, default_preview.names)
    other = preview_of(make_recipe(), tones, rows=5, columns=4, seed=4)
    assert other.names != default_preview.names


def test_strength_of_sapaugment_is_shown_and_counts(make_recipe, tones):
    changes = ("augment.mask_probability=1", "augment.mask_probability_min=1")
    recipe = make_recipe(*OFF[:3], *changes, "augment.strength=sapaugment", "train.batch_size=32")
    preview = preview_of(recipe, tones, rows=6, columns=8)
    strengths, changed = [], []
    for titles, images in zip(preview.titles, preview.images, strict=True):
        assert "strength" not in titles[0]
        strengths += [float(title.split("\nstrength ")[1]) for title in titles[1:]]
        changed += [(image != images[0]).any(axis=-1).mean() for image in images[1:]]
    assert min(strengths) < 0.1
    assert max(strengths) > 0.9
    assert len(set(strengths)) > 8  # as in a batch of 32, not of 6
    assert np.corrcoef(strengths, changed)[0, 1] > 0.9


def test_random_strength_is_not_shown(default_preview):
    assert not any("strength" in title for row in default_preview.titles for title in row)


def test_only_what_is_used_is_decoded(make_recipe, tone, tmp_path, save_manifest):
    rows = [{"label": f"{i % 2}", "split": "train" if i < 2 else "test"} for i in range(4)]
    manifest = some_tones(tmp_path, tone, rows, save_manifest)
    for i in (2, 3):
        (tmp_path / f"{i}.wav").unlink()
    told = []
    preview = preview_of(
        make_recipe(), manifest, split="train", progress=lambda *step: told.append(step)
    )
    assert len(preview.images) == 2
    assert told == [("reading recordings", 1, 2), ("reading recordings", 2, 2)]
    with pytest.raises(AudioError, match=r"[23]\.wav: no such file; check the path$"):
        preview_of(make_recipe(), manifest)


def test_few_of_many_recordings_are_decoded(make_recipe, tones):
    told = []
    preview_of(make_recipe(), tones, rows=5, progress=lambda *step: told.append(step))
    assert told[-1] == ("reading recordings", 5, 5)


def test_refuses_splits_that_are_not_there(make_recipe, tone, tmp_path, save_manifest):
    rows = [{"label": label, "split": "train"} for label in ("a", "b")]
    manifest = some_tones(tmp_path, tone, rows, save_manifest)
    with pytest.raises(ManifestError, match='no recording in the split "devel"; allowed: train'):
        preview_of(make_recipe(), manifest, split="devel")
    for row in rows:
        del row["split"]
    manifest = some_tones(tmp_path, tone, rows, save_manifest)
    with pytest.raises(ManifestError, match=r'no column split, but the split "train".*"all"$'):
        preview_of(make_recipe(), manifest, split="train")
    assert len(preview_of(make_recipe(), manifest).images) == 2


def test_refuses_other_pictures(make_recipe, tones, tmp_path):
    with pytest.raises(DeepSpectrumLiteError, match=r"a\.jpg: .*allowed: one ending in \.png"):
        draw_preview(make_recipe(), tones, tmp_path / "a.jpg")
    with pytest.raises(DeepSpectrumLiteError, match=r"a\.png: its folder does not exist; allowed"):
        draw_preview(make_recipe(), tones, tmp_path / "no" / "a.png", rows=1, columns=0)


def test_several_labels(make_recipe, tone, tmp_path, save_manifest):
    rows = [{"label": label} for label in ("cat;dog", "dog", "", "cat;bird;dog")]
    manifest = some_tones(tmp_path, tone, rows, save_manifest)
    recipe = make_recipe("model.output=sigmoid", *OFF, "augment.mixup_share=1")
    preview = preview_of(recipe, manifest, rows=4, columns=5)
    shown = {name[0]: row[0] for name, row in zip(preview.names, preview.titles, strict=True)}
    assert shown == {"0": "cat + dog", "1": "dog", "2": "(none)", "3": "bird + cat + dog"}
    assert any("dog 0." in title for row in preview.titles for title in row[1:])


def test_numbers(make_recipe, tone, tmp_path, save_manifest):
    rows = [{"arousal": i / 4, "valence": -i} for i in range(5)]
    manifest = some_tones(tmp_path, tone, rows, save_manifest)
    output = "model.output=linear"
    both = make_recipe(output, 'data.target=["arousal", "valence"]', *OFF)
    preview = preview_of(both, manifest, columns=1)
    for name, row in zip(preview.names, preview.titles, strict=True):
        i = int(name[0])
        assert row == [f"arousal {i / 4:g}, valence {-i:g}"] * 2
    one = make_recipe(output, "data.target=arousal", *OFF, "augment.mixup_share=1")
    preview = preview_of(one, manifest, columns=4)
    values = np.array([[float(title) for title in row] for row in preview.titles])
    assert (values != values[:, :1]).any()
    assert values.min() >= 0
    assert values.max() <= 1


def test_titles_of_ordered_labels(make_recipe):
    data = make_recipe("model.output=ordinal", 'data.order=["low", "mid", "high"]').data
    targets = Targets("ordinal", ["low", "mid", "high"], data)
    assert [_label([value], targets) for value in (0.0, 2.0, 1.25)] == ["low", "high", "1.25"]


def test_titles_are_cut_before_names(make_recipe):
    title = "hihat_closed 0.65 + tom 0.35\nstrength 0.95"
    assert _wrap(title, 20).replace("\xa0", " ").split("\n") == [
        "hihat_closed 0.65 +",
        "tom 0.35",
        "strength 0.95",
    ]


@pytest.mark.parametrize(
    "changes",
    [
        (),
        ("frontend.fmin=300", "frontend.fmax=3000"),
        ("frontend.frequency=linear",),
        ("frontend.frequency=linear", "frontend.fmin=1000", "frontend.fmax=1900"),
    ],
)
def test_ticks_are_where_tones_are(make_recipe, changes):
    recipe = make_recipe(*changes, "frontend.color_map=none")
    frontend = FrontEnd(recipe.frontend, recipe.data)
    (_, _, bottom, top), places, names = image_axes(recipe)
    assert (bottom, top) == (0, frontend.n_bands)
    assert len(set(names)) == 4
    time = torch.arange(4000) / 8000
    for place, name in zip(places, names, strict=True):
        tone = torch.sin(2 * np.pi * float(name.removesuffix(" Hz")) * time)[None]
        loudest = frontend.features(tone)[0].mean(dim=0).argmax().item() + 0.5
        assert abs(loudest - place) < 1


def test_times_are_where_clicks_are(make_recipe):
    recipe = make_recipe("frontend.color_map=none", "frontend.image_width=64")
    (left, right, _, _), _, _ = image_axes(recipe)
    waveform = torch.zeros(1, 4000)
    waveform[0, 1000] = 1
    image = FrontEnd(recipe.frontend, recipe.data)(waveform)[0, 0]
    heard = image.mean(dim=0)
    heard = heard - heard.min()
    centre = (heard * (torch.arange(64) + 0.5)).sum() / heard.sum() / 64
    assert left + centre * (right - left) == pytest.approx(1000 / 8000, abs=0.004)


def test_ticks_of_coefficients(make_recipe):
    _, places, names = image_axes(make_recipe("frontend.n_mfcc=13"))
    assert names == ["MFCC 0", "MFCC 4", "MFCC 8", "MFCC 12"]
    assert places == [0.5, 4.5, 8.5, 12.5]


def test_names_are_no_mathematics(make_recipe, tmp_path):
    preview = Preview(np.zeros((1, 1, 8, 8, 3), np.uint8), [["$\\bad"]], ["$\\worse"])
    _draw(preview, make_recipe()).savefig(tmp_path / "a.png")

"""Settings of the published system: what they come to, and what is said about it."""

import csv
import itertools
import json

import pytest
import soundfile

from deepspectrumlite.config import load_recipe
from deepspectrumlite.errors import ManifestError, RecipeError
from deepspectrumlite.old_settings.files import read_old_settings
from deepspectrumlite.old_settings.keys import KNOWN
from deepspectrumlite.old_settings.value_types import KINDS
from deepspectrumlite.sweeps.plan import load_sweep, points, recipe_of

# A value for every key that the published system reads, as its documentation gives them.
SETTINGS = {
    "label_parser": ["../lib/data/parser/ComParEParser.py:ComParEParser"],
    "model_name": ["TransferBaseModel"],
    "prediction_type": ["categorical"],
    "basemodel_name": ["densenet121"],
    "weights": ["imagenet"],
    "tb_experiment": ["exp"],
    "tb_run_id": ["run"],
    "num_units": [512],
    "dropout": [0.25],
    "optimizer": ["adadelta"],
    "learning_rate": [0.001],
    "fine_learning_rate": [0.0001],
    "finetune_layer": [0.7],
    "loss": ["categorical_crossentropy"],
    "activation": ["arelu"],
    "pre_epochs": [40],
    "epochs": [200],
    "batch_size": [32],
    "sample_rate": [8000],
    "chunk_size": [0.5],
    "chunk_hop_size": [0.25],
    "normalize_audio": [True],
    "stft_window_size": [0.128],
    "stft_hop_size": [0.064],
    "stft_fft_length": [0.256],
    "mel_scale": [True],
    "lower_edge_hertz": [0.0],
    "upper_edge_hertz": [4000.0],
    "num_mel_bins": [64],
    "num_mfccs": [0],
    "cep_lifter": [0],
    "db_scale": [True],
    "use_plot_images": [True],
    "color_map": ["magma"],
    "image_width": [48],
    "image_height": [32],
    "resize_method": ["nearest"],
    "anti_alias": [False],
    "sap_aug_a": [0.5],
    "sap_aug_s": [10],
    "augment_cutmix": [True],
    "augment_specaug": [True],
    "da_prob_min": [0.1],
    "da_prob_max": [0.5],
    "cutmix_min": [0.1],
    "cutmix_max": [0.4],
    "specaug_freq_min": [0.05],
    "specaug_freq_max": [0.15],
    "specaug_time_min": [0.1],
    "specaug_time_max": [0.3],
    "specaug_freq_mask_num": [1],
    "specaug_time_mask_num": [2],
}
LABELS = ("high", "low", "noise")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tone):
    """Recordings, and a list of them as that system wanted it."""
    folder = tmp_path_factory.mktemp("old")
    lines = ["filename,label,duration_frames"]
    for split, label in itertools.product(("train", "devel", "test"), LABELS):
        for i in range(4 if split == "train" else 2):
            name = f"{split}_{label}_{i}.wav"
            soundfile.write(folder / name, tone(label, len(lines)), 8000)
            lines.append(f"{name},{label},8000")
    (folder / "labels.csv").write_text("\n".join(lines), encoding="utf-8")
    (folder / "classes.json").write_text(json.dumps({label: label.upper() for label in LABELS}))
    return folder


@pytest.fixture
def read(folder, tmp_path):
    """The function (**changes) -> OldSettings; a change to None removes the key."""

    def read(labels=folder / "labels.csv", classes=folder / "classes.json", **changes):
        values = {key: x for key, x in (SETTINGS | changes).items() if x is not None}
        path = tmp_path / "hp.json"
        path.write_text(json.dumps(values))
        return read_old_settings(path, classes, labels, folder)

    return read


def test_what_the_example_comes_to(read):
    found = read()
    recipe, train, augment = found.recipe, found.recipe.train, found.recipe.augment
    assert (recipe.data.segment_seconds, recipe.data.hop_seconds) == (0.5, 0.25)
    assert (recipe.data.sample_rate, recipe.data.tail) == (8000, "drop")
    frontend = recipe.frontend
    assert (frontend.window_seconds, frontend.hop_seconds) == (0.128, 0.064)
    assert (frontend.fft_seconds, frontend.n_mels, frontend.fmax) == (0.256, 64, 4000)
    assert (frontend.image_height, frontend.image_width) == (32, 48)
    assert (frontend.resize, frontend.antialias) == ("nearest", False)
    assert (frontend.top_db, frontend.color_map) == ("none", "magma")
    assert (recipe.model.backbone, recipe.model.units) == ("densenet121", 512)
    assert (train.head_epochs, train.head_learning_rate) == (40, 1e-3)
    assert (train.epochs, train.learning_rate, train.fine_tune_share) == (200, 1e-4, 0.3)
    assert (train.batch_norm, train.schedule, train.keep) == ("frozen", "constant", "last")
    assert (train.optimizer, train.balance) == ("adadelta", "sampler")
    assert (augment.strength, augment.rank_from) == ("sapaugment", "batch")
    assert (augment.cutmix_probability_min, augment.cutmix_probability) == (0.1, 0.6)
    assert (augment.cutmix_area_min, augment.cutmix_area) == (0.01, 0.16)
    assert (augment.time_masks, augment.frequency_masks) == (1, 2)
    assert (augment.time_mask_share_min, augment.time_mask_share) == (0.05, 0.15)
    assert (augment.frequency_mask_share_min, augment.frequency_mask_share) == (0.1, 0.3)
    assert (augment.mixup_share, augment.time_shift, augment.speed) == (0, 0, 0)
    assert found.lists == {}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "finetune_layer is 0.7: documented as the share of the last"),
        ({}, "masks' axes were swapped"),
        ({}, "da_prob_max was added"),
        ({}, "one epoch longer"),
        ({"mel_scale": [False]}, "mel_scale is false, which had no effect"),
        ({"normalize_audio": [False]}, "its file for the device normalised nevertheless"),
        ({"normalize_audio": None}, "its file for the device normalised nevertheless"),
        ({"use_plot_images": [False]}, "grey image"),
        ({"chunk_size": [-1]}, "a recording is one segment"),
        ({"chunk_size": [0.5, 1.0]}, "see devel_files in the sweep's table"),
        ({"batch_size": [1]}, "so it is 2"),
        ({"finetune_layer": [0]}, "no fine-tuning at all"),
        ({"weights": [""]}, "all layers trained from the start"),
        ({"num_mfccs": [20], "db_scale": [False]}, "MFCCs without db_scale"),
        ({"prediction_type": ["regression"], "loss": ["mae"]}, "a loss for classes"),
    ],
)
def test_what_means_something_else_is_said(folder, read, changes, said, tmp_path):
    if "prediction_type" in changes:
        changes = changes | {"labels": numbers(folder, tmp_path)}
    notes = read(**changes).notes
    assert sum(said in note for note in notes) == 1
    assert len(notes) == len(set(notes))


def numbers(folder, tmp_path):
    """The list of recordings with numbers instead of labels."""
    path = tmp_path / "numbers.csv"
    text = (folder / "labels.csv").read_text()
    for i, label in enumerate(LABELS):
        text = text.replace(f",{label},", f",{i / 2},")
    path.write_text(text)
    return path


def test_what_is_not_there_is_not_said(read):
    changes = {"augment_cutmix": [False], "augment_specaug": [False]}
    found = read(**changes)
    assert found.recipe.augment.cutmix_probability == found.recipe.augment.mask_probability == 0
    for absent in (
        "devel_files",
        "mel_scale",
        "normalised nevertheless",
        "axes",
        "da_prob",
        "cutmix",
    ):
        assert not any(absent in note for note in found.notes), absent


def test_phases_without_pretrained_weights_or_fine_tuning(read):
    train = read(weights=[""]).recipe.train
    assert (train.head_epochs, train.epochs, train.fine_tune_share) == (0, 240, 1.0)
    assert (train.learning_rate, train.batch_norm) == (1e-3, "adapt")
    train = read(finetune_layer=[0.0]).recipe.train
    assert (train.head_epochs, train.epochs) == (40, 0)
    assert read(chunk_size=[-1]).recipe.data.segment_seconds == "whole"


def test_numbers(folder, read, tmp_path):
    found = read(prediction_type=["regression"], loss=["mae"], labels=numbers(folder, tmp_path))
    assert (found.recipe.model.output, found.recipe.loss) == ("linear", "mae")
    assert {row["label"] for row in found.rows} == {"0.0", "0.5", "1.0"}


def test_a_grid_becomes_a_sweep_in_the_same_order(read, run, folder, tmp_path):
    grid = {
        "num_units": [16, 32],
        "finetune_layer": [0.25, 0.0],
        "specaug_time_max": [0.2, 0.3, 0.4],
    }
    found = read(**grid)
    assert next(iter(found.lists)) == "model.units"
    old = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    path = tmp_path / "hp.json"
    files = [path, folder / "classes.json", folder / "labels.csv"]
    code, out, _ = run("import-config", *files, "--out", tmp_path / "new")
    assert code == 0
    assert "sweep" in out
    plan = load_sweep(tmp_path / "new" / "recipe.toml")
    recipes = [recipe_of(plan, point) for point in points(plan)]
    assert len(recipes) == 12
    for recipe, wanted in zip(recipes, old, strict=True):
        assert recipe.model.units == wanted["num_units"]
        assert recipe.augment.frequency_mask_share == wanted["specaug_time_max"]
        assert recipe.train.fine_tune_share == (0.75 if wanted["finetune_layer"] else 0)
        assert recipe.train.epochs == (200 if wanted["finetune_layer"] else 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"colour": ["red"], "hue": [1]},
            r"hp.json: colour, hue: no such key .* remove them; known",
        ),
        ({"dropout": None}, "dropout: missing; add what the run was made with"),
        ({"dropout": 0.25}, "dropout is 0.25; allowed: a list with at least one value"),
        ({"dropout": []}, r"dropout is \[\]; allowed: a list"),
        (
            {"label_parser": ["mine.py:Mine"]},
            "a parser of your own is Python code, which is not run",
        ),
        ({"optimizer": ["ftrl"]}, 'optimizer is "ftrl"; allowed here: adadelta, '),
        ({"basemodel_name": ["nasnet_mobile"]}, 'basemodel_name is "nasnet_mobile"; allowed here'),
        ({"resize_method": ["gaussian"]}, 'resize_method is "gaussian"; allowed here: nearest'),
        ({"color_map": ["jet"]}, 'color_map is "jet"; allowed here: viridis'),
        ({"loss": ["mae"]}, 'loss is "mae"; allowed here: categorical_crossentropy'),
        ({"finetune_layer": [70]}, "finetune_layer is 70; allowed: 0 to 1"),
        ({"chunk_hop_size": [2.0]}, "hop_seconds is 2, longer than segment_seconds"),
        ({"num_mel_bins": [64, 4000]}, r"frontend.n_mels=4000: .*n_mels"),
        ({"mel_scale": ["False"]}, r'hp.json: mel_scale has the value "False"; allowed: true or f'),
        ({"augment_cutmix": [True, 1]}, "augment_cutmix has the value 1; allowed: true or false"),
        ({"chunk_size": ["x"]}, r'hp.json: chunk_size has the value "x"; allowed: a number'),
        ({"dropout": [0.1, True]}, "dropout has the value true; allowed: a number"),
        ({"learning_rate": [float("nan")]}, "learning_rate has the value NaN; allowed: a number"),
        ({"sap_aug_a": [float("inf")]}, "sap_aug_a has the value Infinity; allowed: a number"),
        ({"epochs": [20.5]}, "epochs has the value 20.5; allowed: a whole number"),
        ({"epochs": [10**400]}, "epochs has the value 1000000"),
        ({"batch_size": [None]}, "batch_size has the value null; allowed: a whole number"),
        ({"optimizer": [["adam"]]}, r'optimizer has the value \["adam"\]; allowed: text'),
        ({"weights": [None]}, "weights has the value null; allowed: text"),
        ({"model_name": ["Other"]}, 'model_name is "Other"; allowed: "TransferBaseModel"'),
    ],
)
def test_settings_that_cannot_be_taken_over(read, changes, message):
    with pytest.raises(RecipeError, match=message):
        read(**changes)


def test_every_key_has_a_type():
    assert sorted(KINDS) == sorted(set(KNOWN))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("filename,label,duration_frames\ntrain_1.wav,dog,9", "row 2: the label 'dog' is no class"),
        ("filename,label,duration_frames\ntrain_1.wav,low", "row 2 has 2 fields; allowed: 3"),
        ("filename,label,duration_frames\nx_1.wav,low,9", "no file name begins with train"),
        ("", "cannot be read"),
    ],
)
def test_labels_that_cannot_be_taken_over(read, tmp_path, text, message):
    path = tmp_path / "labels.csv"
    path.write_text(text)
    with pytest.raises(ManifestError, match=message):
        read(labels=path)


def test_rows_and_recordings_that_are_missing_are_told(read, folder, tmp_path):
    path = tmp_path / "labels.csv"
    more = "\nextra_1.wav,low,8000\ntrain_gone.wav,low,8000\n"
    path.write_text((folder / "labels.csv").read_text() + more)
    notes = read(labels=path).notes
    assert sum("1 rows of labels.csv are left out" in note for note in notes) == 1
    assert sum("1 of 25 recordings are not in" in note for note in notes) == 1


def test_the_command_writes_what_train_takes(run, folder, small_settings, tmp_path):
    hp = tmp_path / "hp.json"
    hp.write_text(json.dumps(SETTINGS))
    files = [hp, folder / "classes.json", folder / "labels.csv"]
    code, out, _ = run("import-config", *files, "--out", tmp_path / "new")
    assert code == 0
    assert "- finetune_layer is 0.7" in out
    assert f"deepspectrumlite train {tmp_path / 'new' / 'recipe.toml'}" in out.replace("\n", " ")
    with (tmp_path / "new" / "manifest.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 24
    assert load_recipe(tmp_path / "new" / "recipe.toml").train.epochs == 200
    changes = [*small_settings, "model.weights=random", "train.head_epochs=1", "train.epochs=1"]
    changes += ["train.workers=0", "model.activation=relu", "train.tensorboard=false"]
    sets = [part for change in changes for part in ("--set", change)]
    recipe, manifest = tmp_path / "new" / "recipe.toml", tmp_path / "new" / "manifest.csv"
    assert run("train", recipe, "--data", manifest, "--out", tmp_path / "run", *sets)[0] == 0
    # Nothing is overwritten.
    code, _, errors = run("import-config", *files, "--out", tmp_path / "new")
    assert (code, len(errors)) == (2, 1)
    assert "already there" in errors[0]

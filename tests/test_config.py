import json
import math
import random
import tomllib

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from deepspectrumlite.cli import app
from deepspectrumlite.config import (
    RECIPES,
    DataSection,
    FrontEndSection,
    Recipe,
    check_frontend,
    load_recipe,
    parse_recipe,
    recipe_schema,
    shipped_recipes,
)
from deepspectrumlite.errors import RecipeError
from deepspectrumlite.frontend import FrontEnd, mel_matrix

# What the messages of impossible combinations quote, so that no default matters to them.
QUOTED = {
    "data": {"sample_rate": 16_000, "segment_seconds": 2.0, "hop_seconds": 1.0},
    "frontend": {"window_seconds": 0.064, "hop_seconds": 0.016, "n_mels": 128},
}


def with_quoted(values):
    """Values of a recipe by section, over the quoted settings."""
    return {name: QUOTED.get(name, {}) | values.get(name, {}) for name in QUOTED | values}


def message(section=None, *, overrides=(), **values):
    """The error of a recipe with these values in one section, or of these overrides."""
    with pytest.raises(RecipeError) as info:  # noqa: PT012
        if overrides:
            load_recipe("default", overrides)
        else:
            parse_recipe({section: values}, "mine.toml")
    text = str(info.value)
    assert "\n" not in text
    return text


def test_default_recipe_is_the_defaults_of_the_classes():
    assert load_recipe("default") == parse_recipe({}) == Recipe()


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_parse_and_keep_what_they_set(name):
    assert {"default", "demo"} <= set(shipped_recipes())
    recipe = load_recipe(name).model_dump()
    written = tomllib.loads((RECIPES / f"{name}.toml").read_text(encoding="utf-8"))
    for section, values in written.items():
        assert {key: recipe[section][key] for key in values} == values


def test_a_path_and_a_shipped_name_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text("[train]\nbatch_size = 7\n")
    assert load_recipe("mine.toml").train.batch_size == 7
    assert load_recipe(tmp_path / "mine.toml").train.batch_size == 7
    # A name without a suffix stays the shipped one, even beside a file of that name.
    (tmp_path / "demo.toml").write_text("[train]\nbatch_size = 9\n")
    assert load_recipe("demo") == load_recipe(RECIPES / "demo.toml")
    assert load_recipe("demo.toml").train.batch_size == 9


def test_missing_recipe_lists_the_shipped_ones(tmp_path):
    for source in ("defualt", str(tmp_path), str(tmp_path / "none.toml")):
        with pytest.raises(RecipeError) as info:
            load_recipe(source)
        assert str(info.value).startswith(f"{source}: no such recipe; allowed: the path of a TOML")
        assert "default, demo" in str(info.value)


@pytest.mark.parametrize("content", [b"[train\n", b"batch_size: 3", b"[train]\na = \xff\n"])
def test_not_toml_is_one_line(tmp_path, content):
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=r"broken\.toml: not a TOML file: ") as info:
        load_recipe(path)
    assert "\n" not in str(info.value)


def test_unknown_section_lists_the_sections():
    assert message("training", epochs=3) == (
        "mine.toml: training is not a known key; "
        "allowed: [data], [frontend], [model], [augment], [train], [decision]"
    )


@pytest.mark.parametrize("section", Recipe.model_fields)
def test_unknown_key_lists_the_keys_of_its_section(section):
    keys = ", ".join(type(getattr(Recipe(), section)).model_fields)
    assert message(section, speling=1) == (
        f"mine.toml: {section}.speling is not a known key; allowed: {keys}"
    )


@pytest.mark.parametrize(
    ("section", "key", "value", "text"),
    [
        ("data", "sample_rate", "16k", 'data.sample_rate is "16k"; allowed: integer'),
        ("data", "sample_rate", 16000.5, "data.sample_rate is 16000.5; allowed: integer"),
        ("data", "sample_rate", 999, "greater than or equal to 1000"),
        ("data", "sample_rate", True, "data.sample_rate is true; allowed: integer"),
        ("data", "segment_seconds", 0, "data.segment_seconds is 0; allowed: greater than 0"),
        ("data", "padding", "none", "is \"none\"; allowed: 'zero' or 'repeat'"),
        ("data", "devel_share", 0, "data.devel_share is 0; allowed: greater than 0"),
        ("data", "test_share", 1, "data.test_share is 1; allowed: less than 1"),
        ("frontend", "fmax", "high", "frontend.fmax is \"high\"; allowed: number or 'nyquist'"),
        ("frontend", "fmax", -1, "frontend.fmax is -1; allowed: greater than 0 or 'nyquist'"),
        ("frontend", "top_db", "None", "is \"None\"; allowed: number or 'none'"),
        ("frontend", "fft_seconds", 0, "is 0; allowed: greater than 0 or 'window'"),
        ("frontend", "color_map", "jet", "frontend.color_map is \"jet\"; allowed: 'viridis', "),
        ("frontend", "image_height", 7, "frontend.image_height is 7; allowed: greater than or"),
        ("frontend", "antialias", 1, "frontend.antialias is 1; allowed: boolean"),
        ("model", "backbone", "", 'model.backbone is ""; allowed: '),
        ("model", "backbone", ["a"], 'model.backbone is ["a"]; allowed: string'),
        ("model", "dropout", 1, "model.dropout is 1; allowed: less than 1"),
        ("model", "output", "relu", "allowed: 'softmax', 'sigmoid', 'linear' or 'ordinal'"),
        ("augment", "time_shift", 1.1, "augment.time_shift is 1.1; allowed: less than or equal"),
        ("augment", "mixup_alpha", -0.1, "is -0.1; allowed: greater than or equal to 0"),
        ("train", "batch_size", 0, "train.batch_size is 0; allowed: greater than or equal to 2"),
        ("train", "batch_size", 1, "train.batch_size is 1; allowed: greater than or equal to 2"),
        ("train", "seed", 2**32, "allowed: less than 4294967296"),
        ("train", "optimizer", "adamx", "train.optimizer is \"adamx\"; allowed: 'adam', 'adamw'"),
        ("train", "tensorboard", "yes", 'train.tensorboard is "yes"; allowed: boolean'),
        ("train", "momentum", 1.0, "train.momentum is 1.0; allowed: less than 1"),
        ("train", "average_decay", 1, "train.average_decay is 1; allowed: less than 1"),
        ("decision", "coverage", 1, "decision.coverage is 1; allowed: less than 1"),
        ("decision", "unknown", "entropy", "allowed: 'none', 'score' or 'energy'"),
        ("decision", "false_rejection", 0, "false_rejection is 0; allowed: greater than 0"),
    ],
)
def test_wrong_values_name_the_key_the_value_and_what_is_allowed(section, key, value, text):
    found = message(section, **{key: value})
    assert found.startswith(f"mine.toml: {section}.{key} is {json.dumps(value)}; allowed: ")
    assert text in found


@pytest.mark.parametrize(
    ("section", "values", "parts"),
    [
        (
            "data",
            {"hop_seconds": 3.0},
            ["[data] hop_seconds is 3, longer than segment_seconds (2)", "allowed: at most 2"],
        ),
        (
            "data",
            {"devel_share": 0.6, "test_share": 0.4},
            ["devel_share + test_share is 1, which", "allowed: a sum below 1"],
        ),
        (
            "frontend",
            {"window_seconds": 2.5},
            ["frontend.window_seconds is 2.5, longer than data.segment", "allowed: at most 2"],
        ),
        (
            "frontend",
            {"hop_seconds": 2.25},
            ["frontend.hop_seconds is 2.25, longer than data.segment", "allowed: at most 2"],
        ),
        (
            "frontend",
            {"window_seconds": 0.00005, "n_mels": 1},
            ["frontend.window_seconds is 5e-05, less than two samples at 16000 Hz", "0.000125"],
        ),
        (
            "frontend",
            {"fft_seconds": 0.032},
            ["fft_seconds is 0.032, shorter than window_seconds (0.064)", "at least 0.064"],
        ),
        (
            "frontend",
            {"fmax": 8000.5},
            ["frontend.fmax is 8000.5, above the Nyquist", "(16000)", "at most 8000, or"],
        ),
        (
            "frontend",
            {"fmin": 8000},
            ["frontend.fmin is 8000; allowed: 0 to below fmax, which is 8000"],
        ),
        (
            "frontend",
            {"fmin": 500, "fmax": 400},
            ["frontend.fmin is 500; allowed: 0 to below fmax, which is 400"],
        ),
        (
            "frontend",
            {"n_mels": 256},
            [
                "frontend.n_mels is 256, but mel band 0 of 0 to 8000 Hz holds no bin",
                "1024-point transform (15.625 Hz apart); allowed: fewer mels",
            ],
        ),
        (
            "frontend",
            {"n_mels": 20, "n_mfcc": 21},
            ["[frontend] n_mfcc is 21; allowed: 0 to n_mels, which is 20"],
        ),
        (
            "frontend",
            {"n_mfcc": 13, "frequency": "linear"},
            ['n_mfcc is 13 with frequency = "linear"', 'set frequency = "mel"', "or n_mfcc = 0"],
        ),
        (
            "frontend",
            {"n_mfcc": 13, "scale": "power"},
            ['n_mfcc is 13 with frequency = "mel" and scale = "power"', 'scale = "db"'],
        ),
        (
            "frontend",
            {"lifter": 22},
            ["[frontend] lifter is 22, but n_mfcc is 0; allowed: a lifter with MFCCs only"],
        ),
        (
            "train",
            {"head_epochs": 0, "epochs": 0},
            ["[train] head_epochs and epochs are both 0, ", "allowed: at least 1 in one of them"],
        ),
        (
            "train",
            {"batch_size": 9, "accumulate": 5},
            ["train.accumulate is 5; allowed: parts of at least 2", "up to 4", "batch_size 9"],
        ),
        (
            "train",
            {"loss": "ccc", "accumulate": 2},
            ['train.loss is "ccc", but model.output is "softmax"; allowed: cross_entropy, focal'],
        ),
        (
            "augment",
            {"reverb_share": 0.25},
            ['[augment] reverb_share is 0.25, but reverb_folder is "none"; allowed: a folder'],
        ),
        (
            "data",
            {"target": ["a", "b"]},
            [
                'data.target names 2 columns, but model.output is "softmax"; allowed: one column',
                'or model.output "sigmoid" (0 or 1 in each column) or "linear" (a number in each)',
            ],
        ),
        (
            "data",
            {"order": ["low", "high"]},
            [
                "data.order is ['low', 'high'] with model.output \"softmax\"; allowed: each label",
                'once, with model.output "ordinal"',
            ],
        ),
    ],
)
def test_impossible_combinations_are_refused(section, values, parts):
    with pytest.raises(RecipeError) as info:
        parse_recipe(with_quoted({section: values}), "mine.toml")
    found = str(info.value)
    assert found.startswith("mine.toml: ")
    assert "\n" not in found
    for part in parts:
        assert part in found


@pytest.mark.parametrize(
    "values",
    [
        {"data": {"hop_seconds": 2.0}},
        {"data": {"devel_share": 0.5, "test_share": 0.499}},
        {"frontend": {"window_seconds": 2.0, "hop_seconds": 2.0}},
        {"frontend": {"fft_seconds": 0.064}},
        {"frontend": {"fmax": 8000}},
        {"frontend": {"fmin": 7000, "n_mels": 20}},
        {"frontend": {"n_mfcc": 128, "lifter": 22}},
        {"frontend": {"frequency": "linear", "n_mels": 1024}},
        {"frontend": {"n_mels": 256, "fft_seconds": 0.25}},
        {"train": {"head_epochs": 1, "epochs": 0}},
        {"train": {"head_epochs": 0, "epochs": 1}},
        {"train": {"momentum": 0.999}},
        {"train": {"batch_size": 2}},
        {"train": {"batch_size": 9, "accumulate": 4}},
        {"augment": {"reverb_share": 0.25, "reverb_folder": "rooms"}},
        {"augment": {"snr_db_low": -5, "snr_db_high": -5}},
        {"augment": {"cutmix_area": 0.5, "cutmix_area_min": 0.5}},
        {"data": {"target": ["a", "b"]}, "model": {"output": "linear"}},
        {"data": {"target": ["a", "b"]}, "model": {"output": "sigmoid"}},
        {"data": {"target": ["a"], "order": ["x", "y"]}, "model": {"output": "ordinal"}},
    ],
)
def test_values_right_at_their_limit_pass_and_build(values):
    recipe = parse_recipe(with_quoted(values))
    frontend = FrontEnd(recipe.frontend, recipe.data)
    assert frontend.count_frames(recipe.data.segment_samples) >= 1
    assert frontend.n_bands >= 1


ALLOWED_LOSSES = {
    "softmax": "cross_entropy, focal",
    "sigmoid": "cross_entropy, focal",
    "linear": "mse, mae, huber, ccc",
    "ordinal": "mse, mae, huber, ccc",
}
ALLOWED_MONITORS = {
    "softmax": "uar, accuracy, macro_f1, loss",
    "sigmoid": "map, macro_f1, loss",
    "linear": "ccc, pearson, spearman, mae, rmse, loss",
    "ordinal": "ccc, pearson, spearman, mae, rmse, uar, accuracy, loss",
}


@pytest.mark.parametrize("output", ALLOWED_LOSSES)
@pytest.mark.parametrize(
    ("key", "allowed"), [("loss", ALLOWED_LOSSES), ("monitor", ALLOWED_MONITORS)]
)
def test_losses_and_monitors_belong_to_outputs(output, key, allowed):
    names = allowed[output].split(", ")
    every = dict.fromkeys(name for row in allowed.values() for name in row.split(", "))
    for name in every:
        values = {"model": {"output": output}, "train": {key: name}}
        if name in names:
            assert getattr(parse_recipe(values), key) == name
            continue
        with pytest.raises(RecipeError) as info:
            parse_recipe(values, "mine.toml")
        assert str(info.value) == (
            f'mine.toml: train.{key} is "{name}", but model.output is "{output}"; allowed: '
            f"{allowed[output]}"
        )
    # Of itself the first.
    assert getattr(parse_recipe({"model": {"output": output}}), key) == names[0]


@pytest.mark.parametrize("output", ["sigmoid", "linear"])
def test_a_column_cannot_be_learned_twice(output):
    with pytest.raises(RecipeError, match=r"data.target is \['a', 'b', 'a'\], which repeats a col"):
        parse_recipe({"data": {"target": ["a", "b", "a"]}, "model": {"output": output}})


def test_an_order_has_each_label_once():
    with pytest.raises(
        RecipeError, match=r"data.order is \['a', 'b', 'a'\] with .*each label once"
    ):
        parse_recipe({"data": {"order": ["a", "b", "a"]}, "model": {"output": "ordinal"}})


@pytest.mark.parametrize(
    ("low", "high", "lowest", "highest"),
    [
        ("snr_db_low", "snr_db_high", 12.5, 10),
        ("cutmix_probability_min", "cutmix_probability", 0.5, 0.25),
        ("cutmix_area_min", "cutmix_area", 0.5, 0.25),
        ("mask_probability_min", "mask_probability", 1, 0.75),
        ("time_mask_share_min", "time_mask_share", 0.5, 0),
        ("frequency_mask_share_min", "frequency_mask_share", 0.5, 0.25),
    ],
)
def test_a_minimum_is_not_above_its_maximum(low, high, lowest, highest):
    assert message("augment", **{low: lowest, high: highest}) == (
        f"mine.toml: [augment] {low} is {lowest:g}, above {high} ({highest:g}); "
        f"allowed: at most {highest:g}"
    )
    section = parse_recipe({"augment": {low: highest, high: highest}}).augment
    assert getattr(section, low) == getattr(section, high) == highest


def test_targets_are_columns():
    assert Recipe().data.targets == ("label",)
    assert load_recipe("default", ["data.target=age"]).data.targets == ("age",)
    items = ['data.target=["a", "b"]', "model.output=linear"]
    assert load_recipe("default", items).data.targets == ("a", "b")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("section", "key", "allowed"),
    [
        ("data", "segment_seconds", "a finite number or 'whole'"),
        ("frontend", "fmax", "a finite number or 'nyquist'"),
        ("frontend", "fmin", "a finite number"),
        ("augment", "time_shift", "a finite number"),
        ("train", "learning_rate", "a finite number"),
        ("train", "weight_decay", "a finite number"),
    ],
)
def test_not_a_number_and_infinity_are_refused(section, key, allowed, value):
    given = {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, "NaN")
    assert message(section, **{key: value}) == (
        f"mine.toml: {section}.{key} is {given}; allowed: {allowed}"
    )
    text = message(overrides=[f"{section}.{key}={str(value).lower()}"])
    assert f"{section}.{key} is {given}; allowed: {allowed}" in text


def test_a_section_must_be_a_table():
    with pytest.raises(RecipeError, match=r"^recipe: data is 3; allowed: "):
        parse_recipe({"data": 3})


@pytest.mark.parametrize(
    ("item", "section", "key", "value"),
    [
        ("train.learning_rate=1e-4", "train", "learning_rate", 1e-4),
        ("train.learning_rate=1", "train", "learning_rate", 1.0),
        ("train.batch_size = 64", "train", "batch_size", 64),
        ("train.seed=0x10", "train", "seed", 16),
        ("train.tensorboard=true", "train", "tensorboard", True),
        ("frontend.antialias=false", "frontend", "antialias", False),
        ("frontend.fmax=4000", "frontend", "fmax", 4000.0),
        ("frontend.fmax=nyquist", "frontend", "fmax", "nyquist"),
        ('model.backbone="resnet50"', "model", "backbone", "resnet50"),
        ("model.backbone='resnet50'", "model", "backbone", "resnet50"),
        (" model.backbone = resnet50 ", "model", "backbone", "resnet50"),
        ("model.weights=/data/a=b c.pth", "model", "weights", "/data/a=b c.pth"),
    ],
)
def test_override_changes_that_key_alone(item, section, key, value):
    recipe = load_recipe("default", [item])
    assert getattr(getattr(recipe, section), key) == value
    assert type(getattr(getattr(recipe, section), key)) is type(value)
    changed = Recipe().model_dump()
    changed[section][key] = value
    assert recipe.model_dump() == changed


def test_the_last_override_wins_and_goes_over_the_file(tmp_path):
    (tmp_path / "a.toml").write_text("[train]\nepochs = 3\nseed = 5\n")
    recipe = load_recipe(tmp_path / "a.toml", ["train.epochs=4", "train.epochs=6"])
    assert (recipe.train.epochs, recipe.train.seed) == (6, 5)


@pytest.mark.parametrize("item", ["train", "train=3", "train.epochs", ".epochs=3", "train.=3", ""])
def test_malformed_override_shows_the_form(item):
    assert message(overrides=[item]) == (
        f"--set {item}: not of the form section.key=value; "
        "for example --set train.learning_rate=1e-4"
    )


@pytest.mark.parametrize(
    ("item", "text"),
    [
        ("train.epochs=many", 'train.epochs is "many"; allowed: integer'),
        ("train.epochs=", 'train.epochs is ""; allowed: integer'),
        ("train.tensorboard=True", 'train.tensorboard is "True"; allowed: boolean'),
        ("train.epoch=3", "train.epoch is not a known key"),
        ("tra.epochs=3", "tra is not a known key; allowed: [data]"),
        ("model.backbone=3", "model.backbone is 3; allowed: string"),
        ("train.epochs=2024-01-31", 'train.epochs is "2024-01-31"; allowed: integer'),
    ],
)
def test_bad_override_is_explained(item, text):
    assert text in message(overrides=[item])


def test_override_into_something_that_is_no_table(tmp_path):
    (tmp_path / "a.toml").write_text("train = 3\n")
    with pytest.raises(RecipeError, match=r"^train is 3; allowed: a table, \[train\]$"):
        load_recipe(tmp_path / "a.toml", ["train.epochs=3"])


def test_recipe_is_frozen():
    recipe = Recipe()
    with pytest.raises(ValidationError, match="frozen"):
        recipe.train = recipe.train
    for name in Recipe.model_fields:
        section = getattr(recipe, name)
        key = next(iter(type(section).model_fields))
        with pytest.raises(ValidationError, match="frozen"):
            setattr(section, key, getattr(section, key))
    assert hash(recipe) == hash(Recipe())


def test_schema_has_every_section_key_description_and_default():
    schema = recipe_schema()
    assert list(schema["properties"]) == list(Recipe.model_fields)
    assert schema["additionalProperties"] is False
    n_described = 0
    for name in Recipe.model_fields:
        section = getattr(Recipe(), name)
        found = schema["$defs"][type(section).__name__]
        assert found["description"] == type(section).__doc__
        assert list(found["properties"]) == list(type(section).model_fields)
        for key, field in type(section).model_fields.items():
            # JSON knows lists alone.
            default = json.loads(json.dumps(getattr(section, key)))
            assert found["properties"][key]["default"] == default
            assert found["properties"][key].get("description") == field.description
            n_described += field.description is not None
    assert n_described >= 20
    printed = CliRunner().invoke(app, ["recipe", "--schema"])
    assert json.loads(printed.stdout) == schema


@pytest.mark.parametrize(
    "items",
    [
        [],
        ["frontend.fmax=4000", "frontend.n_mels=64", "frontend.top_db=none"],
        ["train.learning_rate=3e-7", "train.tensorboard=true", "train.seed=4294967295"],
        ['model.weights="C:\\\\net\\\\ä \\"x\\".pth"', "augment.speed=0.3"],
        ['data.target=["a b", "ü"]', "model.output=linear", "train.loss=ccc", "train.balance=none"],
        ['data.order=["low", "high"]', "model.output=ordinal", "data.separator=|"],
    ],
)
@pytest.mark.parametrize("name", shipped_recipes())
def test_printed_recipe_reads_back_equal(tmp_path, name, items):
    options = [part for item in items for part in ("--set", item)]
    printed = CliRunner().invoke(app, ["recipe", name, *options])
    assert printed.exit_code == 0
    (tmp_path / "printed.toml").write_text(printed.stdout, encoding="utf-8")
    assert load_recipe(tmp_path / "printed.toml") == load_recipe(name, items)
    written = tomllib.loads(printed.stdout)
    assert {name: list(written[name]) for name in written} == {
        name: list(type(getattr(Recipe(), name)).model_fields) for name in Recipe.model_fields
    }


def test_numbers_derived_from_seconds():
    data = DataSection(sample_rate=16_000, segment_seconds=2.0, hop_seconds=1.0)
    frontend = FrontEndSection(window_seconds=0.064, hop_seconds=0.016)
    assert (data.segment_samples, data.hop_samples) == (32_000, 16_000)
    assert frontend.win_length(16_000) == frontend.n_fft(16_000) == 1024
    assert frontend.hop_length(16_000) == 256
    assert frontend.fmax_hz(16_000) == 8000
    assert frontend.fmax_hz(44_100) == 22_050
    # 44.1 kHz: 2822.4 and 705.6 samples, rounded.
    assert (frontend.win_length(44_100), frontend.hop_length(44_100)) == (2822, 706)
    longer = FrontEndSection(window_seconds=0.025, fft_seconds=0.032, fmax=3800.0)
    assert (longer.win_length(16_000), longer.n_fft(16_000)) == (400, 512)
    assert longer.fmax_hz(16_000) == 3800
    # A hop is never zero samples.
    assert FrontEndSection(hop_seconds=1e-6).hop_length(16_000) == 1
    assert DataSection(hop_seconds=1e-6).hop_samples == 1


def refuses(frontend, rate):
    try:
        check_frontend(frontend, DataSection(sample_rate=rate))
    except ValueError as error:
        assert "holds no bin" in str(error)  # noqa: PT017
        return True
    return False


def test_empty_band_rule_agrees_with_the_mel_matrix():
    rng = random.Random(0)
    counts = {True: 0, False: 0}
    for _ in range(800):
        rate = rng.choice([8000, 16_000, 22_050, 44_100])
        n_fft = rng.choice([200, 255, 256, 400, 512, 1024, 2048])
        fmin, fmax = sorted(rng.uniform(0, rate / 2) for _ in range(2))
        fmin = rng.choice([0.0, fmin])
        section = FrontEndSection(
            n_mels=rng.randint(1, 160),
            window_seconds=n_fft / rate,
            fmin=fmin,
            fmax=rng.choice(["nyquist", fmax]),
        )
        assert section.n_fft(rate) == n_fft
        matrix = mel_matrix(section.n_mels, n_fft, rate, fmin, section.fmax_hz(rate))
        empty = bool((matrix == 0).all(axis=0).any())
        assert refuses(section, rate) == empty, section
        counts[empty] += 1
    assert min(counts.values()) > 200


def test_empty_band_rule_agrees_where_a_bin_lies_on_an_edge():
    rng = random.Random(1)
    counts = {True: 0, False: 0}
    for _ in range(400):
        rate, n_fft = rng.choice([8000, 16_000, 44_100]), rng.choice([256, 400, 1024])
        spacing, k = rate / n_fft, rng.randrange(1, n_fft // 2 - 2)
        width = rng.choice([0.5, 1.0, 1.5, 2.0])
        near_nyquist = rng.random() < 0.3
        section = FrontEndSection(
            n_mels=1,
            window_seconds=n_fft / rate,
            fmin=rate / 2 - width * spacing if near_nyquist else k * spacing,
            fmax="nyquist" if near_nyquist else (k + width) * spacing,
        )
        matrix = mel_matrix(1, n_fft, rate, section.fmin, section.fmax_hz(rate))
        # The last bin is at its band's upper edge, where the triangle is 0.
        assert refuses(section, rate) == (matrix.max() == 0) == (width <= 1), section
        counts[width <= 1] += 1
    assert min(counts.values()) > 100


def test_empty_band_rule_names_the_first_empty_band():
    # Of these five, band 0 holds the bin at 500 Hz.
    matrix = mel_matrix(5, 1600, 16_000, 499.0, 520.0)
    empty = (matrix == 0).all(axis=0)
    first = int(empty.argmax())
    assert 0 < first < 4
    assert f"but mel band {first} of 499 to 520 Hz" in message(
        "frontend", n_mels=5, window_seconds=0.1, fmin=499, fmax=520
    )


def test_the_ccc_of_parts_is_refused():
    values = {"model": {"output": "linear"}, "train": {"loss": "ccc", "accumulate": 2}}
    with pytest.raises(RecipeError, match="whole batch at once; allowed: accumulate = 1, or loss"):
        parse_recipe(values)
    values["train"]["loss"] = "mse"
    assert parse_recipe(values).train.accumulate == 2


def test_a_gain_that_would_be_undone_is_refused():
    with pytest.raises(RecipeError, match="peak_normalise undoes any change of level; allowed: ga"):
        parse_recipe({"augment": {"gain_db": 6}})
    assert parse_recipe({"augment": {"gain_db": 6}, "frontend": {"peak_normalise": False}})


@pytest.mark.parametrize("output", ["sigmoid", "linear", "ordinal"])
def test_only_one_label_of_several_can_be_unknown(output):
    values = {"model": {"output": output}, "decision": {"unknown": "score"}}
    with pytest.raises(RecipeError, match=f'is "score", but model.output is "{output}"; allowed: '):
        parse_recipe(values)
    values["decision"]["unknown"] = "none"
    assert parse_recipe(values).decision.coverage == 0.9
    values |= {"model": {"output": "softmax"}, "decision": {"unknown": "energy"}}
    assert parse_recipe(values).decision.unknown == "energy"

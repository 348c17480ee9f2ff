import numpy as np
import pytest
import soundfile
import torch
from explain_helpers import look_at_region
from scipy import stats

from deepspectrumlite import faithfulness
from deepspectrumlite.attribution import MapSettings, explain_image
from deepspectrumlite.explain import background_images
from deepspectrumlite.faithfulness import (
    GRID,
    STEPS,
    Curves,
    area,
    average_maps,
    block_means,
    deletion_and_insertion,
    explain_split,
    mean_of,
    over_what,
    sanity_check,
)
from deepspectrumlite.model import Classifier
from deepspectrumlite.resampling import resample_counts
from deepspectrumlite.targets import load_labelled

FAST = {"method": "gradcam"}


@pytest.fixture(scope="module")
def tones_table(trained_model, tones):
    recipe = trained_model.recipe
    table = load_labelled(tones, recipe.data, recipe.model.output)
    return table[table["split"] == "test"].reset_index(drop=True)


@pytest.fixture(scope="module")
def background(trained_model, tones):
    return background_images(trained_model, tones, count=6)


@pytest.fixture(scope="module")
def shap_cases(trained_model, tones_table, background):
    settings = MapSettings(samples=48)
    return explain_split(trained_model, tones_table, background, per_class=2, settings=settings)


@pytest.fixture
def region_cases(make_recipe):
    """Model, cases and background: bright noise on dark noise, explained by shap."""
    recipe = make_recipe("model.units=0", "frontend.color_map=none")
    model = look_at_region(recipe)
    model.head.bias.data[0] = -3.5  # scores in the middle of their range, where they move
    noise = torch.rand(12, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    background = noise[4:] * 0.4
    cases = []
    for image in noise[:4] * 0.4 + 0.6:
        found = explain_image(model, image, "there", "shap", background, MapSettings(samples=64))
        cases.append(faithfulness.Case(None, 0.0, "there", image, found))
    return model, cases, background


def turned(case):
    """The same case with a map that says the opposite."""
    opposite = faithfulness.replace(case.map, values=-case.map.values)
    return faithfulness.replace(case, map=opposite)


def test_deleting_what_matters_beats_random(region_cases):
    model, cases, background = region_cases
    curves = deletion_and_insertion(model, cases, background)
    found = curves.summary()
    assert found["deletion_gain"].low > 0.1
    assert found["insertion_gain"].low > 0.1
    opposite = deletion_and_insertion(model, [turned(case) for case in cases], background)
    assert opposite.summary()["deletion_gain"].high < -0.1
    assert opposite.summary()["insertion_gain"].high < -0.1


def test_curves_begin_and_end_where_they_must(region_cases):
    model, cases, background = region_cases
    curves = deletion_and_insertion(model, cases, background)
    assert curves.shares.shape == (STEPS + 1,)
    np.testing.assert_allclose(curves.shares, np.arange(STEPS + 1) / STEPS)
    images = torch.stack([case.image for case in cases])
    whole = model.scores(model.logits(images))[:, 0].detach()
    blank = model.scores(model.logits(background.mean(dim=0, keepdim=True)))[0, 0].item()
    for name in ("deletion", "random_deletion"):
        np.testing.assert_allclose(getattr(curves, name)[:, 0], whole, rtol=1e-5)
        np.testing.assert_allclose(getattr(curves, name)[:, -1], blank, rtol=1e-5)
    for name in ("insertion", "random_insertion"):
        np.testing.assert_allclose(getattr(curves, name)[:, 0], blank, rtol=1e-5)
        np.testing.assert_allclose(getattr(curves, name)[:, -1], whole, rtol=1e-5)


def test_areas():
    shares = np.array([0, 0.25, 1])
    np.testing.assert_allclose(area(np.array([[1.0, 1, 1], [0, 1, 0]]), shares), [1, 0.5])
    flat = np.ones((3, 3))
    summary = Curves(shares, 0.2 * flat, 0.9 * flat, 0.5 * flat, 0.6 * flat).summary()
    assert summary["deletion_gain"].value == pytest.approx(0.3)
    assert summary["insertion_gain"].value == pytest.approx(0.3)


def test_blocks():
    values = np.zeros((32, 48), np.float32)
    values[2:4, 3:6] = 1
    blocks = block_means(values)
    assert blocks.shape == (GRID, GRID)
    assert blocks[1, 1] == 1
    assert blocks.sum() == 1


def test_means_leave_out_what_is_not_known():
    assert mean_of(np.array([1.0, 3.0, np.nan])).value == 2
    assert np.isnan(mean_of(np.array([np.nan])).value)


def test_one_segment_has_no_interval():
    found = mean_of(np.array([0.3, np.nan]))
    assert found.value == 0.3
    assert np.isnan([found.low, found.high]).all()


def test_intervals_are_as_wide_as_students():
    values = np.random.default_rng(0).normal(size=5)
    found = mean_of(values)
    low, high = stats.t.interval(0.95, 4, values.mean(), stats.sem(values))
    # Only nearly so: percentiles of five values cannot leave their range.
    assert (found.high - found.low) / (high - low) == pytest.approx(1, abs=0.3)
    plain = np.quantile(resample_counts(5) @ values / 5, [0.025, 0.975])
    assert found.low < plain[0] - 0.05
    assert found.high > plain[1] + 0.05


def test_what_intervals_are_over(shap_cases):
    assert over_what(shap_cases) == "6 segments"
    assert over_what(shap_cases[:1]) == "1 segment"
    grouped = [
        faithfulness.replace(case, group=f"kit {i // 3}") for i, case in enumerate(shap_cases)
    ]
    assert over_what(grouped) == "6 segments of 2 groups"
    assert over_what(grouped[:3]) == "3 segments of 1 group"


def test_cases_know_their_group(trained_model, tones_table):
    table = tones_table.assign(group=[f"kit {i}" for i in range(len(tones_table))])
    cases = explain_split(trained_model, table, None, per_class=1, **FAST)
    names = dict(zip(table["path"].astype(str), table["group"], strict=True))
    assert [case.group for case in cases] == [names[str(case.path)] for case in cases]


def test_random_weights_destroy_the_map(trained_model, shap_cases, background, monkeypatch):
    settings = MapSettings(samples=48)
    sanity = sanity_check(trained_model, shap_cases, background, settings=settings)
    assert sanity.signed.shape == (6,)
    assert abs(sanity.summary()["signed"].value) < 0.2
    monkeypatch.setattr(faithfulness, "_randomised", lambda model, seed: model)
    same = sanity_check(trained_model, shap_cases, background, settings=settings)
    np.testing.assert_allclose(same.signed, 1)
    np.testing.assert_allclose(same.absolute, 1)


def test_maps_of_a_trained_model_are_faithful(trained_model, shap_cases, background):
    found = deletion_and_insertion(trained_model, shap_cases, background).summary()
    assert found["insertion_gain"].value > 0


def test_cases_are_balanced_and_explain_their_own_label(trained_model, tones_table, shap_cases):
    assert [case.name for case in shap_cases] == ["high"] * 2 + ["low"] * 2 + ["noise"] * 2
    for case in shap_cases:
        assert case.map.target == case.name
        assert case.path.name.startswith(f"{case.name}-test-")
        assert case.start in (0, 0.5)
        assert case.map.samples == 48
    assert len({case.path for case in shap_cases}) == 6


def test_averages_are_means(shap_cases):
    averages = average_maps(shap_cases)
    assert [each.name for each in averages] == ["high", "low", "noise"]
    for each, pair in zip(averages, (shap_cases[:2], shap_cases[2:4], shap_cases[4:]), strict=True):
        assert each.count == 2
        expected = (pair[0].map.values + pair[1].map.values) / 2
        np.testing.assert_allclose(each.values, expected, atol=1e-7)
        np.testing.assert_allclose(each.image, (pair[0].image + pair[1].image) / 2, atol=1e-6)


def test_the_same_seed_chooses_the_same(trained_model, tones_table):
    told = []
    first, again, other = (
        explain_split(
            trained_model,
            tones_table,
            None,
            per_class=1,
            settings=MapSettings(seed=seed),
            progress=lambda *step: told.append(step),
            **FAST,
        )
        for seed in (0, 0, 4)
    )
    assert [case.path for case in first] == [case.path for case in again]
    assert [case.path for case in first] != [case.path for case in other]
    assert told[:3] == [("explaining, gradcam", n, 3) for n in (1, 2, 3)]


@pytest.mark.parametrize(
    ("changes", "labels", "rows", "expected"),
    [
        (
            ("model.output=sigmoid",),
            ["cat", "dog"],
            [{"label": "cat;dog"}, {"label": "dog"}, {"label": ""}],
            [("cat", "cat", 1), ("dog", "dog", 2)],
        ),
        (
            ("model.output=linear", 'data.target=["age"]'),
            ["age"],
            [{"age": 3.5}, {"age": 4}],
            [("age", "age", 2)],
        ),
        (
            ("model.output=ordinal", 'data.order=["low", "mid", "high"]'),
            ["low", "mid", "high"],
            [{"label": "mid"}, {"label": "low"}, {"label": "mid"}],
            [("low", "value", 1), ("mid", "value", 2)],
        ),
    ],
)
def test_classes_of_every_output(
    make_recipe, small_settings, tone, tmp_path, save_manifest, changes, labels, rows, expected
):
    recipe = make_recipe(*small_settings, *changes)
    model = Classifier(recipe, labels, weights="random").eval()
    for i in range(len(rows)):
        soundfile.write(tmp_path / f"{i}.wav", tone("high", i, 0.5), 8000)
    named = [{"path": f"{i}.wav", **row} for i, row in enumerate(rows)]
    manifest = save_manifest(tmp_path / "labels.csv", named)
    table = load_labelled(manifest, recipe.data, recipe.model.output)
    cases = explain_split(model, table, None, per_class=5, **FAST)
    found = [(case.name, case.map.target) for case in cases]
    assert found == [(name, target) for name, target, count in expected for _ in range(count)]

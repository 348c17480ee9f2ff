import numpy as np
import pytest
import torch
from PIL import Image

from deepspectrumlite.attribution import Map
from deepspectrumlite.explain import Explanation
from deepspectrumlite.explain_plots import (
    average_figure,
    curves_figure,
    explanation_figure,
    frequency_ticks,
    value_range,
)
from deepspectrumlite.faithfulness import Average, Curves
from deepspectrumlite.frontend import FrontEnd
from deepspectrumlite.model import Classifier
from deepspectrumlite.plots import save_figure


@pytest.fixture
def model(make_recipe, small_settings):
    return Classifier(make_recipe(*small_settings), ["a", "b"], weights="random")


def half_and_half(n_targets=2, method="gradcam", names=None):
    """Maps that are for in the upper half, and against in the lower."""
    values = np.ones((32, 32), np.float32)
    values[16:] = -0.5
    names = names or [f"label {i}" for i in range(n_targets)]
    maps = [Map(name, (i + 1) * values, 0.75, 0.25, 1) for i, name in enumerate(names)]
    image = np.full((3, 32, 32), 0.5, np.float32)
    return Explanation(None, 3.0, 3.4, method, image, np.zeros(2, np.float32), maps)


def test_panels_have_titles_axes_and_ranges(model):
    figure = explanation_figure(half_and_half(), model)
    panels = [axes for axes in figure.axes if axes.get_xlabel() == "Time, s"]
    assert [axes.get_title() for axes in panels] == [
        "waveform\n3.00 to 3.40 s",
        "label 0\nscore 0.75, baseline 0.25",
        "label 1\nscore 0.75, baseline 0.25",
    ]
    for axes in panels:
        left, right = axes.get_xlim()
        assert left == pytest.approx(3 + (0.064 - 0.008) / 2)
        assert right == pytest.approx(3.5 - (0.064 - 0.008) / 2, abs=0.008)
        (line,) = axes.lines  # behind it the segment was filled up
        assert line.get_xdata()[0] == 3.4
    assert panels[0].get_ylabel() == "Frequency, kHz"
    bars = [axes for axes in figure.axes if axes not in panels]
    texts = [[label.get_text() for label in axes.get_xticklabels()] for axes in bars]
    assert ["lowest", "highest"] in texts
    assert ["against −1", "0", "1 for"] in texts
    assert ["against −2", "0", "2 for"] in texts


def test_red_is_for_and_blue_against(model, tmp_path):
    figure = explanation_figure(half_and_half(1), model)
    _, axes = (axes for axes in figure.axes if axes.get_xlabel() == "Time, s")
    save_figure(figure, tmp_path / "a.png")
    drawn = axes.images[-1]
    colors = drawn.cmap(drawn.norm(np.array([1.0, -0.5])))
    assert colors[0][0] > 2 * colors[0][2]
    assert colors[1][2] > 1.5 * colors[1][0]
    assert drawn.origin == "upper"  # row 0 of the map is the highest frequency
    bottom, top = axes.get_ylim()
    assert bottom < top
    with Image.open(tmp_path / "a.png") as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    height, width = pixels.shape[:2]
    upper = pixels[int(0.3 * height), int(0.75 * width)]
    lower = pixels[int(0.6 * height), int(0.75 * width)]
    assert upper[0] > upper[2] + 50
    assert lower[2] > lower[0] + 50


def test_many_targets_take_rows(model):
    figure = explanation_figure(half_and_half(6), model)
    panels = [axes for axes in figure.axes if axes.get_xlabel() == "Time, s"]
    assert len([axes for axes in panels if axes.get_visible()]) == 7
    places = {round(axes.get_subplotspec().rowspan.start) for axes in panels}
    assert places == {0, 1}


def test_names_are_no_mathematics(model, tmp_path):
    figure = explanation_figure(half_and_half(names=["$\\bad", "$\\worse"]), model)
    save_figure(figure, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_a_map_of_nothing_can_be_drawn(model, tmp_path):
    explanation = half_and_half(1, method="shap")
    explanation.maps[0].values[:] = 0
    save_figure(explanation_figure(explanation, model), tmp_path / "a.png")
    assert value_range(np.zeros((4, 4))) == 1


def test_a_few_pixels_do_not_set_the_range():
    values = np.full((128, 128), -2.0)
    values[3, 4] = 1000
    assert value_range(values) == 2


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ((), ["4", "2", "1", "0.5", "0.2", "0.1"]),
        (("frontend.fmin=100", "frontend.fmax=1900"), ["1", "0.5", "0.2", "0.1"]),
        (("frontend.frequency=linear",), ["4", "2", "1", "0.5", "0.2"]),
    ],
)
def test_ticks_are_where_tones_are(make_recipe, changes, expected):
    recipe = make_recipe("frontend.color_map=none", "model.backbone=lcnet_035", *changes)
    model = Classifier(recipe, ["a", "b"], weights="random")
    places, names = frequency_ticks(model)
    assert names == expected
    frontend = FrontEnd(recipe.frontend, recipe.data)
    time = torch.arange(4000) / 8000
    for place, name in list(zip(places, names, strict=True))[1:]:
        tone = torch.sin(2 * np.pi * 1000 * float(name) * time)[None]
        loudest = frontend.features(tone)[0].mean(dim=0).argmax().item() + 0.5
        assert abs(loudest - place) < 1
    assert places[0] <= frontend.n_bands


def test_coefficients_have_no_hertz(make_recipe):
    recipe = make_recipe("frontend.n_mfcc=13", "model.backbone=lcnet_035")
    model = Classifier(recipe, ["a", "b"], weights="random")
    assert frequency_ticks(model)[1][0] == "MFCC 0"
    figure = explanation_figure(half_and_half(1), model)
    assert not any("kHz" in axes.get_ylabel() for axes in figure.axes)


def test_averages_and_curves(model, tmp_path):
    one = Average("a", 3, np.full((3, 32, 32), 0.5), np.ones((32, 32)))
    figure = average_figure([one] * 6, model, "gradcam")
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == ["a\nmean of 3"] * 6
    save_figure(figure, tmp_path / "a.png")
    shares = np.linspace(0, 1, 5)
    falling = np.tile(1 - shares, (3, 1))
    curves = Curves(shares, falling**2, 1 - falling**2, falling, 1 - falling)
    figure = curves_figure(curves)
    left, right = figure.axes
    for axes, by_map, at_random in (
        (left, falling[0] ** 2, falling[0]),
        (right, 1 - falling[0] ** 2, 1 - falling[0]),
    ):
        np.testing.assert_allclose(axes.lines[0].get_ydata(), by_map)
        np.testing.assert_allclose(axes.lines[1].get_ydata(), at_random)
        np.testing.assert_allclose(axes.lines[0].get_xdata(), [0, 25, 50, 75, 100])
    assert left.get_title() == "Deletion: lower is better"

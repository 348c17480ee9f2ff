"""Plots: what the figures hold, and that the written pictures can be read and differ."""

import builtins

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.image import imread

from deepspectrumlite.errors import MissingExtraError
from deepspectrumlite.plots import (
    confusion_figure,
    history_figure,
    plot_confusion,
    plot_history,
    plot_numbers,
)

MATRIX = np.array([[12, 8], [1, 99]])


def epoch(number, **values):
    entry = {
        "epoch": number,
        "phase": "head",
        "learning_rate": 1e-3,
        "train_loss": 2 / number,
        "devel_loss": 2.5 / number,
        "devel_uar": 1 - 0.5 / number,
        "devel_accuracy": 1 - 0.4 / number,
        "devel_macro_f1": 1 - 0.6 / number,
        "seconds": 2.0,
        "best": False,
    }
    return {**entry, **values}


HISTORY = [
    epoch(1, best=True),
    epoch(2, devel_loss=None, devel_uar=None),
    epoch(3, best=True),
    epoch(4, phase="fine_tune", best=True),
    epoch(5, phase="fine_tune"),
]


def curves(axes):
    return {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}


def test_cells_hold_counts_and_row_percentages():
    axes = confusion_figure(MATRIX, ["no", "yes"], title="devel").axes[0]
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["12\n60 %", "8\n40 %", "1\n1 %", "99\n99 %"]
    np.testing.assert_allclose(axes.images[0].get_array(), [[60, 40], [1, 99]])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Predicted label", "True label")
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["no", "yes"]
    assert axes.get_title() == "devel"


def test_text_is_white_on_dark_cells_and_grey_for_zeros():
    axes = confusion_figure(np.array([[9, 1, 0], [5, 5, 0], [0, 0, 0]]), list("abc")).axes[0]
    image = axes.images[0]
    luminance = image.cmap(image.norm(image.get_array()))[..., :3].mean(axis=-1).ravel()
    colors = [to_hex(text.get_color()) for text in axes.texts]
    assert luminance[0] < 0.5 < luminance[1]
    assert colors[:5] == ["#ffffff", "#000000", "#999999", "#000000", "#000000"]


def test_a_class_without_files_has_no_percentage():
    axes = confusion_figure(np.array([[3, 1], [0, 0]]), ["a", "b"]).axes[0]
    assert [text.get_text() for text in axes.texts] == ["3\n75 %", "1\n25 %", "0", "0"]


@pytest.mark.parametrize(("n", "percent"), [(2, True), (7, True), (14, True), (30, False)])
def test_percentages_only_where_there_is_room(n, percent):
    figure = confusion_figure(np.full((n, n), 3), [f"class {i}" for i in range(n)])
    texts = figure.axes[0].texts
    assert len(texts) == n * n
    assert all(("%" in text.get_text()) == percent for text in texts)


@pytest.mark.parametrize(("n", "top"), [(2, 99), (2, 1234567), (14, 9999), (30, 140), (50, 12345)])
def test_texts_fit_into_their_cells(n, top):
    figure = confusion_figure(np.full((n, n), top), ["x"] * n)
    axes = figure.axes[0]
    cell = axes.get_window_extent().width / n
    box = axes.texts[0].get_window_extent()
    assert max(box.width, box.height) < cell


@pytest.mark.parametrize(
    ("labels", "rotation"),
    [
        (["a", "b"], 0),
        (["a long label", "another one"], 45),
        ([f"a long label {i}" for i in range(30)], 90),
    ],
)
def test_long_labels_turn(labels, rotation):
    axes = confusion_figure(np.eye(len(labels), dtype=int), labels).axes[0]
    assert {text.get_rotation() for text in axes.get_xticklabels()} == {rotation}


def test_long_labels_lose_their_middle():
    labels = ["Phylloscopus collybita collybita, song", "Phylloscopus collybita collybita, call"]
    axes = confusion_figure(MATRIX, labels).axes[0]
    first, second = (tick.get_text() for tick in axes.get_yticklabels())
    assert first != second
    assert max(len(first), len(second)) <= 30
    assert first.startswith("Phylloscopus")
    assert first.endswith(", song")


@pytest.mark.parametrize("n", [1, 2, 50])
def test_confusion_png(tmp_path, n):
    labels = [f"class {i}" for i in range(n)]
    plot_confusion(np.eye(n, dtype=int), labels, tmp_path / "a.png")
    height, width, _ = imread(tmp_path / "a.png").shape
    # At 150 dpi: no stamp, and a cell wide enough for a number, however many classes.
    assert 250 < height < 4000
    assert 250 < width < 4000
    assert min(height, width) > 50 * n


def test_dollar_signs_are_no_mathematics(tmp_path):
    # As mathematics, an unclosed brace would raise on drawing.
    plot_confusion(MATRIX, ["$\\frac{$", "b"], str(tmp_path / "a.png"), title="$\\frac{$")
    plot_confusion(MATRIX, ["$\\sqrt{$", "b"], tmp_path / "b.png", title="$\\frac{$")
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()


def test_other_counts_other_pixels(tmp_path):
    for name, matrix in [("a", MATRIX), ("b", MATRIX), ("c", MATRIX.T)]:
        plot_confusion(matrix, ["no", "yes"], tmp_path / f"{name}.png")
    a, b, c = (imread(tmp_path / f"{name}.png") for name in "abc")
    np.testing.assert_array_equal(a, b)
    assert (a != c).mean() > 0.1


@pytest.mark.parametrize(("shape", "n"), [((2, 3), 2), ((2, 2), 3), ((0, 0), 0)])
def test_a_matrix_that_does_not_fit_is_refused(shape, n):
    with pytest.raises(ValueError, match=f"with {n} labels"):
        confusion_figure(np.zeros(shape, dtype=int), ["x"] * n)


def test_history_panels_hold_the_curves():
    left, right = history_figure(HISTORY, monitor="devel_uar").axes
    assert set(curves(left)) == {"train loss", "devel loss"}
    np.testing.assert_allclose(curves(left)["train loss"].get_ydata(), 2 / np.arange(1, 6))
    np.testing.assert_array_equal(
        np.isnan(curves(left)["devel loss"].get_ydata()), [False, True, False, False, False]
    )
    lines = curves(right)
    assert {"devel UAR", "devel accuracy", "devel macro F1"} < set(lines)
    assert lines["devel UAR"].get_linewidth() > 2 * lines["devel accuracy"].get_linewidth()
    np.testing.assert_array_equal(lines["devel accuracy"].get_xdata(), [1, 2, 3, 4, 5])


def test_the_last_best_epoch_is_marked():
    left, right = history_figure(HISTORY, monitor="uar").axes
    star = curves(right)["best: 0.875 in epoch 4"]
    assert (star.get_xdata()[0], star.get_ydata()[0]) == (4, 0.875)
    assert not any("best" in name for name in curves(left))


def test_a_monitored_loss_is_marked_on_the_left():
    left, right = history_figure(HISTORY, monitor="devel_loss").axes
    assert "best: 0.625 in epoch 4" in curves(left)
    assert not any("best" in name for name in curves(right))


def of_numbers(number, **values):
    """As an epoch of output "linear": metrics down to -1, and errors in the user's unit."""
    devel = {"loss": 1.5, "ccc": -0.5 + 0.3 * number, "mae": 9.0 / number, "rmse": 12.0 / number}
    entry = {name: value for name, value in epoch(number).items() if "devel" not in name}
    return entry | {f"devel_{name}": value for name, value in devel.items()} | values


@pytest.mark.parametrize(("monitor", "side"), [("ccc", 1), ("mae", 0)])
def test_errors_of_numbers_stand_with_the_losses(monitor, side):
    history = [of_numbers(1), of_numbers(2, best=True), of_numbers(3, devel_ccc=None)]
    axes = history_figure(history, monitor=monitor).axes
    best = {"ccc": "best: 0.100 in epoch 2", "mae": "best: 4.500 in epoch 2"}[monitor]
    names = [
        {"train loss", "devel loss", "devel mae", "devel rmse"},
        {"devel CCC"},
    ]
    names[side].add(best)
    assert [set(curves(panel)) for panel in axes] == names
    np.testing.assert_allclose(curves(axes[0])["devel rmse"].get_ydata(), [12, 6, 4])
    low, high = axes[1].get_ylim()
    assert low <= -0.2
    assert 1 < high < 1.1


def test_metrics_that_are_not_negative_start_at_0():
    low, _ = history_figure(HISTORY, monitor="uar").axes[1].get_ylim()
    assert low == 0


def test_numbers_png(tmp_path):
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(40, 2))
    names = ["age in $\\frac{$", "height"]
    for name, predicted in (("a", truth), ("b", truth), ("c", truth + 1), ("d", truth * 0)):
        plot_numbers(truth, predicted, names, tmp_path / f"{name}.png", title="$\\frac{$, files")
    a, b, c, d = (imread(tmp_path / f"{name}.png") for name in "abcd")
    np.testing.assert_array_equal(a, b)
    for other in (c, d):
        assert a.shape != other.shape or (a != other).any()
    # A panel for each of the numbers, 4 inches wide.
    assert 1000 < a.shape[1] < 1300
    plot_numbers(truth[:, :1], truth[:, :1], names[:1], tmp_path / "one.png")
    assert 450 < imread(tmp_path / "one.png").shape[1] < 650


@pytest.mark.filterwarnings("error")
def test_a_single_number_can_be_drawn(tmp_path):
    plot_numbers(np.array([[3.0]]), np.array([[3.0]]), ["x"], tmp_path / "a.png")
    assert (imread(tmp_path / "a.png") != 1).any()


def test_the_second_phase_is_named_where_it_starts():
    for axes in history_figure(HISTORY, monitor="uar").axes:
        assert [text.get_text() for text in axes.texts] == ["fine-tuning"]
        assert axes.texts[0].get_position()[0] == 3.5
    for axes in history_figure(HISTORY[:3], monitor="uar").axes:
        assert not axes.texts


def test_one_epoch_is_a_dot_at_an_integer_tick():
    left, _ = history_figure(HISTORY[:1], monitor="uar").axes
    assert curves(left)["train loss"].get_marker() == "o"
    low, high = left.get_xlim()
    assert [tick for tick in left.get_xticks() if low <= tick <= high] == [1]


@pytest.mark.parametrize("n_epochs", [1, 5])
def test_history_png(tmp_path, n_epochs):
    plot_history(HISTORY[:n_epochs], tmp_path / "a.png", monitor="devel_uar")
    worse = [{**entry, "devel_uar": 0.1} for entry in HISTORY[:n_epochs]]
    plot_history(worse, tmp_path / "b.png", monitor="devel_uar")
    a, b = (imread(tmp_path / f"{name}.png") for name in "ab")
    assert 1300 < a.shape[1] < 1700
    assert 500 < a.shape[0] < 700
    assert a.shape != b.shape or (a != b).any()


@pytest.mark.parametrize(("history", "monitor"), [(HISTORY, "f2"), ([], "uar")])
def test_an_unknown_monitor_is_refused(history, monitor):
    with pytest.raises(ValueError, match=f"devel_{monitor}.*{len(history)} epochs"):
        history_figure(history, monitor=monitor)


def test_figures_leave_no_global_state():
    before = dict(mpl.rcParams)
    figure = confusion_figure(MATRIX, ["a", "b"])
    assert dict(mpl.rcParams) == before
    # pyplot's figures have a manager, which keeps them alive; these are free to go.
    assert figure.canvas.manager is None


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def without_matplotlib(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_matplotlib)
    with pytest.raises(MissingExtraError, match=r"deepspectrumlite\[train\]"):
        confusion_figure(MATRIX, ["a", "b"])

"""The report against its parts; what is unknown is null, and few groups warn."""

import json

import numpy as np
import pytest
from helpers import draw_speakers, random_files

from deepspectrumlite.metrics import (
    accuracy,
    bootstrap,
    confusion_matrix,
    interval,
    macro_f1,
    recalls,
    uar,
)
from deepspectrumlite.scores import classification_report


def test_report_agrees_with_its_parts():
    truth, predicted = random_files(1, n_classes=3)
    report = classification_report(truth, predicted, ["a", "b", "c"], n_resamples=500, seed=3)
    matrix = confusion_matrix(truth, predicted, 3)
    samples = bootstrap(truth, predicted, 3, n_resamples=500, seed=3)
    assert list(report) == ["n", "uar", "accuracy", "macro_f1", "recall", "confusion"]
    assert report["n"] == 40
    assert report["confusion"] == matrix.tolist()
    for name, metric in [("uar", uar), ("accuracy", accuracy), ("macro_f1", macro_f1)]:
        low, high = interval(metric(samples))
        assert report[name] == {"value": metric(matrix), "low": low, "high": high, "level": 0.95}
        assert low < metric(matrix) < high
    low, high = interval(recalls(samples)[:, 1])
    expected = {"value": recalls(matrix)[1], "low": low, "high": high, "level": 0.95}
    assert report["recall"]["b"] == expected


def test_report_is_json_with_null_for_what_is_unknown():
    # Class c has no file, class b a single one: its recall would be 1.0 in each resample.
    truth, predicted = np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1])
    report = classification_report(truth, predicted, ["a", "b", "c"])
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    unknown = {"value": None, "low": None, "high": None, "level": 0.95}
    assert report["recall"]["c"] == unknown
    assert report["recall"]["b"] == {**unknown, "value": 1.0}
    assert report["recall"]["a"]["low"] < 2 / 3 < report["recall"]["a"]["high"]


def test_report_by_group_draws_groups():
    truth, predicted, groups = draw_speakers(np.random.default_rng(5))
    names = np.array([f"speaker {g}" for g in groups])
    report = classification_report(truth, predicted, ["a", "b"], groups=names)
    by_group = report["by_group"]
    assert by_group["n_groups"] == 30
    assert "warning" not in by_group
    assert by_group["uar"]["value"] == report["uar"]["value"]
    samples = bootstrap(truth, predicted, 2, groups=names)
    assert (by_group["uar"]["low"], by_group["uar"]["high"]) == interval(uar(samples))

    def width(estimate):
        return estimate["high"] - estimate["low"]

    assert width(by_group["uar"]) > 1.3 * width(report["uar"])


@pytest.mark.parametrize(("n_groups", "warned"), [(2, True), (4, True), (5, False)])
def test_few_groups_warn(n_groups, warned):
    truth, predicted = random_files(0)
    report = classification_report(
        truth, predicted, list("abcde"), groups=np.arange(40) % n_groups, n_resamples=50
    )
    warning = report["by_group"].get("warning", "")
    assert warning.startswith(f"only {n_groups} groups: ") == warned
    assert report["by_group"]["uar"]["low"] < report["by_group"]["uar"]["high"]


def test_a_single_group_has_no_intervals():
    truth, predicted = random_files(0)
    report = classification_report(truth, predicted, list("abcde"), groups=np.zeros(40, dtype=int))
    by_group = report["by_group"]
    assert by_group["warning"].startswith("only 1 group: no interval")
    for estimate in [by_group["uar"], by_group["accuracy"], *by_group["recall"].values()]:
        assert estimate["low"] is estimate["high"] is None
        assert 0 < estimate["value"] <= 1
    assert report["uar"]["low"] is not None


def test_a_class_of_a_single_group_has_no_interval_over_groups():
    truth = np.array([0, 0, 0, 0, 1, 1])
    predicted = np.array([0, 1, 0, 0, 1, 0])
    groups = np.array([0, 0, 1, 1, 2, 2])
    report = classification_report(truth, predicted, ["a", "b"], groups=groups)
    assert report["recall"]["b"]["low"] == 0.0
    assert report["by_group"]["recall"]["b"]["low"] is None
    assert report["by_group"]["recall"]["a"]["low"] == 0.5


def test_report_refuses_repeated_labels_and_no_files():
    with pytest.raises(ValueError, match="labels repeat"):
        classification_report(np.array([0]), np.array([0]), ["a", "a"])
    empty = np.array([], dtype=int)
    with pytest.raises(ValueError, match="cannot resample 0 files"):
        classification_report(empty, empty, ["a", "b"])

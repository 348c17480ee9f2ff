"""The report against its parts; what is unknown is null, and few groups warn."""

import json

import numpy as np
import pytest
from helpers import draw_speakers, random_files

from deepspectrumlite.decisions import Decision
from deepspectrumlite.intervals import bca_interval
from deepspectrumlite.metrics import (
    accuracy,
    confusion_matrix,
    interval,
    macro_f1,
    macro_mean,
    precisions,
    recalls,
    uar,
    weighted_f1,
)
from deepspectrumlite.resampling import bootstrap, resample_counts
from deepspectrumlite.row_metrics import (
    auc,
    average_precision,
    ccc,
    ece,
    label_f1,
    mae,
    pearson,
    rmse,
    spearman,
)
from deepspectrumlite.scores import (
    classification_report,
    multilabel_report,
    quoted,
    quoted_over,
    regression_report,
    score_report,
)
from deepspectrumlite.tables import score_table, with_interval

INTERVAL = {"method": "percentile", "n_resamples": 1000, "level": 0.95}


def test_report_agrees_with_its_parts():
    truth, predicted = random_files(1, n_classes=3)
    report = classification_report(truth, predicted, ["a", "b", "c"], n_resamples=500, seed=3)
    matrix = confusion_matrix(truth, predicted, 3)
    samples = bootstrap(truth, predicted, 3, n_resamples=500, seed=3)
    metrics = {"uar": uar, "accuracy": accuracy, "macro_f1": macro_f1, "weighted_f1": weighted_f1}
    assert list(report) == ["n", "interval", *metrics, "recall", "precision", "confusion"]
    assert report["n"] == 40
    assert report["interval"] == INTERVAL | {"n_resamples": 500}
    assert report["confusion"] == matrix.tolist()
    for name, metric in metrics.items():
        assert report[name] == estimate(metric(matrix), metric(samples), 40)
        assert report[name]["low"] < metric(matrix) < report[name]["high"]
    # As widely as the files with that class, or predicted as it, are few.
    for name, metric, classes in (
        ("recall", recalls, truth),
        ("precision", precisions, predicted),
    ):
        expected = estimate(metric(matrix)[1], metric(samples)[:, 1], (classes == 1).sum())
        assert report[name]["b"] == expected


def random_scores(truth, n_classes=3):
    rng = np.random.default_rng(8)
    scores = rng.dirichlet(np.ones(n_classes), len(truth))
    scores[np.arange(len(truth)), truth] += 0.4
    return scores / scores.sum(axis=1, keepdims=True)


def test_scores_add_auc_and_ece():
    truth = np.random.default_rng(2).integers(0, 3, 50)
    scores, groups = random_scores(truth), np.arange(50) // 5
    decision, target = Decision("softmax", ["a", "b", "c"]), np.eye(3)[truth]
    report = score_report(decision, target, scores, groups=groups, n_resamples=200, seed=1)
    predicted, confidence = scores.argmax(axis=1), scores.max(axis=1)
    for block, units in [(report, np.arange(50)), (report["by_group"], groups)]:
        n_units = len(np.unique(units))
        counts = resample_counts(50, units=units, n_resamples=200, seed=1)
        expected = estimate(auc(truth, scores), auc(truth, scores, counts), n_units)
        assert block["auc"] == pytest.approx(expected)
        right = predicted == truth
        value, samples = ece(confidence, right), ece(confidence, right, counts)
        without = (units != np.unique(units)[:, None]).astype(int)
        low, high = bca_interval(value, samples, ece(confidence, right, without), n_units=n_units)
        expected = {"value": value, "low": low, "high": high, "level": 0.95}
        assert block["ece"] == pytest.approx(expected)
    alone = classification_report(truth, predicted, ["a", "b", "c"])
    assert not {"auc", "ece"} & set(alone)


def test_ordered_labels_have_no_probabilities():
    decision = Decision("ordinal", ["low", "mid", "high"], values=[0, 1, 2])
    target = np.arange(30)[:, None] % 3 * 1.0
    scores = target + np.random.default_rng(0).normal(size=(30, 1))
    report = score_report(decision, target, scores, groups=np.arange(30) // 5, n_resamples=50)
    assert {"uar", "recall"} < set(report["classes"])
    assert not {"auc", "ece"} & set(report["classes"])
    assert "by_group" in report["classes"]
    assert set(quoted(report)) - {"classes"} == set(report["by_group"])
    assert quoted(report)["classes"] is report["classes"]["by_group"]


def test_bca_is_of_the_jackknife_over_what_is_drawn():
    truth, predicted = random_files(1, n_classes=3)
    groups = np.arange(40) // 5
    options = {"n_resamples": 500, "seed": 3}
    report = classification_report(
        truth, predicted, ["a", "b", "c"], groups=groups, method="bca", **options
    )
    assert report["interval"] == {"method": "bca", "n_resamples": 500, "level": 0.95}
    for block, units in [(report, np.arange(40)), (report["by_group"], groups)]:
        names = np.unique(units)
        matrices = [
            confusion_matrix(truth[units != name], predicted[units != name], 3) for name in names
        ]
        drawn = None if block is report else groups
        samples = bootstrap(truth, predicted, 3, groups=drawn, **options)
        for key, metric in (("uar", uar), ("weighted_f1", weighted_f1)):
            value = metric(confusion_matrix(truth, predicted, 3))
            without = metric(np.array(matrices))
            ends = bca_interval(value, metric(samples), without, n_units=len(names))
            assert (block[key]["low"], block[key]["high"]) == pytest.approx(ends)
    plain = classification_report(truth, predicted, ["a", "b", "c"], **options)
    assert report["uar"]["low"] != plain["uar"]["low"]


def test_the_other_reports_have_bca_too():
    truth, predicted, groups = random_targets()
    found = regression_report(truth, predicted, ["x", "y"], groups=groups, method="bca")
    counts = resample_counts(60, units=groups)
    without = (groups != np.arange(12)[:, None]).astype(int)
    column = truth[:, 1], predicted[:, 1]
    ends = bca_interval(ccc(*column), ccc(*column, counts), ccc(*column, without), n_units=12)
    y = found["by_group"]["targets"]["y"]["ccc"]
    assert (y["low"], y["high"]) == pytest.approx(ends)
    truth, scores, _ = random_sounds()
    found = multilabel_report(truth, scores, np.full(3, 0.5), list("abc"), method="bca")
    value, *samples = (
        macro_mean(average_precision(truth, scores, counts))
        for counts in (None, resample_counts(60), 1 - np.eye(60, dtype=int))
    )
    ends = bca_interval(value, *samples, n_units=60)
    assert (found["map"]["low"], found["map"]["high"]) == pytest.approx(ends)
    with pytest.raises(ValueError, match="method is 'normal'; it must be one of percentile, bca"):
        multilabel_report(truth, scores, np.full(3, 0.5), list("abc"), method="normal")


def test_what_to_quote():
    truth, predicted = random_files(0)
    names = list("abcde")
    plain = classification_report(truth, predicted, names, n_resamples=20)
    assert quoted(plain) is plain
    assert quoted_over(plain) == "40 files"
    for n_groups in (4, 5):
        groups = np.arange(40) % n_groups
        report = classification_report(truth, predicted, names, groups=groups, n_resamples=20)
        assert quoted(report) is (report if n_groups == 4 else report["by_group"])
        assert quoted(report)["uar"]["low"] is not None
        assert quoted_over(report) == ("40 files" if n_groups == 4 else "5 groups")


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
    assert (by_group["uar"]["low"], by_group["uar"]["high"]) == interval(uar(samples), n_units=30)

    def width(estimate):
        return estimate["high"] - estimate["low"]

    assert width(by_group["uar"]) > 1.3 * width(report["uar"])


@pytest.mark.parametrize("n_groups", [1, 2, 4])
def test_few_groups_have_no_intervals_and_a_warning(n_groups):
    truth, predicted = random_files(0)
    report = classification_report(
        truth, predicted, list("abcde"), groups=np.arange(40) % n_groups, n_resamples=50
    )
    by_group = report["by_group"]
    noun = "group" if n_groups == 1 else "groups"
    assert by_group["warning"].startswith(f"only {n_groups} {noun}: too few for intervals")
    for estimate in [by_group["uar"], by_group["accuracy"], *by_group["recall"].values()]:
        assert estimate["low"] is estimate["high"] is None
        assert 0 < estimate["value"] <= 1
    assert report["uar"]["low"] is not None


def test_five_groups_have_intervals_and_no_warning():
    truth, predicted = random_files(0)
    groups = np.arange(40) % 5
    report = classification_report(truth, predicted, list("abcde"), groups=groups)
    assert "warning" not in report["by_group"]
    assert report["by_group"]["uar"]["low"] < report["by_group"]["uar"]["high"]


def test_a_class_of_few_groups_has_no_interval_over_groups():
    # Class a in all of seven groups, b in four of them.
    truth = np.array([0] * 14 + [1] * 8)
    predicted = np.where(np.arange(22) % 3, truth, 1 - truth)
    groups = np.concatenate([np.repeat(np.arange(7), 2), np.repeat(np.arange(4), 2)])
    report = classification_report(truth, predicted, ["a", "b"], groups=groups)
    assert report["recall"]["b"]["low"] is not None
    assert report["by_group"]["recall"]["b"]["low"] is None
    assert report["by_group"]["recall"]["a"]["low"] is not None
    # A single file is all there is with class c.
    truth[-1] = 2
    report = classification_report(truth, predicted, ["a", "b", "c"])
    assert report["recall"]["c"]["low"] is None


def test_report_refuses_repeated_labels_and_no_files():
    with pytest.raises(ValueError, match="labels repeat"):
        classification_report(np.array([0]), np.array([0]), ["a", "a"])
    empty = np.array([], dtype=int)
    with pytest.raises(ValueError, match="cannot resample 0 files"):
        classification_report(empty, empty, ["a", "b"])


OF_NUMBERS = {"ccc": ccc, "pearson": pearson, "spearman": spearman, "mae": mae, "rmse": rmse}


def random_targets(seed=0, n=60):
    """(n, 2), (n, 2), (n,): truth and predictions of two targets, and 12 groups."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(12), n // 12)
    truth = rng.normal(size=(n, 2))
    error = rng.normal(size=(12, 2))[groups] + 0.3 * rng.normal(size=(n, 2))
    return truth, truth + error * [0.5, 1.0], groups


def random_sounds(seed=0, n=60):
    """(n, 3), (n, 3), (n,): truth and scores of three labels, and 12 groups."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(12), n // 12)
    truth = rng.random((n, 3)) < [0.2, 0.5, 0.6]
    noise = 0.4 * rng.random((12, 3))[groups] + 0.3 * rng.random((n, 3))
    return truth, 0.3 * truth + noise, groups


def estimate(value, samples, n_units):
    low, high = interval(samples, n_units=n_units)
    return {"value": float(value), "low": low, "high": high, "level": 0.95}


def check_numbers(report, truth, predicted, counts, n_units):
    columns = list(zip(truth.T, predicted.T, strict=True))
    for key, metric in OF_NUMBERS.items():
        values = [metric(t, p) for t, p in columns]
        samples = [metric(t, p, counts) for t, p in columns]
        assert report[key] == estimate(np.mean(values), np.mean(samples, axis=0), n_units)
        assert report[key]["low"] < report[key]["value"] < report[key]["high"]
        for name, value, sample in zip(["x", "y"], values, samples, strict=True):
            assert report["targets"][name][key] == estimate(value, sample, n_units)


@pytest.mark.parametrize("with_units", [False, True])
def test_regression_report_agrees_with_its_parts(with_units):
    truth, predicted, groups = random_targets()
    units = np.arange(60) // 2 if with_units else None
    report = regression_report(
        truth, predicted, ["x", "y"], units=units, groups=groups, n_resamples=300, seed=3
    )
    by_group = report.pop("by_group")
    assert list(report) == ["n", "interval", *OF_NUMBERS, "targets"]
    assert list(by_group) == ["n_groups", *OF_NUMBERS, "targets"]
    assert (report["n"], by_group["n_groups"]) == (60, 12)
    drawn = resample_counts(60, units=units, n_resamples=300, seed=3)
    check_numbers(report, truth, predicted, drawn, 30 if with_units else 60)
    drawn = resample_counts(60, units=groups, n_resamples=300, seed=3)
    check_numbers(by_group, truth, predicted, drawn, 12)
    widths = [r["mae"]["high"] - r["mae"]["low"] for r in (report, by_group)]
    assert widths[1] > 1.2 * widths[0]


def test_regression_report_is_json_with_null_for_what_is_unknown():
    truth, predicted, _ = random_targets()
    predicted[:, 1] = 0.1
    report = regression_report(truth, predicted, ["x", "y"])
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    unknown = {"value": None, "low": None, "high": None, "level": 0.95}
    # A mean without the constant target would flatter.
    assert report["targets"]["y"]["pearson"] == report["pearson"] == unknown
    assert report["targets"]["x"]["pearson"]["value"] > 0.5
    assert report["targets"]["y"]["ccc"]["value"] == 0
    assert report["ccc"]["value"] == pytest.approx(report["targets"]["x"]["ccc"]["value"] / 2)


def check_labels(report, truth, scores, counts, units):
    n_units = len(np.unique(units))
    decisions = scores >= [0.3, 0.5, 0.7]
    precision = average_precision(truth, scores), average_precision(truth, scores, counts)
    f1 = label_f1(truth, decisions), label_f1(truth, decisions, counts)
    assert report["map"] == estimate(*map(macro_mean, precision), n_units)
    assert report["macro_f1"] == estimate(*map(macro_mean, f1), n_units)
    for i, label in enumerate("abc"):
        found = report["labels"][label]
        n_with = len(np.unique(units[truth[:, i]]))
        expected = estimate(precision[0][i], precision[1][:, i], n_with)
        assert found["average_precision"] == expected
        assert found["f1"] == estimate(f1[0][i], f1[1][:, i], n_with)
        assert found["f1"]["low"] < found["f1"]["value"] < found["f1"]["high"]


@pytest.mark.parametrize("with_units", [False, True])
def test_multilabel_report_agrees_with_its_parts(with_units):
    truth, scores, groups = random_sounds()
    units = np.arange(60) // 2 if with_units else None
    options = {"units": units, "groups": groups, "n_resamples": 300, "seed": 3}
    report = multilabel_report(truth, scores, np.array([0.3, 0.5, 0.7]), list("abc"), **options)
    by_group = report.pop("by_group")
    assert list(report) == ["n", "interval", "map", "macro_f1", "labels"]
    assert list(by_group) == ["n_groups", "map", "macro_f1", "labels"]
    assert (report["n"], by_group["n_groups"]) == (60, 12)
    assert [report["labels"][label]["threshold"] for label in "abc"] == [0.3, 0.5, 0.7]
    assert [report["labels"][label]["positives"] for label in "abc"] == truth.sum(axis=0).tolist()
    drawn = resample_counts(60, units=units, n_resamples=300, seed=3)
    check_labels(report, truth, scores, drawn, np.arange(60) if units is None else units)
    drawn = resample_counts(60, units=groups, n_resamples=300, seed=3)
    check_labels(by_group, truth, scores, drawn, groups)
    assert list(by_group["labels"]["a"]) == ["average_precision", "f1"]


def test_multilabel_report_is_json_with_null_for_what_is_unknown():
    truth, scores, groups = random_sounds()
    truth[:, 0] = False  # no positive, but decided for
    truth[:, 1] = groups == 3  # in one group only
    scores[:, 2] = 0
    truth[:, 2] = False  # neither true nor decided for
    report = multilabel_report(truth, scores, np.full(3, 0.3), list("abc"), groups=groups)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    unknown = {"value": None, "low": None, "high": None, "level": 0.95}
    a, b, c = (report["labels"][label] for label in "abc")
    assert (a["positives"], b["positives"], c["positives"]) == (0, 5, 0)
    assert a["average_precision"] == c["average_precision"] == c["f1"] == unknown
    assert a["f1"] == {**unknown, "value": 0.0}
    assert b["f1"]["low"] < b["f1"]["value"] < b["f1"]["high"]
    # The means leave out what is unknown, which an F1 of 0 is not.
    assert report["map"]["value"] == b["average_precision"]["value"]
    assert report["macro_f1"]["value"] == pytest.approx(b["f1"]["value"] / 2)
    for key in ("average_precision", "f1"):
        assert report["by_group"]["labels"]["b"][key] == {**unknown, "value": b[key]["value"]}


def numbers_report(**options):
    truth, predicted, _ = random_targets()
    return regression_report(truth, predicted, ["x", "y"], n_resamples=50, **options)


def sounds_report(**options):
    truth, scores, _ = random_sounds()
    return multilabel_report(truth, scores, np.full(3, 0.5), list("abc"), n_resamples=50, **options)


@pytest.mark.parametrize(("make", "key"), [(numbers_report, "ccc"), (sounds_report, "map")])
def test_the_other_reports_treat_few_units_alike(make, key):
    assert "by_group" not in make()
    for n_groups, warned in [(1, True), (2, True), (4, True), (5, False)]:
        report = make(groups=np.arange(60) % n_groups)
        by_group = report["by_group"]
        noun = "group" if n_groups == 1 else "groups"
        warning = by_group.get("warning", "")
        assert warning.startswith(f"only {n_groups} {noun}: ") == warned
        assert by_group[key]["value"] == report[key]["value"] is not None
        assert (by_group[key]["low"] is None) == warned
    alone = make(units=np.zeros(60))
    assert alone[key]["low"] is alone[key]["high"] is None
    nested = next(iter(alone["targets" if key == "ccc" else "labels"].values()))
    assert all(e["low"] is None for e in nested.values() if isinstance(e, dict))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ["x", "x"]}, "names repeat"),
        ({"names": ["x"]}, r"truth has shape \(3, 2\), predicted \(3, 2\); both .* \(n, 1\)"),
        ({"predicted": np.zeros((2, 2))}, r"predicted \(2, 2\); both must be \(n, 2\)"),
        ({"truth": np.zeros(3), "predicted": np.zeros(3)}, r"truth has shape \(3,\)"),
        ({"truth": np.zeros((3, 0)), "predicted": np.zeros((3, 0)), "names": []}, "at least one"),
        ({"truth": np.zeros((0, 2)), "predicted": np.zeros((0, 2))}, "cannot resample 0 rows"),
        ({"truth": np.full((3, 2), np.nan)}, "truth holds 3 values that are not finite"),
        ({"groups": np.zeros(2)}, r"groups have shape \(2,\), but there are 3 rows"),
    ],
)
def test_regression_report_names_what_is_wrong(change, message):
    given = {"truth": np.zeros((3, 2)), "predicted": np.zeros((3, 2)), "names": ["x", "y"]}
    with pytest.raises(ValueError, match=message) as caught:
        regression_report(**given | change)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": ["a", "a"]}, "labels repeat"),
        ({"labels": ["a"]}, r"truth has shape \(3, 2\), scores \(3, 2\); both .* \(n, 1\)"),
        ({"thresholds": np.zeros(3)}, r"thresholds are .*; give 2 finite numbers"),
        ({"thresholds": np.array([0.5, np.nan])}, r"thresholds are \[0.5, nan\]; give 2 finite"),
        ({"scores": np.full((3, 2), np.inf)}, "scores holds 6 values that are not finite"),
        ({"truth": np.zeros((3, 2))}, "truth is of type float64; give booleans"),
        ({"truth": np.zeros((0, 2), bool), "scores": np.zeros((0, 2))}, "cannot resample 0 rows"),
        ({"units": np.zeros(2)}, r"units or groups have shape \(2,\)"),
    ],
)
def test_multilabel_report_names_what_is_wrong(change, message):
    given = {"truth": np.ones((3, 2), bool), "scores": np.zeros((3, 2))}
    given |= {"thresholds": np.full(2, 0.5), "labels": ["a", "b"]}
    with pytest.raises(ValueError, match=message) as caught:
        multilabel_report(**given | change)
    assert "\n" not in str(caught.value)


def test_the_table_shows_groups_first_and_only_enough_of_them():
    truth, predicted = random_files(0)
    names = list("abcde")
    for n_groups, columns in ((4, ["files", "segments"]), (5, ["5 groups", "files", "segments"])):
        block = classification_report(
            truth, predicted, names, groups=np.arange(40) % n_groups, n_resamples=20
        )
        table = score_table({"split": "test", "files": block, "segments": block})
        assert [column.header for column in table.columns[1:]] == columns
        cells = [list(column.cells) for column in table.columns]
        titles = ["UAR", "accuracy", "macro F1", "weighted F1"]
        titles += [f"{kind} {name}" for kind in ("recall", "precision") for name in names]
        assert cells[0] == titles
        assert cells[1][0] == with_interval(quoted(block)["uar"], 2)
        assert cells[-2][-1] == with_interval(block["precision"]["e"], 2)

"""Baselines: what is fitted on which split, chosen by what, and written where."""

import json
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC, LinearSVR

from deepspectrumlite import baselines
from deepspectrumlite.baseline_runs import run_baseline
from deepspectrumlite.baselines import COMPLEXITIES, SYSTEMS, TITLES, fit_baseline
from deepspectrumlite.data import scan
from deepspectrumlite.errors import ManifestError, RecipeError
from deepspectrumlite.features import Features, extract
from deepspectrumlite.metrics import confusion_matrix, uar
from deepspectrumlite.row_metrics import average_precision, best_thresholds, ccc, macro_mean
from deepspectrumlite.targets import load_labelled

SPLITS = ("train",) * 60 + ("devel",) * 30 + ("test",) * 30
SHIFTS = {"a": 0.0, "b": 1.0, "c": 2.0}


def as_features(values):
    """Features with one segment a file."""
    n_files, width = values.shape
    names, rows = tuple(map(str, range(width))), np.arange(n_files)
    values = values.astype(np.float32)
    return Features(values, names, rows, rows * 0.0, rows + 0.5, 100, 2.5)


def make_table(labels, **columns):
    n = len(labels)
    return pd.DataFrame(
        {
            "path": [f"/{i}.wav" for i in range(n)],
            "label": labels,
            "split": SPLITS[:n],
            "duration": 0.5,
            "digest": [str(i) for i in range(n)],
            **columns,
        }
    )


def draw(labels, width=6, seed=0):
    """(n_files, width): noise around where the label is."""
    rng = np.random.default_rng(seed)
    places = np.array([SHIFTS.get(label, 0) for label in labels])
    return rng.normal(0, 1.5, (len(labels), width)) + places[:, None] * np.arange(width)


@pytest.fixture
def classes():
    labels = list("abc" * 40)
    return make_table(labels), as_features(draw(labels) * [1, 10, 100, 1, 1, 1] + 5)


def split_of(table, values, name):
    rows = (table["split"] == name).to_numpy()
    return values[rows].astype(np.float64), table["label"].to_numpy()[rows]


def by_hand(table, features, make):
    """Each complexity's UAR on devel, and the decision values of all files, by sklearn alone."""
    values = features.values.astype(np.float64)
    train, truth = split_of(table, values, "train")
    devel, wanted = split_of(table, values, "devel")
    scaler, names = StandardScaler().fit(train), sorted(set(truth))
    found = {}
    for complexity in COMPLEXITIES:
        model = make(complexity).fit(scaler.transform(train), truth)
        predicted = model.predict(scaler.transform(devel))
        matrix = confusion_matrix(
            *(np.array([names.index(x) for x in each]) for each in (wanted, predicted)), len(names)
        )
        found[complexity] = float(uar(matrix)), model.decision_function(scaler.transform(values))
    return found


@pytest.mark.parametrize(
    ("system", "make"),
    [
        ("compare", lambda c: LinearSVC(C=c, class_weight="balanced", dual=False, max_iter=20_000)),
        ("logmel", lambda c: LogisticRegression(C=c, class_weight="balanced", max_iter=20_000)),
    ],
)
def test_classes_are_those_of_the_classifier_that_is_best_on_devel(
    system, make, classes, make_recipe
):
    table, features = classes
    found = by_hand(table, features, make)
    fitted = fit_baseline(system, make_recipe(), table, features)
    best = fitted.chosen["complexity"]
    values = [found[c][0] for c in COMPLEXITIES]
    assert fitted.chosen["devel"] == pytest.approx(
        dict(zip(["1e-05", "0.0001", "0.001", "0.01", "0.1", "1"], values, strict=True))
    )
    assert best == COMPLEXITIES[values.index(max(values))]
    assert fitted.chosen["metric"] == "UAR"
    assert fitted.chosen["trained_on"] == ["train"]
    assert all(fitted.chosen["converged"].values())
    temperature = fitted.chosen["temperature"]
    expected = softmax(found[best][1] / temperature, axis=1)
    np.testing.assert_allclose(fitted.score(features.values), expected, atol=2e-3)
    # 6 means and deviations, 6 x 3 weights, 3 biases.
    assert fitted.n_bytes == 4 * (6 + 6 + 18 + 3)


def test_the_temperature_is_the_likeliest_on_devel(classes, make_recipe):
    table, features = classes
    fitted = fit_baseline("compare", make_recipe(), table, features)
    rows = (table["split"] == "devel").to_numpy()
    truth = table["label"].map({"a": 0, "b": 1, "c": 2}).to_numpy()[rows]
    raw = fitted.linear(features.values[rows].astype(np.float64))

    def loss(temperature):
        return -np.log(softmax(raw / temperature, axis=1)[np.arange(30), truth]).mean()

    best = fitted.chosen["temperature"]
    assert 0.25 < best < 4
    assert loss(best) < min(loss(best * 0.95), loss(best * 1.05))


@pytest.mark.parametrize("split", ["devel", "test"])
def test_scaling_and_fitting_see_train_alone(split, classes, make_recipe):
    table, features = classes
    before = fit_baseline("compare", make_recipe(), table, features)
    values, rows = features.values.copy(), (table["split"] == split).to_numpy()
    values[rows] = values[rows] * 3 + 1000
    labels = table["label"].where(~rows, table["label"].map(dict(zip("abc", "bca", strict=True))))
    after = fit_baseline("compare", make_recipe(), table.assign(label=labels), as_features(values))
    for name in ("mean", "deviation"):
        np.testing.assert_array_equal(getattr(before.linear, name), getattr(after.linear, name))
    same = before.chosen["complexity"] == after.chosen["complexity"]
    if split == "test":
        assert before.chosen == after.chosen
    if same:
        np.testing.assert_array_equal(before.linear.weights, after.linear.weights)
    train = features.values[(table["split"] == "train").to_numpy()].astype(np.float64)
    np.testing.assert_allclose(before.linear.mean, train.mean(axis=0))
    np.testing.assert_allclose(before.linear.deviation, train.std(axis=0))


def test_it_can_be_fitted_again_on_train_and_devel(classes, make_recipe):
    table, features = classes
    before = fit_baseline("egemaps", make_recipe(), table, features)
    after = fit_baseline("egemaps", make_recipe(), table, features, fit_devel=True)
    both = features.values[:90].astype(np.float64)
    np.testing.assert_allclose(after.linear.mean, both.mean(axis=0))
    model = LinearSVC(
        C=before.chosen["complexity"], class_weight="balanced", dual=False, max_iter=20_000
    ).fit(StandardScaler().fit_transform(both), table["label"][:90])
    np.testing.assert_allclose(after.linear.weights, model.coef_.T, atol=1e-3)
    assert after.chosen["trained_on"] == ["train", "devel"]
    for name in ("complexity", "temperature", "devel"):
        assert after.chosen[name] == before.chosen[name]


def test_more_features_than_files_are_fitted_the_same(make_recipe):
    labels = list("abc" * 40)
    table, features = make_table(labels), as_features(draw(labels, 200))
    fitted = fit_baseline("compare", make_recipe(), table, features)
    train, truth = split_of(table, features.values, "train")
    model = LinearSVC(
        C=fitted.chosen["complexity"],
        class_weight="balanced",
        dual=True,
        max_iter=100_000,
        tol=1e-8,
    ).fit(StandardScaler().fit_transform(train), truth)
    assert fitted.linear.weights.shape == (200, 3)
    np.testing.assert_allclose(fitted.linear.weights, model.coef_.T, atol=1e-4)
    np.testing.assert_allclose(fitted.linear.bias, model.intercept_, atol=1e-3)


def test_of_equally_good_complexities_the_lowest_is_taken(make_recipe):
    labels = list("ab" * 60)
    values = np.array([[10.0 if label == "b" else -10.0] for label in labels])
    fitted = fit_baseline("compare", make_recipe(), make_table(labels), as_features(values))
    assert set(fitted.chosen["devel"].values()) == {1.0}
    assert fitted.chosen["complexity"] == COMPLEXITIES[0]


def test_two_classes_have_a_score_each(make_recipe):
    labels = list("ab" * 60)
    table, features = make_table(labels), as_features(draw(labels))
    fitted = fit_baseline("compare", make_recipe(), table, features)
    scores = fitted.score(features.values)
    np.testing.assert_allclose(scores.sum(axis=1), 1)
    train, truth = split_of(table, features.values.astype(np.float64), "train")
    model = LinearSVC(C=fitted.chosen["complexity"], class_weight="balanced", dual=False)
    scaler = StandardScaler().fit(train)
    predicted = model.fit(scaler.transform(train), truth).predict(scaler.transform(features.values))
    assert (scores.argmax(axis=1) == (predicted == "b")).mean() > 0.99


def test_a_class_that_devel_lacks_is_no_hindrance(classes, make_recipe):
    table, features = classes
    keep = ~((table["split"] == "devel") & (table["label"] == "c")).to_numpy()
    few = table[keep].reset_index(drop=True)
    fitted = fit_baseline("compare", make_recipe(), few, as_features(features.values[keep]))
    assert fitted.score(features.values).shape == (120, 3)

    def make(c):
        return LinearSVC(C=c, class_weight="balanced", dual=False, max_iter=20_000)

    expected = [
        value for value, _ in by_hand(few, as_features(features.values[keep]), make).values()
    ]
    assert list(fitted.chosen["devel"].values()) == pytest.approx(expected)


def test_a_class_that_train_lacks_is_named(classes, make_recipe):
    table, features = classes
    table.loc[(table["split"] == "train") & (table["label"] == "c"), "label"] = "a"
    with pytest.raises(ManifestError, match="'c'"):
        fit_baseline("compare", make_recipe(), table, features)


def test_several_labels_at_once_have_a_classifier_each(make_recipe):
    rng = np.random.default_rng(1)
    there = rng.random((120, 2)) < 0.4
    values = rng.normal(0, 1, (120, 5)) + there @ rng.normal(0, 1, (2, 5))
    labels = [";".join(x for x, here in zip("ab", row, strict=True) if here) for row in there]
    table, features = make_table(labels), as_features(values)
    fitted = fit_baseline("compare", make_recipe("model.output=sigmoid"), table, features)
    values = features.values.astype(np.float64)
    scaler = StandardScaler().fit(values[:60])
    raw = np.stack(
        [
            LinearSVC(C=fitted.chosen["complexity"], class_weight="balanced", dual=False)
            .fit(scaler.transform(values[:60]), column[:60])
            .decision_function(scaler.transform(values))
            for column in there.T
        ],
        axis=1,
    )
    scores = fitted.score(values)
    np.testing.assert_allclose(scores, expit(raw / fitted.chosen["temperature"]), atol=1e-3)
    expected = macro_mean(average_precision(there[60:90], raw[60:90]))
    devel = fitted.chosen["devel"]
    assert devel[f"{fitted.chosen['complexity']:g}"] == pytest.approx(float(expected))
    assert fitted.chosen["metric"] == "MAP"
    assert list(fitted.decision.thresholds) == best_thresholds(there[60:90], scores[60:90]).tolist()


def test_a_label_in_all_rows_of_train_is_constant(make_recipe):
    labels = ["a;b" if i % 2 else "b" for i in range(60)] + ["a"] * 15 + ["b"] * 45
    table, features = make_table(labels), as_features(draw(labels))
    fitted = fit_baseline("compare", make_recipe("model.output=sigmoid"), table, features)
    assert np.ptp(fitted.score(features.values), axis=0)[1] == 0
    assert np.ptp(fitted.score(features.values), axis=0)[0] > 0


@pytest.mark.parametrize("system", ["compare", "logmel"])
def test_numbers_are_predicted_in_their_unit(system, make_recipe):
    rng = np.random.default_rng(2)
    values = rng.normal(0, 1, (120, 4))
    age = 40 + 12 * (values @ [1, 0.5, 0, 0] + rng.normal(0, 0.5, 120))
    table = make_table([f"{x:.4f}" for x in age])
    features = as_features(values)
    fitted = fit_baseline(system, make_recipe("model.output=linear"), table, features)
    z = StandardScaler().fit(features.values[:60].astype(np.float64))
    y = StandardScaler().fit(age[:60, None])
    best = fitted.chosen["complexity"]
    model = (
        Ridge(1 / best)
        if system == "logmel"
        else LinearSVR(C=best, epsilon=0.1, max_iter=20_000, random_state=0)
    ).fit(z.transform(features.values[:60]), y.transform(age[:60, None])[:, 0])
    raw = model.predict(z.transform(features.values.astype(np.float64)))
    expected = y.inverse_transform(raw[:, None])
    scores = fitted.score(features.values)
    np.testing.assert_allclose(scores, expected, atol=0.05)
    assert fitted.chosen["devel"][f"{best:g}"] == pytest.approx(
        float(ccc(age[60:90], expected[60:90, 0])), abs=1e-3
    )
    assert fitted.chosen["devel"][f"{best:g}"] > 0.7
    assert fitted.chosen["temperature"] is None


def test_steps_are_predicted_as_one_number(make_recipe):
    labels = [str("abc".index(x)) for x in "abc" * 40]
    features = as_features(draw(list("abc" * 40)))
    fitted = fit_baseline(
        "compare", make_recipe("model.output=ordinal"), make_table(labels), features
    )
    scores = fitted.score(features.values)
    assert scores.shape == (120, 1)
    assert (fitted.decision.classes(scores) == np.arange(120) % 3).mean() > 0.8


def test_the_majority_is_that_of_train(make_recipe):
    labels = list("aab" * 20) + list("bbc" * 10) + list("abc" * 10)
    labels[0] = "c"
    fitted = fit_baseline(
        "majority", make_recipe("data.segment_seconds=0.5"), make_table(labels), None
    )
    scores = fitted.score(np.zeros((2, 0)))
    np.testing.assert_allclose(scores, [[39 / 60, 20 / 60, 1 / 60]] * 2)
    ages = fit_baseline(
        "majority",
        make_recipe("model.output=linear"),
        make_table([str(i) for i in range(120)]),
        None,
    )
    np.testing.assert_allclose(ages.score(np.zeros((1, 0))), [[29.5]])
    sets = fit_baseline(
        "majority",
        make_recipe("model.output=sigmoid"),
        make_table(["a;b", "b", "", "b"] * 30),
        None,
    )
    np.testing.assert_allclose(sets.score(np.zeros((1, 0))), [[0.25, 0.75]])


def test_the_same_seed_gives_the_same(classes, make_recipe):
    table, features = classes
    one, two = (fit_baseline("compare", make_recipe(), table, features, seed=3) for _ in "ab")
    np.testing.assert_array_equal(one.linear.weights, two.linear.weights)
    assert one.chosen == two.chosen


def test_what_does_not_converge_is_told(classes, make_recipe, monkeypatch):
    table, features = classes
    monkeypatch.setattr(baselines, "MAX_ITERATIONS", 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        fitted = fit_baseline("logmel", make_recipe(), table, features)
    assert not fitted.chosen["converged"]["1"]


def test_what_is_refused(classes, make_recipe):
    table, features = classes
    with pytest.raises(RecipeError, match="'forest'; allowed: deepspectrum"):
        fit_baseline("forest", make_recipe(), table, features)
    with pytest.raises(ManifestError, match="no recording in devel"):
        fit_baseline("compare", make_recipe(), table[table["split"] != "devel"], features)
    none = Features(*(x[:60] if isinstance(x, np.ndarray) else x for x in vars(features).values()))
    with pytest.raises(ManifestError, match="without a single segment"):
        fit_baseline("compare", make_recipe(), table, none)


def test_every_system_has_a_title():
    assert list(TITLES) == list(SYSTEMS)


@pytest.fixture(scope="module")
def scanned(tones, make_recipe):
    recipe = make_recipe()
    return scan(load_labelled(tones, recipe.data, "softmax"), recipe.data)[0]


def test_the_folder_is_like_that_of_a_run(scanned, make_recipe, tmp_path):
    recipe = make_recipe("train.workers=0")
    features = extract("logmel", recipe, scanned)
    reports = run_baseline("logmel", recipe, scanned, features, tmp_path / "b", n_resamples=100)
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == [
        "baseline.json",
        "devel",
        "manifest.csv",
        "test",
    ]
    for split, n_files in (("devel", 6), ("test", 9)):
        folder = tmp_path / "b" / split
        report = json.loads((folder / "scores.json").read_text())
        assert report == reports[split]
        assert report["split"] == split
        assert report["files"]["n"] == n_files
        assert report["seen_in_training"] == report["files_without_a_segment"] == 0
        predictions = pd.read_csv(folder / "predictions.csv")
        assert len(predictions) == n_files
        truth = [path.split("/")[-1].split("-")[0] for path in predictions["path"]]
        right = (predictions["predicted"] == truth).mean()
        assert report["files"]["accuracy"]["value"] == pytest.approx(right)
        assert (folder / "confusion.png").stat().st_size > 1000
    assert reports["test"]["files"]["uar"]["value"] > 0.8
    told = json.loads((tmp_path / "b" / "baseline.json").read_text())
    assert told["title"] == "log-mel statistics + logistic regression"
    assert told["bytes"] == {"extractor": 0, "classifier": 4 * (64 + 64 + 64 * 3 + 3)}
    assert told["seconds"]["extract"] == features.seconds
    assert told["chosen"]["trained_on"] == ["train"]


def test_what_was_trained_on_is_counted(scanned, make_recipe, tmp_path):
    recipe = make_recipe()
    options = {"fit_devel": True, "splits": ["devel", "test"], "n_resamples": 100}
    reports = run_baseline("majority", recipe, scanned, None, tmp_path, **options)
    assert reports["devel"]["seen_in_training"] == 6
    assert reports["test"]["seen_in_training"] == 0
    assert reports["test"]["files"]["uar"]["value"] == pytest.approx(1 / 3)


def test_numbers_get_their_picture(scanned, make_recipe, tmp_path):
    table = scanned.assign(label=[str(i % 7) for i in range(len(scanned))])
    recipe = make_recipe("model.output=linear")
    reports = run_baseline("majority", recipe, table, None, tmp_path, n_resamples=100)
    assert reports["test"]["files"]["ccc"]["value"] == 0
    assert (tmp_path / "test" / "numbers.png").is_file()


def test_files_without_a_segment_are_counted(scanned, make_recipe, tmp_path):
    recipe = make_recipe("data.tail=drop")
    table = scanned.assign(duration=[0.4 if i == 29 else 1.0 for i in range(30)])
    reports = run_baseline("majority", recipe, table, None, tmp_path, n_resamples=100)
    assert reports["test"]["files_without_a_segment"] == 1
    assert reports["test"]["files"]["n"] == 8

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, recall_score

from deepspectrumlite.audio import cut_segments, load_audio
from deepspectrumlite.config import parse_recipe
from deepspectrumlite.data import Segments, scan
from deepspectrumlite.errors import (
    AudioError,
    BackboneError,
    ManifestError,
    ModelError,
    TrainingError,
)
from deepspectrumlite.manifest import load_manifest, write_manifest
from deepspectrumlite.model import load_model
from deepspectrumlite.runs import (
    Options,
    choose_device,
    evaluate_run,
    read_scanned,
    train_run,
)

PNG = b"\x89PNG"
HEAD_ONLY = "train.epochs=0"


@pytest.fixture
def manifest_of(tones, tmp_path, save_manifest):
    """Write a manifest of the tones' rows, each changed by a function (None: left out)."""

    def manifest_of(change, name="mine.csv"):
        table = load_manifest(tones).to_dict("records")
        rows = [change(dict(row)) for row in table]
        return save_manifest(tmp_path / name, [row for row in rows if row])

    return manifest_of


def no_split(row):
    return {key: row[key] for key in ("path", "label")}


def read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


def split_of(run):
    table = load_manifest(run / "manifest.csv")
    return dict(zip(table["path"], table["split"], strict=True))


def test_a_run_folder_holds_all_that_made_the_model(make_recipe, tones, tmp_path):
    out, recipe, told = tmp_path / "new" / "run", make_recipe("train.epochs=2"), []
    model = train_run(recipe, tones, out, on_epoch=told.append).model
    assert sorted(path.name for path in out.iterdir()) == [
        "curves.png",
        "history.jsonl",
        "manifest.csv",
        "model",
        "run.json",
    ]
    assert (out / "curves.png").read_bytes()[:4] == PNG
    lines = (out / "history.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == told
    assert [record["epoch"] for record in told] == [1, 2, 3]
    given = load_manifest(tones)
    assert split_of(out) == dict(zip(given["path"], given["split"], strict=True))
    again = load_model(out)
    assert again.recipe == recipe
    assert again.labels == model.labels == ["high", "low", "noise"]
    waveform = torch.rand(2, recipe.data.segment_samples)
    # Not to the bit: training leaves the weights in another layout in memory.
    torch.testing.assert_close(again(waveform), model(waveform), atol=1e-6, rtol=0)


def test_an_existing_folder_is_kept(make_recipe, tones, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(TrainingError, match=r"already there.*--overwrite"):
        train_run(make_recipe(), tones, tmp_path)
    with pytest.raises(TrainingError, match="already there"):
        train_run(make_recipe(), tones, tmp_path / "notes.txt", Options(overwrite=True))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_overwrite_replaces_a_run_folder(make_recipe, tones, tmp_path):
    out = tmp_path / "run"
    out.mkdir()  # an empty folder needs no --overwrite
    train_run(make_recipe(HEAD_ONLY), tones, out)
    (out / "test").mkdir()
    (out / "test" / "scores.json").write_text("of the first model")
    train_run(make_recipe(HEAD_ONLY, "train.seed=5"), tones, out, Options(overwrite=True))
    assert not (out / "test").exists()
    assert load_model(out).recipe.train.seed == 5
    assert len((out / "history.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize("name", ["labels.csv", "manifest.csv"])
def test_overwrite_never_deletes_a_folder_of_recordings(make_recipe, tones, tmp_path, name):
    folder = tmp_path / "recordings"
    shutil.copytree(tones.parent, folder)
    (folder / "labels.csv").rename(folder / name)
    before = sorted(folder.iterdir())
    with pytest.raises(TrainingError, match="not a run folder, so it is not overwritten"):
        train_run(make_recipe(), folder / name, folder, Options(overwrite=True))
    assert sorted(folder.iterdir()) == before


def test_what_fails_before_training_leaves_all_as_it_was(make_recipe, tones, manifest_of, tmp_path):
    out = tmp_path / "run"
    one_label = manifest_of(lambda row: row if row["label"] == "low" else None)
    with pytest.raises(ManifestError, match="only the label 'low'; at least two"):
        train_run(make_recipe(), one_label, out)
    assert not out.exists()
    train_run(make_recipe(HEAD_ONLY), tones, out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    absent = manifest_of(
        lambda row: row | {"path": row["path"].replace("low-", "absent-")}, "absent.csv"
    )
    for recipe, manifest, kind in (
        (make_recipe(), one_label, ManifestError),
        (make_recipe(), absent, AudioError),
        (make_recipe("model.backbone=nonsense"), tones, BackboneError),
    ):
        with pytest.raises(kind):
            train_run(recipe, manifest, out, Options(overwrite=True))
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_overwrite_replaces_a_run_that_was_cut_off(make_recipe, tones, tmp_path):
    def stop(what, done, total):
        if what.startswith("head"):
            raise KeyboardInterrupt

    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train_run(make_recipe(), tones, out, progress=stop)
    assert not (out / "model").exists()
    train_run(make_recipe(HEAD_ONLY), tones, out, Options(overwrite=True))
    assert load_model(out).labels == ["high", "low", "noise"]


def test_splits_that_were_made_up_are_written_and_reused(make_recipe, manifest_of, tmp_path):
    manifest = manifest_of(no_split)
    recipe = make_recipe(HEAD_ONLY, "data.test_share=0.3", "data.devel_share=0.2")
    first, second = tmp_path / "first", tmp_path / "second"
    train_run(recipe, manifest, first)
    made = split_of(first)
    assert sorted(made) == sorted(load_manifest(manifest)["path"])
    # 30 recordings, 10 of each of three classes.
    assert pd.Series(made).value_counts().to_dict() == {"train": 15, "devel": 6, "test": 9}
    train_run(make_recipe(HEAD_ONLY, "train.seed=9"), first / "manifest.csv", second)
    assert split_of(second) == made
    report, where = evaluate_run(first, first / "manifest.csv", "test", n_resamples=100)
    assert report["files"]["n"] == 9
    predicted = pd.read_csv(where / "predictions.csv")["path"]
    assert {made[path] for path in predicted} == {"test"}


def test_devel_is_carved_from_train_where_it_is_missing(make_recipe, manifest_of, tones, tmp_path):
    manifest = manifest_of(lambda row: row if row["split"] != "devel" else None)
    train_run(make_recipe(HEAD_ONLY), manifest, tmp_path / "run")
    made = split_of(tmp_path / "run")
    given = load_manifest(manifest).set_index("path")["split"]
    moved = [path for path in made if made[path] != given[path]]
    assert {(given[path], made[path]) for path in moved} == {("train", "devel")}
    # A fifth of the 5 of each class.
    labels = load_manifest(manifest).set_index("path")["label"]
    assert sorted(labels[moved]) == ["high", "low", "noise"]


def test_skip_bad(make_recipe, manifest_of, tmp_path):
    (tmp_path / "text.wav").write_text("not audio at all")
    (tmp_path / "empty.wav").write_bytes(b"")

    def spoil(row):
        bad = {"low-train-1.wav": "text.wav", "noise-test-0.wav": "empty.wav"}
        name = Path(row["path"]).name
        return row | {"path": str(tmp_path / bad[name])} if name in bad else row

    manifest, out = manifest_of(spoil), tmp_path / "run"
    with pytest.raises(AudioError, match=r"text\.wav: .*--skip-bad"):
        train_run(make_recipe(HEAD_ONLY), manifest, out)
    train_run(make_recipe(HEAD_ONLY), manifest, out, Options(skip_bad=True))
    skipped = pd.read_csv(out / "skipped.csv")
    assert [Path(path).name for path in skipped["path"]] == ["text.wav", "empty.wav"]
    assert "0 bytes" in skipped["reason"][1]
    assert len(split_of(out)) == 28
    assert not {"text.wav", "empty.wav"} & {Path(path).name for path in split_of(out)}
    report, where = evaluate_run(out, manifest, "test", Options(skip_bad=True), n_resamples=100)
    assert (report["skipped"], report["files"]["n"]) == (1, 8)
    assert pd.read_csv(where / "skipped.csv")["path"].tolist() == [str(tmp_path / "empty.wav")]
    # The list of an earlier evaluation does not stay behind.
    evaluate_run(out, out / "manifest.csv", "test", n_resamples=100)
    assert not (where / "skipped.csv").exists()


def test_a_label_in_test_only_is_refused(make_recipe, manifest_of, tmp_path):
    manifest = manifest_of(
        lambda row: row | {"label": "new"} if row["path"].endswith("low-test-0.wav") else row
    )
    with pytest.raises(ManifestError, match="label 'new' is in test but not in train"):
        train_run(make_recipe(), manifest, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_plan_says_what_was_asked_for(make_recipe, tones, tmp_path):
    recipe, out = make_recipe(HEAD_ONLY, "train.seed=7"), tmp_path / "run"
    train_run(recipe, tones, out)
    plan = read_json(out / "run.json")
    assert parse_recipe(plan["recipe"]) == recipe
    assert plan["labels"] == ["high", "low", "noise"]
    assert (plan["format"], plan["skipped"], plan["drew_splits"]) == (1, 0, False)


@pytest.mark.parametrize(
    ("output", "labels", "names"),
    [
        ("linear", {"low": "1.5", "high": "3", "noise": "2"}, ["label"]),
        ("ordinal", {"low": "1", "high": "3", "noise": "2"}, ["1", "2", "3"]),
        ("sigmoid", {"low": "a;b", "high": "b", "noise": ""}, ["a", "b"]),
    ],
)
def test_other_outputs_are_trained_and_evaluated(
    make_recipe, manifest_of, tmp_path, output, labels, names
):
    # One that differs, or nothing is wrong and numbers have too few values.
    def change(row):
        number = int(row["path"][-5])
        value = labels[row["label"]]
        return row | {"label": f"{float(value) + number / 10}" if output == "linear" else value}

    manifest, out = manifest_of(change), tmp_path / "run"
    train_run(make_recipe(f"model.output={output}"), manifest, out)
    model = load_model(out)
    assert model.labels == names
    assert sorted(path.name for path in out.iterdir()) == [
        "curves.png",
        "history.jsonl",
        "manifest.csv",
        "model",
        "run.json",
    ]
    report, where = evaluate_run(out, None, "devel", n_resamples=100)
    main = {"linear": "ccc", "ordinal": "ccc", "sigmoid": "map"}[output]
    history = [json.loads(line) for line in (out / "history.jsonl").open()]
    kept = [record for record in history if record["best"]][-1]
    # With its bootstrap interval; the value by which training chose this model.
    assert report["files"][main]["value"] == pytest.approx(kept[f"devel_{main}"], abs=1e-6)
    assert (where / "numbers.png").exists() == (output != "sigmoid")
    if output == "sigmoid":
        assert model.thresholds.tolist() != [0.5, 0.5]


def test_tensorboard_on_request(make_recipe, tones, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    told = []
    recipe = make_recipe("train.tensorboard=true")
    train_run(recipe, tones, tmp_path / "run", on_epoch=told.append)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    floats = {name for name, value in told[0].items() if isinstance(value, float)}
    assert {"train_loss", "devel_uar", "learning_rate"} <= floats
    assert set(events.Tags()["scalars"]) == floats
    for name in floats:
        found = events.Scalars(name)
        assert [event.step for event in found] == [1, 2]
        assert [event.value for event in found] == pytest.approx([r[name] for r in told], rel=1e-6)


@pytest.fixture(scope="module")
def evaluated(trained, tones, tmp_path_factory):
    """All tones, train and devel too, so that there is something to be right and wrong about."""
    folder = tmp_path_factory.mktemp("evaluated")
    table = load_manifest(tones)
    rng = np.random.default_rng(0)
    wrong = rng.permutation(len(table))[:6]
    # Some labels that are wrong, so that the scores are not 1.
    table.loc[wrong, "label"] = np.roll(table["label"].to_numpy(), 7)[wrong]
    table["group"] = [f"speaker {i % 7}" if i % 10 else "" for i in range(len(table))]
    table.drop(columns="split").to_csv(folder / "all.csv", index=False)
    report, where = evaluate_run(trained, folder / "all.csv", "all", out=folder / "out")
    return report, where, table


def check_metrics(block, truth, predicted, labels):
    truth, predicted = list(truth), list(predicted)
    recall = recall_score(truth, predicted, labels=labels, average=None)
    assert block["uar"]["value"] == pytest.approx(recall.mean())
    assert block["accuracy"]["value"] == pytest.approx(accuracy_score(truth, predicted))
    f1 = f1_score(truth, predicted, labels=labels, average="macro")
    assert block["macro_f1"]["value"] == pytest.approx(f1)
    found = [block["recall"][label]["value"] for label in labels]
    assert found == pytest.approx(recall.tolist())


def test_scores_are_those_of_scikit_learn(evaluated):
    report, where, given = evaluated
    assert read_json(where / "scores.json") == report
    labels = ["high", "low", "noise"]
    table = pd.read_csv(where / "predictions.csv", keep_default_na=False)
    # Without a split column, all of the manifest is the split.
    assert table["path"].tolist() == given["path"].tolist()
    for column in ("label", "group"):
        assert table[column].tolist() == given[column].tolist()
    scores = table[[f"score_{label}" for label in labels]].to_numpy()
    assert scores.sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert table["predicted"].tolist() == [labels[i] for i in scores.argmax(axis=1)]
    files = report["files"]
    assert files["n"] == 30
    check_metrics(files, table["label"], table["predicted"], labels)
    matrix = confusion_matrix(table["label"], table["predicted"], labels=labels)
    assert files["confusion"] == matrix.tolist()
    assert 0.3 < files["uar"]["low"] < files["uar"]["value"] < files["uar"]["high"] < 1
    assert (where / "confusion.png").read_bytes()[:4] == PNG
    assert (report["split"], report["skipped"], report["files_without_a_segment"]) == ("all", 0, 0)


def test_scores_per_segment(evaluated, trained):
    report, where, given = evaluated
    model = load_model(trained)
    truth, predicted, by_file = [], [], []
    for path, label in zip(given["path"], given["label"], strict=True):
        segments = cut_segments(load_audio(Path(path), 8000), model.recipe.data)
        scores = model(torch.from_numpy(segments)).detach().numpy()
        by_file.append(scores.mean(axis=0))
        truth += [label] * len(scores)
        predicted += [model.labels[i] for i in scores.argmax(axis=1)]
    assert report["segments"]["n"] == len(truth) == 60
    check_metrics(report["segments"], truth, predicted, model.labels)
    table = pd.read_csv(where / "predictions.csv")
    columns = [f"score_{label}" for label in model.labels]
    np.testing.assert_allclose(table[columns], by_file, atol=1e-5)


def test_scores_by_group(evaluated):
    report, _, given = evaluated
    by_group = report["files"]["by_group"]
    # A recording without a group stands for itself.
    alone = (given["group"] == "").sum()
    assert by_group["n_groups"] == 7 + alone
    assert "warning" not in by_group
    assert by_group["uar"]["value"] == report["files"]["uar"]["value"]
    assert by_group["uar"]["low"] != report["files"]["uar"]["low"]
    assert report["segments"]["by_group"]["n_groups"] == 7 + alone


def test_few_groups_are_warned_about(trained, tones, manifest_of, tmp_path):
    manifest = manifest_of(lambda row: row | {"group": row["path"][-5]})
    report, _ = evaluate_run(trained, manifest, "test", out=tmp_path / "few", n_resamples=100)
    assert report["files"]["by_group"]["n_groups"] == 3
    assert "only 3 groups" in report["files"]["by_group"]["warning"]
    report, _ = evaluate_run(trained, tones, "test", out=tmp_path / "none", n_resamples=100)
    assert "by_group" not in report["files"]


def test_only_the_split_is_evaluated(trained, tones, tmp_path):
    report, where = evaluate_run(trained, tones, "devel", out=tmp_path / "out", n_resamples=100)
    assert report["files"]["n"] == 6
    names = [Path(path).name for path in pd.read_csv(where / "predictions.csv")["path"]]
    assert all("-devel-" in name for name in names)
    # The UAR by which training chose this model.
    history = [json.loads(line) for line in (trained / "history.jsonl").open()]
    assert report["files"]["uar"]["value"] == max(record["devel_uar"] for record in history)


def test_recordings_that_were_trained_on_are_counted(trained, tones, manifest_of, tmp_path):
    report, _ = evaluate_run(trained, None, "test", out=tmp_path / "test", n_resamples=100)
    assert report["seen_in_training"] == 0
    report, _ = evaluate_run(
        trained, manifest_of(no_split), "all", out=tmp_path / "all", n_resamples=100
    )
    table = pd.read_csv(tones)
    assert report["files"]["n"] == len(table)
    assert report["seen_in_training"] == (table["split"] == "train").sum()


def test_evaluate_refuses(trained, tones, manifest_of, tmp_path):
    with pytest.raises(ManifestError, match="no recording in tset, only in devel, test, train"):
        evaluate_run(trained, tones, "tset", out=tmp_path / "out")
    strange = manifest_of(lambda row: no_split(row) | {"label": row["label"].upper()})
    with pytest.raises(ManifestError, match=r"label 'HIGH' is unknown.*high, low, noise"):
        evaluate_run(trained, strange, "all", out=tmp_path / "out")
    with pytest.raises(ManifestError, match=r"no column split.*manifest.csv, which holds the sp"):
        evaluate_run(trained, manifest_of(no_split), "test", out=tmp_path / "out")
    with pytest.raises(ModelError, match="no model there"):
        evaluate_run(tmp_path, tones, "test", out=tmp_path / "out")
    assert not (tmp_path / "out" / "scores.json").exists()


def test_files_that_are_too_short_are_counted(make_recipe, tones, tone, tmp_path, save_manifest):
    recipe = make_recipe(HEAD_ONLY, "data.tail=drop")
    train_run(recipe, tones, tmp_path / "run")
    rows = []
    for seconds in (0.3, 0.5, 1.3):
        path = tmp_path / f"{seconds}.wav"
        soundfile.write(path, tone("low", 1, seconds), 8000)
        rows.append({"path": path, "label": "low"})
    manifest = save_manifest(tmp_path / "short.csv", rows)
    report, where = evaluate_run(tmp_path / "run", manifest, "all", n_resamples=100)
    assert where == tmp_path / "run" / "all"
    assert report["files_without_a_segment"] == 1
    assert (report["files"]["n"], report["segments"]["n"]) == (2, 3)
    kept = pd.read_csv(where / "predictions.csv")["path"].tolist()
    assert kept == [str(rows[1]["path"]), str(rows[2]["path"])]


def test_two_complete_runs_are_the_same(make_recipe, tones, tmp_path):
    written = []
    for name in ("first", "second"):
        train_run(make_recipe(), tones, tmp_path / name)
        _, where = evaluate_run(tmp_path / name, tones, "test")
        files = ("scores.json", "predictions.csv", "confusion.png")
        found = [(where / file).read_bytes() for file in files]
        found += [(tmp_path / name / "manifest.csv").read_bytes()]
        written.append((found, load_file(tmp_path / name / "model" / "model.safetensors")))
    (files, weights), (same_files, same_weights) = written
    assert files == same_files
    assert weights.keys() == same_weights.keys()
    assert all(torch.equal(weights[key], same_weights[key]) for key in weights)


@pytest.mark.parametrize("name", ["quantum", "cuda:99", "meta", ""])
def test_a_device_that_is_not_there(name, make_recipe, tones, tmp_path):
    with pytest.raises(TrainingError, match=f"--device {name}: .*allowed: auto, cpu"):
        train_run(make_recipe(), tones, tmp_path / "run", Options(device=name))
    assert not (tmp_path / "run").exists()


def test_devices_by_name():
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type in ("cpu", "cuda", "mps")


def test_what_cannot_be_trained_leaves_nothing_behind(make_recipe, tones, tmp_path):
    wrong = make_recipe("augment.noise_share=0.5", f"augment.noise_folder={tmp_path / 'nowhere'}")
    with pytest.raises(TrainingError, match=r"noise_folder .* no such folder"):
        train_run(wrong, tones, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_folders_of_a_run_are_absolute(make_recipe, tones, tmp_path, monkeypatch):
    (tmp_path / "noises").mkdir()
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 8000)
    soundfile.write(tmp_path / "noises" / "a.wav", noise, 8000)
    monkeypatch.chdir(tmp_path)
    recipe = make_recipe("augment.noise_share=0.5", "augment.noise_folder=noises", "train.epochs=0")
    train_run(recipe, tones, tmp_path / "run")
    plan = json.loads((tmp_path / "run" / "run.json").read_text())
    assert plan["recipe"]["augment"]["noise_folder"] == str(tmp_path / "noises")
    assert plan["recipe"]["augment"]["reverb_folder"] == "none"


def test_a_run_goes_on_with_the_segments_that_it_began_with(make_recipe, tmp_path, save_manifest):
    # At a rate and with spans that no decimal number holds exactly.
    rng, rows = np.random.default_rng(0), []
    for i in range(6):
        path = tmp_path / f"{i}.wav"
        soundfile.write(path, rng.uniform(-0.5, 0.5, 11025 * 2 + 7 * i), 11025)
        rows.append({"path": path.name, "label": "ab"[i % 2], "split": "train", "start": i / 7})
    recipe = make_recipe("data.segment_seconds=0.3", "data.hop_seconds=0.1")
    table = load_manifest(save_manifest(tmp_path / "list.csv", rows))
    scanned, _ = scan(table, recipe.data)
    write_manifest(scanned, tmp_path / "manifest.csv")
    target = np.zeros((6, 2), np.float32)
    again = read_scanned(tmp_path / "manifest.csv", recipe)
    one, other = (Segments(rows, recipe.data, target) for rows in (scanned, again))
    assert len(one) == len(other) > 60
    for i in range(len(one)):
        np.testing.assert_array_equal(one[i][0], other[i][0])

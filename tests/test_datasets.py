"""Readers of open corpora on small made-up trees; and from the tree of every corpus to scores."""

import builtins
import json
import re
import sys
from pathlib import Path

import numpy as np
import open_trees
import pandas as pd
import paper_trees
import pytest
import soundfile
import typer
from typer.testing import CliRunner

from deepspectrumlite.cli_corpus import manifest as manifest_command
from deepspectrumlite.config import DataSection, load_recipe, shipped_recipes
from deepspectrumlite.datasets.layout import corpus_notes
from deepspectrumlite.datasets.read import read_corpus, write_corpus
from deepspectrumlite.errors import ManifestError, MissingExtraError
from deepspectrumlite.targets import load_labelled

TREES = {**open_trees.TREES, **paper_trees.TREES}
# What makes any recipe train within seconds; how segments are cut stays as it is.
TINY = (
    "data.sample_rate=8000",
    "frontend.n_mels=32",
    "frontend.image_height=32",
    "frontend.image_width=32",
    "model.backbone=lcnet_035",
    "model.weights=random",
    "model.units=8",
    "train.batch_size=4",
    "train.head_epochs=1",
    "train.workers=0",
)
PACKAGES = {"audformat": "audformat", "hugging_face": "datasets"}


def recipe_for(corpus):
    return "default" if corpus == "folders" else corpus


def tiny(recipe):
    """Overrides of a recipe; what has no fine-tuning gets none."""
    epochs = min(1, load_recipe(recipe).train.epochs)
    return [x for s in (*TINY, f"train.epochs={epochs}") for x in ("--set", s)]


@pytest.fixture
def tree(tmp_path):
    """The function ``name -> folder`` that makes the tree of a corpus."""

    def make(name, **options):
        if name in PACKAGES:
            pytest.importorskip(PACKAGES[name])
        folder = tmp_path / name
        folder.mkdir()
        TREES[name](folder, **options)
        return folder

    return make


def read(folder, corpus, *changes):
    """The checked table of a corpus, by the path below its folder."""
    data = load_recipe(recipe_for(corpus), changes).data
    table = load_labelled(folder, data, "softmax")
    assert all(Path(path).is_absolute() and Path(path).is_file() for path in table["path"])
    return table


def row(table, name):
    """The only row of a recording."""
    found = table[[Path(path).name == name for path in table["path"]]]
    assert len(found) == 1
    return found.iloc[0].to_dict()


def refused(folder, corpus, message, *changes):
    """The reader refuses the folder in one line that holds a message."""
    with pytest.raises(ManifestError, match=re.escape(message)) as caught:
        read(folder, corpus, *changes)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_every_corpus_of_the_recipe_has_a_reader_a_recipe_and_a_tree():
    corpora = set(DataSection.model_fields["corpus"].annotation.__args__)
    package = Path(sys.modules["deepspectrumlite"].__file__).parent / "datasets"
    modules = {path.stem for path in package.glob("*.py")}
    assert set(TREES) == corpora
    assert corpora - {"folders"} <= modules
    for corpus in corpora:
        assert recipe_for(corpus) in shipped_recipes()
        assert load_recipe(recipe_for(corpus)).data.corpus == corpus


@pytest.mark.parametrize("corpus", sorted(TREES))
def test_a_folder_that_is_not_the_corpus_is_refused(corpus, tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(ManifestError, match=re.escape(str(tmp_path))) as caught:
        read_corpus(tmp_path, DataSection(corpus=corpus))
    assert "\n" not in str(caught.value)
    with pytest.raises(ManifestError, match=re.escape(str(tmp_path / "none"))):
        read_corpus(tmp_path / "none", DataSection(corpus=corpus))


def test_a_file_is_a_manifest_whatever_the_corpus(tones):
    plain = load_labelled(tones, DataSection(), "softmax")
    pd.testing.assert_frame_equal(
        load_labelled(tones, DataSection(corpus="esc50"), "softmax"), plain
    )


def test_what_a_reader_gives_is_checked_as_a_manifest_is(tree):
    folder = tree("esc50")
    listed = folder / "meta" / "esc50.csv"
    lines = listed.read_text().splitlines()
    listed.write_text("\n".join([*lines, lines[3]]))
    # Counted as in the CSV that `manifest` writes.
    refused(folder, "esc50", "row 32: path is")
    refused(folder, "esc50", "no column loudness, only path, label,", "data.target=loudness")


def test_esc50_has_folds_and_sources(tree):
    folder = tree("esc50")
    table = read(folder, "esc50")
    assert len(table) == 30
    assert table["label"].value_counts().to_dict() == {"dog": 15, "chirping_birds": 15}
    assert "split" not in table
    assert sorted(table["fold"].unique()) == ["1", "2", "3", "4", "5"]
    assert (table.groupby("group")["fold"].nunique() == 1).all()
    found = row(table, "3-3141-B-14.wav")
    assert found["path"] == str(folder / "audio" / "3-3141-B-14.wav")
    expected = {"label": "chirping_birds", "group": "3141", "fold": "3", "take": "B"}
    assert found.items() >= (expected | {"esc10": "False", "target": "14"}).items()


def test_esc50_refuses_what_is_not_whole(tree):
    folder = tree("esc50")
    for name in ("1-1001-A-0.wav", "2-2001-A-0.wav"):
        (folder / "audio" / name).unlink()
    refused(folder, "esc50", "1-1001-A-0.wav and 1 more listed by meta/esc50.csv, but not there")
    (folder / "meta" / "esc50.csv").write_text("filename,fold\n")
    refused(folder, "esc50", "no column target, only filename, fold")
    (folder / "meta" / "esc50.csv").unlink()
    refused(folder, "esc50", "not laid out as ESC-50: no meta/esc50.csv in it")


def test_speech_commands_has_the_official_lists(tree):
    table = read(tree("speech_commands"), "speech_commands")
    assert table["label"].value_counts().to_dict() == {"yes": 10, "go": 10, "bed": 10}
    # Only the lists say so: the names of these two speakers are like the others.
    splits = {"00000004": "devel", "00000005": "test"}
    assert (table["split"] == table["group"].map(splits).fillna("train")).all()
    assert table["split"].value_counts().to_dict() == {"train": 18, "devel": 6, "test": 6}
    assert not table["path"].str.contains("_background_noise_").any()
    assert dict(zip(table["label"], table["command"], strict=True)) == {
        "yes": "yes",
        "go": "go",
        "bed": "unknown",
    }


def test_speech_commands_as_twelve_classes_has_seconds_of_silence(tree):
    table = read(tree("speech_commands"), "speech_commands", "data.target=command")
    silence = table[table["command"] == "silence"]
    # Two whole seconds of each of three recordings of 2.5 s.
    assert silence[["start", "end"]].to_numpy().tolist() == [[0, 1], [1, 2]] * 3
    assert dict(zip(silence["group"], silence["split"], strict=True)) == {
        "exercise_bike": "devel",
        "running_tap": "test",
        "white_noise": "train",
    }
    words = table[table["command"] != "silence"]
    assert len(words) == 30
    assert (words["start"] == 0).all()
    assert words["end"].isna().all()


def test_speech_commands_as_twelve_classes_trains_and_evaluates(tree, tmp_path, run, one_thread):
    folder, out = tree("speech_commands"), tmp_path / "run"
    changes = [*tiny("speech_commands"), "--set", "data.target=command"]
    code, _, err = run("train", "speech_commands", "--data", folder, "--out", out, *changes)
    assert code == 0, err
    labels = ["go", "silence", "unknown", "yes"]
    assert json.loads((out / "model" / "labels.json").read_text()) == labels
    code, _, err = run("evaluate", out)
    assert code == 0, err
    predictions = pd.read_csv(out / "test" / "predictions.csv")
    # Six words, and two seconds of the one noise that is for the test.
    assert len(predictions) == 8
    assert predictions["path"].str.contains("running_tap").sum() == 2
    assert sorted(set(predictions["command"])) == labels


def test_no_text_recommends_noise_that_is_also_tested():
    """With data.target = command, seconds of _background_noise_ are devel and test."""
    package = Path(sys.modules["deepspectrumlite"].__file__).parent
    recipe = (package / "recipes" / "speech_commands.toml").read_text(encoding="utf-8")
    page = (package.parent / "docs" / "datasets.md").read_text(encoding="utf-8")
    for text in (recipe, page):
        about = " ".join(text.replace("#", " ").split())
        assert "noise_folder" in about
        assert re.search(r"[Nn]ot with `?data.target=command", about)


def test_speech_commands_refuses_what_is_not_whole(tree):
    folder = tree("speech_commands")
    (folder / "yes" / "00000005_nohash_0.wav").unlink()
    refused(folder, "speech_commands", "yes/00000005_nohash_0.wav listed by validation_list.txt")
    (folder / "testing_list.txt").unlink()
    refused(folder, "speech_commands", "no testing_list.txt in it")


def test_emodb_reads_the_letters_of_german_words(tree):
    folder = tree("emodb")
    table = read(folder, "emodb")
    assert table["label"].value_counts().to_dict() == {"anger": 8, "neutral": 8}
    assert table["group"].value_counts().to_dict() == dict.fromkeys(open_trees.EMODB_SPEAKERS, 4)
    found = row(table, "08b10Wb.wav")
    expected = {"label": "anger", "group": "08", "gender": "female", "text": "b10", "version": "b"}
    assert found.items() >= expected.items()
    # The folder with the recordings will do.
    pd.testing.assert_frame_equal(read(folder / "wav", "emodb"), table)


@pytest.mark.parametrize(
    ("letter", "emotion"),
    [
        ("W", "anger"),
        ("L", "boredom"),
        ("E", "disgust"),
        ("A", "fear"),
        ("F", "happiness"),
        ("T", "sadness"),
        ("N", "neutral"),
    ],
)
def test_emodb_knows_seven_emotions(tmp_path, letter, emotion):
    open_trees.save(tmp_path / "wav" / f"03a01{letter}a.WAV", seed=0)
    assert read(tmp_path, "emodb")["label"].tolist() == [emotion]


@pytest.mark.parametrize("name", ["03a01Xa.wav", "01a01Fa.wav", "happy.wav", "03a01Fa-copy.wav"])
def test_emodb_refuses_other_names(tree, name):
    folder = tree("emodb")
    open_trees.save(folder / "wav" / name, seed=0)
    refused(folder, "emodb", f"the name {name}")


def test_cremad_has_actors_and_what_is_known_of_them(tree):
    folder = tree("cremad")
    table = read(folder, "cremad")
    assert table["label"].value_counts().to_dict() == {"anger": 8, "sadness": 8}
    assert table["group"].value_counts().to_dict() == dict.fromkeys(open_trees.CREMAD_ACTORS, 4)
    assert "split" not in table
    told = {"sex": "Female", "age": "21", "race": "African American", "ethnicity": "Not Hispanic"}
    assert row(table, "1002_IEO_SAD_HI.wav").items() >= (told | {"sentence": "IEO"}).items()
    assert row(table, "1076_ITH_ANG_XX.wav")["sex"] == ""
    # The name that lacks an X, and the silent recording, which is there but left out.
    assert row(table, "1040_ITH_SAD_X.wav")["level"] == "XX"
    assert (folder / "AudioWAV" / "1076_MTI_SAD_XX.wav").is_file()
    assert not table["path"].str.contains("1076_MTI_SAD").any()
    assert table.attrs["left_out"] == {"silent": 1}
    (folder / "VideoDemographics.csv").unlink()
    assert "sex" not in read(folder, "cremad")


def test_cremad_refuses_other_names_and_pointers(tree):
    folder = tree("cremad")
    open_trees.save(folder / "AudioWAV" / "1001_ITH_JOY_XX.wav", seed=0)
    refused(folder, "cremad", "the name 1001_ITH_JOY_XX.wav")
    first = folder / "AudioWAV" / "1001_IEO_ANG_HI.wav"
    first.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    refused(folder, "cremad", "a pointer of git-lfs, not sound")


def test_audformat_reads_the_tables_that_tell_a_split(tree):
    table = read(tree("audformat"), "audformat")
    # Not the table "emotion" of whole files, which says anger of all.
    assert table["split"].value_counts().to_dict() == {"train": 6, "devel": 4, "test": 4}
    assert table["emotion"].value_counts().to_dict() == {"anger": 7, "neutral": 7}
    assert table["start"].tolist() == [0, 0.5] * 7
    assert np.array_equal(table["end"], [0.5, np.nan] * 7, equal_nan=True)
    # From the table of whole files.
    groups = dict(zip(table["split"], table["group"], strict=True))
    assert groups == {"train": "1", "devel": "2", "test": "3"}


def test_audformat_leaves_out_rows_without_a_number(tree):
    folder = tree("audformat")
    data = load_recipe("audformat", ["data.target=arousal"]).data
    table = load_labelled(folder, data, "linear")
    # The second file of each split, in two parts.
    assert table.attrs["left_out"] == {"no target": 14 - len(table)}
    assert table["arousal"].tolist() == ["0.25", "0.75"] * 2 + ["0.25", "0.75", "0.5", "1.0"]
    refused(folder, "audformat", "files/speaker", "data.target=valence")


def test_audformat_asks_which_of_several_tables(tree):
    folder = tree("audformat", families=("emotion", "desired"))
    choices = (
        '"desired.categories.gold_standard/emotion", "emotion.categories.gold_standard/emotion"'
    )
    refused(folder, "audformat", f"emotion is in several tables; allowed as data.target: {choices}")
    chosen = "desired.categories.gold_standard/emotion"
    table = read(folder, "audformat", f"data.target={chosen}")
    assert len(table) == 14
    assert (table[chosen] == table["emotion"]).all()


def test_audformat_without_splits_reads_whole_files(tree):
    import audformat

    folder = tree("audformat")
    database = audformat.Database.load(str(folder))
    for name in [name for name in database.tables if name.endswith("gold_standard")]:
        database.drop_tables(name)
        (folder / f"db.{name}.parquet").unlink()
    database.save(str(folder))
    table = read(folder, "audformat")
    assert "split" not in table
    assert "start" not in table
    assert len(table) == 7
    (folder / "wav" / "test-1.wav").unlink()
    refused(folder, "audformat", "wav/test-1.wav listed by its tables, but not there")


def test_hugging_face_writes_recordings_out_once(tree, tmp_path):
    folder = tree("hugging_face")
    table = read(folder, "hugging_face")
    assert table["split"].value_counts().to_dict() == {"train": 6, "devel": 4, "test": 4}
    assert table["label"].tolist() == ["no", "yes"] * 7
    groups = dict(zip(table["split"], table["group"], strict=True))
    assert groups == {"train": "0", "devel": "1", "test": "2"}
    assert "embedding" not in table
    beside = tmp_path / "hugging_face-audio"
    assert {Path(path).parent for path in table["path"]} == {beside}
    written = {path: path.stat().st_mtime_ns for path in beside.iterdir()}
    assert sorted(map(str, written)) == sorted(table["path"])
    for i, path in enumerate(table["path"][:6]):
        sound = soundfile.read(path, dtype="float32")[0]
        expected = open_trees.sound(i, 8000, pitch=300 + 600 * (i % 2))
        np.testing.assert_allclose(sound, expected, atol=1e-4)
    pd.testing.assert_frame_equal(read(folder, "hugging_face"), table)
    assert {path: path.stat().st_mtime_ns for path in beside.iterdir()} == written


def test_hugging_face_made_anew_finds_no_recording_of_before(tmp_path):
    datasets = pytest.importorskip("datasets")
    whole = open_trees.hugging_face_splits()["train"]
    paths = []
    for part in (whole, whole.select([1, 0, 2])):
        part.save_to_disk(str(tmp_path / f"{len(paths)}" / "data"))
        (tmp_path / "data").unlink(missing_ok=True)
        (tmp_path / "data").symlink_to(tmp_path / f"{len(paths)}" / "data")
        paths.append(read(tmp_path / "data", "hugging_face")["path"])
    assert paths[0][0] != paths[1][0]
    assert Path(paths[0][1]).read_bytes() == Path(paths[1][0]).read_bytes()
    assert datasets.load_from_disk(str(tmp_path / "data")).num_rows == 3


def test_hugging_face_parquet_is_read_as_it_is_on_the_hub(tmp_path):
    pytest.importorskip("datasets")
    folder = tmp_path / "hub"
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text("# A data set\n")
    for split, part in open_trees.hugging_face_splits().items():
        part.to_parquet(str(folder / "data" / f"{split}-00000-of-00001.parquet"))
    table = read(folder, "hugging_face")
    assert table["split"].value_counts().to_dict() == {"train": 6, "devel": 4, "test": 4}
    assert table["label"].tolist() == ["no", "yes"] * 7
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "data"]


def test_hugging_face_with_paths_hidden_labels_and_one_split(tmp_path):
    datasets = pytest.importorskip("datasets")
    outside = [open_trees.save(tmp_path / f"{i}.wav", seed=i) for i in range(4)]
    features = datasets.Features(
        {
            "sound": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")},
            "label": datasets.ClassLabel(names=["no", "yes"]),
        }
    )
    rows = {
        "sound": [{"bytes": None, "path": str(path)} for path in outside],
        "label": [0, 1, -1, 0],
    }
    part = datasets.Dataset.from_dict(rows, features=features)
    part = part.cast_column("sound", datasets.Audio())
    folder = tmp_path / "data"
    folder.mkdir()
    part.to_parquet(str(folder / "train.parquet"))
    table = read(folder, "hugging_face")
    assert table["path"].tolist() == [str(outside[i]) for i in (0, 1, 3)]
    assert table.attrs["left_out"] == {"no target": 1}
    assert "split" not in table
    outside[3].unlink()
    refused(folder, "hugging_face", "neither a recording in the data set nor a file")
    silent = part.remove_columns("sound")
    silent.to_parquet(str(folder / "train.parquet"))
    refused(folder, "hugging_face", "no column of type Audio, only label")


def test_hugging_face_joins_several_labels_and_refuses_other_splits(tmp_path):
    datasets = pytest.importorskip("datasets")
    parts = open_trees.hugging_face_splits()
    parts.save_to_disk(str(tmp_path / "data"))
    data = load_recipe("hugging_face", ["data.target=tags"]).data
    assert set(load_labelled(tmp_path / "data", data, "sigmoid")["tags"]) == {"clean", "loud;clean"}
    others = datasets.DatasetDict(train=parts["train"], extra=parts["test"])
    others.save_to_disk(str(tmp_path / "others"))
    refused(tmp_path / "others", "hugging_face", "the split 'extra'")


@pytest.mark.parametrize(("corpus", "package"), PACKAGES.items())
def test_a_missing_package_names_the_extra(tree, monkeypatch, corpus, package):
    folder = tree(corpus)
    found = builtins.__import__

    def refuse(name, *arguments, **options):
        if name.split(".")[0] == package:
            raise ModuleNotFoundError(name=package)
        return found(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingExtraError, match=re.escape(f"deepspectrumlite[{package}]")):
        read_corpus(folder, DataSection(corpus=corpus))


def test_audformat_says_in_a_line_what_cannot_be_read(tree):
    folder = tree("audformat")
    broken = folder / "db.emotion.categories.train.gold_standard.parquet"
    broken.write_bytes(b"not a table")
    refused(folder, "audformat", "table emotion.categories.train.gold_standard cannot be read")
    (folder / "db.yaml").write_text("name: [")
    refused(folder, "audformat", "db.yaml: cannot be read")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("corpus", ["audformat", "esc50", "folders", "hugging_face"])
def test_a_written_manifest_is_read_back_the_same(tree, tmp_path, corpus, suffix):
    folder = tree(corpus)
    data = load_recipe(recipe_for(corpus)).data
    out = tmp_path / "lists" / f"corpus{suffix}"
    write_corpus(folder, data, out)
    wanted, found = (load_labelled(source, data, "softmax") for source in (folder, out))
    columns = ["path", *data.targets, *({"split", "group", "start", "end"} & set(wanted))]
    pd.testing.assert_frame_equal(found[columns], wanted[columns])


def test_the_command_writes_a_manifest(tree, tmp_path):
    app = typer.Typer()
    app.command()(manifest_command)
    folder, out = tree("esc50"), tmp_path / "esc50.csv"
    found = CliRunner().invoke(app, [str(folder), "--recipe", "esc50", "--out", str(out)])
    assert found.exit_code == 0, found.output
    assert found.stdout.startswith(f"{out}: 30 recordings; columns ")
    assert len(pd.read_csv(out)) == 30
    other = CliRunner().invoke(app, [str(folder), "--recipe", "esc50", "--out", "esc50.xlsx"])
    assert isinstance(other.exception, ManifestError)
    assert "allowed: .csv, .parquet" in str(other.exception)
    # What was written may have been mended by hand since.
    again = [str(folder), "--recipe", "esc50", "--out", str(out)]
    assert "already there" in str(CliRunner().invoke(app, again).exception)
    assert CliRunner().invoke(app, [*again, "--overwrite"]).exit_code == 0


@pytest.mark.parametrize(
    ("corpus", "described"),
    [("cremad", 7441), ("emodb", 535), ("esc50", 2000), ("speech_commands", 105_829)],
)
def test_a_corpus_of_another_size_is_told(tree, corpus, described):
    table = read(tree(corpus), corpus)
    message = f"described as of {described} recordings, and {len(table)} were found"
    assert message in corpus_notes(table)[-1]


def test_the_commands_tell_what_is_left_out(tree, tmp_path, run):
    folder = tree("cremad")
    found = ["1 (silent)", "described as of 7441 recordings, and 16 were found"]
    listed = tmp_path / "cremad.parquet"
    commands = {
        "data": ["data", folder, "--recipe", "cremad"],
        "manifest": ["manifest", folder, "--recipe", "cremad", "--out", listed],
        "train": ["train", "cremad", "--data", folder, "--out", tmp_path / "run"],
    }
    for name, command in commands.items():
        code, _, err = run(*command, *(tiny("cremad") if name == "train" else ()))
        assert code == 0, err
        for text in found:
            assert sum(text in line for line in err) == 1, (name, err)
    # A list is what it is.
    code, _, err = run("data", listed, "--recipe", "cremad")
    assert code == 0
    assert not any(found[0] in line for line in err)


def test_extract_and_data_read_the_corpus_too(tree, tmp_path, run):
    folder = tree("esc50")
    code, out, err = run("data", folder, "--recipe", "esc50")
    assert code == 0, err
    assert "chirping_birds" in out
    features = tmp_path / "features.csv"
    settings = ["--features", "logmel", "--recipe", "esc50", "--set", "data.sample_rate=8000"]
    code, _, err = run("extract", folder, "--out", features, *settings)
    assert code == 0, err
    table = pd.read_csv(features, dtype=str)
    assert len(table) == 30
    assert set(table["fold"]) == set("12345")


@pytest.mark.parametrize("corpus", sorted(TREES))
def test_from_the_tree_of_a_corpus_to_scores(tree, tmp_path, run, corpus, one_thread):
    folder, out, recipe = tree(corpus), tmp_path / "run", recipe_for(corpus)
    given = load_labelled(folder, load_recipe(recipe).data, load_recipe(recipe).model.output)
    code, _, err = run("train", recipe, "--data", folder, "--out", out, *tiny(recipe))
    assert code == 0, err
    used = pd.read_csv(out / "manifest.csv", dtype=str, keep_default_na=False)
    assert len(used) == len(given)
    if "split" in given:
        assert used["split"].tolist() == given["split"].tolist()
    # The labels of some tests are hidden.
    split = "test" if "test" in set(used["split"]) else "devel"
    code, _, err = run("evaluate", out, "--split", split)
    assert code == 0, err
    report = json.loads((out / split / "scores.json").read_text())
    tested = used["split"] == split
    assert report["files"]["n"] == tested.sum() > 0
    assert len(pd.read_csv(out / split / "predictions.csv")) == tested.sum()
    target = load_recipe(recipe).data.targets[0]
    learned = sorted(set(given.loc[(used["split"] == "train").to_numpy(), target]))
    assert json.loads((out / "model" / "labels.json").read_text()) == learned
    if "split" in given:
        # From the folder instead of the run's own list: the model knows which corpus it is.
        again = tmp_path / "again"
        code, _, err = run("evaluate", out, folder, "--split", split, "--out", again)
        assert code == 0, err
        assert json.loads((again / "scores.json").read_text())["files"] == report["files"]


@pytest.mark.parametrize(
    ("corpus", "folds", "count"), [("esc50", "column:fold", 5), ("emodb", "groups", 4)]
)
def test_folds_of_a_corpus(tree, tmp_path, run, corpus, folds, count):
    out = tmp_path / "folds"
    settings = ["--recipe", corpus, "--set", "data.sample_rate=8000", "--system", "majority"]
    code, _, err = run("crossvalidate", tree(corpus), "--folds", folds, "--out", out, *settings)
    assert code == 0, err
    manifests = [pd.read_csv(path, dtype=str) for path in sorted((out / "folds").glob("*.csv"))]
    assert len(manifests) == count
    column = folds.partition(":")[2] or "group"
    tested = [set(table.loc[table["split"] == "test", column]) for table in manifests]
    assert [len(each) for each in tested] == [1] * count
    assert len(set().union(*tested)) == count
    report = json.loads((out / "majority" / "scores.json").read_text())
    assert report["files"]["n"] == len(manifests[0])

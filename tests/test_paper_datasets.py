"""The readers of the paper's tasks, on trees with the names and quirks of the real corpora."""

import re
from importlib import import_module
from pathlib import Path

import paper_trees
import pytest

from deepspectrumlite.backbones import create_backbone
from deepspectrumlite.config import DataSection, load_recipe
from deepspectrumlite.datasets.layout import corpus_notes
from deepspectrumlite.errors import ManifestError

# Files per split, classes, and speakers where the corpus tells them.
EXPECTED = {
    "ccs": ((4, 4, 4), ["negative", "positive"], 0),
    "css": ((4, 4, 4), ["negative", "positive"], 0),
    "demos": (
        (14, 14, 14),
        ["anger", "disgust", "fear", "guilt", "happiness", "sadness", "surprise"],
        3,
    ),
    "ess": ((6, 6, 0), ["high", "low", "medium"], 0),
    "iemocap": ((30, 10, 10), ["angry", "happy", "neutral", "sad"], 10),
    "mpssc": ((8, 8, 8), ["E", "O", "T", "V"], 0),
    "ravdess": ((12, 12, 12), ["angry", "calm", "fearful", "happy", "neutral", "sad"], 3),
    "sleep": ((4, 4, 0), ["not sleepy", "sleepy"], 0),
}
# The second table of the paper: units, dropout, rate, epochs of the head, epochs and layers of
# fine-tuning, seconds of a segment.
SETTINGS = {
    "ccs": (512, 0.25, 0.001, 40, 200, 298, 3.0),
    "css": (700, 0.4, 0.01, 20, 0, 0, "whole"),
    "demos": (512, 0.25, 0.001, 40, 120, 128, 3.0),
    "ess": (512, 0.25, 0.001, 40, 200, 298, 3.0),
    "iemocap": (512, 0.25, 0.001, 40, 200, 128, 4.0),
    "mpssc": (512, 0.25, 0.001, 40, 120, 85, 1.0),
    "ravdess": (128, 0.5, 0.001, 40, 80, 42, 4.0),
    "sleep": (512, 0.25, 0.001, 40, 80, 128, 4.0),
}
# The first table: samples, where the corpora are whole.
COUNTS = {
    "ccs": 725,
    "css": 893,
    "demos": 9365,
    "ess": 914,
    "iemocap": 5531,
    "mpssc": 828,
    "ravdess": 1012,
    "sleep": 16462,
}
# Of the trees, by reason; what is listed with a secret label counts as found.
LEFT_OUT = {
    "demos": {"neutral": 2},
    "ess": {"label kept secret": 6},
    "iemocap": {"emotion fru": 10, "emotion xxx": 10},
    "ravdess": {"no song": 2},
    "sleep": {"label kept secret": 4},
}


def read(name, folder):
    return import_module(f"deepspectrumlite.datasets.{name}").read(folder, DataSection())


@pytest.fixture
def tree(tmp_path):
    """Makes the tree of a corpus."""

    def make(name):
        paper_trees.TREES[name](tmp_path)
        return tmp_path

    return make


def refused(name, folder, message):
    with pytest.raises(ManifestError, match=re.escape(message)) as caught:
        read(name, folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def by_name(table):
    return table.assign(name=[Path(path).name for path in table["path"]]).set_index("name")


@pytest.mark.parametrize("name", EXPECTED)
def test_each_corpus_has_its_files_splits_classes_and_speakers(tree, name):
    table = read(name, tree(name))
    counts, labels, n_speakers = EXPECTED[name]
    for split, count in zip(paper_trees.SPLITS, counts, strict=True):
        part = table[table["split"] == split]
        assert len(part) == count
        # Two files of each class, so that it can be learned and judged.
        assert not count or part["label"].value_counts().reindex(labels, fill_value=0).min() >= 2
    assert sorted(set(table["label"])) == labels
    assert table["group"].replace("", None).nunique() == n_speakers
    assert list(table.index) == list(range(len(table)))
    assert all(Path(path).is_absolute() and Path(path).is_file() for path in table["path"])
    assert table["path"].is_unique
    assert {type(value) for value in table["path"]} == {str}
    # No speaker is in two splits.
    speakers = table[table["group"] != ""]
    assert (speakers.groupby("group")["split"].nunique() == 1).all()


@pytest.mark.parametrize("name", EXPECTED)
def test_a_folder_of_something_else_is_refused(tmp_path, name):
    (tmp_path / "notes.txt").write_text("not a corpus")
    message = refused(name, tmp_path, f"{tmp_path}: not laid out as ")
    assert "; allowed: " in message
    assert "; give the folder" in message


def test_hidden_labels_are_left_out_or_found_elsewhere(tree):
    folder = tree("ccs")
    table = by_name(read("ccs", folder))
    assert table.loc["test_001.wav", "label"] == "negative"
    assert table.loc["test_002.wav", "label"] == "positive"
    (folder / "metaData_CCS.csv").unlink()
    assert set(read("ccs", folder)["split"]) == {"train", "devel"}


def test_answers_never_replace_a_label(tree):
    folder = tree("ccs")
    lines = ["filename,label", "train_001.wav,positive", "test_001.wav,positive"]
    paper_trees.write_list(folder / "metaData_CCS.csv", lines)
    table = by_name(read("ccs", folder))
    assert table.loc["train_001.wav", "label"] == "negative"
    assert table.loc["test_001.wav", "label"] == "positive"
    # What has no answer stays hidden.
    assert "test_002.wav" not in table.index


@pytest.mark.parametrize("inside", ["", "ComParE2021_CCS", "ComParE2021_CCS/dist"])
def test_a_package_is_found_from_any_folder_around_it(tree, inside):
    folder = tree("ccs")
    assert len(read("ccs", folder / inside)) == 12


def test_labels_of_tasks_get_their_meaning(tree, tmp_path):
    ess = by_name(read("ess", tree("ess")))
    assert ess.loc[["train_001.wav", "train_002.wav", "train_003.wav"], "label"].tolist() == [
        "low",
        "medium",
        "high",
    ]
    (tmp_path / "sleep").mkdir()
    paper_trees.sleep(tmp_path / "sleep")
    sleep = read("sleep", tmp_path / "sleep")
    assert dict(zip(sleep["kss"], sleep["label"], strict=True)) == {
        **dict.fromkeys("1367", "not sleepy"),
        **dict.fromkeys("89", "sleepy"),
    }


@pytest.mark.parametrize(
    ("name", "label", "allowed"),
    [
        ("ccs", "unsure", "allowed: negative, positive;"),
        ("css", "", "allowed: negative, positive;"),
        ("ess", "3", "allowed: 0, 1, 2;"),
        ("mpssc", "v", "allowed: V, O, T, E;"),
        ("sleep", "10", "allowed: 1, 2, 3, 4, 5, 6, 7, 8, 9;"),
    ],
)
def test_a_label_that_the_task_does_not_have_is_refused(tree, name, label, allowed):
    folder = tree(name)
    lists = [p for p in folder.rglob("lab/*") if "train_0" in p.read_text(encoding="utf-8")]
    text = lists[0].read_text(encoding="utf-8")
    lists[0].write_text(re.sub(r"(train_\d+\.wav[,\t]).*", rf"\g<1>{label}", text, count=1))
    message = refused(name, folder, f"the corpus labels it {label!r}; {allowed}")
    assert re.match(r".*train_\d+\.(wav|WAV): ", message)


@pytest.mark.parametrize("name", ["ccs", "css", "ess", "iemocap", "mpssc", "sleep"])
def test_recordings_that_are_listed_but_missing_are_counted(tree, name):
    folder = tree(name)
    wavs = sorted(p for p in folder.rglob("*") if p.suffix.lower() == ".wav" and p.name[0] != ".")
    for path in wavs[:2]:
        path.unlink()
    listed = listed_name(wavs[0], name)
    message = refused(name, folder, "is listed but not there, and so are 1 more of")
    assert listed in message


def listed_name(path, name):
    """What the list of a corpus calls a recording."""
    return path.stem if name == "iemocap" else path.stem + ".wav"


def test_a_list_that_is_missing_or_without_its_columns_is_refused(tree):
    folder = tree("css")
    path = folder / "dist" / "lab" / "devel.csv"
    path.write_text("file,class\ndevel_001.wav,positive\n")
    refused("css", folder, "its columns are file, class; allowed: filename (or file_name)")
    path.write_text("label,filename\npositive,devel_001.wav\n")
    assert (read("css", folder)["split"] == "devel").sum() == 1
    path.write_text("")
    refused("css", folder, f"{path}: cannot be read (No columns to parse")
    path.unlink()
    refused("css", folder, f"{path}: cannot be read (")


@pytest.mark.parametrize("name", EXPECTED)
def test_what_is_left_out_is_counted_and_the_whole_is_compared(tree, name):
    table = read(name, tree(name))
    left_out = LEFT_OUT.get(name, {})
    assert table.attrs.get("left_out", {}) == left_out
    found = len(table) + left_out.get("label kept secret", 0)
    *first, last = corpus_notes(table)
    assert f"described as of {COUNTS[name]} recordings, and {found} were found" in last
    assert len(first) == bool(left_out)
    assert all(f"{n} ({reason})" in first[0] for reason, n in left_out.items())


def test_answers_that_contradict_each_other_are_refused(tree):
    folder = tree("ccs")
    answers = folder / "metaData_CCS.csv"
    twice = ["test_001.wav,negative", "test_002.wav,positive", "test_001.wav,negative"]
    paper_trees.write_list(answers, ["filename,label", *twice])
    # The same twice is no harm.
    assert (read("ccs", folder)["split"] == "test").sum() == 2
    paper_trees.write_list(answers, ["filename,label", *twice, "test_002.wav,negative"])
    refused("ccs", folder, f"{answers}: test_002.wav is labelled 'positive' and 'negative'")


def test_a_recording_of_no_split_is_refused(tree):
    folder = tree("css")
    path = folder / "dist" / "lab" / "devel.csv"
    path.write_text("filename,label\nvalid_001.wav,positive\n")
    refused("css", folder, f"{path.parent}: the recording valid_001.wav is in no split")


def test_demos_splits_by_speaker_and_leaves_neutral_out(tree):
    table = read("demos", tree("demos"))
    assert dict(zip(table["group"], table["split"], strict=True)) == {
        "01": "train",
        "03": "devel",
        "04": "test",
    }
    assert dict(zip(table["group"], table["gender"], strict=True)) == {
        "01": "f",
        "03": "m",
        "04": "f",
    }
    row = by_name(table).loc["NP_f_04_rab01b.wav"]
    assert (row["label"], row["prototypical"]) == ("anger", "no")
    assert (table["prototypical"] == "yes").sum() == 21


def test_demos_refuses_names_that_it_does_not_know(tree):
    folder = tree("demos")
    stray = folder / "wav_DEMoS" / "DEMOS" / "PR_f_01_joy01a.wav"
    paper_trees.tone(stray, 0, 0)
    refused("demos", folder, f"{stray}: not a name of DEMoS; needed: PR or NP")


def test_ravdess_takes_songs_only(tree):
    folder = tree("ravdess")
    table = read("ravdess", folder)
    assert all(Path(path).name.startswith("03-02-") for path in table["path"])
    row = by_name(table).loc["03-02-05-01-02-01-16.wav"]
    columns = ["label", "split", "group", "gender", "intensity", "sentence"]
    assert row[columns].tolist() == ["angry", "devel", "16", "f", "1", "2"]
    stray = folder / "Actor_01" / "03-02-07-01-01-01-01.wav"
    paper_trees.tone(stray, 0, 0)
    refused("ravdess", folder, f"{stray}: emotion 07; allowed: 01, 02, 03, 04, 05, 06")


def test_the_songs_of_23_actors_are_1012_split_by_actor(tmp_path):
    # Per actor: six emotions, normal and (but for neutral) strong, two sentences, two repetitions.
    kinds = [(e, i) for e in range(1, 7) for i in (1, 2) if (e, i) != (1, 2)]
    for actor in [a for a in range(1, 25) if a != 18]:
        folder = tmp_path / f"Actor_{actor:02}"
        folder.mkdir()
        for emotion, intensity in kinds:
            for take in ("01-01", "01-02", "02-01", "02-02"):
                (folder / f"03-02-{emotion:02}-{intensity:02}-{take}-{actor:02}.wav").touch()
    table = read("ravdess", tmp_path)
    assert len(table) == 1012
    assert table.groupby("split")["group"].nunique().to_dict() == {
        "train": 15,
        "devel": 4,
        "test": 4,
    }
    genders = table.groupby(["split", "gender"])["group"].nunique()
    assert genders[["devel", "test"]].tolist() == [2, 2, 2, 2]


def test_iemocap_tells_speakers_and_merges_excited_with_happy(tree):
    folder = tree("iemocap")
    table = by_name(read("iemocap", folder))
    # The first F is of who wears the markers, in the whole dialogue; a man speaks.
    row = table.loc["Ses04F_script01_1b_M002.wav"]
    columns = ["label", "split", "group", "session", "gender"]
    assert row[columns].tolist() == ["happy", "devel", "Ses04M", "4", "m"]
    assert (table["label"] == "happy").sum() == 20
    text = next(folder.rglob("EmoEvaluation/Ses01*.txt"))
    text.write_text(text.read_text().replace("\tfru\t", "\tjoy\t"))
    refused("iemocap", folder, f"{text}: emotion 'joy' of Ses01F_script01_1b_F005; allowed: ang")


@pytest.mark.parametrize("inside", ["", "IEMOCAP_full_release"])
def test_iemocap_without_a_session_is_refused(tree, inside):
    folder = tree("iemocap")
    for session in "24":
        (folder / "IEMOCAP_full_release" / f"Session{session}").rename(folder / session)
    refused("iemocap", folder / inside, "no Session2, Session4 in IEMOCAP_full_release; allowed")


@pytest.mark.parametrize(
    "line",
    [
        "[1.2901 - 2.2357]\tSes01F_script01_1b_F001",
        "[1.2901 - 2.2357]\tSes01F_script01_1b_F001\tneu\t[2.5000, 2.0000",
        "[1.2901]\tSes01F_script01_1b_F001\tneu\t[2.5000, 2.0000, 2.5000]",
    ],
)
def test_iemocap_refuses_a_broken_turn(tree, line):
    folder = tree("iemocap")
    text = next(folder.rglob("EmoEvaluation/Ses01*.txt"))
    with text.open("a") as file:
        file.write(f"{line}\n")
    refused("iemocap", folder, f"{text}: the line {line!r} begins like a turn and is none; allowed")


def test_iemocap_without_evaluations_is_refused(tree):
    folder = tree("iemocap")
    text = next(folder.rglob("EmoEvaluation/Ses01*.txt"))
    text.unlink()
    refused("iemocap", folder, "no turn of the four emotions in its texts")


@pytest.mark.parametrize("name", SETTINGS)
def test_the_recipes_have_the_settings_of_the_paper(name):
    recipe = load_recipe(name)
    units, dropout, rate, head, fine, layers, seconds = SETTINGS[name]
    assert recipe.data.corpus == name
    assert recipe.data.segment_seconds == seconds
    assert (recipe.model.backbone, recipe.model.units) == ("densenet121", units)
    assert (recipe.model.dropout, recipe.train.head_learning_rate) == (dropout, rate)
    assert (recipe.train.head_epochs, recipe.train.epochs) == (head, fine)
    assert not fine or recipe.train.learning_rate == rate
    # Of our layers, those with weights, as many learn as stand among the last of the paper's.
    ours = create_backbone("densenet121", "random", (64, 64)).layers()
    paper = keras_densenet121()
    assert (len(paper), sum(paper)) == (427, len(ours))
    learning = sum(paper[len(paper) - layers :])
    assert round(recipe.train.fine_tune_share * len(ours)) == learning


def test_the_recipes_are_the_same_but_for_the_table_of_the_paper():
    own = {
        "data": ("corpus", "segment_seconds", "hop_seconds"),
        "model": ("units", "dropout"),
        "train": (
            *("head_learning_rate", "learning_rate", "head_epochs", "epochs"),
            "fine_tune_share",
        ),
    }
    shared = {}
    for name in ("paper", *SETTINGS):
        values = load_recipe(name).model_dump()
        seconds, hop = (values["data"][f"{key}_seconds"] for key in ("segment", "hop"))
        assert name == "css" or seconds == hop
        for section, keys in own.items():
            for key in keys:
                del values[section][key]
        shared[name] = values
    assert all(values == shared["paper"] for values in shared.values())


def keras_densenet121():
    """(427,): for each layer as Keras counts them, whether it has weights."""
    # Input, padding, convolution, normalisation, activation, padding, pooling.
    layers = [False, False, True, True, False, False, False]
    for block, n_units in enumerate((6, 12, 24, 16)):
        # Normalisation, activation and convolution, twice, and joining.
        layers += [True, False, True, True, False, True, False] * n_units
        # Normalisation and activation; between blocks also convolution and pooling.
        layers += [True, False] if block == 3 else [True, False, True, False]
    return layers

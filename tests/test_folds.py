"""Folds keep groups together, cover every recording once, and are the same for every system."""

import numpy as np
import pandas as pd
import pytest

from deepspectrumlite.errors import ManifestError
from deepspectrumlite.folds import check_same_recordings, make_folds, read_folds, write_folds

LABELS = ("cough", "sneeze", "speech")


def recordings(n_groups=8, per_group=9, **columns):
    """A scanned table: every group has all labels equally often."""
    rows = [
        {"path": f"/clips/{g}-{i}.wav", "label": LABELS[i % 3], "group": f"speaker {g}"}
        for g in range(n_groups)
        for i in range(per_group)
    ]
    table = pd.DataFrame(rows).assign(duration=1.0, **columns)
    table.attrs["manifest"] = "labels.csv"
    return table


def recordings_tested(folds):
    return pd.concat([t.loc[t["split"] == "test", "path"] for t in folds.values()])


@pytest.mark.parametrize("scheme", ["3", "5", "groups", "column:site"])
def test_every_recording_is_tested_once_and_no_group_is_torn(scheme, make_recipe):
    table = recordings()
    table["site"] = table["group"].map(lambda name: "ab"[int(name[-1]) % 2])
    folds = make_folds(table, scheme, make_recipe())
    assert sorted(recordings_tested(folds)) == sorted(table["path"])
    for fold in folds.values():
        assert set(fold["split"]) == {"train", "devel", "test"}
        assert (fold.groupby("group")["split"].nunique() == 1).all()
        assert set(fold.loc[fold["split"] == "train", "label"]) == set(LABELS)


def test_leave_one_group_out_tests_one_group_in_each_fold(make_recipe):
    folds = make_folds(recordings(), "groups", make_recipe())
    assert list(folds) == [f"speaker {g}" for g in range(8)]
    for name, fold in folds.items():
        assert set(fold.loc[fold["split"] == "test", "group"]) == {name}


def test_k_fold_is_stratified_without_groups(make_recipe):
    table = recordings().drop(columns="group")
    folds = make_folds(table, "4", make_recipe())
    for fold in folds.values():
        counts = fold.loc[fold["split"] == "test", "label"].value_counts()
        assert counts.max() - counts.min() <= 1


def test_what_is_in_no_fold_is_never_tested(make_recipe):
    table = recordings()
    table["part"] = np.where(table["group"] < "speaker 4", table["group"], "")
    folds = make_folds(table, "column:part", make_recipe())
    assert len(folds) == 4
    assert set(recordings_tested(folds)) == set(table.loc[table["part"] != "", "path"])


def test_the_order_of_rows_is_of_no_effect_but_the_seed_is(make_recipe):
    table = recordings()

    def first_test(rows, *changes):
        fold = make_folds(rows, "4", make_recipe(*changes))["1"]
        return set(fold.loc[fold["split"] == "test", "path"])

    shuffled = table.sample(frac=1, random_state=1).reset_index(drop=True)
    assert first_test(table) == first_test(shuffled)
    assert any(first_test(table) != first_test(table, f"train.seed={s}") for s in (1, 2, 3))


def test_the_split_of_the_manifest_is_one_fold(make_recipe):
    table = recordings()
    number = table["group"].str[-1].astype(int)
    table["split"] = np.select([number < 5, number < 6], ["train", "devel"], "test")
    folds = make_folds(table, "manifest", make_recipe())
    assert list(folds) == ["manifest"]
    assert folds["manifest"]["split"].equals(table["split"])


@pytest.mark.parametrize(
    ("scheme", "change", "named"),
    [
        ("manifest", {}, "no column split"),
        ("1", {}, "a number from 2 on"),
        ("loso", {}, "manifest, groups, a number"),
        ("9", {}, "--folds 8 at most"),
        ("column:room", {}, "no column 'room'"),
        ("column:label", {}, "is in 3 folds of column label"),
        ("groups", {"group": ""}, "no column group"),
        ("groups", {"group": "one"}, "1 groups; allowed: 2 or more"),
    ],
)
def test_what_is_not_possible_is_refused_in_one_line(scheme, change, named, make_recipe):
    with pytest.raises(ManifestError, match=named) as error:
        make_folds(recordings(**change), scheme, make_recipe())
    assert "\n" not in str(error.value)


def test_a_label_of_one_group_only_cannot_be_left_out(make_recipe):
    table = recordings()
    table.loc[table["group"] == "speaker 0", "label"] = "whistle"
    with pytest.raises(ManifestError, match=r"whistle.*is in test but not in train"):
        make_folds(table, "groups", make_recipe())


def test_folds_are_read_back_as_they_were_written(tmp_path, make_recipe):
    table = recordings()
    folds = make_folds(table, "groups", make_recipe())
    assert read_folds(tmp_path) is None
    write_folds(folds, "groups", tmp_path)
    made_by, manifests = read_folds(tmp_path)
    assert made_by == "groups"
    assert list(manifests) == [f"0{i + 1}-speaker-{i}" for i in range(8)]
    found = pd.read_csv(manifests["01-speaker-0"])
    assert found["split"].tolist() == folds["speaker 0"]["split"].tolist()
    check_same_recordings(table, manifests, tmp_path)
    with pytest.raises(ManifestError, match="made of 72 recordings, not of these 71"):
        check_same_recordings(table.iloc[1:], manifests, tmp_path)

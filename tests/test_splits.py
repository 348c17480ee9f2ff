import numpy as np
import pandas as pd
import pytest

from deepspectrumlite.errors import ManifestError
from deepspectrumlite.splits import check_splits, make_devel, make_splits, require_splits

SHARES = {"devel_share": 0.2, "test_share": 0.2}


def table_of(labels, groups=None, **columns):
    paths = [f"/d/{i:05d}.wav" for i in range(len(labels))]
    table = pd.DataFrame({"path": paths, "label": list(labels)}, dtype=object)
    if groups is not None:
        table["group"] = groups
    return table.assign(**columns)


def test_splits_without_groups_keep_every_class_in_proportion():
    table = table_of(["a"] * 100 + ["b"] * 10 + ["c"] * 3)
    made = make_splits(table, **SHARES, seed=1)
    counts = pd.crosstab(made["label"], made["split"])
    assert counts.loc["a"].to_dict() == {"devel": 20, "test": 20, "train": 60}
    assert counts.loc["b"].to_dict() == {"devel": 2, "test": 2, "train": 6}
    assert counts.loc["c"].to_dict() == {"devel": 1, "test": 1, "train": 1}
    assert "split" not in table


def test_splits_depend_on_the_seed_and_not_on_the_order():
    rng = np.random.default_rng(0)
    groups = [f"g{i}" for i in rng.integers(0, 20, 300)]
    for columns in ({}, {"groups": groups}):
        table = table_of(list("abc") * 100, **columns)
        made = [make_splits(table, **SHARES, seed=seed)["split"].tolist() for seed in (0, 0, 1)]
        assert made[0] == made[1] != made[2]
        shuffled = table.sample(frac=1, random_state=3).reset_index(drop=True)
        again = make_splits(shuffled, **SHARES, seed=0).sort_values("path")
        assert again["split"].tolist() == made[0]


def test_groups_that_mix_classes_do_not_leak_and_are_balanced():
    rng = np.random.default_rng(0)
    table = table_of(
        [str(x) for x in rng.choice(list("abcd"), 600, p=[0.5, 0.3, 0.15, 0.05])],
        [f"speaker{i}" for i in rng.integers(0, 20, 600)],
    )
    for seed in range(5):
        made = make_splits(table, **SHARES, seed=seed)
        assert made.groupby("group")["split"].nunique().max() == 1
        counts = pd.crosstab(made["label"], made["split"], normalize="index")
        assert counts["test"].between(0.1, 0.3).all()
        assert counts["devel"].between(0.1, 0.3).all()


def test_groups_of_one_class_each_give_every_class_to_every_split():
    table = table_of(
        [f"species{i // 12}" for i in range(480)], [f"site{i // 3}" for i in range(480)]
    )
    made = make_splits(table, **SHARES, seed=0)
    check_splits(made)
    counts = pd.crosstab(made["label"], made["split"])
    assert counts.to_numpy().min() == 3
    assert made.groupby("group")["split"].nunique().max() == 1


def test_a_rare_class_is_in_the_test_split_even_if_that_is_more_than_its_share():
    table = table_of(("a" * 10 + "b") * 2 + "a" * 80, [f"g{min(i // 11, 9)}" for i in range(102)])
    for seed in range(5):
        made = make_splits(table, **SHARES, seed=seed)
        assert set(made.loc[made["label"] == "b", "split"]) == {"train", "test"}


def test_rows_of_one_file_stay_together():
    table = table_of(list("aabb") * 20)
    table["path"] = [f"/d/{i // 4}.wav" for i in range(80)]
    table["start"] = [float(i % 4) for i in range(80)]
    made = make_splits(table, **SHARES, seed=0)
    assert made.groupby("path")["split"].nunique().max() == 1
    assert made["split"].value_counts().to_dict() == {"train": 48, "devel": 16, "test": 16}


@pytest.mark.parametrize(
    ("labels", "groups", "message"),
    [
        ("aaabb", None, r"label 'b' has 2 recordings; allowed: 3 or more"),
        ("ab", None, r"2 recordings in all; allowed: 3 or more"),
        ("ababab", list("xxxyyy"), r"2 groups in all; allowed: 3 or more"),
        ("aaabbb", list("xyzwww"), r"label 'b' has 1 groups; allowed: 2 or more"),
        ("aabbcc", list("xyyzxz"), r"no draw of groups out of 2 leaves every label in train"),
    ],
)
def test_impossible_splits(labels, groups, message):
    table = table_of(list(labels), groups)
    table.attrs["manifest"] = "list.csv"
    with pytest.raises(ManifestError, match=r"^list.csv: .*" + message):
        make_splits(table, **SHARES, seed=0)


def test_devel_is_taken_from_train():
    table = table_of(list("ab") * 50, split=["train"] * 80 + ["test"] * 20)
    for made in (make_splits(table, **SHARES, seed=0), make_devel(table, devel_share=0.2, seed=0)):
        assert made["split"].value_counts().to_dict() == {"train": 64, "test": 20, "devel": 16}
        assert (made["split"][80:] == "test").all()
        assert pd.crosstab(made["label"], made["split"]).loc["a", "devel"] == 8


def test_complete_splits_are_left_alone():
    for names in (["train", "devel"], ["test"], ["train", "devel", "test"]):
        table = table_of("a" * len(names), split=names)
        assert make_splits(table, **SHARES, seed=0)["split"].tolist() == names


def test_require_splits():
    table = table_of("ab", split=["train", "test"])
    require_splits(table, ["train", "test"])
    with pytest.raises(ManifestError, match=r"no recording in devel, only in test, train; needed"):
        require_splits(table, ["train", "devel"])
    with pytest.raises(ManifestError, match=r"no recording in train, only in no split at all"):
        require_splits(table.drop(columns="split"), ["train"])


def test_a_label_that_train_lacks():
    table = table_of("aab", split=["train", "devel", "test"])
    with pytest.raises(ManifestError, match=r"label 'b' is in test but not in train; allowed"):
        check_splits(table)
    check_splits(table[1:])  # Nothing to train on: a manifest for evaluation.


def test_a_group_in_two_splits():
    table = table_of("aaaa", ["x", "y", "x", ""], split=["train", "train", "test", "test"])
    message = r"group 'x' is in train and test; allowed: .*--allow-group-overlap"
    with pytest.raises(ManifestError, match=message):
        check_splits(table)
    check_splits(table, allow_group_overlap=True)
    check_splits(table.assign(group=["x", "y", "z", ""]))
    check_splits(table.assign(group=""))
    both = table.assign(group=["x", "y", "x", "y"])
    with pytest.raises(ManifestError, match=r"train and test, and so with 1 more; allowed"):
        check_splits(both)


def test_a_file_in_two_splits():
    table = table_of("aa", split=["train", "test"], path="/d/a.wav", start=[0.0, 1.0])
    with pytest.raises(ManifestError, match=r"'/d/a.wav' is in train and test"):
        check_splits(table)


def test_a_hundred_thousand_rows():
    rows = range(100_000)
    table = table_of([f"c{i % 7}" for i in rows], [str(i // 10) for i in rows])
    made = make_splits(table, **SHARES, seed=0)
    check_splits(made)
    assert made["split"].value_counts(normalize=True)["test"] == pytest.approx(0.2, abs=0.01)

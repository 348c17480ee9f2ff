"""From the columns of a manifest to what is learned, of every output; and what is refused."""

import json
import re
from dataclasses import fields

import numpy as np
import pandas as pd
import pytest

from deepspectrumlite.config import DataSection
from deepspectrumlite.data import Measurement, scan
from deepspectrumlite.errors import ManifestError
from deepspectrumlite.manifest import write_manifest
from deepspectrumlite.splits import make_splits
from deepspectrumlite.targets import (
    BINS,
    TAKEN,
    Targets,
    check_enough_labels,
    check_labelled_splits,
    find_targets,
    load_labelled,
)

SHARES = {"devel_share": 0.2, "test_share": 0.2}
SETS = ["cough; sneeze", "", "sneeze", " ; cough;", "laugh;cough;sneeze", "cough;cough"]
SETS_ENCODED = [[1, 0, 1], [0, 0, 0], [0, 0, 1], [1, 0, 0], [1, 1, 1], [1, 0, 0]]


def table_of(**columns):
    """A table as of load_manifest, with text in its columns."""
    n = len(next(iter(columns.values())))
    paths = [f"/d/{i:02d}.wav" for i in range(n)]
    return pd.DataFrame({"path": paths} | {k: list(v) for k, v in columns.items()}, dtype=object)


def encoded(table, output, **data):
    """(labels, rows of the encoded targets)."""
    targets = find_targets(table, DataSection(**data), output)
    found = targets.encode(table)
    assert found.dtype == np.float32
    return targets.labels, found.tolist()


def refused(work, *parts):
    """The message of a ManifestError in one line, with these parts in this order."""
    with pytest.raises(ManifestError) as info:
        work()
    text = str(info.value)
    assert "\n" not in text
    assert re.search(".*".join(re.escape(part) for part in parts), text), text
    return text


def strata_of(table, output, **data):
    return find_targets(table, DataSection(**data), output).strata(table)


def test_one_label_is_one_hot_in_the_order_of_names():
    table = table_of(label=["b", "a", "Z", "b"])
    assert encoded(table, "softmax") == (
        ["Z", "a", "b"],
        [[0, 0, 1], [0, 1, 0], [1, 0, 0], [0, 0, 1]],
    )
    table = table.rename(columns={"label": "species"})
    assert encoded(table, "softmax", target="species")[0] == ["Z", "a", "b"]
    assert encoded(table, "softmax", target=("species",))[0] == ["Z", "a", "b"]


def test_labels_of_a_model_are_kept_whatever_a_table_holds():
    targets = Targets("softmax", ["x", "y", "z"], DataSection())
    assert targets.encode(table_of(label=["z", "x"])).tolist() == [[0, 0, 1], [1, 0, 0]]
    targets = Targets("sigmoid", ["x", "y", "z"], DataSection())
    assert targets.encode(table_of(label=["z", "z;x"])).tolist() == [[0, 0, 1], [1, 0, 1]]
    assert targets.values == []


@pytest.mark.parametrize("separator", [";", "|", ",", " ", "//", "."])
def test_several_labels_in_a_column(separator):
    # What is a pattern to regular expressions is plain text here.
    table = table_of(label=[cell.replace(";", separator) for cell in SETS])
    found = encoded(table, "sigmoid", separator=separator)
    assert found == (["cough", "laugh", "sneeze"], SETS_ENCODED)


def test_other_separators_belong_to_the_label():
    assert encoded(table_of(label=["a|b", "c,d;a|b"]), "sigmoid") == (
        ["a|b", "c,d"],
        [[1, 0], [1, 1]],
    )


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet", "jsonl lists", "parquet lists"])
def test_several_labels_from_every_format(tmp_path, kind):
    kind, *lists = kind.split()
    path = tmp_path / f"list.{kind}"
    names = [[x.strip() for x in cell.split(";") if x.strip()] for cell in SETS]
    frame = pd.DataFrame({"path": list("abcdef"), "heard": names if lists else SETS})
    if kind == "parquet":
        frame.to_parquet(path)
    elif kind == "jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_csv(path, index=False, sep="\t" if kind == "tsv" else ",")
    data = DataSection(target="heard")
    table = load_labelled(path, data, "sigmoid")
    assert encoded(table, "sigmoid", target="heard")[1] == SETS_ENCODED
    # As a run keeps it, to be read again.
    write_manifest(table, tmp_path / "again.csv")
    again = load_labelled(tmp_path / "again.csv", data, "sigmoid")
    assert encoded(again, "sigmoid", target="heard")[1] == SETS_ENCODED


def test_lists_of_numbers_nothing_and_null(tmp_path):
    lines = [[1, 2], [], None, ["2", None], "1;2", 2]
    rows = [{"path": str(i), "label": label} for i, label in enumerate(lines)]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    table = load_labelled(tmp_path / "list.jsonl", DataSection(), "sigmoid")
    assert table["label"].tolist() == ["1;2", "", "", "2", "1;2", "2"]


def test_a_label_in_a_list_that_holds_the_separator(tmp_path):
    path = tmp_path / "list.jsonl"
    path.write_text('{"path": "a", "label": ["x"]}\n{"path": "b", "label": ["y", "rock;pop"]}\n')
    text = refused(lambda: load_labelled(path, DataSection(), "sigmoid"), "row 2: label is ")
    assert "allowed: labels without ';'; set data.separator" in text
    table = load_labelled(path, DataSection(separator="|"), "sigmoid")
    assert encoded(table, "sigmoid", separator="|")[0] == ["rock;pop", "x", "y"]


@pytest.mark.parametrize("output", ["softmax", "ordinal", "linear"])
@pytest.mark.parametrize("cell", ['["a", "b"]', "[]", '{"a": 1}'])
def test_lists_where_one_value_belongs(tmp_path, output, cell):
    path = tmp_path / "list.jsonl"
    path.write_text(f'{{"path": "a", "label": "1"}}\n{{"path": "b", "label": {cell}}}\n')
    text = refused(lambda: load_labelled(path, DataSection(), output), f"{path}: row 2: label is ")
    assert 'allowed: one value; for lists of labels in one column set model.output = "sig' in text


FLAGS = {
    "cough": ["1", "0", "TRUE", " yes", "1.0", "No"],
    "sneeze": ["", "False", "0.0", "0", "no", "Yes "],
}


def test_several_columns_of_yes_and_no():
    names = ("sneeze", "cough")
    table = table_of(**FLAGS)
    expected = [[0, 1], [0, 0], [0, 1], [0, 1], [0, 1], [1, 0]]
    assert encoded(table, "sigmoid", target=names) == (list(names), expected)
    table.loc[3, "sneeze"] = "2"
    refused(
        lambda: encoded(table, "sigmoid", target=names),
        "sneeze is '2' for /d/03.wav; allowed: 1 or 0 (true, false, yes, no, nothing)",
        "data.target names several columns; mend the row",
    )


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_several_columns_from_every_format(tmp_path, kind):
    path = tmp_path / f"list.{kind}"
    frame = pd.DataFrame({"path": list("abc"), "x": [True, False, True], "y": [0, 1, None]})
    if kind == "parquet":
        frame.to_parquet(path)
    elif kind == "jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_csv(path, index=False)
    table = load_labelled(path, DataSection(target=("x", "y")), "sigmoid")
    found = encoded(table, "sigmoid", target=("x", "y"))
    assert found == (["x", "y"], [[1, 0], [0, 1], [1, 0]])


def test_a_column_without_a_yes_is_refused():
    table = table_of(x=["1", "0"], y=["0", ""])
    refused(
        lambda: encoded(table, "sigmoid", target=("x", "y")),
        "y is 0 in every row; allowed: 1 in some; or remove it from data.target",
    )
    # A model that knows the label can still be tested on these rows.
    targets = Targets("sigmoid", ["x", "y"], DataSection(target=("x", "y")))
    assert targets.encode(table).tolist() == [[1, 0], [0, 0]]


def test_numbers():
    table = table_of(age=["31", " 4.5 ", "-1e2"], height=["0", "1.75", "2"])
    assert encoded(table, "linear", target="age") == (["age"], [[31], [4.5], [-100]])
    found = encoded(table, "linear", target=("height", "age"))
    assert found == (["height", "age"], [[0, 31], [1.75, 4.5], [2, -100]])


@pytest.mark.parametrize(
    "bad", ["old", "nan", "inf", "-Infinity", "1,5", "1 000", "1_5", "3e39", "0x1f", " "]
)
def test_what_is_no_number_is_refused(tmp_path, bad):
    (tmp_path / "list.csv").write_text(f'path,age,height\na.wav,30,2\nb.wav,7,"{bad}"\n')
    data = DataSection(target=("age", "height"))

    def read():
        find_targets(load_labelled(tmp_path / "list.csv", data, "linear"), data, "linear")

    if not bad.strip():
        refused(read, "row 3: height is ' '; allowed: anything but nothing; fill it in")
        return
    refused(
        read,
        f"{tmp_path / 'list.csv'}: height is {bad!r} for {tmp_path / 'b.wav'}; ",
        'allowed: a number like 0.5 in every row, as model.output is "linear"; mend the row',
    )


def test_labels_that_are_numbers_are_in_order():
    table = table_of(label=["10", "2", "-1", "2", "2.5"])
    assert encoded(table, "ordinal") == (
        ["-1", "2", "2.5", "10"],
        [[10], [2], [-1], [2], [2.5]],
    )
    assert find_targets(table, DataSection(), "ordinal").values == [-1, 2, 2.5, 10]


def test_labels_in_a_given_order():
    order = ("low", "mid", "high", "10", "9")
    table = table_of(label=["high", "low", "9", "high"])
    # Numbers are places in the whole order, wherever a label does not occur.
    assert encoded(table, "ordinal", order=order) == (
        ["low", "high", "9"],
        [[2], [0], [4], [2]],
    )
    assert find_targets(table, DataSection(order=order), "ordinal").values == [0, 2, 4]


def test_labels_without_a_place_in_the_order():
    table = table_of(label=["1", "2", "many"])
    refused(
        lambda: encoded(table, "ordinal"),
        "label 'many' of /d/02.wav is no number, and data.order is empty; allowed: numbers only; ",
        """or name the labels from low to high, as in --set 'data.order=["low", "high"]'""",
    )
    refused(
        lambda: encoded(table, "ordinal", order=("2", "many", "1e9")),
        "label '1' of /d/00.wav is not in data.order; allowed: 2, many, 1e9; mend the row, or add",
    )
    refused(lambda: encoded(table_of(label=["1", "inf"]), "ordinal"), "label 'inf' of /d/01.wav")


def test_a_number_written_in_two_ways():
    refused(
        lambda: encoded(table_of(label=["2", "1", "1.0"]), "ordinal"),
        "labels '1' and '1.0' are the same number; allowed: one way to write each; mend the row",
        "of /d/02.wav",
    )


@pytest.mark.parametrize(
    ("output", "cells", "data"),
    [
        ("softmax", ["x", "w"], {}),
        ("sigmoid", ["x;y", "y; w"], {}),
        ("ordinal", ["x", "w"], {"order": ("x", "y", "w")}),
    ],
)
def test_labels_that_the_model_does_not_know(output, cells, data):
    table = table_of(label=cells)
    table.attrs["manifest"] = "list.csv"
    text = refused(
        lambda: Targets(output, ["x", "y"], DataSection(**data)).encode(table),
        "label 'w' is unknown to the model; allowed: x, y; mend the row of /d/01.wav, or train",
    )
    assert text.startswith("list.csv: ")


@pytest.mark.parametrize(
    ("output", "cells", "message"),
    [
        ("softmax", ["a", "a"], "only the label 'a'; at least two are needed"),
        ("ordinal", ["1", "1"], "only the label '1'; at least two are needed"),
        ("sigmoid", ["", " ; "], "no label at all; at least one is needed"),
    ],
)
def test_too_few_labels(output, cells, message):
    table = table_of(label=cells)
    targets = find_targets(table, DataSection(), output)
    refused(lambda: check_enough_labels(table, targets), message)


def test_labels_outside_of_train():
    table = table_of(label=["a", "a;b", "b;c"]).assign(split=["train", "train", "devel"])
    targets = find_targets(table, DataSection(), "sigmoid")
    refused(lambda: check_labelled_splits(table, targets), "label 'c' occurs, but not in train")
    check_labelled_splits(table.assign(split="train"), targets)
    numbers = table.assign(label=["1", "2", "3"])
    check_labelled_splits(numbers, find_targets(numbers, DataSection(), "linear"))
    classes = find_targets(numbers, DataSection(), "softmax")
    refused(lambda: check_labelled_splits(numbers, classes), "label '3' is in devel but not in")


def test_one_label_suffices_where_it_can_be_absent():
    assert encoded(table_of(label=["", "a"]), "sigmoid") == (["a"], [[0], [1]])


def load(tmp_path, *cells, output="softmax", **data):
    rows = [f'{i}.wav,"{cell}"\n' for i, cell in enumerate(cells)]
    (tmp_path / "list.csv").write_text("path,label\n" + "".join(rows))
    return load_labelled(tmp_path / "list.csv", DataSection(**data), output)


def test_fractions_are_no_labels(tmp_path):
    refused(
        lambda: load(tmp_path, "1", "0.5", "2"),
        f"list.csv: label is the number 0.5 for {tmp_path / '1.wav'}; allowed: labels; to learn ",
        'numbers set model.output = "linear", or "ordinal"',
    )
    refused(
        lambda: load(tmp_path, "1", "-2.25", "2", "loud"),
        f"label is the number -2.25 for {tmp_path / '1.wav'} and 'loud' for {tmp_path / '3.wav'}; ",
        "allowed: labels only, or numbers only; mend the rows",
    )
    # Whole numbers are good names, and so is what only looks like a number.
    for cells in (["1", "2.0", "loud"], ["v1.5", "v2.5"], ["nan", "inf"]):
        assert load(tmp_path, *cells)["label"].tolist() == cells


def test_several_labels_are_no_label(tmp_path):
    refused(
        lambda: load(tmp_path, "b", "a; b", "c"),
        f"label is 'a; b' for {tmp_path / '1.wav'} and 'b' in another row; allowed: one label in ",
        'each row; for several at once set model.output = "sigmoid"',
    )
    # A name may contain the separator, as long as no part of it is a label.
    assert load(tmp_path, "a; b", "c")["label"].tolist() == ["a; b", "c"]
    assert load(tmp_path, "a; b", "b", separator="|")["label"].tolist() == ["a; b", "b"]
    assert load(tmp_path, "a; b", "b", "", output="sigmoid")["label"].tolist() == ["a; b", "b", ""]


@pytest.mark.parametrize("output", ["softmax", "linear", "ordinal"])
def test_only_several_labels_can_be_none(tmp_path, output):
    refused(lambda: load(tmp_path, "1", "", output=output), "row 3: label is ''; allowed: anything")


def test_a_missing_column_names_the_setting(tmp_path):
    refused(
        lambda: load(tmp_path, "x", target=("age", "label"), output="linear"),
        "no column age, only path, label; allowed: path, age, label, ",
        "set data.target to those to be learned",
    )


@pytest.mark.parametrize("name", TAKEN)
def test_columns_with_a_meaning_of_their_own_are_no_targets(tmp_path, name):
    text = refused(
        lambda: load(tmp_path, "x", "y", target=name),
        f"list.csv: data.target is {name!r}, a column with a meaning of its own; allowed: any but",
    )
    assert text.endswith(", clipped, silent, digest; give it another name in the manifest")


def test_what_scanning_writes_is_taken():
    assert {field.name for field in fields(Measurement)} < set(TAKEN)


def test_strata_of_labels_are_the_labels():
    table = table_of(label=["2", "10", "2"])
    for output in ("softmax", "ordinal"):
        assert strata_of(table, output).tolist() == ["2", "10", "2"]


def test_strata_of_several_labels_are_the_rarest():
    cells = ["a"] * 5 + ["a;b"] * 4 + ["c;b;a"] * 3 + [""] * 3
    table = table_of(label=cells)
    expected = ["a"] * 5 + ["b"] * 4 + ["c"] * 3 + ["(none)"] * 3
    assert strata_of(table, "sigmoid").tolist() == expected
    flags = {x: [str(int(x in cell)) for cell in cells] for x in "abc"}
    assert strata_of(table_of(**flags), "sigmoid", target=tuple("abc")).tolist() == expected


def test_strata_that_are_too_rare_to_be_split_are_put_together():
    # b stands alone only twice, in other rows with the rarer c; one row has no label.
    table = table_of(label=["a"] * 18 + ["b"] * 2 + ["b;c"] * 5 + [""] + ["d"] * 4)
    expected = ["a"] * 18 + ["(others)"] * 2 + ["c"] * 5 + ["(others)"] + ["d"] * 4
    assert strata_of(table, "sigmoid").tolist() == expected
    make_splits(table.assign(label=expected), **SHARES, seed=0)
    # Too few even together: with the commonest.
    table = table_of(label=["a"] * 18 + ["b"] * 2 + ["b;c"] * 5 + ["d"] * 4)
    expected = ["a"] * 20 + ["c"] * 5 + ["d"] * 4
    assert strata_of(table, "sigmoid").tolist() == expected


def test_where_devel_alone_is_drawn_train_has_to_suffice():
    # Of the four rows with b alone, train has one; of the high numbers two.
    split = ["train"] * 13 + ["test"] * 3 + ["train"] * 5
    table = table_of(label=["a"] * 12 + ["b"] * 4 + ["b;c"] * 5, split=split)
    strata = strata_of(table, "sigmoid")
    assert strata.tolist() == ["a"] * 16 + ["c"] * 5
    drawn = make_splits(table.assign(label=strata), **SHARES, seed=0)["split"]
    assert drawn.value_counts().to_dict() == {"train": 14, "devel": 4, "test": 3}
    split = ["train"] * 12 + ["test"] * 10
    table = table_of(age=[str(i + 100 * (i >= 10)) for i in range(22)], split=split)
    strata = strata_of(table, "linear", target="age")
    assert strata[:12].nunique() == 2
    assert strata[:12].value_counts().min() >= BINS
    # Where all splits are given none is drawn, and all rows count.
    table.loc[5, "split"] = "devel"
    assert strata_of(table, "linear", target="age").nunique() == 4


def test_a_label_that_is_rare_itself_is_refused_by_its_name():
    table = table_of(label=["a"] * 18 + ["b"] * 2 + [""] * 10)
    drawn = table.assign(label=strata_of(table, "sigmoid"))
    refused(lambda: make_splits(drawn, **SHARES, seed=0), "label 'b' has 2 recordings; allowed: 3")


def test_strata_of_numbers_are_fifths():
    rng = np.random.default_rng(0)
    numbers = rng.permutation(30)
    found = strata_of(table_of(age=[str(x) for x in numbers]), "linear", target=("age",))
    names = ["1: 0 to 5", "2: 6 to 11", "3: 12 to 17", "4: 18 to 23", "5: 24 to 29"]
    assert found.tolist() == [names[x // 6] for x in numbers]


def test_strata_of_numbers_that_hardly_differ():
    for numbers, n_strata in (
        (["5"] * 9, 1),
        (["1"], 1),
        ([str(1_700_000_000 + i) for i in range(30)], BINS),
        (["0"] * 29 + ["1"], 1),
        (["0"] * 15 + ["1"] * 15, 2),
        # Equal fifths would leave the first 1 alone in one.
        (["0"] * 23 + [str(i) for i in range(1, 8)], 2),
    ):
        table = table_of(age=numbers)
        found = strata_of(table, "linear", target="age")
        counts = found.value_counts()
        assert len(counts) == n_strata
        assert n_strata == 1 or counts.min() >= BINS
        if len(table) > 1:
            # In order of the numbers.
            assert found[
                np.argsort(np.array(numbers, float), kind="stable")
            ].is_monotonic_increasing


def column_of_each_kind(n):
    rng = np.random.default_rng(3)
    return {
        "softmax": rng.permutation(list("aaabbc") * (n // 6)),
        "ordinal": rng.choice(["1", "2", "10"], n),
        "sigmoid": [
            ";".join(rng.permutation(list("abcd"))[: rng.integers(0, 4)]) for _ in range(n)
        ],
        "linear": [f"{x:.3f}" for x in rng.gamma(1, size=n)],
    }


@pytest.mark.parametrize("output", ["softmax", "ordinal", "sigmoid", "linear"])
@pytest.mark.parametrize("seed", range(5))
def test_splits_can_be_drawn_for_thirty_rows(output, seed):
    table = table_of(target=column_of_each_kind(30)[output])
    strata = strata_of(table, output, target="target")
    made = make_splits(table.assign(label=strata), **SHARES, seed=seed)
    assert set(made["split"]) == {"train", "devel", "test"}
    counts = pd.crosstab(strata, made["split"])
    assert (counts > 0).all(axis=None), counts
    assert counts["train"].sum() >= 15
    if output == "linear":
        assert counts.sum(axis=1).between(5, 7).all()
        assert len(counts) == BINS
    # With train and test given, devel alone is drawn.
    given = table.assign(split=made["split"].replace("devel", "train"))
    strata = strata_of(given, output, target="target")
    made = make_splits(given.assign(label=strata), **SHARES, seed=seed)
    assert set(made["split"]) == {"train", "devel", "test"}


@pytest.mark.parametrize(
    ("output", "n_groups"),
    [("sigmoid", 12), ("sigmoid", 40), ("linear", 3), ("linear", 6), ("linear", 40)],
)
def test_splits_can_be_drawn_where_a_group_has_one_target(output, n_groups):
    # As of the age of speakers; one of them has a third of all recordings.
    cells = column_of_each_kind(n_groups)[output]
    speaker = np.append(np.repeat(np.arange(n_groups), 4), [0] * (2 * n_groups))
    table = table_of(target=[cells[i] for i in speaker], group=[f"s{i}" for i in speaker])
    strata = strata_of(table, output, target="target")
    for seed in range(3):
        made = make_splits(table.assign(label=strata), **SHARES, seed=seed)
        assert set(made["split"]) == {"train", "devel", "test"}
        assert made.groupby("group")["split"].nunique().max() == 1


def test_targets_survive_scanning(tmp_path, tones):
    data = DataSection(sample_rate=8000, segment_seconds=0.5, hop_seconds=0.5)
    table = load_labelled(tones, data, "softmax").assign(age=[str(i) for i in range(30)])
    scanned, _ = scan(table[:6], data)
    found = find_targets(scanned, DataSection(target="age"), "linear").encode(scanned)
    assert found.tolist() == [[i] for i in range(6)]


def test_several_labels_that_never_stand_alone(tmp_path):
    message = r"label is 'c;d' for .*1\.wav and 'd;a' for .*2\.wav; allowed: one label in each row"
    with pytest.raises(ManifestError, match=message):
        load(tmp_path, "a;b", "c;d", "d;a")
    assert len(load(tmp_path, "a;b", "c;d", "a;b")) == 3  # names with a semicolon, then
    assert len(load(tmp_path, "a;b", "c;d", "d;a", separator="|")) == 3


def test_one_column_of_flags():
    table = table_of(x=["1", "0", "1"])
    refused(
        lambda: find_targets(table, DataSection(target="x"), "sigmoid"),
        "x holds only 0, 1; allowed: names of labels; for a column of 0 and 1 give a list",
    )
    found = find_targets(table, DataSection(target=("x",)), "sigmoid")
    assert (found.labels, found.encode(table).tolist()) == (["x"], [[1], [0], [1]])


def test_numbers_that_are_hardly_labels(tmp_path):
    ages = [str(20 + i) for i in range(12)]
    message = "label holds 12 different numbers in 12 rows; allowed: labels"
    with pytest.raises(ManifestError, match=message):
        load(tmp_path, *ages)
    assert len(load(tmp_path, *ages, *ages)) == 24  # numbered classes
    assert len(load(tmp_path, *ages, "unknown")) == 13

import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from deepspectrumlite.errors import ManifestError
from deepspectrumlite.manifest import load_manifest, write_manifest

ROWS = {
    "path": ["a.wav", "sub/b.wav", "a.wav"],
    "label": ["01", "NA", "None"],
    "split": ["train", "validation", "Testing"],
    "group": ["7", "", "x y"],
    "start": ["0", "", "2.5"],
    "end": ["1.5", "", "3"],
    "note": ["1", "", "q"],
}


def write(path, text):
    path.write_bytes(text.encode())
    return path


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def save_as(kind, folder):
    frame = pd.DataFrame(ROWS)
    path = folder / f"list.{kind}"
    if kind == "parquet":
        numbers = {name: pd.to_numeric(frame[name]) for name in ("start", "end")}
        frame.assign(**numbers).to_parquet(path)
    elif kind in ("jsonl", "ndjson"):
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_csv(path, index=False, sep="\t" if kind == "tsv" else ",")
    return path


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "ndjson", "parquet"])
def test_every_format_gives_the_same_table(tmp_path, kind):
    table = load_manifest(save_as(kind, tmp_path))
    assert list(table) == list(ROWS)
    assert list(table.index) == [0, 1, 2]
    assert table["path"].tolist() == [str(tmp_path / p) for p in ROWS["path"]]
    assert table["label"].tolist() == ["01", "NA", "None"]
    assert table["split"].tolist() == ["train", "devel", "test"]
    assert table["group"].tolist() == ["7", "", "x y"]
    assert table["start"].tolist() == [0.0, 0.0, 2.5]
    np.testing.assert_array_equal(table["end"], [1.5, np.nan, 3.0])
    assert table["note"].tolist() == ["1", "", "q"]


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffpath,label\r\na.wav,x\r\nb.wav,y\r\n",
        "\ufeffpath;label\na.wav;x\nb.wav;y\n",
        'label;path;"a, b, c, d"\nx;a.wav;1\ny;b.wav;2',
        'path,label,"a;b;c;d"\na.wav,x,1\nb.wav,y,2',
        '"path", label\n"a.wav",x\n"b.wav","y"\n\n',
        "path,label,\na.wav,x,\n,,\nb.wav,y,\n",
    ],
)
def test_csv_dialects(tmp_path, text):
    table = load_manifest(write(tmp_path / "list.csv", text))
    assert table["path"].tolist() == [str(tmp_path / "a.wav"), str(tmp_path / "b.wav")]
    assert table["label"].tolist() == ["x", "y"]


def test_quoted_fields_and_absolute_paths(tmp_path):
    text = 'path,label\n"/data/a, b.wav","say ""hi"""\n../c.wav, x\n'
    table = load_manifest(write(tmp_path / "list.csv", text))
    assert table["path"].tolist() == ["/data/a, b.wav", str(tmp_path.parent / "c.wav")]
    assert table["label"].tolist() == ['say "hi"', " x"]


def test_relative_to_the_manifest_not_to_the_working_folder(tmp_path, monkeypatch):
    (tmp_path / "lists").mkdir()
    write(tmp_path / "lists/list.csv", "path,label\na.wav,x\n")
    monkeypatch.chdir(tmp_path)
    table = load_manifest(Path("lists/list.csv"))
    assert table["path"].tolist() == [str(tmp_path / "lists/a.wav")]


def test_numbers_as_labels_stay_as_written(tmp_path):
    lines = '{"path": "a.wav", "label": 1.0}\n\n{"path": "b.wav", "label": 1, "group": 7}\n'
    table = load_manifest(write(tmp_path / "list.jsonl", lines))
    assert table["label"].tolist() == ["1.0", "1"]
    assert table["group"].tolist() == ["", "7"]
    frame = pd.DataFrame({"path": ["a", "b"], "label": [0, 1], "group": [7, None]})
    frame.astype({"group": "Int64"}).to_parquet(tmp_path / "list.parquet")
    table = load_manifest(tmp_path / "list.parquet")
    assert table["label"].tolist() == ["0", "1"]
    assert table["group"].tolist() == ["7", ""]


def test_folder_of_classes(tmp_path):
    touch(tmp_path, "dog/b.wav", "dog/deep/a.FLAC", "cat/a.mp3", "cat/._a.mp3", "cat/notes.txt")
    touch(tmp_path, ".cache/x.wav", "readme.md")
    table = load_manifest(tmp_path)
    names = [str(Path(path).relative_to(tmp_path)) for path in table["path"]]
    assert names == ["cat/a.mp3", "dog/b.wav", "dog/deep/a.FLAC"]
    assert table["label"].tolist() == ["cat", "dog", "dog"]
    assert "split" not in table


def test_folder_of_splits(tmp_path):
    touch(tmp_path, "train/dog/1.wav", "dev/dog/2.wav", "test/cat/3.wav")
    table = load_manifest(tmp_path)
    assert dict(zip(table["split"], table["label"], strict=True)) == {
        "train": "dog",
        "devel": "dog",
        "test": "cat",
    }


def test_folder_without_labels(tmp_path):
    touch(tmp_path, "1.wav", "x/2.ogg")
    table = load_manifest(tmp_path, need_labels=False)
    assert list(table) == ["path"]
    assert table["path"].tolist() == [str(tmp_path / "1.wav"), str(tmp_path / "x/2.ogg")]


def test_labels_can_be_left_out(tmp_path):
    path = write(tmp_path / "list.csv", "path\na.wav\n")
    assert list(load_manifest(path, need_labels=False)) == ["path"]
    with pytest.raises(ManifestError, match=r"list.csv: no column label, only path; allowed: path"):
        load_manifest(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"cannot be read as .csv: No columns to parse"),
        ("path,label\n", r"no recordings in it"),
        ("file,class\na.wav,x\n", r"no column path and label, only file, class; allowed: path"),
        ("path,label\na.wav,x,y\nb.wav,x,y\n", r"more fields than the header; mend"),
        ("path,label\na.wav,x\nb.wav,x,y\n", r"Expected 2 fields in line 3, saw 3; mend"),
        (
            "path,label\na.wav,x\nb.wav\n",
            r"row 3: label is ''; allowed: anything but nothing; fill it in",
        ),
        (
            "path,label\na.wav,x\n\n ,x\n",
            r"row 4: path is ' '; allowed: anything but nothing; fill it in",
        ),
        ("path,label,split\na.wav,x,train\nb.wav,x,eval\n", r"row 3: split is 'eval'; .*train, d"),
        ("path,label,split\na.wav,x,\n", r"row 2: split is ''; allowed: train, devel, test"),
        ("path,label,start\na.wav,x,-1\n", r"row 2: start is '-1'; allowed: seconds from 0"),
        ("path,label,start\na.wav,x,nan\n", r"row 2: start is 'nan'; allowed: seconds"),
        ("path,label,end\na.wav,x,inf\n", r"row 2: end is 'inf'; allowed: seconds"),
        ("path;label;end\na.wav;x;1,5\n", r"row 2: end is '1,5'; allowed: seconds"),
        ("path,label,end\na.wav,x,0\n", r"row 2: end is '0.0'; allowed: a time after the start"),
        ("path,label,start,end\na.wav,x,0,1\na.wav,x,2,2\n", r"row 3: end is '2.0'; .*after"),
        ("path,label\na.wav,x\nb.wav,x\n./a.wav,y\n", r"row 4: path is '.*/a.wav', .* in row 2;"),
        (
            "path,label,end\na,x,1\na,x,2\na,x,2\na,x,1\n",
            r"row 4: path is '.*', the same path, end as in row 3; allowed: each once",
        ),
    ],
)
def test_errors_of_a_csv(tmp_path, text, message):
    path = write(tmp_path / "list.csv", text)
    with pytest.raises(ManifestError, match=message) as caught:
        load_manifest(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("list.xlsx", b"PK", r"a manifest cannot be of type '.xlsx'; allowed: .csv, .tsv"),
        ("list", b"", r"a manifest cannot be of type ''; allowed: .csv"),
        ("list.csv", b"path,label\n\xff\xfe.wav,x\n", r"cannot be read as .csv: .*utf-8.*; mend"),
        ("list.parquet", b"PAR1 not", r"cannot be read as .parquet: "),
        ("list.jsonl", b'{"path": "a"}\n{"path"\n', r"row 2 is not JSON \(Expecting ':'"),
        ("list.jsonl", b"\n[1]\n", r"row 2 is not an object like"),
        ("list.jsonl", b'{"path": "a", "label": "x"}\n\n{"path": "b"}', r"row 3: label is "),
    ],
)
def test_errors_of_other_files(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ManifestError, match=message):
        load_manifest(tmp_path / name)


def test_other_target_columns_come_behind_the_path(tmp_path):
    path = write(tmp_path / "list.csv", "note,split,age,x,path\nn,train,07,1,a.wav\n")
    table = load_manifest(path, targets=("x", "age"))
    assert list(table) == ["path", "x", "age", "split", "note"]
    assert table["age"].tolist() == ["07"]
    message = r"list.csv: no column y and label, only note, .*; allowed: path, x, y, label, and"
    with pytest.raises(ManifestError, match=message + ".*set data.target"):
        load_manifest(path, targets=("x", "y", "label"))


def test_targets_may_be_empty_where_that_is_allowed(tmp_path):
    path = write(tmp_path / "list.csv", "path,x,y\na.wav,,1\nb.wav,1,\n")
    table = load_manifest(path, targets=("x", "y"), allow_empty=True)
    assert table[["x", "y"]].to_numpy().tolist() == [["", "1"], ["1", ""]]
    with pytest.raises(ManifestError, match=r"row 2: x is ''; allowed: anything but nothing"):
        load_manifest(path, targets=("x", "y"))
    path = write(tmp_path / "list.csv", "path,x\n,1\n")
    with pytest.raises(ManifestError, match=r"row 2: path is ''; allowed: anything but nothing"):
        load_manifest(path, targets=("x",), allow_empty=True)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_lists_become_text(tmp_path, kind):
    frame = pd.DataFrame({"path": list("abc"), "label": [["x", "y"], ["z"], []], "note": [[1]] * 3})
    path = tmp_path / f"list.{kind}"
    if kind == "jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_parquet(path)
    table = load_manifest(path, separator=" | ", allow_empty=True)
    assert table["label"].tolist() == ["x | y", "z", ""]
    # Columns that are not learned stay as they are.
    assert [list(map(int, cell)) for cell in table["note"]] == [[1]] * 3
    with pytest.raises(ManifestError, match=r"row 1: label is .*; allowed: one value; for lists"):
        load_manifest(path)
    with pytest.raises(ManifestError, match=r"row 3: label is ''; allowed: anything but nothing"):
        load_manifest(path, separator=";")


def test_objects_are_no_labels(tmp_path):
    lines = '{"path": "a", "label": ["x"]}\n{"path": "b", "label": {"y": 1}}\n'
    path = write(tmp_path / "list.jsonl", lines)
    with pytest.raises(ManifestError, match=r"row 2: label is .*'y'.*; allowed: one value"):
        load_manifest(path, separator=";")


def test_missing_manifest(tmp_path):
    with pytest.raises(ManifestError, match=r"none.csv: no such manifest; allowed: .csv"):
        load_manifest(tmp_path / "none.csv")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["x/1.txt"], r"x: a class folder without recordings; allowed: .*\.wav"),
        (["train/x/1.wav", "test/y/notes.txt"], r"test/y: a class folder without recordings"),
        (["x/1.wav", "2.wav"], r"2.wav: a recording outside of a class folder; allowed: .*LABEL"),
        (["train/x/1.wav", "test/x/1.wav", "y/1.wav"], r"train look like splits, but y does not"),
        (["readme.txt"], r": no recordings in it"),
    ],
)
def test_errors_of_a_folder(tmp_path, names, message):
    touch(tmp_path, *names)
    with pytest.raises(ManifestError, match=message):
        load_manifest(tmp_path)


def test_round_trip(tmp_path):
    table = load_manifest(save_as("csv", tmp_path))
    table["path"] = [*table["path"][:2], "/elsewhere/ü, ;\"'.wav"]
    table["label"] = ["01", ' "NA"; x,', "None\nz"]
    table["start"] = [0.1 + 0.2, 0.0, 1e-7]
    write_manifest(table, tmp_path / "out.csv")
    assert "\nsub/b.wav," in (tmp_path / "out.csv").read_text(encoding="utf-8")
    table = table.astype(dict.fromkeys(("path", "label"), object))
    pd.testing.assert_frame_equal(load_manifest(tmp_path / "out.csv"), table)
    (tmp_path / "below").mkdir()
    write_manifest(table, tmp_path / "below/out.csv")
    pd.testing.assert_frame_equal(load_manifest(tmp_path / "below/out.csv"), table)


def test_a_hundred_thousand_rows(tmp_path):
    lines = (f"clips/{i}.wav,c{i % 7},{i // 10},0,1.5" for i in range(100_000))
    path = write(tmp_path / "list.csv", "path,label,group,start,end\n" + "\n".join(lines))
    begin = time.perf_counter()
    table = load_manifest(path)
    assert time.perf_counter() - begin < 20  # about 1 s; a loop in pandas takes minutes
    assert table["path"].iloc[-1] == str(tmp_path / "clips/99999.wav")

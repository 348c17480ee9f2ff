import io

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from deepspectrumlite.summary import findings, summarise, summary_tables


def scanned_table(**columns):
    table = pd.DataFrame(
        {
            "path": [f"/d/{i}.wav" for i in range(6)],
            "duration": [10.0, 20.0, 30.0, 60.0, 5.0, 7.0],
            "sample_rate": [8000, 8000, 16_000, 8000, 8000, 8000],
            "channels": [1, 1, 2, 1, 1, 1],
            "clipped": [False, True, False, False, False, False],
            "silent": [False, False, False, False, False, True],
            "digest": ["p", "q", "r", "p", "q", "s"],
        }
    )
    return table.assign(**columns)


SPLIT = {
    "split": ["train", "train", "train", "test", "train", "test"],
    "label": ["a", "a", "b", "a", "b", "b"],
    "group": ["g", "g", "h", "", "h", "i"],
}


def test_summary_numbers():
    summary = summarise(scanned_table(**SPLIT)).set_index(["split", "label"])
    assert summary.index.tolist() == [
        ("train", "a"),
        ("train", "b"),
        ("train", "total"),
        ("test", "a"),
        ("test", "b"),
        ("test", "total"),
        ("total", "total"),
    ]
    assert summary.loc[("train", "a")].tolist() == pytest.approx([2, 1, 0.5, 15, 50**0.5])
    assert summary["files"].tolist() == [2, 2, 4, 1, 1, 2, 6]
    assert summary["groups"].tolist() == [1, 1, 2, 0, 1, 1, 3]
    assert summary.loc[("total", "total"), "minutes"] == pytest.approx(2.2)
    assert summary.loc[("total", "total"), "mean"] == pytest.approx(22)
    assert summary.loc[("total", "total"), "sd"] == pytest.approx(
        np.std([10, 20, 30, 60, 5, 7], ddof=1)
    )
    assert np.isnan(summary.loc[("test", "a"), "sd"])


def test_summary_without_splits_labels_and_groups():
    summary = summarise(scanned_table())
    assert summary[["split", "label", "files", "groups"]].to_numpy().tolist() == [
        ["all", "all", 6, 0],
        ["all", "total", 6, 0],
    ]


def test_findings():
    found = findings(scanned_table(**SPLIT))
    assert found.sample_rates == {8000: 5, 16_000: 1}
    assert found.channels == {1: 5, 2: 1}
    assert found.clipped == ["/d/1.wav"]
    assert found.silent == ["/d/5.wav"]
    assert found.identical == [["/d/0.wav", "/d/3.wav"], ["/d/1.wav", "/d/4.wav"]]
    assert found.leaking == [["/d/0.wav", "/d/3.wav"]]
    assert found.contradicting == [["/d/1.wav", "/d/4.wav"]]
    plain = findings(scanned_table(digest=list("abcdef")))
    assert plain.identical == plain.leaking == plain.contradicting == []


def printed(scanned):
    console = Console(width=200, record=True, file=io.StringIO())
    for item in summary_tables(scanned):
        console.print(item, soft_wrap=True)
    return console.export_text()


def test_summary_tables():
    text = printed(scanned_table(**SPLIT).replace({"label": {"b": "[red]"}}))
    lines = [" ".join(line.replace("│", " ").split()) for line in text.splitlines()]
    assert "train a 2 1 0.50 15.00 7.07" in lines
    assert "train [red] 2 1 0.58 17.50 17.68" in lines
    assert "test a 1 - 1.00 60.00 -" in lines
    assert "Sample rates: 8000 Hz: 5, 16000 Hz: 1" in lines
    assert "Channels: 1: 5, 2: 1" in lines
    assert "Clipped (1): /d/1.wav" in lines
    assert "WARNING: identical recordings in different splits (1): /d/0.wav = /d/3.wav" in lines
    assert "WARNING: identical recordings with different labels (1): /d/1.wav = /d/4.wav" in lines


def test_long_lists_are_cut_and_empty_ones_left_out():
    text = printed(scanned_table(silent=True, clipped=False, digest=list("abcdef")))
    shown = ", ".join(f"/d/{i}.wav" for i in range(5))
    assert f"Silent (6): {shown}, and 1 more" in text
    assert "Clipped" not in text
    assert "dentical" not in text

"""The command that writes the page of a run, as a user types it."""

import shutil

import pytest


@pytest.fixture
def copied(trained, tmp_path):
    """A run that may be changed."""
    return shutil.copytree(trained, tmp_path / "run")


def test_page_and_card_are_written_and_named(run, copied):
    code, text, _ = run("report", copied, "--no-explain", "--no-audio")
    page, card = copied / "report.html", copied / "model_card.md"
    assert code == 0
    size = f"{page.stat().st_size / 1e6:.1f} MB"
    assert text.splitlines() == [f"Report: {page} ({size})   model card: {card}"]
    found = page.read_text(encoding="utf-8")
    assert "<h2>Scores on test</h2>" in found
    assert "<audio" not in found


def test_options_reach_the_page(run, copied, tmp_path):
    page, exported = tmp_path / "page.html", tmp_path / "tones.tflite"
    exported.write_bytes(b"not looked into")
    arguments = ("--out", page, "--split", "devel", "--exported", exported, "--worst", 0)
    code, _, _ = run("report", copied, *arguments, "--no-explain")
    assert code == 0
    found = page.read_text(encoding="utf-8")
    assert "<h2>Scores on devel</h2>" in found
    assert exported.name in found
    assert not (copied / "report.html").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("--split", "dev"), 2, "'dev'; allowed: train, devel, test"),
        (("--method", "lime"), 2, "'lime'; allowed: gradcam, shap, occlusion"),
        (("--out", "page.txt"), 1, "allowed: a name ending in .html"),
        (("--comparison", "/none"), 1, "/none: broken"),
        (("--exported", "/none.tflite"), 1, "/none.tflite: no such exported file"),
    ],
)
def test_mistakes_are_one_line(run, copied, arguments, code, told):
    found, _, errors = run("report", copied, "--no-explain", *arguments)
    assert found == code
    assert told in " ".join(" ".join(errors).replace("│", " ").split())
    assert not (copied / "report.html").exists()


@pytest.mark.parametrize("name", ["", "nope"])
def test_what_is_no_run(run, tmp_path, name):
    code, _, errors = run("report", tmp_path / name)
    assert code == 1
    assert len(errors) == 1
    assert "no model there" in errors[0]

"""The command that explains, as a user types it."""

import json
import shutil

import numpy as np
import pytest
import soundfile
from PIL import Image


def test_explains_files_and_goes_on_after_a_bad_one(run, trained, tones, tmp_path):
    (tmp_path / "bad.wav").write_bytes(b"no sound")
    good, out = tones.parent / "low-test-0.wav", tmp_path / "out"
    arguments = ("explain", trained, tmp_path / "bad.wav", good, "--out", out, "--listen")
    code, text, errors = run(*arguments, "--target", "low", "--target", "high", "--samples", 90)
    assert code == 1
    assert "bad.wav" in errors[0]
    assert "1 of 2 files could not be explained." in errors[-1]
    counted = "explanations.json, 1 picture, 2 WAV files"
    assert text.splitlines()[-1] == f"Written to {out}: {counted}"
    written = json.loads((out / "explanations.json").read_text())
    (found,) = written["explanations"]
    assert found["path"] == str(good)
    assert [each["target"] for each in found["maps"]] == ["low", "high"]
    for each in found["maps"]:
        assert each["samples"] == 90
        assert each["change"] == pytest.approx(each["score"] - each["baseline_score"])
        assert abs(each["sum"]) > 0.01
        (row,) = (line for line in text.splitlines() if f" {each['target']} " in line)
        differs = f"{abs(each['sum'] - each['change']):.2g} ("
        for shown in (f"{each['score']:.3g}", f"{each['change']:+.3g}", f"{each['sum']:+.3g}"):
            assert shown in row
        assert differs in row
    names = ["low-test-0.png", "low-test-0-low-listen.wav", "low-test-0-high-listen.wav"]
    assert found["files"] == names
    assert {path.name for path in out.iterdir()} == {"explanations.json", *names}
    with Image.open(out / names[0]) as image:
        assert image.width > 2 * image.height
    assert soundfile.info(out / names[1]).frames == 4000


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        (("--samples", 1), ", or none, which takes them until maps add up, or --of logit"),
        (("--samples", 1, "--of", "logit"), ", or none, which takes them until maps add up"),
    ],
)
def test_maps_that_do_not_add_up_are_told_of(run, trained, tones, tmp_path, options, advice):
    path = tones.parent / "low-test-0.wav"
    code, text, errors = run(
        "explain", trained, path, "--target", "all", "--out", tmp_path, *options
    )
    assert code == 0
    (found,) = json.loads((tmp_path / "explanations.json").read_text())["explanations"]
    off = [each for each in found["maps"] if each["within_tolerance"] is False]
    assert len(off) > 0
    for each in off:
        assert abs(each["sum"] - each["change"]) > 0.05 * abs(each["change"])
    (note,) = errors
    assert note.startswith(f"Note: {len(off)} of 3 maps did not add up to the change of the score")
    assert note.endswith(f"try more --samples{advice}")
    assert text.splitlines()[-1].endswith(": explanations.json, 1 picture")


def test_maps_that_add_up_need_no_note(run, trained, tones, tmp_path):
    path = tones.parent / "low-test-0.wav"
    code, _, errors = run("explain", trained, path, "--out", tmp_path, "--method", "gradcam")
    assert (code, errors) == (0, [])
    (found,) = json.loads((tmp_path / "explanations.json").read_text())["explanations"]
    assert [each["within_tolerance"] for each in found["maps"]] == [None]


def test_every_segment_and_namesakes_have_names_of_their_own(run, trained, tones, tmp_path):
    (tmp_path / "a").mkdir()
    source = tones.parent / "low-test-0.wav"
    copy = shutil.copy(source, tmp_path / "a" / source.name)
    arguments = ("explain", trained, source, copy, "--out", tmp_path / "out", "--method", "gradcam")
    code, text, _ = run(*arguments, "--segments", "all")
    assert code == 0
    pictures = {path.name for path in (tmp_path / "out").glob("*.png")}
    assert pictures == {
        f"low-test-0-{start}s{again}.png" for start in ("0.00", "0.50") for again in ("", "-2")
    }
    assert "change" not in text  # Grad-CAM has no such thing


def test_occlusion_by_blocks(run, trained, tones, tmp_path):
    path = tones.parent / "high-test-0.wav"
    arguments = ("explain", trained, path, "--out", tmp_path, "--method", "occlusion")
    code, _, _ = run(*arguments, "--block", 1, 0.5)
    assert code == 0
    (found,) = json.loads((tmp_path / "explanations.json").read_text())["explanations"]
    assert [each["samples"] for each in found["maps"]] == [3]


def test_a_split_gets_averages_and_figures(run, trained, tmp_path):
    arguments = ("explain", trained, "--split", "test", "--count", 1, "--method", "gradcam")
    code, text, _ = run(*arguments, "--out", tmp_path)
    assert code == 0
    assert {path.name for path in tmp_path.iterdir()} == {
        "averages.png",
        "faithfulness.png",
        "faithfulness.json",
    }
    figures = json.loads((tmp_path / "faithfulness.json").read_text())
    assert (figures["segments"], figures["over"]) == (3, "3 segments")
    assert "95 % intervals over 3 segments" in text
    assert f"{figures['deletion_gain']['value']:.3f}" in text
    gain = figures["insertion"]["value"] - figures["random_insertion"]["value"]
    assert figures["insertion_gain"]["value"] == pytest.approx(gain)
    assert -1 <= figures["sanity_signed"]["value"] <= 1


def test_a_model_without_its_manifest(run, trained, tones, tmp_path):
    model = shutil.copytree(trained / "model", tmp_path / "moved")
    path, out = tones.parent / "low-test-0.wav", tmp_path / "out"
    code, _, errors = run("explain", model, path, "--out", out)
    assert (code, len(errors)) == (1, 1)
    assert "as --background MANIFEST_OR_FOLDER" in errors[0]
    assert run("explain", model, path, "--out", out, "--method", "gradcam")[0] == 0
    folder = tmp_path / "others"
    folder.mkdir()
    rng = np.random.default_rng(0)
    soundfile.write(folder / "a.wav", rng.uniform(-1, 1, 8000), 8000)
    options = ("--background", folder, "--samples", 4)
    assert run("explain", model, path, "--out", out, *options)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("a.wav", "--target", "loud"), 1, "target 'loud' is unknown to the model; allowed: high"),
        (("a.wav", "--method", "magic"), 2, "--method is 'magic'; allowed: shap, gradcam"),
        (("a.wav", "--segments", "some"), 2, "allowed: strongest, all"),
        (("a.wav", "--of", "loss"), 2, "allowed: score, logit"),
        ((), 2, "give either recordings, or --split"),
        (("a.wav", "--split", "test"), 2, "give either recordings, or --split"),
        (("--split", "test", "--listen"), 2, "do not go with --split"),
        (("--split", "nights"), 1, "no recording in nights"),
    ],
)
def test_errors(run, trained, tmp_path, arguments, code, message):
    found, _, errors = run("explain", trained, *arguments, "--out", tmp_path / "out")
    assert found == code
    assert message in " ".join(" ".join(errors).replace("│", " ").split())


def test_an_exported_file_has_no_gradients(run, tmp_path):
    (tmp_path / "tones.tflite").write_bytes(b"TFL3")
    code, _, errors = run("explain", tmp_path / "tones.tflite", "a.wav", "--out", tmp_path / "out")
    assert (code, len(errors)) == (1, 1)
    assert "has no gradients; allowed: the run or model folder" in errors[0]

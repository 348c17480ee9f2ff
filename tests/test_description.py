import dataclasses
import json
import random
import re
import zipfile

import numpy as np
import pytest

from deepspectrumlite.audio import cut_segments
from deepspectrumlite.config import parse_recipe
from deepspectrumlite.decisions import Decision
from deepspectrumlite.description import Description, file_kind, read_description, sealed_json
from deepspectrumlite.errors import ModelError
from deepspectrumlite.metadata import describe
from deepspectrumlite.model import Classifier

LABELS = {
    "softmax": ["kick", "Schnarre äß", "tom"],
    "sigmoid": ["cough", "sneeze"],
    "linear": ["age", "height"],
    "ordinal": ["1", "2", "10"],
}


def make(**changes):
    values = {
        "output": "softmax",
        "labels": ["kick", "snare"],
        "sample_rate": 8000,
        "segment_samples": 4000,
        "hop_samples": 2000,
        "padding": "repeat",
        "tail": "keep",
        "precision": "float32",
        "digest": "00ff",
        "recipe": {},
    }
    return Description(**values | changes)


@pytest.mark.parametrize("output", LABELS)
def test_it_is_read_as_it_was_written(make_recipe, output):
    columns = ['data.target=["age", "height"]'] if output == "linear" else []
    recipe = make_recipe(f"model.output={output}", "model.backbone=lcnet_035", *columns)
    model = Classifier(recipe, LABELS[output])
    if output == "sigmoid":
        model.thresholds[0] = 0.3
        model.temperature.fill_(1.5)
    written = describe(model, precision="int8", stream={"smoothing": "ema"})
    found = Description.from_json(written.to_json())
    assert found == written
    assert found.decision == dataclasses.replace(
        model.decision, thresholds=list(model.decision.thresholds)
    )
    assert parse_recipe(found.recipe) == recipe
    assert found.temperature == {"softmax": 1.0, "sigmoid": [1.5, 1.5]}.get(output)
    assert (found.precision, found.stream) == ("int8", {"smoothing": "ema"})


@pytest.mark.parametrize("unknown", ["score", "energy"])
def test_sets_and_refusals_are_carried(make_recipe, unknown):
    recipe = make_recipe("model.backbone=lcnet_035", f"decision.unknown={unknown}")
    model = Classifier(recipe, ["a", "b"])
    assert describe(model).conformal is None
    model.conformal.fill_(0.25)
    if unknown == "score":
        model.score_below.fill_(0.75)
    written = describe(model)
    found = Description.from_json(written.to_json())
    assert found == written
    assert (found.unknown, found.conformal) == (unknown, 0.25)
    assert found.unknown_below == (0.75 if unknown == "score" else 0.0)
    scores = np.array([0.7, 0.3, 0.5][: len(found.decision.columns)])
    assert found.decision.describe(scores) == model.decision.describe(scores)
    assert found.decision.answer(scores) == ["unknown"]


def test_a_file_from_before_decisions_is_read():
    values = json.loads(make().to_json())
    for key in ("unknown", "unknown_below", "conformal"):
        del values[key]
    assert Description.from_json(json.dumps(values)) == dataclasses.replace(
        make(), thresholds=[], values=[]
    )


def test_it_cuts_as_the_recipe_does(make_recipe):
    recipe = make_recipe("data.hop_seconds=0.2", "model.backbone=lcnet_035", "data.padding=zero")
    description = describe(Classifier(recipe, ["a", "b"]))
    waveform = np.arange(9001, dtype=np.float32)
    np.testing.assert_array_equal(
        cut_segments(waveform, description), cut_segments(waveform, recipe.data)
    )


def test_defaults_and_unknown_keys():
    values = json.loads(make().to_json()) | {"of a later version": 1}
    found = Description.from_json(json.dumps(values))
    assert found.decision == Decision("softmax", ["kick", "snare"], [], [])
    assert (found.stream, found.temperature, found.format) == (None, None, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"output": "sofmax"}, 'output is "sofmax"'),
        ({"labels": []}, r"labels is \[\]"),
        ({"labels": ["a", 1]}, "labels is "),
        ({"labels": "ab"}, "labels is "),
        ({"sample_rate": 0}, "sample_rate is 0"),
        ({"sample_rate": 8000.0}, "sample_rate is 8000.0"),
        ({"segment_samples": True}, "segment_samples is true"),
        ({"hop_samples": 4001}, r"hop_samples is 4001, above segment_samples \(4000\)"),
        ({"padding": "wrap"}, 'padding is "wrap"'),
        ({"tail": None}, "tail is null"),
        ({"thresholds": ["x"]}, r'thresholds is \["x"\]'),
        ({"output": "sigmoid", "thresholds": [0.5]}, "1 thresholds for 2 labels"),
        ({"output": "ordinal"}, "0 values for 2 labels"),
        ({"temperature": -1}, "temperature is -1"),
        ({"temperature": [1.0, 0]}, r"temperature is \[1.0, 0\]"),
        ({"temperature": [1.0]}, "1 temperatures for 2 labels"),
        ({"unknown": "maybe"}, 'unknown is "maybe"'),
        ({"unknown_below": None}, "unknown_below is null"),
        ({"conformal": "0.1"}, 'conformal is "0.1"'),
        ({"recipe": []}, r"recipe is \[\]"),
        ({"stream": 3}, "stream is 3"),
        ({"format": "1"}, 'format is "1"'),
    ],
)
def test_broken_values_are_refused(changes, message):
    values = json.loads(make().to_json()) | changes
    with pytest.raises(ModelError, match=f"^f.tflite: a broken description: {message}") as caught:
        Description.from_json(json.dumps(values), "f.tflite")
    assert "\n" not in str(caught.value)


def test_broken_json_is_refused():
    for text in ("", "{", "[1]", b"\xff{}", make().to_json()[:-2]):
        with pytest.raises(ModelError, match=r"^f: a broken description.*copy the file again"):
            Description.from_json(text, "f")
    values = json.loads(make().to_json())
    del values["labels"]
    with pytest.raises(ModelError, match="labels is missing"):
        Description.from_json(json.dumps(values))


def test_a_newer_format_is_refused_whatever_else_it_holds():
    text = json.dumps({"format": 2, "version": "9.1"})
    expected = (
        "f: written by deepspectrumlite 9.1 in format 2; this is .*up to format 1, so upgrade"
    )
    with pytest.raises(ModelError, match=expected):
        Description.from_json(text, "f")


def test_numbers_that_json_does_not_know_are_not_written():
    with pytest.raises(ValueError, match="JSON"):
        make(thresholds=[float("nan")]).to_json()


def test_kinds_of_files(tmp_path, exported, exported_onnx):
    renamed = tmp_path / "drums.model"
    renamed.write_bytes(exported.read_bytes()[:100])
    assert file_kind(renamed) == "tflite"
    assert file_kind(exported_onnx) == "onnx"
    (tmp_path / "a.csv").write_text("path,label\n")
    (tmp_path / "a.tflite").write_text("path,label\n")
    for path, message in (
        (tmp_path / "a.csv", "no model there; allowed: a run folder, a model folder, or a .tflite"),
        (tmp_path / "a.tflite", "does not begin like a .tflite file"),
        (tmp_path / "absent.onnx", r"cannot be read \(No such file or directory\)"),
        (tmp_path, r"cannot be read \(Is a directory\)"),
    ):
        with pytest.raises(ModelError, match=f"^{re.escape(str(path))}: .*{message}"):
            read_description(path)


def flipped(data, place, bit):
    return data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]


def test_a_flipped_bit_is_noticed_or_harmless(tmp_path):
    path, expected = tmp_path / "a.tflite", make(labels=["kick", "snare"])
    model = b"\x1c\0\0\0TFL3" + bytes(range(256))
    path.write_bytes(model)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("labels.txt", "kick\nsnare\n")
        archive.writestr("deepspectrumlite.json", sealed_json(expected, model))
    data, rng = path.read_bytes(), random.Random(0)
    read = Description.from_json(expected.to_json())
    assert read_description(path) == read
    errors = []
    for place in range(len(data)):
        path.write_bytes(flipped(data, place, rng.randrange(8)))
        try:
            assert read_description(path) == read
        except ModelError as error:
            errors.append(str(error))
    assert [x for x in errors if not x.startswith(f"{path}: ") or "\n" in x] == []
    # The rest are in fields of the archive that nothing depends on.
    assert len(errors) > 0.8 * len(data)


def test_it_is_found_in_the_files(exported, exported_onnx, trained):
    from deepspectrumlite.model import load_model

    expected = describe(load_model(trained))
    assert read_description(exported) == expected
    assert read_description(exported_onnx) == expected

import json
import math

import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from deepspectrumlite import __version__
from deepspectrumlite.config import ModelSection, parse_recipe
from deepspectrumlite.errors import ModelError, RecipeError
from deepspectrumlite.model import (
    ACTIVATIONS,
    FORMAT,
    AReLU,
    Classifier,
    decide_by,
    load_model,
    make_head,
    model_folder,
)

LABELS = ["kick", "snare drum", "Zähler-Ö 🥁"]
RATE, N = 8000, 4000


def small_recipe(**model):
    return parse_recipe(
        {
            "data": {"sample_rate": RATE, "segment_seconds": N / RATE, "hop_seconds": 0.25},
            "frontend": {"n_mels": 32, "image_height": 32, "image_width": 40},
            "model": {"weights": "random", "units": 16, **model},
        }
    )


def small_model(seed=0, labels=LABELS, **model):
    torch.manual_seed(seed)
    return Classifier(small_recipe(**model), labels).eval()


def noise(batch=3, seed=0):
    return torch.rand(batch, N, generator=torch.Generator().manual_seed(seed)) - 0.5


def scores(model, waveform):
    with torch.no_grad():
        return model(waveform)


@pytest.fixture
def saved(tmp_path):
    small_model().save(tmp_path / "model")
    return tmp_path / "model"


def rewrite(path, change):
    value = json.loads(path.read_text(encoding="utf-8"))
    change(value)
    path.write_text(json.dumps(value), encoding="utf-8")


def refused(folder):
    with pytest.raises(ModelError) as info:
        load_model(folder)
    return str(info.value)


def test_arelu_against_numbers_by_hand():
    # sigmoid(2) = 0.880797, so that positive inputs are multiplied by 1.880797.
    x = torch.tensor([[-2.0, -0.5, 0.0], [0.5, 1.0, 3.0]])
    expected = torch.tensor([[-1.8, -0.45, 0.0], [0.9403985, 1.880797, 5.642391]])
    torch.testing.assert_close(AReLU()(x), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("alpha", "slope"), [(-3.0, 0.01), (0.01, 0.01), (0.25, 0.25), (0.99, 0.99), (7.0, 0.99)]
)
@pytest.mark.parametrize(("beta", "gain"), [(0.0, 1.5), (-100.0, 1.0), (math.log(3), 1.75)])
def test_arelu_clamps_alpha_and_amplifies_by_beta(alpha, slope, beta, gain):
    found = AReLU(alpha, beta)(torch.tensor([-4.0, 4.0]))
    torch.testing.assert_close(found, torch.tensor([-4 * slope, 4 * gain]))


def test_arelu_gradients():
    layer, x = AReLU(), torch.tensor([-3.0, -1.0, 2.0, 5.0], requires_grad=True)
    layer(x).sum().backward()
    # d/d alpha: the negative inputs; d/d beta: sigmoid'(2) = 0.1049936 of the positive ones.
    assert layer.alpha.grad.item() == pytest.approx(-4.0)
    assert layer.beta.grad.item() == pytest.approx(7 * 0.1049936, rel=1e-5)
    torch.testing.assert_close(x.grad, torch.tensor([0.9, 0.9, 1.880797, 1.880797]))
    clamped = AReLU(alpha=2.0)
    clamped(x).sum().backward()
    assert clamped.alpha.grad.item() == 0


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_head_with_a_hidden_layer(activation):
    section = ModelSection(units=7, activation=activation, dropout=0.5)
    head = make_head(section, 11, 3)
    assert [type(layer) for layer in head] == [
        nn.Linear,
        ACTIVATIONS[activation],
        nn.Dropout,
        nn.Linear,
    ]
    n_parameters = 11 * 7 + 7 + 7 * 3 + 3 + 2 * (activation == "arelu")
    assert sum(p.numel() for p in head.parameters()) == n_parameters
    x = torch.randn(5, 11, generator=torch.Generator().manual_seed(0))
    hidden = {
        "arelu": lambda v: torch.where(v > 0, v * 1.880797, v * 0.9),
        "elu": lambda v: torch.where(v > 0, v, v.exp() - 1),
        "gelu": lambda v: v * 0.5 * (1 + torch.erf(v / math.sqrt(2))),
        "relu": lambda v: v.clamp(min=0),
        "silu": lambda v: v / (1 + (-v).exp()),
        "tanh": torch.tanh,
    }[activation](x @ head[0].weight.T + head[0].bias)
    expected = hidden @ head[3].weight.T + head[3].bias
    torch.testing.assert_close(head.eval()(x), expected)


def test_head_without_a_hidden_layer_and_dropout():
    head = make_head(ModelSection(units=0, dropout=0.75), 1000, 2)
    assert [type(layer) for layer in head] == [nn.Dropout, nn.Linear]
    x = torch.ones(1, 1000)
    expected = head[1].weight.sum(dim=1) + head[1].bias
    torch.testing.assert_close(head.eval()(x)[0], expected)
    torch.manual_seed(0)
    dropped = head.train()[0](x)
    assert (dropped == 0).float().mean().item() == pytest.approx(0.75, abs=0.05)
    assert dropped.max() == 4


@pytest.mark.parametrize("output", ["softmax", "sigmoid", "linear"])
def test_scores_are_the_logits_behind_the_output(output):
    model, waveform = small_model(output=output), noise()
    if output == "linear":
        model.offset.copy_(torch.tensor([10.0, -1.0, 0.0]))
        model.scale.copy_(torch.tensor([2.0, 0.5, 1e-3]))
    with torch.no_grad():
        logits = model.logits(model.frontend(waveform))
    assert logits.shape == (3, 3)
    exponents = logits.double().exp()
    expected = {
        "softmax": exponents / exponents.sum(dim=1, keepdim=True),
        "sigmoid": exponents / (1 + exponents),
        "linear": logits.double() * torch.tensor([2, 0.5, 1e-3]) + torch.tensor([10, -1, 0]),
    }[output]
    torch.testing.assert_close(scores(model, waveform).double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backbone", ["mobilenet_v2", "efficientnet_lite0"])
def test_each_segment_is_scored_by_itself(backbone):
    model, waveform = small_model(backbone=backbone), noise(5)
    together = scores(model, waveform)
    assert together.shape == (5, len(LABELS))
    alone = torch.cat([scores(model, waveform[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("output", ["softmax", "sigmoid", "linear", "ordinal"])
@pytest.mark.parametrize("color_map", ["viridis", "none"])
def test_silence_and_extremes_give_finite_scores(output, color_map):
    recipe = small_recipe(output=output).model_dump()
    recipe["frontend"]["color_map"] = color_map
    torch.manual_seed(0)
    labels = ["1", "2", "3"] if output == "ordinal" else LABELS
    model = Classifier(parse_recipe(recipe), labels).eval()
    click = torch.zeros(N)
    click[N // 2] = 1
    square = torch.sign(torch.sin(torch.arange(N) * 0.3) + 1e-3)
    inputs = {
        "silence": torch.zeros(N),
        "click": click,
        "full scale": square,
        "constant": torch.ones(N),
        "far above full scale": square * 1e6,
        "one part in a million": square * 1e-6,
        "denormal": square * 1e-40,
        "loud and soft": torch.where(torch.arange(N) < N // 2, square, square * 1e-12),
    }
    found = scores(model, torch.stack(list(inputs.values())))
    assert found.shape == (8, model.n_outputs)
    for name, row in zip(inputs, found, strict=True):
        assert torch.isfinite(row).all(), name
    if output in ("softmax", "sigmoid"):
        assert ((found >= 0) & (found <= 1)).all()


@pytest.mark.parametrize(
    "model",
    [
        {},
        {"units": 0, "output": "sigmoid"},
        {"backbone": "efficientnet_lite0", "activation": "gelu", "output": "linear"},
    ],
)
def test_saved_model_gives_identical_scores(tmp_path, model):
    before = small_model(**model)
    # As after training: other statistics, other alpha and beta, another memory layout.
    before.train()(noise(4, seed=1))
    before.eval().backbone.to(memory_format=torch.channels_last)
    with torch.no_grad():
        for parameter in before.head.parameters():
            parameter.add_(0.1)
    before.save(tmp_path / "deep" / "model")
    after = load_model(tmp_path / "deep" / "model")
    assert not after.training
    assert after.labels == LABELS
    assert after.recipe == before.recipe
    states = before.state_dict(), after.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    after.backbone.to(memory_format=torch.channels_last)
    assert torch.equal(scores(after, noise()), scores(before, noise()))


def trained_model(output, labels=("1", "2", "10")):
    """As after training: thresholds or the unit of the numbers are set."""
    model = small_model(seed=3, labels=labels, output=output)
    if output in ("softmax", "sigmoid"):
        model.temperature.fill_(0.8)
    if output == "sigmoid":
        model.thresholds.copy_(torch.tensor([0.1, 0.45, 0.999]))
    if output in ("linear", "ordinal"):
        n = model.n_outputs
        model.offset.copy_(torch.tensor([5.5, -3.0, 1e-3][:n]))
        model.scale.copy_(torch.tensor([2.5, 1e4, 1 / 3][:n]))
    return model


@pytest.mark.parametrize(
    ("output", "n_outputs", "buffers"),
    [
        ("softmax", 3, {"temperature", "conformal"}),
        ("sigmoid", 3, {"temperature", "thresholds"}),
        ("linear", 3, {"offset", "scale"}),
        ("ordinal", 1, {"offset", "scale"}),
    ],
)
def test_each_output_is_saved_with_what_its_scores_mean(tmp_path, output, n_outputs, buffers):
    before = trained_model(output)
    assert before.n_outputs == before.head[-1].out_features == n_outputs
    before.save(tmp_path)
    after = load_model(tmp_path)
    states = before.state_dict(), after.state_dict()
    assert {name for name in states[1] if "." not in name} == buffers
    for name in buffers:
        assert torch.equal(states[0][name], states[1][name])
    found = scores(after, noise())
    assert found.shape == (3, n_outputs)
    assert torch.equal(found, scores(before, noise()))
    assert after.decision == before.decision
    assert after.targets == before.targets
    assert after.n_outputs == n_outputs


def test_decisions_of_each_output():
    found = {output: trained_model(output).decision for output in ("softmax", "sigmoid", "ordinal")}
    assert {decision.output for decision in found.values()} == set(found)
    assert all(decision.labels == ["1", "2", "10"] for decision in found.values())
    assert not found["softmax"].thresholds
    assert not found["softmax"].values
    assert found["sigmoid"].thresholds == torch.tensor([0.1, 0.45, 0.999]).tolist()
    assert found["ordinal"].values == [1, 2, 10]
    assert found["ordinal"].columns == ["value"]
    # Half and half until devel says better.
    assert small_model(output="sigmoid").decision.thresholds == [0.5, 0.5, 0.5]
    assert trained_model("linear").decision.values == []


def test_a_score_at_its_threshold_counts():
    model = trained_model("sigmoid")
    assert model.decision.answer(model.thresholds.numpy()) == ["1", "2", "10"]
    below = torch.nextafter(model.thresholds, torch.zeros(3)).numpy()
    assert model.decision.answer(below) == []


def ordered_model(order):
    values = small_recipe(output="ordinal").model_dump()
    values["data"]["order"] = order
    return Classifier(parse_recipe(values), [x for x in order if x != "mid"]).eval()


def test_a_given_order_travels_with_the_model(tmp_path):
    ordered_model(["low", "mid", "high"]).save(tmp_path)
    after = load_model(tmp_path)
    assert after.targets.values == after.decision.values == [0, 2]
    table = pd.DataFrame({"path": ["a", "b"], "label": ["high", "low"]})
    assert after.targets.encode(table).tolist() == [[2], [0]]


@pytest.mark.parametrize("order", [[], ["low", "mid"]])
def test_an_order_that_lost_a_label_is_refused(tmp_path, order):
    ordered_model(["low", "mid", "high"]).save(tmp_path)
    rewrite(tmp_path / "recipe.json", lambda described: described["data"].update(order=order))
    assert refused(tmp_path) == (
        f"{tmp_path / 'recipe.json'}: data.order is {order}, which does not give each of the "
        "labels ['low', 'high'] a number; restore the file as it was written"
    )


@pytest.mark.parametrize(("was", "now"), [("sigmoid", "softmax"), ("softmax", "linear")])
def test_another_output_than_trained_is_refused(tmp_path, was, now):
    trained_model(was).save(tmp_path)
    rewrite(tmp_path / "recipe.json", lambda described: described["model"].update(output=now))
    assert "model.safetensors: not the weights of its recipe: " in refused(tmp_path)


def deciding_model(unknown, **more):
    recipe = small_recipe().model_dump()
    recipe["decision"] |= {"unknown": unknown, **more}
    torch.manual_seed(0)
    model = Classifier(parse_recipe(recipe), LABELS).eval()
    model.temperature.fill_(1.7)
    return model


def test_the_score_of_being_unknown_is_one_half_at_the_bound_of_the_energy():
    model, waveform = deciding_model("energy"), noise()
    with torch.no_grad():
        logits = model.logits(model.frontend(waveform)).double()
    # Liu et al. 2020, eq. 4: the free energy, at the temperature of the scores.
    energy = -1.7 * torch.log(torch.exp(logits / 1.7).sum(dim=1))
    evidence = -energy / 1.7
    # Until it is fitted, nothing is refused, and the scores are as without.
    before = scores(model, waveform)
    assert before.shape == (3, 4)
    assert (before[:, -1] == 0).all()
    torch.testing.assert_close(before[:, :3], scores(deciding_model("none"), waveform))
    for bound in (evidence[0], evidence[1] + 2, evidence[2] - 30):
        model.energy_below.fill_(bound)
        found = scores(model, waveform)
        torch.testing.assert_close(found[:, :3], before[:, :3])
        expected = torch.sigmoid(bound - evidence).float()
        torch.testing.assert_close(found[:, 3], expected, rtol=1e-4, atol=1e-7)
    # On either side of the bound, however little.
    for shift, answer in ((1e-3, True), (-1e-3, False)):
        model.energy_below.fill_(evidence[0] + shift)
        assert model.decision.refused(scores(model, waveform).numpy())[0] == answer


@pytest.mark.parametrize("level", [-80.0, 80.0])
def test_the_score_of_being_unknown_is_finite_for_extreme_logits(level):
    model = deciding_model("energy")
    model.energy_below.fill_(3.0)
    found = model.scores(torch.tensor([[level, level - 1, 0.0]]))
    assert torch.isfinite(found).all()
    assert found[0, 3] == pytest.approx(0 if level > 0 else 0.9526, abs=1e-4)


@pytest.mark.parametrize("unknown", ["none", "score", "energy"])
def test_what_decides_is_saved_with_the_model(tmp_path, unknown):
    before = deciding_model(unknown)
    before.conformal.fill_(0.125)
    if unknown != "none":
        getattr(before, f"{unknown}_below").fill_(0.375)
    before.save(tmp_path)
    after = load_model(tmp_path)
    assert after.decision == before.decision
    assert after.decision.conformal == 0.125
    assert after.decision.unknown == unknown
    assert after.decision.unknown_below == (0.375 if unknown == "score" else 0.0)
    assert torch.equal(scores(after, noise()), scores(before, noise()))
    # Another way to decide begins without what was fitted for this one.
    other = "score" if unknown == "energy" else "energy"
    changed = decide_by(after, {"unknown": other, "coverage": 0.5})
    assert changed.recipe.decision.coverage == 0.5
    assert changed.recipe.decision.unknown == other
    assert changed.decision.unknown_below == 0.0
    assert not changed.decision.refused(scores(changed, noise()).numpy()).any()
    assert torch.equal(scores(changed, noise())[:, :3], scores(before, noise())[:, :3])


@pytest.mark.parametrize("output", ["softmax", "sigmoid"])
def test_a_folder_from_before_decisions_is_read(tmp_path, output):
    before = trained_model(output)
    before.save(tmp_path)
    rewrite(tmp_path / "recipe.json", lambda described: described.pop("decision"))
    state = load_file(tmp_path / "model.safetensors")
    state.pop("conformal", None)
    state["temperature"] = torch.tensor(0.8)  # one for all labels
    save_file(state, tmp_path / "model.safetensors", {"labels": json.dumps(before.labels)})
    after = load_model(tmp_path)
    assert after.decision == before.decision
    assert after.decision.conformal is None
    assert torch.equal(scores(after, noise()), scores(before, noise()))
    after.temperature[...] = 0.9  # not a view of one number
    after.save(tmp_path)
    assert load_model(tmp_path).temperature.shape == before.temperature.shape


def test_a_real_label_cannot_be_named_as_what_is_none_of_them():
    recipe = small_recipe().model_dump()
    Classifier(parse_recipe(recipe), ["dog", "unknown"])
    recipe["decision"]["unknown"] = "score"
    with pytest.raises(ModelError, match=r'decision\.unknown is "score", but "unknown" is one of'):
        Classifier(parse_recipe(recipe), ["dog", "unknown"])
    with pytest.raises(RecipeError, match=r"decision\.unknown.*model\.output \"softmax\""):
        decide_by(trained_model("sigmoid"), {"unknown": "energy"})


def test_saving_again_replaces_the_model(saved):
    other = small_model(seed=9, labels=["a", "b"])
    other.save(saved)
    loaded = load_model(saved)
    assert loaded.labels == ["a", "b"]
    assert torch.equal(scores(loaded, noise()), scores(other, noise()))


def test_folder_holds_text_and_safetensors_and_no_pickle(saved):
    assert {p.name for p in saved.iterdir()} == {"recipe.json", "labels.json", "model.safetensors"}
    assert json.loads((saved / "labels.json").read_text(encoding="utf-8")) == LABELS
    assert "Zähler-Ö 🥁" in (saved / "labels.json").read_text(encoding="utf-8")
    described = json.loads((saved / "recipe.json").read_text(encoding="utf-8"))
    assert described.pop("format") == FORMAT == 1
    assert described.pop("version") == __version__
    assert parse_recipe(described) == small_recipe()
    with safe_open(saved / "model.safetensors", framework="pt") as file:
        metadata = file.metadata()
        names = set(file.keys())
    assert json.loads(metadata["labels"]) == LABELS
    assert set(metadata) == {"labels"}
    # The front-end's tables follow from the recipe.
    own = {"backbone", "head", "temperature", "conformal"}
    assert {name.split(".")[0] for name in names} == own


def test_a_run_folder_is_as_good_as_its_model_folder(saved):
    assert model_folder(saved) == saved
    assert model_folder(saved.parent) == saved
    found = [scores(load_model(folder), noise()) for folder in (saved, saved.parent)]
    assert torch.equal(*found)


def test_loading_needs_no_pretrained_weights(tmp_path):
    model = small_model()
    object.__setattr__(model.recipe.model, "weights", "/gone/weights.pth")
    model.save(tmp_path)
    loaded = load_model(tmp_path)
    assert loaded.recipe.model.weights == "/gone/weights.pth"
    assert torch.equal(scores(loaded, noise()), scores(model, noise()))


def test_folder_without_a_model(tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        assert refused(folder) == (
            f"{folder}: no model there; allowed: a run folder or a model folder with "
            "recipe.json, labels.json, model.safetensors, as `deepspectrumlite train` writes them"
        )


@pytest.mark.parametrize("name", ["recipe.json", "model.safetensors"])
def test_folder_without_one_of_the_files_is_no_model(saved, name):
    (saved / name).unlink()
    assert refused(saved).startswith(f"{saved}: no model there; allowed: a run folder")


@pytest.mark.parametrize("written", [2, 99, None, "1"])
def test_newer_format_says_to_upgrade(saved, written):
    def change(described):
        described |= {"format": written, "version": "9.8.7"}

    rewrite(saved / "recipe.json", change)
    assert refused(saved) == (
        f"{saved}: written by deepspectrumlite 9.8.7 in format {written}; this is "
        f"{__version__}, which reads up to format 1, so upgrade the package"
    )


@pytest.mark.parametrize(
    "labels",
    [
        ["snare drum", "kick", "Zähler-Ö 🥁"],
        ["kick", "snare drum"],
        ["kick", "snare drum", "tom"],
        ["kick", "snare drum", "Zähler-Ö 🥁", "tom"],
        [],
    ],
)
def test_changed_labels_are_refused(saved, labels):
    (saved / "labels.json").write_text(json.dumps(labels))
    assert refused(saved) == (
        f"{saved / 'labels.json'}: the labels are {labels}, but the weights were trained with "
        f"{LABELS}; restore the file as it was written"
    )


@pytest.mark.parametrize("name", ["recipe.json", "labels.json"])
@pytest.mark.parametrize("content", [b"", b'{"a": ', b"\xff\xfe\x00", b"nonsense"])
def test_broken_json_is_refused(saved, name, content):
    (saved / name).write_bytes(content)
    text = refused(saved)
    assert text.startswith(f"{saved / name}: broken (")
    assert text.endswith("copy the folder again")


def test_json_of_another_kind_is_refused(saved):
    (saved / "labels.json").write_text('{"kick": 0}')
    assert refused(saved) == f"{saved / 'labels.json'}: holds a dict, not a list"
    (saved / "recipe.json").write_text("[]")
    assert refused(saved) == f"{saved / 'recipe.json'}: holds a list, not a dict"


def test_missing_labels_are_refused(saved):
    (saved / "labels.json").unlink()
    assert refused(saved).startswith(f"{saved / 'labels.json'}: broken ([Errno 2] No such file")


@pytest.mark.parametrize("keep", [0, 4, 8, 100, -1])
def test_cut_weights_are_refused(saved, keep):
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    text = refused(saved)
    assert text.startswith(f"{path}: broken (")
    assert text.endswith("copy the folder again")


def test_pickled_weights_are_refused(saved):
    torch.save({"a": torch.zeros(3)}, saved / "model.safetensors")
    assert refused(saved).startswith(f"{saved / 'model.safetensors'}: broken (")


def test_an_altered_recipe_is_refused(saved):
    def misspell(described):
        described["train"]["epoch"] = 3

    rewrite(saved / "recipe.json", misspell)
    assert refused(saved).startswith(
        f"{saved / 'recipe.json'}: train.epoch is not a known key; allowed: seed, batch_size"
    )


@pytest.mark.parametrize(("key", "value"), [("units", 17), ("backbone", "squeezenet")])
def test_weights_of_another_network_are_refused(saved, key, value):
    def change(described):
        described["model"][key] = value

    rewrite(saved / "recipe.json", change)
    text = refused(saved)
    assert text.startswith(f"{saved / 'model.safetensors'}: not the weights of its recipe: ")


def test_a_missing_or_unknown_tensor_is_refused(saved):
    path = saved / "model.safetensors"
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    state = load_file(path)
    moved = state.pop("head.3.bias")
    save_file(state, path, metadata)
    assert "head.3.bias" in refused(saved)
    save_file(state | {"head.3.bias": moved, "head.9.bias": moved.clone()}, path, metadata)
    text = refused(saved)
    assert "not the weights of its recipe" in text
    assert "head.9.bias" in text


def test_weights_without_labels_are_refused(saved):
    path = saved / "model.safetensors"
    save_file(load_file(path), path)
    assert "but the weights were trained with []" in refused(saved)

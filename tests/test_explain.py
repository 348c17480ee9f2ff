import numpy as np
import pytest
import soundfile
import torch
from explain_helpers import COLUMNS, ROWS, look_at_region

from deepspectrumlite.attribution import (
    METHODS,
    MapSettings,
    explain_image,
    explained,
    score_images,
    spatial_layer,
)
from deepspectrumlite.errors import AudioError, DeepSpectrumLiteError
from deepspectrumlite.explain import (
    background_images,
    check_targets,
    choose_targets,
    explain_recording,
    explain_segment,
    image_of,
)
from deepspectrumlite.explain_plots import frequency_ticks
from deepspectrumlite.model import Classifier, TorchRecogniser, decide_by, load_model
from deepspectrumlite.predict import predict_file


@pytest.fixture
def region_model(make_recipe):
    """The function ``(*overrides, **region) -> Classifier`` that looks at one region only."""

    def make(*changes, **region):
        recipe = make_recipe("model.units=0", "frontend.color_map=none", *changes)
        return look_at_region(recipe, **region)

    return make


@pytest.fixture
def noises():
    """Of uniform noise, images (12, 3, 32, 32), bright everywhere."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(12, 3, 32, 32, generator=generator)


@pytest.fixture(scope="module")
def background(trained_model, tones):
    return background_images(trained_model, tones, count=6)


@pytest.mark.parametrize("method", METHODS)
def test_maps_are_where_the_score_comes_from(region_model, noises, method):
    model = region_model()
    settings = MapSettings(samples=200, block_time=0.1, block_frequency=0.1)
    image = noises[0] * 0.5 + 0.5
    there = explain_image(model, image, "there", method, noises[1:] * 0.5, settings)
    inside = np.zeros((32, 32), bool)
    inside[ROWS, COLUMNS] = True
    # A block of occlusion that touches the region reaches up to two pixels beyond it.
    near = np.zeros((32, 32), bool)
    near[2:14, 16:30] = True
    size = np.abs(there.values)
    assert there.values[inside].mean() > 0
    assert size[near].sum() > 0.999 * size.sum()
    other = explain_image(model, image, "not", method, noises[1:] * 0.5, settings)
    assert other.values[inside].mean() < 0
    np.testing.assert_allclose(other.values, -there.values, atol=1e-4 * size.max())


def test_shap_of_a_linear_function_is_known(region_model, noises):
    model, settings = region_model(weight=10.0), MapSettings(of="logit", samples=11)
    found = explain_image(model, noises[0], "there", "shap", noises[1:], settings)
    # Of a linear function the SHAP value is weight * (input - mean input): Lundberg & Lee, cor. 1.
    expected = 10 / 1024 * (noises[0] - noises[1:].mean(dim=0)).mean(dim=0)
    np.testing.assert_allclose(
        found.values[ROWS, COLUMNS], expected[ROWS, COLUMNS], rtol=1e-4, atol=1e-7
    )
    assert found.total == pytest.approx(found.change, abs=1e-5)
    assert found.samples == 11


def test_occlusion_of_everything_is_the_change(region_model, noises):
    model = region_model()
    settings = MapSettings(block_time=1, block_frequency=1)
    found = explain_image(model, noises[0], "there", "occlusion", noises[1:], settings)
    np.testing.assert_allclose(found.values, found.change, rtol=1e-5)
    mean = noises[1:].mean(dim=0, keepdim=True)
    function = explained(model, settings)
    change = score_images(function, noises[:1])[0, 0] - score_images(function, mean)[0, 0]
    assert found.change == pytest.approx(float(change))


def test_attributions_add_up_to_the_change_of_the_score(trained_model, tones, background):
    path = tones.parent / "low-test-1.wav"
    (found,) = explain_recording(trained_model, path, targets=["all"], background=background)
    scores = score_images(explained(trained_model, MapSettings()), background).double()
    for column, each in enumerate(found.maps):
        assert each.target == trained_model.labels[column]
        assert each.score == pytest.approx(found.scores[column], abs=1e-6)
        assert each.baseline_score == pytest.approx(float(scores[:, column].mean()), abs=1e-6)
        allowed = 0.05 * max(abs(each.change), float(scores[:, column].std(correction=0)))
        assert each.within_tolerance == (abs(each.total - each.change) <= allowed)
        assert each.within_tolerance or each.samples == 6 * 64
        assert each.total == pytest.approx(each.change, abs=0.1)


def test_more_samples_add_up_better(trained_model, tones, background):
    waveform, _ = soundfile.read(tones.parent / "low-test-0.wav", dtype="float32", frames=4000)
    off = []
    for samples in (6, 6 * 64):
        found = explain_segment(
            trained_model,
            waveform,
            ["low"],
            background=background,
            settings=MapSettings(samples=samples),
        )
        off.append(max(abs(each.total - each.change) for each in found))
    assert off[1] < 0.1
    assert off[1] < off[0]


def test_what_does_not_add_up_is_told(region_model, noises):
    image = noises[0] * 0.5 + 0.5
    steep = region_model(weight=200.0)
    few, many = (
        explain_image(steep, image, "there", "shap", noises[1:], MapSettings(samples=n))
        for n in (11, 11 * 64)
    )
    for found in (few, many):
        spread = score_images(explained(steep, MapSettings()), noises[1:])[:, 0].double()
        allowed = 0.05 * max(abs(found.change), float(spread.std(correction=0)))
        assert found.within_tolerance == (abs(found.total - found.change) <= allowed)
    assert (few.within_tolerance, many.within_tolerance) == (False, True)
    rough = explain_image(steep, image, "there", "gradcam", None)
    assert rough.within_tolerance is None


def test_shap_agrees_with_captums_own_draws(trained_model, tones, background):
    captum = pytest.importorskip("captum.attr")
    waveform, _ = soundfile.read(tones.parent / "high-test-0.wav", dtype="float32", frames=4000)
    image = image_of(trained_model, waveform)
    settings = MapSettings(samples=6 * 32)
    ours = explain_image(trained_model, image, "high", "shap", background, settings).values
    torch.manual_seed(0)
    np.random.seed(0)
    method = captum.GradientShap(explained(trained_model, settings))
    theirs = method.attribute(image[None], background, n_samples=400, target=0)[0].sum(dim=0)
    assert np.corrcoef(ours.ravel(), theirs.detach().numpy().ravel())[0, 1] > 0.9


def test_a_tone_is_found_at_its_frequency_and_time(region_model):
    model = region_model(rows=slice(None), columns=slice(None))
    time = np.arange(4000) / 8000
    waveform = (np.sin(2 * np.pi * 1000 * time) * (time > 0.3)).astype(np.float32)
    rng = np.random.default_rng(0)
    noise = [rng.uniform(-1, 1, 4000).astype(np.float32) for _ in range(4)]
    background = torch.stack([image_of(model, each) for each in noise])
    settings = MapSettings(of="logit", samples=4)
    (found,) = explain_segment(model, waveform, ["there"], background=background, settings=settings)
    places, names = frequency_ticks(model)
    place = dict(zip(names, places, strict=True))["1"]
    loudest = found.values[:, 24:].mean(axis=1).argmax()
    assert abs(loudest + 0.5 - (32 - place / model.frontend.n_bands * 32)) <= 1
    row = found.values[loudest]
    assert row[22:].mean() > row[:16].max() + 1e-3


def test_logits_are_the_log_odds(trained_model, background):
    scores = score_images(explained(trained_model, MapSettings()), background).double()
    odds = score_images(explained(trained_model, MapSettings(of="logit")), background)
    np.testing.assert_allclose(odds.double().sigmoid(), scores, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_leaves_nothing_behind_and_repeats_itself(trained, tones, method):
    model = load_model(trained)
    background = background_images(model, tones, count=4)
    path = tones.parent / "low-test-0.wav"
    before = {name: value.clone() for name, value in model.state_dict().items()}
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    settings = MapSettings(samples=32, seed=3)
    (one,), (again,) = (
        explain_recording(model, path, method=method, background=background, settings=settings)
        for _ in range(2)
    )
    assert (one.maps[0].values == again.maps[0].values).all()
    assert all(each.grad is None and each.requires_grad for each in model.parameters())
    assert not model.training
    assert all((before[name] == value).all() for name, value in model.state_dict().items())
    assert (torch.get_rng_state() == states[0]).all()
    assert (np.random.get_state()[1] == states[1]).all()
    assert not any(module._forward_hooks for module in model.modules())


def test_strongest_segment_and_all(trained_model, tone, tmp_path):
    quiet = 0.001 * tone("noise", 1, 0.5)
    soundfile.write(tmp_path / "a.wav", np.concatenate([quiet, tone("low", 0, 0.7)]), 8000)
    told = []
    options = {"targets": ["low", "high"], "method": "gradcam"}
    every = explain_recording(
        trained_model,
        tmp_path / "a.wav",
        segment="all",
        progress=lambda *step: told.append(step),
        **options,
    )
    assert [(each.start, round(each.end, 3)) for each in every] == [(0, 0.5), (0.5, 1), (1, 1.2)]
    assert told[-6:] == [("explaining, gradcam", n, 6) for n in range(1, 7)]
    (strongest,) = explain_recording(trained_model, tmp_path / "a.wav", **options)
    best = int(np.argmax([each.scores[1] for each in every]))
    assert trained_model.labels[1] == "low"
    assert strongest.start == every[best].start > 0
    assert (strongest.maps[0].values == every[best].maps[0].values).all()
    prediction = predict_file(TorchRecogniser(trained_model), tmp_path / "a.wav")
    for each, scores in zip(every, prediction.segment_scores, strict=True):
        np.testing.assert_allclose(each.scores, scores, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ((), ["there"]),
        (("model.output=sigmoid",), ["there"]),
        (("model.output=linear", 'data.target=["there", "not"]'), ["there", "not"]),
        (("model.output=ordinal", 'data.order=["there", "not"]'), ["value"]),
    ],
)
def test_every_output_has_targets(region_model, tone, tmp_path, noises, changes, expected):
    model = region_model(*changes)
    soundfile.write(tmp_path / "a.wav", tone("noise", 0, 0.5), 8000)
    prediction = predict_file(TorchRecogniser(model), tmp_path / "a.wav")
    assert choose_targets(prediction) == expected
    (found,) = explain_recording(
        model, tmp_path / "a.wav", background=noises, settings=MapSettings(samples=96)
    )
    assert [each.target for each in found.maps] == expected
    assert found.maps[0].total == pytest.approx(found.maps[0].change, rel=0.05)


def test_nothing_recognised_takes_the_likeliest(region_model, tone, tmp_path):
    model = region_model("model.output=sigmoid", weight=-60.0)
    soundfile.write(tmp_path / "a.wav", tone("noise", 0, 0.5), 8000)
    prediction = predict_file(TorchRecogniser(model), tmp_path / "a.wav")
    assert prediction.labels == []
    assert choose_targets(prediction) == ["not"]


def test_background_is_of_training_segments(trained_model, tones):
    images = background_images(trained_model, tones, count=100)
    assert images.shape == (30, 3, 32, 32)  # 15 recordings of train, two segments each
    fifteen = background_images(trained_model, tones, count=15, seed=1)
    known = {image.numpy().tobytes() for image in images}
    assert {image.numpy().tobytes() for image in fifteen} <= known
    firsts = [soundfile.read(path, dtype="float32")[0] for path in tones.parent.glob("*-train-*")]
    of_files = [
        {image_of(trained_model, each[at : at + 4000]).numpy().tobytes() for at in (0, 4000)}
        for each in firsts
    ]
    drawn = {image.numpy().tobytes() for image in fifteen}
    assert all(len(drawn & both) == 1 for both in of_files)
    again = background_images(trained_model, tones, count=15, seed=1)
    assert (again == fifteen).all()


def test_background_may_be_a_folder(trained_model, tone, tmp_path):
    for i in range(3):
        soundfile.write(tmp_path / f"{i}.wav", tone("high", i, 0.5), 8000)
    (tmp_path / "bad.wav").write_bytes(b"no sound")
    assert len(background_images(trained_model, tmp_path)) == 3


def test_layer_of_gradcam(make_recipe):
    larger = ("frontend.image_height=64", "frontend.image_width=64")
    for changes, name in (((), "layer3"), (larger, "layer4")):
        # Of 32 pixels the fourth leaves one place, which tells nothing about where.
        recipe = make_recipe("model.backbone=resnet10t", *changes)
        model = Classifier(recipe, ["a", "b"], weights="random")
        assert spatial_layer(model) is getattr(model.backbone.network, name)


@pytest.mark.parametrize("backbone", ["vit_tiny_patch16_224", "swin_s3_tiny_224"])
def test_no_gradcam_of_transformers(make_recipe, backbone):
    recipe = make_recipe(
        f"model.backbone={backbone}", "frontend.image_height=224", "frontend.image_width=224"
    )
    model = Classifier(recipe, ["a", "b"], weights="random").eval()
    with pytest.raises(DeepSpectrumLiteError, match="Grad-CAM needs; allowed: --method shap or"):
        spatial_layer(model)


def test_errors(trained_model, tones, background, region_model):
    path = tones.parent / "low-test-0.wav"
    with pytest.raises(DeepSpectrumLiteError, match=r"target 'loud' .* allowed: high, low, noise"):
        explain_recording(trained_model, path, targets=["loud"])
    with pytest.raises(DeepSpectrumLiteError, match=r"shap compares .* --background"):
        explain_recording(trained_model, path)
    with pytest.raises(DeepSpectrumLiteError, match="'magic'; allowed: shap, gradcam, occlusion"):
        explain_recording(trained_model, path, method="magic", background=background)
    with pytest.raises(DeepSpectrumLiteError, match="block_time is 0; allowed: above 0, up to 1"):
        explain_recording(
            trained_model,
            path,
            method="occlusion",
            background=background,
            settings=MapSettings(block_time=0),
        )
    with pytest.raises(AudioError, match="no such file"):
        explain_recording(trained_model, path.with_name("none.wav"), method="gradcam")
    linear = region_model("model.output=linear", 'data.target=["there", "not"]')
    with pytest.raises(DeepSpectrumLiteError, match='of is "logit", but the output is "linear"'):
        explain_recording(linear, path, method="gradcam", settings=MapSettings(of="logit"))


def test_targets_are_explained_once(trained_model):
    assert check_targets(trained_model, ["low", "low", "high"]) == ["low", "high"]
    assert check_targets(trained_model, ["all"]) == ["high", "low", "noise"]


def test_a_refused_recording_is_explained_by_its_likeliest_label(trained_model, tmp_path, tone):
    model = decide_by(trained_model, {"unknown": "score"})
    model.score_below.fill_(2.0)  # nothing is that sure
    path = tmp_path / "low.wav"
    soundfile.write(path, tone("low", 3), 8000)
    (found,) = explain_recording(model, path, method="gradcam")
    assert found.maps[0].target == "low"

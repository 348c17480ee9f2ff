"""Features of segments: their numbers, their times, and the tables they are written to."""

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

from deepspectrumlite import features
from deepspectrumlite.backbones import create_backbone
from deepspectrumlite.data import Segments, scan
from deepspectrumlite.errors import BackboneError, ManifestError, MissingExtraError, RecipeError
from deepspectrumlite.feature_files import extract_manifest, read_features, write_features
from deepspectrumlite.features import Features, average, extract, list_layers
from deepspectrumlite.frontend import FrontEnd
from deepspectrumlite.manifest import load_manifest

SMALL = ("model.backbone=lcnet_035", "train.workers=0")


@pytest.fixture(scope="module")
def recipe(make_recipe):
    return make_recipe(*SMALL)


@pytest.fixture(scope="module")
def scanned(tones, recipe):
    return scan(load_manifest(tones), recipe.data)[0].iloc[::6].reset_index(drop=True)


@pytest.fixture(scope="module")
def pooled(recipe, scanned):
    return extract("deepspectrum", recipe, scanned, device="cpu")


def make(values, file_index, names=None, **options):
    """Features of hand-made values."""
    values = np.asarray(values, np.float32)
    names = names or tuple(f"deep_{i}" for i in range(values.shape[1]))
    start = np.arange(len(values), dtype=float)
    told = {"extractor_bytes": 12, "seconds": 1.5, "replaced": 3} | options
    return Features(values, names, np.asarray(file_index), start, start + 0.5, **told)


def images(recipe, scanned):
    """(n_segments, 3, height, width), by a way of their own."""
    segments = Segments(scanned, recipe.data, np.zeros((len(scanned), 1), np.float32))
    waveforms = torch.from_numpy(np.stack([segments[i][0] for i in range(len(segments))]))
    return FrontEnd(recipe.frontend, recipe.data)(waveforms)


def seeded_backbone(recipe):
    torch.manual_seed(recipe.train.seed)
    size = (recipe.frontend.image_height, recipe.frontend.image_width)
    return create_backbone(recipe.model.backbone, "random", size).eval()


def test_by_default_they_are_the_pooled_features_of_the_backbone(recipe, scanned, pooled):
    backbone = seeded_backbone(recipe)
    with torch.no_grad():
        expected = backbone(images(recipe, scanned)).numpy()
    np.testing.assert_allclose(pooled.values, expected, atol=1e-5)
    assert pooled.file_index.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert pooled.start.tolist() == [0, 0.5] * 5
    assert pooled.end.tolist() == [0.5, 1] * 5
    state = backbone.state_dict().values()
    assert pooled.extractor_bytes == sum(x.numel() * x.element_size() for x in state)


def test_a_layer_gives_the_mean_of_its_activation(recipe, scanned):
    found = extract("deepspectrum", recipe, scanned, layer="blocks.2", device="cpu")
    network = seeded_backbone(recipe)
    image = (images(recipe, scanned) - network.mean) / network.std
    with torch.no_grad():
        for name, module in network.network.named_children():
            if name == "blocks":
                image = module[:3](image)
                break
            image = module(image)
    assert image.ndim == 4
    assert image.shape[2] > 1
    expected = image.numpy().reshape(*image.shape[:2], -1).mean(axis=-1)
    np.testing.assert_allclose(found.values, expected, atol=1e-4)
    assert list_layers(recipe)["blocks.2"] == image.shape[1]
    assert list(list_layers(recipe))[-1] == ""


def test_tokens_and_channels_that_come_last_are_averaged(make_recipe):
    class Network(torch.nn.Module):
        output_fmt = "NHWC"

    last, first = Network(), torch.nn.Module()
    image = torch.arange(2 * 3 * 4 * 5.0).view(2, 3, 4, 5)
    norm, convolution = torch.nn.LayerNorm(5), torch.nn.Conv2d(3, 3, 1)
    assert torch.equal(features._pool(first, norm, image), image.mean(dim=(2, 3)))
    assert torch.equal(features._pool(last, norm, image), image.mean(dim=(1, 2)))
    assert torch.equal(features._pool(last, convolution, image), image.mean(dim=(2, 3)))
    assert torch.equal(features._pool(first, norm, image[:, :, 0]), image[:, :, 0].mean(dim=1))
    assert features._pool(first, norm, (image,)) is None
    recipe = make_recipe("model.backbone=test_vit", "frontend.image_height=160", *SMALL[1:])
    layers = list_layers(
        recipe.model_copy(
            update={"frontend": recipe.frontend.model_copy(update={"image_width": 160})}
        )
    )
    assert layers["blocks.0"] == layers[""]


def test_an_unknown_layer_names_the_nearest(recipe, scanned):
    with pytest.raises(
        BackboneError, match=r"'blocks.22' .* nearest: .*blocks\.2.* extract --layers"
    ):
        extract("deepspectrum", recipe, scanned, layer="blocks.22")


def test_a_trained_model_gives_what_its_head_takes(trained_model, scanned):
    found = extract(
        "deepspectrum", trained_model.recipe, scanned, model=trained_model, device="cpu"
    )
    with torch.no_grad():
        scores = trained_model.scores(trained_model.head(torch.from_numpy(found.values)))
        expected = trained_model(
            torch.from_numpy(
                np.stack(
                    [
                        Segments(scanned, trained_model.recipe.data, np.zeros((5, 1), np.float32))[
                            i
                        ][0]
                        for i in range(10)
                    ]
                )
            )
        )
    np.testing.assert_allclose(scores[:, :3], expected[:, :3], atol=1e-5)


def test_log_mel_statistics(recipe, scanned):
    found = extract("logmel", recipe, scanned)
    bands = recipe.frontend.n_mels
    segments = Segments(scanned, recipe.data, np.zeros((len(scanned), 1), np.float32))
    waveform = torch.from_numpy(segments[3][0])[None]
    log_mel = FrontEnd(recipe.frontend, recipe.data).features(waveform)[0].double().numpy()
    np.testing.assert_allclose(found.values[3, :bands], log_mel.mean(axis=0), atol=1e-3)
    np.testing.assert_allclose(found.values[3, bands:], log_mel.std(axis=0), atol=1e-3)
    assert found.names[0] == "logmel_mean_0"
    assert found.names[-1] == f"logmel_deviation_{bands - 1}"
    assert found.extractor_bytes == 0


@pytest.mark.parametrize(
    ("kind", "set_name", "count"),
    [
        ("egemaps", "eGeMAPSv02", 88),
        ("compare", "ComParE_2016", 6373),
    ],
)
def test_open_smile_hears_the_recording_without_padding(
    kind, set_name, count, recipe, tone, tmp_path
):
    opensmile = pytest.importorskip("opensmile")
    wave = tone("low", 1, 0.7)  # Two segments: 0.5 s, and 0.2 s that the network sees repeated.
    soundfile.write(tmp_path / "a.wav", wave, 8000, subtype="FLOAT")
    soundfile.write(tmp_path / "short.wav", wave[:300], 8000, subtype="FLOAT")
    scanned = scan(load_manifest(tmp_path, need_labels=False), recipe.data)[0]
    found = extract(kind, recipe, scanned)
    smile = opensmile.Smile(opensmile.FeatureSet[set_name])
    assert found.values.shape == (3, count)
    for row, part in enumerate((wave[:4000], wave[4000:])):
        np.testing.assert_array_equal(found.values[row], smile(part, 8000).reshape(-1))
    assert found.end.tolist() == [0.5, 0.7, 0.0375]
    # Of 38 ms openSMILE gives nothing but NaN; they are filled up with zeros.
    assert np.isnan(smile(wave[:300], 8000)).all()
    assert found.replaced == 0
    assert found.values[2].any()
    assert found.extractor_bytes is None


def test_full_scale_does_not_turn_into_its_negative(recipe, tmp_path):
    opensmile = pytest.importorskip("opensmile")
    square = np.sign(np.sin(np.arange(4000) / 20)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", square, 8000, subtype="FLOAT")
    scanned = scan(load_manifest(tmp_path, need_labels=False), recipe.data)[0]
    found = extract("egemaps", recipe, scanned)
    name = found.names.index("equivalentSoundLevel_dBp")
    quieter = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02)(square * 0.999, 8000).reshape(-1)
    assert found.values[0, name] == pytest.approx(quieter[name], abs=0.1)


def test_without_open_smile_the_extra_is_named(recipe, scanned, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "opensmile", None)
    with pytest.raises(MissingExtraError, match=r"deepspectrumlite\[opensmile\]"):
        extract("egemaps", recipe, scanned)


def test_values_that_are_not_finite_are_counted(recipe, scanned, monkeypatch):
    def compute(waveform, own):
        return np.array([[1, np.nan], [np.inf, 2]], np.float32)[: len(waveform)]

    broken = features._Extractor(("a", "b"), None, compute)
    monkeypatch.setattr(features, "_make_extractor", lambda *_: broken)
    found = extract("egemaps", recipe, scanned.iloc[:1])
    assert found.values.tolist() == [[1, 0], [0, 2]]
    assert found.replaced == 2


def test_the_mean_over_the_segments_of_a_file():
    values, found = average(make([[1, 2], [3, 4], [5, 6]], [0, 2, 2]), 4)
    assert found.tolist() == [0, 2]
    assert values.tolist() == [[1, 2], [4, 5]]


def test_an_unknown_kind(recipe, scanned):
    with pytest.raises(RecipeError, match="'mfcc'; allowed: deepspectrum, egemaps"):
        extract("mfcc", recipe, scanned)


@pytest.fixture
def table():
    return pd.DataFrame(
        {
            "path": ["/a.wav", "/b.wav"],
            "label": ["x", "ü"],
            "split": ["train", "test"],
            "start": [3.0, 0.0],
            "end": [4.0, np.nan],
            "duration": [1.0, 2.0],
            "age": ["7", ""],
        }
    )


WRITTEN = make([[1.5, -2.0], [0.1, 3e-7], [4.0, 5.0]], [0, 1, 1])
KNOWN = ["path", "file_index", "start", "end", "label", "split", "age"]


def test_parquet_reads_back_the_same(table, tmp_path):
    write_features(WRITTEN, table, tmp_path / "new" / "f.parquet")
    found = read_features(tmp_path / "new" / "f.parquet")
    for name in ("values", "file_index", "start", "end"):
        np.testing.assert_array_equal(getattr(found, name), getattr(WRITTEN, name))
        assert getattr(found, name).dtype == getattr(WRITTEN, name).dtype
    assert (found.names, found.extractor_bytes, found.seconds, found.replaced) == (
        WRITTEN.names,
        12,
        1.5,
        3,
    )
    written = pd.read_parquet(tmp_path / "new" / "f.parquet")
    assert list(written) == [*KNOWN, "deep_0", "deep_1"]
    assert written["label"].tolist() == ["x", "ü", "ü"]


def test_csv_and_npz_hold_the_same(table, tmp_path):
    write_features(WRITTEN, table, tmp_path / "f.csv")
    write_features(WRITTEN, table, tmp_path / "f.NPZ")
    written = pd.read_csv(tmp_path / "f.csv", dtype={"age": str}, keep_default_na=False)
    assert list(written) == [*KNOWN, "deep_0", "deep_1"]
    np.testing.assert_array_equal(
        written[["deep_0", "deep_1"]].to_numpy(np.float32), WRITTEN.values
    )
    arrays = np.load(tmp_path / "f.NPZ")  # which refuses what is pickled
    assert set(arrays) == {*KNOWN, "features", "names"}
    for name in KNOWN:
        assert arrays[name].tolist() == written[name].tolist()
    np.testing.assert_array_equal(arrays["features"], WRITTEN.values)
    assert arrays["names"].tolist() == ["deep_0", "deep_1"]


def test_other_files_are_refused(table, tmp_path):
    with pytest.raises(ManifestError, match=r"'.arff'; allowed: .parquet, .csv, .npz"):
        write_features(WRITTEN, table, tmp_path / "f.arff")
    with pytest.raises(ManifestError, match="no such file"):
        read_features(tmp_path / "f.parquet")
    table.to_parquet(tmp_path / "f.parquet")
    with pytest.raises(ManifestError, match="not a table of them"):
        read_features(tmp_path / "f.parquet")
    (tmp_path / "f.parquet").write_text("x")
    with pytest.raises(ManifestError, match="not a table of them"):
        read_features(tmp_path / "f.parquet")


def test_times_count_from_the_start_of_the_file(recipe, tones, save_manifest, tmp_path):
    wav = tones.parent / "low-test-0.wav"
    rows = [{"path": wav, "start": 0.2, "end": 0.9}, {"path": wav, "start": 0, "end": 0.3}]
    manifest = save_manifest(tmp_path / "m.csv", rows)
    found, skipped = extract_manifest("logmel", recipe, manifest, tmp_path / "f.csv")
    assert found.file_index.tolist() == [0, 0, 1]
    np.testing.assert_allclose(found.start, [0.2, 0.7, 0])
    np.testing.assert_allclose(found.end, [0.7, 0.9, 0.3])
    assert len(skipped) == 0
    written = pd.read_csv(tmp_path / "f.csv")
    np.testing.assert_allclose(written["end"], found.end)


def test_class_folders_give_labels(recipe, tone, tmp_path):
    for label in ("low", "noise"):
        (tmp_path / "in" / label).mkdir(parents=True)
        soundfile.write(tmp_path / "in" / label / "a.wav", tone(label, 0), 8000)
    (tmp_path / "in" / "low" / "b.wav").write_text("x")
    with pytest.raises(Exception, match="--skip-bad"):
        extract_manifest("logmel", recipe, tmp_path / "in", tmp_path / "f.parquet")
    _, skipped = extract_manifest(
        "logmel", recipe, tmp_path / "in", tmp_path / "f.parquet", skip_bad=True
    )
    assert len(skipped) == 1
    assert pd.read_parquet(tmp_path / "f.parquet")["label"].tolist() == ["low"] * 2 + ["noise"] * 2

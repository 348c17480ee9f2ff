"""What each setting of the published system did, as settings of a recipe.

That system's hyperparameters are a JSON object of lists, all together a grid. Some did something
else than their names say; what they did is kept, and said in words. The keys and what they did:
README and sources of DeepSpectrumLite 1.0.2, read, not copied.
"""

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

from deepspectrumlite.config import Recipe

Values: TypeAlias = dict[str, Any]
# From old keys that belong together to keys of a recipe. The notes are filled as it goes.
Translation: TypeAlias = Callable[[Values, list[str]], Values]

PARSER = "ComParEParser.py:ComParEParser"
# Keys with a meaning of their own, by another name here.
_RENAMED = {
    "anti_alias": "frontend.antialias",
    "dropout": "model.dropout",
    "image_height": "frontend.image_height",
    "image_width": "frontend.image_width",
    "lower_edge_hertz": "frontend.fmin",
    "normalize_audio": "frontend.peak_normalise",
    "num_mel_bins": "frontend.n_mels",
    "num_units": "model.units",
    "sample_rate": "data.sample_rate",
    "sap_aug_a": "augment.sap_a",
    "sap_aug_s": "augment.sap_s",
    "stft_fft_length": "frontend.fft_seconds",
    "stft_hop_size": "frontend.hop_seconds",
    "stft_window_size": "frontend.window_seconds",
    "upper_edge_hertz": "frontend.fmax",
}
# Keys that choose one of a few; values without anything like them here are refused.
_CHOICES: dict[str, tuple[str, dict[str, str]]] = {
    "activation": (
        "model.activation",
        {name: name for name in ("arelu", "elu", "gelu", "relu", "silu", "tanh")}
        | {"swish": "silu"},
    ),
    "basemodel_name": (
        "model.backbone",
        {
            name: name
            for name in (
                *("densenet121", "densenet169", "densenet201", "inception_resnet_v2"),
                *("inception_v3", "mobilenet_v2", "nasnet_large", "resnet50", "vgg16", "vgg19"),
                "xception",
            )
        }
        | {"mobilenet": "mobilenetv1_100", "squeezenet_v1": "squeezenet"},
    ),
    "optimizer": (
        "train.optimizer",
        {name: name for name in ("adadelta", "adagrad", "adam", "nadam", "rmsprop", "sgd")},
    ),
    "resize_method": (
        "frontend.resize",
        {name: name for name in ("nearest", "bilinear", "bicubic", "area")},
    ),
}
_LOSSES = {
    "categorical": {"categorical_crossentropy": "cross_entropy"},
    "regression": {
        **dict.fromkeys(("mae", "mean_absolute_error"), "mae"),
        **dict.fromkeys(("mse", "mean_squared_error"), "mse"),
        "huber": "huber",
    },
}
_COLORS = ("viridis", "cividis", "inferno", "magma", "plasma")
# What that system used where a key was missing; a missing one without a default stopped it.
_DEFAULTS: Values = {
    "anti_alias": True,
    "model_name": "TransferBaseModel",
    "normalize_audio": False,
    "output_activation": "softmax",
    "prediction_type": "categorical",
    "resize_method": "bilinear",
    "tb_experiment": "",
    "tb_run_id": "",
}
# What it always did.
_ALWAYS: Values = {
    "data.tail": "drop",
    "frontend.top_db": "none",
    "augment.time_shift": 0.0,
    "augment.speed": 0.0,
    "augment.mixup_alpha": 0.0,
    "augment.mixup_share": 0.0,
    "augment.strength": "sapaugment",
    "augment.rank_from": "batch",
    "train.schedule": "constant",
    "train.weight_decay": 0.0,
    "train.label_smoothing": 0.0,
    "train.average_decay": 0.0,
    "train.keep": "last",
}


def translate(given: Mapping[str, list[Any]]) -> tuple[Values, dict[str, list[Any]], list[str]]:
    """Old settings -> those of a recipe.

    Args:
        given: lists by their key; all of :data:`MUST`, and none that is not in :data:`KNOWN`

    Returns:
        ``section.key`` with the first value of each; what is to be tried: such keys, joined by
        ", " where they change together, and their values, in the order of the old grid; and what
        means something else here, in words

    Raises:
        ValueError: a value has nothing like it here; it is named. Values are of the types in
            :mod:`deepspectrumlite.old_settings.value_types`
    """
    base, dimensions, notes = dict(_ALWAYS), [], list[str]()
    for keys, function in _GROUPS:
        points = [function(old, notes) for old in _combinations(given, keys)]
        # A key that only some combinations set keeps its default in the others.
        names = list(dict.fromkeys(name for point in points for name in point))
        filled = [{name: point.get(name, _default(name)) for name in names} for point in points]
        base |= filled[0]
        changing = [name for name in names if any(p[name] != filled[0][name] for p in filled)]
        if changing:
            # Each once: of a key without an effect, two values come to the same.
            several = []
            for point in filled:
                values = [point[name] for name in changing]
                several += [values] if values not in several else []
            first = min(list(given).index(key) for key in keys if len(given.get(key, ())) > 1)
            single = len(changing) == 1
            several = [values[0] for values in several] if single else several
            dimensions.append((first, ", ".join(changing), several))
    lists = {names: values for _, names, values in sorted(dimensions)}
    if any("data.segment_seconds" in names.split(", ") for names in lists):
        notes.append(
            "chunk_size has several values: the longer a segment, the more recordings are shorter "
            "and left out, also of devel, so that scores of different lengths may not be of the "
            "same recordings: see devel_files in the sweep's table. To have all, set data.tail = "
            '"keep" in the recipe.'
        )
    return base, lists, list(dict.fromkeys(notes))


def _combinations(given: Mapping[str, list[Any]], keys: tuple[str, ...]) -> Iterator[Values]:
    ordered = [key for key in given if key in keys]
    defaults = {key: _DEFAULTS[key] for key in keys if key not in given}
    for values in itertools.product(*(given[key] for key in ordered)):
        yield defaults | dict(zip(ordered, values, strict=True))


def _default(name: str) -> Any:
    section, _, key = name.partition(".")
    return getattr(getattr(Recipe(), section), key)


def _names(old: Values, notes: list[str]) -> Values:
    if old["model_name"] != "TransferBaseModel":
        raise ValueError(
            f'model_name is {json.dumps(old["model_name"])}; allowed: "TransferBaseModel"'
        )
    parser = str(old["label_parser"])
    if not parser.endswith(PARSER):
        raise ValueError(
            f"label_parser is {json.dumps(parser)}: a parser of your own is Python code, which is "
            f"not run here; allowed: {PARSER}; or write its rows to a manifest with the columns "
            "path, label and split, and give that to train"
        )
    return {"train.tensorboard": bool(old["tb_experiment"] or old["tb_run_id"])}


def _cutting(old: Values, notes: list[str]) -> Values:
    if old["chunk_size"] <= 0:
        notes.append("chunk_size is not above 0: a recording is one segment, however long.")
        return {"data.segment_seconds": "whole"}
    notes.append(
        "Recordings shorter than a segment, and what is left at an end, are dropped, as before "
        '(data.tail = "drop"); "keep" would fill them up. Lengths come from the recordings, not '
        "from duration_frames."
    )
    return {
        "data.segment_seconds": old["chunk_size"],
        "data.hop_seconds": old["chunk_hop_size"],
    }


def _mel(old: Values, notes: list[str]) -> Values:
    if not old["mel_scale"]:
        notes.append(
            "mel_scale is false, which had no effect: Mel bands were computed nevertheless, and "
            'are here. frontend.frequency = "linear" does what that key says.'
        )
    return {"frontend.frequency": "mel"}


def _values(old: Values, notes: list[str]) -> Values:
    if not old["num_mfccs"]:
        return {
            "frontend.n_mfcc": 0,
            "frontend.lifter": 0,
            "frontend.scale": "db" if old["db_scale"] else "power",
        }
    if not old["db_scale"]:
        notes.append(
            "MFCCs without db_scale are computed from decibels here: another log, the same image."
        )
    return {
        "frontend.n_mfcc": old["num_mfccs"],
        "frontend.lifter": old["cep_lifter"],
        "frontend.scale": "db",
    }


def _colors(old: Values, notes: list[str]) -> Values:
    if not old["use_plot_images"]:
        notes.append(
            "use_plot_images is false: the values were fed as they are, one channel of their own "
            "size. Here they become a grey image, scaled from minimum to maximum and resized."
        )
        return {"frontend.color_map": "none"}
    return {"frontend.color_map": _one_of("color_map", old["color_map"], _COLORS)}


def _output(old: Values, notes: list[str]) -> Values:
    kind = _one_of("prediction_type", old["prediction_type"], ("categorical", "regression"))
    loss = _one_of("loss", old["loss"], _LOSSES[kind])
    if kind == "categorical":
        notes.append(
            "Segments of rare classes were repeated until all classes were as frequent; here "
            'classes are drawn equally often in each epoch (train.balance = "sampler").'
        )
        return {"model.output": "softmax", "train.loss": loss, "train.balance": "sampler"}
    notes.append(
        "prediction_type is regression: there fine-tuning went on with a loss for classes, and the "
        f"output was squeezed by {old['output_activation']}. Here both phases use train.loss, and "
        "numbers have no limits."
    )
    return {"model.output": "linear", "train.loss": loss, "train.balance": "none"}


def _phases(old: Values, notes: list[str]) -> Values:
    rate, share = float(old["learning_rate"]), float(old["finetune_layer"])
    learns = round(1 - share, 6)
    if not 0 <= share <= 1:
        raise ValueError(f"finetune_layer is {share:g}; allowed: 0 to 1")
    if old["weights"] not in ("imagenet", ""):
        raise ValueError(f'weights is {json.dumps(old["weights"])}; allowed: "imagenet", ""')
    if not old["weights"]:
        notes.append(
            "weights is empty: all layers trained from the start, for pre_epochs + epochs."
        )
        return _schedule("random", 0, rate, old["pre_epochs"] + old["epochs"], rate, 1.0, "adapt")
    if share == 0:
        notes.append("finetune_layer is 0, which meant no fine-tuning at all: epochs is 0.")
        return _schedule("imagenet", old["pre_epochs"], rate, 0, rate, 0.0, "frozen")
    notes.append(
        f"finetune_layer is {share:g}: documented as the share of the last layers, which are "
        "fine-tuned, it was the share of the first ones, which stay as they are. What it did is "
        f"kept: train.fine_tune_share = {learns:g}."
    )
    notes.append("Fine-tuning lasted one epoch longer than epochs said; here as long as it says.")
    fine = float(old["fine_learning_rate"])
    return _schedule("imagenet", old["pre_epochs"], rate, old["epochs"], fine, learns, "frozen")


def _schedule(
    weights: str, head: int, head_rate: float, epochs: int, rate: float, share: float, norm: str
) -> Values:
    return {
        "model.weights": weights,
        "train.head_epochs": head,
        "train.head_learning_rate": head_rate,
        "train.epochs": epochs,
        "train.learning_rate": rate,
        "train.fine_tune_share": share,
        "train.batch_norm": norm,
    }


def _batch(old: Values, notes: list[str]) -> Values:
    if old["batch_size"] < 2:
        notes.append("batch_size is 1; BatchNorm and augmentation need 2 segments, so it is 2.")
    return {"train.batch_size": max(2, old["batch_size"])}


def _augmentation(old: Values, notes: list[str]) -> Values:
    low = float(old["da_prob_min"])
    high = round(min(1.0, low + float(old["da_prob_max"])), 6)
    if old["augment_cutmix"] or old["augment_specaug"]:
        notes.append(
            "da_prob_max was added to da_prob_min instead of being the upper end: probabilities go "
            f"up to {high:g}."
        )
    if old["augment_cutmix"]:
        notes.append(
            "cutmix_min and cutmix_max were sides of the pasted box; here their squares, shares of "
            "the image's area, grow evenly in between."
        )
    if old["augment_specaug"]:
        notes.append(
            "The masks' axes were swapped: specaug_freq hid times, specaug_time hid frequencies. "
            "What they did is kept: specaug_freq becomes time_mask_share, and the reverse."
        )
    least, most = float(old["cutmix_min"]), float(old["cutmix_max"])
    return {
        "augment.cutmix_probability": high if old["augment_cutmix"] else 0.0,
        "augment.cutmix_probability_min": low if old["augment_cutmix"] else 0.0,
        "augment.cutmix_area": round(most**2, 6),
        "augment.cutmix_area_min": round(least**2, 6),
        "augment.mask_probability": high if old["augment_specaug"] else 0.0,
        "augment.mask_probability_min": low if old["augment_specaug"] else 0.0,
        "augment.time_masks": old["specaug_freq_mask_num"],
        "augment.time_mask_share": float(old["specaug_freq_max"]),
        "augment.time_mask_share_min": float(old["specaug_freq_min"]),
        "augment.frequency_masks": old["specaug_time_mask_num"],
        "augment.frequency_mask_share": float(old["specaug_time_max"]),
        "augment.frequency_mask_share_min": float(old["specaug_time_min"]),
    }


def _one_of(key: str, given: Any, allowed: Any) -> Any:
    if not isinstance(given, str) or given not in allowed:
        raise ValueError(f"{key} is {json.dumps(given)}; allowed here: {', '.join(allowed)}")
    return allowed[given] if isinstance(allowed, dict) else given


def _renamed(old: Values, notes: list[str]) -> Values:
    (key, value), *_ = old.items()
    if key == "sample_rate":
        notes.append(
            "Recordings of another rate than sample_rate are resampled; before, they were taken as "
            "if they had that rate."
        )
    if key == "normalize_audio" and not value:
        notes.append(
            "normalize_audio is false: its file for the device normalised nevertheless. Here the "
            "file does what training did."
        )
    return {_RENAMED[key]: value}


def _chosen(old: Values, notes: list[str]) -> Values:
    (key, value), *_ = old.items()
    name, allowed = _CHOICES[key]
    return {name: _one_of(key, value, allowed)}


_GROUPS: tuple[tuple[tuple[str, ...], Translation], ...] = (
    *(((key,), _renamed) for key in _RENAMED),
    *(((key,), _chosen) for key in _CHOICES),
    (("label_parser", "model_name", "tb_experiment", "tb_run_id"), _names),
    (("chunk_size", "chunk_hop_size"), _cutting),
    (("mel_scale",), _mel),
    (("num_mfccs", "cep_lifter", "db_scale"), _values),
    (("use_plot_images", "color_map"), _colors),
    (("prediction_type", "loss", "output_activation"), _output),
    (
        (
            *("weights", "pre_epochs", "epochs", "finetune_layer"),
            *("learning_rate", "fine_learning_rate"),
        ),
        _phases,
    ),
    (("batch_size",), _batch),
    (
        (
            *("augment_cutmix", "augment_specaug", "da_prob_min", "da_prob_max"),
            *("cutmix_min", "cutmix_max", "specaug_freq_min", "specaug_freq_max"),
            *("specaug_time_min", "specaug_time_max"),
            *("specaug_freq_mask_num", "specaug_time_mask_num"),
        ),
        _augmentation,
    ),
)
KNOWN = tuple(key for keys, _ in _GROUPS for key in keys)
MUST = tuple(key for key in KNOWN if key not in _DEFAULTS)

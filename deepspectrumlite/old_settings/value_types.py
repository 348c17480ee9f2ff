"""What a value of each setting of the published system has to be."""

import json
from collections.abc import Callable, Sequence
from typing import Any

LARGEST = 1e300
_KEYS = {
    "true or false": (
        *("anti_alias", "augment_cutmix", "augment_specaug", "db_scale", "mel_scale"),
        *("normalize_audio", "use_plot_images"),
    ),
    "a whole number": (
        *("batch_size", "cep_lifter", "epochs", "image_height", "image_width", "num_mel_bins"),
        *("num_mfccs", "num_units", "pre_epochs", "sample_rate", "specaug_freq_mask_num"),
        "specaug_time_mask_num",
    ),
    "a number": (
        *("chunk_hop_size", "chunk_size", "cutmix_max", "cutmix_min", "da_prob_max"),
        *("da_prob_min", "dropout", "fine_learning_rate", "finetune_layer", "learning_rate"),
        *("lower_edge_hertz", "sap_aug_a", "sap_aug_s", "specaug_freq_max", "specaug_freq_min"),
        *("specaug_time_max", "specaug_time_min", "stft_fft_length", "stft_hop_size"),
        *("stft_window_size", "upper_edge_hertz"),
    ),
    "text": (
        *("activation", "basemodel_name", "color_map", "label_parser", "loss", "model_name"),
        *("optimizer", "output_activation", "prediction_type", "resize_method", "tb_experiment"),
        *("tb_run_id", "weights"),
    ),
}
KINDS = {key: kind for kind, keys in _KEYS.items() for key in keys}


def check_values(key: str, values: Sequence[Any]) -> None:
    """Refuse values that are not what a key takes.

    Raises:
        ValueError: names the key, the first such value, and what is allowed
    """
    is_right = _CHECKS[KINDS[key]]
    for value in values:
        if not is_right(value):
            raise ValueError(f"{key} has the value {json.dumps(value)}; allowed: {KINDS[key]}")


def _is_number(value: Any) -> bool:
    # To Python a bool is a number; JSON may hold NaN and Infinity.
    is_one = isinstance(value, int | float) and not isinstance(value, bool)
    return is_one and abs(value) < LARGEST


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and _is_number(value)


_CHECKS: dict[str, Callable[[Any], bool]] = {
    "true or false": lambda value: isinstance(value, bool),
    "a whole number": _is_whole,
    "a number": _is_number,
    "text": lambda value: isinstance(value, str),
}

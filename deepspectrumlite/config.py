"""The recipe: every setting of a run, and the only place with default values.

A recipe is one TOML file with a table per section. Unknown keys, wrong types and impossible
values are refused in one line that names the key, what was given and what is allowed.
"""

import json
import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    ValidationError,
    model_validator,
)

from deepspectrumlite.errors import RecipeError

RECIPES = Path(__file__).parent / "recipes"

Share = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(gt=0, le=3600)]
Name = Annotated[str, Field(min_length=1)]

# What each kind of output is trained with, and judged by on devel; the first is the default.
LOSSES = {
    "softmax": ("cross_entropy", "focal"),
    "sigmoid": ("cross_entropy", "focal"),
    "linear": ("mse", "mae", "huber", "ccc"),
    "ordinal": ("mse", "mae", "huber", "ccc"),
}
MONITORS = {
    "softmax": ("uar", "accuracy", "macro_f1", "loss"),
    "sigmoid": ("map", "macro_f1", "loss"),
    "linear": ("ccc", "pearson", "spearman", "mae", "rmse", "loss"),
    "ordinal": ("ccc", "pearson", "spearman", "mae", "rmse", "uar", "accuracy", "loss"),
}


# How far from an event a detection of it may be, when a stream is evaluated.
COLLAR_SECONDS = 0.5
# Rows of a manifest in a part of a batch.
PART_ROWS = 1000

# Where a web page is looked at: this machine alone.
SERVE_HOST, SERVE_PORT = "127.0.0.1", 8000


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class DataSection(_Section):
    """What is learned from which recordings, and how they become segments of equal length."""

    corpus: Annotated[
        Literal[
            "folders",
            "audformat",
            "ccs",
            "cremad",
            "css",
            "demos",
            "emodb",
            "esc50",
            "ess",
            "hugging_face",
            "iemocap",
            "mpssc",
            "ravdess",
            "sleep",
            "speech_commands",
        ],
        Field(description="what a folder given as the manifest is; folders: one per class"),
    ] = "folders"
    target: Annotated[
        Name | Annotated[tuple[Name, ...], Field(min_length=1)],
        Field(description="the manifest's column with the label or number; or several columns"),
    ] = "label"
    separator: Annotated[
        Name, Field(description='between several labels in one column, for output "sigmoid"')
    ] = ";"
    order: Annotated[
        tuple[Name, ...],
        Field(description='labels from low to high, for output "ordinal"; []: they are numbers'),
    ] = ()

    sample_rate: Annotated[int, Field(ge=1000, le=192_000, description="in Hz")] = 16_000
    segment_seconds: Annotated[
        Seconds | Literal["whole"],
        Field(description='"whole": a recording is one segment, however long it is'),
    ] = 1.0
    hop_seconds: Annotated[
        Seconds, Field(description="from the start of one segment to the next")
    ] = 1.0
    padding: Annotated[
        Literal["zero", "repeat"],
        Field(description="how a recording shorter than a segment is filled up"),
    ] = "repeat"
    tail: Annotated[
        Literal["keep", "drop"],
        Field(description="what happens to an end, or a recording, shorter than a segment"),
    ] = "keep"
    devel_share: Annotated[
        float, Field(gt=0, lt=1, description="where the manifest has no split")
    ] = 0.2
    test_share: Annotated[
        float, Field(gt=0, lt=1, description="where the manifest has no split")
    ] = 0.2

    @property
    def targets(self) -> tuple[str, ...]:
        """The manifest's columns with what is to be learned."""
        return (self.target,) if isinstance(self.target, str) else self.target

    @property
    def segment_samples(self) -> int:
        """Samples in a segment; 0 where it is the whole recording."""
        if self.segment_seconds == "whole":
            return 0
        return round(self.segment_seconds * self.sample_rate)

    @property
    def hop_samples(self) -> int:
        """Samples from the start of a segment to the next; 0 where recordings are not cut."""
        if self.segment_seconds == "whole":
            return 0
        return max(1, round(self.hop_seconds * self.sample_rate))

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.segment_seconds != "whole" and self.hop_seconds > self.segment_seconds:
            raise ValueError(
                f"hop_seconds is {self.hop_seconds:g}, longer than segment_seconds "
                f"({self.segment_seconds:g}), so audio between segments would be lost; "
                f"allowed: at most {self.segment_seconds:g}"
            )
        if self.devel_share + self.test_share >= 1:
            raise ValueError(
                f"devel_share + test_share is {self.devel_share + self.test_share:g}, which "
                "leaves nothing to train on; allowed: a sum below 1"
            )
        return self


class FrontEndSection(_Section):
    """How a segment becomes an image."""

    peak_normalise: bool = True
    window_seconds: Seconds = 0.064
    hop_seconds: Seconds = 0.008
    fft_seconds: Annotated[
        Annotated[float, Field(gt=0, le=10)] | Literal["window"],
        Field(description='"window": as long as the window'),
    ] = "window"
    scale: Literal["db", "power"] = "db"
    frequency: Literal["mel", "linear"] = "mel"
    n_mels: Annotated[int, Field(ge=1, le=1024)] = 128
    fmin: Annotated[float, Field(ge=0, description="in Hz")] = 0.0
    fmax: Annotated[
        PositiveFloat | Literal["nyquist"], Field(description='in Hz, or "nyquist"')
    ] = "nyquist"
    n_mfcc: Annotated[int, Field(ge=0, description="0: the log-mel spectrogram itself")] = 0
    lifter: Annotated[int, Field(ge=0, description="cepstral lifter, 0: none")] = 0
    top_db: Annotated[
        PositiveFloat | Literal["none"],
        Field(description="dynamic range below the loudest bin of the segment"),
    ] = 80.0
    color_map: Literal["viridis", "cividis", "inferno", "magma", "plasma", "none"] = "viridis"
    image_height: Annotated[int, Field(ge=8, le=2048)] = 128
    image_width: Annotated[int, Field(ge=8, le=2048)] = 128
    resize: Literal["nearest", "bilinear", "bicubic", "area"] = "bilinear"
    antialias: bool = True

    def n_fft(self, sample_rate: int) -> int:
        """Samples in one Fourier transform."""
        seconds = self.window_seconds if self.fft_seconds == "window" else self.fft_seconds
        return round(seconds * sample_rate)

    def win_length(self, sample_rate: int) -> int:
        """Samples in one window."""
        return round(self.window_seconds * sample_rate)

    def hop_length(self, sample_rate: int) -> int:
        """Samples from one frame to the next."""
        return max(1, round(self.hop_seconds * sample_rate))

    def fmax_hz(self, sample_rate: int) -> float:
        """Upper edge of the highest band, in Hz."""
        return sample_rate / 2 if self.fmax == "nyquist" else self.fmax

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.fft_seconds != "window" and self.fft_seconds < self.window_seconds:
            raise ValueError(
                f"fft_seconds is {self.fft_seconds:g}, shorter than window_seconds "
                f'({self.window_seconds:g}); allowed: "window" or at least '
                f"{self.window_seconds:g}"
            )
        if self.n_mfcc > self.n_mels:
            raise ValueError(
                f"n_mfcc is {self.n_mfcc}; allowed: 0 to n_mels, which is {self.n_mels}"
            )
        if self.n_mfcc and (self.frequency != "mel" or self.scale != "db"):
            raise ValueError(
                f'n_mfcc is {self.n_mfcc} with frequency = "{self.frequency}" and scale = '
                f'"{self.scale}"; allowed: MFCCs of a mel spectrogram in dB, so set '
                'frequency = "mel" and scale = "db", or n_mfcc = 0'
            )
        if self.lifter and not self.n_mfcc:
            raise ValueError(
                f"lifter is {self.lifter}, but n_mfcc is 0; allowed: a lifter with MFCCs only"
            )
        return self


class ModelSection(_Section):
    """The network behind the front-end."""

    backbone: Annotated[str, Field(min_length=1, description="a timm name or an alias")] = (
        "mobilenet_v2"
    )
    weights: Annotated[
        str, Field(min_length=1, description='"imagenet", "random", or the path of a file')
    ] = "imagenet"
    output: Annotated[
        Literal["softmax", "sigmoid", "linear", "ordinal"],
        Field(description="one label, several at once, numbers, or labels in an order"),
    ] = "softmax"
    units: Annotated[
        int, Field(ge=0, le=65_536, description="hidden units of the head, 0: no hidden layer")
    ] = 512
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.25
    activation: Literal["relu", "arelu", "elu", "gelu", "silu", "tanh"] = "arelu"


class AugmentSection(_Section):
    """What is changed in the training segments, drawn anew each time that one is seen."""

    time_shift: Annotated[
        Share, Field(description="largest circular shift, as a share of the segment")
    ] = 0.1
    speed: Annotated[
        float, Field(ge=0, le=0.5, description="largest relative change of playback speed")
    ] = 0.1
    gain_db: Annotated[
        float,
        Field(ge=0, le=60, description='largest change; seen with top_db = "none", unnormalised'),
    ] = 0.0
    reverb_share: Annotated[Share, Field(description="of the segments that get an echo")] = 0.0
    reverb_folder: Annotated[
        Name, Field(description='recordings of room impulse responses, or "none"')
    ] = "none"
    noise_share: Annotated[Share, Field(description="of the segments that get noise")] = 0.0
    noise_folder: Annotated[Name, Field(description='recordings of noise, or "white"')] = "white"
    snr_db_low: Annotated[float, Field(description="of segment to noise, drawn from here")] = 5.0
    snr_db_high: Annotated[float, Field(description="to here")] = 30.0
    mixup_alpha: Annotated[
        float, Field(ge=0, description="of the Beta distribution of the mixing weight, 0: off")
    ] = 0.4
    mixup_share: Annotated[Share, Field(description="of the segments that are mixed")] = 0.5
    cutmix_probability: Annotated[Share, Field(description="at strength 1")] = 0.5
    cutmix_probability_min: Annotated[Share, Field(description="at strength 0 (SapAugment)")] = 0.0
    cutmix_area: Annotated[
        Share, Field(description="of the image that is pasted over, at strength 1")
    ] = 0.4
    cutmix_area_min: Annotated[Share, Field(description="at strength 0")] = 0.0
    mask_probability: Annotated[Share, Field(description="at strength 1")] = 1.0
    mask_probability_min: Annotated[Share, Field(description="at strength 0 (SapAugment)")] = 0.0
    time_masks: Annotated[int, Field(ge=0, le=100)] = 2
    time_mask_share: Annotated[
        Share, Field(description="of the width, that all these masks cover together, at strength 1")
    ] = 0.2
    time_mask_share_min: Annotated[Share, Field(description="at strength 0")] = 0.0
    frequency_masks: Annotated[int, Field(ge=0, le=100)] = 2
    frequency_mask_share: Annotated[
        Share, Field(description="of the height, likewise, at strength 1")
    ] = 0.2
    frequency_mask_share_min: Annotated[Share, Field(description="at strength 0")] = 0.0
    strength: Annotated[
        Literal["random", "sapaugment"],
        Field(description="of CutMix and masks: drawn, or more for segments of a small loss"),
    ] = "random"
    sap_a: Annotated[
        float, Field(gt=0, lt=1, description="SapAugment: share of the batch left nearly alone")
    ] = 0.5
    sap_s: Annotated[
        float, Field(gt=0, le=1000, description="SapAugment: how steeply strength falls there")
    ] = 10.0
    rank_from: Annotated[
        Literal["batch", "history"],
        Field(description="SapAugment: losses of an extra forward pass, or the last known ones"),
    ] = "history"

    @model_validator(mode="after")
    def _check(self) -> Self:
        for low, high in (
            ("snr_db_low", "snr_db_high"),
            ("cutmix_probability_min", "cutmix_probability"),
            ("cutmix_area_min", "cutmix_area"),
            ("mask_probability_min", "mask_probability"),
            ("time_mask_share_min", "time_mask_share"),
            ("frequency_mask_share_min", "frequency_mask_share"),
        ):
            lowest, highest = getattr(self, low), getattr(self, high)
            if lowest > highest:
                raise ValueError(
                    f"{low} is {lowest:g}, above {high} ({highest:g}); allowed: at most {highest:g}"
                )
        if self.reverb_share and self.reverb_folder == "none":
            raise ValueError(
                f'reverb_share is {self.reverb_share:g}, but reverb_folder is "none"; allowed: a '
                "folder with recordings of room impulse responses"
            )
        return self


class TrainSection(_Section):
    """Both phases of training: the head alone, then the last layers of the backbone too."""

    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    batch_size: Annotated[
        int, Field(ge=2, description="segments per update, over all processes and parts")
    ] = 32
    accumulate: Annotated[
        int, Field(ge=1, description="parts that a batch is computed in, one by one: less memory")
    ] = 1
    head_epochs: Annotated[int, Field(ge=0)] = 5
    head_learning_rate: PositiveFloat = 1e-3
    epochs: Annotated[int, Field(ge=0, description="of fine-tuning")] = 20
    learning_rate: Annotated[PositiveFloat, Field(description="of fine-tuning, at its peak")] = 1e-3
    fine_tune_share: Annotated[
        Share, Field(description="of the backbone's layers, the last ones, that train")
    ] = 1.0
    batch_norm: Annotated[
        Literal["adapt", "frozen"],
        Field(description="whether the statistics of the backbone's BatchNorm follow the data"),
    ] = "adapt"
    optimizer: Literal["adam", "adamw", "adadelta", "adagrad", "nadam", "rmsprop", "sgd"] = "adamw"
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    momentum: Annotated[float, Field(ge=0, lt=1, description="of sgd and rmsprop")] = 0.9
    schedule: Literal["constant", "cosine", "onecycle"] = "onecycle"
    loss: Annotated[
        Literal["auto", "cross_entropy", "focal", "mse", "mae", "huber", "ccc"],
        Field(description="auto: cross_entropy for labels, mse for numbers"),
    ] = "auto"
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    focal_gamma: Annotated[float, Field(ge=0, description="0: as cross_entropy")] = 2.0
    huber_delta: Annotated[
        PositiveFloat, Field(description="in standard deviations of the training targets")
    ] = 1.0
    balance: Annotated[
        Literal["sampler", "weights", "none"],
        Field(
            description="classes drawn equally often, weighted in the loss, or as they are; "
            "numbers are always as they are"
        ),
    ] = "sampler"
    average_decay: Annotated[
        float, Field(ge=0, lt=1, description="of the moving average of the weights, 0: none")
    ] = 0.98
    monitor: Annotated[
        Literal[
            "auto",
            "uar",
            "accuracy",
            "macro_f1",
            "map",
            "ccc",
            "pearson",
            "spearman",
            "mae",
            "rmse",
            "loss",
        ],
        Field(
            description="devel metric that chooses the best model; auto: uar for one label, map "
            "(mean average precision) for several, ccc for numbers"
        ),
    ] = "auto"
    keep: Annotated[
        Literal["best", "last"], Field(description="which epoch's model is handed over")
    ] = "best"
    patience: Annotated[
        int, Field(ge=0, description="epochs without a better devel metric, 0: never stop early")
    ] = 0
    workers: Annotated[int, Field(ge=0, le=256, description="processes that decode audio")] = 2
    precision: Annotated[
        Literal["float32", "bfloat16", "float16"],
        Field(description="of the network in training; the front-end is always float32"),
    ] = "float32"
    compile: Annotated[bool, Field(description="the network by torch.compile")] = False
    checkpoint_minutes: Annotated[
        PositiveFloat, Field(description="a checkpoint this often, and after every epoch")
    ] = 10.0
    tensorboard: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.head_epochs + self.epochs == 0:
            raise ValueError(
                "head_epochs and epochs are both 0, so nothing would be trained; allowed: at "
                "least 1 in one of them"
            )
        return self


class DecisionSection(_Section):
    """How sure an answer has to be, and what is said otherwise; fitted on devel."""

    coverage: Annotated[
        float,
        Field(ge=0, lt=1, description="how often a set of labels is to hold the true one; 0: none"),
    ] = 0.9
    unknown: Annotated[
        Literal["none", "score", "energy"],
        Field(description='for output "softmax": what a recording is refused by, as unknown'),
    ] = "none"
    false_rejection: Annotated[
        float,
        Field(gt=0, lt=1, description="share of known recordings that may be refused as unknown"),
    ] = 0.05


class Recipe(_Section):
    """All settings of one run."""

    data: DataSection = DataSection()
    frontend: FrontEndSection = FrontEndSection()
    model: ModelSection = ModelSection()
    augment: AugmentSection = AugmentSection()
    train: TrainSection = TrainSection()
    decision: DecisionSection = DecisionSection()

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_frontend(self.frontend, self.data)
        self._check_output()
        mixup = self.augment.mixup_share * self.augment.mixup_alpha
        if mixup and self.data.segment_seconds == "whole":
            raise ValueError(
                f"augment.mixup_share is {self.augment.mixup_share:g}, but data.segment_seconds is "
                '"whole", and recordings of different lengths cannot be mixed; allowed: '
                "mixup_share = 0, or segments of a fixed length"
            )
        if self.augment.gain_db and self.frontend.peak_normalise:
            raise ValueError(
                f"augment.gain_db is {self.augment.gain_db:g}, but frontend.peak_normalise undoes "
                "any change of level; allowed: gain_db = 0, or peak_normalise = false"
            )
        return self

    @property
    def loss(self) -> str:
        """The loss that trains this output."""
        return LOSSES[self.model.output][0] if self.train.loss == "auto" else self.train.loss

    @property
    def monitor(self) -> str:
        """The devel metric that chooses the best model."""
        output, monitor = self.model.output, self.train.monitor
        return MONITORS[output][0] if monitor == "auto" else monitor

    def for_length(self, seconds: float) -> "Recipe":
        """The same with segments of a fixed length instead of whole recordings.

        Raises:
            RecipeError: a window of the front-end is longer
        """
        values = self.model_dump(mode="json")
        values["data"] |= {"segment_seconds": seconds, "hop_seconds": seconds}
        return parse_recipe(values)

    def _check_output(self) -> None:
        output, data = self.model.output, self.data
        for key, value, allowed in (
            ("loss", self.loss, LOSSES[output]),
            ("monitor", self.monitor, MONITORS[output]),
        ):
            if value not in allowed:
                raise ValueError(
                    f'train.{key} is "{value}", but model.output is "{output}"; allowed: '
                    f"{', '.join(allowed)}"
                )
        if self.decision.unknown != "none" and output != "softmax":
            raise ValueError(
                f'decision.unknown is "{self.decision.unknown}", but model.output is "{output}"; '
                'allowed: "none", or model.output "softmax"'
            )
        if len(data.targets) > 1 and output not in ("sigmoid", "linear"):
            raise ValueError(
                f"data.target names {len(data.targets)} columns, but model.output is "
                f'"{output}"; allowed: one column, or model.output "sigmoid" (0 or 1 in each '
                'column) or "linear" (a number in each)'
            )
        if len(set(data.targets)) < len(data.targets):
            raise ValueError(
                f"data.target is {list(data.targets)}, which repeats a column; allowed: each once"
            )
        if data.order and (output != "ordinal" or len(set(data.order)) != len(data.order)):
            raise ValueError(
                f'data.order is {list(data.order)} with model.output "{output}"; allowed: each '
                'label once, with model.output "ordinal"'
            )
        if self.loss == "ccc" and self.train.accumulate > 1:
            raise ValueError(
                f'train.accumulate is {self.train.accumulate} with loss "ccc", which needs the '
                'whole batch at once; allowed: accumulate = 1, or loss "mse", "mae" or "huber"'
            )
        if self.train.accumulate * 2 > self.train.batch_size:
            raise ValueError(
                f"train.accumulate is {self.train.accumulate}; allowed: parts of at least 2 "
                f"segments, so up to {self.train.batch_size // 2} for train.batch_size "
                f"{self.train.batch_size}"
            )


def check_frontend(frontend: FrontEndSection, data: DataSection) -> None:
    """Raise ValueError where the front-end cannot work on segments of this rate and length."""
    rate = data.sample_rate
    if frontend.win_length(rate) < 2:
        raise ValueError(
            f"frontend.window_seconds is {frontend.window_seconds:g}, less than two samples at "
            f"{rate} Hz; allowed: at least {2 / rate:g}"
        )
    for key in ("window_seconds", "hop_seconds"):
        seconds = getattr(frontend, key)
        if data.segment_seconds != "whole" and seconds > data.segment_seconds:
            raise ValueError(
                f"frontend.{key} is {seconds:g}, longer than data.segment_seconds; "
                f"allowed: at most {data.segment_seconds:g}"
            )
    fmax = frontend.fmax_hz(rate)
    if fmax > rate / 2:
        raise ValueError(
            f"frontend.fmax is {fmax:g}, above the Nyquist frequency of data.sample_rate "
            f'({rate}); allowed: at most {rate / 2:g}, or "nyquist"'
        )
    if frontend.fmin >= fmax:
        raise ValueError(
            f"frontend.fmin is {frontend.fmin:g}; allowed: 0 to below fmax, which is {fmax:g}"
        )
    if frontend.frequency == "mel":
        _check_mel_bands(frontend, rate)
    else:
        spacing = rate / frontend.n_fft(rate)
        if math.ceil(frontend.fmin / spacing) > math.floor(fmax / spacing):
            raise ValueError(
                f"frontend.fmin to fmax is {frontend.fmin:g} to {fmax:g} Hz, between two bins of "
                f"the Fourier transform ({spacing:g} Hz apart); allowed: a wider range"
            )


def _check_mel_bands(frontend: FrontEndSection, rate: int) -> None:
    """Refuse triangles in which no bin of the Fourier transform lies."""
    n_fft, fmax = frontend.n_fft(rate), frontend.fmax_hz(rate)
    low, high = (1127 * math.log(1 + f / 700) for f in (frontend.fmin, fmax))
    step = (high - low) / (frontend.n_mels + 1)
    bins = [1127 * math.log(1 + k * rate / n_fft / 700) for k in range(1, n_fft // 2 + 1)]
    position = 0
    for band in range(frontend.n_mels):
        lower, upper = low + band * step, low + (band + 2) * step
        while position < len(bins) and bins[position] <= lower:
            position += 1
        if position == len(bins) or bins[position] >= upper:
            raise ValueError(
                f"frontend.n_mels is {frontend.n_mels}, but mel band {band} of "
                f"{frontend.fmin:g} to {fmax:g} Hz holds no bin of a {n_fft}-point transform "
                f"({rate / n_fft:g} Hz apart); allowed: fewer mels, a longer fft_seconds, or a "
                "wider fmin to fmax"
            )


def shipped_recipes() -> list[str]:
    """Names of the recipes inside the package."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


@dataclass(frozen=True)
class ExportOptions:
    """How to export.

    Attributes:
        precision: of the network in the .tflite file, "float32", "float16" or "int8"
        onnx: also write a .onnx file, in float32
        manifest: clips to prove and calibrate with; None: those of the run
        split: of the clips to prove with
        max_drop: of the metric (UAR, MAP or CCC) against the model that float16 and int8 may cost
        stream: a JSON file with settings for streaming; None: ``stream.json`` of the run, if any
        calibration_segments: drawn from the training split, for int8
        seconds: length of what the file takes, for a model that hears whole recordings
        image: give the image that the network sees as a second output
    """

    precision: str = "float32"
    onnx: bool = False
    manifest: Path | None = None
    split: str = "devel"
    max_drop: float = 0.01
    stream: Path | None = None
    calibration_segments: int = 100
    seconds: float | None = None
    image: bool = False


@dataclass(frozen=True)
class SweepBudget:
    """What the exported file of a trial may cost; what would cost more is not trained.

    Attributes:
        max_latency_ms: of a segment, the median on one thread of this machine; None: any
        max_size_mb: of the .tflite file, in 10**6 bytes; None: any
        precision: of the network in that file, "float32", "float16" or "int8"
        measure: measure both also where there is no limit
        seconds: length of what the file takes, for a model that hears whole recordings
    """

    max_latency_ms: float | None = None
    max_size_mb: float | None = None
    precision: str = "float32"
    measure: bool = False
    seconds: float | None = None

    @property
    def wanted(self) -> bool:
        """Whether anything is to be measured."""
        return self.measure or self.max_latency_ms is not None or self.max_size_mb is not None


@dataclass(frozen=True)
class RayOptions:
    """Where the trials of a sweep run, and what becomes of those that are lost or bad.

    Attributes:
        address: of the head node; None: that of ``RAY_ADDRESS``, else a Ray of its own
        cpus_per_trial: cores that each trial takes
        gpus_per_trial: of a GPU, 0.5 lets two trials share one; 0: train on the CPU
        retries: of a trial whose worker or node is lost
        stop_early: stop trials that are worse than others after as many epochs
        grace_epochs: that each trial has before it may be stopped; None: those of the head alone,
            and a tenth of the others
    """

    address: str | None = None
    cpus_per_trial: float = 1
    gpus_per_trial: float = 0
    retries: int = 3
    stop_early: bool = False
    grace_epochs: int | None = None


@dataclass(frozen=True)
class ReportOptions:
    """What the page shows.

    Attributes:
        split: whose scores; None: test where there is one, else devel
        comparison: ``comparison.json`` or its folder; None: beside the run, if it is there
        exported: files to tell about, with those in the run folder
        latency: time the exported files on this machine
        worst: how many of the recordings that went most wrong
        explain: show what spoke for and against answers, of these and on average
        method: of explaining: gradcam, shap, or occlusion; the last two take minutes
        audio: put these recordings into the page
    """

    split: str | None = None
    comparison: Path | None = None
    exported: tuple[Path, ...] = ()
    latency: bool = False
    worst: int = 8
    explain: bool = True
    method: str = "gradcam"
    audio: bool = True


def load_recipe(source: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe from a TOML file, or a shipped one by its name.

    Args:
        source: a path, or one of :func:`shipped_recipes`
        overrides: ``section.key=value`` each, the value as in TOML (a bare word is a string)

    Raises:
        RecipeError: the file is missing or not TOML, or a key or value is not allowed
    """
    values = read_values(source, overrides)
    if "sweep" in values:
        raise RecipeError(
            f"{source}: has a table [sweep], so it is many recipes; allowed: a recipe without one; "
            f"try all of them with: deepspectrumlite sweep {source} --data MANIFEST --out FOLDER"
        )
    return parse_recipe(values, str(source))


def read_values(source: str | Path, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """What the file of a recipe or a sweep holds, changed but not checked.

    Raises:
        RecipeError: the file is missing or not TOML, or an override is not of the form key=value
    """
    path = Path(source)
    if not path.suffix and str(source) in shipped_recipes():
        path = RECIPES / f"{source}.toml"
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError):
        raise RecipeError(
            f"{source}: no such recipe; allowed: the path of a TOML file, or one of "
            f"{', '.join(shipped_recipes())}"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not a TOML file: {error}") from None
    return _override(values, overrides)


def parse_recipe(values: Mapping[str, Any], source: str = "recipe") -> Recipe:
    """Check the values of a recipe, by section and key.

    Raises:
        RecipeError: naming the first key that is not allowed, what was given, what is allowed
    """
    try:
        # Through JSON, so that strict types accept lists for tuples and whole numbers for floats.
        return Recipe.model_validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        raise RecipeError(f"{source}: {_explain(error)}") from None


def _override(values: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    for item in overrides:
        key, equals, text = item.partition("=")
        section, dot, name = key.strip().partition(".")
        if not (equals and dot and section and name):
            raise RecipeError(
                f"--set {item}: not of the form section.key=value; "
                "for example --set train.learning_rate=1e-4"
            )
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text.strip()
        table = values.setdefault(section, {})
        if not isinstance(table, dict):
            raise RecipeError(f"{section} is {table!r}; allowed: a table, [{section}]")
        table[name] = value
    return values


def _explain(error: ValidationError) -> str:
    """One line for the first problem that pydantic found."""
    problems = error.errors(include_url=False)
    first = problems[0]
    # A union ("nyquist" or a number) reports one problem per member: gather what each allows.
    key = ".".join(str(part) for part in first["loc"][:2])
    same = [p for p in problems if ".".join(str(part) for part in p["loc"][:2]) == key]
    if first["type"] == "value_error":
        return str(first["ctx"]["error"]) if not key else f"[{key}] {first['ctx']['error']}"
    if first["type"] == "extra_forbidden":
        return f"{key} is not a known key; allowed: {', '.join(_known(first['loc']))}"
    allowed = " or ".join(dict.fromkeys(_allowed(p) for p in same))
    return f"{key} is {json.dumps(first['input'], default=str)}; allowed: {allowed}"


def _known(loc: tuple[int | str, ...]) -> list[str]:
    if len(loc) == 1:
        return [f"[{name}]" for name in Recipe.model_fields]
    section = Recipe.model_fields[str(loc[0])].annotation
    assert isinstance(section, type)
    assert issubclass(section, BaseModel)
    return list(section.model_fields)


def _allowed(problem: Mapping[str, Any]) -> str:
    message = str(problem["msg"])
    for start in ("Input should be ", "String should ", "Tuple should ", "a valid "):
        message = message.removeprefix(start)
    return message


def recipe_toml(recipe: Recipe) -> str:
    """The recipe as TOML, every key with what it means and allows, to start an own one from."""
    lines = []
    for name, section in recipe:
        lines += [f"# {type(section).__doc__}", f"[{name}]"]
        known = type(section).model_json_schema()["properties"]
        for key, value in section:
            # A string, number or boolean is written in TOML as in JSON.
            line = f"{key} = {json.dumps(value, ensure_ascii=False)}"
            notes = [known[key].get("description"), ", ".join(known[key].get("enum", []))]
            comment = ": ".join(note for note in notes if note)
            lines.append(f"{line}  # {comment}" if comment else line)
        lines.append("")
    return "\n".join(lines)


def recipe_schema() -> dict[str, Any]:
    """JSON schema of a recipe, for editors."""
    return Recipe.model_json_schema()

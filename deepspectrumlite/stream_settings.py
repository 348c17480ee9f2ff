"""How scores of windows become events: the settings, in Python, in JSON and in exported files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepspectrumlite.decisions import Decision
from deepspectrumlite.errors import ModelError

if TYPE_CHECKING:
    from deepspectrumlite.audio import Cutting

SMOOTHINGS = ("none", "mean", "ema")
DEFAULT_THRESHOLD = 0.5
FILE = "stream.json"


@dataclass(frozen=True)
class StreamSettings:
    """How scores of windows become events; flat, and the same in JSON and in exported files.

    Attributes:
        hop_seconds: from the start of a window to the next, at most a window's length;
            None: as the model was trained
        smoothing: "none"; "mean" over the windows of the last `smoothing_seconds`; or "ema",
            s += (1 - exp(-hop / smoothing_seconds)) * (score - s), from the first score on
        smoothing_seconds: length of the mean, or time constant of the ema
        threshold: of labels that `thresholds` does not name, above 0 and up to 1; None: the
            model's own where it has some (output "sigmoid"), else 0.5
        thresholds: by label; an event starts when the smoothed score reaches it
        hysteresis: an event ends when the smoothed score falls below threshold - hysteresis, or
            below half the threshold where that is higher, so that low thresholds end too
        min_duration_seconds: an event is announced when it has lasted this long; a shorter one
            never is
        refractory_seconds: after an event, so long the same label starts no other
        gate_db: windows with an RMS below this are not scored, and count as 0 for every label;
            in dBFS: 0 is an RMS of 1. None: all are scored
        ignore: labels that never make an event, such as a background
        only_strongest: an event starts only while no other label has a higher smoothed score;
            ignored labels take part. It may last when another gets stronger

    Raises:
        ModelError: a value of the wrong type, or an impossible one
    """

    hop_seconds: float | None = None
    smoothing: str = "none"
    smoothing_seconds: float = 1.0
    threshold: float | None = None
    thresholds: Mapping[str, float] = field(default_factory=dict)
    hysteresis: float = 0.1
    min_duration_seconds: float = 0.0
    refractory_seconds: float = 0.0
    gate_db: float | None = None
    ignore: Sequence[str] = ()
    only_strongest: bool = False

    def __post_init__(self) -> None:
        for name, (allowed, is_allowed) in _ALLOWED.items():
            value = getattr(self, name)
            if not is_allowed(value):
                raise ModelError(
                    f"stream settings: {name} is {json.dumps(value, default=repr)}; "
                    f"allowed: {allowed}"
                )
        object.__setattr__(self, "thresholds", dict(self.thresholds))
        object.__setattr__(self, "ignore", tuple(self.ignore))

    @classmethod
    def from_json(cls, source: str | Mapping[str, Any]) -> StreamSettings:
        """Settings from JSON text, or from what it holds; what is not named keeps its default.

        >>> StreamSettings.from_json('{"smoothing": "mean", "ignore": ["background"]}').ignore
        ('background',)

        Raises:
            ModelError: not JSON, an unknown name, a wrong type or an impossible value
        """
        try:
            given = json.loads(source) if isinstance(source, str) else source
        except json.JSONDecodeError as error:
            raise ModelError(f"stream settings: not JSON: {error}") from None
        if not isinstance(given, Mapping):
            raise ModelError(f"stream settings: a {type(given).__name__}; allowed: a JSON object")
        names = [each.name for each in fields(cls)]
        unknown = [str(name) for name in given if name not in names]
        if unknown:
            raise ModelError(
                f"stream settings: unknown: {', '.join(unknown)}; allowed: {', '.join(names)}"
            )
        return cls(**given)

    def to_json(self) -> dict[str, Any]:
        """All settings, ready for :func:`json.dumps`."""
        return asdict(self) | {"ignore": list(self.ignore)}

    def check_for(self, cutting: Cutting, decision: Decision) -> None:
        """All that has to be right for a model, before anything is recognised.

        Args:
            cutting: how the model cuts recordings
            decision: what its scores mean

        Raises:
            ModelError: a label that the model does not know, or a hop longer than a window
        """
        self.check(decision.columns)
        self.hop_samples(cutting)

    def hop_samples(self, cutting: Cutting) -> int:
        """From the start of a window to the next, in samples at the model's rate.

        Raises:
            ModelError: it is longer than a window
        """
        if not cutting.segment_samples:
            raise ModelError(
                "the model hears whole recordings, which a stream has not; export it with "
                "--seconds, and stream with the file"
            )
        if self.hop_seconds is None:
            return cutting.hop_samples
        hop = max(1, round(self.hop_seconds * cutting.sample_rate))
        if hop > cutting.segment_samples:
            longest = cutting.segment_samples / cutting.sample_rate
            raise ModelError(
                f"stream settings: hop_seconds is {self.hop_seconds:g}, so audio between windows "
                f"would be lost; allowed: at most {longest:g}, the length of a window"
            )
        return hop

    def check(self, labels: Sequence[str]) -> None:
        """Raise ModelError where a label is named that the model does not know."""
        for name, given in (("thresholds", self.thresholds), ("ignore", self.ignore)):
            unknown = [label for label in given if label not in labels]
            if unknown:
                raise ModelError(
                    f"stream settings: {name} names {', '.join(map(repr, unknown))}, which the "
                    f"model does not know; allowed: {', '.join(labels)}"
                )

    def label_thresholds(self, decision: Decision) -> dict[str, float]:
        """The threshold of each label that can make an event; none for "linear" and "ordinal"."""
        if decision.output not in ("softmax", "sigmoid"):
            return {}
        default = DEFAULT_THRESHOLD if self.threshold is None else self.threshold
        found = dict.fromkeys(decision.labels, default)
        if self.threshold is None and len(decision.thresholds):
            found = dict(zip(decision.labels, map(float, decision.thresholds), strict=True))
        found |= self.thresholds
        return {label: found[label] for label in decision.labels if label not in self.ignore}


def read_settings(path: Path) -> StreamSettings:
    """Settings from a JSON file.

    Raises:
        ModelError: the file cannot be read, or as :meth:`StreamSettings.from_json`
    """
    try:
        return StreamSettings.from_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: cannot be read as stream settings: {error}") from None
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None


def own_settings(folder: Path) -> StreamSettings | None:
    """Those that stand as ``stream.json`` in a run folder, or in its model folder; None: none."""
    beside = folder.parent / FILE if folder.name == "model" else folder / FILE
    places = (beside, folder / FILE, folder / "model" / FILE)
    return next((read_settings(place) for place in places if place.is_file()), None)


def _is_number(value: Any, low: float, high: float) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and low <= value <= high


def _is_threshold(value: Any) -> bool:
    return _is_number(value, 0, 1) and value > 0


def _are_thresholds(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(label, str) and _is_threshold(number) for label, number in value.items()
    )


def _are_texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(each, str) for each in value)


def _is_positive(value: Any) -> bool:
    return _is_number(value, 0, 3600) and value > 0


_SECONDS = ("a number of seconds from 0 to 3600", lambda value: _is_number(value, 0, 3600))
# For each setting: what is allowed, in words and as a check.
_ALLOWED: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "hop_seconds": (
        "a number of seconds above 0 and up to 3600, or null",
        lambda value: value is None or _is_positive(value),
    ),
    "smoothing": (", ".join(SMOOTHINGS), lambda value: value in SMOOTHINGS),
    "smoothing_seconds": ("a number of seconds above 0 and up to 3600", _is_positive),
    "threshold": (
        "a number above 0 and up to 1, or null",
        lambda value: value is None or _is_threshold(value),
    ),
    "thresholds": ("numbers above 0 and up to 1, by label", _are_thresholds),
    "hysteresis": ("a number from 0 to 1", lambda value: _is_number(value, 0, 1)),
    "min_duration_seconds": _SECONDS,
    "refractory_seconds": _SECONDS,
    "gate_db": (
        "a level from -120 to 0 dBFS, or null",
        lambda value: value is None or _is_number(value, -120, 0),
    ),
    "ignore": ("a list of labels", _are_texts),
    "only_strongest": ("true, false", lambda value: isinstance(value, bool)),
}

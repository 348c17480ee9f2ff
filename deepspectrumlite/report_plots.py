"""Pictures of the report as inline SVG, and recordings and pictures as data URIs.

Lines and text have the colour of the page's text, so that a picture reads on a light and on a dark
page and on paper; the colours of series come from the classes ``s1``, ``s2``, ... of the page's
style sheet. Each picture says in words, with numbers, what it shows. No name from outside reaches
the SVG without being escaped.
"""

import base64
import io
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd
import soundfile
import torch
from markupsafe import Markup

from deepspectrumlite.model import Classifier, TorchRecogniser
from deepspectrumlite.plots import shorten
from deepspectrumlite.preview import image_axes
from deepspectrumlite.progress import Progress

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from deepspectrumlite.attribution import MapSettings

# In units of a picture, a pixel each where it is shown in its full width; CHAR is the width of a
# letter.
WIDTH, SQUARE, CHAR, ROW = 440, 320, 6.6, 24
# Of the mean maps: recordings of each class, and classes side by side.
PER_CLASS, CLASSES_IN_PICTURE = 5, 5


@dataclass(frozen=True)
class Line:
    """A curve: its name, and (n_points,) values; None is a gap."""

    name: str
    values: Sequence[float | None]


@dataclass(frozen=True)
class Dot:
    """A row of :func:`dot_chart`: a value, its interval where known, and a note at the right."""

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    note: str = ""


def line_chart(
    x: Sequence[float], lines: Sequence[Line], *, words: str, x_name: str, best: int | None = None
) -> Markup:
    """Curves over ``x`` (n_points,), with a ring around the first curve's point ``best``."""
    known = [value for line in lines for value in _numbers(line) if math.isfinite(value)]
    height, left, right, top, bottom = 260, 46, WIDTH - 12, 14 + 18 * len(lines), 220
    ticks = nice_ticks(min([0.0, *known]), max(known, default=1.0))
    across = _scale(min(x), max(x), left + 8, right - 8)
    up = _scale(ticks[0], ticks[-1], bottom, top)
    parts = [_level(up(tick), left, right, f"{tick:g}") for tick in ticks]
    parts += [_text(across(tick), bottom + 18, f"{tick:g}", "middle") for tick in _whole(x)]
    parts.append(_text((left + right) / 2, height - 6, x_name, "middle"))
    for i, line in enumerate(lines):
        points = [
            (across(a), up(b)) for a, b in zip(x, _numbers(line), strict=True) if math.isfinite(b)
        ]
        parts += _curve(points, i + 1)
        parts.append(_rule(left + 8, left + 34, 10 + 18 * i, f"s{i + 1}"))
        parts.append(_text(left + 42, 14 + 18 * i, line.name))
    if best is not None and math.isfinite(at := _numbers(lines[0])[best]):
        ring = Markup('<circle cx="{:.1f}" cy="{:.1f}" r="7" class="ring"/>')
        parts.append(ring.format(across(x[best]), up(at)))
    return _picture(height, parts, words)


def dot_chart(
    rows: Sequence[Dot],
    *,
    words: str,
    low: float = 0.0,
    high: float = 1.0,
    mark: float | None = None,
) -> Markup:
    """A row per name: a dot at its value, a line over its interval; ``mark`` is a dashed line."""
    names = [shorten(row.name) for row in rows]
    left = min(200.0, 16 + CHAR * max(len(name) for name in names))
    right = WIDTH - 14 - CHAR * max(len(row.note) for row in rows)
    height = ROW * len(rows) + 44
    ticks = nice_ticks(low, high, 4)
    across = _scale(ticks[0], ticks[-1], left + 8, right - 8)
    bottom = ROW * len(rows) + 12
    parts = [_post(across(tick), 8, bottom, "grid") for tick in ticks]
    parts += [_text(across(tick), bottom + 18, f"{tick:g}", "middle") for tick in ticks]
    if mark is not None:
        parts.append(_post(across(mark), 8, bottom, "mark"))
    for i, (row, name) in enumerate(zip(rows, names, strict=True)):
        middle = 8 + ROW * (i + 0.5)
        parts.append(_text(left - 2, middle + 4, name, "end", most=left - 4))
        parts.append(_text(WIDTH - 4, middle + 4, row.note, "end"))
        if row.low is not None and row.high is not None:
            parts.append(_rule(across(row.low), across(row.high), middle, "s1"))
        if row.value is not None:
            dot = Markup('<circle cx="{:.1f}" cy="{:.1f}" r="4.5" class="dot"/>')
            parts.append(dot.format(across(row.value), middle))
    return _picture(height, parts, words)


def reliability_chart(
    bins: Iterable[tuple[float, float, int]], *, words: str, y_name: str
) -> Markup:
    """Shares over scores, each (score, share, count) a dot as large as its count."""
    parts, across, up = _square((0.0, 0.25, 0.5, 0.75, 1.0), "score", y_name)
    shown = [each for each in bins if each[2]]
    largest = max((count for _, _, count in shown), default=1)
    parts += _curve([(across(a), up(b)) for a, b, _ in shown], 1, dots=False)
    for score, share, count in shown:
        # The area grows with the count.
        radius = 3 + 9 * math.sqrt(count / largest)
        dot = Markup('<circle cx="{:.1f}" cy="{:.1f}" r="{:.1f}" class="bubble"/>')
        parts.append(dot.format(across(score), up(share), radius))
    return _picture(SQUARE, parts, words, width=SQUARE)


def scatter_chart(
    truth: npt.NDArray[np.floating], predicted: npt.NDArray[np.floating], *, words: str
) -> Markup:
    """Predicted over true numbers, (n,) each, with the line where both agree."""
    both = np.concatenate([truth, predicted])
    ticks = nice_ticks(float(both.min()), float(both.max()))
    parts, across, up = _square(ticks, "true", "predicted")
    dot = Markup('<circle cx="{:.1f}" cy="{:.1f}" r="4" class="bubble"/>')
    pairs = zip(truth.tolist(), predicted.tolist(), strict=True)
    parts += [dot.format(across(a), up(b)) for a, b in pairs]
    return _picture(SQUARE, parts, words, width=SQUARE)


def spectrogram(
    image: npt.NDArray[np.uint8],
    extent: Sequence[float],
    ticks: Sequence[tuple[float, str]],
    *,
    words: str,
) -> Markup:
    """An image as the network sees it, (height, width, 3) bytes, with its axes.

    Args:
        image: the top row is the highest frequency
        extent: left and right in seconds, bottom and top in bands
        ticks: (band, name) of the frequency axis
        words: what stands for the picture where it cannot be seen
    """
    left, top, width, height = 62, 8, 250, 200
    picture = Markup(
        '<image href="{}" x="{}" y="{}" width="{}" height="{}" preserveAspectRatio="none"/>'
    )
    parts = [picture.format(png_uri(image), left, top, width, height)]
    up = _scale(extent[2], extent[3], top + height, top)
    parts += [_text(left - 6, up(place) + 4, name, "end") for place, name in ticks]
    across = _scale(extent[0], extent[1], left, left + width)
    inside = [t for t in nice_ticks(extent[0], extent[1], 4) if extent[0] <= t <= extent[1]]
    parts += [_text(across(t), top + height + 18, f"{t:g} s", "middle") for t in inside]
    return _picture(top + height + 26, parts, words, width=left + width + 14)


def segment_picture(model: Classifier, waveform: npt.NDArray[np.float32], words: str) -> Markup:
    """What the network sees of a segment, (num_samples,), with its axes."""
    with torch.no_grad():
        image = model.frontend(torch.from_numpy(waveform)[None])[0]
    extent, places, names = image_axes(model.recipe, len(waveform))
    pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
    return spectrogram(pixels, extent, list(zip(places, names, strict=True)), words=words)


@dataclass(frozen=True)
class Explainer:
    """Draws what spoke for and against answers: :mod:`deepspectrumlite.explain` and its like."""

    model: Classifier
    method: str
    background: torch.Tensor
    settings: "MapSettings"

    def segment(
        self,
        path: Path,
        waveform: npt.NDArray[np.float32],
        times: tuple[float, float],
        targets: list[str],
    ) -> str:
        """The picture of one segment, (num_samples,), as a data URI."""
        from deepspectrumlite import explain, explain_plots

        maps = explain.explain_segment(
            self.model,
            waveform,
            targets,
            method=self.method,
            background=self.background,
            settings=self.settings,
        )
        image = explain.image_of(self.model, waveform).numpy()
        scores = TorchRecogniser(self.model).score(waveform[None])[0]
        found = explain.Explanation(path, *times, self.method, image, scores, maps)
        return figure_uri(explain_plots.explanation_figure(found, self.model))

    def averages(self, rows: pd.DataFrame, progress: Progress) -> list[tuple[str, str]]:
        """Pictures of the mean maps of each class as data URIs, and what they show in words."""
        from deepspectrumlite import explain_plots, faithfulness

        cases = faithfulness.explain_split(
            self.model,
            rows,
            self.background,
            per_class=PER_CLASS,
            method=self.method,
            settings=self.settings,
            progress=progress,
        )
        found, drawn = faithfulness.average_maps(cases), []
        for at in range(0, len(found), CLASSES_IN_PICTURE):
            part = found[at : at + CLASSES_IN_PICTURE]
            figure = explain_plots.average_figure(part, self.model, self.method)
            names = ", ".join(f"{each.name} (mean of {each.count})" for each in part)
            words = f"Mean spectrogram, and below it mean map by {self.method}, of {names}."
            drawn.append((figure_uri(figure), words))
        return drawn


def png_uri(image: npt.NDArray[np.uint8]) -> str:
    """(height, width, 3) bytes as the data URI of a PNG."""
    from matplotlib.image import imsave

    file = io.BytesIO()
    imsave(file, image, format="png")
    return data_uri("image/png", file.getvalue())


def figure_uri(figure: "Figure") -> str:
    """A figure as the data URI of a PNG, on white: its text is black."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110, bbox_inches="tight", facecolor="white")
    return data_uri("image/png", file.getvalue())


def audio_uri(waveform: npt.NDArray[np.float32], sample_rate: int) -> str:
    """(num_samples,), -1 to 1, as the data URI of a FLAC file of 16 bits."""
    file = io.BytesIO()
    soundfile.write(file, np.clip(waveform, -1, 1), sample_rate, format="FLAC", subtype="PCM_16")
    return data_uri("audio/flac", file.getvalue())


def data_uri(kind: str, content: bytes) -> str:
    """Bytes as a URI that needs no file."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers, evenly spaced, that reach from at most `low` to `high`.

    >>> nice_ticks(0.13, 0.94)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    span = high - low if high > low else max(abs(high), 1.0)
    power = 10.0 ** math.floor(math.log10(span / count))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if span <= power * m * count * 1.001)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{step * i:.10g}") for i in range(first, max(last, first + 1) + 1)]


def _whole(x: Sequence[float]) -> list[float]:
    """A few whole numbers within the range of `x`."""
    ticks = [t for t in nice_ticks(min(x), max(x)) if float(t).is_integer()]
    inside = [t for t in ticks if min(x) <= t <= max(x)]
    return inside or sorted({min(x), max(x)})


def _numbers(line: Line) -> list[float]:
    """Its values; NaN where one is not known, or is beyond all bounds."""
    known = [math.nan if value is None else value for value in line.values]
    return [value if math.isfinite(value) else math.nan for value in known]


def _scale(low: float, high: float, first: float, last: float) -> Callable[[float], float]:
    """From numbers to places in the picture; a single number stands in the middle."""
    if not high > low:
        return lambda value: (first + last) / 2
    return lambda value: first + (value - low) / (high - low) * (last - first)


def _square(
    ticks: Sequence[float], x_name: str, y_name: str
) -> tuple[list[Markup], Callable[[float], float], Callable[[float], float]]:
    """Two axes of the same numbers with their diagonal; and where numbers stand on them."""
    left, right, bottom, top = 60, 310, 270, 20
    across = _scale(ticks[0], ticks[-1], left, right)
    up = _scale(ticks[0], ticks[-1], bottom, top)
    parts = [_level(up(tick), left, right, f"{tick:g}") for tick in ticks]
    parts += [_text(across(tick), bottom + 18, f"{tick:g}", "middle") for tick in ticks]
    diagonal = Markup('<line x1="{}" y1="{}" x2="{}" y2="{}" class="mark"/>')
    parts.append(diagonal.format(left, bottom, right, top))
    parts.append(_text((left + right) / 2, SQUARE - 12, x_name, "middle"))
    turned = Markup('<text transform="translate(13 {}) rotate(-90)" text-anchor="middle">{}</text>')
    parts.append(turned.format((bottom + top) / 2, y_name))
    return parts, across, up


def _picture(height: float, parts: Sequence[Markup], words: str, width: float = WIDTH) -> Markup:
    frame = Markup(
        '<svg viewBox="0 0 {w:g} {h:g}" width="{w:g}" height="{h:g}" role="img" aria-label="{}">{}'
        "</svg>"
    )
    return frame.format(words, Markup("").join(parts), w=width, h=height)


def _text(
    x: float, y: float, text: str, anchor: str = "start", *, most: float | None = None
) -> Markup:
    """A line of text; squeezed where it would be wider than `most`."""
    squeeze = Markup("")
    if most is not None and CHAR * len(text) > most:
        squeeze = Markup(' textLength="{:.0f}" lengthAdjust="spacingAndGlyphs"').format(most)
    label = Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}"{}>{}</text>')
    return label.format(x, y, anchor, squeeze, text)


def _level(y: float, left: float, right: float, name: str) -> Markup:
    """A horizontal line of the grid, and its number at the left."""
    return _rule(left, right, y, "grid") + _text(left - 6, y + 4, name, "end")


def _rule(x1: float, x2: float, y: float, style: str) -> Markup:
    line = Markup('<line x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}" class="{}"/>')
    return line.format(x1, x2, y, y, style)


def _post(x: float, y1: float, y2: float, style: str) -> Markup:
    line = Markup('<line x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}" class="{}"/>')
    return line.format(x, x, y1, y2, style)


def _curve(
    points: Sequence[tuple[float, float]], number: int, *, dots: bool = True
) -> list[Markup]:
    """A line through points, with a dot at each where that is not crowded."""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    parts = [Markup('<polyline points="{}" class="s{}"/>').format(path, number)]
    if dots and len(points) <= 40:
        dot = Markup('<circle cx="{:.1f}" cy="{:.1f}" r="2.5" class="p{}"/>')
        parts += [dot.format(x, y, number) for x, y in points]
    return parts

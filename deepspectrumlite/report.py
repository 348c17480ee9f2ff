"""One page about a run that needs nothing else: no file beside it, no network, no script.

Pictures are inline SVG or data URIs, recordings data URIs; :mod:`deepspectrumlite.model_card` reads
the run, ``report.html.j2`` is the page.
"""

import datetime
import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from markupsafe import Markup

from deepspectrumlite import __version__, benchmark, report_plots
from deepspectrumlite.audio import load_audio
from deepspectrumlite.checkpoint import write_atomically
from deepspectrumlite.comparison import caption, comparison_table
from deepspectrumlite.config import recipe_toml
from deepspectrumlite.data import Segments, scan
from deepspectrumlite.errors import AudioError, DeepSpectrumLiteError, ModelError
from deepspectrumlite.model import TorchRecogniser
from deepspectrumlite.model_card import (
    MEANINGS,
    TITLES,
    Facts,
    Table,
    class_table,
    data_table,
    group_table,
    label_table,
    limits,
    quoted_block,
    read_facts,
    read_object,
    score_table,
    setting_rows,
    with_interval,
    write_card,
)
from deepspectrumlite.progress import Progress, silent
from deepspectrumlite.report_plots import Dot, Explainer, Line
from deepspectrumlite.row_metrics import reliability

LONGEST_AUDIO = 30.0  # seconds
BATCH = 32  # segments that are scored at a time
# Of an explanation: training segments to compare with, and gradients of each map.
BACKGROUND, GRADIENTS = 20, 160
METHODS = {"gradcam": "Grad-CAM", "shap": "expected gradients (SHAP)", "occlusion": "occlusion"}
MOST_GROUPS = 40  # in the picture


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


@dataclass(frozen=True)
class Mistake:
    """A recording that went wrong: what it is, what the model said, and why."""

    name: str
    truth: str
    answer: str
    picture: Markup | None = None
    explanation: str | None = None
    explanation_words: str = ""
    audio: str | None = None
    audio_words: str = ""
    problem: str | None = None


@dataclass(frozen=True)
class Cell:
    """A cell of the confusion matrix."""

    count: int
    share: float | None
    right: bool


@dataclass(frozen=True)
class Exports:
    """Exported files: what they are worth, how fast they are here if that was asked for, notes."""

    parity: Table
    latency: Table | None
    notes: list[str]


def write_report(
    run: Path,
    out: Path | None = None,
    options: ReportOptions = ReportOptions(),
    *,
    progress: Progress = silent,
) -> tuple[Path, Path]:
    """Write the page of a run, and its model card.

    Args:
        run: the run folder; its model is evaluated first where that has not been done
        out: the page; None: ``report.html`` in the run folder, where the card goes in any case,
            as ``model_card.md``
        options: what the page shows
        progress: told of every step

    Returns:
        the page and the card

    Raises:
        ModelError: no run there, or a file of it (or of the comparison) is missing or broken
        ManifestError: no such split
        AudioError: the model has to be evaluated, and a recording cannot be read
        DeepSpectrumLiteError: ``out`` is no .html file in an existing folder
    """
    run, out = Path(run), out or Path(run) / "report.html"
    if out.suffix.lower() not in (".html", ".htm") or not out.absolute().parent.is_dir():
        raise DeepSpectrumLiteError(
            f"{out}: cannot be the page; allowed: a name ending in .html, in an existing folder"
        )
    facts = read_facts(run, options.split, progress=progress)
    exports = _exports(facts, options, progress)
    card = run / "model_card.md"
    write_card(facts, card, exports.parity if exports else None)
    text = render(page_values(facts, exports, options, progress))
    write_atomically(out, lambda file: file.write(text.encode()))
    return out, card


def render(values: Mapping[str, Any]) -> str:
    """The page; every text in it is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    env = Environment(
        loader=PackageLoader("deepspectrumlite", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return env.get_template("report.html.j2").render(**values)


def page_values(
    facts: Facts,
    exports: Exports | None,
    options: ReportOptions,
    progress: Progress,
) -> dict[str, Any]:
    """All that the page shows, as plain values."""
    block, over = quoted_block(facts)
    n_classes = len(facts.model.labels)
    explainer, why_not = _explainer(facts, options, progress)
    mistakes = _mistakes(facts, options, explainer, progress)
    return {
        "name": facts.run.resolve().name,
        "version": facts.plan.get("version", __version__),
        "date": datetime.datetime.now().astimezone().strftime("%Y-%m-%d"),
        "output": facts.output,
        "split": facts.split,
        "metric": TITLES[facts.metric],
        "meaning": MEANINGS[facts.metric],
        "main": block[facts.metric],
        "over": over,
        "chance": 1 / n_classes if facts.output == "softmax" else None,
        "n_files": facts.scores["files"]["n"],
        "limits": limits(facts),
        "data": data_table(facts),
        "classes": class_table(facts),
        "settings": setting_rows(facts),
        "recipe": recipe_toml(facts.recipe),
        "curves": _curves(facts),
        "scores": score_table(facts),
        "by_label": label_table(facts),
        "label_chart": _label_chart(facts),
        "confusion": _confusion(facts),
        "labels": facts.model.labels,
        "scatter": _scatter(facts),
        "by_group": group_table(facts),
        "group_chart": _group_chart(facts),
        "reliability": _reliability(facts),
        "decisions": _decision_table(facts),
        "comparison": _comparison(facts, options),
        "mistakes": mistakes,
        "no_explanation": why_not,
        "averages": _averages(facts, explainer, progress),
        "method": METHODS.get(options.method, options.method),
        "exports": exports,
    }


def _curves(facts: Facts) -> list[Markup]:
    """Losses, and metrics on devel, over the epochs."""
    history = facts.history
    if not history:
        return []
    monitor = f"devel_{facts.recipe.monitor}"
    others = [
        k for k in history[0] if k.startswith("devel_") and k.removeprefix("devel_") in TITLES
    ]
    # Errors have a unit of their own; with the monitor, two more are as many as one can follow.
    others = [k for k in others if k not in (monitor, "devel_mae", "devel_rmse")][:2]
    epochs = [entry["epoch"] for entry in history]
    best = max((i for i, entry in enumerate(history) if entry.get("best")), default=None)

    def lines(names: Mapping[str, str]) -> list[Line]:
        return [Line(name, [entry.get(key) for entry in history]) for key, name in names.items()]

    losses = lines({"train_loss": "training loss", "devel_loss": "devel loss"})
    names = {k: f"devel {TITLES.get(k.removeprefix('devel_'), k)}" for k in (monitor, *others)}
    metrics = lines(names)
    drawn = []
    for shown, mark in ((losses, None), (metrics, best)):
        words = f"Over {len(epochs)} epochs: {'; '.join(_course(line) for line in shown)}."
        if mark is not None:
            value = metrics[0].values[mark] or 0.0
            words += f" The best {metrics[0].name} is {value:.3f}, in epoch {epochs[mark]}."
        drawn.append(report_plots.line_chart(epochs, shown, words=words, x_name="epoch", best=mark))
    return drawn


def _course(line: Line) -> str:
    known = [value for value in line.values if value is not None]
    if not known:
        return f"{line.name} not known"
    return f"{line.name} from {known[0]:.3f} to {known[-1]:.3f}"


def _label_chart(facts: Facts) -> Markup | None:
    """Recall of each class, or average precision of each label, with intervals."""
    block, over = quoted_block(facts)
    block = block.get("classes", block)
    found = block.get("recall") or {
        label: each["average_precision"] for label, each in block.get("labels", {}).items()
    }
    if not found:
        return None
    what = "Recall" if "recall" in block else "Average precision"
    words = "; ".join(f"{label} {with_interval(each, 2)}" for label, each in found.items())
    rows = [
        Dot(label, each["value"], each["low"], each["high"], _number(each["value"]))
        for label, each in found.items()
    ]
    return report_plots.dot_chart(rows, words=f"{what} by label, intervals over {over}: {words}.")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _group_chart(facts: Facts) -> Markup | None:
    table = group_table(facts)
    if table is None:
        return None
    rows = [Dot(name, float(value), note=f"n = {n}") for name, n, value, *_ in table.rows]
    rows = rows[:MOST_GROUPS]
    highest = 1.0 if facts.output != "linear" else max(row.value or 0.0 for row in rows)
    words = "; ".join(f"{row.name} {row.value:.2f} ({row.note})" for row in rows)
    what = table.columns[2]
    return report_plots.dot_chart(rows, words=f"{what} by group: {words}.", high=highest)


def _confusion(facts: Facts) -> list[list[Cell]] | None:
    """(n_classes, n_classes): rows are the truth; None where there are no classes."""
    files = facts.scores["files"]
    matrix = files.get("classes", files).get("confusion")
    if matrix is None:
        return None
    return [
        [Cell(n, n / sum(row) if sum(row) else None, i == j) for j, n in enumerate(row)]
        for i, row in enumerate(matrix)
    ]


def _scatter(facts: Facts) -> list[tuple[str, Markup]]:
    """Predicted over true values of each number."""
    if facts.output not in ("linear", "ordinal"):
        return []
    target, predicted, drawn = facts.target, facts.predicted, []
    for name, truth, found in zip(_names(facts), target.T, predicted.T, strict=True):
        error = float(np.abs(truth - found).mean())
        words = (
            f"Predicted over true {name} of {len(truth)} recordings: true values from "
            f"{truth.min():.3g} to {truth.max():.3g}, predictions from {found.min():.3g} to "
            f"{found.max():.3g}, mean absolute error {error:.3g}."
        )
        drawn.append((name, report_plots.scatter_chart(truth, found, words=words)))
    return drawn


def _names(facts: Facts) -> list[str]:
    """Of the outputs."""
    return ["value"] if facts.output == "ordinal" else facts.model.labels


def _reliability(facts: Facts) -> Markup | None:
    """Whether answers with a score of 0.8 are right in 80 of 100 cases; of probabilities only."""
    target, scores = facts.target, facts.predicted
    if facts.output == "softmax":
        confidence, what = scores.max(axis=1), "right"
        happened = facts.model.decision.classes(target) == scores.argmax(axis=1)
    elif facts.output == "sigmoid":
        confidence, what = scores.ravel(), "there"
        happened = target.ravel() > 0.5
    else:
        return None
    bins = [part.tolist() for part in reliability(confidence.clip(0, 1), happened)]
    shown = [(c, r, n) for c, r, n in zip(*bins, strict=True) if n]
    parts = "; ".join(f"mean score {c:.2f}: {r:.2f} {what} of {n}" for c, r, n in shown)
    words = f"Reliability in bins of the score: {parts}."
    return report_plots.reliability_chart(shown, words=words, y_name=f"share that is {what}")


def _decision_table(facts: Facts) -> Table | None:
    """How often prediction sets hold the truth, and how much is refused; None: not measured."""
    found = facts.scores.get("decisions")
    if not found:
        return None
    rows = []
    if "coverage" in found:
        rows.append(["prediction set holds the truth", *_wanted(found["coverage"])])
    if "mean_set_size" in found:
        rows.append(["labels in a set, mean", *_wanted(found["mean_set_size"])])
    if "unknown" in found:
        unknown = found["unknown"]
        name = f"known recordings refused, by {unknown['by']}"
        rows.append([name, *_wanted(unknown["false_rejection"])])
        rows.append(["accuracy of those accepted", *_wanted(unknown["accuracy_of_accepted"])])
    caption = f"Decisions on {facts.split}, with 95 % intervals over {found['over']}"
    return Table(caption, ["", "wanted", "found"], rows) if rows else None


def _wanted(estimate: Mapping[str, Any]) -> list[str]:
    wanted = estimate.get("wanted")
    return ["" if wanted is None else f"{wanted:.3f}", with_interval(estimate)]


def _comparison(facts: Facts, options: ReportOptions) -> tuple[Table, Markup] | None:
    """The table and picture of ``comparison.json``."""
    path = options.comparison or facts.run.resolve().parent / "comparison.json"
    path = path / "comparison.json" if path.is_dir() else path
    if options.comparison is None and not path.is_file():
        return None
    found = read_object(path)
    try:
        columns, rows = comparison_table(found)
        shown = Table(caption(found), columns, rows)
        dots = [
            Dot(each["title"], each["value"], each["low"], each["high"], _number(each["value"]))
            for each in found["systems"]
        ]
    except (KeyError, TypeError, IndexError) as error:
        raise ModelError(
            f"{path}: not a comparison of systems ({error!r}); make it with "
            "`deepspectrumlite compare`"
        ) from None
    words = "; ".join(f"{each['title']} {with_interval(each, 2)}" for each in found["systems"])
    lowest = min([0.0, *[dot.low or dot.value or 0.0 for dot in dots]])
    chart = report_plots.dot_chart(dots, words=f"{found['title']}: {words}.", low=lowest)
    return shown, chart


def _mistakes(
    facts: Facts, options: ReportOptions, explainer: Explainer | None, progress: Progress
) -> list[Mistake]:
    """The recordings that went most wrong, the worst first."""
    losses, columns = worst_outputs(facts)
    order = np.argsort(-losses, kind="stable")
    chosen = [int(i) for i in order if losses[i] > 0][: options.worst]
    found = []
    for done, i in enumerate(chosen):
        progress("reading what went wrong", done, len(chosen))
        try:
            found.append(_mistake(facts, i, int(columns[i]), options, explainer))
        except AudioError as error:
            path = str(facts.predictions["path"].iloc[i])
            # The page may go elsewhere: no folders of this machine.
            reason = str(error).replace(path, Path(path).name).removesuffix("; or pass --skip-bad")
            found.append(Mistake(*_texts(facts, i), problem=reason))
    return found


def worst_outputs(facts: Facts) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """How wrong each file is, and in which output it is most so: (n_files,), (n_files,).

    Of one label: the score of the answer where that is wrong, else 0; what was refused as unknown
    is no wrong answer. Of several: the summed
    cross-entropy, and its largest part. Of numbers: the largest absolute error, in units of the
    number's deviation in training.
    """
    target, scores = facts.target, facts.predicted
    if facts.output == "softmax":
        answer = scores.argmax(axis=1)
        given = facts.predictions["predicted"].isin(facts.model.labels)
        wrong = (target[np.arange(len(target)), answer] < 0.5) & given.to_numpy()
        return np.where(wrong, scores.max(axis=1), 0.0), answer
    if facts.output == "sigmoid":
        likely = np.where(target > 0.5, scores, 1 - scores).clip(1e-12)
        loss = -np.log(likely)
        return loss.sum(axis=1), loss.argmax(axis=1)
    error = np.abs(target - scores) / facts.model.scale.cpu().numpy()
    return error.max(axis=1), error.argmax(axis=1)


def _texts(facts: Facts, i: int) -> tuple[str, str, str]:
    """Name, truth and answer of a file, in words."""
    row, decision = facts.predictions.iloc[i], facts.model.decision
    names, truth, scores = _names(facts), facts.target[i], facts.predicted[i]
    name = _short_path(facts, row["path"])
    span = [f"{float(row[key]):g} s" for key in ("start", "end") if row.get(key)]
    name += f" ({' to '.join(span)})" if span else ""
    if facts.output == "softmax":
        ranked = np.argsort(-scores, kind="stable")[:3].tolist()
        return name, names[truth.argmax()], ", ".join(f"{names[k]} {scores[k]:.2f}" for k in ranked)
    if facts.output == "sigmoid":
        there = ", ".join(label for label, value in zip(names, truth, strict=True) if value > 0.5)
        present = decision.present(scores)
        ranked = [k for k in np.argsort(-scores, kind="stable").tolist() if present[k]]
        heard = ", ".join(f"{names[k]} {scores[k]:.2f}" for k in ranked)
        return name, there or "(no label)", heard or "(no label)"
    return name, _values(names, truth), _values(names, scores)


def _values(names: list[str], values: npt.NDArray[np.floating]) -> str:
    """Numbers by name; a single one needs none."""
    if len(names) == 1:
        return f"{values[0]:.3g}"
    return ", ".join(f"{name} {value:.3g}" for name, value in zip(names, values, strict=True))


def _short_path(facts: Facts, path: str) -> str:
    """Without the folders that all recordings have in common, which are those of this machine."""
    folders = {str(Path(each).parent) for each in facts.predictions["path"]}
    try:
        return os.path.relpath(path, os.path.commonpath(folders))
    except ValueError:  # on several drives
        return Path(path).name


def _mistake(
    facts: Facts, i: int, column: int, options: ReportOptions, explainer: Explainer | None
) -> Mistake:
    name, truth, answer = _texts(facts, i)
    path = Path(facts.predictions["path"].iloc[i])
    offset, duration, starts, waveforms = _segments(facts, i)
    scores = _score(facts, waveforms)
    loss = scores[:, column]
    if facts.output in ("linear", "ordinal"):
        loss = np.abs(loss - facts.target[i, column])
    worst = int(loss.argmax())
    start = offset + float(starts[worst])
    end = min(start + facts.recipe.data.segment_seconds, offset + duration)
    words = f"Spectrogram of {name}, {start:.2f} to {end:.2f} s: true {truth}, answered {answer}."
    shown = Mistake(name, truth, answer)
    if options.audio:
        audio, about = _audio(facts, i, start)
        shown = replace(shown, audio=audio, audio_words=about)
    if explainer is None:
        return replace(
            shown, picture=report_plots.segment_picture(facts.model, waveforms[worst], words)
        )
    names = _names(facts)
    targets = [names[column]]
    if facts.output == "softmax":
        targets.append(names[facts.target[i].argmax()])
    uri = explainer.segment(path, waveforms[worst], (start, end), targets)
    about = f"{words} Beside it, what spoke for (red) and against (blue) {' and '.join(targets)}."
    return replace(shown, explanation=uri, explanation_words=about)


def _segments(
    facts: Facts, i: int
) -> tuple[float, float, npt.NDArray[np.float64], npt.NDArray[np.float32]]:
    """Where a file's span starts, how long it is, its segments' starts in it, and the segments."""
    rows = facts.predictions.iloc[[i]].reset_index(drop=True)
    for name in ("start", "end"):
        if name in rows:
            rows[name] = pd.to_numeric(rows[name], errors="coerce")
    rows.attrs = dict(facts.predictions.attrs)
    scanned, _ = scan(rows, facts.recipe.data)
    segments = Segments(scanned, facts.recipe.data, facts.target[[i]])
    waveforms = np.stack([segments[k][0] for k in range(len(segments))])
    offset = float(rows["start"].iloc[0]) if "start" in rows else 0.0
    return offset, float(scanned["duration"].iloc[0]), segments.start_seconds, waveforms


def _score(facts: Facts, waveforms: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(n_segments, num_samples) -> (n_segments, n_outputs)."""
    recogniser = TorchRecogniser(facts.model)
    parts = range(0, len(waveforms), BATCH)
    return np.concatenate([recogniser.score(waveforms[at : at + BATCH]) for at in parts])


def _audio(facts: Facts, i: int, start: float) -> tuple[str, str]:
    """A recording (of a long one a part that holds the time `start`) as a data URI, and which."""
    row, rate = facts.predictions.iloc[i], facts.recipe.data.sample_rate
    first, last = (float(row[key]) if row.get(key) else None for key in ("start", "end"))
    first = first or 0.0
    waveform = load_audio(Path(row["path"]), rate, start=first, end=last)
    skipped = 0
    if len(waveform) > LONGEST_AUDIO * rate:
        longest = round(LONGEST_AUDIO * rate)
        # With as much before as after the part that is shown.
        middle = round((start - first + facts.recipe.data.segment_seconds / 2) * rate)
        skipped = int(np.clip(middle - longest // 2, 0, len(waveform) - longest))
        waveform = waveform[skipped : skipped + longest]
    begin = first + skipped / rate
    words = f"{begin:.1f} to {begin + len(waveform) / rate:.1f} s, mono, {rate} Hz"
    return report_plots.audio_uri(waveform, rate), words


def _explainer(
    facts: Facts, options: ReportOptions, progress: Progress
) -> tuple[Explainer | None, str | None]:
    """What explains, or None and why there is none."""
    if not options.explain:
        return None, None
    if importlib.util.find_spec("captum") is None:
        return None, "Not explained: pip install 'deepspectrumlite[explain]', and write it again."
    if facts.manifest is None:
        return None, "Not explained: the run's manifest, to compare with its recordings, is gone."
    from deepspectrumlite import attribution, explain

    try:
        if options.method == "gradcam":
            attribution.spatial_layer(facts.model)
        background = explain.background_images(
            facts.model, facts.manifest, count=BACKGROUND, progress=progress
        )
    except DeepSpectrumLiteError as error:
        return None, f"Not explained: {error}"
    settings = attribution.MapSettings(samples=GRADIENTS)
    return Explainer(facts.model, options.method, background, settings), None


def _averages(
    facts: Facts, explainer: Explainer | None, progress: Progress
) -> list[tuple[str, str]]:
    """What speaks for each class on average; nothing where recordings cannot be read any more."""
    if explainer is None or facts.manifest is None:
        return []
    rows = facts.manifest[facts.manifest["split"] == facts.split].reset_index(drop=True)
    rows.attrs = dict(facts.manifest.attrs)
    try:
        return explainer.averages(rows, progress)
    except DeepSpectrumLiteError:
        return []


def _exports(facts: Facts, options: ReportOptions, progress: Progress) -> Exports | None:
    """Of the files that were named and those in the run folder; None without any."""
    inside = [path for kind in ("*.tflite", "*.onnx") for path in sorted(facts.run.glob(kind))]
    paths = list(dict.fromkeys(path.resolve() for path in (*options.exported, *inside)))
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise ModelError(f"{missing[0]}: no such exported file; give those that `export` wrote")
    if not paths:
        return None
    notes, rows, metric = [], [], TITLES[facts.metric]
    for path in paths:
        proof, note = _proof(path)
        notes.append(note)
        agreement, difference = proof.get("agreement"), proof.get("max_difference")
        rows.append(
            [
                path.name,
                proof.get("kind", path.suffix[1:]),
                f"{path.stat().st_size / 1e6:.2f} MB",
                with_interval(proof.get("value", {})),
                with_interval(proof.get("drop", {})),
                "–" if agreement is None else f"{100 * agreement:.1f} %",
                "–" if difference is None else f"{difference:.1e}",
            ]
        )
    columns = [
        "file",
        "kind",
        "size",
        metric,
        f"{metric} lost",
        "same answer",
        "largest difference",
    ]
    caption = "Exported files against the model, on recordings; 95 % intervals over files"
    latency = _latency(paths, progress) if options.latency else None
    return Exports(Table(caption, columns, rows), latency, notes)


def _latency(paths: list[Path], progress: Progress) -> Table:
    """How fast the files are on this machine."""
    rows = []
    for each in benchmark.benchmark(paths, progress=progress):
        found, memory = each.latency[1]["end to end"], each.first.memory_bytes
        rows.append(
            [
                Path(each.path).name,
                f"{1e3 * found.median:.1f} ms",
                f"{1e3 * found.p95:.1f} ms",
                f"{each.real_time_factor(1):.4f}",
                f"{each.first.seconds:.2f} s",
                "–" if memory is None else f"{memory / 1e6:.0f} MB",
            ]
        )
    machine = benchmark.describe_machine()
    caption = (
        "Time for one segment on one thread, and for the first prediction of a fresh process with "
        f"the memory that it takes: {machine['cpu']}, {machine['system']}"
    )
    columns = [
        "file",
        "median",
        "95th percentile",
        "real-time factor",
        "first prediction",
        "memory",
    ]
    return Table(caption, columns, rows)


def _proof(path: Path) -> tuple[dict[str, Any], str]:
    """What the report beside an exported file says of it, and a note about that."""
    # One report stands for a .tflite file and for the .onnx file that was written with it.
    for report in (f"{path.name}.json", f"{path.stem}.tflite.json"):
        if not path.with_name(report).is_file():
            continue
        found = read_object(path.with_name(report))
        for each in found.get("files", []):
            if each.get("file") == path.name:
                if each.get("bytes") != path.stat().st_size:
                    return {}, f"{path.name} is not the file that {report} tells of."
                what = f"{found.get('clips')} recordings of {found.get('split')}"
                return each, f"{path.name} was compared with the model on {what}."
    return {}, f"{path.name} has no report of `deepspectrumlite export` beside it."

"""One page about a run that needs nothing else: no file beside it, no network, no script.

Pictures are inline SVG or data URIs, recordings data URIs; :mod:`deepspectrumlite.report_facts`
reads the run, ``report.html.j2`` is the page.
"""

import datetime
import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from deepspectrumlite import __version__, report_plots
from deepspectrumlite.checkpoint import write_atomically
from deepspectrumlite.comparison import recordings_digest
from deepspectrumlite.comparison_tables import caption, comparison_table
from deepspectrumlite.config import ReportOptions, recipe_toml
from deepspectrumlite.errors import DeepSpectrumLiteError, ModelError
from deepspectrumlite.mistakes import find_mistakes
from deepspectrumlite.model_card import write_card
from deepspectrumlite.progress import Progress, silent
from deepspectrumlite.report_exports import Exports, read_exports
from deepspectrumlite.report_facts import (
    MEANINGS,
    TITLES,
    Facts,
    Table,
    check_run,
    class_table,
    data_table,
    group_table,
    label_table,
    limits,
    read_facts,
    read_object,
    score_table,
    setting_rows,
    with_interval,
)
from deepspectrumlite.report_plots import Dot, Explainer, Line
from deepspectrumlite.row_metrics import reliability
from deepspectrumlite.scores import quoted, quoted_over

# Of an explanation: training segments to compare with, and gradients of each map.
BACKGROUND, GRADIENTS = 20, 160
METHODS = {"gradcam": "Grad-CAM", "shap": "expected gradients (SHAP)", "occlusion": "occlusion"}
# As the figures in docs/explain.md tell.
GRADCAM_NOTE = (
    "Grad-CAM is coarse, and in the project's own check, on the model of its demo, it was hardly "
    "better than random order; --method shap takes longer and did better."
)
DEFAULTS = ReportOptions()
MOST_GROUPS = 40  # in the picture


@dataclass(frozen=True)
class Cell:
    """A cell of the confusion matrix."""

    count: int
    share: float | None
    right: bool


def write_report(
    run: Path,
    out: Path | None = None,
    options: ReportOptions = DEFAULTS,
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
    check_run(run)
    if out.suffix.lower() not in (".html", ".htm") or not out.absolute().parent.is_dir():
        raise DeepSpectrumLiteError(
            f"{out}: cannot be the page; allowed: a name ending in .html, in an existing folder"
        )
    facts = read_facts(run, options.split, progress=progress)
    exports = read_exports(facts, options.exported, latency=options.latency, progress=progress)
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
    files = facts.scores["files"]
    n_classes = len(facts.model.labels)
    explainer, why_not = _explainer(facts, options, progress)
    averages, no_averages = _averages(facts, explainer, progress)
    mistakes = find_mistakes(
        facts, options.worst, explainer, audio=options.audio, progress=progress
    )
    return {
        "name": facts.run.resolve().name,
        "version": facts.plan.get("version", __version__),
        "date": datetime.datetime.now().astimezone().strftime("%Y-%m-%d"),
        "output": facts.output,
        "split": facts.split,
        "metric": TITLES[facts.metric],
        "meaning": MEANINGS[facts.metric],
        "main": quoted(files)[facts.metric],
        "over": quoted_over(files),
        "chance": 1 / n_classes if facts.output == "softmax" else None,
        "n_files": files["n"],
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
        "averages": averages,
        "no_averages": no_averages,
        "method_note": GRADCAM_NOTE if explainer and options.method == "gradcam" else None,
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
    files = facts.scores["files"]
    block, over = quoted(files), quoted_over(files)
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
    for name, truth, found in zip(facts.output_names, target.T, predicted.T, strict=True):
        error = float(np.abs(truth - found).mean())
        words = (
            f"Predicted over true {name} of {len(truth)} recordings: true values from "
            f"{truth.min():.3g} to {truth.max():.3g}, predictions from {found.min():.3g} to "
            f"{found.max():.3g}, mean absolute error {error:.3g}."
        )
        drawn.append((name, report_plots.scatter_chart(truth, found, words=words)))
    return drawn


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


def _comparison(facts: Facts, options: ReportOptions) -> tuple[Table, Markup, str | None] | None:
    """The table and picture of ``comparison.json``, and what is wrong with it.

    One of other recordings is shown only where it was asked for.
    """
    path = options.comparison or facts.run.resolve().parent / "comparison.json"
    path = path / "comparison.json" if path.is_dir() else path
    if options.comparison is None and not path.is_file():
        return None
    found, note = read_object(path), None
    if found.get("recordings") != recordings_digest(facts.predictions):
        if options.comparison is None:
            return None
        note = _other_recordings(facts, found)
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
    return shown, chart, note


def _other_recordings(facts: Facts, comparison: Mapping[str, Any]) -> str:
    """Why a comparison does not belong on the page."""
    if "recordings" in comparison:
        return (
            f"This comparison is over other recordings than those of {facts.split} above: its "
            "scores cannot be compared with those of this page."
        )
    return (
        "This comparison does not tell which recordings it is over; they may be others than those "
        f"of {facts.split} above. Make it again with `deepspectrumlite compare`."
    )


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
) -> tuple[list[tuple[str, str]], str | None]:
    """What speaks for each class on average, or nothing and why."""
    if explainer is None or facts.manifest is None:
        return [], None
    rows = facts.manifest[facts.manifest["split"] == facts.split].reset_index(drop=True)
    rows.attrs = dict(facts.manifest.attrs)
    try:
        return explainer.averages(rows, progress), None
    except DeepSpectrumLiteError as error:
        return [], f"Not shown: {_without_folders(str(error), facts.manifest)}"


def _without_folders(text: str, manifest: pd.DataFrame) -> str:
    """The page may go elsewhere: no folders of this machine."""
    paths = [*manifest["path"].astype(str), str(manifest.attrs.get("manifest", ""))]
    for folder in sorted({str(Path(path).parent) for path in paths}, key=len, reverse=True):
        text = text.replace(folder + os.sep, "")
    return text

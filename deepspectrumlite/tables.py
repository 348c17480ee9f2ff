"""What the commands print: epochs, scores, and predictions as a table, CSV or JSON Lines."""

import csv
import json
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import typer
from rich.markup import escape
from rich.table import Table

from deepspectrumlite.batch.scores import score_names
from deepspectrumlite.terminal import err, out

if TYPE_CHECKING:
    from deepspectrumlite.decisions import Decision
    from deepspectrumlite.predict import Prediction

# The first that a report has is the one to quote.
MAIN_METRICS = {"map": "MAP", "ccc": "CCC", "uar": "UAR"}
_METRICS = {
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "weighted_f1": "weighted F1",
    "auc": "AUC",
    "ece": "ECE",
    "pearson": "Pearson r",
    "spearman": "Spearman rho",
    "mae": "MAE",
    "rmse": "RMSE",
}


def epoch_printer() -> Callable[[dict[str, Any]], None]:
    """A function that prints a row for the record of each epoch, and a header before the first."""
    told_header = False

    def print_epoch(record: dict[str, Any]) -> None:
        nonlocal told_header
        metric = next(name for name in MAIN_METRICS if f"devel_{name}" in record)
        if not told_header:
            err.print(f"   epoch       rate  loss: train  devel   devel {MAIN_METRICS[metric]}")
            told_header = True
        value = record[f"devel_{metric}"]
        star = "[green]best so far[/green]" if record["best"] else ""
        err.print(
            f"{record['phase']:>9} {record['epoch']:>3}  {record['learning_rate']:.1e}  "
            f"{record['train_loss']:>10.3f}  {record['devel_loss']:>5.3f}  "
            f"{'-' if value is None else f'{value:.3f}':>9}  {star}",
            highlight=False,
        )

    return print_epoch


def score_table(report: dict[str, Any]) -> Table:
    """Metrics per file, over groups and over files, and per segment, each with its intervals."""
    from deepspectrumlite.scores import quoted, quoted_over

    per_file, per_segment = report["files"], report["segments"]
    # The intervals to quote first; fewer groups have none to show.
    blocks = {quoted_over(per_file): quoted(per_file)} if quoted(per_file) is not per_file else {}
    blocks |= {"files": per_file, "segments": per_segment}
    table = Table(title=f"{report['split']}: {per_file['n']} files, {per_segment['n']} segments")
    table.add_column("", overflow="fold")
    for name in blocks:
        table.add_column(name, no_wrap=True)
    # The last block only tells how files and segments differ; all have the same rows.
    rows = [dict(_score_rows(block)) for block in blocks.values()]
    for title in rows[0]:
        table.add_row(escape(title), *[escape(row.get(title, "")) for row in rows])
    return table


def _score_rows(block: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(name, value with interval) of each metric of a block, in all and per class or target."""
    for name, title in (MAIN_METRICS | _METRICS).items():
        if name in block:
            yield title, with_interval(block[name], 2)
    for label, estimate in block.get("recall", {}).items():
        yield f"recall {label}", with_interval(estimate, 2)
    for label, estimate in block.get("precision", {}).items():
        yield f"precision {label}", with_interval(estimate, 2)
    for label, scores in block.get("labels", {}).items():
        yield f"F1 {label}", with_interval(scores["f1"], 2)
    for target, scores in block.get("targets", {}).items():
        if len(block["targets"]) > 1:
            yield f"CCC {target}", with_interval(scores["ccc"], 2)
    # Of ordered labels also what is known of classes.
    if "classes" in block:
        yield from _score_rows(block["classes"])


def with_interval(estimate: dict[str, float | None], digits: int = 3) -> str:
    """A value and what is known of its interval, as text."""
    if estimate["value"] is None:
        return "-"
    if estimate["low"] is None:
        return f"{estimate['value']:.{digits}f}"
    value, low, high = (f"{estimate[key]:.{digits}f}" for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def prediction_writer(
    decision: "Decision", *, segments: bool, as_json: bool, as_csv: bool
) -> "Callable[[Prediction | None], None]":
    """A function that takes each prediction, and None at the end."""
    if as_json:
        return lambda p: typer.echo(json.dumps(p.to_json(segments=segments))) if p else None
    label = [] if decision.output == "linear" else ["label"]
    # Sets that leave nothing out tell nothing.
    label += ["set"] if decision.conformal and not segments else []
    header = ["path", *(["start", "end"] if segments else []), *label]
    make = _csv_writer if as_csv else _table_writer
    return make(decision, header, segments)


def _csv_writer(
    decision: "Decision", header: list[str], segments: bool
) -> "Callable[[Prediction | None], None]":
    rows = csv.writer(sys.stdout)
    rows.writerow([*header, *score_names(decision)])

    def write(prediction: "Prediction | None") -> None:
        for *cells, scores in _rows(prediction, segments):
            rows.writerow([*cells, *[f"{score:.6f}" for score in scores.values()]])

    return write


def _table_writer(
    decision: "Decision", header: list[str], segments: bool
) -> "Callable[[Prediction | None], None]":
    are_values = decision.output in ("linear", "ordinal")
    table = Table()
    for name in header:
        table.add_column(name, overflow="fold")
    table.add_column("values" if are_values else "scores")

    def write(prediction: "Prediction | None") -> None:
        for *cells, scores in _rows(prediction, segments):
            shown = [f"{cell:.2f} s" if isinstance(cell, float) else cell for cell in cells]
            # Of many labels the likeliest.
            ranked = scores if are_values else sorted(scores, key=scores.get, reverse=True)[:3]
            values = ", ".join(f"{name} {scores[name]:.2f}" for name in ranked)
            table.add_row(*[escape(text) for text in (*shown, values)])
        if prediction is None and table.row_count:
            out.print(table)

    return write


def _rows(prediction: "Prediction | None", segments: bool) -> Iterator[list[Any]]:
    """[path, (start, end,) (label, (set,)) scores by name] of a file or each of its segments."""
    if prediction is None:
        return
    found = prediction.to_json(segments=segments)
    for part in found["segments"] if segments else [found]:
        times = [part["start"], part["end"]] if segments else []
        label = [part["label"]] if "label" in part else []
        label += [", ".join(part["labels"])] if "labels" in part else []
        label += [", ".join(part["set"])] if "set" in part and prediction.decision.conformal else []
        yield [found["path"], *times, *label, part.get("scores", part.get("values"))]

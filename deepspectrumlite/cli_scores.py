"""What commands print of the scores on a split."""

from pathlib import Path
from typing import Any

import typer
from rich.markup import escape

from deepspectrumlite.cli_calibrate import decision_lines
from deepspectrumlite.tables import MAIN_METRICS, score_table, with_interval
from deepspectrumlite.terminal import err, out


def tell_scores(report: dict[str, Any], where: Path) -> str:
    """Print a report of :func:`deepspectrumlite.runs.evaluate_run`, written to `where`.

    Returns:
        its line to quote
    """
    from deepspectrumlite.scores import quoted, quoted_over

    split, files = report["split"], report["files"]
    out.print(score_table(report))
    for told in decision_lines(report.get("decisions")):
        typer.echo(f"On {split}: {told}")
    by_group = files.get("by_group", {})
    if "warning" in by_group:
        err.print(f"[yellow]Note:[/yellow] {escape(by_group['warning'])}", soft_wrap=True)
    if report["seen_in_training"] and split != "train":
        seen = f"{report['seen_in_training']} of these recordings were trained on"
        err.print(f"[yellow]Warning:[/yellow] {seen}, so the scores are too good", soft_wrap=True)
    if report["files_without_a_segment"]:
        left_out = report["files_without_a_segment"]
        typer.echo(f"{left_out} recordings shorter than a segment left out", err=True)
    if report["skipped"]:
        typer.echo(f"{report['skipped']} recordings skipped; see {where / 'skipped.csv'}", err=True)
    metric = next(name for name in MAIN_METRICS if name in files)
    value, over = with_interval(quoted(files)[metric]), quoted_over(files)
    return f"{MAIN_METRICS[metric]} on {split}: {value} (95 % bootstrap interval over {over})"

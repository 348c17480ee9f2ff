"""The command line: each command parses, calls one function of the library, and prints."""

import csv
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from deepspectrumlite import __version__
from deepspectrumlite.config import (
    DataSection,
    load_recipe,
    recipe_schema,
    recipe_toml,
    shipped_recipes,
)
from deepspectrumlite.errors import DeepSpectrumLiteError, MissingExtraError, RecipeError

if TYPE_CHECKING:
    from deepspectrumlite.predict import Prediction

app = typer.Typer(
    help="From a few hundred labelled recordings to a recogniser that runs on the device.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=True,
)
out = Console()
err = Console(stderr=True)

Manifest = Annotated[
    Path,
    typer.Argument(
        help="CSV, TSV, JSON Lines or Parquet with the columns path and label (and where wanted "
        "split, group, start, end), or a folder with a sub-folder per class.",
        show_default=False,
    ),
]
Model = Annotated[Path, typer.Argument(help="A run folder or a model folder.", show_default=False)]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change one setting of the recipe."),
]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Leave out unreadable recordings; list them.")
]
Overlap = Annotated[
    bool, typer.Option("--allow-group-overlap", help="Accept a group in two splits.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]


def main() -> None:
    """Run the command line; a user's error is one line and exit code 1, bad usage 2."""
    try:
        app()
    except RecipeError as error:
        _fail(error, 2)
    except DeepSpectrumLiteError as error:
        _fail(error, 1)
    except OSError as error:
        # Disk full, no permission: the system's message names the file.
        _fail(error, 1)
    except KeyboardInterrupt:
        err.print("Interrupted.")
        sys.exit(130)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        out.print(__version__, highlight=False)
        raise typer.Exit


@app.command()
def demo(
    run: Annotated[Path, typer.Option("--out", help="Where the run goes.")] = Path("runs/demo"),
    changes: Set = None,
) -> None:
    """Train on the bundled drum recordings, and test on a kit that training never heard.

    Example: [bold]deepspectrumlite demo[/bold]
    """
    recordings = Path(str(files("deepspectrumlite") / "demo_drums"))
    manifest = recordings / "labels.csv"
    out.print("Which drum is it? Three kits to learn from, one to choose by, one for the test.")
    with _library():
        from deepspectrumlite.runs import Options

        _train(load_recipe("demo", changes or []), manifest, run, Options(overwrite=True))
        uar, _ = _evaluate(run, manifest, "test", Options())
        out.print("\nOne of its snares (SN4_01), as `predict` sees it:")
        predict(run, [str(recordings / "audio" / "BJA_Pacific__BJA_Pacific__SN4_01.flac")])
    typer.echo(
        f"\n{uar}\nModel:  {run / 'model'}\nScores: {run / 'test' / 'scores.json'}\n"
        f"Plots:  {run / 'curves.png'}, {run / 'test' / 'confusion.png'}"
    )


@app.command()
def data(
    manifest: Manifest,
    skip_bad: SkipBad = False,
    overlap: Overlap = False,
    sample_rate: Annotated[
        int, typer.Option(min=1000, max=192_000, help="In Hz; contents are compared at this rate.")
    ] = DataSection().sample_rate,
) -> None:
    """Show what a manifest holds: files, groups and minutes per split and class, and oddities.

    Example: [bold]deepspectrumlite data recordings/labels.csv[/bold]
    """
    with _library():
        from deepspectrumlite.data import scan
        from deepspectrumlite.manifest import load_manifest
        from deepspectrumlite.splits import check_splits
        from deepspectrumlite.summary import summary_tables

        table = load_manifest(manifest)
        if "split" in table:
            check_splits(table, allow_group_overlap=overlap)
        with _progress() as progress:
            good, skipped = scan(
                table,
                DataSection(sample_rate=sample_rate),
                skip_bad=skip_bad,
                progress=lambda done, total: progress("checking recordings", done, total),
            )
        for part in summary_tables(good):
            out.print(part)
        for reason in skipped["reason"]:
            err.print(f"[yellow]skipped[/yellow] {escape(reason)}", soft_wrap=True)


@app.command()
def train(
    recipe: Annotated[
        str, typer.Argument(help=f"A TOML file, or one of: {', '.join(shipped_recipes())}.")
    ],
    manifest: Annotated[Path, typer.Option("--data", help="The manifest.", show_default=False)],
    run: Annotated[
        Path, typer.Option("--out", help="The run folder to write.", show_default=False)
    ],
    changes: Set = None,
    skip_bad: SkipBad = False,
    overlap: Overlap = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the run folder if it exists.")
    ] = False,
    device: Device = "auto",
) -> None:
    """Train a recogniser and write a run folder.

    Example: [bold]deepspectrumlite train default --data labels.csv --out runs/first[/bold]
    """
    settings = load_recipe(recipe, changes or [])
    with _library():
        from deepspectrumlite.runs import Options

        _train(settings, manifest, run, Options(skip_bad, overlap, overwrite, device))
    typer.echo(f"Model: {run / 'model'}   curves: {run / 'curves.png'}")


@app.command()
def evaluate(
    model: Model,
    manifest: Annotated[
        Path | None,
        typer.Argument(help="As for `data`, with a split column.  \\[default: that of the run]"),
    ] = None,
    split: Annotated[str, typer.Option(help="train, devel, test, or all.")] = "test",
    folder: Annotated[
        Path | None,
        typer.Option("--out", help="Where scores and plots go.  \\[default: MODEL/SPLIT]"),
    ] = None,
    resamples: Annotated[
        int | None, typer.Option(min=100, help="Of the bootstrap.  \\[default: 1000]")
    ] = None,
    skip_bad: SkipBad = False,
    device: Device = "auto",
) -> None:
    """Score a model on labelled recordings, with 95 % bootstrap intervals.

    Example: [bold]deepspectrumlite evaluate runs/first labels.csv --split test[/bold]
    """
    with _library():
        from deepspectrumlite.manifest import SPLITS
        from deepspectrumlite.runs import Options

        if split not in (*SPLITS, "all"):
            raise typer.BadParameter(f"{split!r}; allowed: {', '.join(SPLITS)}, all")
        options = Options(skip_bad=skip_bad, device=device)
        settings = {"n_resamples": resamples} if resamples else {}
        uar, where = _evaluate(model, manifest, split, options, out=folder, **settings)
    typer.echo(f"{uar}\nWritten to {where}: scores.json, predictions.csv, confusion.png")


@app.command()
def predict(
    model: Model,
    recordings: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...", help="Files, folders or glob patterns.", show_default=False
        ),
    ],
    segments: Annotated[
        bool, typer.Option("--segments", help="A row per segment, with times.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON Lines.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    device: Device = "auto",
) -> None:
    """Say what is in recordings; a bad file is reported, and the rest goes on.

    Example: [bold]deepspectrumlite predict runs/first recording.wav --segments[/bold]
    """
    if as_json and as_csv:
        raise typer.BadParameter("--json and --csv exclude each other; give one of them")
    with _library():
        from deepspectrumlite.model import load_model
        from deepspectrumlite.predict import find_recordings, predict_file
        from deepspectrumlite.runs import choose_device

        place = choose_device(device)
        network = load_model(model).to(place)
        write = _writer(network.labels, segments=segments, as_json=as_json, as_csv=as_csv)
        n_bad = 0
        paths = find_recordings(recordings)
        with _progress() as progress:
            for done, path in enumerate(paths, 1):
                try:
                    write(predict_file(network, path, place, progress))
                except DeepSpectrumLiteError as error:
                    n_bad += 1
                    _print_error(error)
                if len(paths) > 1:
                    progress("files", done, len(paths))
        write(None)
    if n_bad:
        err.print(f"{n_bad} of {len(paths)} files could not be read.")
        raise typer.Exit(1)


@app.command()
def recipe(
    source: Annotated[str, typer.Argument(help="A TOML file, or a shipped recipe.")] = "default",
    changes: Set = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON schema instead, for editors.")
    ] = False,
) -> None:
    """Print a recipe with every setting, as TOML to start from.

    Example: [bold]deepspectrumlite recipe default > mine.toml[/bold]
    """
    if schema:
        typer.echo(json.dumps(recipe_schema(), indent=2))
        return
    typer.echo(recipe_toml(load_recipe(source, changes or [])))


def _train(recipe: Any, manifest: Path, run: Path, options: Any) -> None:
    from deepspectrumlite.runs import train_run

    with _progress() as progress:

        def print_epoch(record: dict[str, Any]) -> None:
            if record["epoch"] == 1:
                err.print("   epoch       rate  loss: train  devel   devel UAR")
            star = "[green]best so far[/green]" if record["best"] else ""
            err.print(
                f"{record['phase']:>9} {record['epoch']:>3}  {record['learning_rate']:.1e}  "
                f"{record['train_loss']:>10.3f}  {record['devel_loss']:>5.3f}  "
                f"{record['devel_uar']:>9.3f}  {star}",
                highlight=False,
            )

        trained = train_run(recipe, manifest, run, options, progress=progress, on_epoch=print_epoch)
    if trained.drew_splits:
        typer.echo(f"Splits were drawn; they stand in {run / 'manifest.csv'}", err=True)
    if trained.skipped:
        typer.echo(f"{trained.skipped} recordings skipped; see {run / 'skipped.csv'}", err=True)
    if trained.dropped:
        typer.echo(f"{trained.dropped} recordings shorter than a segment left out", err=True)


def _evaluate(
    model: Path, manifest: Path | None, split: str, options: Any, **settings: Any
) -> tuple[str, Path]:
    from deepspectrumlite.runs import evaluate_run

    with _progress() as progress:
        report, where = evaluate_run(model, manifest, split, options, progress=progress, **settings)
    out.print(_score_table(report))
    by_group = report["files"].get("by_group", {})
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
    uar = _with_interval(report["files"]["uar"])
    return f"UAR on {split}: {uar} (95 % bootstrap interval over files)", where


def _score_table(report: dict[str, Any]) -> Table:
    """Metrics per file and per segment, each with its intervals."""
    per_file, per_segment = report["files"], report["segments"]
    blocks = {"files": per_file, "segments": per_segment}
    # A single group has no interval to show.
    if per_file.get("by_group", {}).get("n_groups", 1) > 1:
        by_group = per_file["by_group"]
        blocks = {"files": per_file, f"{by_group['n_groups']} groups": by_group, **blocks}
    table = Table(title=f"{report['split']}: {per_file['n']} files, {per_segment['n']} segments")
    table.add_column("", overflow="fold")
    for name in blocks:
        table.add_column(name, no_wrap=True)
    for name, title in (("uar", "UAR"), ("accuracy", "accuracy"), ("macro_f1", "macro F1")):
        table.add_row(title, *[escape(_with_interval(block[name], 2)) for block in blocks.values()])
    table.add_section()
    for label in per_file["recall"]:
        values = [escape(_with_interval(block["recall"][label], 2)) for block in blocks.values()]
        table.add_row(f"recall {escape(label)}", *values)
    return table


def _with_interval(estimate: dict[str, float | None], digits: int = 3) -> str:
    if estimate["value"] is None:
        return "-"
    if estimate["low"] is None:
        return f"{estimate['value']:.{digits}f}"
    value, low, high = (f"{estimate[key]:.{digits}f}" for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def _writer(
    labels: list[str], *, segments: bool, as_json: bool, as_csv: bool
) -> "Callable[[Prediction | None], None]":
    """A function that takes each prediction, and None at the end."""
    if as_json:
        return lambda p: typer.echo(json.dumps(p.to_json(segments=segments))) if p else None
    times = ["start", "end"] if segments else []
    if as_csv:
        rows = csv.writer(sys.stdout)
        rows.writerow(["path", *times, "label", *[f"score_{name}" for name in labels]])

        def write_csv(prediction: "Prediction | None") -> None:
            for row in _rows(prediction, segments):
                rows.writerow([*row[:-1], *[f"{score:.6f}" for score in row[-1].values()]])

        return write_csv

    table = Table()
    table.add_column("file", overflow="fold")
    for name in (*times, "label", "score"):
        table.add_column(name)
    table.add_column("next")

    def write_table(prediction: "Prediction | None") -> None:
        for path, *middle, label, scores in _rows(prediction, segments):
            ranked = sorted(scores, key=scores.get, reverse=True)
            runner_up = f"{ranked[1]} {scores[ranked[1]]:.2f}" if len(ranked) > 1 else ""
            cells = [escape(path), *[f"{t:.2f} s" for t in middle], escape(label)]
            table.add_row(*cells, f"{scores[label]:.2f}", escape(runner_up))
        if prediction is None and table.row_count:
            out.print(table)

    return write_table


def _rows(prediction: "Prediction | None", segments: bool) -> Iterator[list[Any]]:
    """[path, (start, end,) label, scores by label] of a file or of each of its segments."""
    if prediction is None:
        return
    found = prediction.to_json(segments=segments)
    for part in found["segments"] if segments else [found]:
        times = [part["start"], part["end"]] if segments else []
        yield [found["path"], *times, part["label"], part["scores"]]


@contextmanager
def _library() -> Iterator[None]:
    """Name the extra where a package of the training side is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "deepspectrumlite").startswith("deepspectrumlite"):
            raise
        package = str(error.name).split(".")[0]
        raise MissingExtraError(package, "this command", "train") from error


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A progress function that draws one bar per step on the terminal's error stream."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=err, transient=True) as bars:
        task = bars.add_task("starting", total=None)

        def update(what: str, done: int, total: int) -> None:
            bars.update(task, description=escape(what), completed=done, total=total)

        yield update


def _print_error(error: Exception) -> None:
    message = " ".join(str(error).split())
    err.print(f"[red]Error:[/red] {escape(message)}", soft_wrap=True, highlight=False)


def _fail(error: Exception, code: int) -> None:
    _print_error(error)
    sys.exit(code)

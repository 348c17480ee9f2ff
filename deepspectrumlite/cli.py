"""The command line: each command parses, calls one function of the library, and prints."""

import csv
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
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
    load_recipe,
    recipe_schema,
    recipe_toml,
    shipped_recipes,
)
from deepspectrumlite.errors import (
    DeepSpectrumLiteError,
    ElsewhereError,
    MissingExtraError,
    RecipeError,
)

if TYPE_CHECKING:
    from deepspectrumlite.decisions import Decision
    from deepspectrumlite.predict import Prediction
    from deepspectrumlite.runs import Trained

# The first that a report has is the one to quote.
_MAIN_METRICS = {"map": "MAP", "ccc": "CCC", "uar": "UAR"}
_METRICS = {
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "pearson": "Pearson r",
    "spearman": "Spearman rho",
    "mae": "MAE",
    "rmse": "RMSE",
}

app = typer.Typer(
    help="From a few hundred labelled recordings to a recogniser that runs on the device.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=True,
)
# Of several processes that train together, one talks.
_TALKS = os.environ.get("RANK", "0") == "0"
out = Console(quiet=not _TALKS)
err = Console(stderr=True, quiet=not _TALKS)
_errors = Console(stderr=True)

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
Recipe = Annotated[
    str, typer.Option(help=f"A TOML file, or one of: {', '.join(shipped_recipes())}.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]


def main() -> None:
    """Run the command line; a user's error is one line and exit code 1, bad usage 2."""
    try:
        app()
    except RecipeError as error:
        # The same in all processes, before they have found each other.
        if _TALKS:
            _print_error(error)
        sys.exit(2)
    except DeepSpectrumLiteError as error:
        _fail(error)
    except OSError as error:
        # Disk full, no permission: the system's message names the file.
        _fail(error)


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
        from deepspectrumlite.runs import Options, train_run

        recipe, options = load_recipe("demo", changes or []), Options(overwrite=True)
        _train(partial(train_run, recipe, manifest, run, options), run)
        score, _ = _evaluate(run, manifest, "test", Options())
        out.print("\nA kick (BD_01), a ride (RD_01) and a snare (SN4_01), as `predict` hears them:")
        kit = recordings / "audio" / "BJA_Pacific__BJA_Pacific__{}.flac"
        predict(run, [str(kit).format(name) for name in ("BD_01", "RD_01", "SN4_01")])
    typer.echo(
        f"\n{score}\nModel:  {run / 'model'}\nScores: {run / 'test' / 'scores.json'}\n"
        f"Plots:  {run / 'curves.png'}, {run / 'test' / 'confusion.png'}"
    )


@app.command()
def data(
    manifest: Manifest,
    skip_bad: SkipBad = False,
    overlap: Overlap = False,
    recipe: Recipe = "default",
    changes: Set = None,
) -> None:
    """Show what a manifest holds: files, groups and minutes per split and class, and oddities.

    The recipe says which columns are learned, and at which sample rate contents are compared.

    Example: [bold]deepspectrumlite data recordings/labels.csv[/bold]
    """
    settings = load_recipe(recipe, changes or [])
    with _library():
        from deepspectrumlite.data import scan
        from deepspectrumlite.summary import summary_tables
        from deepspectrumlite.targets import check_labelled_splits, find_targets, load_labelled

        table = load_labelled(manifest, settings.data, settings.model.output)
        targets = find_targets(table, settings.data, settings.model.output)
        check_labelled_splits(table, targets, allow_group_overlap=overlap)
        table = table.assign(label=targets.strata(table))
        with _progress() as progress:
            good, skipped = scan(
                table,
                settings.data,
                skip_bad=skip_bad,
                progress=lambda done, total: progress("checking recordings", done, total),
            )
        for part in summary_tables(good):
            out.print(part)
        for reason in skipped["reason"]:
            err.print(f"[yellow]skipped[/yellow] {escape(reason)}", soft_wrap=True)


@app.command()
def preview(
    manifest: Manifest,
    picture: Annotated[Path, typer.Option("--out", help="The PNG to write.", show_default=False)],
    recipe: Recipe = "default",
    changes: Set = None,
    split: Annotated[str, typer.Option(help="train, devel, test, or all.")] = "all",
    rows: Annotated[int, typer.Option(min=1, max=24, help="Segments to show.")] = 6,
    columns: Annotated[
        int, typer.Option(min=0, max=10, help="Augmented versions of each, beside the original.")
    ] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Chooses segments and augmentation.")] = 0,
) -> None:
    """Draw what the network sees of some segments, without and with augmentation.

    Example: [bold]deepspectrumlite preview labels.csv --recipe default --out preview.png[/bold]
    """
    settings = load_recipe(recipe, changes or [])
    with _library():
        from deepspectrumlite.preview import draw_preview

        with _progress() as progress:
            draw_preview(
                settings,
                manifest,
                picture,
                split=split,
                rows=rows,
                columns=columns,
                seed=seed,
                progress=progress,
            )
    typer.echo(f"Picture: {picture}")


@app.command()
def train(
    recipe: Annotated[
        str | None,
        typer.Argument(
            help=f"A TOML file, or one of: {', '.join(shipped_recipes())}.", show_default=False
        ),
    ] = None,
    manifest: Annotated[
        Path | None, typer.Option("--data", help="The manifest.", show_default=False)
    ] = None,
    run: Annotated[
        Path | None, typer.Option("--out", help="The run folder to write.", show_default=False)
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Go on with a run that was stopped, and nothing else."),
    ] = None,
    changes: Set = None,
    skip_bad: SkipBad = False,
    overlap: Overlap = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the run folder if it exists.")
    ] = False,
    device: Device = "auto",
) -> None:
    """Train a recogniser and write a run folder.

    Ctrl-C stops and saves; --resume goes on. Start it by torchrun or accelerate launch to share the
    work between several processes.

    Example: [bold]deepspectrumlite train default --data labels.csv --out runs/first[/bold]

    Example: [bold]deepspectrumlite train --resume runs/first[/bold]
    """
    if resume is not None:
        if recipe or manifest or run or changes or skip_bad or overlap or overwrite:
            raise typer.BadParameter("--resume takes all settings from the run; give --device only")
        with _library():
            from deepspectrumlite.runs import Options, resume_run

            work = partial(resume_run, resume, Options(device=device))
            finished = not _train(work, resume)
        typer.echo(f"{resume} is finished; nothing to do" if finished else _where(resume))
        return
    if recipe is None or manifest is None or run is None:
        raise typer.BadParameter(
            "needed: a recipe, --data MANIFEST and --out RUN; or --resume RUN alone"
        )
    settings = load_recipe(recipe, changes or [])
    with _library():
        from deepspectrumlite.runs import Options, train_run

        options = Options(skip_bad, overlap, overwrite, device)
        _train(partial(train_run, settings, manifest, run, options), run)
    if _TALKS:
        typer.echo(_where(run))


def _where(run: Path) -> str:
    return f"Model: {run / 'model'}   curves: {run / 'curves.png'}"


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
        score, where = _evaluate(model, manifest, split, options, out=folder, **settings)
    written = sorted(path.name for path in where.iterdir() if path.is_file())
    typer.echo(f"{score}\nWritten to {where}: {', '.join(written)}")


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
        write = _writer(network.decision, segments=segments, as_json=as_json, as_csv=as_csv)
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


def _train(work: "Callable[..., Trained | None]", run: Path) -> "Trained | None":
    """Train with progress and a line per epoch; tell what was left out."""
    try:
        with _progress() as progress:
            trained = work(progress=progress, on_epoch=_epoch_printer())
    except KeyboardInterrupt as stop:
        hint = f" Go on with: deepspectrumlite train --resume {run}"
        message = str(stop) or f"Interrupted.{hint if (run / 'run.json').is_file() else ''}"
        raise KeyboardInterrupt(message) from None
    if trained is None or not _TALKS:
        return trained
    if trained.drew_splits:
        typer.echo(f"Splits were drawn; they stand in {run / 'manifest.csv'}", err=True)
    if trained.skipped:
        typer.echo(f"{trained.skipped} recordings skipped; see {run / 'skipped.csv'}", err=True)
    if trained.dropped:
        typer.echo(f"{trained.dropped} recordings shorter than a segment left out", err=True)
    return trained


def _epoch_printer() -> Callable[[dict[str, Any]], None]:
    told_header = False

    def print_epoch(record: dict[str, Any]) -> None:
        nonlocal told_header
        metric = next(name for name in _MAIN_METRICS if f"devel_{name}" in record)
        if not told_header:
            err.print(f"   epoch       rate  loss: train  devel   devel {_MAIN_METRICS[metric]}")
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
    metric = next(name for name in _MAIN_METRICS if name in report["files"])
    value = _with_interval(report["files"][metric])
    return (
        f"{_MAIN_METRICS[metric]} on {split}: {value} (95 % bootstrap interval over files)",
        where,
    )


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
    # The last block only tells how files and segments differ; all have the same rows.
    rows = [dict(_score_rows(block)) for block in blocks.values()]
    for title in rows[0]:
        table.add_row(escape(title), *[escape(row.get(title, "")) for row in rows])
    return table


def _score_rows(block: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(name, value with interval) of each metric of a block, in all and per class or target."""
    for name, title in (_MAIN_METRICS | _METRICS).items():
        if name in block:
            yield title, _with_interval(block[name], 2)
    for label, estimate in block.get("recall", {}).items():
        yield f"recall {label}", _with_interval(estimate, 2)
    for label, scores in block.get("labels", {}).items():
        yield f"F1 {label}", _with_interval(scores["f1"], 2)
    for target, scores in block.get("targets", {}).items():
        if len(block["targets"]) > 1:
            yield f"CCC {target}", _with_interval(scores["ccc"], 2)
    # Of ordered labels also what is known of classes.
    if "classes" in block:
        yield from _score_rows(block["classes"])


def _with_interval(estimate: dict[str, float | None], digits: int = 3) -> str:
    if estimate["value"] is None:
        return "-"
    if estimate["low"] is None:
        return f"{estimate['value']:.{digits}f}"
    value, low, high = (f"{estimate[key]:.{digits}f}" for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def _writer(
    decision: "Decision", *, segments: bool, as_json: bool, as_csv: bool
) -> "Callable[[Prediction | None], None]":
    """A function that takes each prediction, and None at the end."""
    if as_json:
        return lambda p: typer.echo(json.dumps(p.to_json(segments=segments))) if p else None
    kind = "value" if decision.output in ("linear", "ordinal") else "score"
    label = [] if decision.output == "linear" else ["label"]
    header = ["path", *(["start", "end"] if segments else []), *label]
    if as_csv:
        rows = csv.writer(sys.stdout)
        names = (
            decision.columns
            if decision.output == "ordinal"
            else [f"{kind}_{x}" for x in decision.columns]
        )
        rows.writerow([*header, *names])

        def write_csv(prediction: "Prediction | None") -> None:
            for *cells, scores in _rows(prediction, segments):
                rows.writerow([*cells, *[f"{score:.6f}" for score in scores.values()]])

        return write_csv

    table = Table()
    for name in header:
        table.add_column(name, overflow="fold")
    table.add_column("scores" if kind == "score" else "values")

    def write_table(prediction: "Prediction | None") -> None:
        for *cells, scores in _rows(prediction, segments):
            shown = [f"{cell:.2f} s" if isinstance(cell, float) else cell for cell in cells]
            # Of many labels the likeliest.
            ranked = sorted(scores, key=scores.get, reverse=True)[:3] if kind == "score" else scores
            values = ", ".join(f"{name} {scores[name]:.2f}" for name in ranked)
            table.add_row(*[escape(text) for text in (*shown, values)])
        if prediction is None and table.row_count:
            out.print(table)

    return write_table


def _rows(prediction: "Prediction | None", segments: bool) -> Iterator[list[Any]]:
    """[path, (start, end,) (label,) scores by name] of a file or of each of its segments."""
    if prediction is None:
        return
    found = prediction.to_json(segments=segments)
    for part in found["segments"] if segments else [found]:
        times = [part["start"], part["end"]] if segments else []
        label = [part["label"]] if "label" in part else []
        label += [", ".join(part["labels"])] if "labels" in part else []
        yield [found["path"], *times, *label, part.get("scores", part.get("values"))]


@contextmanager
def _library() -> Iterator[None]:
    """Name the extra where a package of the training side is missing; say so when interrupted."""
    try:
        yield
    except KeyboardInterrupt as stop:
        # Here, as typer would turn it into an exit without a word.
        err.print(str(stop) or "Interrupted.", soft_wrap=True, highlight=False)
        raise typer.Exit(130) from None
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
    _errors.print(f"[red]Error:[/red] {escape(message)}", soft_wrap=True, highlight=False)


def _fail(error: Exception) -> None:
    if not isinstance(error, ElsewhereError):
        _print_error(error)
    sys.exit(1)

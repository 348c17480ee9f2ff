"""The command line: each command parses, calls one function of the library, and prints."""

import json
import sys
from collections.abc import Callable
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from deepspectrumlite import __version__
from deepspectrumlite.cli_benchmark import benchmark, stats
from deepspectrumlite.cli_calibrate import calibrate
from deepspectrumlite.cli_compare import compare, crossvalidate
from deepspectrumlite.cli_corpus import manifest as corpus_manifest
from deepspectrumlite.cli_explain import explain
from deepspectrumlite.cli_export import export
from deepspectrumlite.cli_extract import extract
from deepspectrumlite.cli_import import import_config
from deepspectrumlite.cli_predict import predict
from deepspectrumlite.cli_report import report
from deepspectrumlite.cli_scores import tell_scores
from deepspectrumlite.cli_stream import evaluate_events, stream
from deepspectrumlite.cli_sweep import app as sweep
from deepspectrumlite.cli_web import serve, web
from deepspectrumlite.config import (
    COLLAR_SECONDS,
    load_recipe,
    recipe_schema,
    recipe_toml,
    shipped_recipes,
)
from deepspectrumlite.errors import DeepSpectrumLiteError, RecipeError
from deepspectrumlite.tables import (
    epoch_printer,
)
from deepspectrumlite.terminal import (
    TALKS,
    Device,
    Intervals,
    Manifest,
    Model,
    Overlap,
    Recipe,
    Set,
    SkipBad,
    Threads,
    check_choice,
    err,
    fail,
    library,
    out,
    print_error,
    progress,
)

if TYPE_CHECKING:
    from deepspectrumlite.runs import Trained

app = typer.Typer(
    help="From a few hundred labelled recordings to a recogniser that runs on the device.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=True,
)


def main() -> None:
    """Run the command line; a user's error is one line and exit code 1, bad usage 2."""
    try:
        app()
    except RecipeError as error:
        # The same in all processes, before they have found each other.
        if TALKS:
            print_error(error)
        sys.exit(2)
    except DeepSpectrumLiteError as error:
        fail(error)
    except OSError as error:
        # Disk full, no permission: the system's message names the file.
        fail(error)


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
    with library():
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
    with library():
        from deepspectrumlite.data import scan
        from deepspectrumlite.datasets.layout import corpus_notes
        from deepspectrumlite.summary import summary_tables
        from deepspectrumlite.targets import check_labelled_splits, find_targets, load_labelled

        table = load_labelled(manifest, settings.data, settings.model.output)
        targets = find_targets(table, settings.data, settings.model.output)
        check_labelled_splits(table, targets, allow_group_overlap=overlap)
        table = table.assign(label=targets.strata(table))
        with progress() as tell:
            good, skipped = scan(
                table,
                settings.data,
                skip_bad=skip_bad,
                progress=lambda done, total: tell("checking recordings", done, total),
            )
        for part in summary_tables(good):
            out.print(part)
        for note in corpus_notes(table):
            typer.echo(note, err=True)
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
    with library():
        from deepspectrumlite.preview import draw_preview

        with progress() as tell:
            draw_preview(
                settings,
                manifest,
                picture,
                split=split,
                rows=rows,
                columns=columns,
                seed=seed,
                progress=tell,
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
    check_export: Annotated[
        bool,
        typer.Option("--check-export", help="First convert the network, in case it cannot be."),
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
        others = (recipe, manifest, run, changes, skip_bad, overlap, overwrite, check_export)
        if any(others):
            raise typer.BadParameter("--resume takes all settings from the run; give --device only")
        with library():
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
    with library():
        from deepspectrumlite.runs import Options, train_run

        options = Options(skip_bad, overlap, overwrite, device, check_export)
        _train(partial(train_run, settings, manifest, run, options), run)
    if TALKS:
        typer.echo(_where(run))


def _where(run: Path) -> str:
    return f"Model: {run / 'model'}   curves: {run / 'curves.png'}"


@app.command()
def evaluate(
    model: Model,
    manifest: Annotated[
        Path | None,
        typer.Argument(
            help="As for `data`, with a split column; a must for an exported file.  "
            "\\[default: that of the run]"
        ),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="train, devel, test, or all.  \\[default: test]")
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Where scores and plots go.  \\[default: MODEL/SPLIT, or for an exported file "
            "FILE-SPLIT beside it, without its suffix]",
        ),
    ] = None,
    resamples: Annotated[
        int | None, typer.Option(min=100, help="Of the bootstrap.  \\[default: 1000]")
    ] = None,
    intervals: Intervals = "percentile",
    skip_bad: SkipBad = False,
    device: Device = "auto",
    threads: Threads = 1,
    stream: Annotated[
        bool, typer.Option("--stream", help="Find events (path, start, end, label) instead.")
    ] = False,
    settings: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Of --stream: how scores become events, as JSON."),
    ] = None,
    false_alarms: Annotated[
        float | None,
        typer.Option(
            "--false-alarms-per-hour", min=0, help="Of --stream: choose thresholds for so many."
        ),
    ] = None,
    collar: Annotated[
        float | None,
        typer.Option(
            min=0,
            help=f"Of --stream: seconds that an event may be off.  \\[default: {COLLAR_SECONDS:g}]",
        ),
    ] = None,
) -> None:
    """Score a model on labelled recordings, with 95 % bootstrap intervals.

    With --stream: on long recordings, whose events are known: false alarms an hour, misses,
    latency, and thresholds for a wanted number of false alarms.

    Example: [bold]deepspectrumlite evaluate runs/first labels.csv --split test[/bold]

    Example: [bold]deepspectrumlite evaluate drums.tflite events.csv --stream \
--false-alarms-per-hour 1[/bold]
    """
    if stream:
        if manifest is None:
            raise typer.BadParameter("--stream needs a list of events: path, start, end, label")
        if split is not None or resamples or skip_bad:
            raise typer.BadParameter("--split, --resamples and --skip-bad do not go with --stream")
        with library():
            evaluate_events(
                model,
                manifest,
                settings=settings,
                false_alarms=false_alarms,
                collar=COLLAR_SECONDS if collar is None else collar,
                folder=folder,
                threads=threads,
                device=device,
            )
        return
    if settings or false_alarms is not None or collar is not None:
        raise typer.BadParameter(
            "--settings, --false-alarms-per-hour and --collar belong to --stream"
        )
    with library():
        from deepspectrumlite.manifest import SPLITS
        from deepspectrumlite.runs import Options

        split = split or "test"
        if split not in (*SPLITS, "all"):
            raise typer.BadParameter(f"{split!r}; allowed: {', '.join(SPLITS)}, all")
        check_choice("--intervals", intervals, ("percentile", "bca"))
        options = Options(skip_bad=skip_bad, device=device)
        more: dict[str, Any] = {"n_resamples": resamples} if resamples else {}
        more["method"] = intervals
        score, where = _evaluate(
            model, manifest, split, options, out=folder, threads=threads, **more
        )
    written = sorted(path.name for path in where.iterdir() if path.is_file())
    typer.echo(f"{score}\nWritten to {where}: {', '.join(written)}")


app.command()(predict)
app.command("manifest")(corpus_manifest)
app.command()(calibrate)
app.command()(crossvalidate)
app.command()(compare)
app.add_typer(sweep, name="sweep")
app.command()(extract)
app.command()(import_config)
app.command()(explain)
app.command()(report)
app.command()(export)
app.command()(stream)
app.command()(web)
app.command()(serve)
app.command()(benchmark)
app.command()(stats)


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
        with progress() as tell:
            trained = work(progress=tell, on_epoch=epoch_printer())
    except KeyboardInterrupt as stop:
        hint = f" Go on with: deepspectrumlite train --resume {run}"
        message = str(stop) or f"Interrupted.{hint if (run / 'run.json').is_file() else ''}"
        raise KeyboardInterrupt(message) from None
    if trained is None or not TALKS:
        return trained
    for note in trained.notes:
        typer.echo(note, err=True)
    if trained.drew_splits:
        typer.echo(f"Splits were drawn; they stand in {run / 'manifest.csv'}", err=True)
    if trained.skipped:
        typer.echo(f"{trained.skipped} recordings skipped; see {run / 'skipped.csv'}", err=True)
    if trained.dropped:
        typer.echo(f"{trained.dropped} recordings shorter than a segment left out", err=True)
    return trained


def _evaluate(
    model: Path, manifest: Path | None, split: str, options: Any, **settings: Any
) -> tuple[str, Path]:
    from deepspectrumlite.runs import evaluate_run

    with progress() as tell:
        found, where = evaluate_run(model, manifest, split, options, progress=tell, **settings)
    return tell_scores(found, where), where

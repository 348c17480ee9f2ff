"""The command that writes features of recordings to a table."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from deepspectrumlite.cli_predict import (
    Address,
    EngineName,
    EngineOption,
    PartRows,
    Processes,
    check_batch_options,
    make_engine,
    tell_summary,
)
from deepspectrumlite.config import PART_ROWS, load_recipe
from deepspectrumlite.config import Recipe as RecipeSettings
from deepspectrumlite.terminal import Device, Recipe, Set, SkipBad, err, library, progress
from deepspectrumlite.terminal import out as terminal


class Kind(StrEnum):
    """What can be extracted."""

    deepspectrum = "deepspectrum"
    egemaps = "egemaps"
    compare = "compare"
    logmel = "logmel"


def extract(
    manifest: Annotated[
        str | None,
        typer.Argument(
            help="As for `data`, but labels are not a must; or a folder of recordings.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|FOLDER",
            help="The .parquet, .csv or .npz file to write; or a folder (a path without a suffix, "
            "or a URI) for Parquet parts: the same again goes on.",
            show_default=False,
        ),
    ] = None,
    kind: Annotated[Kind, typer.Option("--features", help="Which.")] = Kind.deepspectrum,
    recipe: Recipe = "default",
    changes: Set = None,
    run: Annotated[
        Path | None,
        typer.Option(
            "--model",
            metavar="RUN",
            help="A trained model instead of a recipe and ImageNet weights.",
            show_default=False,
        ),
    ] = None,
    layer: Annotated[
        str,
        typer.Option(help="Of the network.  \\[default: after global pooling]", show_default=False),
    ] = "",
    layers: Annotated[
        bool, typer.Option("--layers", help="List the layers of the network, and stop.")
    ] = False,
    skip_bad: SkipBad = False,
    device: Device = "auto",
    engine: EngineOption = None,
    processes: Processes = None,
    part_rows: PartRows = None,
    address: Address = None,
) -> None:
    """Write features of each segment, a row each, for classifiers of your own.

    deepspectrum: what a layer of the image network gives. logmel: mean and deviation of each band.
    egemaps and compare: functionals of openSMILE, which is free for research and teaching only:
    neither it nor features made with it may be used in a product without a licence of audEERING.

    Example: [bold]deepspectrumlite extract labels.csv --out features.parquet[/bold]

    Into a folder: by all cores, or a cluster; a bad recording is a row with its reason.

    Example: [bold]deepspectrumlite extract corpus.parquet --out features[/bold]

    Example: [bold]deepspectrumlite extract --layers --set model.backbone=resnet50[/bold]
    """
    if run is not None and (changes or recipe != "default"):
        raise typer.BadParameter("--model has a recipe of its own; leave out --recipe and --set")
    if (layer or layers or run) and kind is not Kind.deepspectrum:
        raise typer.BadParameter("--model, --layer and --layers go with deepspectrum only")
    settings = load_recipe(recipe, changes or [])
    folder = out if out and not layers and _is_folder(out) else None
    if folder and skip_bad:
        raise typer.BadParameter(
            "--skip-bad goes with a file; in a folder each bad row is kept, with its reason"
        )
    check_batch_options(folder, engine, processes, part_rows, address)
    if folder and manifest:
        _extract_batch(
            kind.value,
            settings,
            manifest,
            folder,
            layer=layer,
            model=run,
            device=device,
            part_rows=part_rows or PART_ROWS,
            engine=(engine, processes, address),
        )
        return
    with library():
        from deepspectrumlite.feature_files import extract_manifest
        from deepspectrumlite.features import list_layers
        from deepspectrumlite.model import load_model

        model = None if run is None else load_model(run)
        if layers:
            terminal.print(_table(list_layers(settings, model)))
            return
        if manifest is None or out is None:
            raise typer.BadParameter("needed: a manifest or folder, and --out; or --layers")
        with progress() as tell:
            found, skipped = extract_manifest(
                kind.value,
                settings,
                Path(manifest),
                Path(out),
                layer=layer,
                model=model,
                skip_bad=skip_bad,
                device=device,
                progress=tell,
            )
    for reason in skipped["reason"]:
        err.print(f"[yellow]skipped[/yellow] {escape(reason)}", soft_wrap=True)
    rows, columns = found.values.shape
    replaced = f", {found.replaced} values that were not finite set to 0" if found.replaced else ""
    typer.echo(f"{out}: {rows} rows, {columns} features{replaced}")


def _is_folder(out: str) -> bool:
    return "://" in out or not Path(out).suffix


def _extract_batch(
    kind: str,
    settings: RecipeSettings,
    manifest: str,
    out: str,
    *,
    engine: tuple[EngineName | None, int | None, str | None],
    **given: Any,
) -> None:
    with library():
        from deepspectrumlite.batch.run import extract_batch

        with progress() as tell:
            found = extract_batch(
                kind, settings, manifest, out, engine=make_engine(*engine), progress=tell, **given
            )
    tell_summary(out, found)


def _table(layers: dict[str, int]) -> Table:
    table = Table()
    table.add_column("layer", no_wrap=True)
    table.add_column("features", justify="right")
    for name, count in layers.items():
        table.add_row(escape(name) if name else "(none given: after pooling)", str(count))
    return table

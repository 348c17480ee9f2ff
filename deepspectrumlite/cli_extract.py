"""The command that writes features of recordings to a table."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from deepspectrumlite.config import load_recipe
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
        Path | None,
        typer.Argument(
            help="As for `data`, but labels are not a must; or a folder of recordings.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The .parquet, .csv or .npz file to write.", show_default=False),
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
) -> None:
    """Write features of each segment, a row each, for classifiers of your own.

    deepspectrum: what a layer of the image network gives. logmel: mean and deviation of each band.
    egemaps and compare: functionals of openSMILE, which is free for research and teaching only:
    neither it nor features made with it may be used in a product without a licence of audEERING.

    Example: [bold]deepspectrumlite extract labels.csv --out features.parquet[/bold]

    Example: [bold]deepspectrumlite extract --layers --set model.backbone=resnet50[/bold]
    """
    if run is not None and (changes or recipe != "default"):
        raise typer.BadParameter("--model has a recipe of its own; leave out --recipe and --set")
    if (layer or layers or run) and kind is not Kind.deepspectrum:
        raise typer.BadParameter("--model, --layer and --layers go with deepspectrum only")
    settings = load_recipe(recipe, changes or [])
    with library():
        from deepspectrumlite.feature_files import extract_manifest
        from deepspectrumlite.features import list_layers
        from deepspectrumlite.model import load_model

        model = None if run is None else load_model(run)
        if layers:
            terminal.print(_table(list_layers(settings, model)))
            return
        if manifest is None or out is None:
            raise typer.BadParameter("needed: a manifest or folder, and --out FILE; or --layers")
        with progress() as tell:
            found, skipped = extract_manifest(
                kind.value,
                settings,
                manifest,
                out,
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


def _table(layers: dict[str, int]) -> Table:
    table = Table()
    table.add_column("layer", no_wrap=True)
    table.add_column("features", justify="right")
    for name, count in layers.items():
        table.add_row(escape(name) if name else "(none given: after pooling)", str(count))
    return table

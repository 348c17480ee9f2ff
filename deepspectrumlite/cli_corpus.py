"""The command that writes what a corpus holds as a manifest."""

from pathlib import Path
from typing import Annotated

import typer

from deepspectrumlite.config import load_recipe
from deepspectrumlite.terminal import Recipe, Set, library


def manifest(
    folder: Annotated[
        Path,
        typer.Argument(help="A corpus as its owners hand it out.", show_default=False),
    ],
    out: Annotated[
        Path, typer.Option(help="The .csv or .parquet file to write.", show_default=False)
    ],
    recipe: Recipe = "default",
    changes: Set = None,
) -> None:
    """Write the recordings of a corpus, with labels, splits and groups, as a manifest.

    To look at what its reader finds, and to mend or shorten it; every command takes the file
    instead of the folder. The recipe says which corpus it is (data.corpus).

    Example: [bold]deepspectrumlite manifest ESC-50-master --recipe esc50 --out esc50.csv[/bold]
    """
    settings = load_recipe(recipe, changes or [])
    with library():
        from deepspectrumlite.datasets.read import write_corpus

        table = write_corpus(folder, settings.data, out)
    typer.echo(f"{out}: {len(table)} recordings; columns {', '.join(map(str, table))}")

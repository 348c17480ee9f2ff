"""The command that writes what a corpus holds as a manifest."""

from pathlib import Path
from typing import Annotated

import typer

from deepspectrumlite.config import load_recipe
from deepspectrumlite.errors import ManifestError
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
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the file if it exists.")
    ] = False,
) -> None:
    """Write the recordings of a corpus, with labels, splits and groups, as a manifest.

    To look at what its reader finds, and to mend or shorten it; every command takes the file
    instead of the folder. The recipe says which corpus it is (data.corpus).

    Example: [bold]deepspectrumlite manifest ESC-50-master --recipe esc50 --out esc50.csv[/bold]
    """
    settings = load_recipe(recipe, changes or [])
    if out.exists() and not overwrite:
        raise ManifestError(f"{out}: already there; choose another --out, or give --overwrite")
    with library():
        from deepspectrumlite.datasets.layout import corpus_notes
        from deepspectrumlite.datasets.read import write_corpus

        table = write_corpus(folder, settings.data, out)
        for note in corpus_notes(table):
            typer.echo(note, err=True)
    typer.echo(f"{out}: {len(table)} recordings; columns {', '.join(map(str, table))}")

"""The command that translates settings of the published system."""

from pathlib import Path
from typing import Annotated

import typer

from deepspectrumlite.terminal import library


def import_config(
    settings: Annotated[
        Path, typer.Argument(metavar="HP.json", help="Its settings.", show_default=False)
    ],
    classes: Annotated[
        Path, typer.Argument(metavar="CLASSES.json", help="Its class names.", show_default=False)
    ],
    labels: Annotated[
        Path,
        typer.Argument(
            metavar="LABELS.csv",
            help="filename, label, duration_frames; names begin with train, devel or test.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(help="Folder for recipe.toml and manifest.csv.", show_default=False),
    ],
    audio: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Where the file names start.  \\[default: the folder of LABELS.csv]",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Turn the three files of the published system (TensorFlow, 2022) into a recipe or a sweep.

    Every list with several values becomes a list of the sweep. What means something else here is
    said in words.

    Example: [bold]deepspectrumlite import-config hp_config.json class_config.json labels.csv \
--audio wav --out old[/bold]
    """
    with library():
        from deepspectrumlite.old_settings.files import read_old_settings, write_old_settings

        found = read_old_settings(settings, classes, labels, audio or labels.parent)
        recipe, manifest = write_old_settings(found, out)
    typer.echo("What means something else here:")
    for note in found.notes:
        typer.echo(f"- {note}")
    command = "sweep" if found.lists else "train"
    typer.echo(
        f"\nRecipe:   {recipe}\nManifest: {manifest} ({len(found.rows)} recordings)\nGo on with: "
        f"deepspectrumlite {command} {recipe} --data {manifest} --out {out / 'run'}"
    )

"""The commands that make a site of an exported file, and show it on this machine."""

from pathlib import Path
from typing import Annotated

import typer

from deepspectrumlite.config import SERVE_HOST, SERVE_PORT
from deepspectrumlite.terminal import err, library


def web(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE.tflite", help="An exported file, best with --image.", show_default=False
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where to write the site.")],
    title: Annotated[
        str | None, typer.Option(help="Of the page.  \\[default: the name of the file]")
    ] = None,
    card: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A model card to show on the page, such as of `report`."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a site that is there already.")
    ] = False,
) -> None:
    """Write a static site that recognises in the browser; recordings stay on the device.

    Any file server over https will do, and `serve` on this machine. What it holds is for everyone
    who can open it: the model, what it was trained by, and the card.

    Example: [bold]deepspectrumlite web drums.tflite --out site --title "Drums"[/bold]
    """
    with library():
        from deepspectrumlite.web import write_site

        site = write_site(file, out, title=title, card=card, overwrite=overwrite)
    if not site.has_image:
        err.print(
            "[yellow]Note:[/yellow] the file gives no image, so the page shows no spectrogram; "
            "export it with --image for one",
            soft_wrap=True,
        )
    typer.echo(
        f"Site: {site.folder} ({site.bytes / 1e6:.1f} MB)   "
        f"look at it: deepspectrumlite serve {site.folder}"
    )


def serve(
    folder: Annotated[Path, typer.Argument(help="A site that `web` wrote.", show_default=False)],
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = SERVE_PORT,
    host: Annotated[
        str, typer.Option(help="The address to listen on; the default is this machine alone.")
    ] = SERVE_HOST,
) -> None:
    """Show a site on this machine, with the headers that let it use several threads.

    Example: [bold]deepspectrumlite serve site[/bold]
    """
    with library():
        from deepspectrumlite.serve import open_server

        server = open_server(folder, host, port)
    with server:
        if host not in (SERVE_HOST, "localhost"):
            err.print(
                "[yellow]Note:[/yellow] from other machines, browsers give the microphone to pages "
                "over https only",
                soft_wrap=True,
            )
        typer.echo(f"{server.url}   Ctrl-C ends it")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            typer.echo("Stopped.")

"""The command that says what is in recordings: a few on the terminal, or a corpus into a folder."""

from enum import StrEnum
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated

import typer

from deepspectrumlite.config import PART_ROWS
from deepspectrumlite.errors import DeepSpectrumLiteError
from deepspectrumlite.tables import prediction_writer
from deepspectrumlite.terminal import Device, Model, Threads, err, library, print_error, progress

if TYPE_CHECKING:
    from deepspectrumlite.batch.run import Engine, Summary


class EngineName(StrEnum):
    """Where a batch is done."""

    local = "local"
    ray = "ray"


EngineOption = Annotated[
    EngineName | None,
    typer.Option(
        "--engine",
        help="Of a folder: local, or ray: a cluster.  \\[default: local]",
        show_default=False,
    ),
]
Processes = Annotated[
    int | None,
    typer.Option(min=1, help="Of a folder: workers.  \\[default: one per core]"),
]
PartRows = Annotated[
    int | None,
    typer.Option(min=1, help=f"Of a folder: manifest rows in a part.  \\[default: {PART_ROWS}]"),
]
Address = Annotated[
    str | None,
    typer.Option(
        help="Of --engine ray: HOST:PORT of the head node; auto: that of this machine.  "
        "\\[default: RAY_ADDRESS, else a Ray of its own]",
        show_default=False,
    ),
]


def predict(
    model: Model,
    recordings: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...",
            help="Files, folders or glob patterns; or one manifest (.csv, .tsv, .jsonl, .parquet) "
            "with the column path, and where wanted start and end.",
            show_default=False,
        ),
    ],
    segments: Annotated[
        bool, typer.Option("--segments", help="A row per segment, with times.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON Lines.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    device: Device = "auto",
    threads: Threads = 1,
    out: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="Write Parquet parts there (a path or URI) instead; the same again goes on.",
            show_default=False,
        ),
    ] = None,
    engine: EngineOption = None,
    processes: Processes = None,
    part_rows: PartRows = None,
    address: Address = None,
) -> None:
    """Say what is in recordings; a bad file is reported, and the rest goes on.

    Example: [bold]deepspectrumlite predict runs/first recording.wav --segments[/bold]

    Example: [bold]deepspectrumlite predict drums.tflite corpus.parquet --out scores[/bold]
    """
    if as_json and as_csv:
        raise typer.BadParameter("--json and --csv exclude each other; give one of them")
    check_batch_options(out, engine, processes, part_rows, address)
    if out is None:
        _print_predictions(model, recordings, segments, as_json, as_csv, device, threads)
        return
    if as_json or as_csv or len(recordings) > 1:
        raise typer.BadParameter("--out takes one manifest or folder, and no --json or --csv")
    if PurePath(out).suffix in (".csv", ".json", ".jsonl", ".parquet"):
        raise typer.BadParameter(
            f"--out is {out!r}, but it is a folder for Parquet parts; give a folder's name, or "
            "print a table instead: --csv > FILE"
        )
    with library("batch"):
        from deepspectrumlite.batch.run import predict_batch

        with progress() as tell:
            found = predict_batch(
                model,
                recordings[0],
                out,
                segments=segments,
                part_rows=part_rows or PART_ROWS,
                engine=make_engine(engine, processes, address),
                device=device,
                threads=threads,
                progress=tell,
            )
    tell_summary(out, found)


def _print_predictions(
    model: Path,
    recordings: list[str],
    segments: bool,
    as_json: bool,
    as_csv: bool,
    device: str,
    threads: int,
) -> None:
    with library():
        from deepspectrumlite.batch.rows import Row, is_manifest, predict_row, read_rows
        from deepspectrumlite.predict import find_recordings, open_recogniser

        recogniser = open_recogniser(model, device=device, threads=threads)
        write = prediction_writer(
            recogniser.decision, segments=segments, as_json=as_json, as_csv=as_csv
        )
        one = len(recordings) == 1 and is_manifest(recordings[0])
        rows = list(
            read_rows(recordings[0]) if one else map(Row, map(str, find_recordings(recordings)))
        )
        n_bad = 0
        with progress() as tell:
            for done, row in enumerate(rows, 1):
                try:
                    write(predict_row(recogniser, row, tell))
                except DeepSpectrumLiteError as error:
                    n_bad += 1
                    print_error(error)
                if len(rows) > 1:
                    tell("files", done, len(rows))
        write(None)
    if n_bad:
        err.print(f"{n_bad} of {len(rows)} files could not be read.")
        raise typer.Exit(1)


def check_batch_options(
    out: str | None,
    engine: EngineName | None,
    processes: int | None,
    part_rows: int | None,
    address: str | None,
) -> None:
    """Refuse, as bad usage, what belongs to a folder of parts, or to Ray, without that."""
    if out is None and (engine or processes or part_rows or address):
        raise typer.BadParameter(
            "--engine, --processes, --part-rows and --address need --out FOLDER"
        )
    if address and engine is not EngineName.ray:
        raise typer.BadParameter("--address belongs to --engine ray")


def make_engine(name: EngineName | None, processes: int | None, address: str | None) -> "Engine":
    """What the options say."""
    from deepspectrumlite.batch.run import Engine

    return Engine((name or EngineName.local).value, processes, address)


def tell_summary(out: str, found: "Summary") -> None:
    """A line of what was done; exit code 1 where every row of it is bad."""
    if found.parts_before == found.batch.parts:
        typer.echo(f"{out}: all {found.batch.parts} parts are there; nothing to do")
        return
    before = f" ({found.parts_before} parts were there before)" if found.parts_before else ""
    speed = ""
    if found.seconds:
        factor = _digits(found.wall_seconds / found.seconds)
        speed = f": {_digits(found.hours_an_hour)} h an hour (real-time factor {factor})"
    heard = f"{found.seconds / 3600:.2f} h" if found.seconds >= 360 else f"{found.seconds:.3g} s"
    replaced = f"; {found.replaced} values that were not finite set to 0" if found.replaced else ""
    typer.echo(
        f"{out}: {found.rows} rows, {found.bad} bad{before}; {heard} of audio in "
        f"{_digits(found.wall_seconds)} s{speed}{replaced}"
    )
    if found.bad:
        typer.echo(f"{found.bad} rows could not be read; the column error says why", err=True)
    if found.bad == found.rows:
        raise typer.Exit(1)


def _digits(value: float) -> str:
    """Three digits at least, and never an exponent for what is large."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"

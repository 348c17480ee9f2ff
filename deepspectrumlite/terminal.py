"""What all commands share: where they print, how they fail, and the options that recur."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from deepspectrumlite.config import shipped_recipes
from deepspectrumlite.errors import ElsewhereError, MissingExtraError

# Of several processes that train together, one talks.
TALKS = os.environ.get("RANK", "0") == "0"
out = Console(quiet=not TALKS)
err = Console(stderr=True, quiet=not TALKS)
_errors = Console(stderr=True)

Manifest = Annotated[
    Path,
    typer.Argument(
        help="CSV, TSV, JSON Lines or Parquet with the columns path and label (and where wanted "
        "split, group, start, end); a folder with a sub-folder per class; or that of a corpus, "
        "which the recipe names (data.corpus).",
        show_default=False,
    ),
]
Model = Annotated[
    Path,
    typer.Argument(
        help="A run folder, a model folder, or an exported .tflite or .onnx file.",
        show_default=False,
    ),
]
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
Intervals = Annotated[
    str, typer.Option(help="How 95 % intervals are drawn: percentile, or bca (bias-corrected).")
]
Device = Annotated[
    str, typer.Option(help="auto, cpu, cuda, cuda:1, mps; an exported file takes the CPU.")
]
Threads = Annotated[
    int, typer.Option(min=1, max=256, help="CPU threads that an exported file runs on.")
]


def check_choice(option: str, given: str, allowed: Sequence[str]) -> None:
    """Refuse, as bad usage, what an option does not allow."""
    if given not in allowed:
        raise typer.BadParameter(f"{option} is {given!r}; allowed: {', '.join(allowed)}")


@contextmanager
def library(extra: str = "train") -> Iterator[None]:
    """Name the extra where a package of it is missing; say so when interrupted."""
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
        raise MissingExtraError(package, "this command", extra) from error


@contextmanager
def progress() -> Iterator[Callable[[str, int, int], None]]:
    """A progress function that draws one bar per step on the terminal's error stream."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=err, transient=True) as bars:
        task = bars.add_task("starting", total=None)

        def update(what: str, done: int, total: int) -> None:
            bars.update(task, description=escape(what), completed=done, total=total)

        yield update


def print_error(error: Exception) -> None:
    """The message as one line on the error stream, also where other lines are held back."""
    message = " ".join(str(error).split())
    _errors.print(f"[red]Error:[/red] {escape(message)}", soft_wrap=True, highlight=False)


def fail(error: Exception) -> NoReturn:
    """Print the error, unless another process does, and exit with 1."""
    if not isinstance(error, ElsewhereError):
        print_error(error)
    sys.exit(1)

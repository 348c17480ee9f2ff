"""Files that survive: written beside and renamed, so that a kill at any moment leaves the last one.

And the signals that end a run early, held back until a checkpoint has been written.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO

import torch

from deepspectrumlite.errors import TrainingError


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file so that a reader finds the old one or the new one, and never a part.

    Raises:
        OSError: as the system says it; the old file is untouched
    """
    beside = path.with_name(f"{path.name}.new")
    try:
        with beside.open("wb") as file:
            write(file)
            file.flush()
            # Else a loss of power may leave the new name with nothing in it.
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        with suppress(OSError):
            beside.unlink()
        raise


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Save tensors, numbers, texts, and lists and dicts of them.

    Raises:
        TrainingError: the file cannot be written; the checkpoint before is untouched
    """
    try:
        write_atomically(path, lambda file: torch.save(state, file))
    except (OSError, RuntimeError) as error:
        reason = _reason(error)
        kept = "the checkpoint before is intact" if path.is_file() else "there is none before it"
        raise TrainingError(
            f"{path}: cannot be written ({reason}); {kept}; make room or mend the permissions, "
            f"then go on with: deepspectrumlite train --resume {path.parent}"
        ) from error


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any] | None:
    """What :func:`save_checkpoint` saved, tensors on the device; None where there is no file.

    Raises:
        TrainingError: the file is broken
    """
    if not path.is_file():
        return None
    try:
        # Only tensors and plain values: no code of the file's runs.
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:
        raise TrainingError(
            f"{path}: broken ({_reason(error)}); remove it to start this run anew"
        ) from error
    return state


def _reason(error: BaseException) -> str:
    """A line; the system's own words where there are any."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        # torch turns a full disk into a RuntimeError about positions in its archive.
        cause = cause.__context__
    if cause is not None and cause.strerror:
        return cause.strerror
    return (str(error).splitlines() or [type(error).__name__])[0]


@dataclass
class Signals:
    """Whether the user (Ctrl-C) or the system (SIGTERM) asked to stop."""

    stop: bool = False


@contextmanager
def held_back() -> Iterator[Signals]:
    """Let SIGINT and SIGTERM wait for the next safe moment; a second one ends at once."""
    signals = Signals()
    if threading.current_thread() is not threading.main_thread():
        yield signals  # signals reach the main thread only
        return
    before: dict[int, Any] = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: FrameType | None) -> None:
        signals.stop = True
        signal.signal(number, before[number] or signal.SIG_DFL)

    for number in before:
        signal.signal(number, note)
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)

"""How the library tells how far it has come; what is done with it is the caller's business."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many steps are done, and how many there are."""


def silent(what: str, done: int, total: int) -> None:
    """A progress that tells nobody."""

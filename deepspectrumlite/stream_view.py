"""What a stream shows while it runs: a live picture, plain lines, or JSON Lines."""

import json
import math
from collections.abc import Sequence
from typing import Self

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from deepspectrumlite.decisions import Decision
from deepspectrumlite.postprocess import Event
from deepspectrumlite.stream import LOWEST_DB, Window

BAR_WIDTH = 40
MAX_BARS = 12
_NUMBERS = ("linear", "ordinal")


class Lines:
    """A line for each event that begins, and one when it has ended; numbers get one a window.

    Attributes:
        status: time, speed and losses, in one line
    """

    status = ""

    def __init__(self, decision: Decision) -> None:
        self._decision = decision

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def window(self, window: Window) -> None:
        """A line, where the model gives numbers."""
        if self._decision.output in _NUMBERS:
            values = zip(self._decision.columns, window.smoothed, strict=True)
            shown = ", ".join(f"{name} {value:.3f}" for name, value in values)
            self._print(f"{window.start_seconds:10.2f} s  {shown}")

    def events(self, events: Sequence[Event]) -> None:
        """A line for each."""
        for event in events:
            self._print(event_line(event))

    def notice(self, text: str) -> None:
        """A line on the error stream."""
        typer.echo(text, err=True)

    def _print(self, line: str) -> None:
        typer.echo(line)


class JsonLines(Lines):
    """An object a line, for programs."""

    def window(self, window: Window) -> None:
        """An object, where the model gives numbers; null where nothing was scored."""
        if self._decision.output in _NUMBERS:
            numbers = [None if math.isnan(value) else float(value) for value in window.smoothed]
            values = dict(zip(self._decision.columns, numbers, strict=True))
            times = {"start": window.start_seconds, "end": window.end_seconds}
            self._print(json.dumps({"event": "values", **times, "values": values}))

    def events(self, events: Sequence[Event]) -> None:
        """In each, "event" is "start" when it is announced, with "end" null, and then "end"."""
        for event in events:
            row = {
                "event": "start" if event.end_seconds is None else "end",
                "label": event.label,
                "start": event.start_seconds,
                "end": event.end_seconds,
                "score": event.score,
                "announced": event.announced_seconds,
            }
            self._print(json.dumps(row))


class Picture(Lines):
    """Bars with thresholds that move, on a terminal; events and notices stay as lines above.

    Args:
        decision: of the model
        thresholds: of the labels that make events
        console: the terminal
    """

    def __init__(self, decision: Decision, thresholds: dict[str, float], console: Console) -> None:
        super().__init__(decision)
        self._thresholds, self._console = thresholds, console
        self._window: Window | None = None
        self._lasting: set[str] = set()
        self._live = Live(
            console=console, get_renderable=self.picture, refresh_per_second=10, transient=True
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def window(self, window: Window) -> None:
        """Keep it for the next time the picture is drawn."""
        self._window = window

    def events(self, events: Sequence[Event]) -> None:
        """A line above for each; its bar is bold while it lasts."""
        for event in events:
            is_over = event.end_seconds is not None
            (self._lasting.discard if is_over else self._lasting.add)(event.label)
        super().events(events)

    def notice(self, text: str) -> None:
        """A yellow line above."""
        self._live.console.print(Text(text, style="yellow"), soft_wrap=True)

    def _print(self, line: str) -> None:
        self._live.console.print(Text(line), soft_wrap=True)

    def picture(self) -> Group:
        """The bars, the level and the status, of the last window."""
        window = self._window
        if window is None:
            return Group(Text("listening ...", style="dim"), Text(self.status))
        table = Table.grid(padding=(0, 2))
        # Of many labels the likeliest; the others would scroll away.
        best = sorted(range(len(window.smoothed)), key=lambda i: -window.smoothed[i])[:MAX_BARS]
        for i in sorted(best):
            table.add_row(*self._row(self._decision.columns[i], float(window.smoothed[i])))
        share = 1 - window.level_db / LOWEST_DB
        heard = "" if window.is_scored else "not scored"
        level = Text(self._bar(share, None), style="cyan")
        table.add_row(Text("level"), level, Text(f"{window.level_db:.0f} dBFS  {heard}"))
        return Group(table, Text(self.status, style="dim"))

    def _row(self, name: str, score: float) -> tuple[Text, Text, Text]:
        shown = Text(f"{score:.2f}")
        if self._decision.output in _NUMBERS:
            return Text(name), Text(""), shown
        style = "bold green" if name in self._lasting else ""
        if name not in self._thresholds:
            style = "dim"
        bar = Text(self._bar(score, self._thresholds.get(name)), style=style)
        return Text(name, style=style), bar, shown

    def _bar(self, share: float, mark: float | None) -> str:
        # A terminal without Unicode cannot show blocks.
        signs = "█┃·" if self._console.encoding.lower().startswith("utf") else "#|."
        return draw_bar(share, mark, signs)


def draw_bar(share: float, mark: float | None, signs: str = "#|.", width: int = BAR_WIDTH) -> str:
    """A bar filled up to `share`, with a mark, as text.

    >>> draw_bar(0.3, 0.5, width=10)
    '###..|....'
    """
    full, line, empty = list(signs)
    filled = round(width * min(1.0, max(0.0, share)))
    cells = [full] * filled + [empty] * (width - filled)
    if mark is not None:
        cells[min(width - 1, int(width * mark))] = line
    return "".join(cells)


def event_line(event: Event) -> str:
    """One line about an event that has begun or ended."""
    end = "   ..." if event.end_seconds is None else f"{event.end_seconds:10.2f}"
    return f"{event.start_seconds:10.2f} - {end.rjust(10)} s  {event.label}  {event.score:.2f}"


def choose_view(
    decision: Decision, thresholds: dict[str, float], console: Console, *, as_json: bool
) -> Lines:
    """The view that fits where the output goes; use it as a context manager."""
    if as_json:
        return JsonLines(decision)
    if console.is_terminal:
        return Picture(decision, thresholds, console)
    return Lines(decision)

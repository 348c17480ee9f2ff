"""The command that listens: to a microphone, a pipe or a long recording."""

import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from deepspectrumlite.errors import AudioError
from deepspectrumlite.terminal import Threads, library, out, progress

if TYPE_CHECKING:
    from deepspectrumlite.microphone import Microphone
    from deepspectrumlite.predict import Recogniser
    from deepspectrumlite.sources import Block
    from deepspectrumlite.stream import Event, StreamingClassifier
    from deepspectrumlite.stream_settings import StreamSettings


def stream(
    model: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE", help="An exported file, a run or a model folder.", show_default=False
        ),
    ] = None,
    recording: Annotated[
        Path | None, typer.Argument(help="A recording of any length.", show_default=False)
    ] = None,
    mic: Annotated[bool, typer.Option("--mic", help="Listen to the microphone.")] = False,
    stdin: Annotated[
        bool, typer.Option("--stdin", help="Read samples without a header from a pipe.")
    ] = False,
    settings: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="How scores become events, as JSON.  \\[default: what FILE holds]",
            show_default=False,
        ),
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Of all labels, instead of those of the settings.")
    ] = None,
    hop: Annotated[float | None, typer.Option(help="Seconds from one window to the next.")] = None,
    rate: Annotated[
        int | None, typer.Option(help="Of --stdin, in Hz.  \\[default: that of the model]")
    ] = None,
    channels: Annotated[int, typer.Option(help="Of --stdin.")] = 1,
    encoding: Annotated[
        str, typer.Option("--format", help="Of --stdin: s16le or f32le.")
    ] = "s16le",
    device: Annotated[
        str | None, typer.Option(help="Of --mic: its number, or a part of its name.")
    ] = None,
    list_devices: Annotated[
        bool, typer.Option("--list-devices", help="Show which microphones there are.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print events as JSON Lines, as they happen.")
    ] = False,
    threads: Threads = 1,
) -> None:
    """Recognise in a stream: say when an event begins and ends, until Ctrl-C.

    Example: [bold]deepspectrumlite stream model.tflite --mic[/bold]

    Example: [bold]arecord -t raw -f S16_LE -r 16000 | deepspectrumlite stream model.tflite \
--stdin[/bold]
    """
    if list_devices:
        with library("mic"):
            from deepspectrumlite.microphone import list_microphones

            typer.echo("\n".join(list_microphones()) or "no microphone")
        return
    if model is None or mic + stdin + (recording is not None) != 1:
        raise typer.BadParameter("needed: FILE, and one of --mic, --stdin or a recording")
    if not stdin and (rate is not None or channels != 1 or encoding != "s16le"):
        raise typer.BadParameter("--rate, --channels and --format belong to --stdin")
    if device is not None and not mic:
        raise typer.BadParameter("--device belongs to --mic")
    with library():
        from deepspectrumlite.predict import open_recogniser

        recogniser = open_recogniser(model, threads=threads)
        chosen = _settings(model, recogniser, settings, threshold)
        if hop is not None:
            chosen = replace(chosen, hop_seconds=hop)
        with _open_source(recogniser, recording, mic, device, (rate, encoding, channels)) as source:
            was_stopped = _listen(recogniser, chosen, source, as_json)
    # To stop is how listening ends; but a part of a recording is not what was asked for.
    if was_stopped and recording is not None:
        raise typer.Exit(130)


def evaluate_events(
    model: Path,
    manifest: Path,
    *,
    settings: Path | None,
    false_alarms: float | None,
    collar: float,
    folder: Path | None,
    threads: int,
    device: str,
) -> None:
    """The body of ``evaluate --stream``: find the events of long recordings, and tell how well."""
    from deepspectrumlite.detection import evaluate_stream
    from deepspectrumlite.predict import open_recogniser

    recogniser = open_recogniser(model, threads=threads, device=device)
    beside = model.with_name(f"{model.stem}-stream")
    folder = folder or (beside if model.is_file() else model / "stream")
    with progress() as tell:
        report = evaluate_stream(
            recogniser,
            manifest,
            _settings(model, recogniser, settings),
            false_alarms_per_hour=false_alarms,
            collar_seconds=collar,
            out=folder,
            progress=tell,
        )
    out.print(_event_table(report))
    if false_alarms is not None and report["hours"] * false_alarms < 1:
        typer.echo(
            f"{report['hours']:.2f} h of recordings cannot tell {false_alarms:g} false alarms an "
            "hour: less than one is to be expected; give longer recordings",
            err=True,
        )
    if report["notice"]:
        typer.echo(report["notice"], err=True)
    written = sorted(path.name for path in folder.iterdir() if path.is_file())
    typer.echo(f"Written to {folder}: {', '.join(written)}")


def _event_table(report: dict[str, Any]) -> Table:
    title = f"{report['hours']:.2f} h, {report['recordings']} recordings"
    table = Table(title=title)
    for name in ("label", "threshold", "events", "missed", "false alarms / h", "latency"):
        table.add_column(name, justify="left" if name == "label" else "right")
    for label, row in {**report["labels"], "all": report["overall"]}.items():
        threshold = "" if "threshold" not in row else f"{row['threshold']:.2f}"
        threshold += " (not reached)" if row.get("reached") is False else ""
        missed = "-" if row["miss_rate"] is None else f"{100 * row['miss_rate']:.1f} %"
        latency = row["latency_median_seconds"]
        table.add_row(
            escape(label),
            threshold,
            str(row["events"]),
            missed,
            f"{row['false_alarms_per_hour']:.2f}",
            "-" if latency is None else f"{latency:.2f} s",
        )
    return table


@dataclass(frozen=True)
class _Source:
    sample_rate: int
    blocks: Iterable["Block"]
    microphone: "Microphone | None" = None


def _settings(
    model: Path, recogniser: "Recogniser", path: Path | None, threshold: float | None = None
) -> "StreamSettings":
    from deepspectrumlite.stream_settings import StreamSettings, own_settings, read_settings

    if path is not None:
        found = read_settings(path)
    elif model.is_dir():
        found = own_settings(model) or StreamSettings()
    else:
        found = StreamSettings.from_json(getattr(recogniser, "stream", None) or {})
    return found if threshold is None else replace(found, threshold=threshold, thresholds={})


@contextmanager
def _open_source(
    recogniser: "Recogniser",
    recording: Path | None,
    mic: bool,
    device: str | None,
    pcm: tuple[int | None, str, int],
) -> Iterator[_Source]:
    from deepspectrumlite import sources

    model_rate = recogniser.cutting.sample_rate
    if recording is not None:
        yield _Source(model_rate, sources.recording(recording, model_rate))
    elif mic:
        from deepspectrumlite.microphone import microphone

        place = int(device) if device is not None and device.isdecimal() else device
        with microphone(device=place) as found:
            yield _Source(found.sample_rate, found.blocks(), found)
    else:
        if sys.stdin is None:
            raise AudioError("--stdin: the standard input is closed; give it samples with a pipe")
        given, encoding, channels = pcm
        rate = model_rate if given is None else given
        blocks = sources.raw_pcm(sys.stdin.buffer, rate, encoding=encoding, channels=channels)
        yield _Source(rate, blocks)


def _listen(
    recogniser: "Recogniser", settings: "StreamSettings", source: _Source, as_json: bool
) -> bool:
    """Show what is recognised until the source ends; returns whether it was stopped before.

    Raises:
        AudioError: the source is damaged; what was heard before is shown
    """
    from deepspectrumlite.stream import StreamingClassifier
    from deepspectrumlite.stream_view import choose_view

    thresholds = settings.label_thresholds(recogniser.decision)
    view = choose_view(recogniser.decision, thresholds, out, as_json=as_json)
    classifier = StreamingClassifier(
        recogniser, settings, sample_rate=source.sample_rate, on_window=view.window
    )
    work = _Work(classifier, source)
    was_stopped, damage = False, None
    with _quiet_pipe():
        with view:
            try:
                for block in source.blocks:
                    if block.notice:
                        view.notice(f"{classifier.seconds:.2f} s: {block.notice}")
                    view.events(work.push(block))
                    view.status = work.status()
            except KeyboardInterrupt:
                was_stopped = True
            except AudioError as error:
                if not classifier.seconds:
                    raise
                damage = error
            view.events(work.finish())
        typer.echo(work.summary(), err=True)
    if damage is not None:
        raise damage
    return was_stopped


class _Work:
    """Pushes blocks, and knows how long that took and what it gave."""

    def __init__(self, classifier: "StreamingClassifier", source: _Source) -> None:
        self._classifier, self._source = classifier, source
        self._busy_seconds = 0.0
        self._counts: Counter[str] = Counter()

    def push(self, block: "Block") -> "list[Event]":
        began = time.perf_counter()
        events = self._classifier.push_gap(block.lost) + self._classifier.push(block.samples)
        return self._count(events, began)

    def finish(self) -> "list[Event]":
        began = time.perf_counter()
        return self._count(self._classifier.finish(), began)

    def _count(self, events: "list[Event]", began: float) -> "list[Event]":
        self._busy_seconds += time.perf_counter() - began
        self._counts.update(event.label for event in events if event.end_seconds is None)
        return events

    def status(self) -> str:
        """One line while it runs."""
        seconds = self._classifier.seconds
        clock = f"{int(seconds // 3600)}:{int(seconds // 60 % 60):02}:{seconds % 60:04.1f}"
        return f"{clock}{self._factor('   ')}{self._problems()}"

    def summary(self) -> str:
        """One line at the end."""
        by_label = ", ".join(f"{number} {label}" for label, number in self._counts.most_common())
        events = f"{self._counts.total()} events{f' ({by_label})' if by_label else ''}"
        return (
            f"{events} in {self._classifier.seconds:.2f} s, {self._classifier.num_windows} "
            f"windows{self._factor('; ')}{self._problems()}"
        )

    def _factor(self, before: str) -> str:
        seconds = self._classifier.seconds
        return f"{before}real-time factor {self._busy_seconds / seconds:.3f}" if seconds else ""

    def _problems(self) -> str:
        lost, bad = self._classifier.num_lost_samples, self._classifier.num_bad_samples
        microphone = self._source.microphone
        found = [f"{lost / self._source.sample_rate:.2f} s lost"] if lost else []
        found += [f"{bad} samples were NaN or infinite"] if bad else []
        if microphone is not None:
            found.append(f"{microphone.num_overruns} over-runs")
        return "".join(f"; {each}" for each in found)


@contextmanager
def _quiet_pipe() -> Iterator[None]:
    """The reader of our output may leave, as `head` does; that is no error."""
    try:
        yield
    except BrokenPipeError:
        # Python would flush into the broken pipe at its end, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

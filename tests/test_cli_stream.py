"""The command that listens: its sources, what it prints, and how it ends."""

import io
import json
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import typer
from helpers import save
from rich.console import Console
from stream_helpers import RATE, Loudness
from typer.testing import CliRunner

from deepspectrumlite.cli_stream import evaluate_events, stream
from deepspectrumlite.decisions import Decision
from deepspectrumlite.errors import AudioError, ModelError
from deepspectrumlite.postprocess import Event
from deepspectrumlite.sources import Block
from deepspectrumlite.stream import Window
from deepspectrumlite.stream_view import JsonLines, Picture, choose_view, draw_bar

app = typer.Typer()
app.command()(stream)
ONLY_LOUD = {"ignore": ["quiet"], "hysteresis": 0.0}


@pytest.fixture
def recogniser(monkeypatch):
    """The fake that FILE opens, which carries settings."""
    found = Loudness(stream=ONLY_LOUD)
    monkeypatch.setattr("deepspectrumlite.predict.open_recogniser", lambda path, **options: found)
    return found


def loud_for_a_second():
    """(3000,): loud from 1 to 2 s."""
    samples = np.zeros(3000, np.float32)
    samples[1000:2000] = 1 - 2**-15
    return samples


THRESHOLD = ["--threshold", "0.7"]  # so that three quarters of a window have to be loud


def call(*arguments, **options):
    return CliRunner().invoke(app, list(map(str, arguments)), **options)


def events_of(stdout):
    rows = [json.loads(line) for line in stdout.splitlines()]
    return [(row["event"], row["start"], row["end"], row["announced"]) for row in rows]


@pytest.fixture
def path(tmp_path):
    return save(tmp_path / "loud.wav", loud_for_a_second(), RATE)


WANTED = [("start", 1.05, None, 1.3), ("end", 1.05, 1.95, 1.3)]


def test_a_recording_as_json_lines(recogniser, path):
    found = call("model.tflite", path, "--json", *THRESHOLD)
    assert found.exit_code == 0
    assert events_of(found.stdout) == WANTED
    row = json.loads(found.stdout.splitlines()[1])
    assert (row["label"], row["score"]) == ("loud", pytest.approx(1, abs=1e-3))
    assert found.stderr.startswith("1 events (1 loud) in 3.00 s, 27 windows; real-time factor 0.")


def test_a_recording_as_lines(recogniser, path):
    found = call("model.tflite", path, *THRESHOLD)
    assert found.stdout.splitlines() == [
        "      1.05 -        ... s  loud  0.75",
        "      1.05 -       1.95 s  loud  1.00",
    ]


@pytest.mark.parametrize("encoding", ["s16le", "f32le"])
def test_samples_from_a_pipe(recogniser, encoding):
    scale, kind = {"s16le": (2**15, "<i2"), "f32le": (1, "<f4")}[encoding]
    # At twice the rate, in two channels.
    data = np.repeat(loud_for_a_second() * scale, 4).astype(kind).tobytes()
    options = ("--rate", 2 * RATE, "--channels", 2, "--format", encoding, "--json", *THRESHOLD)
    found = call("model.tflite", "--stdin", *options, input=data + b"x")
    assert events_of(found.stdout) == WANTED
    assert "1 bytes at the end are less than a frame" in found.stderr


def test_settings_of_the_file_are_replaced_by_those_given(recogniser, path, tmp_path):
    settings = tmp_path / "stream.json"
    settings.write_text(json.dumps({**ONLY_LOUD, "min_duration_seconds": 5}))
    assert call("m", path, "--json", "--settings", settings).stdout == ""
    found = call("m", path, "--json", "--hop", "0.4", *THRESHOLD)
    # Windows at 0.8, 1.2, 1.6 s, of which the middle one alone is all loud.
    assert events_of(found.stdout) == [("start", 1.2, None, 1.6), ("end", 1.2, 2.0, 1.6)]


def test_numbers_are_printed_for_each_window(recogniser, path):
    recogniser.decision, recogniser.stream = Decision("linear", ["power"]), {"gate_db": -60}
    rows = [json.loads(line) for line in call("m", path, "--json").stdout.splitlines()]
    assert len(rows) == 27
    assert rows[0] == {"event": "values", "start": 0.0, "end": 0.4, "values": {"power": None}}
    assert rows[12]["values"]["power"] == pytest.approx(1, abs=1e-3)
    lines = call("m", path).stdout.splitlines()
    assert lines[12] == "      1.20 s  power 1.000"


class Microphone:
    """Loud after a gap, until somebody presses Ctrl-C."""

    sample_rate, num_overruns = RATE, 2

    def __init__(self, device=None):
        self.device, self.is_closed = device, False

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.is_closed = True

    def blocks(self):
        yield Block(np.zeros((100, 1), np.float32))
        yield Block(loud_for_a_second()[1000:, None], lost=900, notice="too slow")
        raise KeyboardInterrupt


def test_a_microphone_until_it_is_stopped(recogniser, monkeypatch):
    opened = []
    monkeypatch.setattr(
        "deepspectrumlite.microphone.microphone",
        lambda device: opened.append(Microphone(device)) or opened[0],
    )
    found = call("m", "--mic", "--device", "3", "--json", *THRESHOLD)
    assert found.exit_code == 0
    assert events_of(found.stdout) == WANTED
    assert (opened[0].device, opened[0].is_closed) == (3, True)
    notice, summary = found.stderr.splitlines()
    assert notice == "0.10 s: too slow"
    assert summary.endswith("; 0.90 s lost; 2 over-runs")
    assert "in 3.00 s, 27 windows" in summary


def test_a_recording_that_is_stopped_is_not_done(recogniser, path, monkeypatch):
    def stopped(*args):
        yield Block(np.zeros(10, np.float32))
        raise KeyboardInterrupt

    monkeypatch.setattr("deepspectrumlite.sources.recording", stopped)
    found = call("m", path)
    assert found.exit_code == 130
    assert "in 0.01 s, 1 windows" in found.stderr


def test_microphones_are_listed(monkeypatch):
    monkeypatch.setattr("deepspectrumlite.microphone.list_microphones", lambda: ["1  mic"])
    assert call("--list-devices").stdout == "1  mic\n"
    monkeypatch.setattr("deepspectrumlite.microphone.list_microphones", list)
    assert call("--list-devices").stdout == "no microphone\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "needed: FILE, and one of --mic, --stdin or a recording"),
        (("m",), "needed: FILE, and one of"),
        (("m", "--mic", "--stdin"), "needed: FILE, and one of"),
        (("m", "a.wav", "--stdin"), "needed: FILE, and one of"),
        (("--mic",), "needed: FILE, and one of"),
        (("m", "a.wav", "--rate", "8000"), "belong to --stdin"),
        (("m", "--mic", "--channels", "2"), "belong to --stdin"),
        (("m", "--stdin", "--device", "1"), "--device belongs to --mic"),
        (("m", "a.wav", "--threads", "0"), "--threads"),
        (("m", "a.wav", "--threads", "257"), "256"),
    ],
)
def test_bad_usage(recogniser, arguments, message):
    found = call(*arguments, env={"COLUMNS": "200"})
    assert found.exit_code == 2
    assert message in found.stderr


def test_errors_of_the_user_are_told_as_such(recogniser, path, tmp_path):
    found = call("m", path, "--settings", tmp_path / "none.json")
    assert isinstance(found.exception, ModelError)
    assert "none.json: cannot be read as stream settings" in str(found.exception)
    assert isinstance(call("m", path, "--threshold", "7").exception, ModelError)
    assert isinstance(call("m", tmp_path / "none.wav").exception, AudioError)
    assert isinstance(call("m", "--stdin", "--format", "mp3").exception, AudioError)


@pytest.mark.parametrize("damage", ["cut", "zeroed"])
def test_what_was_heard_of_a_damaged_recording_is_shown(recogniser, tmp_path, monkeypatch, damage):
    monkeypatch.setattr("deepspectrumlite.audio.BLOCK_SAMPLES", 1000)
    samples = np.random.default_rng(0).uniform(-1, 1, 60 * RATE).astype(np.float32)
    path = save(tmp_path / "loud.flac", np.where(np.arange(len(samples)) < RATE, 0, samples), RATE)
    data, half = path.read_bytes(), path.stat().st_size // 2
    rest = b"" if damage == "cut" else bytes(5000) + data[half + 5000 :]
    path.write_bytes(data[:half] + rest)
    found = call("m", path, "--json", "--threshold", 0.2)
    (start, begin, none, _), (end, same, until, _) = events_of(found.stdout)
    assert (start, none, end) == ("start", None, "end")
    assert begin == same == pytest.approx(1, abs=0.2)
    assert 20 < until < 32
    assert found.stderr.startswith("1 events (1 loud) in ")
    assert isinstance(found.exception, AudioError)
    assert "truncated or damaged" in str(found.exception)


def test_a_recording_of_which_nothing_was_heard_has_no_summary(recogniser, tmp_path):
    found = call("m", tmp_path / "none.wav")
    assert isinstance(found.exception, AudioError)
    assert (found.stdout, found.stderr) == ("", "")


def test_an_evaluation_without_a_picture_says_why(recogniser, path, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    manifest = tmp_path / "events.csv"
    manifest.write_text(f"path,start,end,label\n{path},1,2,loud\n")
    evaluate_events(
        Path("m"),
        manifest,
        settings=None,
        false_alarms=None,
        collar=0.5,
        folder=tmp_path / "out",
        threads=1,
        device="auto",
    )
    printed = capsys.readouterr()
    assert "no curve.png: Drawing a plot needs the package 'matplotlib'" in printed.err
    assert printed.out.endswith(": curve.csv, detection.json, events.csv, stream.json\n")


def test_nothing_has_no_real_time_factor(recogniser):
    assert call("m", "--stdin", input=b"").stderr == "0 events in 0.00 s, 0 windows\n"


LISTEN = """
    import sys
    sys.path.insert(0, {tests!r})
    from stream_helpers import Loudness
    from deepspectrumlite import cli, predict
    found = Loudness(stream={{"ignore": ["quiet"]}})
    predict.open_recogniser = lambda path, **options: found
    cli.main()
"""


def start(*arguments, launcher=()):
    """The command in a process of its own, with real pipes."""
    code = textwrap.dedent(LISTEN.format(tests=str(Path(__file__).parent)))
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    command = [*launcher, sys.executable, "-c", code, "stream", "m", *arguments]
    return subprocess.Popen(command, **pipes)


def test_events_leave_the_pipe_at_once_and_ctrl_c_gives_a_summary():
    process = start("--stdin", "--json", "--format", "f32le")
    process.stdin.write(loud_for_a_second()[:1300].tobytes() + b"abc")
    process.stdin.flush()
    # The pipe is still open: this line was not kept for a full buffer.
    assert json.loads(process.stdout.readline())["event"] == "start"
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0
    assert json.loads(out)["event"] == "end"
    # The pipe may have been closed before the signal came; that is told in a line before.
    assert err.decode().splitlines()[-1].startswith("1 events (1 loud) in 1.30 s, ")
    assert "Traceback" not in err.decode()


def test_a_closed_input_is_one_line():
    process = start("--stdin", launcher=("sh", "-c", 'exec "$@" <&-', "sh"))
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (1, b"")
    assert err.decode() == (
        "Error: --stdin: the standard input is closed; give it samples with a pipe\n"
    )


def test_a_reader_that_leaves_is_no_error():
    process = start("--stdin", "--json", "--format", "f32le")
    process.stdout.close()
    samples = np.tile(loud_for_a_second(), 3).tobytes()
    try:
        process.stdin.write(samples)
        process.stdin.close()
    except BrokenPipeError:
        pass
    assert process.wait(timeout=20) == 0
    assert process.stderr.read() == b""


def terminal(width=90, encoding="utf-8"):
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    return Console(force_terminal=True, file=file, width=width, color_system=None)


def window(*smoothed, level_db=-30.0, is_scored=True):
    scores = np.array(smoothed)
    return Window(0.0, 0.4, level_db, is_scored, scores, scores)


def drawn(picture, console):
    with console.capture() as captured:
        console.print(picture.picture())
    return [line.rstrip() for line in captured.get().splitlines()]


def test_the_picture_shows_bars_thresholds_level_and_status():
    console = terminal()
    picture = Picture(Decision("softmax", ["dog [a]", "noise"]), {"dog [a]": 0.5}, console)
    assert drawn(picture, console)[0] == "listening ..."
    picture.status = "0:00:01.0   real-time factor 0.010"
    picture.window(window(0.25, 0.75))
    assert drawn(picture, console) == [
        "dog [a]  " + "█" * 10 + "·" * 10 + "┃" + "·" * 19 + "  0.25",
        "noise    " + "█" * 30 + "·" * 10 + "  0.75",
        "level    " + "█" * 30 + "·" * 10 + "  -30 dBFS",
        "0:00:01.0   real-time factor 0.010",
    ]
    picture.window(window(0.25, 0.75, level_db=-120.0, is_scored=False))
    assert drawn(picture, console)[2].endswith("·" * 40 + "  -120 dBFS  not scored")


def test_the_picture_keeps_to_the_likeliest_labels_and_to_ascii():
    console = terminal(encoding="ascii")
    labels = [f"label{i}" for i in range(30)]
    picture = Picture(Decision("sigmoid", labels, [0.5] * 30), {}, console)
    picture.window(window(*np.linspace(0, 1, 30)))
    lines = drawn(picture, console)
    assert [line.split()[0] for line in lines[:-2]] == labels[-12:]
    assert lines[11].split()[1] == "#" * 40


def test_events_stay_above_the_picture():
    console = terminal()
    picture = Picture(Decision("softmax", ["dog", "noise"]), {"dog": 0.5}, console)
    with picture:
        picture.events([Event("dog", 1.0, None, 0.9, 2.0)])
        picture.notice("1.00 s: too slow")
        picture.events([Event("dog", 1.0, 3.5, 0.95, 2.0)])
    console.file.flush()
    written = console.file.buffer.getvalue().decode()
    assert "      1.00 -        ... s  dog  0.90" in written
    assert "1.00 s: too slow" in written
    assert "      1.00 -       3.50 s  dog  0.95" in written


def test_the_view_fits_where_the_output_goes():
    decision = Decision("softmax", ["dog", "noise"])
    plain = Console(file=io.StringIO())
    assert isinstance(choose_view(decision, {}, terminal(), as_json=False), Picture)
    assert not isinstance(choose_view(decision, {}, plain, as_json=False), Picture | JsonLines)
    assert isinstance(choose_view(decision, {}, terminal(), as_json=True), JsonLines)


@pytest.mark.parametrize(
    ("share", "mark", "wanted"),
    [(0, None, "...."), (1, None, "####"), (-1, 0.0, "|..."), (7, 1.0, "###|"), (0.5, 0.5, "##|.")],
)
def test_bars(share, mark, wanted):
    assert draw_bar(share, mark, width=4) == wanted

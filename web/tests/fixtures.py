"""Writes what the page is tested against: a site of a tiny model, recordings, and Python's results.

``python fixtures.py FOLDER`` needs the package with its training and export extras, and the page
already built. What Python finds in the recordings comes from :class:`Predictor`; resampled
references from soxr.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import soundfile
import soxr

from deepspectrumlite.config import ExportOptions, load_recipe
from deepspectrumlite.decisions import Decision
from deepspectrumlite.export import export_model
from deepspectrumlite.postprocess import PostProcessor, Span
from deepspectrumlite.predict import predict_waveform
from deepspectrumlite.runs import train_run
from deepspectrumlite.runtime import Predictor
from deepspectrumlite.stream import StreamingClassifier, Window
from deepspectrumlite.stream_settings import StreamSettings
from deepspectrumlite.web import write_site

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from conftest import LEARNING, TINY_TOML, TONE_LABELS, TONE_RATE, make_tone, write_rows

MIC_RATE = 48000
CUTTING = ("sample_rate", "segment_samples", "hop_samples", "padding", "tail")
SWEEPS = ((48000, 16000), (44100, 16000), (48000, 8000), (16000, 44100))


def main(folder: Path) -> None:
    """All of it, into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    model = make_model(folder)
    write_site(model, folder / "site", title="Tones", overwrite=True)
    predictor = Predictor(model)
    write_recordings(folder, predictor)
    found = {
        "recordings": score_recordings(folder, predictor),
        "events": list(post_processing()),
        "streams": list(lost_sound(predictor)),
        "images": write_images(folder, predictor),
        "decisions": list(decisions()),
        "sweeps": [write_sweep(folder, *rates) for rates in SWEEPS],
    }
    (folder / "expected.json").write_text(json.dumps(found))


def make_model(folder: Path) -> Path:
    """A model that tells high, low and noise apart, with the image that its network sees."""
    model = folder / "tones.tflite"
    if model.exists():
        return model
    rows = []
    for label in TONE_LABELS:
        for split, count in (("train", 5), ("devel", 2)):
            for i in range(count):
                name = f"{label}-{split}-{i}.wav"
                soundfile.write(folder / name, make_tone(label, len(rows)), TONE_RATE)
                rows.append({"path": name, "label": label, "split": split})
    recipe = folder / "tiny.toml"
    recipe.write_text(TINY_TOML, encoding="utf-8")
    manifest = write_rows(folder / "labels.csv", rows)
    train_run(load_recipe(recipe, LEARNING), manifest, folder / "run")
    export_model(folder / "run", model, ExportOptions(image=True))
    return model


def write_recordings(folder: Path, predictor: Predictor) -> None:
    """Recordings of all kinds, good and bad, and some for the fake microphone."""
    hertz = undecided(predictor)
    soundfile.write(folder / "mixed.wav", make_sine(hertz, TONE_RATE), TONE_RATE)
    soundfile.write(folder / "mixed-microphone.wav", make_sine(hertz, MIC_RATE), MIC_RATE)
    for label in TONE_LABELS:
        soundfile.write(folder / f"{label}.wav", make_tone(label, 77, 2.3), TONE_RATE)
        wave = make_tone(label, 77, 20.0, MIC_RATE)
        if label == "noise":
            wave = soxr.resample(make_tone(label, 77, 20.0), TONE_RATE, MIC_RATE)
        soundfile.write(folder / f"{label}-microphone.wav", wave, MIC_RATE)
    stereo = np.stack([make_tone("low", 5, 3.1), make_tone("high", 6, 3.1)], axis=1)
    soundfile.write(folder / "stereo24.wav", stereo, TONE_RATE, subtype="PCM_24")
    short = make_tone("low", 8, 0.2)
    soundfile.write(folder / "float.wav", short, TONE_RATE, subtype="FLOAT")
    soundfile.write(folder / "double.wav", short, TONE_RATE, subtype="DOUBLE")
    soundfile.write(folder / "bytes.wav", short, TONE_RATE, subtype="PCM_U8")
    soundfile.write(folder / "long32.wav", short, TONE_RATE, subtype="PCM_32")
    soundfile.write(folder / "extensible.wav", stereo, TONE_RATE, format="WAVEX", subtype="PCM_24")
    soundfile.write(folder / "high.ogg", make_tone("high", 9, 1.9), TONE_RATE)
    soundfile.write(folder / "high.flac", make_tone("high", 9, 1.9), TONE_RATE)
    soundfile.write(folder / "high44.wav", make_tone("high", 9, 1.9, 44100), 44100)
    (folder / "text.wav").write_text("This is no recording.\n" * 100)
    write_long(folder / "long.wav", hours=8)


def undecided(predictor: Predictor) -> float:
    """The tone, in Hz, of which the model is least sure: its scores are far from 0 and 1."""
    candidates = np.arange(600.0, 1600.0, 50.0)
    highest = [
        predict_waveform(predictor, make_sine(hertz, TONE_RATE)).scores.max()
        for hertz in candidates
    ]
    return float(candidates[int(np.argmin(highest))])


def make_sine(hertz: float, rate: int) -> np.ndarray:
    """(20 * rate,): half of full scale."""
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(20 * rate) / rate)).astype(np.float32)


def write_long(path: Path, hours: float) -> None:
    """A WAV that is all hole, but for its header."""
    soundfile.write(path, np.zeros(1, np.int16), TONE_RATE)
    size = round(hours * 3600) * TONE_RATE * 2
    with path.open("r+b") as file:
        file.seek(40)
        file.write(size.to_bytes(4, "little"))
        file.truncate(44 + size)


def score_recordings(folder: Path, predictor: Predictor) -> dict:
    """What :class:`Predictor` finds in each."""
    names = [f"{label}.wav" for label in (*TONE_LABELS, "mixed")]
    names += ["stereo24.wav", "float.wav", "high.flac", "high44.wav"]
    names += ["double.wav", "bytes.wav", "long32.wav", "extensible.wav", "high.ogg"]
    names += [f"{label}-microphone.wav" for label in (*TONE_LABELS, "mixed")]
    found = {}
    for name in names:
        prediction = predictor.predict(folder / name)
        found[name] = {
            "label": prediction.label,
            "scores": prediction.scores.tolist(),
            "segments": prediction.segment_scores.tolist(),
            "starts": prediction.segment_starts.tolist(),
            "ends": prediction.segment_ends.tolist(),
        }
    return found


def post_processing():
    """Scores of windows, settings, and what Python makes of them."""
    rng = np.random.default_rng(4)
    decision = Decision("softmax", ["a", "b", "c"])
    several = Decision("sigmoid", ["a", "b", "c"], thresholds=[0.4, 0.5, 0.3])
    unknown = Decision("softmax", ["a", "b", "c"], unknown="energy")
    cases = [
        (decision, StreamSettings()),
        (decision, StreamSettings(smoothing="mean", smoothing_seconds=0.75, only_strongest=True)),
        (decision, StreamSettings(smoothing="mean", smoothing_seconds=0.625, hysteresis=0.3)),
        (several, StreamSettings(smoothing="ema", smoothing_seconds=0.4, refractory_seconds=0.9)),
        (several, StreamSettings(min_duration_seconds=0.6, ignore=["b"], thresholds={"a": 0.6})),
        (unknown, StreamSettings(smoothing="ema", threshold=0.35, only_strongest=True)),
    ]
    for decision, settings in cases:
        n_columns = len(decision.columns)
        # Scores that stay for a while, as those of windows that overlap do.
        steps = rng.dirichlet(np.ones(n_columns) / 2, 60).repeat(rng.integers(1, 6, 60), axis=0)
        scores = steps[:150] if decision.output == "softmax" else rng.random((150, n_columns))
        yield run_post_processing(decision, settings, scores)


def run_post_processing(decision: Decision, settings: StreamSettings, scores: np.ndarray) -> dict:
    """The events of (n_windows, n_columns), with all that went in."""
    rate, hop, size = 8000, 2000, 4000
    post = PostProcessor(settings, decision, hop, rate)
    smoothed, events = [], []
    for i, row in enumerate(scores):
        begin = i * hop + (size - hop) // 2
        row_smoothed, found = post.step(Span(begin, begin + hop, i * hop + size), row)
        smoothed.append(row_smoothed.tolist())
        events += map(asdict, found)
    events += map(asdict, post.finish())
    return {
        "decision": asdict(decision),
        "settings": resolve(settings, decision, hop, rate),
        "hop": hop,
        "rate": rate,
        "size": size,
        "scores": scores.tolist(),
        "smoothed": smoothed,
        "events": events,
    }


def resolve(settings: StreamSettings, decision: Decision, hop: int, rate: int) -> dict:
    """As `model.json` has them: all filled in."""
    thresholds = {"thresholds": settings.label_thresholds(decision), "threshold": 0.5}
    return settings.to_json() | thresholds | {"hop_seconds": hop / rate, "hop_samples": hop}


class Certain:
    """Always gives the same scores, so that only what was not scored makes a difference."""

    def __init__(self, predictor: Predictor) -> None:
        self.cutting, self.decision = predictor.cutting, predictor.decision

    def score(self, segments: np.ndarray) -> np.ndarray:
        """(n_segments, segment_samples) -> (n_segments, n_columns)."""
        return np.tile(np.float32([0.875, 0.125, 0.0]), (len(segments), 1))


def lost_sound(predictor: Predictor):
    """Pieces of sound and of lost sound (below 0), and what Python makes of each window."""
    rng = np.random.default_rng(6)
    recogniser = Certain(predictor)
    settings = StreamSettings(hop_seconds=0.125, smoothing="mean", smoothing_seconds=0.375)
    hop, model_rate = settings.hop_samples(recogniser.cutting), recogniser.cutting.sample_rate
    for rate in (model_rate, 48000, 44100):
        # Gaps that hold no window, just one, several; one at the start, and two that touch.
        seconds = [-0.9, 1.3, -0.3, 0.2, -0.5, 1.0, -0.4, -0.7, 0.1, -2.0, 2.0, -0.625, 1.5]
        pieces = [round(each * rate) + int(rng.integers(-3, 4)) for each in seconds]
        windows: list[Window] = []
        stream = StreamingClassifier(
            recogniser, settings, sample_rate=rate, on_window=windows.append
        )
        for piece in pieces:
            if piece < 0:
                stream.push_gap(-piece)
            else:
                stream.push(rng.uniform(-0.5, 0.5, piece).astype(np.float32))
        yield {
            "rate": rate,
            "pieces": pieces,
            "cutting": {name: getattr(recogniser.cutting, name) for name in CUTTING},
            "decision": asdict(recogniser.decision),
            "settings": resolve(settings, recogniser.decision, hop, model_rate),
            "windows": [
                {
                    "span": asdict(window.span),
                    "isScored": window.is_scored,
                    "smoothed": window.smoothed.tolist(),
                    "events": [asdict(event) for event in window.events],
                }
                for window in windows
            ],
        }


def write_images(folder: Path, predictor: Predictor) -> dict:
    """What the network sees of the whole segments of a recording: (n, 3, height, width)."""
    waveform, _ = soundfile.read(folder / "high.wav", dtype="float32")
    size = predictor.cutting.segment_samples
    n_segments = len(waveform) // size
    images = np.stack(
        [predictor.image(each) for each in waveform[: n_segments * size].reshape(-1, size)]
    )
    images.astype(np.float32).tofile(folder / "images.f32")
    return {"recording": "high.wav", "file": "images.f32", "shape": images.shape}


def decisions():
    """Scores and what Python answers."""
    rng = np.random.default_rng(5)
    labels = ["a", "b", "c"]
    for decision in (
        Decision("softmax", labels),
        Decision("softmax", labels, conformal=0.3),
        Decision("softmax", labels, unknown="score", unknown_below=0.5),
        Decision("softmax", labels, unknown="energy"),
        Decision("sigmoid", labels, thresholds=[0.2, 0.5, 0.8]),
        Decision("linear", ["x", "y"]),
        Decision("ordinal", labels, values=[0, 1, 4]),
    ):
        for scores in rng.random((20, len(decision.columns))).round(2):
            scores = 5 * scores if decision.output == "ordinal" else scores
            has_set = decision.output == "softmax" and decision.conformal is not None
            yield {
                "decision": asdict(decision),
                "columns": decision.columns,
                "scores": scores.tolist(),
                "answer": decision.answer(scores),
                "set": decision.prediction_set(scores) if has_set else None,
            }


def write_sweep(folder: Path, rate: int, new_rate: int) -> dict:
    """A sine from 20 Hz to the highest that the rate holds, and what soxr makes of it."""
    seconds = 4
    time = np.arange(seconds * rate) / rate
    top = rate / 2
    sweep = 0.5 * np.sin(2 * np.pi * (20 * time + (top - 20) * time**2 / (2 * seconds)))
    sweep = sweep.astype(np.float32)
    names = [f"sweep-{rate}-{new_rate}.{kind}.f32" for kind in ("in", "soxr")]
    sweep.tofile(folder / names[0])
    soxr.resample(sweep, rate, new_rate, quality="HQ").astype(np.float32).tofile(folder / names[1])
    return {"rate": rate, "newRate": new_rate, "top": top, "seconds": seconds, "files": names}


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""The recordings that went most wrong: what each is, what the model said, and what spoke for it."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from markupsafe import Markup

from deepspectrumlite.audio import load_audio
from deepspectrumlite.data import Segments, scan
from deepspectrumlite.errors import AudioError
from deepspectrumlite.model import TorchRecogniser
from deepspectrumlite.progress import Progress, silent
from deepspectrumlite.report_facts import Facts
from deepspectrumlite.report_plots import Explainer, audio_uri, segment_picture

LONGEST_AUDIO = 30.0  # seconds
BATCH = 32  # segments that are scored at a time


@dataclass(frozen=True)
class Mistake:
    """A recording that went wrong: what it is, what the model said, and why."""

    name: str
    truth: str
    answer: str
    picture: Markup | None = None
    explanation: str | None = None
    explanation_words: str = ""
    audio: str | None = None
    audio_words: str = ""
    problem: str | None = None


def find_mistakes(
    facts: Facts,
    worst: int,
    explainer: Explainer | None = None,
    *,
    audio: bool = True,
    progress: Progress = silent,
) -> list[Mistake]:
    """The recordings that went most wrong, the worst first.

    Args:
        facts: of the run
        worst: how many at most; fewer where fewer went wrong
        explainer: shows what spoke for and against; None: the spectrogram alone
        audio: with what can be listened to
        progress: told of every recording

    Returns:
        one each; where a recording cannot be read any more, its ``problem`` and no picture
    """
    losses, columns = worst_outputs(facts)
    order = np.argsort(-losses, kind="stable")
    chosen = [int(i) for i in order if losses[i] > 0][:worst]
    found = []
    for done, i in enumerate(chosen):
        progress("reading what went wrong", done, len(chosen))
        try:
            found.append(_mistake(facts, i, int(columns[i]), explainer, audio))
        except AudioError as error:
            path = str(facts.predictions["path"].iloc[i])
            # The page may go elsewhere: no folders of this machine.
            reason = str(error).replace(path, Path(path).name).removesuffix("; or pass --skip-bad")
            found.append(Mistake(*_texts(facts, i), problem=reason))
    return found


def worst_outputs(facts: Facts) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """How wrong each file is, and in which output it is most so: (n_files,), (n_files,).

    Of one label: the score of the answer where that is wrong, else 0; what was refused as unknown
    is no wrong answer. Of several: the summed
    cross-entropy, and its largest part. Of numbers: the largest absolute error, in units of the
    number's deviation in training.
    """
    target, scores = facts.target, facts.predicted
    if facts.output == "softmax":
        answer = scores.argmax(axis=1)
        given = facts.predictions["predicted"].isin(facts.model.labels)
        wrong = (target[np.arange(len(target)), answer] < 0.5) & given.to_numpy()
        return np.where(wrong, scores.max(axis=1), 0.0), answer
    if facts.output == "sigmoid":
        likely = np.where(target > 0.5, scores, 1 - scores).clip(1e-12)
        loss = -np.log(likely)
        return loss.sum(axis=1), loss.argmax(axis=1)
    error = np.abs(target - scores) / facts.model.scale.cpu().numpy()
    return error.max(axis=1), error.argmax(axis=1)


def _texts(facts: Facts, i: int) -> tuple[str, str, str]:
    """Name, truth and answer of a file, in words."""
    row, decision = facts.predictions.iloc[i], facts.model.decision
    names, truth, scores = facts.output_names, facts.target[i], facts.predicted[i]
    name = _short_path(facts, row["path"])
    span = [f"{float(row[key]):g} s" for key in ("start", "end") if row.get(key)]
    name += f" ({' to '.join(span)})" if span else ""
    if facts.output == "softmax":
        ranked = np.argsort(-scores, kind="stable")[:3].tolist()
        return name, names[truth.argmax()], ", ".join(f"{names[k]} {scores[k]:.2f}" for k in ranked)
    if facts.output == "sigmoid":
        there = ", ".join(label for label, value in zip(names, truth, strict=True) if value > 0.5)
        present = decision.present(scores)
        ranked = [k for k in np.argsort(-scores, kind="stable").tolist() if present[k]]
        heard = ", ".join(f"{names[k]} {scores[k]:.2f}" for k in ranked)
        return name, there or "(no label)", heard or "(no label)"
    return name, _values(names, truth), _values(names, scores)


def _values(names: list[str], values: npt.NDArray[np.floating]) -> str:
    """Numbers by name; a single one needs none."""
    if len(names) == 1:
        return f"{values[0]:.3g}"
    return ", ".join(f"{name} {value:.3g}" for name, value in zip(names, values, strict=True))


def _short_path(facts: Facts, path: str) -> str:
    """Without the folders that all recordings have in common, which are those of this machine."""
    folders = {str(Path(each).parent) for each in facts.predictions["path"]}
    try:
        return os.path.relpath(path, os.path.commonpath(folders))
    except ValueError:  # on several drives
        return Path(path).name


def _mistake(
    facts: Facts, i: int, column: int, explainer: Explainer | None, audio: bool
) -> Mistake:
    name, truth, answer = _texts(facts, i)
    path = Path(facts.predictions["path"].iloc[i])
    offset, duration, starts, waveforms = _segments(facts, i)
    scores = _score(facts, waveforms)
    loss = scores[:, column]
    if facts.output in ("linear", "ordinal"):
        loss = np.abs(loss - facts.target[i, column])
    worst = int(loss.argmax())
    start = offset + float(starts[worst])
    end = min(start + waveforms.shape[1] / facts.recipe.data.sample_rate, offset + duration)
    words = f"Spectrogram of {name}, {start:.2f} to {end:.2f} s: true {truth}, answered {answer}."
    shown = Mistake(name, truth, answer)
    if audio:
        uri, about = audio_excerpt(facts, i, start)
        shown = replace(shown, audio=uri, audio_words=about)
    if explainer is None:
        return replace(shown, picture=segment_picture(facts.model, waveforms[worst], words))
    names = facts.output_names
    targets = [names[column]]
    if facts.output == "softmax":
        targets.append(names[facts.target[i].argmax()])
    uri = explainer.segment(path, waveforms[worst], (start, end), targets)
    about = f"{words} Beside it, what spoke for (red) and against (blue) {' and '.join(targets)}."
    return replace(shown, explanation=uri, explanation_words=about)


def _segments(
    facts: Facts, i: int
) -> tuple[float, float, npt.NDArray[np.float64], npt.NDArray[np.float32]]:
    """Where a file's span starts, how long it is, its segments' starts in it, and the segments."""
    rows = facts.predictions.iloc[[i]].reset_index(drop=True)
    for name in ("start", "end"):
        if name in rows:
            rows[name] = pd.to_numeric(rows[name], errors="coerce")
    rows.attrs = dict(facts.predictions.attrs)
    scanned, _ = scan(rows, facts.recipe.data)
    segments = Segments(scanned, facts.recipe.data, facts.target[[i]])
    waveforms = np.stack([segments[k][0] for k in range(len(segments))])
    offset = float(rows["start"].iloc[0]) if "start" in rows else 0.0
    return offset, float(scanned["duration"].iloc[0]), segments.start_seconds, waveforms


def _score(facts: Facts, waveforms: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(n_segments, num_samples) -> (n_segments, n_outputs)."""
    recogniser = TorchRecogniser(facts.model)
    parts = range(0, len(waveforms), BATCH)
    return np.concatenate([recogniser.score(waveforms[at : at + BATCH]) for at in parts])


def audio_excerpt(facts: Facts, i: int, start: float) -> tuple[str, str]:
    """A recording (of a long one a part that holds the time `start`) as a data URI, and which."""
    row, rate = facts.predictions.iloc[i], facts.recipe.data.sample_rate
    first, last = (float(row[key]) if row.get(key) else None for key in ("start", "end"))
    first = first or 0.0
    waveform = load_audio(Path(row["path"]), rate, start=first, end=last)
    skipped = 0
    if len(waveform) > LONGEST_AUDIO * rate:
        longest = round(LONGEST_AUDIO * rate)
        # With as much before as after the part that is shown.
        middle = round((start - first) * rate) + facts.recipe.data.segment_samples // 2
        skipped = int(np.clip(middle - longest // 2, 0, len(waveform) - longest))
        waveform = waveform[skipped : skipped + longest]
    begin = first + skipped / rate
    words = f"{begin:.1f} to {begin + len(waveform) / rate:.1f} s, mono, {rate} Hz"
    return audio_uri(waveform, rate), words

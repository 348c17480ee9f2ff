"""RAVDESS, Livingstone & Russo 2018: which emotion does a song show?

The owners (zenodo.org/record/1188976) hand out ``Audio_Song_Actors_01-24.zip``: a folder per actor
and in it ``03-02-05-01-02-01-12.wav``, which is audio only (03), song (02), the emotion (here
angry), its intensity (1 normal, 2 strong), one of two sentences, the repetition, and the actor (odd
numbers are men). 23 actors with 44 songs each make 1,012; actor 18 did not sing. Speech and video
beside the songs are left out. Not verified against the corpus.

There are no official splits. Ours, by actors, two women and two men each: devel 16, 17, 19 and 20,
test 21 to 24, train the others.
"""

import re
from pathlib import Path

import pandas as pd

from deepspectrumlite.audio import find_audio
from deepspectrumlite.config import DataSection
from deepspectrumlite.datasets.layout import compare_count, count_left_out, refuse
from deepspectrumlite.errors import ManifestError

EMOTIONS = {
    "01": "neutral",
    "02": "calm",
    "03": "happy",
    "04": "sad",
    "05": "angry",
    "06": "fearful",
}
N_FILES = 1012
DEVEL, TEST = (16, 17, 19, 20), (21, 22, 23, 24)
_SONG = re.compile(r"03-02-(\d\d)-(\d\d)-(\d\d)-(\d\d)-(\d\d)")


def read(folder: Path, data: DataSection) -> pd.DataFrame:
    """The songs in the folder and below, with ``gender`` (f, m), ``intensity`` and ``sentence``."""
    paths = find_audio(folder)
    songs = [(path, match) for path in paths if (match := _SONG.fullmatch(path.stem))]
    if not songs:
        allowed = "what Audio_Song_Actors_01-24.zip holds, Actor_01/03-02-01-01-01-01-01.wav, ..."
        refuse(folder, "RAVDESS", "no song in it", allowed)
    table = pd.DataFrame([_row(path, match) for path, match in songs])
    table = count_left_out(table, {"no song": len(paths) - len(songs)})
    return compare_count(table, len(table), N_FILES)


def _row(path: Path, match: re.Match[str]) -> dict[str, str]:
    emotion, intensity, sentence, _, actor = match.groups()
    if emotion not in EMOTIONS:
        raise ManifestError(
            f"{path}: emotion {emotion}; allowed: {', '.join(EMOTIONS)}, those of the songs; "
            "rename it, or move it elsewhere"
        )
    number = int(actor)
    return {
        "path": str(path.absolute()),
        "label": EMOTIONS[emotion],
        "split": "devel" if number in DEVEL else "test" if number in TEST else "train",
        "group": actor,
        "gender": "m" if number % 2 else "f",
        "intensity": str(int(intensity)),
        "sentence": str(int(sentence)),
    }

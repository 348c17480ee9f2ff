"""CREMA-D: 7,442 clips, 12 sentences, 6 emotions, 91 actors.

Layout, as the owners' README tells it (github.com/CheyneyComputerScience/CREMA-D; Cao et al. 2014,
doi 10.1109/TAFFC.2014.2336244)::

    AudioWAV/1001_DFA_ANG_XX.wav      16 kHz; actor, sentence, emotion, level (LO, MD, HI, XX)
    VideoDemographics.csv      ActorID, Age, Sex, Race, Ethnicity; not needed

The label is the emotion that the actor was told to show, not what the raters heard. There is no
official split: actors are the groups, and what draws splits keeps each in one; our choice.

Known of the corpus: 1040_ITH_SAD_X.wav is written with one X; 1076_MTI_SAD_XX.wav is silent, and
left out here. Without git-lfs a clone holds pointers instead of sound; this is refused.

Read from descriptions only; not run on the corpus itself.
"""

import re
from pathlib import Path

import pandas as pd

from deepspectrumlite.config import DataSection
from deepspectrumlite.datasets.layout import (
    compare_count,
    count_left_out,
    read_list,
    refuse,
    require,
)
from deepspectrumlite.errors import ManifestError

EMOTIONS = {
    "ANG": "anger",
    "DIS": "disgust",
    "FEA": "fear",
    "HAP": "happiness",
    "NEU": "neutral",
    "SAD": "sadness",
}
NAME = re.compile(r"(?P<actor>1\d{3})_(?P<sentence>[A-Z]{3})_(?P<emotion>[A-Z]{3})_(?P<level>\w+)")
SILENT = ("1076_MTI_SAD_XX",)
DEMOGRAPHICS = ("Age", "Sex", "Race", "Ethnicity")
# Of 7,442 all but the silent one.
N_FILES = 7441
POINTER = b"version https://git-lfs"


def read(folder: Path, data: DataSection) -> pd.DataFrame:
    """Columns path, label (the emotion), group (the actor), sentence, level; age, sex, ... if told.

    Raises:
        ManifestError: another layout, a name that is not made so, or pointers of git-lfs
    """
    require(folder, "CREMA-D", "AudioWAV")
    audio = (folder / "AudioWAV").absolute()
    paths = sorted(path for path in audio.iterdir() if path.suffix.lower() == ".wav")
    if not paths:
        refuse(folder, "CREMA-D", "no *.wav in AudioWAV", "AudioWAV/1001_DFA_ANG_XX.wav")
    _refuse_pointers(paths[0])
    rows = [_row(path, folder) for path in paths if path.stem not in SILENT]
    table = count_left_out(pd.DataFrame(rows, dtype=object), {"silent": len(paths) - len(rows)})
    table = compare_count(table, len(table), N_FILES)
    told = folder / "VideoDemographics.csv"
    if not told.is_file():
        return table
    actors = read_list(told, "CREMA-D", ("ActorID", *DEMOGRAPHICS)).set_index("ActorID")
    known = actors.reindex(table["group"])[list(DEMOGRAPHICS)].fillna("")
    return table.assign(**{name.lower(): known[name].to_numpy() for name in DEMOGRAPHICS})


def _row(path: Path, folder: Path) -> dict[str, str]:
    found = NAME.fullmatch(path.stem)
    if found is None or found["emotion"] not in EMOTIONS:
        refuse(
            folder,
            "CREMA-D",
            f"the name {path.name}",
            f"an actor, a sentence, one of {', '.join(EMOTIONS)}, and a level, as in "
            "1001_DFA_ANG_XX.wav",
        )
    return {
        "path": str(path),
        "label": EMOTIONS[found["emotion"]],
        "group": found["actor"],
        "sentence": found["sentence"],
        "level": "XX" if found["level"] == "X" else found["level"],
    }


def _refuse_pointers(path: Path) -> None:
    with path.open("rb") as file:
        if file.read(len(POINTER)) == POINTER:
            raise ManifestError(
                f"{path}: a pointer of git-lfs, not sound; allowed: recordings; install git-lfs "
                "and run in the clone: git lfs pull --include 'AudioWAV/*'"
            )

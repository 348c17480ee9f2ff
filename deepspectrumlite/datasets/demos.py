"""DEMoS, Parada-Cabaleiro et al. 2020: which emotion does Italian speech show?

The owners' notes (zenodo.org/record/2544829) and public code (github.com/felixbur/nkululeko,
data/demos/process_database.py; github.com/Strong-AI-Lab/emotion, datasets/DEMoS/process.py)
describe ``wav_DEMoS`` with ``DEMOS/PR_f_01_rab01a.wav``: PR for prototypical samples or NP for
others, the speaker's gender and number, the emotion by three letters, and a number. Neutral ones
(folder ``NEU``; ``neu`` for the emotion) are none of the seven classes and left out. Not verified
against the corpus.

The paper's splits are not known to us. Ours, by the speaker's number: devel where it leaves 3 when
divided by 5, test where it leaves 4, else train.
"""

import re
from pathlib import Path

import pandas as pd

from deepspectrumlite.audio import find_audio
from deepspectrumlite.config import DataSection
from deepspectrumlite.datasets.layout import compare_count, count_left_out, refuse
from deepspectrumlite.errors import ManifestError

EMOTIONS = {
    "col": "guilt",
    "dis": "disgust",
    "gio": "happiness",
    "pau": "fear",
    "rab": "anger",
    "sor": "surprise",
    "tri": "sadness",
}
# Without the neutral ones, as the paper counts them.
N_FILES = 9365
SPLITS = ("train", "train", "train", "devel", "test")
_NAME = re.compile(r"(pr|np)_([fm])_(\d+)_(" + "|".join(EMOTIONS) + r")\w*", re.IGNORECASE)


def read(folder: Path, data: DataSection) -> pd.DataFrame:
    """The recordings in the folder and below, with ``gender`` and ``prototypical`` (yes, no)."""
    paths = find_audio(folder)
    rows = [_row(path) for path in paths if not _is_neutral(path)]
    if not rows:
        refuse(folder, "DEMoS", "no emotional recording in it", "names like PR_f_01_rab01a.wav")
    table = count_left_out(pd.DataFrame(rows), {"neutral": len(paths) - len(rows)})
    return compare_count(table, len(table), N_FILES)


def _is_neutral(path: Path) -> bool:
    return path.stem.lower().rpartition("_")[2].startswith("neu")


def _row(path: Path) -> dict[str, str]:
    match = _NAME.fullmatch(path.stem)
    if match is None:
        raise ManifestError(
            f"{path}: not a name of DEMoS; needed: PR or NP, f or m, the speaker's number and one "
            f"of {', '.join(EMOTIONS)}, as in PR_f_01_rab01a.wav; move it elsewhere"
        )
    return {
        "path": str(path.absolute()),
        "label": EMOTIONS[match[4].lower()],
        "split": SPLITS[int(match[3]) % len(SPLITS)],
        "group": match[3],
        "gender": match[2].lower(),
        "prototypical": "yes" if match[1].lower() == "pr" else "no",
    }

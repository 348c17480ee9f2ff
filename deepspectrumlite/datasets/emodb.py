"""EmoDB, the Berlin Database of Emotional Speech: 535 utterances, 7 emotions, 10 speakers.

Layout, as the owners tell it (Burkhardt et al. 2005, "A Database of German Emotional Speech";
http://emodb.bilderbar.info/docu, "Additional information")::

    wav/03a01Fa.wav      16 kHz; speaker 03, text a01, emotion F (Freude), version a

The corpus has no split. Leave one speaker out with ``crossvalidate --folds groups``; a plain
``train`` draws one with whole speakers, our choice. The same corpus from audEERING's collection is
an audformat database: read that one with ``data.corpus = "audformat"``.

Read from descriptions only; not run on the corpus itself.
"""

import re
from pathlib import Path

import pandas as pd

from deepspectrumlite.config import DataSection
from deepspectrumlite.datasets.layout import compare_count, refuse

# The letter stands for the German word: Wut, Langeweile, Ekel, Angst, Freude, Trauer, neutral.
EMOTIONS = {
    "W": "anger",
    "L": "boredom",
    "E": "disgust",
    "A": "fear",
    "F": "happiness",
    "T": "sadness",
    "N": "neutral",
}
GENDERS = {
    **dict.fromkeys(("03", "10", "11", "12", "15"), "male"),
    **dict.fromkeys(("08", "09", "13", "14", "16"), "female"),
}
N_FILES = 535
NAME = re.compile(r"(?P<speaker>\d\d)(?P<text>[ab]\d\d)(?P<emotion>[WLEAFTN])(?P<version>[a-z]?)")


def read(folder: Path, data: DataSection) -> pd.DataFrame:
    """Columns path, label (the emotion), group (the speaker), gender, text, version.

    Args:
        folder: with the recordings in ``wav``, or in itself
        data: not needed

    Raises:
        ManifestError: another layout, or a name that is not made so
    """
    inner = folder / "wav" if (folder / "wav").is_dir() else folder
    paths = sorted(p for p in inner.absolute().iterdir() if p.suffix.lower() == ".wav")
    if not paths:
        refuse(folder, "EmoDB", "no *.wav in it", "wav/03a01Fa.wav")
    table = pd.DataFrame([_row(path, folder) for path in paths], dtype=object)
    return compare_count(table, len(table), N_FILES)


def _row(path: Path, folder: Path) -> dict[str, str]:
    found = NAME.fullmatch(path.stem)
    if found is None or found["speaker"] not in GENDERS:
        refuse(
            folder,
            "EmoDB",
            f"the name {path.name}",
            f"a speaker ({', '.join(sorted(GENDERS))}), a text like a01, one of the letters "
            f"{''.join(EMOTIONS)}, and a version like a, as in 03a01Fa.wav",
        )
    return {
        "path": str(path),
        "label": EMOTIONS[found["emotion"]],
        "group": found["speaker"],
        "gender": GENDERS[found["speaker"]],
        "text": found["text"],
        "version": found["version"],
    }

"""Speech Commands, version 2: 105,829 words of 1 s, 35 classes, with the owners' own splits.

Layout, as the README in the archive and the paper tell it (Warden 2018, arXiv:1804.03209)::

    {word}/{speaker}_nohash_{n}.wav      16 kHz, mono, a second or less
    validation_list.txt, testing_list.txt      a "word/name.wav" in each line; all others: train
    _background_noise_/*.wav      about a minute each; no class

``data.target`` chooses what is learned: "label", the 35 words; or "command", 12 classes: the ten
words of Warden's section 7, "unknown" for the 25 others, and "silence", seconds of the background
noise. How much silence and which of the noise is devel and test is our choice; the owners' archive
for testing 12 classes is another one, so figures do not compare with it.

Read from descriptions only; not run on the corpus itself.
"""

import re
from pathlib import Path

import pandas as pd

from deepspectrumlite.config import DataSection
from deepspectrumlite.datasets.layout import check_there, compare_count, refuse, require

N_FILES = 105_829
COMMANDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
NOISE = "_background_noise_"
LISTS = {"validation_list.txt": "devel", "testing_list.txt": "test"}
# Whole files, so that no noise is both learned and tested; all others are train.
NOISE_SPLITS = {"exercise_bike.wav": "devel", "running_tap.wav": "test"}


def read(folder: Path, data: DataSection) -> pd.DataFrame:
    """Columns path, label (the word), command, split, group (the speaker).

    With ``data.target`` "command" also start and end, in seconds, of each piece of silence.

    Raises:
        ManifestError: another layout, or listed recordings are missing
    """
    require(folder, "Speech Commands", *LISTS)
    root = folder.absolute()
    splits = {
        str(root / line.strip()): split
        for name, split in LISTS.items()
        for line in (root / name).read_text(encoding="utf-8").splitlines()
        if line.strip()
    }
    words = [path for path in sorted(root.glob("*/*.wav")) if path.parent.name != NOISE]
    if not words:
        refuse(folder, "Speech Commands", "no WORD/*.wav in it", "a folder for each word")
    check_there(folder, " and ".join(LISTS), sorted(set(splits) - set(map(str, words))))
    table = pd.DataFrame(
        {
            "path": [str(path) for path in words],
            "label": [path.parent.name for path in words],
            "split": [splits.get(str(path), "train") for path in words],
            "group": [re.sub(r"_nohash_.*$", "", path.stem) for path in words],
        },
        dtype=object,
    )
    table["command"] = table["label"].where(table["label"].isin(COMMANDS), "unknown")
    if "command" in data.targets:
        table = pd.concat([table, _silence(root)], ignore_index=True)
    return compare_count(table, len(words), N_FILES)


def _silence(root: Path) -> pd.DataFrame:
    """A row for each whole second of background noise."""
    # Imported here, as only this needs to open a recording.
    import soundfile

    rows = [
        {
            "path": str(path),
            "label": "silence",
            "command": "silence",
            "split": NOISE_SPLITS.get(path.name, "train"),
            "group": path.stem,
            "start": float(second),
            "end": float(second + 1),
        }
        for path in sorted((root / NOISE).glob("*.wav"))
        for second in range(int(soundfile.info(str(path)).duration))
    ]
    if not rows:
        refuse(root, "Speech Commands", f"no {NOISE}/*.wav in it", "recordings of silence there")
    return pd.DataFrame(rows)

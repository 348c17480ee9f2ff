"""IEMOCAP, Busso et al. 2008: which of four emotions does acted dialogue show?

The full release of USC's SAIL laboratory, as public readers describe it: in ``Session1`` to
``Session5``, ``dialog/EmoEvaluation/Ses01F_impro01.txt`` has a line per turn, ``[6.2901 - 8.2357]
Ses01F_impro01_F000 neu [2.5000, 2.5000, 2.5000]`` with tabs between, and ``sentences/wav/`` a
folder per dialogue with a file per turn. The last F or M is the gender of who speaks; the first
is of who wears the markers. Not verified against the corpus.

Excited counts as happy, which makes 5,531 turns of four classes; turns with other emotions, or
without agreement, are left out. The paper's splits are not known to us. Ours, with no speaker in
two: sessions 1 to 3 train, 4 devel, 5 test.
"""

import re
from pathlib import Path

import pandas as pd

from deepspectrumlite.config import DataSection
from deepspectrumlite.datasets.layout import refuse
from deepspectrumlite.datasets.listed import find_listed
from deepspectrumlite.errors import ManifestError

EMOTIONS = {"ang": "angry", "hap": "happy", "exc": "happy", "neu": "neutral", "sad": "sad"}
OTHERS = ("fru", "fea", "sur", "dis", "oth", "xxx")
SPLITS = {"1": "train", "2": "train", "3": "train", "4": "devel", "5": "test"}
_TURN = re.compile(r"\[[\d.]+\s*-\s*[\d.]+\]\s+(Ses0([1-5])[FM]_\w+_([FM])\w+)\s+(\w+)\s+\[.*\]")


def read(folder: Path, data: DataSection) -> pd.DataFrame:
    """The turns of the four emotions, with ``session`` and ``gender`` (f, m)."""
    root = next((p for p in (folder, folder / "IEMOCAP_full_release") if _sessions(p)), None)
    if root is None:
        refuse(
            folder,
            "IEMOCAP",
            "no Session1 to Session5 in it, nor in IEMOCAP_full_release",
            "Session1/dialog/EmoEvaluation/*.txt and Session1/sentences/wav, ...",
        )
    return pd.concat([_read_session(session) for session in _sessions(root)], ignore_index=True)


def _sessions(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob("Session[1-5]")) if path.is_dir()]


def _read_session(session: Path) -> pd.DataFrame:
    evaluations = session / "dialog" / "EmoEvaluation"
    texts = [path for path in sorted(evaluations.glob("*.txt")) if not path.name.startswith(".")]
    rows = [row for text in texts for row in _read_turns(text)]
    if not rows:
        refuse(
            evaluations,
            "IEMOCAP",
            "no turn of the four emotions in its texts",
            "lines like [6.2901 - 8.2357] Ses01F_impro01_F000 neu [2.5, 2.5, 2.5]",
        )
    table = pd.DataFrame(rows)
    paths = find_listed(session / "sentences" / "wav", table.pop("turn").tolist())
    table.insert(0, "path", paths)
    return table


def _read_turns(text: Path) -> list[dict[str, str]]:
    """Without turns of other emotions."""
    rows = []
    for line in text.read_text(encoding="utf-8-sig", errors="replace").splitlines():
        match = _TURN.fullmatch(line.strip())
        if match is None:
            continue
        turn, session, gender, emotion = match.groups()
        if emotion not in (*EMOTIONS, *OTHERS):
            raise ManifestError(
                f"{text}: emotion {emotion!r} of {turn}; allowed: {', '.join(EMOTIONS)}, and to be "
                f"left out {', '.join(OTHERS)}; mend the line"
            )
        if emotion in EMOTIONS:
            rows.append(
                {
                    "turn": turn,
                    "label": EMOTIONS[emotion],
                    "split": SPLITS[session],
                    "group": f"Ses0{session}{gender}",
                    "session": session,
                    "gender": gender.lower(),
                }
            )
    return rows

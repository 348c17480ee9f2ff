"""IEMOCAP, Busso et al. 2008: which of four emotions does acted dialogue show?

The full release of USC's SAIL laboratory, as public code reads it (github.com/felixbur/nkululeko,
data/iemocap/process_database.py): in ``Session1`` to ``Session5``,
``dialog/EmoEvaluation/Ses01F_impro01.txt`` has a line per turn, ``[6.2901 - 8.2357]
Ses01F_impro01_F000 neu [2.5000, 2.5000, 2.5000]`` with tabs between, and ``sentences/wav/`` a
folder per dialogue with a file per turn. The last F or M is the gender of who speaks; the first
is of who wears the markers (from memory of the field). Not verified against the corpus.

Excited counts as happy, which makes 5,531 turns of four classes; turns with other emotions, or
without agreement, are left out. The paper's splits are not known to us. Ours, with no speaker in
two: sessions 1 to 3 train, 4 devel, 5 test. All five are needed.
"""

import re
from collections import Counter
from pathlib import Path

import pandas as pd

from deepspectrumlite.config import DataSection
from deepspectrumlite.datasets.layout import compare_count, count_left_out, refuse
from deepspectrumlite.datasets.listed import find_listed
from deepspectrumlite.errors import ManifestError

EMOTIONS = {"ang": "angry", "hap": "happy", "exc": "happy", "neu": "neutral", "sad": "sad"}
OTHERS = ("fru", "fea", "sur", "dis", "oth", "xxx")
SPLITS = {"1": "train", "2": "train", "3": "train", "4": "devel", "5": "test"}
N_FILES = 5531
_TURN = re.compile(r"\[[\d.]+\s*-\s*[\d.]+\]\s+(Ses0([1-5])[FM]_\w+_([FM])\w+)\s+(\w+)\s+\[.*\]")


def read(folder: Path, data: DataSection) -> pd.DataFrame:
    """The turns of the four emotions, with ``session`` and ``gender`` (f, m); others are counted.

    Raises:
        ManifestError: a session is missing, or laid out otherwise
    """
    inner = folder / "IEMOCAP_full_release"
    root = inner if inner.is_dir() else folder
    sessions = [root / f"Session{number}" for number in SPLITS]
    missing = [session.name for session in sessions if not session.is_dir()]
    if missing:
        refuse(
            folder,
            "IEMOCAP",
            f"no {', '.join(missing)} in {root.name}",
            "Session1 to Session5, in it or in IEMOCAP_full_release, with "
            "dialog/EmoEvaluation/*.txt and sentences/wav",
        )
    others = Counter[str]()
    parts = [_read_session(session, others) for session in sessions]
    table = count_left_out(pd.concat(parts, ignore_index=True), dict(sorted(others.items())))
    return compare_count(table, len(table), N_FILES)


def _read_session(session: Path, others: Counter[str]) -> pd.DataFrame:
    evaluations = session / "dialog" / "EmoEvaluation"
    texts = [path for path in sorted(evaluations.glob("*.txt")) if not path.name.startswith(".")]
    rows = [row for text in texts for row in _read_turns(text, others)]
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


def _read_turns(text: Path, others: Counter[str]) -> list[dict[str, str]]:
    """Without turns of other emotions, which are added to those counted."""
    rows = []
    for line in text.read_text(encoding="utf-8-sig", errors="replace").splitlines():
        match = _TURN.fullmatch(line.strip())
        if match is None:
            _refuse_broken(text, line)
            continue
        turn, session, gender, emotion = match.groups()
        if emotion not in (*EMOTIONS, *OTHERS):
            raise ManifestError(
                f"{text}: emotion {emotion!r} of {turn}; allowed: {', '.join(EMOTIONS)}, and to be "
                f"left out {', '.join(OTHERS)}; mend the line"
            )
        if emotion in OTHERS:
            others[f"emotion {emotion}"] += 1
        else:
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


def _refuse_broken(text: Path, line: str) -> None:
    """Other lines, of comments and of single raters, begin otherwise than a turn."""
    if line.lstrip().startswith("["):
        raise ManifestError(
            f"{text}: the line {line.strip()!r} begins like a turn and is none; allowed: "
            "[6.2901 - 8.2357] Ses01F_impro01_F000 neu [2.5, 2.5, 2.5]; mend it, or unpack the "
            "corpus again"
        )

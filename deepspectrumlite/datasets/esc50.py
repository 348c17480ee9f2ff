"""ESC-50: 2,000 clips of 5 s, 50 classes of environmental sound, in five folds.

Layout, as the owner's README tells it (github.com/karolpiczak/ESC-50, version 2.0.0)::

    audio/{fold}-{clip}-{take}-{target}.wav      44.1 kHz, mono
    meta/esc50.csv      filename, fold, target, category, esc10, src_file, take

The README says that fragments of one source recording lie in one fold; the column ``group`` is that
source, so that this is checked. Results are to be given over the five folds
(``--folds column:fold``), so there is no ``split``: a plain ``train`` draws one, our choice.

Read from descriptions only; not run on the corpus itself.
"""

from pathlib import Path

import pandas as pd

from deepspectrumlite.config import DataSection
from deepspectrumlite.datasets.layout import check_there, compare_count, read_list, require

COLUMNS = ("filename", "fold", "target", "category", "esc10", "src_file")
N_FILES = 2000


def read(folder: Path, data: DataSection) -> pd.DataFrame:
    """Columns path, label (the category), group (the source), fold, and those of meta/esc50.csv.

    Raises:
        ManifestError: another layout, or recordings are missing
    """
    require(folder, "ESC-50", "meta/esc50.csv", "audio")
    listed = read_list(folder / "meta" / "esc50.csv", "ESC-50", COLUMNS)
    audio = folder.absolute() / "audio"
    table = listed.assign(
        path=[str(audio / name) for name in listed["filename"]],
        label=listed["category"],
        group=listed["src_file"],
    )
    check_there(folder, "meta/esc50.csv", table["path"])
    table = table.drop(columns=["filename", "category", "src_file"])
    return compare_count(table, len(table), N_FILES)

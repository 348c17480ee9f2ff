"""ESS: how far has a conflict escalated? The Escalation Sub-Challenge of ComParE 2021.

Layout: see :mod:`deepspectrumlite.datasets.compare_challenge`; the scripts of its branch ESS read
``dist/lab/train.csv`` (``filename,label``) and say that 0 is low, 1 medium and 2 high. From memory
of the field there are transcripts in ``dist/text``; they are not used. Not verified against the
corpus.
"""

from pathlib import Path

import pandas as pd

from deepspectrumlite.config import DataSection
from deepspectrumlite.datasets.compare_challenge import Package, name_labels, read_package

PACKAGE = Package("ComParE2021_ESS", ("train.csv", "devel.csv", "test.csv"), 914)
LABELS = {"0": "low", "1": "medium", "2": "high"}


def read(folder: Path, data: DataSection) -> pd.DataFrame:
    """The recordings of the folder; the splits are those of the challenge."""
    return name_labels(read_package(folder, PACKAGE), LABELS)

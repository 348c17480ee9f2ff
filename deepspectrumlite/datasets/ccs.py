"""CCS: has who coughs COVID-19? The COVID-19 Cough Sub-Challenge of ComParE 2021.

Layout and labels: see :mod:`deepspectrumlite.datasets.compare_challenge`; the scripts of its branch
CCS read ``dist/lab/train.csv`` (``filename,label``) and name the classes. Of the later release by
the University of Cambridge, public code (seen in a search, which does not tell its repository)
reads ``ComParE2021_CCS/dist/wav`` and, two folders above, ``metaData_CCS.csv`` with the columns
``filename`` and ``label``: where a label of the test split is hidden, it is taken from there. Not
verified against the corpus.
"""

from pathlib import Path

import pandas as pd

from deepspectrumlite.config import DataSection
from deepspectrumlite.datasets.compare_challenge import Package, name_labels, read_package

PACKAGE = Package(
    "ComParE2021_CCS", ("train.csv", "devel.csv", "test.csv"), 725, "metaData_CCS.csv"
)
LABELS = {"negative": "negative", "positive": "positive"}


def read(folder: Path, data: DataSection) -> pd.DataFrame:
    """The recordings of the folder; the splits are those of the challenge."""
    return name_labels(read_package(folder, PACKAGE), LABELS)

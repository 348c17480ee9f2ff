"""CSS: has who speaks COVID-19? The COVID-19 Speech Sub-Challenge of ComParE 2021.

Layout and labels: see :mod:`deepspectrumlite.datasets.compare_challenge`; the scripts of its branch
CSS read ``dist/lab/train.csv`` (``filename,label``) and name the classes. Where a label of the test
split is hidden, it is taken from ``metaData_CSS.csv``, named by the pattern of ``metaData_CCS.csv``
in the University of Cambridge's later release (see :mod:`deepspectrumlite.datasets.ccs`). Not
verified against the corpus.
"""

from pathlib import Path

import pandas as pd

from deepspectrumlite.config import DataSection
from deepspectrumlite.datasets.compare_challenge import Package, name_labels, read_package

PACKAGE = Package(
    "ComParE2021_CSS", ("train.csv", "devel.csv", "test.csv"), 893, "metaData_CSS.csv"
)
LABELS = {"negative": "negative", "positive": "positive"}


def read(folder: Path, data: DataSection) -> pd.DataFrame:
    """The recordings of the folder; the splits are those of the challenge."""
    return name_labels(read_package(folder, PACKAGE), LABELS)

"""MPSSC, Janott et al. 2018: where does a snore of the Munich-Passau Snore Sound Corpus arise?

Handed out for the Snoring Sub-Challenge of ComParE 2017. Layout: see
:mod:`deepspectrumlite.datasets.compare_challenge`; public code for the package (``Snore_dist``;
github.com/vespero89/Snoring_Challenge, utils/dataset_manupulation.py, Supervectors/gridsearch.py)
reads ``lab/ComParE2017_Snore.tsv``: a header, the file in the first column and V, O, T or E in the
second. Other code (seen in a search, which does not tell its repository) reads labels of the test
split in ``lab/ComParE2017_Snore_test.tsv``, by the column ``file_name``. Not verified against the
corpus.
"""

from pathlib import Path

import pandas as pd

from deepspectrumlite.config import DataSection
from deepspectrumlite.datasets.compare_challenge import Package, name_labels, read_package

PACKAGE = Package("Snore_dist", ("ComParE2017_Snore.tsv",), 828, "ComParE2017_Snore_test.tsv")
# At the velum, the oropharyngeal walls, the tongue, the epiglottis.
LABELS = {"V": "V", "O": "O", "T": "T", "E": "E"}


def read(folder: Path, data: DataSection) -> pd.DataFrame:
    """The recordings of the folder; the splits are those of the challenge, by subjects."""
    return name_labels(read_package(folder, PACKAGE), LABELS)

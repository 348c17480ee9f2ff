"""MPSSC, Janott et al. 2018: where does a snore of the Munich-Passau Snore Sound Corpus arise?

Handed out for the Snoring Sub-Challenge of ComParE 2017. Layout: see
:mod:`deepspectrumlite.datasets.compare_challenge`; public readers of the package (``Snore_dist``)
find ``lab/ComParE2017_Snore.tsv`` with the file in the first column and V, O, T or E in the second,
and where the organisers gave them out, the labels of the test split in
``lab/ComParE2017_Snore_test.tsv``. That the file's column is called ``file_name`` is known from the
package of the same year's Cold Sub-Challenge. Not verified against the corpus.
"""

from pathlib import Path

import pandas as pd

from deepspectrumlite.config import DataSection
from deepspectrumlite.datasets.compare_challenge import Package, name_labels, read_package

PACKAGE = Package("Snore_dist", ("ComParE2017_Snore.tsv",), "ComParE2017_Snore_test.tsv")
# At the velum, the oropharyngeal walls, the tongue, the epiglottis.
LABELS = {"V": "V", "O": "O", "T": "T", "E": "E"}


def read(folder: Path, data: DataSection) -> pd.DataFrame:
    """The recordings of the folder; the splits are those of the challenge, by subjects."""
    return name_labels(read_package(folder, PACKAGE), LABELS)

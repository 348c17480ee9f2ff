"""SLEEP: is who speaks sleepy? The Continuous Sleepiness Sub-Challenge of ComParE 2019.

Layout: see :mod:`deepspectrumlite.datasets.compare_challenge`; public code (seen in a search, which
does not tell its repository) names ``ComParE2019_ContinuousSleepiness/lab/labels.csv``. From memory
of the field its columns are ``file_name,label``, the label the Karolinska Sleepiness Scale, 1
(extremely alert) to 9 (fighting sleep). Not verified against the corpus.

The paper learns two classes and we could not find where it draws the border. Ours is that of the
Sleepiness Sub-Challenge of 2011 (Schuller et al., Interspeech 2011): sleepy above 7.5.
"""

from pathlib import Path

import pandas as pd

from deepspectrumlite.config import DataSection
from deepspectrumlite.datasets.compare_challenge import Package, name_labels, read_package

PACKAGE = Package("ComParE2019_ContinuousSleepiness", ("labels.csv",), 16_462)
BORDER = 7.5
LABELS = {str(kss): "sleepy" if kss > BORDER else "not sleepy" for kss in range(1, 10)}


def read(folder: Path, data: DataSection) -> pd.DataFrame:
    """The recordings of the folder, with the scale in ``kss``; the splits are the challenge's."""
    table = read_package(folder, PACKAGE)
    return name_labels(table.assign(kss=table["label"]), LABELS)

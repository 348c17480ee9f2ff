"""From the scores of a model to an answer: a label, several labels, or numbers. numpy only."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[Any]

# What is said of a recording that is none of the labels, and the name of its score.
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Decision:
    """What the scores of one model mean.

    ``output`` is that of the recipe's ``[model]``. ``labels`` are the classes, or for "linear" the
    names of the numbers. ``thresholds`` belong to "sigmoid", one per label, and ``values`` to
    "ordinal", the number of each label, from low to high. The rest belongs to "softmax":
    ``unknown`` is what a recording is refused by, "none", "score" (its highest is below
    ``unknown_below``) or "energy" (the model gives a score more, which is at least one half);
    ``conformal`` is the lowest score of a label in a prediction set, None: there are no sets.
    """

    output: str
    labels: list[str]
    thresholds: Sequence[float] = ()
    values: Sequence[float] = ()
    unknown: str = "none"
    unknown_below: float = 0.0
    conformal: float | None = None

    @property
    def columns(self) -> list[str]:
        """Names of the scores: (n_columns,), the labels and at times :data:`UNKNOWN`."""
        if self.output == "ordinal":
            return ["value"]
        return [*self.labels, UNKNOWN] if self.unknown == "energy" else self.labels

    def known(self, scores: Scores) -> Scores:
        """(..., n_columns) -> (..., n_outputs): without the score of being unknown."""
        return scores[..., : len(self.labels)] if self.unknown == "energy" else scores

    def present(self, scores: Scores) -> npt.NDArray[np.bool_]:
        """(..., n_labels) -> the same, for "sigmoid": whether each label is there."""
        return scores >= np.asarray(self.thresholds)

    def classes(self, scores: Scores) -> npt.NDArray[np.int64]:
        """(..., n_columns) -> (...,), for "softmax" and "ordinal": indices of the labels.

        They are those of the likeliest labels, refused or not.

        >>> Decision("ordinal", ["low", "mid", "high"], values=[0, 1, 2]).classes(
        ...     np.array([[0.4], [7.0]])
        ... ).tolist()
        [0, 2]
        """
        if self.output == "ordinal":
            scores = -np.abs(scores - np.asarray(self.values))
        return np.asarray(self.known(scores).argmax(axis=-1), dtype=np.int64)

    def refused(self, scores: Scores) -> npt.NDArray[np.bool_]:
        """(..., n_columns) -> (...,): whether it is none of the labels.

        >>> Decision("softmax", ["dog", "cat"], unknown="score", unknown_below=0.7).refused(
        ...     np.array([[0.8, 0.2], [0.4, 0.6]])
        ... ).tolist()
        [False, True]
        """
        if self.unknown == "energy":
            return np.asarray(scores[..., -1] >= 0.5)
        if self.unknown == "score":
            return np.asarray(scores.max(axis=-1) < self.unknown_below)
        return np.zeros(scores.shape[:-1], bool)

    def in_set(self, scores: Scores) -> npt.NDArray[np.bool_]:
        """(..., n_columns) -> (..., n_labels), for "softmax": whether each label is in the set.

        Without sets, each is.
        """
        lowest = 0.0 if self.conformal is None else self.conformal
        return np.asarray(self.known(scores) >= lowest)

    def prediction_set(self, scores: Scores) -> list[str]:
        """(n_columns,) -> the labels that are likely enough, the likeliest first; can be none.

        >>> Decision("softmax", ["a", "b", "c"], conformal=0.2).prediction_set(
        ...     np.array([0.3, 0.1, 0.6])
        ... )
        ['c', 'a']
        """
        inside = self.in_set(scores)
        order = np.argsort(-self.known(scores), kind="stable")
        return [self.labels[i] for i in order if inside[i]]

    def answer(self, scores: Scores) -> list[str]:
        """(n_columns,) -> the labels that are recognised, or that it is unknown.

        There are none for "linear".

        >>> Decision("sigmoid", ["cough", "sneeze"], [0.5, 0.1]).answer(np.array([0.4, 0.2]))
        ['sneeze']
        """
        if self.output == "linear":
            return []
        if self.output == "sigmoid":
            return [self.labels[i] for i in np.flatnonzero(self.present(scores))]
        if self.refused(scores):
            return [UNKNOWN]
        return [self.labels[int(self.classes(scores))]]

    def describe(self, scores: Scores) -> dict[str, Any]:
        """(n_columns,) -> "label" or "labels" where there are any, and "scores" or "values".

        Where there are prediction sets, also "set".

        >>> Decision("linear", ["age"]).describe(np.array([31.5]))
        {'values': {'age': 31.5}}
        """
        named = {name: float(score) for name, score in zip(self.columns, scores, strict=True)}
        found = self.answer(scores)
        if self.output == "sigmoid":
            return {"labels": found, "scores": named}
        if self.output == "softmax":
            sets = {} if self.conformal is None else {"set": self.prediction_set(scores)}
            return {"label": found[0], **sets, "scores": named}
        return ({"label": found[0]} if found else {}) | {"values": named}

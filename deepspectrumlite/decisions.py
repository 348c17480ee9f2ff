"""From the scores of a model to an answer: a label, several labels, or numbers. numpy only."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[Any]


@dataclass(frozen=True)
class Decision:
    """What the scores of one model mean.

    ``output`` is that of the recipe's ``[model]``. ``labels`` are the classes, or for "linear" the
    names of the numbers. ``thresholds`` belong to "sigmoid", one per label, and ``values`` to
    "ordinal", the number of each label, from low to high.
    """

    output: str
    labels: list[str]
    thresholds: Sequence[float] = ()
    values: Sequence[float] = ()

    @property
    def columns(self) -> list[str]:
        """Names of the scores: (n_outputs,)."""
        return ["value"] if self.output == "ordinal" else self.labels

    def present(self, scores: Scores) -> npt.NDArray[np.bool_]:
        """(..., n_labels) -> the same, for "sigmoid": whether each label is there."""
        return scores >= np.asarray(self.thresholds)

    def classes(self, scores: Scores) -> npt.NDArray[np.int64]:
        """(..., n_outputs) -> (...,), for "softmax" and "ordinal": indices of the labels.

        >>> Decision("ordinal", ["low", "mid", "high"], values=[0, 1, 2]).classes(
        ...     np.array([[0.4], [7.0]])
        ... ).tolist()
        [0, 2]
        """
        if self.output == "ordinal":
            scores = -np.abs(scores - np.asarray(self.values))
        return np.asarray(scores.argmax(axis=-1), dtype=np.int64)

    def answer(self, scores: Scores) -> list[str]:
        """(n_outputs,) -> the labels that are recognised; none for "linear".

        >>> Decision("sigmoid", ["cough", "sneeze"], [0.5, 0.1]).answer(np.array([0.4, 0.2]))
        ['sneeze']
        """
        if self.output == "linear":
            return []
        if self.output == "sigmoid":
            return [self.labels[i] for i in np.flatnonzero(self.present(scores))]
        return [self.labels[int(self.classes(scores))]]

    def describe(self, scores: Scores) -> dict[str, Any]:
        """(n_outputs,) -> "label" or "labels" where there are any, and "scores" or "values".

        >>> Decision("linear", ["age"]).describe(np.array([31.5]))
        {'values': {'age': 31.5}}
        """
        named = {name: float(score) for name, score in zip(self.columns, scores, strict=True)}
        found = self.answer(scores)
        if self.output == "sigmoid":
            return {"labels": found, "scores": named}
        if self.output == "softmax":
            return {"label": found[0], "scores": named}
        return ({"label": found[0]} if found else {}) | {"values": named}

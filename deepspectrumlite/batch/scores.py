"""Predictions as rows of plain values, and what their columns are called. numpy only."""

from collections.abc import Iterator
from typing import Any

from deepspectrumlite.decisions import Decision
from deepspectrumlite.predict import Prediction


def score_names(decision: Decision) -> list[str]:
    """What the columns of scores are called in tables: (n_columns,).

    >>> score_names(Decision("softmax", ["dog", "cat"])), score_names(Decision("linear", ["age"]))
    (['score_dog', 'score_cat'], ['value_age'])
    """
    if decision.output == "ordinal":
        return decision.columns
    kind = "value" if decision.output == "linear" else "score"
    return [f"{kind}_{name}" for name in decision.columns]


def answer_names(decision: Decision, *, segments: bool = False) -> list[str]:
    """What the columns are called that come before the scores: label, or labels; and set.

    >>> answer_names(Decision("softmax", ["dog", "cat"], conformal=0.1))
    ['label', 'set']
    """
    if decision.output == "linear":
        return []
    if decision.output == "sigmoid":
        return ["labels"]
    # What a set promises, it promises for recordings.
    return ["label", "set"] if decision.conformal is not None and not segments else ["label"]


def prediction_rows(prediction: Prediction, *, segments: bool) -> Iterator[dict[str, Any]]:
    """The row of a recording, or a row with ``start`` and ``end`` for each of its segments."""
    decision = prediction.decision
    names, answers = score_names(decision), answer_names(decision, segments=segments)
    found = prediction.to_json(segments=segments)
    for part in found["segments"] if segments else [found]:
        times = {name: part[name] for name in ("start", "end") if segments}
        scores = part["scores"] if "scores" in part else part["values"]
        yield (
            times
            | {name: part[name] for name in answers}
            | dict(zip(names, scores.values(), strict=True))
        )

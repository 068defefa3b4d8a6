"""Predictions: from the log-probabilities of the choices to a label and the probability of every label.

This file knows numbers and labels; it knows nothing of models or files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ia3.data.examples import Example
from ia3.errors import SettingsError
from ia3.inference.asking import Array
from ia3.inference.metrics import MetricsError
from ia3.inference.temperature import scale


def predictions_of(
    scores: Array, labels: Sequence[str], examples: Sequence[Example], temperature: float = 1.0
) -> list[Prediction]:
    """Return the predictions of rows from their choices' log-probabilities.

    Args:
        scores: Shape (rows, choices).
        labels: The choices.
        examples: The rows, to name one in an error.
        temperature: What they are divided by before they become probabilities; the label stays the same.

    Raises:
        SettingsError: If the head has another number of outputs than there are labels.
        MetricsError: If a score is NaN.
    """
    if not len(scores):
        return []
    if scores.shape[1] != len(labels):
        raise SettingsError(
            f"Classifying: the head has {scores.shape[1]} outputs, got {len(labels)} labels ({', '.join(labels)}). "
            "Give one label for each output."
        )
    table = scale(scores, temperature)
    bad = np.flatnonzero(np.isnan(table).any(axis=1)).tolist()
    if bad:
        raise MetricsError(
            f"Classifying: the scores of {examples[bad[0]].origin} are no numbers ({len(bad)} rows in all). The model "
            "overflowed: load the base as float32."
        )
    best = scores.argmax(axis=1)  # at a high temperature probabilities may be equal that are not
    return [
        Prediction(labels[place], row[place], dict(zip(labels, row, strict=True)))
        for place, row in zip(best.tolist(), table.tolist(), strict=True)
    ]


def own_predictions(ranks: Array, examples: Sequence[Example]) -> list[Prediction]:
    """Return the predictions of rows that bring their own choices.

    Args:
        ranks: What the choices are compared by, shape (rows, choices); a row's own come first.
        examples: The rows.

    Raises:
        MetricsError: If a number is NaN.
    """
    return [
        predictions_of(own[None, : len(example.choices)], example.choices, [example])[0]
        for own, example in zip(ranks, examples, strict=True)
    ]


@dataclass(frozen=True)
class Prediction:
    """The answer to one text."""

    prediction: str  # the most probable label
    probability: float  # of that label
    probabilities: Mapping[str, float] = field(hash=False)  # of every label; they sum to 1

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "prediction": self.prediction,
            "probability": self.probability,
            "probabilities": dict(self.probabilities),
        }

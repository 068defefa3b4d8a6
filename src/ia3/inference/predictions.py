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
from ia3.inference.evaluate import Array, softmax
from ia3.inference.metrics import MetricsError


def predictions_of(scores: Array, labels: Sequence[str], examples: Sequence[Example]) -> list[Prediction]:
    """Return the predictions of rows from their choices' log-probabilities.

    Args:
        scores: Shape (rows, choices).
        labels: The choices.
        examples: The rows, to name one in an error.

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
    table = softmax(scores)
    bad = np.flatnonzero(np.isnan(table).any(axis=1)).tolist()
    if bad:
        raise MetricsError(
            f"Classifying: the scores of {examples[bad[0]].origin} are no numbers ({len(bad)} rows in all). The model "
            "overflowed: load the base as float32."
        )
    return [
        Prediction(labels[int(row.argmax())], float(row.max()), dict(zip(labels, row.tolist(), strict=True)))
        for row in table
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

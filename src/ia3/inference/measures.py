"""Measuring predictions: from probabilities or texts, and the right answers, to metrics.

This file knows numpy arrays and plain lists, and nothing of models, tables, prompts or files; it imports no torch.

Rules: a probability that is not a number is an error that names its row, never a right or wrong answer. A ratio whose
divisor is zero is 0 (scikit-learn's `zero_division=0`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ia3.inference.metrics import LabelScore, LossUnit, Metrics, MetricsError
from ia3.inference.reliability import calibration_bins, calibration_error

_Float = npt.NDArray[np.float64]
_Int = npt.NDArray[np.int64]

_SUM_TOLERANCE = 1e-2  # a softmax that was computed in bf16 sums to 1 ± 0.004
_SHOWN_FAULTS = 5
_DIVERGED = "The model overflowed or diverged: load the base as float32, or train with a lower learning rate."


def score_predictions(
    labels: Sequence[str],
    gold: Sequence[int],
    probabilities: _Float,
    loss: float | None,
    *,
    loss_unit: LossUnit = "token",
) -> Metrics:
    """Return the metrics of predictions from a closed label set.

    The prediction of a row is its most probable choice; of equally probable ones the first.

    Args:
        labels: The known labels, all different, in the order of the choices.
        gold: The index of the right label for every row, each in [0, choices).
        probabilities: The softmax over the choices, shape (rows, choices), each row summing to 1.
        loss: Mean loss in nats per `loss_unit`, or None if there is none.
        loss_unit: "token" for language models (per target token; gives a perplexity), "example" for heads.

    Returns:
        The metrics. `macro_f1` is the mean F1 of the known labels that occur in gold or in a prediction.

    Raises:
        MetricsError: No rows or labels, a label twice, shapes that do not fit, or a row of probabilities that is NaN,
            negative or does not sum to 1. Rows count from 1.

    Example:
        >>> score_predictions(["no", "yes"], [0, 1], np.array([[0.8, 0.2], [0.6, 0.4]]), None).accuracy
        0.5
    """
    names = _check_labels(labels)
    table = _check_probabilities(probabilities, len(names))
    right = np.array(gold, dtype=np.int64)
    assert right.shape == (len(table),) and ((right >= 0) & (right < len(names))).all(), gold
    predicted = table.argmax(axis=1)
    confusion = np.zeros((len(names), len(names)), dtype=np.int64)
    np.add.at(confusion, (right, predicted), 1)
    scores = _label_scores(confusion)
    occurs = (confusion.sum(axis=0) + confusion.sum(axis=1)) > 0  # (choices,)
    bins = calibration_bins(table.max(axis=1), predicted == right)
    return Metrics(
        rows=len(table),
        loss=_check_loss(loss),
        loss_unit=loss_unit,
        perplexity=_perplexity(loss, loss_unit),
        accuracy=int(np.trace(confusion)) / len(table),
        macro_f1=float(np.mean([score.f1 for score, here in zip(scores, occurs, strict=True) if here])),
        labels=names,
        per_label=dict(zip(names, scores, strict=True)),
        confusion=tuple(tuple(int(count) for count in row) for row in confusion),
        calibration_error=calibration_error(bins),
        calibration_bins=bins,
    )


def score_texts(gold: Sequence[str], predicted: Sequence[str], loss: float | None) -> Metrics:
    r"""Return the metrics of free text: accuracy is the share of texts equal to gold after `strip`.

    Args:
        gold: The right text of every row.
        predicted: The generated text of every row.
        loss: Mean loss in nats per target token, or None.

    Raises:
        MetricsError: No rows.

    Example:
        >>> score_texts(["up 3 %", "down"], ["up 3 %\n", "Down"], 0.0).accuracy
        0.5
    """
    if not gold:
        raise MetricsError(_nothing_there("texts"))
    equal = sum(right.strip() == text.strip() for right, text in zip(gold, predicted, strict=True))
    return Metrics(
        rows=len(gold),
        loss=_check_loss(loss),
        loss_unit="token",
        perplexity=_perplexity(loss, "token"),
        accuracy=equal / len(gold),
    )


def score_loss(rows: int, loss: float | None) -> Metrics:
    """Return the metrics of free text that was not generated: a loss and no accuracy.

    Args:
        rows: Number of rows.
        loss: Mean loss in nats per target token.

    Raises:
        MetricsError: No rows, or a loss that is no number.
    """
    if not rows:
        raise MetricsError(_nothing_there("texts"))
    return Metrics(rows, _check_loss(loss), "token", _perplexity(loss, "token"), None)


def _check_labels(labels: Sequence[str]) -> tuple[str, ...]:
    names = tuple(labels)
    if not names:
        raise MetricsError(
            "Scoring predictions: there are no labels, got 0, expected at least 1. "
            "Pass the label set that the adapter was trained on."
        )
    twice = [repr(name) for name, count in Counter(names).items() if count > 1]
    if twice:
        raise MetricsError(
            f"Scoring predictions: labels occur twice, got {_some(twice)}, expected every label once. "
            "Pass the label set in the order of the probabilities."
        )
    return names


def _check_probabilities(probabilities: _Float, choices: int) -> _Float:
    """Return the probabilities as float64, shape (rows, choices), or raise with the rows that are none."""
    table: _Float = np.asarray(probabilities, dtype=np.float64)
    if table.size == 0:
        raise MetricsError(_nothing_there("predictions"))
    if table.ndim != 2 or table.shape[1] != choices:
        raise MetricsError(
            f"Scoring predictions: the probabilities have the wrong shape, got {table.shape}, "
            f"expected (rows, {choices}) for {choices} labels. Pass one probability for each row and label."
        )
    numbers = f"a number for each of the {choices} labels. {_DIVERGED}"
    _refuse_rows(np.isnan(table).any(axis=1), "probabilities are NaN", table, numbers)
    off = ~(np.abs(table.sum(axis=1) - 1) <= _SUM_TOLERANCE)
    shares = "numbers from 0 to 1 with sum 1. Apply a softmax over the choices first."
    _refuse_rows((table < 0).any(axis=1) | off, "probabilities are out of range", table, shares)
    return table


def _check_loss(loss: float | None) -> float | None:
    if loss is not None and math.isnan(loss):
        raise MetricsError(
            f"Scoring predictions: the loss is no number, got nan, expected a number of nats. {_DIVERGED}"
        )
    return None if loss is None else float(loss)


def _refuse_rows(bad: npt.ArrayLike, what: str, values: npt.NDArray[Any], expected: str) -> None:
    """Raise with the numbers of the bad rows, counted from 1, and the value of the first of them."""
    found = np.flatnonzero(bad)
    if not found.size:
        return
    where = f"{'row' if len(found) == 1 else 'rows'} {_some([str(i + 1) for i in found])} of {len(values)}"
    first = np.atleast_1d(values[found[0]])
    got = _some([f"{value:g}" for value in first])
    raise MetricsError(f"Scoring predictions: {what} in {where}, got {got}, expected {expected}")


def _nothing_there(what: str) -> str:
    return f"Scoring {what}: nothing is there, got 0 rows, expected at least 1. Give a table that has rows."


def _some(items: Sequence[str]) -> str:
    more = f", … ({len(items)} in all)" if len(items) > _SHOWN_FAULTS else ""
    return ", ".join(items[:_SHOWN_FAULTS]) + more


def _perplexity(loss: float | None, unit: LossUnit) -> float | None:
    """Return exp(loss), infinite where it overflows; None without a loss per token."""
    if loss is None or unit != "token":
        return None
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def _label_scores(confusion: _Int) -> list[LabelScore]:
    """Return precision, recall and F1 of every label; `confusion` has shape (choices, choices), rows gold."""
    hits = confusion.diagonal()
    predicted, support = confusion.sum(axis=0), confusion.sum(axis=1)
    precision, recall = _ratio(hits, predicted), _ratio(hits, support)
    f1 = _ratio(2 * hits, predicted + support)
    columns = zip(precision, recall, f1, support, strict=True)
    return [LabelScore(float(p), float(r), float(f), int(s)) for p, r, f, s in columns]


def _ratio(above: _Int, below: _Int) -> _Float:
    return np.divide(above, below, out=np.zeros(len(above), dtype=np.float64), where=below > 0)

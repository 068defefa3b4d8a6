"""Numbers that say how good predictions are: accuracy, F1, confusion, calibration, perplexity.

This file knows numpy arrays and plain lists; it knows nothing of models, tables, prompts, files or the command line,
and imports no torch.

Rules: a probability that is not a number is an error that names its row, never a right or wrong answer. A ratio whose
divisor is zero is 0 (scikit-learn's `zero_division=0`). What a `Metrics` holds are plain Python numbers.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ia3.errors import IA3Error
from ia3.inference.metrics_text import metrics_lines
from ia3.inference.reliability import CalibrationBin, calibration_bins, calibration_error
from ia3.inference.temperature import Scaling
from ia3.spelling import percent

LossUnit = Literal["token", "example"]
_Float = npt.NDArray[np.float64]
_Int = npt.NDArray[np.int64]

FEW_ROWS = 100  # fewer leave a 95 % interval of up to twenty points
_NORMAL_975 = 1.959963984540054  # the 97.5 % quantile of the normal distribution: 95 % lie between −q and q
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
        MetricsError: No rows or labels, a label twice, shapes that do not fit, a gold index outside of
            the labels, or a row of probabilities that is NaN, negative or does not sum to 1. Rows count from 1.

    Example:
        >>> score_predictions(["no", "yes"], [0, 1], np.array([[0.8, 0.2], [0.6, 0.4]]), None).accuracy
        0.5
    """
    names = _check_labels(labels)
    table = _check_probabilities(probabilities, len(names))
    right = _check_gold(gold, len(table), len(names))
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
        MetricsError: No rows, or another number of predicted than of gold texts.

    Example:
        >>> score_texts(["up 3 %", "down"], ["up 3 %\n", "Down"], 0.0).accuracy
        0.5
    """
    if len(gold) != len(predicted):
        raise MetricsError(
            f"Scoring texts: the lists differ in length, got {len(gold)} gold and {len(predicted)} predicted "
            "texts, expected one prediction for each gold text. Pass both in the order of the rows."
        )
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


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a proportion by Wilson's score method (1927), which stays within [0, 1].

    Args:
        successes: How many of the `n` succeeded, in [0, n].
        n: How many there were, at least 1.

    Raises:
        MetricsError: `n` below 1, or `successes` outside of [0, n].

    Example:
        >>> [round(bound, 3) for bound in wilson_interval(222, 227)]
        [0.949, 0.991]
    """
    if n < 1 or not 0 <= successes <= n:
        raise MetricsError(
            f"Computing the interval of a proportion: the counts do not fit, got {successes} of {n}, "
            "expected 0 <= successes <= n and n >= 1. Pass the number of right rows and the number of rows."
        )
    square = _NORMAL_975**2
    centre = (successes + square / 2) / (n + square)
    half = _NORMAL_975 / (n + square) * math.sqrt(successes * (n - successes) / n + square / 4)
    # exact at the ends, where centre and half differ by rounding only
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return low, high


def describe_few_rows(rows: int, what: str) -> str:
    """Return a warning where rows that are measured on are so few that differences mean little, else nothing.

    Args:
        rows: Number of rows.
        what: What they are, such as `evaluated on`.

    Example:
        >>> describe_few_rows(10, "evaluated on")[:76]
        'Only 10 rows are evaluated on: with 8 of them right the 95 % interval of the '
    """
    if rows >= FEW_ROWS:
        return ""
    right = round(0.8 * rows)
    low, high = wilson_interval(right, rows)
    return (
        f"Only {rows} row{' is' if rows == 1 else 's are'} {what}: with {right} of them right the 95 % interval of the "
        f"accuracy is {percent(low)} to {percent(high)}, and smaller differences mean nothing."
    )


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


def _check_gold(gold: Sequence[int], rows: int, choices: int) -> _Int:
    """Return the gold indices as int64, shape (rows,), or raise with the rows that name no label."""
    given = np.asarray(gold)
    if given.shape != (rows,):
        raise MetricsError(
            f"Scoring predictions: gold and probabilities differ in rows, got gold of shape {given.shape}, "
            f"expected ({rows},). Pass one gold index for each row of probabilities."
        )
    if given.dtype.kind not in "iu":
        raise MetricsError(
            f"Scoring predictions: gold is no list of indices, got {given.dtype}, expected integers. "
            "Pass the position of the right label in the label set."
        )
    known = f"0 to {choices - 1}. Leave out rows whose label is not in the label set."
    _refuse_rows((given < 0) | (given >= choices), "gold names no label", given, known)
    return given.astype(np.int64)


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


class MetricsError(IA3Error):
    """Predictions cannot be scored: none there, shapes that do not fit, or no probabilities."""


@dataclass(frozen=True)
class LabelScore:
    """How well one label is found; each ratio is 0 where its divisor is 0."""

    precision: float
    recall: float
    f1: float
    support: int  # rows whose gold label it is


@dataclass(frozen=True)
class Metrics:
    """How good the predictions of one table are; what has no meaning for it is None or empty."""

    rows: int
    loss: float | None  # mean, nats per loss_unit
    loss_unit: LossUnit
    perplexity: float | None  # exp(loss) per target token; None for heads
    accuracy: float | None  # None if only the loss was measured
    macro_f1: float | None = None
    labels: tuple[str, ...] = ()
    per_label: Mapping[str, LabelScore] = field(default_factory=dict)
    confusion: tuple[tuple[int, ...], ...] = ()  # (choices gold, choices predicted)
    calibration_error: float | None = None
    calibration_bins: tuple[CalibrationBin, ...] = ()
    temperature: float = 1.0  # the scores were divided by it
    unscaled_error: float | None = None  # the calibration error without that; None if it is 1
    unscaled_bins: tuple[CalibrationBin, ...] = ()
    scaling: Scaling | None = None  # a temperature that was fitted on these rows, and is not in the numbers above

    @property
    def accuracy_interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the accuracy (Wilson)."""
        return None if self.accuracy is None else wilson_interval(round(self.accuracy * self.rows), self.rows)

    @property
    def commonest(self) -> tuple[str, float] | None:
        """The label that most rows have, and their share: what an answer that is always the same gets right."""
        if not self.per_label:
            return None
        label, score = max(self.per_label.items(), key=lambda item: item[1].support)
        return label, score.support / self.rows

    def to_json(self) -> dict[str, Any]:
        """Return plain dicts and lists for `json.dumps`; an infinite loss or perplexity is None."""
        plain: dict[str, Any] = asdict(self)
        for key in ("loss", "perplexity"):
            plain[key] = plain[key] if plain[key] is not None and math.isfinite(plain[key]) else None
        plain["accuracy_interval"] = None if self.accuracy_interval is None else list(self.accuracy_interval)
        plain["labels"] = list(self.labels)
        plain["confusion"] = [list(row) for row in self.confusion]
        for key in ("calibration_bins", "unscaled_bins"):
            plain[key] = list(plain[key])
        plain["scaling"] = None if self.scaling is None else self.scaling.to_json()
        return plain

    def lines(self) -> list[str]:
        """Return the metrics for a terminal: the totals, a row for each label, the confusion."""
        return metrics_lines(self)

"""How good predictions are: accuracy, F1, confusion, calibration, perplexity, as values, as JSON and in words.

This file knows numbers, and knows nothing of models, tables, prompts, files or the command line, and imports no torch;
where the numbers come from is `measures`' matter. Rules: what a `Metrics` holds are plain Python numbers, and every
line is one line.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from ia3.errors import IA3Error
from ia3.inference.reliability import CalibrationBin
from ia3.inference.temperature import Scaling
from ia3.spelling import align_columns, percent, printable

LossUnit = Literal["token", "example"]

FEW_ROWS = 100  # fewer leave a 95 % interval of up to twenty points
_NORMAL_975 = 1.959963984540054  # the 97.5 % quantile of the normal distribution: 95 % lie between −q and q
_SHOWN_CONFUSIONS = 10
_WIDEST_LABEL = 32  # characters
_WIDEST_MATRIX = 8  # labels; a wider confusion matrix does not fit a terminal


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a proportion by Wilson's score method (1927), which stays within [0, 1].

    Args:
        successes: How many of the `n` succeeded, in [0, n].
        n: How many there were, at least 1.

    Example:
        >>> [round(bound, 3) for bound in wilson_interval(222, 227)]
        [0.949, 0.991]
    """
    assert 0 <= successes <= n and n > 0, (successes, n)
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


def _lines(metrics: Metrics) -> list[str]:
    """Return the metrics for a terminal: the totals, a row for each label, the confusion."""
    totals = [f"{metrics.rows} rows"]
    if metrics.accuracy is not None and metrics.accuracy_interval is not None:
        low, high = map(percent, metrics.accuracy_interval)
        share = f"{'exact match' if metrics.calibration_error is None else 'accuracy'} {percent(metrics.accuracy)}"
        totals = [f"{share} of {metrics.rows} rows (95 % interval {low} to {high})"]
    if metrics.macro_f1 is not None:
        totals.append(f"macro F1 {metrics.macro_f1:.3f}")
    if metrics.loss is not None:
        unit = "target token" if metrics.loss_unit == "token" else "example"
        totals.append(f"loss {metrics.loss:.4g} nats per {unit}")
    if metrics.perplexity is not None:
        totals.append(f"perplexity {metrics.perplexity:.4g}")
    if metrics.calibration_error is not None:
        totals.append(f"calibration error {metrics.calibration_error:.3f}{_temperature_words(metrics)}")
    totals += _baseline_lines(metrics)
    return [*totals, *_label_lines(metrics), *_confusion_lines(metrics)] if metrics.labels else totals


def _temperature_words(metrics: Metrics) -> str:
    """Return what a temperature does to the calibration error."""
    if metrics.unscaled_error is not None:
        return f" ({metrics.unscaled_error:.3f} without the temperature {metrics.temperature:.3g})"
    if metrics.scaling is not None:
        scaling = metrics.scaling
        return f"; {scaling.error_after:.3f} with the temperature {scaling.temperature:.3g}, which predictions use"
    return ""


def _baseline_lines(metrics: Metrics) -> list[str]:
    """Return a warning where always the same answer may be as good, as far as the rows can tell."""
    if metrics.commonest is None or metrics.accuracy_interval is None:
        return []
    label, share = metrics.commonest
    if share < metrics.accuracy_interval[0]:
        return []
    where = "above" if share > metrics.accuracy_interval[1] else "within"
    always = f"always answering '{_short(label)}' is right in {percent(share)}, which is {where} the interval"
    return [f"{always}: these rows do not show that it is better"]


def _label_lines(metrics: Metrics) -> list[str]:
    """Return a table with one row for each label."""
    rows = [["label", "precision", "recall", "F1", "rows"]]
    for label in metrics.labels:
        score = metrics.per_label[label]
        ratios = [f"{ratio:.3f}" for ratio in (score.precision, score.recall, score.f1)]
        rows.append([_short(label), *ratios, str(score.support)])
    return ["", *align_columns(rows, right=range(1, 5))]


def _confusion_lines(metrics: Metrics) -> list[str]:
    """Return the confusion matrix, or its largest entries off the diagonal where it is too wide."""
    names = [_short(label) for label in metrics.labels]
    if len(names) <= _WIDEST_MATRIX:
        counts = [["", *names]]
        counts += [[name, *map(str, row)] for name, row in zip(names, metrics.confusion, strict=True)]
        columns = align_columns(counts, right=range(1, len(counts)))
        return ["", "confusion (rows: gold, columns: predicted)", *columns]
    matrix = np.array(metrics.confusion)  # (choices gold, choices predicted)
    pairs = [(-int(matrix[i, j]), i, j) for i, j in np.argwhere(matrix > 0) if i != j]
    most = sorted(pairs)[:_SHOWN_CONFUSIONS]  # by count, then in the order of the labels
    title = f"most confused ({len(most)} of {len(pairs)} pairs)" if pairs else "nothing was confused"
    return ["", title, *(f"  {names[i]} taken for {names[j]}: {-count}" for count, i, j in most)]


def _short(label: str) -> str:
    """Return the label as it fits a column: printable, at most 32 characters."""
    shown = printable(label)
    return shown if len(shown) <= _WIDEST_LABEL else shown[: _WIDEST_LABEL - 1] + "…"


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
        return _lines(self)

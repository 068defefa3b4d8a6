"""Metrics in words for a terminal: totals, a row for each label, the confusion; every line is one line.

This file knows what `Metrics` holds; it computes no metric.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ia3.spelling import align_columns, percent

if TYPE_CHECKING:
    from ia3.inference.metrics import Metrics

_SHOWN_CONFUSIONS = 10
_WIDEST_LABEL = 32  # characters
_WIDEST_MATRIX = 8  # labels; a wider confusion matrix does not fit a terminal


def metrics_lines(metrics: Metrics) -> list[str]:
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


def printable(text: str) -> str:
    r"""Return `text` with line breaks, controls and lone surrogates as escapes (`\n`, `\x1b`, `\ud800`)."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


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

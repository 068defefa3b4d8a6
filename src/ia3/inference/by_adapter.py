"""Metrics of a table whose rows are of different adapters: those of each adapter, and those of all rows together.

Rows of all adapters meet in the same batches where they can; each is answered by its own adapter, with that adapter's
template, labels, ranking and temperature. This file knows predictors and examples; which adapter a row names is
`adapter_column`'s matter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ia3.data.examples import Example
from ia3.errors import SettingsError
from ia3.inference.answerer import measure, passes_of
from ia3.inference.asking import Progress
from ia3.inference.metrics import Metrics, MetricsError
from ia3.inference.predictor import Predictor
from ia3.starts.packaged import warn_of_seen


def predictors_beside(
    predictor: Predictor, names: Sequence[str], strength: float | None = None
) -> Mapping[str, Predictor]:
    """Return the predictor of each adapter of a bank.

    Args:
        predictor: One of them.
        names: Of the adapters.
        strength: How much of its adapter each one uses; left out, all of it, and the predictor given as much as it
            does.

    Raises:
        BankError: If the bank has no adapter of a name.
        SettingsError: If some answer with free text and others have labels, or an encoder's does not record its own.
    """
    own = {name: predictor.beside(name) for name in dict.fromkeys(names)}
    free = [name for name, one in own.items() if one.is_free]
    if 0 < len(free) < len(own):
        closed = next(name for name in own if name not in free)
        raise SettingsError(
            f"Evaluating several adapters: {free[0]!r} answers with free text and {closed!r} has labels, expected one "
            "sort. Evaluate their rows in two tables."
        )
    return own if strength is None else {name: replace(one, strength=strength) for name, one in own.items()}


def evaluate_by_adapter(
    own: Mapping[str, Predictor], rows: Mapping[str, Sequence[Example]], on_progress: Progress | None = None
) -> MetricsByAdapter:
    """Return how good several adapters are, each on its own rows, and all of them together.

    Args:
        own: As `predictors_beside` returns them; may have more adapters than there are rows of.
        rows: The rows of each adapter, at least one, with labels.
        on_progress: Told the number of rows done, and of all; each row once for each template of an ensemble.

    Returns:
        For each adapter what `Predictor.evaluate` returns for its rows alone. Over all rows a mean is over rows or
        tokens, not over adapters; there are F1 and a confusion where all adapters have the same labels.

    Raises:
        SettingsError: If a row has no answer, or one that its adapter does not know.
        MetricsError: If a number is NaN; names the adapter.

    Warns:
        IA3Warning: If the start that an adapter began with has learned some of its rows.
    """
    for name, examples in rows.items():
        warn_of_seen(own[name].record, (example.text for example in examples), f"rows of adapter {name!r}")
    shares = [own[name].share(examples) for name, examples in rows.items()]
    with passes_of(shares):
        found = measure(shares, on_progress)
    metrics = {}
    for name, answers in zip(rows, found, strict=True):
        try:
            metrics[name] = answers.metrics()
        except MetricsError as error:
            raise MetricsError(f"Evaluating adapter {name!r}: {error}") from error
    return MetricsByAdapter(metrics, found[0].pooled(found).metrics())


@dataclass(frozen=True)
class MetricsByAdapter:
    """How good several adapters are on the rows of one table."""

    adapters: Mapping[str, Metrics]  # of each on its own rows, in the order of their first rows
    overall: Metrics  # of all rows

    def to_json(self) -> dict[str, Any]:
        """Return plain values: the metrics over all rows, and under `adapters` those of each."""
        return {**self.overall.to_json(), "adapters": {name: one.to_json() for name, one in self.adapters.items()}}

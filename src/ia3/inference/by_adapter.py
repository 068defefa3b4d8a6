"""Metrics of a table whose rows are of different adapters: those of each adapter, and those of all rows together.

Rows of all adapters meet in the same batches where they can; each is answered by its own adapter, with that adapter's
template, labels, ranking and temperature. This file knows predictors and examples; which adapter a row names is
`adapter_column`'s matter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ia3.data.examples import Example
from ia3.errors import SettingsError
from ia3.inference.ensemble import Wording, mean_ranks, rank_worded
from ia3.inference.evaluate import (
    Array,
    HeldOut,
    Progress,
    score_own_choices,
    score_ranks,
    score_together,
)
from ia3.inference.metrics import LossUnit, Metrics, MetricsError, score_texts
from ia3.inference.predictor import MOST_EVALUATED_TOKENS, Predictor
from ia3.starts.packaged import warn_of_seen

Predictors = Mapping[str, Predictor]  # of each adapter by its name, all on one base
Rows = Mapping[str, Sequence[Example]]  # of each adapter, with labels


def predictors_beside(predictor: Predictor, names: Sequence[str], strength: float | None = None) -> Predictors:
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


def evaluate_by_adapter(own: Predictors, rows: Rows, on_progress: Progress | None = None) -> MetricsByAdapter:
    """Return how good several adapters are, each on its own rows, and all of them together.

    Args:
        own: As `predictors_beside` returns them; may have more adapters than there are rows of.
        rows: The rows of each adapter, at least one.
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
    own = {name: own[name] for name in rows}
    first = next(iter(own.values()))
    found = _answer_texts(own, rows, on_progress) if first.is_free else _score_choices(own, rows, on_progress)
    metrics = {}
    for name, answers in found.items():
        try:
            metrics[name] = answers.metrics(own[name].temperature)
        except MetricsError as error:
            raise MetricsError(f"Evaluating adapter {name!r}: {error}") from error
    return MetricsByAdapter(metrics, _pool(found, own).metrics())


# -- closed sets ------------------------------------------------------------------------------------------------------


def _score_choices(own: Predictors, rows: Rows, on_progress: Progress | None) -> dict[str, _Ranked]:
    worded = {name: one.wordings(rows[name], is_labelled=True) for name, one in own.items()}
    scored = iter(_score(own, worded, on_progress))
    return {name: _ranked(own[name], wordings, [next(scored) for _ in wordings]) for name, wordings in worded.items()}


def _score(own: Predictors, worded: Mapping[str, Sequence[Wording]], on_progress: Progress | None) -> list[Array]:
    """Return the scores, or for free text the losses, of the rows of each wording of each adapter, in order."""
    parts = [
        HeldOut(wording.encoded, wording.encoding.choice_ids, _labels_of(own[name]), own[name].options()["adapter"])
        for name, wordings in worded.items()
        for wording in wordings
    ]
    first = next(iter(own.values()))
    options = {name: value for name, value in first.options().items() if name != "adapter"}
    return score_together(first.base.model, first.base.kind, parts, on_progress=on_progress, **options)


def _labels_of(predictor: Predictor) -> tuple[str, ...]:
    """Return the labels of a closed set; none where rows bring their own choices."""
    return predictor.labels if predictor.encoding.choices_column is None else ()


def _ranked(predictor: Predictor, wordings: Sequence[Wording], scored: Sequence[Array]) -> _Ranked:
    labels, encoded = _labels_of(predictor), wordings[0].encoded
    gold = [e.choice for e in encoded]
    width = len(labels) or max(len(e.choices) for e in encoded)
    scores = [one[:, :width] for one in scored]  # those behind are other adapters'
    ranks = mean_ranks([rank_worded(w, s, predictor.ranking) for w, s in zip(wordings, scores, strict=True)])
    is_head = predictor.base.kind == "encoder"
    loss = sum(float(-s[np.arange(len(gold)), gold].sum()) for s in scores)
    targets = sum(1 if is_head else len(e.target_ids) for wording in wordings for e in wording.encoded)
    return _Ranked(labels, gold, ranks, loss, targets, "example" if is_head else "token")


# -- free text --------------------------------------------------------------------------------------------------------


def _answer_texts(own: Predictors, rows: Rows, on_progress: Progress | None) -> dict[str, _Answered]:
    worded = {name: one.wordings(rows[name], is_labelled=True)[:1] for name, one in own.items()}
    losses = dict(zip(worded, _score(own, worded, None), strict=True))
    tokens = {name: [len(e.target_ids) for e in wording.encoded] for name, [wording] in worded.items()}
    limit = min(MOST_EVALUATED_TOKENS, max(max(counts) for counts in tokens.values()))
    prompts = [e for name, one in own.items() for e in one.encode(rows[name], limit)[1]]
    adapters = [one.options()["adapter"] for name, one in own.items() for _ in rows[name]]
    answers = iter(next(iter(own.values())).answers(prompts, limit, on_progress, adapters))
    found = {}
    for name, one in own.items():
        gold = [one.encoding.template.render_target(e.label or "", e.fields) for e in rows[name]]
        found[name] = _Answered(gold, [next(answers) for _ in gold], float(losses[name].sum()), sum(tokens[name]))
    return found


# -- all together -----------------------------------------------------------------------------------------------------


def _pool(found: Mapping[str, _Answers], own: Predictors) -> _Answers:
    """Return the answers of all adapters as if they were one's."""
    loss, targets = sum(one.loss for one in found.values()), sum(one.targets for one in found.values())
    texts = [one for one in found.values() if isinstance(one, _Answered)]
    if texts:
        gold = [text for one in texts for text in one.gold]
        return _Answered(gold, [text for one in texts for text in one.predicted], loss, targets)
    ranked = {name: one for name, one in found.items() if isinstance(one, _Ranked)}
    sets = {one.labels for one in ranked.values()}
    ranks = [one.ranks / (own[name].temperature if one.labels else 1.0) for name, one in ranked.items()]
    width = max(one.shape[1] for one in ranks)
    wide = [np.pad(one, ((0, 0), (0, width - one.shape[1])), constant_values=-np.inf) for one in ranks]
    places = [place for one in ranked.values() for place in one.gold]
    [unit] = {one.unit for one in ranked.values()}
    return _Ranked(sets.pop() if len(sets) == 1 else (), places, np.concatenate(wide), loss, targets, unit)


@dataclass(frozen=True)
class _Ranked:
    """Rows of closed sets with what their choices are compared by."""

    labels: tuple[str, ...]  # empty where rows have different choices
    gold: Sequence[int]
    ranks: Array  # rows choices; −inf where a row has fewer
    loss: float  # nats, summed over the right answers
    targets: int  # what the loss is a mean over
    unit: LossUnit

    def metrics(self, temperature: float = 1.0) -> Metrics:
        """Return them; `temperature` divides the ranks of labels."""
        mean = self.loss / max(1, self.targets)
        if self.labels:
            return score_ranks(self.labels, self.gold, self.ranks, mean, self.unit, temperature)
        return score_own_choices(self.gold, self.ranks, mean, self.unit)


@dataclass(frozen=True)
class _Answered:
    """Right texts and generated ones."""

    gold: Sequence[str]
    predicted: Sequence[str]
    loss: float  # nats, summed over the right answers
    targets: int  # tokens that the loss is a mean over

    def metrics(self, temperature: float = 1.0) -> Metrics:
        """Return them; generated text has no temperature."""
        return score_texts(self.gold, self.predicted, self.loss / max(1, self.targets))


_Answers = _Ranked | _Answered


@dataclass(frozen=True)
class MetricsByAdapter:
    """How good several adapters are on the rows of one table."""

    adapters: Mapping[str, Metrics]  # of each on its own rows, in the order of their first rows
    overall: Metrics  # of all rows

    def to_json(self) -> dict[str, Any]:
        """Return plain values: the metrics over all rows, and under `adapters` those of each."""
        return {**self.overall.to_json(), "adapters": {name: one.to_json() for name, one in self.adapters.items()}}

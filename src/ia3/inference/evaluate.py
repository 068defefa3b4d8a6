"""Evaluation of encoded rows: one scoring pass gives the loss of the right answers, the probabilities and the metrics.

Answers are first rows of numbers (`Ranked`), which are averaged over templates and put together over adapters, and then
metrics. This file knows token ids and scores; it knows nothing of tables, templates or files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from ia3.bases.loading import Base
from ia3.data.encoding import Encoded
from ia3.errors import SettingsError
from ia3.inference.asking import TOKEN_BUDGET, Array, Asked, Progress, score_asked
from ia3.inference.measures import score_loss, score_predictions, score_texts
from ia3.inference.metrics import LossUnit, Metrics, MetricsError
from ia3.inference.temperature import fit_scaling, scale
from ia3.names import Kind


@dataclass(frozen=True)
class HeldOut(Asked):
    """Rows of one adapter that carry their right answer."""

    usual: float | None = None  # the temperature that adapters of the same settings usually need, if it is known
    is_fitted: bool = False  # whether a temperature is fitted on these rows, about the usual one; else that is applied


def evaluate_together(base: Base, parts: Sequence[HeldOut], token_budget: int = TOKEN_BUDGET) -> list[Metrics]:
    """Return the metrics of the rows of several adapters, which meet in the same batches where they can.

    Args are those of `score_asked`.

    Returns:
        For each part in order its loss in nats per target token (encoders: per example); for a label set also accuracy,
        F1, confusion and calibration from the same pass. Free text has a loss and perplexity alone, since nothing is
        generated.

    Raises:
        SettingsError: If a row has no answer.
        MetricsError: If a part has no rows, or a number is NaN.
    """
    scored = score_together(base, parts, token_budget)
    return [metrics_of(base.kind, [part], [own]) for part, own in zip(parts, scored, strict=True)]


def score_together(
    base: Base, parts: Sequence[Asked], token_budget: int = TOKEN_BUDGET, on_progress: Progress | None = None
) -> list[Array]:
    """Return what the metrics of several adapters' rows are taken from: `score_asked` of rows with answers.

    Raises:
        SettingsError: If a row has no answer.
    """
    for part in parts:
        require_answers(part.encoded, is_closed=part.sort != "text")
    return score_asked(base, parts, token_budget, on_progress)


def metrics_of(kind: Kind, parts: Sequence[HeldOut], scored: Sequence[Array]) -> Metrics:
    """Return the metrics of rows from the scores of their choices, or for free text the losses of their targets.

    Args:
        kind: Kind of the base.
        parts: The rows, at least one part; what differs between parts is the words of their labels' answers alone.
        scored: Of each part, as `score_together` gives them.
    """
    first = parts[0]
    if first.sort == "text":
        targets = sum(len(e.target_ids) for part in parts for e in part.encoded)
        losses = np.concatenate(scored)
        return score_loss(len(losses), float(losses.sum()) / max(1, targets))
    heats = [1.0 if part.is_fitted else part.usual or 1.0 for part in parts]
    each = [rank(kind, [part], [own], heat) for part, own, heat in zip(parts, scored, heats, strict=True)]
    whole = each[0] if len(each) == 1 else Ranked.pooled(each)
    whole = replace(whole, losses=(np.concatenate(whole.losses),))  # one sum, as of one table
    return whole.metrics(is_fitted=first.is_fitted, usual=first.usual)


def rank(kind: Kind, wordings: Sequence[Asked], scored: Sequence[Array], temperature: float = 1.0) -> Ranked:
    """Return what the choices of rows with right answers are compared by, averaged over the templates that word them.

    Args:
        kind: Kind of the base.
        wordings: The same rows, worded by each template.
        scored: The scores of each, shape (rows, choices).
        temperature: What the ranks of labels are divided by before they become probabilities.

    Raises:
        MetricsError: If there are no rows, and no labels.
    """
    first = wordings[0]
    if first.sort == "text":
        raise MetricsError("Scoring predictions: nothing is there, got 0 rows, expected at least 1.")
    gold = [e.choice for e in first.encoded]
    right = np.arange(len(gold)), np.array(gold, dtype=np.int64)
    is_head = kind == "encoder"
    return Ranked(
        labels=tuple(first.labels),
        gold=gold,
        ranks=mean_ranks([asked.ranks(scores) for asked, scores in zip(wordings, scored, strict=True)]),
        losses=tuple(-scores[right] for scores in scored),
        targets=sum(1 if is_head else len(e.target_ids) for asked in wordings for e in asked.encoded),
        unit="example" if is_head else "token",
        temperature=temperature if first.labels else 1.0,
    )


def mean_ranks(ranks: Sequence[Array]) -> Array:
    """Return the mean of what each template compares the choices by; of one template that itself, to the bit.

    The mean is of log-probabilities, so it is a geometric mean of the probabilities: a choice that one wording finds
    impossible is not the answer.
    """
    mean: Array = ranks[0] if len(ranks) == 1 else np.mean(ranks, axis=0)
    return mean


def summed(losses: Sequence[Array]) -> float:
    """Return the sum of the losses of several parts' rows, in nats."""
    return sum(float(own.sum()) for own in losses)


def _score_own_choices(gold: Sequence[int], ranks: Array, loss: float, unit: LossUnit) -> Metrics:
    """Return the metrics of rows that bring their own choices: there are no labels to count, and no confusion."""
    places = [str(number) for number in range(ranks.shape[1])]
    found = score_predictions(places, gold, scale(ranks), loss, loss_unit=unit)
    return replace(found, macro_f1=None, labels=(), per_label={}, confusion=())


def require_answers(encoded: Sequence[Encoded], *, is_closed: bool) -> None:
    """Raise if a row has no right answer: no choice of a closed set, no target tokens for free text.

    Raises:
        SettingsError: The number of such rows, and the first.
    """
    bare = [e.index for e in encoded if (e.choice < 0 if is_closed else not e.target_ids)]
    if bare:
        raise SettingsError(
            f"Evaluating: {len(bare)} of {len(encoded)} rows have no answer to compare with, the first is row "
            f"{bare[0] + 1}. Give a table with a label in every row."
        )


class Answers(Protocol):
    """Rows with right answers beside what was answered."""

    def metrics(self) -> Metrics:
        """Return how good the answers are."""
        ...

    @staticmethod
    def pooled(parts: Sequence[Any]) -> Answers:
        """Return the answers of several adapters, of one sort, as if they were one's."""
        ...


@dataclass(frozen=True, eq=False)
class Ranked:
    """Rows of closed sets with what their choices are compared by, and the losses of the right ones."""

    labels: tuple[str, ...]  # empty where rows have different choices
    gold: Sequence[int]  # the index of the right choice of each row
    ranks: Array  # rows choices; −inf where a row has fewer
    losses: tuple[Array, ...]  # nats, of each row; for each template, or each adapter
    targets: int  # what the loss is a mean over
    unit: LossUnit
    temperature: float = 1.0

    @staticmethod
    def pooled(parts: Sequence[Ranked]) -> Ranked:
        """Return those of several adapters as if they were one's; without labels where not all have the same."""
        sets = {part.labels for part in parts}
        ranks = [part.ranks / part.temperature for part in parts]
        width = max(own.shape[1] for own in ranks)
        wide = [np.pad(own, ((0, 0), (0, width - own.shape[1])), constant_values=-np.inf) for own in ranks]
        return Ranked(
            labels=sets.pop() if len(sets) == 1 else (),
            gold=[place for part in parts for place in part.gold],
            ranks=np.concatenate(wide),
            losses=tuple(own for part in parts for own in part.losses),
            targets=sum(part.targets for part in parts),
            unit=parts[0].unit,
        )

    def metrics(self, *, is_fitted: bool = False, usual: float | None = None) -> Metrics:
        """Return the metrics; the loss has no temperature.

        Args:
            is_fitted: Whether a temperature is fitted on these rows as well.
            usual: The temperature that adapters of the same settings usually need, which the rows are weighed against.
        """
        loss = summed(self.losses) / max(1, self.targets)
        if not self.labels:
            return _score_own_choices(self.gold, self.ranks, loss, self.unit)
        plain = score_predictions(self.labels, self.gold, scale(self.ranks), loss, loss_unit=self.unit)
        plain = replace(plain, scaling=fit_scaling(self.ranks, self.gold, usual) if is_fitted else None)
        if self.temperature == 1:
            return plain
        probabilities = scale(self.ranks, self.temperature)
        return replace(
            score_predictions(self.labels, self.gold, probabilities, loss, loss_unit=self.unit),
            temperature=self.temperature,
            unscaled_error=plain.calibration_error,
            unscaled_bins=plain.calibration_bins,
            scaling=plain.scaling,
        )


@dataclass(frozen=True, eq=False)
class Written:
    """Rows of free text with what was written, and the losses of the right texts."""

    gold: Sequence[str]
    predicted: Sequence[str]
    losses: tuple[Array, ...]  # nats, of each row; for each adapter
    targets: int  # tokens that the loss is a mean over

    @staticmethod
    def pooled(parts: Sequence[Written]) -> Written:
        """Return those of several adapters as if they were one's."""
        return Written(
            gold=[text for part in parts for text in part.gold],
            predicted=[text for part in parts for text in part.predicted],
            losses=tuple(own for part in parts for own in part.losses),
            targets=sum(part.targets for part in parts),
        )

    def metrics(self) -> Metrics:
        """Return the metrics."""
        return score_texts(self.gold, self.predicted, summed(self.losses) / max(1, self.targets))

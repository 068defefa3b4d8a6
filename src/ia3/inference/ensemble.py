"""An ensemble of templates: rows are asked in several wordings, and what the choices are compared by is averaged.

The average is of log-probabilities, so it is a geometric mean of the probabilities: a choice that one wording finds
impossible is not the answer. With one template it is what that one gives. This file knows encodings and scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ia3.bases.loading import Base
from ia3.data.encoding import Encoded, Encoding
from ia3.inference.evaluate import (
    Array,
    Progress,
    counted_on,
    require_answers,
    score_encoded,
    score_own_choices,
    score_ranks,
)
from ia3.inference.metrics import Metrics
from ia3.inference.ranking import count_own_tokens, count_tokens, rank_scores
from ia3.names import Ranking


@dataclass(frozen=True)
class Wording:
    """The rows as one template words them."""

    encoding: Encoding
    encoded: Sequence[Encoded]


def average_ranks(
    base: Base,
    wordings: Sequence[Wording],
    ranking: Ranking,
    on_progress: Progress | None = None,
    **options: Any,
) -> Array:
    """Return what the choices are compared by, averaged over the wordings, shape (rows, choices).

    Args:
        base: The base, perhaps with a bank.
        wordings: The same rows, worded by each template.
        ranking: How the tokens' log-probabilities become one number for each choice.
        on_progress: Told the number of rows done, and of all, each row once for each wording.
        options: Of `score_encoded`.
    """
    scored = _scores(base, wordings, on_progress, options)
    return _average(wordings, scored, ranking)


def evaluate_wordings(
    base: Base,
    wordings: Sequence[Wording],
    ranking: Ranking,
    temperature: float,
    on_progress: Progress | None = None,
    **options: Any,
) -> Metrics:
    """Return the metrics of the averaged ranks; the loss is the mean over the answers' tokens in all wordings.

    Args are those of `average_ranks`; the ranks are divided by the temperature before they become probabilities.

    Raises:
        SettingsError: If a row has no answer.
        MetricsError: If there are no rows, or a number is NaN.
    """
    for wording in wordings:
        require_answers(wording.encoded, is_closed=True)
    scored = _scores(base, wordings, on_progress, options)
    gold = [e.choice for e in wordings[0].encoded]
    right = sum(float(-scores[np.arange(len(gold)), gold].sum()) for scores in scored) if gold else 0.0
    is_head = base.kind == "encoder"
    targets = sum(1 if is_head else len(e.target_ids) for wording in wordings for e in wording.encoded)
    ranks, loss = _average(wordings, scored, ranking), right / max(1, targets)
    if wordings[0].encoding.choices_column is not None:
        return score_own_choices(gold, ranks, loss)
    unit: Any = "example" if is_head else "token"
    return score_ranks(wordings[0].encoding.labels, gold, ranks, loss, unit, temperature)


def _scores(base: Base, wordings: Sequence[Wording], on_progress: Progress | None, options: Any) -> list[Array]:
    total = sum(len(wording.encoded) for wording in wordings)
    found: list[Array] = []
    done = 0
    for wording in wordings:
        tell = counted_on(on_progress, done, total)
        choices = wording.encoding.choice_ids if wording.encoding.choices_column is None else None
        found.append(score_encoded(base.model, base.kind, wording.encoded, choices, on_progress=tell, **options))
        done += len(wording.encoded)
    return found


def _average(wordings: Sequence[Wording], scored: Sequence[Array], ranking: Ranking) -> Array:
    return mean_ranks([rank_worded(w, scores, ranking) for w, scores in zip(wordings, scored, strict=True)])


def rank_worded(wording: Wording, scores: Array, ranking: Ranking) -> Array:
    """Return what the choices are compared by where rows are worded by one template, shape (rows, choices).

    Args:
        wording: The rows.
        scores: Summed log-probabilities of their choices' tokens, shape (rows, choices).
        ranking: How these become one number for each choice.
    """
    if wording.encoding.choices_column is None:
        return rank_scores(scores, count_tokens(wording.encoding.choice_ids), ranking)
    return rank_scores(scores, count_own_tokens(wording.encoded), ranking)


def mean_ranks(ranks: Sequence[Array]) -> Array:
    """Return the mean of what each wording compares the choices by; of one wording that itself, to the bit."""
    mean: Array = ranks[0] if len(ranks) == 1 else np.mean(ranks, axis=0)
    return mean

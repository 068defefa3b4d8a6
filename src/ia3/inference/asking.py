"""Asking a base: rows of any adapters go through it in batches of like length, and their scores come back in order.

One adapter is a mixed batch of one name. Rows meet where they are scored against the same choices, those of classifiers
whatever their labels; an ensemble's templates are read one after another. This file knows token ids and models; it
knows nothing of tables, templates or metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from ia3.bases.loading import Base
from ia3.core.modes import evaluating
from ia3.core.strengths import AdapterRef, AdapterRefs
from ia3.core.weights import input_device
from ia3.data.batches import IGNORED, PASS_TOKENS, collate, pass_cost, split_by_tokens
from ia3.data.encoding import Encoded
from ia3.inference.logits import logits_at
from ia3.inference.ranking import count_own_tokens, count_tokens, rank_scores
from ia3.inference.scoring import rows_input, rows_of, score_choices
from ia3.names import BASE_NAME, Ranking

Array = npt.NDArray[np.float64]
Progress = Callable[[int, int | None], object]  # told how many rows are done, and of how many (None: not known)

TOKEN_BUDGET = 2048  # tokens of a batch, padding included
_MOST_ROWS = 64  # of a batch: one set of Gemma 3's logits for each row is 1 MB


@dataclass(frozen=True)
class Asked:
    """Rows of one adapter as one of its templates words them."""

    encoded: Sequence[Encoded]
    choice_ids: Sequence[Sequence[int]]  # token ids of each label's answer; empty for encoders and free text
    labels: Sequence[str]  # the closed label set; empty for free text, and where rows bring their own choices
    adapter: AdapterRefs | None  # name or row, or one for each of the rows; None is the active one
    ranking: Ranking = "sum"  # what its choices are compared by
    turn: int = field(default=0, kw_only=True)  # which of an ensemble's templates it is

    @property
    def sort(self) -> Literal["labels", "choices", "text"]:
        """What the answers are: of one label set, of the choices that each row brings, or free text."""
        if self.labels:
            return "labels"
        return "choices" if self.encoded and all(e.choices for e in self.encoded) else "text"

    def ranks(self, scores: Array) -> Array:
        """Return what the choices are compared by, from their scores; both of shape (rows, choices)."""
        lengths = count_tokens(self.choice_ids) if self.labels else count_own_tokens(self.encoded)
        return rank_scores(scores, lengths, self.ranking)


def score_asked(
    base: Base, parts: Sequence[Asked], token_budget: int = TOKEN_BUDGET, on_progress: Progress | None = None
) -> list[Array]:
    """Return the scores of the choices of each part's rows, from passes that the parts share where they can.

    Args:
        base: The base, perhaps with a bank; left in the mode it is in.
        parts: The rows.
        token_budget: Most tokens of a batch, padding included.
        on_progress: Told the number of rows done, and of all; a row once for each template.

    Returns:
        For each part in order what `score_encoded` gives, shape (rows, choices); for free text what `target_losses`
        does, shape (rows,).
    """
    groups: dict[Any, list[int]] = {}
    for number, part in enumerate(parts):
        groups.setdefault((part.turn, part.sort, tuple(map(tuple, part.choice_ids))), []).append(number)
    found: dict[int, Array] = {}
    done, total = 0, sum(len(part.encoded) for part in parts)
    for (_, sort, choice_ids), numbers in groups.items():
        inside = [parts[number] for number in numbers]
        encoded = [e for part in inside for e in part.encoded]
        adapters = adapters_of([part.adapter for part in inside], [len(part.encoded) for part in inside])
        told = _counted_on(on_progress, done, total)
        if sort == "text":
            scored = target_losses(base, encoded, adapters, token_budget, told)
        else:
            choices = choice_ids if sort == "labels" else None
            scored = score_encoded(base, encoded, choices, adapters, token_budget, told)
        places = pairwise(accumulate((len(part.encoded) for part in inside), initial=0))
        for number, (start, end) in zip(numbers, places, strict=True):
            found[number] = scored[start:end] if sort == "text" else _own_scores(parts[number], scored[start:end])
        done += len(encoded)
    return [found[number] for number in range(len(parts))]


def _counted_on(on_progress: Progress | None, before: int, total: int) -> Progress | None:
    """Return what tells of a group that it is done: behind those before it, and of all."""
    return None if on_progress is None else lambda done, _: on_progress(before + done, total)


def adapters_of(adapters: Sequence[AdapterRefs | None], counts: Sequence[int]) -> AdapterRefs | None:
    """Return the adapter of each row of some parts, or the one of all.

    Args:
        adapters: Of each part, as `Asked` has them.
        counts: Its number of rows.
    """
    first = adapters[0]
    if (first is None or isinstance(first, AdapterRef)) and all(one == first for one in adapters):
        return first
    found: list[AdapterRef] = []
    for one, count in zip(adapters, counts, strict=True):
        found += [BASE_NAME if one is None else one] * count if one is None or isinstance(one, AdapterRef) else one
    return found


def _own_scores(part: Asked, scores: Array) -> Array:
    """Return the scores without those behind its own choices, where other parts that were asked with it have more."""
    width = len(part.labels) or max((len(e.choices) for e in part.encoded), default=0)
    return scores if (scores[:, width:] > -np.inf).any() else scores[:, :width]


def score_encoded(
    base: Base,
    encoded: Sequence[Encoded],
    choice_ids: Sequence[Sequence[int]] | None,
    adapter: AdapterRefs | None = None,
    token_budget: int = TOKEN_BUDGET,
    on_progress: Progress | None = None,
) -> Array:
    """Return the log-probability of every choice for any number of rows; see `score_choices`.

    Returns:
        Shape (rows, choices), float64, in the order of the rows; (0, choices) without rows. Where adapters with heads
        of different widths are given, those with fewer choices have −inf behind theirs.
    """
    if not encoded:
        return np.empty((0, 0 if choice_ids is None else len(choice_ids)))
    found: dict[int, Array] = {}
    with evaluating(base.model):
        for part in batches_of(base.model, [len(e.prompt_ids) for e in encoded], token_budget, on_progress):
            rows = None if adapter is None else rows_of(adapter, part)
            scored = score_choices(base, [encoded[i] for i in part], choice_ids, rows)
            found |= zip(part, scored.double().cpu().numpy(), strict=True)
    width = max(map(len, found.values()))
    whole = np.full((len(encoded), width), -np.inf)
    for i, scores in found.items():
        whole[i, : len(scores)] = scores
    return whole


@torch.inference_mode()
def target_losses(
    base: Base,
    encoded: Sequence[Encoded],
    adapter: AdapterRefs | None = None,
    token_budget: int = TOKEN_BUDGET,
    on_progress: Progress | None = None,
) -> Array:
    """Return the loss of each row's own target in nats, summed over its tokens, shape (rows,), float64.

    Args are those of `score_encoded`; the base is a language model.
    """
    device = input_device(base.model)
    losses = np.zeros(len(encoded))
    with evaluating(base.model):
        for part in batches_of(base.model, [len(e) for e in encoded], token_budget, on_progress):
            batch = collate([encoded[i] for i in part], base.kind, base.pad_id, base.decoder_start_id).to(device)
            positions = batch.labels != IGNORED
            rows = rows_input(adapter, part)
            logits = logits_at(base.model, positions, {**batch.inputs, "use_cache": False, **rows})
            wide = logits if logits.dtype == torch.float64 else logits.float()
            by_token = torch.zeros(positions.shape, dtype=torch.float64, device=device)
            by_token[positions] = functional.cross_entropy(wide, batch.labels[positions], reduction="none").double()
            losses[part] = by_token.sum(dim=1).cpu().numpy()
    return losses


def batches_of(
    model: Any,
    lengths: Sequence[int],
    token_budget: int,
    on_progress: Progress | None,
    pass_tokens: int | None = None,
) -> Iterator[list[int]]:
    """Yield positions in `lengths` that go through a model together, and tell when they are done.

    Args:
        model: The model.
        lengths: Tokens of each row.
        token_budget: Most tokens of a batch, padding included.
        on_progress: Told the number of rows done, and of all.
        pass_tokens: What one more pass costs, in tokens; by default on the model's device.
    """
    done = 0
    cost = pass_cost(input_device(model), token_budget) if pass_tokens is None else pass_tokens
    for part in length_batches(lengths, token_budget, cost):
        yield part
        done += len(part)
        if on_progress is not None:
            on_progress(done, len(lengths))


def length_batches(lengths: Sequence[int], token_budget: int, pass_tokens: int = PASS_TOKENS) -> list[list[int]]:
    """Return positions in `lengths` in batches of like length, the longest first; every position once."""
    return split_by_tokens(range(len(lengths)), lengths, token_budget, pass_tokens, _MOST_ROWS)

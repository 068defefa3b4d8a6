"""The examples of a round through the model and back: pooled, cut into micro-batches, losses divided as tasks have it.

This file knows learners and their examples; who has a turn is the loop's matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ia3.core.weights import input_device
from ia3.data.batches import collate, pass_cost, split_by_tokens
from ia3.data.encoding import Encoded
from ia3.training.contrast import Read, backward_whole, contrast, read_batch
from ia3.training.hidden_cache import behind_first_blocks
from ia3.training.learner import Learner
from ia3.training.losses import sum_loss
from ia3.training.settings import has_contrast
from ia3.training.t_few import Factors, few_shot_loss, learns_from_choices, step_factors


@dataclass(frozen=True)
class Turn:
    """One learner's step in a round."""

    learner: Learner
    examples: list[Encoded]
    targets: float  # what its loss is divided by


def backward(turns: Sequence[Turn]) -> dict[str, float]:
    """Run the examples of some turns through the model and back; return the summed loss of each turn, by adapter.

    Every target counts 1 / (targets of its own task's step). The loss of an example is the gradient of the whole with
    respect to that share, so the backward pass gives it as well.
    """
    first = turns[0].learner
    settings, bank = first.settings, first.task.attachment.bank
    if settings.dropout:  # a function of (seed, step), so that a resumed run draws the same masks
        torch.manual_seed(_mask_seed(first))
    drawn = [one for turn in turns for one in _draw(turn)]
    device = input_device(first.task.attachment.model)
    budget, is_whole = settings.token_budget, has_contrast(settings.losses)
    lengths = [len(one.encoded) for one in drawn]
    parts = split_by_tokens(range(len(drawn)), lengths, budget, pass_cost(device, budget))
    found: list[tuple[list[_Drawn], Any]] = []
    for part in [range(len(drawn))] if is_whole else parts:
        own = [drawn[i] for i in part]
        shares = torch.tensor([one.weight / one.turn.targets for one in own], dtype=bank.dtype, device=device)
        shares.requires_grad_()
        if is_whole:  # all examples of a step meet in its loss
            fits = sum(len(part) * max(lengths[place] for place in part) for part in parts) <= budget
            backward_whole(parts, partial(_read, drawn), partial(_contrast_loss, drawn, shares), is_kept=fits)
        else:
            _loss(own, shares).backward()
        found.append((own, shares.grad))
    summed = {turn.learner.task.adapter: 0.0 for turn in turns}
    for own, losses in found:  # after all passes: reading a number from a GPU waits until it is there
        for one, loss in zip(own, losses.tolist(), strict=True):
            summed[one.turn.learner.task.adapter] += one.weight * loss
    return summed


@dataclass(frozen=True)
class _Drawn:
    """One example of a turn."""

    turn: Turn
    encoded: Encoded
    weight: float  # of each of its targets
    factors: Factors | None  # of its turn's step; None where it learns from the right answer alone


def _draw(turn: Turn) -> list[_Drawn]:
    learner, examples = turn.learner, turn.examples
    weights = [learner.weight(encoded) for encoded in examples]
    is_few_shot = learns_from_choices(learner.settings.losses, learner.task.kind)
    factors = step_factors(examples, weights) if is_few_shot else None
    return [_Drawn(turn, encoded, weight, factors) for encoded, weight in zip(examples, weights, strict=True)]


def _loss(drawn: Sequence[_Drawn], shares: Tensor) -> Tensor:
    """Return Σ share · loss over the examples of a micro-batch, whose turns learn from the same."""
    learners = [one.turn.learner for one in drawn]
    task, budget = learners[0].task, learners[0].settings.token_budget
    examples = [one.encoded for one in drawn]
    rows = _rows(learners)
    factors = [one.factors for one in drawn if one.factors is not None]
    if factors:
        return few_shot_loss(task, examples, rows, factors, budget, shares)
    batch = collate(examples, task.kind, task.pad_id, task.decoder_start_id).to(shares.device)
    with behind_first_blocks([learner.cache for learner in learners], examples):
        return sum_loss(task.attachment.model, task.kind, batch, rows, shares)


def _read(drawn: Sequence[_Drawn], part: Sequence[int]) -> Read:
    """Run a micro-batch of an encoder whose sentences are contrasted."""
    own = [drawn[place] for place in part]
    learners = [one.turn.learner for one in own]
    task, examples = learners[0].task, [one.encoded for one in own]
    if learners[0].settings.dropout:  # a micro-batch that is run twice has the same masks
        torch.manual_seed(_mask_seed(learners[0]) + 1 + part[0])
    batch = collate(examples, task.kind, task.pad_id).to(input_device(task.attachment.model))
    with behind_first_blocks([learner.cache for learner in learners], examples):
        return read_batch(task.attachment.model, batch, _rows(learners))


def _contrast_loss(drawn: Sequence[_Drawn], shares: Tensor, read: Read) -> Tensor:
    """Return Σ share · loss over the examples of some turns, each among those of its own turn."""
    losses = []
    for turn in dict.fromkeys(one.turn.learner for one in drawn):
        places = torch.tensor([place for place, one in enumerate(drawn) if one.turn.learner is turn])
        choices = torch.tensor([drawn[place].encoded.choice for place in places.tolist()], device=shares.device)
        own = read.at(places)
        loss = contrast(own.sentences, choices, turn.settings.contrast_temperature)
        if turn.settings.losses != "contrast":
            loss = loss + functional.cross_entropy(own.logits, choices, reduction="none")
        losses.append((shares[places].to(loss.dtype) * loss).sum())
    return torch.stack(losses).sum()


def _mask_seed(learner: Learner) -> int:
    return learner.settings.seed * 1_000_003 + learner.state.step


def _rows(learners: Sequence[Learner]) -> Any:
    """Return the row of each example; one row for all is multiplied as it is, and nothing is gathered."""
    names = [learner.task.adapter for learner in learners]
    return names[0] if len(set(names)) == 1 else names

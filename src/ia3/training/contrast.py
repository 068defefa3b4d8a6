"""Supervised contrast: sentences of one label are drawn together and those of others pushed apart.

Khosla et al. 2020 (arXiv 2004.11362), equation 2: with the sentences z of a step, of length one, and a temperature τ,
an example i with the others P(i) of its label costs

    −1/|P(i)| Σ_{p ∈ P(i)} log( exp(z_i·z_p / τ) / Σ_{a ≠ i} exp(z_i·z_a / τ) )

and nothing where P(i) is empty. What an encoder's head reads is the sentence, so the vectors alone learn from it. All
sentences of a step meet, however many micro-batches they come in: where they have no room at once these are run twice,
first for the sentences and again for the gradients (Gao et al. 2021, arXiv 2101.06983). This file knows sentences and
logits; which examples make a step is the learner's matter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ia3.core.surroundings import surrounded
from ia3.data.batches import Batch
from ia3.inference.logits import class_logits


@dataclass(frozen=True)
class Read:
    """What a pass of an encoder gives for the loss."""

    sentences: Tensor  # what the head reads, each of length one: (batch, width)
    logits: Tensor  # (batch, choices)

    def at(self, places: Tensor) -> Read:
        """Return some examples of it."""
        return Read(self.sentences[places], self.logits[places])


def read_batch(model: object, batch: Batch, rows: object) -> Read:
    """Run an encoder whose head reads the mean, and return what it reads and answers.

    Args:
        model: With a bank.
        batch: On the model's device.
        rows: Row of each example, or one for all.
    """
    caught: list[Tensor] = []
    with surrounded(captured=caught):
        logits = class_logits(model, {**batch.inputs, "rows": rows})
    return Read(functional.normalize(_wide(caught[0]), dim=-1), _wide(logits))


def contrast(sentences: Tensor, choices: Tensor, temperature: float) -> Tensor:
    """Return what each sentence of a step costs, shape (batch,), in nats.

    Args:
        sentences: Of length one, shape (batch, width).
        choices: Label of each, int64, shape (batch,).
        temperature: τ.

    Example:
        >>> same = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> [round(float(one), 4) for one in contrast(same, torch.tensor([0, 0, 1]), 0.5)]
        [0.1269, 0.1269, 0.0]
    """
    is_self = torch.eye(len(sentences), dtype=torch.bool, device=sentences.device)
    likeness = (sentences @ sentences.T / temperature).masked_fill(is_self, -torch.inf)
    shares = functional.log_softmax(likeness, dim=1).masked_fill(is_self, 0.0)  # 0 · −∞ would be no number
    is_like = (choices.unsqueeze(1) == choices.unsqueeze(0)) & ~is_self
    count = is_like.sum(dim=1)
    return -torch.where(is_like, shares, 0.0).sum(dim=1) / count.clamp(min=1)


def backward_whole(
    parts: Sequence[Sequence[int]],
    read: Callable[[Sequence[int]], Read],
    loss: Callable[[Read], Tensor],
    *,
    is_kept: bool,
) -> None:
    """Take the gradients of a loss of all examples of a step, which come in micro-batches.

    Args:
        parts: Positions of the examples of each micro-batch; together all.
        read: Runs a micro-batch.
        loss: Of what all examples gave, in their order; a scalar.
        is_kept: Whether what the backward pass needs of all micro-batches has room at once.
    """
    back = torch.tensor([place for part in parts for place in part]).argsort()
    with torch.set_grad_enabled(is_kept):
        found = [read(part) for part in parts]
    width = max(one.logits.shape[1] for one in found)  # tasks with fewer labels have −∞ behind theirs
    logits = [functional.pad(one.logits, (0, width - one.logits.shape[1]), value=-torch.inf) for one in found]
    whole = Read(torch.cat([one.sentences for one in found])[back], torch.cat(logits)[back])
    if is_kept:
        loss(whole).backward()
        return
    leaves = [values.requires_grad_() for values in (whole.sentences, whole.logits)]
    loss(Read(*leaves)).backward()
    for part in parts:
        again = read(part)
        pairs = zip((again.sentences, again.logits), leaves, strict=True)
        wanted = [(own, leaf.grad[list(part), : own.shape[1]]) for own, leaf in pairs if leaf.grad is not None]
        torch.autograd.backward([own for own, _ in wanted], [gradient for _, gradient in wanted])


def _wide(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()

"""The cross-entropy of a frozen output head, from hidden states, with no logits kept.

The head of a small language model is most of its numbers (Gemma 3 270M: 168 of 268 million), and its matrix comes from
memory for every product. Here it is read once, in chunks of the vocabulary that fit the cache: a chunk gives its
logits, its share of the running softmax (Milakov & Gimelshein 2018, arXiv 1805.02867) and its share of the gradient
dh = Σ p·W − W[target] before the next one is read. This file knows matrices and targets.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from ia3.core.fast.products import frozen_linear, takes

CHUNK = 4 * 2**20  # numbers of the matrix in a chunk: 16 MB in fp32


def head_loss_plain(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Return the summed cross-entropy from all logits at once; see `head_loss`."""
    logits = functional.linear(hidden, weight, bias)
    wide = logits if logits.dtype == torch.float64 else logits.float()
    losses = functional.cross_entropy(wide, targets, reduction="none")
    return losses.sum() if weights is None else (losses * weights).sum()


def head_loss(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    weights: Tensor | None = None,
    *,
    chunk: int = CHUNK,
) -> Tensor:
    """Return the cross-entropy of a frozen head summed over positions, differentiable in `hidden` alone.

    Args:
        hidden: What the head receives, shape (positions, width), any floating dtype.
        weight: The head's matrix, shape (vocabulary, width); a constant.
        bias: Shape (vocabulary,), or None; a constant.
        targets: Token to predict at each position, int64, shape (positions,).
        weights: Weight of each position, shape (positions,); None for one each.
        chunk: Most numbers of the matrix that are worked on at once.

    Returns:
        A scalar in nats, fp32 (float64 on a float64 base).
    """
    losses = _HeadLoss.apply(hidden, weight, bias, targets, max(1, chunk // weight.shape[1]))
    return losses.sum() if weights is None else (losses * weights.to(losses.dtype)).sum()


class _HeadLoss(torch.autograd.Function):
    """Losses by position; the gradient is made in the forward pass and scaled in the backward one."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, rows: int) -> Tensor:
        needs_gradient = ctx.needs_input_grad[0]
        highest: Tensor | None = None
        total = mean = torch.zeros(())
        for start, logits in _logits(hidden, weight, bias, rows):
            top = logits.max(dim=1, keepdim=True).values  # positions 1
            new = top if highest is None else torch.maximum(highest, top)
            powers = torch.exp(logits - new)
            part = powers.sum(dim=1, keepdim=True)
            total_now, mean_now = part, None
            if needs_gradient:
                mean_now = _times(powers.to(hidden.dtype), weight[start : start + rows])
            if highest is None:
                total, mean = total_now, mean_now if mean_now is not None else mean
            else:
                shrink = torch.exp(highest - new)
                total = total * shrink + total_now
                if mean_now is not None:
                    mean = mean * shrink.to(mean.dtype) + mean_now
            highest = new
        if highest is None:
            raise ValueError("a head without a vocabulary")
        chosen = weight[targets]  # positions width
        right = (hidden * chosen).sum(dim=1).to(total.dtype)
        if bias is not None:
            right = right + bias[targets]
        losses = (highest + total.log()).squeeze(1) - right
        if needs_gradient:
            ctx.save_for_backward((mean / total.to(mean.dtype)).sub_(chosen))
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dlosses: Tensor) -> tuple[Tensor, None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * dlosses.unsqueeze(1).to(gradient.dtype), None, None, None, None


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, rows: int) -> Iterator[tuple[int, Tensor]]:
    """Yield the logits of one chunk of the vocabulary after another, with the chunk's start; in fp32 or float64."""
    for start in range(0, weight.shape[0], rows):
        part = None if bias is None else bias[start : start + rows]
        logits = _linear(hidden, weight[start : start + rows], part)
        yield start, logits if logits.dtype == torch.float64 else logits.float()


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    is_fast = takes(weight) and x.dtype == torch.float32
    return frozen_linear(x, weight, bias) if is_fast else functional.linear(x, weight, bias)


def _times(x: Tensor, weight: Tensor) -> Tensor:
    """Return x · weight, shape (positions, width)."""
    return _linear(x, weight.t(), None)

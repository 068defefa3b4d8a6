"""The cross-entropy and the log-probabilities of a frozen output head, from hidden states, with no logits kept.

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

from ia3.kernels.products import frozen_linear, takes

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


def head_logprobs(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, *, chunk: int = CHUNK
) -> Tensor:
    """Return the log-probabilities that a frozen head gives to some tokens, differentiable in `hidden` alone.

    Args:
        hidden: What the head receives, shape (positions, width), any floating dtype.
        weight: The head's matrix, shape (vocabulary, width); a constant.
        bias: Shape (vocabulary,), or None; a constant.
        targets: Tokens at each position, any number of them, int64, shape (positions, tokens).
        chunk: Most numbers of the matrix that are worked on at once.

    Returns:
        Shape (positions, tokens), fp32 (float64 on a float64 base).
    """
    return _HeadLogprobs.apply(hidden, weight, bias, targets, max(1, chunk // weight.shape[1]))


class _HeadLoss(torch.autograd.Function):
    """Losses by position; the gradient is made in the forward pass and scaled in the backward one."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, rows: int) -> Tensor:
        sums, right, mean = _read(hidden, weight, bias, targets.unsqueeze(1), rows, has_mean=ctx.needs_input_grad[0])
        if mean is not None:
            ctx.save_for_backward(mean.sub_(weight[targets]).to(hidden.dtype))
        return (sums - right).squeeze(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dlosses: Tensor) -> tuple[Tensor, None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * dlosses.unsqueeze(1).to(gradient.dtype), None, None, None, None


class _HeadLogprobs(torch.autograd.Function):
    """Log-probabilities of several tokens by position; dh = Σ dlogp · (W[token] − Σ p·W)."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, rows: int) -> Tensor:
        sums, right, mean = _read(hidden, weight, bias, targets, rows, has_mean=ctx.needs_input_grad[0])
        if mean is not None:
            ctx.save_for_backward(mean.to(hidden.dtype), targets)
            ctx.weight = weight  # frozen: no version of it to watch, and no copy
        return right - sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dlogprobs: Tensor) -> tuple[Tensor, None, None, None, None]:
        mean, targets = ctx.saved_tensors
        by_token = dlogprobs.to(mean.dtype)
        gradient = torch.zeros_like(mean)
        for column in range(targets.shape[1]):  # one at a time: all rows at once may be a large part of the matrix
            gradient.addcmul_(ctx.weight[targets[:, column]] - mean, by_token[:, column : column + 1])
        return gradient, None, None, None, None


def _read(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, rows: int, *, has_mean: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Read the matrix once; return log Σ exp of the logits, the targets' logits, and Σ p·W if it is asked for."""
    wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    # the lowest number and not -inf: a chunk may hold nothing else, and -inf - -inf is no number
    highest = hidden.new_full((hidden.shape[0], 1), torch.finfo(wide).min, dtype=wide)
    total = torch.zeros_like(highest)
    right = hidden.new_full(targets.shape, torch.nan, dtype=wide)  # of a target that there is not
    mean = torch.zeros_like(hidden, dtype=wide)  # in bf16 a sum over many chunks would lose its digits
    for start, logits in _logits(hidden, weight, bias, rows):
        new = torch.maximum(highest, logits.amax(dim=1, keepdim=True))
        powers, shrink = torch.exp(logits - new), torch.exp(highest - new)
        total = total * shrink + powers.sum(dim=1, keepdim=True)
        right = _pick(right, logits, targets - start)
        if has_mean:
            mean.mul_(shrink).add_(_times(powers.to(hidden.dtype), weight[start : start + rows]))
        highest = new
    return highest + total.log(), right, mean.div_(total) if has_mean else None


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, rows: int) -> Iterator[tuple[int, Tensor]]:
    """Yield the logits of one chunk of the vocabulary after another, with the chunk's start; in fp32 or float64."""
    for start in range(0, weight.shape[0], rows):
        part = None if bias is None else bias[start : start + rows]
        logits = _linear(hidden, weight[start : start + rows], part)
        yield start, logits if logits.dtype == torch.float64 else logits.float()


def _pick(right: Tensor, logits: Tensor, places: Tensor) -> Tensor:
    """Return the targets' logits where a chunk holds them, and elsewhere what was found before."""
    is_here = (places >= 0) & (places < logits.shape[1])
    found = logits.gather(1, places.clamp(0, logits.shape[1] - 1))
    return torch.where(is_here, found, right)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    is_fast = takes(weight) and x.dtype == torch.float32
    return frozen_linear(x, weight, bias) if is_fast else functional.linear(x, weight, bias)


def _times(x: Tensor, weight: Tensor) -> Tensor:
    """Return x · weight, shape (positions, width)."""
    return _linear(x, weight.t(), None)

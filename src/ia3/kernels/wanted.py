"""Wanted positions: chosen once for a batch, taken out of an activation, and put back among zeros.

This file knows positions; where a model may leave the others out is `fast.last_block`'s matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


@dataclass(frozen=True)
class Wanted:
    """Where the last block's output is read.

    Attributes:
        index: Positions of each example, no one twice; int64, shape (batch, wanted).
        length: Number of positions there are.
    """

    index: Tensor
    length: int


def choose(positions: Tensor) -> Wanted | None:
    """Return as many positions for every example as the one with most of them wants; None if that is all.

    An example that wants fewer gets some that nobody reads: each position occurs once.

    Args:
        positions: bool, shape (batch, seq).

    Example:
        >>> choose(torch.tensor([[False, True, True], [False, False, True]])).index
        tensor([[1, 2],
                [2, 0]])
    """
    wanted = int(positions.sum(dim=1).max()) if positions.numel() else 0
    if wanted == 0 or wanted == positions.shape[1]:
        return None
    index = torch.argsort(positions.int(), dim=1, descending=True, stable=True)[:, :wanted]
    return Wanted(index, positions.shape[1])


def take(x: Tensor, index: Tensor) -> Tensor:
    """Return the wanted positions of an activation, shape (batch, wanted, features).

    Args:
        x: Shape (batch, seq, features).
        index: int64, shape (batch, wanted); no position twice.
    """
    return _Take.apply(x, index)


def put(x: Tensor, index: Tensor, length: int) -> Tensor:
    """Return an activation with zeros where nothing was wanted, shape (batch, length, features); undoes `take`."""
    return _Put.apply(x, index, length)


def _flat(index: Tensor, length: int) -> Tensor:
    return (index + torch.arange(index.shape[0], device=index.device).unsqueeze(1) * length).flatten()


def _taken(x: Tensor, index: Tensor) -> Tensor:
    batch, length, features = x.shape
    return x.reshape(batch * length, features).index_select(0, _flat(index, length)).view(*index.shape, features)


def _put(x: Tensor, index: Tensor, length: int) -> Tensor:
    batch, _, features = x.shape
    spread = x.new_zeros(batch * length, features)
    return spread.index_copy_(0, _flat(index, length), x.reshape(index.numel(), features)).view(batch, length, features)


class _Take(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor) -> Tensor:
        ctx.index, ctx.length = index, x.shape[1]
        return _taken(x, index)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        return _put(dy, ctx.index, ctx.length), None


class _Put(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, length: int) -> Tensor:
        ctx.index = index
        return _put(x, index, length)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:
        return _taken(dy, ctx.index), None, None

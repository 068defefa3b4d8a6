"""Wanted positions: chosen once for a batch, taken out of an activation, and put back among zeros.

This file knows positions; where a model may leave the others out is `fast.last_block`'s matter.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


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
    batch, length, features = x.shape
    return x.reshape(batch * length, features).index_select(0, _flat(index, length)).view(*index.shape, features)


def put(x: Tensor, index: Tensor, length: int) -> Tensor:
    """Return an activation with zeros where nothing was wanted, shape (batch, length, features); undoes `take`."""
    batch, _, features = x.shape
    spread = x.new_zeros(batch * length, features)  # not `index_copy_`: that would keep x for the backward pass
    return spread.index_put_((_flat(index, length),), x.reshape(index.numel(), features)).view(batch, length, features)


def _flat(index: Tensor, length: int) -> Tensor:
    return (index + torch.arange(index.shape[0], device=index.device).unsqueeze(1) * length).flatten()

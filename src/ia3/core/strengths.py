"""Strength: how much of an adapter an example gets, from none (0, the base) to all of it (1), and beyond.

A strength turns the vector l to 1 + s·(l − 1), around one. It belongs to the example and not to the adapter, so a batch
may ask for the same adapter at several strengths. A head is no vector and stays what it is. This file knows numbers; it
knows nothing of banks and modules.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ia3.errors import BankError


@dataclass(frozen=True)
class AtStrength:
    """An adapter at a strength, wherever an adapter's name or row may be given.

    Attributes:
        adapter: Its name or row.
        strength: 0 is the base, 1 the adapter, −1 its negation; any finite number.

    Raises:
        BankError: For a strength that is no finite number.

    Example:
        >>> model(**inputs, rows=["news", AtStrength("news", 0.5)])  # doctest: +SKIP
    """

    adapter: str | int
    strength: float

    def __post_init__(self) -> None:
        if isinstance(self.strength, bool | str) or not _is_finite(self.strength):
            raise BankError(
                f"Choosing adapter {self.adapter!r}: its strength is {self.strength!r}, expected a finite number; 0 is "
                "the base, 1 the adapter."
            )


AdapterRef = str | int | AtStrength  # an adapter by its name or row
AdapterRefs = AdapterRef | Sequence[AdapterRef]  # one for all examples, or one for each


def at_strength(adapter: AdapterRef, strength: float) -> AdapterRef:
    """Return an adapter at a strength; the adapter as it was given where the strength is 1."""
    if strength == 1 and not isinstance(strength, bool):
        return adapter
    return AtStrength(adapter.adapter if isinstance(adapter, AtStrength) else adapter, strength)


def split_strengths(choices: Sequence[AdapterRef]) -> tuple[list[str | int], tuple[float, ...] | None]:
    """Return the adapters and their strengths, None where all are 1."""
    adapters = [choice.adapter if isinstance(choice, AtStrength) else choice for choice in choices]
    strengths = tuple(float(choice.strength) if isinstance(choice, AtStrength) else 1.0 for choice in choices)
    return adapters, None if all(strength == 1 for strength in strengths) else strengths


def turn_rows(rows: Tensor, strengths: Sequence[float]) -> Tensor:
    """Return 1 + s·(l − 1), computed in fp64 and rounded once (on Apple's GPUs, which have no fp64, in fp32).

    Args:
        rows: Shape (batch or 1, width).
        strengths: One for each example.

    Returns:
        Shape (batch, width), dtype of the rows. A strength of 0 gives ones and one of 1 the same bits, whatever the
        numbers are.

    Example:
        >>> turn_rows(torch.tensor([[1.5, 0.0]]), [0.5, 0])
        tensor([[1.2500, 0.5000],
                [1.0000, 1.0000]])
    """
    wide = torch.float32 if rows.device.type == "mps" else torch.float64
    turns = torch.tensor(strengths, dtype=wide, device=rows.device).unsqueeze(1)  # batch 1
    turned = (1 + turns * (rows.to(wide) - 1)).to(rows.dtype)
    turned = torch.where(turns == 1, rows, turned)
    return torch.where(turns == 0, torch.ones((), dtype=rows.dtype, device=rows.device), turned)


def _is_finite(strength: float) -> bool:
    try:
        return math.isfinite(strength)
    except (TypeError, ValueError, OverflowError):
        return False

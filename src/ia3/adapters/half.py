"""Vectors at half their size: l − 1 in float16 or bfloat16, whichever is nearer, with the error measured.

Vectors lie around one, where a float16 has steps of 0.001; l − 1 lies around zero, where its steps are the finer the
nearer a number is to one. A one stays exactly one. This file knows tensors.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

DTYPES = (torch.float16, torch.bfloat16)


def halve(numbers: Tensor) -> Half:
    """Return vectors at half their size, in the dtype that keeps them best.

    Args:
        numbers: Any shape, fp32, finite.

    Example:
        >>> half = halve(torch.tensor([1.0, 1.003, -0.5]))
        >>> half.numbers.dtype, restore(half.numbers)
        (torch.float16, tensor([ 1.0000,  1.0030, -0.5000]))
    """
    return min((halve_as(numbers, dtype) for dtype in DTYPES), key=lambda half: half.error)


def halve_as(numbers: Tensor, dtype: torch.dtype) -> Half:
    """Return vectors as l − 1 in a dtype of two bytes; the error is infinite where a number is beyond its range."""
    half = (numbers.double() - 1).to(dtype)
    differences = (restore(half).double() - numbers.double()).abs()
    return Half(half, float(differences.max()) if numbers.numel() else 0.0)


def restore(half: Tensor) -> Tensor:
    """Return the vectors of `halve`, fp32."""
    return half.to(torch.float32) + 1


@dataclass(frozen=True, eq=False)
class Half:
    """Vectors at half their size."""

    numbers: Tensor  # l − 1, float16 or bfloat16
    error: float  # largest |l' − l|

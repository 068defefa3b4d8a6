"""Arithmetic on rows, around one: what an adapter has learned is its task vector t = l − 1, and ones are the base.

Rows are tensors of shape (adapters, width) of one layout, a bank's or any other; a place where an adapter has no vector
is one. Everything is computed in fp64 and rounded once to the dtype of the rows; sums do not depend on the order of the
adapters. This file knows numbers; what they belong to is `arithmetic`'s matter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from ia3.errors import AdapterError, SettingsError


def scale_row(row: Tensor, strength: float | Tensor) -> Tensor:
    """Return 1 + s·(l − 1): the strength dial. 0 is the base, 1 the adapter, −1 its negation.

    Args:
        row: Shape (width,) or (…, width).
        strength: One number, or one for each row, shape (…).

    Returns:
        A new row of the same shape and dtype; where the strength is 1, the same bits.

    Raises:
        SettingsError: For a strength that is not finite.
        AdapterError: If the result is not finite.

    Example:
        >>> scale_row(torch.tensor([1.5, 0.0]), 0.5)
        tensor([1.2500, 0.5000])
    """
    factor = torch.as_tensor(strength, dtype=torch.float64, device=row.device).unsqueeze(-1)
    if not torch.isfinite(factor).all():
        raise SettingsError(f"Scaling an adapter: the strength is {strength}, expected a finite number.")
    scaled = _rounded(1 + factor * (row.double() - 1), row)
    return torch.where(factor == 1, row, scaled)


def average_rows(rows: Tensor, weights: Sequence[float] | None = None) -> Tensor:
    """Return the weighted mean of the rows, shape (width,).

    Args:
        rows: Shape (adapters, width).
        weights: One for each row, divided by their sum; all the same if left out. Equal rows are returned as they are.

    Raises:
        SettingsError: If the weights are not one finite number for each row, or sum to zero.
        AdapterError: If the result is not finite.
    """
    given = _checked_weights(rows, weights)
    total = math.fsum(given)
    if total == 0:
        raise SettingsError(
            f"Averaging adapters: the weights {_spell(given)} sum to 0, expected another sum. Add them (sum) instead."
        )
    mean = _rounded(_ordered_sum(_column(given, rows) * rows.double()) / total, rows)
    return torch.where((rows == rows[0]).all(dim=0), rows[0], mean)


def add_rows(rows: Tensor, weights: Sequence[float] | None = None) -> Tensor:
    """Return 1 + Σ w·(l − 1), shape (width,): the sum of the task vectors.

    Args:
        rows: Shape (adapters, width).
        weights: One for each row; 1 if left out.

    Raises:
        SettingsError: If the weights are not one finite number for each row.
        AdapterError: If the result is not finite.
    """
    given = _checked_weights(rows, weights)
    if math.fsum(given) == 1:  # the same number, and a single row keeps its bits
        return average_rows(rows, given)
    return _rounded(1 + _ordered_sum(_column(given, rows) * (rows.double() - 1)), rows)


def multiply_rows(rows: Tensor) -> Tensor:
    """Return the product of the vectors, shape (width,): all adapters one behind the other.

    Raises:
        AdapterError: If the result is not finite.
    """
    return _rounded(rows.double().sort(dim=0).values.prod(dim=0), rows)


def merge_rows_by_sign(rows: Tensor, weights: Sequence[float] | None = None, *, density: float = 0.2) -> Tensor:
    """Return the TIES merge of the rows (Yadav et al. 2023, arXiv 2306.01708), shape (width,).

    Trim: of each task vector the `density` largest of its numbers that are not zero are kept, those of equal size with
    the last one as well. Elect: the sign of each channel is that of the weighted sum. Mean: over the adapters that
    agree with it. A channel that nobody holds, or whose sum is exactly zero, is one.

    Args:
        rows: Shape (adapters, width).
        weights: One positive number for each row; all the same if left out.
        density: Share that is kept, above 0 and up to 1.

    Raises:
        SettingsError: For weights or a density out of range.
        AdapterError: If the result is not finite.
    """
    given = _checked_weights(rows, weights)
    if min(given) <= 0:
        raise SettingsError(f"Merging adapters by TIES: the weights are {_spell(given)}, expected numbers above 0.")
    if not 0 < density <= 1:
        raise SettingsError(f"Merging adapters by TIES: the density is {density}, expected above 0 and up to 1.")
    task, weight = rows.double() - 1, _column(given, rows)
    kept = torch.stack([_largest(vector, density) for vector in task])
    elected = _ordered_sum(torch.where(kept, weight * task, 0)).sign()
    agree = kept & (task.sign() == elected) & (elected != 0)
    total = _ordered_sum(torch.where(agree, weight, 0))
    mean = _ordered_sum(torch.where(agree, weight * rows.double(), 0)) / total
    return _rounded(torch.where(total > 0, mean, 1), rows)


def drop_rows(rows: Tensor, drop: float, seed: int) -> Tensor:
    """Return the rows with a random share of their numbers set to one and the rest rescaled (DARE), same shape.

    Of each task vector a share `drop` becomes zero and the rest is divided by 1 − `drop`, so that the expectation
    stays (Yu et al. 2023, arXiv 2311.03099).

    Args:
        rows: Shape (adapters, width) or (width,).
        drop: Probability, from 0 up to but not 1.
        seed: The only source of randomness; what is drawn for a row does not depend on the rows behind it.

    Raises:
        SettingsError: For a probability out of range.
        AdapterError: If the result is not finite.
    """
    if not 0 <= drop < 1:
        raise SettingsError(f"Dropping numbers of adapters: drop is {drop}, expected from 0 up to, but not, 1.")
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(rows.shape, generator=generator, dtype=torch.float64).to(rows.device)
    return torch.where(drawn >= drop, scale_row(rows, 1 / (1 - drop)), 1)


def distance_between(first: Tensor, second: Tensor) -> float:
    """Return the Euclidean distance of two rows, which is that of their task vectors."""
    return float((first.double() - second.double()).norm())


def cosine_between(first: Tensor, second: Tensor) -> float | None:
    """Return the cosine of two task vectors, or None where one of them is the base and has no direction."""
    one, other = first.double() - 1, second.double() - 1
    size = float(one.norm()) * float(other.norm())
    return None if size == 0 else max(-1.0, min(1.0, float(one @ other) / size))


def _largest(task: Tensor, density: float) -> Tensor:
    """Return which numbers of a task vector stay, a mask of shape (width,)."""
    size = task.abs()
    moved = int((size > 0).sum())
    if moved == 0:
        return torch.zeros_like(size, dtype=torch.bool)
    count = max(1, round(density * moved))
    return size >= size.topk(count).values[-1]


def _ordered_sum(terms: Tensor) -> Tensor:
    """Sum over the rows in the order of size, so that the order of the adapters changes no bit."""
    return reduce(torch.add, terms.sort(dim=0).values.unbind())


def _column(weights: Sequence[float], rows: Tensor) -> Tensor:
    return torch.tensor(weights, dtype=torch.float64, device=rows.device).unsqueeze(1)


def _checked_weights(rows: Tensor, weights: Sequence[float] | None) -> list[float]:
    given = [1.0] * len(rows) if weights is None else [float(weight) for weight in weights]
    if len(given) != len(rows) or not given or not all(map(math.isfinite, given)):
        raise SettingsError(
            f"Combining adapters: got {len(given)} weights ({_spell(given)}), expected one finite number for each of "
            f"{len(rows)} adapters."
        )
    return given


def _rounded(result: Tensor, rows: Tensor) -> Tensor:
    rounded = result.to(rows.dtype)
    odd = int((~torch.isfinite(rounded)).sum())
    if odd:
        raise AdapterError(
            f"Combining adapters: {odd} of the {rounded.numel()} numbers of the result are not finite. Give smaller "
            "weights or a smaller strength, and check the adapters."
        )
    return rounded


def _spell(weights: Sequence[float]) -> str:
    return ", ".join(f"{weight:g}" for weight in weights)

"""Adafactor as T-Few uses it: every vector is a parameter of its own, although all of them lie in one row.

Adafactor scales a parameter's update by the size of that parameter and bounds it by that update's own size, so what a
parameter is changes what it does. The vectors of a row are handed to transformers' implementation as views of it. This
file knows rows and widths.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.optimization import Adafactor


class VectorAdafactor(Adafactor):
    """Adafactor over the vectors of a row, and the tensors of a head.

    Args:
        row: The row in training, shape (width,).
        widths: Of its vectors, in order; they sum to the row's width.
        rate: Learning rate of the vectors.
        heads: Tensors of a head, perhaps none.
        head_rate: Their learning rate.
    """

    def __init__(self, row: Tensor, widths: Sequence[int], rate: float, heads: Sequence[Tensor], head_rate: float):
        self._row = row
        self._vectors = [vector.requires_grad_() for vector in row.detach().split(list(widths))]
        groups: list[dict[str, Any]] = [{"params": self._vectors, "lr": rate, "highest": rate}]
        if heads:
            groups.append({"params": list(heads), "lr": head_rate, "highest": head_rate})
        super().__init__(groups, lr=rate, scale_parameter=True, relative_step=False, warmup_init=False)

    def share_gradient(self) -> None:
        """Give every vector its part of the row's gradient, as a view of it."""
        gradient = self._row.grad
        parts = [None] * len(self._vectors) if gradient is None else gradient.split([len(v) for v in self._vectors])
        for vector, part in zip(self._vectors, parts, strict=True):
            vector.grad = part

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients of the row and of the vectors."""
        self._row.grad = None
        super().zero_grad(set_to_none=True)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """Take a step with the gradients that `share_gradient` has given."""
        super().step(closure)

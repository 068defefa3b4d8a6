"""The matrix products of a frozen model's step and nothing else: what no training of it can do without.

The shapes are recorded by hooks on a forward pass over the very batches that are measured; the weights are the model's
own, each at its own place, so that caches behave as in the model. Forward, then the gradient of the input, in the order
of a step; attention's products are left out. This file knows linear layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from benchmarks import ours
from benchmarks.bases import SEED, Case
from benchmarks.methods import Recipe, label_loss
from benchmarks.workload import Work
from ia3.names import Kind


@dataclass(frozen=True)
class Product:
    """One linear layer's call: y = x · weightᵀ with x of shape (rows, in)."""

    weight: Tensor  # (out, in), the model's own memory
    rows: int

    @property
    def operations(self) -> int:
        """Multiplications and additions of the forward product."""
        return 2 * self.rows * self.weight.numel()


def record_products(model: Any, kind: Kind, work: Work) -> list[Product]:
    """Return every product of a linear layer in one forward pass, in order; the head at the labelled positions.

    Args:
        model: A transformers model.
        kind: Its kind.
        work: The step.
    """
    found: list[Product] = []

    def record(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        weight: Tensor = module.weight.detach()  # type: ignore[union-attr,operator,assignment]
        weight = weight.t() if isinstance(module, Conv1D) else weight
        found.append(Product(weight, args[0].numel() // weight.shape[1]))

    linears = [module for module in model.modules() if isinstance(module, nn.Linear | Conv1D)]
    handles = [module.register_forward_hook(record) for module in linears]
    try:
        with torch.no_grad():
            label_loss(model, kind, work)
    finally:
        for handle in handles:
            handle.remove()
    return found


class Products:
    """The products of each step of a chunk, on tensors that are there before.

    Args:
        case: The base.
        works: The steps.
        multiply: x · weightᵀ of some library; None for `torch.mm` into memory that is there before.
    """

    def __init__(
        self, case: Case, works: Sequence[Work], multiply: Callable[[Tensor, Tensor], Tensor] | None = None
    ) -> None:
        self.steps = [record_products(case.model, case.kind, work) for work in works]
        self._multiply = multiply
        generator = torch.Generator().manual_seed(SEED)
        sizes = {(p.rows, size) for step in self.steps for p in step for size in p.weight.shape}
        self._inputs = {size: torch.randn(size, generator=generator) for size in sorted(sizes)}
        self._outputs = {size: torch.zeros(size) for size in sizes}

    def reset(self) -> None:
        """Do nothing: there is no state."""

    def step(self, work: Work) -> None:
        """Run the step's products: forward in order, then the inputs' gradients in the opposite order."""
        products = self.steps[work.number]
        for product in products:
            self._run(product.rows, product.weight)
        for product in reversed(products):
            self._run(product.rows, product.weight.t())

    def _run(self, rows: int, weight: Tensor) -> None:
        outputs, inputs = weight.shape
        if self._multiply is None:
            torch.mm(self._inputs[rows, inputs], weight.t(), out=self._outputs[rows, outputs])
        else:
            self._multiply(self._inputs[rows, inputs], weight)


def _best(case: Case, works: Sequence[Work]) -> Products:
    with torch.no_grad():
        return Products(case, works, ours.fastest_product())


PRODUCTS = {
    "gemm": Recipe(Products, is_training=False),
    "gemm-best": Recipe(_best, is_training=False),
}

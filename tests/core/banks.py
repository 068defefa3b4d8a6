"""A tiny model of a family with a bank on it, and what tests say about such models."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ia3.core.attach import Attachment, attach_bank
from ia3.core.bank import Bank
from ia3.core.discovery import find_plan
from tests.families import make_model


def tiny_model(family: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> Any:
    """Return the family's tiny model with biases that are not zero, as most are in a new model."""
    model = make_model(family, dtype, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") and parameter.dim() == 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.3)
    return model


def attached_model(
    family: str, *names: str, dtype: torch.dtype = torch.float32, trainable: bool = False
) -> tuple[Any, Attachment]:
    """Return a family's model with a bank that holds a random adapter for each name, seeded by its place."""
    model = tiny_model(family, dtype)
    bank = Bank(find_plan(model), dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    attachment = attach_bank(model, bank)
    for place, name in enumerate(names):
        bank.add(name, random_row(bank, seed=place), trainable=trainable)
    return model, attachment


def random_row(bank: Bank, seed: int = 0) -> Tensor:
    """Return a row of numbers between 0.3 and 1.7, some of them negative, in the bank's dtype."""
    generator = torch.Generator().manual_seed(1000 + seed)
    row = 0.3 + 1.4 * torch.rand(bank.plan.width, generator=generator, dtype=torch.float64)
    signs = torch.rand(bank.plan.width, generator=generator) < 0.1
    return torch.where(signs, -row, row).to(bank.dtype)


def largest(difference: Tensor) -> float:
    """Return the largest magnitude; NaN if there is one, so that no comparison holds."""
    return float(difference.detach().abs().max())


def example(inputs: dict[str, Tensor], index: int) -> dict[str, Tensor]:
    """Return one example of a batch as a batch of one."""
    return {name: tensor[index : index + 1] for name, tensor in inputs.items()}

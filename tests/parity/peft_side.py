"""PEFT's side of a comparison: its models made, filled, saved and run, its expected warnings kept quiet."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import IA3Config, PeftModel, get_peft_model
from torch import Tensor

# What PEFT says of every GPT-2 and of a scaled output layer, and transformers of every PEFT model; any other warning
# fails the test.
EXPECTED = ("fan_in_fan_out", "is_gradient_checkpointing", "save_embedding_layers")


def random_vector(shape: tuple[int, ...] | torch.Size, seed: int) -> Tensor:
    """Return numbers far from one, a fifth of them negative, some zero."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(shape, generator=generator) * 1.5 + 0.25
    chance = torch.rand(shape, generator=generator)
    return torch.where(chance < 0.2, -values, torch.where(chance > 0.95, torch.zeros(()), values))


@torch.no_grad()
def draw_adapters(model: Any) -> None:
    """Give the adapters of a model of PEFT's random vectors and heads."""
    for number, (name, parameter) in enumerate(sorted(model.named_parameters())):
        if ".ia3_l." in name:
            parameter.copy_(random_vector(parameter.shape, number))
        elif ".modules_to_save." in name:
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)))


def run_with_peft(base: Any, folder: Path, inputs: dict[str, Tensor]) -> Tensor:
    """Return the logits of a copy of a base with the adapter of a folder, as PEFT loads it."""
    with listening():
        model = PeftModel.from_pretrained(copy.deepcopy(base), str(folder)).eval()
    with torch.no_grad():
        return model(**inputs).logits


def save_with_peft(base: Any, folder: Path, inputs: dict[str, Tensor], **config: Any) -> Tensor:
    """Save a PEFT adapter with random vectors and heads for a base; return the logits of PEFT's model."""
    with listening():
        model = get_peft_model(copy.deepcopy(base), IA3Config(**config)).eval()
        draw_adapters(model)
        model.save_pretrained(str(folder))
    with torch.no_grad():
        return model(**inputs).logits


def difference(got: Tensor, want: Tensor) -> float:
    """Return the largest |difference|, in units of the larger of 1 and the largest |logit|."""
    assert got.shape == want.shape and torch.isfinite(want).all()
    return float(((got - want).abs().max() / want.abs().max().clamp(min=1.0)).detach())


@contextmanager
def listening() -> Iterator[None]:
    """Keep PEFT's expected warnings quiet and fail on any other, such as one of missing keys."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    other = [str(w.message) for w in caught if not any(known in str(w.message) for known in EXPECTED)]
    assert not other, other

"""Trials: whether a replacement gives what it stands for, on numbers that show an epsilon and a bound.

This file knows modules and functions; what is replaced by what is `forwards`' matter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ia3.bases.int8 import Int8Linear
from ia3.core.attach import Attachment
from ia3.core.modes import evaluating
from ia3.core.weights import input_device
from ia3.names import BASE_NAME

EXACT = (torch.float32, torch.float64)
_TOLERANCE = 1e-4  # of a replacement on random numbers, relative to the largest; fp32 and float64


def numbers_like(like: Tensor, width: int) -> Tensor:
    """Return small, usual and large activations to try a module on, shape (1, 3, width).

    The small ones show an epsilon, the large ones a bound; the global random numbers stay where they are.
    """
    random = torch.Generator().manual_seed(0)
    return (torch.randn(1, 3, width, generator=random) * torch.tensor([[1e-3], [1.0], [30.0]])).to(like)


def small_inputs(model: Any) -> dict[str, Any]:
    """Return what a model is tried on: three tokens, for the base alone."""
    ids = torch.tensor([[1, 2, 3]], device=input_device(model))
    inputs: dict[str, Any] = {"input_ids": ids, "rows": BASE_NAME}
    return inputs | {"decoder_input_ids": ids} if model.config.is_encoder_decoder else inputs


def agrees(module: nn.Module, forward: Callable[..., Any], x: Tensor) -> bool:
    """Whether a forward gives what a module's own gives."""
    with evaluating(module):
        try:
            return is_same(module.forward(x), forward(x), _computed_in(module, x))
        except Exception:  # a module that wants more than an activation
            return False


def is_same(found: Tensor, expected: Tensor, dtype: torch.dtype) -> bool:
    """Whether two results agree at every position, relative to its largest number; `dtype` is what was computed in."""
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    tolerance = _TOLERANCE if dtype in EXACT else 2e-2
    difference, size = (x.abs().amax(dim=-1) for x in (found - expected, expected))
    return bool((difference <= tolerance * size).all())


def _computed_in(module: nn.Module, x: Tensor) -> torch.dtype:
    """Return how exactly a module computes: in int8 a last bit before a projection can be a whole step behind it."""
    return torch.int8 if any(isinstance(part, Int8Linear) for part in module.modules()) else x.dtype


def see_outputs(attachment: Attachment) -> None:
    """Let a small pass show which outputs a model writes over, so that a run keeps the same from its first step on."""
    model = attachment.model
    if attachment.overwriting.is_seen(model.training):
        return
    with torch.no_grad(), torch.random.fork_rng(devices=range(torch.cuda.device_count())):  # dropout would draw
        try:
            model(**small_inputs(model))
        except Exception:  # a model that wants other inputs than ids: its first step shows it
            return

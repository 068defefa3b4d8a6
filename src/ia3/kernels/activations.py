"""Activation functions as values with their derivative, so that a backward pass can compute them again.

This file knows the classes of torch and transformers that stand for an activation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

aten = torch.ops.aten


@dataclass(frozen=True)
class Activation:
    """A function of one number.

    Attributes:
        name: What it is called.
        value: x → f(x), a new tensor.
        slope: (dy, x) → dy · f'(x).
    """

    name: str
    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor, Tensor], Tensor]


def _relu_slope(dy: Tensor, x: Tensor) -> Tensor:
    return aten.threshold_backward(dy, x, 0)


_GELU = Activation("gelu", functional.gelu, aten.gelu_backward)
_GELU_TANH = Activation(
    "gelu_tanh", partial(functional.gelu, approximate="tanh"), partial(aten.gelu_backward, approximate="tanh")
)
_SILU = Activation("silu", functional.silu, aten.silu_backward)
_RELU = Activation("relu", functional.relu, _relu_slope)

# `gelu_new` and `gelu_fast` are the tanh form, written out
_BY_CLASS = {
    "GELUActivation": _GELU,
    "GELUTanh": _GELU_TANH,
    "NewGELUActivation": _GELU_TANH,
    "FastGELUActivation": _GELU_TANH,
    "PytorchGELUTanh": _GELU_TANH,
    "SiLUActivation": _SILU,
    "SiLU": _SILU,
    "ReLU": _RELU,
}


def activation_of(module: object) -> Activation | None:
    """Return the activation that a module or function computes, or None for one that is not known.

    Args:
        module: An activation of torch or transformers.
    """
    if isinstance(module, nn.GELU):
        return _GELU_TANH if module.approximate == "tanh" else _GELU
    if isinstance(module, nn.Module):
        return _BY_CLASS.get(type(module).__name__)
    return {functional.gelu: _GELU, functional.silu: _SILU, functional.relu: _RELU, torch.relu: _RELU}.get(module)  # type: ignore[call-overload]

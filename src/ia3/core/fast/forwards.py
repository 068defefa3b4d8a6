"""Forwards that are set on single modules: the output head's, a root-mean-square norm's, a gated feed-forward's.

This file knows one module at a time, by its class and its parts' names; where forwards go and whether they may stay is
`acceleration`'s matter, the mathematics stands in `norms` and `gates`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ia3.core.attach import Attachment
from ia3.core.fast.activations import Activation, activation_of
from ia3.core.fast.gates import gate_and_scale
from ia3.core.fast.int8 import Int8Linear
from ia3.core.fast.norms import rms_norm
from ia3.core.surroundings import surroundings

EXACT = (torch.float32, torch.float64)
WIDE = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

# Names of a gated feed-forward's gate, linear branch, last projection and activation.
_GATED = (("gate_proj", "up_proj", "down_proj", "act_fn"), ("wi_0", "wi_1", "wo", "act"))


def head_forward(plain: Callable[..., Tensor], x: Tensor) -> Tensor:
    """Hand the head's input out, and one number in the logits' place, where somebody is waiting for it."""
    around = surroundings()
    if around.captured is None:
        return plain(x) if around.answer is None else around.answer
    around.captured.append(x)
    return x.new_zeros(*x.shape[:-1], 1)


def norm_forward(module: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """Return the fast form of a root-mean-square norm, or None for another module."""
    name, weight = type(module).__name__, getattr(module, "weight", None)
    epsilon = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if not name.endswith(("RMSNorm", "T5LayerNorm")) or not isinstance(weight, Tensor) or epsilon is None:
        return None
    if weight.dim() != 1 or weight.dtype not in EXACT or weight.requires_grad:
        return None
    # Gemma keeps its weights around zero
    return partial(_norm, module, float(epsilon), 1.0 if name.startswith("Gemma") else 0.0)


def _norm(module: nn.Module, epsilon: float, offset: float, x: Tensor) -> Tensor:
    weight: Any = module.weight
    # cast to half, or trained, since the passes were put on
    if x.dtype != weight.dtype or weight.dtype not in EXACT or weight.requires_grad:
        return type(module).forward(module, x)
    return rms_norm(x, weight + offset if offset else weight, epsilon)


def gated_parts(module: nn.Module) -> tuple[str, str, str, Activation] | None:
    """Return the names of a gated feed-forward's parts and its activation, or None for another module."""
    for gate, linear, last, act in _GATED:
        if all(isinstance(getattr(module, name, None), nn.Linear | Int8Linear) for name in (gate, linear, last)):
            activation = activation_of(getattr(module, act, None))
            return None if activation is None else (gate, linear, last, activation)
    return None


def gated_forward(
    attachment: Attachment,
    module: Any,
    names: tuple[str, str, str],
    activation: Activation,
    group: int | None,
    x: Tensor,
) -> Tensor:
    """Run a gated feed-forward in one function, the vector of its linear branch's group in it; None for no vector."""
    gate, linear, last = (getattr(module, name) for name in names)
    g = gate(x)
    if group is None:
        u, multiplier = linear(x), None
    else:
        with attachment.suspended((group,)):
            u = linear(x)
        multiplier = attachment.spread(group, u)
    z = gate_and_scale(g, u, None if multiplier is None else multiplier.values, activation)
    dropout = getattr(module, "dropout", None)
    z = z if dropout is None else dropout(z)
    return last(z.to(last.weight.dtype) if last.weight.dtype in WIDE else z)  # T5 keeps its last projection in fp32

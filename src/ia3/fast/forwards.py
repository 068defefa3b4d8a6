"""Forwards that are set on single modules: a gated feed-forward's, a root-mean-square norm's, a linear's, the head's.

This file knows one module at a time, by its class and its parts' names; where forwards go and whether they may stay is
`acceleration`'s matter, the mathematics stands in `kernels`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ia3.bases.int8 import Int8Linear
from ia3.core.attach import Attachment
from ia3.core.surroundings import surroundings
from ia3.fast.trial import EXACT, numbers_like
from ia3.kernels.activations import Activation, activation_of
from ia3.kernels.gates import gate_and_scale
from ia3.kernels.norms import rms_norm
from ia3.kernels.products import frozen_linear, takes

_WIDE = (*EXACT, torch.bfloat16, torch.float16)

# Names of a gated feed-forward's gate, linear branch, last projection and activation.
_GATED = (("gate_proj", "up_proj", "down_proj", "act_fn"), ("wi_0", "wi_1", "wo", "act"))


@dataclass(frozen=True)
class Replacement:
    """A forward that may stand in the place of a module's own.

    Attributes:
        forward: It.
        kind: Of modules of one kind the first is tried; None where it is the same function as it stands.
        tried_on: Activations to try it on.
    """

    forward: Callable[[Tensor], Tensor]
    kind: Any = None
    tried_on: Tensor | None = None


def replace_gate(attachment: Attachment, path: str, module: Any) -> Replacement | None:
    """Return a gated feed-forward in one function, the vector of its linear branch in it; None for another module."""
    parts = next((names for names in _GATED if _are_linear(module, names[:3])), None)
    activation = parts and activation_of(getattr(module, parts[3], None))
    if not parts or not activation:
        return None
    gate, linear, last, _ = parts
    branch = getattr(module, linear)
    is_int8 = isinstance(branch, Int8Linear)  # it multiplies by its vector itself
    numbers = {group.module: n for n, group in enumerate(attachment.groups) if group.side == "output"}
    if f"{path}.{gate}" in numbers or not (is_int8 or branch.weight.dtype in _WIDE):
        return None
    group = None if is_int8 else numbers.get(f"{path}.{linear}")
    forward = partial(_gated, attachment, module, (gate, linear, last), activation, group)
    like = branch.scale.to(next(attachment.model.parameters()).dtype) if is_int8 else branch.weight
    return Replacement(forward, (type(module), activation.name), numbers_like(like, branch.in_features))


def _are_linear(module: Any, names: tuple[str, ...]) -> bool:
    return all(isinstance(getattr(module, name, None), nn.Linear | Int8Linear) for name in names)


def _gated(
    attachment: Attachment,
    module: Any,
    names: tuple[str, str, str],
    activation: Activation,
    group: int | None,
    x: Tensor,
) -> Tensor:
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
    return last(z.to(last.weight.dtype) if last.weight.dtype in _WIDE else z)  # T5 keeps its last projection in fp32


def replace_norm(attachment: Attachment, path: str, module: Any) -> Replacement | None:
    """Return the fast form of a root-mean-square norm, or None for another module."""
    name, weight = type(module).__name__, getattr(module, "weight", None)
    epsilon = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if not name.endswith(("RMSNorm", "T5LayerNorm")) or not isinstance(weight, Tensor) or epsilon is None:
        return None
    if weight.dim() != 1 or weight.dtype not in EXACT or weight.requires_grad:
        return None
    # Gemma keeps its weights around zero
    forward = partial(_norm, module, float(epsilon), 1.0 if name.startswith("Gemma") else 0.0)
    return Replacement(forward, type(module), numbers_like(weight, weight.shape[0]))


def _norm(module: Any, epsilon: float, offset: float, x: Tensor) -> Tensor:
    weight: Any = module.weight
    # cast to half, or trained, since the passes were put on
    if x.dtype != weight.dtype or weight.dtype not in EXACT or weight.requires_grad:
        return type(module).forward(module, x)
    return rms_norm(x, weight + offset if offset else weight, epsilon)


def replace_linear(attachment: Attachment, path: str, module: Any) -> Replacement | None:
    """Return a frozen linear whose products come from the fastest library; None where torch has that or it is none."""
    is_frozen = type(module) is nn.Linear and not module.weight.requires_grad
    return Replacement(partial(_linear, module)) if is_frozen and takes(module.weight) else None


def _linear(module: nn.Linear, x: Tensor) -> Tensor:
    weight, bias = module.weight, module.bias
    is_plain = x.dtype == torch.float32 and x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    is_trained = weight.requires_grad or (bias is not None and bias.requires_grad)
    if is_plain and takes(weight) and not is_trained:
        return frozen_linear(x, weight, bias)
    return functional.linear(x, weight, bias)


# In this order: a feed-forward is tried while its projections are what they were.
REPLACEMENTS: Mapping[str, Callable[[Attachment, str, Any], Replacement | None]] = {
    "gates": replace_gate,
    "norms": replace_norm,
    "linears": replace_linear,
}


def head_forward(plain: Callable[..., Tensor], x: Tensor) -> Tensor:
    """Hand the head's input out, and one number in the logits' place, where somebody is waiting for it."""
    around = surroundings()
    if around.captured is None:
        return plain(x) if around.answer is None else around.answer
    around.captured.append(x)
    return x.new_zeros(*x.shape[:-1], 1)

"""The gated feed-forward with its vector in one function: z = f(g) · (u · l), keeping g and u alone.

Autograd would keep g, f(g), u and u · l, each of tokens × d_ff; here f(g) and the products are computed again in the
backward pass, so that a gated block keeps two thirds of what the frozen one keeps. `gate_plain` is the reference. This
file knows tensors; which modules it stands for is `acceleration`'s matter.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ia3.kernels.activations import Activation


def gate_plain(gate: Tensor, linear: Tensor, l: Tensor | None, activation: Activation) -> Tensor:
    """Return f(gate) · (linear · l) by autograd's own multiplies; see `gate_and_scale`."""
    scaled = linear if l is None else (linear * l).to(linear.dtype)
    return activation.value(gate) * scaled


def gate_and_scale(gate: Tensor, linear: Tensor, l: Tensor | None, activation: Activation) -> Tensor:
    """Return f(gate) · (linear · l), keeping `gate` and `linear` for the backward pass and nothing else.

    Args:
        gate: Output of the gate's projection, shape (batch, …, width), any floating dtype.
        linear: Output of the linear branch, the same shape and dtype.
        l: Vectors that broadcast against it, fp32 or float64: shape (width,), (1, …, 1, width) or (batch, 1, …, width);
            None for ones.
        activation: f.

    Returns:
        Shape and dtype of `gate`, bit for bit what `gate_plain` gives. There is no second derivative.
    """
    return _GateAndScale.apply(gate, linear, l, activation)


class _GateAndScale(torch.autograd.Function):
    """z = f(g) · (u · l)."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, linear: Tensor, l: Tensor | None, activation: Activation) -> Tensor:
        ctx.save_for_backward(gate, linear, l)
        ctx.activation = activation
        if l is None:
            return activation.value(gate).mul_(linear)
        scaled = (linear * l).to(linear.dtype)
        return scaled.mul_(activation.value(gate))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dz: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        gate, linear, l = ctx.saved_tensors
        needs_gate, needs_linear, needs_l, _ = ctx.needs_input_grad
        dgate = dlinear = dl = None
        if needs_gate:
            scaled = linear if l is None else (linear * l).to(linear.dtype)
            dgate = ctx.activation.slope(dz * scaled, gate)
        if needs_linear or needs_l:
            dscaled = ctx.activation.value(gate).mul_(dz)  # gradient of u · l
            if needs_l:
                dl = (dscaled.to(l.dtype) * linear).sum_to_size(l.shape)
            if needs_linear:
                dlinear = dscaled if l is None else (dscaled * l).to(dscaled.dtype)
        return dgate, dlinear, dl, None

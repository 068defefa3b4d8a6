"""The multiply: y = x · l, plainly and with a backward pass that keeps y instead of x.

Autograd's multiply keeps x, which a frozen projection would have dropped. Attention keeps its keys and values anyway,
so keeping y costs nothing more, and the vector's gradient follows from it: dl = Σ dy · x = Σ dy · y / l. Where some |l|
is too small to divide by, x is kept and the sum is taken exactly. `scale_plain` is the reference the tests hold `scale`
to. This file knows shapes and dtypes only; which vector belongs where is `attach`'s matter.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Below this |l| the quotient y / l would lose digits (or be 0 / 0): y = x·l is then near the smallest numbers of fp16.
SMALLEST_DIVISOR = 1e-3


def scale_plain(x: Tensor, l: Tensor) -> Tensor:
    """Return x · l in x's dtype, the product taken in the wider of both dtypes (paper §3.3, eq. for l_k, l_v, l_ff).

    Args:
        x: Activations, shape (batch, …, channels).
        l: Vectors, shape (channels,), (1, channels) or (batch, channels); fp32, or float64 with a float64 base.

    Returns:
        Shape and dtype of `x`.
    """
    return (x * broadcast(l, x)).to(x.dtype)


def scale(x: Tensor, l: Tensor, *, keeps_input: bool | None = None) -> Tensor:
    """Return x · l like `scale_plain`, with a backward pass that keeps the output instead of the input.

    Args:
        x: Activations, shape (batch, …, channels), any floating dtype.
        l: Vectors, shape (channels,), (1, channels) or (batch, channels), or broadcast against `x` already.
        keeps_input: Whether an |l| is too small to divide by, if that is known; asking the numbers costs a GPU a wait.

    Returns:
        Shape and dtype of `x`. Gradients reach both arguments once; there is no second derivative.
    """
    spread = broadcast(l, x)
    if not (torch.is_grad_enabled() and l.requires_grad):
        return (x * spread).to(x.dtype)
    return _Scale.apply(x, spread, has_small(l) if keeps_input is None else keeps_input)


def has_small(l: Tensor) -> bool:
    """Whether a number of `l` is too near to zero for the gradient to be divided by it."""
    return bool((l.detach().abs() < SMALLEST_DIVISOR).any())


def broadcast(l: Tensor, x: Tensor) -> Tensor:
    """View (rows, channels) as (rows, 1, …, 1, channels) with as many axes as `x`."""
    if l.dim() == 1 or l.dim() == x.dim() > 2:
        return l
    if x.dim() == 1:  # one unbatched vector: only a single row fits
        return l.view(l.shape[1])
    return l.view(l.shape[0], *(1,) * (x.dim() - 2), l.shape[1])


class _Scale(torch.autograd.Function):
    """y = x · l; keeps (y, l), or (x, l) where a divisor would be too small."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, l: Tensor, keeps_input: bool) -> Tensor:
        y = (x * l).to(x.dtype)
        ctx.keeps_input = keeps_input
        ctx.save_for_backward(x if keeps_input else y, l)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        kept, l = ctx.saved_tensors
        dx = (dy * l).to(dy.dtype) if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return dx, None, None
        # Multiply and sum: a reduction by einsum was 50 times slower on two AVX-512 cores.
        dl = (dy.to(l.dtype) * kept).sum_to_size(l.shape)
        return dx, dl if ctx.keeps_input else dl / l, None

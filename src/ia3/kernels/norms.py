"""Root-mean-square norms with a frozen weight in one function: y = x / √(mean(x²) + ε) · w, keeping x and 1 / √(…).

Written out as transformers has it, autograd keeps the normed activation as well and walks over the memory nine times.
This file knows tensors; which modules it stands for is `acceleration`'s matter.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def rms_norm_plain(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Return x / √(mean(x²) + ε) · weight by autograd's own operations; see `rms_norm`."""
    return x * torch.rsqrt(x.pow(2).mean(dim=-1, keepdim=True) + epsilon) * weight


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Return x / √(mean(x²) + ε) · weight, the mean over the last axis (Zhang & Sennrich 2019, arXiv 1910.07467).

    Args:
        x: Shape (…, width), fp32 or float64.
        weight: Shape (width,), of the same dtype; a constant.
        epsilon: ε.

    Returns:
        Shape of `x`. There is no second derivative.
    """
    return _RMSNorm.apply(x, weight, epsilon)


class _RMSNorm(torch.autograd.Function):
    """With r = 1 / √(mean(x²) + ε): dx = r · (dy·w − x · r² · mean(dy·w · x))."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        square = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_()
        reciprocal = square.div_(x.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight, reciprocal)
        return (x * reciprocal).mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:
        x, weight, reciprocal = ctx.saved_tensors
        dnormed = dy * weight
        mean = (dnormed * x).sum(dim=-1, keepdim=True).mul_(reciprocal.pow(3)).div_(x.shape[-1])
        return dnormed.mul_(reciprocal).addcmul_(x, mean, value=-1), None, None

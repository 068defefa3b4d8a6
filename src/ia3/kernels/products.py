"""Products with frozen weights: y = x·Wᵀ + b, and dx = dy·W with nothing kept and no gradient of the weight.

On a CPU torch takes these products from MKL, which uses the 256-bit instructions on processors that are not Intel's;
oneDNN, which torch brings too, has AVX-512 kernels for all of them (on an AMD Zen 5 the same product takes 0.45 times
as long). Which library is taken depends on the processor alone and never on a measurement, so that a seed gives the
same bits every time. This file knows matrices; it knows nothing of models.
"""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Library = Literal["torch", "onednn"]


@cache
def fastest_library() -> Library:
    """Return which library's fp32 products are faster on this processor: `onednn` where MKL leaves AVX-512 unused."""
    has_wide = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    is_present = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return "onednn" if has_wide and is_present and _vendor() not in ("GenuineIntel", "") else "torch"


def _vendor() -> str:
    """Return the processor's vendor as it names itself, or nothing where the system does not tell."""
    if platform.system() != "Linux":
        return "AuthenticAMD" if "AuthenticAMD" in platform.processor() else ""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")), "")


def frozen_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x · weightᵀ + bias from oneDNN, differentiable in `x` alone.

    Args:
        x: Shape (…, in), fp32, on the CPU.
        weight: Shape (out, in), fp32, on the CPU; a constant.
        bias: Shape (out,), or None; a constant.

    Returns:
        Shape (…, out). Nothing but the weight itself is kept for the backward pass.
    """
    if torch.is_grad_enabled() and x.requires_grad:
        return _FrozenLinear.apply(x, weight, bias)
    return _product(x, weight, bias)


def takes(weight: Tensor) -> bool:
    """Whether a weight may go through `frozen_linear` on this processor."""
    is_plain = weight.dtype == torch.float32 and weight.layout == torch.strided and type(weight) in _PLAIN
    return is_plain and weight.device.type == "cpu" and weight.dim() == 2 and fastest_library() == "onednn"


_PLAIN = (Tensor, nn.Parameter)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


class _FrozenLinear(torch.autograd.Function):
    """y = x·Wᵀ + b; the weight is held by the model, so that it counts as nothing kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        y = _product(x, weight, bias)
        # of more than two axes it is a view, and autograd lets no model write over one (OLMo clips its keys in place)
        storage = y.untyped_storage()
        return y.new_empty(0).set_(storage, y.storage_offset(), y.shape, y.stride()) if y._is_view() else y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return _product(dy, weight.t(), None), None, None

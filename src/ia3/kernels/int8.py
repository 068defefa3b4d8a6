"""A frozen projection in int8: y = (x8 · W8) · row scale · channel scale · l + bias · l.

The weight has one scale for each output channel, an activation one for each token, taken when it comes (symmetric, by
the largest number), so that an example gives the same numbers in every batch. Sums are exact in int32. A few input
channels of a transformer are many times larger than the rest and would leave them few of the 127 steps: activations are
divided by a power of two for each input channel, by which the weight was multiplied before it was rounded (SmoothQuant,
Xiao et al. 2023, arXiv 2211.10438). A vector on the output costs nothing: it goes into the channel scales. Gradients of
the input are taken in fp32 on a float copy of the weight that is gone afterwards, or, where asked for, with dy · scales
rounded to int8 like an activation (as SwitchBack does, Wortsman et al. 2023, arXiv 2304.13013: a frozen weight has no
gradient of its own, the one product that cannot bear it). Nothing but the output is kept.

`int8_plain` is the reference. This file knows tensors; the module that holds them is `bases.int8`'s matter.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from ia3.kernels.products import frozen_linear, takes
from ia3.kernels.scaling import has_small

STEPS = 127  # of int8 on each side of zero
SMALLEST_SCALE = 1e-30  # for tokens and channels of zeros
# Share of the difference in size that the weight takes over. Of 0.5, 0.65 and 0.8 Gemma 3 270M lost least with 0.65.
SMOOTHING = 0.65


def quantise_weight(weight: Tensor, divisors: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return a weight in int8 with the scale of each output channel.

    Args:
        weight: Shape (out, in), any floating dtype.
        divisors: What the activations are divided by, shape (in,); None for ones.

    Returns:
        int8 of shape (in, out), contiguous, and fp32 scales of shape (out,): weight · divisors ≈ int8ᵀ · scale.
    """
    wide = weight.detach().float() if divisors is None else weight.detach().float() * divisors
    largest = wide.abs().amax(dim=1)
    scale = torch.where(largest > 0, largest / STEPS, 1.0).clamp_min(SMALLEST_SCALE)
    return (wide / scale.unsqueeze(1)).round_().to(torch.int8).t().contiguous(), scale


def find_divisors(weight: Tensor, largest: Tensor) -> Tensor:
    """Return powers of two that bring the input channels nearer to one size, shape (in,), fp32.

    Args:
        weight: Shape (out, in).
        largest: The largest |activation| seen in each input channel, shape (in,).
    """
    of_weight = weight.detach().float().abs().amax(dim=0)
    is_used = (of_weight > 0) & (largest > 0) & largest.isfinite()
    exponent = SMOOTHING * largest.float().log2() - (1 - SMOOTHING) * of_weight.log2()
    return torch.where(is_used, exponent, 0.0).round().clamp(-60, 60).exp2()


def has_int8_products(device: torch.device, rows: int, inputs: int, outputs: int) -> bool:
    """Whether a product of these sizes is faster in int8: on CPUs with VNNI, on GPUs within cuBLAS' limits."""
    if device.type == "cpu":
        return bool(torch.cpu._is_vnni_supported())
    return device.type == "cuda" and rows > 16 and inputs % 8 == 0 and outputs % 8 == 0


def int8_linear(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    divisors: Tensor | None = None,
    l: Tensor | None = None,
    *,
    keeps_unscaled: bool | None = None,
    rounds_gradients: bool = False,
) -> Tensor:
    """Return (x / divisors rounded to int8) · weight · scale · l + bias · l, differentiable in `x` and `l`.

    Args:
        x: Shape (…, in), any floating dtype; computed in fp32, or float64 for float64.
        weight: int8, shape (in, out); a constant, as are the next three.
        scale: fp32, shape (out,).
        bias: Shape (out,), or None.
        divisors: fp32, shape (in,), or None for ones.
        l: Vectors that broadcast against the output, fp32 or float64; None for ones.
        keeps_unscaled: Whether an |l| is too small to divide by, if that is known (see `scaling`).
        rounds_gradients: Whether the product that gives dx is in int8 too; dl never is.

    Returns:
        Shape (…, out), dtype of `x`. The rounding of `x` counts as no operation: dx is that of a product with the
        numbers that the weight stands for. There is no second derivative.
    """
    needs_l = l is not None and l.requires_grad
    if not (torch.is_grad_enabled() and (x.requires_grad or needs_l)):
        return _outputs(_sums(x, weight, divisors), scale, bias, l).to(x.dtype)
    keeps = needs_l and (has_small(l) if keeps_unscaled is None else keeps_unscaled)  # type: ignore[arg-type]
    return _Int8Linear.apply(x, weight, scale, bias, divisors, l, keeps, rounds_gradients)


def int8_plain(
    x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, divisors: Tensor | None, l: Tensor | None
) -> Tensor:
    """Return what `int8_linear` does, from sums in float64 and autograd's own multiply by `l`."""
    wide = x.double() if divisors is None else x.double() / divisors
    row_scale = (wide.abs().amax(dim=-1, keepdim=True) / STEPS).clamp_min(SMALLEST_SCALE)
    y = ((wide / row_scale).round() @ weight.double()) * row_scale * scale.double()
    y = y if bias is None else y + bias.double()
    return (y if l is None else y * l.double()).to(x.dtype)


def _sums(x: Tensor, weight: Tensor, divisors: Tensor | None) -> Tensor:
    """Return Σ x8 · W8 · row scale, shape (…, out), fp32 or float64; not yet scaled by channel."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    if divisors is not None:
        wide = wide / divisors
    largest = torch.maximum(wide.amax(dim=-1, keepdim=True), wide.amin(dim=-1, keepdim=True).neg_())
    scale = largest.div_(STEPS).clamp_min_(SMALLEST_SCALE)
    rounded = (wide / scale if divisors is None else wide.div_(scale)).round_()
    if has_int8_products(x.device, x.numel() // x.shape[-1], *weight.shape):
        whole = torch._int_mm(rounded.to(torch.int8).reshape(-1, x.shape[-1]), weight)
        sums = whole.view(*x.shape[:-1], weight.shape[1]).to(wide.dtype)  # no view: a model may write over the output
    else:
        sums = rounded @ weight.to(wide.dtype)
    return sums.mul_(scale)  # a number that is none stays none through its scale


def _outputs(sums: Tensor, scale: Tensor, bias: Tensor | None, l: Tensor | None) -> Tensor:
    """Return sums · scale · l + bias · l; writes over `sums` where there is no bias."""
    factor = (scale if l is None else scale * l).to(sums.dtype)
    if bias is None:
        return sums.mul_(factor)
    offset = (bias if l is None else bias * l).to(sums.dtype)
    return torch.addcmul(offset, sums, factor)


class _Int8Linear(torch.autograd.Function):
    """Keeps (y, l), or (y before l, l) where a divisor would be too small; weight and scales are held by the module."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        scale: Tensor,
        bias: Tensor | None,
        divisors: Tensor | None,
        l: Tensor | None,
        keeps_unscaled: bool,
        rounds_gradients: bool,
    ) -> Tensor:
        sums = _sums(x, weight, divisors)
        if keeps_unscaled and l is not None:
            kept = _outputs(sums, scale, bias, None).to(x.dtype)
            y = (kept * l).to(x.dtype)
        else:
            y = kept = _outputs(sums, scale, bias, l).to(x.dtype)
        ctx.keeps_unscaled, ctx.rounds_gradients, ctx.dtype = keeps_unscaled, rounds_gradients, x.dtype
        ctx.save_for_backward(weight, scale, divisors, l, kept if l is not None and l.requires_grad else None)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        weight, scale, divisors, l, kept = ctx.saved_tensors
        dx = dl = None
        if ctx.needs_input_grad[5]:
            dl = (dy.to(l.dtype) * kept).sum_to_size(l.shape)
            dl = dl if ctx.keeps_unscaled else dl / l
        if ctx.needs_input_grad[0]:
            scaled = dy.to(torch.promote_types(ctx.dtype, torch.float32)) * (scale if l is None else scale * l)
            dx = _sums(scaled, weight.t(), None) if ctx.rounds_gradients else _product_of_gradient(scaled, weight)
            dx = (dx if divisors is None else dx.div_(divisors)).to(ctx.dtype)
        return dx, None, None, None, None, dl, None, None


def _product_of_gradient(dy: Tensor, weight: Tensor) -> Tensor:
    """Return dy · weightᵀ, shape (…, in), from a float copy of the weight; dtype of `dy`."""
    copy = weight.to(dy.dtype)  # (in, out)
    return frozen_linear(dy, copy) if takes(copy) else functional.linear(dy, copy)

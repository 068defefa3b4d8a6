"""The root-mean-square norm in one function equals the plain one, forward and gradient, and keeps its input alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ia3.kernels.norms import rms_norm, rms_norm_plain
from tests.kernels.kept import Kept

DTYPES = {"fp32": torch.float32, "fp64": torch.float64}
SHAPES = [(2, 3, 5), (7,), (1,), (3, 1), (0, 5), (2, 0, 5), (4, 2, 3, 7), (1, 1, 33)]


def _numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def _run(norm: Callable[..., Tensor], x: Tensor, weight: Tensor, epsilon: float, dy: Tensor) -> tuple[Tensor, Tensor]:
    leaf = x.detach().requires_grad_(True)
    y = norm(leaf, weight, epsilon)
    return y.detach(), torch.autograd.grad(y, leaf, dy)[0]


def _assert_same(x: Tensor, weight: Tensor, epsilon: float = 1e-6) -> None:
    dy = _numbers(*x.shape, seed=9, dtype=x.dtype)
    fast, plain = (_run(norm, x, weight, epsilon, dy) for norm in (rms_norm, rms_norm_plain))
    # the gradient is a difference, and what each of its terms is rounded by is left
    terms = dy * weight * torch.rsqrt(x.pow(2).mean(dim=-1, keepdim=True) + epsilon)
    for found, expected, size in zip(fast, plain, (plain[0], terms), strict=True):
        largest = float(size.abs().max()) if size.numel() else 0.0
        torch.testing.assert_close(found, expected, rtol=0, atol=16 * torch.finfo(x.dtype).eps * largest)


@pytest.mark.parametrize("epsilon", [1e-6, 1e-2], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_fast_equals_plain_in_every_dtype_and_shape(dtype: torch.dtype, shape: tuple[int, ...], epsilon: float) -> None:
    _assert_same(_numbers(*shape, dtype=dtype), _numbers(shape[-1], seed=1, dtype=dtype), epsilon)


@settings(max_examples=25)
@given(
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    size=st.sampled_from([1e-12, 1e-4, 1.0, 1e5, 1e12]),
    weights=st.lists(st.sampled_from([0.0, 1.0, -1.0, 0.5, 30.0]), min_size=5, max_size=5),
)
def test_fast_equals_plain_for_drawn_shapes_sizes_and_weights(
    shape: list[int], size: float, weights: list[float]
) -> None:
    _assert_same(_numbers(*shape, dtype=torch.float32) * size, torch.tensor(weights[: shape[-1]]))


def test_a_position_of_zeros_stays_zero_and_has_a_finite_gradient() -> None:
    x, weight = _numbers(3, 4, dtype=torch.float32), _numbers(4, seed=1, dtype=torch.float32)
    x[1] = 0
    _assert_same(x, weight)
    y, dx = _run(rms_norm, x, weight, 1e-6, torch.ones(3, 4))
    assert torch.equal(y[1], torch.zeros(4)) and bool(dx.isfinite().all())


def test_fast_equals_plain_on_strided_inputs() -> None:
    whole = _numbers(6, 8, 10, dtype=torch.float32)
    for x in (whole[::2], whole[:, 1::3], whole[..., ::2], whole.transpose(0, 2), whole[:1].expand(6, 8, 10)):
        _assert_same(x, _numbers(x.shape[-1], seed=1, dtype=torch.float32))


@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 2, 4)], ids=str)
def test_gradcheck_in_float64(shape: tuple[int, ...]) -> None:
    x, weight = _numbers(*shape).requires_grad_(True), _numbers(shape[-1], seed=1)
    assert torch.autograd.gradcheck(lambda x: rms_norm(x, weight, 1e-3), (x,))


def test_a_second_derivative_is_refused_not_wrong() -> None:
    x = _numbers(2, 3).requires_grad_(True)
    (dx,) = torch.autograd.grad(rms_norm(x, torch.ones(3).double(), 1e-6).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dx.sum().backward()


def test_what_it_was_given_is_never_written() -> None:
    x, weight, dy = _numbers(2, 3).requires_grad_(True), _numbers(3, seed=1), _numbers(2, 3, seed=2)
    rms_norm(x, weight, 1e-6).backward(dy)
    assert x._version == weight._version == dy._version == 0


def test_the_input_and_one_number_a_position_are_kept() -> None:
    x, weight = _numbers(4, 5, 6, dtype=torch.float32).requires_grad_(True), torch.nn.Parameter(torch.ones(6))
    with Kept(besides=[weight]) as kept:
        rms_norm(x, weight, 1e-6)
    assert kept.holds(x)
    assert kept.total == (4 * 5 * 6 + 4 * 5) * 4
    with Kept(besides=[weight]) as kept, torch.no_grad():
        rms_norm(x, weight, 1e-6)
    assert not kept.bytes

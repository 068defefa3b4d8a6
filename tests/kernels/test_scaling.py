"""The fast multiply equals the plain one, forward and gradient, and keeps the output instead of the input."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ia3.kernels.scaling import SMALLEST_DIVISOR, scale, scale_plain

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32, "fp64": torch.float64}
# Relative error of the gradient: y = x · l is rounded to x's dtype before it is divided by l again.
TOLERANCE = {torch.bfloat16: 2**-8, torch.float16: 2**-11, torch.float32: 1e-5, torch.float64: 1e-13}
SHAPES = [(2, 3, 5), (1, 1, 1), (3, 1), (2, 1, 1), (0, 3, 5), (2, 0, 5), (4, 2, 3, 7), (3, 5), (2, 2, 1)]


def _numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def _run(multiply: Callable[[Tensor, Tensor], Tensor], x: Tensor, l: Tensor, dy: Tensor) -> tuple[Tensor, ...]:
    """Return y, dx and dl."""
    x, l = x.detach().requires_grad_(True), l.detach().requires_grad_(True)
    y = multiply(x, l)
    return (y.detach(), *torch.autograd.grad(y, (x, l), dy))


def _assert_same(x: Tensor, l: Tensor) -> None:
    dy = _numbers(*x.shape, seed=9, dtype=x.dtype)
    fast, plain = _run(scale, x, l, dy), _run(scale_plain, x, l, dy)
    for found, expected, what in zip(fast, plain, ("y", "dx", "dl"), strict=True):
        assert found.dtype == expected.dtype, what
        assert found.shape == expected.shape, what
    assert torch.equal(fast[0], plain[0])
    assert torch.equal(fast[1], plain[1])
    # every term of the sum may be off by one rounding of y
    size = (dy.double() * x.double()).abs().sum_to_size(_spread(l, x).shape).view(l.shape)
    assert bool(((fast[2] - plain[2]).double().abs() <= TOLERANCE[x.dtype] * size + 1e-30).all())


def _spread(l: Tensor, x: Tensor) -> Tensor:
    return l if l.dim() == 1 else l.view(l.shape[0], *(1,) * (x.dim() - 2), l.shape[1])


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("layout", ["flat", "one row", "row per example"])
def test_fast_equals_plain_for_every_dtype_shape_and_layout(
    dtype: torch.dtype, shape: tuple[int, ...], layout: str
) -> None:
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    rows = {"flat": (), "one row": (1,), "row per example": (shape[0],)}[layout]
    l = _numbers(*rows, shape[-1], seed=1, dtype=wide)
    _assert_same(_numbers(*shape, dtype=dtype), torch.where(l.abs() < 0.1, l + 0.5, l))


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("special", [0.0, -0.0, 1e-8, -1e-8, SMALLEST_DIVISOR, -SMALLEST_DIVISOR, 1.0, -3.0])
def test_fast_equals_plain_for_zero_tiny_and_negative_numbers(dtype: torch.dtype, special: float) -> None:
    l = torch.tensor([1.5, special, -0.7], dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    _assert_same(_numbers(2, 4, 3, dtype=dtype), l)


def test_fast_equals_plain_on_strided_inputs() -> None:
    whole = _numbers(6, 8, 10, dtype=torch.float32)
    for x in (whole[::2], whole[:, 1::3], whole[..., ::2], whole.transpose(0, 2), whole.expand(6, 8, 10)[:, :1]):
        _assert_same(x, _numbers(x.shape[0], x.shape[-1], seed=1, dtype=torch.float32).abs() + 0.1)
        _assert_same(x, _numbers(x.shape[-1], seed=1, dtype=torch.float32).abs() + 0.1)


def test_fast_equals_plain_where_the_gradient_is_strided_or_expanded() -> None:
    x, l = _numbers(2, 3, 4, dtype=torch.float32), _numbers(2, 4, seed=1, dtype=torch.float32) + 3
    dy = torch.ones(()).expand(2, 3, 4)
    for found, expected in zip(_run(scale, x, l, dy), _run(scale_plain, x, l, dy), strict=True):
        torch.testing.assert_close(found, expected)


@settings(max_examples=25, deadline=None)
@given(
    shape=st.lists(st.integers(0, 4), min_size=2, max_size=4),
    rows=st.sampled_from(["flat", "one", "each"]),
    numbers=st.lists(st.sampled_from([0.0, 1.0, -1.0, 1e-3, -1e-4, 0.5, 2.0, -3.0]), min_size=16, max_size=16),
)
def test_fast_equals_plain_for_drawn_shapes_and_numbers(shape: list[int], rows: str, numbers: list[float]) -> None:
    width = shape[-1]
    height = {"flat": 0, "one": 1, "each": shape[0]}[rows]
    l = torch.tensor([numbers[i % 16] for i in range(max(height, 1) * width)], dtype=torch.float32)
    l = l[:width] if rows == "flat" else l[: height * width].view(height, width)
    _assert_same(_numbers(*shape, dtype=torch.float32), l)


@pytest.mark.parametrize("layout", [(3,), (1, 3), (2, 3)], ids=["flat", "one row", "row per example"])
@pytest.mark.parametrize("smallest", [0.5, 0.0], ids=["output kept", "input kept"])
def test_gradcheck_in_float64(layout: tuple[int, ...], smallest: float) -> None:
    l = _numbers(*layout, seed=1).abs() + 0.5
    l.view(-1)[0] = smallest
    x = _numbers(2, 4, 3).requires_grad_(True)
    assert torch.autograd.gradcheck(scale, (x, l.requires_grad_(True)))


def test_gradients_reach_only_what_asks_for_them() -> None:
    x, l = _numbers(2, 3, dtype=torch.float32), torch.ones(3) + 0.5
    assert not scale(x, l).requires_grad
    assert scale(x, l.clone().requires_grad_(True)).requires_grad
    assert scale(x.clone().requires_grad_(True), l).requires_grad
    with torch.no_grad():
        assert not scale(x, l.clone().requires_grad_(True)).requires_grad


def test_a_second_derivative_is_refused_not_wrong() -> None:
    x, l = _numbers(2, 3).requires_grad_(True), (_numbers(3).abs() + 1).requires_grad_(True)
    (dl,) = torch.autograd.grad(scale(x, l).square().sum(), l, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dl.sum().backward()


class _Kept:
    """Storages that autograd keeps for the backward pass inside the scope, by address, with their sizes in bytes."""

    def __init__(self) -> None:
        self.bytes: dict[int, int] = {}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)

    def _pack(self, tensor: Tensor) -> Tensor:
        self.bytes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    def __enter__(self) -> _Kept:
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_the_output_is_kept_and_not_the_input(dtype: torch.dtype) -> None:
    x, l = _numbers(4, 5, 6, dtype=dtype), torch.full((4, 6), 0.5, requires_grad=True)
    with _Kept() as kept:
        y = scale(x, l)
    addresses = {y.untyped_storage().data_ptr(), l.untyped_storage().data_ptr()}
    assert set(kept.bytes) == addresses
    assert sum(kept.bytes.values()) == 4 * 5 * 6 * dtype.itemsize + 4 * 6 * 4
    with _Kept() as plainly:
        scale_plain(x, l)
    assert set(plainly.bytes) == {x.untyped_storage().data_ptr()}


def test_with_a_number_too_small_to_divide_by_the_input_is_kept() -> None:
    x, l = _numbers(4, 5, 6, dtype=torch.float32), torch.full((6,), 0.5)
    l[2] = 1e-9
    with _Kept() as kept:
        scale(x, l.requires_grad_(True))
    assert set(kept.bytes) == {x.untyped_storage().data_ptr(), l.untyped_storage().data_ptr()}


def test_a_next_operation_that_keeps_the_output_too_costs_nothing_more() -> None:
    x, l = _numbers(4, 5, 6, dtype=torch.float32), torch.full((6,), 0.5, requires_grad=True)
    query = _numbers(4, 6, 5, dtype=torch.float32).requires_grad_(True)
    with _Kept() as kept:
        torch.bmm(scale(x, l), query)
    assert sum(kept.bytes.values()) == (4 * 5 * 6 + 6 + 4 * 6 * 5) * 4


def test_one_vector_of_channels_keeps_its_shape() -> None:
    x = _numbers(5, dtype=torch.float32)
    for l in (torch.full((5,), 2.0), torch.full((1, 5), 2.0), torch.full((1, 5), 2.0, requires_grad=True)):
        assert torch.equal(scale(x, l), 2 * x)


def test_not_a_number_stays_where_it_is() -> None:
    x = _numbers(2, 3, 4, dtype=torch.float32)
    l = torch.ones(2, 4)
    l[0, 1] = torch.nan
    y, dx, dl = _run(scale, x, l, torch.ones_like(x))
    assert int(y.isnan().sum()) == int(dx.isnan().sum()) == 3
    assert int(dl.isnan().sum()) == 1

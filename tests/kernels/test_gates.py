"""The gated product with its vector equals the plain one, forward and gradient, and keeps two tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ia3.kernels.activations import Activation, activation_of
from ia3.kernels.gates import gate_and_scale, gate_plain
from tests.kernels.kept import Kept, address

ACTIVATIONS: dict[str, Any] = {
    "silu": activation_of(nn.SiLU()),
    "gelu": activation_of(nn.GELU()),
    "gelu_tanh": activation_of(nn.GELU(approximate="tanh")),
    "relu": activation_of(nn.ReLU()),
}
SILU: Activation = ACTIVATIONS["silu"]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32, "fp64": torch.float64}
SHAPES = [(2, 3, 5), (1, 1, 1), (3, 7), (2, 1, 1), (0, 3, 5), (2, 0, 5), (2, 3, 0), (2, 3, 2, 7)]
LAYOUTS = ["none", "flat", "one row", "row per example"]


def _numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def _vectors(shape: tuple[int, ...], layout: str, dtype: torch.dtype) -> Tensor | None:
    """Return vectors that broadcast; some are zero, some negative."""
    if layout == "none":
        return None
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    leading = {"flat": (), "one row": (1,) * (len(shape) - 1), "row per example": (shape[0], *(1,) * (len(shape) - 2))}
    l = _numbers(*leading[layout], shape[-1], seed=2, dtype=wide)
    return torch.where(l.abs() < 0.3, 0.0, l)


def _run(
    multiply: Callable[..., Tensor], tensors: tuple[Tensor | None, ...], f: Activation, dz: Tensor
) -> list[Tensor]:
    """Return z and the gradients of gate, linear and l."""
    leaves = [None if t is None else t.detach().requires_grad_(True) for t in tensors]
    z = multiply(*leaves, f)
    return [z.detach(), *torch.autograd.grad(z, [leaf for leaf in leaves if leaf is not None], dz)]


def _assert_same(gate: Tensor, linear: Tensor, l: Tensor | None, f: Activation = SILU) -> None:
    dz = _numbers(*gate.shape, seed=9, dtype=gate.dtype)
    fast, plain = (_run(multiply, (gate, linear, l), f, dz) for multiply in (gate_and_scale, gate_plain))
    for found, expected, what in zip(fast, plain, ("z", "dgate", "dlinear", "dl"), strict=False):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape), what
        if what == "dl":
            torch.testing.assert_close(found, expected)
        else:
            assert torch.equal(found, expected), what


@pytest.mark.parametrize("f", ACTIVATIONS.values(), ids=ACTIVATIONS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_fast_equals_plain_bit_for_bit_in_every_dtype_shape_and_layout(
    dtype: torch.dtype, layout: str, f: Activation
) -> None:
    for shape in SHAPES:
        linear = _numbers(*shape, seed=1, dtype=dtype)
        _assert_same(_numbers(*shape, dtype=dtype), linear, _vectors(shape, layout, dtype), f)


@settings(max_examples=25)
@given(
    shape=st.lists(st.integers(0, 4), min_size=2, max_size=4),
    layout=st.sampled_from(LAYOUTS[1:]),
    numbers=st.lists(st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-8, -1e-4, 0.5, -3.0, 1e4]), min_size=7, max_size=7),
)
def test_fast_equals_plain_for_drawn_shapes_and_vectors(shape: list[int], layout: str, numbers: list[float]) -> None:
    size = tuple(shape)
    l = _vectors(size, layout, torch.float32)
    assert l is not None
    l = torch.tensor([numbers[i % 7] for i in range(l.numel())]).view(l.shape)
    _assert_same(_numbers(*size, dtype=torch.float32), _numbers(*size, seed=1, dtype=torch.float32), l)


def test_fast_equals_plain_on_strided_inputs() -> None:
    whole, other = (_numbers(6, 8, 10, seed=seed, dtype=torch.float32) for seed in (0, 1))
    for cut in (
        lambda x: x[::2],
        lambda x: x[:, 1::3],
        lambda x: x[..., ::2],
        lambda x: x.transpose(0, 2),
        lambda x: x[:1].expand(6, 8, 10),
    ):
        _assert_same(cut(whole), cut(other), _vectors(cut(whole).shape, "row per example", torch.float32))


@pytest.mark.parametrize("f", ACTIVATIONS.values(), ids=ACTIVATIONS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradcheck_in_float64(layout: str, f: Activation) -> None:
    gate, linear = (_numbers(2, 3, 4, seed=seed).requires_grad_(True) for seed in (0, 1))
    l = _vectors((2, 3, 4), layout, torch.float64)
    l = None if l is None else l.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda *tensors: gate_and_scale(*tensors, f), (gate, linear, l))


@pytest.mark.parametrize("asking", [(0,), (1,), (2,), (0, 2), (1, 2)], ids=str)
def test_gradients_reach_what_asks_for_them_and_nothing_else(asking: tuple[int, ...]) -> None:
    tensors = [_numbers(2, 3, 4), _numbers(2, 3, 4, seed=1), _numbers(4, seed=2)]
    expected = _run(gate_plain, tuple(tensors), SILU, torch.ones(2, 3, 4))[1:]
    leaves = [t.requires_grad_(i in asking) for i, t in enumerate(tensors)]
    gate_and_scale(*leaves, SILU).backward(torch.ones(2, 3, 4))
    for i, leaf in enumerate(leaves):
        assert (leaf.grad is not None) == (i in asking)
        if leaf.grad is not None:
            torch.testing.assert_close(leaf.grad, expected[i])


def test_without_gradients_the_value_is_the_same_and_nothing_is_kept() -> None:
    gate, linear, l = _numbers(2, 3, 4), _numbers(2, 3, 4, seed=1), _numbers(4, seed=2)
    with Kept() as kept:
        z = gate_and_scale(gate, linear, l, SILU)
    assert not z.requires_grad and not kept.bytes
    with torch.no_grad():
        assert torch.equal(gate_and_scale(gate.requires_grad_(True), linear, l, SILU), z)


def test_a_second_derivative_is_refused_not_wrong() -> None:
    gate = _numbers(2, 3).requires_grad_(True)
    z = gate_and_scale(gate, _numbers(2, 3, seed=1), None, SILU)
    (dgate,) = torch.autograd.grad(z.square().sum(), gate, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dgate.sum().backward()


@pytest.mark.parametrize("f", ACTIVATIONS.values(), ids=ACTIVATIONS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_it_was_given_is_never_written(layout: str, f: Activation) -> None:
    gate, linear = (_numbers(2, 3, 4, seed=seed).abs().requires_grad_(True) for seed in (0, 1))
    l = _vectors((2, 3, 4), layout, torch.float64)
    given = [(t, t._version) for t in (gate, linear, l) if t is not None]
    gate_and_scale(gate, linear, None if l is None else l.requires_grad_(True), f).sum().backward()
    assert all(tensor._version == version for tensor, version in given)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_gate_and_linear_branch_are_kept_and_nothing_else(dtype: torch.dtype) -> None:
    gate, linear = (_numbers(4, 5, 6, seed=seed, dtype=dtype).requires_grad_(True) for seed in (0, 1))
    l = torch.full((4, 1, 6), 0.5, requires_grad=True)
    with Kept() as kept:
        gate_and_scale(gate, linear, l, SILU)
    assert set(kept.bytes) == {address(gate), address(linear), address(l)}
    assert kept.total == 2 * (4 * 5 * 6 * dtype.itemsize) + 4 * 6 * 4
    with Kept() as plainly:
        gate_plain(gate, linear, l, SILU)
    assert plainly.total > 4 * (4 * 5 * 6 * dtype.itemsize)

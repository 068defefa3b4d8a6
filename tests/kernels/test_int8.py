"""Int8 projections: the numbers and gradients of the plain reference, every vector, nothing kept but the output."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from ia3.bases.int8 import Int8Linear
from ia3.core.calls import Multiplier
from ia3.kernels import int8
from ia3.kernels.int8 import find_divisors, int8_linear, int8_plain, quantise_weight
from tests.kernels.kept import Kept

IN, OUT = 12, 9
SHAPES = [(IN,), (1, IN), (7, IN), (0, IN), (4, 5, IN), (4, 0, IN), (2, 1, 5, IN)]
VECTORS = ["none", "one for all", "one for each"]
BIAS = pytest.mark.parametrize("has_bias", [False, True], ids=["no bias", "bias"])
SMOOTH = pytest.mark.parametrize("is_smooth", [False, True], ids=["as is", "smoothed"])


def _numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def _layer(has_bias: bool = True, is_smooth: bool = True, dtype: torch.dtype = torch.float32) -> Int8Linear:
    bias = _numbers(OUT, seed=2, dtype=dtype) if has_bias else None
    return Int8Linear(_numbers(OUT, IN, seed=1, dtype=dtype), bias, largest=_channels() if is_smooth else None)


def _channels() -> Tensor:
    """Sizes of the input channels, as unequal as a transformer's."""
    return torch.tensor([40.0, 8.0, *[1.0] * (IN - 4), 0.1, 0.0])


def _activations(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return _numbers(*shape, seed=3, dtype=dtype) * _channels().to(dtype)


def _vectors(kind: str, x: Tensor, *, small: bool = False, dtype: torch.dtype = torch.float32) -> Tensor | None:
    if kind == "none":
        return None
    shape = (OUT,) if kind == "one for all" or x.dim() < 2 else (x.shape[0], *(1,) * (x.dim() - 2), OUT)
    l = _numbers(*shape, seed=5, dtype=dtype) + 1.5
    if small and l.numel():
        l[..., 0], l[..., 1] = 0.0, 1e-6
    return l


def _constants(layer: Int8Linear) -> tuple[Any, ...]:
    return layer.weight8, layer.scale, layer.bias, layer.divisors


def _dequantised(layer: Int8Linear) -> Tensor:
    """The numbers that a layer's weight stands for, float64, shape (in, out)."""
    weight = layer.weight8.double() * layer.scale.double()
    return weight if layer.divisors is None else weight / layer.divisors.double().unsqueeze(1)


# -- the weight -------------------------------------------------------------------------------------------------------


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 1000), st.sampled_from([1e-20, 1e-3, 1.0, 1e6]))
def test_a_weight_is_off_by_half_a_step_of_its_channel_at_most(out: int, inputs: int, seed: int, size: float) -> None:
    weight = _numbers(out, inputs, seed=seed) * size
    numbers, scale = quantise_weight(weight)
    assert numbers.dtype == torch.int8 and numbers.shape == (inputs, out) and numbers.is_contiguous()
    assert int(numbers.abs().max()) == 127 and scale.dtype == torch.float32
    assert ((numbers.T * scale.unsqueeze(1) - weight).abs() <= scale.unsqueeze(1) * 0.5001).all()


def test_a_channel_of_zeros_has_the_scale_one() -> None:
    numbers, scale = quantise_weight(torch.tensor([[0.0, 0.0], [1.0, -2.0]]))
    assert scale.tolist() == [1.0, pytest.approx(2 / 127)] and numbers.T.tolist() == [[0, 0], [64, -127]]


def test_divisors_are_powers_of_two_and_one_for_a_channel_that_is_never_used() -> None:
    weight = _numbers(OUT, IN)
    weight[:, 3] = 0
    divisors = find_divisors(weight, _channels())
    assert torch.equal(divisors.log2(), divisors.log2().round())
    assert divisors[0] >= 4 * divisors[4] and divisors[3] == divisors[-1] == 1
    assert torch.equal(find_divisors(weight, torch.full((IN,), torch.inf)), torch.ones(IN))


def test_smoothing_makes_the_error_of_unequal_channels_smaller() -> None:
    x, weight = _activations(50, IN), _numbers(OUT, IN, seed=1)
    errors = []
    for layer in (_layer(False, is_smooth=False), _layer(False, is_smooth=True)):
        errors.append(float((layer(x) - x @ weight.T).pow(2).mean()))
    assert errors[1] < 0.7 * errors[0]


# -- the product ------------------------------------------------------------------------------------------------------


@SMOOTH
@BIAS
@pytest.mark.parametrize("kind", VECTORS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_fast_equals_plain_in_every_shape(shape: tuple[int, ...], kind: str, has_bias: bool, is_smooth: bool) -> None:
    layer, x = _layer(has_bias, is_smooth), _activations(*shape)
    l = _vectors(kind, x)
    found = int8_linear(x, *_constants(layer), l)
    expected = int8_plain(x, *_constants(layer), l)
    assert found.shape == (*shape[:-1], OUT) and found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)


@SMOOTH
def test_with_float64_activations_the_rounding_is_the_references_own(is_smooth: bool) -> None:
    layer, x = _layer(is_smooth=is_smooth), _activations(200, IN, dtype=torch.float64)
    torch.testing.assert_close(layer(x), int8_plain(x, *_constants(layer), None), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_activations_are_computed_in_float32_and_come_back_in_their_own_dtype(dtype: torch.dtype) -> None:
    layer, x = _layer(), _activations(5, IN).to(dtype)
    assert layer(x).dtype == dtype
    assert torch.equal(layer(x), layer(x.float()).to(dtype))


def test_without_int8_products_the_same_sums_come_from_float_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = _layer(), _activations(6, IN)
    fast = layer(x)
    assert int8.has_int8_products(x.device, 6, IN, OUT) is bool(torch.cpu._is_vnni_supported())
    for is_fast in (False, True):
        monkeypatch.setattr(int8, "has_int8_products", lambda *sizes, answer=is_fast: answer)
        torch.testing.assert_close(layer(x), fast, rtol=1e-6, atol=1e-6)


def test_a_gpu_takes_int8_products_within_its_limits_and_other_devices_none() -> None:
    cuda, apple = torch.device("cuda"), torch.device("mps")
    assert int8.has_int8_products(cuda, 17, 64, 8) and not int8.has_int8_products(apple, 17, 64, 8)
    assert not any(int8.has_int8_products(cuda, *sizes) for sizes in ((16, 64, 8), (17, 60, 8), (17, 64, 9)))


def test_a_token_gives_the_same_bits_alone_as_among_others() -> None:
    layer, x = _layer(), _activations(30, IN)
    together = layer(x)
    assert all(torch.equal(layer(x[i : i + 1]), together[i : i + 1]) for i in range(30))


def test_a_token_of_zeros_gives_the_bias_and_a_number_that_is_none_stays_none() -> None:
    layer, x = _layer(), _activations(4, IN)
    x[0], x[1, 2], x[2, 0] = 0.0, torch.nan, torch.inf
    y = layer(x)
    assert torch.equal(y[0], layer.bias) and y[1].isnan().all() and not y[2].isfinite().any()
    assert y[3].isfinite().all()


# -- gradients --------------------------------------------------------------------------------------------------------


@SMOOTH
@BIAS
@pytest.mark.parametrize("small", [False, True], ids=["large", "near zero"])
@pytest.mark.parametrize("kind", VECTORS)
@pytest.mark.parametrize("shape", [(IN,), (7, IN), (0, IN), (4, 5, IN), (2, 1, 5, IN)], ids=str)
def test_gradients_are_those_of_the_map_that_the_weight_stands_for(
    shape: tuple[int, ...], kind: str, small: bool, has_bias: bool, is_smooth: bool
) -> None:
    layer, x = _layer(has_bias, is_smooth), _activations(*shape).requires_grad_(True)
    l = _vectors(kind, x.detach(), small=small)
    leaves = [x] if l is None else [x, l.requires_grad_(True)]
    y = int8_linear(x, *_constants(layer), l)
    dy = _numbers(*y.shape, seed=9)
    found = torch.autograd.grad(y, leaves, dy)
    # the rounding of x counts in y, and so in the gradient of l, and not in that of x
    unscaled = int8_plain(x.detach().double(), *_constants(layer), None)
    dx = ((dy if l is None else dy * l.detach()).double() @ _dequantised(layer).T).float()
    torch.testing.assert_close(found[0], dx, rtol=1e-5, atol=1e-4)
    if l is not None:
        dl = (dy.double() * unscaled).sum_to_size(l.shape).float()
        torch.testing.assert_close(found[1], dl, rtol=1e-4, atol=1e-3)


@SMOOTH
@pytest.mark.parametrize("kind", VECTORS)
@pytest.mark.parametrize("shape", [(IN,), (7, IN), (0, IN), (4, 5, IN)], ids=str)
def test_a_rounded_gradient_is_the_product_with_dy_in_int8_and_dl_is_exact(
    shape: tuple[int, ...], kind: str, is_smooth: bool
) -> None:
    layer, x = _layer(is_smooth=is_smooth), _activations(*shape).requires_grad_(True)
    l = _vectors(kind, x.detach())
    leaves = [x] if l is None else [x, l.requires_grad_(True)]
    y = int8_linear(x, *_constants(layer), l, rounds_gradients=True)
    dy = _numbers(*y.shape, seed=9)
    found = torch.autograd.grad(y, leaves, dy)
    scaled = dy.double() * layer.scale.double() * (1.0 if l is None else l.detach().double())
    step = (scaled.abs().amax(dim=-1, keepdim=True) / 127).clamp_min(1e-30)
    dx = ((scaled / step).round() * step) @ layer.weight8.double().T
    dx = dx if layer.divisors is None else dx / layer.divisors.double()
    # a quotient that lies on a half may round to either side in fp32
    error = (found[0].double() - dx).abs() * (1.0 if layer.divisors is None else layer.divisors.double())
    assert bool((error <= 1.01 * 127 * step + 1e-5).all())
    assert float(error.mean() if error.numel() else 0.0) < 1e-2 * float(dx.abs().mean() if dx.numel() else 1.0)
    if l is not None:
        (exact,) = torch.autograd.grad(int8_linear(x, *_constants(layer), l), l, dy)
        assert torch.equal(found[1], exact)


def test_the_module_rounds_gradients_where_it_is_told_to() -> None:
    weight, x = _numbers(OUT, IN, seed=1), _activations(7, IN)
    dy, found = _numbers(7, OUT, seed=9), []
    for rounds in (False, True):
        leaf = x.clone().requires_grad_(True)
        Int8Linear(weight, rounds_gradients=rounds)(leaf).backward(dy)
        found.append(leaf.grad.flatten())
    assert not torch.equal(*found)
    assert float(torch.cosine_similarity(*found, dim=0)) > 0.999


def test_dx_is_the_finite_difference_of_the_map_that_the_weight_stands_for() -> None:
    layer, x = _layer(), _activations(2, IN, dtype=torch.float64).requires_grad_(True)
    dy = _numbers(2, OUT, seed=9, dtype=torch.float64)
    (found,) = torch.autograd.grad(layer(x), x, dy)

    def value(at: Tensor) -> Tensor:
        return ((at @ _dequantised(layer)) * dy).sum()

    step = 1e-3
    for row, channel in ((0, 0), (1, 5), (1, IN - 1)):
        ahead, behind = x.detach().clone(), x.detach().clone()
        ahead[row, channel] += step
        behind[row, channel] -= step
        difference = float(value(ahead) - value(behind)) / (2 * step)
        assert float(found[row, channel]) == pytest.approx(difference, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ones_give_exactly_the_unscaled_output_and_gradient(dtype: torch.dtype) -> None:
    layer, dy = _layer(), _numbers(4, 5, OUT, seed=9).to(dtype)
    results = []
    for l in (None, torch.ones(OUT), torch.ones(4, 1, OUT, requires_grad=True)):
        x = _activations(4, 5, IN).to(dtype).requires_grad_(True)
        y = int8_linear(x, *_constants(layer), l)
        results.append((y, torch.autograd.grad(y, x, dy)[0]))
    for y, dx in results[1:]:
        assert torch.equal(y, results[0][0]) and torch.equal(dx, results[0][1]) and dx.dtype == dtype


@pytest.mark.parametrize("is_fast", [True, False])
def test_a_model_may_write_over_the_output_as_over_a_linear_maps(
    is_fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8, "has_int8_products", lambda *sizes: is_fast)
    layer, x = _layer(), _activations(4, 5, IN).requires_grad_(True)
    y = layer(x)
    y += 1.0  # Falcon adds its attention's output so
    (found,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(found, torch.autograd.grad(layer(x).sum(), x)[0])


def test_only_what_is_wanted_is_computed_and_the_weight_is_a_constant() -> None:
    layer = _layer()
    l = torch.ones(OUT, requires_grad=True)
    int8_linear(_activations(3, IN), *_constants(layer), l).sum().backward()  # first block: nobody asks for dx
    assert l.grad is not None and layer.bias is not None and layer.bias.grad is None
    assert not layer(_activations(3, IN)).requires_grad
    with torch.no_grad():
        assert not int8_linear(_activations(3, IN), *_constants(layer), l).requires_grad


@pytest.mark.parametrize("is_small", [False, True], ids=["output", "unscaled output"])
def test_nothing_is_kept_but_one_output(is_small: bool) -> None:
    layer, x = _layer(), _activations(40, 5, IN).requires_grad_(True)
    l = torch.full((OUT,), 0.0 if is_small else 2.0, requires_grad=True)
    with Kept(layer, besides=[l]) as kept:
        y = int8_linear(x, *_constants(layer), l)
    assert kept.total == y.numel() * 4 and kept.holds(y) is not is_small
    with Kept(layer) as kept:
        layer(x)
    assert kept.total == 0


# -- the module -------------------------------------------------------------------------------------------------------


def test_the_module_multiplies_by_the_vectors_it_is_given_for_its_input() -> None:
    layer, x = _layer(), _activations(4, 5, IN)
    plain, asked = layer(x), []

    def vectors(given: Tensor) -> Multiplier:
        asked.append(given.shape)
        return Multiplier(torch.full((OUT,), -2.0), keeps_input=False)

    layer.vector_of = vectors
    torch.testing.assert_close(layer(x), plain * -2, rtol=1e-6, atol=1e-5)
    assert asked == [x.shape]
    layer.vector_of = lambda given: None
    assert torch.equal(layer(x), plain)


def test_a_cast_changes_no_number_and_a_copy_is_whole() -> None:
    layer, x = _layer(), _activations(3, IN)
    before = layer(x)
    for cast in (lambda m: m.to(torch.bfloat16), lambda m: m.half(), lambda m: m.double(), copy.deepcopy):
        changed = cast(copy.deepcopy(layer))
        assert torch.equal(changed(x), before)
        assert {b.dtype for b in changed.buffers()} == {torch.int8, torch.float32}
    assert changed.original_shape == (OUT, IN) and torch.equal(changed.original_sample, layer.original_sample)


def test_it_looks_like_a_linear_map_from_outside() -> None:
    layer = _layer()
    assert (layer.in_features, layer.out_features) == (IN, OUT)
    assert layer.weight.shape == (OUT, IN) and layer.weight.dtype == torch.int8
    assert repr(layer) == f"Int8Linear(in_features={IN}, out_features={OUT}, bias=True)"
    assert [name for name, p in layer.named_parameters()] == ["bias"] and not any(
        p.requires_grad for p in layer.parameters()
    )
    assert set(layer.state_dict()) == {"weight8", "scale", "divisors", "bias"}


def test_it_is_near_the_linear_map_it_stands_for() -> None:
    x, weight, bias = _numbers(50, 256), _numbers(64, 256, seed=1), _numbers(64, seed=2)
    found, expected = Int8Linear(weight, bias)(x), functional.linear(x, weight, bias)
    assert float((found - expected).pow(2).mean() / expected.pow(2).mean()) < 1e-3

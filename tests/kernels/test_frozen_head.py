"""The loss of a frozen head in chunks of the vocabulary equals the plain cross-entropy, and keeps no logits."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from ia3.kernels import products
from ia3.kernels.frozen_head import head_logprobs, head_loss, head_loss_plain
from tests.kernels.kept import Kept

VOCABULARY, WIDTH = 37, 5
CHUNKS = {"one row": 1, "seven rows": 7 * WIDTH, "half": 19 * WIDTH + 3, "all but one": 36 * WIDTH, "all": 10**6}
LIBRARIES = ["torch", "onednn"] if hasattr(torch.ops.mkldnn, "_linear_pointwise") else ["torch"]


@pytest.fixture(params=LIBRARIES, autouse=True)
def _library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "fastest_library", lambda: request.param)


def _numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def _targets(positions: int) -> Tensor:
    return torch.randint(0, VOCABULARY, (positions,), generator=torch.Generator().manual_seed(5))


def _run(loss: Callable[[Tensor], Tensor], hidden: Tensor) -> tuple[Tensor, Tensor]:
    leaf = hidden.detach().requires_grad_(True)
    value = loss(leaf)
    return value.detach(), torch.autograd.grad(value, leaf)[0]


def _assert_same(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    weights: Tensor | None = None,
    *,
    chunk: int = 7 * WIDTH,
    digits: float = 1e-5,
) -> None:
    fast = _run(lambda h: head_loss(h, weight, bias, targets, weights, chunk=chunk), hidden)
    plain = _run(lambda h: head_loss_plain(h, weight, bias, targets, weights), hidden)
    # both are differences: of logits, and of rows of the matrix
    logits, times = functional.linear(hidden, weight), 1.0 if weights is None else _largest(weights)
    for found, expected, size in zip(fast, plain, (1 + _largest(logits), _largest(weight)), strict=True):
        torch.testing.assert_close(found, expected, rtol=digits, atol=digits * times * size)


def _largest(x: Tensor) -> float:
    return float(x.abs().max()) if x.numel() else 0.0


@pytest.mark.parametrize("has_weights", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("has_bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize("chunk", CHUNKS.values(), ids=CHUNKS)
def test_fast_equals_plain_however_the_vocabulary_is_cut(chunk: int, has_bias: bool, has_weights: bool) -> None:
    for dtype, digits in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        bias = _numbers(VOCABULARY, seed=2, dtype=dtype) if has_bias else None
        weights = torch.tensor([0.0, 1.0, 2.5, -0.5, 1e-3, 3.0]) if has_weights else None
        hidden, weight = _numbers(6, WIDTH, dtype=dtype), _numbers(VOCABULARY, WIDTH, seed=1, dtype=dtype)
        _assert_same(hidden, weight, bias, _targets(6), weights, chunk=chunk, digits=digits)


def test_a_target_may_lie_anywhere_in_the_vocabulary() -> None:
    hidden, weight = _numbers(VOCABULARY, WIDTH), _numbers(VOCABULARY, WIDTH, seed=1)
    _assert_same(hidden, weight, None, torch.arange(VOCABULARY))
    for target in range(VOCABULARY):
        _assert_same(hidden[:1], weight, None, torch.tensor([target]))


@settings(max_examples=25)
@given(
    positions=st.integers(0, 5),
    vocabulary=st.integers(1, 9),
    width=st.integers(1, 6),
    chunk=st.integers(1, 40),
    seed=st.integers(0, 99),
)
def test_fast_equals_plain_for_drawn_sizes(positions: int, vocabulary: int, width: int, chunk: int, seed: int) -> None:
    targets = torch.randint(0, vocabulary, (positions,), generator=torch.Generator().manual_seed(seed))
    hidden, weight = _numbers(positions, width, seed=seed), _numbers(vocabulary, width, seed=seed + 1)
    _assert_same(hidden, weight, None, targets, chunk=chunk)


def test_no_position_has_no_loss() -> None:
    loss, gradient = _run(
        lambda h: head_loss(h, _numbers(VOCABULARY, WIDTH), None, torch.zeros(0, dtype=torch.long)),
        torch.zeros(0, WIDTH),
    )
    assert loss == 0 and gradient.shape == (0, WIDTH)


@pytest.mark.parametrize("size", [1e4, 1e12, 1e30], ids=str)
def test_huge_logits_do_not_overflow(size: float) -> None:
    hidden, weight = _numbers(6, WIDTH) * size, _numbers(VOCABULARY, WIDTH, seed=1)
    _assert_same(hidden, weight, None, _targets(6))
    _assert_same(-hidden, weight, None, _targets(6), chunk=1)


def test_a_sure_and_right_prediction_costs_nothing_and_never_less() -> None:
    """The target's logit was once taken from another product than the softmax, and a loss of -0.002 came out."""
    weight = _numbers(300, 64, seed=1)
    hidden = weight[:50] * 100
    each = torch.stack([head_loss(hidden[i : i + 1], weight, None, torch.tensor([i]), chunk=6400) for i in range(50)])
    assert torch.equal(each, torch.zeros(50))


@pytest.mark.parametrize("out", [slice(0, 7), slice(7, 14), slice(35, 37), slice(0, 30), slice(3, 4)], ids=str)
def test_words_of_probability_zero_count_for_nothing_wherever_they_lie(out: slice) -> None:
    """A first chunk that held nothing else once gave NaN: -inf minus -inf."""
    bias = _numbers(VOCABULARY, seed=2)
    bias[out] = -torch.inf
    targets = torch.tensor([t for t in range(VOCABULARY) if bias[t] > -torch.inf])
    hidden, weight = _numbers(len(targets), WIDTH), _numbers(VOCABULARY, WIDTH, seed=1)
    for chunk in (1, 7 * WIDTH, 10**6):
        _assert_same(hidden, weight, bias, targets, chunk=chunk)


def test_a_target_of_probability_zero_costs_infinitely_much() -> None:
    bias = torch.zeros(VOCABULARY)
    bias[4] = -torch.inf
    _assert_same(_numbers(3, WIDTH), _numbers(VOCABULARY, WIDTH, seed=1), bias, torch.tensor([3, 4, 5]))


@pytest.mark.parametrize("target", [VOCABULARY, -1, -100])
def test_a_target_that_there_is_not_is_never_taken_for_another(target: int) -> None:
    hidden, weight = _numbers(2, WIDTH), _numbers(VOCABULARY, WIDTH, seed=1)
    assert bool(head_loss(hidden, weight, None, torch.tensor([3, target]), chunk=7 * WIDTH).isnan())
    try:
        loss = head_loss(hidden.requires_grad_(True), weight, None, torch.tensor([3, target]), chunk=7 * WIDTH)
    except IndexError:
        return
    assert bool(loss.isnan())


@pytest.mark.parametrize("chunk", [WIDTH, 7 * WIDTH, 10**6], ids=str)
def test_gradcheck_in_float64(chunk: int) -> None:
    weight, bias = _numbers(VOCABULARY, WIDTH, seed=1, dtype=torch.float64), _numbers(VOCABULARY, dtype=torch.float64)
    hidden = _numbers(3, WIDTH, dtype=torch.float64).requires_grad_(True)
    weights = torch.tensor([1.0, 0.5, 2.0])
    assert torch.autograd.gradcheck(
        lambda h: head_loss(h, weight, bias, torch.tensor([0, 20, 36]), weights, chunk=chunk), (hidden,)
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("rows", [8, 100, 10_000])
def test_in_half_precision_it_is_as_near_to_the_truth_as_the_plain_loss(rows: int, dtype: torch.dtype) -> None:
    """The gradient was once summed in bf16: over two hundred chunks it lost 9 % where the plain loss lost 0.2 %."""
    hidden, weight = _numbers(8, 16, dtype=dtype) * 0.3, (_numbers(4000, 16, seed=1) / 4 + 0.3).to(dtype)
    targets = torch.randint(0, 4000, (8,), generator=torch.Generator().manual_seed(5))
    truth = _run(lambda h: head_loss_plain(h, weight.double(), None, targets), hidden.double())
    plain = _run(lambda h: head_loss_plain(h, weight, None, targets), hidden)
    fast = _run(lambda h: head_loss(h, weight, None, targets, chunk=rows * 16), hidden)
    assert fast[0].dtype == torch.float32 and fast[1].dtype == dtype
    for found, usual, expected in zip(fast, plain, truth, strict=True):
        error, allowed = ((x.double() - expected).norm() / expected.norm() for x in (found, usual))
        assert float(error) <= 2 * float(allowed) + torch.finfo(dtype).eps


def test_the_gradient_takes_what_comes_from_above() -> None:
    hidden, weight = _numbers(6, WIDTH).requires_grad_(True), _numbers(VOCABULARY, WIDTH, seed=1)
    loss = head_loss(hidden, weight, None, _targets(6))
    (once,) = torch.autograd.grad(loss, hidden, retain_graph=True)
    (thrice,) = torch.autograd.grad(3 * loss, hidden, retain_graph=True)
    torch.testing.assert_close(thrice, 3 * once)
    (again,) = torch.autograd.grad(loss, hidden)
    assert torch.equal(again, once)


def test_a_second_derivative_is_refused_not_wrong() -> None:
    hidden, weight = _numbers(2, WIDTH).requires_grad_(True), _numbers(VOCABULARY, WIDTH, seed=1)
    loss = head_loss(hidden, weight, None, _targets(2))
    (gradient,) = torch.autograd.grad(loss.square(), hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_one_gradient_a_position_is_kept_and_no_logits(dtype: torch.dtype) -> None:
    hidden, weight = _numbers(6, WIDTH, dtype=dtype), _numbers(VOCABULARY, WIDTH, seed=1, dtype=dtype)
    with Kept() as kept:
        loss = head_loss(hidden, weight, None, _targets(6))
    assert not kept.bytes and not loss.requires_grad
    with Kept() as kept:
        head_loss(hidden.requires_grad_(True), weight, None, _targets(6))
    assert kept.total == 6 * WIDTH * dtype.itemsize
    with torch.no_grad(), Kept() as kept:
        assert torch.equal(head_loss(hidden, weight, None, _targets(6)), loss)
    assert not kept.bytes


def _plain_logprobs(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    logits = functional.linear(hidden, weight, bias)
    return (logits if logits.dtype == torch.float64 else logits.float()).log_softmax(dim=1).gather(1, targets)


def _weighted_sum(make: Callable[[Tensor], Tensor], weights: Tensor, hidden: Tensor) -> Tensor:
    return (make(hidden) * weights).sum()


@pytest.mark.parametrize("has_bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize("chunk", CHUNKS.values(), ids=CHUNKS)
@pytest.mark.parametrize("tokens", [1, 4])
def test_log_probabilities_and_their_gradient_equal_the_plain_ones(tokens: int, chunk: int, has_bias: bool) -> None:
    targets = torch.randint(0, VOCABULARY, (6, tokens), generator=torch.Generator().manual_seed(5))
    above = _numbers(6, tokens, seed=3, dtype=torch.float64)  # a gradient of its own for every token
    for dtype, digits in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        hidden, weight = _numbers(6, WIDTH, dtype=dtype), _numbers(VOCABULARY, WIDTH, seed=1, dtype=dtype)
        bias = _numbers(VOCABULARY, seed=2, dtype=dtype) if has_bias else None
        fast, plain = (
            _run(partial(_weighted_sum, make, above), hidden)
            for make in (
                partial(head_logprobs, weight=weight, bias=bias, targets=targets, chunk=chunk),
                partial(_plain_logprobs, weight=weight, bias=bias, targets=targets),
            )
        )
        for found, expected in zip(fast, plain, strict=True):
            torch.testing.assert_close(found, expected, rtol=digits, atol=50 * digits)
        with torch.no_grad():
            found = head_logprobs(hidden, weight, bias, targets, chunk=chunk)
        torch.testing.assert_close(found, _plain_logprobs(hidden, weight, bias, targets), rtol=digits, atol=50 * digits)


def test_log_probabilities_pass_gradcheck_and_refuse_a_second_derivative() -> None:
    weight = _numbers(VOCABULARY, WIDTH, seed=1, dtype=torch.float64)
    hidden = _numbers(3, WIDTH, dtype=torch.float64).requires_grad_(True)
    targets = torch.tensor([[0, 36], [20, 20], [5, 1]])
    assert torch.autograd.gradcheck(lambda h: head_logprobs(h, weight, None, targets, chunk=7 * WIDTH), (hidden,))
    (gradient,) = torch.autograd.grad(
        head_logprobs(hidden, weight, None, targets).square().sum(), hidden, create_graph=True
    )
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_log_probabilities_keep_one_gradient_a_position_and_no_logits() -> None:
    hidden, weight = _numbers(6, WIDTH).requires_grad_(True), _numbers(VOCABULARY, WIDTH, seed=1)
    targets = torch.zeros(6, 3, dtype=torch.long)
    with Kept() as kept:
        head_logprobs(hidden, weight, None, targets)
    assert kept.total == 6 * WIDTH * 4 + targets.numel() * 8
    loss, gradient = _run(lambda h: head_logprobs(h, weight, None, targets[:0]).sum(), torch.zeros(0, WIDTH))
    assert loss == 0 and gradient.shape == (0, WIDTH)

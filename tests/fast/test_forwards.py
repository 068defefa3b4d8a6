"""Forwards of single modules: what the module gives, also when it is cast or trained after they were set."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ia3.fast.forwards import replace_linear
from ia3.kernels import products
from tests.core.banks import attached_model
from tests.fast.passes import take_onednn

pytestmark = pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="this torch has no products from oneDNN"
)


@pytest.fixture(autouse=True)
def _onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    take_onednn(monkeypatch)


def _numbers(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _forward(module: nn.Linear) -> Callable[[Tensor], Tensor]:
    replacement = replace_linear(attached_model("llama")[1], "", module)
    assert replacement is not None and replacement.tried_on is None
    return replacement.forward


@pytest.mark.parametrize("has_bias", [False, True], ids=["no bias", "bias"])
def test_a_linear_gives_what_it_gave(has_bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    module = nn.Linear(6, 4, bias=has_bias).requires_grad_(False)
    forward, x = _forward(module), _numbers(2, 5, 6)
    products_taken: list[Tensor] = []
    plain = products._product
    monkeypatch.setattr(products, "_product", lambda *a: products_taken.append(a[0]) or plain(*a))
    torch.testing.assert_close(forward(x), module(x))
    assert len(products_taken) == 1
    module.double()
    assert torch.equal(forward(x.double()), module(x.double()))
    module.bfloat16()
    assert torch.equal(forward(x.bfloat16()), module(x.bfloat16()))
    assert len(products_taken) == 1  # of fp32 alone


def test_under_autocast_a_linear_computes_in_its_dtype() -> None:
    """It once went on in fp32 there."""
    module, x = nn.Linear(6, 4).requires_grad_(False), _numbers(2, 6)
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = _forward(module)(x), module(x)
    assert found.dtype == torch.bfloat16 and torch.equal(found, expected)


def test_a_weight_that_is_trained_since_then_gets_its_gradient() -> None:
    module, x = nn.Linear(6, 4).requires_grad_(False), _numbers(2, 6)
    forward = _forward(module)
    module.requires_grad_(True)
    forward(x).sum().backward()
    torch.testing.assert_close(module.weight.grad, x.sum(dim=0).expand(4, 6))

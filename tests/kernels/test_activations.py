"""Activations: the value is the module's, the slope is autograd's, and what is not known stays unknown."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.activations import ACT2FN

from ia3.kernels.activations import activation_of

KNOWN = ("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "gelu_python", "silu", "swish", "relu")
UNKNOWN = (
    "gelu_10",
    "gelu_accurate",
    "quick_gelu",
    "leaky_relu",
    "mish",
    "relu2",
    "relu6",
    "sigmoid",
    "tanh",
    "linear",
)
MODULES = {
    **{name: ACT2FN[name] for name in KNOWN},
    "nn.GELU": nn.GELU(),
    "nn.GELU tanh": nn.GELU(approximate="tanh"),
    "nn.SiLU": nn.SiLU(),
    "nn.ReLU": nn.ReLU(),
    "functional.gelu": functional.gelu,
    "functional.silu": functional.silu,
    "functional.relu": functional.relu,
    "torch.relu": torch.relu,
}


def _numbers() -> Tensor:
    usual = torch.randn(200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.cat([usual, usual * 20, torch.tensor([0.0, -0.0, 1e-9, -1e-9, 100.0, -100.0], dtype=torch.float64)])


@pytest.mark.parametrize("module", MODULES.values(), ids=MODULES)
def test_value_and_slope_are_those_of_the_module(module: Any) -> None:
    activation, x = activation_of(module), _numbers().requires_grad_(True)
    dy = torch.linspace(-1, 1, len(x), dtype=torch.float64)
    expected = module(x)
    assert activation is not None
    with torch.no_grad():
        torch.testing.assert_close(activation.value(x), expected, rtol=1e-7, atol=1e-9)
        (slope,) = torch.autograd.grad(expected, x, dy)
        torch.testing.assert_close(activation.slope(dy, x), slope, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("module", MODULES.values(), ids=MODULES)
def test_a_value_is_a_new_tensor_of_the_same_dtype(module: Any, dtype: torch.dtype) -> None:
    x = _numbers().abs().to(dtype)  # relu of these is what it was given
    before = x.clone()
    value = activation_of(module).value(x)  # type: ignore[union-attr]
    value.mul_(2)
    assert value.dtype == dtype
    assert torch.equal(x, before)


@pytest.mark.parametrize("name", UNKNOWN)
def test_other_activations_are_not_known(name: str) -> None:
    assert activation_of(ACT2FN[name]) is None


@pytest.mark.parametrize("other", [None, torch.tanh, functional.leaky_relu, nn.LeakyReLU(), nn.Linear(2, 2), "gelu"])
def test_what_is_no_known_activation_is_not_known(other: Any) -> None:
    assert activation_of(other) is None

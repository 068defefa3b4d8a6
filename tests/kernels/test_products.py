"""Products with frozen weights: torch's own from either library, nothing kept, and a library chosen by rule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from ia3.kernels import products
from ia3.kernels.products import fastest_library, frozen_linear, takes
from tests.kernels.kept import Kept

needs_onednn = pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="this torch has no products from oneDNN"
)
BIAS = pytest.mark.parametrize("has_bias", [False, True], ids=["no bias", "bias"])
SHAPES = [(3,), (1, 3), (7, 3), (0, 3), (2, 5, 3), (2, 0, 3), (2, 1, 5, 3)]


@pytest.fixture
def _onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "fastest_library", lambda: "onednn")


def _numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def _assert_same(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    dy = _numbers(*x.shape[:-1], weight.shape[0], seed=9)
    results = []
    for product in (frozen_linear, functional.linear):
        leaf = x.detach().requires_grad_(True)
        y = product(leaf, weight, bias)
        results.append((y.detach(), torch.autograd.grad(y, leaf, dy)[0]))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        assert torch.equal(frozen_linear(x, weight, bias), results[0][0])


@needs_onednn
@BIAS
@pytest.mark.parametrize("outputs", [1, 4, 33])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_fast_equals_plain_in_every_shape(shape: tuple[int, ...], outputs: int, has_bias: bool) -> None:
    _assert_same(_numbers(*shape), _numbers(outputs, 3, seed=1), _numbers(outputs, seed=2) if has_bias else None)


@needs_onednn
@BIAS
def test_fast_equals_plain_on_strided_inputs(has_bias: bool) -> None:
    whole = _numbers(6, 8, 10)
    for x in (whole[::2], whole[:, 1::3], whole[..., ::2], whole.transpose(0, 2), whole[:1].expand(6, 8, 10), whole[1]):
        _assert_same(x, _numbers(4, x.shape[-1], seed=1), _numbers(4, seed=2) if has_bias else None)


@needs_onednn
def test_fast_equals_plain_on_strided_weights() -> None:
    whole = _numbers(10, 12, seed=1)
    for weight in (whole.t(), whole[::2], whole[:, 1::2], whole[:1].expand(5, 12), whole[3:5]):
        _assert_same(_numbers(2, 5, weight.shape[1]), weight, None)


@needs_onednn
def test_fast_equals_plain_where_the_gradient_is_strided_or_expanded() -> None:
    x, weight = _numbers(2, 5, 3).requires_grad_(True), _numbers(4, 3, seed=1)
    for dy in (torch.ones(()).expand(2, 5, 4), _numbers(2, 4, 5).transpose(1, 2)):
        found, expected = (torch.autograd.grad(f(x, weight), x, dy)[0] for f in (frozen_linear, functional.linear))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@needs_onednn
def test_nothing_but_the_weight_is_kept() -> None:
    x, weight, bias = _numbers(4, 5, 6).requires_grad_(True), _numbers(3, 6, seed=1), _numbers(3, seed=2)
    with Kept(besides=[weight]) as kept:
        frozen_linear(x, weight, bias)
    assert not kept.bytes
    with Kept() as kept:
        frozen_linear(x.detach(), weight, bias)
    assert not kept.bytes


class _Quantised(torch.Tensor):
    """Stands for a weight whose numbers are not what they look like."""


@pytest.mark.parametrize(
    ("weight", "is_taken"),
    [
        (torch.zeros(2, 3), True),
        (nn.Parameter(torch.zeros(2, 3), requires_grad=False), True),
        (torch.zeros(3, 2).t(), True),
        (torch.zeros(2, 3, dtype=torch.float64), False),
        (torch.zeros(2, 3, dtype=torch.bfloat16), False),
        (torch.zeros(2, 3, dtype=torch.int8), False),
        (torch.zeros(2, 3, device="meta"), False),
        (torch.zeros(2, 3, 4), False),
        (torch.zeros(2, 3).to_sparse(), False),
        (torch.zeros(2, 3).as_subclass(_Quantised), False),
    ],
    ids=["fp32", "parameter", "strided", "fp64", "bf16", "int8", "meta", "3-D", "sparse", "subclass"],
)
def test_plain_fp32_matrices_on_the_cpu_are_taken(weight: Tensor, is_taken: bool, _onednn: None) -> None:
    assert takes(weight) == is_taken


def test_where_torch_is_as_fast_nothing_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "fastest_library", lambda: "torch")
    assert not takes(torch.zeros(2, 3))


@needs_onednn
@pytest.mark.parametrize(
    ("vendor", "capability", "library"),
    [
        ("AuthenticAMD", "AVX512", "onednn"),
        ("AuthenticAMD", "AVX512_VNNI", "onednn"),
        ("HygonGenuine", "AVX512", "onednn"),
        ("GenuineIntel", "AVX512", "torch"),
        ("AuthenticAMD", "AVX2", "torch"),
        ("AuthenticAMD", "DEFAULT", "torch"),
        ("", "AVX512", "torch"),
        ("", "NEON", "torch"),
    ],
)
def test_the_library_follows_from_the_processor(
    vendor: str, capability: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "_vendor", lambda: vendor)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert fastest_library.__wrapped__() == library
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert fastest_library.__wrapped__() == "torch"


def test_the_library_is_asked_once() -> None:
    assert fastest_library() in ("torch", "onednn")
    assert fastest_library() is fastest_library()


CPUINFO = "processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel name\t: x\n\nprocessor\t: 1\nvendor_id\t: Other\n"


@pytest.mark.parametrize(
    ("system", "processor", "cpuinfo", "vendor"),
    [
        ("Linux", "", CPUINFO, "AuthenticAMD"),
        ("Linux", "", "processor\t: 0\nBogoMIPS\t: 50\n", ""),
        ("Linux", "", "", ""),
        ("Linux", "", None, ""),
        ("Windows", "AMD64 Family 26 Model 2 Stepping 1, AuthenticAMD", None, "AuthenticAMD"),
        ("Windows", "Intel64 Family 6 Model 85 Stepping 4, GenuineIntel", None, ""),
        ("Darwin", "arm", None, ""),
    ],
    ids=["Linux", "no vendor", "empty", "no cpuinfo", "AMD on Windows", "Intel on Windows", "Mac"],
)
def test_the_vendor_is_what_the_system_says(
    system: str, processor: str, cpuinfo: str | None, vendor: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "cpuinfo"
    if cpuinfo is not None:
        file.write_text(cpuinfo)
    opened: list[Any] = []
    monkeypatch.setattr(products, "Path", lambda path: opened.append(path) or file)
    monkeypatch.setattr("platform.system", lambda: system)
    monkeypatch.setattr("platform.processor", lambda: processor)
    assert products._vendor() == vendor
    assert opened == (["/proc/cpuinfo"] if system == "Linux" else [])

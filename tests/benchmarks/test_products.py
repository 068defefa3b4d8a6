"""The products alone are those of the model: every linear layer once, the head at the labelled positions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks.bases import load_case
from benchmarks.products import Products, record_products
from benchmarks.workload import make_chunk
from ia3.data.batches import IGNORED


@pytest.mark.parametrize("base", ["tiny", "tiny-mt5", "tiny-bert"])
def test_every_linear_layer_is_recorded_with_its_rows(base: str) -> None:
    case = load_case(base, None)
    (work,) = make_chunk(case, 1)
    products = record_products(case.model, case.kind, work)
    linears = {m.weight.data_ptr(): m for m in case.model.modules() if isinstance(m, nn.Linear)}
    assert {p.weight.data_ptr() for p in products} == set(linears)
    assert all(p.weight.shape == linears[p.weight.data_ptr()].weight.shape for p in products)
    source, answer = work.batch.input_ids.numel(), work.batch.labels.numel()
    labelled = int((work.batch.labels != IGNORED).sum())
    expected = {"tiny": {source, labelled}, "tiny-mt5": {source, answer, labelled}, "tiny-bert": {source, 8}}
    assert {p.rows for p in products} == expected[base]
    if case.kind != "encoder":
        assert products[-1].rows == labelled
        assert products[-1].weight.data_ptr() == case.model.lm_head.weight.data_ptr()


def test_a_step_runs_each_product_forward_and_backward() -> None:
    case = load_case("tiny", None)
    works = make_chunk(case, 2)
    called: list[tuple[int, ...]] = []

    def multiply(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        called.append((x.shape[0], *weight.shape))
        return x @ weight.t()

    products = Products(case, works, multiply)
    for work in works:
        called.clear()
        products.step(work)
        forward = [(p.rows, *p.weight.shape) for p in products.steps[work.number]]
        assert called == forward + [(rows, inputs, outputs) for rows, outputs, inputs in reversed(forward)]
        Products(case, works).step(work)  # torch.mm takes the same shapes

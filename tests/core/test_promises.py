"""The promises of the core: exact identity, purity, gradients of one's own, numbers that stay fp32.

That a mixed batch gives every example what it gets alone is `test_mixed`'s matter.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ia3.core.attach import Attachment
from tests.core.banks import attached_model, example, largest, random_row
from tests.families import CASES, make_inputs

_MODELS: dict[str, tuple[Any, Attachment]] = {}  # read only: no test here changes them


def _attached(family: str) -> tuple[Any, Attachment]:
    if family not in _MODELS:
        _MODELS[family] = attached_model(family, "a", "b", "c")
    return _MODELS[family]


@torch.no_grad()
def _logits(model: Any, inputs: dict[str, Tensor], rows: Any) -> Tensor:
    return model(**inputs, rows=rows).logits


@pytest.mark.parametrize("family", CASES)
def test_padding_moves_a_mixed_batch_at_most_twice_as_far_as_the_base(family: str) -> None:
    model, _ = _attached(family)
    batch = make_inputs(family, padded=True)
    shorter = []
    for i in range(3):
        alone = example(batch, i)
        length = int(alone["attention_mask"].sum())
        shorter.append({k: v if k == "decoder_input_ids" else v[:, :length] for k, v in alone.items()})

    def distance(rows: list[str]) -> float:
        mixed = _logits(model, batch, rows)
        found = []
        for i in range(3):
            expected = _logits(model, shorter[i], rows[i])[0]
            found.append(largest(mixed[i, : len(expected)] - expected))  # of a causal model the tokens before padding
            assert torch.equal(mixed[i, : len(expected)].argmax(-1), expected.argmax(-1))
        return max(found)

    # on models this small the base may differ by less than one rounding: the absolute bound of the first promise holds
    assert distance(["a", "__base__", "c"]) <= max(2 * distance(["__base__"] * 3), 1e-5)


@pytest.mark.parametrize("family", CASES)
def test_not_a_number_in_one_row_stays_in_its_examples(family: str) -> None:
    model, attachment = attached_model(family, "a")
    attachment.bank.add("broken", torch.full((attachment.bank.plan.width,), torch.nan))
    inputs = make_inputs(family, padded=True)
    mixed = _logits(model, inputs, ["a", "broken", "__base__"])
    assert bool(mixed[1].isnan().all())
    assert torch.equal(mixed[0], _logits(model, inputs, "a")[0])
    assert torch.equal(mixed[2], _logits(model, inputs, "__base__")[2])


@pytest.mark.parametrize("family", CASES)
def test_the_gradient_of_a_row_comes_from_its_own_examples_only(family: str) -> None:
    model, attachment = attached_model(family, "a", "b", trainable=True)
    attachment.bank.add("unused", trainable=True)
    inputs = make_inputs(family)
    rows = ["a", "__base__", "b"]

    def gradients(given: dict[str, Tensor], names: Any, of: slice) -> list[Tensor | None]:
        attachment.bank.zero_grad()
        model(**given, rows=names).logits[of].square().sum().backward()
        return [None if p.grad is None else p.grad.clone() for p in attachment.bank.parameters()]

    a, b, unused = gradients(inputs, rows, slice(0, 3))
    assert unused is None
    (a_alone, *_) = gradients(example(inputs, 0), "a", slice(0, 1))
    (_, b_alone, _) = gradients(example(inputs, 2), "b", slice(0, 1))
    torch.testing.assert_close(a, a_alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(b, b_alone, rtol=1e-4, atol=1e-5)
    a, b, _ = gradients(inputs, rows, slice(0, 1))
    assert a is not None and largest(a) > 1e-3
    assert b is not None and largest(b) == 0.0, "its example has no part in the loss"


@pytest.mark.parametrize("family", CASES)
def test_training_leaves_every_bit_of_the_base_and_of_other_rows(family: str) -> None:
    model, attachment = attached_model(family, "at rest")
    bank = attachment.bank
    bank.add("trained", trainable=True)
    base = {name: tensor.clone() for name, tensor in model.state_dict().items() if not name.startswith("ia3_bank")}
    inputs = make_inputs(family)
    before = _logits(model, inputs, "at rest")
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05, weight_decay=0.0)
    assert [p.shape for group in optimizer.param_groups for p in group["params"]] == [(bank.plan.width,)]
    model.train()
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = model(**inputs, rows=["trained", "at rest", "trained"]).logits.square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    model.eval()
    assert losses[-1] < losses[0]
    assert bool((bank.vector("trained") != 1).any())
    assert all(torch.equal(tensor, base[name]) for name, tensor in model.state_dict().items() if name in base)
    assert torch.equal(_logits(model, inputs, "at rest"), before)


def test_a_row_without_gradient_is_left_alone_by_the_optimizer() -> None:
    model, attachment = attached_model("llama", "a", "b", trainable=True)
    before = attachment.bank.vector("b")
    optimizer = torch.optim.AdamW(attachment.bank.parameters(), lr=0.1, weight_decay=0.5)
    model(**make_inputs("llama"), rows=["a", "a", "__base__"]).logits.sum().backward()
    optimizer.step()
    assert torch.equal(attachment.bank.vector("b"), before)
    assert not torch.equal(attachment.bank.vector("a"), random_row(attachment.bank, seed=0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_vectors_are_fp32_beside_a_base_of_half_precision_and_learn_in_small_steps(dtype: torch.dtype) -> None:
    """In bf16, 1 + 0.003 rounds to 1."""
    model, attachment = attached_model("gpt_neox", dtype=dtype)
    attachment.bank.add("news", trainable=True)
    (parameter,) = attachment.bank.parameters()
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    logits = model(**make_inputs("gpt_neox")).logits
    assert logits.dtype == dtype
    logits.float().square().mean().backward()
    assert parameter.grad is not None and parameter.grad.dtype == torch.float32
    parameter.grad.clamp_(-0.003, 0.003)
    optimizer.step()
    moved = (parameter.detach() - 1).abs()
    assert 1e-4 < float(moved.max()) <= 0.0031
    assert bool((moved.to(torch.bfloat16) > 0).any())


def test_vectors_may_be_zero_or_negative() -> None:
    model, attachment = attached_model("bart")
    bank = attachment.bank
    bank.add("zero", torch.zeros(bank.plan.width))
    bank.add("negative", -torch.ones(bank.plan.width))
    mixed = _logits(model, make_inputs("bart"), ["zero", "negative", "__base__"])
    assert bool(mixed.isfinite().all())
    assert largest(mixed[0] - _logits(model, make_inputs("bart"), "__base__")[0]) > 0.01


def test_under_autocast_a_mixed_batch_equals_each_alone() -> None:
    model, _ = _attached("llama")
    inputs = make_inputs("llama")
    with torch.autocast("cpu", torch.bfloat16):
        mixed = _logits(model, inputs, ["a", "__base__", "b"])
        for i, name in enumerate(["a", "__base__", "b"]):
            assert largest(mixed[i] - _logits(model, example(inputs, i), name)[0]) <= 0.1

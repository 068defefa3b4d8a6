"""Heads: every adapter brings its own classifier, also mixed in one batch."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ia3.core.attach import Attachment, attach_bank
from ia3.core.bank import Bank
from ia3.core.discovery import find_plan
from ia3.core.heads import Head, copy_head, run_heads
from ia3.errors import BankError
from tests.core.banks import example, largest, random_row, tiny_model
from tests.families import make_inputs

HEADS = {"bert": ("classifier",), "roberta": ("classifier",), "deberta": ("pooler", "classifier"), "distilbert": (
    "pre_classifier", "classifier",
)}  # fmt: skip


def _linear(inputs: int, outputs: int, seed: int) -> nn.Linear:
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(inputs, outputs)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return layer


def _attached(family: str = "bert", dtype: torch.dtype = torch.float32) -> tuple[Any, Attachment]:
    """Return a classifier with three labels and two adapters with heads: `two` has two labels, `five` five."""
    model = tiny_model(family, dtype)
    bank = Bank(find_plan(model))
    attachment = attach_bank(model, bank, heads=HEADS[family])
    for place, (name, labels) in enumerate((("two", 2), ("five", 5))):
        row = attachment.add(name, random_row(bank, seed=place))
        head = bank.snapshot.head(row)
        part = head.part("classifier")
        last = "out_proj" if isinstance(part, nn.Module) and hasattr(part, "out_proj") else None
        if last:
            setattr(part, last, _linear(16, labels, seed=place))
        else:
            head.parts[head.paths.index("classifier")] = _linear(16, labels, seed=place)
    return model, attachment


@torch.no_grad()
def _logits(model: Any, rows: Any, family: str = "bert") -> Tensor:
    return model(**make_inputs(family), rows=rows).logits


@pytest.mark.parametrize("family", HEADS)
def test_heads_with_different_numbers_of_labels_share_a_batch(family: str) -> None:
    model, _ = _attached(family)
    mixed = _logits(model, ["two", "five", "__base__"], family)
    assert mixed.shape == (3, 5)
    for i, (name, labels) in enumerate((("two", 2), ("five", 5), ("__base__", 3))):
        with torch.no_grad():
            alone = model(**example(make_inputs(family), i), rows=name).logits
        assert alone.shape == (1, labels)
        assert largest(mixed[i, :labels] - alone[0]) <= 1e-5
        assert bool((mixed[i, labels:] == -torch.inf).all())
    assert bool(mixed.softmax(-1).isfinite().all())


def test_a_batch_of_one_adapter_has_the_width_of_its_head() -> None:
    model, _ = _attached()
    assert _logits(model, "two").shape == (3, 2)
    assert _logits(model, ["five"] * 3).shape == (3, 5)
    assert _logits(model, "__base__").shape == (3, 3)
    assert torch.equal(_logits(model, "__base__"), tiny_model("bert")(**make_inputs("bert")).logits)


def test_a_fresh_adapter_has_a_copy_of_the_bases_head() -> None:
    model, attachment = _attached()
    attachment.add("fresh")
    assert torch.equal(_logits(model, "fresh"), _logits(model, "__base__"))
    head = attachment.bank.snapshot.head(3)
    part = head.part("classifier")
    assert isinstance(part, nn.Linear)
    assert part is not model.classifier
    assert "forward" not in part.__dict__
    assert {name for name, p in model.named_parameters() if p.requires_grad and "row3" in name} == {
        "ia3_bank.vectors.row3", "ia3_bank.heads.row3.parts.0.weight", "ia3_bank.heads.row3.parts.0.bias",
    }  # fmt: skip


def test_gradients_reach_the_head_of_their_own_examples_only() -> None:
    model, attachment = _attached()
    two, five = (attachment.bank.snapshot.head(row) for row in (1, 2))
    logits = model(**make_inputs("bert"), rows=["two", "five", "two"]).logits
    nn.functional.cross_entropy(logits[[0, 2]], torch.tensor([1, 0])).backward()
    assert all(p.grad is not None and largest(p.grad) > 0 for p in two.parameters())
    assert all(p.grad is None or largest(p.grad) == 0 for p in five.parameters())
    assert all(p.grad is None for p in model.classifier.parameters())
    assert all(bool(p.grad.isfinite().all()) for p in two.parameters() if p.grad is not None)


def test_the_loss_of_a_mixed_batch_is_that_of_its_examples_alone() -> None:
    model, attachment = _attached()
    labels, rows = torch.tensor([1, 4, 2]), ["two", "five", "__base__"]
    loss = nn.functional.cross_entropy(model(**make_inputs("bert"), rows=rows).logits, labels, reduction="sum")
    loss.backward()
    found = {name: p.grad.clone() for name, p in attachment.bank.named_parameters() if p.grad is not None}
    attachment.bank.zero_grad()
    alone = 0.0
    for i, row in enumerate(rows):
        one = nn.functional.cross_entropy(
            model(**example(make_inputs("bert"), i), rows=row).logits, labels[i : i + 1], reduction="sum"
        )
        alone += one.detach()
        if row != "__base__":
            one.backward()
    torch.testing.assert_close(loss.detach(), alone)
    expected = {name: p.grad for name, p in attachment.bank.named_parameters() if p.grad is not None}
    assert set(found) == set(expected)
    for name, grad in expected.items():
        torch.testing.assert_close(found[name], grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", ["bert", "roberta", "deberta"])
@pytest.mark.parametrize("order", [("two", "five", "__base__"), ("__base__", "five", "two")], ids="-".join)
def test_heads_stay_fp32_beside_a_bf16_base(family: str, order: tuple[str, ...]) -> None:
    """A mixed batch used to take the dtype of its first example: after the base's, fp32 heads lost their digits."""
    model, attachment = _attached(family, torch.bfloat16)
    assert {p.dtype for head in attachment.bank.heads.values() for p in head.parameters()} == {torch.float32}
    mixed = _logits(model, list(order), family)
    assert mixed.dtype == torch.float32
    for i, name in enumerate(order):
        alone = _logits(model, name, family)
        assert alone.dtype == (torch.bfloat16 if name == "__base__" else torch.float32)
        assert largest(mixed[i, : alone.shape[1]] - alone[i]) <= (0.05 if name == "__base__" else 1e-5)
    model(**make_inputs(family), rows="two").logits.sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in attachment.bank.heads["row1"].parameters())


def test_an_adapter_without_a_head_uses_the_bases() -> None:
    model, attachment = _attached()
    attachment.bank.add("headless")
    assert torch.equal(_logits(model, "headless"), _logits(model, "__base__"))
    mixed = _logits(model, ["headless", "two", "five"])
    assert largest(mixed[0, :3] - _logits(model, "__base__")[0]) <= 1e-6


def test_heads_can_be_routed_after_the_bank_is_on() -> None:
    model = tiny_model("bert")
    attachment = attach_bank(model, Bank(find_plan(model)))
    attachment.bank.add("before")
    expected = _logits(model, "before")
    attachment.route_heads(["classifier"])
    attachment.route_heads(["classifier"])
    assert attachment.head_paths == ("classifier",)
    attachment.add("after")
    assert largest(_logits(model, ["before", "after", 0]) - expected) <= 1e-6
    attachment.detach()
    assert "forward" not in model.classifier.__dict__


def test_unknown_heads_and_sites_inside_a_head_are_refused() -> None:
    model = tiny_model("roberta")
    bank = Bank(find_plan(model))
    for wrong in ("clasifier", ""):
        with pytest.raises(BankError, match=f"has no module '{wrong}' to be a head"):
            attach_bank(model, bank, heads=(wrong,))
    with pytest.raises(BankError, match="Did you mean 'classifier'"):
        attach_bank(model, bank, heads=("clasifier",))
    inside = Bank(find_plan(model, target_modules=["key", "out_proj"]))
    with pytest.raises(BankError, match=r"the site 'classifier\.out_proj' lies in the head 'classifier'"):
        attach_bank(model, inside, heads=("classifier",))
    assert not hasattr(model, "ia3_attachment")
    assert all(p.requires_grad for p in model.parameters())
    with pytest.raises(BankError, match="the model has no module 'clasifier'"):
        copy_head(model, ["clasifier"])


def test_a_head_is_copied_without_the_bank_and_in_fp32() -> None:
    model, _ = _attached(dtype=torch.bfloat16)
    head = copy_head(model, ["classifier", "bert.pooler"])
    assert head.paths == ("classifier", "bert.pooler")
    assert all(p.requires_grad and p.dtype == torch.float32 for p in head.parameters())
    assert set(head.tensors()) == {
        "classifier.weight", "classifier.bias", "bert.pooler.dense.weight", "bert.pooler.dense.bias",
    }  # fmt: skip
    assert not any(tensor.requires_grad for tensor in head.tensors().values())
    assert head.part("elsewhere") is None
    assert "forward" in model.classifier.__dict__, "the model's own routing stays"
    doubled = tiny_model("bert", torch.float64)
    assert {p.dtype for p in copy_head(doubled, ["classifier"]).parameters()} == {torch.float64}


def _run(rows: list[int], *args: Any, parts: Any = None, base: Any = None, **kwargs: Any) -> Any:
    base = base if base is not None else nn.Identity()
    return run_heads(
        "head", base, base.forward, parts or {1: _linear(4, 2, 1), 2: _linear(4, 3, 2)}, rows, args, kwargs
    )


def test_tensors_given_by_name_are_sent_with_their_examples() -> None:
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    parts = {1: _linear(4, 2, 1), 2: _linear(4, 3, 2)}
    assert torch.equal(_run([1, 2, 1], input=x, parts=parts), _run([1, 2, 1], x, parts=parts))


def test_tokens_of_an_example_go_through_the_same_head() -> None:
    x = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    parts = {1: _linear(4, 2, 1), 2: _linear(4, 3, 2)}
    out = _run([2, 1, 2], x, parts=parts)
    assert out.shape == (3, 5, 3)
    torch.testing.assert_close(out[1, :, :2], parts[1](x[1]))
    assert bool((out[1, :, 2] == -torch.inf).all())


def test_an_input_without_one_example_for_each_row_is_refused() -> None:
    with pytest.raises(BankError, match=r"Running the head 'head': its input has shape \(2, 4\), expected 3 examples"):
        _run([1, 2, 1], torch.ones(2, 4))
    with pytest.raises(BankError, match=r"its input has shape \(1, 4\)"):
        _run([1, 2, 1], torch.ones(3, 4), torch.ones(1, 4))
    assert _run([1, 1, 1], torch.ones(2, 4)).shape == (2, 2)


def test_a_head_that_returns_no_tensor_cannot_be_mixed() -> None:
    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    with pytest.raises(BankError, match="it returns a tuple, expected a tensor where adapters are mixed"):
        _run([1, 2], torch.ones(2, 4), parts={1: Pair(), 2: Pair()})
    assert isinstance(_run([1, 1], torch.ones(2, 4), parts={1: Pair()}), tuple)


def test_heads_take_no_part_in_the_names_of_the_base() -> None:
    model, _ = _attached()
    plain = set(tiny_model("bert").state_dict())
    assert {name for name in model.state_dict() if not name.startswith("ia3_bank.")} == plain


def test_a_copied_model_has_heads_of_its_own() -> None:
    model, _ = _attached()
    expected = _logits(model, ["two", "five", 0])
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in copied.named_parameters():
            if "heads" in name:
                parameter.zero_()
    assert torch.equal(_logits(model, ["two", "five", 0]), expected)
    assert float(_logits(copied, "two").abs().max()) == 0.0


def test_a_head_knows_its_modules_by_path() -> None:
    pooler = _linear(2, 2, 0)
    head = Head({"a.pooler": pooler})
    assert head.part("a.pooler") is pooler
    assert set(head.tensors()) == {"a.pooler.weight", "a.pooler.bias"}


# -- one product for all heads that are one linear layer ---------------------------------------------------------------


class _Wrapped(nn.Module):
    """A head that is more than a linear layer, and does the same."""

    def __init__(self, inner: nn.Linear) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_one_product_for_all_heads_gives_what_each_gives_alone(data: st.DataObject) -> None:
    labels = data.draw(st.lists(st.integers(1, 5), min_size=2, max_size=5))
    rows = data.draw(st.lists(st.integers(0, len(labels) - 1), min_size=2, max_size=9))
    tokens = data.draw(st.sampled_from([(), (3,)]))
    heads = [_linear(4, count, seed).double() for seed, count in enumerate(labels)]
    x = torch.randn(len(rows), *tokens, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(len(rows)))
    answers, gradients = [], []
    for parts in (dict(enumerate(heads)), {place: _Wrapped(head) for place, head in enumerate(heads)}):
        read = x.clone().requires_grad_(True)
        out = _run(rows, read, parts=parts)
        out.masked_fill(out.isneginf(), 0).square().sum().backward()
        used = [head for place, head in enumerate(heads) if place in rows]
        assert all(head.weight.grad is None for place, head in enumerate(heads) if place not in rows)
        gradients.append([read.grad, *(p.grad for head in used for p in head.parameters())])
        answers.append(out.detach())
        for head in heads:
            head.zero_grad()
    torch.testing.assert_close(answers[0], answers[1])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_a_nan_stays_in_its_own_row_and_in_the_gradient_of_its_own_head() -> None:
    parts = {1: _linear(4, 2, 1), 2: _linear(4, 3, 2)}
    x = torch.ones(3, 4)
    x[1] = torch.nan
    out = _run([2, 1, 2], x, parts=parts)
    assert bool(out[[0, 2]].isfinite().all())
    assert bool(out[1, :2].isnan().all()) and bool(out[1, 2].isneginf())
    out[[0, 2]].sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in parts[2].parameters() if p.grad is not None)


@pytest.mark.parametrize("sort", ["no bias", "hooked", "other width"])
def test_heads_of_another_sort_are_run_one_by_one(sort: str) -> None:
    parts: dict[int, nn.Module] = {1: _linear(4, 2, 1), 2: _linear(4, 3, 2)}
    x = torch.ones(2, 4)
    if sort == "no bias":
        parts[1] = nn.Linear(4, 2, bias=False)
    elif sort == "hooked":
        parts[1].register_forward_hook(lambda module, args, output: output + 1)
    else:
        parts[1] = _linear(5, 2, 1)
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            _run([1, 2], x, parts=parts)
        return
    out = _run([1, 2], x, parts=parts)
    torch.testing.assert_close(out[0, :2], parts[1](x)[0])
    torch.testing.assert_close(out[1], parts[2](x)[1])

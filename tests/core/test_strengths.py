"""Strength: each example gets as much of its adapter as is asked for, in any batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ia3.adapters.task_vectors import scale_row
from ia3.core.heads import Head
from ia3.core.strengths import AtStrength, at_strength, split_strengths, turn_rows
from ia3.errors import BankError
from tests.core.banks import attached_model
from tests.families import CASES, make_inputs

FINITE = st.floats(-4, 4, width=32)


def _mixed(family: str) -> tuple[Any, Any]:
    model, attachment = attached_model(family, "a", "b")
    width = attachment.bank.plan.width
    for seed, name in enumerate(("a", "b")):
        attachment.bank.set_vector(name, 2 * torch.rand(width, generator=torch.Generator().manual_seed(seed)))
    return model, attachment


@settings(max_examples=50, deadline=None)
@given(st.lists(FINITE, min_size=3, max_size=3), st.sampled_from([0.0, 1.0, -1.0, 0.3, 2.5]))
def test_a_turned_row_has_the_bits_of_the_adapter_that_combine_makes(numbers: list[float], strength: float) -> None:
    row = torch.tensor([numbers])
    assert torch.equal(turn_rows(row, [strength])[0], scale_row(row[0], strength))


def test_none_of_it_is_the_base_and_all_of_it_the_adapter_whatever_the_numbers_are() -> None:
    row = torch.tensor([[torch.nan, torch.inf, -0.0, 1e-40, 3.4e38]])
    none, full = turn_rows(row, [0, 1])
    assert torch.equal(none, torch.ones(5))
    assert torch.equal(full.view(torch.int32), row[0].view(torch.int32))


@pytest.mark.parametrize("family", ["llama", "t5", "opt", "gpt2", "bert"])
@torch.no_grad()
def test_a_batch_of_several_strengths_is_each_of_its_examples_alone(family: str) -> None:
    model, attachment = _mixed(family)
    bank = attachment.bank
    bank.add("half", scale_row(bank.vector("a"), 0.5))
    bank.add("against", scale_row(bank.vector("b"), -1))
    inputs = make_inputs(family)
    turned = [AtStrength("a", 0.5), AtStrength(bank.row("b"), np.float64(-1)), AtStrength("__base__", 7)]
    expected = model(**inputs, rows=["half", "against", "__base__"]).logits
    assert torch.equal(model(**inputs, rows=turned).logits, expected)
    with attachment.rows(turned):
        assert torch.equal(model(**inputs).logits, expected)
    same = model(**inputs, rows=[AtStrength("a", s) for s in (1, 0, 0.5)]).logits
    assert torch.equal(same, model(**inputs, rows=["a", "__base__", "half"]).logits)
    for strength, name in ((1, "a"), (0, "__base__"), (0.5, "half")):
        whole = model(**inputs, rows=AtStrength("a", strength)).logits
        assert torch.equal(whole, model(**inputs, rows=name).logits)


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_beams_and_samples_keep_the_strength_of_their_prompt(family: str) -> None:
    model, attachment = _mixed(family)
    attachment.bank.add("half", scale_row(attachment.bank.vector("a"), 0.5))
    inputs = {name: value for name, value in make_inputs(family).items() if name in ("input_ids", "attention_mask")}
    for options in ({"num_beams": 2, "num_return_sequences": 2}, {"do_sample": True, "num_return_sequences": 2}):
        torch.manual_seed(3)
        expected = model.generate(**inputs, rows=["half", "b", "a"], max_new_tokens=3, **options)
        torch.manual_seed(3)
        rows = [AtStrength("a", 0.5), "b", AtStrength("a", 1)]
        assert torch.equal(model.generate(**inputs, rows=rows, max_new_tokens=3, **options), expected)


def test_a_gradient_is_multiplied_by_the_strength_also_through_a_recomputed_block() -> None:
    """At l = 1 the model is the same at every strength, and the chain rule multiplies by it."""
    model, attachment = attached_model("llama", "a")
    bank, inputs = attachment.bank, make_inputs("llama")
    bank.set_vector("a", torch.ones(bank.plan.width))
    bank.set_trainable("a")

    def gradient(strength: float) -> torch.Tensor:
        bank.snapshot.vector(1).grad = None
        model(**inputs, rows=AtStrength("a", strength)).logits.square().mean().backward()
        found = bank.snapshot.vector(1).grad
        assert found is not None
        return found

    full = gradient(1).clone()
    assert torch.allclose(gradient(0.25), 0.25 * full, rtol=1e-4, atol=1e-9)
    assert not gradient(0).any()
    model.train()
    model.activation_checkpointing_enable()
    assert torch.allclose(gradient(0.25), 0.25 * full, rtol=1e-4, atol=1e-9)


def test_a_head_is_taken_as_it_is() -> None:
    model, attachment = _mixed("bert")
    torch.manual_seed(0)
    attachment.bank.replace("a", attachment.bank.vector("a"), head=Head({"classifier": torch.nn.Linear(16, 2)}))
    attachment.route_heads(["classifier"])
    inputs = make_inputs("bert")
    attachment.bank.add("ones", head=attachment.bank.snapshot.head(1))
    found = model(**inputs, rows=AtStrength("a", 0)).logits
    assert torch.equal(found, model(**inputs, rows="ones").logits)
    assert not torch.equal(found, model(**inputs, rows="__base__").logits)


@pytest.mark.parametrize("strength", [float("nan"), float("inf"), "1", None, True, 10**400])
def test_what_is_no_finite_number_is_refused(strength: Any) -> None:
    with pytest.raises(BankError, match=r"Choosing adapter 'news': its strength is .*, expected a finite number"):
        AtStrength("news", strength)


def test_a_strength_of_one_leaves_no_trace_and_unknown_names_are_errors() -> None:
    assert at_strength("a", 1) == "a" and at_strength("a", 0.5) == AtStrength("a", 0.5)
    assert split_strengths(["a", AtStrength(2, 1)]) == (["a", 2], None)
    assert split_strengths(["a", AtStrength(2, 0)]) == (["a", 2], (1.0, 0.0))
    model, _ = _mixed("llama")
    with pytest.raises(BankError, match=r"'aa': the bank has no such name\. Did you mean 'a'"):
        model(**make_inputs("llama"), rows=AtStrength("aa", 0.5))


def test_the_families_here_are_of_every_kind() -> None:
    assert {CASES[family].kind for family in ("llama", "t5", "bert")} == {"causal", "seq2seq", "encoder"}

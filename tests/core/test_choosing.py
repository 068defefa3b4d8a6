"""Reading rows: what a user gives becomes a scope, or an error before anything runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from ia3.core.choosing import default_rows, read_rows
from ia3.core.heads import Head
from ia3.core.labels import check_own_loss, count_outputs
from ia3.errors import BankError
from tests.core.banks import attached_model
from tests.families import make_inputs


@pytest.mark.parametrize("rows", [["b", "__base__", "a"], (2, 0, 1), torch.tensor([2, 0, 1]), iter([2, "__base__", 1])])
def test_one_for_each_example(rows: Any) -> None:
    _, attachment = attached_model("llama", "a", "b")
    scope = read_rows(attachment.bank, (), rows)
    assert (scope.rows, scope.is_uniform, scope.expands) == ((2, 0, 1), False, False)
    assert scope.snapshot is attachment.bank.snapshot


def test_one_for_all_and_the_one_that_is_used_where_none_is_given() -> None:
    _, attachment = attached_model("llama", "a")
    bank = attachment.bank
    for scope in (read_rows(bank, (), "a"), read_rows(bank, (), 1), default_rows(bank, (), None)):
        assert (scope.rows, scope.is_uniform) == ((1,), True)
    bank.add("b")
    assert default_rows(bank, (), 2).rows == (2,)
    with pytest.raises(BankError, match=r"no rows are given and the bank has 2 adapters \('a', 'b'\)"):
        default_rows(bank, (), None)
    bank.remove("b")
    with pytest.raises(BankError, match="row 2: no adapter lies there"):
        default_rows(bank, (), 2)


def test_an_adapter_whose_head_nothing_is_sent_to_is_refused() -> None:
    """A head at a path that was not routed used to be left out without a word: the base's answered in its place."""
    model, attachment = attached_model("bert", "plain")
    attachment.bank.add("news", head=Head({"classifier": nn.Linear(16, 2)}))
    inputs = make_inputs("bert")
    model(**inputs, rows="plain")
    told = r"'news': it brings its own 'classifier'.*Call route_heads\(\['classifier'\]\)"
    for rows in ("news", ["plain", "news", "__base__"], 2):
        with pytest.raises(BankError, match=told):
            model(**inputs, rows=rows)
    attachment.activate("news")
    with pytest.raises(BankError, match=told):
        model(**inputs)
    attachment.route_heads(["classifier"])
    assert model(**inputs).logits.shape == (3, 2)


def test_a_head_that_counts_other_labels_than_the_model_s_own_loss_is_refused_with_labels() -> None:
    """The error of transformers there is that of a batch of another size."""
    model, attachment = attached_model("bert", "plain")
    attachment.route_heads(["classifier"])
    attachment.bank.add("two", head=Head({"classifier": nn.Sequential(nn.Linear(16, 8), nn.Linear(8, 2))}))
    attachment.bank.add("three", head=Head({"classifier": nn.Linear(16, 3)}))
    inputs, labels = make_inputs("bert"), torch.tensor([1, 0, 1])
    for rows in (["three", "two", "plain"], "two"):
        with pytest.raises(BankError, match="it counts 3 labels, and the head of adapter 'two' has 2"):
            model(**inputs, labels=labels, rows=rows)
    assert float(model(**inputs, labels=labels, rows=["three", "plain", "__base__"]).loss) > 0
    check_own_loss(nn.Linear(1, 1), {"a": Head({"": nn.Linear(1, 2)})})  # a module without a config
    assert count_outputs(nn.Dropout()) is None

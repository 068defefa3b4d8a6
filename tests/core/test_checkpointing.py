"""Gradient checkpointing with mixed rows gives the gradients it gives without."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ia3.core.attach import Attachment, attach_bank
from ia3.core.bank import Bank
from ia3.core.discovery import find_plan
from ia3.errors import BankError
from tests.core.banks import attached_model, random_row, tiny_model
from tests.families import make_inputs

ROWS = ["a", "__base__", "b"]
FAMILIES = ["t5", "bart", "gpt2", "opt", "falcon-new", "qwen3", "phi3", "bert", "deberta-v3", "modernbert"]


def _training(family: str) -> tuple[Any, Attachment]:
    model, attachment = attached_model(family, "a", "b", trainable=True)
    return model.train(), attachment


def _inputs(family: str) -> dict[str, Any]:
    inputs = make_inputs(family)
    return inputs if family in ("bert", "deberta-v3", "modernbert") else {**inputs, "use_cache": False}


def _run(model: Any, attachment: Attachment, family: str, rows: Any = ROWS) -> list[Tensor]:
    attachment.bank.zero_grad()
    model(**_inputs(family), rows=rows).logits.square().sum().backward()
    return [p.grad.clone() for p in attachment.bank.parameters() if p.grad is not None]


@pytest.mark.parametrize("is_reentrant", [False, True], ids=["plain", "reentrant"])
@pytest.mark.parametrize("family", FAMILIES)
def test_mixed_rows_have_the_same_gradients_with_checkpointing(family: str, is_reentrant: bool) -> None:
    model, attachment = _training(family)
    expected = _run(model, attachment, family)
    model.activation_checkpointing_enable({"use_reentrant": is_reentrant})  # after attach
    if is_reentrant:
        model.enable_input_require_grads()
    recomputed = _Counter(model)
    for found, wanted in zip(_run(model, attachment, family), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert recomputed.count > 0, "nothing was recomputed: the test says nothing"


class _Counter:
    """Counts the passes through projections that run inside a backward pass."""

    def __init__(self, model: Any) -> None:
        self.count = 0
        for module in model.modules():
            if isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D":
                module.register_forward_hook(self._note)

    def _note(self, *_: Any) -> None:
        self.count += torch._C._current_graph_task_id() != -1


@pytest.mark.parametrize("family", ["t5", "llama"])
def test_checkpointing_that_was_on_before_the_bank_came_knows_the_rows(family: str) -> None:
    expected = _run(*_training(family), family)
    model = tiny_model(family).train()
    model.activation_checkpointing_enable({"use_reentrant": False})
    bank = Bank(find_plan(model))
    attachment = attach_bank(model, bank)
    for place, name in enumerate("ab"):
        bank.add(name, random_row(bank, seed=place), trainable=True)
    for found, wanted in zip(_run(model, attachment, family), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_rows_of_a_scope_that_is_left_before_the_backward_pass_are_those_of_the_forward_pass() -> None:
    model, attachment = _training("llama")
    expected = _run(model, attachment, "llama")
    model.activation_checkpointing_enable({"use_reentrant": False})
    attachment.bank.zero_grad()
    with attachment.rows(ROWS):
        loss = model(**_inputs("llama")).logits.square().sum()
    with attachment.disabled():
        loss.backward()
    for found, wanted in zip([p.grad for p in attachment.bank.parameters()], expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_two_passes_before_one_backward_pass_keep_their_own_rows() -> None:
    model, attachment = _training("llama")
    first, second = _run(model, attachment, "llama", ["a", "a", "b"]), _run(model, attachment, "llama", ["b", 0, "a"])
    model.activation_checkpointing_enable({"use_reentrant": False})
    attachment.bank.zero_grad()
    losses = [model(**_inputs("llama"), rows=rows).logits.square().sum() for rows in (["a", "a", "b"], ["b", 0, "a"])]
    sum(losses).backward()
    for p, one, two in zip(attachment.bank.parameters(), first, second, strict=True):
        torch.testing.assert_close(p.grad, one + two, rtol=1e-4, atol=1e-4)


def test_switched_off_again_nothing_is_recomputed() -> None:
    model, attachment = _training("llama")
    expected = _run(model, attachment, "llama")
    model.activation_checkpointing_enable({"use_reentrant": False})
    model.activation_checkpointing_disable()
    recomputed = _Counter(model)
    assert all(torch.equal(a, b) for a, b in zip(_run(model, attachment, "llama"), expected, strict=True))
    assert recomputed.count == 0


def test_a_block_checkpointed_by_other_code_is_refused_where_its_rows_are_not_known() -> None:
    model, attachment = _training("llama")
    layer, x = model.model.layers[0].mlp, torch.randn(3, 4, 16).requires_grad_(True)
    with attachment.rows(ROWS):
        out = checkpoint(layer, x, use_reentrant=False)
    with pytest.raises(BankError, match="Recomputing a checkpointed block: its rows are not known here"):
        out.sum().backward()


def test_a_model_checkpointed_whole_with_its_rows_is_recomputed_with_them() -> None:
    model, attachment = _training("llama")
    expected = _run(model, attachment, "llama")
    attachment.bank.zero_grad()
    inputs = {**_inputs("llama"), "rows": ROWS}
    checkpoint(lambda: model(**inputs).logits, use_reentrant=False).square().sum().backward()
    for found, wanted in zip([p.grad for p in attachment.bank.parameters()], expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)

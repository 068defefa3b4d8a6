"""Frozen sites multiply and have no gradient; before the first one that is not frozen nothing has one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ia3.core.attach import Attachment
from ia3.core.surroundings import surrounded
from ia3.fast.acceleration import accelerated
from tests.core.banks import attached_model
from tests.families import make_inputs

ROWS = ["a", "__base__", "b"]
# plain, fused, flattened, shared positions, encoder and decoder, modules with faster passes
FAMILIES = ["llama", "gemma3", "gpt2", "opt", "deberta-v3", "bert", "t5", "bart"]


def _training(family: str) -> tuple[Any, Attachment]:
    model, attachment = attached_model(family, "a", "b", trainable=True)
    return model.eval(), attachment


def _run(model: Any, attachment: Attachment, family: str, rows: Any = ROWS) -> tuple[Tensor, list[Tensor]]:
    attachment.bank.zero_grad()
    logits = model(**make_inputs(family), rows=rows).logits
    logits.square().sum().backward()
    return logits.detach(), [p.grad.clone() for p in attachment.bank.parameters() if p.grad is not None]


def _compare(attachment: Attachment, sites: frozenset[int], found: list[Tensor], expected: list[Tensor]) -> None:
    assert len(found) == len(expected) == 2
    for some, every in zip(found, expected, strict=True):
        for number, (_, span) in enumerate(attachment.bank.plan.spans()):
            assert bool((every[..., span] != 0).any())
            wanted = torch.zeros_like(every[..., span]) if number in sites else every[..., span]
            torch.testing.assert_close(some[..., span], wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("is_fast", [False, True], ids=["plain", "faster"])
@pytest.mark.parametrize("family", FAMILIES)
def test_frozen_sites_have_no_gradient_and_the_others_the_one_they_had(family: str, is_fast: bool) -> None:
    model, attachment = _training(family)
    sites = attachment.bank.plan.sites_of_first_blocks(0.5)
    assert 0 < len(sites) < len(attachment.bank.plan.sites)
    if is_fast:
        with accelerated(attachment):
            logits, expected = _run(model, attachment, family)
            with surrounded(frozen=sites):
                same, found = _run(model, attachment, family)
    else:
        logits, expected = _run(model, attachment, family)
        with surrounded(frozen=sites):
            same, found = _run(model, attachment, family)
    torch.testing.assert_close(same, logits, rtol=1e-5, atol=1e-6)
    _compare(attachment, sites, found, expected)


@pytest.mark.parametrize("is_reentrant", [False, True], ids=["plain", "reentrant"])
def test_a_recomputed_block_has_the_frozen_sites_that_it_had(is_reentrant: bool) -> None:
    model, attachment = _training("llama")
    sites = attachment.bank.plan.sites_of_first_blocks(0.5)
    expected = _run(model, attachment, "llama")[1]
    model.train().activation_checkpointing_enable({"use_reentrant": is_reentrant})
    if is_reentrant:
        model.enable_input_require_grads()
    attachment.bank.zero_grad()
    with surrounded(frozen=sites):
        loss = model(**make_inputs("llama"), rows=ROWS, use_cache=False).logits.square().sum()
    loss.backward()  # out of the scope, as on another thread
    _compare(attachment, sites, [p.grad for p in attachment.bank.parameters() if p.grad is not None], expected)


def test_nothing_wants_a_gradient_before_the_first_site_that_is_not_frozen() -> None:
    model, attachment = _training("llama")
    wants: list[bool] = []

    def note(module: nn.Module, args: Any, output: Any) -> None:
        wants.append((output if isinstance(output, Tensor) else output[0]).requires_grad)

    for block in model.model.layers:
        block.register_forward_hook(note)
    blocks = len(model.model.layers)
    for first in range(blocks):
        wants.clear()
        with surrounded(frozen=attachment.bank.plan.sites_of_first_blocks(first / blocks)):
            model(**make_inputs("llama"), rows="a")
        assert wants == [number >= first for number in range(blocks)]

"""A pass that begins behind the first blocks has the loss and the gradients of a whole one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ia3.core.surroundings import surrounded
from ia3.data.batches import IGNORED, Batch
from ia3.fast.acceleration import accelerated
from ia3.fast.first_blocks import first_blocks
from tests.core.banks import attached_model
from tests.families import CASES
from tests.fast.passes import MIXED, assert_same, loss_and_gradients, make_batch, mixed_model

UNDERSTOOD = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3")
UNDERSTOOD += ("bert", "roberta", "xlm-roberta", "camembert", "electra")


@pytest.mark.parametrize("is_fast", [False, True], ids=["plain", "faster"])
@pytest.mark.parametrize("family", UNDERSTOOD)
def test_loss_and_gradients_are_those_of_a_whole_pass(family: str, is_fast: bool) -> None:
    model, attachment = mixed_model(family)
    sites, batch = attachment.bank.plan.sites_of_first_blocks(0.5), _batch(family)
    with ExitStack() as stack:
        if is_fast:
            stack.enter_context(accelerated(attachment))
        stack.enter_context(surrounded(frozen=sites))
        expected = loss_and_gradients(model, attachment, family, batch, MIXED)
        blocks = stack.enter_context(first_blocks(attachment))
        assert blocks is not None and blocks.count(sites) == 1
        hidden = blocks.run({**_inputs(family, batch), "rows": MIXED}, 1)
        hidden[~batch.attention_mask.bool()] = 0  # nobody reads what stands at padded positions
        assert not hidden.requires_grad
        with blocks.given(hidden, 1), _not_run(model.get_submodule(f"{blocks.path}.0")):
            found = loss_and_gradients(model, attachment, family, batch, MIXED)
        assert_same(found, expected, 1e-5)
        assert_same(loss_and_gradients(model, attachment, family, batch, MIXED), expected, 1e-6)


def _batch(family: str) -> Batch:
    """Return a batch without targets at padded positions, as those of texts are."""
    batch = make_batch(family)
    if CASES[family].kind == "encoder":
        return batch
    return replace(batch, labels=torch.where(batch.attention_mask.bool(), batch.labels, IGNORED))


def _inputs(family: str, batch: Batch) -> dict[str, Any]:
    return {**batch.inputs} if CASES[family].kind == "encoder" else {**batch.inputs, "use_cache": False}


@contextmanager
def _not_run(block: nn.Module) -> Iterator[None]:
    """Fail if a part of a block is run inside."""
    handles = [part.register_forward_pre_hook(_fail) for part in block.modules() if part is not block]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _fail(module: nn.Module, args: Any) -> None:
    raise AssertionError(f"{type(module).__name__} was run")


@pytest.mark.parametrize("family", ["t5", "bart", "gpt2", "deberta-v3", "modernbert"])
def test_where_blocks_are_not_known_there_are_none(family: str) -> None:
    _, attachment = attached_model(family, "a")
    with first_blocks(attachment) as blocks:
        assert blocks is None


def _patch(model: Any, patch: pytest.MonkeyPatch, forward: Any) -> None:
    """Let every block run `forward`, and see that the model still runs."""
    patch.setattr(type(model.model.layers[0]), "forward", forward)
    assert bool(model(input_ids=torch.tensor([[1, 2, 3]]), rows="a").logits.isfinite().all())


def test_blocks_that_give_more_than_a_tensor_are_not_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    model, attachment = attached_model("llama", "a")
    block, norm = type(model.model.layers[0]).forward, type(model.model.norm).forward

    def pair(self: nn.Module, hidden: Any, *args: Any, **kwargs: Any) -> Any:
        return block(self, hidden[0] if isinstance(hidden, tuple) else hidden, *args, **kwargs), None

    def first(self: nn.Module, hidden: Any) -> Any:
        return norm(self, hidden[0] if isinstance(hidden, tuple) else hidden)

    monkeypatch.setattr(type(model.model.norm), "forward", first)
    _patch(model, monkeypatch, pair)
    with first_blocks(attachment) as blocks:
        assert blocks is None


def test_blocks_that_tell_each_other_more_are_not_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    model, attachment = attached_model("llama", "a")
    block, passes = type(model.model.layers[0]).forward, [0]

    def tell(self: Any, hidden: Any, *args: Any, **kwargs: Any) -> Any:
        passes[0] += self.self_attn.layer_idx == 0
        return block(self, hidden, *args, **kwargs) + passes[0] * self.self_attn.layer_idx

    _patch(model, monkeypatch, tell)
    with first_blocks(attachment) as blocks:
        assert blocks is None


def test_every_block_has_its_own_forward_again_behind_the_scope() -> None:
    model, attachment = attached_model("llama", "a")
    before = [dict(block.__dict__) for block in model.model.layers]
    with pytest.raises(ValueError, match="inside"), first_blocks(attachment):
        assert [dict(block.__dict__) for block in model.model.layers] != before
        raise ValueError("inside")
    assert [dict(block.__dict__) for block in model.model.layers] == before


def test_blocks_count_as_first_up_to_the_first_vector_that_is_trained() -> None:
    _, attachment = attached_model("llama", "a")
    sites = attachment.bank.plan.sites
    inside = {number for number, site in enumerate(sites) if ".layers.0." in site.module}
    with first_blocks(attachment) as blocks:
        assert blocks is not None
        assert [blocks.count(frozenset(h)) for h in ((), inside, inside - {0}, range(len(sites)))] == [0, 1, 0, 0]


def test_another_thread_runs_the_whole_model() -> None:
    model, attachment = attached_model("llama", "a")
    ids = torch.tensor([[1, 2, 3]])
    expected = model(input_ids=ids, rows="a").logits
    found: list[Tensor] = []
    with first_blocks(attachment) as blocks:
        assert blocks is not None
        with blocks.given(torch.zeros(1, 3, model.config.hidden_size), 1):
            thread = threading.Thread(target=lambda: found.append(model(input_ids=ids, rows="a").logits))
            thread.start()
            thread.join()
            assert not torch.equal(model(input_ids=ids, rows="a").logits, expected)
    assert torch.equal(found[0], expected)

"""Compiled blocks give the same numbers, fall back where the compiler refuses, and are chosen by a run's size alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ia3.core.surroundings import surrounded
from ia3.fast import compiling
from ia3.fast.acceleration import accelerate
from ia3.fast.compiling import repays_compiling, repeated_blocks
from tests.families import make_inputs
from tests.fast.passes import assert_same, loss_and_gradients, make_batch, mixed_model, take_onednn

# family: repeated blocks that are compiled; where the last one is cut to what is read of it, it stays as it is
COMPILED = {"gemma3": 1, "bert": 1, "mt5": 4}


@pytest.mark.slow
@pytest.mark.parametrize("library", ["torch", "onednn"])
@pytest.mark.parametrize("family", COMPILED)
def test_compiled_blocks_give_the_loss_and_the_gradients_of_the_plain_ones(
    family: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if library == "onednn":
        take_onednn(monkeypatch)
    torch._dynamo.reset()
    model, attachment = mixed_model(family)
    batches = [make_batch(family), make_batch(family, seq=9, batch=4)]
    rows = [["a", "b", "__base__", "signs"], "a"]
    expected = [loss_and_gradients(model, attachment, family, batch, r) for batch, r in zip(batches, rows, strict=True)]
    with accelerate(attachment, compiled=True) as acceleration:
        assert acceleration.counts["compiled blocks"] == COMPILED[family]
        for batch, r, plain in zip(batches, rows, expected, strict=True):
            found = loss_and_gradients(model, attachment, family, batch, r)
            assert float(found["loss"]) == pytest.approx(float(plain["loss"]), rel=1e-5)
            assert_same(found, plain, 5e-5)  # sums in another order: mT5's gradients were seen to differ by 1.6e-5
        assert acceleration.compile_failure is None


def test_a_block_that_the_compiler_refuses_runs_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise torch._dynamo.exc.Unsupported("no such thing")

    monkeypatch.setattr(torch, "compile", lambda function, **options: refuse)
    model, attachment = mixed_model("gemma3")
    batch = make_batch("gemma3")
    expected = loss_and_gradients(model, attachment, "gemma3", batch, "a")
    with accelerate(attachment, compiled=True) as acceleration:
        assert_same(loss_and_gradients(model, attachment, "gemma3", batch, "a"), expected, 1e-4)
        assert acceleration.compile_failure == "Unsupported: no such thing"


def test_a_block_that_no_gradient_goes_into_runs_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Any] = []

    def compile_nothing(function: Any, **options: Any) -> Any:
        return lambda *args: ran.append(args[0]) or function(*args)

    monkeypatch.setattr(torch, "compile", compile_nothing)
    model, attachment = mixed_model("mt5")
    batch = make_batch("mt5")
    plan = attachment.bank.plan
    with accelerate(attachment, compiled=True):
        for share, blocks in ((0.0, 4), (0.25, 3), (0.75, 1)):  # of two in the encoder and two in the decoder
            ran.clear()
            with surrounded(frozen=plan.sites_of_first_blocks(share)):
                loss_and_gradients(model, attachment, "mt5", batch, "a")
            assert len(ran) == blocks
        with torch.no_grad():
            ran.clear()
            model(**make_inputs("mt5"), rows="a")
            assert not ran


def test_blocks_with_sites_on_other_modules_than_linears_are_left_out() -> None:
    assert repeated_blocks(mixed_model("gpt2")[1]) == []
    assert [path for path, _ in repeated_blocks(mixed_model("llama")[1])] == ["model.layers.0", "model.layers.1"]
    assert len(repeated_blocks(mixed_model("mt5")[1])) == 4


def test_a_twin_shares_every_tensor_and_carries_no_hooks() -> None:
    _, attachment = mixed_model("llama")
    path, block = repeated_blocks(attachment)[0]
    twin, slots = compiling._twin(block, path, attachment)
    assert {id(p) for p in twin.parameters()} == {id(p) for p in block.parameters()}
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in twin.modules())
    assert any(module._forward_hooks for module in block.modules())
    assert sorted(attachment.groups[slot].module.rpartition(".")[2] for slot in slots) == [
        "k_proj",
        "up_proj",
        "v_proj",
    ]


def test_only_a_long_run_repays_compiling_and_a_longer_one_where_products_are_faster() -> None:
    assert not repays_compiling(100_000_000, 100_000, 2, "torch")
    assert repays_compiling(100_000_000, 10_000_000, 2, "torch")
    assert repays_compiling(100_000_000, 400_000, 2, "torch")
    assert not repays_compiling(100_000_000, 400_000, 2, "onednn")
    assert repays_compiling(100_000_000, 10_000_000, 2, "onednn")
    assert not repays_compiling(100_000_000, 10_000_000, 200, "torch")

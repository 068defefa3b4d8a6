"""Logits at positions: the same numbers as the whole logits hold there, in every family, and no hook left behind.

So they are where faster passes compute the last block at those positions alone.
"""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor

from ia3.errors import BaseError
from ia3.fast.acceleration import accelerate
from ia3.inference.logits import cache_of, class_logits, known_inputs, logits_at, run_at
from tests.core.banks import attached_model
from tests.families import CASES, VOCABULARY, make_inputs, make_model

LANGUAGE_MODELS = [name for name, case in CASES.items() if case.kind != "encoder"]
ENCODERS = [name for name, case in CASES.items() if case.kind == "encoder"]
CUT_LAST_BLOCKS = ["llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3"]


def inputs_and_positions(name: str) -> tuple[dict[str, Tensor], Tensor]:
    """Return padded inputs and random positions of the decoder's side, some rows without any."""
    inputs = make_inputs(name, padded=True)
    side = inputs.get("decoder_input_ids", inputs["input_ids"])
    positions = torch.rand(side.shape, generator=torch.Generator().manual_seed(3)) < 0.4
    positions[1] = False
    return inputs, positions


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_logits_are_those_of_the_whole_pass(name: str) -> None:
    model = make_model(name)
    inputs, positions = inputs_and_positions(name)

    with torch.inference_mode():
        whole = model(**inputs).logits
        found = logits_at(model, positions, inputs)

    assert found.shape == (int(positions.sum()), VOCABULARY)
    torch.testing.assert_close(found, whole[positions], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "mt5", "bart"])
def test_gradients_are_those_of_the_whole_pass(name: str) -> None:
    model = make_model(name)
    inputs, positions = inputs_and_positions(name)
    parameter = model.get_input_embeddings().weight

    gradients = []
    for logits in (model(**inputs).logits[positions], logits_at(model, positions, inputs)):
        model.zero_grad()
        logits.log_softmax(dim=-1)[:, 5].sum().backward()
        gradients.append(parameter.grad.clone())

    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_no_position_gives_no_logits(name: str) -> None:
    inputs, positions = inputs_and_positions(name)

    found = logits_at(make_model(name), torch.zeros_like(positions), inputs)

    assert found.shape == (0, VOCABULARY)


@pytest.mark.parametrize("name", ENCODERS)
def test_logits_of_classes_are_those_of_the_whole_pass(name: str) -> None:
    model, attachment = attached_model(name, "a", "b")
    inputs = {**make_inputs(name, padded=True), "rows": ["a", "__base__", "b"]}

    with torch.inference_mode():
        whole = model(**inputs).logits
        assert torch.equal(class_logits(model, inputs), whole)
        with accelerate(attachment):
            torch.testing.assert_close(class_logits(model, inputs), whole, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(model(**inputs).logits, whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", CUT_LAST_BLOCKS)
def test_where_the_last_block_is_cut_they_are_those_of_the_whole_pass(name: str) -> None:
    model, attachment = attached_model(name, "a", "b")
    inputs, positions = inputs_and_positions(name)
    inputs = {**inputs, "rows": ["a", "__base__", "b"]}

    with torch.inference_mode():
        whole = model(**inputs).logits
        with accelerate(attachment):
            lengths = _lengths_of_the_last_feedforward(model)
            for wanted in (positions, torch.zeros_like(positions), torch.ones_like(positions)):
                found = logits_at(model, wanted, inputs)
                torch.testing.assert_close(found, whole[wanted], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(model(**inputs).logits, whole, atol=1e-5, rtol=1e-5)

    every = positions.shape[1]
    assert lengths == [int(positions.sum(dim=1).max()), every, every, every]


def _lengths_of_the_last_feedforward(model: Any) -> list[int]:
    """Return a list that the number of positions of every pass is added to."""
    lengths: list[int] = []
    model.model.layers[-1].mlp.down_proj.register_forward_hook(
        lambda module, args, output: lengths.append(output.shape[1])
    )
    return lengths


def test_the_head_computes_at_the_positions_only() -> None:
    model = make_model("gemma3")
    inputs, positions = inputs_and_positions("gemma3")
    shapes: list[Any] = []
    model.lm_head.register_forward_hook(lambda module, args, output: shapes.append(tuple(output.shape)))

    logits_at(model, positions, inputs)

    assert shapes == [(1, int(positions.sum()), VOCABULARY)]


def test_the_output_carries_the_cache() -> None:
    model = make_model("gpt2")
    inputs, positions = inputs_and_positions("gpt2")

    _, output = run_at(model, positions, {**inputs, "use_cache": True})

    assert cache_of(output).get_seq_length() == inputs["input_ids"].shape[1]


def test_the_hook_is_gone_also_after_an_error() -> None:
    model = make_model("gpt2")
    inputs, positions = inputs_and_positions("gpt2")

    with pytest.raises(BaseError, match=r"have shape \(3, 7, 48\) for \d+ of \(3, 6\) tokens, expected a row"):
        logits_at(model, positions[:, :-1], inputs)

    assert not model.get_output_embeddings()._forward_pre_hooks
    assert model(**inputs).logits.shape == (*inputs["input_ids"].shape, VOCABULARY)


def test_threads_on_one_model_do_not_take_each_others_positions() -> None:
    model = make_model("gpt2")
    inputs, _ = inputs_and_positions("gpt2")
    barrier = threading.Barrier(2)

    def meet(module: Any, args: Any) -> None:
        barrier.wait(timeout=20)

    handle = model.transformer.h[0].register_forward_pre_hook(meet)  # both are inside before one reaches the head
    found: dict[int, Tensor] = {}

    def run(column: int) -> None:
        positions = torch.zeros_like(inputs["input_ids"], dtype=torch.bool)
        positions[:, column] = True
        with torch.inference_mode():
            found[column] = logits_at(model, positions, inputs)

    threads = [threading.Thread(target=run, args=(column,)) for column in (1, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    handle.remove()
    whole = model(**inputs).logits
    assert sorted(found) == [1, 4]
    for column, logits in found.items():
        torch.testing.assert_close(logits, whole[:, column], atol=1e-5, rtol=1e-5)


def test_a_model_without_a_head_is_refused() -> None:
    model = make_model("gpt2").transformer
    inputs, positions = inputs_and_positions("gpt2")

    with pytest.raises(BaseError, match="GPT2Model has no output head, expected a language model"):
        logits_at(model, positions, inputs)


def test_inputs_that_a_model_does_not_have_are_left_out() -> None:
    positions = torch.arange(3)

    assert known_inputs(make_model("bloom"), position_ids=positions) == {}
    assert known_inputs(make_model("gpt2"), position_ids=positions) == {"position_ids": positions}

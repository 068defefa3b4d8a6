"""Generating with rows: sampling, the cache, how prompts and rows are given, and what is refused.

That every family continues a prompt as it would alone, with beams and without, is `test_mixed`'s matter.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ia3.core.attach import Attachment
from ia3.errors import BankError
from tests.core.banks import attached_model, example
from tests.families import CASES, make_inputs

GREEDY = {"do_sample": False, "max_new_tokens": 4, "min_new_tokens": 4}
BEAMS = {**GREEDY, "num_beams": 2, "num_return_sequences": 2, "max_new_tokens": 3, "min_new_tokens": 3}


def _prompts(family: str) -> dict[str, Tensor]:
    inputs = make_inputs(family, batch=2, seq=5)
    inputs.pop("decoder_input_ids", None)
    return inputs


def _attached(family: str) -> tuple[Any, Attachment]:
    return attached_model(family, "a", "b")


@pytest.mark.parametrize("family", ["t5", "bart", "llama", "gpt_neox"])
@pytest.mark.parametrize("options", [GREEDY, BEAMS], ids=["greedy", "beams"])
def test_rows_are_the_same_with_the_cache_and_without(family: str, options: dict[str, Any]) -> None:
    model, _ = _attached(family)
    prompts, rows = _prompts(family), ["b", "a"]
    cached = model.generate(**prompts, rows=rows, **options)
    assert torch.equal(model.generate(**prompts, rows=rows, use_cache=False, **options), cached)
    assert not torch.equal(model.generate(**prompts, rows="__base__", **options), cached)


@pytest.mark.parametrize("family", ["t5", "llama"])
def test_sampled_sequences_follow_the_row_of_their_prompt(family: str) -> None:
    model, attachment = _attached(family)
    attachment.bank.add("broken", torch.full((attachment.bank.plan.width,), torch.nan))
    settings = {"do_sample": True, "top_k": 0, "max_new_tokens": 1, "num_return_sequences": 3}
    out = model.generate(
        **_prompts(family), rows=["a", "b"], **settings, output_logits=True, return_dict_in_generate=True
    ).logits[0]
    alone = [model(**_first_step(family, model, example(_prompts(family), i)), rows=row) for i, row in enumerate("ab")]
    for i in range(2):
        torch.testing.assert_close(
            out[3 * i : 3 * i + 3], alone[i].logits[:, -1].detach().expand(3, -1), atol=1e-5, rtol=0
        )


def _first_step(family: str, model: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    if CASES[family].kind == "causal":
        return inputs
    return {**inputs, "decoder_input_ids": torch.full((1, 1), model.config.decoder_start_token_id)}


@pytest.mark.parametrize("family", ["t5", "llama"])
def test_rows_of_a_scope_hold_for_generation(family: str) -> None:
    model, attachment = _attached(family)
    prompts = _prompts(family)
    with attachment.rows(["a", "b"]):
        assert torch.equal(model.generate(**prompts, **BEAMS), model.generate(**prompts, rows=["a", "b"], **BEAMS))
    with attachment.use("b"):
        assert torch.equal(model.generate(**prompts, **BEAMS), model.generate(**prompts, rows="b", **BEAMS))
    attachment.activate("a")
    assert torch.equal(model.generate(**prompts, **GREEDY), model.generate(**prompts, rows=["a", "a"], **GREEDY))


@pytest.mark.parametrize("family", ["t5", "llama"])
@pytest.mark.parametrize("rows", [["a"], ["a", "b", "a"], ["a", "b", "a", "b"]])
def test_rows_that_are_not_one_for_each_prompt_are_refused(family: str, rows: list[str]) -> None:
    """One row for two prompts used to be taken for two beams of one prompt: both got it, without a word."""
    model, attachment = _attached(family)
    told = rf"{len(rows)} rows were given for 2 prompts, expected one for each"
    with pytest.raises(BankError, match=told):
        model.generate(**_prompts(family), rows=rows, **GREEDY)
    with attachment.rows(rows), pytest.raises(BankError, match=told):
        model.generate(**_prompts(family), **GREEDY)


@pytest.mark.parametrize("name", ["inputs", "positional", "inputs_embeds", "encoder_outputs"])
def test_prompts_are_counted_however_they_are_given(name: str) -> None:
    family = "t5" if name == "encoder_outputs" else "llama"
    model, _ = _attached(family)
    ids = _prompts(family)["input_ids"]
    expected = model.generate(input_ids=ids, rows=["a", "b"], **GREEDY)
    if name == "encoder_outputs":
        encoded = model.get_encoder()(ids, rows=["a", "b"])
        found = model.generate(encoder_outputs=encoded, rows=["a", "b"], **GREEDY)
    elif name == "inputs_embeds":
        embedded = model.get_input_embeddings()(ids)
        found = model.generate(inputs_embeds=embedded, rows=["a", "b"], **GREEDY)
        expected = expected[:, ids.shape[1] :]
    elif name == "inputs":
        found = model.generate(inputs=ids, rows=["a", "b"], **GREEDY)
    else:
        found = model.generate(ids, rows=["a", "b"], **GREEDY)
    assert torch.equal(found, expected)


def test_rows_for_no_prompt_at_all_are_refused() -> None:
    model, _ = _attached("llama")
    with pytest.raises(BankError, match="2 rows were given for unknown prompts"):
        model.generate(rows=["a", "b"], max_new_tokens=2, bos_token_id=2)
    assert model.generate(rows="a", max_new_tokens=2, bos_token_id=2, do_sample=False).shape[0] == 1


def test_a_failed_generation_leaves_no_scope_open() -> None:
    model, attachment = _attached("llama")
    with pytest.raises(BankError, match="no such name"):
        model.generate(**_prompts("llama"), rows=["a", "nobody"], **GREEDY)
    with pytest.raises(ValueError, match="max_new_tokens"):
        model.generate(**_prompts("llama"), rows=["a", "b"], max_new_tokens=-1)
    assert attachment.call is None
    with pytest.raises(BankError, match="no rows are given"):
        model(**_prompts("llama"))

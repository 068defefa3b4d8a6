"""Cross-attentions without an encoder carry no vector: they never run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as hf

from ia3.core.attach import attach_bank
from ia3.core.bank import Bank
from ia3.core.discovery import find_plan
from ia3.core.unfed import REASON, find_unfed
from tests.core.banks import random_row, tiny_model
from tests.families import make_inputs


def _with_cross_attention(family: str, model: Any, config: Any, **more: Any) -> Any:
    settings = {**tiny_model(family).config.to_dict(), "add_cross_attention": True, "is_decoder": True, **more}
    return model(config(**settings)).eval()


DECODERS: dict[str, tuple[str, Callable[[], Any]]] = {
    "bart": ("bart", lambda: hf.BartForCausalLM(tiny_model("bart").config).eval()),
    "marian": ("marian", lambda: hf.MarianForCausalLM(tiny_model("marian").config).eval()),
    "bert": ("bert", lambda: _with_cross_attention("bert", hf.BertLMHeadModel, hf.BertConfig)),
    "roberta": ("roberta", lambda: _with_cross_attention("roberta", hf.RobertaForCausalLM, hf.RobertaConfig)),
    "gpt2": ("gpt2", lambda: _with_cross_attention("gpt2", hf.GPT2LMHeadModel, hf.GPT2Config)),
}


@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_alone_leaves_its_cross_attention_out_and_says_why(name: str) -> None:
    """BART's decoder as a language model had vectors on cross-attentions that no text reaches: they stayed ones."""
    family, make = DECODERS[name]
    torch.manual_seed(0)
    model = make()
    plan = find_plan(model)
    assert Counter(site.role for site in plan.sites) == {"key": 2, "value": 2, "feedforward": 2}
    left = [entry for entry in plan.left_out if entry.reason == REASON]
    assert left and all("crossattention" in entry.pattern or "encoder_attn" in entry.pattern for entry in left)
    assert not any(entry.reason != REASON for entry in plan.left_out if entry.pattern in {e.pattern for e in left})
    bank = Bank(plan)
    attach_bank(model, bank)
    bank.add("news", random_row(bank), trainable=True)
    inputs = {key: value for key, value in make_inputs(family).items() if not key.startswith("decoder")}
    logits = model(**inputs).logits
    (logits * torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))).sum().backward()
    (parameter,) = bank.parameters()
    assert parameter.grad is not None
    dead = [site.name for site, span in plan.spans() if not parameter.grad.reshape(-1)[span].abs().max() > 0]
    assert dead == []


def test_a_user_may_still_name_them() -> None:
    model = DECODERS["gpt2"][1]()
    named = find_plan(model, target_modules=r".*crossattention\.c_attn", feedforward_modules=[])
    assert [site.width for site in named.sites] == [32, 32]


def test_an_encoder_or_a_tower_feeds_them() -> None:
    assert find_unfed(tiny_model("bart")) == ()
    assert find_unfed(tiny_model("t5")) == ()
    assert find_unfed(tiny_model("llama")) == ()

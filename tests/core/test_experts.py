"""Mixtures of experts are refused or told, whatever a model calls them, and what a refusal advises is accepted."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as hf

from ia3.core.attach import attach_bank
from ia3.core.bank import Bank
from ia3.core.discovery import find_plan
from ia3.core.experts import find_mixtures
from ia3.errors import PlanError
from ia3.peft import IA3Config, get_peft_model
from tests.core.banks import random_row
from tests.families import VOCABULARY, with_large_weights

_SMALL = {
    "vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0,
    "eos_token_id": 1, "bos_token_id": 2, "num_experts_per_tok": 2,
}  # fmt: skip
_ROUTED = {"n_routed_experts": 4, "n_shared_experts": 1, "n_group": 1, "topk_group": 1, "moe_intermediate_size": 8}
_LATENT = {
    "q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 4,
    "first_k_dense_replace": 1, "num_key_value_heads": 4,
}  # fmt: skip
_NLLB = {
    "vocab_size": VOCABULARY, "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "max_position_embeddings": 64,
    "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2, "decoder_start_token_id": 2, "num_experts": 2,
    "encoder_sparse_step": 2, "decoder_sparse_step": 2,
}  # fmt: skip

# A part of their feed-forward is not routed; what it is called, and where the routed part lies.
SHARED: dict[str, tuple[Callable[[], Any], str]] = {
    "glm4_moe": (
        lambda: hf.Glm4MoeForCausalLM(hf.Glm4MoeConfig(**_SMALL, **_ROUTED, first_k_dense_replace=1, head_dim=4)),
        "down_proj",
    ),
    "qwen2_moe": (
        lambda: hf.Qwen2MoeForCausalLM(
            hf.Qwen2MoeConfig(**_SMALL, num_experts=4, moe_intermediate_size=8, shared_expert_intermediate_size=8)
        ),
        "down_proj",
    ),
    "llama4_text": (
        lambda: hf.Llama4ForCausalLM(
            hf.Llama4TextConfig(**_SMALL, num_local_experts=2, intermediate_size_mlp=24, head_dim=4)
        ),
        "down_proj",
    ),
    "granitemoeshared": (
        lambda: hf.GraniteMoeSharedForCausalLM(
            hf.GraniteMoeSharedConfig(**_SMALL, num_local_experts=2, shared_intermediate_size=8)
        ),
        "output_linear",
    ),
    "nllb-moe": (lambda: hf.NllbMoeForConditionalGeneration(hf.NllbMoeConfig(**_NLLB)), "fc2"),
}  # fmt: skip

LATENT: dict[str, Callable[[], Any]] = {
    "deepseek_v3": lambda: hf.DeepseekV3ForCausalLM(hf.DeepseekV3Config(**{**_SMALL, **_ROUTED, **_LATENT})),
    "deepseek_v2": lambda: hf.DeepseekV2ForCausalLM(hf.DeepseekV2Config(**{**_SMALL, **_ROUTED, **_LATENT})),
}


@pytest.mark.parametrize("name", SHARED)
def test_targets_on_the_part_that_is_not_routed_are_refused_everywhere(name: str) -> None:
    """Of GLM-4's experts the shared one got a vector and the routed ones none, without a word; Qwen2's were refused."""
    make, target = SHARED[name]
    with torch.device("meta"):
        model = make()
    told = r"belongs to a mixture of experts, and the routed ones \('[\w.]*experts'\) would have no vector"
    for names in ([target], ["k_proj", "v_proj", target]):
        with pytest.raises(PlanError, match=told):  # whatever its side, so that is not asked for first
            find_plan(model, target_modules=names)
        with pytest.raises(PlanError, match=told):
            find_plan(model, target_modules=names, feedforward_modules=[target])
        with pytest.raises(PlanError, match=told):
            get_peft_model(model, IA3Config(target_modules=names, feedforward_modules=[target]))


@pytest.mark.parametrize("name", [*SHARED, *LATENT])
def test_what_the_refusal_advises_is_there_and_accepted_and_every_vector_learns(name: str) -> None:
    """DeepSeek has no `k_proj`, which its refusal advised; a lone `wk` of an indexer is no key of an attention."""
    model = with_large_weights(SHARED[name][0] if name in SHARED else LATENT[name])
    with pytest.raises(PlanError, match="is a mixture of experts, and vectors for each expert are not built") as caught:
        find_plan(model)
    advised = re.search(r"alone can carry vectors: target_modules=\[(.*)\]", str(caught.value))
    assert advised is not None
    names = re.findall(r"'(\w+)'", advised.group(1))
    assert names == (["kv_b_proj"] if name in LATENT else ["k_proj", "v_proj"])
    plan = find_plan(model, target_modules=names)
    assert [entry.reason for entry in plan.left_out if entry.pattern.endswith("experts")] == [
        "routed experts carry no vector; vectors for each expert are not built yet"
    ] * len({re.sub(r"\d+", "*", mixture.experts) for mixture in find_mixtures(model)})
    bank = Bank(plan)
    attach_bank(model, bank)
    bank.add("news", random_row(bank), trainable=True)
    ids = torch.randint(3, VOCABULARY, (2, 6), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids, "decoder_input_ids": ids} if model.config.is_encoder_decoder else {"input_ids": ids}
    logits = model(**inputs).logits
    (logits * torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
    (parameter,) = bank.parameters()
    assert parameter.grad is not None
    assert [site.name for site, span in plan.spans() if not parameter.grad.reshape(-1)[span].abs().max() > 0] == []


def test_a_dense_layer_of_a_model_with_experts_may_be_named() -> None:
    with torch.device("meta"):
        model = SHARED["glm4_moe"][0]()
    plan = find_plan(model, target_modules=r"model\.layers\.0\.mlp\.down_proj", feedforward_modules=["down_proj"])
    assert [site.name for site in plan.sites] == ["model.layers.0.mlp.down_proj[input]"]
    assert any(entry.pattern == "model.layers.*.mlp.experts" for entry in plan.left_out)


def test_a_router_and_a_shared_expert_are_no_mixture_by_themselves() -> None:
    with torch.device("meta"):
        paths = [mixture.experts for mixture in find_mixtures(SHARED["glm4_moe"][0]())]
    assert paths == ["model.layers.1.mlp.experts"]

"""Every family of the table: the right sites, and a row of numbers is the model with weights scaled by hand."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

from ia3.core.attach import attach_bank
from ia3.core.bank import Bank
from ia3.core.discovery import find_plan
from ia3.core.families import FAMILIES, family_of, is_foreign
from ia3.inference.logits import cache_of
from tests.core.banks import attached_model, largest, random_row, tiny_model
from tests.core.hand_scaled import scaled_parameters
from tests.families import CASES, make_inputs

CAUSAL = [name for name, case in CASES.items() if case.kind == "causal"]
SEQ2SEQ = [name for name, case in CASES.items() if case.kind == "seq2seq"]


@pytest.mark.parametrize("family", CASES)
def test_the_plan_has_the_expected_sites_roles_and_widths(family: str) -> None:
    plan = find_plan(tiny_model(family))
    assert plan.source == "family"
    assert Counter(site.role for site in plan.sites) == CASES[family].sites
    assert {site.role: site.width for site in plan.sites} == CASES[family].widths
    assert len({site.width for site in plan.sites if site.role == "key"}) == 1
    assert len({site.name for site in plan.sites}) == len(plan.sites)
    assert all(site.where for site in plan.sites)


@pytest.mark.parametrize("family", CASES)
def test_the_plan_is_the_same_on_the_meta_device(family: str) -> None:
    with torch.device("meta"):
        empty = CASES[family].make()
    assert find_plan(empty) == find_plan(tiny_model(family))


@pytest.mark.parametrize("family", CASES)
def test_every_projection_is_a_site_or_left_out_for_a_reason(family: str) -> None:
    model = tiny_model(family)
    plan = find_plan(model)
    linears = [name for name, m in model.named_modules() if type(m).__name__ in ("Conv1D", "FalconLinear", "Linear")]
    assert len({site.module for site in plan.sites}) + sum(entry.count for entry in plan.left_out) == len(linears)
    unexplained = [e.pattern for e in plan.left_out if e.reason == "not a key, value or feed-forward activation"]
    assert unexplained == [], "a person reading `ia3 plan` is not told why"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("family", CASES)
def test_a_row_of_ones_changes_no_bit_of_the_output(family: str, dtype: torch.dtype) -> None:
    base, inputs = tiny_model(family, dtype), make_inputs(family, padded=True)
    model, attachment = attached_model(family, dtype=dtype)
    attachment.bank.add("ones")
    attachment.bank.add("ones too", trainable=True)
    with torch.no_grad():
        expected = base(**inputs).logits
        assert torch.equal(model(**inputs, rows="ones").logits, expected)
        assert torch.equal(model(**inputs, rows=["ones", "__base__", "ones too"]).logits, expected)
        assert torch.equal(model(**inputs, rows="__base__").logits, expected)
    assert torch.equal(model(**inputs, rows="ones too").logits, expected), "the path with gradients"


@pytest.mark.parametrize("family", CASES)
def test_a_random_row_is_the_model_with_hand_scaled_weights(family: str) -> None:
    base, inputs = tiny_model(family), make_inputs(family, padded=True)
    model, attachment = attached_model(family, "news")
    scaled = scaled_parameters(family, base, attachment.bank.site_vectors("news"))
    with torch.no_grad():
        expected = torch.func.functional_call(base, scaled, kwargs=inputs).logits
        found = model(**inputs, rows="news").logits
        before = base(**inputs).logits
    assert largest(expected - before) > 0.05, "the vectors must matter for this test to say anything"
    assert largest(found - expected) <= 1e-5


@pytest.mark.parametrize("family", CASES)
def test_the_gradient_of_a_row_is_that_of_hand_scaled_weights(family: str) -> None:
    base, inputs = tiny_model(family, torch.float64), make_inputs(family)
    model, attachment = attached_model(family, dtype=torch.float64)
    bank = attachment.bank
    row = random_row(bank)
    row[::5] = 1e-5  # too small to divide by: the exact path
    row[3::7] = 0.0
    bank.add("news", row, trainable=True)

    leaf = row.clone().requires_grad_(True)
    vectors = {site.name: leaf[span] for site, span in bank.plan.spans()}
    logits = torch.func.functional_call(base, scaled_parameters(family, base, vectors), kwargs=inputs).logits
    (expected,) = torch.autograd.grad(_loss(logits), leaf)

    _loss(model(**inputs).logits).backward()
    (found,) = (p.grad for p in bank.parameters())
    assert largest(expected) > 1e-3
    assert largest(found - expected) <= 1e-9 * max(1.0, largest(expected))


def _loss(logits: Tensor) -> Tensor:
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(5), dtype=logits.dtype)
    return (logits * weights).sum()


@pytest.mark.parametrize("family", CAUSAL)
def test_a_value_vector_of_two_doubles_the_cached_values_of_its_layer(family: str) -> None:
    base, doubled = _caches(family, "value", 2.0)
    assert torch.equal(doubled.values, 2 * base.values)
    assert torch.equal(doubled.keys, base.keys)


@pytest.mark.parametrize("family", CAUSAL)
def test_a_key_vector_of_two_doubles_the_cached_keys_of_its_layer(family: str) -> None:
    base, doubled = _caches(family, "key", 2.0)
    if family in ("qwen3", "gemma3"):  # a norm follows k_proj: a factor common to a whole head is divided out again
        assert largest(doubled.keys - base.keys) <= 1e-4
        base, doubled = _caches(family, "key", None)
        assert largest(doubled.keys - base.keys) > 0.1, "but factors that differ within a head are not"
    else:
        assert torch.equal(doubled.keys, 2 * base.keys)
    assert torch.equal(doubled.values, base.values)


@pytest.mark.parametrize("family", ["t5", "bart"])
@pytest.mark.parametrize("role", ["key", "value"])
def test_a_cross_attention_vector_of_two_doubles_only_the_cached_cross_attention(family: str, role: str) -> None:
    model, attachment = attached_model(family)
    cross = {"t5": "decoder.block.0.layer.1.EncDecAttention.", "bart": "model.decoder.layers.0.encoder_attn."}[family]
    row = torch.ones(attachment.bank.plan.width)
    for site, span in attachment.bank.plan.spans():
        if site.module.startswith(cross) and site.role == role:
            row[span] = 2.0
    attachment.bank.add("two", row)
    with torch.no_grad():
        inputs = make_inputs(family)
        base = cache_of(model(**inputs, rows="__base__", use_cache=True))
        doubled = cache_of(model(**inputs, rows="two", use_cache=True))
    keys, values = (2, 1) if role == "key" else (1, 2)
    assert torch.equal(doubled.cross_attention_cache.layers[0].keys, keys * base.cross_attention_cache.layers[0].keys)
    assert torch.equal(
        doubled.cross_attention_cache.layers[0].values, values * base.cross_attention_cache.layers[0].values
    )
    assert torch.equal(doubled.self_attention_cache.layers[0].keys, base.self_attention_cache.layers[0].keys)


def _caches(family: str, role: str, factor: float | None) -> tuple[Any, Any]:
    """Return layer 0 of the KV cache of the base, and with that layer's vectors of one role set; None: 1, 2, 3, …"""
    model, attachment = attached_model(family)
    plan = attachment.bank.plan
    row = torch.ones(plan.width)
    site, span = next((s, span) for s, span in plan.spans() if s.role == role)
    assert ".0." in site.module
    row[span] = torch.arange(1.0, site.width + 1) if factor is None else factor
    attachment.bank.add("news", row)
    inputs = make_inputs(family)
    with torch.no_grad():
        base = cache_of(model(**inputs, rows="__base__", use_cache=True)).layers[0]
        scaled = cache_of(model(**inputs, rows="news", use_cache=True)).layers[0]
    return base, scaled


@pytest.mark.parametrize("family", CASES)
def test_the_bare_model_has_the_same_sites_as_the_one_with_a_head(family: str) -> None:
    model = tiny_model(family)
    prefix = f"{model.base_model_prefix}."
    whole = [site.name.removeprefix(prefix) for site in find_plan(model).sites]
    assert [site.name for site in find_plan(model.base_model).sites] == whole


def test_cross_attention_of_a_decoder_behind_an_encoder_carries_vectors_too() -> None:
    import transformers as hf

    decoder = hf.GPT2Config(**{**tiny_model("gpt2").config.to_dict(), "add_cross_attention": True})
    config = hf.EncoderDecoderConfig.from_encoder_decoder_configs(tiny_model("bert").config, decoder)
    model = hf.EncoderDecoderModel(config).eval()
    plan = find_plan(model)
    assert plan.source == "family"
    assert Counter(site.role for site in plan.sites) == {"key": 6, "value": 6, "feedforward": 4}
    bank = Bank(plan)
    attach_bank(model, bank)
    two = torch.ones(bank.plan.width)
    for site, span in bank.plan.spans():
        two[span] = 2.0 if site.name == "decoder.transformer.h.0.crossattention.c_attn[key]" else 1.0
    bank.add("two", two)
    ids = make_inputs("gpt2")["input_ids"]
    inputs = {"input_ids": ids, "decoder_input_ids": ids, "use_cache": True}
    with torch.no_grad():
        base = cache_of(model(**inputs, rows="__base__")).cross_attention_cache.layers[0]
        found = cache_of(model(**inputs, rows="two")).cross_attention_cache.layers[0]
    assert torch.equal(found.keys, 2 * base.keys)
    assert torch.equal(found.values, base.values)


def test_the_gemma3_family_leaves_the_vision_tower_alone() -> None:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    text = tiny_model("gemma3").config.to_dict()
    vision = {
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16,
        "patch_size": 8,
    }  # fmt: skip
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=40)
    with torch.device("meta"):
        model = Gemma3ForConditionalGeneration(config)
    plan = find_plan(model)
    assert Counter(site.role for site in plan.sites) == {"key": 2, "value": 2, "feedforward": 2}
    assert all("language_model" in site.module for site in plan.sites)
    assert {e.reason for e in plan.left_out if "vision" in e.pattern} == {"not part of the language model"}


def test_families_are_found_by_model_type() -> None:
    types = [name for family in FAMILIES for name in family.model_types]
    assert len(set(types)) == len(types), "a model type stands in the table once"
    assert not family_of("nobody's model").rules
    assert family_of("gemma3_text") is family_of("llama")
    assert is_foreign("model.vision_tower.layers.0.k_proj")
    assert not is_foreign("model.layers.0.self_attn.k_proj")


def test_a_model_of_a_family_without_its_modules_is_refused() -> None:
    model = tiny_model("llama")
    for layer in model.model.layers:
        layer.mlp.ascent = layer.mlp.up_proj
        del layer.mlp.up_proj
    with pytest.raises(Exception, match="its projections are not those of its family") as caught:
        find_plan(model)
    assert "0 of role 'feedforward'" in str(caught.value)


def test_bloom_that_goes_past_its_projections_is_refused() -> None:
    model = tiny_model("bloom")
    model.config.pretraining_tp, model.config.slow_but_exact = 2, True
    with pytest.raises(Exception, match="goes past the projections"):
        find_plan(model)

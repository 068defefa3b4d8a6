"""A model of models is planned part by part."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
import transformers as hf

from ia3.core.discovery import find_plan
from ia3.errors import PlanError
from tests.core.banks import tiny_model
from tests.core.unknown_models import DISCOVERED
from tests.families import VOCABULARY

_WHOLE = {"key", "value", "feedforward"}


def _encoder_decoder(encoder: Any, decoder: Any) -> Any:
    config = hf.EncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    with torch.device("meta"):
        return hf.EncoderDecoderModel(config)


@pytest.mark.parametrize(
    ("encoder", "decoder"), [("distilbert", "bert"), ("bert", "gpt2"), ("modernbert", "bert"), ("roberta", "electra")]
)
def test_both_parts_of_an_encoder_decoder_of_two_families_are_planned_by_their_own(encoder: str, decoder: str) -> None:
    """A DistilBERT before a BERT had no feed-forward vector in its decoder: structure saw the encoder's blocks only."""
    model = _encoder_decoder(tiny_model(encoder).config, tiny_model(decoder).config)
    plan = find_plan(model)
    assert plan.source == "family"
    for part in ("encoder.", "decoder."):
        assert {site.role for site in plan.sites if site.module.startswith(part)} == _WHOLE
    alone = Counter(site.role for site in find_plan(tiny_model(encoder).base_model).sites)
    assert Counter(s.role for s in plan.sites if s.module.startswith("encoder.")) == alone
    order = [path for path, _ in model.named_modules()]
    assert [site.module for site in plan.sites] == sorted((s.module for s in plan.sites), key=order.index)


def test_a_part_of_an_unknown_type_is_found_by_its_structure() -> None:
    eurobert = hf.EuroBertConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        mask_token_id=3,
    )  # fmt: skip
    plan = find_plan(_encoder_decoder(eurobert, tiny_model("bert").config))
    assert plan.source == "structure"
    for part in ("encoder.", "decoder."):
        assert {site.role for site in plan.sites if site.module.startswith(part)} == _WHOLE


def test_a_part_that_is_not_understood_refuses_the_whole() -> None:
    ernie = hf.ErnieConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=4,
        max_position_embeddings=64,
    )  # fmt: skip
    model = _encoder_decoder(ernie, tiny_model("bert").config)
    with pytest.raises(PlanError, match=r"of a 'ernie' model: .* no feed-forward block is one module"):
        find_plan(model)


def test_a_layer_whose_feedforward_is_spread_over_modules_refuses_a_model_that_has_another_kind_of_layer_too() -> None:
    """Where one layer had a block that is understood, the others were passed over with a reason that was not true."""
    torch.manual_seed(0)
    model = hf.BertModel(tiny_model("bert").config)
    model.config.model_type = "mine"  # not in the table
    layer = model.encoder.layer[1]
    layer.intermediate = torch.nn.Identity()
    layer.output = _Mlp()
    with pytest.raises(PlanError, match=r"the feed-forward of 'encoder\.layer\.0' cannot be told"):
        find_plan(model)


class _Mlp(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = torch.nn.Linear(16, 24), torch.nn.Linear(24, 16)


@pytest.mark.parametrize("text", ["llama", "olmo2"])
def test_a_language_model_behind_a_vision_tower_is_planned_by_itself(text: str) -> None:
    """LLaVA's Llama was planned, then its tower looked at as what is left, and refused as if it were a part."""
    vision = hf.CLIPVisionConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=4, image_size=8, patch_size=4
    )
    with torch.device("meta"):
        inner = tiny_model(text) if text == "llama" else DISCOVERED[text]()
        model = hf.LlavaForConditionalGeneration(hf.LlavaConfig(vision_config=vision, text_config=inner.config))
    plan = find_plan(model)
    assert plan.source == ("family" if text == "llama" else "structure")
    alone = Counter(site.role for site in find_plan(inner).sites)
    assert Counter(site.role for site in plan.sites) == alone
    assert all(site.module.startswith("model.language_model.") for site in plan.sites)

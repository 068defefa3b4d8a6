"""The fingerprint of a base: the same for every way to load it, another for every other base."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, BertForMaskedLM, BertModel, LlamaForCausalLM, LlamaModel

from ia3.adapters.attached import attach
from ia3.adapters.identity import base_fingerprint
from tests.families import CASES, make_model


@pytest.mark.parametrize("name", ["t5", "llama", "bert", "gpt2"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_dtype_does_not_change_it(name: str, dtype: torch.dtype) -> None:
    assert base_fingerprint(make_model(name).to(dtype)) == base_fingerprint(make_model(name))


@pytest.mark.parametrize("name", ["t5", "llama", "bert"])
def test_a_bank_does_not_change_it(name: str) -> None:
    model = make_model(name)
    before = base_fingerprint(model)
    attachment = attach(model)
    assert base_fingerprint(model) == before
    attachment.detach()
    assert base_fingerprint(model) == before


def test_the_class_around_a_base_and_its_head_do_not_change_it() -> None:
    classifier = make_model("bert")
    before = base_fingerprint(classifier)
    nn.init.normal_(classifier.classifier.weight)
    nn.init.normal_(classifier.bert.pooler.dense.weight)
    assert base_fingerprint(classifier) == before == base_fingerprint(classifier.bert)
    language_model = BertForMaskedLM(classifier.config)
    language_model.bert.load_state_dict(classifier.bert.state_dict(), strict=False)
    assert base_fingerprint(language_model) == before
    assert base_fingerprint(BertModel(classifier.config)) != before


def test_a_head_inside_the_base_is_left_out_by_its_path() -> None:
    model = make_model("bert")
    before = base_fingerprint(model, ["bert.encoder.layer.1"])
    nn.init.normal_(model.bert.encoder.layer[1].attention.self.key.weight)
    assert base_fingerprint(model, ["bert.encoder.layer.1"]) == before
    assert base_fingerprint(model) != base_fingerprint(make_model("bert"))


def test_a_language_models_own_output_layer_is_part_of_the_base() -> None:
    model = make_model("llama")
    assert not model.config.tie_word_embeddings
    before = base_fingerprint(model)
    nn.init.normal_(model.lm_head.weight)
    assert base_fingerprint(model) != before
    tied = LlamaForCausalLM(type(model.config)(**{**model.config.to_dict(), "tie_word_embeddings": True}))
    assert base_fingerprint(tied) == base_fingerprint(tied.model)


def test_a_classifier_on_a_decoder_is_the_decoders_base() -> None:
    inner = LlamaModel(make_model("llama").config)
    classifier = AutoModelForSequenceClassification.from_config(inner.config)
    classifier.model.load_state_dict(inner.state_dict())
    assert base_fingerprint(classifier) == base_fingerprint(inner)


@pytest.mark.parametrize("change", ["value", "shape", "name"])
def test_any_other_base_has_another(change: str) -> None:
    def make(width: int = 8) -> Any:
        torch.manual_seed(0)
        return nn.ModuleDict({"a": nn.Linear(8, width), "b": nn.Linear(8, 8)})

    changed = make(9) if change == "shape" else make()
    if change == "value":
        changed["b"].bias.data[3] += 0.1
    if change == "name":
        changed["c"] = changed.pop("b")
    assert base_fingerprint(changed) != base_fingerprint(make())


@pytest.mark.parametrize("name", CASES)
def test_every_family_has_one_and_other_weights_another(name: str) -> None:
    assert (
        base_fingerprint(make_model(name))
        == base_fingerprint(make_model(name))
        != base_fingerprint(make_model(name, seed=1))
    )


def test_it_is_the_same_in_every_process() -> None:
    layer = nn.Linear(130, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.arange(260).view(2, 130) / 7)
        layer.bias.copy_(torch.tensor([0.1, -3.0]))
    assert base_fingerprint(layer) == "b45cf39e3eadf3686df0fa3737f80d37eaf8fe4571f57abf134df6b51b8b648e"

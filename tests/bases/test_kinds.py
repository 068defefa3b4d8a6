"""Kinds: what a config is of, and the empty model that `ia3 plan` counts."""

from __future__ import annotations

import pytest
import torch
import transformers as hf

from ia3.bases.kinds import auto_class, count_parameters, empty_model, kind_of
from ia3.errors import BaseError, SettingsError

MT0_LARGE = {
    "d_model": 1024, "d_kv": 64, "d_ff": 2816, "num_layers": 24, "num_heads": 16, "vocab_size": 250112,
    "feed_forward_proj": "gated-gelu",
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (hf.T5Config(), "seq2seq"),
        (hf.MT5Config(), "seq2seq"),
        (hf.UMT5Config(), "seq2seq"),
        (hf.LongT5Config(), "seq2seq"),
        (hf.BartConfig(), "seq2seq"),
        (hf.MBartConfig(), "seq2seq"),
        (hf.MarianConfig(), "seq2seq"),
        (hf.PegasusConfig(), "seq2seq"),
        (hf.M2M100Config(), "seq2seq"),
        (hf.GPT2Config(), "causal"),
        (hf.GPTJConfig(), "causal"),
        (hf.GPTNeoConfig(), "causal"),
        (hf.GPTNeoXConfig(), "causal"),
        (hf.BloomConfig(), "causal"),
        (hf.OPTConfig(), "causal"),
        (hf.FalconConfig(), "causal"),
        (hf.LlamaConfig(), "causal"),
        (hf.MistralConfig(), "causal"),
        (hf.Qwen2Config(), "causal"),
        (hf.Qwen3Config(), "causal"),
        (hf.GemmaConfig(), "causal"),
        (hf.Gemma2Config(), "causal"),
        (hf.Gemma3TextConfig(), "causal"),
        (hf.PhiConfig(), "causal"),
        (hf.Phi3Config(), "causal"),
        (hf.BertConfig(), "encoder"),
        (hf.RobertaConfig(), "encoder"),
        (hf.XLMRobertaConfig(), "encoder"),
        (hf.DistilBertConfig(), "encoder"),
        (hf.AlbertConfig(), "encoder"),
        (hf.ElectraConfig(), "encoder"),
        (hf.DebertaConfig(), "encoder"),
        (hf.DebertaV2Config(), "encoder"),
        (hf.ModernBertConfig(), "encoder"),
        (hf.BertConfig(is_decoder=True), "causal"),
        (hf.RobertaConfig(architectures=["RobertaForCausalLM"]), "causal"),
        (hf.GPT2Config(architectures=["GPT2ForSequenceClassification"]), "encoder"),
        (hf.LlamaConfig(architectures=["LlamaForSequenceClassification"]), "encoder"),
        (hf.BartConfig(architectures=["BartForSequenceClassification"]), "encoder"),
        (hf.MBartConfig(architectures=["MBartForSequenceClassification"]), "encoder"),
        (hf.T5Config(architectures=["T5ForSequenceClassification"]), "encoder"),
        (hf.UMT5Config(architectures=["UMT5ForSequenceClassification"]), "encoder"),
        (hf.BartConfig(architectures=["BartForConditionalGeneration"]), "seq2seq"),
        (hf.BertConfig(architectures=["BertForTokenClassification"]), "encoder"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.model_type,
)
def test_a_config_has_one_kind(config: hf.PreTrainedConfig, kind: str) -> None:
    assert kind_of(config) == kind


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (hf.BartConfig(architectures=["BartForQuestionAnswering"]), "seq2seq"),
        (hf.GPT2Config(architectures=["GPT2ForTokenClassification"]), "causal"),
    ],
)
def test_a_language_model_that_was_saved_with_another_head_is_refused(config: hf.PreTrainedConfig, kind: str) -> None:
    """With tied embeddings it loaded as a language model, whose output matrix nobody had trained for words."""
    (saved,) = config.architectures or ()
    with pytest.raises(BaseError, match=f"was saved as {saved}, expected a language model.*say so: kind='{kind}'"):
        kind_of(config)


def test_the_total_of_mt0_large_is_known_with_and_without_a_head_of_its_own() -> None:
    config = hf.MT5Config(**MT0_LARGE, tie_word_embeddings=False)
    assert count_parameters(empty_model(config, "seq2seq")) == 973_466_624
    assert count_parameters(empty_model(config, "seq2seq", untied_head=True)) == 1_229_581_312


def test_an_empty_model_has_no_weights_and_its_head_has_the_width_asked_for() -> None:
    config = hf.BertConfig(num_hidden_layers=1)
    model = empty_model(config, "encoder", num_labels=5)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert model.classifier.weight.shape == (5, config.hidden_size)
    assert config.num_labels == 2


def test_making_an_empty_model_leaves_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    empty_model(hf.BertConfig(num_hidden_layers=1), "encoder")
    assert torch.equal(before, torch.get_rng_state())


def test_an_unknown_kind_shows_near_matches() -> None:
    with pytest.raises(SettingsError, match=r"kind 'seqtoseq' is unknown\. Did you mean 'seq2seq'\?"):
        auto_class(hf.T5Config(), "seqtoseq", "x")


def test_a_kind_that_the_model_cannot_be_names_those_it_can() -> None:
    with pytest.raises(
        BaseError, match=r"'x' as seq2seq: .* no seq2seq model of type 'gpt2'\. It can be causal or enc"
    ):
        auto_class(hf.GPT2Config(), "seq2seq", "x")


def test_a_model_of_images_alone_is_refused() -> None:
    with pytest.raises(BaseError, match=r"no encoder model of type 'vit'\. Use a text model\."):
        auto_class(hf.ViTConfig(), kind_of(hf.ViTConfig()), "x")


def test_a_model_that_holds_an_image_model_beside_the_text_is_refused() -> None:
    with pytest.raises(
        BaseError, match="type 'gemma3' holds a vision model beside the text model, expected text alone"
    ):
        auto_class(hf.Gemma3Config(), "causal", "x")

"""Kinds: what a config is of, and the empty model that `ia3 plan` counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as hf

from ia3.bases.kinds import auto_class, count_parameters, empty_model, kind_of
from ia3.errors import BaseError, SettingsError
from ia3.names import Kind

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


@pytest.mark.parametrize(
    ("config", "kind", "told"),
    [
        (
            hf.HunYuanDenseV1Config(head_dim=None, num_hidden_layers=1),
            "causal",
            r"config: head_dim is None \(TypeError",
        ),
        (
            hf.BertConfig(hidden_size=30, num_attention_heads=4),
            "encoder",
            r"config: The hidden size \(30\) is not a multiple of the number of attention heads \(4\)\. Correct its",
        ),
        (hf.LlamaConfig(hidden_act="swisch", num_hidden_layers=1), "causal", r"hidden_act is 'swisch' \(KeyError"),
        (hf.BartConfig(d_model=30, encoder_attention_heads=4), "seq2seq", r"`embed_dim`: 30 and `num_heads`: 4"),
        (hf.LlamaConfig(hidden_size=-32, num_hidden_layers=1), "causal", r"negative dimension -32"),
        (hf.ReformerConfig(), "causal", r"is_decoder is False \(AssertionError"),
    ],
    ids=["sum with None", "head size", "activation", "head size of a BART", "negative size", "assertion"],
)
def test_a_config_that_transformers_cannot_build_is_told_by_its_fault(config: Any, kind: Kind, told: str) -> None:
    """Each ended in what transformers' arithmetic ended in, and the CLI called it an unexpected error of ours."""
    config.name_or_path = "mine"
    with pytest.raises(BaseError, match=told) as caught:
        empty_model(config, kind)
    message = str(caught.value)
    assert message.startswith(f"Loading base 'mine' as {kind}: transformers {hf.__version__} cannot build a ")
    assert "config.json" in message
    assert "\n" not in message and len(message) < 500


_SMALL = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}


@pytest.mark.parametrize(
    "config",
    [
        hf.RobertaConfig(architectures=["RobertaForCausalLM"], **_SMALL),
        hf.CamembertConfig(architectures=["CamembertForCausalLM"], **_SMALL),
        hf.ElectraConfig(architectures=["ElectraForCausalLM"], **_SMALL),
        hf.ErnieConfig(architectures=["ErnieForCausalLM"], **_SMALL),
        hf.XLMRobertaConfig(architectures=["XLMRobertaForCausalLM"], **_SMALL),
    ],
    ids=lambda config: config.model_type,
)
def test_a_language_model_that_reads_in_both_directions_is_refused_and_one_that_is_a_decoder_is_not(
    config: Any,
) -> None:
    """Without `is_decoder` transformers builds RoBERTa as a language model that sees the answer it is trained on."""
    kind = kind_of(config)
    assert kind == "causal"
    with pytest.raises(BaseError, match=r"its config has is_decoder false.*Set 'is_decoder' to true in config\.json"):
        empty_model(config, kind)
    assert empty_model(config, "encoder") is not None
    config.is_decoder = True
    assert empty_model(config, kind) is not None


def test_xlm_says_it_in_another_word_and_gpt_neox_needs_none() -> None:
    xlm = hf.XLMConfig(vocab_size=64, emb_dim=16, n_layers=1, n_heads=2)
    with pytest.raises(BaseError, match="its config has causal false"):
        empty_model(xlm, "causal")
    assert empty_model(hf.GPTNeoXConfig(**_SMALL), "causal") is not None
    bart = hf.BartConfig(vocab_size=64, d_model=16, decoder_layers=1, decoder_attention_heads=2)
    assert empty_model(bart, "causal") is not None, "a class for language modelling alone sets it itself"


def test_the_decoder_of_an_encoder_decoder_is_asked_too() -> None:
    config = hf.EncoderDecoderConfig.from_encoder_decoder_configs(hf.BertConfig(**_SMALL), hf.BertConfig(**_SMALL))
    assert empty_model(config, "seq2seq") is not None
    config.decoder.is_decoder = False
    with pytest.raises(BaseError, match=r"Set 'is_decoder' to true in the decoder's part of config\.json\."):
        empty_model(config, "seq2seq")


def test_a_classifier_whose_answers_hang_on_padding_is_refused() -> None:
    """T5Gemma's reads the place behind the last token, which only a padded text has: answers hung on the batch."""
    with pytest.raises(
        BaseError, match=r"classifier of 't5gemma' reads one place further wherever a batch pads a text"
    ):
        auto_class(hf.T5GemmaConfig(), "encoder", "mine")
    assert auto_class(hf.T5GemmaConfig(), "seq2seq", "mine") is not None
    with pytest.raises(BaseError, match=r"its type 'qwen2_audio' holds an audio model beside the text model"):
        auto_class(hf.Qwen2AudioConfig(), "seq2seq", "mine")

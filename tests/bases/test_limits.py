"""How many tokens a base can read and write: what its modules say is what its forward pass does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as hf

from ia3.bases.limits import Limits, limits_of
from tests.families import CASES, VOCABULARY, make_model

BERT = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
LED = {
    **{f"{side}_layers": 1 for side in ("encoder", "decoder")},
    **{f"{side}_attention_heads": 2 for side in ("encoder", "decoder")},
    **{f"{side}_ffn_dim": 24 for side in ("encoder", "decoder")},
}
# What the config of a family in the table does not show by itself.
OFFSETS = {"roberta": 63, "xlm-roberta": 63, "camembert": 63, "mpnet": 62}
ENDLESS = ("t5", "t5-gated", "mt5", "umt5", "longt5", "longt5-global", "bloom", "falcon-rw")
RUN_ON = {
    **dict.fromkeys(("m2m_100", "gpt_neox", "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3"), 64),
    **dict.fromkeys(("phi", "phi3", "modernbert"), 64), "falcon": 2048, "falcon-new": 2048,
}  # fmt: skip


def _expected(name: str) -> Limits:
    if name in ENDLESS or name in RUN_ON:
        return Limits(trained=RUN_ON.get(name), vocabulary=VOCABULARY)
    writes = 64 if CASES[name].kind == "seq2seq" else None
    return Limits(OFFSETS.get(name, 64), writes, None, VOCABULARY)


def _run(model: Any, tokens: int, answer: int = 2) -> None:
    ids = torch.full((1, tokens), 5)
    decoder = {"decoder_input_ids": torch.full((1, answer), 5)} if model.config.is_encoder_decoder else {}
    with torch.inference_mode():
        model(input_ids=ids, attention_mask=torch.ones_like(ids), **decoder)


@pytest.mark.parametrize("name", CASES)
def test_a_base_reads_as_many_tokens_as_its_limit_says_and_not_one_more(name: str) -> None:
    """Limits came from `model_max_length` (512 for T5, which has no end) and `max_position_embeddings` (no end at all
    for rotary positions): texts were cut and lengths refused that the base reads, and others ended in an IndexError.
    """
    model = make_model(name)
    limits = limits_of(model)

    assert limits == _expected(name)
    _run(model, limits.reads or 130)
    if limits.reads is not None:
        with pytest.raises((IndexError, RuntimeError)):
            _run(model, limits.reads + 1)
    if limits.writes is not None:
        _run(model, 2, limits.writes)
        with pytest.raises((IndexError, RuntimeError)):
            _run(model, 2, limits.writes + 1)


@pytest.mark.parametrize(
    ("model", "reads", "writes"),
    [
        (lambda: hf.LEDForConditionalGeneration(
            hf.LEDConfig(**LED, d_model=16, attention_window=4, pad_token_id=0, eos_token_id=1, bos_token_id=2,
                         max_encoder_position_embeddings=64, max_decoder_position_embeddings=32)), 64, 32),
        (lambda: hf.XLNetForSequenceClassification(
            hf.XLNetConfig(vocab_size=VOCABULARY, d_model=16, n_layer=1, n_head=2, d_inner=24)), None, None),
        (lambda: hf.DebertaV2ForSequenceClassification(
            hf.DebertaV2Config(**BERT, position_biased_input=False, relative_attention=True, position_buckets=4,
                               pos_att_type=["c2p", "p2c"], max_position_embeddings=16)), None, None),
        (lambda: hf.BioGptForCausalLM(hf.BioGptConfig(**BERT, max_position_embeddings=40)), 40, None),
        (lambda: hf.CTRLLMHeadModel(
            hf.CTRLConfig(vocab_size=VOCABULARY, n_positions=40, n_embd=16, n_layer=1, n_head=2, dff=24)), 40, None),
        (lambda: hf.RoFormerForSequenceClassification(hf.RoFormerConfig(**BERT, max_position_embeddings=40)), 40, None),
        (lambda: hf.NystromformerForSequenceClassification(
            hf.NystromformerConfig(**BERT, max_position_embeddings=64, segment_means_seq_len=64)), 64, None),
    ],
    ids=["led", "xlnet", "deberta-relative", "biogpt", "ctrl", "roformer", "nystromformer"],
)  # fmt: skip
def test_tables_of_other_families_are_found_by_what_they_are(model: Any, reads: int | None, writes: int | None) -> None:
    made = model().eval()
    limits = limits_of(made)

    assert (limits.reads, limits.writes) == (reads, writes)
    _run(made, reads or 100, 2)


def test_the_usual_length_is_that_of_the_positions_or_what_it_was_trained_with() -> None:
    assert Limits(reads=64).usual == 64
    assert Limits(trained=32).usual == 32
    assert Limits().usual is None


def test_rows_are_those_of_the_embeddings_and_not_of_the_config() -> None:
    model = make_model("llama")
    model.resize_token_embeddings(VOCABULARY + 2)
    assert limits_of(model).vocabulary == VOCABULARY + 2

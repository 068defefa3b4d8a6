"""A tiny random model of every family in the table, and inputs for it; no weights from anywhere."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers as hf
from torch import Tensor

VOCABULARY = 48


@dataclass(frozen=True)
class FamilyCase:
    """One family: how its tiny model is made, and what its plan must be.

    Attributes:
        make: Gives the model, random weights, eval mode, no dropout.
        kind: seq2seq, causal or encoder.
        sites: Expected number of sites by role.
        widths: Expected width of each role's vectors.
    """

    make: Callable[[], Any]
    kind: str
    sites: dict[str, int]
    widths: dict[str, int]


def _t5(config: Any, model: Any, **extra: Any) -> Callable[[], Any]:
    settings = dict(
        vocab_size=VOCABULARY, d_model=16, d_kv=4, d_ff=24, num_layers=2, num_decoder_layers=2, num_heads=4,
        dropout_rate=0.0, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1, **extra,
    )  # fmt: skip
    return lambda: model(config(**settings))


def _bart(config: Any, model: Any, **extra: Any) -> Callable[[], Any]:
    settings = dict(
        vocab_size=VOCABULARY, d_model=16, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=24, decoder_ffn_dim=24, max_position_embeddings=64, dropout=0.0,
        attention_dropout=0.0, activation_dropout=0.0, pad_token_id=0, eos_token_id=1, bos_token_id=2,
        decoder_start_token_id=2, forced_eos_token_id=None, **extra,
    )  # fmt: skip
    return lambda: model(config(**settings))


def _llama(config: Any, model: Any, **extra: Any) -> Callable[[], Any]:
    settings = dict(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, pad_token_id=0, eos_token_id=1, bos_token_id=2,
        attention_dropout=0.0, **extra,
    )  # fmt: skip
    return lambda: model(config(**settings))


def _bert(config: Any, model: Any, **extra: Any) -> Callable[[], Any]:
    settings = dict(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, num_labels=3,
        pad_token_id=0, **extra,
    )  # fmt: skip
    return lambda: model(config(**settings))


_SEQ2SEQ = {"key": 6, "value": 6, "feedforward": 4}
_DECODER = {"key": 2, "value": 2, "feedforward": 2}
_FULL = {"key": 16, "value": 16, "feedforward": 24}
_NARROW = {"key": 8, "value": 8, "feedforward": 24}
_GEMMA = {"head_dim": 4}

CASES: dict[str, FamilyCase] = {
    "t5": FamilyCase(_t5(hf.T5Config, hf.T5ForConditionalGeneration), "seq2seq", _SEQ2SEQ, _FULL),
    "t5-gated": FamilyCase(
        _t5(hf.T5Config, hf.T5ForConditionalGeneration, feed_forward_proj="gated-gelu"), "seq2seq", _SEQ2SEQ, _FULL
    ),
    "mt5": FamilyCase(_t5(hf.MT5Config, hf.MT5ForConditionalGeneration), "seq2seq", _SEQ2SEQ, _FULL),
    "umt5": FamilyCase(_t5(hf.UMT5Config, hf.UMT5ForConditionalGeneration), "seq2seq", _SEQ2SEQ, _FULL),
    "longt5": FamilyCase(
        _t5(hf.LongT5Config, hf.LongT5ForConditionalGeneration, local_radius=3, feed_forward_proj="gated-gelu"),
        "seq2seq", _SEQ2SEQ, _FULL,
    ),
    "longt5-global": FamilyCase(
        _t5(
            hf.LongT5Config, hf.LongT5ForConditionalGeneration, local_radius=3, global_block_size=2,
            encoder_attention_type="transient-global",
        ),
        "seq2seq", _SEQ2SEQ, _FULL,
    ),
    "bart": FamilyCase(_bart(hf.BartConfig, hf.BartForConditionalGeneration), "seq2seq", _SEQ2SEQ, _FULL),
    "mbart": FamilyCase(_bart(hf.MBartConfig, hf.MBartForConditionalGeneration), "seq2seq", _SEQ2SEQ, _FULL),
    "marian": FamilyCase(_bart(hf.MarianConfig, hf.MarianMTModel), "seq2seq", _SEQ2SEQ, _FULL),
    "pegasus": FamilyCase(_bart(hf.PegasusConfig, hf.PegasusForConditionalGeneration), "seq2seq", _SEQ2SEQ, _FULL),
    "m2m_100": FamilyCase(_bart(hf.M2M100Config, hf.M2M100ForConditionalGeneration), "seq2seq", _SEQ2SEQ, _FULL),
    "gpt2": FamilyCase(
        lambda: hf.GPT2LMHeadModel(
            hf.GPT2Config(
                vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=4, n_inner=24, n_positions=64, resid_pdrop=0.0,
                embd_pdrop=0.0, attn_pdrop=0.0, pad_token_id=0, eos_token_id=1, bos_token_id=2,
            )
        ),
        "causal", _DECODER, _FULL,
    ),
    "gptj": FamilyCase(
        lambda: hf.GPTJForCausalLM(
            hf.GPTJConfig(
                vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=4, n_inner=24, n_positions=64, rotary_dim=4,
                resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, pad_token_id=0, eos_token_id=1, bos_token_id=2,
            )
        ),
        "causal", _DECODER, _FULL,
    ),
    "gpt_neo": FamilyCase(
        lambda: hf.GPTNeoForCausalLM(
            hf.GPTNeoConfig(
                vocab_size=VOCABULARY, hidden_size=16, num_layers=2, num_heads=4, intermediate_size=24,
                attention_types=[[["global", "local"], 1]], window_size=4, max_position_embeddings=64,
                resid_dropout=0.0, embed_dropout=0.0, attention_dropout=0.0, pad_token_id=0, eos_token_id=1,
                bos_token_id=2,
            )
        ),
        "causal", _DECODER, _FULL,
    ),
    "gpt_neox": FamilyCase(
        lambda: hf.GPTNeoXForCausalLM(
            hf.GPTNeoXConfig(
                vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2, num_attention_heads=4,
                intermediate_size=24, max_position_embeddings=64, pad_token_id=0, eos_token_id=1, bos_token_id=2,
            )
        ),
        "causal", _DECODER, _FULL,
    ),
    "bloom": FamilyCase(
        lambda: hf.BloomForCausalLM(
            hf.BloomConfig(
                vocab_size=VOCABULARY, hidden_size=16, n_layer=2, n_head=4, hidden_dropout=0.0, attention_dropout=0.0,
                pad_token_id=0, eos_token_id=1, bos_token_id=2,
            )
        ),
        "causal", _DECODER, {"key": 16, "value": 16, "feedforward": 64},
    ),
    "opt": FamilyCase(
        lambda: hf.OPTForCausalLM(
            hf.OPTConfig(
                vocab_size=VOCABULARY, hidden_size=16, ffn_dim=24, num_hidden_layers=2, num_attention_heads=4,
                word_embed_proj_dim=16, max_position_embeddings=64, dropout=0.0, pad_token_id=0, eos_token_id=1,
                bos_token_id=2,
            )
        ),
        "causal", _DECODER, _FULL,
    ),
    "falcon": FamilyCase(
        lambda: hf.FalconForCausalLM(_falcon(new_decoder_architecture=False, multi_query=True)),
        "causal", _DECODER, {"key": 4, "value": 4, "feedforward": 24},
    ),
    "falcon-new": FamilyCase(
        lambda: hf.FalconForCausalLM(_falcon(new_decoder_architecture=True, num_kv_heads=2)),
        "causal", _DECODER, _NARROW,
    ),
    "falcon-rw": FamilyCase(
        lambda: hf.FalconForCausalLM(
            _falcon(new_decoder_architecture=False, multi_query=False, alibi=True, parallel_attn=False, bias=True)
        ),
        "causal", _DECODER, _FULL,
    ),
    "llama": FamilyCase(_llama(hf.LlamaConfig, hf.LlamaForCausalLM), "causal", _DECODER, _NARROW),
    "mistral": FamilyCase(_llama(hf.MistralConfig, hf.MistralForCausalLM), "causal", _DECODER, _NARROW),
    "qwen2": FamilyCase(_llama(hf.Qwen2Config, hf.Qwen2ForCausalLM), "causal", _DECODER, _NARROW),
    "qwen3": FamilyCase(_llama(hf.Qwen3Config, hf.Qwen3ForCausalLM, head_dim=4), "causal", _DECODER, _NARROW),
    "gemma": FamilyCase(_llama(hf.GemmaConfig, hf.GemmaForCausalLM, **_GEMMA), "causal", _DECODER, _NARROW),
    "gemma2": FamilyCase(
        _llama(hf.Gemma2Config, hf.Gemma2ForCausalLM, query_pre_attn_scalar=4, sliding_window=4, **_GEMMA),
        "causal", _DECODER, _NARROW,
    ),
    "gemma3": FamilyCase(
        _llama(
            hf.Gemma3TextConfig, hf.Gemma3ForCausalLM, query_pre_attn_scalar=4, sliding_window=4,
            layer_types=["sliding_attention", "full_attention"], **_GEMMA,
        ),
        "causal", _DECODER, _NARROW,
    ),
    "phi": FamilyCase(_llama(hf.PhiConfig, hf.PhiForCausalLM), "causal", _DECODER, _NARROW),
    "phi3": FamilyCase(_llama(hf.Phi3Config, hf.Phi3ForCausalLM), "causal", _DECODER, _NARROW),
    "bert": FamilyCase(_bert(hf.BertConfig, hf.BertForSequenceClassification), "encoder", _DECODER, _FULL),
    "roberta": FamilyCase(_bert(hf.RobertaConfig, hf.RobertaForSequenceClassification), "encoder", _DECODER, _FULL),
    "xlm-roberta": FamilyCase(
        _bert(hf.XLMRobertaConfig, hf.XLMRobertaForSequenceClassification), "encoder", _DECODER, _FULL
    ),
    "camembert": FamilyCase(
        _bert(hf.CamembertConfig, hf.CamembertForSequenceClassification), "encoder", _DECODER, _FULL
    ),
    "distilbert": FamilyCase(
        lambda: hf.DistilBertForSequenceClassification(
            hf.DistilBertConfig(
                vocab_size=VOCABULARY, dim=16, hidden_dim=24, n_layers=2, n_heads=4, max_position_embeddings=64,
                dropout=0.0, attention_dropout=0.0, seq_classif_dropout=0.0, num_labels=3,
            )
        ),
        "encoder", _DECODER, _FULL,
    ),
    "mpnet": FamilyCase(
        _bert(hf.MPNetConfig, hf.MPNetForSequenceClassification), "encoder", _DECODER, _FULL
    ),
    "albert": FamilyCase(
        _bert(hf.AlbertConfig, hf.AlbertForSequenceClassification, embedding_size=8, classifier_dropout_prob=0.0),
        "encoder", {"key": 1, "value": 1, "feedforward": 1}, _FULL,
    ),
    "electra": FamilyCase(
        _bert(hf.ElectraConfig, hf.ElectraForSequenceClassification, embedding_size=8), "encoder", _DECODER, _FULL
    ),
    "deberta": FamilyCase(
        _bert(
            hf.DebertaConfig, hf.DebertaForSequenceClassification, relative_attention=True,
            pos_att_type=["c2p", "p2c"], type_vocab_size=0, pooler_dropout=0.0,
        ),
        "encoder", _DECODER, _FULL,
    ),
    "deberta-v2": FamilyCase(
        _bert(
            hf.DebertaV2Config, hf.DebertaV2ForSequenceClassification, relative_attention=True,
            pos_att_type=["c2p", "p2c"], share_att_key=False, type_vocab_size=0,
        ),
        "encoder", _DECODER, _FULL,
    ),
    "deberta-v3": FamilyCase(
        _bert(
            hf.DebertaV2Config, hf.DebertaV2ForSequenceClassification, relative_attention=True, position_buckets=4,
            pos_att_type=["c2p", "p2c"], share_att_key=True, type_vocab_size=0, norm_rel_ebd="layer_norm",
        ),
        "encoder", _DECODER, _FULL,
    ),
    "modernbert": FamilyCase(
        lambda: hf.ModernBertForSequenceClassification(
            hf.ModernBertConfig(
                vocab_size=VOCABULARY, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
                num_attention_heads=4, max_position_embeddings=64, pad_token_id=0, eos_token_id=1, bos_token_id=2,
                cls_token_id=2, sep_token_id=1, num_labels=3, local_attention=4, global_attn_every_n_layers=2,
            )
        ),
        "encoder", _DECODER, _FULL,
    ),
}  # fmt: skip


def _falcon(**settings: Any) -> Any:
    return hf.FalconConfig(
        vocab_size=VOCABULARY, hidden_size=16, ffn_hidden_size=24, num_hidden_layers=2, num_attention_heads=4,
        hidden_dropout=0.0, attention_dropout=0.0, pad_token_id=0, eos_token_id=1, bos_token_id=2, **settings,
    )  # fmt: skip


_MADE: dict[tuple[str, torch.dtype, int], tuple[Any, Tensor]] = {}  # models, and the random state that making one left


def make_model(name: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> Any:
    """Return the family's tiny model; its weights are a function of the seed and large enough to matter.

    It is a copy of one that is made once in a process: copying takes a third of the time.
    """
    if (name, dtype, seed) not in _MADE:
        _MADE[name, dtype, seed] = with_large_weights(lambda: CASES[name].make().to(dtype), seed), torch.get_rng_state()
    model, state = _MADE[name, dtype, seed]
    torch.set_rng_state(state)
    return copy.deepcopy(model)


def with_large_weights(make: Callable[[], Any], seed: int = 0) -> Any:
    """Return a model with weights that are large enough to matter, the same at every call."""
    torch.manual_seed(seed)
    model = make().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.copy_(torch.randn_like(parameter) * 0.3)
    model.tie_weights()
    return model


@dataclass(frozen=True)
class TinyBase:
    """A model as scoring and generating take it."""

    model: Any
    kind: Any
    pad_id: int = 0
    decoder_start_id: int | None = None


def tiny_base(model: Any, **given: Any) -> TinyBase:
    """Return a language model or classifier as scoring and generating take it; what is given replaces what is found."""
    start = model.config.decoder_start_token_id if model.config.is_encoder_decoder else None
    kind = "encoder" if model.get_output_embeddings() is None else "causal" if start is None else "seq2seq"
    return TinyBase(model, **{"kind": kind, "decoder_start_id": start, **given})


def make_inputs(name: str, batch: int = 3, seq: int = 7, seed: int = 1, *, padded: bool = False) -> dict[str, Tensor]:
    """Return random token ids (and decoder ids); with `padded` the later examples end in padding."""
    generator = torch.Generator().manual_seed(seed)

    def ids(length: int) -> Tensor:
        return torch.randint(3, VOCABULARY, (batch, length), generator=generator)

    mask = torch.ones(batch, seq, dtype=torch.long)
    if padded:
        for example in range(batch):
            mask[example, seq - example :] = 0
    inputs = {"input_ids": ids(seq) * mask, "attention_mask": mask}
    if CASES[name].kind == "seq2seq":
        inputs["decoder_input_ids"] = ids(4)
    return inputs

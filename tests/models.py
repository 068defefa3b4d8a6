"""Tiny random models and a byte tokenizer, made in the run; `save_tiny_base` writes them as a base's folder.

    tokenizer = tiny_tokenizer("causal")           # 4 special tokens and 256 bytes
    model = tiny_gemma3()                          # random weights, the same at every call
    folder = save_tiny_base(tmp_path, "seq2seq")   # model and tokenizer, as from_pretrained reads them

All models have 2 layers, width 32 and the tokenizer's 260 tokens; no dropout, eval mode, weights large enough that
outputs differ.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    MT5Config,
    MT5ForConditionalGeneration,
    PreTrainedTokenizerFast,
)

SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>")  # ids 0 to 3
VOCABULARY = len(SPECIAL) + 256
WIDTH = 32

_TEMPLATES = {"causal": "<bos> $A", "seq2seq": "$A <eos>", "encoder": "<bos> $A <eos>"}


def tiny_tokenizer(kind: str = "causal") -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token per byte, which adds what real ones of this kind of base add.

    causal: `<bos>` before the text (Gemma). seq2seq: `<eos>` after it (T5). encoder: both (BERT's CLS and SEP).
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate((*SPECIAL, *alphabet))}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=_TEMPLATES[kind], special_tokens=[("<bos>", 2), ("<eos>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", unk_token="<unk>"
    )


def tiny_bert(seed: int = 0) -> BertModel:
    """Return a BERT body without a classifier, as most encoders on the hub are."""
    config = BertConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=256, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, pad_token_id=0,
        initializer_range=0.2,
    )  # fmt: skip
    return _seeded(BertModel, config, seed)


def tiny_gemma3(seed: int = 0, query_pre_attn_scalar: int = 8) -> Gemma3ForCausalLM:
    """Return a Gemma 3 text model: gated feed-forward, grouped keys, one sliding and one full layer, tied head."""
    config = Gemma3TextConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=512, sliding_window=64,
        query_pre_attn_scalar=query_pre_attn_scalar, layer_types=["sliding_attention", "full_attention"],
        pad_token_id=0, eos_token_id=1, bos_token_id=2, initializer_range=0.2,
    )  # fmt: skip
    return _seeded(Gemma3ForCausalLM, config, seed)


def tiny_mt5(seed: int = 0) -> MT5ForConditionalGeneration:
    """Return an mT5 whose output matrix is not its embeddings, as in every mT5 and mT0 checkpoint."""
    config = MT5Config(
        vocab_size=VOCABULARY, d_model=WIDTH, d_kv=8, d_ff=48, num_layers=2, num_decoder_layers=2, num_heads=4,
        dropout_rate=0.0, pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
    )  # fmt: skip
    model = _seeded(MT5ForConditionalGeneration, config, seed)
    own = torch.randn(VOCABULARY, WIDTH, generator=torch.Generator().manual_seed(seed + 1)) * WIDTH**-0.5
    model.lm_head.weight = torch.nn.Parameter(own)
    model.all_tied_weights_keys.pop("lm_head.weight")  # else save_pretrained drops it
    return model


_MAKERS = {"encoder": tiny_bert, "causal": tiny_gemma3, "seq2seq": tiny_mt5}


def save_tiny_base(folder: Path, kind: str, seed: int = 0) -> Path:
    """Write the tiny base of a kind (encoder, causal, seq2seq) with its tokenizer into `folder`, and return it."""
    _MAKERS[kind](seed).save_pretrained(folder)
    tiny_tokenizer(kind).save_pretrained(folder)
    return folder


def _seeded(make: Any, config: Any, seed: int) -> Any:
    """Make a model from a seed without moving the global random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make(config).eval()


def tiny_gguf(path: Path, seed: int = 0, *, has_space: bool = False, **fields: Any) -> Gemma3ForCausalLM:
    """Write `tiny_gemma3` with a byte tokenizer as an fp32 GGUF file, as llama.cpp does, and return the model.

    Args:
        path: The file to write.
        seed: Of the weights.
        has_space: Whether a blank is put before every text; Gemma's files say that none is.
        fields: More metadata of the family, as `attn_logit_softcapping=50.0`; a dot in a key is written as `__`.
    """
    from gguf import GGUFWriter

    model = tiny_gemma3(seed, query_pre_attn_scalar=256)  # the one value a GGUF file of Gemma 3 can mean
    config = model.config
    writer = GGUFWriter(path, "gemma3")
    for key, value in {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.sliding_window": config.sliding_window,
        "attention.sliding_window_pattern": 2,
    }.items():
        writer.add_uint32(f"gemma3.{key}", value)
    writer.add_float32("gemma3.attention.layer_norm_rms_epsilon", config.rms_norm_eps)
    writer.add_float32("gemma3.rope.freq_base", 1_000_000.0)
    for key, value in fields.items():
        writer.add_key_value(f"gemma3.{key.replace('__', '.')}", value, _gguf_type(value))
    tokens = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(255)), "▁"]  # no text has the byte FF
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types([3] * len(SPECIAL) + [6] * 255 + [1])  # control, byte, normal
    writer.add_pad_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_bos_token_id(2)
    writer.add_unk_token_id(3)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(has_space)
    for name, tensor in model.state_dict().items():
        if name != "lm_head.weight":  # tied
            # llama.cpp stores Gemma's norms as what they multiply by: the weight plus one.
            writer.add_tensor(_gguf_name(name), (tensor + ("norm" in name)).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def _gguf_type(value: Any) -> Any:
    from gguf import GGUFValueType

    kinds = {float: GGUFValueType.FLOAT32, int: GGUFValueType.UINT32, str: GGUFValueType.STRING}
    return kinds[type(value)]


def _gguf_name(name: str) -> str:
    """Return llama.cpp's name of one of Gemma 3's parameters."""
    names = {
        "model.embed_tokens": "token_embd", "model.norm": "output_norm", "model.layers": "blk",
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
        "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm", "post_attention_layernorm": "post_attention_norm",
        "pre_feedforward_layernorm": "ffn_norm", "post_feedforward_layernorm": "post_ffw_norm",
    }  # fmt: skip
    for ours, theirs in names.items():
        name = name.replace(ours, theirs)
    return name

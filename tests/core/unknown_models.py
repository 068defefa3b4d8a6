"""Tiny random models of types that are not in the table of families."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import transformers as hf

from tests.families import VOCABULARY

_LLAMA = {
    "vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0,
    "eos_token_id": 1, "bos_token_id": 2,
}  # fmt: skip
_BART = {
    "vocab_size": VOCABULARY, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "max_position_embeddings": 64,
    "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2, "decoder_start_token_id": 2,
}  # fmt: skip
_BERT = {
    "vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 64, "pad_token_id": 0,
}  # fmt: skip
_FULL = {name: value for name, value in _LLAMA.items() if name != "num_key_value_heads"}
_GPT2 = {
    "vocab_size": VOCABULARY, "n_embd": 16, "n_layer": 1, "n_head": 4, "n_inner": 24, "n_positions": 64,
    "bos_token_id": 2, "eos_token_id": 1,
}  # fmt: skip

# Discovered: attentions with separate keys and values, feed-forward blocks in one module.
DISCOVERED: dict[str, Callable[[], Any]] = {
    "cohere": lambda: hf.CohereForCausalLM(hf.CohereConfig(**_LLAMA)),
    "glm": lambda: hf.GlmForCausalLM(hf.GlmConfig(head_dim=4, **_LLAMA)),
    "granite": lambda: hf.GraniteForCausalLM(hf.GraniteConfig(**_LLAMA)),
    "helium": lambda: hf.HeliumForCausalLM(hf.HeliumConfig(head_dim=4, **_LLAMA)),
    "nemotron": lambda: hf.NemotronForCausalLM(hf.NemotronConfig(**_LLAMA)),
    "olmo2": lambda: hf.Olmo2ForCausalLM(hf.Olmo2Config(**_LLAMA)),
    "smollm3": lambda: hf.SmolLM3ForCausalLM(hf.SmolLM3Config(**_LLAMA)),
    "stablelm": lambda: hf.StableLmForCausalLM(hf.StableLmConfig(**_LLAMA)),
    "starcoder2": lambda: hf.Starcoder2ForCausalLM(hf.Starcoder2Config(**_LLAMA)),
    "xlm": lambda: hf.XLMWithLMHeadModel(
        hf.XLMConfig(
            vocab_size=VOCABULARY, emb_dim=16, n_layers=2, n_heads=4, dropout=0.0, attention_dropout=0.0,
            max_position_embeddings=64,
        )
    ),
}  # fmt: skip

# Refused, and what the message tells.
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "blenderbot": (
        lambda: hf.BlenderbotForConditionalGeneration(hf.BlenderbotConfig(**_BART)),
        "no feed-forward block is one module",
    ),
    "plbart": (lambda: hf.PLBartForConditionalGeneration(hf.PLBartConfig(**_BART)), "no feed-forward block"),
    "xlm-roberta-xl": (lambda: hf.XLMRobertaXLModel(hf.XLMRobertaXLConfig(**_BERT)), "no feed-forward block"),
    "longformer": (
        lambda: hf.LongformerModel(hf.LongformerConfig(attention_window=4, **_BERT)),
        "no feed-forward block",
    ),
    "gpt_bigcode": (
        lambda: hf.GPTBigCodeForCausalLM(hf.GPTBigCodeConfig(**_GPT2)),
        "'transformer.h.0.attn.c_attn' is a fused projection of unknown layout",
    ),
    "mpt": (
        lambda: hf.MptForCausalLM(
            hf.MptConfig(vocab_size=VOCABULARY, d_model=16, n_layers=1, n_heads=4, expansion_ratio=2, max_seq_len=64)
        ),
        "'transformer.blocks.0.attn.Wqkv' is a fused projection",
    ),
    "persimmon": (lambda: hf.PersimmonForCausalLM(hf.PersimmonConfig(**_FULL)), "query_key_value' is a fused"),
    "mamba": (
        lambda: hf.MambaForCausalLM(
            hf.MambaConfig(vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=1, state_size=4)
        ),
        "no attention has separate keys and values",
    ),
    "whisper": (
        lambda: hf.WhisperForConditionalGeneration(
            hf.WhisperConfig(**_BART, num_mel_bins=8, max_source_positions=16, max_target_positions=16)
        ),
        "no feed-forward block",
    ),
}

EXPERTS: dict[str, Callable[[], Any]] = {
    "mixtral": lambda: hf.MixtralForCausalLM(hf.MixtralConfig(num_local_experts=2, **_LLAMA)),
    "qwen2_moe": lambda: hf.Qwen2MoeForCausalLM(
        hf.Qwen2MoeConfig(num_experts=2, moe_intermediate_size=8, shared_expert_intermediate_size=8, **_LLAMA)
    ),
    "switch_transformers": lambda: hf.SwitchTransformersForConditionalGeneration(
        hf.SwitchTransformersConfig(
            vocab_size=VOCABULARY, d_model=16, d_kv=4, d_ff=24, num_layers=2, num_decoder_layers=2, num_heads=4,
            num_experts=2, num_sparse_encoder_layers=1, num_sparse_decoder_layers=1,
        )
    ),
}  # fmt: skip


def wavlm() -> Any:
    """Return a speech model whose attention reads the weights of k_proj and v_proj and never calls them."""
    return hf.WavLMModel(
        hf.WavLMConfig(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, conv_dim=(8,),
            conv_kernel=(4,), conv_stride=(4,), num_feat_extract_layers=1, num_conv_pos_embeddings=4,
            num_conv_pos_embedding_groups=2,
        )
    ).eval()  # fmt: skip


def vit() -> Any:
    """Return a vision model."""
    return hf.ViTModel(
        hf.ViTConfig(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, image_size=8, patch_size=4
        )
    ).eval()  # fmt: skip


def longformer() -> Any:
    """Return a model that runs its key and value projections on (seq, batch, features)."""
    return hf.LongformerModel(hf.LongformerConfig(attention_window=4, **_BERT)).eval()

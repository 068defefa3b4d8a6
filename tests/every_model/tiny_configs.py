"""A tiny config of every model type of transformers that has a class for one of our kinds.

Sizes are set by the name of the setting, and a few types need more. A composite that is refused for what it holds
beside the text stays as its class makes it: nothing of it is built.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import transformers as hf
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
)

from ia3.names import Kind
from tests.models import VOCABULARY

_NAMES: dict[Kind, Any] = {
    "causal": MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "seq2seq": MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    "encoder": MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
}
_WIDTH, _LAYERS, _HEADS, _KEY_HEADS, _HEAD, _POSITIONS = 32, 2, 4, 2, 8, 128

_BY_VALUE: tuple[tuple[Any, str], ...] = (
    (
        _WIDTH,
        "hidden_size d_model n_embd emb_dim dim embedding_dim embed_dim embedding_size pooler_hidden_size "
        "word_embed_proj_dim input_embedding_size output_embedding_size attention_hidden_size lru_width "
        "cross_attention_hidden_size backbone_hidden_size audio_hidden_size output_dim out_hidden_size "
        "encoder_hidden_size pronunciation_embed_dim shape_embed_dim entity_emb_size router_hidden_size "
        "prediction_head_size dim_model_base",
    ),
    (
        _LAYERS,
        "num_hidden_layers n_layer n_layers num_layers num_decoder_layers num_encoder_layers encoder_layers "
        "decoder_layers depth num_global_layers speech_encoder_layers t2u_encoder_layers t2u_decoder_layers "
        "conf_num_hidden_layers",
    ),
    (
        _HEADS,
        "num_attention_heads n_head n_heads num_heads encoder_attention_heads decoder_attention_heads attention_heads "
        "num_encoder_attention_heads num_decoder_attention_heads speech_encoder_attention_heads "
        "t2u_encoder_attention_heads t2u_decoder_attention_heads conf_num_attention_heads swa_num_attention_heads "
        "linear_num_value_heads linear_num_heads index_n_heads mamba_n_heads mamba_num_heads "
        "num_experts n_routed_experts num_local_experts moe_num_experts",
    ),
    (
        _KEY_HEADS,
        "num_key_value_heads kv_n_heads num_kv_heads swa_num_key_value_heads linear_num_key_heads num_query_groups "
        "num_experts_per_tok moe_topk moe_top_k moe_k num_experts_per_token zero_expert_num",
    ),
    (
        _HEAD,
        "head_dim d_kv dim_head d_head v_head_dim qk_rope_head_dim qk_nope_head_dim linear_key_head_dim "
        "linear_value_head_dim linear_head_dim kv_channels swa_head_dim attention_head_size global_head_dim "
        "index_head_dim ssm_state_size mamba_d_state state_size time_step_rank mamba_dt_rank "
        "hidden_size_per_layer_input",
    ),
    (
        16,
        "qk_head_dim kv_lora_rank q_lora_rank o_lora_rank hc_lowrank gated_norm_rank loop_gate_rank laurel_rank "
        "adapter_rank d_rel chunk_size mamba_chunk_size",
    ),
    (
        24,
        "moe_intermediate_size shared_expert_intermediate_size moe_shared_expert_intermediate_size "
        "shared_experts_intermediate_size expert_ffn_hidden_size moe_ffn_hidden_size",
    ),
    (
        48,
        "intermediate_size d_ff encoder_ffn_dim decoder_ffn_dim ffn_dim n_inner dff dim_ff hidden_dim d_inner "
        "ffn_hidden_size feed_forward_size intermediate_size_mlp shared_intermediate_size dense_intermediate_size "
        "mlp_dim speech_encoder_intermediate_size t2u_encoder_ffn_dim t2u_decoder_ffn_dim",
    ),
    (
        VOCABULARY,
        "vocab_size src_vocab_size tgt_vocab_size decoder_vocab_size vocab_size_per_layer_input t2u_vocab_size "
        "char_vocab_size entity_vocab_size pronunciation_vocab_size shape_vocab_size unit_hifi_gan_vocab_size",
    ),
    (
        _POSITIONS,
        "max_position_embeddings n_positions n_ctx max_seq_len context_length max_encoder_position_embeddings "
        "max_decoder_position_embeddings max_source_positions max_target_positions model_max_length",
    ),
    (
        1,
        "n_group topk_group num_expert_group first_k_dense_replace n_shared_experts num_shared_experts "
        "moe_num_shared_experts num_dense_layers moe_layer_start_index num_sparse_encoder_layers "
        "num_sparse_decoder_layers eos_token_id sep_token_id",
    ),
    (0, "pad_token_id"),
    (2, "bos_token_id"),
    (
        0.0,
        "dropout dropout_rate attention_dropout activation_dropout hidden_dropout_prob attention_probs_dropout_prob "
        "resid_pdrop embd_pdrop attn_pdrop hidden_dropout embedding_dropout attention_dropout_prob",
    ),
    (0.2, "initializer_range init_std"),
    (_WIDTH, "sliding_window sliding_window_size attention_window_size local_attention window_size"),
    (_WIDTH, "local_attention_window_len"),
    (None, "forced_eos_token_id forced_bos_token_id"),
)
_SIZES = {name: value for value, names in _BY_VALUE for name in names.split()}

_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_HYBRID = ["linear_attention", "linear_attention", "hybrid", "hybrid"]
_SLIDING = ["sliding_attention", "full_attention"]
_MORE: dict[str, dict[str, Any]] = {
    "blt": {"encoder_hash_byte_group_vocab": 64, "hidden_size_global": _WIDTH, "patching_threshold": 5.0},
    "blt_local_decoder": {"hidden_size_global": _WIDTH},
    "blt_local_encoder": {"hidden_size_global": _WIDTH},
    "codegen": {"rotary_dim": 4},
    "cohere_compass_text": {
        "layer_types": _SLIDING,
        "rope_parameters": {"full_attention": _ROPE, "sliding_attention": _ROPE},
    },
    "dots3_note_text": {"num_key_value_heads": _HEADS},
    "esmc": {"num_key_value_heads": _HEADS},
    "gemma3n_text": {"num_hidden_layers": 4, "num_kv_shared_layers": 2, "layer_types": _SLIDING * 2},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "gptj": {"rotary_dim": 4},
    "hrm_text": {"H_cycles": 1, "L_cycles": 1, "L_bp_cycles": [1]},
    "inkling2_loop_text": {"unpadded_vocab_size": VOCABULARY},
    "inkling2_text": {"unpadded_vocab_size": VOCABULARY},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 1},
    "marian": {"decoder_start_token_id": 0},
    "markuplm": {
        "max_xpath_tag_unit_embeddings": 16, "max_xpath_subs_unit_embeddings": 16, "tag_pad_id": 15, "subs_pad_id": 15,
    },
    "mllama_text_model": {"num_hidden_layers": 3, "cross_attention_layers": [1]},
    "mpt": {"expansion_ratio": 2, "initializer_range": 0.2},
    "nemotron_h": {"n_groups": 1},
    "nllb-moe": {"encoder_sparse_step": 2, "decoder_sparse_step": 2},
    "perceiver": {
        "num_latents": 8, "d_latents": _WIDTH, "num_self_attends_per_block": 2, "num_self_attention_heads": _HEADS,
        "num_cross_attention_heads": _HEADS,
    },
    "qwen3_5_moe_text": {"num_hidden_layers": 4},
    "qwen3_5_text": {"num_hidden_layers": 4},
    "qwen3_next": {"num_hidden_layers": 4},
    "reformer": {
        "axial_pos_shape": (8, 16), "axial_pos_embds_dim": (8, 24), "attn_layers": ["local", "lsh"], "num_buckets": 4,
        "local_attn_chunk_length": 8, "lsh_attn_chunk_length": 8,
    },
    "xlstm": {"hidden_size": _POSITIONS, "embedding_dim": _POSITIONS},
    "zamba": {"num_hidden_layers": 4, "layers_block_type": _HYBRID, "num_key_value_heads": _HEADS},
    "zamba2": {"num_hidden_layers": 4, "layers_block_type": _HYBRID, "num_key_value_heads": _HEADS},
    "zaya": {"num_experts_per_tok": 1},
}  # fmt: skip


def every_pair() -> Iterator[Pair]:
    """Yield every model type with each kind and class that transformers has for it, by type."""
    types = sorted({model_type for names in _NAMES.values() for model_type in names})
    for model_type in types:
        for kind, names in _NAMES.items():
            if model_type in names:
                yield Pair(model_type, kind, names[model_type])


def tiny_config(pair: Pair) -> Any:
    """Return a config of which a tiny model of a type can be built, as this kind."""
    config = _made(pair.model_type)
    if pair.kind == "causal":  # without these BERT and XLM read in both directions, and are refused
        for setting in ("is_decoder", "causal"):
            if getattr(config, setting, None) is False:
                setattr(config, setting, True)
    if getattr(config, "is_encoder_decoder", False) and getattr(config, "decoder_start_token_id", None) is None:
        # T5Gemma masks the tokens of its decoder that are padding, a start token among them
        config.decoder_start_token_id = 2 if pair.model_type.startswith("t5gemma") else 0
    return config


def _made(model_type: str) -> Any:
    made: Any = CONFIG_MAPPING[model_type]
    if model_type == "encoder-decoder":
        parts = hf.DistilBertConfig(**_settings(hf.DistilBertConfig)), hf.BertConfig(**_settings(hf.BertConfig))
        config = hf.EncoderDecoderConfig.from_encoder_decoder_configs(*parts)
        config.pad_token_id, config.eos_token_id = 0, 1
        return config
    if model_type == "dbrx":
        parts = {"kv_n_heads": 2}, {"hidden_size": _WIDTH, "ffn_hidden_size": 48, "moe_num_experts": 4}
        return made(**_settings(made), attn_config=parts[0], ffn_config=parts[1], rope_parameters=_ROPE)
    if model_type == "gemma4_assistant":
        text = hf.Gemma4TextConfig
        without = {"hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 0, "num_kv_shared_layers": _LAYERS}
        return made(**_settings(made), text_config=text(**{**_settings(text), **without}))
    is_whole = {"vision_config", "audio_config"} & set(made.sub_configs)  # refused, or its text alone is taken
    return made() if is_whole and not _has_tiny_parts(made) else _with_tiny_parts(made)


def _has_tiny_parts(made: Any) -> bool:
    """Whether every part of a composite takes our sizes."""
    try:
        _with_tiny_parts(made)
    except Exception:  # each config class has checks of its own
        return False
    return True


def _with_tiny_parts(made: Any) -> Any:
    settings = _settings(made)
    for name, part in made.sub_configs.items():
        if part.__name__ == "AutoConfig":
            part = type(getattr(made(), name, None))
        if name not in settings and issubclass(part, hf.PreTrainedConfig):
            settings[name] = _with_tiny_parts(part)
    return made(**settings)


def _settings(made: Any) -> dict[str, Any]:
    known = set(getattr(made, "__dataclass_fields__", ())) | set(inspect.signature(made.__init__).parameters)
    settings = {name: value for name, value in _SIZES.items() if name in known}
    if made.__name__ == "MptAttentionConfig":
        settings["attn_pdrop"] = 0  # its class wants an int
    if "kv_lora_rank" in known and "num_key_value_heads" in known:  # latent attention has as many keys as queries
        settings["num_key_value_heads"] = _HEADS
    return {**settings, **_MORE.get(made.model_type, {})}


@dataclass(frozen=True)
class Pair:
    """A model type, what it is used as, and the class that transformers has for it."""

    model_type: str
    kind: Kind
    class_name: str

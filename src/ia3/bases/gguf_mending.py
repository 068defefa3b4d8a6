"""What transformers' GGUF import leaves out of the config although the file says it: put back, or refused.

Read in transformers 5.23 (`integrations/ggml.py`): rope scaling, soft caps, Gemma's sliding pattern and local rope base
are in no mapping, and tensors that no parameter belongs to are skipped without a word. A model imported so computes
another function than the file describes. This file changes a config; it reads no weights but the one rope tensor.
"""

from __future__ import annotations

import math
from typing import Any

from ia3.bases.gguf_header import GGUFHeader, read_floats
from ia3.errors import BaseError

# Fields that change the function, have no place in the configs of the families transformers imports, and are 1 or 0
# when they change nothing.
_MULTIPLIERS = ("attention.scale", "attention.max_alibi_bias", "logit_scale", "residual_scale", "embedding_scale")
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def mend_config(config: Any, header: GGUFHeader) -> None:
    """Write into `config` what the GGUF file says and the import dropped.

    Args:
        config: What transformers made from the file; changed in place.
        header: The file's header.

    Raises:
        BaseError: If the file says something that changes the function and cannot be put into this config.
    """
    _mend_softcaps(config, header)
    _mend_sliding_layers(config, header)
    _mend_rope(config, header)
    # llama.cpp knows the 27B models of Gemma 2 and 3 by their depth and scales their queries by width / heads; the
    # file holds no field for it and the config's default is that of all other sizes.
    if (config.model_type, config.num_hidden_layers) in (("gemma2", 46), ("gemma3_text", 62)):
        config.query_pre_attn_scalar = config.hidden_size // config.num_attention_heads
    _refuse_the_rest(config, header)


def _mend_softcaps(config: Any, header: GGUFHeader) -> None:
    for key in ("attn_logit_softcapping", "final_logit_softcapping"):
        value = header.field(key)
        if not value:
            continue
        if not hasattr(config, key):
            raise _refusal(header, f"{key} = {value}")
        setattr(config, key, value)


def _mend_sliding_layers(config: Any, header: GGUFHeader) -> None:
    """Take over which layers see only a window; files before 2025-10 leave it to the family's default."""
    pattern = header.field("attention.sliding_window_pattern")
    if pattern is None or getattr(config, "layer_types", None) is None:
        return
    layers = range(config.num_hidden_layers)
    is_sliding = [bool((i + 1) % pattern) if isinstance(pattern, int) else bool(pattern[i]) for i in layers]
    config.layer_types = ["sliding_attention" if sliding else "full_attention" for sliding in is_sliding]


def _mend_rope(config: Any, header: GGUFHeader) -> None:
    """Take over rope scaling: linear, and the frequency factors of Llama 3.1 and later."""
    rope = getattr(config, "rope_parameters", None) or {}
    full = rope.get("full_attention", rope)  # Gemma 3 keeps a rope for each kind of layer, and scales the global one
    if (local := header.field("rope.freq_base_swa")) and "sliding_attention" in rope:
        rope["sliding_attention"]["rope_theta"] = float(local)
    scaling = header.field("rope.scaling.type") or "none"
    factor = header.field("rope.scaling.factor") or header.field("rope.scale_linear") or 1.0
    if scaling in ("none", "linear"):
        if factor != 1.0:
            full.update(rope_type="linear", factor=float(factor))
    else:
        raise _refusal(header, f"rope.scaling.type = {scaling!r}")
    if any(tensor.name == "rope_freqs.weight" for tensor in header.tensors):
        full.update(_llama3_scaling(config, full, header))


def _llama3_scaling(config: Any, rope: dict[str, Any], header: GGUFHeader) -> dict[str, Any]:
    """Return the rope parameters whose frequency factors are those of the file's `rope_freqs.weight`."""
    got = read_floats(header, "rope_freqs.weight")  # (head_dim / 2,)
    scaling = {"rope_type": "llama3", "factor": max(got), **_LLAMA3}
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    expected = [_llama3_factor(rope["rope_theta"], i / head_dim, max(got)) for i in range(0, head_dim, 2)]
    if len(got) != len(expected) or any(abs(g - e) > 1e-3 * e for g, e in zip(got, expected, strict=True)):
        raise _refusal(header, "rope_freqs.weight with other values than Llama 3's")
    return scaling


def _llama3_factor(theta: float, exponent: float, factor: float) -> float:
    """Return what llama.cpp divides one rope frequency by (its convert_hf_to_gguf.py, Llama 3)."""
    low, high, length = _LLAMA3["low_freq_factor"], _LLAMA3["high_freq_factor"], 8192
    wavelength = 2 * math.pi * theta**exponent
    if wavelength < length / high:
        return 1.0
    if wavelength > length / low:
        return factor
    smooth = (length / wavelength - low) / (high - low)
    return 1 / ((1 - smooth) / factor + smooth)


def _refuse_the_rest(config: Any, header: GGUFHeader) -> None:
    """Refuse a file with a field or a tensor that changes the function and was not taken over."""
    for key in _MULTIPLIERS:
        value = header.field(key)
        if value not in (None, 0.0, 1.0) and config.model_type != "bloom":  # BLOOM's alibi bias is in its code
            raise _refusal(header, f"{key} = {value}")
    for tensor in header.tensors:
        if tensor.name.startswith("rope_factors"):
            raise _refusal(header, f"tensor {tensor.name!r}")


def _refusal(header: GGUFHeader, what: str) -> BaseError:
    return BaseError(
        f"Converting the GGUF file {header.path}: it has {what}, which transformers does not import, so the model "
        f"would compute something else. Use the model's own folder or hub id in place of the GGUF file."
    )

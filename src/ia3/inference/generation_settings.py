"""The settings under which transformers' own `generate` answers as `generate_tokens` does.

A base's own settings (beams, penalties, forced first tokens, sampling, several end tokens) change the answer, and an
adapter was not trained with them. What is left out here is told. This file knows generation configs; it runs no model.
"""

from __future__ import annotations

from typing import Any

from transformers import GenerationConfig

from ia3.bases.loading import Base

# That say which tokens stand at the ends, or how long an answer may be, and nothing of how tokens are chosen.
_NOT_TOLD = frozenset(
    ("transformers_version", "bos_token_id", "pad_token_id", "decoder_start_token_id", "max_new_tokens", "use_cache")
)
_NEUTRAL = {"do_sample": False, "num_beams": 1}


def greedy_settings(base: Base, max_new_tokens: int) -> GenerationConfig:
    """Return settings that take the most probable token each time, up to the end token or a limit.

    Args:
        base: A causal or seq2seq base.
        max_new_tokens: The limit, unless a call gives another one.
    """
    tokenizer: Any = base.tokenizer
    own: Any = getattr(base.model, "generation_config", None)
    return GenerationConfig(
        **_NEUTRAL,
        max_new_tokens=max_new_tokens,
        bos_token_id=getattr(own, "bos_token_id", None),
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        decoder_start_token_id=base.decoder_start_id,
    )


def left_out(own: GenerationConfig | None, plain: GenerationConfig) -> dict[str, Any]:
    """Return the settings of a base that greedy ones lack or have otherwise, by name."""
    said = {} if own is None else own.to_diff_dict()
    held = {**_NEUTRAL, **{name: value for name, value in plain.to_dict().items() if value is not None}}
    return {
        name: value
        for name, value in said.items()
        if name not in _NOT_TOLD
        and not name.startswith(("_", "output_"))
        and value is not None
        and held.get(name) != value
        and [held.get(name)] != value
    }

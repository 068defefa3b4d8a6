"""Position keys that share a projection with the tokens' keys (DeBERTa-v2 and v3 with `share_att_key`).

These models send their relative-position embeddings through the same `key_proj` (and `query_proj`) as the tokens. The
vector is shared: a token against a position scores q · (l ∘ k_position), PEFT's function with one adapter.
Positions have no example axis, so the same product is taken on the token's side, (q ∘ l) · k_position, where every
example has its own l.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor, nn

from ia3.core.calls import scale_for_call


def shares_positions(module: nn.Module) -> bool:
    """Whether a module is an attention whose positions go through the tokens' key projection."""
    return hasattr(module, "disentangled_attention_bias") and bool(getattr(module, "share_att_key", False))


def scaled_position_bias(
    module: Any,
    path: str,
    numbers: Mapping[str, int],
    multiplier: Callable[[int], Tensor | None],
    suspended: Callable[[Iterable[int]], AbstractContextManager[None]],
) -> Callable[..., Any]:
    """Return the attention's position bias with the vectors on the tokens' side.

    Args:
        module: The attention.
        path: Its path in the model.
        numbers: Group of each scaled projection, by path.
        multiplier: Gives a group's multiplier, shape (1 or batch, heads · size).
        suspended: Scope in which groups are left unscaled.
    """
    original = module.disentangled_attention_bias
    key, query = numbers.get(f"{path}.key_proj"), numbers.get(f"{path}.query_proj")
    both = [number for number in (key, query) if number is not None]

    def disentangled_attention_bias(query_layer: Tensor, key_layer: Tensor, *args: Any, **kwargs: Any) -> Any:
        # the original uses query_layer only against position keys, key_layer only against position queries
        query_layer = _scale_heads(query_layer, None if key is None else multiplier(key), module.num_attention_heads)
        key_layer = _scale_heads(key_layer, None if query is None else multiplier(query), module.num_attention_heads)
        with suspended(both):
            return original(query_layer, key_layer, *args, **kwargs)

    return disentangled_attention_bias


def _scale_heads(x: Tensor, multiplier: Tensor | None, heads: int) -> Tensor:
    """Multiply (batch · heads, seq, size) by (1 or batch, heads · size)."""
    if multiplier is None:
        return x
    by_token = x.view(-1, heads, x.shape[1], x.shape[2]).transpose(1, 2)  # batch seq heads size
    scaled = scale_for_call(by_token.flatten(2), multiplier, "the position keys")
    return scaled.view(by_token.shape).transpose(1, 2).reshape(x.shape)

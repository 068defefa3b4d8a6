"""Position keys that share a projection with the tokens' keys (DeBERTa-v2 and v3 with `share_att_key`).

These models send their relative-position embeddings through the same `key_proj` (and `query_proj`) as the tokens. The
vector is shared: a token against a position scores q · (l ∘ k_position), PEFT's function with one adapter.
Positions have no example axis, so the same product is taken on the token's side, (q ∘ l) · k_position, where every
example has its own l.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ia3.core.calls import ExampleAxis, Multiplier, scale_for_call


def shares_positions(module: nn.Module) -> bool:
    """Whether a module is an attention whose positions go through the tokens' key projection."""
    return hasattr(module, "disentangled_attention_bias") and bool(getattr(module, "share_att_key", False))


def scaled_position_bias(
    module: Any,
    path: str,
    numbers: Mapping[str, int],
    multiplier: Callable[[int], Multiplier | None],
    suspended: Callable[[Iterable[int]], AbstractContextManager[None]],
    axis: ExampleAxis,
) -> Callable[..., Any]:
    """Return the attention's position bias with the vectors on the tokens' side.

    Args:
        module: The attention.
        path: Its path in the model.
        numbers: Group of each scaled projection, by path.
        multiplier: Gives a group's multiplier, shape (1 or batch, heads · size).
        suspended: Scope in which groups are left unscaled.
        axis: What is known of the base's activations.
    """
    key, query = numbers.get(f"{path}.key_proj"), numbers.get(f"{path}.query_proj")
    return _PositionBias(module.disentangled_attention_bias, module, key, query, multiplier, suspended, axis)


@dataclass(frozen=True, eq=False)
class _PositionBias:
    """The bias as a value that a deep copy of the model can copy."""

    original: Callable[..., Any]
    module: Any
    key: int | None
    query: int | None
    multiplier: Callable[[int], Multiplier | None]
    suspended: Callable[[Iterable[int]], AbstractContextManager[None]]
    axis: ExampleAxis

    def __call__(self, query_layer: Tensor, key_layer: Tensor, *args: Any, **kwargs: Any) -> Any:
        # the original uses query_layer only against position keys, key_layer only against position queries
        query_layer = self._scale_heads(query_layer, self.key)
        key_layer = self._scale_heads(key_layer, self.query)
        with self.suspended(number for number in (self.key, self.query) if number is not None):
            return self.original(query_layer, key_layer, *args, **kwargs)

    def _scale_heads(self, x: Tensor, number: int | None) -> Tensor:
        """Multiply (batch · heads, seq, size) by (1 or batch, heads · size)."""
        multiplier = None if number is None else self.multiplier(number)
        if multiplier is None:
            return x
        by_token = x.view(-1, self.module.num_attention_heads, x.shape[1], x.shape[2]).transpose(1, 2)
        scaled = scale_for_call(by_token.flatten(2), multiplier, "the position keys", self.axis)
        return (
            scaled.view(by_token.shape).transpose(1, 2).reshape(x.shape)
        )  # batch seq heads size → batch·heads seq size

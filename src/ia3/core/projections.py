"""The projections of a model: its linear maps by path and size, what their names say, and those that a setting names.

This file knows names, classes and sizes; what a model makes of its projections is the matter of `structure` and of the
rules of `families`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ia3.core.bank import Bank
from ia3.core.families import is_foreign
from ia3.core.sites import Channels, Side, Site
from ia3.errors import PlanError, near_matches

# nn.MultiheadAttention reads the weight of this Linear and never calls it: a vector there would do nothing.
_NEVER_CALLED = "NonDynamicallyQuantizableLinear"
KEY_NAMES = ("k", "key", "k_proj", "key_proj", "k_lin", "wk", "to_k", "lin_k")
VALUE_NAMES = ("v", "value", "v_proj", "value_proj", "v_lin", "wv", "to_v", "lin_v")
QUERY_NAMES = ("q", "query", "q_proj", "query_proj", "q_lin", "q_attn", "wq", "to_q", "lin_q")
_FUSED_NAME = re.compile(r"c_attn|query_key|key_value|qkv|in_proj|W_pack|^kv_|kv_proj", re.IGNORECASE)


@dataclass(frozen=True)
class Projection:
    """A linear map of the model: its path and sizes."""

    path: str
    inputs: int
    outputs: int

    @property
    def name(self) -> str:
        """Last part of the path."""
        return self.path.rpartition(".")[2]

    @property
    def parent(self) -> str:
        """The path without the last part."""
        return self.path.rpartition(".")[0]

    def features(self, side: Side) -> int:
        """Number of channels of one side."""
        return self.outputs if side == "output" else self.inputs

    def site(self, side: Side, role: str, where: str) -> Site:
        """Return the site that covers every channel of one side."""
        features = self.features(side)
        return Site(self.path, side, role, Channels.span(0, features, features), features, where)


def find_projections(model: nn.Module) -> tuple[Projection, ...]:
    """Return every linear map of the model (Linear, GPT-2's Conv1D, quantised ones), in order."""
    return tuple(_projections(model))


def _projections(model: nn.Module) -> Iterator[Projection]:
    banks: tuple[str, ...] = ()  # an attached bank holds heads, which are no part of the base
    for path, module in model.named_modules():
        if isinstance(module, Bank):
            banks += (f"{path}.",)
        sizes = projection_sizes(module)
        if path and sizes is not None and not path.startswith(banks):
            yield Projection(path, *sizes)


def projection_sizes(module: nn.Module) -> tuple[int, int] | None:
    """Return (inputs, outputs) of a linear map, or None for another module."""
    if type(module).__name__ == _NEVER_CALLED:
        return None
    if is_transposed(module) and hasattr(module, "nf"):
        weight: Any = module.weight
        return int(weight.shape[0]), int(weight.shape[1])
    if hasattr(module, "in_features") and hasattr(module, "out_features"):
        sizes: Any = module
        return int(sizes.in_features), int(sizes.out_features)
    return None


def is_transposed(module: nn.Module) -> bool:
    """Whether a linear map is GPT-2's, whose weight is (inputs, outputs)."""
    return type(module).__name__ == "Conv1D"


def model_type_of(model: nn.Module) -> str:
    """Return what a model's config calls its type, or its class."""
    return str(getattr(getattr(model, "config", None), "model_type", type(model).__name__))


def of_text(projections: Iterable[Projection]) -> list[Projection]:
    """Return the projections without those of another model inside this one, such as a vision tower."""
    return [projection for projection in projections if not is_foreign(projection.path)]


def pattern_of(path: str) -> str:
    """Return a path with `*` for the layer numbers.

    Example:
        >>> pattern_of("layers.3.mlp.experts.0.w1")
        'layers.*.mlp.experts.*.w1'
    """
    return re.sub(r"\.[0-9]+(?=\.|$)", ".*", path)


def is_fused(name: str) -> bool:
    """Whether a projection's name says that it makes several of queries, keys and values."""
    return _FUSED_NAME.search(name) is not None


def role_of(name: str, side: Side) -> str:
    """Return the role of one side of a projection that has a name."""
    if side == "input":
        return "feedforward"
    for role, names in (("key", KEY_NAMES), ("value", VALUE_NAMES), ("query", QUERY_NAMES)):
        if name in names:
            return role
    return "attention" if is_fused(name) else "other"


def whole_site(projection: Projection, side: Side) -> Site:
    """Return the site that a user's own target is: every channel of one side of a projection."""
    return projection.site(side, role_of(projection.name, side), "named by target_modules")


def match_modules(
    projections: Iterable[Projection], names: str | Sequence[str], setting: str
) -> tuple[Projection, ...]:
    """Return the projections that a setting names, with PEFT's rules for names and regular expressions.

    Raises:
        PlanError: If a name, or the expression, matches nothing.
    """
    everything = tuple(projections)
    if isinstance(names, str):
        try:
            found = tuple(p for p in everything if re.fullmatch(names, p.path))
        except re.error as error:
            raise PlanError(
                f"Finding the plan: {setting} is no regular expression, got {names!r} ({error})."
            ) from error
        if not found:
            raise PlanError(f"Finding the plan: the expression {names!r} of {setting} matches no linear module.")
        return found
    known = {p.name for p in everything}
    dead = [n for n in names if not any(_is_named(p, n) for p in everything)]
    if dead:
        hints = "".join(near_matches(name, known) for name in dead)
        raise PlanError(
            f"Finding the plan: {', '.join(map(repr, dead))} of {setting} "
            f"match{'es' if len(dead) == 1 else ''} no linear module.{hints}"
        )
    return tuple(p for p in everything if any(_is_named(p, n) for n in names))


def _is_named(projection: Projection, name: str) -> bool:
    return projection.path == name or projection.path.endswith(f".{name}")

"""Mixtures of experts in a model: where they are, and which targets would scale a layer's feed-forward in part.

Routed experts are most often one parameter for all of them, no projections, so that a list of names passes over them
without a word. They are told instead: as what is left out of a plan, or in a refusal where a target is the part of
their feed-forward that is not routed. This file knows names and classes only.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import nn

from ia3.core.projections import pattern_of
from ia3.core.sites import LeftOut, Site
from ia3.errors import PlanError

_CLASS = re.compile(r"(?<!Shared)Experts$|(?:MoE|Moe)$|SparseM(?:oe\w*|LP)$")
_LAYER = re.compile(r".*\.[0-9]+(?=\.|$)")  # of a path: up to its last number
_FEEDFORWARD = re.compile(r"mlp|ffn|feed_?forward|shared", re.IGNORECASE)
_ATTENTION_ROLES = ("key", "value", "query", "attention")
_REASON = "routed experts carry no vector; vectors for each expert are not built yet"


@dataclass(frozen=True)
class Mixture:
    """Routed experts of one layer.

    Attributes:
        experts: Path of the module that holds them.
        block: Path of the feed-forward block they are part of; the layer's where they lie in it directly.
        layer: Path of the layer, where the part that is not routed may lie beside the block.
    """

    experts: str
    block: str
    layer: str


def find_mixtures(model: nn.Module) -> tuple[Mixture, ...]:
    """Return the mixtures of experts of a model, in its order."""
    classes = {path: type(module).__name__ for path, module in model.named_modules() if path}
    named = [path for path in classes if path.rpartition(".")[2] == "experts"]
    whole = [path for path, name in classes.items() if _CLASS.search(name) and not _has_inside(path, named)]
    chosen = {*named, *whole}
    return tuple(_mixture(p) for p in classes if p in chosen and not any(p.startswith(f"{q}.") for q in chosen))


def _has_inside(path: str, others: Iterable[str]) -> bool:
    return any(other.startswith(f"{path}.") for other in others)


def _mixture(path: str) -> Mixture:
    parent, _, last = path.rpartition(".")
    block = parent if last == "experts" else path
    found = _LAYER.match(block)
    return Mixture(path, block, found.group() if found else block)


def check_experts(sites: Iterable[Site], mixtures: Sequence[Mixture], model_type: str) -> None:
    """Raise if a site scales a part of a feed-forward whose routed experts have no vector.

    Raises:
        PlanError: Naming the site and the experts.
    """
    for site in sites:
        for mixture in mixtures:
            if _is_beside(site, mixture):
                raise PlanError(
                    f"Finding the plan of a {model_type!r} model: the target {site.module!r} belongs to a mixture of "
                    f"experts, and the routed ones ({mixture.experts!r}) would have no vector: vectors for each expert "
                    "are not built yet. Leave it out of the targets, or out of the plan with exclude_modules."
                )


def _is_beside(site: Site, mixture: Mixture) -> bool:
    """Whether a site scales a part of a mixture; keys and values of the same layer are whole without the experts."""
    is_feedforward = site.role not in _ATTENTION_ROLES and _is_of_the_same_feedforward(site.module, mixture)
    return site.module.startswith(f"{mixture.experts}.") or is_feedforward


def _is_of_the_same_feedforward(path: str, mixture: Mixture) -> bool:
    if mixture.block != mixture.layer and path.startswith(f"{mixture.block}."):
        return True
    beside = path.removeprefix(f"{mixture.layer}.")
    return beside != path and _FEEDFORWARD.search(beside.rpartition(".")[0]) is not None


def mixtures_left_out(mixtures: Sequence[Mixture]) -> tuple[LeftOut, ...]:
    """Return what a plan says of the experts that it passes over."""
    counts = Counter(pattern_of(mixture.experts) for mixture in mixtures)
    return tuple(LeftOut(pattern, count, _REASON) for pattern, count in counts.items())

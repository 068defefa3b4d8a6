"""From a model to its plan: the family table first, then structure, or the user's own targets.

Reads module names, classes and sizes; it never runs the model and needs no weights (the meta device will do).
A plan that cannot be found for certain is refused with the candidates and the lines to write: a wrong guess would train
the wrong thing silently.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ia3.core.bank import Bank
from ia3.core.experts import Mixture, find_mixtures, mixtures_left_out, site_beside_experts
from ia3.core.families import family_of
from ia3.core.left_out import left_out_of
from ia3.core.own_sites import check_family, model_type_of, own_sites, sites_of_family
from ia3.core.sites import Channels, Plan, Side, Site
from ia3.core.structure import KEY_NAMES, QUERY_NAMES, VALUE_NAMES, attention_targets, is_fused
from ia3.core.unfed import REASON, find_unfed
from ia3.errors import PlanError, near_matches

# nn.MultiheadAttention reads the weight of this Linear and never calls it: a vector there would do nothing.
_NEVER_CALLED = "NonDynamicallyQuantizableLinear"


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


def find_plan(
    model: nn.Module,
    *,
    target_modules: str | Sequence[str] | None = None,
    feedforward_modules: str | Sequence[str] | None = None,
    exclude_modules: str | Sequence[str] | None = None,
) -> Plan:
    """Return the plan of a base: every site with its side, channels and role.

    Without targets: keys, values and feed-forward activations as in the paper (§3.3), from the table of known families
    or, for another model type, from structure. With targets: those modules, whole, with PEFT's meaning of names.

    Args:
        model: A transformers model with a `config`; may lie on the meta device.
        target_modules: Names (matched in full or after a dot) or one regular expression (matched in full).
        feedforward_modules: Those of the targets whose input is multiplied instead of their output.
        exclude_modules: Names or a regular expression of modules to leave out.

    Returns:
        The plan, its sites in the order of the model's modules.

    Raises:
        PlanError: For a model without a plan, with experts, or for a name that matches nothing.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
        >>> [(site.role, site.width) for site in find_plan(BertModel(config)).sites]
        [('key', 8), ('value', 8), ('feedforward', 16)]
    """
    model_type = model_type_of(model)
    projections = find_projections(model)
    mixtures = find_mixtures(model)
    if mixtures and target_modules in (None, "all-linear"):
        raise PlanError(_refusal_of_experts(model, projections, mixtures[0]))
    told: dict[str, str] = {}
    if target_modules is not None:
        sites, source = _sites_of_targets(model, projections, target_modules, feedforward_modules), "targets"
        told = {p.path: "not named by target_modules" for p in projections}
    elif feedforward_modules is not None:
        raise PlanError(
            "Finding the plan: feedforward_modules is given without target_modules, expected a part of them. "
            "Give both, or neither for the default plan."
        )
    else:
        unfed = tuple(f"{path}." for path in find_unfed(model))
        told = {p.path: REASON for p in projections if p.path.startswith(unfed)}
        sites, source = own_sites(model, [p for p in projections if p.path not in told])
    if exclude_modules is not None:
        excluded = {p.path for p in match_modules(projections, exclude_modules, "exclude_modules")}
        sites = [site for site in sites if site.module not in excluded]
        told |= dict.fromkeys(excluded, "named by exclude_modules")
    if not sites:
        raise PlanError(
            f"Finding the plan of a {model_type!r} model: no site is left. Give more target_modules, or fewer "
            "exclude_modules."
        )
    check_experts(sites, mixtures, model_type)
    left_out = left_out_of([p.path for p in projections], sites, told)
    return Plan(tuple(sites), model_type, source, (*left_out, *mixtures_left_out(mixtures)))


def find_projections(model: nn.Module) -> tuple[Projection, ...]:
    """Return every linear map of the model (Linear, GPT-2's Conv1D, quantised ones), in order."""
    return tuple(_projections(model))


def projection_sizes(module: nn.Module) -> tuple[int, int] | None:
    """Return (inputs, outputs) of a linear map, or None for another module."""
    if type(module).__name__ == _NEVER_CALLED:
        return None
    if type(module).__name__ == "Conv1D" and hasattr(module, "nf"):  # GPT-2: weight is (inputs, outputs)
        weight: Any = module.weight
        return int(weight.shape[0]), int(weight.shape[1])
    if hasattr(module, "in_features") and hasattr(module, "out_features"):
        sizes: Any = module
        return int(sizes.in_features), int(sizes.out_features)
    return None


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


def _projections(model: nn.Module) -> Iterator[Projection]:
    banks: tuple[str, ...] = ()  # an attached bank holds heads, which are no part of the base
    for path, module in model.named_modules():
        if isinstance(module, Bank):
            banks += (f"{path}.",)
        sizes = projection_sizes(module)
        if path and sizes is not None and not path.startswith(banks):
            yield Projection(path, *sizes)


def check_experts(sites: Iterable[Site], mixtures: Sequence[Mixture], model_type: str) -> None:
    """Raise if a site scales a part of a feed-forward whose routed experts have no vector.

    Raises:
        PlanError: Naming the site and the experts.
    """
    found = site_beside_experts(sites, mixtures)
    if found is not None:
        site, mixture = found
        raise PlanError(
            f"Finding the plan of a {model_type!r} model: the target {site.module!r} belongs to a mixture of experts, "
            f"and the routed ones ({mixture.experts!r}) would have no vector: vectors for each expert are not built "
            "yet. Leave it out of the targets, or out of the plan with exclude_modules."
        )


def _refusal_of_experts(model: nn.Module, projections: Sequence[Projection], mixture: Mixture) -> str:
    return (
        f"Finding the plan of a {model_type_of(model)!r} model: {mixture.experts!r} is a mixture of experts, and "
        f"vectors for each expert are not built yet. {_advice(model, projections)}"
    )


def _advice(model: nn.Module, projections: Sequence[Projection]) -> str:
    """Return targets that were tried, for whoever has a model without a plan of its own."""
    for targets in attention_targets(model, projections):
        try:
            find_plan(model, target_modules=targets)
        except PlanError:
            continue
        return f"Its keys and values alone can carry vectors: target_modules={targets!r}."
    return "It has no projections for keys and values alone that could carry vectors instead."


def _sites_of_targets(
    model: nn.Module,
    projections: Sequence[Projection],
    target_modules: str | Sequence[str],
    feedforward_modules: str | Sequence[str] | None,
) -> list[Site]:
    """Make the sites of a user's own targets: whole projections, as PEFT means them."""
    config: Any = getattr(model, "config", None)
    family = family_of(model_type_of(model))
    if family is not None:
        check_family(family, config)
    targets = _all_linear(model, projections) if target_modules == "all-linear" else None
    if targets is None:
        targets = match_modules(projections, target_modules, "target_modules")
    inputs: set[str] = set()
    if feedforward_modules:
        inputs = {p.path for p in match_modules(projections, feedforward_modules, "feedforward_modules")}
        if not inputs & {p.path for p in targets}:
            raise PlanError(
                f"Finding the plan: feedforward_modules {feedforward_modules!r} has no module in common with "
                f"target_modules {target_modules!r}, expected a part of them. Add the names to target_modules."
            )
    elif feedforward_modules is None and target_modules != "all-linear":
        known = () if family is None else sites_of_family(config, projections, family)
        unclear = [p.path for p in targets if family is None and _role_of(p.name, "output") == "other"]
        if unclear:  # the wrong side would train the wrong thing silently
            check_experts([whole_site(p, "output") for p in targets], find_mixtures(model), model_type_of(model))
            raise PlanError(
                f"Finding the plan: {unclear[0]!r} is a target in a model type that is not in the table, and whether "
                "its input or its output is scaled is not said. Give feedforward_modules, the targets whose input is "
                "scaled, or [] for none."
            )
        inputs = {s.module for s in known if s.side == "input"}
        inputs |= {s.peft[0] for s in known if s.peft and s.peft[1] == "input"}
    return [whole_site(p, "input" if p.path in inputs else "output") for p in targets]


def whole_site(projection: Projection, side: Side) -> Site:
    """Return the site that covers every channel of one side of a projection."""
    features = projection.features(side)
    channels = Channels.span(0, features, features)
    return Site(projection.path, side, _role_of(projection.name, side), channels, features, "named by target_modules")


def _role_of(name: str, side: Side) -> str:
    if side == "input":
        return "feedforward"
    for role, names in (("key", KEY_NAMES), ("value", VALUE_NAMES), ("query", QUERY_NAMES)):
        if name in names:
            return role
    return "attention" if is_fused(name) else "other"


def _all_linear(model: nn.Module, projections: Sequence[Projection]) -> tuple[Projection, ...]:
    """Every projection but the output layer, PEFT's `all-linear`."""
    head = getattr(model, "get_output_embeddings", lambda: None)()
    heads = {path for path, module in model.named_modules() if head is not None and module is head}
    if not heads:  # a classifier: PEFT leaves out the last linear module under these names
        heads = {p.path for p in projections if p.path.split(".")[0] in ("classifier", "score", "qa_outputs")}
    return tuple(p for p in projections if p.path not in heads)

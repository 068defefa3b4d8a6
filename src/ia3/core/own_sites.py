"""The sites of a model's own plan: by its family, by those of the models inside it, or by structure.

A model of models (transformers' EncoderDecoderModel) is asked part by part, so that no part is planned by the other's
names. This file knows names, classes and configs; it never runs the model.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from ia3.core.families import Family, Rule, family_of, is_foreign
from ia3.core.projections import Projection, model_type_of, of_text
from ia3.core.sites import Side, Site
from ia3.core.structure import has_blocks, sites_of_structure
from ia3.errors import PlanError
from ia3.names import ROLES


def own_sites(model: Any, projections: Sequence[Projection]) -> tuple[list[Site], str]:
    """Return the sites of the keys, values and feed-forward activations of a model, in order, and how they were found.

    Args:
        model: A transformers model.
        projections: Those of it that may carry a vector.

    Raises:
        PlanError: If the model, or a model inside it, is not understood.
    """
    parts = {} if family_of(model_type_of(model)).rules else _parts(model)
    found, sources = [], set()
    for path, part in parts.items():
        inside = [p for p in projections if p.path.startswith(f"{path}.")]
        if inside:
            sites, source = _sites_of_one(model, part, inside)
            found += sites
            sources.add(source)
    rest = [p for p in projections if not p.path.startswith(tuple(f"{path}." for path in parts))]
    if not found or has_blocks(model, rest):
        sites, source = _sites_of_one(model, model, rest)
        found += sites
        sources.add(source)
    order = {projection.path: place for place, projection in enumerate(projections)}
    return sorted(found, key=lambda site: order[site.module]), "family" if sources == {"family"} else "structure"


def _sites_of_one(model: nn.Module, part: Any, projections: Sequence[Projection]) -> tuple[list[Site], str]:
    """Return the sites of a model that may lie inside of `model`, by its own family or by structure."""
    model_type = model_type_of(part)
    family = family_of(model_type)
    if not family.rules:
        return sites_of_structure(model, projections, model_type), "structure"
    check_family(part)
    sites = sites_of_family(part.config, projections, family)
    _check_roles(sites, model_type)
    return sites, "family"


def _parts(model: nn.Module) -> dict[str, Any]:
    """Return the topmost models of another type inside a model, by their path."""
    own = model_type_of(model)
    found: dict[str, Any] = {}
    for path, module in model.named_modules():
        is_other = isinstance(module, PreTrainedModel) and model_type_of(module) != own
        if path and is_other and not is_foreign(path) and not path.startswith(tuple(f"{other}." for other in found)):
            found[path] = module
    return found


def check_family(model: Any) -> None:
    """Raise a PlanError if a model of a known family cannot be served."""
    model_type = model_type_of(model)
    family = family_of(model_type)
    refusal = family.refusal(model.config) if family.refusal is not None else None
    if refusal:
        raise PlanError(f"Finding the plan of a {model_type!r} model: {refusal}. No vector can be placed there.")


def _check_roles(sites: Sequence[Site], model_type: str) -> None:
    """Refuse a model of a known family whose modules are not where the family has them."""
    counts = {role: sum(site.role == role for site in sites) for role in ROLES}
    if counts["key"] != counts["value"] or not all(counts.values()):
        told = ", ".join(f"{count} of role {role!r}" for role, count in counts.items())
        raise PlanError(
            f"Finding the plan of a {model_type!r} model: its projections are not those of its family, got {told}, "
            "expected as many keys as values and some of each. Give target_modules and feedforward_modules."
        )


def sites_of_family(config: Any, projections: Sequence[Projection], family: Family) -> list[Site]:
    """Return what the rules of a family make of projections."""
    paths = {p.path for p in projections}
    sites: list[Site] = []
    for projection in of_text(projections):
        rule = _rule_for(projection, family)
        if rule is None or (rule.unless and f"{projection.parent}.{rule.unless}" in paths):
            continue
        sites.extend(_sites_of_rule(config, projection, rule))
    return sites


def _rule_for(projection: Projection, family: Family) -> Rule | None:
    return next((r for r in family.rules if re.search(rf"(?:^|\.){r.pattern}$", projection.path)), None)


def _sites_of_rule(config: Any, projection: Projection, rule: Rule) -> list[Site]:
    peft, twin = _sibling(projection, rule.peft), _sibling(projection, rule.twin)
    whole = replace(projection.site(rule.side, rule.role, rule.where), peft=peft, twin=twin)
    if rule.layout is None:
        return [whole]
    slices = rule.layout(config, whole.features).items()
    return [replace(whole, role=role, channels=channels) for role, channels in slices if role in ROLES]


def _sibling(projection: Projection, place: tuple[str, Side] | None) -> tuple[str, Side] | None:
    """Return a rule's place beside a projection with its full path."""
    return None if place is None else (f"{projection.parent}.{place[0]}", place[1])

"""From a model to its plan: the family table first, then structure, or the user's own targets.

Reads module names, classes and sizes; it never runs the model and needs no weights (the meta device will do).
A plan that cannot be found for certain is refused with the candidates and the lines to write: a wrong guess would train
the wrong thing silently.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from ia3.core.experts import Mixture, check_experts, find_mixtures, mixtures_left_out
from ia3.core.left_out import left_out_of
from ia3.core.own_sites import own_sites
from ia3.core.projections import Projection, find_projections, match_modules, model_type_of
from ia3.core.sites import Plan
from ia3.core.structure import attention_targets
from ia3.core.targets import sites_of_targets
from ia3.core.unfed import REASON, find_unfed
from ia3.errors import PlanError


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
        sites, source = sites_of_targets(model, projections, target_modules, feedforward_modules), "targets"
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

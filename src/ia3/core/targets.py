"""The sites of a user's own targets: whole projections, as PEFT means them.

Which side of a target is scaled is said by the user, by the family of the model, or by the target's name; where none of
them says it, the plan is refused. This file knows names, classes and configs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from ia3.core.experts import check_experts, find_mixtures
from ia3.core.families import family_of
from ia3.core.own_sites import check_family, sites_of_family
from ia3.core.projections import Projection, match_modules, model_type_of, role_of, whole_site
from ia3.core.sites import Site
from ia3.errors import PlanError

ALL_LINEAR = "all-linear"


def sites_of_targets(
    model: nn.Module,
    projections: Sequence[Projection],
    target_modules: str | Sequence[str],
    feedforward_modules: str | Sequence[str] | None,
) -> list[Site]:
    """Return a site for each target, in the order of the model's modules.

    Args:
        model: The model.
        projections: All of it.
        target_modules: Names, a regular expression, or `all-linear`.
        feedforward_modules: Those of them whose input is scaled; None where that is not said.

    Raises:
        PlanError: For a name that matches nothing, or a target whose side is not known.
    """
    check_family(model)
    is_all = target_modules == ALL_LINEAR
    targets = (
        _all_linear(model, projections) if is_all else match_modules(projections, target_modules, "target_modules")
    )
    inputs: set[str] = set()
    if feedforward_modules:
        inputs = {p.path for p in match_modules(projections, feedforward_modules, "feedforward_modules")}
        if not inputs & {p.path for p in targets}:
            raise PlanError(
                f"Finding the plan: feedforward_modules {feedforward_modules!r} has no module in common with "
                f"target_modules {target_modules!r}, expected a part of them. Add the names to target_modules."
            )
    elif feedforward_modules is None and not is_all:
        inputs = _known_inputs(model, projections, targets)
    return [whole_site(p, "input" if p.path in inputs else "output") for p in targets]


def _known_inputs(model: Any, projections: Sequence[Projection], targets: Sequence[Projection]) -> set[str]:
    """Return the projections whose input the model's family scales, or PEFT for it; of an unknown model none.

    Raises:
        PlanError: If a target of an unknown model is not told by its name: the wrong side would train the wrong thing.
    """
    family = family_of(model_type_of(model))
    if family.rules:
        sites = sites_of_family(model.config, projections, family)
        own = {site.module for site in sites if site.side == "input"}
        return own | {site.peft[0] for site in sites if site.peft and site.peft[1] == "input"}
    unclear = [p.path for p in targets if role_of(p.name, "output") == "other"]
    if unclear:
        check_experts([whole_site(p, "output") for p in targets], find_mixtures(model), model_type_of(model))
        raise PlanError(
            f"Finding the plan: {unclear[0]!r} is a target in a model type that is not in the table, and whether "
            "its input or its output is scaled is not said. Give feedforward_modules, the targets whose input is "
            "scaled, or [] for none."
        )
    return set()


def _all_linear(model: nn.Module, projections: Sequence[Projection]) -> tuple[Projection, ...]:
    """Every projection but the output layer, PEFT's `all-linear`."""
    head = getattr(model, "get_output_embeddings", lambda: None)()
    heads = {path for path, module in model.named_modules() if head is not None and module is head}
    if not heads:  # a classifier: PEFT leaves out the last linear module under these names
        heads = {p.path for p in projections if p.path.split(".")[0] in ("classifier", "score", "qa_outputs")}
    return tuple(p for p in projections if p.path not in heads)

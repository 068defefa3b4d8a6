"""From a PEFT config and a model to the plan and the heads it means.

Targets that are given are matched by PEFT's rules (`adapters.targets`) and cover whole projections; targets left out
are the model's own plan. A name or expression that matches nothing is an error, as is a target that is no linear
module. This file reads names and sizes; it puts nothing on a model.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ia3.adapters.config import AdapterConfig
from ia3.adapters.fitting import named_modules
from ia3.adapters.layout import lay_out
from ia3.adapters.targets import find_heads, is_feedforward, is_target
from ia3.core.discovery import find_plan
from ia3.core.experts import check_experts, find_mixtures
from ia3.core.families import FAMILIES
from ia3.core.projections import Projection, is_transposed, model_type_of, projection_sizes, whole_site
from ia3.core.sites import Plan, Site
from ia3.core.targets import ALL_LINEAR
from ia3.errors import AdapterError, PlanError, SettingsError, near_matches
from ia3.peft.config import TASK_HEADS, IA3Config, PeftConfig, TaskType, adapter_config
from ia3.spelling import first_of

# Which targets have their input scaled, where a config with targets does not say it, by model type.
FEEDFORWARD_MODULES = {model_type: names for family in FAMILIES for model_type, names in family.peft_inputs.items()}


def select(model: nn.Module, config: PeftConfig) -> Selection:
    """Return the plan and heads that a config means for a model, and the config filled in.

    Args:
        model: The base, with or without a bank; may lie on the meta device.
        config: What the user said; it is not changed.

    Raises:
        SettingsError: If it is no IA3Config of this package.
        PlanError: For a name that matches nothing, a target that is no linear module, no target at all, or a model type
            without defaults.
    """
    if not isinstance(config, IA3Config):
        kind = f"{type(config).__module__}.{type(config).__name__}"
        raise SettingsError(f"Finding the targets: the config is a {kind}, expected ia3.peft.IA3Config. Import it.")
    filled = copy.deepcopy(config)
    modules = named_modules(model)
    filled.modules_to_save = _head_names(config, modules) or None
    heads = find_heads(modules, filled.modules_to_save or ())
    if config.target_modules is None:
        plan = _default_plan(model, filled)
    else:
        plan = _plan_of_targets(model, modules, filled, heads)
    filled.fan_in_fan_out = any(is_transposed(modules[site.module]) for site in plan.sites)
    filled.base_model_name_or_path = model.__dict__.get("name_or_path") or None
    hidden = [site.name for site in plan.sites if any(f"{site.module}.".startswith(f"{head}.") for head in heads)]
    if hidden:
        raise PlanError(
            f"Finding the targets: {hidden[0]!r} lies in a module that is trained whole (modules_to_save "
            f"{filled.modules_to_save}), expected no vector there. Exclude it with exclude_modules."
        )
    return Selection(plan, heads, filled)


def covers(sites: Sequence[Site], plan: Plan) -> bool:
    """Return whether vectors at these sites are the rows of `plan`: every number has a place, and every place one."""
    probe = {site.name: torch.full((site.width,), 2.0) for site in sites}
    try:
        return bool((lay_out(sites, probe, plan) != 1).all())
    except AdapterError:
        return False


def _head_names(config: IA3Config, modules: Mapping[str, nn.Module]) -> list[str]:
    """Return the user's `modules_to_save` and the heads that PEFT adds for the task."""
    given = config.modules_to_save or []
    added = TASK_HEADS.get(TaskType(config.task_type), ()) if config.task_type else ()
    own = [name for name in given if name not in added]  # a config that was filled in before has both
    _refuse_dead("modules_to_save", own, str.endswith, modules)
    return list(dict.fromkeys([*given, *added]))


def _default_plan(model: nn.Module, config: IA3Config) -> Plan:
    """Return the model's own plan without what lies in a head."""
    as_names = adapter_config(config)
    plan = find_plan(model, feedforward_modules=as_names.feedforward_modules, exclude_modules=as_names.exclude_modules)
    outside = AdapterConfig(target_modules=".*", modules_to_save=as_names.modules_to_save)
    sites = tuple(site for site in plan.sites if is_target(outside, site.module))
    if not sites:
        raise PlanError(f"Finding the targets: every site lies in modules_to_save {config.modules_to_save}. Give less.")
    return Plan(sites, plan.model_type, plan.source, plan.left_out)


def _plan_of_targets(
    model: nn.Module, modules: Mapping[str, nn.Module], config: IA3Config, heads: Sequence[str]
) -> Plan:
    """Return whole sites for the targets, and write into the config what it leaves out."""
    model_type = model_type_of(model)
    is_all = isinstance(config.target_modules, str) and config.target_modules.lower() == ALL_LINEAR
    if is_all:
        # PEFT fails where a head is no output layer (DistilBERT's pre_classifier); it is trained whole already
        config.target_modules = _all_linear(model, modules, config.task_type) - set(heads)
    if config.feedforward_modules is None:
        if model_type not in FEEDFORWARD_MODULES:
            raise PlanError(
                f"Finding the targets: Please specify feedforward_modules, there is no default for model type "
                f"{model_type!r}. Give those of target_modules whose input is scaled, or [] if there are none."
            )
        defaults = FEEDFORWARD_MODULES[model_type]
    else:
        defaults = ()
    names = adapter_config(config)
    for setting in ("target_modules", "exclude_modules"):
        _refuse_dead(setting, getattr(names, setting), _is_named, modules)
    targets = {path: module for path, module in modules.items() if is_target(names, path)}
    _refuse_empty(targets, names)
    _refuse_dead("feedforward_modules", names.feedforward_modules, str.endswith, targets, "target")
    if config.feedforward_modules is None:
        config.feedforward_modules = set(defaults)
        names = adapter_config(config)
    sites = [
        whole_site(Projection(path, *sizes), "input" if is_feedforward(names, path) else "output")
        for path, module in targets.items()
        if (sizes := projection_sizes(module)) is not None
    ]
    check_experts(sites, find_mixtures(model), model_type)
    return Plan(tuple(sites), model_type, "targets")


def _all_linear(model: nn.Module, modules: Mapping[str, nn.Module], task: TaskType | str | None) -> set[str]:
    """Return every linear module but the output layer, or a classifier's head: PEFT's `all-linear`."""
    linear = {path for path, module in modules.items() if projection_sizes(module) is not None}
    if not isinstance(model, PreTrainedModel):
        return linear
    output: Any = model.get_output_embeddings()
    if output is not None:
        return linear - {path for path, module in modules.items() if module is output}
    heads = [name for name in ("score", "classifier") if hasattr(model, name)] if task == TaskType.SEQ_CLS else []
    return linear - set(heads[:1])


def _refuse_empty(targets: Mapping[str, nn.Module], names: AdapterConfig) -> None:
    """Raise if there is no target, or one that cannot carry a vector."""
    if not targets:
        raise PlanError(
            f"Finding the targets: all modules that target_modules {names.target_modules!r} matches are left out by "
            f"exclude_modules {names.exclude_modules!r} or modules_to_save {names.modules_to_save!r}. Leave out less."
        )
    odd = [f"{path!r} ({type(m).__name__})" for path, m in targets.items() if projection_sizes(m) is None]
    if odd:
        raise PlanError(
            f"Finding the targets: target_modules {names.target_modules!r} matches {first_of(odd, 5)}, "
            "expected linear modules (Linear, Conv1D). Give the linear modules inside."
        )


def _refuse_dead(
    setting: str,
    names: str | Sequence[str] | None,
    matches: Callable[[str, str], bool],
    paths: Iterable[str],
    what: str = "module",
) -> None:
    """Raise if a name, or the expression, of a setting matches no path."""
    every = tuple(paths)
    if isinstance(names, str):
        try:
            expression = re.compile(names)
        except re.error as error:
            raise PlanError(
                f"Finding the targets: {setting} is no regular expression, got {names!r} ({error})."
            ) from error
        if not any(expression.fullmatch(path) for path in every):
            raise PlanError(
                f"Finding the targets: the expression {names!r} of {setting} matches no {what}. An expression must "
                "match a whole path; give a list of names to match their ends."
            )
        return
    dead = [name for name in names or () if not any(matches(path, name) for path in every)]
    if dead:
        known = {last for path in every if not (last := path.rpartition(".")[2]).isdigit()}
        hints = "".join(near_matches(name, known) for name in dead[:3])
        raise PlanError(
            f"Finding the targets: {', '.join(map(repr, dead))} of {setting} match{'es' if len(dead) == 1 else ''} no "
            f"{what}.{hints}"
        )


def _is_named(path: str, name: str) -> bool:
    return path == name or path.endswith(f".{name}")


@dataclass(frozen=True)
class Selection:
    """What a config means for one model.

    Attributes:
        plan: Where the vectors sit.
        heads: Paths of the modules that are trained and saved whole.
        config: A copy of the config, its names filled in.
    """

    plan: Plan
    heads: tuple[str, ...]
    config: IA3Config

"""From a model to its plan: the family table first, then structure, or the user's own targets.

Reads module names, classes and sizes; it never runs the model and needs no weights (the meta device will do).
A plan that cannot be found for certain is refused with the candidates and the lines to write: a wrong guess would train
the wrong thing silently.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ia3.core.bank import Bank
from ia3.core.families import Family, Rule, family_of, is_foreign
from ia3.core.sites import Channels, LeftOut, Plan, Side, Site
from ia3.core.structure import KEY_NAMES, QUERY_NAMES, VALUE_NAMES, is_fused, sites_of_structure
from ia3.errors import PlanError, near_matches

# nn.MultiheadAttention reads the weight of this Linear and never calls it: a vector there would do nothing.
_NEVER_CALLED = "NonDynamicallyQuantizableLinear"
_ROLES = ("key", "value", "feedforward")


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
    model_type = str(getattr(getattr(model, "config", None), "model_type", type(model).__name__))
    projections = find_projections(model)
    experts = _find_experts(model)
    if experts and target_modules in (None, "all-linear"):
        raise PlanError(_refusal_of_experts(model_type, experts[0]))
    family = family_of(model_type)
    if family is not None and family.refusal is not None:
        refusal = family.refusal(model.config)
        if refusal:
            raise PlanError(f"Finding the plan of a {model_type!r} model: {refusal}. No vector can be placed there.")
    if target_modules is not None:
        sites = _sites_of_targets(model, projections, family, target_modules, feedforward_modules)
        source = "targets"
    elif feedforward_modules is not None:
        raise PlanError(
            "Finding the plan: feedforward_modules is given without target_modules, expected a part of them. "
            "Give both, or neither for the default plan."
        )
    elif family is not None:
        sites, source = _sites_of_family(model, projections, family), "family"
        _check_roles(sites, model_type)
    else:
        sites, source = sites_of_structure(model, projections, model_type), "structure"
    excluded: set[str] = set()
    if exclude_modules is not None:
        excluded = {p.path for p in match_modules(projections, exclude_modules, "exclude_modules")}
        sites = [site for site in sites if site.module not in excluded]
    if not sites:
        raise PlanError(
            f"Finding the plan of a {model_type!r} model: no site is left. Give more target_modules, or fewer "
            "exclude_modules."
        )
    inside = [site.module for site in sites if any(site.module.startswith(f"{path}.") for path in experts)]
    if inside:
        raise PlanError(_refusal_of_experts(model_type, inside[0]))
    return Plan(tuple(sites), model_type, source, _left_out(projections, sites, source, excluded))


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


def _find_experts(model: nn.Module) -> tuple[str, ...]:
    """Return the paths of the mixtures of experts."""
    return tuple(
        path
        for path, module in model.named_modules()
        if path.rpartition(".")[2] == "experts" or re.search("sparsemoe|experts", type(module).__name__.lower())
    )


def _refusal_of_experts(model_type: str, path: str) -> str:
    return (
        f"Finding the plan of a {model_type!r} model: {path!r} is a mixture of experts, and vectors for each expert "
        "are not built yet. Give target_modules without the experts, such as the keys and values."
    )


def _check_roles(sites: Sequence[Site], model_type: str) -> None:
    """Refuse a model of a known family whose modules are not where the family has them."""
    counts = {role: sum(site.role == role for site in sites) for role in _ROLES}
    if counts["key"] != counts["value"] or not all(counts.values()):
        told = ", ".join(f"{count} of role {role!r}" for role, count in counts.items())
        raise PlanError(
            f"Finding the plan of a {model_type!r} model: its projections are not those of its family, got {told}, "
            "expected as many keys as values and some of each. Give target_modules and feedforward_modules."
        )


def _sites_of_family(model: nn.Module, projections: Sequence[Projection], family: Family) -> list[Site]:
    paths = {p.path for p in projections}
    sites: list[Site] = []
    for projection in projections:
        rule = None if is_foreign(projection.path) else _rule_for(projection, family)
        if rule is None or (rule.unless and f"{projection.parent}.{rule.unless}" in paths):
            continue
        sites.extend(_sites_of_rule(model, projection, rule))
    return sites


def _rule_for(projection: Projection, family: Family) -> Rule | None:
    return next((r for r in family.rules if re.search(rf"(?:^|\.){r.pattern}$", projection.path)), None)


def _sites_of_rule(model: nn.Module, projection: Projection, rule: Rule) -> list[Site]:
    features = projection.features(rule.side)
    peft, twin = _sibling(projection, rule.peft), _sibling(projection, rule.twin)
    if rule.layout is None:
        channels = Channels.span(0, features, features)
        return [Site(projection.path, rule.side, rule.role, channels, features, rule.where, peft, twin)]
    return [
        Site(projection.path, rule.side, role, channels, features, rule.where, peft, twin)
        for role, channels in rule.layout(model.config, features).items()
        if role in _ROLES
    ]


def _sibling(projection: Projection, place: tuple[str, Side] | None) -> tuple[str, Side] | None:
    """Return a rule's place beside a projection with its full path."""
    return None if place is None else (f"{projection.parent}.{place[0]}", place[1])


def _sites_of_targets(
    model: nn.Module,
    projections: Sequence[Projection],
    family: Family | None,
    target_modules: str | Sequence[str],
    feedforward_modules: str | Sequence[str] | None,
) -> list[Site]:
    """Make the sites of a user's own targets: whole projections, as PEFT means them."""
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
        known = () if family is None else _sites_of_family(model, projections, family)
        unclear = [p.path for p in targets if family is None and _role_of(p.name, "output") == "other"]
        if unclear:  # the wrong side would train the wrong thing silently
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


def _left_out(
    projections: Sequence[Projection], sites: Sequence[Site], source: str, excluded: Collection[str]
) -> tuple[LeftOut, ...]:
    """Group the projections without a vector by their pattern, each with the reason."""
    used = {site.module for site in sites}
    counts: dict[tuple[str, str], int] = {}
    for projection in projections:
        if projection.path not in used:
            pattern = re.sub(r"\.[0-9]+(?=\.|$)", ".*", projection.path)
            reason = "not named by target_modules" if source == "targets" else _reason(pattern)
            reason = "named by exclude_modules" if projection.path in excluded else reason
            counts[pattern, reason] = counts.get((pattern, reason), 0) + 1
    return tuple(LeftOut(pattern, count, reason) for (pattern, reason), count in counts.items())


_REASONS: tuple[tuple[str, str], ...] = (
    (
        rf"(?:^|\.)({'|'.join(QUERY_NAMES)})$",
        "queries are not scaled; under rotary embeddings that is another function",
    ),
    (r"pos_(key_|query_|q_)?proj$", "projects positions, not tokens"),
    (r"(wi_0|gate_proj)$", "gate of the feed-forward; the vector is on what it gates"),
    (
        r"(wo|down_proj|mlp\.Wo)$",
        "its input is the product that the vector on the linear branch scales already",
    ),
    (
        r"(attention\.output\.dense|(SelfAttention|EncDecAttention|LocalSelfAttention|TransientGlobalSelfAttention)\.o"
        r"|o_proj|out_proj|out_lin|attn\.(c_proj|Wo|o)|attention\.dense|self_attention\.dense|self_attn\.dense)$",
        "output of the attention; a vector there would be the value vector a second time",
    ),
    (
        r"(wi|fc1|fc_in|c_fc|lin1|up_proj|dense_h_to_4h|intermediate\.dense|ffn)$",
        "first feed-forward projection; the vector is on the activation behind it",
    ),
    (r"(embedding_hidden_mapping_in|embeddings_project)$", "maps the embeddings to the width of the blocks"),
    (r"(lm_head|embed_out|output_projection|decoder|predictions.*)$", "output head"),
    (
        r"(classifier|score|pooler|pre_classifier|qa_outputs|head)(\..*)?$",
        "behind the last block: a pooler, or a head, which is trained and saved whole",
    ),
)


def _reason(pattern: str) -> str:
    if is_foreign(pattern):
        return "not part of the language model"
    return next(
        (why for expression, why in _REASONS if re.search(expression, pattern)),
        "not a key, value or feed-forward activation",
    )

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

from ia3.core.families import Family, Rule, family_of
from ia3.core.sites import Channels, LeftOut, Plan, Side, Site
from ia3.errors import PlanError, near_matches

KEY_NAMES = ("k", "key", "k_proj", "key_proj", "k_lin", "wk", "to_k", "lin_k")
VALUE_NAMES = ("v", "value", "v_proj", "value_proj", "v_lin", "wv", "to_v", "lin_v")
QUERY_NAMES = ("q", "query", "q_proj", "query_proj", "q_lin", "q_attn", "wq", "to_q", "lin_q")
FUSED_NAMES = ("c_attn", "query_key_value", "qkv_proj", "qkv", "Wqkv", "in_proj", "attn_qkv", "W_pack")
_FEEDFORWARD_CLASS = re.compile(r"mlp|ffn|feedforward|dense.*dense", re.IGNORECASE)


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
    _refuse_experts(model, model_type)
    family = family_of(model_type)
    if family is not None:
        refusal = family.refusal(model.config) if family.refusal else None
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
    else:
        sites, source = _sites_of_structure(model, projections, model_type), "structure"
    if exclude_modules is not None:
        excluded = {p.path for p in match_modules(projections, exclude_modules, "exclude_modules")}
        sites = [site for site in sites if site.module not in excluded]
    if not sites:
        raise PlanError(f"Finding the plan of a {model_type!r} model: no site is left. Give fewer exclude_modules.")
    return Plan(tuple(sites), model_type, source, _left_out(projections, sites))


def find_projections(model: nn.Module) -> tuple[Projection, ...]:
    """Return every linear map of the model (Linear, GPT-2's Conv1D, quantised ones), in order."""
    return tuple(_projections(model))


def projection_sizes(module: nn.Module) -> tuple[int, int] | None:
    """Return (inputs, outputs) of a linear map, or None for another module."""
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
    for path, module in model.named_modules():
        sizes = projection_sizes(module)
        if path and sizes is not None:
            yield Projection(path, *sizes)


def _refuse_experts(model: nn.Module, model_type: str) -> None:
    for path, module in model.named_modules():
        kind = type(module).__name__.lower()
        if path.rpartition(".")[2] == "experts" or "sparsemoe" in kind or "experts" in kind:
            raise PlanError(
                f"Finding the plan of a {model_type!r} model: {path!r} is a mixture of experts, and vectors for each "
                "expert are not built yet. Give target_modules without the experts, such as the keys and values."
            )


def _sites_of_family(model: nn.Module, projections: Sequence[Projection], family: Family) -> list[Site]:
    foreign = re.compile(family.foreign) if family.foreign else None
    paths = {p.path for p in projections}
    sites: list[Site] = []
    for projection in projections:
        if foreign and foreign.search(projection.path):
            continue
        rule = _rule_for(projection, family)
        if rule is None or (rule.unless and f"{projection.parent}.{rule.unless}" in paths):
            continue
        sites.extend(_sites_of_rule(model, projection, rule))
    return sites


def _rule_for(projection: Projection, family: Family) -> Rule | None:
    return next((r for r in family.rules if re.search(rf"(?:^|\.){r.pattern}$", projection.path)), None)


def _sites_of_rule(model: nn.Module, projection: Projection, rule: Rule) -> list[Site]:
    features = projection.features(rule.side)
    peft: tuple[str, Side] | None = None
    if rule.peft:
        peft = (f"{projection.parent}.{rule.peft[0]}", rule.peft[1])
    if rule.layout is None:
        channels = Channels.span(0, features, features)
        return [Site(projection.path, rule.side, rule.role, channels, features, rule.where, peft)]
    return [
        Site(projection.path, rule.side, role, channels, features, rule.where, peft)
        for role, channels in rule.layout(model.config, features).items()
        if role in ("key", "value", "feedforward")
    ]


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
    elif feedforward_modules is None and family is not None and target_modules != "all-linear":
        inputs = {s.module for s in _sites_of_family(model, projections, family) if s.side == "input"} | {
            s.peft[0] for s in _sites_of_family(model, projections, family) if s.peft and s.peft[1] == "input"
        }
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
    return "attention" if name in FUSED_NAMES else "other"


def _all_linear(model: nn.Module, projections: Sequence[Projection]) -> tuple[Projection, ...]:
    """Every projection but the output layer, PEFT's `all-linear`."""
    head = getattr(model, "get_output_embeddings", lambda: None)()
    heads = {path for path, module in model.named_modules() if head is not None and module is head}
    if not heads:  # a classifier: PEFT leaves out the last linear module under these names
        heads = {p.path for p in projections if p.path.split(".")[0] in ("classifier", "score", "qa_outputs")}
    return tuple(p for p in projections if p.path not in heads)


def _sites_of_structure(model: nn.Module, projections: Sequence[Projection], model_type: str) -> list[Site]:
    """Find keys and values by their names inside an attention, and the last projection of each feed-forward block."""
    by_parent: dict[str, list[Projection]] = {}
    for projection in projections:
        by_parent.setdefault(projection.parent, []).append(projection)
    found: dict[str, Site] = {}
    attentions = feedforwards = 0
    for parent, children in by_parent.items():
        named = {child.name: child for child in children}
        key = next((named[n] for n in KEY_NAMES if n in named), None)
        value = next((named[n] for n in VALUE_NAMES if n in named), None)
        if key and value and any(n in named for n in QUERY_NAMES):
            attentions += 1
            found[key.path] = _structural(key, "output", "key", _by_name("keys", parent))
            found[value.path] = _structural(value, "output", "value", _by_name("values", parent))
        last = _last_of_feedforward(model, parent, children)
        if last:
            feedforwards += 1
            found[last.path] = _structural(last, "input", "feedforward", _by_name("last feed-forward input", parent))
    if not attentions or not feedforwards or any(p.name in FUSED_NAMES for p in projections):
        raise PlanError(_refusal(projections, model_type, attentions, feedforwards))
    return [found[p.path] for p in projections if p.path in found]


def _structural(projection: Projection, side: Side, role: str, where: str) -> Site:
    features = projection.features(side)
    return Site(projection.path, side, role, Channels.span(0, features, features), features, where)


def _by_name(what: str, parent: str) -> str:
    return f"{what} of {re.sub(r'[0-9]+', '*', parent)}, found by structure"


def _last_of_feedforward(model: nn.Module, parent: str, children: Sequence[Projection]) -> Projection | None:
    """Return the projection whose input is the block's activation: d → f (once or twice), then f → d."""
    if not 2 <= len(children) <= 3 or not _FEEDFORWARD_CLASS.search(type(model.get_submodule(parent)).__name__):
        return None
    *first, last = children
    is_block = all(p.inputs == last.outputs and p.outputs in (last.inputs, 2 * last.inputs) for p in first)
    return last if is_block else None


def _refusal(projections: Sequence[Projection], model_type: str, attentions: int, feedforwards: int) -> str:
    missing = [
        name
        for name, count in (
            ("attention with separate keys and values", attentions),
            ("feed-forward block", feedforwards),
        )
        if not count
    ] or ["layout for its fused projection"]
    counts: dict[str, list[Projection]] = {}
    for projection in projections:
        counts.setdefault(re.sub(r"\.[0-9]+(?=\.|$)", ".*", projection.path), []).append(projection)
    shown = "".join(
        f"\n  {pattern} ({group[0].inputs} → {group[0].outputs}, {len(group)}×)"
        for pattern, group in list(counts.items())[:30]
    )
    return (
        f"Finding the plan of a {model_type!r} model: this model type is not in the table and its structure shows no "
        f"{' and no '.join(missing)}. Candidates:{shown}\nChoose among them and write:\n"
        '  target_modules=["<keys>", "<values>", "<last feed-forward projection>"]\n'
        '  feedforward_modules=["<last feed-forward projection>"]'
    )


def _left_out(projections: Sequence[Projection], sites: Sequence[Site]) -> tuple[LeftOut, ...]:
    """Group the projections without a vector by their pattern, each with the reason."""
    used = {site.module for site in sites}
    counts: dict[str, int] = {}
    for projection in projections:
        if projection.path not in used:
            pattern = re.sub(r"\.[0-9]+(?=\.|$)", ".*", projection.path)
            counts[pattern] = counts.get(pattern, 0) + 1
    return tuple(LeftOut(pattern, count, _reason(pattern)) for pattern, count in counts.items())


_REASONS: tuple[tuple[str, str], ...] = (
    (
        rf"(?:^|\.)({'|'.join(QUERY_NAMES)})$",
        "queries are not scaled; under rotary embeddings that is another function",
    ),
    (r"vision|multi_modal", "not part of the language model"),
    (r"pos_(key_|query_|q_)?proj$", "projects positions, not tokens"),
    (r"(wi_0|gate_proj)$", "gate of the feed-forward; its linear branch carries the vector"),
    (
        r"(wo|down_proj|mlp\.Wo)$",
        "its input is the product that the vector on the linear branch scales already",
    ),
    (
        r"(attention\.output\.dense|(SelfAttention|EncDecAttention|LocalSelfAttention|TransientGlobalSelfAttention)\.o"
        r"|o_proj|out_proj|out_lin|attn\.c_proj|attn\.Wo|attention\.dense|self_attention\.dense|self_attn\.dense)$",
        "output of the attention; a vector there would be the value vector a second time",
    ),
    (
        r"(wi|fc1|fc_in|c_fc|lin1|up_proj|dense_h_to_4h|intermediate\.dense|ffn)$",
        "first feed-forward projection; the vector is on the activation behind it",
    ),
    (r"(lm_head|embed_out|output_projection|decoder|predictions.*)$", "output head"),
    (
        r"(classifier|score|pooler|pre_classifier|qa_outputs|head)(\..*)?$",
        "head; it is trained and saved whole",
    ),
)


def _reason(pattern: str) -> str:
    return next(
        (why for expression, why in _REASONS if re.search(expression, pattern)),
        "not a key, value or feed-forward activation",
    )

"""A plan for a model type that is not in the table: keys, values and feed-forward found by names, classes and sizes.

Every attention and every feed-forward block must be understood, or the model is refused with the candidates and the
lines to write: a plan that silently skips some layers would be a guess. This file never runs the model.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from torch import nn

from ia3.core.families import is_foreign
from ia3.core.sites import Channels, Side, Site
from ia3.errors import PlanError

if TYPE_CHECKING:
    from ia3.core.discovery import Projection

KEY_NAMES = ("k", "key", "k_proj", "key_proj", "k_lin", "wk", "to_k", "lin_k")
VALUE_NAMES = ("v", "value", "v_proj", "value_proj", "v_lin", "wv", "to_v", "lin_v")
QUERY_NAMES = ("q", "query", "q_proj", "query_proj", "q_lin", "q_attn", "wq", "to_q", "lin_q")
_FUSED_NAME = re.compile(r"c_attn|query_key|key_value|qkv|in_proj|W_pack|^kv_|kv_proj", re.IGNORECASE)
_LAST_NAMES = ("down_proj", "fc2", "c_proj", "wo", "w2", "lin2", "linear2", "fc_out", "dense_4h_to_h", "output_dense")
_KEYS_AND_VALUES = re.compile(r"^kv(_b)?(_proj)?$|^key_value$|^to_kv$")
_LAYER = re.compile(r".*?\.[0-9]+(?=\.)")  # of a path: up to its first number
_COMPONENT = re.compile(r".*\.[0-9]+\.[^.]+")
_ATTENTION_CLASS = re.compile(r"attention|attn", re.IGNORECASE)
_FEEDFORWARD_CLASS = re.compile(r"mlp|ffn|feedforward|dense.*dense", re.IGNORECASE)


def is_fused(name: str) -> bool:
    """Whether a projection's name says that it makes several of queries, keys and values."""
    return _FUSED_NAME.search(name) is not None


def sites_of_structure(model: nn.Module, projections: Sequence[Projection], model_type: str) -> list[Site]:
    """Return the sites of every attention and feed-forward block, in the order of the model's modules.

    Args:
        model: The whole model.
        projections: Those of it to look at.
        model_type: For the error.

    Raises:
        PlanError: If there is none of either, or a block that is not understood.
    """
    own = [projection for projection in projections if not is_foreign(projection.path)]
    found: dict[str, Site] = {}
    odd = [f"{p.path!r} is a fused projection of unknown layout" for p in own if is_fused(p.name)][:1]
    blocks = _by_parent(own)
    hidden = {p.inputs for children in blocks.values() for p in children if p.name in KEY_NAMES}
    for parent, children in blocks.items():
        kind = type(model.get_submodule(parent)).__name__
        sites = [*_attention_sites(parent, children), *_feedforward_sites(kind, parent, children, hidden)]
        found.update((site.module, site) for site in sites)
        if not sites and len(children) > 1:
            for expression, what in ((_ATTENTION_CLASS, "keys and values"), (_FEEDFORWARD_CLASS, "last projection")):
                if expression.search(kind):
                    odd.append(f"the {what} of {parent!r} ({kind}) cannot be told")
    roles = {site.role for site in found.values()}
    if "key" not in roles:
        odd.append("no attention has separate keys and values")
    if "feedforward" not in roles:
        odd.append("no feed-forward block is one module of two or three projections")
    else:
        odd += _partly_found(own, found)
    if odd:
        layers = [path for path, _ in model.named_modules() if _LAYER.match(path)]
        if layers and not any(_LAYER.match(projection.path) for projection in projections):
            raise PlanError(
                f"Finding the plan of a {model_type!r} model: this model type is not in the table, and its layers have "
                "no linear projection that could carry a vector (convolutions are not built yet). Use another base."
            )
        raise PlanError(_refusal(model, projections, model_type, odd))
    return [found[p.path] for p in projections if p.path in found]


def has_blocks(projections: Sequence[Projection]) -> bool:
    """Whether there is an attention of the language model among projections."""
    own = [projection for projection in projections if not is_foreign(projection.path)]
    return any(True for parent, children in _by_parent(own).items() for _ in _attention_sites(parent, children))


def attention_targets(model: nn.Module, projections: Sequence[Projection]) -> Iterator[list[str] | str]:
    """Yield what target_modules could be for the keys and values alone: names, or an expression where they match more.

    Those of attentions that have both come first, then projections of an attention that makes keys and values in one.
    """
    own = [projection for projection in projections if not is_foreign(projection.path)]
    separate = [s.module for parent, children in _by_parent(own).items() for s in _attention_sites(parent, children)]
    fused = [p.path for p in own if _KEYS_AND_VALUES.search(p.name) and _is_attention(model, p.parent)]
    for wanted in (separate, fused):
        if wanted:
            names = list(dict.fromkeys(path.rpartition(".")[2] for path in wanted))
            is_exact = all(p.path in wanted for p in projections if p.name in names)
            patterns = dict.fromkeys(re.sub(r"\.\d+(?=\.)", r"[.]\\d+", path) for path in wanted)
            yield names if is_exact else "|".join(patterns)


def _is_attention(model: nn.Module, path: str) -> bool:
    return _ATTENTION_CLASS.search(type(model.get_submodule(path)).__name__) is not None


def _partly_found(projections: Sequence[Projection], found: Mapping[str, Site]) -> list[str]:
    """Return a sentence on a layer that has an attention with vectors and something beside it without any."""
    layers: dict[str, list[Projection]] = {}
    for projection in projections:
        if match := _LAYER.match(projection.path):
            layers.setdefault(match.group(), []).append(projection)
    for layer, inside in layers.items():
        sites = [found[p.path] for p in inside if p.path in found]
        attentions = {site.module for site in sites if site.role in ("key", "value")}
        known = {_component(path) for path in attentions} | {path.rpartition(".")[0] for path in attentions}
        is_whole = not attentions or any(site.role == "feedforward" for site in sites)
        if not is_whole and any(not {_component(p.path), p.parent} & known for p in inside):
            return [f"the feed-forward of {layer!r} cannot be told"]
    return []


def _component(path: str) -> str:
    """Return the part of a layer that a projection belongs to: its path up to the first name behind the last number."""
    found = _COMPONENT.match(path)
    return found.group() if found else path


def _by_parent(projections: Sequence[Projection]) -> dict[str, list[Projection]]:
    grouped: dict[str, list[Projection]] = {}
    for projection in projections:
        grouped.setdefault(projection.parent, []).append(projection)
    return grouped


def _attention_sites(parent: str, children: Sequence[Projection]) -> Iterator[Site]:
    named = {child.name: child for child in children}
    key = next((named[n] for n in KEY_NAMES if n in named), None)
    value = next((named[n] for n in VALUE_NAMES if n in named), None)
    if key and value and any(n in named for n in QUERY_NAMES):
        yield _site(key, "output", "key", "keys", parent)
        yield _site(value, "output", "value", "values", parent)


def _feedforward_sites(
    kind: str, parent: str, children: Sequence[Projection], hidden: Collection[int]
) -> Iterator[Site]:
    if _FEEDFORWARD_CLASS.search(kind) and 2 <= len(children) <= 3:
        last = _last_of_feedforward(children, hidden)
        if last:
            yield _site(last, "input", "feedforward", "last feed-forward input", parent)


def _last_of_feedforward(children: Sequence[Projection], hidden: Collection[int]) -> Projection | None:
    """Return the projection whose input is the block's activation: d → f (once or twice), then f → d."""
    fitting = [
        last
        for last in children
        if last.outputs in hidden
        and all(p.inputs == last.outputs and p.outputs in (last.inputs, 2 * last.inputs) for p in children if p != last)
    ]
    if len(fitting) > 1:  # d = f: sizes do not tell which comes last
        fitting = [last for last in fitting if last.name in _LAST_NAMES]
    return fitting[0] if len(fitting) == 1 else None


def _site(projection: Projection, side: Side, role: str, what: str, parent: str) -> Site:
    features = projection.features(side)
    where = f"{what} of {re.sub(r'[0-9]+', '*', parent)}, found by structure"
    return Site(projection.path, side, role, Channels.span(0, features, features), features, where)


def _refusal(model: nn.Module, projections: Sequence[Projection], model_type: str, odd: Sequence[str]) -> str:
    counts: dict[str, list[Projection]] = {}
    for projection in projections:
        counts.setdefault(re.sub(r"\.[0-9]+(?=\.|$)", ".*", projection.path), []).append(projection)
    shown = "".join(
        f"\n  {pattern} ({group[0].inputs} → {group[0].outputs}, {len(group)}×)"
        for pattern, group in list(counts.items())[:30]
    )
    targets = next(attention_targets(model, projections), None)
    known = [f'"{name}"' for name in targets] if isinstance(targets, list) else []
    names = ", ".join([*(known or ['"<keys>"', '"<values>"']), '"<last feed-forward projection>"'])
    return (
        f"Finding the plan of a {model_type!r} model: this model type is not in the table and its structure does not "
        f"tell: {'; '.join(odd[:3])}. Candidates:{shown}\nChoose among them and write:\n"
        f"  target_modules=[{names}]\n"
        '  feedforward_modules=["<last feed-forward projection>"]'
    )

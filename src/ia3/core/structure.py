"""A plan, or a refusal, for a model type that is not in the table: keys, values and feed-forward found by their names.

Every attention and every feed-forward block must be understood, or the model is refused with the candidates and the
lines to write: a plan that silently skips some layers would be a guess. This file never runs the model.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from ia3.core.projections import KEY_NAMES, QUERY_NAMES, VALUE_NAMES, Projection, is_fused, of_text, pattern_of
from ia3.core.sites import Side, Site
from ia3.errors import PlanError

_LAST_NAMES = ("down_proj", "fc2", "c_proj", "wo", "w2", "lin2", "linear2", "fc_out", "dense_4h_to_h", "output_dense")
_KEYS_AND_VALUES = re.compile(r"^kv(_b)?(_proj)?$|^key_value$|^to_kv$")
_LAYER = re.compile(r".*?\.[0-9]+(?=\.)")  # of a path: up to its first number
_COMPONENT = re.compile(r".*\.[0-9]+\.[^.]+")
_ATTENTION_CLASS = re.compile(r"attention|attn", re.IGNORECASE)
_FEEDFORWARD_CLASS = re.compile(r"mlp|ffn|feedforward|dense.*dense", re.IGNORECASE)


def sites_of_structure(model: nn.Module, projections: Sequence[Projection], model_type: str) -> list[Site]:
    """Return the sites of every attention and feed-forward block, in the order of the model's modules.

    Args:
        model: The whole model.
        projections: Those of it to look at.
        model_type: For the error.

    Raises:
        PlanError: If there is none of either, or a block that is not understood.
    """
    own = of_text(projections)
    blocks = _blocks(model, own)
    hidden = {p.inputs for block in blocks for p in block.children if p.name in KEY_NAMES}
    by_block = [(block, [*block.attention(), *block.feedforward(hidden)]) for block in blocks]
    found = {site.module: site for _, sites in by_block for site in sites}
    odd = [f"{p.path!r} is a fused projection of unknown layout" for p in own if is_fused(p.name)][:1]
    odd += [riddle for block, sites in by_block if not sites for riddle in block.riddles()]
    odd += _lacking(own, found)
    if odd:
        raise PlanError(_refusal(model, projections, model_type, odd))
    return [found[p.path] for p in projections if p.path in found]


def has_blocks(model: nn.Module, projections: Sequence[Projection]) -> bool:
    """Whether there is an attention of the language model among projections."""
    return any(block.attention() for block in _blocks(model, of_text(projections)))


def attention_targets(model: nn.Module, projections: Sequence[Projection]) -> Iterator[list[str] | str]:
    """Yield what target_modules could be for the keys and values alone: names, or an expression where they match more.

    Those of attentions that have both come first, then projections of an attention that makes keys and values in one.
    """
    own = of_text(projections)
    blocks = _blocks(model, own)
    separate = [site.module for block in blocks for site in block.attention()]
    attentions = {block.path for block in blocks if _ATTENTION_CLASS.search(block.kind)}
    fused = [p.path for p in own if _KEYS_AND_VALUES.search(p.name) and p.parent in attentions]
    for wanted in (separate, fused):
        if wanted:
            names = list(dict.fromkeys(path.rpartition(".")[2] for path in wanted))
            is_exact = all(p.path in wanted for p in projections if p.name in names)
            patterns = dict.fromkeys(re.sub(r"\.\d+(?=\.)", r"[.]\\d+", path) for path in wanted)
            yield names if is_exact else "|".join(patterns)


@dataclass(frozen=True)
class _Block:
    """Projections beside each other in one module.

    Attributes:
        path: Of the module.
        kind: Its class.
        children: The projections, in order.
    """

    path: str
    kind: str
    children: tuple[Projection, ...]

    def attention(self) -> list[Site]:
        """Return the sites of the keys and the values, if the block is an attention with a projection for each."""
        named = {child.name: child for child in self.children}
        key = next((named[n] for n in KEY_NAMES if n in named), None)
        value = next((named[n] for n in VALUE_NAMES if n in named), None)
        if key is None or value is None or not any(n in named for n in QUERY_NAMES):
            return []
        return [self._site(key, "output", "key", "keys"), self._site(value, "output", "value", "values")]

    def feedforward(self, hidden: Collection[int]) -> list[Site]:
        """Return the site of the last projection's input, if the block is a feed-forward that can be told.

        Args:
            hidden: Widths that the model's attentions read.
        """
        if not _FEEDFORWARD_CLASS.search(self.kind) or not 2 <= len(self.children) <= 3:
            return []
        last = _last_of_feedforward(self.children, hidden)
        return [] if last is None else [self._site(last, "input", "feedforward", "last feed-forward input")]

    def riddles(self) -> Iterator[str]:
        """Yield what the block's class promises, for a block without a site."""
        for expression, what in ((_ATTENTION_CLASS, "keys and values"), (_FEEDFORWARD_CLASS, "last projection")):
            if len(self.children) > 1 and expression.search(self.kind):
                yield f"the {what} of {self.path!r} ({self.kind}) cannot be told"

    def _site(self, projection: Projection, side: Side, role: str, what: str) -> Site:
        where = f"{what} of {re.sub(r'[0-9]+', '*', self.path)}, found by structure"
        return projection.site(side, role, where)


def _blocks(model: nn.Module, projections: Sequence[Projection]) -> list[_Block]:
    grouped: dict[str, list[Projection]] = {}
    for projection in projections:
        grouped.setdefault(projection.parent, []).append(projection)
    return [_Block(path, type(model.get_submodule(path)).__name__, tuple(own)) for path, own in grouped.items()]


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


def _lacking(projections: Sequence[Projection], found: Mapping[str, Site]) -> Iterator[str]:
    """Yield what a plan needs and was not found."""
    roles = {site.role for site in found.values()}
    if "key" not in roles:
        yield "no attention has separate keys and values"
    if "feedforward" not in roles:
        yield "no feed-forward block is one module of two or three projections"
    else:
        yield from _partly_found(projections, found)


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


def _refusal(model: nn.Module, projections: Sequence[Projection], model_type: str, odd: Sequence[str]) -> str:
    has_layers = any(_LAYER.match(path) for path, _ in model.named_modules())
    if has_layers and not any(_LAYER.match(projection.path) for projection in projections):
        return (
            f"Finding the plan of a {model_type!r} model: this model type is not in the table, and its layers have "
            "no linear projection that could carry a vector (convolutions are not built yet). Use another base."
        )
    counts: dict[str, list[Projection]] = {}
    for projection in projections:
        counts.setdefault(pattern_of(projection.path), []).append(projection)
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

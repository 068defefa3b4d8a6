"""Arithmetic on adapters, around one: averages, sums, TIES and DARE merges, products, negation, and the strength dial.

Every function takes adapters as values and returns a new one; nothing is changed in place. A site that an adapter does
not have counts as ones there. Adapters are given by name, so that errors and the record can name them. Vectors are
computed in fp64 and rounded once (`task_vectors`); the adapters are first brought to common sites (`common_sites`).

Heads are no task vectors, so they are never scaled or negated. Equal heads are kept; `average` and `add` average those
of one label set, with the same weights; in every other case `head_from` names the adapter whose head it shall be.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict, Unpack

import torch
from torch import Tensor

from ia3.adapters.adapter import Adapter
from ia3.adapters.common_sites import find_common_plan
from ia3.adapters.config import AdapterConfig
from ia3.adapters.identity import short
from ia3.adapters.joined_heads import join_heads
from ia3.adapters.peft_format import peft_places
from ia3.adapters.record import versions
from ia3.adapters.task_vectors import (
    add_rows,
    average_rows,
    cosine_between,
    distance_between,
    drop_rows,
    merge_rows_by_sign,
    multiply_rows,
    scale_row,
)
from ia3.bases.revisions import differ
from ia3.core.sites import Plan
from ia3.errors import AdapterError, SettingsError

# What stays true of a combined adapter where all that went into it agree; the rest of a record is of a training.
WORDS = ("labels", "template", "text_column", "label_column", "max_length")


class Made(TypedDict, total=False):
    """How the result of several adapters is made, whatever is done with their vectors."""

    head_from: str | None  # name of the adapter whose head and words the result has
    plan: Plan | None  # of the base; needed only for folders of PEFT's that hold one feed-forward in different places


def average(
    adapters: Mapping[str, Adapter],
    weights: Sequence[float] | None = None,
    **made: Unpack[Made],
) -> Adapter:
    """Return the weighted average of adapters.

    Args:
        adapters: By name.
        weights: One for each, in their order; divided by their sum. All the same if left out.
        made: See `Made`.

    Raises:
        AdapterError: If the adapters are of different bases, their heads cannot be averaged, or a number of the result
            is not finite.
        SettingsError: If the weights are not one finite number each, sum to zero, or `head_from` is unknown.
    """
    how = {"method": "average", "weights": _listed(weights)}
    return _combined(adapters, lambda rows: average_rows(rows, weights), how, averages_heads=True, **made)


def add(
    adapters: Mapping[str, Adapter],
    weights: Sequence[float] | None = None,
    **made: Unpack[Made],
) -> Adapter:
    """Return the sum of the task vectors: 1 + Σ w·(l − 1).

    Args:
        adapters: By name.
        weights: One for each, in their order; 1 if left out. They are taken as they are.
        made: See `Made`.

    Raises:
        AdapterError: As for `average`.
        SettingsError: If the weights are not one finite number each, or `head_from` is unknown.
    """
    how = {"method": "sum", "weights": _listed(weights)}
    return _combined(adapters, lambda rows: add_rows(rows, weights), how, averages_heads=True, **made)


def ties(
    adapters: Mapping[str, Adapter],
    weights: Sequence[float] | None = None,
    *,
    density: float = 0.2,
    **made: Unpack[Made],
) -> Adapter:
    """Return the TIES merge (Yadav et al. 2023, arXiv 2306.01708): trim, elect a sign, mean of those that agree.

    Args:
        adapters: By name.
        weights: One positive number for each; all the same if left out.
        density: Share of each task vector that is kept; see `task_vectors.merge_rows_by_sign`.
        made: See `Made`.

    Raises:
        AdapterError: As for `average`.
        SettingsError: For weights or a density out of range, or an unknown `head_from`.
    """
    how = {"method": "ties", "weights": _listed(weights), "density": density}
    return _combined(adapters, lambda rows: merge_rows_by_sign(rows, weights, density=density), how, **made)


def dare(
    adapters: Mapping[str, Adapter],
    weights: Sequence[float] | None = None,
    *,
    drop: float = 0.5,
    seed: int = 0,
    **made: Unpack[Made],
) -> Adapter:
    """Return the sum of task vectors of which a random share is dropped and the rest rescaled (DARE).

    Yu et al. 2023, arXiv 2311.03099. What is drawn depends on the seed and on the order of adapters and sites alone.

    Args:
        adapters: By name.
        weights: One for each; 1 if left out.
        drop: Probability that a number is set to one, from 0 up to, but not, 1.
        seed: Of what is dropped.
        made: See `Made`.

    Raises:
        AdapterError: As for `average`.
        SettingsError: For weights or a probability out of range, or an unknown `head_from`.
    """
    how = {"method": "dare", "weights": _listed(weights), "drop": drop, "seed": seed}
    return _combined(adapters, lambda rows: add_rows(drop_rows(rows, drop, seed), weights), how, **made)


def dare_ties(
    adapters: Mapping[str, Adapter],
    weights: Sequence[float] | None = None,
    *,
    density: float = 0.2,
    drop: float = 0.5,
    seed: int = 0,
    **made: Unpack[Made],
) -> Adapter:
    """Return the TIES merge of what DARE leaves; arguments and errors are those of `dare` and `ties`."""
    how = {"method": "dare-ties", "weights": _listed(weights), "density": density, "drop": drop, "seed": seed}
    return _combined(
        adapters, lambda rows: merge_rows_by_sign(drop_rows(rows, drop, seed), weights, density=density), how, **made
    )


def multiply(adapters: Mapping[str, Adapter], **made: Unpack[Made]) -> Adapter:
    """Return the product of the vectors: every adapter scales what the others have scaled.

    Args:
        adapters: By name.
        made: See `Made`.

    Raises:
        AdapterError: As for `average`.
        SettingsError: For an unknown `head_from`.
    """
    return _combined(adapters, multiply_rows, {"method": "product"}, **made)


def with_strength(adapter: Adapter, strength: float) -> Adapter:
    """Return the adapter turned up or down: 1 + s·(l − 1). 0 is the base, 1 the adapter; its head stays as it is.

    Raises:
        SettingsError: If the strength is not finite.
        AdapterError: If a number of the result is not finite.
    """
    return _scaled(adapter, strength, {"method": "strength", "strength": strength})


def negate(adapter: Adapter, strength: float = 1.0) -> Adapter:
    """Return the negation (1 + s) − s·l: the adapter's task vector turned round; its head stays as it is.

    Raises:
        SettingsError: If the strength is not finite.
        AdapterError: If a number of the result is not finite.
    """
    return _scaled(adapter, -strength, {"method": "negate", "strength": strength})


def compare(adapters: Mapping[str, Adapter], *, plan: Plan | None = None) -> list[Comparison]:
    """Return how far apart each two adapters are, in the order of the pairs.

    Args:
        adapters: By name.
        plan: As in `Made`.

    Raises:
        AdapterError: If the adapters are of different bases.
    """
    common, rows = _laid_out(adapters, plan)
    names = list(adapters)
    parts = {"all": torch.arange(common.width), **_channels_by_role(common)}
    return [
        Comparison(
            names[i],
            names[j],
            {part: distance_between(rows[i][index], rows[j][index]) for part, index in parts.items()},
            {part: cosine_between(rows[i][index], rows[j][index]) for part, index in parts.items()},
        )
        for i in range(len(names))
        for j in range(i + 1, len(names))
    ]


def size_of(adapter: Adapter) -> float:
    """Return the Euclidean norm of the task vector: how far the adapter is from the base."""
    return math.sqrt(sum(float((v.double() - 1).square().sum()) for v in adapter.vectors.values()))


def _channels_by_role(plan: Plan) -> dict[str, Tensor]:
    """Return the places in a row of the channels of each role."""
    found: dict[str, list[Tensor]] = {}
    for site, span in plan.spans():
        found.setdefault(site.role, []).append(torch.arange(span.start, span.stop))
    return {role: torch.cat(parts) for role, parts in found.items()}


def _scaled(adapter: Adapter, strength: float, step: Mapping[str, Any]) -> Adapter:
    vectors = {name: scale_row(vector, strength) for name, vector in adapter.vectors.items()}
    steps = [*adapter.record.get("combined", ()), dict(step)]
    return replace(adapter, vectors=vectors, record=_record([adapter], [adapter], steps))


def _combined(
    adapters: Mapping[str, Adapter],
    combine: Callable[[Tensor], Tensor],
    how: Mapping[str, Any],
    *,
    head_from: str | None = None,
    plan: Plan | None = None,
    averages_heads: bool = False,
) -> Adapter:
    """Return what a function of the rows makes of several adapters.

    Args:
        adapters: By name.
        combine: Rows of shape (adapters, width) → a row.
        how: What the record says of it.
        head_from: See `Made`.
        plan: See `Made`.
        averages_heads: Whether heads of one label set are averaged, with the weights in `how`.
    """
    common, rows = _laid_out(adapters, plan)
    row = combine(rows)
    head = join_heads(adapters, head_from=head_from, weights=how.get("weights"), may_average=averages_heads)
    sources = [{"name": name, **_history(adapter)} for name, adapter in adapters.items()]
    step = {**how, "adapters": sources, "head": "average" if head.is_averaged else head_from}
    values = list(adapters.values())
    return Adapter(
        common.sites,
        {site.name: row[span].clone() for site, span in common.spans()},
        head.tensors,
        head.modules,
        _config(values, common, head.saved),
        _record(values, [adapters[head_from]] if head_from else values, [step]),
    )


def _laid_out(adapters: Mapping[str, Adapter], plan: Plan | None) -> tuple[Plan, Tensor]:
    """Return a common plan and the adapters' rows on it, shape (adapters, width)."""
    if not adapters:
        raise SettingsError("Combining adapters: got none, expected at least one.")
    _check_bases(adapters)
    for name, adapter in adapters.items():
        odd = [site for site, vector in adapter.vectors.items() if not torch.isfinite(vector).all()]
        if odd:
            raise AdapterError(
                f"Combining adapters: vector {odd[0]!r} of {name!r} holds numbers that are not finite. Train it again "
                "with a lower learning rate."
            )
    common = find_common_plan(adapters, plan)
    return common, torch.stack([adapter.row(common) for adapter in adapters.values()])


def _check_bases(adapters: Mapping[str, Adapter]) -> None:
    """Raise if adapters were trained on different bases, or their heads read different places, where it is known."""
    known = [(name, a, (a.record.get("base") or {}).get("fingerprint")) for name, a in adapters.items()]
    told = [(name, adapter, print_) for name, adapter, print_ in known if print_]
    for name, adapter, print_ in told[1:]:
        first, other, expected = told[0]
        if print_ != expected:
            raise AdapterError(
                f"Combining adapters {first!r} and {name!r}: they were trained on different bases, {first!r} on "
                f"{other.base_name or 'one without a name'!r} (fingerprint {short(expected)}), {name!r} on "
                f"{adapter.base_name or 'one without a name'!r} (fingerprint {short(print_)}). Leave one of them out."
            )
    seen: dict[Any, tuple[str, Adapter]] = {}  # by the name of the base, those that say a revision and no fingerprint
    for name, adapter, print_ in known:
        facts = adapter.base_facts
        if not print_ and facts.get("revision"):
            first, other = seen.setdefault(facts["name"], (name, adapter))
            if differ(facts, other.base_facts):
                raise AdapterError(
                    f"Combining adapters {first!r} and {name!r}: they were trained on different bases, {first!r} on "
                    f"{other.base_name!r}, {name!r} on {adapter.base_name!r}. Leave one of them out."
                )
    heads = {adapter.pooling: name for name, adapter in adapters.items() if adapter.head_modules}
    if len(heads) > 1:
        of = " and ".join(f"that of {name!r} reads {pooling!r}" for pooling, name in heads.items())
        raise AdapterError(f"Combining adapters: their heads read different places of the base, {of}. Leave one out.")


def _config(adapters: Sequence[Adapter], plan: Plan, modules_to_save: tuple[str, ...] | None) -> AdapterConfig:
    """Return PEFT's config; its targets are those of an adapter with the same places, or are spelled when saved."""
    places = set(peft_places(plan.sites).values())
    same = [a.config for a in adapters if set(peft_places(a.sites).values()) == places]
    first = adapters[0].config
    if not same:
        first = replace(first, target_modules=None, feedforward_modules=None, exclude_modules=None)
    tasks = {a.config.task_type for a in adapters}
    named = [a.config for a in adapters if a.config.base_model_name_or_path]
    named.sort(key=lambda config: config.revision is None)  # of one base, perhaps one of them says the revision
    base = named[0] if named else first
    return replace(
        same[0] if same else first,
        base_model_name_or_path=base.base_model_name_or_path,
        modules_to_save=modules_to_save,
        revision=base.revision,
        task_type=tasks.pop() if len(tasks) == 1 else None,
        inference_mode=True,
    )


def _record(
    adapters: Sequence[Adapter], worded: Sequence[Adapter], steps: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the record: the base, the words on which the given adapters agree, and how it came about."""
    bases = [adapter.record.get("base") or {} for adapter in adapters]
    base = next((base for base in bases if base.get("fingerprint")), next(filter(None, bases), {}))
    known = [{**(adapter.record.get("data") or {}), **adapter.record} for adapter in worded]
    words = {key: known[0].get(key) for key in WORDS if all(other.get(key) == known[0].get(key) for other in known)}
    record: dict[str, Any] = {"base": dict(base)} if base else {}
    record |= {key: value for key, value in words.items() if value is not None}
    told = [{key: value for key, value in step.items() if value is not None} for step in steps]
    return {**record, "combined": told, "versions": versions()}


def _history(adapter: Adapter) -> dict[str, Any]:
    steps = adapter.record.get("combined")
    return {"combined": steps} if steps else {}


def _listed(weights: Sequence[float] | None) -> list[float] | None:
    return None if weights is None else [float(weight) for weight in weights]


@dataclass(frozen=True)
class Comparison:
    """Two adapters beside each other.

    Attributes:
        first: Name of the one.
        second: Name of the other.
        distance: Euclidean distance of the task vectors, of all channels (`all`) and by role.
        cosine: Their cosine, likewise; None where one of them is the base.
    """

    first: str
    second: str
    distance: Mapping[str, float]
    cosine: Mapping[str, float | None]

"""The sites that several adapters have in common: a plan on which each of them can be laid out, whole.

Two adapters may hold the same function in different places: the linear branch of a gated feed-forward or the input of
the last projection, a fused projection whole or cut into slices. What a site says of its other places is used; PEFT
folders say nothing of them and keep their own places, unless the plan of the base is given. This file knows sites; it
does no arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ia3.adapters.adapter import Adapter
from ia3.adapters.layout import Place, lay_out
from ia3.core.sites import Channels, Plan, Side, Site
from ia3.errors import AdapterError

_Chosen = dict[tuple[str, Side, Channels], Site]


def find_common_plan(adapters: Mapping[str, Adapter], plan: Plan | None = None) -> Plan:
    """Return a plan that has a place for every number of every adapter: the union of their sites.

    Args:
        adapters: By name.
        plan: Of their base, if known; its sites come first, and all of them are in the result.

    Raises:
        AdapterError: If two adapters hold one module in different sizes; both are named.
    """
    _check_sizes(adapters)
    # those that know their other places first, so that the order of the adapters makes no difference
    ordered = sorted(adapters.values(), key=lambda adapter: not any(map(_knows_more, adapter.sites)))
    chosen: _Chosen = {site.place: site for site in (plan.sites if plan else ordered[0].sites)}
    before: _Chosen = {}
    while chosen != before:  # a site that was widened may no longer cover what it did
        before = dict(chosen)
        for adapter in ordered:
            for site in adapter.sites:
                if not _is_covered(site, adapter.vectors[site.name], chosen):
                    chosen = _with_site(chosen, site)
    return Plan(tuple(chosen.values()), plan.model_type if plan else "", "adapter")


def _check_sizes(adapters: Mapping[str, Adapter]) -> None:
    """Raise if two adapters disagree on the size of a place: they are of different bases."""
    known: dict[Place, tuple[str, int]] = {}
    for name, adapter in adapters.items():
        for site in adapter.sites:
            other, features = known.setdefault((site.module, site.side), (name, site.features))
            if features != site.features:
                raise AdapterError(
                    f"Combining adapters {other!r} and {name!r}: vector {site.name!r} has {features} channels in the "
                    f"one and {site.features} in the other, expected adapters of one base. Leave one of them out."
                )


def _knows_more(site: Site) -> bool:
    """Whether a site says more than PEFT's format does."""
    return bool(site.peft or site.twin or not site.is_whole)


def _is_covered(site: Site, vector: Tensor, chosen: _Chosen) -> bool:
    """Whether the sites chosen so far have a place for a vector."""
    if site.place in chosen:
        return True
    places = {place for c in chosen.values() for place in ((c.module, c.side), c.peft, c.twin) if place}
    if places.isdisjoint({(site.module, site.side), site.peft, site.twin} - {None}):
        return False
    try:
        lay_out((site,), {site.name: vector}, Plan(tuple(chosen.values()), "", "adapter"))
    except AdapterError:
        return False
    return True


def _with_site(chosen: _Chosen, site: Site) -> _Chosen:
    """Return the sites with one more; where it overlaps others, one over all channels stands in their place."""
    inside = set(site.channels.indices())
    overlapped = [
        other
        for other in chosen.values()
        if (other.module, other.side) == (site.module, site.side) and inside & set(other.channels.indices())
    ]
    if not overlapped:
        return {**chosen, site.place: site}
    role = site.role if site.is_whole else "other"
    whole = Site(site.module, site.side, role, Channels.span(0, site.features, site.features), site.features)
    joined: _Chosen = {}
    for place, other in chosen.items():
        if (other.module, other.side) != (site.module, site.side):
            joined[place] = other
        else:
            joined[whole.place] = whole
    return joined

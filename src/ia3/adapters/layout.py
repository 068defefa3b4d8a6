"""Laying an adapter's vectors out for a plan that may hold them in other places, without a change of the function.

Vectors are spread over the channels of their places (a side of a projection), then gathered by the plan's sites. A
number that no site of the plan takes must be one, or the adapter does not fit. This file knows sites and tensors.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from ia3.core.sites import Channels, Plan, Side, Site
from ia3.errors import AdapterError
from ia3.spelling import first_of

Place = tuple[str, Side]


def lay_out(sites: Sequence[Site], vectors: Mapping[str, Tensor], plan: Plan) -> Tensor:
    """Return a row of `plan`, shape (plan.width,), fp32, that is the same function as the vectors at `sites`.

    Raises:
        AdapterError: If a number other than one finds no site; the vector is named.
    """
    spread = spread_out(sites, vectors)
    taken = {place: torch.zeros(len(channels), dtype=torch.bool) for place, channels in spread.items()}
    own = {(site.module, site.side) for site in plan.sites}
    row = torch.ones(plan.width)
    for site, span in plan.spans():
        for place, index in _sources(site, sites, spread, own):
            if len(index) == site.width and not taken[place][index].any():
                # a copy where nothing else stands, so that no bit changes
                found = spread[place][index]
                row[span] = found if bool((row[span] == 1).all()) else row[span] * found
                taken[place][index] = True
    _refuse_rest(sites, vectors, taken)
    return row


def spread_out(sites: Iterable[Site], vectors: Mapping[str, Tensor]) -> dict[Place, Tensor]:
    """Return the vectors of each place over all of its channels, shape (features,), ones where no vector is."""
    spread: dict[Place, Tensor] = {}
    for site in sites:
        channels = spread.setdefault((site.module, site.side), torch.ones(site.features))
        channels[_index(site.channels)] = vectors[site.name]
    return spread


def _sources(
    site: Site, sites: Iterable[Site], spread: Mapping[Place, Tensor], own: set[Place]
) -> Iterator[tuple[Place, Tensor]]:
    """Yield where the numbers of a plan's site may stand in an adapter: its own place, then those that equal it.

    Args:
        site: The plan's site.
        sites: The adapter's.
        spread: The adapter's places.
        own: Places that are a site's own in the plan; no other site takes from them.
    """
    place = (site.module, site.side)
    if place in spread and len(spread[place]) == site.features:
        yield place, _index(site.channels)
    for other in (site.peft, site.twin):
        if other is not None and other in spread and other not in own:
            yield other, torch.arange(len(spread[other]))
    for given in sites:
        if site.is_whole and place in (given.peft, given.twin) and (given.module, given.side) not in own:
            yield (given.module, given.side), _index(given.channels)


def _refuse_rest(sites: Iterable[Site], vectors: Mapping[str, Tensor], taken: Mapping[Place, Tensor]) -> None:
    """Raise if a number that is not one was not taken."""
    faults = []
    for site in sites:
        left = ~taken[site.module, site.side][_index(site.channels)]
        numbers = int((vectors[site.name][left] != 1).sum())
        if numbers:
            faults.append(f"{site.name!r} ({numbers} of its {site.width} numbers)")
    if faults:
        raise AdapterError(
            f"Laying out an adapter: the plan has no site for vector {first_of(faults, 5)}, and they are not "
            "ones. Load the adapter on a fresh model, which gets the adapter's own plan."
        )


def _index(channels: Channels) -> Tensor:
    """Return the channel numbers, ascending, int64, as `Channels.indices` does."""
    inside = torch.arange(channels.start, channels.start + channels.length)
    return (torch.arange(channels.groups).unsqueeze(1) * channels.stride + inside).flatten()

"""Sites and plans: where the vectors of one base sit, and how they lie in a row.

A `Site` is one place where a vector multiplies an activation. A `Plan` is the ordered sites of one base and fixes the
layout of a row. Both are plain values: this file knows nothing of torch modules, banks or files. `discovery` makes
plans, `bank` lays rows out by them, `attach` puts them on a model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Any, Literal

Side = Literal["output", "input"]
_BLOCK = re.compile(r".*?\.\d+(?=\.)")  # of a module's path: up to its first number


@dataclass(frozen=True)
class Channels:
    """A regular set of channels of one projection: `groups` blocks of `stride` channels, of each the same slice.

    A contiguous slice is one group. Projections that interleave query, key and value per head (GPT-NeoX, BLOOM,
    DeBERTa) have one group per head.

    Example:
        >>> Channels(groups=2, stride=6, start=2, length=2).indices()
        (2, 3, 8, 9)
    """

    groups: int
    stride: int
    start: int
    length: int

    @property
    def width(self) -> int:
        """Number of channels."""
        return self.groups * self.length

    def indices(self) -> tuple[int, ...]:
        """Return the channel numbers, ascending."""
        return tuple(group * self.stride + self.start + i for group in range(self.groups) for i in range(self.length))

    @classmethod
    def span(cls, start: int, length: int, total: int) -> Channels:
        """Return the contiguous slice `start … start + length` of `total` channels."""
        return cls(groups=1, stride=total, start=start, length=length)


@dataclass(frozen=True)
class Site:
    """One place where a vector multiplies an activation.

    Attributes:
        module: Path of the projection inside the base, such as `encoder.block.0.layer.0.SelfAttention.k`.
        side: Whether the vector multiplies what the projection returns or what it receives.
        role: `key`, `value`, `feedforward`, or another name for a target of the user's own.
        channels: Which channels of that side; all of them but for fused projections.
        features: Number of channels of that side in total.
        where: Where the site sits in the computation, in words.
        peft: Module path and side under which PEFT's format holds this vector; the same function of the base.
        twin: Another module path and side where the same vector is the same function, if there is one beside `peft`.
    """

    module: str
    side: Side
    role: str
    channels: Channels
    features: int
    where: str = ""
    peft: tuple[str, Side] | None = None
    twin: tuple[str, Side] | None = None

    @property
    def width(self) -> int:
        """Number of learned numbers."""
        return self.channels.width

    @property
    def is_whole(self) -> bool:
        """Whether the vector covers every channel of its side."""
        return self.channels.width == self.features

    @property
    def place(self) -> tuple[str, Side, Channels]:
        """What makes two sites the same site."""
        return (self.module, self.side, self.channels)

    @property
    def name(self) -> str:
        """A name that is unique in a plan, such as `…SelfAttention.k` or `…c_attn[key]`; inputs end in `[input]`."""
        if not self.is_whole:
            return f"{self.module}[{self.role}]"
        return self.module if self.side == "output" else f"{self.module}[input]"


@dataclass(frozen=True)
class LeftOut:
    """Projections that carry no vector, and why.

    Attributes:
        pattern: Their path, with `*` for the layer numbers.
        count: How many there are.
        reason: Why they carry none.
    """

    pattern: str
    count: int
    reason: str


@dataclass(frozen=True)
class Plan:
    """The ordered sites of one base; it fixes the layout of a row.

    Attributes:
        sites: In the order in which their numbers lie in a row.
        model_type: The base's `config.model_type`.
        source: What the plan was made from: `family`, `structure`, `targets` or `adapter`.
        left_out: The projections without a vector.
    """

    sites: tuple[Site, ...]
    model_type: str
    source: str
    left_out: tuple[LeftOut, ...] = field(default=(), compare=False)

    @cached_property
    def width(self) -> int:
        """Length of a row: the number of learned numbers of one adapter."""
        return sum(self.widths)

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """The width of each site, in order."""
        return tuple(site.width for site in self.sites)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Where each site's numbers begin in a row."""
        return (0, *accumulate(self.widths))[:-1]

    @cached_property
    def positions(self) -> Mapping[tuple[str, Side, Channels], int]:
        """The number of the site at each place."""
        return {site.place: index for index, site in enumerate(self.sites)}

    def sites_of_first_blocks(self, share: float) -> frozenset[int]:
        """Return the numbers of the sites in the first blocks, in the order of the row: an encoder before its decoder.

        A block is what a path names by a number first, as `model.layers.3` does; sites outside of any are never meant,
        and blocks without sites do not count.

        Args:
            share: Of all blocks with sites, in [0, 1]; their number is rounded down.
        """
        blocks: dict[str, list[int]] = {}
        for number, site in enumerate(self.sites):
            if found := _BLOCK.match(site.module):
                blocks.setdefault(found.group(), []).append(number)
        chosen = list(blocks.values())[: int(share * len(blocks) + 1e-9)]  # of 100 blocks 0.29 are 29
        return frozenset(number for numbers in chosen for number in numbers)

    def spans(self) -> Iterator[tuple[Site, slice]]:
        """Yield each site with its slice of a row."""
        for site, offset in zip(self.sites, self.offsets, strict=True):
            yield site, slice(offset, offset + site.width)

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plain values, for `ia3 plan --json` and for the record beside an adapter."""
        return {
            "model_type": self.model_type,
            "source": self.source,
            "width": self.width,
            "sites": [
                {
                    "module": site.module,
                    "side": site.side,
                    "role": site.role,
                    "width": site.width,
                    "features": site.features,
                    "channels": {
                        "groups": site.channels.groups,
                        "stride": site.channels.stride,
                        "start": site.channels.start,
                        "length": site.channels.length,
                    },
                    "where": site.where,
                }
                for site in self.sites
            ],
            "left_out": [vars(entry) for entry in self.left_out],
        }

"""Frozen sites: their vectors multiply, and a backward pass gives them no gradient.

Where the first blocks' sites are frozen, nothing in those blocks wants a gradient and the backward pass ends behind
them. This file knows numbers of sites; which are frozen is the training's matter.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_FROZEN: ContextVar[frozenset[int]] = ContextVar("ia3_frozen_sites", default=frozenset())


@contextmanager
def frozen_sites(sites: frozenset[int]) -> Iterator[None]:
    """Let forward passes inside, in this thread or asyncio task, take the vectors of some sites as constants.

    Args:
        sites: Their numbers in the plan.
    """
    before = _FROZEN.set(sites)
    try:
        yield
    finally:
        _FROZEN.reset(before)


def frozen_sites_now() -> frozenset[int]:
    """Return the numbers of the sites that are frozen in the scope around."""
    return _FROZEN.get()

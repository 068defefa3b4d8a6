"""Vectors that are held: they multiply, and a backward pass gives them no gradient.

Where the first blocks' vectors are held, nothing in those blocks wants a gradient and the backward pass ends behind
them. This file knows numbers of sites; which are held is the training's matter.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_HELD: ContextVar[frozenset[int]] = ContextVar("ia3_held", default=frozenset())


@contextmanager
def held(sites: frozenset[int]) -> Iterator[None]:
    """Let forward passes inside, in this thread or asyncio task, take the vectors of some sites as constants.

    Args:
        sites: Their numbers in the plan.
    """
    before = _HELD.set(sites)
    try:
        yield
    finally:
        _HELD.reset(before)


def held_now() -> frozenset[int]:
    """Return the numbers of the sites whose vectors are held in the scope around."""
    return _HELD.get()

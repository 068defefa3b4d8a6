"""Values that are made when they are asked for: heads and records of adapters that lie in a file.

A value to come is made again whenever it is asked for; who makes it may keep some.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

V = TypeVar("V")


@dataclass(frozen=True)
class Deferred(Generic[V]):
    """A value to come.

    Attributes:
        make: Makes it; None means that there is none after all. Called from several threads.
    """

    make: Callable[[], V | None]


def made(value: V | Deferred[V] | None) -> V | None:
    """Return a value, made now if it was to come.

    Example:
        >>> made("a"), made(Deferred(lambda: "b")), made(Deferred(lambda: None))
        ('a', 'b', None)
    """
    return value.make() if isinstance(value, Deferred) else value

"""Values by row of which some are made when they are asked for: heads and records of adapters that lie in a file.

A value to come is made again whenever it is asked for; who makes it may keep some. This file knows keys and values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar, final

V = TypeVar("V")


@dataclass(frozen=True)
class Deferred(Generic[V]):
    """A value to come.

    Attributes:
        make: Makes it; None means that there is none after all. Called from several threads.
    """

    make: Callable[[], V | None]


@final
class Held(Mapping[int, V]):
    """Values by row, never changed; whether a row has one may take making it.

    Args:
        given: Values, and values to come.

    Example:
        >>> held = Held({1: "a", 2: Deferred(lambda: "b"), 3: Deferred(lambda: None)})
        >>> held[2], held.get(3), 3 in held, list(held)
        ('b', None, False, [1, 2])
    """

    def __init__(self, given: Mapping[int, V | Deferred[V]]) -> None:
        self.given: dict[int, V | Deferred[V]] = dict(given)

    def __getitem__(self, row: int) -> V:
        value = self.given[row]
        made = value.make() if isinstance(value, Deferred) else value
        if made is None:
            raise KeyError(row)
        return made

    def __iter__(self) -> Iterator[int]:
        return (row for row in self.given if row in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, row: object) -> bool:
        value = self.given.get(row)  # type: ignore[call-overload]
        return value is not None and not (isinstance(value, Deferred) and value.make() is None)

    def also(self, more: Mapping[int, V | Deferred[V]]) -> Held[V]:
        """Return these and others."""
        return Held({**self.given, **more}) if more else self

    def without(self, row: int) -> Held[V]:
        """Return these without one."""
        return Held({key: value for key, value in self.given.items() if key != row}) if row in self.given else self

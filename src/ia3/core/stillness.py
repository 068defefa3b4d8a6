"""Stillness: what takes several passes, such as an answer's tokens, has the same numbers in all of them.

A bank goes on changing; in this thread or asyncio task its rows are looked up in one snapshot until the end. This file
knows snapshots and whose they are; what a bank is it need not know.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType

from ia3.core.snapshot import Snapshot

# By the id of the bank.
_STILL: ContextVar[Mapping[int, Snapshot]] = ContextVar("ia3_still", default=MappingProxyType({}))


@contextmanager
def held_still(bank: object, snapshot: Snapshot) -> Iterator[None]:
    """Look the rows of a bank up in a snapshot inside; in the outer one where this lies in another."""
    before = _STILL.set({id(bank): snapshot, **_STILL.get()})
    try:
        yield
    finally:
        _STILL.reset(before)


def still_snapshot(bank: object, now: Snapshot) -> Snapshot:
    """Return the snapshot that a bank is held still at here, else the one it has now."""
    return _STILL.get().get(id(bank), now)

"""What is known of adapters beside their numbers: base, labels, template and the like, as whoever saves them needs.

This file knows a mapping by row and what changes it; what a record says is nobody's matter here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import final

from ia3.core.snapshot import Record, Snapshot


@final
class Records(MutableMapping[int, Record]):
    """The records of a bank by row; a change makes a new snapshot.

    Args:
        snapshot: Gives what the bank holds now.
        change: Gives a row another record, or none.
    """

    def __init__(self, snapshot: Callable[[], Snapshot], change: Callable[[int, Record | None], None]) -> None:
        self._snapshot = snapshot
        self._change = change

    @property
    def _held(self) -> Mapping[int, Record]:
        return self._snapshot().records

    def __getitem__(self, row: int) -> Record:
        return self._held[row]

    def __setitem__(self, row: int, record: Record) -> None:
        self._change(row, record)

    def __delitem__(self, row: int) -> None:
        if row not in self._held:
            raise KeyError(row)
        self._change(row, None)

    def __iter__(self) -> Iterator[int]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)

    def __repr__(self) -> str:
        return repr(dict(self._held))

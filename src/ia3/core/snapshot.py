"""A snapshot: what a bank holds at one moment, and the rows of a batch gathered from it.

A forward pass that has taken a snapshot keeps its rows, whatever is added, replaced or removed meanwhile: a change
makes a new snapshot. This file knows names, rows and where they lie; who may change what is `bank`'s matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from ia3.core.deferred import Deferred, made
from ia3.core.heads import Head
from ia3.core.table import Slot, read_slots
from ia3.errors import BankError, near_matches
from ia3.names import BASE_NAME

BASE_ROW = 0
Record = Mapping[str, Any]
_SHOWN = 8  # names in a message


def told_rows(rows: Mapping[str, int]) -> str:
    """Return the first names and their rows in words."""
    some = [f"{row} ({name})" for name, row in list(rows.items())[:_SHOWN]]
    more = [f"… ({len(rows)} in all)"] if len(rows) > _SHOWN else []
    return ", ".join([*some, *more]) or "none"


class Entry(NamedTuple):
    """What a bank holds under one row.

    Attributes:
        name: Of the adapter.
        numbers: Where they lie at rest; the parameter itself, shape (width,), in training.
        head: Its head, if it has one; may be made when it is asked for.
        record: What whoever loads and saves knows of it; likewise.
    """

    name: str
    numbers: Slot | Tensor
    head: Head | Deferred[Head] | None = None
    record: Record | Deferred[Record] | None = None


@dataclass(frozen=True, eq=False)
class Snapshot:
    """What a bank holds at one moment; never changed after it is made.

    Attributes:
        rows: Row of each name; the base is not among them.
        entries: What lies under each row, and the base's under row 0.
    """

    rows: Mapping[str, int]
    entries: Mapping[int, Entry]

    # -- reading ------------------------------------------------------------------------------------------------------

    def row(self, adapter: str | int) -> int:
        """Return the row of a name, or check a row.

        Raises:
            BankError: For an unknown name or a row that holds no adapter.
        """
        if isinstance(adapter, str):
            if adapter == BASE_NAME:
                return BASE_ROW
            if adapter not in self.rows:
                raise BankError(
                    f"Looking up adapter {adapter!r}: the bank has no such name."
                    f"{near_matches(adapter, self.rows)} {BASE_NAME!r} is the base."
                )
            return self.rows[adapter]
        if isinstance(adapter, bool) or adapter not in self.entries:
            known = ", ".join(["0 (the base)", *([told_rows(self.rows)] if self.rows else [])])
            raise BankError(f"Looking up row {adapter!r}: no adapter lies there, expected one of {known}.")
        return int(adapter)

    @property
    def resting(self) -> tuple[int, ...]:
        """The rows at rest in ascending order, without the base."""
        return tuple(sorted(row for row in self.rows.values() if not self.is_trained(row)))

    @property
    def trained(self) -> tuple[int, ...]:
        """The rows in training."""
        return tuple(row for row in self.rows.values() if self.is_trained(row))

    def is_trained(self, row: int) -> bool:
        """Whether a row is in training, a parameter of its own."""
        return not isinstance(self.entries[row].numbers, Slot)

    def head(self, row: int) -> Head | None:
        """Return the head of a row, or None."""
        return made(self.entries[row].head)

    def record(self, row: int) -> Record | None:
        """Return what is known of a row, or None."""
        return made(self.entries[row].record)

    def heads_of(self, rows: Iterable[int]) -> dict[str, Head]:
        """Return the heads of some rows, by the names of their adapters."""
        found = ((row, self.head(row)) for row in dict.fromkeys(rows))
        return {self.entries[row].name: head for row, head in found if head is not None}

    @property
    def device(self) -> torch.device:
        """Where rows are gathered to."""
        return self.slots([BASE_ROW])[0].block.device

    def slots(self, rows: Iterable[int]) -> list[Slot]:
        """Return where rows at rest lie."""
        return [cast(Slot, self.entries[row].numbers) for row in rows]

    def vector(self, row: int) -> Tensor:
        """Return one row, shape (width,): the parameter itself if it is in training, else a copy."""
        numbers = self.entries[row].numbers
        return read_slots([numbers], self.device)[0] if isinstance(numbers, Slot) else numbers

    def gather(self, rows: Sequence[int]) -> Tensor:
        """Return the rows of a batch, shape (len(rows), width), or (1, width) where all are the same.

        Always a copy: no later change of the bank changes what a pass under way multiplies by. What it costs depends
        on the rows that are asked for, never on how many the bank holds.
        """
        distinct = list(dict.fromkeys(rows))
        trained = [row for row in distinct if self.is_trained(row)]
        if not trained:
            return read_slots(self.slots(rows if len(distinct) > 1 else distinct), self.device)
        if len(distinct) == 1:
            return self.vector(distinct[0]).unsqueeze(0).clone()
        resting = [row for row in distinct if row not in trained]
        pieces = [read_slots(self.slots(resting), self.device)] if resting else []
        pieces.append(torch.stack([self.vector(row) for row in trained]))
        places = {row: place for place, row in enumerate((*resting, *trained))}
        return torch.cat(pieces).index_select(0, torch.tensor([places[row] for row in rows], device=self.device))

    # -- making another one -------------------------------------------------------------------------------------------

    def check_free(self, names: Sequence[str], described: Iterable[str] = ()) -> None:
        """Raise unless adapters of these names can be added.

        Args:
            names: The names.
            described: Those for which a head or record is given.

        Raises:
            BankError: For a name that is taken, or cannot be one.
        """
        seen: set[str] = set()
        for name in names:
            if not isinstance(name, str) or not name or name == BASE_NAME:
                raise BankError(f"Adding adapter {name!r}: this name is not free to use. Choose another one.")
            if name in self.rows:
                raise BankError(
                    f"Adding adapter {name!r}: the bank has one of this name. Remove it or rename it first."
                )
            if name in seen:
                raise BankError(f"Adding {len(names)} adapters: {name!r} is there twice, expected a name for each.")
            seen.add(name)
        for name in set(described) - seen:
            raise BankError(
                f"Adding {len(names)} adapters: a head or record is given for {name!r}, which is not added."
            )

    def with_added(
        self,
        rows: Mapping[str, int],
        slots: Sequence[Slot],
        heads: Mapping[str, Head | Deferred[Head]],
        records: Mapping[str, Record | Deferred[Record]],
    ) -> Snapshot:
        """Return a snapshot with more adapters at rest; heads and records are by name."""
        entries = map(Entry, rows, slots, map(heads.get, rows), map(records.get, rows))  # quick for ten thousand
        new = dict(zip(rows.values(), entries, strict=True))
        return Snapshot({**self.rows, **rows}, {**self.entries, **new})

    def with_numbers(self, numbers: Mapping[int, Slot | Tensor]) -> Snapshot:
        """Return a snapshot with other numbers for some rows, at rest or in training; this one if it has these."""
        changed = {row: new for row, new in numbers.items() if new is not self.entries[row].numbers}
        entries = {row: self.entries[row]._replace(numbers=new) for row, new in changed.items()}
        return Snapshot(self.rows, {**self.entries, **entries}) if changed else self

    def with_entry(self, row: int, **changes: Any) -> Snapshot:
        """Return a snapshot with changes of a row's entry, by their names in it."""
        before, entry = self.entries[row], self.entries[row]._replace(**changes)
        is_named_so = entry.name == before.name
        rows = self.rows if is_named_so else {entry.name if r == row else n: r for n, r in self.rows.items()}
        return Snapshot(rows, {**self.entries, row: entry})

    def without(self, row: int) -> Snapshot:
        """Return a snapshot without an adapter."""
        rows, entries = dict(self.rows), dict(self.entries)
        del rows[entries.pop(row).name]
        return Snapshot(rows, entries)

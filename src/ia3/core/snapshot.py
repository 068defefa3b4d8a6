"""A snapshot: what a bank holds at one moment, and the rows of a batch gathered from it.

A forward pass that has taken a snapshot keeps its rows, whatever is added, replaced or removed meanwhile: a change
makes a new snapshot. This file knows names, rows and where they lie; who may change what is `bank`'s matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from ia3.core.deferred import Deferred, Held
from ia3.core.heads import Head
from ia3.core.table import Slot, read_slots
from ia3.errors import BankError, near_matches
from ia3.names import BASE_NAME as BASE_NAME

BASE_ROW = 0
Record = Mapping[str, Any]
_SHOWN = 8  # names in a message
_K = TypeVar("_K")
_V = TypeVar("_V")


def told_rows(rows: Mapping[str, int]) -> str:
    """Return the first names and their rows in words."""
    some = [f"{row} ({name})" for name, row in list(rows.items())[:_SHOWN]]
    more = [f"… ({len(rows)} in all)"] if len(rows) > _SHOWN else []
    return ", ".join([*some, *more]) or "none"


@dataclass(frozen=True, eq=False)
class Snapshot:
    """What a bank holds at one moment; never changed after it is made.

    Attributes:
        rows: Row of each name.
        names: Name of each row.
        slots: Where rows at rest lie, and row 0.
        parameters: Rows in training, each of shape (width,), by row.
        heads: Heads by row; some may be made when they are asked for.
        records: What whoever loads and saves knows of an adapter, by row; likewise.
    """

    rows: Mapping[str, int]
    names: Mapping[int, str]
    slots: Mapping[int, Slot]
    parameters: Mapping[int, Tensor] = field(default_factory=dict)
    heads: Held[Head] = field(default_factory=lambda: Held({}))
    records: Held[Record] = field(default_factory=lambda: Held({}))

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
        if isinstance(adapter, bool) or not (adapter == BASE_ROW or adapter in self.names):
            known = ", ".join(["0 (the base)", *([told_rows(self.rows)] if self.rows else [])])
            raise BankError(f"Looking up row {adapter!r}: no adapter lies there, expected one of {known}.")
        return int(adapter)

    @property
    def resting(self) -> tuple[int, ...]:
        """The rows at rest in ascending order, without the base."""
        return tuple(sorted(row for row in self.slots if row != BASE_ROW))

    def heads_of(self, rows: Iterable[int]) -> dict[str, Head]:
        """Return the heads of some rows, by the names of their adapters."""
        found = ((row, self.heads.get(row)) for row in dict.fromkeys(rows))
        return {self.names[row]: head for row, head in found if head is not None}

    @property
    def device(self) -> torch.device:
        """Where rows are gathered to."""
        return self.slots[BASE_ROW].block.device

    def vector(self, row: int) -> Tensor:
        """Return one row, shape (width,): the parameter itself if it is in training, else a copy."""
        return self.parameters[row] if row in self.parameters else read_slots([self.slots[row]], self.device)[0]

    def gather(self, rows: Sequence[int]) -> Tensor:
        """Return the rows of a batch, shape (len(rows), width), or (1, width) where all are the same.

        Always a copy: no later change of the bank changes what a pass under way multiplies by. What it costs depends
        on the rows that are asked for, never on how many the bank holds.
        """
        distinct = list(dict.fromkeys(rows))
        trained = [row for row in distinct if row in self.parameters]
        if not trained:
            wanted = rows if len(distinct) > 1 else distinct
            return read_slots([self.slots[row] for row in wanted], self.device)
        if len(distinct) == 1:
            return self.parameters[distinct[0]].unsqueeze(0).clone()
        resting = [row for row in distinct if row not in self.parameters]
        pieces = [read_slots([self.slots[row] for row in resting], self.device)] if resting else []
        pieces.append(torch.stack([self.parameters[row] for row in trained]))
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
        return replace(
            self,
            rows={**self.rows, **rows},
            names={**self.names, **{row: name for name, row in rows.items()}},
            slots={**self.slots, **dict(zip(rows.values(), slots, strict=True))},
            heads=self.heads.also({rows[name]: head for name, head in heads.items()}),
            records=self.records.also({rows[name]: record for name, record in records.items()}),
        )

    def with_resting(self, slots: Mapping[int, Slot]) -> Snapshot:
        """Return a snapshot in which some rows are at rest, at these places."""
        parameters = {row: p for row, p in self.parameters.items() if row not in slots}
        return replace(self, slots={**self.slots, **slots}, parameters=parameters)

    def with_trained(self, row: int, parameter: Tensor) -> Snapshot:
        """Return a snapshot in which a row is in training."""
        return replace(self, slots=_without(self.slots, row), parameters={**self.parameters, row: parameter})

    def with_parameters(self, parameters: Mapping[int, Tensor]) -> Snapshot:
        """Return a snapshot with other tensors for rows in training; this one if they are those it has."""
        changed = {row: p for row, p in parameters.items() if p is not self.parameters[row]}
        return replace(self, parameters={**self.parameters, **changed}) if changed else self

    def with_head(self, row: int, head: Head | None) -> Snapshot:
        """Return a snapshot with another head for a row, or none."""
        return replace(self, heads=self.heads.without(row).also({} if head is None else {row: head}))

    def with_record(self, row: int, record: Record | None) -> Snapshot:
        """Return a snapshot in which something else is known of a row, or nothing."""
        return replace(self, records=self.records.without(row).also({} if record is None else {row: record}))

    def without(self, row: int) -> Snapshot:
        """Return a snapshot without an adapter."""
        return Snapshot(
            _without(self.rows, self.names[row]),
            _without(self.names, row),
            _without(self.slots, row),
            _without(self.parameters, row),
            self.heads.without(row),
            self.records.without(row),
        )

    def renamed(self, row: int, new: str) -> Snapshot:
        """Return a snapshot with another name for a row."""
        rows = {new if r == row else n: r for n, r in self.rows.items()}
        return replace(self, rows=rows, names={**self.names, row: new})


def _without(held: Mapping[_K, _V], key: _K) -> dict[_K, _V]:
    """Return a copy without a key."""
    rest = dict(held)
    rest.pop(key, None)
    return rest

"""The table of a bank: rows of numbers in blocks, and places in them that come free when nobody reads them any more.

A place, once written, keeps its numbers for as long as anything refers to its `Slot`. Other numbers for an adapter are
written elsewhere, and the old place is given out again when the last reader has let go of it; so a change costs one
row, and whoever is still reading has what it began with. The table grows by blocks and copies none. A table that was
given from outside, memory-mapped or not, is one more block: never written, never moved, read a row at a time. This file
knows rows of numbers; it knows nothing of names.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, final

import torch
from torch import Tensor

_FIRST_CAPACITY = 8


class RowTable(Protocol):
    """What rows can be read from: a tensor of shape (rows, width), or anything that hands out rows of one."""

    @property
    def shape(self) -> torch.Size:
        """Shape (rows, width)."""

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of its numbers."""

    def index_select(self, dim: int, index: Tensor, /) -> Tensor:
        """Return a copy of rows by their numbers; `dim` is 0, `index` int64 on the CPU for anything but a tensor."""


@dataclass(eq=False)
class Block:
    """A part of a table.

    Attributes:
        rows: Its rows, shape (capacity, width).
        free: Numbers of the places that nobody refers to; the last one is given out first.
        is_given: Whether it came from outside and is never written.
    """

    rows: Any  # a Tensor; a RowTable if it was given
    free: deque[int]
    is_given: bool = False

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        return self.rows.device if isinstance(self.rows, Tensor) else torch.device("cpu")

    def read(self, numbers: Sequence[int]) -> Tensor:
        """Return a copy of rows, shape (len(numbers), width)."""
        return self.rows.index_select(0, torch.tensor(numbers, dtype=torch.long, device=self.device))

    def __deepcopy__(self, memo: dict[int, Any]) -> Block:
        """Share what is never written, copy the rest."""
        if self.is_given:
            return self
        with torch.inference_mode(False):  # the copy is written to as well
            memo[id(self)] = copied = Block(self.rows.clone(), self.free.copy())
        return copied


@final
class Slot:
    """One row of a block. When nothing refers to it any more, its place is free."""

    __slots__ = ("block", "number")

    def __init__(self, block: Block, number: int) -> None:
        self.block = block
        self.number = number

    def __del__(self) -> None:
        # in any thread, perhaps in the middle of `Table.store`: appending to a deque needs no lock
        self.block.free.append(self.number)


def read_slots(slots: Sequence[Slot], device: torch.device) -> Tensor:
    """Return a copy of rows, shape (len(slots), width); one selection for each block they lie in.

    Args:
        slots: Where they lie; one may be there more than once.
        device: Where they are wanted.
    """
    places: dict[int, list[int]] = {}
    for place, slot in enumerate(slots):
        places.setdefault(id(slot.block), []).append(place)
    pieces = [
        slots[chosen[0]].block.read([slots[place].number for place in chosen]).to(device) for chosen in places.values()
    ]
    if len(pieces) == 1:
        return pieces[0]
    order = torch.tensor([place for chosen in places.values() for place in chosen], device=device)
    return torch.cat(pieces).index_select(0, order.argsort())


@final
class Table:
    """The blocks of a bank, and what writes to them; whoever holds it sees to it that one thread does at a time.

    Attributes:
        ones: The first row: ones.
    """

    def __init__(self, width: int, dtype: torch.dtype, device: torch.device | str) -> None:
        self._blocks = [_new_block(_FIRST_CAPACITY, width, dtype, device)]
        [self.ones] = self.store(torch.ones(1, width, dtype=dtype, device=device))

    @property
    def width(self) -> int:
        """Numbers of a row."""
        return int(self._blocks[0].rows.shape[1])

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of every number."""
        return self._blocks[0].rows.dtype

    @property
    def device(self) -> torch.device:
        """Where the blocks lie that are its own."""
        return self._blocks[0].device

    @property
    def capacity(self) -> int:
        """Rows that there is space for."""
        return sum(block.rows.shape[0] for block in self._blocks)

    def read(self, slots: Sequence[Slot]) -> Tensor:
        """Return a copy of rows, shape (len(slots), width); none for no slots."""
        return read_slots(slots, self.device) if slots else self._blocks[0].rows[:0].clone()

    def store(self, values: Tensor) -> list[Slot]:
        """Write rows to free places and return these; makes a new block where there are too few.

        Args:
            values: Shape (rows, width), in the table's dtype.
        """
        slots: list[Slot] = []
        for block in self._blocks:
            slots += _take(block, len(values) - len(slots))
        missing = len(values) - len(slots)
        if missing:
            self._blocks.append(_new_block(max(missing, self.capacity), self.width, self.dtype, self.device))
            slots += _take(self._blocks[-1], missing)
        start = 0
        with torch.no_grad():
            while start < len(slots):  # those of one block follow each other
                block = slots[start].block
                numbers = [slot.number for slot in islice(slots, start, None) if slot.block is block]
                index = torch.tensor(numbers, device=self.device)
                block.rows.index_copy_(0, index, values[start : start + len(numbers)])
                start += len(numbers)
        return slots

    def moved(self, move: Callable[[Tensor], Tensor], slots: Sequence[Slot]) -> tuple[Table, list[Slot]]:
        """Return the table where `move` puts a tensor, and slots of it in their new places.

        Args:
            move: Called with no more than an empty part of each block.
            slots: Those to go on with; others, of readers, stay with the old blocks.
        """
        device = move(self._blocks[0].rows[:0]).device
        if device == self.device:
            for block in self._blocks[1:]:
                move(block.rows[:0])
            return self, list(slots)
        table = object.__new__(Table)
        blocks = {id(block): Block(block.rows.to(device), deque()) for block in self._blocks}
        table._blocks = list(blocks.values())
        new = [s if s.block.is_given else Slot(blocks[id(s.block)], s.number) for s in (self.ones, *slots)]
        for block in table._blocks:
            held = {slot.number for slot in new if slot.block is block}
            block.free.extend(number for number in reversed(range(block.rows.shape[0])) if number not in held)
        table.ones = new[0]
        return table, new[1:]


def adopt(table: RowTable) -> list[Slot]:
    """Return a slot for each row of a table that was given; nothing of it is read or copied."""
    block = Block(table, deque(maxlen=0), is_given=True)
    return [Slot(block, number) for number in range(table.shape[0])]


def _new_block(capacity: int, width: int, dtype: torch.dtype, device: torch.device | str) -> Block:
    # pages of an empty tensor take no memory before they are written
    return Block(torch.empty(capacity, width, dtype=dtype, device=device), deque(reversed(range(capacity))))


def _take(block: Block, most: int) -> list[Slot]:
    """Take free places, `most` at most."""
    slots: list[Slot] = []
    while len(slots) < most and block.free:  # places may come free meanwhile, none can be taken by another
        slots.append(Slot(block, block.free.pop()))
    return slots

"""A table gives a place out again when nobody can read it, grows without copying, and reads no more than is asked."""

from __future__ import annotations

import copy
import gc
import pickle
from collections import deque

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ia3.core.table import Slot, Table, adopt, read_slots

CPU = torch.device("cpu")


def _table() -> Table:
    return Table(3, torch.float32, CPU)


def _values(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float32).unsqueeze(1).expand(-1, 3)


def _first(rows: Tensor) -> list[float]:
    return rows[:, 0].tolist()


def test_the_first_row_is_ones_and_stays() -> None:
    table = _table()
    for _ in range(20):
        table.store(_values(5.0))  # nobody keeps the slot
    assert torch.equal(read_slots([table.ones], CPU), torch.ones(1, 3))


def test_a_place_is_given_out_again_when_nothing_refers_to_its_slot() -> None:
    table = _table()
    (a,) = table.store(_values(2))
    (b,) = table.store(_values(3))
    before, number = table.capacity, a.number
    keeper: list[Slot] = [a]
    del a
    others = [table.store(_values(9))[0] for _ in range(20)]
    assert number not in {slot.number for slot in others if slot.block is b.block}
    assert _first(read_slots(keeper, CPU)) == [2]
    grown = table.capacity
    del keeper, others
    again = table.store(_values(*range(20)))
    assert table.capacity == grown > before
    assert _first(read_slots([b, *again], CPU)) == [3, *range(20)]


def test_growing_copies_and_moves_nothing() -> None:
    table = _table()
    slots = table.store(_values(*range(5)))
    block = slots[0].block
    address = block.rows.data_ptr()
    slots += table.store(_values(*range(5, 100)))
    assert all(slot.block is block for slot in slots[:5]) and block.rows.data_ptr() == address
    assert _first(read_slots(slots, CPU)) == list(range(100))
    assert len({id(slot.block) for slot in slots}) == 2, "what did not fit went to one new block"


def test_blocks_grow_with_the_table() -> None:
    table = _table()
    slots = [table.store(_values(number))[0] for number in range(1000)]
    assert len({id(slot.block) for slot in slots}) <= 8


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_rows_of_several_blocks_come_in_the_order_they_are_asked_for(places: list[int], random: object) -> None:
    table = _table()
    slots = [slot for number in range(0, 40, 8) for slot in table.store(_values(*range(number, number + 8)))]
    slots += adopt(_values(40.0))
    assert _first(read_slots([slots[place] for place in places], CPU)) == places


def test_rows_that_are_read_are_copies() -> None:
    table = _table()
    slots = table.store(_values(2, 3))
    for chosen in ([slots[0]], slots, [slots[1], slots[0], slots[1]]):
        read_slots(chosen, CPU).zero_()
    assert _first(read_slots(slots, CPU)) == [2, 3]
    assert table.read([]).shape == (0, 3)


class Watched:
    """A table that says which of its rows were read."""

    def __init__(self, rows: Tensor) -> None:
        self._rows = rows
        self.shape, self.dtype = rows.shape, rows.dtype
        self.read: list[list[int]] = []

    def index_select(self, dim: int, index: Tensor, /) -> Tensor:
        self.read.append(index.tolist())
        return self._rows.index_select(dim, index)


def test_a_given_table_is_read_where_it_is_asked_for_and_never_written() -> None:
    given_rows = _values(*range(1000)).contiguous()
    watched = Watched(given_rows)
    slots = adopt(watched)
    assert watched.read == []
    assert _first(read_slots([slots[7], slots[900], slots[7]], CPU)) == [7, 900, 7]
    assert watched.read == [[7, 900, 7]]
    table = _table()
    del slots
    table.store(_values(*range(2000)))
    assert _first(given_rows) == list(range(1000))


def test_a_table_that_moves_leaves_readers_what_they_hold() -> None:
    table = _table()
    slots = [*table.store(_values(2, 3)), *adopt(_values(4.0))]
    same, kept = table.moved(lambda tensor: tensor.half(), slots)
    assert same is table and kept == slots, "to another dtype it does not go"
    moved, new = table.moved(lambda tensor: tensor.to("meta"), slots)
    assert moved.device.type == moved.ones.block.device.type == new[0].block.device.type == "meta"
    assert new[2].block is slots[2].block, "a given table stays where it is"
    assert _first(read_slots(slots, CPU)) == [2, 3, 4]
    free = set(range(8)) - {moved.ones.number, new[0].number, new[1].number}
    assert set(new[0].block.free) == free
    assert moved.store(torch.ones(6, 3, device="meta"))[-1].block is not new[0].block


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_a_copy_of_a_table_has_places_of_its_own(how: str) -> None:
    table = _table()
    slots = table.store(_values(2, 3))
    pair = (table, slots)
    copied, its_slots = copy.deepcopy(pair) if how == "deepcopy" else pickle.loads(pickle.dumps(pair))
    copied.store(_values(*range(50, 60)))
    del its_slots[0]
    gc.collect()
    (new,) = copied.store(_values(9))
    assert _first(read_slots([copied.ones, *its_slots, new], CPU)) == [1, 3, 9]
    assert _first(read_slots([table.ones, *slots], CPU)) == [1, 2, 3]
    (more,) = table.store(_values(7))
    assert _first(read_slots([*slots, more], CPU)) == [2, 3, 7]


def test_a_copy_shares_a_given_table() -> None:
    given_rows = _values(2, 3).contiguous()
    slots = adopt(given_rows)
    assert copy.deepcopy(slots)[0].block.rows is given_rows
    assert slots[0].block.free == deque(), "its places are never given out"
    del slots[0]
    assert slots[0].block.free == deque()

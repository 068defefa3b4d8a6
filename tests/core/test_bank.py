"""A bank is a table of rows by name; every change makes a new snapshot, and nothing is ever silently another row."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from torch import Tensor, nn

from ia3.core.bank import BASE_NAME, Bank
from ia3.core.heads import Head
from ia3.core.sites import Channels, Plan, Site
from ia3.errors import BankError

PLAN = Plan(
    (
        Site("k", "output", "key", Channels.span(0, 3, 3), 3),
        Site("wo", "input", "feedforward", Channels.span(0, 2, 2), 2),
    ),
    "toy",
    "targets",
)


def _row(number: float) -> Tensor:
    return torch.full((5,), number)


def _bank(*names: str, trainable: bool = False) -> Bank:
    """Return a bank whose first adapter is a row of twos, the second of threes, and so on."""
    bank = Bank(PLAN)
    for place, name in enumerate(names):
        bank.add(name, _row(place + 2.0), trainable=trainable)
    return bank


def test_row_zero_is_ones_and_no_parameter() -> None:
    bank = Bank(PLAN)
    assert torch.equal(bank.gather([0, 0]), torch.ones(1, 5))
    assert (bank.row(BASE_NAME), bank.row(0), bank.names) == (0, 0, ())
    assert list(bank.parameters()) == []


def test_adapters_are_found_by_name_and_by_row() -> None:
    bank = _bank("news", "wire")
    assert (bank.row("news"), bank.row("wire"), bank.row(2)) == (1, 2, 2)
    assert bank.names == ("news", "wire")
    assert torch.equal(bank.vector("wire"), _row(3))
    assert torch.equal(bank.gather([2, 0, 1])[:, 0], torch.tensor([3.0, 1.0, 2.0]))


def test_a_row_is_cut_into_its_vectors() -> None:
    bank = Bank(PLAN)
    bank.add("news", torch.arange(5.0))
    vectors = bank.site_vectors("news")
    assert {name: v.tolist() for name, v in vectors.items()} == {"k": [0.0, 1.0, 2.0], "wo[input]": [3.0, 4.0]}


def test_a_new_adapter_is_ones_and_its_numbers_are_copied() -> None:
    bank = Bank(PLAN)
    bank.add("fresh")
    given = _row(2)
    bank.add("given", given)
    given.zero_()
    bank.vector("given").zero_()
    assert torch.equal(bank.vector("fresh"), _row(1))
    assert torch.equal(bank.vector("given"), _row(2))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int64])
def test_a_bank_of_another_dtype_is_refused(dtype: torch.dtype) -> None:
    with pytest.raises(BankError, match="expected float32, or float64 for a float64 base"):
        Bank(PLAN, dtype=dtype)


@pytest.mark.parametrize("cast", [nn.Module.half, nn.Module.bfloat16, nn.Module.double, nn.Module.float])
def test_numbers_stay_fp32_whatever_the_bank_is_cast_to(cast: Any) -> None:
    bank = _bank("rest")
    bank.add("training", _row(1.003), trainable=True)
    parameter = next(bank.parameters())
    cast(bank)
    assert bank.dtype == torch.float32
    assert bank.gather([1, 2]).dtype == torch.float32
    assert next(bank.parameters()) is parameter, "the optimizer holds this one"
    assert torch.equal(bank.vector("training"), _row(1.003))


def test_a_bank_moves_to_another_device_with_its_parameters() -> None:
    bank = _bank("rest")
    bank.add("training", trainable=True)
    bank.to("meta")
    assert {bank.vector(name).device.type for name in ("rest", "training")} == {"meta"}
    assert {p.device.type for p in bank.parameters()} == {"meta"}
    assert bank.snapshot.vector(2) is bank.get_parameter("vectors.row2")


def test_a_row_in_training_is_its_own_parameter_and_comes_back_to_the_table() -> None:
    bank = _bank("news", "wire")
    bank.set_trainable("news")
    (parameter,) = bank.parameters()
    assert parameter.shape == (5,)
    with torch.no_grad():
        parameter.fill_(7)
    assert torch.equal(bank.vector("news"), _row(7))
    assert torch.equal(bank.gather([1, 2])[:, 0], torch.tensor([7.0, 3.0]))
    bank.set_trainable("news", False)
    assert list(bank.parameters()) == []
    assert torch.equal(bank.vector("news"), _row(7))


def test_gradients_reach_the_rows_of_the_batch_and_no_other() -> None:
    bank = _bank("a", "b", "c", trainable=True)
    bank.gather([1, 2, 1, 0]).sum().backward()
    grads = {name: p.grad for name, p in bank.named_parameters()}
    assert torch.equal(grads["vectors.row1"], _row(2))
    assert torch.equal(grads["vectors.row2"], _row(1))
    assert grads["vectors.row3"] is None


def test_setting_numbers_keeps_the_parameter_that_an_optimizer_holds() -> None:
    bank = _bank("rest", "training")
    bank.set_trainable("training")
    parameter = next(bank.parameters())
    bank.set_vector("training", _row(9))
    bank.set_vector("rest", _row(8))
    assert next(bank.parameters()) is parameter
    assert torch.equal(bank.gather([1, 2])[:, 0], torch.tensor([8.0, 9.0]))


def test_a_snapshot_keeps_the_rows_it_was_taken_with() -> None:
    bank = _bank("news")
    before = bank.snapshot
    bank.set_vector("news", _row(9))
    bank.add("more", _row(4))
    bank.remove("news")
    assert torch.equal(before.gather([1, 0])[:, 0], torch.tensor([2.0, 1.0]))
    assert dict(before.rows) == {"news": 1}
    with pytest.raises(BankError, match="no adapter lies there"):
        before.row(2)


@pytest.mark.parametrize("rows", [[1], [1, 0], [1, 2]])
@pytest.mark.parametrize("trainable", [False, True])
def test_what_was_gathered_is_not_changed_by_what_comes_after(rows: list[int], trainable: bool) -> None:
    """A pass under way multiplies by what it began with, and its backward pass still runs.

    A single row used to be handed out as a view: `add`, which fills a free row of the table in place, then made
    autograd refuse the backward pass of every example in flight.
    """
    bank = _bank("news", "wire")  # three rows of four are given out
    bank.set_trainable("wire")
    bank.set_trainable("news", trainable)
    gathered = bank.gather(rows)
    x = torch.ones(5, requires_grad=True)
    y = (gathered * x).sum()
    bank.add("later")
    bank.set_vector("news", _row(50))
    y.backward()
    assert torch.equal(gathered[0], _row(2))
    assert x.grad is not None
    assert float(x.grad[0]) == sum(float(row) + 1 for row in rows)


def test_removed_rows_are_not_given_out_again() -> None:
    bank = _bank("news", "wire", trainable=True)
    bank.remove("news")
    assert bank.names == ("wire",)
    assert bank.add("new") == 3
    assert [name for name, _ in bank.named_parameters()] == ["vectors.row2"]
    with pytest.raises(BankError, match="Looking up row 1: no adapter lies there"):
        bank.row(1)


def test_a_renamed_adapter_keeps_its_row() -> None:
    bank = _bank("news", "wire")
    bank.rename("news", "older")
    assert bank.names == ("older", "wire")
    assert bank.row("older") == 1
    with pytest.raises(BankError, match="no such name"):
        bank.row("news")


def test_unknown_names_are_told_with_near_matches() -> None:
    bank = _bank("news", "wire")
    with pytest.raises(BankError, match=r"'nwes': the bank has no such name\. Did you mean 'news'\?"):
        bank.row("nwes")
    with pytest.raises(BankError, match="Known: 'news', 'wire'"):
        bank.set_vector("zzzz", _row(1))
    for act in (bank.vector, bank.remove, bank.set_trainable, lambda name: bank.rename(name, "other")):
        with pytest.raises(BankError, match="no such name"):
            act("unknown")


@pytest.mark.parametrize("row", [3, -1, 10**9, True, False])
def test_rows_without_an_adapter_are_refused(row: int) -> None:
    with pytest.raises(BankError, match=r"expected one of 0 \(the base\), 1 \(news\), 2 \(wire\)"):
        _bank("news", "wire").row(row)


@pytest.mark.parametrize("name", ["", BASE_NAME])
def test_names_that_are_not_free_are_refused(name: str) -> None:
    bank = _bank("news")
    with pytest.raises(BankError, match="not free"):
        bank.add(name)
    with pytest.raises(BankError, match="not free"):
        bank.rename("news", name)
    assert bank.names == ("news",)


def test_a_name_twice_is_refused() -> None:
    bank = _bank("news", "wire")
    with pytest.raises(BankError, match="the bank has one of this name"):
        bank.add("news")
    with pytest.raises(BankError, match="not free"):
        bank.rename("news", "wire")
    assert torch.equal(bank.vector("news"), _row(2))


@pytest.mark.parametrize("shape", [(4,), (6,), (1, 5), (), (5, 1)])
def test_a_row_of_another_width_is_refused(shape: tuple[int, ...]) -> None:
    bank = _bank("news")
    told = r"this base needs \(5,\)\. The adapter belongs to another base"
    with pytest.raises(BankError, match=told):
        bank.add("wrong", torch.ones(shape))
    with pytest.raises(BankError, match=told):
        bank.set_vector("news", torch.ones(shape))
    assert bank.names == ("news",)


@pytest.mark.parametrize("base", [0, BASE_NAME])
def test_the_base_cannot_be_changed(base: Any) -> None:
    bank = _bank("news")
    with pytest.raises(BankError, match="always ones"):
        bank.set_vector(base, _row(2))
    with pytest.raises(BankError, match="always ones"):
        bank.set_trainable(base)
    with pytest.raises(BankError, match=r"Removing row 0: it is the base \('__base__'\), always ones, and stays"):
        bank.remove(base)
    assert torch.equal(bank.vector(BASE_NAME), _row(1))


def test_a_bank_can_be_copied() -> None:
    bank = _bank("news")
    bank.add("wire", trainable=True)
    copied = copy.deepcopy(bank)
    copied.set_vector("news", _row(50))
    copied.set_vector("wire", _row(50))
    copied.add("more")
    assert torch.equal(bank.gather([1, 2])[:, 0], torch.tensor([2.0, 1.0]))
    assert copied.snapshot.vector(2) is copied.get_parameter("vectors.row2")
    assert bank.names == ("news", "wire")


def test_a_state_dict_holds_rows_at_rest_and_in_training() -> None:
    bank = _bank("news", "wire")
    bank.set_trainable("wire")
    with torch.no_grad():
        next(bank.parameters()).fill_(7)
    buffer = io.BytesIO()
    torch.save(bank.state_dict(), buffer)
    buffer.seek(0)
    other = Bank(PLAN)
    other.add("news")
    other.add("wire", trainable=True)
    other.load_state_dict(torch.load(buffer))
    assert torch.equal(other.gather([1, 2]), bank.gather([1, 2]))


def test_a_state_dict_that_is_assigned_is_used() -> None:
    """`assign=True` puts new parameters in place; the rows in training used to be read from the old ones."""
    bank, other = _bank("news", trainable=True), Bank(PLAN)
    other.add("news", trainable=True)
    other.load_state_dict(bank.state_dict(), assign=True)
    assert torch.equal(other.gather([1]), bank.gather([1]))
    other.gather([1]).sum().backward()
    assert next(other.parameters()).grad is not None


def test_parameters_given_to_a_functional_call_are_used() -> None:
    bank = _bank("news", trainable=True)

    class Gathering(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bank = bank

        def forward(self) -> Tensor:
            return self.bank.gather([1, 0])

    found = torch.func.functional_call(Gathering(), {"bank.vectors.row1": _row(6)}, ())
    assert found[:, 0].tolist() == [6.0, 1.0]
    assert bank.gather([1])[0, 0] == 2


def test_a_state_dict_of_other_adapters_is_refused() -> None:
    with pytest.raises(
        RuntimeError, match=r"adapters 1 \(news\) and rows at rest of shape \(1, 5\), this bank 1 \(wire\) and"
    ):
        _bank("wire").load_state_dict(_bank("news").state_dict())
    with pytest.raises(RuntimeError, match="Missing key"):
        _bank("news").load_state_dict({})


def test_many_adapters_keep_their_rows_while_the_table_grows() -> None:
    bank = Bank(PLAN)
    for number in range(1, 70):
        assert bank.add(f"a{number}", _row(number)) == number
    rows = [*range(69, 0, -1), 0]
    assert bank.gather(rows)[:, 4].tolist() == [*map(float, range(69, 0, -1)), 1.0]


def test_a_bank_that_is_filled_in_inference_mode_can_be_trained() -> None:
    bank = _bank("news")
    with torch.inference_mode():
        bank.add("wire", torch.full((5,), 3.0))
        bank.set_vector("news", torch.full((5,), 4.0))
        bank.set_trainable("wire")
    bank.add("more")
    bank.gather([1, 2, 3]).sum().backward()
    (parameter,) = bank.parameters()
    assert parameter.grad is not None and torch.equal(parameter.grad, _row(1))
    assert bank.gather([1, 2, 3])[:, 0].tolist() == [4.0, 3.0, 1.0]


def test_a_head_follows_its_adapter() -> None:
    bank = Bank(PLAN).eval()
    head = Head({"classifier": nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.5))})
    row = bank.add("news", head=head, trainable=True)
    assert bank.snapshot.head(row) is head
    assert not any(module.training for module in head.modules()), "its dropout would be on in an eval model"
    assert {name for name, _ in bank.named_parameters()} == {
        "vectors.row1", "heads.row1.parts.0.0.weight", "heads.row1.parts.0.0.bias",
    }  # fmt: skip
    bank.set_trainable("news", False)
    assert not any(p.requires_grad for p in bank.parameters())
    bank.remove("news")
    assert list(bank.parameters()) == []
    assert len(bank.heads) == 0


class Bookkeeping(RuleBasedStateMachine):
    """Any order of changes leaves every adapter with its own numbers, by name and by row."""

    names = st.sampled_from(["a", "b", "c", "d"])
    numbers = st.integers(-3, 9)

    def __init__(self) -> None:
        super().__init__()
        self.bank = Bank(PLAN)
        self.expected: dict[str, tuple[int, float]] = {}  # name → row, number
        self.trained: set[str] = set()
        self.next_row = 1
        self.snapshots: list[tuple[Any, dict[int, float]]] = []

    @rule(name=names, number=numbers, trainable=st.booleans())
    def add(self, name: str, number: int, trainable: bool) -> None:
        if name in self.expected:
            with pytest.raises(BankError):
                self.bank.add(name, _row(number))
            return
        assert self.bank.add(name, _row(number), trainable=trainable) == self.next_row
        self.expected[name] = (self.next_row, number)
        self.trained |= {name} if trainable else set()
        self.next_row += 1

    @rule(count=st.integers(0, 12), number=numbers, adopts=st.booleans())
    def add_many(self, count: int, number: int, adopts: bool) -> None:
        names = [f"m{self.next_row + place}" for place in range(count)]
        table = torch.arange(number, number + count, dtype=torch.float32).unsqueeze(1).expand(-1, 5)
        rows = self.bank.adopt(names, table) if adopts else self.bank.add_many(names, table)
        assert rows == tuple(range(self.next_row, self.next_row + count))
        self.expected |= {
            name: (row, number + place) for place, (name, row) in enumerate(zip(names, rows, strict=True))
        }
        self.next_row += count

    @precondition(lambda self: self.expected)
    @rule(data=st.data(), number=numbers)
    def replace(self, data: st.DataObject, number: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.expected)))
        if name in self.trained:
            with pytest.raises(BankError, match="is in training"):
                self.bank.replace(name, _row(number))
            return
        self.bank.replace(name, _row(number))
        self.expected[name] = (self.expected[name][0], number)

    @rule()
    def copied(self) -> None:
        self.bank = copy.deepcopy(self.bank)

    @precondition(lambda self: self.expected)
    @rule(data=st.data(), number=numbers)
    def set_vector(self, data: st.DataObject, number: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.expected)))
        self.bank.set_vector(name, _row(number))
        self.expected[name] = (self.expected[name][0], number)

    @precondition(lambda self: self.expected)
    @rule(data=st.data(), trainable=st.booleans())
    def set_trainable(self, data: st.DataObject, trainable: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.expected)))
        self.bank.set_trainable(name, trainable)
        self.trained = self.trained | {name} if trainable else self.trained - {name}

    @precondition(lambda self: self.expected)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.expected)))
        self.bank.remove(name)
        del self.expected[name]
        self.trained.discard(name)

    @precondition(lambda self: self.expected)
    @rule(data=st.data(), new=names)
    def rename(self, data: st.DataObject, new: str) -> None:
        name = data.draw(st.sampled_from(sorted(self.expected)))
        if new in self.expected:
            with pytest.raises(BankError):
                self.bank.rename(name, new)
            return
        self.bank.rename(name, new)
        self.expected[new] = self.expected.pop(name)
        self.trained = {new if trained == name else trained for trained in self.trained}

    @rule()
    def snapshot_of_rows_at_rest(self) -> None:
        rows = {row: number for name, (row, number) in self.expected.items() if name not in self.trained}
        self.snapshots.append((self.bank.snapshot, {**rows, 0: 1.0}))

    @rule()
    def cast(self) -> None:
        self.bank.half()

    @invariant()
    def every_adapter_has_its_numbers(self) -> None:
        assert set(self.bank.names) == set(self.expected)
        rows = [row for row, _ in self.expected.values()]
        assert [self.bank.row(name) for name in self.expected] == rows
        numbers = [number for _, number in self.expected.values()]
        assert self.bank.gather([0, *rows])[1:, 2].tolist() == numbers
        trained = {f"vectors.row{self.expected[name][0]}" for name in self.trained}
        assert {name for name, _ in self.bank.named_parameters()} == trained

    @invariant()
    def old_snapshots_stay(self) -> None:
        for snapshot, expected in self.snapshots:
            assert snapshot.gather(list(expected))[:, 0].tolist() == list(expected.values())


TestBookkeeping = Bookkeeping.TestCase
TestBookkeeping.settings = settings(max_examples=25, stateful_step_count=14, deadline=None)

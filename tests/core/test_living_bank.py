"""A bank that changes while it is read: a pass has the rows it began with, a change costs the rows it is about."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ia3.core.attach import Attachment
from ia3.core.bank import Bank
from ia3.core.heads import Head
from ia3.core.sites import Channels, Plan, Site
from ia3.errors import BankError
from tests.core.banks import attached_model, random_row
from tests.families import make_inputs

PLAN = Plan((Site("k", "output", "key", Channels.span(0, 5, 5), 5),), "toy", "targets")
MANY = 2000


def _row(number: float) -> Tensor:
    return torch.full((5,), float(number))


def _table(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float32).unsqueeze(1).expand(-1, 5).contiguous()


def _filled(count: int) -> Bank:
    """Return a bank with adapters `a1`, `a2`, … whose numbers are those of their rows."""
    bank = Bank(PLAN)
    bank.add_many([f"a{n}" for n in range(1, count + 1)], _table(*range(1, count + 1)))
    return bank


# -- what a change does -----------------------------------------------------------------------------------------------


def test_replacing_changes_numbers_head_and_record_in_one_step_and_keeps_the_row() -> None:
    bank = Bank(PLAN)
    old, new = Head({"classifier": nn.Linear(2, 3)}), Head({"classifier": nn.Linear(2, 4)})
    row = bank.add("news", _row(2), head=old, record={"labels": 3})
    before = bank.snapshot
    bank.replace("news", _row(5), head=new, record={"labels": 4})
    after = bank.snapshot
    assert bank.row("news") == row
    assert (float(before.vector(row)[0]), before.head(row), before.record(row)) == (2, old, {"labels": 3})
    assert (float(after.vector(row)[0]), after.head(row), after.record(row)) == (5, new, {"labels": 4})
    assert set(bank.state_dict()) >= {"heads.row1.parts.0.weight"}
    bank.replace(row, _row(6))
    assert (bank.snapshot.head(row), bank.record(row), len(bank.heads)) == (None, {}, 0)


def test_an_adapter_in_training_is_not_replaced() -> None:
    bank = Bank(PLAN)
    bank.add("news", _row(2), trainable=True)
    with pytest.raises(BankError, match=r"'news': it is in training.*set_trainable\(name, False\)"):
        bank.replace("news", _row(3))
    bank.set_trainable("news", False)
    bank.replace("news", _row(3))
    assert torch.equal(bank.vector("news"), _row(3))


def test_the_number_of_a_removed_row_is_nobodys_though_its_place_is_used_again() -> None:
    bank = _filled(3)
    place = bank.snapshot.slots([2])[0].number
    bank.remove("a2")
    row = bank.add("new", _row(9))
    assert row == 4
    assert bank.snapshot.slots([row])[0].number == place
    with pytest.raises(BankError, match="Looking up row 2: no adapter lies there"):
        bank.gather([1, 2])
    bank.add("a2", _row(7))
    assert bank.row("a2") == 5, "a new adapter of an old name is another one"


def test_a_running_snapshot_keeps_its_places_from_being_used_again() -> None:
    bank = _filled(3)
    before, gone = bank.snapshot, []
    for number in range(40):
        bank.remove(f"a{2 if number == 0 else 100 + number - 1}")
        bank.add(f"a{100 + number}", _row(-number))
        bank.set_vector("a1", _row(50 + number))
        gone.append(bank.snapshot)
    assert before.gather([1, 2, 3])[:, 0].tolist() == [1, 2, 3]
    for number, snapshot in enumerate(gone):
        assert snapshot.gather([1, snapshot.row(f"a{100 + number}")])[:, 0].tolist() == [50 + number, -number]


def test_changing_without_end_takes_no_more_space() -> None:
    bank = _filled(4)
    for number in range(500):
        bank.set_vector("a1", _row(number))
        bank.add(f"b{number}", _row(number))
        bank.remove(f"b{number}")
    assert bank._table.capacity == 8
    assert bank.gather([1, 2, 3, 4])[:, 0].tolist() == [499, 2, 3, 4]


def test_records_belong_to_rows_and_go_with_them() -> None:
    bank = _filled(2)
    bank.describe(1, {"base": "toy"})
    bank.rename("a1", "older")
    assert bank.record("older") == {"base": "toy"}
    before = bank.snapshot
    bank.remove("older")
    assert before.record(1) == {"base": "toy"}
    for act in (lambda: bank.record(1), lambda: bank.describe(1, {}), lambda: bank.describe(7, {})):
        with pytest.raises(BankError, match="no adapter lies there"):
            act()
    bank.describe(2, {"base": "toy"})
    bank.describe(2, None)
    assert bank.record(2) == {}


# -- many at once -----------------------------------------------------------------------------------------------------


def test_many_adapters_are_added_at_once_with_their_heads_and_records() -> None:
    bank = Bank(PLAN).eval()
    bank.add("first", _row(9))
    heads = {"b": Head({"classifier": nn.Sequential(nn.Linear(2, 3), nn.Dropout())})}
    given = _table(2, 3, 4)
    assert bank.add_many(["a", "b", "c"], given, heads=heads, records={"c": {"labels": 2}}) == (2, 3, 4)
    given.zero_()
    assert bank.gather([4, 3, 2, 1, 0])[:, 0].tolist() == [4, 3, 2, 9, 1]
    found = [(bank.snapshot.head(row), bank.snapshot.record(row)) for row in (1, 2, 3, 4)]
    assert found == [(None, None), (None, None), (heads["b"], None), (None, {"labels": 2})]
    assert not any(p.requires_grad for p in bank.parameters())
    assert not any(module.training for module in bank.modules())
    assert bank.add_many([], _table()) == ()


@pytest.mark.parametrize("how", ["add_many", "adopt"])
@pytest.mark.parametrize(
    ("names", "table", "told"),
    [
        (["x", "a1"], _table(1, 2), "the bank has one of this name"),
        (["x", ""], _table(1, 2), "not free to use"),
        (["x", "__base__"], _table(1, 2), "not free to use"),
        (["x", "y", "x"], _table(1, 2, 3), "Adding 3 adapters: 'x' is there twice"),
        (["x", "y"], _table(1, 2, 3), r"their table has shape \(3, 5\), expected \(2, 5\)"),
        (["x"], torch.ones(1, 4), r"their table has shape \(1, 4\), expected \(1, 5\)"),
        (["x"], torch.ones(5), r"their table has shape \(5,\)"),
    ],
)
def test_of_many_adapters_all_are_added_or_none(how: str, names: list[str], table: Tensor, told: str) -> None:
    bank = _filled(2)
    with pytest.raises(BankError, match=told):
        getattr(bank, how)(names, table)
    with pytest.raises(BankError, match="a head or record is given for 'z', which is not added"):
        getattr(bank, how)(["x"], _table(1), records={"z": {}})
    assert bank.names == ("a1", "a2")
    assert bank.add("x") == 3


def test_a_memory_mapped_table_is_adopted_and_changes_do_not_reach_the_file(tmp_path: Path) -> None:
    file = tmp_path / "table.bin"
    _table(*range(1, MANY + 1)).numpy().tofile(file)
    mapped = torch.from_file(str(file), shared=True, size=MANY * 5).view(MANY, 5)
    written = file.read_bytes()
    bank = Bank(PLAN)
    bank.adopt([f"a{n}" for n in range(1, MANY + 1)], mapped)
    assert bank.gather([MANY, 0, 3, MANY])[:, 0].tolist() == [MANY, 1, 3, MANY]
    bank.set_vector("a3", _row(-3))
    bank.set_trainable("a4")
    bank.add("new", _row(8))
    bank.remove("a5")
    bank.gather([4, 3]).sum().backward()
    found = bank.gather([3, 4, 6, MANY + 1, 0])
    assert found[:, 0].tolist() == [-3, 4, 6, 8, 1]
    assert file.read_bytes() == written
    assert bank.half().gather([6])[0, 0] == 6


def test_a_table_of_another_dtype_is_not_adopted_but_added() -> None:
    bank = Bank(PLAN)
    half = _table(2, 3).bfloat16()
    with pytest.raises(BankError, match=r"its dtype is torch.bfloat16, expected torch.float32\. Use add_many"):
        bank.adopt(["a", "b"], half)
    bank.add_many(["a", "b"], half)
    assert bank.gather([1, 2])[:, 0].tolist() == [2, 3]


# -- what a change and a pass cost ------------------------------------------------------------------------------------


class Operations(TorchDispatchMode):
    """Writes down every operation inside with the size of what it makes; in-place ones with that of what they read."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = str(func)
        made = args[-1] if "_copy_" in name or "copy_" in name else out
        self.seen.append((name, made.numel() if isinstance(made, Tensor) else 0))
        return out


CHANGES: dict[str, Callable[[Bank], Any]] = {
    "set_vector": lambda bank: bank.set_vector("a2", _row(7)),
    "replace": lambda bank: bank.replace("a2", _row(7)),
    "add": lambda bank: bank.add("new", _row(7)),
    "remove": lambda bank: bank.remove("a2"),
    "rename": lambda bank: bank.rename("a2", "new"),
    "set_trainable": lambda bank: bank.set_trainable("a2"),
    "back at rest": lambda bank: (bank.set_trainable("a2"), bank.set_trainable("a2", False)),
    "gather": lambda bank: bank.gather([2, 0, 1, 2]),
    "vector": lambda bank: bank.vector("a2"),
}


def _spacious(count: int) -> Bank:
    """Return a bank with room for more rows, so that none of the changes makes a new block."""
    bank = _filled(count + 8)
    for number in range(count + 1, count + 9):
        bank.remove(f"a{number}")
    return bank


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_the_same_work_with_few_adapters_and_with_many(change: str) -> None:
    """`set_vector` used to copy the whole table."""
    found = []
    for bank in (_spacious(7), _spacious(MANY)):
        with Operations() as operations:
            CHANGES[change](bank)
        found.append(operations.seen)
    few, many = found
    assert many == few
    assert max((size for _, size in many), default=0) <= 4 * PLAN.width


def test_growing_reads_none_of_the_rows_that_are_there() -> None:
    bank = _filled(MANY)
    while any(block.free for block in bank._table._blocks):
        bank.add(f"b{len(bank.names)}")
    with Operations() as operations:
        bank.add("one more")
    made = {name: size for name, size in operations.seen if size > PLAN.width}
    assert set(made) == {"aten.empty.memory_format"}


def test_adopting_reads_and_copies_nothing() -> None:
    bank, table = Bank(PLAN), _table(*range(100))
    with Operations() as operations:
        bank.adopt([f"a{n}" for n in range(100)], table)
    assert {name for name, _ in operations.seen} <= {"aten.detach.default"}
    assert bank.snapshot.slots([1])[0].block.rows.data_ptr() == table.data_ptr()


class Untouched(dict[Any, Any]):
    """A dict that is looked into by key and never walked through."""

    def _refuse(self, *_: Any) -> Any:
        raise AssertionError("a pass walked through all adapters")

    __iter__ = keys = values = items = copy = _refuse  # type: ignore[assignment]


@pytest.mark.parametrize("trainable", [False, True])
def test_no_pass_walks_through_the_bank(trainable: bool) -> None:
    model, attachment = attached_model("llama", *(f"a{n}" for n in range(12)), trainable=trainable)
    bank = attachment.bank
    held = bank.snapshot
    bank.snapshot = replace(held, **{f.name: Untouched(getattr(held, f.name)) for f in fields(held)})
    inputs = make_inputs("llama")
    for rows in (["a1", "__base__", "a7"], [3, 3, 0], "a5", ["a2"] * 3):
        model(**inputs, rows=rows).logits.sum()
    with attachment.rows(["a1", "a2", "a3"]):
        model(**inputs)
    attachment.activate("a4")
    model(**inputs)
    model.generate(input_ids=inputs["input_ids"], rows=["a1", "a2", "__base__"], max_new_tokens=2, num_beams=2)


def test_a_classifier_looks_at_the_heads_of_its_batch_and_no_other() -> None:
    model, attachment = attached_model("bert")
    attachment.route_heads(["classifier"])
    for name in ("a", "b", "c"):
        attachment.add(name)
    bank = attachment.bank
    bank.snapshot = replace(bank.snapshot, entries=Untouched(bank.snapshot.entries))
    assert model(**make_inputs("bert"), rows=["a", "__base__", "c"]).logits.shape == (3, 3)


# -- threads ----------------------------------------------------------------------------------------------------------


def _run(work: list[Callable[[], Any]]) -> list[BaseException]:
    """Run functions in threads and return what they raised."""
    failed: list[BaseException] = []

    def guarded(act: Callable[[], Any]) -> None:
        try:
            act()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=guarded, args=(act,)) for act in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    return failed


def test_readers_see_whole_rows_of_the_right_adapter_while_a_writer_changes_everything() -> None:
    """A row of adapter n is (n, version, n · version, version, n): a mixture, or a row of another one, shows."""
    bank, done = Bank(PLAN), threading.Event()

    def numbers(n: int, version: int) -> Tensor:
        return torch.tensor([n, version, n * version, version, n], dtype=torch.float32)

    names = [f"a{n}" for n in range(1, 9)]
    bank.add_many(names, torch.stack([numbers(n, 1) for n in range(1, 9)]))
    seen = []

    def write() -> None:
        for version in range(2, 150):
            for n in range(1, 9):
                name = f"a{n}"
                if (version + n) % 3 == 0:
                    bank.remove(name)
                    bank.add(name, numbers(n, version))
                elif (version + n) % 3 == 1:
                    bank.replace(name, numbers(n, version))
                else:
                    bank.rename(name, "for a moment")
                    bank.set_vector("for a moment", numbers(n, version))
                    bank.rename("for a moment", name)
            bank.add_many([f"x{version}", f"y{version}"], torch.full((2, 5), -1.0))
            bank.remove(f"x{version}")
        done.set()

    def read() -> None:
        count = 0
        while not done.is_set():
            chosen = [names[(count + place) % 8] for place in range(0, 8, 1 + count % 3)]
            count += 1
            try:
                snapshot, rows = bank.look_up(["__base__", *chosen])
            except BankError as error:
                assert "no such name" in str(error), "it was away for a moment"
                continue
            gathered = snapshot.gather(rows)
            assert torch.equal(gathered[0], torch.ones(5))
            for name, row in zip(chosen, gathered[1:].tolist(), strict=True):
                n, version = int(name[1:]), row[1]
                assert row == [n, version, n * version, version, n]
            seen.append(max(gathered[1:, 1].tolist()))

    assert _run([write, read, read]) == []
    assert len(seen) > 10 and max(seen) > min(seen)
    assert bank._table.capacity <= 8 * 2**8


@pytest.fixture
def served() -> Iterator[tuple[Any, Attachment, dict[str, list[Tensor]]]]:
    """A model with `a` and `b` in one of two versions each, and the logits of both versions of both."""
    model, attachment = attached_model("llama", "a", "b")
    expected: dict[str, list[Tensor]] = {"a": [], "b": []}
    for place, name in enumerate("ab"):
        for version in (1, 0):
            attachment.bank.set_vector(name, random_row(attachment.bank, seed=place + 10 * version))
            expected[name].insert(0, model(**make_inputs("llama"), rows=name).logits.detach())
    yield model, attachment, expected


@torch.no_grad()
def test_passes_of_a_model_have_whole_versions_while_a_writer_replaces_adapters(
    served: tuple[Any, Attachment, dict[str, list[Tensor]]],
) -> None:
    model, attachment, expected = served
    bank, inputs, done = attachment.bank, make_inputs("llama"), threading.Event()
    base = model(**inputs, rows="__base__").logits
    versions = {name: [random_row(bank, seed=place + 10 * v) for v in (0, 1)] for place, name in enumerate("ab")}

    def write() -> None:
        number = 0
        while not done.is_set():
            number += 1
            for name in "ab":
                bank.replace(name, versions[name][number % 2])
            bank.add(f"c{number}")
            bank.remove(f"c{number}")

    def read() -> None:
        with torch.no_grad():
            for _ in range(25):
                logits = model(**inputs, rows=["a", "__base__", "b"]).logits
                assert torch.allclose(logits[1], base[1], atol=1e-5)
                for place, name in ((0, "a"), (2, "b")):
                    assert any(torch.allclose(logits[place], whole[place], atol=1e-5) for whole in expected[name])

    def read_twice() -> None:
        try:
            read()
            read()
        finally:
            done.set()

    assert _run([write, read, read_twice]) == []


def test_parameters_and_modules_may_be_walked_through_while_adapters_come_and_go() -> None:
    """A model that was put into eval mode while an adapter was added raised `dictionary changed size`."""
    bank = Bank(PLAN)
    for n in range(20):
        bank.add(f"a{n}", trainable=True, head=Head({"classifier": nn.Linear(1, 1)}))
    walks = [bank.named_parameters(), bank.named_modules(), iter(bank.vectors._parameters.items())]
    first = [next(walk) for walk in walks]
    bank.add("more", trainable=True, head=Head({"classifier": nn.Linear(1, 1)}))
    bank.remove("a3")
    for walk in walks:
        list(walk)
    assert len(first) == 3

"""A store of which bytes are flipped, cut off or taken away is told so, and never answers with other numbers."""

from __future__ import annotations

import sqlite3
import warnings
from contextlib import closing
from pathlib import Path

import pytest

from ia3.adapters.store import Store
from ia3.adapters.store_tables import weight_of
from ia3.errors import AdapterError, IA3Warning
from tests.adapters.store_examples import assert_holds, damage, reads, small, small_store

WANT = {name: small(i) for i, name in enumerate("abc")}


def change(path: Path, *statements: str) -> None:
    """Change a store behind its back."""
    with closing(sqlite3.connect(path)) as file:
        for statement in statements:
            file.execute(statement)
        file.commit()


def is_whole(path: Path, how: str) -> bool:
    """Return whether a store opens without a word; raise if something is not as it was, and nobody says so."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            store = Store.open(path)
        except AdapterError as error:
            assert str(error).startswith(f"Opening {path}: "), how
            return False
    with store:
        told = any(warning.category is IA3Warning for warning in caught)
        assert store.names == tuple(WANT) or (told and set(store.names) < set(WANT)), how
        unreadable = {name for name in WANT if not reads(store, name, WANT[name])}
        named = store.verify()
        assert not unreadable or named, how
        assert unreadable <= {damage.name for damage in named} or any(damage.name is None for damage in named), how
        return not told and not unreadable


@pytest.mark.parametrize("step", [61, pytest.param(5, marks=pytest.mark.slow)])
def test_a_flipped_bit_is_told_and_never_answered_with(step: int, tmp_path: Path) -> None:
    path = tmp_path / "s.ia3"
    small_store(path, "a", "b").append("c", small(2))
    content = path.read_bytes()
    found = []
    for place in range(0, len(content), step):
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        found.append(is_whole(path, f"flipped at {place}"))
    assert 0.05 < found.count(False) / len(found) < 0.5  # the rest is of no matter: pages are not full


def test_a_store_that_is_cut_off_is_told(tmp_path: Path) -> None:
    path = tmp_path / "s.ia3"
    small_store(path, "a", "b").append("c", small(2))
    content = path.read_bytes()
    for cut in range(1, len(content), 331):
        path.write_bytes(content[:cut])
        if cut > len(content) - 4096:  # within the last page, of which a part may not be used
            is_whole(path, f"cut at {cut}")
            continue
        with pytest.raises(AdapterError, match=rf"^Opening {path}: (the file is damaged or cut off|this is no packed)"):
            Store.open(path)


@pytest.mark.parametrize(
    ("statement", "gone", "told"),
    [
        ("DELETE FROM names WHERE name = 'b'", "b", "not whole, and what is missing cannot be read"),
        ("UPDATE names SET name = 'x' WHERE name = 'b'", "b", "damaged at 'x'"),
        ("UPDATE names SET facts = (SELECT facts FROM names WHERE name = 'a') WHERE name = 'b'", "b", "damaged at 'b'"),
        ("UPDATE names SET facts = x'00' WHERE name = 'b'", "b", "damaged at 'b'"),
        ("UPDATE names SET facts = 7 WHERE name = 'b'", "b", "damaged at 'b'"),
        ("UPDATE names SET name = x'ff41' WHERE name = 'b'", "b", r"damaged at .*A"),
        ("UPDATE names SET checksum = checksum + 1 WHERE name = 'b'", "b", "damaged at 'b'"),
        ("UPDATE store SET total = total + 1", "", "not whole"),
        (
            "INSERT INTO names SELECT 9, 'x', facts, checksum FROM names WHERE name = 'b'",
            "",
            "damaged at 'x'",
        ),
    ],
)
def test_an_adapter_that_is_missing_or_renamed_is_told_and_the_others_are_read(
    statement: str, gone: str, told: str, tmp_path: Path
) -> None:
    path = tmp_path / "s.ia3"
    small_store(path, *"abc")
    change(path, statement)
    with pytest.warns(IA3Warning, match=rf"Opening .*s\.ia3: the list of its adapters is {told}"):
        store = Store.open(path)
    left = {name: adapter for name, adapter in WANT.items() if name != gone}
    assert_holds(store, left)
    assert store.verify()
    if gone:
        with pytest.raises(AdapterError, match=r"Looking up adapter 'b'"):
            store.adapter(gone)
    store.append("d", small(5))  # tidies up
    assert_holds(Store.open(path), {**left, "d": small(5)})
    assert store.verify() == ()


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM adapters WHERE id = 2",
        "UPDATE adapters SET id = 9 WHERE id = 2",
        "UPDATE adapters SET numbers = 'text' WHERE id = 2",
        "UPDATE adapters SET numbers = (SELECT numbers FROM adapters WHERE id = 1) WHERE id = 2",
        "UPDATE adapters SET numbers = substr(numbers, 1, 20) WHERE id = 2",
    ],
)
def test_an_adapter_whose_numbers_are_others_or_gone_is_named(statement: str, tmp_path: Path) -> None:
    path = tmp_path / "s.ia3"
    small_store(path, *"abc").close()
    change(path, statement)
    store = Store.open(path)
    assert ("b", "row") in {(damage.name, damage.what) for damage in store.verify()}
    with pytest.raises(AdapterError, match=r"Reading adapter 'b' from .*: its row is damaged, the checksum differs"):
        store.vector("b")
    assert store.adapter("a") and store.adapter("c")


@pytest.mark.parametrize(
    "statement", ["UPDATE store SET description = x'00'", "UPDATE store SET unused = 'x'", "DELETE FROM store"]
)
def test_a_store_whose_base_and_plan_are_damaged_is_refused(statement: str, tmp_path: Path) -> None:
    small_store(tmp_path / "s.ia3", "a").close()
    change(tmp_path / "s.ia3", statement)
    with pytest.raises(AdapterError, match=r"^Opening .*damaged.*Take another copy"):
        Store.open(tmp_path / "s.ia3")


def test_a_damaged_adapter_is_named_and_can_be_removed(tmp_path: Path) -> None:
    path = tmp_path / "s.ia3"
    small_store(path, "a", "b", "c").close()
    for part in ("text", "numbers", "tensors"):
        damage(path, "b", part)
    damaged = Store.open(path)
    assert [(d.name, d.what) for d in damaged.verify()] == [("b", "config and record"), ("b", "row"), ("b", "head")]
    damaged.rename("b", "x")
    damaged.compact()
    with pytest.raises(AdapterError, match=r"Reading adapter 'x' from .*: its config and record is damaged"):
        damaged.adapter("x")
    damaged.remove("x")
    damaged.compact()
    assert_holds(damaged, {"a": small(0), "c": small(2)})
    assert damaged.verify() == ()


def test_a_file_that_is_cut_while_it_is_open_is_told_and_ends_nothing(tmp_path: Path) -> None:
    path = tmp_path / "s.ia3"
    store = small_store(path, *"abc")
    with path.open("r+b") as file:
        file.truncate(4096)
    with pytest.raises(AdapterError, match=r"Reading adapter 'c' from .*s\.ia3: "):
        store.vector("c")


@pytest.mark.parametrize("facts", [b"", b"\0" * 3, b"\xff" * 52])
def test_facts_that_are_none_are_told_where_their_checksum_is_right(facts: bytes, tmp_path: Path) -> None:
    """A stranger may write any checksum; facts that cannot be unpacked ended in a traceback."""
    path = tmp_path / "s.ia3"
    small_store(path, "a", "b").close()
    checksum, weight = weight_of(b"b", facts)
    with closing(sqlite3.connect(path)) as file:
        [[before]] = file.execute("SELECT checksum FROM names WHERE name = 'b' OR name = x'62'").fetchall()
        file.execute("UPDATE names SET facts = ?, checksum = ? WHERE name = 'b' OR name = x'62'", (facts, checksum))
        file.execute("UPDATE store SET total = total - ? + ?", (before + (weight - checksum), weight))
        file.commit()
    with pytest.warns(IA3Warning, match="damaged at 'b'"):
        store = Store.open(path)
    with store, pytest.raises(AdapterError, match="its line in the list"):
        store.adapter("b")

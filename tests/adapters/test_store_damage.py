"""A store that is cut off, overwritten or flipped loses the last append at most, and names what is damaged."""

from __future__ import annotations

import random
import warnings
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st

from ia3.adapters.store import Store, create_store
from ia3.adapters.store_blocks import HEAD_SIZE
from ia3.adapters.store_file import lock_of
from ia3.adapters.store_index import read_state
from ia3.errors import AdapterError, IA3Warning
from tests.adapters.store_examples import PLAN, assert_holds, reads, small, small_store

Course = list[tuple[int, tuple[str, ...]]]  # where each commit ends, and the names that it leaves


def make_course(path: Path) -> tuple[bytes, Course]:
    """Return the bytes of a store that was added to, changed and removed from, and its commits."""
    store = create_store(path, PLAN)
    course: Course = [(path.stat().st_size, store.names)]
    changes = (
        lambda: store.append("a", small(0)),
        lambda: store.append_many({"b": small(1), "c": small(2)}),
        lambda: store.replace("b", small(3)),
        lambda: store.remove("a"),
        lambda: store.rename("c", "d"),
        lambda: store.append("e", small(5), half=True),
    )
    for change in changes:
        change()
        course.append((path.stat().st_size, store.names))
    return path.read_bytes(), course


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, Course]:
    return make_course(tmp_path_factory.mktemp("course") / "s.ia3")


def allowed(course: Course, cut: int) -> list[tuple[str, ...] | None]:
    """Return what a file cut at a place may hold: its last whole commit, or the one that was being written."""
    number = sum(end <= cut for end, _ in course)
    before = course[number - 1][1] if number else None
    return [before, *(names for _, names in course[number : number + 1])]


def test_cut_at_every_byte_a_store_loses_the_last_append_at_most(course: tuple[bytes, Course]) -> None:
    content, commits = course
    for cut in range(len(content) + 1):
        state = read_state(content[:cut])
        names = None if state is None else tuple(state.entries)
        assert names in allowed(commits, cut), f"cut at {cut}"
        if names == allowed(commits, cut)[0] and state is not None:
            assert state.end <= cut


TORN = pytest.mark.filterwarnings("ignore:.*behind its last whole commit:ia3.errors.IA3Warning")


@TORN
@pytest.mark.parametrize("tail", [b"\0", b"x" * 64, b"\0" * 5000, b"IA3b" * 16, None])
def test_anything_behind_the_last_commit_is_of_no_matter(
    tail: bytes | None, course: tuple[bytes, Course], tmp_path: Path
) -> None:
    content, commits = course
    path = tmp_path / "s.ia3"
    path.write_bytes(content + (content[64:] if tail is None else tail))
    store = Store.open(path)
    assert store.names == commits[-1][1]
    assert any("the end of the file" in damage.what for damage in store.verify())
    store.append("f", small(6))
    assert Store.open(path).names == (*commits[-1][1], "f")
    assert store.verify() == ()


@TORN
@pytest.mark.parametrize("step", [997, pytest.param(7, marks=pytest.mark.slow)])
def test_a_store_cut_at_any_byte_is_added_to_as_if_nothing_had_been(
    step: int, course: tuple[bytes, Course], tmp_path: Path
) -> None:
    content, commits = course
    for cut in range(commits[0][0], len(content), step):
        path = tmp_path / "s.ia3"
        path.write_bytes(content[:cut])
        store = Store.open(path)
        before = {name: store.adapter(name) for name in store.names}
        assert store.names in allowed(commits, cut)
        with pytest.raises(AdapterError):  # a change that fails loses nothing either
            store.remove("nobody")
        assert_holds(Store.open(path), before)
        store.append("new", small(7))
        assert_holds(Store.open(path), {**before, "new": small(7)})
        assert store.verify() == ()


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_a_larger_store_torn_and_overwritten_at_random_keeps_what_was_committed(
    data: st.DataObject, large: tuple[bytes, Course]
) -> None:
    content, commits = large
    cut = data.draw(st.integers(commits[0][0], len(content)))
    garbage = data.draw(st.binary(max_size=300))
    last = sum(end <= cut for end, _ in commits) - 1
    state = read_state(content[:cut] + garbage)
    assert state is not None
    assert tuple(state.entries) in [names for _, names in commits[last : last + 2]]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, Course]:
    """Return a store of many commits, with an index of everything now and then."""
    path, chance = tmp_path_factory.mktemp("large") / "s.ia3", random.Random(0)
    store = small_store(path, "a", "b")
    commits: Course = [(path.stat().st_size, store.names)]
    for number in range(90):
        if len(store) > 3 and chance.random() < 0.3:
            store.remove(chance.choice(store.names))
        else:
            store.append_many({f"{number}-{i}": small(number + i) for i in range(chance.randint(1, 3))})
        commits.append((path.stat().st_size, store.names))
    return path.read_bytes(), commits


def test_a_packed_store_that_is_cut_off_holds_every_adapter_before_the_cut_and_names_the_one_after(
    tmp_path: Path,
) -> None:
    """A copy that broke off still has what came before. It opened with one fewer in silence."""
    path = tmp_path / "s.ia3"
    store = small_store(path, *"abcdef")
    ends = [store._file.block(name).end for name in store.names]
    content, named = path.read_bytes(), 0
    for cut in range(ends[0] + HEAD_SIZE, len(content), 97):
        path.write_bytes(content[:cut])
        whole = sum(end + HEAD_SIZE <= cut for end in ends)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            opened = Store.open(path)
        assert_holds(opened, {name: small(i) for i, name in enumerate("abcdef"[:whole])})
        told = [str(warning.message) for warning in caught if warning.category is IA3Warning]
        assert len(told) == (opened._file.state.rest > 0), f"cut at {cut}"
        named += any(
            f"do not count: adapter {'abcdef'[whole : whole + 1]!r}. Adding was cut short" in one for one in told
        )
    assert named > 20


def _torn(path: Path, cut: int, *names: str) -> Store:
    """Return a store whose end is cut, opened with the warning that it must give."""
    small_store(path, *names)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - cut])
    with pytest.warns(IA3Warning, match=rf"Opening .*s\.ia3: .* do not count: adapter '{names[-1]}'"):
        return Store.open(path)


@pytest.mark.parametrize("cut", [900, 1200])
def test_an_adapter_that_is_torn_is_told_by_whoever_is_asked_for_it(cut: int, tmp_path: Path) -> None:
    store = _torn(tmp_path / "s.ia3", cut, "a", "b", "c")
    assert store.names == ("a", "b")
    message = "Looking up adapter 'c': it stands behind the last whole commit of .* and does not count"
    for ask in (store.adapter, store.vector, store.metadata, store.remove):
        with pytest.raises(AdapterError, match=message):
            ask("c")
    assert next((d.name, d.what) for d in store.verify()) == ("c", "all of it, behind the last whole commit")
    store.append("c", small(5))  # tidies up
    assert_holds(Store.open(store.path), {"a": small(0), "b": small(1), "c": small(5)})
    assert store.verify() == ()


def test_where_a_torn_adapter_would_have_replaced_another_that_is_said(tmp_path: Path) -> None:
    path = tmp_path / "s.ia3"
    small_store(path, "a", "b").replace("a", small(7))
    path.write_bytes(path.read_bytes()[: -3 * HEAD_SIZE])
    with path.open("r+b") as file:  # the commit's head as well
        file.truncate(path.stat().st_size - HEAD_SIZE)
    with pytest.warns(IA3Warning, match=r"do not count: adapter 'a' \(of 'a' the older one is read\)"):
        assert_holds(Store.open(path), {"a": small(0), "b": small(1)})


def test_a_store_that_another_process_is_adding_to_is_opened_without_a_word(tmp_path: Path) -> None:
    path = tmp_path / "s.ia3"
    _torn(path, 1000, "a", "b")
    with FileLock(lock_of(path)):
        assert Store.open(path).names == ("a",)
    with pytest.warns(IA3Warning, match="adapter 'b'"):
        Store.open(path)


def test_bytes_that_are_no_block_under_a_damaged_index_are_told(tmp_path: Path) -> None:
    """With the index and a block's head damaged the adapter was gone without a word."""
    path = tmp_path / "s.ia3"
    store = small_store(path, "a", "b", "c")
    content = bytearray(path.read_bytes())
    content[store._file.block("b").place + 9] ^= 4
    state = store._file.state
    for place in (state.commit + HEAD_SIZE, store._file.block("b").end + HEAD_SIZE):  # the last index, and b's
        content[place] ^= 255
    path.write_bytes(content)
    with pytest.warns(IA3Warning, match="its index is damaged, and no adapter can be read from .* bytes in it"):
        damaged = Store.open(path)
    assert any("bytes that are no block" in damage.what for damage in damaged.verify())


@pytest.mark.parametrize("step", [97, pytest.param(1, marks=pytest.mark.slow)])
def test_a_flipped_byte_damages_one_adapter_at_most_and_verify_names_it(step: int, tmp_path: Path) -> None:
    path = tmp_path / "s.ia3"
    store = small_store(path, "a", "b")
    store.append("c", small(2))
    want = {name: small(i) for i, name in enumerate("abc")}
    content = path.read_bytes()
    for place in range(0, len(content), step):
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        damaged = Store.open(path)
        assert damaged.names == store.names, f"flipped at {place}"
        named = {damage.name for damage in damaged.verify()}
        unreadable = {name for name in store.names if not reads(damaged, name, want[name])}
        assert unreadable <= named and len(named - {None}) <= 1, f"flipped at {place}"
        damaged.close()


def test_two_flipped_indexes_and_a_torn_end_are_made_up_for_by_the_blocks(
    course: tuple[bytes, Course], tmp_path: Path
) -> None:
    content, commits = course
    flipped = bytearray(content)
    for end, _ in commits:
        flipped[end - 2 * HEAD_SIZE] ^= 255  # each commit's index
    for cut in (0, 1, HEAD_SIZE):
        state = read_state(bytes(flipped[: len(flipped) - cut]))
        assert state is not None and tuple(state.entries) == commits[-1][1] and not state.is_clean
    path = tmp_path / "s.ia3"
    path.write_bytes(flipped)
    store = Store.open(path)
    assert [damage.what for damage in store.verify()] == ["the index"]
    store.compact()
    assert store.verify() == () and store.names == commits[-1][1]


def test_the_base_and_plan_are_there_twice(tmp_path: Path) -> None:
    path = tmp_path / "s.ia3"
    store = small_store(path, "a")
    content = bytearray(path.read_bytes())
    copies = store._file._descriptions()
    for number, copy in enumerate(copies):
        content[copy.text_at + 3] ^= 1
        path.write_bytes(content)
        if number == 0:
            damaged = Store.open(path)
            assert damaged.plan == PLAN and damaged.base == store.base
            assert [damage.what for damage in damaged.verify()] == ["a copy of the description (1 of 2)"]
            damaged.compact()
            assert damaged.verify() == () and damaged.plan == PLAN
    with pytest.raises(AdapterError, match=r"both copies of its description \(base and plan\) are damaged"):
        Store.open(path)


def test_a_damaged_adapter_is_named_can_be_removed_and_stops_compacting(tmp_path: Path) -> None:
    path = tmp_path / "s.ia3"
    store = small_store(path, "a", "b", "c")
    content = bytearray(path.read_bytes())
    block = store._file.block("b")
    for at in (block.place + 9, block.text_at, block.row_at, block.tensors_at):
        content[at] ^= 4
    path.write_bytes(content)
    damaged = Store.open(path)
    assert [(d.name, d.what) for d in damaged.verify()] == [
        ("b", "head of its block"), ("b", "config and record"), ("b", "row"), ("b", "head"),
    ]  # fmt: skip
    for act in (damaged.compact, lambda: damaged.rename("b", "x"), lambda: damaged.adapter("b")):
        with pytest.raises(AdapterError, match=r"Reading adapter 'b' from .*: its config and record is damaged"):
            act()
    assert Store.open(path).names == ("a", "b", "c")
    damaged.remove("b")
    damaged.compact()
    assert_holds(damaged, {"a": small(0), "c": small(2)})
    assert damaged.verify() == ()


def test_a_file_that_is_cut_while_it_is_open_is_told_and_ends_nothing(tmp_path: Path) -> None:
    path = tmp_path / "s.ia3"
    store = create_store(path, PLAN, adapters={f"{i}": small(i) for i in range(20)})
    with path.open("r+b") as file:
        file.truncate(4096)
    with pytest.raises(AdapterError, match=r"the file was cut off while it was open, got 4096 bytes, expected \d+"):
        store.vector("19")

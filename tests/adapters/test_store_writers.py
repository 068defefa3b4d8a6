"""Writers of a store: one at a time, killed at any instant, on a full disk; what was acknowledged is never lost."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import IO

import pytest

from ia3.adapters import store_writing
from ia3.adapters.store import Store
from ia3.adapters.store_file import open_store_file
from ia3.errors import AdapterError
from ia3.files import locked
from tests.adapters.examples import assert_same
from tests.adapters.store_examples import assert_holds, small, small_store

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}

# Changes a store for ever, without torch, and says each change once it is made. What it makes follows from its number.
_WRITER = """
import sys
from pathlib import Path
from ia3.adapters import store_writing
from ia3.adapters.store_file import open_store_file
from ia3.adapters.store_tables import Stored

store_writing._MOST_BYTES = 60_000
file = open_store_file(Path(sys.argv[1]))
print("ready", flush=True)
number = int(sys.argv[2])
while True:
    kind, names = number % 8, list(file.state.lines)
    def add(writer, *names):
        for name in names:
            writer.add(name, b"text", b"%08d" % number * 5000, b"x" * (number % 7), Stored.FLOAT32)
    if kind == 5 and names:
        file = store_writing.remove_adapters(file, names[:2])
    elif kind == 6 and names:
        file = store_writing.rename_adapter(file, names[0], f"{number}r")
    elif kind == 7:
        file = store_writing.compact_store_file(file, "Compacting")
    elif kind == 4 and names:
        file = store_writing.change_store_file(file, "Adding", lambda writer: add(writer, names[0]))
    else:
        file = store_writing.change_store_file(file, "", lambda w: add(w, f"{number}", f"{number}+", f"{number}*"))
    print(number, flush=True)
    number += 1
"""


def _expected(held: dict[str, int], number: int) -> dict[str, int]:
    """Return what the writer makes of what a store holds with a number: each name's number."""
    kind, names = number % 8, [*held]
    if kind == 5:
        return {name: held[name] for name in names[2:]}
    if kind == 6 and names:
        return {**{name: held[name] for name in names[1:]}, f"{number}r": held[names[0]]}
    if kind == 7:
        return held
    if kind == 4 and names:
        return {**held, names[0]: number}
    return {**held, **dict.fromkeys((f"{number}", f"{number}+", f"{number}*"), number)}


@contextlib.contextmanager
def _running(program: str, *arguments: object) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """Run a Python program that says when it is ready; it is killed in the end."""
    command = [sys.executable, "-W", "ignore", "-c", program, *map(str, arguments)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as process:
        try:
            assert process.stdout and process.stdout.readline().strip() == "ready"
            yield process, process.stdout
        finally:
            process.kill()


@pytest.mark.parametrize("instants", [6, pytest.param(200, marks=pytest.mark.slow)])
def test_killed_at_any_instant_a_store_holds_what_was_acknowledged(instants: int, tmp_path: Path) -> None:
    path, chance, number = tmp_path / "s.ia3", random.Random(0), 0
    small_store(path).close()
    held: dict[str, int] = {}
    for _ in range(instants):
        with _running(_WRITER, path, number) as (writer, said):
            time.sleep(chance.uniform(0, 0.3))
            os.kill(writer.pid, signal.SIGKILL)
            told = [int(line) for line in said.read().split()]
        for number in told:
            held = _expected(held, number)
        number = number + 1 if told else number
        file = open_store_file(path)
        got = {name: int(file.part(name, "numbers")[:8]) for name in file.state.lines}
        assert list(got.items()) in (list(held.items()), list(_expected(held, number).items()))
        assert all(file.part(name, "numbers") == b"%08d" % got[name] * 5000 for name in got)
        assert file.find_damage() == ()
        number, held = number + (got != held or number % 8 == 7), got
        file.close()
    file = store_writing.compact_store_file(open_store_file(path), "Compacting")
    assert [p.name for p in tmp_path.iterdir()] == ["s.ia3"]  # of a journal that was only begun as well
    assert number > instants and list(file.state.lines) == list(held)


_READER = """
import sys
from pathlib import Path
from ia3.adapters.store_file import open_store_file
from ia3.errors import AdapterError

print("ready", flush=True)
seen = set()
while len(seen) < 3:
    file = open_store_file(Path(sys.argv[1]))
    try:
        numbers = {file.part(name, "numbers")[:8] for name in file.state.lines}
    except AdapterError as error:
        assert "and the store compacted, since it was opened" in str(error), error
        continue
    assert len(numbers) == 1 and len(file.state.lines) == 3, numbers
    seen |= numbers
    file.close()
"""


def test_four_readers_see_each_change_whole_while_one_writes(tmp_path: Path) -> None:
    path = tmp_path / "s.ia3"
    small_store(path).close()
    file = open_store_file(path)

    def replace(number: int) -> None:
        nonlocal file

        def change(writer: store_writing.Writer) -> None:
            for name in "abc":
                writer.add(name, b"", b"%08d" % number * 3000, b"", store_writing.Stored.FLOAT32)

        file = store_writing.change_store_file(file, "Adding", change)

    replace(0)
    with contextlib.ExitStack() as stack:
        readers = [stack.enter_context(_running(_READER, path))[0] for _ in range(4)]
        for number in range(1, 10_000):
            replace(number)
            if number % 20 == 0:
                file = store_writing.compact_store_file(file, "Compacting")
            if all(reader.poll() is not None for reader in readers):
                break
        assert [reader.returncode for reader in readers] == [0] * 4
    assert file.find_damage() == ()


def test_what_a_killed_writer_left_is_told_where_it_cannot_be_tidied_up(tmp_path: Path) -> None:
    """A journal beside a file that may not be written: what the file says by itself is half a change."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s.ia3"
        small_store(path, "a", "b").close()
        with _running(_HALF, path) as (writer, _):
            os.kill(writer.pid, signal.SIGKILL)
        assert {p.name for p in Path(folder).iterdir()} == {"s.ia3", "s.ia3-journal"}
        (Path(folder) / "s.ia3-journal").chmod(0o444)
        path.chmod(0o444)
        Path(folder).chmod(0o555)
        with (
            _without_rights(),
            pytest.raises(AdapterError, match=r"a process was killed while it wrote to it\. Open it"),
        ):
            Store.open(path)
        Path(folder).chmod(0o755)
        path.chmod(0o644)
        (Path(folder) / "s.ia3-journal").chmod(0o644)
        assert_holds(Store.open(path), {"a": small(0), "b": small(1)})
        assert [p.name for p in Path(folder).iterdir()] == ["s.ia3"]


_HALF = """
import sqlite3, sys
file = sqlite3.connect(sys.argv[1], isolation_level=None)
file.execute("PRAGMA cache_size = 1")
file.execute("BEGIN")
file.execute("UPDATE adapters SET numbers = zeroblob(100000)")
print("ready", flush=True)
input()
"""


@contextlib.contextmanager
def _without_rights() -> Iterator[None]:
    """Be somebody for whom a file's rights hold, which they do not for root."""
    if os.geteuid() != 0:
        yield
        return
    try:
        os.seteuid(65534)
        yield
    finally:
        os.seteuid(0)


def test_where_nothing_may_be_written_a_store_is_read_and_adding_is_told(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s.ia3"
        store = small_store(path, "a", "b")
        path.chmod(0o444)
        Path(folder).chmod(0o555)
        with _without_rights():
            opened = Store.open(path)
            assert_holds(opened, {"a": small(0), "b": small(1)})
            acts: list[tuple[Callable[[], object], str]] = [
                (lambda: opened.append("c", small(2)), "Adding to"),
                (lambda: opened.remove("a"), "Removing from"),
                (opened.compact, "Compacting"),
                (lambda: small_store(Path(folder) / "new.ia3", "a"), "Packing"),
            ]
            for act, doing in acts:
                with pytest.raises(AdapterError, match=rf"^{doing} .*: it cannot be written \(.*\)\. Free space"):
                    act()
        Path(folder).chmod(0o755)
        assert_holds(store, {"a": small(0), "b": small(1)})
        assert [p.name for p in Path(folder).iterdir()] == ["s.ia3"]


def test_a_full_disk_is_told_and_the_store_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = small_store(tmp_path / "s.ia3", "a", "b")
    before = store.path.read_bytes()
    for most in (1, 2**62):  # in one go, and with pauses
        monkeypatch.setattr(store_writing, "_ROOMY", "max_page_count = 12")
        monkeypatch.setattr(store_writing, "_MOST_BYTES", most)
        with pytest.raises(AdapterError, match=r"it cannot be written \(database or disk is full\)\. Free space"):
            store.append_many({f"{i}": small(i) for i in range(80)})
        monkeypatch.undo()
        assert_holds(Store.open(store.path), {"a": small(0), "b": small(1)})
        assert [p.name for p in tmp_path.iterdir()] == ["s.ia3"]
        if most > 1:
            assert store.path.read_bytes() == before
        store.compact()
        before = store.path.read_bytes()
    monkeypatch.setattr(store_writing, "_NEW", (*store_writing._NEW, "max_page_count = 8"))
    with pytest.raises(AdapterError, match=r"^Packing .*: it cannot be written \(database or disk is full\)"):
        small_store(tmp_path / "t.ia3", *map(str, range(80)))
    assert [p.name for p in tmp_path.iterdir()] == ["s.ia3"]


def test_adapters_of_an_addition_that_fails_late_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_writing, "_MOST_BYTES", 1)  # each is written by itself
    store = small_store(tmp_path / "s.ia3", "a")
    with pytest.raises(AdapterError, match="adapter 'a': the store has one of this name"):
        store.append_many([("b", small(1)), ("c", small(2)), ("a", small(3))])
    assert_holds(Store.open(store.path), {"a": small(0)})
    with closing(sqlite3.connect(store.path)) as file:
        assert file.execute("SELECT count(*) FROM adapters").fetchone() == (1,)
    store.append_many([("b", small(1)), ("c", small(2))])
    assert_holds(Store.open(store.path), {name: small(i) for i, name in enumerate("abc")})


def test_another_writer_between_the_parts_of_a_large_addition_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_writing, "_MOST_BYTES", 1)
    store = small_store(tmp_path / "s.ia3", "a")
    original = store_writing.Writer._pause

    def pause(self: store_writing.Writer) -> None:
        monkeypatch.setattr(store_writing.Writer, "_pause", original)
        self._connection.execute("COMMIT")
        other = Store.open(store.path)
        other.compact()
        other.append("mine", small(1))  # where that of the larger addition was
        self._connection.execute("BEGIN IMMEDIATE")
        original(self)

    monkeypatch.setattr(store_writing.Writer, "_pause", pause)
    with pytest.raises(AdapterError, match=r"another process has written to it meanwhile\. Try again\."):
        store.append_many({"b": small(2), "c": small(3)})
    assert_holds(Store.open(store.path), {"a": small(0), "mine": small(1)})


def test_while_one_writes_another_is_told_and_readers_read_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_writing, "WRITER_SECONDS", 0.01)
    store = small_store(tmp_path / "s.ia3", "a")
    with _running(_BUSY, store.path):
        acts: list[tuple[Callable[[], object], str]] = [
            (lambda: store.append("b", small(1)), f"Adding to {store.path}"),
            (lambda: store.remove("a"), f"Removing from {store.path}"),
            (store.compact, f"Compacting {store.path}"),
        ]
        for act, doing in acts:
            with pytest.raises(AdapterError) as caught:
                act()
            told = "another process is writing to it. Wait until it is done and try again."
            assert str(caught.value) == f"{doing}: {told}"
        assert_holds(Store.open(store.path), {"a": small(0)})
    store.append("b", small(1))  # the lock ended with its process
    assert_holds(Store.open(store.path), {"a": small(0), "b": small(1)})


_BUSY = """
import sqlite3, sys
file = sqlite3.connect(sys.argv[1], isolation_level=None)
file.execute("BEGIN IMMEDIATE")
print("ready", flush=True)
input()
"""


def test_two_that_pack_into_one_file_are_not_in_each_others_way(tmp_path: Path) -> None:
    path = tmp_path / "s.ia3"

    def second() -> None:
        small_store(path, "b")

    with locked(path.with_name(".s.ia3.lock"), second), pytest.raises(AdapterError) as caught:
        second()
    assert str(caught.value).startswith(f"Packing {path}: another process is writing to it. Wait")
    second()
    assert [p.name for p in tmp_path.iterdir()] == ["s.ia3"]


def test_a_writer_waits_for_another_one_that_is_soon_done(tmp_path: Path) -> None:
    store = small_store(tmp_path / "s.ia3", "a")
    with closing(sqlite3.connect(store.path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        threading.Timer(0.1, lambda: other.execute("ROLLBACK")).start()
        store.append("b", small(1))
    assert store.names == ("a", "b")


def test_threads_that_add_and_read_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "s.ia3"
    shared = small_store(path, "a", "b")

    def add(start: int) -> None:
        store = Store.open(path)
        for number in range(start, start + 5):
            store.append(str(number), small(number))

    def read(times: int) -> None:
        for _ in range(times):
            assert_holds(shared, {"a": small(0), "b": small(1)})

    with ThreadPoolExecutor(5) as threads:
        running = [threads.submit(add, start) for start in (0, 10, 20)] + [threads.submit(read, 30) for _ in range(2)]
    assert [one.result() for one in running] == [None] * 5
    store = Store.open(path)
    numbers = [str(10 * i + j) for i in range(3) for j in range(5)]
    assert sorted(set(store.names) - {"a", "b"}, key=int) == numbers
    for name in numbers:
        assert_same(store.adapter(name), small(int(name)))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_reads_with_a_connection_of_its_own(tmp_path: Path) -> None:
    store = small_store(tmp_path / "s.ia3", "a", "b")
    store.vector("a")
    child = os.fork()
    if child == 0:  # no assertion of pytest's may come up here
        try:
            os._exit(0 if store.vector("b").equal(small(1).row(store.plan)) else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    store.append("c", small(2))
    assert_holds(store, {name: small(i) for i, name in enumerate("abc")})


def test_another_store_under_the_name_of_an_opened_one_is_not_taken_for_it(tmp_path: Path) -> None:
    store = small_store(tmp_path / "s.ia3", "a", "b")
    small_store(tmp_path / "t.ia3", "x", "y").path.replace(store.path)
    store.append("c", small(2))
    assert_holds(store, {"x": small(0), "y": small(1), "c": small(2)})

"""Writers of a store: one at a time, killed at any step, on a full disk; nothing that was committed is ever lost."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from ia3.adapters import store_writing
from ia3.adapters.store import Store
from ia3.errors import AdapterError
from tests.adapters.examples import assert_same
from tests.adapters.store_examples import assert_holds, small, small_store


class Killed(BaseException):
    """The process ends here."""


@contextlib.contextmanager
def killed_at(step: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let that many calls to the system through, the next write in half, and no other."""
    left = [step]

    def counted(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                if original is os.write and left[0] == -1:
                    original(args[0], args[1][: len(args[1]) // 2])
                raise Killed
            return original(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        for owner, name in (
            (store_writing.os, "write"), (store_writing.os, "fsync"), (store_writing.os, "ftruncate"),
            (Path, "replace"), (Path, "unlink"),
        ):  # fmt: skip
            patch.setattr(owner, name, counted(getattr(owner, name)))
        yield


def number_of(store: Store, name: str) -> int:
    """Return the number that an adapter of `small` was made of."""
    return int(store.metadata(name).config.extra["of_a_later_peft"][0])


CHANGES: dict[str, tuple[Callable[[Store], None], dict[str, int]]] = {
    "append": (lambda store: store.append("c", small(2)), {"a": 0, "b": 1, "c": 2}),
    "append many": (lambda store: store.append_many({"c": small(2), "d": small(3)}), {"a": 0, "b": 1, "c": 2, "d": 3}),
    "replace": (lambda store: store.replace("a", small(5)), {"a": 5, "b": 1}),
    "remove": (lambda store: store.remove("a"), {"b": 1}),
    "rename": (lambda store: store.rename("a", "z"), {"b": 1, "z": 0}),
    "compact": (lambda store: store.compact() and None, {"a": 0, "b": 1}),
}


@pytest.mark.filterwarnings("ignore:.*behind its last whole commit:ia3.errors.IA3Warning")
@pytest.mark.parametrize("change", CHANGES)
def test_killed_at_every_step_a_change_is_made_or_not(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    act, after = CHANGES[change]
    seen: list[bool] = []
    for step in range(40):
        path = tmp_path / f"{step}.ia3"
        store = small_store(path, "a", "b")
        done = False
        with killed_at(step, monkeypatch), contextlib.suppress(Killed):
            act(store)
            done = True
        got = Store.open(path)
        want = {name: number_of(got, name) for name in got.names}
        assert want in ({"a": 0, "b": 1}, after)
        assert_holds(got, {name: small(number) for name, number in want.items()})
        got.append("new", small(9))  # whatever was left, the next change is whole and tidy
        got.compact()
        assert_holds(Store.open(path), {name: small(number) for name, number in {**want, "new": 9}.items()})
        assert not list(tmp_path.glob("*.tmp")) and not list(tmp_path.glob(".*.tmp"))
        seen.append(want == after)
        if done:
            break
    assert done and seen == sorted(seen) and seen[-1]


def test_killed_at_every_step_a_new_store_is_there_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in range(40):
        path = tmp_path / f"{step}.ia3"
        done = False
        with killed_at(step, monkeypatch), contextlib.suppress(Killed):
            small_store(path, "a", "b")
            done = True
        if path.exists():
            assert_holds(Store.open(path), {"a": small(0), "b": small(1)})
        else:
            small_store(path, "a", "b")
        assert not list(tmp_path.glob(".*.tmp")) or path.exists()
        if done:
            break
    assert done


def test_a_full_disk_is_told_and_the_store_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = small_store(tmp_path / "s.ia3", "a")
    before = store.path.read_bytes()
    write, left = os.write, [2]

    def full(descriptor: int, content: Any) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        return write(descriptor, content)

    for act in (lambda: store.append_many({f"{i}": small(i) for i in range(5)}), store.compact):
        left[0] = 2
        with monkeypatch.context() as patch:
            patch.setattr(store_writing.os, "write", full)
            with pytest.raises(AdapterError, match=r"it cannot be written \(No space left on device\)\. Free space"):
                act()
        assert store.path.read_bytes() == before
    assert_holds(store, {"a": small(0)})
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".tmp"] == []


def test_a_write_that_takes_a_part_at_a_time_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(store_writing.os, "write", lambda descriptor, content: write(descriptor, content[:100]))
        store = small_store(tmp_path / "s.ia3", "a", "b")
    assert_holds(store, {"a": small(0), "b": small(1)})


def test_while_one_writes_another_is_told_and_readers_read_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_writing, "LOCK_SECONDS", 0.01)
    store = small_store(tmp_path / "s.ia3", "a")
    other = "import sys, filelock; l = filelock.FileLock(sys.argv[1]); l.acquire(); print(1, flush=True); input()"
    command = [sys.executable, "-c", other, str(tmp_path / ".s.ia3.lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout and writer.stdout.readline()
        for act, doing in (
            (lambda: store.append("b", small(1)), f"Adding to {store.path}"),
            (lambda: store.remove("a"), f"Removing from {store.path}"),
            (store.compact, f"Compacting {store.path}"),
            (lambda: small_store(store.path, "x"), f"Packing {store.path}"),
        ):
            with pytest.raises(AdapterError) as caught:
                act()
            assert (
                str(caught.value) == f"{doing}: another process is writing to it. Wait until it is done and try again."
            )
        assert_holds(Store.open(store.path), {"a": small(0)})
        writer.kill()
    store.append("b", small(1))  # the lock ended with its process
    assert_holds(Store.open(store.path), {"a": small(0), "b": small(1)})


def test_a_writer_waits_for_another_one_that_is_soon_done(tmp_path: Path) -> None:
    store = small_store(tmp_path / "s.ia3", "a")
    lock = FileLock(tmp_path / ".s.ia3.lock", thread_local=False)
    lock.acquire()
    threading.Timer(0.1, lock.release).start()
    store.append("b", small(1))
    assert store.names == ("a", "b")


def test_threads_that_add_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "s.ia3"
    small_store(path)

    def add(start: int) -> None:
        store = Store.open(path)
        for number in range(start, start + 5):
            store.append(str(number), small(number))

    threads = [threading.Thread(target=add, args=(10 * i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store = Store.open(path)
    assert sorted(store.names, key=int) == [str(10 * i + j) for i in range(3) for j in range(5)]
    assert_holds(store, {name: small(int(name)) for name in store.names})


def test_a_folder_that_may_not_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = small_store(tmp_path / "s.ia3", "a")

    def refuse(path: Any, flags: int, *args: Any) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(store_writing.os, "open", refuse)
    with pytest.raises(AdapterError, match=r"Adding to .*s\.ia3: it cannot be written \(Permission denied\)"):
        store.append("b", small(1))
    assert_holds(store, {"a": small(0)})


_WRITER = """
import sys
from pathlib import Path
from tests.adapters.store_examples import small
from ia3.adapters.store import Store
store = Store.open(Path(sys.argv[1]))
print("ready", flush=True)
for number in range(int(sys.argv[2]), 100_000):
    if number % 5 == 4:
        store.remove(store.names[0])
    else:
        store.append_many({f"{number}": small(number), f"{number}+": small(number + 1)})
    print(number, flush=True)
"""


@pytest.mark.filterwarnings("ignore:.*behind its last whole commit:ia3.errors.IA3Warning")
@pytest.mark.slow
def test_a_process_killed_while_it_adds_loses_the_last_append_at_most(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    path, chance, number = tmp_path / "s.ia3", random.Random(0), 0
    small_store(path)
    for _ in range(6):
        command = [sys.executable, "-W", "ignore", "-c", _WRITER, str(path), str(number)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as writer:
            assert writer.stdout and writer.stdout.readline().strip() == "ready"
            time.sleep(chance.uniform(0.02, 0.4))
            os.kill(writer.pid, signal.SIGKILL)
            told = writer.stdout.read().split()
        store = Store.open(path)
        last = int(told[-1]) if told else number - 1
        for name in store.names:
            assert_same(store.adapter(name), small(int(name.removesuffix("+")) + name.endswith("+")))
        newest = max((int(name.removesuffix("+")) for name in store.names), default=last)
        assert newest in (last - 1, last, last + 1)
        number = last + 2
    assert number > 12 and store.names

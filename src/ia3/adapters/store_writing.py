"""Writing a packed store: a change is one transaction of SQLite's, made whole or not at all.

Adapters are written as they come, and their names with the last of them, so that a change of any size takes little
memory, is not in the readers' way, and is seen at once or never. A new store is written beside its name and renamed.
This file knows bytes and names; it does not import torch.
"""

from __future__ import annotations

import contextlib
import glob
import secrets
import sqlite3
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import final

from ia3.adapters.store_database import IS_WRITTEN, WRITER_SECONDS, Connected, connect, telling
from ia3.adapters.store_file import StoreFile, open_store_file
from ia3.adapters.store_tables import (
    APPLICATION,
    TABLES,
    VERSION,
    Facts,
    State,
    Stored,
    create_table,
    line_of,
    name_fault,
    read_state,
    weight_of,
)
from ia3.errors import AdapterError
from ia3.files import locked, placing, remove_halves, sync

_MOST_BYTES = 8 * 2**20  # that wait in memory; what is more would be written while readers must wait
_WIDE = 48 * 2**10  # bytes of a row that is read faster in few large pages
_PAGE, _WIDE_PAGE = 4096, 65536
# nobody sees a new file before it is whole
_NEW = (f"application_id = {APPLICATION}", f"user_version = {VERSION}", "journal_mode = OFF", "synchronous = OFF")
# a commit is on the disk, and its journal gone from the folder, before anybody is told of it
_DURABLE = "synchronous = EXTRA"
_ROOMY = "cache_size = -16384"  # kB; twice what waits


def create_store_file(path: Path, doing: str, row_bytes: int, write: Callable[[Writer], None]) -> StoreFile:
    """Make a new store and return it opened; the file appears when it is whole.

    Args:
        path: Where; folders are made.
        doing: Beginning of an error.
        row_bytes: About how large a row will be.
        write: Puts in what it holds.

    Raises:
        AdapterError: If the name is taken, or it cannot be written.
    """

    def refuse() -> None:
        raise AdapterError(f"{doing}: {IS_WRITTEN}")

    real = path.resolve()  # a link stays one
    with telling(doing):
        real.parent.mkdir(parents=True, exist_ok=True)
        with locked(real.with_name(f".{real.name}.lock"), refuse):
            if path.exists():
                raise AdapterError(
                    f"{doing}: it is there already. Add to it with 'ia3 adapters add', or choose another name."
                )
            remove_halves(real.parent, [glob.escape(real.name)])
            with placing(real) as half:
                _fill(half, doing, _WIDE_PAGE if row_bytes >= _WIDE else _PAGE, write)
    return open_store_file(path)


def _fill(half: Path, doing: str, page: int, write: Callable[[Writer], None]) -> None:
    """Write a new file, all of it to the disk."""
    half.touch(exist_ok=False)  # with the rights that a file of this process gets
    with _connected(half, (f"page_size = {page}", *_NEW)) as connection:
        connection.execute("BEGIN")
        for table in TABLES:
            connection.execute(create_table(table))
        connection.execute("INSERT INTO store VALUES (x'', 0, 0, 0, 0)")
        writer = Writer(connection, State(), doing, may_pause=False)
        write(writer)
        writer.finish()
    sync(half)


def change_store_file(opened: StoreFile, doing: str, change: Callable[[Writer], None]) -> StoreFile:
    """Change a store and return it as it then is; all of the change is made, or nothing.

    Args:
        opened: The store as this process knows it; others may have changed it.
        doing: Beginning of an error.
        change: Called with the writer of the store as it is now.

    Raises:
        AdapterError: If another process is writing, or the file cannot be written.
    """
    with telling(doing), _connected(opened.path, (_DURABLE, _ROOMY)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        writer = Writer(connection, read_state(connection, doing, opened.state), doing)
        try:
            change(writer)
            writer.finish()
        except BaseException:
            writer.drop()
            raise
        # another connection: the file of this name may be another one by now
        return StoreFile(opened.path, Connected(opened.path), writer.state)


def compact_store_file(opened: StoreFile, doing: str) -> StoreFile:
    """Write a store anew without what was removed or replaced, in its place, and return it.

    Raises:
        AdapterError: If another process is writing or reading without an end, or it cannot be written; the file then
            holds what it held.
    """
    file = change_store_file(opened, doing, lambda writer: writer.forget())
    with telling(doing), _connected(opened.path, (_DURABLE,)) as connection:
        connection.execute("VACUUM")  # with a larger cache it would take memory for the whole file
    return file


def remove_adapters(opened: StoreFile, names: Iterable[str]) -> StoreFile:
    """Take adapters out: all of them, or none where one is unknown; return what the store then is.

    Raises:
        AdapterError: For an unknown name, or as `change_store_file`.
    """

    def change(writer: Writer) -> None:
        for name in dict.fromkeys(names):
            writer.take(name, opened.path)

    return change_store_file(opened, f"Removing from {opened.path}", change)


def rename_adapter(opened: StoreFile, name: str, new: str) -> StoreFile:
    """Give an adapter another name, under which it stands last; return what the store then is.

    Raises:
        AdapterError: For an unknown name, a new one that is taken or cannot be one, or as `change_store_file`.
    """
    doing = f"Renaming adapter {name!r} to {new!r} in {opened.path}"

    def change(writer: Writer) -> None:
        fault = name_fault(new, writer.lines)
        line = writer.take(name, opened.path)
        if fault:
            raise AdapterError(f"{doing}: {fault}")
        writer.lines[new] = line

    return change_store_file(opened, doing, change)


@contextlib.contextmanager
def _connected(path: Path, settings: Iterable[str]) -> Iterator[sqlite3.Connection]:
    """Yield a connection of its own to a file."""
    with contextlib.closing(connect(path, WRITER_SECONDS)) as connection:
        for setting in settings:
            connection.execute(f"PRAGMA {setting}")
        yield connection


@final
class Writer:
    """Changes a store in a transaction.

    Attributes:
        state: What the store held before, and holds once it is finished.
        lines: What `names` will have.
    """

    def __init__(self, connection: sqlite3.Connection, state: State, doing: str, *, may_pause: bool = True) -> None:
        self.state = state
        self.lines = dict(state.lines)
        self._description = state.description
        self._unused = state.unused
        self._connection, self._doing = connection, doing
        self._may_pause = may_pause
        self._waiting: list[int] = []  # adapters since the last pause
        self._written: list[int] = []  # and before it
        self._bytes = 0  # of those that wait

    def describe(self, text: bytes) -> None:
        """Say what all adapters share."""
        self._description = text

    def add(
        self, name: str, text: bytes, numbers: bytes | memoryview, tensors: bytes, stored: Stored, error: float = 0.0
    ) -> None:
        """Add an adapter, in the place of one of its name.

        Args:
            name: Its name.
            text: As `pack_text` returns it.
            numbers: The row's numbers as they are stored.
            tensors: A safetensors file, or nothing.
            stored: How the row is stored.
            error: Largest difference to the row as it was.
        """
        parts = (text, numbers, tensors)
        insert = "INSERT INTO adapters (text, numbers, tensors) VALUES (?, ?, ?)"
        adapter = self._connection.execute(insert, parts).lastrowid
        assert adapter is not None
        facts = Facts(adapter, stored, error, *map(len, parts), *map(zlib.crc32, parts))
        self.lines[name] = facts.pack()
        self._waiting.append(adapter)
        self._bytes += facts.size
        if self._may_pause and self._bytes > _MOST_BYTES:
            self._pause()

    def take(self, name: str, path: Path) -> bytes:
        """Take a name out and return its facts.

        Raises:
            AdapterError: For an unknown name.
        """
        line = line_of(self.state, name, path)
        del self.lines[name]
        return line

    def forget(self) -> None:
        """Take out the adapters that no name means."""
        live = {Facts.read(facts).adapter for facts in self.lines.values()}
        all_of_them = [adapter for (adapter,) in self._connection.execute("SELECT id FROM adapters").fetchall()]
        self._delete(adapter for adapter in all_of_them if adapter not in live)
        self._unused = 0

    def finish(self) -> None:
        """Enter the names and make all of it valid."""
        old, new, run = self.state.lines, self.lines, self._connection.execute
        total, unused = self.state.total, self._unused
        kept = {*new.values()}  # under another name
        for place, _ in self.state.damaged:
            run("DELETE FROM names WHERE place = ?", (place,))
        for name, line in old.items():
            if new.get(name) == line:
                continue
            total -= weight_of(name.encode(), line)[1]
            unused += Facts.read(line).size if line not in kept else 0
            if name not in new:
                self._expect_one(run("DELETE FROM names WHERE name = ?", (name,)))
        for name, line in new.items():
            if old.get(name) == line:
                continue
            checksum, weight = weight_of(name.encode(), line)
            total += weight
            if name in old:
                change = "UPDATE names SET facts = ?, checksum = ? WHERE name = ?"
                self._expect_one(run(change, (line, checksum, name)))
            else:
                run("INSERT INTO names (facts, checksum, name) VALUES (?, ?, ?)", (line, checksum, name))
        state = State(new, self._description, total, unused, secrets.randbits(62))
        run(
            "UPDATE store SET description = ?, checksum = ?, total = ?, unused = ?, version = ?",
            (state.description, zlib.crc32(state.description), total, unused, state.version),
        )
        run("COMMIT")
        self.state = state

    def drop(self) -> None:
        """Undo all of it, as far as the system lets us; what is left is of no name."""
        with contextlib.suppress(sqlite3.Error):
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            if self._written:
                self._connection.execute("BEGIN IMMEDIATE")
                if not self._is_changed():  # else they may be adapters of others by now
                    self._delete(self._written)
                self._connection.execute("COMMIT")

    def _pause(self) -> None:
        """Let the adapters so far be written, so that readers wait for a moment and not for all of them."""
        self._connection.execute("COMMIT")
        self._written += self._waiting
        self._waiting, self._bytes = [], 0
        self._connection.execute("BEGIN IMMEDIATE")
        if self._is_changed():
            raise AdapterError(f"{self._doing}: another process has written to it meanwhile. Try again.")

    def _is_changed(self) -> bool:
        [version] = self._connection.execute("SELECT version FROM store").fetchone()
        return bool(version != self.state.version)

    def _delete(self, adapters: Iterable[int]) -> None:
        self._connection.executemany("DELETE FROM adapters WHERE id = ?", ((adapter,) for adapter in adapters))

    def _expect_one(self, cursor: sqlite3.Cursor) -> None:
        if cursor.rowcount != 1:
            raise AdapterError(
                f"{self._doing}: the list of its adapters is damaged. Take another copy of the file, or pack the "
                "adapters again."
            )

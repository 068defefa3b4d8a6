"""SQLite as a packed store uses it: connections that threads and forked processes may share, errors in our words.

Files come from strangers: nothing that a schema says is trusted, and no file is mapped into memory, where one that is
cut off would end the process. This file knows SQLite; what the tables hold is `store_file`'s matter.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar, final

from ia3.errors import AdapterError

WRITER_SECONDS = 5.0  # how long a writer waits for another one
_READER_SECONDS = 60.0  # a large store that is compacted is written for some seconds
_LEAST = (3, 12, 0)  # the first with `synchronous = EXTRA`
_SAFE = ("trusted_schema = OFF", "cell_size_check = ON", "mmap_size = 0")
NO_STORE = "this is no packed store, expected a file that 'ia3 adapters pack' has written."
IS_WRITTEN = "another process is writing to it. Wait until it is done and try again."
DAMAGED = "the file is damaged or cut off. Take another copy of it, or pack the adapters again."
T = TypeVar("T")


def connect(path: Path, seconds: float) -> sqlite3.Connection:
    """Return a connection to a file that is there; whoever asks sees to threads and ends it."""
    if sqlite3.sqlite_version_info < _LEAST:
        least = ".".join(map(str, _LEAST))
        raise AdapterError(
            f"Opening {path}: SQLite is {sqlite3.sqlite_version}, expected at least {least}. Upgrade Python."
        )
    address = f"{path.resolve().as_uri()}?mode=rw"  # read only where the system says so
    connection = sqlite3.connect(address, uri=True, isolation_level=None, check_same_thread=False, timeout=seconds)
    connection.text_factory = bytes  # a damaged name may be no text
    for setting in _SAFE:
        connection.execute(f"PRAGMA {setting}")
    return connection


@contextlib.contextmanager
def telling(doing: str) -> Iterator[None]:
    """Turn what SQLite or the system refuses into an error of ours."""
    try:
        yield
    except sqlite3.Error as error:
        raise AdapterError(f"{doing}: {_reason(error)}") from error
    except OSError as error:
        raise AdapterError(
            f"{doing}: it cannot be written ({error.strerror or error}). Free space, or choose another place."
        ) from error


def _reason(error: sqlite3.Error) -> str:
    code = getattr(error, "sqlite_errorcode", None)  # none where Python itself refuses
    kind = None if code is None else code & 0xFF
    if kind in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return IS_WRITTEN
    if kind == sqlite3.SQLITE_NOTADB:
        return NO_STORE
    if kind in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT):
        return f"{DAMAGED} SQLite says: {str(error).rstrip('.')}."
    if code == sqlite3.SQLITE_READONLY_ROLLBACK:
        return "a process was killed while it wrote to it. Open it once where it may be written, which tidies up."
    if kind in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_FULL):
        return f"it cannot be written ({error}). Free space, or choose another place."
    return f"the system refuses it ({error}). See to its rights and to the space that is left, or choose another place."


@final
class Connected:
    """What a file is asked through: a connection in each process, used by one thread at a time.

    A connection must not be used in a process that was forked off; that one gets its own.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held: dict[int, tuple[sqlite3.Connection, threading.Lock]] = {}
        self._is_closed = False

    def run(self, doing: str, act: Callable[[sqlite3.Connection, str], T]) -> T:
        """Return what is found in one transaction that reads.

        Raises:
            AdapterError: Beginning with `doing`, if the file cannot be read.
        """
        with telling(doing):
            connection, lock = self._mine(doing)
            with lock:
                connection.execute("BEGIN")
                try:
                    return act(connection, doing)
                finally:
                    if connection.in_transaction:  # some errors end it
                        connection.execute("ROLLBACK")

    def _mine(self, doing: str) -> tuple[sqlite3.Connection, threading.Lock]:
        if self._is_closed:
            raise AdapterError(f"{doing}: it is closed. Open it again.")
        held = self._held.get(os.getpid())
        if held is None:
            connection = connect(self._path, _READER_SECONDS)
            held = self._held.setdefault(os.getpid(), (connection, threading.Lock()))
            weakref.finalize(self, connection.close).atexit = False
        return held

    def close(self) -> None:
        """Close the file; nothing can be read any more."""
        self._is_closed = True
        held = self._held.pop(os.getpid(), None)
        if held is not None:
            with held[1]:
                held[0].close()

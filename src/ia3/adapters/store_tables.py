"""The tables of a packed store: what a line says of an adapter, and what a store holds at one moment.

    store     one line: base and plan (`description`), and what must be true of the lines of `names`
    names     an adapter's name, and which of `adapters` it means, with sizes and checksums of that (`facts`)
    adapters  texts, numbers and tensors, which never change once they are written

Each line of `names` has a checksum over all of it, and `store` their sum, so that no line can be lost, renamed or
changed unnoticed. This file knows names and bytes; it does not import torch.
"""

from __future__ import annotations

import sqlite3
import struct
import zlib
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Literal, NamedTuple

from ia3.adapters.store_database import DAMAGED, NO_STORE
from ia3.errors import AdapterError, near_matches
from ia3.names import BASE_NAME

Part = Literal["text", "numbers", "tensors"]
APPLICATION = int.from_bytes(b"IA3s", "big")
VERSION = 2  # 1 is what `store_before` reads
TABLES = {
    "store": "description BLOB NOT NULL, checksum INTEGER NOT NULL, total INTEGER NOT NULL, unused INTEGER NOT NULL, "
    "version INTEGER NOT NULL",
    "names": "place INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, facts BLOB NOT NULL, checksum INTEGER NOT NULL",
    "adapters": "id INTEGER PRIMARY KEY, text BLOB NOT NULL, numbers BLOB NOT NULL, tensors BLOB NOT NULL",
}


def create_table(name: str) -> str:
    """Return the statement that makes a table."""
    return f"CREATE TABLE {name} ({TABLES[name]})"


_SCHEMA = {
    *((b"table", name.encode(), name.encode(), create_table(name).encode()) for name in TABLES),
    (b"index", b"sqlite_autoindex_names_1", b"names", None),
}
_EACH = 1 << 32  # so that a line whose checksum is 0 is missed as well
_FACTS = struct.Struct("<QBd3Q3I")


class Stored(IntEnum):
    """How the numbers of a row are written: l itself, or l − 1 at half the size."""

    FLOAT32 = 0
    FLOAT16 = 1
    BFLOAT16 = 2

    @property
    def size(self) -> int:
        """Bytes of one number."""
        return 4 if self is Stored.FLOAT32 else 2

    @property
    def words(self) -> str:
        """The same for people."""
        return self.name.lower() if self is Stored.FLOAT32 else f"{self.name.lower()} of l − 1"


_STORED, _STORED_AT = frozenset(map(int, Stored)), 8  # where the second of the facts lies


class Facts(NamedTuple):
    """What is known of an adapter before it is read; lengths are in bytes, checksums are CRC-32."""

    adapter: int  # its number in `adapters`
    stored: int
    error: float  # largest |l' − l| of the row as it is stored
    text_length: int
    numbers_length: int
    tensors_length: int
    text_checksum: int
    numbers_checksum: int
    tensors_checksum: int

    @classmethod
    def read(cls, facts: bytes) -> Facts:
        """Return the facts that were written."""
        return cls(*_FACTS.unpack(facts))

    def pack(self) -> bytes:
        """Return the facts as they are written."""
        return _FACTS.pack(*self)

    @property
    def size(self) -> int:
        """Bytes of the adapter."""
        return self.text_length + self.numbers_length + self.tensors_length


@dataclass(frozen=True)
class State:
    """What a store holds after a change.

    Attributes:
        lines: The facts by name, in the order they were added. They stay packed: opening unpacks none of ten thousand.
        description: As it is written.
        total: Sum of what `weight_of` says of the lines.
        unused: Bytes of adapters that no name means any more.
        version: Another number after each change.
        damaged: Lines of `names` that are not whole: place and name.
        is_whole: Whether these are all lines that were written.
    """

    lines: Mapping[str, bytes] = field(default_factory=dict)
    description: bytes = b""
    total: int = 0
    unused: int = 0
    version: int = 0
    damaged: tuple[tuple[int, str], ...] = ()
    is_whole: bool = True


def weight_of(name: bytes, facts: bytes) -> tuple[int, int]:
    """Return the checksum of a line of `names`, and what it adds to their total."""
    checksum = zlib.crc32(facts, zlib.crc32(name))
    return checksum, checksum + _EACH


def read_state(connection: sqlite3.Connection, doing: str, known: State | None = None) -> State:
    """Return what a store holds; in a transaction of the caller's.

    Args:
        connection: To its file.
        doing: Beginning of an error.
        known: What it held before; returned if nobody has changed it.

    Raises:
        AdapterError: If it is no store, or damaged as a whole.
        sqlite3.Error: If it cannot be read.
    """
    try:
        return _read_state(connection, doing, known)
    except (TypeError, ValueError) as error:  # anything may stand anywhere, in SQLite's messages as well
        raise AdapterError(f"{doing}: {DAMAGED}") from error


def _read_state(connection: sqlite3.Connection, doing: str, known: State | None) -> State:
    if known is None:
        _check_schema(connection, doing)
    [[description, checksum, total, unused, version]] = connection.execute("SELECT * FROM store").fetchall()
    if zlib.crc32(description) != checksum or not all(isinstance(one, int) for one in (total, unused, version)):
        raise AdapterError(
            f"{doing}: its base and plan are damaged. Take another copy of the file, or pack the adapters again."
        )
    if known is not None and known.version == version:
        return known
    lines, damaged, found = dict[str, bytes](), list[tuple[int, str]](), 0
    for place, name, facts, checksum in connection.execute("SELECT * FROM names ORDER BY place"):
        try:
            is_whole = zlib.crc32(facts, zlib.crc32(name)) == checksum
            is_whole = is_whole and len(facts) == _FACTS.size and facts[_STORED_AT] in _STORED
        except TypeError:  # a damaged file may hold anything anywhere
            is_whole = False
        if is_whole:
            lines[name.decode()] = facts
            found += checksum + _EACH
        else:
            damaged.append((place, name.decode(errors="replace") if isinstance(name, bytes) else repr(name)))
    return State(lines, description, found, unused, version, tuple(damaged), is_whole=found == total)


def line_of(state: State, name: str, path: Path) -> bytes:
    """Return the facts of an adapter.

    Raises:
        AdapterError: For an unknown name, or one whose line is damaged.
    """
    line = state.lines.get(name)
    if line is not None:
        return line
    if name in (damaged for _, damaged in state.damaged):
        raise AdapterError(
            f"Looking up adapter {name!r}: its line in the list of {path} is damaged. Add it again, or take another "
            "copy of the file."
        )
    raise AdapterError(f"Looking up adapter {name!r}: {path} has no such name.{near_matches(name, state.lines)}")


def _check_schema(connection: sqlite3.Connection, doing: str) -> None:
    [[application], [version], [mode]] = (
        connection.execute(f"PRAGMA {name}").fetchone() for name in ("application_id", "user_version", "journal_mode")
    )
    if application == APPLICATION and version > VERSION:
        raise AdapterError(
            f"{doing}: its format has version {version}, expected at most {VERSION}. Upgrade: pip install --upgrade "
            "ia3."
        )
    found = {tuple(line) for line in connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master")}
    if application != APPLICATION or version != VERSION or mode != b"delete" or found != _SCHEMA:
        raise AdapterError(f"{doing}: {NO_STORE} An adapter's folder is packed with 'ia3 adapters pack STORE FOLDER'.")


def name_fault(name: str, taken: Container[str], given_before: Container[str] = ()) -> str | None:
    """Return why a name cannot be given to an adapter, or None."""
    if not name:
        return "its name is empty. Choose another one."
    if name == BASE_NAME:
        return "this is the base's name in a bank. Choose another one."
    if name in given_before:
        return "two adapters of this name are given. Rename one of them."
    if name in taken:
        return "the store has one of this name. Replace it (--replace), or rename or remove it first."
    try:
        name.encode()
    except UnicodeEncodeError:
        return "its name is no text that can be written as UTF-8. Choose another one."
    return None

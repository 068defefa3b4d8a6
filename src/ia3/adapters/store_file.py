"""A packed store opened for reading: an SQLite file of three tables, and the names it had when it was opened.

    store     one line: base and plan (`description`), and what must be true of the lines of `names`
    names     an adapter's name, which of `adapters` it means, and sizes and checksums of that (`facts`)
    adapters  texts, numbers and tensors, which never change once they are written

What a name no longer means stays in `adapters` until the store is compacted, so an opened store goes on reading what it
opened. Each line of `names` has a checksum over all of it, and `store` their sum, so that no line can be lost, renamed
or changed unnoticed. Transactions, locks and what a killed writer left are SQLite's matter: with a rollback journal,
since a log beside the file could not be read where nothing may be written. This file knows names, bytes and JSON.
"""

from __future__ import annotations

import json
import os
import sqlite3
import struct
import warnings
import zlib
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ia3.adapters.store_database import DAMAGED, NO_STORE, Connected
from ia3.errors import AdapterError, IA3Warning, near_matches

Part = Literal["text", "numbers", "tensors"]
APPLICATION = int.from_bytes(b"IA3s", "big")
VERSION = 2  # 1 is what `store_before` reads
TABLES = {
    "store": "description BLOB NOT NULL, checksum INTEGER NOT NULL, total INTEGER NOT NULL, unused INTEGER NOT NULL, "
    "version INTEGER NOT NULL",
    "names": "place INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, adapter INTEGER NOT NULL, facts BLOB NOT NULL, "
    "checksum INTEGER NOT NULL",
    "adapters": "id INTEGER PRIMARY KEY, text BLOB NOT NULL, numbers BLOB NOT NULL, tensors BLOB NOT NULL",
}


def create_table(name: str) -> str:
    """Return the statement that makes a table."""
    return f"CREATE TABLE {name} ({TABLES[name]})"


_SCHEMA = {
    *((b"table", name.encode(), name.encode(), create_table(name).encode()) for name in TABLES),
    (b"index", b"sqlite_autoindex_names_1", b"names", None),
}
_FACTS = struct.Struct("<Bd3Q3I")
_WORDS: dict[Part, str] = {"text": "config and record", "numbers": "row", "tensors": "head"}  # of a part, for people
_BEFORE = b"\x89IA3\r\n\x1a\n"
_SHOWN = 8  # names in a message
BASE_NAME = "__base__"  # of a bank's row 0; `core.snapshot` has it too, and imports torch
Line = tuple[int, bytes]  # of `names`: which adapter, and its facts


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


class Facts(NamedTuple):
    """What is known of an adapter before it is read."""

    stored: Stored
    error: float  # largest |l' − l| of the row as it is stored
    lengths: tuple[int, int, int]  # bytes of text, numbers and tensors
    checksums: tuple[int, int, int]  # CRC-32 of the same

    def pack(self) -> bytes:
        """Return the facts as they are written."""
        return _FACTS.pack(self.stored, self.error, *self.lengths, *self.checksums)

    @classmethod
    def read(cls, facts: bytes) -> Facts:
        """Return the facts that were written."""
        stored, error, *numbers = _FACTS.unpack(facts)
        return cls(Stored(stored), error, tuple(numbers[:3]), tuple(numbers[3:]))

    @property
    def size(self) -> int:
        """Bytes of the adapter."""
        return sum(self.lengths)


@dataclass(frozen=True)
class State:
    """What a store holds after a change.

    Attributes:
        lines: By name, in the order they were added; some hundred bytes each.
        description: As it is written.
        total: Sum of what `weight_of` says of the lines.
        unused: Bytes of adapters that no name means any more.
        version: Another number after each change.
        damaged: Lines of `names` that are not whole: place and name.
        is_whole: Whether these are all lines that were written.
    """

    lines: Mapping[str, Line] = field(default_factory=dict)
    description: bytes = b""
    total: int = 0
    unused: int = 0
    version: int = 0
    damaged: tuple[tuple[int, str], ...] = ()
    is_whole: bool = True


def weight_of(name: bytes, line: Line) -> tuple[int, int]:
    """Return the checksum of a line of `names`, and what it adds to their total."""
    checksum = zlib.crc32(line[1], zlib.crc32(name, line[0] & 0xFFFFFFFF))
    return checksum, checksum + (1 << 32)


def open_store_file(path: Path) -> StoreFile:
    """Open a store.

    Raises:
        AdapterError: If there is none, it is no store, another version wrote it, or it is damaged as a whole.

    Warns:
        IA3Warning: If adapters are missing or their names are damaged.
    """
    doing = f"Opening {path}"
    _check_is_file(path, doing)
    asked = Connected(path)
    try:
        file = StoreFile(path, asked, asked.run(doing, read_state))
    except AdapterError as error:
        if isinstance(error.__cause__, sqlite3.Error):
            _refuse_others(path, doing)
        raise
    if told := file.loss():
        warnings.warn(f"{doing}: {told}", IA3Warning, stacklevel=3)
    return file


def _check_is_file(path: Path, doing: str) -> None:
    try:
        size = path.stat().st_size
    except FileNotFoundError as error:
        beside = path.parent.iterdir() if path.parent.is_dir() else ()
        names = [other.name for other in beside if other.is_file() and not other.name.startswith(".")]
        raise AdapterError(
            f"{doing}: there is no such file.{near_matches(path.name, names)} 'ia3 adapters pack' makes one."
        ) from error
    except OSError as error:
        raise AdapterError(f"{doing}: it cannot be read ({error.strerror or error}).") from error
    if path.is_dir():
        raise AdapterError(f"{doing}: this is a folder, expected a packed store, which is one file.")
    if not os.access(path, os.R_OK):
        raise AdapterError(f"{doing}: it cannot be read (Permission denied).")
    if size == 0:
        raise AdapterError(f"{doing}: the file is empty, expected a packed store. Pack it again.")


def _refuse_others(path: Path, doing: str) -> None:
    """Raise if a file that SQLite cannot read is of the format before, or an adapter's folder may be meant."""
    with path.open("rb") as file:  # no connection has a lock on it, which closing it here would end
        if file.read(len(_BEFORE)) == _BEFORE:
            raise AdapterError(
                f"{doing}: it was written by an earlier ia3. Make a store of it: ia3 adapters convert {path} NEW."
            )


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
    if zlib.crc32(description) != checksum:
        raise AdapterError(
            f"{doing}: its base and plan are damaged. Take another copy of the file, or pack the adapters again."
        )
    if known is not None and known.version == version:
        return known
    lines, damaged, found = dict[str, Line](), [], 0
    for place, name, adapter, facts, checksum in connection.execute("SELECT * FROM names ORDER BY place"):
        line = (adapter, facts)
        if _is_whole(name, line, checksum):
            lines[name.decode()] = line
            found += checksum + (1 << 32)
        else:
            damaged.append((place, name.decode(errors="replace") if isinstance(name, bytes) else repr(name)))
    return State(lines, description, found, unused, version, tuple(damaged), found == total)


def _is_whole(name: Any, line: tuple[Any, Any], checksum: Any) -> bool:
    try:
        return len(line[1]) == _FACTS.size and weight_of(name, line)[0] == checksum
    except TypeError:  # a damaged file may hold anything anywhere
        return False


def line_of(state: State, name: str, path: Path) -> Line:
    """Return the line of an adapter.

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


@dataclass(frozen=True, eq=False)
class StoreFile:
    """A store as it was when it was opened.

    Attributes:
        path: Where it lies.
        connected: To its file.
        state: What it held then.
    """

    path: Path
    connected: Connected
    state: State

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.path.stat().st_size

    def unused_bytes(self) -> int:
        """Return the bytes that compacting would give back, nearly: those of no adapter."""

        def ask(connection: sqlite3.Connection, doing: str) -> int:
            [[free], [size]] = (connection.execute(f"PRAGMA {p}").fetchone() for p in ("freelist_count", "page_size"))
            return int(self.state.unused + free * size)

        return self.connected.run(f"Reading {self.path}", ask)

    def loss(self) -> str | None:
        """Return what is missing, in words, or None."""
        if self.state.is_whole and not self.state.damaged:
            return None
        names = [repr(name) for _, name in self.state.damaged]
        shown = ", ".join(names[:_SHOWN]) + (f", … ({len(names)})" if len(names) > _SHOWN else "")
        what = (
            f"damaged, what it says of {shown} first of all"
            if names
            else "not whole, and what is missing cannot be read"
        )
        return (
            f"the list of its adapters is {what}. The others are read. See what is there with 'ia3 adapters list', or "
            "take another copy of the file."
        )

    def facts(self, name: str) -> Facts:
        """Return what is known of an adapter before it is read.

        Raises:
            AdapterError: For an unknown name, or one whose line is damaged.
        """
        return Facts.read(line_of(self.state, name, self.path)[1])

    def part(self, name: str, part: Part) -> bytes:
        """Return a part of an adapter as it is written, checked against its checksum.

        Raises:
            AdapterError: For an unknown name, or if it is damaged.
        """
        adapter, facts = line_of(self.state, name, self.path)

        def ask(connection: sqlite3.Connection, doing: str) -> bytes:
            found = connection.execute(f"SELECT {part} FROM adapters WHERE id = ?", (adapter,)).fetchone()
            content, known = found[0] if found else None, Facts.read(facts)
            number = list(_WORDS).index(part)
            if isinstance(content, bytes) and zlib.crc32(content) == known.checksums[number]:
                return content
            now = connection.execute("SELECT adapter, facts FROM names WHERE name = ?", (name,)).fetchone()
            if now != (adapter, facts):
                raise AdapterError(
                    f"{doing}: it was replaced or removed, and the store compacted, since it was opened. Open it again."
                )
            raise AdapterError(
                f"{doing}: its {_WORDS[part]} is damaged, the checksum differs. Remove it and add it again, or take "
                "another copy of the file; 'ia3 adapters verify' names all that is damaged."
            )

        return self.connected.run(f"Reading adapter {name!r} from {self.path}", ask)

    def read_row(self, name: str, target: memoryview) -> None:
        """Copy an adapter's row as it is written.

        Args:
            name: Of the adapter.
            target: As many bytes.

        Raises:
            AdapterError: For an unknown name, or if the row is damaged.
        """
        content = self.part(name, "numbers")
        if len(content) != len(target):
            raise AdapterError(
                f"Reading adapter {name!r} from {self.path}: its row has {len(content)} bytes, expected {len(target)}."
            )
        target[:] = content

    def text(self, name: str) -> dict[str, Any]:
        """Return what is written of an adapter beside its numbers: the texts of its folder's files.

        Raises:
            AdapterError: For an unknown name, or if it is damaged.
        """
        return unpack_text(self.part(name, "text"))

    @cached_property
    def description(self) -> Mapping[str, Any]:
        """What all adapters share: base and plan."""
        return unpack_text(self.state.description)

    def find_damage(self) -> tuple[Damage, ...]:
        """Read everything and return what is damaged."""
        found = [Damage(name, "its line in the list of adapters") for _, name in self.state.damaged]
        found += [Damage(name, what) for name in self.state.lines for what in self._damage_of(name)]
        if not self.state.is_whole:
            found.append(Damage(None, "the list of adapters"))
        try:
            told = self.connected.run(
                f"Verifying {self.path}", lambda asked, _: asked.execute("PRAGMA integrity_check").fetchall()
            )
            lines = [] if told == [(b"ok",)] else [line.decode(errors="replace") for [line] in told]
        except AdapterError as error:
            lines = [str(error.__cause__ or error)]
        found += [Damage(None, f"the file's structure ({line.splitlines()[-1]})") for line in lines[:1]]
        return tuple(found)

    def _damage_of(self, name: str) -> list[str]:
        found = []
        for part, words in _WORDS.items():
            try:
                self.part(name, part)
            except AdapterError:
                found.append(words)
        return found

    def close(self) -> None:
        """Close the file."""
        self.connected.close()


def pack_text(content: Mapping[str, Any]) -> bytes:
    """Return JSON as it is kept in a store."""
    return zlib.compress(json.dumps(content, separators=(",", ":")).encode(), level=6)


def unpack_text(content: bytes) -> dict[str, Any]:
    """Return the JSON in a store's text."""
    found: dict[str, Any] = json.loads(zlib.decompress(content))
    return found


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


@dataclass(frozen=True)
class Damage:
    """A damaged part of a store."""

    name: str | None  # of the adapter; None for what they share
    what: str

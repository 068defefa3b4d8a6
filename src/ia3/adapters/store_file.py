"""A packed store opened for reading: an SQLite file, and the names it had when it was opened.

What a name no longer means stays in the file until the store is compacted, so an opened store goes on reading what it
opened. Transactions, locks and what a killed writer left are SQLite's matter: with a rollback journal, since a log
beside the file could not be read where nothing may be written. This file knows names, bytes and JSON, and does not
import torch.
"""

from __future__ import annotations

import json
import os
import sqlite3
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ia3.adapters.store_before import MAGIC
from ia3.adapters.store_database import Connected
from ia3.adapters.store_tables import Facts, Part, State, line_of, read_state
from ia3.errors import AdapterError, IA3Warning, near_matches

_WORDS: dict[Part, str] = {"text": "config and record", "numbers": "row", "tensors": "head"}  # of a part, for people
_SHOWN = 8  # names in a message


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
        if getattr(error.__cause__, "sqlite_errorcode", None) == sqlite3.SQLITE_NOTADB:
            _refuse_store_of_before(path, doing)
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


def _refuse_store_of_before(path: Path, doing: str) -> None:
    """Raise if a file that is none of SQLite's is of the format before."""
    with path.open("rb") as file:  # closing a file of SQLite's would end this process's locks on it
        if file.read(len(MAGIC)) == MAGIC:
            raise AdapterError(
                f"{doing}: it was written by an earlier ia3. Make a store of it: ia3 adapters convert {path} NEW."
            )


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
        what = f"damaged at {shown}" if names else "not whole, and what is missing cannot be read"
        return (
            f"the list of its adapters is {what}. The others are read. See what is there with 'ia3 adapters list', or "
            "take another copy of the file."
        )

    def facts(self, name: str) -> Facts:
        """Return what is known of an adapter before it is read.

        Raises:
            AdapterError: For an unknown name, or one whose line is damaged.
        """
        return Facts.read(line_of(self.state, name, self.path))

    def part(self, name: str, part: Part) -> bytes:
        """Return a part of an adapter as it is written, checked against its checksum.

        Raises:
            AdapterError: For an unknown name, or if it is damaged.
        """
        facts = line_of(self.state, name, self.path)
        known = Facts.read(facts)

        def ask(connection: sqlite3.Connection, doing: str) -> bytes:
            found = connection.execute(f"SELECT {part} FROM adapters WHERE id = ?", (known.adapter,)).fetchone()
            content = found[0] if found else None
            if isinstance(content, bytes) and zlib.crc32(content) == getattr(known, f"{part}_checksum"):
                return content
            now = connection.execute("SELECT facts FROM names WHERE name = ?", (name,)).fetchone()
            if now != (facts,):
                raise AdapterError(
                    f"{doing}: it was replaced or removed, and the store compacted, since it was opened. Open it again."
                )
            raise AdapterError(
                f"{doing}: its {_WORDS[part]} is damaged, the checksum differs. Remove it and add it again, or take "
                "another copy of the file; 'ia3 adapters verify' names all that is damaged."
            )

        return self.connected.run(f"Reading adapter {name!r} from {self.path}", ask)

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


@dataclass(frozen=True)
class Damage:
    """A damaged part of a store."""

    name: str | None  # of the adapter; None for what they share
    what: str

"""A packed store opened for reading: a file mapped into memory, and what it held at its last commit.

An opened store goes on reading what it opened: writers add behind it, and compacting makes another file. Pages of the
map are given back once they are copied, so that the process holds what it asked for and not the file. Everything read
is checked against its checksum. This file knows names, bytes and JSON; it does not import torch.
"""

from __future__ import annotations

import json
import mmap
import os
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ia3.adapters.store_blocks import FIRST, VERSION, Block, parse_head, read_block, read_version
from ia3.adapters.store_index import State, read_index, read_name, read_state
from ia3.errors import AdapterError, IA3Warning, near_matches

# The system maps up to 64 kB around a page that is asked for, where they are in memory already.
_AROUND = 1 << 16
_SHOWN = 8  # names in a message
_CUT_SHORT = "Adding was cut short, or the file is damaged."
_MAY_ADVISE = hasattr(mmap.mmap, "madvise")


def open_store_file(path: Path, state: State | None = None) -> StoreFile:
    """Open a store.

    Args:
        path: The file.
        state: What it holds, if that is known.

    Raises:
        AdapterError: If there is none, it is no store, a later version wrote it, or it has no whole commit.

    Warns:
        IA3Warning: If adapters behind its last commit do not count, unless a process is adding them now.
    """
    file = _open(path, state)
    if file.loss() and not _is_being_written(path):
        file = _open(path, None)  # whoever wrote may have been done in between
        if told := file.loss():
            warnings.warn(f"Opening {path}: {told}", IA3Warning, stacklevel=3)
    return file


def _open(path: Path, state: State | None) -> StoreFile:
    doing = f"Opening {path}"
    data = MappedFile(path, doing)
    version = read_version(data)
    if version is not None and version > VERSION:
        raise AdapterError(
            f"{doing}: its format has version {version}, expected at most {VERSION}. Upgrade: pip install --upgrade "
            "ia3."
        )
    found = state or read_state(data)
    data.give_back()
    if found is not None:
        return StoreFile(path, data, found)
    if version is None:
        raise AdapterError(
            f"{doing}: this is no packed store, expected a file that 'ia3 adapters pack' has written. An adapter's "
            "folder is packed with 'ia3 adapters pack STORE FOLDER'."
        )
    raise AdapterError(
        f"{doing}: it is cut off before its first adapter was whole, got {len(data)} bytes. Copy it again."
    )


def lock_of(path: Path) -> Path:
    """Return the file that a store's writer holds."""
    real = path.resolve()
    return real.with_name(f".{real.name}.lock")


def _is_being_written(path: Path) -> bool:
    place = lock_of(path)
    if not place.exists():
        return False
    try:
        with FileLock(place, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # it may not be opened here, so nobody knows
        return False


def file_identity(facts: os.stat_result) -> tuple[int, int]:
    """Return what makes two names one file."""
    return facts.st_dev, facts.st_ino


class MappedFile:
    """A file in memory, of which slices are copied; see `store_blocks.Bytes`."""

    def __init__(self, path: Path, doing: str) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                self._file = file_identity(os.fstat(file.fileno()))
        except ValueError as error:
            raise AdapterError(f"{doing}: the file is empty, expected a packed store. Pack it again.") from error
        except FileNotFoundError as error:
            beside = path.parent.iterdir() if path.parent.is_dir() else ()
            names = [other.name for other in beside if other.is_file() and not other.name.startswith(".")]
            raise AdapterError(
                f"{doing}: there is no such file.{near_matches(path.name, names)} 'ia3 adapters pack' makes one."
            ) from error
        except IsADirectoryError as error:
            raise AdapterError(f"{doing}: this is a folder, expected a packed store, which is one file.") from error
        except OSError as error:
            raise AdapterError(f"{doing}: it cannot be read ({error.strerror or error}).") from error
        self._length = len(self._map)
        if _MAY_ADVISE:
            self._map.madvise(mmap.MADV_RANDOM)  # a row's neighbours are not wanted

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, span: slice, /) -> bytes:
        return self._map[span]

    def find(self, sought: bytes, start: int, /) -> int:
        """Return where the sought bytes are next, or −1."""
        return self._map.find(sought, start)

    def read_into(self, target: memoryview, at: int) -> None:
        """Copy bytes from a place; the pages they lie on are given back.

        Args:
            target: Bytes to fill.
            at: Where they begin in the file.

        Raises:
            AdapterError: If the file has become shorter than it was when it was opened.
        """
        end = at + len(target)
        if self._map.size() < end:  # a page that is not there any more would end the process
            raise AdapterError(
                f"Reading {self.path}: the file was cut off while it was open, got {self._map.size()} bytes, expected "
                f"{self._length}. Open it again."
            )
        first, length = self._pages(at, end)
        if _MAY_ADVISE:
            self._map.madvise(mmap.MADV_WILLNEED, first, length)  # in one go, not page by page
        with memoryview(self._map) as data, data[at:end] as part:
            target[:] = part
        if _MAY_ADVISE:
            first, length = self._pages(max(0, at - _AROUND), min(end + _AROUND, self._length))
            self._map.madvise(mmap.MADV_DONTNEED, first, length)

    def is_unchanged(self) -> bool:
        """Whether the file under this name is this one, and as long as it was."""
        now = self.path.stat()
        return file_identity(now) == self._file and now.st_size == self._length

    def give_back(self) -> None:
        """Give all pages back to the system."""
        if _MAY_ADVISE:
            self._map.madvise(mmap.MADV_DONTNEED)

    def close(self) -> None:
        """Close the file; nothing can be read any more."""
        self._map.close()

    def _pages(self, start: int, end: int) -> tuple[int, int]:
        first = start // mmap.PAGESIZE * mmap.PAGESIZE
        return first, end - first


@dataclass(frozen=True, eq=False)
class StoreFile:
    """A store as it was when it was opened.

    Attributes:
        path: Where it lies.
        data: Its bytes.
        state: Its adapters' blocks.
    """

    path: Path
    data: MappedFile
    state: State

    def is_newest(self) -> bool:
        """Whether nobody has written to it since it was opened."""
        is_all = self.state.is_clean and self.state.end == len(self.data)
        return is_all and self.path.exists() and self.data.is_unchanged()

    @cached_property
    def unused_bytes(self) -> int:
        """Bytes that compacting would give back, nearly: those of no adapter, description or newest index."""
        used = sum(self.state.block(name).size for name in self.state.entries)
        used += sum(block.size for block in self._descriptions())
        commit = read_block(self.data, self.state.commit)
        return max(0, len(self.data) - FIRST - used - (commit.size if commit else 0))

    def loss(self) -> str | None:
        """Return what of the file does not count, in words, or None."""
        names, rest = self.state.lost, f"{self.state.rest:,} bytes behind its last whole commit do not count"
        if names:
            shown = ", ".join(map(repr, names[:_SHOWN])) + (f", … ({len(names)})" if len(names) > _SHOWN else "")
            older = [name for name in names if name in self.state.entries]
            instead = f" (of {', '.join(map(repr, older[:_SHOWN]))} the older one is read)" if older else ""
            what = "adapter" if len(names) == 1 else "adapters"
            return f"{rest}: {what} {shown}{instead}. {_CUT_SHORT} Add again, or take another copy of the file."
        if self.state.rest:
            return (
                f"{rest}, and of which adapter they are cannot be read. {_CUT_SHORT} See what is there with "
                "'ia3 adapters list'; add again what is not, or take another copy of the file."
            )
        if self.state.missing:
            return (
                f"its index is damaged, and no adapter can be read from {self.state.missing:,} bytes in it, so one may "
                "be missing. See what is there with 'ia3 adapters list', or take another copy of the file."
            )
        return None

    def block(self, name: str) -> Block:
        """Return the head of an adapter's block.

        Raises:
            AdapterError: For an unknown name, or one that is behind the last commit.
        """
        if name in self.state.lost and name not in self.state.entries:
            raise AdapterError(
                f"Looking up adapter {name!r}: it stands behind the last whole commit of {self.path} and does not "
                f"count. {_CUT_SHORT} Add it again, or take another copy of the file."
            )
        if name not in self.state.entries:
            raise AdapterError(
                f"Looking up adapter {name!r}: {self.path} has no such name.{near_matches(name, self.state.entries)}"
            )
        return self.state.block(name)

    def text(self, name: str) -> dict[str, Any]:
        """Return what is written of an adapter beside its numbers: the texts of its folder's files.

        Raises:
            AdapterError: For an unknown name, or if it is damaged.
        """
        return unpack_text(self.packed_text(name))

    def packed_text(self, name: str) -> bytes:
        """Return the same as it is written."""
        block = self.block(name)
        content = self._read(block.text_at, block.text_length)
        self._check(content, block.text_checksum, name, "config and record")
        return content

    def row(self, name: str) -> bytes:
        """Return an adapter's row as it is written; see `read_row`."""
        content = bytearray(self.block(name).row_length)
        self.read_row(name, memoryview(content))
        return bytes(content)

    def tensors(self, name: str) -> bytes:
        """Return the tensors in an adapter's block, as a safetensors file, or nothing if there are none."""
        block = self.block(name)
        content = self._read(block.tensors_at, block.tensors_length)
        self._check(content, block.tensors_checksum, name, "head")
        return content

    def read_row(self, name: str, target: memoryview) -> None:
        """Copy an adapter's row as it is written, touching nothing else of the file.

        Args:
            name: Of the adapter.
            target: `block(name).row_length` bytes.

        Raises:
            AdapterError: For an unknown name, or if the row is damaged.
        """
        block = self.block(name)
        self.data.read_into(target, block.row_at)
        self._check(target, block.row_checksum, name, "row")

    @cached_property
    def description(self) -> Mapping[str, Any]:
        """What all adapters share: base and plan."""
        return unpack_text(self.packed_description())

    def packed_description(self) -> bytes:
        """Return the same as it is written; a second copy of it is read where the first one is damaged."""
        for block in self._descriptions():
            content = self._read(block.text_at, block.text_length)
            if zlib.crc32(content) == block.text_checksum:
                return content
        raise AdapterError(
            f"Reading {self.path}: both copies of its description (base and plan) are damaged. Pack the adapters again."
        )

    def find_damage(self) -> tuple[Damage, ...]:
        """Read everything and return what is damaged."""
        found = [Damage(name, what) for name in self.state.entries for what in self._damage_of(name)]
        found += [Damage(name, "all of it, behind the last whole commit") for name in self.state.lost]
        found += [Damage(None, what) for what in self._shared_damage()]
        self.data.give_back()
        return tuple(found)

    def close(self) -> None:
        """Close the file."""
        self.data.close()

    def _damage_of(self, name: str) -> list[str]:
        block, found = self.state.block(name), []
        if read_block(self.data, block.place) != block or read_name(self.data, block) != name:
            found.append("head of its block")
        for read, what in ((self.text, "config and record"), (self.row, "row"), (self.tensors, "head")):
            try:
                read(name)
            except AdapterError:
                found.append(what)
        return found

    def _shared_damage(self) -> list[str]:
        found = []
        if read_version(self.data) is None:
            found.append("the first 64 bytes of the file")
        for number, block in enumerate(self._descriptions(), start=1):
            content = self._read(block.text_at, block.text_length)
            if read_block(self.data, block.place) != block or zlib.crc32(content) != block.text_checksum:
                found.append(f"a copy of the description ({number} of {len(self.state.descriptions)})")
        if self.state.missing:
            found.append(f"{self.state.missing:,} bytes that are no block")
        if not self.state.is_clean:
            torn = len(self.data) - self.state.end
            found.append(f"the end of the file ({torn} bytes behind the last whole commit)" if torn else "the index")
        elif self._is_commit_damaged():
            found.append("the index")
        return found

    def _is_commit_damaged(self) -> bool:
        commit = read_block(self.data, self.state.commit)
        return commit is None or read_index(self.data, commit) is None

    def _descriptions(self) -> list[Block]:
        return [block for block in map(parse_head, reversed(self.state.descriptions)) if block is not None]

    def _read(self, at: int, length: int) -> bytes:
        content = bytearray(length)
        if length:
            self.data.read_into(memoryview(content), at)
        return bytes(content)

    def _check(self, content: bytes | memoryview, checksum: int, name: str, what: str) -> None:
        if zlib.crc32(content) != checksum:
            raise AdapterError(
                f"Reading adapter {name!r} from {self.path}: its {what} is damaged, the checksum differs. Remove it "
                "and add it again, or take another copy of the file; 'ia3 adapters verify' names all that is damaged."
            )


def pack_text(content: Mapping[str, Any]) -> bytes:
    """Return JSON as it is kept in a block."""
    return zlib.compress(json.dumps(content, separators=(",", ":")).encode(), level=6)


def unpack_text(content: bytes) -> dict[str, Any]:
    """Return the JSON in a block's text."""
    found: dict[str, Any] = json.loads(zlib.decompress(content))
    return found


@dataclass(frozen=True)
class Damage:
    """A damaged part of a store."""

    name: str | None  # of the adapter; None for what they share
    what: str

"""Reading the packed stores of before: a format of its own, of blocks at multiples of 64 bytes behind each other.

A file ends with a copy of its last commit's head. A commit's text names the commit before it, up to one that has
everything, and lists the heads and names of the blocks since then; a block is its head, its name, a text, a row and
tensors. Nothing is mended: a file whose end or index is damaged is refused. This file knows bytes and
names; `cli.stores` puts what is read here into a store of today.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from ia3.adapters.store_tables import Stored
from ia3.errors import AdapterError

MAGIC = b"\x89IA3\r\n\x1a\n"
# magic, kind, stored, unused, place, lengths of name, text, row, tensors, checksums of the same, error
_HEAD = struct.Struct("<4sBBHQIIQQIIIIf")
_SIZE = 64
_CHAIN = struct.Struct("<QQ")  # place of the commit before, or 0; and a number
_DESCRIPTION, _ADAPTER, _REMOVAL, _COMMIT, _END = 1, 2, 3, 4, 5


class Before(NamedTuple):
    """What lies in a block, as it is written today as well."""

    text: bytes
    numbers: bytes
    tensors: bytes
    stored: Stored
    error: float


def read_before(path: Path, doing: str) -> Iterator[tuple[str, Before]]:
    """Yield what all adapters of a store of before share, under an empty name, then each adapter.

    Args:
        path: The file.
        doing: Beginning of an error.

    Raises:
        AdapterError: If it is no such store, or a part of it is damaged.
    """
    try:
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise AdapterError(
                    f"{doing}: this is no packed store of an earlier ia3, which alone has to be converted."
                )
            for name, head in _index(file).items():
                yield name, _read_parts(file, head)
    except OSError as error:
        raise AdapterError(f"{doing}: it cannot be read ({error.strerror or error}).") from error
    except (struct.error, KeyError, ValueError) as error:
        raise AdapterError(f"{doing}: the file is damaged or cut off ({error}). Take another copy of it.") from error


def _index(file: BinaryIO) -> dict[str, tuple[int, ...]]:
    """Return the heads of the adapters that are left by name, and of the description under an empty one."""
    last = _read_head(file, file.seek(-_SIZE, 2))
    indexes, place = [], last[4]
    while place:
        commit = _read_head(file, place)
        [index] = _read_whole(file, commit, (1,))
        indexes.append(index)
        place = _CHAIN.unpack_from(index)[0]
    found: dict[str, tuple[int, ...]] = {}
    for index in reversed(indexes):
        at = _CHAIN.size
        while at < len(index):
            head = _HEAD.unpack_from(index, at)
            [length] = struct.unpack_from("<I", index, at + _SIZE)
            at += _SIZE + 4 + length
            name = index[at - length : at].decode()
            if head[1] == _REMOVAL:
                del found[name]
            else:
                found[name] = head
    return {"": found.pop(""), **found}


def _read_parts(file: BinaryIO, head: tuple[int, ...]) -> Before:
    text, numbers, tensors = _read_whole(file, head, (1, 2, 3))
    return Before(text, numbers, tensors, Stored(head[2]), head[13])


def _read_head(file: BinaryIO, place: int) -> tuple[int, ...]:
    file.seek(place)
    head = file.read(_SIZE)
    if zlib.crc32(head[: _HEAD.size]) != int.from_bytes(head[_HEAD.size :], "little"):
        raise ValueError(f"no block at {place}")
    return _HEAD.unpack_from(head)


def _read_whole(file: BinaryIO, head: tuple[int, ...], parts: tuple[int, ...]) -> list[bytes]:
    """Return parts of a block by number: name, text, row, tensors; each is checked against its checksum."""
    found, at = [], head[4] + _SIZE
    for part, (length, checksum) in enumerate(zip(head[5:9], head[9:13], strict=True)):
        if part in parts:
            file.seek(at)
            content = file.read(length)
            if zlib.crc32(content) != checksum:
                raise ValueError(f"the block at {head[4]}")
            found.append(content)
        at += -(-length // _SIZE) * _SIZE
    return found

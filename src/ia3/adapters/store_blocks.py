"""The bytes of a packed store: a head of the file, then blocks, each behind the other at a multiple of 64 bytes.

    head of a block (64 bytes) | name | text | row | tensors          each begins at a multiple of 64 bytes

A head holds the lengths and checksums of what follows it, its own place in the file, and a checksum of itself; so a
block can be checked alone, and a copy of a block elsewhere is not taken for one. A commit makes the blocks before it
valid. It ends with a second copy of its head, so that a whole file can be read from its end.

    description  what all adapters share: base and plan (text). Written twice
    adapter      name, config and record (text), the row, and head tensors
    removal      name of an adapter that is no longer there
    commit       the changes since the last commit, or the whole index (text); see `store_index`

Numbers are little-endian. This file knows bytes; it knows nothing of adapters and tensors, and does not import torch.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

ALIGNMENT = 64
VERSION = 1
FIRST = 64  # where the first block begins
_FILE_MAGIC = b"\x89IA3\r\n\x1a\n"
_BLOCK_MAGIC = b"IA3b"
# magic, kind, stored, unused, place, lengths of name, text, row, tensors, checksums of the same, error
_HEAD = struct.Struct("<4sBBHQIIQQIIIIf")
_CHECKSUM = struct.Struct("<I")
HEAD_SIZE = _HEAD.size + _CHECKSUM.size
assert HEAD_SIZE == ALIGNMENT


class Kind(IntEnum):
    """What a block is."""

    DESCRIPTION = 1
    ADAPTER = 2
    REMOVAL = 3
    COMMIT = 4
    END = 5  # the copy of a commit's head at its end


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


class Bytes(Protocol):
    """What blocks are read from: bytes, or a file in memory."""

    def __len__(self) -> int: ...

    def __getitem__(self, span: slice, /) -> bytes: ...

    def find(self, sought: bytes, start: int, /) -> int:
        """Return where the sought bytes are next, or −1."""


def file_head() -> bytes:
    """Return the first 64 bytes of a store."""
    head = _FILE_MAGIC + _CHECKSUM.pack(VERSION)
    return (head + _CHECKSUM.pack(zlib.crc32(head))).ljust(FIRST, b"\0")


def read_version(data: Bytes) -> int | None:
    """Return the version of the format that the first bytes of a file name, or None if they are not a store's."""
    head = data[0:16]
    is_whole = len(head) == 16 and head.startswith(_FILE_MAGIC) and _CHECKSUM.pack(zlib.crc32(head[:12])) == head[12:]
    return int(_CHECKSUM.unpack(head[8:12])[0]) if is_whole else None


def padded(length: int) -> int:
    """Return a length rounded up to a multiple of 64."""
    return -(-length // ALIGNMENT) * ALIGNMENT


def read_block(data: Bytes, at: int) -> Block | None:
    """Return the block whose head is at a place, or None if there is none or it is damaged.

    The head at the end of a commit gives the commit.
    """
    block = parse_head(data[at : at + HEAD_SIZE])
    if block is None:
        return None
    if block.kind is Kind.END:
        commit = block.as_commit()
        return commit if commit.end - HEAD_SIZE == at else None
    return block if block.place == at else None


def parse_head(head: bytes) -> Block | None:
    """Return the block that 64 bytes are the head of, or None if they are not a whole head."""
    if len(head) != HEAD_SIZE or not head.startswith(_BLOCK_MAGIC):
        return None
    if _CHECKSUM.unpack(head[_HEAD.size :])[0] != zlib.crc32(head[: _HEAD.size]):
        return None
    _, kind, stored, _, place, n, t, r, x, n_sum, t_sum, r_sum, x_sum, error = _HEAD.unpack(head[: _HEAD.size])
    try:
        return Block(Kind(kind), place, n, t, r, x, n_sum, t_sum, r_sum, x_sum, Stored(stored), error)
    except ValueError:  # of a later version
        return None


def scan_blocks(data: Bytes) -> Iterator[Block]:
    """Yield every block with a whole head, in order; where one is damaged, go on at the next one.

    The last one may reach beyond the end of the file.
    """
    at = FIRST
    while 0 <= at <= len(data) - HEAD_SIZE:
        block = read_block(data, at)
        if block is None:
            at = data.find(_BLOCK_MAGIC, at + 1)
            while at % ALIGNMENT and at >= 0:
                at = data.find(_BLOCK_MAGIC, at + 1)
            continue
        yield block
        at = block.end


@dataclass(frozen=True, slots=True)
class Block:
    """The head of a block; lengths are in bytes, checksums are CRC-32."""

    kind: Kind
    place: int  # in the file
    name_length: int = 0
    text_length: int = 0
    row_length: int = 0
    tensors_length: int = 0
    name_checksum: int = 0
    text_checksum: int = 0
    row_checksum: int = 0
    tensors_checksum: int = 0
    stored: Stored = Stored.FLOAT32
    error: float = 0.0  # largest |l' − l| of the row as it is stored

    @property
    def name_at(self) -> int:
        """Where the name begins."""
        return self.place + HEAD_SIZE

    @property
    def text_at(self) -> int:
        """Where the text begins."""
        return self.name_at + padded(self.name_length)

    @property
    def row_at(self) -> int:
        """Where the row begins."""
        return self.text_at + padded(self.text_length)

    @property
    def tensors_at(self) -> int:
        """Where the tensors begin."""
        return self.row_at + padded(self.row_length)

    @property
    def end(self) -> int:
        """Where the next block begins."""
        end = self.tensors_at + padded(self.tensors_length)
        return end + HEAD_SIZE if self.kind is Kind.COMMIT else end

    @property
    def size(self) -> int:
        """Bytes of the block."""
        return self.end - self.place

    def as_commit(self) -> Block:
        """Return the commit that this head at an end belongs to."""
        return Block(
            Kind.COMMIT, self.place, text_length=self.text_length, text_checksum=self.text_checksum, error=self.error
        )

    def head(self, kind: Kind | None = None) -> bytes:
        """Return the 64 bytes.

        Args:
            kind: `Kind.END` for the copy at a commit's end.
        """
        head = _HEAD.pack(
            _BLOCK_MAGIC, kind or self.kind, self.stored, 0, self.place, self.name_length, self.text_length,
            self.row_length, self.tensors_length, self.name_checksum, self.text_checksum, self.row_checksum,
            self.tensors_checksum, self.error,
        )  # fmt: skip
        return head + _CHECKSUM.pack(zlib.crc32(head))

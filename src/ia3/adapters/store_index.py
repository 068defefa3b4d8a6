"""What a packed store holds at one moment: its adapters' blocks by name, from its commits or from its blocks.

A commit's text is an index: the heads and names of the blocks that came since the last commit, or now and then of all
that are left, so that few commits are read to open a store. Where the end of the file is torn or an index is damaged,
every block's head is read in their place: blocks before a commit count, those behind the last one do not.

This file knows heads and names. It does not import torch, so that a store is listed without it.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from ia3.adapters.store_blocks import (
    FIRST,
    HEAD_SIZE,
    Block,
    Bytes,
    Kind,
    parse_head,
    read_block,
    scan_blocks,
)

_CHAIN = struct.Struct(
    "<QQ"
)  # place of the commit before (0: this index is whole), number of commits since a whole one
_LENGTH = struct.Struct("<I")
_KIND_AT = 4  # in a head
_COPIES = 2  # of the description
Change = tuple[bytes, str]  # a head, and the name of its block
BASE_NAME = "__base__"  # of a bank's row 0; `core.snapshot` has it too, and imports torch


def read_state(data: Bytes) -> State | None:
    """Return what a store held at its last commit, or None if the file has no whole commit."""
    last = read_block(data, len(data) - HEAD_SIZE) if len(data) >= FIRST + HEAD_SIZE else None
    if last is not None and last.kind is Kind.COMMIT and last.end == len(data):
        state = _from_commits(data, last)
        if state is not None:
            return state
    return _from_blocks(data)


def _from_commits(data: Bytes, last: Block) -> State | None:
    """Follow the chain of indexes back to a whole one; None if one of them is damaged."""
    indexes: list[bytes] = []
    commit: Block | None = last
    while commit is not None and commit.kind is Kind.COMMIT:
        index = read_index(data, commit)
        if index is None:
            return None
        indexes.append(index)
        previous, _ = _CHAIN.unpack_from(index)
        if previous == 0:
            state = State(end=last.end, commit=last.place, steps=len(indexes) - 1)
            return state.after(change for index in reversed(indexes) for change in _changes(index))
        commit = read_block(data, previous) if previous < commit.place else None
    return None


def _from_blocks(data: Bytes) -> State | None:
    """Read the head of every block; what stands behind the last commit does not count, and is remembered by name."""
    state, pending, missing, at, committed = State(is_clean=False), list[Change](), 0, FIRST, 0
    for block in scan_blocks(data):
        missing += block.place - at
        if block.kind is Kind.COMMIT:
            # one that is cut off counts as well: the blocks before it were on disk before its head was written
            end = block.end if block.end <= len(data) else block.place
            state, pending = replace(_committed(state, data, block, pending, missing), end=end), []
            missing, committed = 0, block.end
        elif (name := read_name(data, block)) is not None:
            pending.append((block.head(), name))
        else:
            missing += block.size
        at = block.end
    lost = dict.fromkeys(name for head, name in pending if head[_KIND_AT] == Kind.ADAPTER)
    return replace(state, lost=tuple(lost), rest=max(0, len(data) - committed)) if committed else None


def _committed(state: State, data: Bytes, commit: Block, pending: Iterable[Change], missing: int) -> State:
    """Return the state at a commit: by its index, else by the heads before it, of which some bytes are no block."""
    index = read_index(data, commit)
    if index is None:
        return replace(state.after(pending), missing=state.missing + missing)
    is_whole = _CHAIN.unpack_from(index)[0] == 0
    return (State(is_clean=False) if is_whole else state).after(_changes(index))


def read_index(data: Bytes, commit: Block) -> bytes | None:
    """Return the text of a commit, or None if it is damaged or cut off."""
    index = data[commit.text_at : commit.text_at + commit.text_length]
    is_whole = len(index) == commit.text_length >= _CHAIN.size and zlib.crc32(index) == commit.text_checksum
    return index if is_whole else None


def read_name(data: Bytes, block: Block) -> str | None:
    """Return the name in a block, or None if it is damaged."""
    name = data[block.name_at : block.name_at + block.name_length]
    return name.decode() if zlib.crc32(name) == block.name_checksum else None


def write_index(changes: Iterable[Change], previous: int, steps: int) -> bytes:
    """Return the text of a commit.

    Args:
        changes: Heads and names.
        previous: Place of the commit before; 0 if the changes are the whole index.
        steps: Number of commits since a whole index.
    """
    parts = [_CHAIN.pack(previous, steps)]
    for head, name in changes:
        encoded = name.encode()
        parts += (head, _LENGTH.pack(len(encoded)), encoded)
    return b"".join(parts)


def _changes(index: bytes) -> Iterator[Change]:
    at = _CHAIN.size
    while at < len(index):
        name_at = at + HEAD_SIZE + _LENGTH.size
        end = name_at + _LENGTH.unpack_from(index, at + HEAD_SIZE)[0]
        yield index[at : at + HEAD_SIZE], index[name_at:end].decode()
        at = end


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
class State:
    """What a store holds at one commit.

    Attributes:
        entries: Head of each adapter's block by name; 64 bytes each, so that ten thousand take little memory.
        descriptions: Heads of the copies of the description.
        end: Where the next block goes; what the file has from there on is a torn append.
        commit: Place of the last commit; 0 if the next one must hold the whole index.
        steps: Number of commits since a whole index.
        is_clean: Whether the file ends with a whole commit, and its indexes are whole.
        lost: Names of the adapters behind the last commit, which do not count: adding them was cut short, or the
            file is damaged.
        rest: Bytes behind the last commit.
        missing: Bytes before the last commit that are no block, where no index says what they were.
    """

    entries: Mapping[str, bytes] = field(default_factory=dict)
    descriptions: tuple[bytes, ...] = ()
    end: int = FIRST
    commit: int = 0
    steps: int = 0
    is_clean: bool = True
    lost: tuple[str, ...] = ()
    rest: int = 0
    missing: int = 0

    def block(self, name: str) -> Block:
        """Return the head of an adapter's block."""
        block = parse_head(self.entries[name])
        assert block is not None  # checked when it was read
        return block

    def after(self, changes: Iterable[Change]) -> State:
        """Return the state with changes made; a new adapter of a known name takes the place of the old one."""
        entries, descriptions = dict(self.entries), list(self.descriptions)
        for head, name in changes:
            kind = head[_KIND_AT]
            if kind == Kind.ADAPTER:
                entries[name] = head
            elif kind == Kind.REMOVAL:
                entries.pop(name, None)
            elif kind == Kind.DESCRIPTION:
                descriptions.append(head)
        return replace(self, entries=entries, descriptions=tuple(descriptions[-_COPIES:]))

    def whole(self) -> Iterator[Change]:
        """Yield what makes this state from nothing."""
        yield from ((head, "") for head in self.descriptions)
        yield from ((head, name) for name, head in self.entries.items())

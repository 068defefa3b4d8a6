"""Writing a packed store: blocks behind the last commit, then a commit, each forced to disk before the next.

One process writes at a time, under a lock beside the file. What is not committed, because of an error or because the
process ended, is not there: the file is cut back to the last commit, at once or by the next writer. A new store, and a
compacted one, is written beside its name and renamed. This file knows bytes and names; it does not import torch.
"""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from filelock import FileLock, Timeout

from ia3.adapters.store_blocks import Block, Kind, Stored, file_head, padded
from ia3.adapters.store_file import StoreFile, lock_of, open_store_file
from ia3.adapters.store_index import Change, State, name_fault, write_index
from ia3.errors import AdapterError
from ia3.files import sync

LOCK_SECONDS = 5.0  # how long a writer waits for another one
_BINARY = getattr(os, "O_BINARY", 0)  # Windows would write other line ends


def create_store_file(path: Path, doing: str, write: Callable[[Writer], None]) -> StoreFile:
    """Make a new store and return it opened; the file appears when it is whole.

    Args:
        path: Where; folders are made.
        doing: Beginning of an error.
        write: Puts in what it holds.

    Raises:
        AdapterError: If the name is taken, or it cannot be written.
    """
    with _told(doing):
        path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path, doing):
        if path.exists():
            raise AdapterError(
                f"{doing}: it is there already. Add to it with 'ia3 adapters add', or choose another name."
            )
        with _written_beside(path, doing) as writer:
            write(writer)
        return open_store_file(path)


def append_to_store_file(opened: StoreFile, doing: str, write: Callable[[StoreFile, Writer], None]) -> StoreFile:
    """Add to a store and return it as it then is; all that is put is committed, or nothing.

    Args:
        opened: The store as this process knows it; others may have added to it.
        doing: Beginning of an error.
        write: Called with the store as it is now, and its writer.

    Raises:
        AdapterError: If another process is writing, or the file cannot be written.
    """
    path = opened.path
    with _locked(path, doing), _told(doing):
        latest = opened if opened.is_newest() else open_store_file(path)
        descriptor = os.open(path, os.O_RDWR | _BINARY)
        try:
            writer = Writer(descriptor, latest.state)
            if not latest.state.is_clean:  # a process was killed here, or the index is damaged
                writer.drop()
                writer.commit(is_whole=True)
            try:
                write(latest, writer)
                writer.commit()
            except BaseException:
                with contextlib.suppress(OSError):
                    writer.drop()
                raise
        finally:
            os.close(descriptor)
        return open_store_file(path, writer.state)


def compact_store_file(opened: StoreFile, doing: str) -> StoreFile:
    """Write a store anew, without what was removed or replaced, put it in the place of the old file, and return it.

    Raises:
        AdapterError: If an adapter is damaged, another process is writing, or it cannot be written; the file then
            stays as it is.
    """
    with _locked(opened.path, doing):
        latest = open_store_file(opened.path)
        with _written_beside(opened.path, doing) as writer:
            writer.describe(latest.packed_description())
            for name in latest.state.entries:
                copy_adapter(latest, name, writer, name)
        return open_store_file(opened.path)


def remove_adapters(opened: StoreFile, names: Iterable[str]) -> StoreFile:
    """Take adapters out: all of them, or none where one is unknown; return what the store then is.

    Raises:
        AdapterError: For an unknown name, or as `append_to_store_file`.
    """

    def write(latest: StoreFile, writer: Writer) -> None:
        for name in dict.fromkeys(names):
            latest.block(name)
            writer.remove(name)

    return append_to_store_file(opened, f"Removing from {opened.path}", write)


def rename_adapter(opened: StoreFile, name: str, new: str) -> StoreFile:
    """Give an adapter another name, by a second copy of it; return what the store then is.

    Raises:
        AdapterError: For an unknown name, a new one that is taken or cannot be one, a damaged adapter, or as
            `append_to_store_file`.
    """
    doing = f"Renaming adapter {name!r} to {new!r} in {opened.path}"

    def write(latest: StoreFile, writer: Writer) -> None:
        latest.block(name)
        fault = name_fault(new, latest.state.entries)
        if fault:
            raise AdapterError(f"{doing}: {fault}")
        copy_adapter(latest, name, writer, new)
        writer.remove(name)

    return append_to_store_file(opened, doing, write)


def copy_adapter(source: StoreFile, name: str, writer: Writer, new: str) -> None:
    """Write an adapter once more, under this name or another.

    Raises:
        AdapterError: If it is damaged.
    """
    block = source.block(name)
    text, row, tensors = source.packed_text(name), source.row(name), source.tensors(name)
    writer.add(new, text, row, tensors, block.stored, block.error)


class Writer:
    """Puts blocks behind the last commit of a file, and commits them.

    Attributes:
        state: What the file holds at its last commit.
    """

    def __init__(self, descriptor: int, state: State) -> None:
        self.state = state
        self._descriptor = descriptor
        self._at = state.end
        self._changes: list[Change] = []
        os.lseek(descriptor, self._at, os.SEEK_SET)

    def describe(self, text: bytes) -> None:
        """Say what all adapters share; twice, since none can be read without it."""
        for _ in range(2):
            self._put(Block(Kind.DESCRIPTION, self._at), "", text)

    def add(
        self, name: str, text: bytes, row: bytes | memoryview, tensors: bytes, stored: Stored, error: float = 0.0
    ) -> None:
        """Add an adapter, in the place of one of its name.

        Args:
            name: Its name.
            text: As `pack_text` returns it.
            row: The row's numbers as they are stored.
            tensors: A safetensors file, or nothing.
            stored: How the row is stored.
            error: Largest difference to the row as it was.
        """
        self._put(Block(Kind.ADAPTER, self._at, stored=stored, error=error), name, text, row, tensors)

    def remove(self, name: str) -> None:
        """Take an adapter out; its bytes stay until the store is compacted."""
        self._put(Block(Kind.REMOVAL, self._at), name)

    def commit(self, *, is_whole: bool | None = None, is_durable: bool = True) -> None:
        """Make what was put valid.

        Args:
            is_whole: Whether to write the index of everything; by default when there are many commits to follow.
            is_durable: Whether to force it to disk; a file that nobody sees yet need not be.
        """
        if not self._changes and not is_whole:
            return
        if is_durable:
            os.fsync(self._descriptor)
        after = self.state.after(self._changes)
        # few enough to follow quickly, rare enough that whole indexes are a few hundredths of the rows between them
        is_due = self.state.steps >= 64 + len(after.entries) // 16
        whole = self.state.commit == 0 or (is_due if is_whole is None else is_whole)
        steps = 0 if whole else self.state.steps + 1
        index = write_index(after.whole() if whole else self._changes, 0 if whole else self.state.commit, steps)
        place = self._at
        self._put(Block(Kind.COMMIT, place), "", index)
        if is_durable:
            os.fsync(self._descriptor)
        self.state = replace(after, end=self._at, commit=place, steps=steps, is_clean=True, lost=(), rest=0, missing=0)
        self._changes = []

    def drop(self) -> None:
        """Cut the file back to its last commit."""
        self._at, self._changes = self.state.end, []
        os.ftruncate(self._descriptor, self._at)
        os.lseek(self._descriptor, self._at, os.SEEK_SET)

    def _put(
        self, kind: Block, name: str, text: bytes = b"", row: bytes | memoryview = b"", tensors: bytes = b""
    ) -> None:
        parts = (name.encode(), text, row, tensors)
        block = replace(
            kind,
            name_length=len(parts[0]), text_length=len(text), row_length=len(row), tensors_length=len(tensors),
            name_checksum=zlib.crc32(parts[0]), text_checksum=zlib.crc32(text), row_checksum=zlib.crc32(row),
            tensors_checksum=zlib.crc32(tensors),
        )  # fmt: skip
        content: list[bytes | memoryview] = [block.head()]
        for part in parts:
            content += (part, bytes(padded(len(part)) - len(part)))
        if block.kind is Kind.COMMIT:
            content.append(block.head(Kind.END))
        else:
            self._changes.append((block.head(), name))
        write_all(self._descriptor, b"".join(content))
        self._at = block.end


def write_all(descriptor: int, content: bytes) -> None:
    """Write bytes; the system may take a part at a time."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


@contextlib.contextmanager
def _written_beside(path: Path, doing: str) -> Iterator[Writer]:
    """Yield the writer of a new file, which takes its name when the block ends without an error."""
    path = path.resolve()  # a link stays one
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):  # by a process that was killed
        left.unlink(missing_ok=True)
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    with _told(doing):
        try:
            descriptor = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_EXCL | _BINARY, 0o666)
            try:
                write_all(descriptor, file_head())
                writer = Writer(descriptor, State())
                yield writer
                writer.commit(is_whole=True)
            finally:
                os.close(descriptor)
            if path.exists():
                shutil.copymode(path, beside)
            beside.replace(path)
            sync(path.parent)
        finally:
            beside.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(path: Path, doing: str) -> Iterator[None]:
    """Hold the lock of a store's writers, which ends with the process however that ends."""
    lock = FileLock(lock_of(path), timeout=LOCK_SECONDS)
    try:
        with _told(doing):
            lock.acquire()
    except Timeout as error:
        raise AdapterError(
            f"{doing}: another process is writing to it. Wait until it is done and try again."
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _told(doing: str) -> Iterator[None]:
    """Turn what the system refuses into an error of ours."""
    try:
        yield
    except Timeout:
        raise
    except OSError as error:
        raise AdapterError(
            f"{doing}: it cannot be written ({error.strerror or error}). Free space, or choose another place."
        ) from error

"""Files that are whole whatever ends the process, and locks that end with it.

What is written lies beside its name, in a half file called `.NAME.….ia3-part`, until all of it is on disk; then it
takes the name, and the folder is forced to disk too, so that what is removed afterwards is never gone before the new
file is there. This file knows bytes and names. One process writes under a name at a time.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout


def write_whole(path: Path, content: bytes) -> None:
    """Write a file, in the place of one that is there.

    Args:
        path: The file, in a folder that exists.
        content: All of it.

    Raises:
        OSError: If it cannot be written; the old file is then untouched.
    """
    with writing(path) as file:
        file.write(content)


@contextmanager
def writing(path: Path) -> Iterator[IO[bytes]]:
    """Give a file to write into that takes its name, in the place of one that is there, when the scope ends.

    After an error there is under that name what was there before.

    Args:
        path: The file, in a folder that exists.

    Raises:
        OSError: If it cannot be written.
    """
    with placing(path) as half, _forced(half) as file:
        yield file


@contextmanager
def placing(path: Path) -> Iterator[Path]:
    """Give the place of a half file, which takes a name when the scope ends with all of it on disk.

    Args:
        path: The name, in a folder that exists.

    Raises:
        OSError: If it cannot be written.
    """
    half = _half(path)
    try:
        yield half
        half.replace(path)
        sync(path.parent)
    finally:
        half.unlink(missing_ok=True)


def replace_files(folder: Path, files: Mapping[str, bytes], key: str) -> None:
    """Replace files of a folder so that, at any instant, it holds the old set, the new one, or no key file.

    The new files are written whole beside their names; then the old key is removed, the new files take their names,
    and the new key comes last. A reader or a killed process can therefore meet a folder without a key, never a key
    beside other files than its own.

    Args:
        folder: Where; made if it is not there. Other files in it are left alone.
        files: Content by name; the names have no folder in them.
        key: Name of the file without which nothing reads the folder, one of `files`.

    Raises:
        OSError: If something cannot be written. The folder is then as before, or without its key.
    """
    folder.mkdir(parents=True, exist_ok=True)
    remove_halves(folder, files)
    halves = {name: _half(folder / name) for name in files}
    try:
        for name, half in halves.items():
            with _forced(half) as file:
                file.write(files[name])
        (folder / key).unlink(missing_ok=True)
        sync(folder)
        for name in files:
            if name != key:
                halves[name].replace(folder / name)
        sync(folder)
        halves[key].replace(folder / key)
        sync(folder)
    finally:
        for half in halves.values():
            half.unlink(missing_ok=True)


def halves_of(folder: Path, names: Iterable[str]) -> list[Path]:
    """Return the half files under names (or patterns such as `step-*.pt`): what is being written, or was at a kill."""
    return [half for name in names for half in folder.glob(f".{name}.*{_MARK}")]


def remove_halves(folder: Path, names: Iterable[str]) -> None:
    """Remove what killed processes left half written under names or patterns."""
    for half in halves_of(folder, names):
        half.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Force a closed file, or a folder's names, to disk, where the system can."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(path: Path, on_held: Callable[[], object]) -> Iterator[None]:
    """Hold a lock, which ends with the process however that ends; nothing is held on a file system without locks.

    Args:
        path: The file that stands for the lock; it is there while somebody holds it.
        on_held: Called if another holds the lock. It is waited for, unless this raises.
    """
    lock = FileLock(path)
    try:
        _take(lock, path, seconds=0)
    except Timeout:
        on_held()
        _take(lock, path, seconds=-1)
    except OSError:  # no locks here, or nothing can be written, which what follows will tell
        pass
    try:
        yield
    finally:
        if lock.is_locked:
            with suppress(OSError):  # Windows removes it when it is released
                path.unlink()
        lock.release()


def _take(lock: Any, path: Path, *, seconds: float) -> None:
    """Take a lock that stands for its file: who held it before may have removed the one that was opened."""
    lock.acquire(timeout=seconds)
    descriptor = lock._context.lock_file_fd
    try:
        is_there = descriptor is None or os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        is_there = False
    if not is_there:
        lock.release()
        _take(lock, path, seconds=seconds)


_MARK = ".ia3-part"


def _half(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}{_MARK}")


@contextmanager
def _forced(path: Path) -> Iterator[IO[bytes]]:
    """Give a new file whose bytes are on disk when the scope ends without an error."""
    with path.open("xb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())

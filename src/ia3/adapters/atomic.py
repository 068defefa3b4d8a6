"""Replacing the files of a folder so that, at any instant, it holds the old set, the new one, or no key file.

The key file is the one without which nothing reads the folder. The new files are written whole beside their names and
forced to disk; then the old key is removed, the new files take their names, and the new key comes last. A reader or a
killed process can therefore meet a folder without a key, never a key beside other files than its own. This file knows
bytes and names. One process writes a folder at a time.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from pathlib import Path

_MARK = ".ia3-tmp-"


def replace_files(folder: Path, files: Mapping[str, bytes], key: str) -> None:
    """Write files into a folder, which is made if it is not there; other files in it are left alone.

    Args:
        folder: Where.
        files: Content by name; the names have no folder in them.
        key: Name of the key file, one of `files`.

    Raises:
        OSError: If something cannot be written. The folder is then as before, or without its key.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(folder)
    written = {name: folder / f"{_MARK}{uuid.uuid4().hex}" for name in files}
    try:
        for name, path in written.items():
            _write_through(path, files[name])
        (folder / key).unlink(missing_ok=True)
        sync_folder(folder)
        for name in files:
            if name != key:
                written[name].replace(folder / name)
        sync_folder(folder)
        written[key].replace(folder / key)
        sync_folder(folder)
    finally:
        for path in written.values():
            path.unlink(missing_ok=True)


def has_leftovers(folder: Path) -> bool:
    """Whether a process was killed while it wrote here."""
    return any(path.name.startswith(_MARK) for path in folder.iterdir())


def _remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left."""
    for path in folder.iterdir():
        if path.name.startswith(_MARK):
            path.unlink(missing_ok=True)


def _write_through(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Force the folder's names to disk, where the system can."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

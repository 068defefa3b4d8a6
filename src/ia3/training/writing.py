"""Writing a file so that under its name there is always a whole one: the old or the new, whatever ends the process.

The content is written beside the name, forced to disk and renamed; then the folder is forced to disk too, so that what
is removed afterwards is never gone before the new file is there. This file knows bytes and names.
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from ia3.adapters.atomic import sync_folder

_MARK = ".ia3-part-"


def write_whole(path: Path, content: bytes) -> None:
    """Write a file, in the place of one that is there.

    Args:
        path: The file, in a folder that exists.
        content: All of it.

    Raises:
        OSError: If it cannot be written; the old file is then untouched.
    """
    beside = path.with_name(f"{_MARK}{uuid.uuid4().hex}")
    try:
        with beside.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    sync_folder(path.parent)


def remove_parts(folder: Path) -> None:
    """Remove what a killed process was writing."""
    for part in folder.glob(f"{_MARK}*"):
        part.unlink(missing_ok=True)

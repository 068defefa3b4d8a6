"""Tables as files, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ia3.data.tables import read_table
from ia3.errors import TableError


def write(folder: Path, content: str | bytes, name: str = "t.csv") -> Path:
    """Write a file as it is given, and return its path."""
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def refused(path: Path, **reading: object) -> str:
    """Return what is said of a file that cannot be read, without its name."""
    with pytest.raises(TableError) as caught:
        read_table(path, **reading)  # type: ignore[arg-type]
    return str(caught.value).removeprefix(f"Reading {path}: ")


def faults(path: Path) -> list[str]:
    """Return all faults of a file's rows."""
    with pytest.raises(TableError) as caught:
        read_table(path)
    return [str(fault).removeprefix(f"{path}:") for fault in caught.value.faults]

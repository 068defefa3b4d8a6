"""The places of a run of several tasks: the folders of its adapters and a packed store, checked, cleared and filled.

This file knows folders and stores; it knows nothing of training.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

from ia3.adapters.folder import load_adapter
from ia3.adapters.store import create_store
from ia3.core.sites import Plan
from ia3.errors import RunError
from ia3.runs.folder import ADAPTER_FILES


def check_task_folders(folder: Path, names: Iterable[str], *, is_free: bool) -> None:
    """Raise a RunError if an adapter lies where one is to go.

    Args:
        folder: Of the run.
        names: Of the tasks.
        is_free: Whether adapters that are there may be replaced.
    """
    used = [name for name in names if any((folder / name / file).exists() for file in ADAPTER_FILES)]
    files = [name for name in names if (folder / name).is_file()]
    if files:
        raise RunError(f"Preparing {folder}: {', '.join(map(repr, files))} is a file, expected room for a folder.")
    if used and not is_free:
        raise RunError(
            f"Preparing {folder}: it holds the adapters {', '.join(map(repr, used[:8]))} already. Give --overwrite to "
            "replace them, or another --output."
        )


def check_store(store: str | Path, *, is_free: bool) -> Path:
    """Return the path of a packed store that can be made.

    Raises:
        RunError: If a file is there and is not to be replaced, or a folder.
    """
    path = Path(store).expanduser()
    if path.is_dir():
        raise RunError(f"Packing {path}: a folder of this name is there. Give another --store.")
    if path.exists() and not is_free:
        raise RunError(
            f"Packing {path}: the file is there already. Give --overwrite to replace it, or another --store."
        )
    return path


def clear_adapters(folders: Iterable[Path]) -> None:
    """Remove the adapters that are in the way; what else lies in the folders stays."""
    for folder in folders:
        for file in (*ADAPTER_FILES, "README.md"):
            (folder / file).unlink(missing_ok=True)


def pack_folders(path: Path, folders: Mapping[str, Path], plan: Plan, *, overwrite: bool) -> None:
    """Put adapters, by name, into a new packed store."""
    if overwrite:
        path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    create_store(path, plan, adapters={name: partial(load_adapter, one) for name, one in folders.items()}).close()

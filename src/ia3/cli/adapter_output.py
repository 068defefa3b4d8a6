"""A folder that a verb writes an adapter into: may it be used, and writing it whole."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ia3.cli.options import add
from ia3.errors import RunError

if TYPE_CHECKING:
    import argparse

    from ia3.adapters.adapter import Adapter


def add_output(group: argparse._ActionsContainer) -> None:
    """Add `--output` and `--overwrite`."""
    words = {"what": "Folder to write the adapter into", "replaced": "the adapter or the run that is in it"}
    add(group, "--output", "--overwrite", words=words)


def check_output(output: str, *, overwrite: bool) -> Path:
    """Return the folder, checked before anything is loaded; nothing is changed.

    Raises:
        RunError: If it is in use and is not to be replaced, is a file, holds a model, or cannot be written.
    """
    from ia3.runs.folder import CHECKPOINTS, OWN_FILES, check_folder

    folder = Path(output).expanduser()
    used = [name for name in (*OWN_FILES, CHECKPOINTS) if (folder / name).exists()]
    if used and not overwrite:
        raise RunError(
            f"Writing an adapter to {folder}: it holds {', '.join(used)} already. Give --overwrite to replace it, or "
            "another --output."
        )
    check_folder(folder, resume=False, overwrite=overwrite)
    return folder


def adapter_facts(adapter: Adapter, folder: Path) -> dict[str, Any]:
    """Return what is told of an adapter that was written, as plain values."""
    return {
        "output": str(folder),
        "base": adapter.base_name,
        "labels": adapter.record.get("labels"),
        "vectors": len(adapter.vectors),
        "parameters": adapter.parameters,
        "head_modules": list(adapter.head_modules),
    }


def write_adapter(adapter: Adapter, folder: Path, *, overwrite: bool) -> None:
    """Write the adapter; with `overwrite` the files of the run that was there are removed.

    Raises:
        AdapterError: If PEFT's format cannot express it, or the folder cannot be written.
        RunError: As `check_output`.
    """
    from ia3.adapters.folder import expressible_config, save_adapter
    from ia3.runs.folder import open_folder

    expressible_config(adapter)  # before anything is removed
    with open_folder(folder, resume=False, overwrite=overwrite):
        save_adapter(adapter, folder)

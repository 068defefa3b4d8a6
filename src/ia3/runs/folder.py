"""The output folder of a run: what lies in it, and when it may be used.

    adapter_config.json, adapter_model.safetensors, ia3.json, README.md    the adapter
    run.jsonl, curves.png, confusion.png, reliability.png                 the record
    sweep.csv, repeats.json, repeats.png                                  of many runs
    checkpoints/                                                          while the run is unfinished

A folder that holds a run or an adapter is refused without `resume` or `overwrite`; files that are not a run's own are
never removed, and nothing is removed before the new run can start. This file knows names; it knows nothing of models.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ia3.errors import RunError
from ia3.files import locked, remove_halves
from ia3.names import CARD_FILE, CONFIG_FILE, MODEL_FILE, RECORD_FILE, WEIGHTS_FILE
from ia3.training.checkpoint import PATTERN, has_checkpoints, remove_checkpoints
from ia3.training.records import read_events

RUN_LOG = "run.jsonl"
CURVES = "curves.png"
CONFUSION = "confusion.png"
RELIABILITY = "reliability.png"
CHECKPOINTS = "checkpoints"
SWEEP = "sweep.csv"
REPEATS = "repeats.json"
REPEATS_PLOT = "repeats.png"
ADAPTER_FILES = (CONFIG_FILE, WEIGHTS_FILE, RECORD_FILE)
# In the order of their removal: without its config the folder is no adapter, without its record no run.
PICTURES = (CURVES, CONFUSION, RELIABILITY, REPEATS_PLOT)
OWN_FILES = (CONFIG_FILE, RUN_LOG, *ADAPTER_FILES[1:], CARD_FILE, *PICTURES, SWEEP, REPEATS)
LOCK = ".ia3-lock"  # while a run is under way


def check_folder(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Check that a run may use the folder; nothing is changed.

    Args:
        folder: The output folder.
        resume: Go on with the run in it.
        overwrite: Replace the run in it.

    Raises:
        RunError: If it is in use, is a file, holds a model, cannot be written, or both or the wrong one of the two are
            asked for.
    """
    if resume and overwrite:
        raise RunError(f"Preparing {folder}: both resume and overwrite are asked for, expected one of them at most.")
    _check_place(folder)
    used = [name for name in (*OWN_FILES, CHECKPOINTS) if (folder / name).exists()]
    if resume:
        _check_resumable(folder, used)
    elif used and not overwrite:
        raise RunError(
            f"Preparing {folder}: it holds {', '.join(used)} already. Give --resume to go on, --overwrite to replace, "
            "or another --output."
        )


@contextmanager
def open_folder(folder: Path, *, resume: bool, overwrite: bool) -> Iterator[None]:
    """Make the folder and keep other processes' runs out of it inside; what is in the way of this run is removed.

    Removed are, with `overwrite`, an earlier run's own files, and in any case what a killed process left half written.

    Raises:
        RunError: As `check_folder`, or if another run is under way in it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"Preparing {folder}: it cannot be made ({error.strerror}). Give another --output.") from error

    def refuse() -> None:
        raise RunError(f"Preparing {folder}: another process is training in it. Wait for it, or give another --output.")

    with locked(folder / LOCK, refuse):
        check_folder(folder, resume=resume, overwrite=overwrite)  # a run may have begun and ended since it was checked
        if overwrite:
            for name in OWN_FILES:
                (folder / name).unlink(missing_ok=True)
            remove_checkpoints(folder / CHECKPOINTS)
        remove_halves(folder, OWN_FILES)
        remove_halves(folder / CHECKPOINTS, [PATTERN])
        yield


def _check_place(folder: Path) -> None:
    """Raise if there can be no output folder here."""
    if folder.exists() and not folder.is_dir():
        raise RunError(f"Preparing {folder}: it is a file, expected a folder. Give another --output.")
    if (folder / MODEL_FILE).exists():
        raise RunError(
            f"Preparing {folder}: a model lies in it ({MODEL_FILE}), expected a folder for the adapter alone. "
            "Give another --output."
        )
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    if not there.is_dir():
        raise RunError(f"Preparing {folder}: {there} is a file, expected a folder. Give another --output.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise RunError(f"Preparing {folder}: {there} cannot be written. Give another --output, or change its rights.")


def _check_resumable(folder: Path, used: list[str]) -> None:
    if not used:
        raise RunError(f"Resuming {folder}: there is no run in it. Leave --resume out to start one.")
    if has_checkpoints(folder / CHECKPOINTS):
        return
    events = read_events(folder / RUN_LOG)
    ends = [event for event in events if event["event"] == "end"]
    if ends and not ends[-1].get("stopped"):
        raise RunError(
            f"Resuming {folder}: the run is finished ({ends[-1]['step']} steps). Use the adapter in it, or give "
            "--overwrite to train again."
        )
    held = [name for name in ADAPTER_FILES if name in used]
    if held and not events:
        raise RunError(
            f"Resuming {folder}: it holds {', '.join(held)} and no record of a run to go on with. Give --overwrite to "
            "replace it, or another --output."
        )

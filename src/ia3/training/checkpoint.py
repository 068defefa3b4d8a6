"""Checkpoints: enough to go on from a step so that the run ends in the same bits as an uninterrupted one.

Each is one file and whole: it gets its name when all of it is on disk. Order, dropout and schedule are functions of
(seed, step); what is kept of each task is the step, the numbers, and the optimizer.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ia3.errors import RunError
from ia3.files import remove_halves, write_whole

FORMAT = 2
PATTERN = "step-*.pt"
_NAME = re.compile(r"step-(\d{8,})\.pt")
_KEPT = 2  # the one before the newest stays until the next is written


@dataclass(frozen=True)
class TaskState:
    """The state of one task after a number of steps; as made, before its first."""

    step: int = 0  # optimizer steps done
    trained: dict[str, Tensor] = field(default_factory=dict)  # every trained tensor by name; empty before the first
    optimizer: dict[str, Any] = field(default_factory=dict)  # its state dict; empty before the first step
    begun: dict[str, Tensor] = field(default_factory=dict)  # before the first step; kept where they are asked for again
    best: dict[str, Tensor] = field(default_factory=dict)  # of the best epoch so far; empty before the first
    best_epoch: int = 0  # counted from 1; 0 before the first
    best_loss: float = math.inf  # its eval loss; inf before the first
    epoch_loss: float = 0.0  # summed loss of the epoch under way
    epoch_targets: float = 0.0  # and what it is divided by
    fault: str | None = None  # why it was given up
    is_early: bool = False  # whether it ended before its last step, since no epoch was better any more


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run after a number of rounds; with one task a round is a step."""

    step: int  # rounds done
    run: str  # what is trained on what, with which settings: a hash
    tasks: tuple[TaskState, ...]  # in the order of the run


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint and remove those older than the one before it.

    Args:
        folder: The run's checkpoint folder; made if missing.
        checkpoint: The state.

    Returns:
        The file.

    Raises:
        RunError: If it cannot be written; those before it stay.
    """
    path = folder / f"step-{checkpoint.step:08d}.pt"
    content = io.BytesIO()
    tasks = [vars(task) for task in checkpoint.tasks]
    torch.save({"format": FORMAT, "step": checkpoint.step, "run": checkpoint.run, "tasks": tasks}, content)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, content.getvalue())
    except OSError as error:
        raise RunError(
            f"Writing checkpoint {path}: it cannot be written ({error.strerror or error}). Free space and give "
            "--resume to go on."
        ) from error
    files = sorted(_files(folder))
    # a later step than this one's was damaged, else the run would have gone on from there
    stale = [old for step, old in files if step > checkpoint.step]
    for old in (*stale, *[old for step, old in files if step <= checkpoint.step][:-_KEPT]):
        old.unlink(missing_ok=True)
    return path


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """Return the newest checkpoint that can be read, or None if there is none.

    Raises:
        RunError: If there are checkpoints and none can be read.
    """
    found = sorted(_files(folder), reverse=True)
    for _, path in found:
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            if state["format"] == FORMAT:
                return Checkpoint(state["step"], state["run"], tuple(TaskState(**task) for task in state["tasks"]))
        except Exception:  # damaged from outside: the one before it is whole
            continue
    if found:
        raise RunError(
            f"Resuming from {folder}: none of its {len(found)} checkpoints can be read. Start again with --overwrite."
        )
    return None


def has_checkpoints(folder: Path) -> bool:
    """Return whether a folder holds a checkpoint, readable or not."""
    return any(True for _ in _files(folder))


def remove_checkpoints(folder: Path) -> None:
    """Remove every checkpoint of a run, and the folder if nothing else is in it."""
    for _, path in _files(folder):
        path.unlink(missing_ok=True)
    remove_halves(folder, [PATTERN])
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _files(folder: Path) -> Iterator[tuple[int, Path]]:
    for path in folder.glob(PATTERN):
        match = _NAME.fullmatch(path.name)
        if match:
            yield int(match.group(1)), path

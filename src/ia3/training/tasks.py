"""What the loop is told and what it gives back: tasks, evaluations, callbacks, outcomes.

A task is one row of a bank and the examples it learns from; a run has one or many. This file knows values; it computes
nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ia3.core.attach import Attachment
from ia3.data.encoding import Encoded
from ia3.names import Kind
from ia3.training.checkpoint import Checkpoint
from ia3.training.records import Event


@dataclass(frozen=True)
class Task:
    """What is trained on what.

    Attributes:
        attachment: Of the base; tasks that are trained together share it.
        adapter: Name of the row in training.
        kind: Kind of the base.
        train: The examples.
        pad_id: Token id of padding.
        decoder_start_id: First decoder token; seq2seq only.
        choices: Size of the closed label set; 0 for free text.
        name: What the task is called in events; "" for the only one of a run.
        variants: The same examples once more for each further template; one of all is drawn in each epoch.
        starts_from: Name of the row of a task that is trained first and whose numbers this one begins with.
    """

    attachment: Attachment
    adapter: str
    kind: Kind
    train: tuple[Encoded, ...]
    pad_id: int
    decoder_start_id: int | None
    choices: int
    name: str = ""
    starts_from: str | None = None
    variants: tuple[tuple[Encoded, ...], ...] = ()

    @property
    def model(self) -> Any:
        """The base with its bank."""
        return self.attachment.model


@dataclass(frozen=True)
class Evaluation:
    """What the loop needs of an evaluation on held-out rows."""

    loss: float  # nats per target token; per example for encoders
    accuracy: float | None  # of the most probable choice; None for free text


@dataclass(frozen=True)
class Callbacks:
    """What the loop calls; everything but `evaluate` may do nothing. Tasks are told by their adapter's name."""

    evaluate: Callable[[Sequence[str]], Sequence[Evaluation | None]]  # None without held-out rows
    on_event: Callable[[Event], None] = lambda event: None
    before_kept: Callable[[str], None] = lambda adapter: None  # its head is to fit its vectors
    on_best: Callable[[str], None] = lambda adapter: None  # its row now holds the best epoch so far
    on_checkpoint: Callable[[Checkpoint], object] = lambda checkpoint: None
    should_stop: Callable[[], bool] = lambda: False
    clock: Callable[[], float] = time.monotonic
    checkpoint_seconds: float = 10.0


@dataclass(frozen=True)
class Outcome:
    """How the training of one task ended; its row holds the best epoch's numbers."""

    steps: int  # done in total
    best_epoch: int  # counted from 1; 0 if it was stopped before the first ended
    best_loss: float  # eval loss of that epoch; nan if nothing was held out
    is_stopped: bool  # before its last step, by the user
    fault: str | None = None  # why it was given up, if it diverged
    is_early: bool = False  # ended before its last step, since no epoch was better any more


def trained_tensors(attachment: Attachment, adapter: str) -> dict[str, Tensor]:
    """Return every tensor that an adapter trains, by name: its row and its head's parameters and buffers."""
    snapshot = attachment.bank.snapshot
    row = snapshot.row(adapter)
    tensors: dict[str, Tensor] = {"vectors": snapshot.vector(row)}
    head = snapshot.head(row)
    if head is not None:
        tensors |= {f"head.{name}": tensor for name, tensor in (*head.named_parameters(), *head.named_buffers())}
    return tensors

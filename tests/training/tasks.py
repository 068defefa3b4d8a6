"""Training tasks on tiny bases: a table in memory, encoded, on a base with one adapter; and callbacks that remember."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ia3.adapters.attached import attach
from ia3.bases.loading import Base, load_base
from ia3.data.encoding import Encoding
from ia3.data.tables import read_table
from ia3.data.templates import default_template
from ia3.training.checkpoint import Checkpoint
from ia3.training.loop import train_loop
from ia3.training.settings import Settings
from ia3.training.tasks import Callbacks, Evaluation, Outcome, Task, trained_tensors
from tests.models import save_tiny_base

KINDS = ("causal", "seq2seq", "encoder")
LABELS = ("down", "flat", "soaring")  # answers of different lengths
ADAPTER = "default"
SHORT = Settings(epochs=2, batch_size=3, learning_rate=0.05, head_learning_rate=0.01)  # 7 rows: 3 steps an epoch
TOTAL = 6
_DROPOUT = {  # the field of each tiny base's config
    "causal": {"attention_dropout": 0.2},
    "seq2seq": {"dropout_rate": 0.2},
    "encoder": {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.2},
}
ROWS = tuple(
    (text, LABELS[i])
    for text, i in (
        ("Sales fell by a third.", 0),
        ("The board meets in May.", 1),
        ("Profit doubled and the order book is the fullest for ten years.", 2),
        ("Loss", 0),
        ("Two plants close; three hundred people lose their jobs this winter.", 0),
        ("The firm is based in Turku.", 1),
        ("Orders up", 2),
    )
)


def save_base(folder: Path, kind: str, *, dropout: bool = False) -> Path:
    """Write a tiny base, if it is not there; with dropout its modules drop a fifth in training mode."""
    if not folder.exists():
        save_tiny_base(folder, kind)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | (_DROPOUT[kind] if dropout else {})))
    return folder


def make_task(
    folder: Path,
    kind: Any,
    *,
    dtype: str = "float64",
    rows: Any = ROWS,
    labels: tuple[str, ...] = LABELS,
    dropout: bool = False,
    pooling: str = "own",
) -> Task:
    """Return a task whose vectors are away from one; free text without labels. `folder` keeps its bases."""
    base = load_tiny(folder, kind, dtype, labels if kind == "encoder" else None, dropout, pooling)
    encoding = Encoding(base.tokenizer, kind, default_template(kind, "label"), "text", labels)
    attachment = attach(copy.deepcopy(base.model), head_modules=base.head_modules, name=ADAPTER)
    width = attachment.bank.plan.width
    attachment.bank.set_vector(ADAPTER, 1 + 0.2 * torch.randn(width, generator=torch.Generator().manual_seed(1)))
    return Task(
        attachment=attachment,
        adapter=ADAPTER,
        kind=kind,
        train=tuple(encoding.encode(read_table(rows).examples)),
        pad_id=base.pad_id,
        decoder_start_id=base.decoder_start_id,
        choices=len(labels),
    )


@cache
def load_tiny(
    folder: Path, kind: Any, dtype: str, labels: tuple[str, ...] | None, dropout: bool, pooling: str = "own"
) -> Base:
    """Load a base once; it is copied before anything is put on it."""
    place = save_base(folder / f"{kind}{'-dropout' * dropout}", kind, dropout=dropout)
    given: Any = {"kind": kind, "dtype": dtype, "pooling": pooling}
    return load_base(place, labels=labels, device="cpu", say=lambda line: None, **given)


def copy_trained(task: Task) -> dict[str, Tensor]:
    """Return copies of the tensors in training."""
    return {name: t.detach().clone() for name, t in trained_tensors(task.attachment, task.adapter).items()}


def same_bits(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Whether two sets of tensors are equal in every bit."""
    return a.keys() == b.keys() and all(a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]) for name in a)


class Watcher:
    """Callbacks that remember; `losses` are what the evaluations give, `stop_after` the steps until it is stopped."""

    def __init__(self, task: Task, losses: Sequence[float] = (), stop_after: int = 10**9, seconds: float = 0.0) -> None:
        self.task = task
        self.losses = iter(losses)
        self.stop_after = stop_after
        self.events: list[dict[str, Any]] = []
        self.best: list[dict[str, Tensor]] = []
        self.checkpoints: list[Checkpoint] = []
        self.callbacks = Callbacks(
            evaluate=self.evaluate,
            on_event=self.events.append,
            on_best=lambda adapter: self.best.append(copy_trained(task)),
            on_checkpoint=self.checkpoints.append,
            should_stop=lambda: self.steps >= stop_after,
            checkpoint_seconds=seconds,
        )

    @property
    def steps(self) -> int:
        return len([event for event in self.events if event["event"] == "step"])

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == kind]

    def evaluate(self, adapters: Sequence[str]) -> list[Evaluation | None]:
        losses = [next(self.losses, None) for _ in adapters]
        return [None if loss is None else Evaluation(loss, 0.5) for loss in losses]


def run_loop(
    task: Task, settings: Settings = SHORT, *, resume: Checkpoint | None = None, **watcher: Any
) -> tuple[Outcome, Watcher]:
    """Train with callbacks that remember; the rest are options of `Watcher`."""
    watched = Watcher(task, **watcher)
    return train_loop(task, settings, watched.callbacks, run="a run", resume=resume), watched

"""The rows of a run on its base: one for each task, each with a head of its own and the numbers that it begins with.

This file knows banks and tasks; it knows nothing of tables and folders.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ia3.adapters.attached import attach
from ia3.bases.loading import Base
from ia3.core.attach import Attachment
from ia3.runs.beginning import begin_row
from ia3.runs.many_heads import make_heads
from ia3.runs.run import SHARED
from ia3.runs.saving import RunTask
from ia3.runs.setup import SharedStage
from ia3.runs.watch import Say


@contextmanager
def attached_rows(
    base: Base, tasks: Sequence[RunTask], stage: SharedStage | None, say: Say = lambda sentence: None
) -> Iterator[Attachment]:
    """Put a bank with a row for each task on the base inside, each with a head of its own where the base has none."""
    wanted = [(len(task.dataset.encoding.labels), task.settings.seed, task.adapter) for task in tasks]
    if stage is not None:
        wanted.insert(0, (len(tasks[0].dataset.encoding.labels), stage.settings.seed, SHARED))
    heads = make_heads(base, [(labels, seed) for labels, seed, _ in wanted])
    attachment: Attachment = attach(base.model, head_modules=base.head_modules, name=wanted[0][2])
    try:
        attachment.bank.remove(wanted[0][2])  # every row is added in the same way
        for (_, _, name), head in zip(wanted, heads, strict=True):
            attachment.bank.add(name, trainable=True, head=head)
        _begin_rows(base, attachment, tasks, stage, say)
        yield attachment
    finally:
        attachment.detach()


def _begin_rows(
    base: Base, attachment: Attachment, tasks: Sequence[RunTask], stage: SharedStage | None, say: Say
) -> None:
    """Give every row what it begins with, and say each thing once; after a shared stage the others begin with its."""
    begins = [(t.adapter, t.start, t.dataset.encoding.labels, t.dataset.train, t.settings) for t in tasks]
    if stage is not None:
        begins = [(SHARED, stage.start, tasks[0].dataset.encoding.labels, stage.train, stage.settings)]
    told = [begin_row(base, attachment, *begin) for begin in begins]
    for sentence in dict.fromkeys(sentence for sentences in told for sentence in sentences):
        say(sentence)

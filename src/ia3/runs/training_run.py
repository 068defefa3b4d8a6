"""A run on its folder and its base: the folder is locked, each task has a row of the bank, and they are trained.

This file knows folders, banks and tasks; it knows nothing of tables.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ia3.adapters.attached import attach
from ia3.bases.loading import Base
from ia3.core.attach import Attachment
from ia3.errors import SettingsError
from ia3.names import BATCHES
from ia3.runs.beginning import begin_row
from ia3.runs.drawn_heads import make_heads
from ia3.runs.folder import ADAPTER_FILES, open_folder
from ia3.runs.request import Request
from ia3.runs.run import SHARED, Run
from ia3.runs.saving import RunTask, temperature_note
from ia3.runs.settling import settled_by_rows
from ia3.runs.setup import Setup, SharedStage
from ia3.runs.watch import Say
from ia3.training.sampling import Sampling
from ia3.training.tasks import Outcome


@contextmanager
def trained(
    request: Request,
    base: Base,
    tasks: Sequence[RunTask],
    *,
    batches: str = "mixed",
    stage: SharedStage | None = None,
    sampling: Sampling | None = None,
    fits_temperature: bool = False,
) -> Iterator[tuple[Run, tuple[Outcome, ...]]]:
    """Train tasks in the folder of a request, and give the run and how each task ended while its rows are still there.

    What is written inside is written before the run counts as finished: its checkpoints go when this is left.

    Args:
        request: What was asked for.
        base: The base.
        tasks: Made on it.
        batches: `mixed`, or `apart` for one task each.
        stage: What one row learns from all tasks first.
        sampling: How often a task has its turn.
        fits_temperature: Whether one is fitted at the end for tasks without rows held out.

    Raises:
        RunError: If the folder is in use, or training ends without a number.
    """
    with open_folder(request.output, resume=request.resume, overwrite=request.overwrite):
        if request.overwrite:
            _clear_adapters([task.folder for task in tasks if task.folder not in (None, request.output)])
        with _attached(base, tasks, stage, request.say) as attachment:
            if not fits_temperature and (note := temperature_note(tasks)):
                request.say(note)
            tasks = settled_by_rows(base, attachment, tasks, request.watch, is_mixed=batches == "mixed", stage=stage)
            setup = Setup(
                request.output, base, attachment, tuple(tasks), request.watch, stage, sampling or Sampling(),
                batches == "mixed",
            )  # fmt: skip
            run = Run(setup)
            outcomes = run.train(resume=request.resume)
            yield run, outcomes
            run.close(outcomes)


def check_batches(batches: str) -> None:
    """Raise a SettingsError if batches can be made in no such way."""
    if batches not in BATCHES:
        raise SettingsError(f"Training tasks: batches is {batches!r}, expected one of {', '.join(BATCHES)}.")


def _clear_adapters(folders: Sequence[Path | None]) -> None:
    """Remove the adapters that are in the way; what else lies in the folders stays."""
    for folder in folders:
        for file in (*ADAPTER_FILES, "README.md"):
            if folder is not None:
                (folder / file).unlink(missing_ok=True)


@contextmanager
def _attached(base: Base, tasks: Sequence[RunTask], stage: SharedStage | None, say: Say) -> Iterator[Attachment]:
    """Put a bank with a row for each task on the base inside, each with a head of its own where the base has none.

    An only task has the head that the base was loaded with.
    """
    wanted = [(len(task.dataset.encoding.labels), task.settings.seed, task.adapter) for task in tasks]
    if stage is not None:
        wanted.insert(0, (len(tasks[0].dataset.encoding.labels), stage.settings.seed, SHARED))
    is_alone = not tasks[0].name
    heads = [] if is_alone else make_heads(base, [(labels, seed) for labels, seed, _ in wanted])
    attachment: Attachment = attach(base.model, head_modules=base.head_modules, name=wanted[0][2])
    try:
        if not is_alone:
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

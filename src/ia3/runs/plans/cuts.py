"""What runs on cuts of one table have in common: nothing is held out while they train, and all are measured at the end.

Each cut is a row of the same bank; the rows that it is measured on choose nothing. What the cuts are, their plan knows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from ia3.runs.drafts import Draft
from ia3.runs.saving import RunTask
from ia3.runs.start_choice import is_named
from ia3.runs.watch import Say
from ia3.starts.packaged import AUTO


def is_closed(whole: Draft) -> bool:
    """Whether an answer is one of some choices: those of the table, or of its row."""
    return bool(whole.rows.labels) or whole.rows.train.choices_column is not None


def training_part(task: RunTask) -> RunTask:
    """Return a cut as it is trained: no row is looked at to choose an epoch; which rows measure it stays recorded."""
    return replace(task, dataset=replace(task.dataset, held_out=()))


def say_cuts(whole: Draft, tasks: Sequence[RunTask], say: Say) -> None:
    """Say once what all cuts have in common: what they begin with, their words, and that some texts are cut short.

    Args:
        whole: The table.
        tasks: The cuts.
        say: Told.
    """
    heard = dict.fromkeys(sentence for task in tasks for sentence in task.heard)
    for sentence in (*whole.rows.notes, *heard):
        say(sentence)
    asked, is_any = whole.spec.start, any(task.start is not None for task in tasks)
    if not is_named(asked) and (is_any or heard or asked == AUTO):
        names = Counter("ones" if task.start is None else repr(task.start.name) for task in tasks)
        told = ", ".join(f"{name} ({count} of {len(tasks)})" for name, count in names.most_common())
        say(f"Each run chooses its start on the rows that it learns from: {told}. --start none begins with ones.")
    searched = sum(task.dataset.search is not None for task in tasks)
    if searched:
        each = "Each run searches" if searched == len(tasks) else f"{searched} of {len(tasks)} runs search"
        say(f"{each} its template on the rows that it learns from.")
    for note in dict.fromkeys(note for task in tasks for note in task.dataset.notes):
        say(note)

"""What an encoder's tasks learn from, settled by what the frozen base knows of their rows; which vectors are kept.

This file brings tasks and their judging together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ia3.bases.loading import Base
from ia3.core.attach import Attachment
from ia3.runs.fitted_head import fit_head
from ia3.runs.judging import Worth, judge, know, losses_for
from ia3.runs.saving import RunTask
from ia3.runs.setup import SharedStage
from ia3.runs.watch import Watch
from ia3.training.settings import is_settled_by_rows
from ia3.training.tasks import Callbacks, Task


def settled_by_rows(
    base: Base,
    attachment: Attachment,
    tasks: Sequence[RunTask],
    watch: Watch,
    *,
    is_mixed: bool,
    stage: SharedStage | None = None,
) -> list[RunTask]:
    """Return tasks with the losses that suit their rows, without vectors where these are worth nothing.

    Args:
        base: Of the tasks.
        attachment: Of the base; each task has a row that holds what it begins with.
        tasks: Those of an encoder whose head is fitted are settled; others come back as they are.
        watch: Told what was found.
        is_mixed: Whether examples of different tasks meet in a batch.
        stage: What comes before the tasks; nothing is judged then, since they do not begin with what their rows hold.
    """
    found = [*tasks]
    judged: list[tuple[int, Task]] = []
    known, scores = [], []
    for place, task in enumerate(tasks):
        settings = task.settings
        if base.kind != "encoder" or not is_settled_by_rows(settings):
            continue
        learned = _task(base, attachment, task)
        rows = len(task.dataset.rows.train.examples)
        frozen = know(learned, rows, settings.seed)
        if frozen is None:
            watch.say(_named(task, fit_head(base, attachment, task.adapter, task.dataset.train)))
            found[place] = replace(task, settings=replace(settings, losses="lm" if _is_auto(task) else settings.losses))
            continue
        own, score = frozen
        watch.say(_named(task, fit_head(base, attachment, task.adapter, own.examples, own.inputs)))
        settings = replace(settings, **losses_for(score)) if _is_auto(task) else settings
        found[place] = replace(
            task,
            dataset=replace(task.dataset, train=own.examples),
            settings=settings,
            worth=Worth(score),
            asked=task.settings,
        )
        if settings.judge and settings.interpolation and stage is None:
            judged.append((place, replace(learned, train=own.examples)))
            known.append(own)
            scores.append(score)
    if judged:
        together = [(task, found[place].settings) for place, task in judged]
        begun = [found[place].start is not None for place, _ in judged]
        callbacks = Callbacks(evaluate=lambda names: [None] * len(names), should_stop=watch.should_stop)
        # one that is stopped meanwhile says nothing; the run is stopped as well, and judged anew when it is resumed
        worths = judge(together, known, scores, callbacks, begun=begun, is_mixed=is_mixed)
        for (place, _), worth in zip(judged, [] if watch.should_stop() else worths, strict=False):
            found[place] = _weighed(found[place], worth)
    for task in found:
        _tell(task, watch)
    return found


def _is_auto(task: RunTask) -> bool:
    return task.settings.losses == "auto"


def _task(base: Base, attachment: Attachment, task: RunTask) -> Task:
    labels = len(task.dataset.encoding.labels)
    return Task(attachment, task.adapter, base.kind, task.dataset.train, base.pad_id, base.decoder_start_id, labels)


def _weighed(task: RunTask, worth: Worth) -> RunTask:
    """Return a task with its worth; one whose vectors are not kept takes a step and goes back all of the way."""
    settings = task.settings if worth.is_kept else replace(task.settings, interpolation=0.0, max_steps=1)
    return replace(task, worth=worth, settings=settings)


def _tell(task: RunTask, watch: Watch) -> None:
    if task.worth is None:
        return
    lines = task.worth.lines()
    if len(task.dataset.train) > len(task.dataset.rows.train.examples):
        lines.append("The labels' own words are learned from as one more row each.")
    for line in lines:
        watch.say(_named(task, line))


def _named(task: RunTask, line: str) -> str:
    return f"{task.name}: {line}" if task.name else line

"""One table, one adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Unpack

from ia3.bases.loading import Base
from ia3.runs.folder import check_folder
from ia3.runs.prepare import hold_out_all, make_tasks, read_drafts
from ia3.runs.request import RunOptions, request_of
from ia3.runs.results import OneResult, TaskResult
from ia3.runs.training_run import trained


def train_adapter(source: Any, base: str | Path | Base, output: str | Path, **options: Unpack[RunOptions]) -> OneResult:
    """Train an adapter on a table of labelled text and write its folder.

    Args:
        source: A table file, a folder of them, a hub id, or (text, label) pairs.
        base: Name, folder, hub id or GGUF file of the base, or a loaded one.
        output: Folder of the adapter; new, or see `resume` and `overwrite`.
        options: See `RunOptions`, and settings by name (`Settings`).

    Returns:
        The folder, how the run ended, and the metrics of the saved adapter on the held-out rows.

    Raises:
        IA3Error: For bad rows, a base that cannot be loaded, settings out of range, or a folder in use.
    """
    request = request_of(base, output, options)
    began, say, folder = request.watch.now(), request.say, request.output
    check_folder(folder, resume=request.resume, overwrite=request.overwrite)
    kind, drafts = read_drafts(request, [request.spec(source)])
    loaded, tasks = make_tasks(request, kind, hold_out_all(drafts, kind), folder_of=lambda name: folder)
    dataset = tasks[0].dataset
    for sentence in (*dataset.rows.notes, *dataset.notes, *dataset.report.lines()):
        say(sentence)
    with trained(request, loaded, tasks) as (run, outcomes):
        metrics = run.finish(outcomes)[0]
    ended = TaskResult.of(tasks[0], outcomes[0], metrics, folder=folder)
    return OneResult(folder, (ended,), (request.watch.now() - began).total_seconds(), metrics)

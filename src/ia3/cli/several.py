"""Several tasks in one `ia3 train`: the options that ask for it, and what is printed of the result."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import ia3
from ia3.cli.parsing import number, whole_number
from ia3.cli.train_options import training_arguments
from ia3.cli.training import steps_line, use_line
from ia3.names import BATCHES, SAMPLINGS
from ia3.spelling import align_columns, percent

if TYPE_CHECKING:
    from ia3.runs.results import RunResult, TaskResult

_OPTIONS = ("sampling", "temperature", "batches", "shared_steps", "store")


def add_tasks(parser: argparse.ArgumentParser) -> None:
    """Add the options for several tasks."""
    group = parser.add_argument_group("several tasks in one run")
    either = group.add_mutually_exclusive_group()
    either.add_argument(
        "--tasks",
        metavar="FILE",
        help="YAML or JSONL file of tasks: name, table, label, choices, template, templates, start, settings …",
    )
    either.add_argument("--task-column", metavar="COLUMN", help="Make a task of the rows of each value of a column.")
    group.add_argument(
        "--sampling",
        choices=SAMPLINGS,
        help="How often a task has its turn: all alike, by its size, or by size^(1/temperature) (default: equal).",
    )
    group.add_argument("--temperature", type=number, metavar="T", help="Of --sampling temperature (default: 2).")
    group.add_argument(
        "--batches",
        choices=BATCHES,
        help="Whether tasks meet in a batch; apart is slower, in the same bits as training alone with the same "
        "settings (default: mixed).",
    )
    group.add_argument(
        "--shared-steps",
        type=whole_number,
        metavar="N",
        help="Steps in which one adapter learns from all tasks first; each then begins with its numbers (default: 0).",
    )
    group.add_argument("--store", metavar="FILE", help="Put all adapters into a packed store as well.")


def given_without_tasks(options: argparse.Namespace) -> str:
    """Return the first of the options for several tasks that was given, as it is written; "" if none."""
    given = next((name for name in _OPTIONS if getattr(options, name) is not None), "")
    return f"--{given.replace('_', '-')}" if given else ""


def train_several(options: argparse.Namespace, talk: Mapping[str, Any]) -> RunResult:
    """Train the tasks of a file, or of a column."""
    from ia3.runs.tasks_file import read_tasks

    own = {name: value for name in _OPTIONS if (value := getattr(options, name)) is not None}
    given = {**talk, **own, **training_arguments(options)}
    if options.tasks is not None:
        result = ia3.train_tasks(read_tasks(options.tasks), options.base, options.output, **given)
    else:
        result = ia3.train_by_column(options.table, options.task_column, options.base, options.output, **given)
    for task in result.tasks:
        if task.outcome.fault:
            talk["say"](f"ia3: {task.outcome.fault}")
    return result


def task_lines(result: RunResult, options: argparse.Namespace) -> list[str]:
    """Return what the run gave, for people."""
    rows = [("task", "steps", "epoch", "loss", "accuracy", "rows"), *map(_row, result.tasks)]
    saved = [task.folder for task in result.tasks if task.folder is not None]
    lines = [*align_columns(rows, right=range(1, 6)), ""]
    lines.append(steps_line(result, f"{len(saved)} adapters lie in {options.output}"))
    return [*lines, *(use_line(folder, "answers.csv", "one") for folder in saved[:1])]


def _row(task: TaskResult) -> tuple[str, ...]:
    metrics = task.metrics
    loss = "" if metrics is None or metrics.loss is None else f"{metrics.loss:.3f}"
    share = None if metrics is None else metrics.accuracy
    accuracy = "" if share is None else percent(share)
    epoch = "diverged" if task.outcome.fault and not task.outcome.best_epoch else str(task.outcome.best_epoch or "")
    rows = "" if metrics is None else str(metrics.rows)
    return task.name, str(task.outcome.steps), epoch, loss, accuracy, rows

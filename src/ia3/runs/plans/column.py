"""Tasks from one table: the rows of each value of a column are a task of that name, all trained in one run.

The label set is that of the whole table, so that all tasks answer with the same choices, unless each row brings its
own. This file knows tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Unpack

from ia3.bases.loading import Base
from ia3.data.examples import Table, choose_examples, quote
from ia3.data.table_files import as_read
from ia3.data.tables import read_table
from ia3.errors import TableError, near_matches
from ia3.runs.dataset import closed_labels, data_name
from ia3.runs.folder import check_folder
from ia3.runs.plans.tasks import TasksOptions, train_specs, turns_of
from ia3.runs.request import Request, request_of
from ia3.runs.results import RunResult
from ia3.runs.run_base import kind_of_base
from ia3.runs.task_specs import TaskSpec, name_faults, raise_faults
from ia3.spelling import first_of

_SHOWN = 20


def train_by_column(
    source: Any,
    column: str,
    base: str | Path | Base,
    output: str | Path,
    **options: Unpack[TasksOptions],
) -> RunResult:
    """Train an adapter for each value of a column of one table.

    Args:
        source: What `read_table` reads.
        column: Name of the column.
        base: The base.
        output: Folder of the run.
        options: See `TasksOptions`, and settings by name (`Settings`); `eval_source` has the same column.

    Raises:
        IA3Error: As `train_tasks`, and if the table has no such column or a value can be no folder's name.
    """
    turns, left = turns_of(options)
    request = request_of(base, output, left)
    check_folder(request.output, resume=request.resume, overwrite=request.overwrite)
    specs, notes = tasks_by_column(request, source, column)
    for note in notes:
        request.say(note)
    return train_specs(request, specs, turns)


def tasks_by_column(request: Request, source: Any, column: str) -> tuple[list[TaskSpec], tuple[str, ...]]:
    """Return a task for each value of a column, in the order in which they occur, and what was decided in words.

    Args:
        request: What was asked for; its eval table has the same column.
        source: What `read_table` reads.
        column: Name of the column.

    Raises:
        TableError: If the table has no such column, or a row has no value there.
        SettingsError: For values that can be no folder's name, all of them at once.
    """
    kind = kind_of_base(request.base, request.placement, request.say)
    read = as_read(source, request.delimiter, request.quotes)
    table = read_table(
        read,
        text=request.text,
        label=request.label,
        choices=request.choices,
        skip_bad_rows=request.skip_bad_rows,
    )
    labels, note = closed_labels(table, request.answers, kind)
    groups = _groups(table, column)
    first = {name: str(table.examples[rows[0]].origin) for name, rows in groups.items()}
    raise_faults(f"Splitting the table by {column!r}", name_faults([(name, first[name]) for name in groups]))
    held_out = as_read(request.eval_source, request.delimiter, request.quotes, is_one_of_several=True)
    evals = _eval_tables(held_out, table, column, labels, list(groups), skip_bad_rows=request.skip_bad_rows)
    whole = data_name(source)
    specs = [
        TaskSpec(
            name,
            choose_examples(table, rows),
            eval=evals.get(name),
            labels=labels,
            origin=f"{whole} ({column} {name})",
        )
        for name, rows in groups.items()
    ]
    shown = ", ".join(f"{quote(name)} {len(rows)}" for name, rows in list(groups.items())[:8])
    counted = f"{len(groups)} tasks by {column!r}: {shown}{', …' if len(groups) > 8 else ''} rows."
    skipped = [f"{len({fault.origin for fault in table.faults})} bad rows are left out."] if table.faults else []
    return specs, (*table.notes, note, counted, *skipped)


def _groups(table: Table, column: str) -> dict[str, list[int]]:
    """Return the positions of the rows of each value."""
    if column not in table.columns:
        raise TableError(
            f"Splitting the table by {column!r}: there is no such column.{near_matches(column, table.columns)}"
        )
    roles = {table.text_column: "text", table.label_column: "label", table.choices_column: "choices"}
    if column in roles:
        raise TableError(f"Splitting the table by {column!r}: it is the {roles[column]} column. Name another one.")
    groups: dict[str, list[int]] = {}
    for index, example in enumerate(table.examples):
        groups.setdefault(example.fields[column].strip(), []).append(index)
    bare = [str(table.examples[index].origin) for index in groups.get("", [])]
    if bare:
        raise TableError(
            f"Splitting the table by {column!r}: {len(bare)} rows have nothing there: {first_of(bare, _SHOWN)}. "
            "Give each a value, or remove them."
        )
    return groups


def _eval_tables(
    source: Any,
    table: Table,
    column: str,
    labels: tuple[str, ...],
    names: list[str],
    *,
    skip_bad_rows: bool,
) -> Mapping[str, Table]:
    """Return the eval rows of each task."""
    if source is None:
        return {}
    read = read_table(
        source,
        text=table.text_column,
        label=table.label_column,
        choices=table.choices_column,
        known_labels=labels or None,
        skip_bad_rows=skip_bad_rows,
    )
    groups = _groups(read, column)
    unknown = [name for name in groups if name not in names]
    bare = [name for name in names if name not in groups]
    faults = [f"{quote(name)} is no task of the table{near_matches(name, names)}".rstrip(".") for name in unknown]
    faults += [f"task {quote(name)} has no eval rows" for name in bare]
    raise_faults(f"Splitting the eval table by {column!r}", faults)
    return {name: choose_examples(read, rows) for name, rows in groups.items()}

"""Tasks from one table: the rows of each value of a column are a task of that name.

The label set is that of the whole table, so that all tasks answer with the same choices, unless each row brings its
own. This file knows tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ia3.data.examples import Table, choose_examples, quote
from ia3.data.table_files import as_read
from ia3.data.tables import read_table
from ia3.errors import TableError, near_matches
from ia3.names import Kind
from ia3.runs.dataset import Answers, closed_labels
from ia3.runs.task_specs import TaskSpec, name_faults, raise_faults

_SHOWN = 20


def tasks_by_column(
    source: Any,
    column: str,
    *,
    eval_source: Any = None,
    text: str | None = None,
    label: str | None = None,
    choices: str | None = None,
    answers: Answers = "auto",
    kind: Kind | None = None,
    skip_bad_rows: bool = False,
    delimiter: str | None = None,
    quotes: bool | None = None,
) -> tuple[list[TaskSpec], tuple[str, ...]]:
    """Return a task for each value of a column, in the order in which they occur, and what was decided in words.

    Args:
        source: What `read_table` reads.
        column: Name of the column.
        eval_source: Rows to evaluate on, with the same column.
        text: Text column; found by its name if left out.
        label: Label column; likewise.
        choices: Column with each row's own choices, of both tables.
        answers: Whether the labels are a closed set, free text, or to be found out.
        kind: Of the base, if known.
        skip_bad_rows: Leave bad rows out instead of stopping.
        delimiter: As for `read_table`, of both tables.
        quotes: Likewise.

    Raises:
        TableError: If the table has no such column, or a row has no value there.
        SettingsError: For values that can be no folder's name, all of them at once.
    """
    source = as_read(source, delimiter, quotes)
    eval_source = as_read(eval_source, delimiter, quotes, is_one_of_several=True)
    table = read_table(source, text=text, label=label, choices=choices, skip_bad_rows=skip_bad_rows)
    labels, note = closed_labels(table, answers, kind)
    groups = _groups(table, column)
    first = {name: str(table.examples[rows[0]].origin) for name, rows in groups.items()}
    raise_faults(f"Splitting the table by {column!r}", name_faults([(name, first[name]) for name in groups]))
    evals = _eval_tables(eval_source, table, column, labels, list(groups), skip_bad_rows=skip_bad_rows)
    specs = [
        TaskSpec(name, choose_examples(table, rows), eval=evals.get(name), labels=labels, origin=first[name])
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
        more = f" and {len(bare) - _SHOWN} more" if len(bare) > _SHOWN else ""
        raise TableError(
            f"Splitting the table by {column!r}: {len(bare)} rows have nothing there: {', '.join(bare[:_SHOWN])}{more}"
            ". Give each a value, or remove them."
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

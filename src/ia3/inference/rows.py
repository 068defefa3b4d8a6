"""What a predictor takes: texts, dicts or examples as rows, the adapter and strength of each, the columns it knows.

This file knows rows and columns; it knows nothing of tokens or models.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import replace
from typing import Any

from ia3.data.choices import split_choices
from ia3.data.examples import Example, quote
from ia3.data.frames import is_frame
from ia3.data.records import Record
from ia3.data.sources import is_rereadable, open_source
from ia3.data.tables import read_table
from ia3.data.values import plain
from ia3.errors import SettingsError, TableError

Row = str | Mapping[str, Any] | Example
Strengths = float | Sequence[float]  # how much of its adapter each text gets: one number for all, or one for each


def read_rows(rows: Iterable[Row], text_column: str, choices_column: str | None = None) -> list[Example]:
    """Return texts, dicts or examples as examples, in order.

    Args:
        rows: All of one sort; or a table or a column of pandas, numpy, Arrow or `datasets`.
        text_column: Name of the text column in dicts, if they have it; else it is found by its name.
        choices_column: Where each row brings its own choices, their name in dicts.

    Raises:
        TableError: For a single text in place of a list, or a row without text.
    """
    given = list_rows(rows)
    if all(isinstance(row, Example) for row in given):
        return [_with_choices(row, choices_column) for row in given if isinstance(row, Example)]
    has_column = isinstance(given[0], Mapping) and text_column in given[0]
    text = text_column if has_column else None
    table = read_table(given, text=text, labels_required=False, choices=choices_column)
    return list(table.examples)


def _with_choices(row: Example, column: str | None) -> Example:
    """Return a row with the choices in its column, where its table was read for adapters that have none."""
    if column is None or row.choices or column not in row.fields:
        return row
    try:
        return replace(row, choices=split_choices(row.fields[column]))
    except ValueError as error:
        raise TableError(f"Reading {row.origin}, column {quote(column)}: {error}.") from error


def list_rows(rows: Iterable[Row]) -> list[Row]:
    """Return rows as a list; those of a table of pandas, numpy, Arrow or `datasets` as dicts, of a column as texts.

    Raises:
        TableError: For a single text in place of a list, and for a table whose rows cannot be read.
    """
    is_one = isinstance(rows, str | bytes | Example) or getattr(rows, "ndim", None) == 0
    if is_one or (isinstance(rows, Mapping) and not is_frame(rows)):
        raise TableError(f"Reading texts: got a single {type(rows).__name__}, expected a list. Write [text].")
    is_read_whole = is_frame(rows) or not isinstance(rows, Iterable)
    if not is_read_whole:
        return list(rows)
    if isinstance(rows, Sized) and len(rows) == 0:
        return []
    return [_values(record) for record in open_source(rows).records]


def _values(record: Record) -> Mapping[str, Any]:
    if record.faults:
        raise TableError(f"Reading texts: {'; '.join(map(str, record.faults))}.", record.faults)
    return record.values


def read_names(adapters: Sequence[str], count: int) -> list[str]:
    """Return the names of adapters as a list, one for each text, whichever library they come from.

    Raises:
        SettingsError: If there is not one for each.
    """
    if isinstance(adapters, str) or len(adapters) != count:
        got = f"the name {adapters!r}" if isinstance(adapters, str) else f"{len(adapters)} adapters"
        raise SettingsError(f"Answering: got {got} for {count} texts, expected a list with one for each text.")
    names = [plain(name) for name in adapters]
    bare = next((place for place, name in enumerate(names, start=1) if name is None), None)
    if bare is not None:
        raise SettingsError(f"Answering: text {bare} of {len(names)} has no adapter, its name is missing.")
    return names


def read_strengths(strengths: Strengths | None, count: int) -> list[float] | None:
    """Return a strength for each text; None where none is given.

    Raises:
        SettingsError: If there is not one for each.
    """
    if strengths is None or isinstance(strengths, int | float):
        return None if strengths is None else [strengths] * count
    if len(strengths) != count:
        raise SettingsError(
            f"Answering: got {len(strengths)} strengths for {count} texts, expected one number, or a list with one for "
            "each text."
        )
    return list(strengths)


def choose_columns_of(source: Any, wanted: Mapping[str, str | None]) -> dict[str, str | None]:
    """Return those of the wanted column names that a table has; the others as None, to be found by their names.

    Args:
        source: What `read_table` reads; rows that can be read only once are not looked at.
        wanted: By role, such as `{"text": "sentence"}`.
    """
    if not is_rereadable(source):
        return dict.fromkeys(wanted)
    opened = open_source(source)
    opened.records.close()
    return {role: name if name in opened.columns else None for role, name in wanted.items()}

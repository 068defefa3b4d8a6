"""What a predictor takes: texts, dicts or examples as rows, and the columns of a table that an adapter knows.

This file knows rows and columns; it knows nothing of tokens or models.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sized
from typing import Any

from ia3.data.examples import Example
from ia3.data.frames import is_frame
from ia3.data.records import Record
from ia3.data.sources import is_rereadable, open_source
from ia3.data.tables import read_table
from ia3.errors import TableError

Row = str | Mapping[str, Any] | Example


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
        return [row for row in given if isinstance(row, Example)]
    has_column = isinstance(given[0], Mapping) and text_column in given[0]
    text = text_column if has_column else None
    table = read_table(given, text=text, labels_required=False, choices=choices_column)
    return list(table.examples)


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

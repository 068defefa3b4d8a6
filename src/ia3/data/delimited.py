"""Records of CSV and TSV files.

Knows nothing of text and label columns. Rules: the first line that is not blank is the header; fields may be
quoted with `"`, as csv, pandas and Excel write both formats; a row with a fault never hides the rows after it,
so a quote that is never closed is told for its own line and reading goes on at the next.
"""

from __future__ import annotations

import contextlib
import csv
import threading
from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

from ia3.data.examples import Fault, Origin, quote
from ia3.data.lines import Line, describe_bad_byte, read_lines
from ia3.data.records import Record, Source, describe_bad_character
from ia3.errors import TableError

MAX_RECORD = 2**24  # characters of one record; bounds what a quote that is never closed can swallow

_limit_lock = threading.Lock()
_limit_holders: list[int] = []  # the limit as it was, once for each reader inside `_long_fields`


def read_delimited(path: Path, delimiter: str) -> Source:
    """Return the opened CSV or TSV file.

    Args:
        path: The file.
        delimiter: `","` or a tab.

    Returns:
        Its columns and records; the line of a record is the physical line where it starts.

    Raises:
        TableError: The file is empty, or its header cannot be read or names a column twice.
    """
    rows = _read_rows(path, delimiter)
    header = next(rows, None)
    if header is None:
        raise TableError(f"Reading {path}: the file is empty, expected a header line and rows.")
    columns = _check_header(path, header, delimiter)
    return Source(str(path), columns, _read_records(path, rows, columns), has_header=True)


def _check_header(path: Path, row: Row, delimiter: str) -> tuple[str, ...]:
    where = f"Reading {path}: the header (line {row.line})"
    cells = row.cells or ()
    problem = row.problem or next(filter(None, map(describe_bad_character, cells)), None)
    if problem:
        raise TableError(f"{where} cannot be read: {problem}.")
    twice = sorted({name for name in cells if cells.count(name) > 1})
    if twice:
        raise TableError(f"{where} names {', '.join(map(quote, twice))} more than once. Rename one of them.")
    other = next((mark for mark in ",;\t" if mark != delimiter and mark in cells[0]), None)
    if len(cells) == 1 and other:
        raise TableError(
            f"{where} has one column, {quote(cells[0])}, which looks separated by {other!r}, "
            f"expected {delimiter!r}. Save the table with that separator."
        )
    return cells


def _read_records(path: Path, rows: Iterator[Row], columns: tuple[str, ...]) -> Generator[Record, None, None]:
    for row in rows:
        origin = Origin(str(path), row.line)
        cells = row.cells
        if row.problem is None and cells is not None and len(cells) == len(columns):
            yield Record(origin, dict(zip(columns, cells, strict=True)))
        else:
            yield Record(origin, {}, (_find_fault(origin, row, columns),))


def _find_fault(origin: Origin, row: Row, columns: tuple[str, ...]) -> Fault:
    cells = row.cells
    if cells is None:
        return Fault(origin, None, row.problem or "")
    if len(cells) != len(columns):
        values = f"{len(cells)} value{'s' * (len(cells) != 1)}"
        cure = " (a value with a separator in it must stand in quotes)" if len(cells) > len(columns) else ""
        return Fault(origin, None, f"row has {values}, expected {len(columns)}{cure}")
    bad = (name for name, cell in zip(columns, cells, strict=True) if describe_bad_character(cell))
    return Fault(origin, next(bad, None), row.problem or "")


def _read_rows(path: Path, delimiter: str) -> Generator[Row, None, None]:
    feed = _Feed(read_lines(path))
    reader = csv.reader(feed, delimiter=delimiter, strict=True)
    while True:
        feed.taken.clear()
        try:
            with _long_fields():
                cells = next(reader, None)
        except csv.Error as error:
            yield Row(feed.taken[0].number, None, _explain(error, feed.taken))
            feed.put_back()
            continue
        if cells is None:
            return
        if cells:  # a blank line is no row
            problem = next(filter(None, map(describe_bad_byte, feed.taken)), None)
            yield Row(feed.taken[0].number, tuple(cells), problem)


def _explain(error: csv.Error, taken: list[Line]) -> str:
    """Return what csv's error means for the person who wrote the file."""
    if "unexpected end of data" in str(error):
        return "a quoted value starts here and its quote is never closed"
    if "larger than field limit" in str(error):
        return f"a value is longer than {MAX_RECORD:,} characters (is its quote never closed?)"
    if "expected after" in str(error) and len(taken) > 1:
        return f"a quoted value starts here and its quote is not closed before line {taken[-1].number}"
    if "expected after" in str(error):
        return 'text follows a closing quote (a quote inside a quoted value is written twice: "")'
    return str(error)


@contextlib.contextmanager
def _long_fields() -> Iterator[None]:
    """Raise csv's limit of 131,072 characters a field while one record is parsed.

    The limit is one number for the whole process. It is raised only here, never while a caller holds a record, and the
    last of several threads puts the old one back.
    """
    with _limit_lock:
        _limit_holders.append(_limit_holders[0] if _limit_holders else csv.field_size_limit())
        csv.field_size_limit(MAX_RECORD)
    try:
        yield
    finally:
        with _limit_lock:
            before = _limit_holders.pop()
            if not _limit_holders:
                csv.field_size_limit(before)


class _Feed:
    """Hands lines to csv.reader, remembers those of the record being read, and can take all but the first back."""

    def __init__(self, lines: Iterator[Line]) -> None:
        self.taken: list[Line] = []
        self._size = 0
        self._lines = lines
        self._again: deque[Line] = deque()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._lines)
        self._size = len(line.text) + (self._size if self.taken else 0)
        self.taken.append(line)
        if self._size > MAX_RECORD:
            raise csv.Error("larger than field limit")
        return line.text

    def put_back(self) -> None:
        """Make the lines after the first of the current record be read again."""
        self._again.extendleft(reversed(self.taken[1:]))


@dataclass(frozen=True)
class Row:
    """One row of cells."""

    line: int  # 1-based physical line where it starts
    cells: tuple[str, ...] | None  # None: it could not be parsed
    problem: str | None

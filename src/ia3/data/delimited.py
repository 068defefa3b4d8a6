"""Records of CSV and TSV files.

Knows nothing of text and label columns. Rules: the first line that is not blank is the header; fields may be
quoted with `"`, as csv, pandas and Excel write both formats, unless quotes are said to be characters; lines that look
like rows of their own inside a quoted value are told; a row with a fault never hides the rows after it, so a quote that
is never closed is told for its own line and reading goes on at the next.
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
from ia3.data.separators import (
    Layout,
    check_separator,
    detached_quote,
    looks_merged,
    name_columns,
    plain_values,
    quoting,
    separator_line,
    take_head,
)
from ia3.errors import TableError

MAX_RECORD = 2**24  # characters of one record; bounds what a quote that is never closed can swallow

_limit_lock = threading.Lock()
_limit_holders: list[int] = []  # the limit as it was, once for each reader inside `_long_fields`


def read_delimited(path: Path, delimiter: str, *, quotes: bool | None = None, is_given: bool = False) -> Source:
    """Return the opened CSV or TSV file.

    Args:
        path: The file.
        delimiter: What stands between values.
        quotes: As of `TableFile`.
        is_given: Whether the user named the delimiter; else another one that fits as well is told.

    Returns:
        Its columns and records; the line of a record is the physical line where it starts.

    Raises:
        TableError: The file is empty, its header cannot be read or names a column twice, or it is not clear how it is
            to be read.
    """
    head, lines = take_head(read_lines(path))
    mark = separator_line(head)
    if mark is not None:
        next(lines)
        head, delimiter, is_given = head[1:], delimiter if is_given else mark, True
    has_quotes = quotes is not False
    rows = _read_rows(lines, delimiter, has_quotes=has_quotes)
    header = next(rows, None)
    if header is None:
        raise TableError(f"Reading {path}: the file is empty, expected a header line and rows.")
    check_separator(path, head, delimiter, has_quotes=has_quotes, is_given=is_given)
    cells = _check_header(path, header, delimiter, has_quotes=has_quotes)
    layout = name_columns(path, cells, head, delimiter, has_quotes=has_quotes)
    seen = plain_values(head, delimiter, layout.width) if quotes is None else ()
    records = _read_records(path, rows, _Rule(layout, delimiter, seen, has_quotes, cells))
    return Source(str(path), layout.columns, records, has_header=True, notes=layout.notes)


def _check_header(path: Path, row: Row, delimiter: str, *, has_quotes: bool) -> tuple[str, ...]:
    cells = row.cells or ()
    detached = detached_quote(cells, row.lines, delimiter, is_whole=True) if has_quotes else None
    problem = row.problem or next(filter(None, map(describe_bad_character, cells)), None)
    problem = problem or (detached and _describe_detached(detached))
    if problem:
        raise TableError(f"Reading {path}: the header (line {row.line}) cannot be read: {problem}.")
    return cells


def _read_records(path: Path, rows: Iterator[Row], rule: _Rule) -> Generator[Record, None, None]:
    for row in rows:
        origin = Origin(str(path), row.line)
        fault = _find_fault(origin, row, rule)
        if fault is None and row.cells is not None:
            pairs = zip(rule.layout.columns, rule.layout.places, strict=True)
            yield Record(origin, {name: row.cells[place] for name, place in pairs})
        else:
            yield Record(origin, {}, (fault or Fault(origin, None, row.problem or ""),))


def _find_fault(origin: Origin, row: Row, rule: _Rule) -> Fault | None:
    cells, layout = row.cells, rule.layout
    if cells is None:
        return Fault(origin, None, row.problem or "")
    if rule.seen and len(row.lines) > 1 and looks_merged(row.lines, rule.delimiter, rule.seen):
        return Fault(origin, None, _describe_merged(row))
    missing = set(range(len(cells), layout.width))
    is_longer = any(cell.strip() for cell in cells[layout.width :])
    is_whole = not is_longer and missing.issubset(layout.empty)
    detached = detached_quote(cells, row.lines, rule.delimiter, is_whole=is_whole) if rule.has_quotes else None
    if detached is not None:
        return Fault(origin, None, _describe_detached(detached))
    if not is_whole:
        values = f"{len(cells)} value{'s' * (len(cells) != 1)}"
        cure = " (a value with a separator in it must stand in quotes)" if is_longer else ""
        return Fault(origin, None, f"row has {values}, expected {layout.width}{cure}")
    if layout.width > 1 and (cells[0].removeprefix("\ufeff"), *cells[1:]) == rule.header:
        return Fault(origin, None, "row repeats the header, as where files were joined (remove it)")
    stray = next((place for place in layout.empty if place < len(cells) and cells[place].strip()), None)
    if stray is not None:
        what = f"{quote(cells[stray])} stands in column {stray + 1}, which the header does not name"
        return Fault(origin, None, what)
    if row.problem is None:
        return None
    pairs = zip(layout.columns, layout.places, strict=True)
    return Fault(
        origin, next((name for name, place in pairs if describe_bad_character(cells[place])), None), row.problem
    )


def _describe_detached(cell: str) -> str:
    return (
        f"a blank stands before the quote of {quote(cell)}, which is then a character of the value (take the blank "
        "away, or give --no-quotes if quotes are characters)"
    )


def _describe_merged(row: Row) -> str:
    return (
        f"lines {row.lines[0].number} to {row.lines[-1].number} are one row if quotes stand around values, and "
        f"{len(row.lines)} rows if they are characters of the texts (say which: --quotes or --no-quotes)"
    )


def _read_rows(lines: Iterator[Line], delimiter: str, *, has_quotes: bool) -> Generator[Row, None, None]:
    feed = _Feed(lines)
    reader = csv.reader(feed, delimiter=delimiter, quoting=quoting(has_quotes=has_quotes), strict=True)
    while True:
        feed.taken.clear()
        try:
            with _long_fields():
                cells = next(reader, None)
        except csv.Error as error:
            yield Row(feed.taken[0].number, None, _explain(error, feed.taken, delimiter))
            feed.put_back()
            continue
        if cells is None:
            return
        if cells:  # a blank line is no row
            problem = next(filter(None, map(describe_bad_byte, feed.taken)), None)
            yield Row(feed.taken[0].number, tuple(cells), problem, tuple(feed.taken))


def _explain(error: csv.Error, taken: list[Line], delimiter: str) -> str:
    """Return what csv's error means for the person who wrote the file."""
    hint = ", or give --no-quotes if quotes are characters of the texts" if delimiter == "\t" else ""
    if "unexpected end of data" in str(error):
        return f"a quoted value starts here and its quote is never closed{hint}"
    if "larger than field limit" in str(error):
        return f"a value is longer than {MAX_RECORD:,} characters (is its quote never closed?)"
    if "expected after" in str(error) and len(taken) > 1:
        return f"a quoted value starts here and its quote is not closed before line {taken[-1].number}{hint}"
    if "expected after" in str(error):
        return f'text follows a closing quote (a quote inside a quoted value is written twice: ""{hint})'
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
    lines: tuple[Line, ...] = ()  # that it stands on


@dataclass(frozen=True)
class _Rule:
    """What a row must have."""

    layout: Layout
    delimiter: str
    seen: tuple[frozenset[str], ...]  # values of each column elsewhere; empty where quotes are not asked about
    has_quotes: bool
    header: tuple[str, ...]

"""What the first lines of a delimited file tell: whether another separator fits them too, and which columns are named.

Knows lines and separators; it knows nothing of records. Rules: between two readings that both fit nothing is chosen,
both are told; a column without a name is left out only if nothing stands in it.
"""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ia3.data.examples import quote
from ia3.data.lines import Line
from ia3.errors import TableError
from ia3.spelling import first_of

MARKS = (",", ";", "\t", "|")
HEAD_LINES = 1000
HEAD_SIZE = 2**15  # characters
_FITS = 0.9  # share of the rows that have as many values as the header
_SHOWN = 6  # columns
_LONGEST = 100  # characters of a value that is remembered
_DETACHED = re.compile(r'[ \t]+"(?P<rest>.*?)(?P<end>"[ \t]*)?', re.DOTALL)
_SEPARATOR_LINE = re.compile(r'"?sep=(?P<mark>[^"\r\n])"?[\r\n]*', re.IGNORECASE)


def take_head(lines: Iterator[Line]) -> tuple[tuple[Line, ...], Iterator[Line]]:
    """Return the first lines of a file, and all of its lines again."""
    head, size = [], 0
    for line in lines:
        head.append(line)
        size += len(line.text)
        if len(head) == HEAD_LINES or size > HEAD_SIZE:
            break
    return tuple(head), itertools.chain(head, lines)


def separator_line(head: Sequence[Line]) -> str | None:
    """Return the separator that Excel's first line `sep=;` names, None where there is no such line."""
    match = _SEPARATOR_LINE.fullmatch(head[0].text) if head else None
    return None if match is None else match["mark"]


def check_separator(path: Path, head: Sequence[Line], delimiter: str, *, has_quotes: bool, is_given: bool) -> None:
    """Refuse a file whose first lines are separated by another mark, or may be.

    Args:
        path: The file, for messages.
        head: Its first lines.
        delimiter: What it would be read with.
        has_quotes: Whether `"` may stand around values.
        is_given: Whether the user named the delimiter.

    Raises:
        TableError: The header has one column and holds another mark, or the lines fit another mark, alone or as well.
    """
    own = _read_head(head, delimiter, has_quotes)
    others = {mark: _read_head(head, mark, has_quotes) for mark in MARKS if mark != delimiter}
    fitting = [mark for mark, rows in others.items() if rows and len(rows[0]) > 1 and _share(rows) >= _FITS]
    is_single = bool(own) and len(own[0]) == 1
    if is_single and not is_given:
        fitting = fitting or [mark for mark in others if mark in own[0][0]]
    if not fitting or (is_given and not is_single) or (delimiter == "\t" and not is_single and _share(own) >= _FITS):
        return
    mark = max(fitting, key=lambda one: len((others[one] or [[]])[0]))
    where = f"Reading {path}: the header (line {_first_line(head)})"
    if is_single:
        raise TableError(
            f"{where} has one column, {quote(own[0][0])}, which looks separated by {mark!r}, expected {delimiter!r}. "
            f"Give {_flag(mark)}, or save the table with that separator."
        )
    if not own or _share(own) < _FITS:
        raise TableError(
            f"{where} and its rows look separated by {mark!r}, not by {delimiter!r}: {_columns_of(others[mark])}. Give "
            f"{_flag(mark)}."
        )
    raise TableError(
        f"{where} and its rows can be read in two ways: separated by {delimiter!r} they are {_columns_of(own)}; "
        f"separated by {mark!r} they are {_columns_of(others[mark])}. Say which: {_flag(delimiter)} or {_flag(mark)}."
    )


def name_columns(path: Path, cells: Sequence[str], head: Sequence[Line], delimiter: str, *, has_quotes: bool) -> Layout:
    """Return the columns of a header; those without a name and without values are left out.

    Raises:
        TableError: A name is there twice, or several columns with values have none.
    """
    rows = _read_head(head, delimiter, has_quotes)[1:]
    filled = {place for row in rows for place, cell in enumerate(row) if cell.strip()}
    nameless = [place for place, name in enumerate(cells) if not name.strip()]
    empty = tuple(place for place in nameless if place not in filled) if len(nameless) < len(cells) else ()
    is_longer = bool(filled) and max(filled) < len(cells) < max(map(len, rows))
    places = tuple(place for place in range(len(cells)) if place not in empty)
    names = tuple(cells[place] for place in places)
    where = f"Reading {path}: the header (line {_first_line(head)})"
    bare = [place + 1 for place in nameless if place not in empty]
    if len(bare) > 1:
        listed = ", ".join(map(str, bare[:_SHOWN]))
        raise TableError(f"{where} has no names for columns {listed}, in which values stand. Name them.")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise TableError(f"{where} names {', '.join(map(quote, twice))} more than once. Rename one of them.")
    return Layout(names, places, empty, len(cells), is_longer)


def quoting(*, has_quotes: bool) -> Literal[0, 3]:
    """Return what csv is told of quotes."""
    return csv.QUOTE_MINIMAL if has_quotes else csv.QUOTE_NONE


def _read_head(head: Sequence[Line], mark: str, has_quotes: bool) -> list[list[str]]:
    """Return the rows of the first lines, read with a separator, up to one that cannot be read so, which is empty."""
    rows: list[list[str]] = []
    try:
        texts = (line.text for line in head)
        for row in csv.reader(texts, delimiter=mark, quoting=quoting(has_quotes=has_quotes), strict=True):
            if row:
                rows.append(row)
    except csv.Error as error:
        if rows and "unexpected end" not in str(error):  # the end of the lines looked at may cut a row
            rows.append([])
    return rows


def _share(rows: Sequence[Sequence[str]]) -> float:
    """Return the share of the rows that have as many values as the header."""
    return sum(len(row) == len(rows[0]) for row in rows[1:]) / (len(rows) - 1) if len(rows) > 1 else 1.0


def _first_line(head: Sequence[Line]) -> int:
    return next((line.number for line in head if line.text.strip("\r\n")), 1)


def _columns_of(rows: Sequence[Sequence[str]]) -> str:
    return f"{len(rows[0])} columns, {first_of(map(quote, rows[0]), _SHOWN)}"


def _flag(mark: str) -> str:
    return "--delimiter tab" if mark == "\t" else f"--delimiter '{mark}'"


def plain_values(head: Sequence[Line], delimiter: str, width: int) -> tuple[frozenset[str], ...]:
    """Return for each column the short values of the first lines without a quote that have as many as the header."""
    rows = [line.text.rstrip("\r\n").split(delimiter) for line in head if '"' not in line.text]
    whole = [row for row in rows if len(row) == width]
    return tuple(frozenset(row[place] for row in whole if len(row[place]) <= _LONGEST) for place in range(width))


def detached_quote(cells: Sequence[str], lines: Sequence[Line], delimiter: str, *, is_whole: bool) -> str | None:
    """Return the first value with blanks before the quote that was to stand around it, which no reader takes as one.

    Args:
        cells: Values of a row.
        lines: Of the row: a value that is quoted as a whole stands otherwise in them.
        delimiter: The separator.
        is_whole: Whether the row has as many as the header; then the closing quote has to be there as well.
    """
    text = delimiter + "".join(line.text for line in lines)
    found = (
        (cell, _DETACHED.fullmatch(cell)) for cell in cells if cell[:1] in (" ", "\t") and delimiter + cell in text
    )
    return next((cell for cell, match in found if match and (match["end"] or not is_whole)), None)


def looks_merged(lines: Sequence[Line], delimiter: str, seen: Sequence[frozenset[str]]) -> bool:
    """Tell whether the lines of one quoted row look like rows of their own.

    They do if the first, the last and half of all have as many values without the quotes as the header, and where the
    separator is one that texts have as well, one column has values there that it has in other rows.

    Args:
        lines: Of the row.
        delimiter: The separator.
        seen: As `plain_values` returns them.
    """
    width = len(seen)
    rows = [line.text.rstrip("\r\n").split(delimiter) for line in lines]

    def fits(row: Sequence[str], place: int) -> bool:
        return len(row) == width and (delimiter == "\t" or row[place] in seen[place])

    return width > 1 and any(
        fits(rows[0], place) and fits(rows[-1], place) and 2 * sum(fits(row, place) for row in rows) >= len(rows)
        for place in range(width)
    )


@dataclass(frozen=True)
class Layout:
    """Which values of a row are of which column."""

    columns: tuple[str, ...]
    places: tuple[int, ...]  # of the columns in a row
    empty: tuple[int, ...]  # places that have no name and no values
    width: int  # values of a row
    is_longer: bool = False  # rows end with empty values that the header has no place for

    @property
    def notes(self) -> tuple[str, ...]:
        """What was left out, in words."""
        longer = ("empty values at the end of rows, behind those of the header, are left out",) * self.is_longer
        return self._empty_columns() + longer

    def _empty_columns(self) -> tuple[str, ...]:
        if not self.empty:
            return ()
        listed = first_of((str(place + 1) for place in self.empty), _SHOWN)
        which = f"column {listed} has" if len(self.empty) == 1 else f"columns {listed} have"
        return (f"{which} no name and no values, and {'is' if len(self.empty) == 1 else 'are'} left out",)

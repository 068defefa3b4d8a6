"""Records: what every reader of a format yields, before text and label are chosen and checked.

Knows nothing of text and label columns. Rules: a value keeps the spelling it has in its source; a record that cannot be
read is yielded with its faults and no values, so that all faults of a file can be told at once.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Generator, Mapping
from dataclasses import dataclass

from ia3.data.examples import Fault, Origin

_BAD_CHARACTER = re.compile("[\x00\ud800-\udfff]")


def spell(value: object) -> str:
    """Return a value of a record as a string: strings and numbers as they are, true/false, nothing for null, else JSON.

    Args:
        value: A string, number, bool, None, or a list or mapping of such.

    Returns:
        The string that stands for it in `Example.fields`.
    """
    if value is None:
        return ""
    if isinstance(value, Mapping | list | tuple):
        return _spell_nested(value)
    if isinstance(value, bool) or str(getattr(value, "dtype", "")) == "bool":  # the second: numpy's
        return "true" if value else "false"
    return str(value)


def _spell_nested(value: object) -> str:
    """Return JSON in which numbers keep the spelling of the source."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_spell_nested(str(k))}: {_spell_nested(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_spell_nested(item) for item in value) + "]"
    if value is None:
        return "null"
    if isinstance(value, Number | Constant):
        return str(value)
    return json.dumps(value, ensure_ascii=False, default=str)


def is_missing(value: object) -> bool:
    """Tell whether a value stands for "nothing": null, or the NaN that other libraries write in its place."""
    return value is None or isinstance(value, Constant) or (isinstance(value, float) and value != value)


def describe_bad_character(text: str) -> str | None:
    """Return what is wrong with the first NUL or lone surrogate of the text, or None if there is none."""
    match = _BAD_CHARACTER.search(text)
    if match is None:
        return None
    name = "NUL character" if match[0] == "\0" else f"lone surrogate U+{ord(match[0]):04X}"
    return f"{name} at character {match.start() + 1}"


def look_ahead(
    records: Generator[Record, None, None], count: int
) -> tuple[tuple[Record, ...], Generator[Record, None, None]]:
    """Return the first `count` records, and a generator that yields all of them again."""
    first = tuple(itertools.islice(records, count))
    return first, _go_on(first, records)


def _go_on(first: tuple[Record, ...], rest: Generator[Record, None, None]) -> Generator[Record, None, None]:
    yield from first
    yield from rest


class Number(str):
    """A number of a JSON or Parquet file, in its source spelling."""

    __slots__ = ()


class Constant(str):
    """`NaN`, `Infinity` or `-Infinity`: not JSON, but written by many libraries for a missing value."""

    __slots__ = ()


@dataclass(frozen=True)
class Record:
    """One row as its format gives it."""

    origin: Origin
    values: Mapping[str, object]  # by column; empty if the row cannot be read
    faults: tuple[Fault, ...] = ()  # why the row cannot be read


@dataclass(frozen=True)
class Source:
    """An opened source: its columns are known, its records are read when they are asked for."""

    name: str  # as the user wrote it, for messages
    columns: tuple[str, ...]
    records: Generator[Record, None, None]
    has_header: bool = False  # columns come from a first line, which may have been forgotten
    has_free_columns: bool = False  # a record may leave columns out or bring further ones (JSON)
    notes: tuple[str, ...] = ()

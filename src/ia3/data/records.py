"""Records: what every reader of a format yields, before text and label are chosen and checked.

Knows nothing of text and label columns. Rules: a value keeps the spelling it has in its source; a record that cannot be
read is yielded with its faults and no values, so that all faults of a file can be told at once.
"""

from __future__ import annotations

import base64
import itertools
import json
import re
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from ia3.data.examples import Fault, Origin
from ia3.data.values import Constant, Number, plain

_BAD_CHARACTER = re.compile("[\x00\ud800-\udfff]")


def spell(value: object) -> str:
    """Return a value of a record as a string: strings and numbers as they are, true/false, nothing for null, else JSON.

    Args:
        value: What `plain` returns: a string, number, bool, bytes (in base64), None, or a list or mapping of such.

    Returns:
        The string that stands for it in `Example.fields`.
    """
    if value is None:
        return ""
    if isinstance(value, Mapping | list | tuple):
        return spell_json(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def spell_json(value: object) -> str:
    """Return JSON in which numbers keep the spelling of the source; null for what is missing."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{spell_json(str(k))}: {spell_json(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(spell_json(item) for item in value) + "]"
    if isinstance(value, Number | Constant):
        return str(value)
    value = plain(value)
    if isinstance(value, Number | Decimal):
        return str(value)
    return json.dumps(value, ensure_ascii=False, default=spell)


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


def broken(origin: Origin, what: str) -> Record:
    """Return the record of a row that cannot be read."""
    return Record(origin, {}, (Fault(origin, None, what),))


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
    schema: Any = None  # of Arrow, where the records are rows of its batches
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # names of classes by column

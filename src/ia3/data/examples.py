"""What a table is once it is read: examples, where each came from, and the rows that could not be used.

Knows nothing of file formats, tokens or models. Rules: text and label are strings exactly as they stand in the source;
every value is frozen; the order of the examples is the order of the source.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

EMPTY_TEXT = "text is empty"
MISSING_TEXT = "text is missing"
MISSING_LABEL = "label is missing"

_NO_LABEL = (2**64 - 1).to_bytes(8, "big")  # a length no label has


def fingerprint(examples: Iterable[Example]) -> str:
    """Return the sha256 over text and label of every example, in order, as 64 hexadecimal digits.

    Each string is preceded by its length in bytes, so that no two different tables give the same bytes.

    Args:
        examples: The examples; their other fields and origins do not count.

    Returns:
        The hexadecimal digest.
    """
    digest = hashlib.sha256()
    for example in examples:
        for value in (example.text, example.label):
            if value is None:
                digest.update(_NO_LABEL)
            else:
                raw = value.encode("utf-8")
                digest.update(len(raw).to_bytes(8, "big") + raw)
    return digest.hexdigest()


def choose_examples(table: Table, indices: Sequence[int]) -> Table:
    """Return the table of these examples only, with its own fingerprint and without the skipped rows.

    Args:
        table: The whole table.
        indices: Positions in `table.examples`, in the order wanted.

    Returns:
        A table with the same columns and notes.
    """
    examples = tuple(table.examples[index] for index in indices)
    return replace(table, examples=examples, faults=(), fingerprint=fingerprint(examples))


def quote(text: str, most: int = 60) -> str:
    """Return the text in quotes for a message, cut after `most` characters, with unprintable characters escaped."""
    return ascii_safe(repr(text if len(text) <= most else text[: most - 1] + "…"))


def ascii_safe(text: str) -> str:
    """Return the text with lone surrogates escaped, so that every terminal and file can take it."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


@dataclass(frozen=True)
class Origin:
    """Where a record starts."""

    file: str  # the path as it was given, the hub id, or "<rows>" for rows in memory
    line: int  # 1-based physical line where the record starts; Parquet, hub and rows in memory: 1-based row

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Example:
    """One usable row of a table."""

    text: str
    label: str | None  # None: a row without a label (prediction)
    fields: Mapping[str, str] = field(hash=False)  # every column of the row as a string, text and label included
    origin: Origin
    choices: tuple[str, ...] = ()  # the answers that the row could have, where rows bring their own
    values: Mapping[str, object] = field(default_factory=dict, hash=False, compare=False, repr=False)  # of a streamed
    # row, as its source has them: with their types, without the columns that the row leaves out


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with one row."""

    origin: Origin
    column: str | None  # None: the row as a whole
    what: str

    def __str__(self) -> str:
        place = str(self.origin) if self.column is None else f"{self.origin}, column {quote(self.column)}"
        return ascii_safe(f"{place}: {self.what}")


@dataclass(frozen=True)
class Table:
    """All usable rows of a source, and what was chosen or skipped while reading it."""

    examples: tuple[Example, ...]
    columns: tuple[str, ...]  # of the source, in order
    text_column: str
    label_column: str | None
    faults: tuple[Fault, ...]  # of the rows that were skipped
    notes: tuple[str, ...]  # choices made for the user and likely mistakes, one sentence each
    fingerprint: str  # sha256 over text and label of all examples, in order
    choices_column: str | None = None  # where rows bring their own choices

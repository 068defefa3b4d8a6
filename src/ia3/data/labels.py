"""The labels of a table as a closed set, and pairs of them that are likely one label spelt twice.

Knows nothing of files or models. Rules: labels are compared exactly; nothing is ever merged, only told.
"""

from __future__ import annotations

from collections.abc import Iterable

from ia3.data.examples import Table, quote
from ia3.errors import TableError
from ia3.spelling import first_of

_MISSING_WORDS = ("nan", "NaN", "<NA>", "NaT")
_SHOWN = 3  # pairs of similar labels in a note


def label_set(table: Table) -> tuple[str, ...]:
    """Return the different labels of a table, sorted.

    Args:
        table: A table with a label in every row.

    Returns:
        At least two labels.

    Raises:
        TableError: Rows have no label, or all have the same one.
    """
    file = table.examples[0].origin.file if table.examples else "<rows>"
    labels = {example.label for example in table.examples if example.label is not None}
    bare = next((example for example in table.examples if example.label is None), None)
    if bare is not None:
        raise TableError(
            f"Reading the labels of {file}: the row at {bare.origin} has none. Name the column: --label COLUMN."
        )
    if len(labels) < 2:
        got = f"only {quote(min(labels))}" if labels else "none"
        raise TableError(
            f"Reading the labels of {file}: expected at least two different labels, got {got}. "
            "Add rows of another label, or name another column: --label COLUMN."
        )
    return tuple(sorted(labels))


def describe_missing_words(labels: Iterable[str]) -> tuple[str, ...]:
    """Return a note if labels are the words that pandas and numpy write for a missing value, else nothing."""
    found = sorted(set(labels).intersection(_MISSING_WORDS))
    if not found:
        return ()
    listed = ", ".join(map(quote, found))
    return (f"labels that read like missing values written as text: {listed}; they are used as labels",)


def describe_similar_labels(labels: Iterable[str]) -> tuple[str, ...]:
    """Return a note if labels differ only by case or surrounding blanks, else nothing."""
    spellings: dict[str, list[str]] = {}
    for label in sorted(set(labels)):
        spellings.setdefault(label.strip().casefold(), []).append(label)
    alike = [same for same in spellings.values() if len(same) > 1]
    if not alike:
        return ()
    shown = first_of((" and ".join(map(quote, same)) for same in alike), _SHOWN, mark="; ")
    return (f"labels that differ only by case or surrounding blanks, likely one label: {shown}",)

"""Which columns hold text and label: the ones named, else the ones with usual names, else the only ones possible.

Knows nothing of formats. Rules: nothing is guessed between two candidates; whatever is chosen is said in a
note; a header that looks like a row of data is an error, since a forgotten header would cost the first row.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ia3.data.examples import quote
from ia3.data.records import Record, spell
from ia3.errors import TableError, near_matches

# The first of each is taken even when others stand beside it.
TEXT_NAMES = (
    "text",
    *("sentence", "content", "review", "review_text", "review_body", "tweet", "question", "premise", "comment"),
    *("message", "body", "input", "document", "article", "headline", "utterance", "prompt", "query", "post"),
)
LABEL_NAMES = (
    "label",
    *("labels", "sentiment", "category", "class", "target", "answer", "intent", "emotion", "topic", "stance"),
    *("label_text", "output", "completion", "rating", "polarity"),
)
_FLAGS = {"text": "--text", "label": "--label"}
_SENTENCE = re.compile(r".{41,}|.*[.!?]|(\S+\s+){4,}\S+.*|[-+]?\d+([.,]\d+)?", re.DOTALL)


def choose_columns(
    name: str,
    columns: Sequence[str],
    look: Callable[[], Sequence[Record]],
    *,
    text: str | None = None,
    label: str | None = None,
    labels_required: bool = True,
    has_header: bool = False,
) -> ColumnChoice:
    """Return the text and the label column.

    Args:
        name: The source, for messages.
        columns: All columns of the source.
        look: Gives the first records, called only if the names alone do not tell.
        text: The text column, if the user named it.
        label: The label column, if the user named it.
        labels_required: Whether the lack of a label column is an error.
        has_header: Whether the columns come from a first line that may have been forgotten.

    Returns:
        The columns, and a note for each that was not named.

    Raises:
        TableError: A named column is not there, or the choice is not clear.
    """
    for role, column in (("text", text), ("label", label)):
        if column is not None and column not in columns:
            near = near_matches(column, columns)
            raise TableError(f"Reading {name}: there is no {role} column {quote(str(column))}.{near}")
    if text is not None and text == label:
        raise TableError(f"Reading {name}: {quote(text)} is named as both text and label. Name two columns.")
    named = [column for column in columns if column.strip()]  # pandas writes its index under an empty name
    by_name = {
        "text": text or _find_by_name(name, named, "text", taken=label),
        "label": label or _find_by_name(name, named, "label", taken=text, is_needed=labels_required),
    }
    found = _find_by_place(named, look, by_name["text"], by_name["label"], labels_required)
    _check_found(name, named, found, labels_required, has_header)
    guessed = [column for role, column in found.items() if column is not None and by_name[role] is None]
    if has_header and guessed:
        _check_header(name, guessed, look())
    given = {"text": text, "label": label}
    notes = [_describe(role, column, by_name[role]) for role, column in found.items() if column and not given[role]]
    assert found["text"] is not None
    return ColumnChoice(found["text"], found["label"], tuple(notes))


def _find_by_name(
    name: str, columns: Sequence[str], role: str, *, taken: str | None, is_needed: bool = True
) -> str | None:
    """Return the column with a usual name for the role, None if there is none."""
    usual = TEXT_NAMES if role == "text" else LABEL_NAMES
    found = [column for column in columns if column.strip().lower() in usual and column != taken]
    best = [column for column in found if column.strip().lower() == usual[0]] or found
    if len(best) > 1 and is_needed:
        listed = ", ".join(map(quote, best))
        raise TableError(f"Reading {name}: the {role} column may be any of {listed}. Name it: {_FLAGS[role]} COLUMN.")
    return best[0] if len(best) == 1 else None


def _find_by_place(
    columns: Sequence[str],
    look: Callable[[], Sequence[Record]],
    text: str | None,
    label: str | None,
    labels_required: bool,
) -> dict[str, str | None]:
    """Return both columns, with what can only be one column filled in."""
    usual = (*TEXT_NAMES, *LABEL_NAMES)
    rest = [column for column in columns if column not in (text, label) and column.strip().lower() not in usual]
    if text is None and label is None and len(rest) == len(columns) == 2:
        first = look()
        longer, other = columns
        if _mean_length(longer, first) < _mean_length(other, first):
            longer, other = other, longer
        return {"text": longer, "label": other if labels_required else None}
    if text is None and len(rest) == 1:
        return {"text": rest[0], "label": label}
    if text is not None and label is None and len(rest) == 1 and labels_required:
        return {"text": text, "label": rest[0]}
    return {"text": text, "label": label}


def _mean_length(column: str, first: Sequence[Record]) -> float:
    lengths = [len(spell(record.values.get(column))) for record in first if not record.faults]
    return sum(lengths) / len(lengths) if lengths else 0.0


def _check_found(
    name: str, columns: Sequence[str], found: dict[str, str | None], labels_required: bool, has_header: bool
) -> None:
    missing = [role for role, column in found.items() if column is None and (role == "text" or labels_required)]
    if not missing:
        return
    listed = ", ".join(map(quote, columns[:20])) or "none"
    flags = " ".join(f"{_FLAGS[role]} COLUMN" for role in missing)
    what = " and the ".join(missing)
    if len(columns) < len(found) and labels_required:
        raise TableError(
            f"Reading {name}: there is no column for the {what}, got only {listed}. Text and label are both needed."
        )
    is_data = has_header and any(_SENTENCE.fullmatch(column.strip()) for column in columns)
    hint = " If the first line is a row, add a header above it." if is_data else ""
    raise TableError(f"Reading {name}: the column of the {what} is not clear, got {listed}. Name it: {flags}.{hint}")


def _check_header(name: str, guessed: Sequence[str], first: Sequence[Record]) -> None:
    """Refuse a header whose guessed names look like data."""
    for column in guessed:
        values = {spell(record.values.get(column)) for record in first if not record.faults}
        if column in values or _SENTENCE.fullmatch(column.strip()):
            raise TableError(
                f"Reading {name}: the first line looks like a row, not a header: {quote(column)} reads like a value. "
                "Add a first line with the names of the columns, such as text,label."
            )


def _describe(role: str, column: str, by_name: str | None) -> str:
    return f"{role} column: {quote(column)} ({'by its name' if by_name else 'the only one it can be'})"


@dataclass(frozen=True)
class ColumnChoice:
    """The two columns that matter, and what to tell the user about them."""

    text: str
    label: str | None
    notes: tuple[str, ...]

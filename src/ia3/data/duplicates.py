"""The same text twice: rows to evaluate on whose text is trained on as well, each named with both places.

Knows nothing of files or models. Rules: two texts are the same if they differ in blanks, line breaks and case alone;
texts are compared so and never changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ia3.data.examples import Example, Origin, Table, fingerprint
from ia3.errors import TableError
from ia3.spelling import first_of

_SHOWN = 3


def normal_text(text: str) -> str:
    """Return what texts that differ in blanks and case alone have in common.

    Example:
        >>> normal_text("  Profit   ROSE. ")
        'profit rose.'
    """
    return " ".join(text.split()).casefold()


def find_duplicates(train: Table, held_out: Table) -> tuple[Duplicate, ...]:
    """Return the held-out rows whose text stands in the training table too, in the order of the held-out rows.

    Args:
        train: The rows trained on.
        held_out: The rows evaluated on.
    """
    first: dict[str, Example] = {}
    for example in train.examples:
        first.setdefault(normal_text(example.text), example)
    found = []
    for example in held_out.examples:
        text = normal_text(example.text)
        twin = first.get(text)
        if twin is not None:
            found.append(Duplicate(example.origin, twin.origin, text, example.label == twin.label))
    return tuple(found)


def without_duplicates(held_out: Table, duplicates: Sequence[Duplicate]) -> Table:
    """Return the held-out table without some of its rows; the rows that were skipped in reading stay recorded.

    Raises:
        TableError: If no row is left.
    """
    gone = {duplicate.text for duplicate in duplicates}
    kept = tuple(example for example in held_out.examples if normal_text(example.text) not in gone)
    if not kept:
        file = held_out.examples[0].origin.file if held_out.examples else "<rows>"
        raise TableError(
            f"Reading {file}: every one of its {len(held_out.examples)} rows has a text that is trained on, so that "
            "none is left to evaluate on. Give other rows, or keep these: without --drop-duplicates."
        )
    return replace(held_out, examples=kept, fingerprint=fingerprint(kept))


def describe_duplicates(duplicates: Sequence[Duplicate], rows: int, *, are_dropped: bool) -> str:
    """Return in a sentence which rows are trained on as well, and what becomes of them.

    Args:
        duplicates: At least one.
        rows: How many rows there are to evaluate on, these among them.
        are_dropped: Whether they are left out.
    """
    others = sum(not duplicate.is_same_label for duplicate in duplicates)
    odd = f" ({others} with another label)" if others else ""
    is_one = len(duplicates) == 1
    head = (
        f"{len(duplicates)} of the {rows} eval rows {'has' if is_one else 'have'} a text that is trained on{odd}, "
        f"blanks and case aside: {first_of(duplicates, _SHOWN)}."
    )
    if are_dropped:
        return f"{head} {'It is' if is_one else 'They are'} left out."
    stays = "It stays" if is_one else "They stay"
    return f"{head} {stays}, so the eval numbers look better than they are; --drop-duplicates leaves such rows out."


@dataclass(frozen=True)
class Duplicate:
    """A row that is evaluated on and has the text of a row that is trained on."""

    origin: Origin  # of the row evaluated on
    trained: Origin  # of the first row trained on with its text
    text: str  # of both, as they are compared
    is_same_label: bool

    def __str__(self) -> str:
        return f"{self.origin} is {self.trained}"

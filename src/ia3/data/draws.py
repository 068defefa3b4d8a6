"""Draws from a table: some rows of each label, and folds of which each is held out once.

Knows nothing of files or models. Rules: a draw is a pure function of texts, labels and seed, whatever the order of the
rows; nothing that is held out has a text (blanks and case aside) that is learned from; all sides keep the order of the
table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ia3.data.duplicates import normal_text
from ia3.data.examples import Example, Table, choose_examples, quote
from ia3.data.splits import group_texts, shuffle_key
from ia3.errors import SettingsError, TableError
from ia3.spelling import first_of

_SHOWN = 8  # labels


def draw_per_label(table: Table, per_label: int, seed: int) -> tuple[Table, Table | None]:
    """Return some rows of each label, no text twice, and the rows whose text was not drawn.

    Args:
        table: The table, with a label in every row.
        per_label: How many rows of each label, at least 1.
        seed: Which of the possible draws.

    Returns:
        (drawn, rest); the rest is None where there is none.

    Raises:
        SettingsError: `per_label` is below 1.
        TableError: A label has fewer different texts; names all of them.
    """
    if per_label < 1:
        raise SettingsError(f"Drawing rows of each label: per_label is {per_label}, expected at least 1.")
    room = {example.label: per_label for example in table.examples}
    drawn: set[int] = set()
    texts: set[str] = set()
    for group in group_texts(table, seed):
        row = next((index for index in group if room[table.examples[index].label]), None)
        if row is not None:
            room[table.examples[row].label] -= 1
            drawn.add(row)
            texts.add(normal_text(table.examples[row].text))
    short = sorted(f"{quote(label or '', 30)} {per_label - left}" for label, left in room.items() if left)
    if short:
        raise TableError(
            f"Drawing {per_label} rows of each label: there are fewer different texts of "
            f"{first_of(short, _SHOWN)}. Draw fewer (--per-label), or add rows."
        )
    rest = [index for index, example in enumerate(table.examples) if normal_text(example.text) not in texts]
    return choose_examples(table, sorted(drawn)), choose_examples(table, rest) if rest else None


def draw_in_turn(table: Table, labels: Sequence[str], seed: int, most: int) -> list[Example]:
    """Return some rows, of each label in turn one, in an order that the seed and the texts decide.

    Args:
        table: The table.
        labels: The label set; rows of other labels, and without one, are not drawn.
        seed: Which of the possible draws.
        most: Most rows.
    """
    order = sorted(table.examples, key=lambda example: shuffle_key(seed, example.text))
    waiting = {label: [example for example in order if example.label == label] for label in labels}
    drawn: list[Example] = []
    while any(waiting.values()) and len(drawn) < most:
        for rows in waiting.values():
            if rows and len(drawn) < most:
                drawn.append(rows.pop(0))
    return drawn


def make_folds(table: Table, count: int, seed: int, *, stratify: bool = True) -> tuple[tuple[int, ...], ...]:
    """Return the positions of the rows of each fold: every row in one of them, a label's rows spread over all.

    A label with a single text is in no fold: held out, it would be one that was never learned.

    Args:
        table: The table.
        count: How many folds, at least 2.
        seed: Which of the possible folds.
        stratify: Spread each label for itself; False for free text.

    Raises:
        SettingsError: `count` is below 2, or there are fewer texts than folds.
    """
    strata = [example.label if stratify else None for example in table.examples]
    groups = group_texts(table, seed)
    texts = Counter(label for group in groups for label in {strata[index] for index in group})
    held = [group for group in groups if not stratify or all(texts[strata[index]] > 1 for index in group)]
    if count < 2 or count > len(held):
        raise SettingsError(
            f"Making folds: got {count} folds for {len(held)} different texts that can be held out, expected from 2 to "
            f"that number. Give --folds {min(5, max(2, len(held)))}, or add rows."
        )
    folds: list[list[int]] = [[] for _ in range(count)]
    counts: list[Counter[str | None]] = [Counter() for _ in range(count)]
    for group in sorted(held, key=lambda group: str(strata[group[0]])):  # label by label, each in its shuffled order
        label = strata[group[0]]
        best = min(range(count), key=lambda number: (counts[number][label], len(folds[number]), number))
        folds[best] += group
        counts[best].update(strata[index] for index in group)
    return tuple(tuple(sorted(fold)) for fold in folds)

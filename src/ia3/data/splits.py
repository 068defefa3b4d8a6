"""Splits of a table into rows to train on and rows held out.

Knows nothing of files or models. Rules: a split is a pure function of table, fraction and seed; rows with the same text
(blanks and case aside) stay together, so that nothing held out was trained on; no row is lost; both sides keep the
order of the table.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence

from ia3.data.duplicates import normal_text
from ia3.data.examples import Table, choose_examples
from ia3.errors import SettingsError, TableError

Group = tuple[int, ...]  # positions of the rows with one text, blanks and case aside


def split_table(table: Table, fraction: float, seed: int, *, stratify: bool = True) -> tuple[Table, Table]:
    """Return the rows to train on and the rows held out.

    The held-out share of every label is within one row of `fraction`, and less only where rows with the same text do
    not fit. A label with a single row stays in the training rows, and every label keeps at least one there.

    Args:
        table: The table.
        fraction: Share of the rows to hold out, between 0 and 1, both excluded.
        seed: Which of the possible splits; the same seed gives the same split.
        stratify: Split each label for itself; False for free-text targets.

    Returns:
        (train, held out), each with at least one row. Skipped rows stay with neither.

    Raises:
        SettingsError: The fraction lies outside its range.
        TableError: There are not enough rows for two sides.
    """
    if not (isinstance(fraction, int | float) and 0 < fraction < 1):
        raise SettingsError(
            f"Splitting the table: the share to hold out is out of range, got {fraction!r}, expected a number between "
            "0 and 1. Give for example --eval-fraction 0.1."
        )
    strata = [example.label if stratify else None for example in table.examples]
    groups = group_texts(table, seed)
    held = _fill(groups, strata, _targets(Counter(strata), fraction, seed))
    if not held:
        held = _smallest(table, groups, strata)
    kept = [index for index in range(len(strata)) if index not in held]
    return choose_examples(table, kept), choose_examples(table, sorted(held))


def group_texts(table: Table, seed: int) -> list[Group]:
    """Return the rows of each text, in an order that depends on seed and texts alone.

    Texts that differ in blanks and case alone are one text, in the place of the spelling that comes first in order.
    """
    rows: dict[str, list[int]] = {}
    for index, example in enumerate(table.examples):
        rows.setdefault(normal_text(example.text), []).append(index)
    spelt = {min(table.examples[index].text for index in same): same for same in rows.values()}
    return [tuple(spelt[text]) for text in sorted(spelt, key=lambda text: shuffle_key(seed, text))]


def shuffle_key(seed: int, text: str | None) -> bytes:
    """Return a number to sort by; unlike random.shuffle it is the same in every version of Python."""
    return hashlib.sha256(f"{seed}:{text!r}".encode("utf-8", "backslashreplace")).digest()


def _targets(counts: Mapping[str | None, int], fraction: float, seed: int) -> dict[str | None, int]:
    """Return how many rows to hold out per label: whole numbers within one of the exact share (largest remainders)."""
    exact = {label: count * fraction for label, count in counts.items()}
    targets = {label: min(math.floor(exact[label]), counts[label] - 1) for label in counts}
    wanted = max(1, round(sum(counts.values()) * fraction))
    by_remainder = sorted(counts, key=lambda label: (math.floor(exact[label]) - exact[label], shuffle_key(seed, label)))
    for label in by_remainder:
        if sum(targets.values()) < wanted and targets[label] < min(math.ceil(exact[label]), counts[label] - 1):
            targets[label] += 1
    return targets


def _fill(groups: Sequence[Group], strata: Sequence[str | None], targets: Mapping[str | None, int]) -> set[int]:
    """Return held-out rows: each group in turn that still fits the targets of all its labels."""
    room = dict(targets)
    held: set[int] = set()
    for group in groups:
        need = Counter(strata[index] for index in group)
        if all(room[label] >= count for label, count in need.items()):
            held.update(group)
            for label, count in need.items():
                room[label] -= count
    return held


def _smallest(table: Table, groups: Sequence[Group], strata: Sequence[str | None]) -> set[int]:
    """Return the smallest group whose labels all stay in training too, for tables where none fits its target."""
    counts = Counter(strata)
    for group in sorted(groups, key=len):
        if all(counts[label] > count for label, count in Counter(strata[index] for index in group).items()):
            return set(group)
    file = table.examples[0].origin.file if table.examples else "<rows>"
    raise TableError(
        f"Splitting {file}: no row can be held out, got {len(strata)} row{'s' * (len(strata) != 1)} of "
        f"{len(groups)} text{'s' * (len(groups) != 1)} and {len(counts)} label{'s' * (len(counts) != 1)}, expected a "
        "label with two different texts. Add rows, or give a table to evaluate on; a split of free-text targets takes "
        "stratify=False."
    )

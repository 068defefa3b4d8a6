"""The start of a run: the one that was named, or of those that come with the project the one that knows the labels.

T-Few begins with vectors of other tasks and asks nobody. So does a recipe that chooses: each start that fits the base
and the labels answers some training rows as it is, and the one that gives the right labels the most probability is
kept, where that is clearly more than how often each label occurs would give. This file brings rows, bases and starts
together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from math import log
from pathlib import Path
from typing import Any

import numpy as np

from ia3.adapters.attached import load
from ia3.bases.loading import Base
from ia3.core.attach import attachment_of
from ia3.data.draws import draw_in_turn
from ia3.data.duplicates import normal_text
from ia3.data.examples import Example, Table
from ia3.errors import AdapterError, BankError
from ia3.inference.loading import load_predictor
from ia3.inference.temperature import fit_temperature, scale
from ia3.runs.dataset import Rows
from ia3.runs.packaged_starts import has_learned, packaged_start, start_names
from ia3.runs.start import Start, read_start
from ia3.runs.watch import Say
from ia3.training.recipes import find_recipe
from ia3.training.settings import Settings

AUTO, NONE = "auto", "none"  # in place of an adapter's place: choose one, begin with ones
MOST_ROWS = 32  # that each start answers
_LEAST = 1e-30  # probability that a logarithm is taken of
_CLEARLY = 1.92  # nats of all rows: the likelihood-ratio test at 5 %, for one number that was fitted

# What starts have answered so far: by start and text, blanks and case aside, the probability of each label.
Answered = dict[tuple[str, str], dict[str, float]]


def is_named(given: str | Path | None) -> bool:
    """Whether a run was told which adapter it begins with."""
    return given is not None and str(given) not in (AUTO, NONE)


def is_chosen(given: str | Path | None, settings: Settings) -> bool:
    """Whether a run chooses what it begins with: because it was told to, or because its recipe does."""
    return str(given) == AUTO or (given is None and find_recipe(settings.recipe).chooses_start)


def settled_start(
    given: str | Path | None,
    rows: Rows,
    base: Base,
    settings: Settings,
    say: Say,
) -> Start | None:
    """Return what a run begins with; None for ones.

    Args:
        given: Folder, hub id or name of a start; `auto` for one of those that come with the project, `none` for ones;
            None for what the recipe has.
        rows: Of the run; those held out choose nothing.
        base: Of the run.
        settings: Of the run.
        say: Told what was chosen, and what of the rows a start has seen.

    Raises:
        AdapterError: If a start that was named cannot be read, or is of another base.
    """
    if is_named(given):
        start = read_start(str(given), base)
        _warn_of_seen(start, rows, say)
        return start
    return choose_start(rows, base, settings.seed, say) if is_chosen(given, settings) else None


def choose_start(rows: Rows, base: Base, seed: int, say: Say, answered: Answered | None = None) -> Start | None:
    """Return the start that comes with the project and knows the labels of a table best; None where none does.

    A start that has learned one of the rows is left out: what it says of them says nothing.

    Args:
        rows: Of the run.
        base: Of the run.
        seed: Decides which training rows are answered.
        say: Told what was chosen.
        answered: Filled, and used by a further choice on rows of the same table with the same base.
    """
    starts = [start for start in _starts_for(base, rows.labels) if not _has_seen(start, rows, say)]
    if not starts or _has_bank(base):
        return None
    examples = draw_in_turn(rows.train, rows.labels, seed, MOST_ROWS)
    answered = {} if answered is None else answered
    _ask(base, starts, examples, answered)
    told = [_told(start, examples, rows.labels, answered) for start in starts]
    best = max(range(len(starts)), key=lambda place: told[place]["score"])  # of equal ones the first
    least = _score_of_shares(examples) + _CLEARLY / len(examples)
    choice = {"rows": len(examples), "least_score": least, "candidates": told}
    name, found = starts[best].name, told[best]
    measured = (
        f"{100 * found['accuracy']:.0f} % of {len(examples)} training rows right without training, right label "
        f"{found['score']:.3f} nats"
    )
    if found["score"] <= least:
        say(f"No start that comes with the project knows these labels ({name!r}: {measured}).")
        return None
    say(f"The start is {name!r}, which knows these labels best ({measured}). --start none begins with ones.")
    return replace(starts[best], choice=choice)


def _starts_for(base: Base, labels: Sequence[str]) -> list[Start]:
    """Return the starts that are there for a base and have learned these labels."""
    found = []
    for name in start_names():
        with suppress(AdapterError):  # it is there for other bases, or other weights
            start = read_start(name, base) if packaged_start(name, base.name) else None
            if start is not None and _knows(start, base, labels):
                found.append(start)
    return found


def _knows(start: Start, base: Base, labels: Sequence[str]) -> bool:
    if base.kind == "encoder":  # its head has one output a label
        return bool(start.adapter.head) and start.labels == tuple(labels)
    return bool(labels) and set(labels) <= set(start.labels)


def _has_seen(start: Start, rows: Rows, say: Say) -> bool:
    """Whether a start has learned one of the rows; then it is said."""
    tables = [table for table in (rows.train, rows.held_out) if table is not None]
    seen = sum(_count_seen(start, table) for table in tables)
    if seen:
        say(f"The start {start.name!r} has learned {seen} of these rows before and is left out. --start takes it.")
    return bool(seen)


def _warn_of_seen(start: Start, rows: Rows, say: Say) -> None:
    """Say how many of the rows that a run is measured on its start has learned."""
    table = rows.train if rows.held_out is None else rows.held_out
    seen = _count_seen(start, table)
    if seen:
        say(
            f"{seen} of {len(table.examples)} {'rows' if rows.held_out is None else 'eval rows'} are among those that "
            f"the start {start.name!r} has learned from: what is measured on them says nothing of new texts."
        )


def _count_seen(start: Start, table: Table) -> int:
    is_packaged = start.given in start_names() and not Path(start.given).exists()
    return sum(has_learned(start.given, (example.text for example in table.examples))) if is_packaged else 0


def _has_bank(base: Base) -> bool:
    """Whether adapters are on a base already: it is not ours to put others on."""
    try:
        attachment_of(base.model)
    except BankError:
        return False
    return True


def _ask(base: Base, starts: Sequence[Start], examples: Sequence[Example], answered: Answered) -> None:
    """Have each start answer the rows that it has not answered yet."""
    asked = {
        start.name: [example.text for example in examples if (start.name, normal_text(example.text)) not in answered]
        for start in starts
    }
    waiting = [start for start in starts if asked[start.name]]
    if not waiting:
        return
    folders: dict[str, Any] = {start.name: packaged_start(start.given, base.name) for start in waiting}
    first = load_predictor(folders[waiting[0].name], base=base, name=waiting[0].name, say=lambda line: None)
    try:
        for start in waiting[1:]:
            load(base.model, folders[start.name], start.name)
        for start in waiting:
            texts = asked[start.name]
            found = first.beside(start.name).classify(texts)
            answered |= {
                (start.name, normal_text(text)): dict(one.probabilities) for text, one in zip(texts, found, strict=True)
            }
    finally:
        first.attachment.detach()


def _told(start: Start, examples: Sequence[Example], labels: Sequence[str], answered: Answered) -> dict[str, Any]:
    """Return how well a start knows the rows, as plain values for the record: the labels of the table alone count.

    How sure it is on its own tables says little of this one, so that it is asked at the temperature that the rows want.
    """
    shares = np.array([[answered[start.name, normal_text(e.text)][label] for label in labels] for e in examples])
    gold = np.array([labels.index(str(example.label)) for example in examples])
    scores = np.log(np.maximum(shares, _LEAST))
    right = scale(scores, fit_temperature(scores, gold))[np.arange(len(gold)), gold]
    accuracy = float((shares.argmax(axis=1) == gold).mean())
    return {"name": start.name, "score": float(np.log(right).mean()), "accuracy": accuracy}


def _score_of_shares(examples: Sequence[Example]) -> float:
    """Return the score of who knows how often each label occurs among the rows, and nothing else."""
    counts = Counter(example.label for example in examples)
    return sum(n * log(n / len(examples)) for n in counts.values()) / max(1, len(examples))

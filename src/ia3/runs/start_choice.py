"""The start of a run: the one that was named, or of those that come with the project the one that knows the labels.

T-Few begins with vectors of other tasks and asks nobody. So does a recipe that chooses: each start that fits the base
and the labels answers some training rows as it is, and the one that gives the right labels the most probability is
kept, where that is clearly more than how often each label occurs would give. This file brings rows, bases and starts
together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import log
from pathlib import Path
from typing import Any

import numpy as np

from ia3.adapters.attached import put_on
from ia3.bases.loading import Base
from ia3.core.attach import attachment_of
from ia3.data.draws import draw_in_turn
from ia3.data.duplicates import normal_text
from ia3.data.examples import Example
from ia3.errors import BankError
from ia3.inference.loading import predictor_of
from ia3.inference.temperature import fit_temperature, scale
from ia3.names import Kind
from ia3.runs.dataset import SplitTable
from ia3.runs.watch import Say
from ia3.starts.packaged import AUTO, NONE, has_learned, origin_of, seen_note, start_names
from ia3.starts.start import Start, packaged_start_for
from ia3.training.recipes import find_recipe
from ia3.training.settings import Settings, settings_for

MOST_ROWS = 32  # that each start answers
_LEAST = 1e-30  # probability that a logarithm is taken of
# Nats of all rows: the likelihood-ratio test for one number that was fitted, at 5 %, and at 0.1 % for a start of which
# nothing but its answers says that it belongs to the base.
_CLEARLY, _BEYOND_DOUBT = 1.92, 5.41

# What starts have answered so far: by start and text, blanks and case aside, the probability of each label.
Answered = dict[tuple[str, str], dict[str, float]]


def is_named(given: str | Path | None) -> bool:
    """Whether a run was told which adapter it begins with."""
    return given is not None and given not in (AUTO, NONE)


def is_chosen(given: str | Path | None, settings: Settings) -> bool:
    """Whether a run chooses what it begins with: because it was told to, or because its recipe does."""
    return given == AUTO or (given is None and find_recipe(settings.recipe).chooses_start)


def settled_start(
    given: str | Path | None,
    rows: SplitTable,
    base: Base,
    settings: Settings,
    hear: Say,
    tell: Say,
    answered: Answered | None = None,
) -> Start | None:
    """Return the start that a run chooses; None where it chooses none, or none knows its labels.

    Args:
        given: `auto` for one of those that come with the project; None for what the recipe has.
        rows: Of the run; those held out choose nothing.
        base: Of the run.
        settings: Of the run.
        hear: Told which was left out, and that none knows the labels.
        tell: Told which one is taken.
        answered: As for `choose_start`.
    """
    if not is_chosen(given, settings):
        return None
    heard: list[str] = []
    start = choose_start(rows, base, settings.seed, heard.append, answered)
    for sentence in heard:
        hear(sentence)
    if start is not None and start.choice is not None:
        found = next(one for one in start.choice["candidates"] if one["name"] == start.name)
        told = _spell(found, start.choice["rows"])
        tell(f"The start is {start.name!r}, which knows these labels best ({told}). --start none begins with ones.")
    elif given == AUTO and not heard:
        tell("No start that comes with the project is for this base and these labels: the run begins with ones.")
    return start


def begun_settings(kind: Kind, start: Start | None, given: Mapping[str, Any], *, has_start: bool = False) -> Settings:
    """Return the settings of a run by what it begins with.

    Args:
        kind: Kind of the base.
        start: What it begins with; None for ones.
        given: Settings by name.
        has_start: Whether it begins with other numbers than ones all the same, those of a shared stage.
    """
    is_chosen = start is not None and start.choice is not None
    return settings_for(kind, has_start=has_start or start is not None, is_chosen=is_chosen, **given)


def choose_start(rows: SplitTable, base: Base, seed: int, say: Say, answered: Answered | None = None) -> Start | None:
    """Return the start that comes with the project and knows the labels of a table best; None where none does.

    A start that has learned one of the rows is left out: what it says of them says nothing.

    Args:
        rows: Of the run.
        base: Of the run.
        seed: Decides which training rows are answered.
        say: Told which was left out, and that none knows the labels.
        answered: Filled, and used by a further choice on rows of the same table with the same base.
    """
    starts = [start for start in _starts_for(base, rows.labels) if not _has_seen(start, rows, say)]
    if not starts or _has_bank(base):
        return None
    examples = draw_in_turn(rows.train, rows.labels, seed, MOST_ROWS)
    answered = {} if answered is None else answered
    _ask(base, starts, examples, answered)
    told = [_how_well_known(start, examples, rows.labels, answered) for start in starts]
    least = [_least_score(start, examples) for start in starts]
    able = [place for place, one in enumerate(told) if one["score"] > least[place]]
    best = max(able or range(len(starts)), key=lambda place: told[place]["score"])  # of equal ones the first
    if not able:
        say(_none_is_taken(starts[best], _spell(told[best], len(examples))))
        return None
    return replace(starts[best], choice={"rows": len(examples), "least_score": least[best], "candidates": told})


def _least_score(start: Start, examples: Sequence[Example]) -> float:
    clearly = _BEYOND_DOUBT if start.is_of_other_weights else _CLEARLY
    return _score_of_shares(examples) + clearly / len(examples)


def _none_is_taken(best: Start, told: str) -> str:
    if best.is_of_other_weights:
        return (
            f"The start {best.name!r} is of a base with another hash, and these rows leave doubt whether it serves "
            f"here ({told}): the run begins with ones."
        )
    return f"No start that comes with the project knows these labels ({best.name!r}: {told})."


def _spell(found: Mapping[str, Any], rows: int) -> str:
    return (
        f"{100 * found['accuracy']:.0f} % of {rows} training rows right without training, right label "
        f"{found['score']:.3f} nats"
    )


def _starts_for(base: Base, labels: Sequence[str]) -> list[Start]:
    """Return the starts that fit a base and have learned these labels, each for its own weights if it is there so."""
    found = [packaged_start_for(name, base) for name in start_names()]
    return [start for start in found if start is not None and _knows(start, base, labels)]


def _knows(start: Start, base: Base, labels: Sequence[str]) -> bool:
    if base.kind == "encoder":  # its head has one output a label
        return bool(start.adapter.head) and set(start.labels) == set(labels)
    return bool(labels) and set(labels) <= set(start.labels)


def _has_seen(start: Start, rows: SplitTable, say: Say) -> bool:
    """Whether a start has learned one of the rows; then it is said."""
    tables = [table for table in (rows.train, rows.held_out) if table is not None]
    seen = sum(sum(has_learned(start.name, (example.text for example in table.examples))) for table in tables)
    if seen:
        say(f"The start {start.name!r} has learned {seen} of these rows before and is left out. --start takes it.")
    return bool(seen)


def warn_of_seen(start: Start, rows: SplitTable, say: Say, task: str = "") -> None:
    """Say how many of the rows that a run is measured on its start has learned, if it comes with the project."""
    table = rows.train if rows.held_out is None else rows.held_out
    name = origin_of({"start": start.to_json()})
    texts = [example.text for example in table.examples]
    if note := seen_note(name, texts, "rows" if rows.held_out is None else "eval rows"):
        say(f"{task}: {note}" if task else note)


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
    first = predictor_of(waiting[0].adapter, base, waiting[0].name)
    try:
        for start in waiting[1:]:
            put_on(base.model, start.adapter, start.name)
        for start in waiting:
            texts = asked[start.name]
            found = first.beside(start.name).classify(texts)
            answered |= {
                (start.name, normal_text(text)): dict(one.probabilities) for text, one in zip(texts, found, strict=True)
            }
    finally:
        first.attachment.detach()


def _how_well_known(
    start: Start, examples: Sequence[Example], labels: Sequence[str], answered: Answered
) -> dict[str, Any]:
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

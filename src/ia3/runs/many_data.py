"""The tables of several tasks: read, checked and encoded, and their faults told at once.

This file knows tables and bases; it knows nothing of training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from ia3.bases.loading import Base
from ia3.errors import IA3Error
from ia3.names import Kind
from ia3.runs.dataset import Dataset, Rows, check_answers, hold_out, read_rows
from ia3.runs.start import Start
from ia3.runs.task_specs import TaskSpec, raise_faults
from ia3.runs.training_run import check_weights
from ia3.runs.watch import Say
from ia3.runs.wording import encode_worded, read_words, settled_words
from ia3.training.recipes import find_recipe
from ia3.training.settings import Settings


def read_all(
    specs: Sequence[TaskSpec], settings: Sequence[Settings], kind: Kind, *, skip_bad_rows: bool, drop_duplicates: bool
) -> list[Rows]:
    """Return the rows of each task, none held out yet; the faults of all tables are told at once."""

    def read(number: int) -> Rows:
        spec, own = specs[number], settings[number]
        rows = read_rows(
            spec.table,
            eval_source=spec.eval,
            eval_fraction=None,
            text=spec.text,
            label=spec.label,
            choices=spec.choices,
            answers=spec.answers or "auto",  # type: ignore[arg-type]
            kind=kind,
            labels=spec.labels,
            skip_bad_rows=skip_bad_rows,
            drop_duplicates=drop_duplicates,
        )
        check_answers(rows, kind)
        check_weights(rows, own)
        return rows

    return _all("Reading the tables of the tasks", specs, read)


def hold_out_all(specs: Sequence[TaskSpec], settings: Sequence[Settings], rows: Sequence[Rows]) -> list[Rows]:
    """Return the rows of each task with its share held out; all faults are told at once."""

    def split(number: int) -> Rows:
        own, share = settings[number], specs[number].eval_fraction
        return hold_out(rows[number], find_recipe(own.recipe).eval_fraction if share is None else share, own.seed)

    return _all("Splitting the tables of the tasks", specs, split)


def encode_all(
    specs: Sequence[TaskSpec],
    settings: Sequence[Settings],
    rows: Sequence[Rows],
    base: Base,
    say: Say,
    starts: Sequence[Start | None],
) -> list[Dataset]:
    """Return the token ids of each task; the faults of all tasks are told at once.

    Args:
        specs: The tasks.
        settings: Of each.
        rows: Of each.
        base: The base.
        say: Told what is decided.
        starts: What each begins with, whose words are taken where a task has none.
    """
    seen: dict[str, tuple[int, ...]] = {}  # tasks of one table have the same texts

    def encode(number: int) -> Dataset:
        spec = specs[number]
        named = partial(_say_named, say, spec.name)
        notes: list[str] = []  # told with the others, once where they are all tasks'
        own = settings[number]
        words = settled_words(read_words(spec.template), starts[number], rows[number], base, own, notes.append)
        dataset = encode_worded(rows[number], base, own, words, spec.max_length, named, seen)
        return replace(dataset, notes=(*notes, *dataset.notes))

    return _all("Encoding the tables of the tasks", specs, encode)


def _say_named(say: Say, name: str, sentence: str) -> None:
    say(f"{name}: {sentence}")


def _all(doing: str, specs: Sequence[TaskSpec], make: Callable[[int], Any]) -> list[Any]:
    """Return what is made for each task; the faults of all tasks are told at once."""
    made, faults = [], []
    for number, spec in enumerate(specs):
        try:
            made.append(make(number))
        except IA3Error as error:
            faults.append((spec, error))
    if len(specs) == 1 and faults:
        raise faults[0][1]
    raise_faults(doing, [f"{spec.origin or 'task'} ({spec.name}): {error}".removesuffix(".") for spec, error in faults])
    return made


def tell_tasks(specs: Sequence[TaskSpec], datasets: Sequence[Dataset], say: Say) -> None:
    """Say what each task has, and what was decided for the user."""
    every = [dict.fromkeys((*dataset.rows.notes, *dataset.notes)) for dataset in datasets]
    common = [note for note in every[0] if all(note in notes for notes in every)] if len(every) > 1 else []
    for note in common:
        say(note)
    for spec, dataset, notes in zip(specs, datasets, every, strict=True):
        labels = dataset.encoding.labels
        own = dataset.encoding.choices_column is not None
        what = f"{len(labels)} labels" if labels else "choices of each row" if own else "free text"
        say(f"{spec.name}: {len(dataset.train)} rows to train on, {len(dataset.held_out)} held out, {what}")
        for note in notes:
            if note not in common and "The answers are" not in note and "held out for evaluation" not in note:
                say(f"{spec.name}: {note}")

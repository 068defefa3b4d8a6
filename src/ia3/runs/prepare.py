"""From what was asked for to tasks on a base: read, checked and given a recipe; then the base; then token ids.

Every check that needs no base is made before it is loaded, and the faults of all tasks are told at once. This file
brings rooms together; which tasks a run has, and which rows of a table are whose, its plan knows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from ia3.bases.loading import Base
from ia3.errors import IA3Error, SettingsError
from ia3.inference.template_search import Known
from ia3.names import Kind
from ia3.runs.dataset import Dataset, SplitTable, check_answers, data_name, hold_out, read_rows
from ia3.runs.drafts import Draft, rows_left
from ia3.runs.few_rows import recipe_taken
from ia3.runs.label_texts import label_rows
from ia3.runs.request import Request
from ia3.runs.run import ADAPTER
from ia3.runs.run_base import in_order_of, kind_of_base, load_for, settled
from ia3.runs.saving import RunTask
from ia3.runs.start_choice import Answered, begun_settings, is_named, settled_start, warn_of_seen
from ia3.runs.task_specs import TaskSpec, raise_faults
from ia3.runs.watch import Say
from ia3.runs.wording import encode_worded, settled_words
from ia3.starts.start import Start, read_starts
from ia3.training.settings import Settings, settings_for


def read_drafts(
    request: Request,
    specs: Sequence[TaskSpec],
    *,
    learned: Callable[[Draft], int] | None = None,
    follows_shared: bool = False,
) -> tuple[Kind, list[Draft]]:
    """Return the kind of the base, and the tasks with their rows and the recipe that they take; none are held out yet.

    Args:
        request: What was asked for.
        specs: The tasks.
        learned: How many rows a task learns from; None for all but the share that is held out.
        follows_shared: Whether every task begins with the numbers of a shared stage.

    Raises:
        IA3Error: For templates, starts and settings that are none, and for bad rows, of all tables at once.
    """
    filled = [request.filled(spec) for spec in specs]
    read_starts([_named(spec) for spec in filled])  # before the base, which takes longer
    kind = kind_of_base(request.base, request.placement, request.say)
    given = [{**request.settings, **spec.settings} for spec in filled]
    begins = [_named(spec) is not None or follows_shared for spec in filled]
    for own, has_start in zip(given, begins, strict=True):
        settings_for(kind, has_start=has_start, **own)

    def read(number: int) -> Draft:
        draft = Draft(filled[number], _read(request, filled[number], kind), given[number], 0, begins[number])
        check_weights(draft.rows, draft.settings(kind))
        count = rows_left(draft.rows, draft.spec.eval_fraction) if learned is None else learned(draft)
        return replace(draft, count=count)

    drafts = _each("Reading the tables of the tasks", filled, read)
    taken = recipe_taken(drafts, request.base, kind, request.say)
    return kind, [draft.part(draft.rows, **taken) for draft in drafts]


def hold_out_all(drafts: Sequence[Draft], kind: Kind) -> list[Draft]:
    """Return tasks with their shares of rows held out, by their own seeds; all faults are told at once."""

    def split(number: int) -> Draft:
        draft, share = drafts[number], drafts[number].spec.eval_fraction
        fraction = draft.recipe.eval_fraction if share is None else share
        return draft.part(hold_out(draft.rows, fraction, draft.settings(kind).seed))

    return _each("Splitting the tables of the tasks", [draft.spec for draft in drafts], split)


def make_tasks(
    request: Request,
    kind: Kind,
    drafts: Sequence[Draft],
    *,
    whole: Draft | None = None,
    folder_of: Callable[[str], Path | None] = lambda name: None,
    has_own_heads: bool = False,
) -> tuple[Base, list[RunTask]]:
    """Load the base, settle what each task begins with and in which words, and return both.

    Args:
        request: What was asked for.
        kind: Of the base.
        drafts: The tasks, with the rows that each learns from and is measured on.
        whole: The table that all are cuts of; then what holds for one alone is not said.
        folder_of: Where the adapter of a task goes whenever it is the best so far, by its name.
        has_own_heads: Whether a task may have other labels than the head of a loaded encoder.

    Raises:
        IA3Error: If the base cannot be loaded or does not fit, a start is of another one, or words do not fit a table.
    """
    base = load_for(
        request.base, kind, [one.rows for one in drafts], request.placement, [one.settings(kind) for one in drafts],
        request.say,
    )  # fmt: skip
    rows = {id(one.rows): in_order_of(base, one.rows, is_strict=not has_own_heads) for one in drafts}
    ready = _Ready(request, base, whole)
    named = read_starts([_named(one.spec) for one in drafts], base)
    for one, start in [*zip(drafts, named, strict=True)][: 1 if whole else None]:
        if start is not None:
            warn_of_seen(start, (whole or one).rows, request.say, "" if whole else one.name)

    def make(number: int) -> RunTask:
        draft = drafts[number]
        begun = ready.begun(draft, rows[id(draft.rows)], named[number])
        own = settled(begun_settings(kind, begun.start, draft.given, has_start=draft.has_start), base)
        spec = draft.spec if whole is None else whole.spec
        return RunTask(
            draft.name,
            draft.name or ADAPTER,
            folder_of(draft.name),
            begun.dataset,
            own,
            data_name(spec.table, spec.name),
            None if spec.eval is None else data_name(spec.eval, spec.name),
            start=begun.start,
            heard=begun.heard,
        )

    if whole is not None:  # what is wrong with one is wrong with all
        return base, [make(number) for number in range(len(drafts))]
    return base, _each("Encoding the tables of the tasks", [draft.spec for draft in drafts], make)


def check_weights(rows: SplitTable, settings: Settings) -> None:
    """Raise a SettingsError if labels are to be weighed and there are none."""
    if settings.class_weights and not rows.labels:
        raise SettingsError(
            "Checking the settings: class_weights is on and the answers are free text, expected a closed set of "
            "labels. Leave --class-weights out, or give --answers labels."
        )


@dataclass(frozen=True)
class _Begun:
    """Rows in their words, what a task on them begins with, and what was said of both."""

    dataset: Dataset
    start: Start | None
    heard: tuple[str, ...]


@dataclass(frozen=True)
class _Ready:
    """A base that tasks are made on, and what the first of them have found out for the others."""

    request: Request
    base: Base
    whole: Draft | None
    seen: dict[str, tuple[int, ...]] = field(default_factory=dict)  # tasks of one table have the same texts
    known: Known = field(default_factory=dict)  # of searches on cuts of one table, which have one ranking
    answered: Answered = field(default_factory=dict)  # by starts
    made: dict[int, _Begun] = field(default_factory=dict)  # by the rows, which tasks may share

    def begun(self, draft: Draft, rows: SplitTable, named: Start | None) -> _Begun:
        """Return the rows of a task in their words, and its start."""
        if id(rows) not in self.made:
            self.made[id(rows)] = self._begin(draft, rows, named)
        return self.made[id(rows)]

    def _begin(self, draft: Draft, rows: SplitTable, named: Start | None) -> _Begun:
        base, kind, spec = self.base, self.base.kind, draft.spec
        heard: list[str] = []
        hear, tell, search = self._voices(draft, heard)
        asked = settled(draft.settings(kind), base)
        start = named
        if start is None:
            start = settled_start(spec.start, rows, base, asked, hear, tell, self.answered)
        own = settled(begun_settings(kind, start, draft.given, has_start=draft.has_start), base)
        words = settled_words(spec.template or (), start, rows, base, own, hear, tell)
        # a search on one task's rows owes nothing to another's: its numbers would hang on who was asked before
        known = None if self.whole is None else self.known
        seen = self.seen if self.whole is None else None
        dataset = encode_worded(rows, base, own, words, spec.max_length, search, seen, known)
        if own.label_texts and kind == "encoder":
            texts = label_rows(dataset.encoding, len(dataset.train))
            dataset = replace(dataset, train=(*dataset.train, *texts))
        if draft.name and self.whole is None:  # told with the others, once where they are all tasks'
            dataset = replace(dataset, notes=(*heard, *dataset.notes))
        return _Begun(dataset, start, tuple(heard))

    def _voices(self, draft: Draft, heard: list[str]) -> tuple[Say, Say, Say]:
        """Return who hears what a choice found, what one task takes, and that a search is under way."""
        say = self.request.say
        if not draft.name:
            return say, say, say
        if self.whole is not None and draft.rows is self.whole.rows:  # all have the same, and say it once
            return heard.append, heard.append, say
        if self.whole is not None:
            return heard.append, _silent, _silent
        return heard.append, heard.append, partial(_say_named, say, draft.name)


def _read(request: Request, spec: TaskSpec, kind: Kind) -> SplitTable:
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
        skip_bad_rows=request.skip_bad_rows,
        drop_duplicates=request.drop_duplicates,
        delimiter=request.delimiter,
        quotes=request.quotes,
    )
    check_answers(rows, kind)
    return rows


def _named(spec: TaskSpec) -> str | Path | None:
    return spec.start if is_named(spec.start) else None


def _silent(sentence: str) -> None:
    """Take a sentence that is the same for every cut."""


def _say_named(say: Say, name: str, sentence: str) -> None:
    say(f"{name}: {sentence}")


def _each(doing: str, specs: Sequence[TaskSpec], make: Callable[[int], Any]) -> list[Any]:
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

"""One table cut in several ways and a base loaded once: what repeated and cross-validated training have in common.

Each cut is a row of the same bank. Nothing is held out while they train, so that the rows they are measured on choose
nothing. This file brings rooms together; what the cuts are, `repeat` and `folds` know.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ia3.bases.kinds import Kind
from ia3.bases.loading import Base
from ia3.data.examples import Table
from ia3.data.template_sets import AUTO, TemplateLike
from ia3.inference.template_search import Known
from ia3.runs.dataset import Answers, Dataset, Rows, check_answers, read_rows
from ia3.runs.few_rows import Planned, recipe_taken
from ia3.runs.run_base import Placement, in_order_of, load_for, settled
from ia3.runs.start import Start
from ia3.runs.training_run import check_weights
from ia3.runs.watch import Say
from ia3.runs.wording import Words, encode_worded, read_words, settled_words
from ia3.training.settings import Settings, settings_for

_WORDS = ("text", "label", "choices", "template", "answers", "max_length", "skip_bad_rows", "drop_duplicates")


@dataclass(frozen=True)
class Whole:
    """A table before it is cut, and the base.

    Attributes:
        base: The base.
        rows: All rows; `held_out` is the eval table, None without one.
        words: Around text and label; `auto` has each cut search them on the rows that it learns from.
        max_length: Most tokens of an example; None for what the base reads.
        settings: Of all runs.
        known: What searches on other cuts have found out of the base.
    """

    base: Base
    rows: Rows
    words: Words
    max_length: int | None
    settings: Settings
    known: Known = field(default_factory=dict)

    @property
    def is_closed(self) -> bool:
        """Whether an answer is one of some choices: those of the table, or of its row."""
        return bool(self.rows.labels) or self.rows.train.choices_column is not None

    def encode(self, train: Table, measured: Table | None, settings: Settings | None = None) -> Dataset:
        """Return a cut as token ids: the rows it learns from, and the rows it is measured on.

        Args:
            train: The former.
            measured: The latter.
            settings: Of its run; None for those of all.
        """
        rows, own = Rows(train, measured, self.rows.labels, ()), settings or self.settings
        return encode_worded(rows, self.base, own, self.words, self.max_length, _silent, known=self.known)


def worded_by(whole: Whole, start: Start | None, say: Say) -> Whole:
    """Return a table with the words of its runs, where none were given."""
    whole = replace(whole, words=settled_words(whole.words, start, whole.rows, whole.base, whole.settings, say))
    if whole.words == AUTO:
        say("Each run searches its template on the rows that it learns from.")
    return whole


def _silent(sentence: str) -> None:
    """Take a sentence that is the same for every cut."""


def split_options(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what says which rows are read and how they are worded, and the rest, which are settings."""
    words = {name: value for name, value in options.items() if name in _WORDS}
    return words, {name: value for name, value in options.items() if name not in _WORDS}


def read_whole(
    source: Any,
    base: str | Path | Base,
    kind: Kind,
    given: Mapping[str, Any],
    placement: Placement,
    say: Say,
    *,
    has_start: bool = False,
    learned: Callable[[Rows], int] = lambda rows: len(rows.train.examples),
    eval_source: Any = None,
    text: str | None = None,
    label: str | None = None,
    choices: str | None = None,
    template: TemplateLike | Sequence[TemplateLike] | None = None,
    answers: Answers = "auto",
    max_length: int | None = None,
    skip_bad_rows: bool = False,
    drop_duplicates: bool = False,
) -> Whole:
    """Read a table, with the options of `train_adapter`, and load the base; what was decided is said.

    Args:
        source: The table.
        base: The base.
        kind: Its kind.
        given: Settings by name.
        placement: Where the base is put.
        say: Told what was decided.
        has_start: Whether the runs begin with an adapter in place of ones.
        learned: How many rows a run learns from.
        eval_source: As for `train_adapter`, like what follows.
        text: Text column.
        label: Label column.
        choices: Column with each row's own choices.
        template: Words around text and label.
        answers: Whether the labels are a closed set.
        max_length: Most tokens of an example.
        skip_bad_rows: Leave bad rows out.
        drop_duplicates: Leave eval rows out whose text is trained on.
    """
    words = read_words(template)
    settings = settings_for(kind, has_start=has_start, **given)
    rows = read_rows(
        source,
        eval_source=eval_source,
        eval_fraction=None,
        text=text,
        label=label,
        choices=choices,
        answers=answers,
        kind=kind,
        skip_bad_rows=skip_bad_rows,
        drop_duplicates=drop_duplicates,
    )
    check_answers(rows, kind)
    check_weights(rows, settings)
    taken = recipe_taken([Planned(rows, given, learned(rows), has_start)], base, kind, say)
    settings = settings_for(kind, has_start=has_start, **{**given, **taken})
    loaded = load_for(base, kind, [rows], placement, [settings], say)
    rows = in_order_of(loaded, rows)
    for note in rows.notes:
        say(note)
    return Whole(loaded, rows, words, max_length, settled(settings, loaded))


def training_part(dataset: Dataset) -> Dataset:
    """Return a cut as it is trained: no row is looked at to choose an epoch; which rows measure it stays recorded."""
    return replace(dataset, held_out=())


def say_cut(datasets: Sequence[Dataset], say: Say) -> None:
    """Say once what the texts of all cuts have in common, such as that some are cut short."""
    for note in dict.fromkeys(note for dataset in datasets for note in dataset.notes):
        say(note)

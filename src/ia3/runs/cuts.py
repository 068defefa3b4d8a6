"""One table cut in several ways and a base loaded once: what repeated and cross-validated training have in common.

Each cut is a row of the same bank. Nothing is held out while they train, so that the rows they are measured on choose
nothing. This file brings rooms together; what the cuts are, `repeat` and `folds` know.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ia3.bases.loading import Base
from ia3.data.examples import Table
from ia3.data.template_sets import TemplateLike
from ia3.inference.template_search import Known
from ia3.names import Kind
from ia3.runs.dataset import Answers, Dataset, Rows, check_answers, read_rows
from ia3.runs.few_rows import Planned, recipe_taken
from ia3.runs.run_base import Placement, in_order_of, load_for, settled
from ia3.runs.start import Start
from ia3.runs.start_choice import Answered, begun_settings, choose_start, is_chosen, is_named, settled_start
from ia3.runs.training_run import check_weights
from ia3.runs.watch import Say
from ia3.runs.wording import Words, encode_worded, read_words, settled_words
from ia3.starts.packaged import AUTO
from ia3.training.settings import Settings, settings_for

_WORDS = (
    "text", "label", "choices", "template", "answers", "max_length", "skip_bad_rows", "drop_duplicates", "delimiter",
    "quotes",
)  # fmt: skip


@dataclass(frozen=True)
class Whole:
    """A table before it is cut, and the base.

    Attributes:
        base: The base.
        rows: All rows; `held_out` is the eval table, None without one.
        words: Around text and label, as they were given; `auto` has each cut search them on the rows it learns from.
        max_length: Most tokens of an example; None for what the base reads.
        given: Settings of all runs by name, as they were given and with the recipe that was taken.
        start: What all runs begin with; None for ones, or where each cut chooses.
        asked_start: What `start` was given as; where nothing is named, each cut may choose on the rows it learns from.
        known: What searches on other cuts have found out of the base.
        answered: What starts have answered to the rows of other cuts.
    """

    base: Base
    rows: Rows
    words: Words
    max_length: int | None
    given: Mapping[str, Any]
    start: Start | None = None
    asked_start: str | Path | None = None
    known: Known = field(default_factory=dict)
    answered: Answered = field(default_factory=dict)

    @property
    def is_closed(self) -> bool:
        """Whether an answer is one of some choices: those of the table, or of its row."""
        return bool(self.rows.labels) or self.rows.train.choices_column is not None

    @property
    def settings(self) -> Settings:
        """Settings of all runs; of one that chooses a start as if it had found none."""
        return self._settings(self.start)

    def cut(self, train: Table, measured: Table | None, seed: int | None = None) -> Cut:
        """Return a run: the rows it learns from and those it is measured on as token ids, its settings and its start.

        Args:
            train: The former.
            measured: The latter.
            seed: Of the run; None for that of all.
        """
        rows = Rows(train, measured, self.rows.labels, ())
        own = self.settings if seed is None else replace(self.settings, seed=seed)
        start, notes = self.start, list[str]()
        if is_chosen(self.asked_start, own):
            start = choose_start(rows, self.base, own.seed, notes.append, self.answered)
            own = replace(self._settings(start), seed=own.seed)
        words = settled_words(self.words, start, rows, self.base, own, _silent)
        dataset = encode_worded(rows, self.base, own, words, self.max_length, _silent, known=self.known)
        return Cut(dataset, own, start, tuple(notes))

    def _settings(self, start: Start | None) -> Settings:
        return settled(begun_settings(self.base.kind, start, self.given), self.base)


@dataclass(frozen=True)
class Cut:
    """One of the runs on a table.

    Attributes:
        dataset: The rows it learns from and those it is measured on.
        settings: Its settings.
        start: What it begins with; None for ones.
        notes: What was said while it was chosen.
    """

    dataset: Dataset
    settings: Settings
    start: Start | None
    notes: tuple[str, ...] = ()


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
    start: str | Path | None = None,
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
    delimiter: str | None = None,
    quotes: bool | None = None,
) -> Whole:
    """Read a table, with the options of `train_adapter`, and load the base; what was decided is said.

    Args:
        source: The table.
        base: The base.
        kind: Its kind.
        given: Settings by name.
        placement: Where the base is put.
        say: Told what was decided.
        start: As for `settled_start`.
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
        delimiter: What stands between the values of CSV and TSV files; by default that of their suffix.
        quotes: Whether `"` stands around values there; False takes quotes as characters and every line as a row.
    """
    words = read_words(template)
    has_start = is_named(start)
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
        delimiter=delimiter,
        quotes=quotes,
    )
    check_answers(rows, kind)
    check_weights(rows, settings)
    taken = recipe_taken([Planned(rows, given, learned(rows), has_start)], base, kind, say)
    given = {**given, **taken}
    settings = settings_for(kind, has_start=has_start, **given)
    loaded = load_for(base, kind, [rows], placement, [settings], say)
    rows = in_order_of(loaded, rows)
    for note in rows.notes:
        say(note)
    begun = settled_start(start, rows, loaded, settings, say) if has_start else None
    return Whole(loaded, rows, words, max_length, given, begun, start)


def training_part(dataset: Dataset) -> Dataset:
    """Return a cut as it is trained: no row is looked at to choose an epoch; which rows measure it stays recorded."""
    return replace(dataset, held_out=())


def say_cuts(whole: Whole, cuts: Sequence[Cut], say: Say) -> None:
    """Say once what all cuts have in common: what they begin with, their words, and that some texts are cut short.

    Args:
        whole: The table.
        cuts: Of it.
        say: Told.
    """
    notes = [*dict.fromkeys(note for cut in cuts for note in cut.notes)]
    for note in notes:
        say(note)
    begun = next((cut.start for cut in cuts if cut.start is not None), None)
    if not is_named(whole.asked_start) and (begun or notes or whole.asked_start == AUTO):
        names = Counter("ones" if cut.start is None else repr(cut.start.name) for cut in cuts)
        told = ", ".join(f"{name} ({count} of {len(cuts)})" for name, count in names.most_common())
        say(f"Each run chooses its start on the rows that it learns from: {told}. --start none begins with ones.")
    searched = sum(cut.dataset.search is not None for cut in cuts)
    if searched:
        each = "Each run searches" if searched == len(cuts) else f"{searched} of {len(cuts)} runs search"
        say(f"{each} its template on the rows that it learns from.")
    if not whole.words and begun is not None:
        settled_words((), begun, whole.rows, whole.base, whole.settings, say)
    for note in dict.fromkeys(note for cut in cuts for note in cut.dataset.notes):
        say(note)

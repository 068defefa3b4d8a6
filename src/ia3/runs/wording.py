"""The words around the rows of a run: the templates that were given, those of its start, or one that is searched.

This file brings the search and the encoding together; what they are is their own matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ia3.bases.loading import Base
from ia3.data.examples import quote
from ia3.data.template_sets import AUTO, TemplateLike, is_auto, templates_of
from ia3.data.templates import Template, check_template
from ia3.errors import TemplateError
from ia3.inference.recorded import Recorded
from ia3.inference.template_search import Known, search_template
from ia3.runs.dataset import Dataset, SplitTable, encode_rows
from ia3.runs.watch import Say
from ia3.starts.start import Start
from ia3.training.recipes import find_recipe
from ia3.training.settings import Settings
from ia3.training.t_few import ranking_for

Words = str | tuple[Template, ...]  # `auto`, or templates; without any those of the kind of base


def read_words(given: TemplateLike | Sequence[TemplateLike] | None) -> Words:
    """Return templates as they are meant, or `auto`.

    Raises:
        TemplateError: If one is broken, two are the same, or `auto` stands beside others.
    """
    return AUTO if is_auto(given) else templates_of(given)


def settled_words(
    words: Words, start: Start | None, rows: SplitTable, base: Base, settings: Settings, hear: Say, tell: Say
) -> Words:
    """Return the words of a run: those given, else those of its start, else as its recipe has it, a searched template.

    Args:
        words: As `read_words` returns them.
        start: What the run begins with; None for ones.
        rows: Of the run.
        base: Of the run.
        settings: Of the run.
        hear: Told what was taken of the start, or why nothing was.
        tell: Told that the recipe searches one.

    Raises:
        AdapterError: If the start's record cannot be read.
    """
    words = words or words_of_start(start, rows, base, hear)
    if words or base.kind == "encoder" or not rows.labels or not find_recipe(settings.recipe).searches_template:
        return words
    tell(f"No template is given, and --recipe {settings.recipe} searches one. --template has the last word.")
    return AUTO


def words_of_start(start: Start | None, rows: SplitTable, base: Base, say: Say) -> tuple[Template, ...]:
    """Return the templates that a start learned with, for a run that was given none: its vectors know these words.

    They are taken for a language model whose labels are among the start's, where the table has the columns that they
    show; else there are none.

    Args:
        start: What the run begins with; None for ones.
        rows: Of the run.
        base: Of the run.
        say: Told what was taken, or why nothing was.

    Raises:
        AdapterError: If the start's record cannot be read.
    """
    if start is None or base.kind == "encoder" or not rows.labels or not set(rows.labels) <= set(start.labels):
        return ()
    known = Recorded.read(f"Starting from {start.given}", start.adapter.record)
    if known.template is None:
        return ()
    table, words = rows.train, (known.template, *known.others)
    try:
        for one in words:
            check_template(
                one, table.columns, text_column=table.text_column, label_column=table.label_column, is_closed=True
            )
    except TemplateError as error:
        say(f"The words that the start learned with do not fit this table and are left out: {error}")
        return ()
    others = f" and {len(known.others)} more" if known.others else ""
    say(f"The words are those of the start: {quote(known.template.prompt)}{others}. --template has the last word.")
    return words


def encode_worded(
    rows: SplitTable,
    base: Base,
    settings: Settings,
    words: Words,
    max_length: int | None,
    say: Say,
    seen: dict[str, tuple[int, ...]] | None = None,
    known: Known | None = None,
) -> Dataset:
    """Return rows as token ids of a base, in the words given, or in those that are searched on the training rows.

    Args:
        rows: The rows.
        base: The base.
        settings: Their losses say what a search compares labels by, their seed which rows it reads.
        words: As `read_words` returns them.
        max_length: Most tokens of an example; None for the base's own limit.
        say: Told that a template is searched.
        seen: As for `encode_rows`.
        known: As for `search_template`.

    Raises:
        TemplateError: If a template does not fit the table.
        SettingsError: If `max_length` is above the base's limit, or nothing can be searched for such a base or rows.
    """
    search = None
    if words == AUTO:
        ranking = ranking_for(settings.losses, base.kind)
        search = search_template(base, rows.train, rows.labels, ranking, settings.seed, say, known)
        words = (search.template,)
    options: dict[str, Any] = {"template": words, "max_length": max_length, "seen": seen}
    dataset = encode_rows(rows, base.tokenizer, base.limits, base.kind, **options)
    return dataset if search is None else replace(dataset, search=search, notes=(*dataset.notes, *search.notes()))

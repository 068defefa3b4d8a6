"""The words around the rows of a run: the templates that were given, or the one that its base understands best.

This file brings the search and the encoding together; what they are is their own matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ia3.bases.loading import Base
from ia3.data.template_sets import AUTO, TemplateLike, is_auto, templates_of
from ia3.data.templates import Template
from ia3.inference.template_search import search_template
from ia3.runs.dataset import Dataset, Rows, encode_rows
from ia3.runs.watch import Say
from ia3.training.settings import Settings
from ia3.training.t_few import ranking_for

Words = str | tuple[Template, ...]  # `auto`, or templates; without any those of the kind of base


def read_words(given: TemplateLike | Sequence[TemplateLike] | None) -> Words:
    """Return templates as they are meant, or `auto`.

    Raises:
        TemplateError: If one is broken, two are the same, or `auto` stands beside others.
    """
    return AUTO if is_auto(given) else templates_of(given)


def encode_worded(
    rows: Rows,
    base: Base,
    settings: Settings,
    words: Words,
    max_length: int | None,
    say: Say,
    seen: dict[str, tuple[int, ...]] | None = None,
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

    Raises:
        TemplateError: If a template does not fit the table.
        SettingsError: If `max_length` is above the base's limit, or nothing can be searched for such a base or rows.
    """
    search = None
    if words == AUTO:
        ranking = ranking_for(settings.losses, base.kind)
        search = search_template(base, rows.train, rows.labels, ranking, settings.seed, say)
        words = (search.template,)
    tokenizer, config = base.tokenizer, base.model.config
    dataset = encode_rows(rows, tokenizer, config, base.kind, template=words, max_length=max_length, seen=seen)
    return dataset if search is None else replace(dataset, search=search, notes=(*dataset.notes, *search.notes()))

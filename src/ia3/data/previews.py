"""What a template makes of a table before anything is trained: its placeholders beside the columns, and rows in words.

This file knows strings and tables; it knows nothing of tokens or models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ia3.data.examples import Example, Table
from ia3.data.templates import Template, check_template, placeholders, prompt_of
from ia3.errors import TemplateError
from ia3.names import Kind


def check_against(template: Template, table: Table, *, is_closed: bool) -> Fit:
    """Return how the placeholders of a template and the columns of a table fit each other, both ways.

    Args:
        template: The template.
        table: The table.
        is_closed: Whether its labels are a closed set.

    Example:
        >>> from ia3.data.tables import read_table
        >>> table = read_table([{"text": "Profit rose.", "source": "mail", "label": "up"}])
        >>> check_against(Template("{{ text }}"), table, is_closed=True).unused
        ('source',)
    """
    in_prompt, in_target = placeholders(template.prompt), placeholders(template.target)
    text, label = table.text_column, table.label_column
    meant = {"text": text, "label": label}
    used = {meant.get(name) or name for name in in_prompt | in_target}
    fault = ""
    try:
        check_template(template, table.columns, text_column=text, label_column=label, is_closed=is_closed)
    except TemplateError as error:
        fault = str(error).removeprefix("Checking the template: ")
    known = {*table.columns, *meant}
    return Fit(
        tuple(column for column in table.columns if column in used),
        tuple(column for column in table.columns if column not in {*used, label}),
        tuple(sorted((in_prompt | in_target) - known)),
        fault,
    )


def preview_rows(template: Template, table: Table, labels: Sequence[str], kind: Kind, count: int) -> list[Preview]:
    """Return the first rows of a table as words.

    Args:
        template: The template.
        table: The table.
        labels: The closed label set, whose answers stand behind each prompt; empty for free text.
        kind: An encoder has no answers in words; a causal base's begin with a blank.
        count: How many rows.

    Raises:
        TemplateError: If the template fails on a row.
    """
    found = []
    for example in table.examples[:count]:
        asked = labels or ([] if example.label is None else [example.label])
        answers = [] if kind == "encoder" else [_answer(template, table, example, label, kind) for label in asked]
        right = None
        if kind != "encoder" and example.label is not None:
            right = _answer(template, table, example, example.label, kind)
        found.append(Preview(str(example.origin), prompt_of(template, example, table.text_column), answers, right))
    return found


def _answer(template: Template, table: Table, example: Example, label: str, kind: Kind) -> str:
    own = {} if table.label_column is None else {table.label_column: label}
    return (" " if kind == "causal" else "") + template.render_target(label, {**example.fields, **own})


@dataclass(frozen=True)
class Fit:
    """How a template and a table fit."""

    used: tuple[str, ...]  # columns that it shows or answers with
    unused: tuple[str, ...]  # columns that it does not
    missing: tuple[str, ...]  # placeholders that are no columns
    fault: str  # all that keeps it from being used on the table, in words; "" if nothing does


@dataclass(frozen=True)
class Preview:
    """One row in words."""

    origin: str  # file and line
    prompt: str
    answers: Sequence[str]  # of every label, or the row's own; empty for encoders
    right: str | None  # the row's own; None without a label, and for encoders

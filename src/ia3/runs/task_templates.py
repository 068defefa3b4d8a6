"""The templates that a task asks for: its `template`, and behind it those of `templates`, a list or the name of a file.

Names of files begin at the task file's folder. This file knows plain values; it knows nothing of tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ia3.data.template_sets import AUTO, listed_templates, read_templates, templates_of
from ia3.data.templates import Template
from ia3.errors import TemplateError
from ia3.runs.wording import Words


def templates_in(values: Mapping[str, Any], folder: Path | None = None) -> Words:
    """Return the templates of a task or `auto`, none if it leaves them to the run.

    Args:
        values: Of the task; other keys than `template` and `templates` do not count.
        folder: Where names of files begin; None for the current one.

    Raises:
        TemplateError: If one is no template, or two are the same.

    Example:
        >>> [one.prompt for one in templates_in({"template": "{{ text }}:", "templates": ["News: {{ text }}"]})]
        ['{{ text }}:', 'News: {{ text }}']
    """
    given, further = values.get("template"), _further(values.get("templates"), folder)
    if given in (AUTO, [AUTO]) and not further:
        return AUTO
    own = _own(given, folder)
    return templates_of([*own, *further]) if own and further else own or further


def template_faults(values: Mapping[str, Any], folder: Path | None = None) -> list[tuple[str, str]]:
    """Return what is wrong with the templates of a task: the key, and a sentence without its full stop."""
    apart = [{key: values[key]} for key in ("template", "templates") if key in values]
    faults = [(key, what) for one in apart for key in one if (what := _fault(one, folder))]
    if not faults and (what := _fault(values, folder)):  # two are the same
        faults = [("templates", what)]
    return faults


def _fault(values: Mapping[str, Any], folder: Path | None) -> str:
    try:
        templates_in(values, folder)
    except TemplateError as error:
        return str(error).removesuffix(".")
    return ""


def _own(given: Any, folder: Path | None) -> tuple[Template, ...]:
    if given is None:
        return ()
    several = [given] if isinstance(given, Template | str) else given
    if not isinstance(several, Sequence) or not all(isinstance(one, Template | str) for one in several):
        raise TemplateError(f"template is {given!r}, expected text.")
    return templates_of([_placed(one, folder) if isinstance(one, str) else one for one in several])


def _further(given: Any, folder: Path | None) -> tuple[Template, ...]:
    if given is None:
        return ()
    if isinstance(given, str | Path):
        return read_templates(given if folder is None else folder / Path(given).expanduser())
    if not isinstance(given, Sequence) or not given:
        raise TemplateError(f"templates is {given!r}, expected a list of templates, or the name of a file of one.")
    return listed_templates(given, "templates")


def _placed(template: str, folder: Path | None) -> str:
    """Return a template as it stands, or where its file lies."""
    is_words = "{{" in template or "{%" in template or template == AUTO
    return template if is_words or folder is None else str(folder / Path(template).expanduser())

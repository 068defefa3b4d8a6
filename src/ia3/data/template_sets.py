r"""Several templates for one task: given one by one, or as a file of them.

A file is YAML or JSON: a list, or one under `templates:`. Each is a text as on the command line, or its two parts:

    - "{{ text }}\nSentiment: ||| {{ label }}"
    - prompt: "News: {{ text }} It is"
      target: "{{ label }} news"

This file knows strings and files; it knows nothing of tokens or models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ia3.data.examples import quote
from ia3.data.templates import Template, parse_template
from ia3.errors import TemplateError, near_matches

TemplateLike = Template | str
AUTO = "auto"
_PARTS = ("prompt", "target")


def is_auto(given: TemplateLike | Sequence[TemplateLike] | None) -> bool:
    """Whether a template is to be searched."""
    return given == AUTO or (not isinstance(given, Template | str | None) and list(given) == [AUTO])


def templates_of(given: TemplateLike | Sequence[TemplateLike] | None) -> tuple[Template, ...]:
    """Return one or several templates as they are meant; none for None.

    Args:
        given: A template, a text that `parse_template` reads, or several of these.

    Raises:
        TemplateError: If a text is broken, or two of the templates are the same.

    Example:
        >>> [template.prompt for template in templates_of(["{{ text }}:", "News: {{ text }}"])]
        ['{{ text }}:', 'News: {{ text }}']
    """
    if given is None:
        return ()
    if is_auto(given) or (not isinstance(given, Template | str) and AUTO in given):
        raise TemplateError(
            "Reading the templates: 'auto' searches one on rows that a run learns from, and stands alone. Give "
            "templates, or leave the others out."
        )
    several = [given] if isinstance(given, Template | str) else list(given)
    found = tuple(parse_template(one) if isinstance(one, str) else one for one in several)
    for place, template in enumerate(found):
        if template in found[:place]:
            raise TemplateError(
                f"Reading the templates: the {found.index(template) + 1}. and the {place + 1}. are the same, "
                f"{quote(template.prompt)}. Leave one of them out."
            )
    return found


def read_templates(path: str | Path) -> tuple[Template, ...]:
    """Return the templates of a YAML or JSON file, which is YAML as well.

    Raises:
        TemplateError: If it cannot be read, holds no templates, or with what is wrong with one of them.
    """
    doing = f"Reading the templates of {path}"
    try:
        content: Any = yaml.safe_load(Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        told = getattr(error, "strerror", None) or "it is not UTF-8"
        raise TemplateError(f"{doing}: it cannot be read ({told}).") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f" in line {mark.line + 1}"
        raise TemplateError(f"{doing}: it is neither YAML nor JSON{where}.") from error
    listed = content.get("templates") if isinstance(content, Mapping) and len(content) == 1 else content
    if not isinstance(listed, list) or not listed:
        raise TemplateError(f"{doing}: expected a list of templates, or one under 'templates:'.")
    return listed_templates(listed, doing)


def listed_templates(listed: Sequence[Any], doing: str = "Reading the templates") -> tuple[Template, ...]:
    """Return the templates of a list that a file holds: texts, or mappings of their parts.

    Args:
        listed: What the file holds.
        doing: Beginning of the error.

    Raises:
        TemplateError: With what is wrong with one of them, and which.
    """
    found = []
    for number, one in enumerate(listed, start=1):
        try:
            found.append(one if isinstance(one, Template) else _template(one))
        except TemplateError as error:
            raise TemplateError(f"{doing}: number {number}: {error}") from error
    return templates_of(found)


def _template(one: Any) -> Template:
    """Return a template from a text, or from a mapping of its parts."""
    if isinstance(one, str) and ("{{" in one or "{%" in one):
        return parse_template(one)
    if not isinstance(one, Mapping) or not all(isinstance(value, str) for value in one.values()):
        raise TemplateError(f"it is {quote(str(one))}, expected a text with {{{{ text }}}}, or prompt and target.")
    unknown = [str(key) for key in one if key not in _PARTS]
    if unknown or "prompt" not in one:
        hint = near_matches(unknown[0], _PARTS) if unknown else ""
        raise TemplateError(f"it has the keys {', '.join(map(repr, one))}, expected 'prompt' and 'target'.{hint}")
    return Template(**one)

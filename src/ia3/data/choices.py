"""Choices that each row brings: a cell with the answers it could have, and what may be wrong with one.

A cell is a JSON list of texts, or texts with `|` between them; blanks around a text do not count. Numbers in a list are
taken as they are spelt. This file knows cells; it knows nothing of tables or models.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from ia3.data.examples import quote
from ia3.data.records import spell
from ia3.data.values import is_missing
from ia3.errors import near_matches
from ia3.spelling import first_of

SEPARATOR = "|"
_SHOWN = 5


def split_choices(value: object) -> tuple[str, ...]:
    """Return the choices in a cell.

    Args:
        value: A list, or a text that is a JSON list or has `|` between its choices.

    Raises:
        ValueError: If it is neither; says what it is.

    Example:
        >>> split_choices("red | green"), split_choices('["a|b", "c"]')
        (('red', 'green'), ('a|b', 'c'))
    """
    if is_missing(value) or (isinstance(value, str) and not value.strip()):
        raise ValueError("choices are missing")
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise ValueError(f"choices begin with [ and are no JSON list, got {quote(str(value))}") from error
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(SEPARATOR))
    if not isinstance(value, list | tuple) or any(isinstance(one, list | tuple | dict) for one in value):
        raise ValueError(f"choices are {quote(spell(value))}, expected a list of texts, or texts with | between them")
    return tuple(spell(one).strip() for one in value)


def check_choices(choices: Sequence[str], label: str | None) -> str:
    """Return what is wrong with a row's choices and its answer, "" if nothing is.

    Example:
        >>> check_choices(["red", "green"], "blue")
        "its answer 'blue' is not among its choices, which are 'red', 'green'"
    """
    if len(choices) < 2:
        return f"it has {len(choices)} choice{'s' * (len(choices) != 1)}, expected at least two, with | between them"
    if not all(choices):
        return f"choice {list(choices).index('') + 1} of {len(choices)} is empty"
    twice = next((one for place, one in enumerate(choices) if one in choices[:place]), None)
    if twice is not None:
        return f"choice {quote(twice)} is there twice"
    if label is not None and label not in choices:
        near = near_matches(label, choices)
        hint = f".{near.partition(' Known:')[0]}" if "Did you mean" in near else ""
        shown = first_of(map(quote, choices), _SHOWN)
        told = f"its answer {quote(label)} is not among its choices, which are {shown}{hint}"
        return told.removesuffix(".")
    return ""

"""Whole numbers that people give, which may be of numpy or torch."""

from __future__ import annotations

import operator
from typing import Any

from ia3.errors import SettingsError


def whole_number(doing: str, name: str, value: Any) -> int:
    """Return a whole number of any library as Python's own, which can be written down.

    Args:
        doing: Beginning of the error, such as `Generating`.
        name: Of what was given.
        value: What was given.

    Raises:
        SettingsError: It is none: a string, a fraction, true or false.

    Example:
        >>> import numpy
        >>> whole_number("Generating", "max_new_tokens", numpy.int64(3))
        3
    """
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise SettingsError(f"{doing}: {name} is {value!r}, expected a whole number.")

"""One setting as it is declared: which values it takes, what is said of it, and whose it is.

`settings.Settings` declares each setting once with `setting`; checks, flags, task files, sweeps and the page on
training read it there. It imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

_SORTS = {int: "a whole number", float: "a number", bool: "True or False", str: "a word"}


@dataclass(frozen=True)
class Rule:
    """Which values a setting takes.

    Attributes:
        sort: Their type; a whole number is a number too.
        expected: Which of that type, in words.
        fits: Whether one of that type is one of them.
        metavar: What help shows in place of one.
        words: All of them, where they are words of a list.
    """

    sort: type[bool | float | str]
    expected: str = ""
    fits: Callable[[Any], bool] = lambda value: True
    metavar: str = "NAME"
    words: tuple[str, ...] = ()

    def fault(self, name: str, value: Any) -> str:
        """Return what is wrong with a value of the setting of this name, "" if nothing is."""
        is_right = isinstance(value, (int, float) if self.sort is float else self.sort)
        if not is_right or isinstance(value, bool) != (self.sort is bool):
            return f"{name} is {value!r}, expected {_SORTS[self.sort]}"
        shown = repr(value) if self.sort is str else value
        return "" if self.fits(value) else f"{name} is {shown}, expected {self.expected}"


SHARE = Rule(float, "a share in [0, 1)", lambda value: 0 <= value < 1, "SHARE")
BELOW_ONE = Rule(float, "a number in [0, 1)", lambda value: 0 <= value < 1, "X")
NOT_NEGATIVE = Rule(float, "a number of at least 0", lambda value: 0 <= value < math.inf, "X")


def at_least(least: int) -> Rule:
    """Return the rule of a whole number with a least value."""
    return Rule(int, f"at least {least}", lambda value: value >= least, "N")


def up_to(most: float) -> Rule:
    """Return the rule of a number above zero with a largest value."""
    return Rule(float, f"above 0 and at most {most:g}", lambda value: 0 < value <= most, "X")


def one_of(*words: str) -> Rule:
    """Return the rule of a word of a list."""
    return Rule(str, f"one of {', '.join(words)}", lambda value: value in words, words=words)


@dataclass(frozen=True)
class Setting:
    """What is known of a setting.

    Attributes:
        default: Its value where nothing is said, of most kinds of base.
        rule: Which values it takes.
        help: What it is, as the command line's help has it, without a full stop.
        elsewhere: Where its default is another than that of the kind of base, in words.
        is_of_run: Whether it is the model's and not a row's, so that all tasks of a run have the same.
        is_neutral: Whether an adapter is as sure of its answers whatever it is: order, memory, time, when to stop.
        has_no: Whether the command line can turn it off again, since a recipe turns it on.
    """

    default: Any
    rule: Rule
    help: str
    elsewhere: str = ""
    is_of_run: bool = False
    is_neutral: bool = False
    has_no: bool = False


def setting(default: Any, rule: Rule, about: str, **more: Any) -> Any:
    """Return the field of a dataclass that is a setting; `more` are further attributes of `Setting`."""
    return field(default=default, metadata={"setting": Setting(default, rule, about, **more)})


def value_in_words(value: Any) -> str:
    """Return a setting's value as people read it.

    Example:
        >>> value_in_words(True), value_in_words(0.008), value_in_words(None)
        ('on', '0.008', 'none')
    """
    if isinstance(value, bool):
        return "on" if value else "off"
    return "none" if value is None else value if isinstance(value, str) else f"{value:g}"

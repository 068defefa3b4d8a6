"""Label sets as people write them down: lists, columns and arrays, and the two mappings of a transformers config.

It knows the shapes; it knows nothing of heads. Rules: the order is that of the head's outputs; a whole number is the
string that it is in a table; a set with one label twice is none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any

from ia3.errors import SettingsError


def read_labels(doing: str, labels: Any) -> tuple[str, ...]:
    """Return a label set as strings, in the order of a head's outputs.

    Args:
        doing: Beginning of the error, such as `Loading an encoder`.
        labels: A list, an array or a column of labels; or an `id2label` or `label2id`.

    Raises:
        SettingsError: It is a single string, no set of labels, or holds something else than text and whole numbers.

    Example:
        >>> read_labels("Loading", {0: "bad", 1: "good"}), read_labels("Loading", {"good": 1, "bad": 0})
        (('bad', 'good'), ('bad', 'good'))
    """
    if isinstance(labels, Mapping):
        labels = _in_order(doing, labels)
    if isinstance(labels, set | frozenset):
        raise SettingsError(
            f"{doing}: labels is a set, expected an order, that of the head's outputs. Write labels=[…]."
        )
    if isinstance(labels, str | bytes) or not isinstance(labels, Iterable):
        raise SettingsError(f"{doing}: labels is {labels!r}, expected a list. Write labels=[…], with all of them.")
    names = tuple(_name(doing, number, label) for number, label in enumerate(labels, 1))
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise SettingsError(f"{doing}: label {twice!r} is there twice, expected a name of its own for each label.")
    return names


def _in_order(doing: str, labels: Mapping[Any, Any]) -> list[Any]:
    """Return the names of an `id2label` or a `label2id` in the order of their numbers."""
    for pairs in (labels.items(), [(number, name) for name, number in labels.items()]):
        by_number = {int(number): name for number, name in pairs if str(number).isdecimal()}
        if len(by_number) == len(labels) and sorted(by_number) == list(range(len(labels))):
            return [by_number[number] for number in range(len(labels))]
    raise SettingsError(
        f"{doing}: labels is {dict(labels)!r}, expected names for the numbers from 0, as in id2label. Give a list."
    )


def _name(doing: str, number: int, label: Any) -> str:
    value = label.value if isinstance(label, Enum) else label
    value = value.item() if hasattr(value, "item") and getattr(value, "ndim", None) == 0 else value
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str | int):
        raise SettingsError(f"{doing}: label {number} is {label!r}, expected text or a whole number.")
    return str(value)

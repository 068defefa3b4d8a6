"""Numbers of classes as the names that a data set has for them, as Hugging Face's `ClassLabel` does.

Knows the features of `datasets`, as objects and as the JSON that it writes into an Arrow schema. Rules: -1, which
stands in splits without labels, is no label; a number without a name is a fault of its row.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ia3.data.examples import Fault, Origin, quote
from ia3.data.records import Record
from ia3.data.values import plain
from ia3.spelling import first_of

ClassNames = Mapping[str, tuple[str, ...]]  # by column
_UNLABELLED = -1
_SHOWN = 8


def names_in_features(features: Any) -> dict[str, tuple[str, ...]]:
    """Return the names of the classes by column, for columns of the type ClassLabel."""
    found: dict[str, tuple[str, ...]] = {}
    for column, kind in features.items() if isinstance(features, Mapping) else ():
        names = kind.get("names") if isinstance(kind, Mapping) else getattr(kind, "names", None)
        is_class = kind.get("_type") == "ClassLabel" if isinstance(kind, Mapping) else True
        if is_class and isinstance(names, list | tuple) and names:
            found[column] = tuple(map(str, names))
    return found


def names_in_schema(metadata: Mapping[bytes, bytes] | None) -> dict[str, tuple[str, ...]]:
    """Return the names of the classes by column that the metadata of an Arrow schema has."""
    try:
        written = json.loads((metadata or {}).get(b"huggingface", b"{}"))
        return names_in_features(written["info"]["features"])
    except (ValueError, LookupError, TypeError, RecursionError):
        return {}


def notes_of(names: ClassNames) -> tuple[str, ...]:
    """Return in words what the numbers of each column are read as."""
    return tuple(
        f"column {quote(column)}: its numbers are classes that have names, {first_of(map(quote, own), _SHOWN)}"
        for column, own in names.items()
    )


def name_classes(origin: Origin, values: Mapping[str, Any], names: ClassNames) -> Record:
    """Return a record in which numbers of classes are their names."""
    named: dict[str, Any] = dict(values)
    faults = []
    for column, own in names.items():
        number = plain(values.get(column))
        if not isinstance(number, int) or isinstance(number, bool):
            continue
        if 0 <= number < len(own):
            named[column] = own[number]
        elif number == _UNLABELLED:
            named[column] = None
        else:
            faults.append(Fault(origin, column, f"class {number} has no name, the names are of 0 to {len(own) - 1}"))
    return Record(origin, {} if faults else named, tuple(faults))

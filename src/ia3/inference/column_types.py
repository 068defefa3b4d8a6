"""Types of the columns of rows without a schema, as Parquet needs them: found while a table is read once.

This file knows plain values and Arrow types; it knows nothing of files. Rules: no value is changed for the sake of a
type, so a column whose values have no type in common holds texts, as they are spelt in CSV.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ia3.data.records import spell
from ia3.data.values import Constant, Number, plain

_AT_ONCE = 1024  # values whose type is found together
_EXACT = 2**53  # whole numbers up to here are floats as well


class ColumnTypes:
    """The types of columns; look at every row, then ask."""

    def __init__(self) -> None:
        self._types: dict[str, Any] = {}  # None: nothing in common
        self._waiting: dict[str, list[Any]] = {}
        self._has_large: set[str] = set()

    def look(self, values: Mapping[str, object]) -> None:
        """Take the values of a row into account."""
        for name, value in values.items():
            waiting = self._waiting.setdefault(name, [])
            held = arrow_value(value)
            if isinstance(held, int) and abs(held) > _EXACT:
                self._has_large.add(name)
            waiting.append(held)
            if len(waiting) == _AT_ONCE:
                self._settle(name)

    def found(self) -> dict[str, Any]:
        """Return the Arrow type of each column that was seen."""
        import pyarrow

        for name in self._waiting:
            self._settle(name)
        text = pyarrow.string()
        return {name: own if _can_be_written(own) else text for name, own in self._types.items()}

    def _settle(self, name: str) -> None:
        import pyarrow

        values, self._waiting[name] = self._waiting[name], []
        if not values or (name in self._types and self._types[name] is None):
            return
        try:
            own = pyarrow.array(values).type
        except (pyarrow.ArrowException, OverflowError, TypeError, ValueError):
            self._types[name] = None
            return
        before = self._types.get(name, pyarrow.null())
        whole, real = pyarrow.int64(), pyarrow.float64()
        if {before, own} == {whole, real} or own == before == real:
            self._types[name] = None if name in self._has_large else real
        else:
            self._types[name] = _merged(before, own)


def arrow_value(value: Any) -> Any:
    """Return a value as Arrow takes it: numbers as numbers, in lists and mappings too."""
    value = plain(value)
    if isinstance(value, Number):
        return float(value) if set(value) & set(".eEnN") else int(value)
    if isinstance(value, Constant):
        return float(value)
    if isinstance(value, Mapping):
        return {str(key): arrow_value(item) for key, item in value.items()}
    return [arrow_value(item) for item in value] if isinstance(value, list) else value


def arrow_array(values: list[Any], kind: Any) -> Any:
    """Return values as an Arrow array of this type; of strings, as they are spelt in CSV."""
    import pyarrow

    if kind == pyarrow.string():
        return pyarrow.array([None if (own := plain(value)) is None else spell(own) for value in values], kind)
    return pyarrow.array([arrow_value(value) for value in values], kind)


def _merged(one: Any, other: Any) -> Any:
    """Return the type that has the values of both exactly, None if there is none."""
    import pyarrow.types

    if one is None or other is None:
        return None
    if one == other or pyarrow.types.is_null(other):
        return one
    if pyarrow.types.is_null(one):
        return other
    if pyarrow.types.is_list(one) and pyarrow.types.is_list(other):
        inner = _merged(one.value_type, other.value_type)
        return None if inner is None else pyarrow.list_(inner)
    if not (pyarrow.types.is_struct(one) and pyarrow.types.is_struct(other)):
        return None
    parts = {field.name: field.type for field in one}
    for field in other:
        parts[field.name] = _merged(parts.get(field.name, pyarrow.null()), field.type)
    return None if None in parts.values() else pyarrow.struct([*parts.items()])


def _can_be_written(kind: Any) -> bool:
    """Tell whether Parquet has the type: it has no structs without fields, and of nulls alone no type is known."""
    import pyarrow.types

    if kind is None or pyarrow.types.is_null(kind):
        return False
    if pyarrow.types.is_list(kind):
        return _can_be_written(kind.value_type)
    if pyarrow.types.is_struct(kind):
        return kind.num_fields > 0 and all(_can_be_written(field.type) for field in kind)
    return True

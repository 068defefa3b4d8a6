"""Values of other libraries as plain ones, and what stands for "nothing" in each of them.

Knows the shapes of numpy, pandas, Arrow and torch values, imports none of them unless a value comes from it. Rules: a
missing value is None, whatever its library writes in its place; strings are never read as missing; a member of an Enum
is its value; a float of 16 or 32 bits keeps its short spelling (0.1, not 0.10000000149011612).
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from enum import Enum
from typing import Any

_MISSING_TYPES = ("NAType", "NaTType", "MaskedConstant")  # pandas' two, and a masked place of numpy


class Number(str):
    """A number of a JSON or Parquet file, in its source spelling."""

    __slots__ = ()


class Constant(str):
    """`NaN`, `Infinity` or `-Infinity`: not JSON, but written by many libraries for a missing value."""

    __slots__ = ()


def plain(value: Any) -> Any:
    """Return a value as strings, numbers, lists and mappings; None for what any library writes in the place of nothing.

    Args:
        value: Of a cell: plain, of numpy, pandas, Arrow or torch, or a list or mapping of such.

    Returns:
        A plain value; one that is none of these as it is.

    Raises:
        RecursionError: If it is nested too deeply.

    Example:
        >>> import numpy
        >>> plain(numpy.float32("nan")), plain(numpy.array([1, 2])), plain(numpy.float32(0.1))
        (None, [1, 2], '0.1')
    """
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, str):
        return None if isinstance(value, Constant) and value == "NaN" else value
    if value is None or isinstance(value, bool | int | bytes):
        return value
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if is_missing(value):
        return None
    if hasattr(value, "as_py"):  # an Arrow scalar
        return plain(value.as_py())
    if hasattr(value, "tolist") and getattr(value, "ndim", 1) != 0:  # an array, a series or a tensor
        return plain(value.tolist())
    return _plain_number(value) if hasattr(value, "item") and hasattr(value, "dtype") else value


def _plain_number(value: Any) -> Any:
    """Return what a scalar of numpy or torch, or an array without axes, holds."""
    name = str(value.dtype)
    if name.startswith(("datetime", "timedelta")):  # `item` would give some of them as whole numbers
        return value[()]
    held = value.item()
    if not isinstance(held, float):
        return plain(held)
    if held != held:
        return None
    if getattr(value, "itemsize", 8) < 8:
        import numpy

        short = numpy.float16 if name == "float16" else numpy.float32
        return Number(str(short(held)))
    return held


def is_missing(value: Any) -> bool:
    """Tell whether a value stands for "nothing": null, or the NaN that other libraries write in its place."""
    if value is None or isinstance(value, Constant):
        return True
    if isinstance(value, str | int | bytes | Mapping | list | tuple):
        return False
    if isinstance(value, float):
        return value != value
    if isinstance(value, Decimal):
        return value.is_nan()
    if type(value).__name__ in _MISSING_TYPES:
        return True
    if getattr(value, "ndim", 0):
        return False
    try:
        return bool(value != value)
    except Exception:  # objects that compare to something else
        return False

"""Numbers, sizes, times, lists and columns as people read them; plain values in, text out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence


def percent(share: float) -> str:
    """Return a share in percent.

    Example:
        >>> percent(0.987)
        '98.7 %'
    """
    return f"{100 * share:.1f} %"


def time_in_words(seconds: float) -> str:
    """Return a length of time for people.

    Example:
        >>> time_in_words(7), time_in_words(200), time_in_words(7500)
        ('7 s', '3 min 20 s', '2 h 5 min')
    """
    whole = math.ceil(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def printable(text: str) -> str:
    r"""Return `text` with line breaks, controls and lone surrogates as escapes (`\n`, `\x1b`, `\ud800`)."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def count_of(count: int, noun: str) -> str:
    """Return how many there are of something.

    Example:
        >>> count_of(1, "adapter"), count_of(1200, "adapter")
        ('1 adapter', '1,200 adapters')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def first_of(items: Iterable[object], most: int, *, mark: str = ", ") -> str:
    """Return the first of some items, and how many there are beyond them.

    Example:
        >>> first_of(["a", "b", "c"], 3), first_of(["a", "b", "c"], 1)
        ('a, b, c', 'a, and 2 more')
    """
    told = [str(item) for item in items]
    more = [f"and {len(told) - most} more"] if len(told) > most else []
    return mark.join([*told[:most], *more])


def one_line(error: BaseException, most: int) -> str:
    """Return what an error of another library says on one line, cut after some characters."""
    return " ".join(str(error).split())[:most]


def first_line(error: BaseException) -> str:
    """Return the first line of what an error of another library says, without a full stop."""
    return (str(error).strip() or type(error).__name__).split("\n")[0].rstrip(".")


def align_columns(rows: Sequence[Sequence[str]], *, right: Iterable[int] = ()) -> list[str]:
    """Return the rows as lines with aligned columns.

    Args:
        rows: Cells, the same number in each row; the first row may be a heading.
        right: Numbers of the columns that are aligned to the right.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    to_right = set(right)
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if number in to_right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def size_in_words(size: int) -> str:
    """Return a number of bytes for people.

    Example:
        >>> size_in_words(1_130_496)
        '1.1 MB'
    """
    if size < 1000:
        return f"{size} bytes"
    for unit, factor in (("kB", 1e3), ("MB", 1e6)):
        if size < 1000 * factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size / 1e9:.3g} GB"

"""Where the command line's words go: results to stdout, talk to stderr.

With `--json` stdout holds one JSON document and nothing else. It knows strings and plain values.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def say(line: str) -> None:
    """Write one line of talk to stderr."""
    print(line, file=sys.stderr, flush=True)


def print_lines(lines: Iterable[str]) -> None:
    """Write results to stdout; what its encoding cannot hold is escaped."""
    encoding = sys.stdout.encoding or "utf-8"
    for line in lines:
        print(line.encode(encoding, "backslashreplace").decode(encoding))


def print_json(value: Any) -> None:
    """Write one JSON document to stdout."""
    text = json.dumps(_plain(value), ensure_ascii=False, indent=2, allow_nan=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(_plain(value), indent=2, allow_nan=False)
    print(text)


def print_result(options: argparse.Namespace, value: Any, lines: Iterable[str]) -> None:
    """Write a result to stdout: with `--json` its value, else the lines that tell it to people."""
    if options.json:
        print_json(value)
    else:
        print_lines(lines)


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


def _plain(value: Any) -> Any:
    """Return the value with what JSON cannot hold (NaN, infinities) as null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value

"""Where the command line's words go: results to stdout, talk to stderr.

With `--json` stdout holds one JSON document and nothing else. It knows strings and plain values.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterable, Mapping
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


def _plain(value: Any) -> Any:
    """Return the value with what JSON cannot hold (NaN, infinities) as null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value

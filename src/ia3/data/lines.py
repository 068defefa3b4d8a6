"""Physical lines of a text file, with their numbers and byte offsets.

Knows nothing of tables. Rules: UTF-8 with or without a byte order mark, UTF-16 and UTF-32 with one; line ends
stay on the lines; a byte that is not UTF-8 stops nothing: it becomes a lone surrogate (PEP 383), which
`describe_bad_byte` explains.
"""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from ia3.errors import TableError

_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")
# UTF-32 first: its little-endian mark begins with the one of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)


def read_lines(path: Path) -> Generator[Line, None, None]:
    """Yield the lines of a text file one by one; the file is open only while lines are asked for.

    Args:
        path: A file or a named pipe.

    Yields:
        Each line with its line end.

    Raises:
        TableError: The file cannot be opened or read, or breaks off within a UTF-16 or UTF-32 character.
    """
    try:
        handle, offset = _open(path)
        with handle:
            for number, text in enumerate(handle, start=1):
                yield Line(number, offset, text)
                if offset is not None:
                    offset += len(text) if text.isascii() else len(text.encode("utf-8", "surrogateescape"))
    except OSError as error:
        raise TableError(f"Reading {path}: {error.strerror or error}.") from error
    except UnicodeError as error:
        what = (
            f"{error.encoding} text is damaged: {error.reason}" if isinstance(error, UnicodeDecodeError) else str(error)
        )
        raise TableError(f"Reading {path}: its {what}. Save the file as UTF-8.") from error


def describe_bad_byte(line: Line) -> str | None:
    """Return which byte of the line is not UTF-8 and where it stands in the file, or None if all are."""
    match = None if line.offset is None or line.text.isascii() else _ESCAPED_BYTE.search(line.text)
    if match is None or line.offset is None:
        return None
    offset = line.offset + len(line.text[: match.start()].encode("utf-8", "surrogateescape"))
    return f"byte 0x{ord(match[0]) - 0xDC00:02x} at byte offset {offset} is not UTF-8 (save the file as UTF-8)"


def _open(path: Path) -> tuple[TextIO, int | None]:
    """Return the opened file and the byte offset of its first character, None if it is not UTF-8."""
    raw = path.open("rb")
    start = raw.peek(4)  # not a seek: the file may be a pipe
    encoding = next((name for mark, name in _MARKS if start.startswith(mark)), "utf-8")
    is_utf8 = encoding.startswith("utf-8")
    errors = "surrogateescape" if is_utf8 else "surrogatepass"
    handle = io.TextIOWrapper(raw, encoding=encoding, errors=errors, newline="")
    return handle, (3 if encoding == "utf-8-sig" else 0) if is_utf8 else None


@dataclass(frozen=True)
class Line:
    """One physical line."""

    number: int  # 1-based
    offset: int | None  # of its first byte in the file; None in UTF-16 and UTF-32
    text: str  # with its line end

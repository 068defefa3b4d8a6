"""A table file, and how it is read where its suffix does not tell.

Knows nothing of what files hold. Rules: what is asked for holds for CSV and TSV files alone; a file with another suffix
is read as one if a delimiter is given.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ia3.data.examples import ascii_safe
from ia3.errors import SettingsError

DELIMITED = {".csv": ",", ".tsv": "\t"}
LIKELY = ("", ".txt", ".tab", ".psv", ".dat")  # suffixes of files that often are delimited
# have neither delimiters nor quotes around values; `sources` has a reader for each
OBJECTS = (".jsonl", ".json", ".parquet")
_NAMES = {"tab": "\t", r"\t": "\t"}


@dataclass(frozen=True)
class TableFile:
    """A path, and how a delimited file there is read.

    Attributes:
        path: The file, or a folder of files.
        delimiter: One character, or `tab`; None for that of the suffix.
        quotes: Whether `"` around a value are no part of it: False takes them as characters, and every line as a row;
            True takes them as quotes without asking; None takes them as quotes, and tells rows that look otherwise.
    """

    path: str | Path
    delimiter: str | None = None
    quotes: bool | None = None

    def __post_init__(self) -> None:
        if self.delimiter is not None:
            object.__setattr__(self, "delimiter", read_delimiter(self.delimiter))

    def __str__(self) -> str:
        return str(self.path)

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def is_asked(self) -> bool:
        """Whether anything is said of how it is read."""
        return self.delimiter is not None or self.quotes is not None


def read_delimiter(given: str) -> str:
    r"""Return the character that stands between values.

    Raises:
        SettingsError: If it is not one character, or one that ends a line or a value.

    Example:
        >>> read_delimiter("tab")
        '\t'
    """
    delimiter = _NAMES.get(given, given)
    if not isinstance(delimiter, str) or len(delimiter) != 1 or delimiter in '"\r\n\0':
        raise SettingsError(
            f"Reading a table: the delimiter is {given!r}, expected one character, such as ';' or '|', or tab."
        )
    return delimiter


def as_read(source: Any, delimiter: str | None, quotes: bool | None, *, is_one_of_several: bool = False) -> Any:
    """Return a source that is read as asked.

    Args:
        source: What `read_table` reads.
        delimiter: As of `TableFile`; what the source says itself goes first.
        quotes: Likewise.
        is_one_of_several: Whether what is asked for need not hold for this one: it stays as it is if it is no file with
            delimiters.

    Raises:
        SettingsError: If something is asked for and the source is no such file.
    """
    if delimiter is None and quotes is None:
        return source
    file = TableFile(source) if isinstance(source, str | Path) else source
    if not isinstance(file, TableFile) or Path(file.path).suffix.lower() in OBJECTS:
        if is_one_of_several:
            return source
        raise not_delimited(source)
    return replace(
        file,
        delimiter=delimiter if file.delimiter is None else file.delimiter,
        quotes=quotes if file.quotes is None else file.quotes,
    )


def not_delimited(source: Any) -> SettingsError:
    """Return the error for delimiter or quotes that are given for what has none."""
    got = ascii_safe(repr(str(source))) if isinstance(source, str | Path | TableFile) else f"a {type(source).__name__}"
    return SettingsError(
        f"Reading a table: a delimiter or quotes (--delimiter, --quotes) are for CSV and TSV files, got {got}. Leave "
        "them out."
    )

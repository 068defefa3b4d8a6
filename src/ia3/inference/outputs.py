"""Output tables: rows written as CSV, TSV, JSONL or Parquet by the suffix of the file, atomically.

Rows go into a hidden file beside the output, which takes the output's name when all of them are written through; until
then, and after an error or Ctrl-C, nothing stands under that name but what stood there before. This file knows columns
of text and of numbers; it knows nothing of predictions.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ia3.adapters.atomic import sync_folder
from ia3.errors import RunError, near_matches

OutputRow = Mapping[str, str | float]
Write = Callable[[Sequence[OutputRow]], None]
_QUOTED = re.compile('[",\t\r\n]')


@contextmanager
def open_output(
    path: str | Path, text_columns: Sequence[str], number_columns: Sequence[str] = (), *, overwrite: bool = False
) -> Iterator[Write]:
    """Give a function that writes rows; the file is there, whole, when the scope ends without an error.

    Args:
        path: The file; its suffix decides the format.
        text_columns: Columns of strings, the first ones.
        number_columns: Columns of numbers, after them. In CSV, TSV and JSONL they have nine significant digits.
        overwrite: Whether a file of this name is replaced.

    Raises:
        RunError: If the suffix is unknown, a file is there, or it cannot be written.

    Example:
        >>> with open_output("out.csv", ["text"], ["probability"]) as write:  # doctest: +SKIP
        ...     write([{"text": "Profit rose.", "probability": 0.9}])
    """
    output = check_output(path, overwrite=overwrite)
    beside = output.with_name(f".{output.name}.{os.getpid()}.part")
    with _telling_faults(output):
        file = beside.open("wb")
    try:
        with file:
            with _telling_faults(output):
                table = _OPENERS[output.suffix.lower()](file, text_columns, number_columns)
            try:
                yield _told(table.write, output)
            except BaseException:
                with contextlib.suppress(Exception):  # a table that is left open complains when it is collected
                    table.close()
                raise
            with _telling_faults(output):
                table.close()
                file.flush()
                os.fsync(file.fileno())
        check_output(output, overwrite=overwrite)
        with _telling_faults(output):
            beside.replace(output)
            sync_folder(output.parent)
    finally:
        beside.unlink(missing_ok=True)


def check_output(path: str | Path, *, overwrite: bool = False) -> Path:
    """Return the path of an output table that can be written.

    Raises:
        RunError: If the suffix is unknown, there is no such folder, or a file is there and is not to be replaced.
    """
    output = Path(path).expanduser()
    if output.suffix.lower() not in _OPENERS:
        got = f"the suffix {output.suffix!r}" if output.suffix else "no suffix"
        near = near_matches(output.suffix.lower(), _OPENERS) if output.suffix else ""
        raise RunError(
            f"Writing {output}: the file has {got}, expected one of {' '.join(_OPENERS)}.{near.partition(' Known:')[0]}"
        )
    if not output.parent.is_dir():
        raise RunError(f"Writing {output}: there is no folder {str(output.parent)!r}. Make it first.")
    if output.is_dir():
        raise RunError(f"Writing {output}: a folder of this name is there. Choose another name.")
    if output.exists() and not overwrite:
        raise RunError(f"Writing {output}: the file is there already. Choose another name, or give --overwrite.")
    return output


@contextmanager
def _telling_faults(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(f"Writing {output}: {error.strerror or error}. Free space, or choose another folder.") from error


def _told(write: Write, output: Path) -> Write:
    """Return the writer with the system's errors told as ours; those of the caller's own reading stay what they are."""

    def told(rows: Sequence[OutputRow]) -> None:
        with _telling_faults(output):
            write(rows)

    return told


def _open_delimited(
    file: IO[bytes], text_columns: Sequence[str], number_columns: Sequence[str], delimiter: str
) -> _OpenTable:
    columns = [*text_columns, *number_columns]

    def line(values: Sequence[str]) -> bytes:
        # Python's csv leaves a lone \r unquoted before 3.13, and then reads two rows
        cells = ['"' + v.replace('"', '""') + '"' if _QUOTED.search(v) else v for v in values]
        return (delimiter.join(cells) + "\n").encode()

    def write(rows: Sequence[OutputRow]) -> None:
        file.write(b"".join(line([_spell(row[name]) for name in columns]) for row in rows))

    file.write(line(columns))
    return _OpenTable(write)


def _open_jsonl(file: IO[bytes], text_columns: Sequence[str], number_columns: Sequence[str]) -> _OpenTable:
    columns = [*text_columns, *number_columns]

    def plain(value: str | float) -> str | float:
        return value if isinstance(value, str) else float(_spell(value))

    def write(rows: Sequence[OutputRow]) -> None:
        lines = (json.dumps({name: plain(row[name]) for name in columns}, ensure_ascii=False) for row in rows)
        file.write("".join(f"{line}\n" for line in lines).encode())

    return _OpenTable(write)


def _open_parquet(file: IO[bytes], text_columns: Sequence[str], number_columns: Sequence[str]) -> _OpenTable:
    import pyarrow
    import pyarrow.parquet

    texts = [(name, pyarrow.string()) for name in text_columns]
    schema = pyarrow.schema([*texts, *((name, pyarrow.float64()) for name in number_columns)])
    writer = pyarrow.parquet.ParquetWriter(file, schema)

    def write(rows: Sequence[OutputRow]) -> None:
        columns = {name: [row[name] for row in rows] for name in schema.names}
        writer.write_table(pyarrow.table(columns, schema=schema))

    return _OpenTable(write, writer.close)


def _spell(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.9g}"


@dataclass(frozen=True)
class _OpenTable:
    """A table that is being written into an open file."""

    write: Write
    close: Callable[[], object] = lambda: None  # writes what comes after the rows; the file stays open


_Opener = Callable[[IO[bytes], Sequence[str], Sequence[str]], _OpenTable]
_OPENERS: Mapping[str, _Opener] = {
    ".csv": lambda file, texts, numbers: _open_delimited(file, texts, numbers, ","),
    ".tsv": lambda file, texts, numbers: _open_delimited(file, texts, numbers, "\t"),
    ".jsonl": _open_jsonl,
    ".parquet": _open_parquet,
}
OUTPUT_SUFFIXES = tuple(_OPENERS)

"""Records of Parquet files, read a batch of rows at a time.

Knows nothing of text and label columns. Rules: whole numbers and booleans become strings as Python and JSON write
them; a 32-bit float keeps its short spelling (0.1, not 0.10000000149011612); the line of a record is its row
number.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

from ia3.data.examples import Fault, Origin, quote
from ia3.data.records import Number, Record, Source
from ia3.errors import TableError

_BATCH_ROWS = 1024


def read_parquet(path: Path) -> Source:
    """Return the opened Parquet file.

    Args:
        path: The file.

    Returns:
        Its columns and records; only one batch of rows is in memory at a time.

    Raises:
        TableError: The file is not Parquet, is damaged, has no columns or names a column twice.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise TableError(f"Reading {path}: not a Parquet file that can be read: {_first_line(error)}.") from error
    columns = tuple(file.schema_arrow.names)
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        file.close()
        raise TableError(f"Reading {path}: it names {', '.join(map(quote, twice))} more than once. Rename one of them.")
    return Source(str(path), columns, _read_records(path, file, columns))


def _read_records(path: Path, file: Any, columns: tuple[str, ...]) -> Generator[Record, None, None]:
    import pyarrow

    row = 0
    try:
        with file:
            for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                for values in zip(*map(_read_column, batch.columns), strict=True):
                    row += 1
                    yield _make_record(Origin(str(path), row), columns, values)
    except (OSError, pyarrow.ArrowException) as error:
        raise TableError(f"Reading {path}: damaged after row {row}: {_first_line(error)}.") from error


def _make_record(origin: Origin, columns: tuple[str, ...], values: tuple[object, ...]) -> Record:
    faults = tuple(
        Fault(origin, name, f"byte 0x{value.object[value.start]:02x} of the value is not UTF-8")
        for name, value in zip(columns, values, strict=True)
        if isinstance(value, UnicodeDecodeError)
    )
    return Record(origin, {} if faults else dict(zip(columns, values, strict=True)), faults)


def _read_column(column: Any) -> list[object]:
    """Return the values of one column of a batch; a string that is not UTF-8 as the error it gives."""
    import pyarrow.types

    if pyarrow.types.is_float32(column.type) or pyarrow.types.is_float16(column.type):
        return [_spell_short(value) for value in column]
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        return [_decode(value) for value in column]


def _spell_short(value: Any) -> object:
    number = value.as_py()
    if number is None or number != number:
        return None
    import numpy

    kind = numpy.float16 if str(value.type) == "halffloat" else numpy.float32
    return Number(str(kind(number)))


def _decode(value: Any) -> object:
    try:
        return value.as_py()
    except UnicodeDecodeError as error:
        return error


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0].rstrip(".")

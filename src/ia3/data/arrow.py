"""Records of Arrow record batches: of Parquet files, and of tables that other libraries hold in memory.

Knows nothing of text and label columns. Rules: whole numbers and booleans become strings as Python and JSON write
them; a 32-bit float keeps its short spelling (0.1, not 0.10000000149011612); numbers of classes that the schema names
become their names; the line of a record is its row number; a record knows the Arrow row that it is, so that it can be
written again as it came.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from typing import Any

from ia3.data.classes import ClassNames, name_classes, names_in_schema, notes_of
from ia3.data.examples import Fault, Origin, quote
from ia3.data.records import Record, Source
from ia3.data.values import Number
from ia3.errors import TableError
from ia3.spelling import first_line

BATCH_ROWS = 1024


class ArrowRow(dict[str, object]):
    """The values of one row by column, and the batch that it is a row of."""

    __slots__ = ("batch", "index")

    def __init__(self, values: Mapping[str, object], batch: Any, index: int) -> None:
        super().__init__(values)
        self.batch = batch
        self.index = index


def read_batches(name: str, schema: Any, batches: Iterable[Any]) -> Source:
    """Return Arrow record batches as a source.

    Args:
        name: The source, for messages.
        schema: Of all batches.
        batches: Each of at most about `BATCH_ROWS` rows.

    Raises:
        TableError: The schema names a column twice; while iterating also: the batches break off.
    """
    columns = tuple(schema.names)
    twice = sorted({column for column in columns if columns.count(column) > 1})
    if twice:
        raise TableError(f"Reading {name}: it names {', '.join(map(quote, twice))} more than once. Rename one of them.")
    names = {column: own for column, own in names_in_schema(schema.metadata).items() if column in columns}
    records = _read_records(name, batches, columns, names)
    return Source(name, columns, records, notes=notes_of(names), schema=schema, classes=names)


def _read_records(
    name: str, batches: Iterable[Any], columns: tuple[str, ...], names: ClassNames
) -> Generator[Record, None, None]:
    import pyarrow

    row = 0
    try:
        for batch in batches:
            for index, values in enumerate(zip(*map(_read_column, batch.columns), strict=True)):
                row += 1
                yield _make_record(Origin(name, row), columns, values, names, batch, index)
    except (OSError, pyarrow.ArrowException) as error:
        raise TableError(f"Reading {name}: damaged after row {row}: {first_line(error)}.") from error


def _make_record(
    origin: Origin, columns: tuple[str, ...], values: tuple[object, ...], names: ClassNames, batch: Any, index: int
) -> Record:
    faults = tuple(
        Fault(origin, name, f"byte 0x{value.object[value.start]:02x} of the value is not UTF-8")
        for name, value in zip(columns, values, strict=True)
        if isinstance(value, UnicodeDecodeError)
    )
    if faults:
        return Record(origin, {}, faults)
    record = name_classes(origin, dict(zip(columns, values, strict=True)), names)
    return record if record.faults else Record(origin, ArrowRow(record.values, batch, index))


def _read_column(column: Any) -> list[object]:
    """Return the values of one column of a batch; a string that is not UTF-8 as the error it gives."""
    import pyarrow.types

    if pyarrow.types.is_float32(column.type) or pyarrow.types.is_float16(column.type):
        return [_spell_short(value) for value in column]
    try:
        return list(column.to_pylist())
    except (ValueError, OverflowError):
        return [_decode(value) for value in column]


def _spell_short(value: Any) -> object:
    number = value.as_py()
    if number is None or number != number:
        return None
    import numpy

    kind = numpy.float16 if str(value.type) == "halffloat" else numpy.float32
    return Number(str(kind(number)))


def _decode(value: Any) -> object:
    """Return one value; a time that Python has no type for as Arrow spells it."""
    try:
        return value.as_py()
    except UnicodeDecodeError as error:
        return error
    except (ValueError, OverflowError):
        return _spell_time(value)


def _spell_time(value: Any) -> str:
    import pyarrow

    try:
        return str(value.cast(pyarrow.string()).as_py())
    except pyarrow.ArrowException:
        return str(getattr(value, "value", value.type))

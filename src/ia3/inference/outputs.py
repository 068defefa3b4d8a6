"""Output tables: rows written as CSV, TSV, JSONL or Parquet by the suffix of the file, atomically.

Until all rows are on disk, and after an error or Ctrl-C, nothing stands under the output's name but what stood there
before. Columns of a table that
was read keep the types that they have there. This file knows columns and types; it knows nothing of predictions.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ia3.data.records import spell, spell_json
from ia3.data.values import plain
from ia3.errors import RunError, near_matches
from ia3.files import writing
from ia3.inference.column_types import arrow_array
from ia3.spelling import first_line

OutputRow = Mapping[str, Any]
Write = Callable[[Sequence[OutputRow]], None]
_QUOTED = re.compile('[",\t\r\n]')


@contextmanager
def open_output(
    path: str | Path,
    columns: Sequence[str],
    number_columns: Sequence[str] = (),
    *,
    types: Mapping[str, Any] | None = None,
    schema: Any = None,
    overwrite: bool = False,
) -> Iterator[Write]:
    """Give a function that writes rows; the file is there, whole, when the scope ends without an error.

    Args:
        path: The file; its suffix decides the format.
        columns: The first columns: of strings, or of the values that a table has. A row that lacks one lacks it in
            JSONL, and has nothing there elsewhere.
        number_columns: Columns of numbers, after them. In CSV, TSV and JSONL they have nine significant digits.
        types: Arrow types of the first columns for Parquet; strings if left out.
        schema: Of the Arrow table whose rows (`ArrowRow`) the first columns are: they are written as they came.
        overwrite: Whether a file of this name is replaced.

    Raises:
        RunError: If the suffix is unknown, a file is there, or it cannot be written.

    Example:
        >>> with open_output("out.csv", ["text"], ["probability"]) as write:  # doctest: +SKIP
        ...     write([{"text": "Profit rose.", "probability": 0.9}])
    """
    output = check_output(path, overwrite=overwrite)
    with contextlib.ExitStack() as half:
        with _telling_faults(output):
            file = half.enter_context(writing(output))
            table = _OPENERS[output.suffix.lower()](file, _Columns(columns, number_columns, types or {}, schema))
        try:
            yield _telling_faults(output)(table.write)  # a caller's own reading stays what it is
        except BaseException:
            with contextlib.suppress(Exception):  # a table that is left open complains when it is collected
                table.close()
            raise
        with _telling_faults(output):
            table.close()
            check_output(output, overwrite=overwrite)  # another may have come meanwhile
            half.close()


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


def _open_delimited(file: IO[bytes], columns: _Columns, delimiter: str) -> _OpenTable:
    def line(values: Sequence[str]) -> bytes:
        # Python's csv leaves a lone \r unquoted before 3.13, and then reads two rows
        cells = ['"' + v.replace('"', '""') + '"' if _QUOTED.search(v) else v for v in values]
        return (delimiter.join(cells) + "\n").encode()

    def cells(row: OutputRow) -> list[str]:
        return [
            *(spell(plain(row.get(name))) for name in columns.first),
            *(f"{row[name]:.9g}" for name in columns.numbers),
        ]

    def write(rows: Sequence[OutputRow]) -> None:
        file.write(b"".join(line(cells(row)) for row in rows))

    file.write(line([*columns.first, *columns.numbers]))
    return _OpenTable(write)


def _open_jsonl(file: IO[bytes], columns: _Columns) -> _OpenTable:
    def line(row: OutputRow) -> str:
        numbers = {name: float(f"{row[name]:.9g}") for name in columns.numbers}
        return spell_json({**row, **numbers})

    def write(rows: Sequence[OutputRow]) -> None:
        file.write("".join(f"{line(row)}\n" for row in rows).encode())

    return _OpenTable(write)


def _open_parquet(file: IO[bytes], columns: _Columns) -> _OpenTable:
    import pyarrow
    import pyarrow.parquet

    kept = [] if columns.schema is None else [*columns.schema]
    names = {field.name for field in kept}
    text = pyarrow.string()
    added = [(name, columns.types.get(name, text)) for name in columns.first if name not in names]
    added += [(name, pyarrow.float64()) for name in columns.numbers]
    whole = pyarrow.schema([*kept, *(pyarrow.field(*one) for one in added)])
    if columns.schema is not None:
        whole = whole.with_metadata(columns.schema.metadata)
    try:
        writer = pyarrow.parquet.ParquetWriter(file, whole)
    except pyarrow.ArrowException as error:
        raise RunError(f"Writing Parquet: it has no type for a column of the table: {first_line(error)}.") from error

    def write(rows: Sequence[OutputRow]) -> None:
        if not rows:
            return
        arrays = [arrow_array([row.get(name) for row in rows], kind) for name, kind in added]
        if columns.schema is not None:
            arrays = [*_arrow_rows(rows, columns.schema).columns, *arrays]
        writer.write_table(pyarrow.table(arrays, schema=whole).unify_dictionaries())

    return _OpenTable(write, writer.close)


def _arrow_rows(rows: Sequence[OutputRow], schema: Any) -> Any:
    """Return the Arrow rows that output rows came from, as a table."""
    import pyarrow

    slices: list[tuple[Any, int, int]] = []  # batch, first row, number of rows
    for row in rows:
        batch, first, count = slices[-1] if slices else (None, 0, 0)
        if row.batch is batch and row.index == first + count:  # type: ignore[attr-defined]
            slices[-1] = (batch, first, count + 1)
        else:
            slices.append((row.batch, row.index, 1))  # type: ignore[attr-defined]
    return pyarrow.Table.from_batches([batch.slice(first, count) for batch, first, count in slices]).select(
        schema.names
    )


@dataclass(frozen=True)
class _Columns:
    """What an output table has."""

    first: Sequence[str]
    numbers: Sequence[str]  # behind them
    types: Mapping[str, Any]
    schema: Any


@dataclass(frozen=True)
class _OpenTable:
    """A table that is being written into an open file."""

    write: Write
    close: Callable[[], object] = lambda: None  # writes what comes after the rows; the file stays open


_Opener = Callable[[IO[bytes], _Columns], _OpenTable]
_OPENERS: Mapping[str, _Opener] = {
    ".csv": lambda file, columns: _open_delimited(file, columns, ","),
    ".tsv": lambda file, columns: _open_delimited(file, columns, "\t"),
    ".jsonl": _open_jsonl,
    ".parquet": _open_parquet,
}

"""Rows of tables that other libraries hold in memory: pandas, numpy, Arrow, polars and `datasets`.

Knows them by what they can do, and imports none of them unless a table of theirs is given. Rules: the index of a pandas
table does not matter; columns without names are text and label where there are two; what no rows can be read from is
told with the words that make rows of it.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any

from ia3.data.arrow import BATCH_ROWS, read_batches
from ia3.data.examples import Origin, quote
from ia3.data.hub import read_rows
from ia3.data.objects import open_objects
from ia3.data.records import Record, Source
from ia3.errors import TableError

_BY_PLACE = {1: ("text",), 2: ("text", "label")}  # what columns without names are, by their number
_LIBRARIES = ("pandas", "numpy", "pyarrow", "datasets")


def read_frame(name: str, source: Any) -> Source | None:
    """Return a table in memory as a source, None for what is none: rows that are read one by one.

    Args:
        name: What the rows are called in messages.
        source: What was given.

    Raises:
        TableError: No rows can be read from it as it is; says what to give.
    """
    if isinstance(source, Mapping):
        raise _explain_mapping(name, source)
    if is_of(source, "datasets") and hasattr(source, "with_format"):
        return open_objects(name, read_rows(name, source.with_format(None)))
    if is_of(source, "pandas"):
        return _read_pandas(name, source) if hasattr(source, "columns") else None
    if is_of(source, "numpy") and hasattr(source, "dtype"):
        return _read_array(name, source)
    if is_arrow(source):
        return _read_arrow(name, source)
    if hasattr(source, "collect") and hasattr(source, "lazy"):
        raise TableError(f"Reading {name}: got a table that is not computed yet. Give frame.collect().")
    return None


def is_of(source: Any, library: str) -> bool:
    """Tell whether a value is of a class of this library, or of one that was made from one."""
    return any(kind.__module__.partition(".")[0] == library for kind in type(source).__mro__)


def is_arrow(source: Any) -> bool:
    """Tell whether a value is a table of Arrow's, or of a library that hands its tables out as such."""
    has_columns = hasattr(source, "columns") or hasattr(source, "column_names") or hasattr(source, "read_next_batch")
    return has_columns and (hasattr(source, "__arrow_c_stream__") or hasattr(source, "__arrow_c_array__"))


def is_frame(source: Any) -> bool:
    """Tell whether a value is a table or a column that another library holds in memory, which can be read again."""
    if isinstance(source, Iterator):
        return False
    return is_arrow(source) or any(is_of(source, library) for library in _LIBRARIES)


def _read_pandas(name: str, frame: Any) -> Source:
    columns = [*frame.columns]
    if getattr(frame.columns, "nlevels", 1) > 1:
        raise TableError(
            f"Reading {name}: the columns of the table have {frame.columns.nlevels} levels of names, such as "
            f"{columns[0] if columns else ()!r}, expected one. Join them: "
            "frame.columns = ['_'.join(map(str, names)) for names in frame.columns]."
        )
    if columns == list(range(len(columns))) and len(columns) in _BY_PLACE:
        columns = [*_BY_PLACE[len(columns)]]
    odd = [column for column in columns if not isinstance(column, str)]
    if odd:
        raise TableError(
            f"Reading {name}: a column of the table is called {odd[0]!r}, expected text. Name them: "
            "frame.columns = ['text', 'label', …]."
        )
    return _read_columns(name, columns, [frame.iloc[:, place] for place in range(len(columns))])


def _read_array(name: str, array: Any) -> Source | None:
    if array.dtype.names is not None and array.ndim == 1:
        return _read_columns(name, array.dtype.names, [array[column] for column in array.dtype.names])
    if array.ndim == 1:
        return None
    if array.ndim == 2 and array.shape[1] in _BY_PLACE:
        return _read_columns(name, _BY_PLACE[array.shape[1]], [array[:, place] for place in range(array.shape[1])])
    raise TableError(
        f"Reading {name}: got an array of shape {array.shape}, expected one row for each text, with the text, or text "
        "and label. More columns need names: pandas.DataFrame(array, columns=['text', 'label', …])."
    )


def _read_columns(name: str, columns: Sequence[str], values: Sequence[Iterable[Any]]) -> Source:
    twice = sorted({column for column in columns if columns.count(column) > 1})
    if twice:
        raise TableError(f"Reading {name}: it names {', '.join(map(quote, twice))} more than once. Rename one of them.")
    return Source(name, tuple(map(str, columns)), _zip_columns(name, columns, values))


def _zip_columns(name: str, columns: Sequence[str], values: Sequence[Iterable[Any]]) -> Generator[Record, None, None]:
    for number, row in enumerate(zip(*values, strict=True), start=1):
        yield Record(Origin(name, number), dict(zip(columns, row, strict=True)))


def _read_arrow(name: str, source: Any) -> Source:
    import pyarrow

    if isinstance(source, pyarrow.RecordBatchReader):
        return read_batches(name, source.schema, source)
    table = pyarrow.table(source)
    return read_batches(name, table.schema, table.to_batches(max_chunksize=BATCH_ROWS))


def _explain_mapping(name: str, source: Mapping[Any, Any]) -> TableError:
    keys = ", ".join(quote(str(key)) for key in list(source)[:5])
    if is_of(source, "datasets"):
        return TableError(
            f"Reading {name}: got a data set with the splits {keys}. Give one: data[{next(iter(source), '')!r}]."
        )
    return TableError(
        f"Reading {name}: got a single {type(source).__name__} with the keys {keys}, expected rows, each with text and "
        "label. One row: put it in a list. Columns: pandas.DataFrame(columns)."
    )

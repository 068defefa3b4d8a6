"""Which reader opens which source: a file by its suffix, a folder of files, a hub data set, or rows in memory.

Knows nothing of text and label columns. Rules: an existing path is always taken as a path; all files of a folder are
opened once before the first record, so that a file with other columns is told at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ia3.data.delimited import read_delimited
from ia3.data.examples import Origin, quote
from ia3.data.frames import is_frame, read_frame
from ia3.data.hub import is_hub_id, read_hub
from ia3.data.objects import COLUMN_RECORDS, name_kind, open_objects, read_json, read_jsonl
from ia3.data.parquet import read_parquet
from ia3.data.records import Record, Source, broken
from ia3.data.table_files import DELIMITED, LIKELY, OBJECTS, TableFile, not_delimited
from ia3.data.values import plain
from ia3.errors import TableError, near_matches
from ia3.spelling import first_of

ROWS_NAME = "<rows>"
_SAVED_TO_DISK = ("state.json", "dataset_dict.json")  # beside a data set's Arrow files


def open_source(source: str | Path | TableFile | Iterable[Any]) -> Source:
    """Return the opened source.

    Args:
        source: A path of a CSV, TSV, JSONL, JSON or Parquet file or of a folder of those; a hub id (`user/name` or
            `user/name:split`, with a revision `user/name@revision:split`); or rows in memory: (text, label) pairs,
            strings, mappings, or a table of pandas, numpy, Arrow or `datasets`.

    Returns:
        Its columns and records.

    Raises:
        TableError: There is no such source, or it is empty or cannot be read.
    """
    if isinstance(source, str) and not source:
        raise TableError("Reading '': the path is empty, expected a file, a folder or a hub id.")
    if isinstance(source, str | Path):
        return _open_address(source, TableFile(source))
    if isinstance(source, TableFile):
        return _open_address(source.path, source)
    return _open_rows(source)


def _open_address(address: str | Path, file: TableFile) -> Source:
    path = Path(address).expanduser()
    if path.is_dir():
        return _open_folder(path, file)
    if path.exists():
        return _open_file(path, file)
    if isinstance(address, str) and _can_be_hub_id(address, path):
        if file.is_asked:
            raise not_delimited(address)
        return read_hub(address)
    raise _missing(address, path)


def is_rereadable(source: Any) -> bool:
    """Tell whether a source gives the same rows each time it is opened."""
    return isinstance(source, str | Path | TableFile | Sequence) or is_frame(source)


def _can_be_hub_id(source: str, path: Path) -> bool:
    is_local = path.suffix.lower() in SUFFIXES or path.is_absolute() or source.startswith((".", "~"))
    return not is_local and is_hub_id(source) and not (path.parent != Path() and path.parent.is_dir())


def _missing(source: str | Path, path: Path) -> TableError:
    if not path.parent.is_dir():
        return TableError(f"Reading {source}: there is no folder {quote(str(path.parent))}.")
    names = [p.name for p in path.parent.iterdir() if p.is_dir() or p.suffix.lower() in SUFFIXES]
    near = near_matches(path.name, (name for name in names if not name.startswith(".")))
    return TableError(f"Reading {source}: no such file or folder.{near}")


def _open_file(path: Path, file: TableFile) -> Source:
    suffix = path.suffix.lower()
    delimiter = file.delimiter or DELIMITED.get(suffix)
    if suffix not in _READERS and delimiter is not None:
        return read_delimited(path, delimiter, quotes=file.quotes, is_given=file.delimiter is not None)
    reader = _READERS.get(suffix)
    if reader is None:
        got = f"the suffix {quote(path.suffix)}" if path.suffix else "no suffix"
        hint = " Name what stands between its values: --delimiter CHARACTER." if suffix in LIKELY else ""
        raise TableError(f"Reading {path}: the file has {got}, expected one of {' '.join(SUFFIXES)}.{hint}")
    if file.is_asked:
        raise not_delimited(path)
    return reader(path)


def _open_folder(folder: Path, file: TableFile) -> Source:
    if any((folder / name).is_file() for name in _SAVED_TO_DISK):
        raise TableError(
            f"Reading {folder}: it is a data set that save_to_disk of datasets has written, expected a folder of "
            f"{' '.join(SUFFIXES)} files. In Python give datasets.load_from_disk({str(folder)!r}); its to_parquet "
            "writes a file."
        )
    files = sorted(p for p in folder.iterdir() if _is_table(p))
    if not files:
        raise TableError(f"Reading {folder}: the folder has no table file, expected one of {' '.join(SUFFIXES)}.")
    first = _open_one(files[0], file)
    first.records.close()
    others = [_open_one(path, file) for path in files[1:]]
    for other in others:
        _check_columns(folder, first, other)
    schema = first.schema if all(other.schema == first.schema for other in others) else None
    names = first_of((p.name for p in files), 5)
    note = f"rows: {len(files)} file{'s' * (len(files) != 1)} of {folder} ({names})"
    return replace(first, name=str(folder), records=_chain(files, file), notes=(note, *first.notes), schema=schema)


def _open_one(path: Path, file: TableFile) -> Source:
    """Return a file of a folder; what is asked for holds for those that have delimiters."""
    return _open_file(path, file if path.suffix.lower() in DELIMITED else TableFile(path))


def _is_table(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _check_columns(folder: Path, first: Source, other: Source) -> None:
    other.records.close()
    if first.has_free_columns and other.has_free_columns:
        return
    if first.classes != other.classes and set(first.columns) == set(other.columns):
        raise TableError(
            f"Reading {folder}: {Path(first.name).name} and {Path(other.name).name} have other names for the numbers "
            "of their classes. Give one of the files, or make their names the same."
        )
    if set(first.columns) != set(other.columns):
        raise TableError(
            f"Reading {folder}: its files have different columns: {', '.join(map(quote, first.columns))} in "
            f"{Path(first.name).name}, {', '.join(map(quote, other.columns))} in {Path(other.name).name}. "
            "Give one of the files, or make their columns the same."
        )


def _chain(files: Sequence[Path], file: TableFile) -> Generator[Record, None, None]:
    for path in files:
        yield from _open_one(path, file).records


def _open_rows(rows: Iterable[Any]) -> Source:
    """Return rows in memory as a source; the first row that is there tells which of the three kinds they are."""
    frame = read_frame(ROWS_NAME, rows)
    if frame is not None:
        return frame
    if isinstance(rows, bytes) or not isinstance(rows, Iterable):
        raise TableError(
            f"Reading {ROWS_NAME}: got a value of type {quote(type(rows).__name__)}, expected a path, a hub id, a "
            "table of pandas, numpy, Arrow or datasets, or an iterable of (text, label) pairs, strings or dicts."
        )
    items = map(_as_row, rows)
    first = []  # as few as tell: a stream is read only when its rows are asked for
    for row in itertools.islice(items, COLUMN_RECORDS):
        first.append(row)
        if row is not None:
            break
    if not first:
        raise TableError(f"Reading {ROWS_NAME}: there are no rows.")
    kind = first[-1]
    every = enumerate(itertools.chain(first, items), start=1)
    numbered = ((Origin(ROWS_NAME, number), row) for number, row in every)
    if isinstance(kind, Mapping):
        return open_objects(ROWS_NAME, _read_mappings(numbered))
    columns = ("text",) if isinstance(kind, str) or kind is None else ("text", "label")
    return Source(ROWS_NAME, columns, _read_tuples(numbered, columns, is_known=isinstance(kind, str | list | tuple)))


def _as_row(row: Any) -> Any:
    """Return a row as a string, a mapping or a tuple; None where nothing is there."""
    if isinstance(row, str | Mapping):
        return row
    if hasattr(row, "_asdict"):  # a row of frame.itertuples(), whose columns stand in the table's own order
        return row._asdict()
    if hasattr(row, "keys"):  # a row of a database, or of frame.iterrows()
        return {key: row[key] for key in row.keys()}  # noqa: SIM118 (they iterate over their values)
    return row if isinstance(row, list | tuple) else _of_array(plain(row))


def _of_array(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _read_mappings(rows: Iterable[tuple[Origin, Any]]) -> Generator[Record, None, None]:
    for origin, row in rows:
        if isinstance(row, Mapping) and all(isinstance(key, str) for key in row):
            yield Record(origin, row)
        elif isinstance(row, Mapping):
            yield broken(origin, "a key is not a string")
        else:
            yield broken(origin, f"expected a dict like the first row, got {name_kind(row)}")


def _read_tuples(
    rows: Iterable[tuple[Origin, Any]], columns: tuple[str, ...], *, is_known: bool
) -> Generator[Record, None, None]:
    expected = "a string like the first row" if len(columns) == 1 else "a pair (text, label)"
    if not is_known:
        expected = "a string, a pair (text, label) or a dict"
    for origin, row in rows:
        if len(columns) == 1 and (isinstance(row, str) or row is None):
            yield Record(origin, {"text": row})
        elif len(columns) == 2 and isinstance(row, tuple | list) and len(row) == 2:
            yield Record(origin, dict(zip(columns, row, strict=True)))
        else:
            size = f" of {len(row)} values" if isinstance(row, tuple | list) else ""
            yield broken(origin, f"expected {expected}, got {name_kind(row)}{size}")


_READERS: Mapping[str, Callable[[Path], Source]] = dict(
    zip(OBJECTS, (read_jsonl, read_json, read_parquet), strict=True)
)
SUFFIXES = (*DELIMITED, *_READERS)

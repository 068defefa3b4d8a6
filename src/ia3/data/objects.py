"""Records of JSONL and JSON files.

Knows nothing of text and label columns. Rules: numbers keep their source spelling; a key that stands twice in an
object is a fault; a JSONL line that is not JSON is a fault of that line, a JSON file that is not JSON cannot be
read at all.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from pathlib import Path

from ia3.data.examples import Origin, quote
from ia3.data.lines import Line, describe_bad_byte, read_lines
from ia3.data.records import Record, Source, broken, look_ahead
from ia3.data.values import Constant, Number
from ia3.errors import TableError

COLUMN_RECORDS = 100  # how many records are looked at to know the columns of a file without a header
_BLANKS = " \t\r\n"
_SHAPES = 'expected a list of objects, or {"data": [...]}'


def read_jsonl(path: Path) -> Source:
    """Return the opened JSONL file; its columns are the keys of its first 100 records.

    Args:
        path: The file, one object a line; blank lines are no records.

    Returns:
        Columns and records. A later record may bring further keys.

    Raises:
        TableError: The file holds no records.
    """
    return open_objects(str(path), _read_jsonl_records(path))


def read_json(path: Path) -> Source:
    """Return the opened JSON file, which is loaded whole.

    Args:
        path: A file with a list of objects, or an object with such a list under `"data"`.

    Returns:
        Columns and records; the line of a record is the one where its object starts.

    Raises:
        TableError: The file is not JSON, of another shape, or empty.
    """
    return open_objects(str(path), _read_json_records(path))


def open_objects(name: str, records: Generator[Record, None, None]) -> Source:
    """Return a source whose columns are the keys of its first 100 records, in order of their first appearance."""
    first, records = look_ahead(records, COLUMN_RECORDS)
    if not first:
        raise TableError(f"Reading {name}: there are no rows.")
    columns = tuple(dict.fromkeys(key for record in first for key in record.values))
    return Source(name, columns, records, has_free_columns=True)


def _read_jsonl_records(path: Path) -> Generator[Record, None, None]:
    for line in read_lines(path):
        if line.text.strip(_BLANKS):
            origin = Origin(str(path), line.number)
            yield _parse_line(origin, line)


def _parse_line(origin: Origin, line: Line) -> Record:
    problem = describe_bad_byte(line)
    if problem:
        return broken(origin, problem)
    try:
        value = _DECODER.decode(line.text.rstrip("\r\n"))
    except json.JSONDecodeError as error:
        return broken(origin, f"invalid JSON at character {error.colno}: {error.msg}")
    except (ValueError, RecursionError) as error:
        return broken(origin, f"invalid JSON: {_explain(error)}")
    return _object_record(origin, value)


def _object_record(origin: Origin, value: object) -> Record:
    if isinstance(value, dict):
        return Record(origin, value)
    return broken(origin, f"expected an object, got {name_kind(value)}")


def name_kind(value: object) -> str:
    """Return what a value is called in JSON, with its article."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list | tuple):
        return "a list"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a bool"
    if isinstance(value, Number | Constant | int | float):
        return "a number"
    return "a string" if isinstance(value, str) else f"a value of type {type(value).__name__}"


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"key {quote(twice)} stands twice in an object")
    return value


def _explain(error: Exception) -> str:
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)


def _read_json_records(path: Path) -> Generator[Record, None, None]:
    lines = list(read_lines(path))
    text = "".join(line.text for line in lines)
    offset = lines[0].offset if lines else None
    for number, position, end, value in _walk_list(text, _check_shape(path, text)):
        origin = Origin(str(path), number)
        start = None if offset is None or text.isascii() else offset
        if start is not None and not text[position:end].isascii():
            start += len(text[:position].encode("utf-8", "surrogateescape"))
        problem = describe_bad_byte(Line(number, start, text[position:end]))
        yield broken(origin, problem) if problem else _object_record(origin, value)


def _check_shape(path: Path, text: str) -> int:
    """Return where the list of records begins in the text, which is checked to be valid JSON to its end."""
    if not text.strip(_BLANKS):
        raise TableError(f"Reading {path}: the file is empty, {_SHAPES}.")
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, character {error.colno}"
        is_jsonl = error.msg == "Extra data" and text.lstrip(_BLANKS).startswith("{")
        cure = " One object a line is JSONL: name the file .jsonl." if is_jsonl else ""
        raise TableError(f"Reading {path}: invalid JSON at {where}: {error.msg}.{cure}") from error
    except (ValueError, RecursionError) as error:
        raise TableError(f"Reading {path}: invalid JSON: {_explain(error)}.") from error
    if isinstance(value, list):
        return text.index("[")
    if isinstance(value, dict) and isinstance(value.get("data"), list):
        return _find_data(text)
    keys = f" with the keys {', '.join(map(quote, value))}" if isinstance(value, dict) and value else ""
    got = name_kind(value) + keys
    raise TableError(f"Reading {path}: the file is {got}, {_SHAPES}.")


def _find_data(text: str) -> int:
    """Return where the value of the key "data" begins in a valid object."""
    position = _skip(text, text.index("{") + 1, _BLANKS)
    while True:
        key, position = _DECODER.raw_decode(text, position)
        position = _skip(text, position, _BLANKS + ":")
        if key == "data":
            return position
        _, position = _DECODER.raw_decode(text, position)
        position = _skip(text, position, _BLANKS + ",")


def _walk_list(text: str, position: int) -> Iterator[tuple[int, int, int, object]]:
    """Yield line number, begin, end and value of each item of the valid list that begins at `position`."""
    number, counted = 1, 0  # the line of the place up to which line ends were counted
    position = _skip(text, position + 1, _BLANKS)
    while text[position] != "]":
        number, counted = number + text.count("\n", counted, position), position
        value, end = _DECODER.raw_decode(text, position)
        yield number, position, end, value
        position = _skip(text, end, _BLANKS + ",")


def _skip(text: str, position: int, marks: str) -> int:
    while text[position] in marks:
        position += 1
    return position


# The scanner stays json's own in C: the hooks only see numbers and finished objects.
_DECODER = json.JSONDecoder(
    parse_float=Number, parse_int=Number, parse_constant=Constant, object_pairs_hook=_unique_keys
)

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ia3.data.tables import read_table, stream_table
from ia3.errors import TableError


def _write(folder: Path, columns: dict[str, object], name: str = "t.parquet") -> Path:
    path = folder / name
    pq.write_table(pa.table(columns), path, row_group_size=2)
    return path


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        (pa.array([0, 7]), ["0", "7"]),
        (pa.array([1.0, 1e30]), ["1.0", "1e+30"]),
        (pa.array([0.1, 2.0], pa.float32()), ["0.1", "2.0"]),
        (pa.array([True, False]), ["true", "false"]),
        (pa.array(["007", "NA"]), ["007", "NA"]),
        (pa.array(["007", "NA"]).dictionary_encode(), ["007", "NA"]),
    ],
)
def test_labels_become_strings_as_they_are_written(tmp_path: Path, values: pa.Array, labels: list[str]) -> None:
    table = read_table(_write(tmp_path, {"text": ["a", "b"], "label": values}))
    assert [e.label for e in table.examples] == labels


def test_origins_are_row_numbers_across_row_groups(tmp_path: Path) -> None:
    table = read_table(_write(tmp_path, {"text": list("abcde"), "label": list("xyxyx")}))
    assert [e.origin.line for e in table.examples] == [1, 2, 3, 4, 5]


def test_nulls_empty_texts_and_bad_characters_are_named_with_their_row(tmp_path: Path) -> None:
    not_utf8 = pa.array([b"a", b"b", b"c", b"d", b"x\xff"]).view(pa.string())
    columns = {
        "text": ["a", None, "", "n\0", "e"],
        "label": pa.array([1.5, float("nan"), 2.0, None, 1.0]),
        "note": not_utf8,
    }
    path = _write(tmp_path, columns)
    with pytest.raises(TableError) as caught:
        read_table(path)
    assert [str(fault).removeprefix(f"{path}:") for fault in caught.value.faults] == [
        "2, column 'text': text is missing",
        "2, column 'label': label is missing",
        "3, column 'text': text is empty",
        "4, column 'text': NUL character at character 2",
        "4, column 'label': label is missing",
        "5, column 'note': byte 0xff of the value is not UTF-8",
    ]


def test_missing_short_floats_are_missing_labels(tmp_path: Path) -> None:
    labels = pa.array([0.5, None, float("nan")], pa.float32())
    table = read_table(_write(tmp_path, {"text": ["a", "b", "c"], "label": labels}), skip_bad_rows=True)
    assert [e.text for e in table.examples] == ["a"]


def test_long_fields_are_read(tmp_path: Path) -> None:
    table = read_table(_write(tmp_path, {"text": ["x" * 100_000], "label": ["y"]}))
    assert len(table.examples[0].text) == 100_000


def test_bytes_are_no_text(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=":1, column 'text': text is a value of type bytes, expected a string"):
        read_table(_write(tmp_path, {"text": [b"a"], "label": ["y"]}))


def test_a_file_that_is_not_parquet_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    path.write_bytes(b"text,label\na,b\n" * 5)
    with pytest.raises(TableError, match="not a Parquet file that can be read: Parquet magic bytes not found"):
        read_table(path)


def test_a_damaged_page_is_named_with_the_last_good_row(tmp_path: Path) -> None:
    path = _write(tmp_path, {"text": [f"text {i}" for i in range(4)], "label": list("xyxy")})
    raw = path.read_bytes()
    start = pq.ParquetFile(path).metadata.row_group(0).column(0).file_offset or 4
    path.write_bytes(raw[:start] + b"\xff" * 40 + raw[start + 40 :])
    with pytest.raises(TableError, match="damaged after row 0"):
        read_table(path, text="text", label="label")


def test_columns_that_stand_twice_are_named(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"]), path)
    with pytest.raises(TableError, match="it names 'text' more than once"):
        read_table(path)


def test_a_file_without_rows_is_named(tmp_path: Path) -> None:
    empty = pa.array([], pa.string())
    with pytest.raises(TableError, match="there are no rows"):
        read_table(_write(tmp_path, {"text": empty, "label": empty}))


def test_a_stream_gives_the_same_examples(tmp_path: Path) -> None:
    path = _write(tmp_path, {"text": [f"t{i}" for i in range(3000)], "label": ["x", "y"] * 1500})
    assert list(stream_table(path)) == list(read_table(path).examples)

"""Tables that other libraries hold in memory: their rows, their names, and what no rows can be read from."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from ia3.data.tables import read_table, stream_table
from ia3.errors import TableError

ROWS = [("Profit rose.", "up"), ("Sales fell.", "down"), ("It rained.", "down")]
FRAME = pd.DataFrame(ROWS, columns=["text", "label"], index=[5, 5, 7])
FEATURES = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["down", "up"])})
DATA = datasets.Dataset.from_dict({"text": [t for t, _ in ROWS], "label": [1, 0, 0]}, features=FEATURES)
ARROW = pa.table({"text": [t for t, _ in ROWS], "label": [label for _, label in ROWS]})

TABLES: Mapping[str, Any] = {
    "pandas": FRAME,
    "label in front": FRAME[["label", "text"]],
    "categories": FRAME.astype({"label": "category"}),
    "nullable strings": FRAME.astype("string"),
    "Arrow strings": FRAME.astype("string[pyarrow]"),
    "an index of two levels": FRAME.set_index([[1, 1, 1], [2, 2, 2]]),
    "columns without names": pd.DataFrame(ROWS),
    "array of text": FRAME.to_numpy(dtype=str),
    "array of objects": FRAME.to_numpy(dtype=object),
    "records of numpy": FRAME.to_records(index=False),
    "Arrow table": ARROW,
    "Arrow batch": ARROW.to_batches()[0],
    "dictionary of Arrow": ARROW.set_column(1, "label", ARROW["label"].dictionary_encode()),
    "data set": DATA,
    "data set of tensors": DATA.with_format("numpy"),
    "streamed data set": DATA.to_iterable_dataset(),
    "the data set's Arrow table": DATA.data.table,
}


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES.keys())
def test_a_table_in_memory_is_rows(table: Any) -> None:
    """A frame was compared with "" and died of pandas' "truth value is ambiguous"; iterated, it is its column names."""
    read = read_table(table)
    assert [(example.text, example.label) for example in read.examples] == ROWS
    assert [example.origin.line for example in read.examples] == [1, 2, 3]
    assert [example.text for example in stream_table(table)] == [text for text, _ in ROWS]


class _Handed:
    """A table of a library that nothing here knows, which hands its rows out as Arrow's."""

    columns = ("text", "label")

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return ARROW.__arrow_c_stream__(requested_schema)


class _Lazy:
    """A query that has not been computed."""

    def collect(self) -> _Handed:
        return _Handed()

    def lazy(self) -> _Lazy:
        return self


def test_a_table_of_any_library_that_hands_out_arrow_is_rows() -> None:
    assert [(e.text, e.label) for e in read_table(_Handed()).examples] == ROWS  # type: ignore[arg-type]
    with pytest.raises(TableError, match=r"not computed yet\. Give frame\.collect\(\)"):
        read_table(_Lazy())  # type: ignore[arg-type]


def test_an_arrow_reader_is_read_once() -> None:
    assert [(e.text, e.label) for e in read_table(ARROW.to_reader()).examples] == ROWS


@pytest.mark.parametrize(
    "column", [FRAME.text, FRAME.text.to_numpy(), FRAME.text.astype("category"), ARROW["text"], DATA["text"]]
)
def test_a_column_is_texts(column: Any) -> None:
    assert [example.text for example in read_table(column, labels_required=False).examples] == [t for t, _ in ROWS]


def test_missing_values_of_a_frame_are_told_with_the_number_of_the_row_whatever_the_index() -> None:
    frame = FRAME.assign(label=pd.array([1, None, 0], dtype="Int64"))
    with pytest.raises(TableError, match="<rows>:2, column 'label': label is missing"):
        read_table(frame)


def test_numbers_and_truths_are_labels_as_they_are_spelt() -> None:
    assert [e.label for e in read_table(FRAME.assign(label=[1, 2, 2])).examples] == ["1", "2", "2"]
    assert [e.label for e in read_table(FRAME.assign(label=[True, False, True])).examples] == ["true", "false", "true"]


def test_a_class_without_a_name_is_told_and_minus_one_is_no_label() -> None:
    data = pa.table({"text": ["a", "b", "c"], "label": [1, -1, 2]}, schema=DATA.features.arrow_schema)
    read = read_table(data, skip_bad_rows=True)
    assert [str(fault) for fault in read.faults] == [
        "<rows>:2, column 'label': label is missing",
        "<rows>:3, column 'label': class 2 has no name, the names are of 0 to 1",
    ]


@pytest.mark.parametrize(
    ("table", "told"),
    [
        (FRAME.set_axis(pd.MultiIndex.from_tuples([("a", "text"), ("a", "label")]), axis=1), "2 levels of names"),
        (pd.concat([FRAME, FRAME], axis=1), "names 'label', 'text' more than once"),
        (FRAME.rename(columns={"label": 3}), "a column of the table is called 3, expected text"),
        (np.array([["a", "b", "c"]]), r"an array of shape \(1, 3\)"),
        (np.array("a"), r"an array of shape \(\)"),
        (datasets.DatasetDict(train=DATA), "a data set with the splits 'train'. Give one: data\\['train'\\]"),
        (FRAME[:0], "there are no rows"),
    ],
)
def test_a_table_that_gives_no_rows_is_told_with_what_to_do(table: Any, told: str) -> None:
    with pytest.raises(TableError, match=f"Reading <rows>: .*{told}"):
        read_table(table)


def test_no_library_is_imported_for_rows_that_are_not_its_own() -> None:
    code = (
        "import sys; from ia3.data.tables import read_table; read_table([('a', 'x'), ('b', 'y')]); "
        "print([name for name in ('pandas', 'pyarrow', 'datasets', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

"""What a predictor takes: texts, dicts, and tables that other libraries hold in memory."""

from __future__ import annotations

from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from ia3.errors import TableError
from ia3.inference.rows import choose_columns_of, list_rows, read_rows

TEXTS = ["Profit rose.", "Sales fell."]
FRAME = pd.DataFrame({"id": [1, 2], "sentence": TEXTS}, index=[9, 9])


@pytest.mark.parametrize(
    "given",
    [
        FRAME,
        FRAME[["sentence"]],
        FRAME.sentence,
        FRAME.sentence.to_numpy(),
        np.array(TEXTS),
        pa.table({"sentence": TEXTS}),
        datasets.Dataset.from_dict({"sentence": TEXTS}),
        datasets.Dataset.from_dict({"sentence": TEXTS})["sentence"],
        datasets.Dataset.from_dict({"sentence": TEXTS}).to_iterable_dataset(),
    ],
)
def test_a_table_and_a_column_are_texts(given: Any) -> None:
    """A frame iterates over the names of its columns, which were classified in place of its rows."""
    assert [example.text for example in read_rows(given, "sentence")] == TEXTS


@pytest.mark.parametrize("given", [[], FRAME[:0], FRAME.sentence[:0], np.array([]), pa.table({"sentence": []})])
def test_no_rows_are_no_texts(given: Any) -> None:
    assert list_rows(given) == []


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("Profit rose.", "got a single str, expected a list"),
        ({"sentence": "Profit rose."}, "got a single dict, expected a list"),
        (5, "got a value of type 'int'"),
        (np.array("Profit rose."), "got a single ndarray, expected a list"),
        (np.str_("Profit rose."), "got a single str_, expected a list"),
        (b"Profit rose.", "got a single bytes, expected a list"),
        (pd.Series([1.5]), "expected a string, a pair .text, label. or a dict, got a number"),
        (datasets.DatasetDict(test=datasets.Dataset.from_dict({"sentence": TEXTS})), r"Give one: data\['test'\]"),
    ],
)
def test_what_is_no_list_of_texts_is_told(given: Any, told: str) -> None:
    with pytest.raises(TableError, match=told):
        list_rows(given)


def test_a_missing_text_is_told_with_its_row() -> None:
    with pytest.raises(TableError, match="<rows>:1, column 'text': text is missing"):
        read_rows(pd.Series([None, "Profit rose."]), "text")


def test_the_columns_that_were_trained_with_are_taken_from_a_table_in_memory() -> None:
    wanted = {"text": "sentence", "label": "team"}
    assert choose_columns_of(FRAME, wanted) == {"text": "sentence", "label": None}
    assert choose_columns_of([{"sentence": "a", "team": "b"}], wanted) == wanted
    assert choose_columns_of(iter([{"sentence": "a"}]), wanted) == {"text": None, "label": None}

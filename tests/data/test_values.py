"""Values of other libraries: what is missing in them is missing here, and what is there keeps its spelling."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from enum import Enum
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from ia3.data.records import spell
from ia3.data.tables import read_table
from ia3.data.values import Constant, plain
from ia3.errors import TableError

MISSING: Mapping[str, Any] = {
    "None": None,
    "NaN": float("nan"),
    "float16": np.float16("nan"),
    "float32": np.float32("nan"),
    "float64": np.float64("nan"),
    "longdouble": np.longdouble("nan"),
    "complex": np.complex64(complex("nan")),
    "array without axes": np.array(np.nan, dtype=np.float32),
    "array of None": np.array(None),
    "masked": np.ma.masked,
    "datetime64": np.datetime64("NaT"),
    "datetime64 in ns": np.datetime64("NaT", "ns"),
    "timedelta64": np.timedelta64("NaT"),
    "NaT": pd.NaT,
    "NA": pd.NA,
    "Decimal": Decimal("NaN"),
    "signalling Decimal": Decimal("sNaN"),
    "tensor": torch.tensor(float("nan")),
    "bfloat16 tensor": torch.tensor(float("nan"), dtype=torch.bfloat16),
    "Arrow null": pa.scalar(None),
    "Arrow string": pa.scalar(None, pa.string()),
    "Arrow NaN": pa.scalar(float("nan")),
    "JSON": Constant("NaN"),
}


@pytest.mark.parametrize("value", MISSING.values(), ids=MISSING.keys())
def test_what_any_library_writes_for_nothing_is_a_missing_label(value: Any) -> None:
    """`pd.NA`, `NaT` and a 32-bit NaN are no Python floats, and became the classes '<NA>', 'NaT' and 'nan'."""
    assert plain(value) is None
    rows = [("Profit rose.", "up"), ("Sales fell.", "down"), ("It rained.", value)]
    with pytest.raises(TableError, match="<rows>:3, column 'label': label is missing"):
        read_table(rows)


def test_a_missing_text_choice_and_value_of_another_column_are_nothing() -> None:
    rows: list[dict[str, Any]] = [
        {"text": "Profit rose.", "label": "up", "shop": pd.NA, "options": ["up", "down"]},
        {"text": pd.NA, "label": "up", "shop": np.float32("nan"), "options": ["up", "down"]},
        {"text": "Sales fell.", "label": "up", "shop": "a", "options": np.array(["up", np.nan], dtype=object)},
        {"text": "Sales fell.", "label": "up", "shop": "a", "options": pd.NaT},
    ]
    table = read_table(rows, choices="options", skip_bad_rows=True)
    assert table.examples[0].fields["shop"] == ""
    assert [str(fault) for fault in table.faults] == [
        "<rows>:2, column 'text': text is missing",
        "<rows>:3, column 'options': choice 2 of 2 is empty",
        "<rows>:4, column 'options': choices are missing",
    ]


@pytest.mark.parametrize(
    ("value", "spelt"),
    [
        (np.float32(0.1), "0.1"),
        (np.float16(0.1), "0.1"),
        (np.array(2), "2"),
        (torch.tensor(3), "3"),
        (torch.tensor(0.1), "0.1"),
        (torch.tensor(True), "true"),
        (np.bool_(False), "false"),
        (np.str_("NaN"), "NaN"),
        (np.datetime64("2020-01-31T00:00:00", "ns"), "2020-01-31T00:00:00.000000000"),
        (pd.Timestamp("2020-01-31"), "2020-01-31 00:00:00"),
        (Decimal("1.50"), "1.50"),
        (pa.scalar(7), "7"),
        (np.array([1, 2]), "[1, 2]"),
        (pa.array(["a", None]), '["a", null]'),
        (b"\x00\xff", "AP8="),
        ({"a": np.float32("nan"), "b": [np.int64(1)]}, '{"a": null, "b": [1]}'),
    ],
)
def test_a_value_that_is_there_keeps_its_spelling(value: Any, spelt: str) -> None:
    assert spell(plain(value)) == spelt


def test_a_member_of_an_enum_is_its_value() -> None:
    """`class Mood(str, Enum)` is a string that `str` spells 'Mood.UP', which became the label."""

    class Mood(str, Enum):  # noqa: UP042 (a StrEnum spells itself as its value)
        UP = "up"

    class Level(Enum):
        LOW = 1
        UNKNOWN = None

    assert plain(Mood.UP) == "up"
    table = read_table([("Profit rose.", Mood.UP), ("Sales fell.", Level.LOW), (Mood.UP, "a")])
    assert [(one.text, one.label) for one in table.examples][1:] == [("Sales fell.", "1"), ("up", "a")]
    assert table.examples[0].label == "up"
    assert plain(Level.UNKNOWN) is None


@pytest.mark.parametrize("make", [str, np.str_])
def test_words_for_nothing_stay_labels_and_are_told(make: Callable[[str], str]) -> None:
    table = read_table([("Profit rose.", make("nan")), ("Sales fell.", make("NA")), ("It rained.", make("<NA>"))])
    assert [example.label for example in table.examples] == ["nan", "NA", "<NA>"]
    assert "labels that read like missing values written as text: '<NA>', 'nan'; they are used as labels" in table.notes

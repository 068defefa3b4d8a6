"""Label sets as people write them down."""

from __future__ import annotations

from enum import Enum
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ia3.bases.label_names import read_labels
from ia3.errors import SettingsError


class Mood(str, Enum):  # noqa: UP042 (a StrEnum spells itself as its value)
    DOWN = "down"
    UP = "up"


@pytest.mark.parametrize(
    "labels",
    [
        ["down", "up"],
        np.array(["down", "up"]),
        np.array(["down", "up"], dtype=object),
        pd.Series(["down", "up"], index=[7, 3]),
        pd.Series(["down", "up"], dtype="category").cat.categories,
        {0: "down", 1: "up"},
        {"1": "up", "0": "down"},
        {"up": 1, "down": 0},
        list(Mood),
        (label for label in ("down", "up")),
    ],
)
def test_a_set_of_labels_is_read_in_the_order_of_the_outputs(labels: Any) -> None:
    """An `id2label` gave the labels 0 and 1, an array and a column ended in "truth value is ambiguous"."""
    assert read_labels("Loading", labels) == ("down", "up")


@pytest.mark.parametrize("labels", [[0, 1], np.array([0, 1]), ["0", "1"], {0: 0, 1: 1}])
def test_whole_numbers_are_the_strings_that_they_are_in_a_table(labels: Any) -> None:
    assert read_labels("Loading", labels) == ("0", "1")


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ("good", r"labels is 'good', expected a list\. Write labels=\[…\]"),
        (3, "labels is 3, expected a list"),
        (["a", "b", "a"], "label 'a' is there twice"),
        ({"a", "b"}, "expected an order, that of the head's outputs. Write labels=\\[…\\]"),
        (["a", None], "label 2 is None, expected text or a whole number"),
        ([1.0, 2.0], "label 1 is 1.0, expected text"),
        ({1: "a", 2: "b"}, "expected names for the numbers from 0, as in id2label"),
        ({"a": 0, "b": 0}, "expected names for the numbers from 0, as in id2label"),
    ],
)
def test_what_is_no_set_of_labels_is_told(labels: Any, told: str) -> None:
    """`labels="good"` made a head for g, o, o and d."""
    with pytest.raises(SettingsError, match=f"Loading an encoder: .*{told}"):
        read_labels("Loading an encoder", labels)

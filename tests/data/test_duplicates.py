"""Duplicates between rows trained on and rows evaluated on: found whatever their blanks and case, named with places."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ia3.data.duplicates import describe_duplicates, find_duplicates, normal_text, without_duplicates
from ia3.data.tables import read_table
from ia3.errors import TableError

TRAIN = [("Profit rose.", "up"), ("Sales fell.", "down")]


def test_rows_trained_on_are_found_whatever_their_blanks_and_case() -> None:
    train = read_table([("a", "x"), ("b", "y"), ("A", "y")])
    held = read_table([("c", "x"), ("b", "x"), ("a", "x"), (" A\n", "x"), ("a b", "x")])
    found = find_duplicates(train, held)
    assert [(one.origin.line, one.trained.line, one.is_same_label) for one in found] == [
        (2, 2, False),
        (3, 1, True),
        (4, 1, True),
    ]
    assert find_duplicates(train, read_table([("c", "x")])) == ()


@given(st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "Zs", "Cc"))))
def test_a_normal_text_is_its_own_normal_text_and_that_of_every_spelling(text: str) -> None:
    normal = normal_text(text)
    assert normal_text(f"\t{normal}  ") == normal_text(normal)
    assert normal_text("  ".join(f"\n{text}".split(" "))) == normal


def test_each_is_named_with_file_and_line_on_both_sides(tmp_path: Path) -> None:
    (tmp_path / "few.csv").write_text("text,label\nProfit rose.,up\nSales fell.,down\n")
    (tmp_path / "more.csv").write_text("text,label\nprofit  ROSE.,up\nNew,up\nSales fell.,up\n")
    train, held = (read_table(tmp_path / name) for name in ("few.csv", "more.csv"))
    found = find_duplicates(train, held)
    told = describe_duplicates(found, len(held.examples), are_dropped=False)
    assert told == (
        "2 of the 3 eval rows have a text that is trained on (1 with another label), blanks and case aside: "
        f"{tmp_path}/more.csv:2 is {tmp_path}/few.csv:2, {tmp_path}/more.csv:4 is {tmp_path}/few.csv:3. They stay, so "
        "the eval numbers look better than they are; --drop-duplicates leaves such rows out."
    )
    assert describe_duplicates(found[:1], 3, are_dropped=True).endswith(
        "is " + f"{tmp_path}/few.csv:2. It is left out."
    )
    kept = without_duplicates(held, found)
    assert [example.text for example in kept.examples] == ["New"]
    assert kept.fingerprint == read_table([("New", "up")]).fingerprint


def test_rows_of_one_line_are_left_out_each_by_itself(tmp_path: Path) -> None:
    rows = [{"text": text, "label": "up"} for text in ("Profit rose.", "New", "Newer")]
    (tmp_path / "more.json").write_text(json.dumps(rows))
    held = read_table(tmp_path / "more.json")
    kept = without_duplicates(held, find_duplicates(read_table([("profit rose.", "up")]), held))
    assert [example.text for example in kept.examples] == ["New", "Newer"]


def test_of_many_three_are_named() -> None:
    rows = read_table([(f"text {i}", "x") for i in range(9)])
    told = describe_duplicates(find_duplicates(rows, rows), 9, are_dropped=True)
    assert told.count(" is <rows>:") == 3 and ", and 6 more. They are left out." in told


def test_a_table_of_which_nothing_is_left_is_refused() -> None:
    rows = read_table(TRAIN)
    with pytest.raises(TableError, match=r"every one of its 2 rows has a text that is trained on.*--drop-duplicates"):
        without_duplicates(rows, find_duplicates(rows, rows))

"""Choices that rows bring: what a cell may be, and what is told of one that is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ia3.data.choices import split_choices
from ia3.data.tables import read_table, stream_table
from ia3.errors import TableError


@pytest.mark.parametrize(
    ("cell", "choices"),
    [
        ("red | green|blue ", ("red", "green", "blue")),
        ('["a|b", " c ", 1.50, true]', ("a|b", "c", "1.5", "true")),
        (["x", 2], ("x", "2")),
        ("one", ("one",)),
    ],
)
def test_a_cell_is_a_list_or_has_a_separator(cell: Any, choices: tuple[str, ...]) -> None:
    assert split_choices(cell) == choices


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        (None, "choices are missing"),
        ("[1, 2", "choices begin with [ and are no JSON list, got '[1, 2'"),
        ({"a": 1}, "expected a list of texts, or texts with | between them"),
        ([["a"]], "expected a list of texts"),
    ],
)
def test_another_cell_is_none(cell: Any, told: str) -> None:
    with pytest.raises(ValueError) as caught:
        split_choices(cell)

    assert told in str(caught.value)


def test_each_row_has_its_own(tmp_path: Path) -> None:
    file = tmp_path / "quiz.jsonl"
    file.write_text('{"q": "1+1?", "a": "2", "opts": ["1", "2"]}\n{"q": "Sky?", "a": "blue", "opts": "red|blue|it"}\n')

    table = read_table(file, text="q", label="a", choices="opts")

    assert [example.choices for example in table.examples] == [("1", "2"), ("red", "blue", "it")]
    assert table.choices_column == "opts" and table.examples[0].fields["opts"] == '["1", "2"]'
    assert [example.choices for example in read_table(file, text="q", label="a").examples] == [(), ()]


def test_all_that_is_wrong_is_told_with_file_line_and_column(tmp_path: Path) -> None:
    file = tmp_path / "quiz.csv"
    rows = ["good,a,a|b", "far,blue,red|green", "near,gren,red|green", "one,a,a", "empty,a,a||b", "twice,a,a|b|a"]
    file.write_text("\n".join(["text,label,opts", *rows, "none,a,"]))

    with pytest.raises(TableError) as caught:
        read_table(file, choices="opts")

    assert [str(fault).removeprefix(f"{file}:") for fault in caught.value.faults] == [
        "3, column 'opts': its answer 'blue' is not among its choices, which are 'red', 'green'",
        "4, column 'opts': its answer 'gren' is not among its choices, which are 'red', 'green'. Did you mean 'green'?",
        "5, column 'opts': it has 1 choice, expected at least two, with | between them",
        "6, column 'opts': choice 2 of 3 is empty",
        "7, column 'opts': choice 'a' is there twice",
        "8, column 'opts': choices are missing",
    ]
    assert len(read_table(file, choices="opts", skip_bad_rows=True).examples) == 1


def test_a_row_to_predict_may_have_another_answer(tmp_path: Path) -> None:
    rows = [{"text": "x", "label": "none of them", "opts": "a|b"}]

    assert [example.choices for example in stream_table(rows, choices="opts")] == [("a", "b")]


def test_a_column_that_is_not_there_or_means_something_else_is_told() -> None:
    rows = [{"text": "x", "label": "a", "options": "a|b"}]

    with pytest.raises(TableError, match=r"there is no column of choices 'option'\. Did you mean 'options'"):
        read_table(rows, choices="option")
    with pytest.raises(TableError, match="'label' is named as choices and as text or label"):
        read_table(rows, choices="label")

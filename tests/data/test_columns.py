from __future__ import annotations

from pathlib import Path

import pytest

from ia3.data.tables import read_table, stream_table
from ia3.errors import TableError
from tests.data.written import refused, write


@pytest.mark.parametrize(
    ("header", "text", "label"),
    [
        ("sentence,label", "sentence", "label"),
        ("id,Review,SENTIMENT", "Review", "SENTIMENT"),
        ("question,context,answer", "question", "answer"),
        ("premise,hypothesis,label", "premise", "label"),
        ("title,text,label,label_text", "text", "label"),
        ("text,sentence,label", "text", "label"),
        ("x,tweet ,class", "tweet ", "class"),
    ],
)
def test_columns_with_usual_names_are_chosen_and_said(tmp_path: Path, header: str, text: str, label: str) -> None:
    row = ",".join("abcd"[: header.count(",") + 1])
    table = read_table(write(tmp_path, f"{header}\n{row}\n"))
    assert (table.text_column, table.label_column) == (text, label)
    assert table.notes == (f"text column: '{text}' (by its name)", f"label column: '{label}' (by its name)")


def test_named_columns_are_taken_without_a_note(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, "text,label,other\na,b,c\n"), text="other", label="text")
    assert (table.examples[0].text, table.examples[0].label, table.notes) == ("c", "a", ())


def test_of_two_columns_the_longer_is_the_text(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, "verdict,words\nx,a long text\ny,another one\n"))
    assert (table.text_column, table.label_column) == ("words", "verdict")
    assert table.notes == (
        "text column: 'words' (the only one it can be)",
        "label column: 'verdict' (the only one it can be)",
    )


def test_of_two_columns_of_equal_length_the_last_is_the_label(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, "one,two\na,x\nb,y\n"))
    assert (table.text_column, table.label_column) == ("one", "two")


def test_the_other_of_two_columns_is_taken_when_one_is_known(tmp_path: Path) -> None:
    assert read_table(write(tmp_path, "words,label\na,x\n")).text_column == "words"
    assert read_table(write(tmp_path, "text,verdict\na,x\n")).label_column == "verdict"
    assert read_table(write(tmp_path, "one,two\na,x\n"), label="one").text_column == "two"


def test_an_unknown_named_column_shows_near_names(tmp_path: Path) -> None:
    content = "sentence,label\na,b\n"
    assert refused(write(tmp_path, content), text="sentense") == (
        "there is no text column 'sentense'. Did you mean 'sentence'?"
    )
    assert refused(write(tmp_path, content), label="y") == "there is no label column 'y'. Known: 'label', 'sentence'."


def test_the_same_column_for_both_is_an_error(tmp_path: Path) -> None:
    assert refused(write(tmp_path, "text,label\na,b\n"), text="text", label="text") == (
        "'text' is named as both text and label. Name two columns."
    )


def test_several_usual_names_are_never_guessed_between(tmp_path: Path) -> None:
    assert refused(write(tmp_path, "sentence,review,label\na,b,c\n")) == (
        "the text column may be any of 'sentence', 'review'. Name it: --text COLUMN."
    )
    assert refused(write(tmp_path, "text,sentiment,category\na,b,c\n")) == (
        "the label column may be any of 'sentiment', 'category'. Name it: --label COLUMN."
    )
    assert refused(write(tmp_path, "Text,text,label\na,b,c\n")) == (
        "the text column may be any of 'Text', 'text'. Name it: --text COLUMN."
    )


def test_columns_that_are_not_clear_are_listed_with_the_flags(tmp_path: Path) -> None:
    assert refused(write(tmp_path, "one,two,three\na,b,c\n")) == (
        "the column of the text and the label is not clear, got 'one', 'two', 'three'. "
        "Name it: --text COLUMN --label COLUMN."
    )
    assert refused(write(tmp_path, "text,one,two\na,b,c\n")) == (
        "the column of the label is not clear, got 'text', 'one', 'two'. Name it: --label COLUMN."
    )
    assert refused(write(tmp_path, "text,sentence\na,b\n")) == (
        "the column of the label is not clear, got 'text', 'sentence'. Name it: --label COLUMN."
    )
    assert refused(write(tmp_path, "text\na\n")) == (
        "there is no column for the label, got only 'text'. Text and label are both needed."
    )


@pytest.mark.parametrize(
    ("content", "cell"),
    [
        ("Profit rose in the last quarter.,up\nSales fell.,down\n", "Profit rose in the last quarter."),
        ("good,positive\nbad,negative\nfine,positive\n", "positive"),
        ("nice one,1\nbad one,0\n", "1"),
        ("he said that it was fine,up\nno,down\n", "he said that it was fine"),
    ],
)
def test_a_forgotten_header_costs_no_row(tmp_path: Path, content: str, cell: str) -> None:
    assert refused(write(tmp_path, content)) == (
        f"the first line looks like a row, not a header: '{cell}' reads like a value. "
        "Add a first line with the names of the columns, such as text,label."
    )


def test_a_forgotten_header_of_many_columns_is_hinted_at(tmp_path: Path) -> None:
    assert refused(write(tmp_path, "1,good,up\n2,bad,down\n")).endswith(
        "If the first line is a row, add a header above it."
    )


def test_tables_for_prediction_need_no_label_column(tmp_path: Path) -> None:
    one = read_table(write(tmp_path, "words\na\nb\n"), labels_required=False)
    assert (one.text_column, one.label_column, one.examples[0].label) == ("words", None, None)
    two = read_table(write(tmp_path, "id,words\n1,a text\n2,b text\n"), labels_required=False)
    assert (two.text_column, two.label_column) == ("words", None)
    unclear = stream_table(write(tmp_path, "text,sentiment,category\na,x,y\n"))
    assert (unclear.label_column, [e.label for e in unclear]) == (None, [None])
    with pytest.raises(TableError, match="the column of the text is not clear, got 'a', 'b', 'c'"):
        stream_table(write(tmp_path, "a,b,c\n1,2,3\n"))


def test_labels_that_are_there_are_read_and_gaps_are_none_when_they_are_not_required(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, "text,label\na,x\nb,\n"), labels_required=False)
    assert [e.label for e in table.examples] == ["x", None]

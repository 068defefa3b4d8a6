"""Files that can be read in two ways: with another separator, without quotes, and with columns that nobody named."""

from __future__ import annotations

from pathlib import Path

import pytest

from ia3.data.table_files import TableFile
from ia3.data.tables import read_table
from ia3.errors import SettingsError, TableError
from tests.data.written import write


def _rows(path: Path, **reading: object) -> list[tuple[str, str | None]]:
    return [(e.text, e.label) for e in read_table(path, **reading).examples]  # type: ignore[arg-type]


def _told(path: Path, **reading: object) -> str:
    with pytest.raises(TableError) as caught:
        read_table(path, **reading)  # type: ignore[arg-type]
    return str(caught.value).replace(str(path), path.name)


EXPORT = "Nr;Text;Betrag, EUR;label\n" + "".join(
    f"{i};Profit rose.;{i},50;up\n{i};It fell.;0,1;down\n" for i in range(4)
)


def test_a_header_that_two_separators_fit_is_told_with_both_readings(tmp_path: Path) -> None:
    """A European export with a comma in one name and in its numbers was read as two columns, every label a class."""
    path = write(tmp_path, EXPORT)
    assert _told(path) == (
        "Reading t.csv: the header (line 1) and its rows can be read in two ways: separated by ',' they are 2 columns, "
        "'Nr;Text;Betrag', ' EUR;label'; separated by ';' they are 4 columns, 'Nr', 'Text', 'Betrag, EUR', 'label'. "
        "Say which: --delimiter ',' or --delimiter ';'."
    )
    assert _rows(path, delimiter=";")[:2] == [("Profit rose.", "up"), ("It fell.", "down")]
    assert read_table(path, delimiter=",").columns == ("Nr;Text;Betrag", " EUR;label")


@pytest.mark.parametrize(
    ("content", "name", "told"),
    [
        (EXPORT.split("\n")[0] + "\n", "t.csv", "can be read in two ways"),
        ("Nr;Text, long;label\n1;a;up\n2;b;down\n", "t.csv", "look separated by ';', not by ',': 3 columns"),
        ('"Nr";"Text, long";"label"\n"1";"a";"up"\n', "t.csv", "look separated by ';', not by ',': 3 columns"),
        ("id|text|label\n1|a|up\n", "t.csv", "Give --delimiter '|'"),
        ("id\ttext\tlabel\n1\ta\tup\n", "t.csv", "Give --delimiter tab"),
        ("text,label\na,up\n", "t.tsv", "Give --delimiter ','"),
        ("text;label\n", "t.csv", "Give --delimiter ';'"),
    ],
)
def test_a_file_of_another_separator_is_told_with_the_option(
    tmp_path: Path, content: str, name: str, told: str
) -> None:
    assert told in _told(write(tmp_path, content, name))


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ("text,label\na; b,up\nc; d; e,down\n", "t.csv"),
        ("text,label; final\na; b; c,up\nd,down\n", "t.csv"),
        ('text,label; final\n"a",up\n"b",down\n', "t.csv"),
        ("text, in English\tlabel\na, b\tup\nc, d\tdown\n", "t.tsv"),
        ("sep=;\ntext;label\na, b;up\nc;down\n", "t.csv"),
        ("\ufefftext,label\na;b,up\nc,down\n", "t.csv"),
    ],
)
def test_marks_in_texts_and_names_raise_no_doubt(tmp_path: Path, content: str, name: str) -> None:
    assert [label for _, label in _rows(write(tmp_path, content, name))] == ["up", "down"]


def test_a_delimiter_that_is_not_in_the_header_is_told(tmp_path: Path) -> None:
    assert "which looks separated by ',', expected ';'" in _told(write(tmp_path, "text,label\na,up\n"), delimiter=";")


def test_a_file_of_any_suffix_is_read_with_a_delimiter(tmp_path: Path) -> None:
    path = write(tmp_path, "text|label\na, b|up\nc|down\n", "t.txt")
    assert _rows(path, delimiter="|") == [("a, b", "up"), ("c", "down")]
    assert _told(path).endswith("Name what stands between its values: --delimiter CHARACTER.")
    assert _rows(write(tmp_path, "text\tlabel\na\tup\nb\tdown\n", "t.dat"), delimiter="tab") == [
        ("a", "up"),
        ("b", "down"),
    ]


@pytest.mark.parametrize("delimiter", ["", ";;", '"', "\n"])
def test_what_can_be_no_delimiter_is_refused(delimiter: str) -> None:
    with pytest.raises(SettingsError, match="expected one character"):
        TableFile("t.csv", delimiter)


def test_a_delimiter_is_refused_where_there_are_none(tmp_path: Path) -> None:
    path = write(tmp_path, '{"text": "a"}\n', "t.jsonl")
    for source in (path, [("a", "up")], "user/name"):
        with pytest.raises(SettingsError, match="are for CSV and TSV files, got"):
            read_table(source, delimiter=";")


# -- quotes ------------------------------------------------------------------------------------------------------------

GLUE = 'Profit rose\tup\nSales fell\tdown\n"Orders grew\tup\nIncome rose\tup\nCosts rose"\tdown\nShops shut\tdown\n'


@pytest.mark.parametrize(("mark", "name"), [("\t", "t.tsv"), (",", "t.csv")])
def test_lines_that_a_quote_makes_one_row_are_told_with_both_readings(tmp_path: Path, mark: str, name: str) -> None:
    """GLUE's tables have no quoting: a quote that opened one text and closed another took all rows between."""
    path = write(tmp_path, f"text{mark}label\n" + GLUE.replace("\t", mark), name)
    assert (
        f"{name}:4: lines 4 to 6 are one row if quotes stand around values, and 3 rows if they are characters of the "
        "texts (say which: --quotes or --no-quotes)"
    ) in _told(path)
    assert _rows(path, quotes=False)[2:5] == [('"Orders grew', "up"), ("Income rose", "up"), ('Costs rose"', "down")]
    assert _rows(path, quotes=True)[2][0].count("\n") == 2


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ('text,label\n"Dear all, hello\nand goodbye, too",up\na,down\nb,up\n', "t.csv"),
        ('text,label\n"Hello, world\nbye",up\na,down\nb,up\n', "t.csv"),
        ('text\tlabel\n"Hello\nbye"\tup\na\tdown\nb\tup\n', "t.tsv"),
        ('text\n"Hello, world\nbye"\na\nb\n', "t.csv"),
    ],
)
def test_a_text_of_several_lines_raises_no_doubt(tmp_path: Path, content: str, name: str) -> None:
    assert "\n" in read_table(write(tmp_path, content, name), labels_required=False).examples[0].text


def test_quotes_that_break_a_row_of_a_tsv_are_told_with_the_option(tmp_path: Path) -> None:
    path = write(tmp_path, 'text\tlabel\n"Good" films\tup\n"a\tdown\n', "t.tsv")
    assert _told(path).count("give --no-quotes if quotes are characters of the texts") == 2
    assert _rows(path, quotes=False) == [('"Good" films', "up"), ('"a', "down")]


# -- columns without a name --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "note"),
    [
        ("text,label,,\na,up,,\nb,down,,\n", "columns 3, 4 have no name and no values, and are left out"),
        ("text,label,,\na,up,,\nb,down\n", "columns 3, 4 have no name and no values, and are left out"),
        ("text,,label\na,,up\nb, ,down\n", "column 2 has no name and no values, and is left out"),
        ("text,label\na,up,\nb,down,,\n", "empty values at the end of rows, behind those of the header, are left out"),
    ],
)
def test_columns_without_a_name_and_values_are_left_out_and_told(tmp_path: Path, content: str, note: str) -> None:
    """Two empty columns, as spreadsheets leave them, were a header that names '' twice."""
    table = read_table(write(tmp_path, content))
    assert table.columns == ("text", "label") and note in table.notes
    assert [(e.text, e.label) for e in table.examples] == [("a", "up"), ("b", "down")]


def test_a_value_in_a_column_without_a_name_is_a_fault_of_its_row(tmp_path: Path) -> None:
    path = write(tmp_path, "text,label,,\n" + "a,up,,\nb,down,,\n" * 9000 + "c,up,,late\n")
    assert "t.csv:18002: 'late' stands in column 4, which the header does not name" in _told(path)
    assert "has no names for columns 3, 4, in which values stand" in _told(
        write(tmp_path, "text,label,,\na,up,1,2\n", "u.csv")
    )


def test_a_value_behind_those_of_the_header_is_a_fault_of_its_row(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r":3: row has 3 values, expected 2 \(a value with a separator"):
        read_table(write(tmp_path, "text,label\na,up,\nb,down,left\n"))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('text,label\n"a, b", "up"\nc,down\n', r":2: a blank stands before the quote of ' \"up\"'"),
        ('text,label\na, "up, high"\nc,down\n', r":2: a blank stands before the quote of ' \"up'"),
        ('text, "label"\na,up\nc,down\n', r"the header \(line 1\) cannot be read: a blank stands before the quote"),
    ],
)
def test_a_blank_before_the_quotes_of_a_value_is_told(tmp_path: Path, content: str, told: str) -> None:
    """Labels of `"Profit rose.", "up"` were ' "up"', with the blank and the quotes, and nothing was said."""
    path = write(tmp_path, content)
    with pytest.raises(TableError, match=told):
        read_table(path)


def test_a_quoted_word_behind_a_blank_is_a_text(tmp_path: Path) -> None:
    content = 'text,label\n "Great" they said,up\nc,down\n'
    assert read_table(write(tmp_path, content)).examples[0].text == ' "Great" they said'
    content = 'text,label\n" ""Great""",up\nc,down\n'
    assert read_table(write(tmp_path, content)).examples[0].text == ' "Great"'
    content = 'text,label\na, "up"\n'
    assert read_table(write(tmp_path, content), quotes=False).examples[0].label == ' "up"'


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_header_inside_a_file_is_no_row(tmp_path: Path, mark: str) -> None:
    """Files that were joined with their headers brought the class 'label' with one row."""
    path = write(tmp_path, f"text,label\na,up\nb,down\n{mark}text,label\nc,up\n")
    with pytest.raises(TableError, match=r":4: row repeats the header, as where files were joined"):
        read_table(path)
    assert len(read_table(path, skip_bad_rows=True).examples) == 3

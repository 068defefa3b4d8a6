from __future__ import annotations

import csv
import io
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ia3.data import delimited
from ia3.data.tables import read_table, stream_table
from ia3.errors import TableError
from tests.data.written import faults, refused, write

_CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
_USED = _CELLS.filter(lambda text: bool(text.strip()))


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(_USED, _USED, _CELLS), min_size=1, max_size=8),
    delimiter=st.sampled_from([(",", "csv"), ("\t", "tsv")]),
    line_end=st.sampled_from(["\r\n", "\n"]),
    has_mark=st.booleans(),
    has_last_line_end=st.booleans(),
)
def test_what_csv_writes_is_read_back_exactly(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[str, str, str]],
    delimiter: tuple[str, str],
    line_end: str,
    has_mark: bool,
    has_last_line_end: bool,
) -> None:
    mark, suffix = delimiter
    buffer = io.StringIO(newline="")
    # Everything quoted: with "\n" as its line end, csv does not quote a lone "\r" before Python 3.13.
    writer = csv.writer(buffer, delimiter=mark, lineterminator=line_end, quoting=csv.QUOTE_ALL)
    writer.writerows([("text", "label", "note"), *rows])
    content = buffer.getvalue() if has_last_line_end else buffer.getvalue().removesuffix(line_end)
    path = tmp_path_factory.mktemp("round") / f"t.{suffix}"
    path.write_bytes(content.encode("utf-8-sig" if has_mark else "utf-8"))
    table = read_table(path)
    assert [(e.text, e.label, e.fields["note"]) for e in table.examples] == rows
    assert table.columns == ("text", "label", "note")
    streamed = list(stream_table(path, label="label"))
    assert streamed == list(table.examples)


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.tuples(_USED, _USED), min_size=1, max_size=8))
def test_line_numbers_are_the_physical_lines_where_records_start(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    expected, lines, content = [], 2, '"text","label"\n'
    for row in rows:
        written = ",".join('"' + cell.replace('"', '""') + '"' for cell in row) + "\n"
        expected.append(lines)
        lines += len(io.StringIO(written, newline="").readlines())
        content += written
    path = write(tmp_path_factory.mktemp("lines"), content)
    assert [e.origin.line for e in read_table(path).examples] == expected


@pytest.mark.parametrize("label", ["007", "NA", "1.0", "true", "null", "None", "nan", " x ", "1e5", "-", "３"])
def test_labels_stay_the_strings_they_are(tmp_path: Path, label: str) -> None:
    table = read_table(write(tmp_path, f"text,label\na,{label}\nb,other\n"))
    assert table.examples[0].label == label


def test_mark_carriage_returns_and_a_missing_last_line_end_are_no_fault(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, b"\xef\xbb\xbftext,label\r\n\r\na,x\r\nb,y"))
    assert [(e.text, e.label, e.origin.line) for e in table.examples] == [("a", "x", 3), ("b", "y", 4)]


def test_lines_that_end_in_carriage_returns_alone_are_read(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, "text,label\ra,x\rb,y\r"))
    assert [(e.text, e.origin.line) for e in table.examples] == [("a", 2), ("b", 3)]


def test_utf16_with_a_mark_is_read(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, "text,label\nné,x\nb,y\n".encode("utf-16")))
    assert [(e.text, e.label) for e in table.examples] == [("né", "x"), ("b", "y")]


def test_utf16_without_a_mark_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, "text,label\na,x\n".encode("utf-16-le"))
    with pytest.raises(TableError, match="cannot be read: NUL character at character 2"):
        read_table(path)


def test_utf16_that_breaks_off_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, "text,label\na,x\n".encode("utf-16")[:-1])
    with pytest.raises(TableError, match="its utf-16-le text is damaged: truncated data"):
        read_table(path)


def test_short_and_long_rows_name_their_line_and_their_number_of_values(tmp_path: Path) -> None:
    assert faults(write(tmp_path, 'text,label\n"a\nb",x\nshort\na,b,c\n')) == [
        "4: row has 1 value, expected 2",
        "5: row has 3 values, expected 2 (a value with a separator in it must stand in quotes)",
    ]


def test_a_quote_that_is_never_closed_hides_no_other_row(tmp_path: Path) -> None:
    path = write(tmp_path, 'text,label\na,x\n"open,x\nb,y\nc\n')
    assert faults(path) == [
        "3: a quoted value starts here and its quote is never closed",
        "5: row has 1 value, expected 2",
    ]
    assert [e.text for e in read_table(path, skip_bad_rows=True).examples] == ["a", "b"]


def test_a_quote_that_meets_another_value_hides_no_row(tmp_path: Path) -> None:
    path = write(tmp_path, 'text,label\n"open,x\n"b",y\nc,z\n')
    assert faults(path) == ["2: a quoted value starts here and its quote is not closed before line 3"]
    assert [e.text for e in read_table(path, skip_bad_rows=True).examples] == ["b", "c"]


def test_a_quote_inside_a_quoted_value_must_be_doubled(tmp_path: Path) -> None:
    assert faults(write(tmp_path, 'text,label\n"a "b" c",x\nb,y\n')) == [
        '2: text follows a closing quote (a quote inside a quoted value is written twice: "")'
    ]


def test_a_quote_inside_a_plain_value_is_a_character(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, 'text,label\n5" pipe,x\nb,y\n'))
    assert table.examples[0].text == '5" pipe'


def test_bytes_that_are_not_utf8_are_named_with_line_column_and_offset(tmp_path: Path) -> None:
    content = "text,label\né,x\n".encode() + b'"a\nb\xff",y\n\xe9t\xe9,z\n'
    offset = content.index(b"\xff")
    assert faults(write(tmp_path, content)) == [
        f"3, column 'text': byte 0xff at byte offset {offset} is not UTF-8 (save the file as UTF-8)",
        f"5, column 'text': byte 0xe9 at byte offset {content.index(0xE9.to_bytes() + b't')} is not UTF-8 "
        "(save the file as UTF-8)",
    ]


def test_byte_offsets_count_the_mark(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbftext,label\na,\xff\nb,y\n"
    assert f"byte offset {content.index(0xFF)} " in faults(write(tmp_path, content))[0]


def test_nul_characters_are_named_in_every_column(tmp_path: Path) -> None:
    assert faults(write(tmp_path, "text,label,note\na\0,x,\nb,\0,\nc,z,12\0\nd,x,\n")) == [
        "2, column 'text': NUL character at character 2",
        "3, column 'label': NUL character at character 1",
        "4, column 'note': NUL character at character 3",
    ]


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_long_fields_are_read_and_the_limit_of_csv_stays_what_it_was(tmp_path: Path, suffix: str) -> None:
    mark = "," if suffix == "csv" else "\t"
    text, label = "x" * 300_000, "y" * 200_000
    path = write(tmp_path, f'text{mark}label\n"{text}"{mark}{label}\nb{mark}z\n', f"t.{suffix}")
    before = csv.field_size_limit()
    stream = iter(stream_table(path, label="label"))
    example = next(stream)
    assert (example.text, example.label) == (text, label)
    assert csv.field_size_limit() == before == 131_072
    assert next(stream).text == "b"


def test_the_limit_of_csv_is_put_back_by_the_last_of_many_threads(tmp_path: Path) -> None:
    path = write(tmp_path, "text,label\n" + f"{'x' * 140_000},y\n" * 20)
    counts: list[int] = []
    threads = [threading.Thread(target=lambda: counts.append(len(read_table(path).examples))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [20] * 4
    assert csv.field_size_limit() == 131_072


def test_a_quote_that_is_never_closed_swallows_a_bounded_part_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delimited, "MAX_RECORD", 50)
    path = write(tmp_path, 'text,label\n"open,x\n' + "a,y\n" * 30)
    assert faults(path) == ["2: a value is longer than 50 characters (is its quote never closed?)"]
    assert len(read_table(path, skip_bad_rows=True).examples) == 30


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file is empty, expected a header line and rows."),
        ("\n\r\n", "the file is empty, expected a header line and rows."),
        ("text,label\n", "there are no rows, expected at least one below the header."),
        ("text,label,text\na,b,c\n", "the header (line 1) names 'text' more than once. Rename one of them."),
        (
            "\n\ntext;label\na;b\n",
            "the header (line 3) has one column, 'text;label', which looks separated by ';', expected ','. "
            "Give --delimiter ';', or save the table with that separator.",
        ),
        (
            'text,"label\na,b\n',
            "the header (line 1) cannot be read: a quoted value starts here and its quote is never closed.",
        ),
        (b"t\xff,label\na,b\n", "the header (line 1) cannot be read: byte 0xff at byte offset 1 is not UTF-8"),
    ],
)
def test_files_without_a_usable_header_or_rows_are_named(tmp_path: Path, content: str | bytes, message: str) -> None:
    assert refused(write(tmp_path, content)).startswith(message)


def test_the_unnamed_index_column_of_pandas_is_kept_as_a_field(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, ",words,verdict\n0,a longer text,x\n1,b,y\n"))
    assert (table.text_column, table.label_column) == ("words", "verdict")
    assert table.examples[1].fields == {"": "1", "words": "b", "verdict": "y"}

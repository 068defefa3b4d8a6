from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ia3.data.tables import read_table, stream_table
from ia3.errors import TableError
from tests.data.written import faults, refused, write

_WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")).filter(lambda t: bool(t.strip()))


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.tuples(_WORDS, _WORDS), min_size=1, max_size=6), ascii_only=st.booleans(), as_lines=st.booleans()
)
def test_what_json_writes_is_read_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], ascii_only: bool, as_lines: bool
) -> None:
    objects = [{"text": text, "label": label} for text, label in rows]
    if as_lines:
        content = "\n".join(json.dumps(value, ensure_ascii=ascii_only) for value in objects)
    else:
        content = json.dumps({"version": [{"data": []}], "data": objects}, ensure_ascii=ascii_only)
    path = write(tmp_path_factory.mktemp("json"), content, "t.jsonl" if as_lines else "t.json")
    assert [(e.text, e.label) for e in read_table(path).examples] == rows


@pytest.mark.parametrize(
    ("value", "label"),
    [
        ("1.0", "1.0"),
        ("1", "1"),
        ("1E+2", "1E+2"),
        ("-0.50", "-0.50"),
        ("true", "true"),
        ("false", "false"),
        ('"007"', "007"),
    ],
)
@pytest.mark.parametrize("name", ["t.jsonl", "t.json"])
def test_numbers_and_bools_keep_the_spelling_of_the_file(tmp_path: Path, value: str, label: str, name: str) -> None:
    row = f'{{"text": 12.50, "label": {value}}}'
    table = read_table(write(tmp_path, row if name == "t.jsonl" else f"[{row}]", name))
    assert (table.examples[0].text, table.examples[0].label) == ("12.50", label)


def test_numbers_of_five_thousand_digits_are_read(tmp_path: Path) -> None:
    digits = "9" * 5000
    table = read_table(write(tmp_path, f'{{"text": "a", "label": {digits}}}', "t.jsonl"))
    assert table.examples[0].label == digits


def test_all_faults_of_a_jsonl_file_are_told_with_line_and_column(tmp_path: Path) -> None:
    content = "\n".join(
        [
            '{"text": "a", "label": "x"}',
            "",
            '{"text": "b", "label": 007}',
            '{"text": "\\ud800", "label": "x"}',
            '["a", "x"]',
            '{"text": ["a"], "label": null}',
            '{"text": null, "label": NaN}',
            '{"text": "a", "text": "b", "label": "x"}',
            '{"label": "x", "text": " "}',
            '{"label": "x"}',
            '{"text": "a", "label": {"b": 1}}',
            '{"text": "a\\u0000", "label": "x"}',
            '{"text": "a", "label": "x"',
            "[" * 200_000,
            '{"text": "a", "label": "x", "tree": ' + "[" * 600 + "]" * 600 + "}",
            '{"text": "\\ud83d\\ude00", "label": "x"}',
        ]
    )
    assert faults(write(tmp_path, content, "t.jsonl")) == [
        "3: invalid JSON at character 25: Expecting ',' delimiter",
        "4, column 'text': lone surrogate U+D800 at character 1",
        "5: expected an object, got a list",
        "6, column 'text': text is a list, expected a string",
        "6, column 'label': label is missing",
        "7, column 'text': text is missing",
        "7, column 'label': label is missing",
        "8: invalid JSON: key 'text' stands twice in an object",
        "9, column 'text': text is empty",
        "10, column 'text': text is missing",
        "11, column 'label': label is an object, expected a string",
        "12, column 'text': NUL character at character 2",
        "13: invalid JSON at character 27: Expecting ',' delimiter",
        "14: invalid JSON: it is nested too deeply",
        "15: a value is nested too deeply",
    ]


def test_mark_and_carriage_returns_are_no_fault_in_jsonl(tmp_path: Path) -> None:
    path = write(tmp_path, b'\xef\xbb\xbf{"text":"a","label":"x"}\r\n\r\n{"text":"b","label":"y"}', "t.jsonl")
    assert [(e.text, e.origin.line) for e in read_table(path).examples] == [("a", 1), ("b", 3)]


@pytest.mark.parametrize("name", ["t.jsonl", "t.json"])
def test_bytes_that_are_not_utf8_are_named_with_line_and_offset(tmp_path: Path, name: str) -> None:
    rows = [b'{"text":"\xc3\xa9","label":"x"}', b'{"text":"\xc3\xa9\xff","label":"x"}']
    content = b"\n".join(rows) if name == "t.jsonl" else b"[" + b",\n".join(rows) + b"]"
    offset = content.index(b"\xff")
    assert faults(write(tmp_path, content, name)) == [
        f"2: byte 0xff at byte offset {offset} is not UTF-8 (save the file as UTF-8)"
    ]


@pytest.mark.parametrize("name", ["t.jsonl", "t.json"])
def test_long_fields_are_read(tmp_path: Path, name: str) -> None:
    row = json.dumps({"text": "x" * 200_000, "label": "y" * 100_000})
    table = read_table(write(tmp_path, row if name == "t.jsonl" else f"[{row}]", name))
    assert (len(table.examples[0].text), len(table.examples[0].label or "")) == (200_000, 100_000)


def test_records_of_a_json_file_have_the_line_where_they_start(tmp_path: Path) -> None:
    content = (
        '{"about": {"data": [1]},\n "data": [\n{"text": "a", "label": "x"},\n\n  {"text":\n"b", "label": "y"}, 7]}'
    )
    path = write(tmp_path, content, "t.json")
    assert [e.origin.line for e in read_table(path, skip_bad_rows=True).examples] == [3, 5]
    assert faults(path) == ["6: expected an object, got a number"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (" \n", 'the file is empty, expected a list of objects, or {"data": [...]}.'),
        ("3", 'the file is a number, expected a list of objects, or {"data": [...]}.'),
        ("{}", 'the file is an object, expected a list of objects, or {"data": [...]}.'),
        ('{"a": []}', "the file is an object with the keys 'a', expected a list of objects, or"),
        ("[]", "there are no rows."),
        ('[{"text": "a"},\n]', "invalid JSON at line 2, character 1: Expecting value."),
        ("[1] x", "invalid JSON at line 1, character 5: Extra data."),
        (
            '{"text": "a", "label": 1}\n{"text": "b", "label": 2}',
            "invalid JSON at line 2, character 1: Extra data. One object a line is JSONL: name the file .jsonl.",
        ),
        ('[{"text": 1, "text": 2}]', "invalid JSON: key 'text' stands twice in an object."),
        ("[{}, {}]", "its rows have no columns, expected at least a text column."),
        ("[1, 2]", "all 2 rows are bad, so nothing is left to use."),
    ],
)
def test_json_files_of_another_shape_are_named(tmp_path: Path, content: str, message: str) -> None:
    assert refused(write(tmp_path, content, "t.json")).startswith(message)


def test_an_empty_jsonl_file_has_no_rows(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="there are no rows"):
        read_table(write(tmp_path, "\n\n", "t.jsonl"))


def test_other_columns_become_strings_that_keep_the_spelling_of_numbers(tmp_path: Path) -> None:
    content = '{"text": "a", "label": "x", "n": 1.10, "b": true, "o": null, "l": [1.0, null, "é", {"k": false}]}'
    table = read_table(write(tmp_path, content, "t.jsonl"))
    fields = table.examples[0].fields
    assert (fields["n"], fields["b"], fields["o"]) == ("1.10", "true", "")
    assert fields["l"] == '[1.0, null, "é", {"k": false}]'


def test_keys_that_rows_leave_out_are_empty_fields_of_every_row(tmp_path: Path) -> None:
    rows = [{"text": f"t{i}", "label": "x"} for i in range(150)] + [{"text": "last", "label": "x", "late": "here"}]
    path = write(tmp_path, "\n".join(map(json.dumps, rows)), "t.jsonl")
    table = read_table(path)
    assert table.columns == ("text", "label", "late")
    assert (table.examples[0].fields["late"], table.examples[-1].fields["late"]) == ("", "here")
    stream = stream_table(path)
    assert stream.columns == ("text", "label")
    assert list(stream)[-1].fields["late"] == "here"

from __future__ import annotations

import json
from collections import namedtuple
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ia3.data.tables import read_table, stream_table
from ia3.errors import TableError


def _message(source: Any, **arguments: Any) -> str:
    with pytest.raises(TableError) as caught:
        read_table(source, **arguments)
    return str(caught.value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "b.csv").write_text("text,label\nb,x\n")
    (tmp_path / "a.tsv").write_text("label\ttext\ny\ta\n")
    (tmp_path / "c.jsonl").write_text(json.dumps({"text": "c", "label": "x"}))
    (tmp_path / "d.json").write_text(json.dumps([{"text": "d", "label": "y"}]))
    pq.write_table(pa.table({"text": ["e"], "label": ["x"]}), tmp_path / "e.PARQUET")
    (tmp_path / ".hidden.csv").write_text("other\n1\n")
    (tmp_path / "README.md").write_text("# about")
    (tmp_path / "LICENSE").write_text("CC0")
    (tmp_path / "more.csv").mkdir()
    return tmp_path


def test_a_folder_is_read_file_by_file_in_the_order_of_names(folder: Path) -> None:
    table = read_table(folder)
    assert [(e.text, e.label) for e in table.examples] == [("a", "y"), ("b", "x"), ("c", "x"), ("d", "y"), ("e", "x")]
    assert [str(e.origin) for e in table.examples][:2] == [f"{folder}/a.tsv:2", f"{folder}/b.csv:2"]
    assert table.notes[0] == f"rows: 5 files of {folder} (a.tsv, b.csv, c.jsonl, d.json, e.PARQUET)"


def test_files_of_a_folder_with_other_columns_are_told_before_any_row(folder: Path) -> None:
    (folder / "z.csv").write_text("text,score\na,1\n")
    with pytest.raises(TableError) as caught:
        stream_table(folder)
    assert str(caught.value) == (
        f"Reading {folder}: its files have different columns: 'label', 'text' in a.tsv, 'text', 'score' in z.csv. "
        "Give one of the files, or make their columns the same."
    )


def test_faults_of_all_files_of_a_folder_are_told_at_once(folder: Path) -> None:
    (folder / "b.csv").write_text("text,label\n,x\n")
    (folder / "d.json").write_text('[{"text": "d"}, {"text": "d2", "label": "x"}]')
    assert _message(folder) == (
        f"Reading {folder}: 2 bad rows of 6.\n"
        f"{folder}/b.csv:2, column 'text': text is empty\n"
        f"{folder}/d.json:1, column 'label': label is missing\n"
        "Mend them, or give --skip-bad-rows to leave them out."
    )


def test_a_folder_without_tables_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    assert _message(tmp_path) == (
        f"Reading {tmp_path}: the folder has no table file, expected one of .csv .tsv .jsonl .json .parquet."
    )


def test_a_path_that_does_not_exist_shows_near_names_of_its_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "train.csv").write_text("text,label\na,x\n")
    monkeypatch.chdir(folder)
    assert _message("trian.csv") == "Reading trian.csv: no such file or folder. Did you mean 'train.csv'?"
    assert _message("./tran.csv").startswith("Reading ./tran.csv: no such file or folder. Did you mean 'train.csv'")
    assert _message("train").startswith("Reading train: no such file or folder. Did you mean 'train.csv'")
    assert _message(Path("more.csv/trian.csv")) == "Reading more.csv/trian.csv: no such file or folder."
    assert _message("more.csv/trian") == "Reading more.csv/trian: no such file or folder."
    assert _message("none/train.csv") == "Reading none/train.csv: there is no folder 'none'."
    assert _message("") == "Reading '': the path is empty, expected a file, a folder or a hub id."


def test_a_suffix_that_is_no_table_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.xlsx"
    path.write_bytes(b"PK")
    assert _message(path) == (
        f"Reading {path}: the file has the suffix '.xlsx', expected one of .csv .tsv .jsonl .json .parquet."
    )
    bare = tmp_path / "table"
    bare.write_text("text,label\n")
    assert _message(bare).startswith(f"Reading {bare}: the file has no suffix, expected one of .csv")


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.json", "t.tsv"])
def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    path = tmp_path / name
    path.write_text("text,label\na,x\n")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert _message(path) == f"Reading {path}: Permission denied."


def test_pairs_strings_and_dicts_in_memory_are_read() -> None:
    pairs = read_table([("a", "x"), ["b", 7], ("c", True), ("d", 1.0)])
    assert [(e.text, e.label) for e in pairs.examples] == [("a", "x"), ("b", "7"), ("c", "true"), ("d", "1.0")]
    assert [str(e.origin) for e in pairs.examples][:2] == ["<rows>:1", "<rows>:2"]
    assert (pairs.columns, pairs.text_column, pairs.label_column) == (("text", "label"), "text", "label")
    strings = read_table(iter(["a", "b"]), labels_required=False)
    assert [(e.text, e.label) for e in strings.examples] == [("a", None), ("b", None)]
    dicts = read_table(({"sentence": t, "class": n, "id": None} for t, n in [("a", 1), ("b", 2)]))
    assert [(e.text, e.label, e.fields["id"]) for e in dicts.examples] == [("a", "1", ""), ("b", "2", "")]


def test_faults_of_rows_in_memory_are_told_with_their_number() -> None:
    rows: list[Any] = [("a", "x"), ("b",), "c", ("", "x"), (None, "x"), ("d", None), ("e", float("nan")), (["f"], "x")]
    assert _message(rows).split("\n")[1:-1] == [
        "<rows>:2: expected a pair (text, label), got a list of 1 values",
        "<rows>:3: expected a pair (text, label), got a string",
        "<rows>:4, column 'text': text is empty",
        "<rows>:5, column 'text': text is missing",
        "<rows>:6, column 'label': label is missing",
        "<rows>:7, column 'label': label is missing",
        "<rows>:8, column 'text': text is a list, expected a string",
    ]
    mixed: list[Any] = [{"text": "a", "label": "x"}, ("b", "y"), {1: "a"}]
    assert _message(mixed).split("\n")[1:-1] == [
        "<rows>:2: expected a dict like the first row, got a list",
        "<rows>:3: a key is not a string",
    ]
    strings: list[Any] = ["a", ("b", "c")]
    assert "<rows>:2: expected a string like the first row, got a list of 2 values" in _message(
        strings, labels_required=False
    )


@pytest.mark.parametrize(("source", "kind"), [(None, "NoneType"), (5, "int"), (b"x", "bytes")])
def test_values_that_are_no_rows_are_named(source: Any, kind: str) -> None:
    assert _message(source) == (
        f"Reading <rows>: got a value of type '{kind}', expected a path, a hub id, a table of pandas, numpy, Arrow or "
        "datasets, or an iterable of (text, label) pairs, strings or dicts."
    )


def test_columns_in_a_dict_are_no_rows() -> None:
    assert _message({"text": ["a"], "label": ["b"]}) == (
        "Reading <rows>: got a single dict with the keys 'text', 'label', expected rows, each with text and label. One "
        "row: put it in a list. Columns: pandas.DataFrame(columns)."
    )


def test_a_folder_of_save_to_disk_is_told_with_what_reads_it(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("{}")
    (tmp_path / "dataset_info.json").write_text("{}")
    assert "save_to_disk of datasets has written" in _message(tmp_path)


def test_named_tuples_are_read_by_their_names() -> None:
    """Rows of frame.itertuples() stand in the table's order, so a label column in front was read as the text."""
    row = namedtuple("row", ["label", "text"])
    assert [
        (e.text, e.label) for e in read_table([row("up", "Profit rose."), row("down", "Sales fell.")]).examples
    ] == [
        ("Profit rose.", "up"),
        ("Sales fell.", "down"),
    ]


def test_no_rows_in_memory_are_an_error() -> None:
    assert _message([]) == "Reading <rows>: there are no rows."

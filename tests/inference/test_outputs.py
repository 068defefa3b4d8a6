"""Output tables: what is written is read back the same, and a file is there whole or not at all."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ia3.data.tables import read_table, stream_table
from ia3.errors import RunError
from ia3.inference.outputs import check_output, open_output

# all characters but the two that no table may hold
WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")


def write(path: Path, rows: list[dict[str, Any]], *, overwrite: bool = False, broken: bool = False) -> None:
    with open_output(path, ["text", "note"], ["probability"], overwrite=overwrite) as write_rows:
        for row in rows:
            write_rows([row])
        if broken:
            raise KeyboardInterrupt


def refused(path: Path, **options: Any) -> str:
    with pytest.raises(RunError) as caught:
        check_output(path, **options)
    return str(caught.value)


@pytest.mark.parametrize("suffix", SUFFIXES)
@settings(deadline=None, max_examples=40)
@given(rows=st.lists(st.tuples(WORDS.filter(str.strip), WORDS, st.floats(0, 1)), min_size=1, max_size=5))
def test_what_is_written_is_read_back(tmp_path_factory: Any, suffix: str, rows: list[tuple[str, str, float]]) -> None:
    path = tmp_path_factory.mktemp("out") / f"table{suffix}"

    write(path, [{"text": text, "note": note, "probability": share} for text, note, share in rows])

    table = read_table(path, text="text", labels_required=False)
    assert table.columns == ("text", "note", "probability")
    for example, (text, note, share) in zip(table.examples, rows, strict=True):
        assert (example.fields["text"], example.fields["note"]) == (text, note)
        assert abs(float(example.fields["probability"]) - share) < 1e-9


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_without_rows_has_its_columns(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"empty{suffix}"

    write(path, [])

    if suffix == ".jsonl":
        assert path.read_bytes() == b""
    else:
        assert stream_table(path, text="text").columns == ("text", "note", "probability")


def test_a_csv_is_plain(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"

    write(
        path, [{"text": 'a "b", c', "note": "", "probability": 1 / 3}, {"text": "ä\rb", "note": "x", "probability": 1}]
    )

    assert path.read_bytes().decode() == 'text,note,probability\n"a ""b"", c",,0.333333333\n"ä\rb",x,1\n'


def test_jsonl_has_numbers_and_readable_letters(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"

    write(path, [{"text": "漢\n", "note": "7", "probability": 0.25}])

    assert path.read_text() == '{"text": "漢\\n", "note": "7", "probability": 0.25}\n'
    assert json.loads(path.read_text())["probability"] == 0.25


def test_parquet_has_strings_and_doubles(tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"

    write(path, [{"text": "007", "note": "", "probability": 0.1}, {"text": "x", "note": "y", "probability": 0.2}])

    table = pyarrow.parquet.read_table(path)
    assert [str(kind) for kind in table.schema.types] == ["string", "string", "double"]
    assert table.to_pydict() == {"text": ["007", "x"], "note": ["", "y"], "probability": [0.1, 0.2]}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_ctrl_c_leaves_nothing(tmp_path: Path, suffix: str) -> None:
    row = {"text": "a", "note": "b", "probability": 0.5}

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / f"out{suffix}", [row] * 3, broken=True)

    assert list(tmp_path.iterdir()) == []


def test_a_broken_run_keeps_the_file_that_was_there(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    path.write_text("precious")

    with pytest.raises(KeyboardInterrupt):
        write(path, [], overwrite=True, broken=True)
    assert path.read_text() == "precious"

    write(path, [], overwrite=True)
    assert path.read_text() == "text,note,probability\n"
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_stands_under_the_name_before_the_end(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"

    with open_output(path, ["text"]) as write_rows:
        write_rows([{"text": "a"}])
        assert not path.exists()

    assert [p.name for p in tmp_path.iterdir()] == ["out.csv"]


def test_a_file_that_appears_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"

    with pytest.raises(RunError, match="the file is there already"), open_output(path, ["text"]):
        path.write_text("of another process")

    assert path.read_text() == "of another process" and list(tmp_path.iterdir()) == [path]


def test_an_error_of_the_caller_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(BrokenPipeError), open_output(tmp_path / "out.csv", ["text"]):
        raise BrokenPipeError


def test_an_existing_file_is_refused_without_leave(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    path.touch()

    assert refused(path) == (f"Writing {path}: the file is there already. Choose another name, or give --overwrite.")
    assert check_output(path, overwrite=True) == path


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("out.xlsx", "the file has the suffix '.xlsx', expected one of .csv .tsv .jsonl .parquet."),
        ("out.parket", "expected one of .csv .tsv .jsonl .parquet. Did you mean '.parquet'?"),
        ("out", "the file has no suffix, expected one of .csv .tsv .jsonl .parquet."),
        ("none/out.csv", "there is no folder"),
        ("folder.csv", "a folder of this name is there. Choose another name."),
    ],
)
def test_what_cannot_be_written_is_told(tmp_path: Path, name: str, told: str) -> None:
    (tmp_path / "folder.csv").mkdir()

    assert told in refused(tmp_path / name)


def test_a_suffix_in_capitals_counts(tmp_path: Path) -> None:
    assert check_output(tmp_path / "OUT.CSV") == tmp_path / "OUT.CSV"


def test_a_full_disk_ends_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(RunError) as caught:
        write(tmp_path / "out.csv", [])

    assert str(caught.value) == (
        f"Writing {tmp_path}/out.csv: No space left on device. Free space, or choose another folder."
    )
    assert list(tmp_path.iterdir()) == []


def test_others_may_read_the_file_as_any_other(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write(tmp_path / "out.csv", [])

    assert stat.S_IMODE((tmp_path / "out.csv").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)

from __future__ import annotations

import os
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ia3.data.examples import Fault
from ia3.data.tables import read_table, stream_table
from ia3.errors import SettingsError, TableError
from tests.data.written import write


def test_all_bad_rows_are_told_at_once_and_the_message_shows_the_first_twenty(tmp_path: Path) -> None:
    path = write(tmp_path, "text,label\na,x\n" + ",\n" * 15)
    with pytest.raises(TableError) as caught:
        read_table(path)
    lines = str(caught.value).split("\n")
    assert lines[0] == f"Reading {path}: 15 bad rows of 16."
    assert lines[1] == f"{path}:3, column 'text': text is empty"
    assert lines[2] == f"{path}:3, column 'label': label is missing"
    assert lines[21:] == ["… and 10 more.", "Mend them, or give --skip-bad-rows to leave them out."]
    assert len(caught.value.faults) == 30


def test_one_bad_row_is_told_in_the_singular(tmp_path: Path) -> None:
    path = write(tmp_path, "text,label\na,x\n,y\n")
    with pytest.raises(TableError) as caught:
        read_table(path)
    assert str(caught.value) == (
        f"Reading {path}: 1 bad row of 2.\n"
        f"{path}:3, column 'text': text is empty\n"
        "Mend them, or give --skip-bad-rows to leave them out."
    )


def test_skipped_rows_are_listed_in_the_table(tmp_path: Path) -> None:
    path = write(tmp_path, "text,label\na,x\n ,y\nb,z\n")
    table = read_table(path, skip_bad_rows=True)
    assert [(e.text, e.origin.line) for e in table.examples] == [("a", 2), ("b", 4)]
    assert [str(fault) for fault in table.faults] == [f"{path}:3, column 'text': text is empty"]
    assert table.fingerprint == read_table([("a", "x"), ("b", "z")]).fingerprint


def test_a_table_of_bad_rows_only_is_an_error_even_when_they_are_skipped(tmp_path: Path) -> None:
    path = write(tmp_path, "text,label\n,x\n,y\n")
    with pytest.raises(TableError) as caught:
        read_table(path, skip_bad_rows=True)
    assert str(caught.value).split("\n")[0] == f"Reading {path}: all 2 rows are bad, so nothing is left to use."


def test_labels_that_are_not_known_are_faults_with_near_names(tmp_path: Path) -> None:
    path = write(tmp_path, "text,label\na,positive\nb,postive\nc,\n")
    with pytest.raises(TableError) as caught:
        read_table(path, known_labels=["negative", "positive"])
    assert [str(fault).removeprefix(f"{path}:") for fault in caught.value.faults] == [
        "3, column 'label': label 'postive' is unknown. Did you mean 'positive'?",
        "4, column 'label': label is missing",
    ]
    with pytest.raises(TableError, match="label 'x' is unknown. Known: 'negative', 'positive'".replace(".", r"\.")):
        read_table([("a", "x"), ("b", "positive")], known_labels=["negative", "positive"])


@settings(max_examples=150, deadline=None)
@given(
    content=st.binary(max_size=60) | st.text('ab",\n\r\t\0{}[]:1é\ufeff ', max_size=60).map(lambda text: text.encode()),
    suffix=st.sampled_from(["csv", "tsv", "jsonl", "json"]),
    has_header=st.booleans(),
)
def test_whatever_stands_in_a_file_ends_in_a_table_or_in_one_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, suffix: str, has_header: bool
) -> None:
    header = {"csv": b"text,label\n", "tsv": b"text\tlabel\n"}.get(suffix, b"") if has_header else b""
    path = tmp_path_factory.mktemp("any") / f"t.{suffix}"
    path.write_bytes(header + content)
    try:
        table = read_table(path, skip_bad_rows=True)
    except TableError as error:
        assert str(error).startswith(f"Reading {path}: ")
        assert str(error).encode("utf-8")
    else:
        assert all(e.text.strip() and e.label and e.label.strip() for e in table.examples)
        assert len(table.fingerprint) == 64


def test_fields_hold_every_column_as_a_string(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, "id,text,label\n007,a,x\n"))
    assert table.columns == ("id", "text", "label")
    assert table.examples[0].fields == {"id": "007", "text": "a", "label": "x"}


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_stream_gives_what_reading_gives(tmp_path: Path, suffix: str) -> None:
    rows = [("a", "x"), ("b", "y")]
    lines = (
        ["text,label", *map(",".join, rows)]
        if suffix == "csv"
        else [f'{{"text":"{t}","label":"{n}"}}' for t, n in rows]
    )
    path = write(tmp_path, "\n".join(lines), f"t.{suffix}")
    stream, table = stream_table(path), read_table(path)
    assert (stream.columns, stream.text_column, stream.label_column) == (("text", "label"), "text", "label")
    assert stream.notes == table.notes
    assert tuple(stream) == table.examples


def test_a_stream_reads_rows_only_when_they_are_asked_for() -> None:
    taken = []

    def rows() -> Iterator[tuple[str, str]]:
        for number in range(1000):
            taken.append(number)
            yield f"text {number}", "x"

    stream = iter(stream_table(rows()))
    assert taken == [0]
    assert next(stream).text == "text 0"
    assert next(stream).text == "text 1"
    assert taken == [0, 1]


def test_a_stream_reads_a_pipe_while_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "pipe.csv"
    os.mkfifo(path)
    may_go_on = threading.Event()

    def write() -> None:
        with path.open("w") as pipe:
            pipe.write("text,label\nfirst,x\n")
            pipe.flush()
            may_go_on.wait(10)
            pipe.write("second,y\n")

    writer = threading.Thread(target=write)
    writer.start()
    examples = iter(stream_table(path))
    assert next(examples).text == "first"
    may_go_on.set()
    assert [e.text for e in examples] == ["second"]
    writer.join()


def test_a_stream_takes_the_same_memory_for_every_size_of_table(tmp_path: Path) -> None:
    path = write(tmp_path, "text,label\n" + f"{'word ' * 60},x\n" * 8_000)
    assert path.stat().st_size > 2_400_000
    tracemalloc.start()
    try:
        count = sum(1 for _ in stream_table(path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 8_000
    assert peak < 400_000


def test_a_stream_stops_at_a_bad_row_with_its_line(tmp_path: Path) -> None:
    path = write(tmp_path, "text,label\na,x\n,y\nb,z\n")
    stream = iter(stream_table(path))
    assert next(stream).text == "a"
    with pytest.raises(TableError) as caught:
        next(stream)
    assert str(caught.value) == (
        f"Reading {path}: {path}:3, column 'text': text is empty. "
        "Mend the row, or give --skip-bad-rows to leave it out."
    )
    assert len(caught.value.faults) == 1


def test_a_stream_hands_over_the_faults_of_skipped_rows(tmp_path: Path) -> None:
    path = write(tmp_path, "text,label\na,x\n,y\nb\nc,z\n")
    faults: list[Fault] = []
    stream = stream_table(path, skip_bad_rows=True, on_fault=faults.append)
    assert [e.text for e in stream] == ["a", "c"]
    assert [fault.origin.line for fault in faults] == [3, 4]


def test_a_stream_that_skips_rows_needs_someone_to_take_theirfaults(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="nothing takes their faults, got on_fault=None"):
        stream_table(write(tmp_path, "text\na\n"), skip_bad_rows=True)


def test_a_stream_without_a_good_row_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="there are no rows, expected at least one below the header"):
        list(stream_table(write(tmp_path, "text,label\n")))
    faults: list[Fault] = []
    with pytest.raises(TableError, match="the only row is bad, so nothing is left to use"):
        list(stream_table(write(tmp_path, "text,label\n,x\n"), skip_bad_rows=True, on_fault=faults.append))
    assert len(faults) == 1


def test_a_stream_that_was_read_says_so_instead_of_being_empty(tmp_path: Path) -> None:
    path = write(tmp_path, "text,label\na,x\n")
    stream = stream_table(path)
    assert len(list(stream)) == 1
    with pytest.raises(TableError, match="the stream was read already"):
        list(stream)


def test_reading_tables_imports_neither_torch_nor_arrow_nor_datasets() -> None:
    code = (
        "import sys, ia3.data.tables, ia3.data.splits, ia3.data.statistics, ia3.data.labels; "
        "ia3.data.tables.read_table([('a', 'b')]); "
        "print(sorted({'torch', 'transformers', 'datasets', 'pyarrow', 'numpy'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"

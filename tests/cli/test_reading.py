"""How a table file is read, asked for in the same words of every verb that reads tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from ia3.cli.main import main
from ia3.data.table_files import as_read
from ia3.inference.loading import load_predictor
from ia3.inference.table_prediction import predict_table
from ia3.runs.plans.one import train_adapter
from tests.cli.conftest import ROWS

READING = ["--delimiter", "|", "--no-quotes"]
QUICK = ["--max-steps", "1", "--compile", "off", "--device", "cpu", "--recipe", "default"]


@pytest.fixture
def plain(tmp_path: Path) -> str:
    """Return a table without quoting, its values between bars, in a file whose suffix says nothing."""
    path = tmp_path / "plain.txt"
    path.write_text("text|label\n" + "".join(f'"{text}|{label}\n' for text, label in ROWS))
    return str(path)


def _run(words: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(list(words)) == 0
    out, err = capsys.readouterr()
    return out + err


def test_every_verb_reads_a_table_as_asked(
    home: Path, encoder: str, plain: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = str(home / "encoder")
    told = _run(["train", plain, "--base", base, "--output", str(tmp_path / "run"), *QUICK, *READING], capsys)
    assert "'down', 'up'" in told and "rows: 18" in told
    sweep = ["sweep", plain, "--base", base, "--output", str(tmp_path / "sweep"), "--vary", "batch_size=4,8"]
    assert "2 of 20 rows are held out" in _run([*sweep, "--max-steps", "1", "--compile", "off", *READING], capsys)
    folds = ["train", plain, "--base", base, "--folds", "2", "--output", str(tmp_path / "folds")]
    assert "of 20 rows" in _run([*folds, *QUICK, *READING], capsys)
    parts = ["train", plain, "--base", base, "--task-column", "label", "--answers", "labels"]
    assert main([*parts, "--output", str(tmp_path / "parts"), *QUICK, *READING]) == 2  # the column is the label
    assert "it is the label column" in capsys.readouterr().err
    assert "of 20 rows" in _run(["evaluate", plain, "--adapter", encoder, *READING], capsys)
    assert '"table": "' + plain in _run(["evaluate", plain, "--adapter", encoder, "--json", *READING], capsys)
    assert "it fits the table" in _run(["templates", "check", plain, *READING], capsys)
    output = tmp_path / "out.csv"
    assert "20 rows" in _run(["predict", plain, "--adapter", encoder, "--output", str(output), *READING], capsys)
    assert output.read_text().splitlines()[1].startswith('"""profit rose in week 1",up,')


def test_a_task_says_how_its_table_is_read_or_the_run_does(
    home: Path, plain: str, table: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = tmp_path / "tasks.yaml"
    tasks.write_text(f"- {{table: {plain}, delimiter: '|', quotes: false}}\n- {{table: {table}}}\n")
    train = ["train", "--tasks", str(tasks), "--base", str(home / "encoder"), *QUICK]
    assert "plain" in _run([*train, "--output", str(tmp_path / "a")], capsys)
    tasks.write_text(f"- {{name: a, table: {plain}}}\n- {{name: b, table: {plain}, eval: {plain}}}\n")
    assert "a" in _run([*train, "--output", str(tmp_path / "b"), *READING], capsys)
    tasks.write_text(f"- {{table: {plain}, delimiter: ';;'}}\n- {{name: b, table: {plain}, quotes: 1}}\n")
    assert main([*train, "--output", str(tmp_path / "c")]) == 2
    told = capsys.readouterr().err
    assert "tasks.yaml:1: the delimiter is ';;', expected one character" in told
    assert "tasks.yaml:2: quotes is 1, expected true or false" in told


def test_rows_that_have_no_delimiter_are_told(encoder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "t.jsonl"
    table.write_text('{"text": "a", "label": "up"}\n')
    assert main(["evaluate", str(table), "--adapter", encoder, "--delimiter", ";"]) == 2
    assert f"are for CSV and TSV files, got '{table}'. Leave them out." in capsys.readouterr().err


def test_the_same_words_are_keywords_in_python(home: Path, encoder: str, plain: str, tmp_path: Path) -> None:
    reading: dict[str, object] = {"delimiter": "|", "quotes": False}
    predictor = load_predictor(encoder, device="cpu", say=lambda line: None)
    assert predictor.evaluate(plain, **reading).rows == 20  # type: ignore[arg-type]
    assert predict_table(predictor, as_read(plain, "|", False), tmp_path / "out.csv").rows == 20
    quick: dict[str, object] = {"max_steps": 1, "compile": "off", "device": "cpu", "recipe": "default"}
    result = train_adapter(plain, home / "encoder", tmp_path / "run", eval_source=plain, **quick, **reading)  # type: ignore[arg-type]
    assert result.metrics is not None and result.metrics.rows == 20

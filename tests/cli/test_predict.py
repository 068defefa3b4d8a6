from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from ia3.cli.main import main
from tests.cli.conftest import ROWS, write_table


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_row_comes_with_prediction_and_probabilities(
    encoder: str, table: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "answers.csv"
    capsys.readouterr()
    assert main(["predict", table, "--adapter", encoder, "--output", str(output)]) == 0
    out = capsys.readouterr().out
    rows = _read(output)
    assert list(rows[0]) == ["text", "label", "prediction", "probability", "probability_down", "probability_up"]
    assert [(row["text"], row["label"]) for row in rows] == ROWS
    assert all(float(row["probability"]) >= 0.5 for row in rows)
    assert out.startswith(f"{output}: 20 rows\n\nprediction  rows\ndown ")
    counts = {line.split()[0]: int(line.split()[1]) for line in out.splitlines()[3:]}
    assert counts == {label: sum(row["prediction"] == label for row in rows) for label in ("down", "up")}


def test_json_is_the_summary(causal: str, table: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "answers.jsonl"
    capsys.readouterr()
    assert main(["predict", table, "--adapter", causal, "--output", str(output), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["output"], found["rows"], found["skipped"]) == (str(output), 20, 0)
    assert sum(found["counts"].values()) == 20 == len(output.read_text().splitlines())


def test_a_file_that_is_there_is_replaced_only_when_asked(
    encoder: str, table: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "answers.csv"
    output.write_text("mine")
    command = ["predict", table, "--adapter", encoder, "--output", str(output)]
    capsys.readouterr()
    assert main(command) == 2
    assert "the file is there already" in capsys.readouterr().err
    assert output.read_text() == "mine"
    assert main([*command, "--overwrite"]) == 0
    assert len(_read(output)) == 20


def test_bad_rows_are_left_out_and_listed_when_asked(
    encoder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = str(write_table(tmp_path / "t.csv", [*ROWS[:2], (" ", "up")]))
    command = ["predict", table, "--adapter", encoder, "--output", str(tmp_path / "answers.csv")]
    capsys.readouterr()
    assert main(command) == 2
    assert f"{table}:4, column 'text': text is empty" in capsys.readouterr().err
    assert not (tmp_path / "answers.csv").exists()
    assert main([*command, "--skip-bad-rows"]) == 0
    out, err = capsys.readouterr()
    assert "answers.csv: 2 rows, 1 bad rows left out" in out
    assert f"left out: {table}:4, column 'text': text is empty\n" in err


def test_another_text_column_is_taken(encoder: str, tmp_path: Path) -> None:
    table = str(write_table(tmp_path / "t.csv", [("a title", "profit rose")], ["title", "body"]))
    output = tmp_path / "answers.csv"
    assert main(["predict", table, "--adapter", encoder, "--text", "body", "--output", str(output)]) == 0
    assert list(_read(output)[0])[:3] == ["title", "body", "prediction"]

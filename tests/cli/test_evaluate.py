from __future__ import annotations

import json
from pathlib import Path

import pytest

from ia3.cli.main import main
from tests.cli.conftest import ROWS, write_table


@pytest.mark.parametrize("kind", ["encoder", "causal", "seq2seq"])
def test_the_metrics_are_printed(
    kind: str, table: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = request.getfixturevalue(kind)
    capsys.readouterr()
    assert main(["evaluate", table, "--adapter", adapter]) == 0
    out = capsys.readouterr().out
    assert out.startswith("accuracy ") and " of 20 rows" in out and "confusion" in out
    assert ("perplexity" in out) == (kind != "encoder")


def test_json_is_one_document(encoder: str, table: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["evaluate", table, "--adapter", encoder, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["table"], found["adapter"], found["rows"]) == (table, encoder, 20)
    assert found["labels"] == ["down", "up"] and sum(map(sum, found["confusion"])) == 20


def test_columns_of_other_names_and_bad_rows_are_taken(
    encoder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [*ROWS, ("gains", "sideways")]
    table = str(write_table(tmp_path / "t.csv", rows, ["body", "team"]))
    command = ["evaluate", table, "--adapter", encoder, "--text", "body", "--label", "team"]
    capsys.readouterr()
    assert main(command) == 2
    assert f"{table}:22, column 'team': label 'sideways' is unknown" in capsys.readouterr().err
    assert main([*command, "--skip-bad-rows"]) == 0
    out, err = capsys.readouterr()
    assert " of 20 rows" in out
    assert f"left out: {table}:22, column 'team': label 'sideways' is unknown" in err


def test_another_place_of_the_same_base_is_taken(
    encoder: str, home: Path, table: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    shutil.copytree(home / "encoder", tmp_path / "moved")
    capsys.readouterr()
    assert main(["evaluate", table, "--adapter", encoder, "--base", str(tmp_path / "moved"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 20


@pytest.mark.parametrize("kind", ["causal", "seq2seq"])
def test_a_base_alone_is_measured_in_the_same_form(
    kind: str, home: Path, table: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = request.getfixturevalue(kind)
    capsys.readouterr()
    command = ["evaluate", table, "--base", str(home / kind), "--json"]
    assert main(command) == 0
    found = json.loads(capsys.readouterr().out)
    assert main([*command, "--calibrate"]) == 0
    calibrated = json.loads(capsys.readouterr().out)
    assert main(["evaluate", table, "--adapter", adapter, "--json"]) == 0
    other = json.loads(capsys.readouterr().out)
    assert found.keys() == calibrated.keys() == {*other, "base", "calibrated", "ranking"}
    assert (found["adapter"], found["base"], found["calibrated"]) == (None, str(home / kind), False)
    assert calibrated["calibrated"] and calibrated["loss"] == found["loss"]
    assert (found["rows"], found["labels"]) == (20, ["down", "up"])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "got neither --adapter nor --base, expected one"),
        (["--adapter", "somewhere", "--calibrate"], "--calibrate is for a base without an adapter"),
    ],
)
def test_what_is_measured_must_be_clear(
    words: list[str], told: str, table: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", table, *words]) == 2
    assert told in capsys.readouterr().err


def test_an_encoder_alone_has_nothing_to_measure(home: Path, table: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", table, "--base", str(home / "encoder")]) == 2
    assert "is an encoder, whose head for these labels is not trained" in capsys.readouterr().err

"""`ia3 train --repeat` and `--folds`: what is printed, and one sentence for options that contradict each other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ia3.cli.main import main


def train(home: Path, table: str, output: Path, *options: str) -> int:
    return main(["train", table, "--base", str(home / "encoder"), "--output", str(output), "--epochs", "1", *options])


def test_repeats_are_told_run_by_run_with_median_and_quartiles(
    home: Path, table: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(home, table, tmp_path / "o", "--repeat", "2", "--per-label", "3", "--seed", "5") == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert " ".join(lines[0].split()) == "accuracy 95 % interval macro F1 loss calibration rows"
    assert [line.split()[:2] for line in lines[1:3]] == [["seed", "5"], ["seed", "6"]]
    assert lines[4].startswith("median accuracy ") and " quartiles " in lines[4]
    assert "and the adapter of the median run, seed " in out and "epoch 1" not in err
    told = json.loads((tmp_path / "o" / "repeats.json").read_text())
    assert len(told["runs"]) == 2 and main(["evaluate", table, "--adapter", str(tmp_path / "o")]) == 0


def test_folds_are_told_with_all_rows_and_each_fold(
    home: Path, table: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(home, table, tmp_path / "o", "--folds", "2") == 0
    out = capsys.readouterr().out
    assert out.startswith("each row measured by an adapter that has not learned from it (2 folds):\naccuracy ")
    assert " of 20 rows " in out and "accuracy of each fold: " in out


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--per-label", "4"], "--per-label is for --repeat. Give --repeat 1"),
        (["--repeat", "2", "--folds", "2"], "got --repeat and --folds"),
        (["--folds", "2", "--eval", "more.csv"], "--folds measures on the table's own rows, got --eval too"),
        (["--folds", "2", "--task-column", "label"], "--folds is for one table, got several tasks too"),
        (["--repeat", "2", "--task-column", "label"], "--repeat is for one table, got several tasks too"),
        (["--repeat", "0"], "repeats is 0, expected 1 to 100"),
    ],
)
def test_options_that_contradict_each_other_are_one_sentence(
    options: list[str], told: str, home: Path, table: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(home, table, tmp_path / "o", *options) == 2
    assert told in capsys.readouterr().err and not (tmp_path / "o").exists()

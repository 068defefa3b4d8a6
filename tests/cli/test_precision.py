"""`--base-precision` of the verbs that train an adapter and use it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ia3.cli.main import main


def test_an_adapter_is_trained_measured_and_used_on_an_int8_base(
    home: Path, table: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter, output = str(tmp_path / "adapter"), str(tmp_path / "answers.csv")
    int8 = ["--base-precision", "int8"]
    commands = (
        ["train", table, "--base", str(home / "causal"), "--output", adapter, "--epochs", "1", *int8],
        ["evaluate", table, "--adapter", adapter, *int8],
        ["predict", table, "--adapter", adapter, "--output", output, *int8],
        ["generate", "profit rose", "--adapter", adapter, *int8],
        ["evaluate", table, "--base", str(home / "causal"), *int8],
    )
    for command in commands:
        assert main(command) == 0
        assert "base in int8: 12 projections, 0 MB less\n" in capsys.readouterr().err, command[0]
    assert json.loads((tmp_path / "adapter" / "ia3.json").read_text())["base"]["precision"] == "int8"
    assert main(["evaluate", table, "--adapter", adapter]) == 0
    assert "int8" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            ["--base-precision", "int4"],
            "--base-precision: invalid choice: 'int4' (choose from 'float', 'int8', 'int8-gradients')",
        ),
        (["--base-precision", "int8", "--dtype", "float64"], "precision int8 and dtype float64 exclude each other"),
    ],
)
def test_impossible_precisions_are_one_sentence(
    options: list[str], told: str, home: Path, table: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = str(tmp_path / "o")
    assert main(["train", table, "--base", str(home / "causal"), "--output", output, *options]) == 2
    assert told.replace("'", "") in capsys.readouterr().err.replace("'", "")  # Python's versions quote differently
    assert not Path(output).exists()


def test_merging_has_no_precision_to_choose(encoder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = str(tmp_path / "o")
    assert main(["merge", encoder, "--output", output, "--base-precision", "int8"]) == 2
    assert "--base-precision" in capsys.readouterr().err

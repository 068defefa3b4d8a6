from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from ia3.cli.main import main
from ia3.training.recipes import RECIPES


def test_the_list_names_every_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    out = capsys.readouterr().out
    assert all(f"\n{name} " in out for name in RECIPES)
    assert main(["recipes", "--json"]) == 0
    assert [entry["name"] for entry in json.loads(capsys.readouterr().out)] == [*RECIPES]


def test_one_is_shown_with_its_settings_and_where_it_differs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "show", "t-few-small"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"\nlosses +lm +lm\+ul\+ln +auto\n", out)
    assert "optimizer: the paper adafactor, here adamw." in out
    assert "LM and UL have no counterpart. (encoder)" in out
    assert "\nwith --start: learning_rate 0.008, feedforward_rate 3, max_steps 60, frozen_blocks 0.5 (causal)\n" in out
    assert "\nwith a start that was chosen also: interpolation 0.5 (causal)\n" in out
    assert "\nshare of the rows held out, unless --eval-fraction says another: 0\n" in out
    assert "\na template is searched where none is given (causal, seq2seq)\n" in out
    assert "\na start that comes with ia3 is chosen where none is given and one knows the labels\n" in out
    assert "\nthe temperature that probabilities usually need: " in out and " (causal, with --start)" in out
    assert main(["recipes", "show", "t-few-small", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    usual = shown["usual_temperatures"]
    assert shown["eval_fraction"] == 0 and shown["searches_template"] is shown["chooses_start"] is True
    assert {
        "kind": "causal",
        "with_start": True,
        "temperature": RECIPES["t-few-small"].temperatures["causal", True],
    } in usual
    assert main(["recipes", "show", "t-few", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["kinds"]["seq2seq"]["settings"]["max_steps"] == 1000
    assert [one["setting"] for one in found["kinds"]["seq2seq"]["differs"]] == ["templates", "start"]
    assert found["with_start"] == {}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["shwo", "t-few"], "got 'shwo t-few', expected nothing or 'show NAME'"),
        (["show"], "got 'show', expected nothing or 'show NAME'"),
        (["show", "t-fewe"], "there is no recipe 't-fewe'. Did you mean 't-few'"),
    ],
)
def test_what_it_cannot_read_is_told(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", *words]) == 2
    assert told in capsys.readouterr().err


def test_a_recipe_is_trained_with_and_stands_in_the_record(home: Path, table: str, tmp_path: Path) -> None:
    command = ["train", table, "--base", str(home / "causal"), "--output", str(tmp_path / "run")]
    assert main([*command, "--recipe", "t-few", "--max-steps", "3", "--batch-size", "4"]) == 0
    record = json.loads((tmp_path / "run" / "ia3.json").read_text())
    assert (record["settings"]["recipe"], record["settings"]["losses"]) == ("t-few", "lm+ul+ln")
    assert record["data"]["eval_rows"] == 0  # a tenth of a handful chooses an epoch by luck
    found = {one["setting"]: one for one in record["differs_from_paper"]}
    assert (found["max_steps"]["here"], found["max_steps"]["why"]) == (3, None)
    assert "base" in found


def test_rows_are_held_out_of_a_handful_where_that_is_asked_for(home: Path, table: str, tmp_path: Path) -> None:
    command = ["train", table, "--base", str(home / "causal"), "--max-steps", "1"]
    for name, more in (("few", ["--recipe", "t-few-small"]), ("usual", [])):
        assert main([*command, *more, "--eval-fraction", "0.2", "--output", str(tmp_path / name)]) == 0
    assert main([*command, "--output", str(tmp_path / "tenth")]) == 0
    records = [json.loads((tmp_path / name / "ia3.json").read_text()) for name in ("few", "usual", "tenth")]
    few, usual, tenth = (record["data"]["eval_rows"] for record in records)
    assert few == usual > tenth > 0


def test_losses_over_choices_need_choices(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    free = tmp_path / "free.csv"
    free.write_text("text,label\n" + "".join(f"row {i},answer {i}\n" for i in range(9)))
    command = ["train", str(free), "--base", str(home / "causal"), "--output", str(tmp_path / "run")]
    assert main([*command, "--losses", "lm+ul+ln"]) == 2
    assert "rows have no choices to learn against" in capsys.readouterr().err

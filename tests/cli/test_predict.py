from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from ia3.cli.main import main
from ia3.inference.loading import load_predictor
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


@pytest.mark.parametrize("where", ["both", "s.ia3"])
def test_a_column_names_the_adapter_of_each_row(
    where: str, side_by_side: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [(text, ("mood", " topic ")[place % 2]) for place, (text, _) in enumerate(ROWS)]
    table = str(write_table(tmp_path / "t.csv", rows, ("text", "who")))
    command = ["predict", table, "--output", str(tmp_path / "a.csv"), "--overwrite"]
    assert main([*command, "--adapter", str(side_by_side / where), "--adapter-column", "who"]) == 0
    mixed = _read(tmp_path / "a.csv")
    assert list(mixed[0]) == ["text", "who", "prediction", "probability"]
    for name in ("mood", "topic"):
        assert main([*command, "--adapter", str(side_by_side / f"s.ia3:{name}")]) == 0
        for place, (one, alone) in enumerate(zip(mixed, _read(tmp_path / "a.csv"), strict=True)):
            if rows[place][1].strip() == name:
                assert one["prediction"] == alone["prediction"]
                assert float(one["probability"]) == pytest.approx(float(alone["probability"]), abs=1e-5)
    assert {row["prediction"] for row in mixed} & {"art", "law", "war"}
    assert capsys.readouterr().out.count(": 20 rows") == 3


@pytest.mark.parametrize("where", ["both", "s.ia3"])
def test_rows_whose_adapter_is_not_there_are_told_with_their_lines(
    where: str, side_by_side: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = str(write_table(tmp_path / "t.csv", [("a", "mood"), ("b", "topc"), ("c", "x")], ("text", "who")))
    command = ["predict", table, "--output", str(tmp_path / "a.csv"), "--adapter", str(side_by_side / where)]
    capsys.readouterr()
    assert main([*command, "--adapter-column", "who"]) == 2
    told = capsys.readouterr().err
    assert f"{table}:3: there is no adapter 'topc'. Did you mean 'topic'" in told
    assert f"{table}:4: there is no adapter 'x'" in told and "2 faults" in told
    assert main([*command, "--adapter-column", "whom"]) == 2
    assert "there is no column 'whom' that names the adapters. Did you mean 'who'" in capsys.readouterr().err
    write_table(tmp_path / "t.csv", [("a", "mood"), ("b", " ")], ("text", "who"))
    assert main([*command, "--adapter-column", "who"]) == 2
    assert f"{table}:3: column 'who' names no adapter" in capsys.readouterr().err
    assert main(command) == 2  # a folder of several, or a store, without a name
    assert "mood" in capsys.readouterr().err
    write_table(tmp_path / "t.csv", [("a", "mood")], ("text", "who"))
    assert main([*command[:4], "--adapter", str(side_by_side / "both" / "mood"), "--adapter-column", "who"]) == 2
    assert "is a single adapter, expected a packed store, or the folder" in capsys.readouterr().err
    assert not (tmp_path / "a.csv").exists()


def _probabilities(path: Path, column: str = "probability_up") -> list[float]:
    return [float(row[column]) for row in _read(path)]


def test_a_strength_says_how_much_of_the_adapter_answers(causal: str, encoder: str, table: str, tmp_path: Path) -> None:
    output = tmp_path / "a.csv"
    found = {}
    for adapter, strength in ((causal, "0"), (causal, "1"), (encoder, "-30"), (encoder, "30")):
        command = ["predict", table, "--adapter", adapter, "--output", str(output), "--overwrite"]
        assert main([*command, "--strength", strength]) == 0
        found[strength] = _probabilities(output)
    predictor = load_predictor(causal)
    texts = [text for text, _ in ROWS]
    base = replace(predictor, adapter="__base__").classify(texts)
    assert found["0"] == pytest.approx([one.probabilities["up"] for one in base], abs=1e-6)
    assert found["1"] == pytest.approx([one.probabilities["up"] for one in predictor.classify(texts)], abs=1e-6)
    assert max(abs(far - near) for far, near in zip(found["30"], found["-30"], strict=True)) > 1e-3


def test_a_strength_is_that_of_every_row_whatever_its_adapter(side_by_side: Path, tmp_path: Path) -> None:
    """Another adapter of the bank begins with all of it, so the strength has to be given with the rows."""
    names = [("mood", "topic")[place % 2] for place in range(len(ROWS))]
    rows = [(text, name) for (text, _), name in zip(ROWS, names, strict=True)]
    table = str(write_table(tmp_path / "t.csv", rows, ("text", "who")))
    output = tmp_path / "a.csv"
    command = ["predict", table, "--output", str(output), "--overwrite"]
    found = {}
    for strength in ("1", "-4"):
        words = ["--adapter", str(side_by_side / "s.ia3"), "--adapter-column", "who", "--strength", strength]
        assert main([*command, *words]) == 0
        found[strength] = _probabilities(output, "probability")
    assert all(abs(one - other) > 1e-6 for one, other in zip(found["1"], found["-4"], strict=True))
    for name in ("mood", "topic"):
        assert main([*command, "--adapter", str(side_by_side / f"s.ia3:{name}"), "--strength", "-4"]) == 0
        alone = _probabilities(output, "probability")
        here = [place for place, one in enumerate(names) if one == name]
        assert [found["-4"][place] for place in here] == pytest.approx([alone[place] for place in here], abs=1e-5)


def test_a_strength_that_is_no_number_is_told(causal: str, table: str, capsys: pytest.CaptureFixture[str]) -> None:
    for word in ("half", "inf"):
        capsys.readouterr()
        assert main(["predict", table, "--adapter", causal, "--output", "a.csv", "--strength", word]) == 2
        assert f"--strength: got '{word}', expected a" in capsys.readouterr().err

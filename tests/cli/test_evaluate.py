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
        (["--base", "b", "--strength", "0"], "--strength is for an adapter. Give --adapter, or leave it out"),
        (["--base", "b", "--adapter-column", "who"], "--adapter-column is for a packed store, or a folder of adapters"),
        (["--adapter", "a", "--adapter-column", "who", "--choices", "c"], "--choices got 'c' beside --adapter-column"),
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


def test_no_strength_of_an_adapter_is_the_base_alone(
    causal: str, home: Path, table: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {}
    for words in (["--strength", "0"], ["--strength", "20"], []):
        capsys.readouterr()
        assert main(["evaluate", table, "--adapter", causal, *words, "--json"]) == 0
        found[" ".join(words)] = json.loads(capsys.readouterr().out)
    assert main(["evaluate", table, "--base", str(home / "causal"), "--json"]) == 0
    base = json.loads(capsys.readouterr().out)
    assert found["--strength 0"]["loss"] == pytest.approx(base["loss"], abs=1e-6)
    assert found["--strength 0"]["confusion"] == base["confusion"]
    assert len({round(one["loss"], 4) for one in found.values()}) == 3
    assert found["--strength 0"]["strength"] == 0 and "strength" not in found[""]


def _mixed_table(folder: Path) -> str:
    """Write a table whose rows name two adapters with different labels."""
    rows = [(text, label, "mood") for text, label in ROWS[:8]]
    rows += [(text, ("art", "law", "war")[place % 3], " topic ") for place, (text, _) in enumerate(ROWS[8:15])]
    return str(write_table(folder / "mixed.csv", rows, ("text", "label", "who")))


@pytest.mark.parametrize("where", ["both", "s.ia3"])
def test_a_column_names_the_adapter_of_each_row(
    where: str, side_by_side: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = _mixed_table(tmp_path)
    command = ["evaluate", table, "--adapter", str(side_by_side / where), "--adapter-column", "who"]
    capsys.readouterr()
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["rows"], found["adapter_column"], list(found["adapters"])) == (15, "who", ["mood", "topic"])
    assert found["labels"] == [] and found["macro_f1"] is None and found["perplexity"] is None
    right = 0
    for name, start, end in (("mood", 0, 8), ("topic", 8, 15)):
        lines = Path(table).read_text(encoding="utf-8").splitlines()
        part = tmp_path / f"{name}.csv"
        part.write_text("\n".join([lines[0], *lines[1 + start : 1 + end]]), encoding="utf-8")
        assert main(["evaluate", str(part), "--adapter", str(side_by_side / f"s.ia3:{name}"), "--json"]) == 0
        alone, one = json.loads(capsys.readouterr().out), found["adapters"][name]
        assert (one["confusion"], one["labels"]) == (alone["confusion"], alone["labels"])
        assert one["loss"] == pytest.approx(alone["loss"], abs=1e-5)
        right += round(one["accuracy"] * one["rows"])
    assert found["accuracy"] == pytest.approx(right / 15)
    assert found["loss"] == pytest.approx(
        (8 * found["adapters"]["mood"]["loss"] + 7 * found["adapters"]["topic"]["loss"]) / 15
    )
    picture = tmp_path / "reliability.png"
    assert main([*command, "--strength", "0.5", "--reliability", str(picture)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["adapter", "rows", "accuracy", "95", "%", "interval", "macro", "F1", "loss"]
    assert [line.split()[:2] for line in lines[1:3]] == [["mood", "8"], ["topic", "7"]]
    assert lines[3:5] == ["", "all adapters together"] and " of 15 rows" in lines[5]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_labels_that_their_own_adapter_does_not_know_are_bad_rows(
    side_by_side: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [("a", "up", "mood"), ("b", "war", "mood"), ("c", "", "topic"), ("d", "law", "topic"), ("e", "la", "topic")]
    table = str(write_table(tmp_path / "t.csv", rows, ("text", "label", "who")))
    command = ["evaluate", table, "--adapter", str(side_by_side / "both"), "--adapter-column", "who"]
    capsys.readouterr()
    assert main(command) == 2
    err = capsys.readouterr().err
    told = [
        "3 bad rows of 5.",
        f"{table}:3, column 'label': label 'war' is unknown to adapter 'mood'. Known: 'down', 'up'",
        f"{table}:4, column 'label': label is missing",
        f"{table}:6, column 'label': label 'la' is unknown to adapter 'topic'. Did you mean 'law'?",
        "Mend them, or give --skip-bad-rows to leave them out.",
    ]
    places = [err.index(one) for one in told]
    assert places == sorted(places)
    assert main([*command, "--skip-bad-rows", "--json"]) == 0
    out, err = capsys.readouterr()
    assert {name: one["rows"] for name, one in json.loads(out)["adapters"].items()} == {"mood": 1, "topic": 1}
    assert err.count("left out: ") == 3
    write_table(tmp_path / "t.csv", [("a", "war", "mood")], ("text", "label", "who"))
    assert main([*command, "--skip-bad-rows"]) == 2
    assert "the only row is bad" in capsys.readouterr().err
    write_table(tmp_path / "t.csv", [("a", "up", "mod")], ("text", "label", "who"))
    assert main(command) == 2
    assert f"{table}:2: there is no adapter 'mod'. Did you mean 'mood'?" in capsys.readouterr().err

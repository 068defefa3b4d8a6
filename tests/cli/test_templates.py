"""`ia3 templates`: what there is, rows as a base reads them, and placeholders both ways."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ia3.cli.main import main
from tests.cli.conftest import write_table


@pytest.fixture
def mail(tmp_path: Path) -> str:
    rows = [("Re", "profit rose", "up", "7"), ("Fw", "sales fell", "down", "8"), ("Re", "orders grew", "up", "9")]
    return str(write_table(tmp_path / "mail.csv", rows, ["subject", "text", "label", "id"]))


def _json(words: list[str], capsys: pytest.CaptureFixture[str], code: int = 0) -> list[dict[str, object]]:
    capsys.readouterr()
    assert main(["templates", *words, "--json"]) == code
    found: list[dict[str, object]] = json.loads(capsys.readouterr().out)
    return found


def test_the_list_has_what_is_used_where_none_is_given(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["templates", "list"]) == 0
    assert "causal, where none is given:\n  prompt: '{{ text }}\\nlabel:'\n" in capsys.readouterr().out
    assert [one["kind"] for one in _json(["list"], capsys)] == ["causal", "seq2seq", "encoder"]


def test_an_adapters_own_are_listed_and_previewed(causal: str, table: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _json(["list", "--adapter", causal], capsys) == [{"prompt": "{{ text }}\nlabel:", "target": "{{ label }}"}]
    shown = _json(["preview", table, "--adapter", causal, "--rows", "1"], capsys)
    assert shown[0]["prompt"] == "profit rose in week 1\nlabel:" and shown[0]["answers"] == [" down", " up"]


def test_rows_are_shown_as_a_base_reads_them(home: Path, mail: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["preview", mail, "--template", r"{{ subject }}: {{ text }}\nMood: ||| {{ label }}ward"]
    assert main(["templates", *words, "--rows", "2"]) == 0
    out = capsys.readouterr().out
    assert f"template 1, {mail}:2:\n  Re: profit rose\n  Mood:\n    ' downward'\n  → ' upward'\n" in out
    shown = _json([*words, "--base", str(home / "causal")], capsys)
    assert shown[0]["read"] == "<bos>Re: profit rose\nMood:" and shown[0]["tokens"] == 22
    shown = _json([*words, "--base", str(home / "encoder")], capsys)
    assert str(shown[0]["read"]).endswith("Mood:<eos>") and shown[0]["answers"] == []


def test_placeholders_are_checked_both_ways(mail: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.yaml").write_text("- '{{ text }}'\n- '{{ sbject }}: {{ text }}'\n")
    fits = _json(["check", mail, "--templates", str(tmp_path / "t.yaml")], capsys, code=2)
    assert (fits[0]["used"], fits[0]["unused"], fits[0]["missing"]) == (["text", "label"], ["subject", "id"], [])
    assert fits[0]["fault"] == "" and fits[1]["missing"] == ["sbject"]
    assert "Did you mean 'subject'" in str(fits[1]["fault"])
    assert main(["templates", "check", mail]) == 0
    out = capsys.readouterr().out
    assert "  columns it leaves out: 'subject', 'id'\n  placeholders without a column: none\n  it fits the table" in out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["preview"], "templates: preview needs a table, got none"),
        (["list", "t.csv"], "templates: list takes no table"),
        (["show"], "invalid choice: 'show'"),
        (["preview", "{table}", "--rows", "0"], "--rows is 0, expected at least 1"),
        (["check", "{table}", "--template", "{{ text"], "unexpected end of template"),
    ],
)
def test_what_it_cannot_do_is_told(words: list[str], told: str, table: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = [word.replace("{table}", table) if word == "{table}" else word for word in words]
    assert main(["templates", *given]) == 2
    assert told in capsys.readouterr().err

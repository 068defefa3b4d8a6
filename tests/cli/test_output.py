from __future__ import annotations

import argparse
import io
import json
import math

import pytest

from ia3.cli.output import print_json, print_lines, print_result


def _stdout(monkeypatch: pytest.MonkeyPatch, encoding: str) -> io.BytesIO:
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding=encoding, write_through=True))
    return raw


def test_numbers_that_json_lacks_become_null(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"loss": math.nan, "all": [math.inf, 1.5, (True, None)]})
    assert json.loads(capsys.readouterr().out) == {"loss": None, "all": [None, 1.5, [True, None]]}


@pytest.mark.parametrize(("as_json", "printed"), [(True, "[\n  1\n]\n"), (False, "one\n")])
def test_a_result_is_printed_for_programs_or_for_people(
    as_json: bool, printed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    print_result(argparse.Namespace(json=as_json), [1], ["one"])
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
@pytest.mark.parametrize("text", ["é", "€", "\ud800"])
def test_json_reads_back_whatever_the_encoding(encoding: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = _stdout(monkeypatch, encoding)
    print_json([text])
    assert json.loads(raw.getvalue().decode(encoding)) == [text]


def test_lines_that_the_encoding_cannot_hold_are_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = _stdout(monkeypatch, "ascii")
    print_lines(["(IA)³", "\ud800"])
    assert raw.getvalue() == b"(IA)\\xb3\n\\ud800\n"

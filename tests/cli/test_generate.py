from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest

from ia3.cli.main import main
from ia3.inference.loading import load_predictor


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the predictor answer with the text itself, loudly: what a tiny random base says is noise."""
    from ia3.inference.predictor import Predictor

    def generate(self: Predictor, texts: list[str], max_new_tokens: int | None = None) -> list[str]:
        return [f"{text.upper()}\n{max_new_tokens}" for text in texts]

    monkeypatch.setattr(Predictor, "generate", generate)


def test_one_text_is_answered_as_it_is(causal: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["generate", "--adapter", causal, "profit rose"]) == 0
    assert capsys.readouterr().out == "PROFIT ROSE\nNone\n"


def test_several_texts_are_answered_one_line_each(causal: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["generate", "a", "b", "--adapter", causal, "--max-new-tokens", "3"]) == 0
    assert capsys.readouterr().out == "A\\n3\nB\\n3\n"


@pytest.mark.parametrize("texts", [[], ["-"]])
def test_lines_of_stdin_are_answered_line_by_line_and_empty_ones_stay_empty(
    texts: list[str], causal: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [*(f"t{number}" for number in range(40)), "", "end"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\r\n".join(lines)))
    capsys.readouterr()
    assert main(["generate", *texts, "--adapter", causal]) == 0
    assert capsys.readouterr().out.splitlines() == [f"{line.upper()}\\nNone" if line else "" for line in lines]


def test_json_is_one_document_of_texts_and_answers(
    causal: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("a\nb\n"))
    capsys.readouterr()
    assert main(["generate", "-", "--adapter", causal, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [
        {"text": "a", "answer": "A\nNone"},
        {"text": "b", "answer": "B\nNone"},
    ]


def test_without_a_text_and_without_a_pipe_it_says_what_to_give(
    causal: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", _Terminal())
    capsys.readouterr()
    assert main(["generate", "--adapter", causal]) == 2
    assert capsys.readouterr().err == (
        "ia3: generate: there is no text. Give TEXT in quotes, or - to read lines from stdin.\n"
    )


def test_an_encoder_is_refused_before_its_base_is_loaded(encoder: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["generate", "--adapter", encoder, "--base", "/nowhere", "profit rose"]) == 2
    err = capsys.readouterr().err
    assert "its base is an encoder, which chooses among labels and writes no text. Use 'ia3 predict'" in err


def test_stdin_that_is_no_text_is_one_sentence(
    causal: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"ok\n\xff\n"), encoding="utf-8"))
    capsys.readouterr()
    assert main(["generate", "-", "--adapter", causal]) == 2
    assert capsys.readouterr().err == "ia3: Reading stdin: it is not utf-8 text (invalid start byte).\n"


def test_an_answer_is_that_of_as_much_of_the_adapter_as_is_asked_for(
    causal: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # what the base itself says is compared
    predictor = load_predictor(causal)
    for strength, expected in (("0", replace(predictor, adapter="__base__")), ("-8", replace(predictor, strength=-8))):
        command = ["generate", "--adapter", causal, "--max-new-tokens", "5", "--json", "profit rose", "sales fell"]
        capsys.readouterr()
        assert main([*command, "--strength", strength]) == 0
        answers = [one["answer"] for one in json.loads(capsys.readouterr().out)]
        assert answers == expected.generate(["profit rose", "sales fell"], 5)

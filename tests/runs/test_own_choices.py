"""Rows that bring their own choices: trained, measured and predicted, each with its own."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ia3
from ia3.bases.loading import load_base
from ia3.cli.main import main
from ia3.data.tables import read_table
from ia3.errors import SettingsError, TableError, TemplateError
from ia3.inference.zero_shot import load_zero_shot
from ia3.runs.plans.one import train_adapter
from tests.runs.trials import draw_nothing

QUIZ = [
    {"question": f"Number {n}: which is {what}?", "answer": right, "options": options}
    for n in range(4)
    for what, right, options in (
        ("warm", "the sun", "the sun|ice"),
        ("wet", "rain", ["sand", "a stone", "rain"]),
        ("loud", "a horn", "silence | a horn | snow | dew"),
    )
]
TEMPLATE = "{{ question }} One of {{ choices }}.\\nIt is: ||| {{ answer }}"


def _quietly(line: str) -> None:
    """Take a line of talk."""


@pytest.fixture(scope="module", params=["causal", "seq2seq"])
def trained(request: Any, base: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    folder = tmp_path_factory.mktemp("own") / "o"
    options: dict[str, Any] = {"losses": "lm+ul+ln", "epochs": 6, "batch_size": 4, "learning_rate": 0.05}
    options |= {"text": "question", "label": "answer", "choices": "options", "template": TEMPLATE, "device": "cpu"}
    with pytest.MonkeyPatch.context() as patched:
        draw_nothing(patched)
        result = train_adapter(QUIZ, base(request.param), folder, eval_source=QUIZ, **options)
    return result, folder


def test_it_learns_them_and_records_the_column(trained: Any) -> None:
    result, folder = trained
    record = json.loads((folder / "ia3.json").read_text(encoding="utf-8"))
    events = [json.loads(line) for line in (folder / "run.jsonl").read_text(encoding="utf-8").splitlines()]
    losses = [event["train_loss"] for event in events if event["event"] == "epoch"]

    assert record["template"]["choices_column"] == "options" and record["template"]["ranking"] == "mean"
    assert record["labels"] is None and "choices" in events[0]["run"]
    assert "Each row brings its own choices, 2 to 4 of them (column 'options')." in events[0]["notes"]
    assert min(losses) < losses[0]
    assert result.metrics.accuracy is not None and result.metrics.labels == () and result.metrics.confusion == ()
    assert result.metrics.lines()[0].startswith("accuracy ") and result.metrics.calibration_error is not None


def test_each_row_is_answered_with_its_own_choices_as_when_it_is_scored_alone(trained: Any) -> None:
    result, folder = trained
    predictor = ia3.load(folder, device="cpu", say=_quietly)
    model, tokenizer = predictor.base.model, predictor.base.tokenizer

    found = predictor.classify(QUIZ[:3])

    for row, prediction, options in zip(QUIZ, found, (["the sun", "ice"], ["sand", "a stone", "rain"],
                                                     ["silence", "a horn", "snow", "dew"]), strict=False):  # fmt: skip
        assert list(prediction.probabilities) == options
        prompt = tokenizer(f"{row['question']} One of {', '.join(options)}.\nIt is:")["input_ids"]
        means = []
        for option in options:
            blank = " " if predictor.base.kind == "causal" else ""
            ids = [*tokenizer(blank + option, add_special_tokens=False)["input_ids"], 1]
            with torch.inference_mode():
                if predictor.base.kind == "causal":
                    whole = torch.tensor([prompt + ids])
                    logits = model(input_ids=whole, rows=predictor.adapter).logits[0, len(prompt) - 1 : -1]
                else:
                    inputs = {"input_ids": torch.tensor([prompt]), "decoder_input_ids": torch.tensor([[0, *ids[:-1]]])}
                    logits = model(**inputs, rows=predictor.adapter).logits[0]
            means.append(float(logits.log_softmax(-1)[range(len(ids)), ids].mean()))
        powers = np.exp(means)
        assert np.allclose(list(prediction.probabilities.values()), powers / powers.sum(), atol=1e-4)
    table = read_table(QUIZ, text="question", label="answer", choices="options")
    measured = predictor.evaluate(table)
    assert measured.accuracy == result.metrics.accuracy
    assert math.isclose(measured.loss or 0, result.metrics.loss, rel_tol=1e-5)


def test_tables_are_predicted_and_measured_on_the_command_line(
    trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result, folder = trained
    (tmp_path / "quiz.jsonl").write_text("\n".join(map(json.dumps, QUIZ)), encoding="utf-8")
    table, output = str(tmp_path / "quiz.jsonl"), tmp_path / "out.csv"
    assert main(["predict", table, "--adapter", str(folder), "--output", str(output)]) == 0
    rows = list(csv.DictReader(output.read_text(encoding="utf-8").splitlines()))
    assert list(rows[0]) == ["question", "answer", "options", "prediction", "probabilities", "probability"]
    shares = json.loads(rows[1]["probabilities"])
    assert list(shares) == ["sand", "a stone", "rain"] and max(shares, key=shares.__getitem__) == rows[1]["prediction"]
    capsys.readouterr()
    assert main(["evaluate", table, "--adapter", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == result.metrics.accuracy
    (tmp_path / "bad.csv").write_text("question,answer,options\nWhich?,no,a|b\n")
    assert main(["evaluate", str(tmp_path / "bad.csv"), "--adapter", str(folder)]) == 2
    assert f"{tmp_path}/bad.csv:2, column 'options': its answer 'no' is not among its" in capsys.readouterr().err


def test_folds_and_repeats_measure_and_record_them(
    base: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "quiz.jsonl").write_text("\n".join(map(json.dumps, QUIZ)), encoding="utf-8")
    command = ["train", str(tmp_path / "quiz.jsonl"), "--base", str(base("causal")), "--text", "question"]
    command += ["--label", "answer", "--choices", "options", "--losses", "lm+ul+ln", "--max-steps", "2"]
    assert main([*command, "--folds", "3", "--output", str(tmp_path / "folds")]) == 0
    out, err = capsys.readouterr()
    assert "accuracy of each fold: " in out and " of 12 rows " in out and "Only 12 rows are measured on" in err
    record = json.loads((tmp_path / "folds" / "ia3.json").read_text(encoding="utf-8"))
    assert record["template"]["choices_column"] == "options" and "calibration" not in record
    assert [one["rows"] for one in record["cross_validation"]["each"]] == [4, 4, 4]
    assert main([*command, "--repeat", "2", "--eval-fraction", "0.4", "--output", str(tmp_path / "two")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("seed 0 ") and "median accuracy" in "\n".join(lines)
    again = ia3.load(tmp_path / "two", device="cpu", say=_quietly).evaluate(tmp_path / "quiz.jsonl")
    assert again.rows == 12 and again.labels == ()
    refused = [*command, "--repeat", "2", "--per-label", "1", "--output", str(tmp_path / "no")]
    assert main(refused) == 2
    told = "per_label is 1 and each row brings its own choices, expected a closed set of labels. Leave --per-label out."
    assert told in capsys.readouterr().err


def test_a_base_alone_compares_them_too(base: Callable[..., Path]) -> None:
    table = read_table(QUIZ, text="question", label="answer", choices="options")
    zero_shot = load_zero_shot(load_base(base("causal"), device="cpu", say=_quietly), table, template=TEMPLATE)

    metrics = zero_shot.evaluate(table)

    assert metrics.rows == 12 and metrics.labels == () and metrics.accuracy is not None
    with pytest.raises(SettingsError, match="these rows bring their own choices"):
        zero_shot.evaluate(table, is_calibrated=True)


def test_what_does_not_go_with_them_is_told(base: Callable[..., Path], trained: Any, tmp_path: Path) -> None:
    options: dict[str, Any] = {"text": "question", "label": "answer", "choices": "options", "eval_fraction": 0}
    with pytest.raises(SettingsError, match="an encoder's head has one output for each label"):
        train_adapter(QUIZ, base("encoder"), tmp_path / "o", **options)
    with pytest.raises(SettingsError, match="they are among the choices of each row, got answers 'labels' too"):
        train_adapter(QUIZ, base("causal"), tmp_path / "o", answers="labels", **options)
    with pytest.raises(TemplateError, match=r"its choices 'the sun' and 'ice' have the same answer tokens"):
        train_adapter(QUIZ, base("causal"), tmp_path / "o", template="{{ text }} ||| yes", **options)
    predictor = ia3.load(trained[1], device="cpu", say=_quietly)
    with pytest.raises(TableError, match="there is no column of choices 'options'"):
        predictor.classify(["no choices"])

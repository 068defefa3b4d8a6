from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ia3.cli.main import main
from ia3.cli.progress import TrainingProgress
from tests.cli.conftest import ROWS, write_table


@pytest.fixture
def train(home: Path, table: str, tmp_path: Path) -> Callable[..., int]:
    """Return a function that trains the tiny encoder in one epoch with further options."""

    def run(*options: str, base: str = "encoder", output: str = "out") -> int:
        return main(["train", table, "--base", str(home / base), "--output", str(tmp_path / output), *options])

    return run


def _signal_at(step: int, monkeypatch: pytest.MonkeyPatch, times: int = 1) -> None:
    """Send Ctrl-C to the run after a step."""
    show = TrainingProgress.show

    def shown(self: TrainingProgress, event: dict[str, Any]) -> None:
        show(self, event)
        if event["event"] == "step" and event["step"] == step:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(TrainingProgress, "show", shown)


def test_results_go_to_stdout_and_talk_to_stderr(
    train: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("--epochs", "2") == 0
    out, err = capsys.readouterr()
    assert out.startswith("the saved adapter (epoch ") and " on the rows held out:\naccuracy " in out
    assert "6 steps in " in out and f"the adapter lies in {tmp_path / 'out'}\n" in out
    assert out.endswith(f"use it: ia3 predict TABLE --adapter {tmp_path / 'out'} --output predictions.csv\n")
    for said in ("text column: 'text'", "closed set of 2 labels", "2 of 20 rows are held out", "epoch 2: train loss"):
        assert said in err
    assert "Warning" not in err and "|" not in err


def test_json_is_one_document_and_settings_are_those_of_the_options(
    train: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {
        "epochs": 9, "max_steps": 2, "learning_rate": 0.01, "feedforward_rate": 3.0, "head_learning_rate": 0.02,
        "pooling": "mean", "batch_size": 4, "token_budget": 64, "warmup": 0.1, "beta1": 0.8, "beta2": 0.95,
        "weight_decay": 0.5, "clip": 0.5, "frozen_blocks": 0.5, "interpolation": 0.0, "compile": "off",
        "eval_strategy": "end", "seed": 7, "contrast_temperature": 0.5,
    }  # fmt: skip
    options = [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    switched = ("dropout", "class_weights", "fit_head", "label_texts", "judge")
    options += [f"--{name.replace('_', '-')}" for name in switched]
    assert train(*options, "--max-length", "20", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    rest = {"recipe": "default", "losses": "lm", "optimizer": "adamw", "patience": 0}
    assert found["settings"] == {**given, **rest, **dict.fromkeys(switched, True)}
    assert (found["steps"], found["stopped"], found["labels"]) == (2, False, ["down", "up"])
    assert json.loads((tmp_path / "out" / "ia3.json").read_text())["max_length"] == 20


def test_an_eval_table_and_a_template_are_taken(
    train: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held_out = str(write_table(tmp_path / "eval.csv", ROWS[:6]))
    template = "{{ text }}\nMood: ||| {{ label }}"
    assert train("--eval", held_out, "--template", template, "--max-steps", "1", base="causal") == 0
    out, err = capsys.readouterr()
    assert f"the saved adapter (epoch 1) on {held_out}:\naccuracy " in out and "perplexity" in out
    assert "6 of the 6 eval rows have a text that is trained on" in err
    assert json.loads((tmp_path / "out" / "ia3.json").read_text())["template"]["prompt"] == "{{ text }}\nMood:"


def test_named_columns_free_text_and_bad_rows_are_taken(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [*((text, f"{label} {text[-1]}") for text, label in ROWS), ("", "no text")]
    table = str(write_table(tmp_path / "t.csv", rows, ["body", "reply"]))
    output = str(tmp_path / "out")
    command = ["train", table, "--base", str(home / "seq2seq"), "--output", output, "--max-steps", "1"]
    assert main([*command, "--text", "body", "--label", "reply", "--answers", "text"]) == 2
    assert "line" not in (err := capsys.readouterr().err) and f"{table}:22, column 'body': text is empty" in err
    options = ["--text", "body", "--label", "reply", "--answers", "text", "--skip-bad-rows", "--eval-fraction", "0"]
    assert main([*command, *options, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["labels"], found["metrics"]) == ([], None)


def test_a_used_folder_needs_overwrite_or_resume(
    train: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("--epochs", "1") == 0
    capsys.readouterr()
    assert train("--epochs", "1") == 2
    assert "Give --resume to go on, --overwrite to replace, or another --output." in capsys.readouterr().err
    assert train("--epochs", "1", "--overwrite") == 0
    assert (tmp_path / "out" / "adapter_config.json").is_file()


def test_resume_and_overwrite_exclude_each_other(train: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert train("--resume", "--overwrite") == 2
    assert capsys.readouterr().err == (
        "ia3: train: --overwrite: not allowed with argument --resume. See 'ia3 train --help'.\n"
    )


def test_ctrl_c_ends_after_the_step_and_resume_goes_on(
    train: Callable[..., int], tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        _signal_at(4, patch)
        assert train("--epochs", "3") == 130
    out, err = capfd.readouterr()
    assert "stopping after this step" in err
    assert err.endswith(
        f"ia3: stopped after step 4. The best adapter so far lies in {tmp_path / 'out'}. "
        "The same command with --resume goes on.\n"
    )
    assert "4 steps in" in out
    assert train("--epochs", "3", "--resume", "--json") == 0
    out, err = capfd.readouterr()
    assert "Resuming after step 4." in err
    assert json.loads(out)["steps"] == 9


def test_a_stopped_run_says_so_in_its_json(
    train: Callable[..., int], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _signal_at(1, monkeypatch)
    assert train("--epochs", "3", "--json") == 130
    found = json.loads(capfd.readouterr().out)
    assert (found["stopped"], found["steps"]) == (True, 1)


def test_a_second_ctrl_c_stops_at_once_and_says_what_is_left(
    train: Callable[..., int], tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _signal_at(4, monkeypatch, times=2)
    assert train("--epochs", "3") == 130
    out, err = capfd.readouterr()
    assert out == ""
    assert err.endswith(
        f"ia3: stopped at once. The best adapter so far lies in {tmp_path / 'out'}. "
        "The same command with --resume goes on.\n"
    )


def test_stopped_before_the_first_epoch_it_says_that_nothing_is_saved(
    train: Callable[..., int], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _signal_at(1, monkeypatch, times=2)
    assert train("--epochs", "3") == 130
    assert capfd.readouterr().err.endswith("ia3: stopped at once. No adapter is saved yet.\n")


def test_the_handlers_are_given_back(train: Callable[..., int]) -> None:
    before = signal.getsignal(signal.SIGINT)
    assert train("--max-steps", "1") == 0
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_real_process_stops_with_the_best_adapter_saved(
    number: signal.Signals, home: Path, table: str, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    command = [sys.executable, "-m", "ia3", "train", table, "--base", str(home / "causal"), "--output", str(output)]
    process = subprocess.Popen(
        [*command, "--epochs", "100000", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    try:
        deadline = time.monotonic() + 60
        while not (output / "adapter_config.json").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert json.loads(out)["stopped"] is True
    assert f"The best adapter so far lies in {output}." in err
    assert "Traceback" not in err

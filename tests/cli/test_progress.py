from __future__ import annotations

from typing import Any

import pytest

from ia3.cli.progress import CountedProgress, Progress, TrainingProgress, epoch_line


def _step(step: int, speed: float = 8.0) -> dict[str, Any]:
    return {"event": "step", "step": step, "epoch": 1, "loss": 0.5, "learning_rate": 0.1, "examples_per_second": speed}


START = {"event": "start", "step": 0, "total_steps": 10}


def test_without_a_terminal_a_line_tells_rate_and_time_left_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    progress = CountedProgress("rows", clock=lambda: now[0], is_terminal=False)
    progress.show(0, 100)
    now[0] = 10.0
    progress.show(10, 100)
    assert capsys.readouterr().err == ""
    now[0] = 40.0
    progress.show(40, 100)
    assert capsys.readouterr().err == "40 of 100 rows, 1.0 rows/s, 1 min 0 s left\n"
    now[0] = 50.0
    progress.show(50, 100)
    assert capsys.readouterr().err == ""


def test_without_a_total_a_line_tells_what_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    progress = Progress(None, "rows", clock=lambda: now[0], is_terminal=False)
    now[0] = 50.0
    progress.advance(2000)
    assert capsys.readouterr().err == "2,000 rows, 40.0 rows/s\n"


def test_on_a_terminal_there_is_a_bar_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(2, "rows", is_terminal=True) as progress:
        progress.advance(1, "a note")
        progress.line("a line")
        progress.advance(1)
    out, err = capsys.readouterr()
    assert out == ""
    assert "1/2 rows" in err and "left" in err and "a note" in err and "a line\n" in err and "rows/s" in err


def test_a_count_that_begins_again_is_a_new_bar(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    progress = CountedProgress("rows", clock=lambda: now[0], is_terminal=False)
    progress.show(10, 10)
    progress.show(1, 10)
    now[0] = 60.0
    progress.show(6, 10)
    assert capsys.readouterr().err == "6 of 10 rows, 0.1 rows/s, 40 s left\n"


def test_training_without_a_terminal_tells_each_epoch_and_steps_now_and_then(
    capsys: pytest.CaptureFixture[str],
) -> None:
    now = [0.0]
    progress = TrainingProgress(clock=lambda: now[0], is_terminal=False)
    progress.show(START)
    for step in range(1, 6):
        now[0] += 8
        progress.show(_step(step))
    epoch = {"event": "epoch", "epoch": 1, "train_loss": 0.7, "eval_loss": None, "eval_accuracy": None, "is_best": True}
    progress.show(epoch)
    progress.show({"event": "end"})
    progress.line("done")
    assert capsys.readouterr().err.splitlines() == [
        "4 of 10 steps, 48 s left, 8.0 examples/s, loss 0.5000",
        "epoch 1: train loss 0.7000",
        "done",
    ]


def test_a_resumed_training_counts_time_left_from_where_it_began(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    progress = TrainingProgress(clock=lambda: now[0], is_terminal=False)
    progress.show({**START, "step": 6})
    now[0] = 30.0
    progress.show(_step(7))
    assert capsys.readouterr().err == "7 of 10 steps, 1 min 30 s left, 8.0 examples/s, loss 0.5000\n"


def test_training_on_a_terminal_shows_examples_per_second(capsys: pytest.CaptureFixture[str]) -> None:
    progress = TrainingProgress(is_terminal=True)
    progress.show(START)
    progress.show(_step(1))
    progress.line("a line")
    progress.close()
    err = capsys.readouterr().err
    assert "1/10 steps" in err and "8.0 examples/s" in err and "a line\n" in err


def test_an_epoch_is_told_with_its_losses_and_accuracy() -> None:
    event = {
        "event": "epoch", "epoch": 2, "train_loss": 0.51, "eval_loss": 0.25, "eval_accuracy": 0.9375, "is_best": True,
    }  # fmt: skip
    assert epoch_line(event) == "epoch 2: train loss 0.5100, eval loss 0.2500, accuracy 93.8 %, the best so far, saved"
    language = {**event, "train_perplexity": 1.665, "eval_perplexity": 1.284, "is_best": False}
    assert epoch_line(language) == (
        "epoch 2: train loss 0.5100 (perplexity 1.665), eval loss 0.2500 (perplexity 1.284), accuracy 93.8 %"
    )

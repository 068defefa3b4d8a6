"""Stopped after any step and resumed: the same bits, and what is kept meanwhile."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ia3.training.loop import train_loop
from tests.training.tasks import SHORT, TOTAL, Watcher, copy_trained, make_task, run_loop, same_bits


@pytest.mark.parametrize(
    ("kind", "dropout", "stops"),
    [
        # each step with one kind, and all steps with every kind in the slow tier
        ("causal", False, (1, 4)),
        ("seq2seq", True, (2,)),
        ("encoder", True, (3, 5)),
        pytest.param("causal", False, (2, 3, 5), marks=pytest.mark.slow),
        pytest.param("seq2seq", True, (1, 3, 4, 5), marks=pytest.mark.slow),
        pytest.param("encoder", True, (1, 2, 4), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_stopped_after_any_step_the_resumed_run_ends_in_the_same_bits(
    kind: str, dropout: bool, stops: Sequence[int], bases: Path
) -> None:
    settings = dataclasses.replace(SHORT, dropout=dropout, warmup=0.2, weight_decay=0.1, class_weights=True)
    losses = [1.0, 2.0]  # the first epoch is the best, so that its numbers must survive
    whole = make_task(bases, kind, dtype="float32", dropout=True)
    outcome, watched = run_loop(whole, settings, losses=losses)
    for stop in stops:
        task = make_task(bases, kind, dtype="float32", dropout=True)
        stopped, before = run_loop(task, settings, losses=losses, stop_after=stop)
        assert (stopped.steps, stopped.is_stopped, before.checkpoints[-1].step) == (stop, True, stop)
        assert before.checkpoints[-1].run == "a run"
        for _ in range(2):  # the second time shows that the checkpoint was not trained on
            task = make_task(bases, kind, dtype="float32", dropout=True)
            done = len(before.of("epoch"))
            resumed, after = run_loop(task, settings, losses=losses[done:], resume=before.checkpoints[-1])
            assert resumed == outcome and same_bits(copy_trained(task), copy_trained(whole))
            told = [_plain(event) for event in before.events + after.events]
            assert told == [_plain(event) for event in watched.events]


def test_a_checkpoint_is_not_trained_on_by_the_run_that_made_it(bases: Path) -> None:
    whole = make_task(bases, "encoder")
    _, watcher = run_loop(whole)
    for checkpoint in watcher.checkpoints[:-1]:
        task = make_task(bases, "encoder")
        run_loop(task, resume=checkpoint)
        assert same_bits(copy_trained(task), copy_trained(whole))


def _plain(event: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in event.items() if name != "examples_per_second"}


def test_stopped_before_an_epoch_ended_the_numbers_as_they_are_are_kept(bases: Path) -> None:
    task = make_task(bases, "causal")
    outcome, watcher = run_loop(task, losses=[1.0], stop_after=2)
    assert (outcome.steps, outcome.best_epoch, outcome.is_stopped) == (2, 0, True) and math.isnan(outcome.best_loss)
    assert len(watcher.best) == 1 and same_bits(watcher.best[0], copy_trained(task))
    assert same_bits(watcher.checkpoints[-1].tasks[0].trained, {n: t.cpu() for n, t in copy_trained(task).items()})


def test_stopped_after_an_epoch_its_numbers_are_kept(bases: Path) -> None:
    task = make_task(bases, "causal")
    outcome, watcher = run_loop(task, losses=[1.0], stop_after=5)
    assert (outcome.steps, outcome.best_epoch, outcome.is_stopped) == (5, 1, True)
    assert len(watcher.best) == 1 and same_bits(watcher.best[0], copy_trained(task))
    assert not same_bits(watcher.checkpoints[-1].tasks[0].trained, copy_trained(task))  # to go on from


def test_stopped_before_the_first_step_nothing_is_kept(bases: Path) -> None:
    outcome, watcher = run_loop(make_task(bases, "causal"), stop_after=0)
    assert (outcome.steps, outcome.is_stopped) == (0, True)
    assert not watcher.events and not watcher.best and not watcher.checkpoints


def test_asked_to_stop_after_the_last_step_a_run_is_finished(bases: Path) -> None:
    outcome, _ = run_loop(make_task(bases, "causal"), stop_after=TOTAL)
    assert (outcome.steps, outcome.is_stopped) == (TOTAL, False)


def test_resumed_from_its_last_step_a_run_gives_the_same_without_another_step(bases: Path) -> None:
    whole = make_task(bases, "causal")
    outcome, watched = run_loop(whole, losses=[1.0, 2.0])
    task = make_task(bases, "causal")
    again, watcher = run_loop(task, resume=watched.checkpoints[-1])
    assert again == outcome and not watcher.events and same_bits(copy_trained(task), copy_trained(whole))


def test_checkpoints_come_at_the_end_of_epochs_and_after_some_seconds(bases: Path) -> None:
    def steps(seconds: float) -> list[int]:
        watcher = Watcher(make_task(bases, "causal"), seconds=seconds)
        ticks = itertools.count()
        callbacks = dataclasses.replace(watcher.callbacks, clock=lambda: float(next(ticks)))
        train_loop(watcher.task, SHORT, callbacks, run="a run")
        return [checkpoint.step for checkpoint in watcher.checkpoints]

    assert steps(1e9) == [3, 6]
    assert steps(0.0) == [1, 2, 3, 4, 5, 6]
    assert steps(6.0) == [2, 3, 5, 6]  # a step asks for the time three times

"""The optimizer of a task: a rate of their own for the feed-forward vectors, of whichever optimizer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.optimization import Adafactor

from ia3.core.bank import Bank
from ia3.core.discovery import find_plan
from ia3.core.sites import Plan
from ia3.training.optimizer import gradient_norm, make_optimizer, step_optimizer
from ia3.training.settings import Settings
from tests.models import tiny_gemma3
from tests.training.tasks import SHORT, copy_trained, make_task, run_loop, same_bits


@pytest.fixture(scope="module")
def plan() -> Plan:
    return find_plan(tiny_gemma3())


def _steps(plan: Plan, count: int, rate: float = 0.01, **options: Any) -> Tensor:
    """Return how far a row has moved after some steps with given gradients, without clipping."""
    bank = Bank(plan)
    bank.add("a", trainable=True)
    row = bank.snapshot.vector(bank.row("a"))
    settings = Settings(clip=0.0, learning_rate=rate, **options)
    optimizer = make_optimizer({"vectors": row}, settings, plan)
    for step in range(count):
        row.grad = torch.linspace(-1, 1, row.numel()) + 0.01 * step + 1e-3
        step_optimizer(optimizer, settings, gradient_norm(optimizer), 1.0, torch.ones_like(row))
    return row.detach() - 1


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_the_feed_forward_vectors_take_longer_steps(plan: Plan, optimizer: str) -> None:
    plain, scaled = (_steps(plan, 1, optimizer=optimizer, feedforward_rate=rate) for rate in (1.0, 3.0))
    assert {"key", "value", "feedforward"} <= {site.role for site in plan.sites}
    for site, span in plan.spans():
        expected = plain[span] * (3 if site.role == "feedforward" else 1)
        torch.testing.assert_close(scaled[span], expected, rtol=1e-4, atol=1e-6)
        assert bool((plain[span] != 0).any())


def test_steps_are_scaled_once_also_where_transformers_adafactor_was_used_before(plan: Plan) -> None:
    """Torch then runs the hooks of a step for its own class and for the one above."""
    Adafactor([torch.nn.Parameter(torch.ones(2))], lr=0.1, relative_step=False)
    plain, scaled = (_steps(plan, 1, optimizer="adafactor", feedforward_rate=rate) for rate in (1.0, 3.0))
    span = next(span for site, span in plan.spans() if site.role == "feedforward")
    torch.testing.assert_close(scaled[span], 3 * plain[span], rtol=1e-4, atol=1e-6)


def test_for_adamw_that_is_another_learning_rate(plan: Plan) -> None:
    scaled, plain, faster = _steps(plan, 5, feedforward_rate=3.0), _steps(plan, 5), _steps(plan, 5, rate=0.03)
    for site, span in plan.spans():
        torch.testing.assert_close(scaled[span], (faster if site.role == "feedforward" else plain)[span])


def test_adamw_keeps_of_its_running_means_what_the_settings_say(plan: Plan) -> None:
    row = torch.nn.Parameter(torch.zeros(3))
    settings = Settings(clip=0.0, learning_rate=0.1, beta1=0.5, beta2=0.75)
    optimizer = make_optimizer({"vectors": row}, settings, plan)
    mean, square, expected = torch.zeros(3), torch.zeros(3), torch.zeros(3)
    for step in range(1, 4):
        gradient = torch.tensor([1.0, -2.0, 0.1]) * step
        row.grad = gradient.clone()
        step_optimizer(optimizer, settings, gradient_norm(optimizer), 1.0, torch.ones_like(row))
        mean, square = 0.5 * mean + 0.5 * gradient, 0.75 * square + 0.25 * gradient**2
        expected -= 0.1 * (mean / (1 - 0.5**step)) / ((square / (1 - 0.75**step)).sqrt() + 1e-8)
    torch.testing.assert_close(row.detach(), expected)


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_a_resumed_run_ends_in_the_same_bits(tmp_path: Path, optimizer: str) -> None:
    settings = replace(SHORT, feedforward_rate=3.0, optimizer=optimizer)
    whole, stopped = make_task(tmp_path, "causal"), make_task(tmp_path, "causal")
    run_loop(whole, settings)
    _, watched = run_loop(stopped, settings, stop_after=4)
    resumed = make_task(tmp_path, "causal")
    run_loop(resumed, settings, resume=watched.checkpoints[-1])
    assert same_bits(copy_trained(whole), copy_trained(resumed))

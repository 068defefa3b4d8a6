"""Training with the few-shot losses and with Adafactor: the loop's numbers, its independence of splits, resuming."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers.optimization import Adafactor

from ia3.errors import SettingsError
from ia3.training.adafactor import VectorAdafactor
from ia3.training.settings import Settings
from tests.training.tasks import SHORT, copy_trained, make_task, run_loop, same_bits

FEW = replace(SHORT, losses="lm+ul+ln")


@pytest.mark.parametrize("kind", ["causal", "seq2seq"])
def test_the_loss_falls_and_no_split_of_a_step_changes_it(kind: str, bases: Path) -> None:
    steps = {}
    for budget in (10**6, 60):
        task = make_task(bases, kind)
        _, watched = run_loop(task, replace(FEW, epochs=5, token_budget=budget, class_weights=True))
        steps[budget] = [event["loss"] for event in watched.of("step")]
    assert steps[60] == pytest.approx(steps[10**6], rel=1e-6)
    assert sum(steps[60][-3:]) < 0.9 * sum(steps[60][:3])


@pytest.mark.parametrize("kind", ["causal", "seq2seq"])
def test_the_further_losses_train_something_else_and_their_sum_has_no_perplexity(kind: str, bases: Path) -> None:
    plain, few = make_task(bases, kind), make_task(bases, kind)
    _, usual = run_loop(plain, SHORT)
    _, watched = run_loop(few, FEW)
    assert not same_bits(copy_trained(plain), copy_trained(few))
    assert watched.of("step")[0]["loss"] > usual.of("step")[0]["loss"]
    assert [event["train_perplexity"] for event in watched.of("epoch")] == [None, None]


def test_an_encoder_learns_the_same_whatever_the_losses_are(bases: Path) -> None:
    one, other = make_task(bases, "encoder"), make_task(bases, "encoder")
    run_loop(one, SHORT)
    run_loop(other, FEW)
    assert same_bits(copy_trained(one), copy_trained(other))


def test_free_text_is_refused_before_the_first_step(bases: Path) -> None:
    task = make_task(bases, "causal", labels=())
    with pytest.raises(SettingsError, match="7 of 7 rows have no choices"):
        run_loop(task, FEW)


@pytest.mark.parametrize("kind", ["causal", "encoder"])
def test_a_resumed_run_with_adafactor_ends_in_the_same_bits(kind: str, bases: Path) -> None:
    settings = replace(FEW, optimizer="adafactor", learning_rate=0.01)
    whole, part, rest = (make_task(bases, kind) for _ in range(3))
    run_loop(whole, settings)
    _, watched = run_loop(part, settings, stop_after=4)
    run_loop(rest, settings, resume=watched.checkpoints[-1])
    assert same_bits(copy_trained(whole), copy_trained(rest))


def test_adafactor_takes_each_vector_for_a_parameter_of_its_own() -> None:
    """As T-Few does: its vectors are (width, 1) matrices, for which the factored estimate is the whole one."""
    widths = [3, 5, 2]
    row = torch.nn.Parameter(torch.cat([torch.ones(3), 0.5 * torch.ones(5), 2 * torch.ones(2)]))
    apart = [torch.nn.Parameter(part.detach().clone().unsqueeze(1)) for part in row.split(widths)]
    ours = VectorAdafactor(row, widths, 3e-3, [], 1.0)
    theirs = Adafactor(apart, lr=3e-3, scale_parameter=True, relative_step=False, warmup_init=False)
    for seed in range(5):
        gradient = torch.randn(10, generator=torch.Generator().manual_seed(seed)) * (1 + 9 * seed)
        row.grad = gradient.clone()
        for parameter, part in zip(apart, gradient.split(widths), strict=True):
            parameter.grad = part.unsqueeze(1).clone()
        ours.share_gradient()
        ours.step(), theirs.step()
        ours.zero_grad(), theirs.zero_grad()
        assert row.grad is None
        torch.testing.assert_close(row.detach(), torch.cat([p.detach().squeeze(1) for p in apart]))
    assert isinstance(row, torch.nn.Parameter) and not torch.equal(row, torch.ones(10))


def test_weight_decay_pulls_every_vector_towards_one_with_adafactor_too(bases: Path) -> None:
    free, held = make_task(bases, "causal"), make_task(bases, "causal")
    settings = Settings(epochs=2, batch_size=3, learning_rate=0.05, optimizer="adafactor")
    run_loop(free, settings)
    run_loop(held, replace(settings, weight_decay=5.0))
    distances = [(copy_trained(task)["vectors"] - 1).abs() for task in (free, held)]
    last = free.attachment.bank.plan.widths[-1]
    assert distances[1][-last:].mean() < distances[0][-last:].mean()

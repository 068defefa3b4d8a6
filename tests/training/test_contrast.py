"""Contrast: the formula of the paper, whatever a step is split into and whoever it meets in a batch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from ia3.data.batches import balanced_batches
from ia3.training import backward, loop
from ia3.training.backward import Turn
from ia3.training.contrast import contrast
from ia3.training.settings import Settings
from ia3.training.tasks import trained_tensors
from tests.training.tasks import copy_trained, make_task, run_loop, same_bits
from tests.training.test_together import Watch, make_tasks, run, trained

MEAN: dict[str, Any] = {"pooling": "mean", "fit_head": True}
LOSSES = pytest.mark.parametrize("losses", ["contrast", "lm+contrast"])


def _sentences(count: int, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return nn.functional.normalize(torch.randn(count, 5, generator=random, dtype=torch.float64), dim=1)


def _by_the_book(sentences: Tensor, choices: Sequence[int], temperature: float) -> list[float]:
    """Equation 2 of Khosla et al. 2020, each of its sums a loop."""
    z, losses = sentences.tolist(), []
    likeness = [[math.exp(sum(a * b for a, b in zip(one, two, strict=True)) / temperature) for two in z] for one in z]
    for i in range(len(z)):
        others = [a for a in range(len(z)) if a != i]
        like = [p for p in others if choices[p] == choices[i]]
        costs = [-math.log(likeness[i][p] / sum(likeness[i][a] for a in others)) for p in like]
        losses.append(sum(costs) / len(like) if like else 0.0)
    return losses


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.sampled_from([0.05, 0.2, 1.0, 10.0]))
def test_it_is_the_formula(choices: list[int], temperature: float) -> None:
    sentences = _sentences(len(choices))
    found = contrast(sentences, torch.tensor(choices), temperature)
    assert found.tolist() == pytest.approx(_by_the_book(sentences, choices, temperature), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("choices", [[0, 1, 0, 2, 1, 0], [0, 1, 2], [1]], ids=str)
def test_its_gradient_is_that_of_its_value(choices: list[int]) -> None:
    sentences = _sentences(len(choices)).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: contrast(z, torch.tensor(choices), 0.2), (sentences,))


@LOSSES
def test_a_token_budget_only_splits_a_step(losses: str, bases: Path) -> None:
    results = []
    for budget in (1, 60, 120, 10**9):
        task = make_task(bases, "encoder", pooling="mean")
        settings = Settings(losses=losses, token_budget=budget, batch_size=4, max_steps=4, learning_rate=0.05, **MEAN)
        _, watcher = run_loop(task, settings)
        results.append((copy_trained(task), [event["loss"] for event in watcher.of("step")]))
    for tensors, told in results[1:]:
        assert told == pytest.approx(results[0][1], rel=1e-9)
        for name, tensor in tensors.items():
            torch.testing.assert_close(tensor, results[0][0][name], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("budget", [1, 10**9])
@LOSSES
def test_the_step_has_the_gradient_of_the_mean_over_its_examples(
    losses: str, budget: int, bases: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make_task(bases, "encoder", pooling="mean")
    model, choices = task.attachment.model, torch.tensor([encoded.choice for encoded in task.train])
    caught: list[Tensor] = []
    handle = model.mean_classifier.register_forward_pre_hook(lambda module, args: caught.append(args[0]))
    logits = torch.cat([model(input_ids=torch.tensor([e.prompt_ids]), rows="default").logits for e in task.train])
    handle.remove()
    loss = contrast(nn.functional.normalize(torch.cat(caught), dim=1), choices, 0.3).mean()
    if losses == "lm+contrast":
        loss = loss + nn.functional.cross_entropy(logits, choices)
    (expected,) = torch.autograd.grad(loss, [trained_tensors(task.attachment, "default")["vectors"]])
    seen: list[Tensor] = []
    original = torch.optim.AdamW.step

    def step(optimizer: torch.optim.Optimizer, *args: object) -> object:
        seen.append(optimizer.param_groups[0]["params"][0].grad.clone())
        return original(optimizer, *args)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    settings = Settings(
        losses=losses, contrast_temperature=0.3, max_steps=1, batch_size=7, clip=0.0, token_budget=budget, **MEAN
    )
    _, watcher = run_loop(task, settings)
    torch.testing.assert_close(seen[0], expected, rtol=1e-6, atol=1e-9)
    assert watcher.of("step")[0]["loss"] == pytest.approx(loss.item())


def test_the_contrast_alone_leaves_the_head_as_it_is(bases: Path) -> None:
    task = make_task(bases, "encoder", pooling="mean")
    before = copy_trained(task)
    run_loop(task, Settings(losses="contrast", max_steps=2, batch_size=7, **MEAN))
    after = copy_trained(task)
    assert not torch.equal(after.pop("vectors"), before.pop("vectors")) and same_bits(after, before)


def test_the_batches_of_an_epoch_are_the_balanced_ones(bases: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = make_task(bases, "encoder", pooling="mean")
    taken: list[list[int]] = []

    def watch(turns: Sequence[Turn]) -> dict[str, float]:
        taken.extend([encoded.index for encoded in turn.examples] for turn in turns)
        return original(turns)

    original = backward.backward
    monkeypatch.setattr(loop, "backward", watch)
    run_loop(task, Settings(losses="contrast", epochs=2, batch_size=4, seed=5, **MEAN))
    choices = [encoded.choice for encoded in task.train]
    assert taken == [batch for epoch in range(2) for batch in balanced_batches(choices, 4, 5, epoch)]


@pytest.mark.parametrize(
    ("budget", "choices"), [(10**9, {"a": 2, "b": 5, "c": 3}), (30, {"a": 2, "b": 5, "c": 3})], ids=["whole", "split"]
)
def test_tasks_in_one_batch_are_contrasted_each_within_itself(
    budget: int, choices: dict[str, int], bases: Path
) -> None:
    common = Settings(epochs=2, batch_size=4, learning_rate=0.05, token_budget=budget, losses="contrast", **MEAN)
    settings = {
        "a": common,
        "b": dataclasses.replace(common, losses="lm+contrast", contrast_temperature=0.7),
        "c": dataclasses.replace(common, losses="lm", epochs=3),
    }
    options: Any = {"pooling": "mean", "dtype": "float64", "choices": choices}
    tasks = make_tasks(bases, "encoder", **options)
    _, watch = run(tasks, settings)
    for name in tasks:
        single, told = make_tasks(bases, "encoder", [name], **options), Watch()
        run(single, settings, told)
        losses = [[event["loss"] for event in one.of("step", name)] for one in (watch, told)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-6)
        for part, expected in trained(single)[name].items():
            torch.testing.assert_close(trained(tasks)[name][part], expected, rtol=0, atol=1e-6)

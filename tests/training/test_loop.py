"""The loop: each example once an epoch, the same seed the same bits, the best epoch kept."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ia3.data.batches import collate, epoch_batches
from ia3.errors import RunError
from ia3.training import backward, loop
from ia3.training.backward import Turn
from ia3.training.loop import train_loop
from ia3.training.losses import count_targets, sum_loss
from ia3.training.settings import Settings
from ia3.training.tasks import Outcome, Task, trained_tensors
from tests.training.tasks import KINDS, ROWS, SHORT, TOTAL, Watcher, copy_trained, make_task, run_loop, same_bits

# kinds with something off and on; the other half is slow
SWITCHED = [
    ("causal", False),
    ("seq2seq", True),
    ("encoder", True),
    *(pytest.param(*pair, marks=pytest.mark.slow) for pair in zip(KINDS, (True, False, False), strict=True)),
]


def _before_each_step(monkeypatch: pytest.MonkeyPatch, look: Callable[[torch.optim.Optimizer], None]) -> None:
    original = torch.optim.AdamW.step

    def step(self: torch.optim.Optimizer, *args: Any) -> Any:
        look(self)
        return original(self, *args)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)


def vectors_of(task: Task) -> Tensor:
    """The vectors themselves, in the graph."""
    return trained_tensors(task.attachment, "default")["vectors"]


# -- order ------------------------------------------------------------------------------------------------------------


def test_every_epoch_takes_each_example_once_in_an_order_of_seed_and_epoch_alone(
    bases: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make_task(bases, "encoder")
    taken: list[list[int]] = []
    original = loop.backward

    def watch(turns: Sequence[Turn]) -> dict[str, float]:
        taken.extend([encoded.index for encoded in turn.examples] for turn in turns)
        return original(turns)

    monkeypatch.setattr(loop, "backward", watch)
    run_loop(task, dataclasses.replace(SHORT, epochs=3, seed=5))
    epochs = [taken[start : start + 3] for start in range(0, 9, 3)]
    assert all(sorted(itertools.chain(*epoch)) == list(range(7)) for epoch in epochs)
    assert epochs == [epoch_batches([len(e) for e in task.train], 3, 5, epoch) for epoch in range(3)]
    assert len({str(epoch) for epoch in epochs}) == 3


# -- the same bits ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "dropout"), SWITCHED)
def test_the_same_seed_gives_the_same_bits_and_another_seed_others(kind: str, dropout: bool, bases: Path) -> None:
    def train(seed: int) -> dict[str, Tensor]:
        task = make_task(bases, kind, dtype="float32", dropout=True)
        run_loop(task, dataclasses.replace(SHORT, seed=seed, dropout=dropout))
        return copy_trained(task)

    torch.manual_seed(1)
    first = train(0)
    torch.manual_seed(2)
    assert same_bits(first, train(0))
    assert not same_bits(first, train(1))


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_changes_the_result_only_when_it_is_on(kind: str, bases: Path) -> None:
    def train(has_dropout: bool, dropout: bool) -> dict[str, Tensor]:
        task = make_task(bases, kind, dtype="float32", dropout=has_dropout)
        run_loop(task, dataclasses.replace(SHORT, dropout=dropout))
        return copy_trained(task)

    plain = train(False, False)
    assert same_bits(plain, train(True, False))
    assert not same_bits(plain, train(True, True))


@pytest.mark.parametrize("dropout", [False, True], ids=["plain", "dropout"])
def test_a_run_leaves_random_numbers_and_the_mode_of_every_module_as_they_were(dropout: bool, bases: Path) -> None:
    task = make_task(bases, "encoder", dropout=True)
    odd = list(task.attachment.model.modules())[::3]
    for module in odd:
        module.training = True
    modes = [module.training for module in task.attachment.model.modules()]
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    run_loop(task, dataclasses.replace(SHORT, dropout=dropout))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[1:]
    assert [module.training for module in task.attachment.model.modules()] == modes


@pytest.mark.parametrize("dropout", [False, True], ids=["plain", "dropout"])
def test_the_base_is_in_training_mode_in_steps_with_dropout_alone_and_never_in_an_evaluation(
    dropout: bool, bases: Path
) -> None:
    task = make_task(bases, "causal", dropout=True)
    model, modes, at_evaluation = task.attachment.model, [], []
    handle = model.register_forward_pre_hook(lambda module, args: modes.append({m.training for m in model.modules()}))
    watcher = Watcher(task)

    def evaluate(adapters: Sequence[str]) -> list[None]:
        at_evaluation.append({m.training for m in model.modules()})
        return [None]

    train_loop(
        task,
        dataclasses.replace(SHORT, dropout=dropout),
        dataclasses.replace(watcher.callbacks, evaluate=evaluate),
        run="a run",
    )
    handle.remove()
    # before the steps the faster passes are tried, in evaluation mode; a step is one pass or more
    in_steps = list(itertools.takewhile(lambda mode: mode == {dropout}, reversed(modes)))
    assert len(in_steps) >= TOTAL and at_evaluation == [{False}] * 2
    assert all(mode == {False} for mode in modes[: -len(in_steps)])


def test_every_step_draws_masks_of_its_own_and_of_its_number_alone(bases: Path) -> None:
    def states(**options: Any) -> list[bytes]:
        task, found = make_task(bases, "causal", dropout=True), []
        model = task.attachment.model
        handle = model.register_forward_pre_hook(
            lambda module, args: found.append(torch.get_rng_state().numpy().tobytes())
        )
        run_loop(task, dataclasses.replace(SHORT, dropout=True), **options)
        handle.remove()
        steps = TOTAL - (options["resume"].step if "resume" in options else 0)
        return found[-steps:]  # before them the faster passes are tried

    whole = states()
    assert len(set(whole)) == TOTAL
    _, watcher = run_loop(
        make_task(bases, "causal", dropout=True), dataclasses.replace(SHORT, dropout=True), stop_after=2
    )
    assert states(resume=watcher.checkpoints[-1]) == whole[2:]


@pytest.mark.parametrize(("kind", "weighted"), SWITCHED)
def test_the_split_into_micro_batches_changes_neither_losses_nor_the_adapter(
    kind: str, weighted: bool, bases: Path
) -> None:
    results = []
    for budget in (1, 120, 10**9):
        task = make_task(bases, kind)
        _, watcher = run_loop(task, dataclasses.replace(SHORT, token_budget=budget, class_weights=weighted))
        results.append((copy_trained(task), [event["loss"] for event in watcher.of("step")]))
    for tensors, losses in results[1:]:
        assert losses == pytest.approx(results[0][1], rel=1e-9)
        for name, tensor in tensors.items():
            torch.testing.assert_close(tensor, results[0][0][name], rtol=1e-6, atol=1e-9)


# -- the optimizer ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_row_and_the_head_are_trained_and_the_base_keeps_every_bit(
    kind: str, bases: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make_task(bases, kind)
    trained = {id(t) for t in trained_tensors(task.attachment, "default").values()}
    base = {name: p for name, p in task.attachment.model.named_parameters() if id(p) not in trained}
    before, first = {name: p.detach().clone() for name, p in base.items()}, copy_trained(task)
    seen: list[set[int]] = []
    _before_each_step(monkeypatch, lambda o: seen.append({id(p) for g in o.param_groups for p in g["params"]}))
    run_loop(task)
    assert seen == [trained] * TOTAL
    assert all(p.grad is None and not p.requires_grad and torch.equal(p, before[name]) for name, p in base.items())
    assert all(not torch.equal(t, first[name]) for name, t in copy_trained(task).items())
    assert ("head.parts.0.weight" in first) == (kind == "encoder")


def test_other_adapters_of_the_bank_stay_as_they_are(bases: Path) -> None:
    task = make_task(bases, "encoder")
    task.attachment.add("resting", torch.full((task.attachment.bank.plan.width,), 0.5), trainable=False)
    task.attachment.add("also in training", trainable=True)
    others = [copy_trained(dataclasses.replace(task, adapter=name)) for name in ("resting", "also in training")]
    run_loop(task)
    after = [copy_trained(dataclasses.replace(task, adapter=name)) for name in ("resting", "also in training")]
    assert all(same_bits(a, b) for a, b in zip(others, after, strict=True))


@pytest.mark.parametrize("budget", [1, 10**9])
@pytest.mark.parametrize("kind", KINDS)
def test_the_optimizer_gets_the_gradient_of_the_loss_over_all_targets_of_the_step(
    kind: str, budget: int, bases: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make_task(bases, kind)
    batch = collate(task.train, task.kind, task.pad_id, task.decoder_start_id)
    loss = sum_loss(task.attachment.model, task.kind, batch, task.adapter) / count_targets(task.train, task.kind)
    expected = torch.autograd.grad(loss, [vectors_of(task)])[0]
    seen: list[Tensor] = []
    _before_each_step(monkeypatch, lambda o: seen.append(o.param_groups[0]["params"][0].grad.clone()))
    _, watcher = run_loop(task, Settings(max_steps=1, batch_size=7, clip=0.0, token_budget=budget))
    torch.testing.assert_close(seen[0], expected, rtol=1e-5, atol=1e-7)
    assert watcher.of("step")[0]["loss"] == pytest.approx(loss.item())


def test_a_gradient_longer_than_the_clip_is_shortened_and_zero_clips_nothing(
    bases: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gradients: list[Tensor] = []
    _before_each_step(
        monkeypatch,
        lambda o: gradients.append(torch.cat([p.grad.flatten() for g in o.param_groups for p in g["params"]])),
    )
    for clip in (0.0, 1e-3, 1e3):
        run_loop(make_task(bases, "encoder"), dataclasses.replace(SHORT, max_steps=1, clip=clip))
    free, short, loose = gradients
    assert free.norm() > 1e-3 and torch.equal(loose, free)
    torch.testing.assert_close(short, free * (1e-3 / (free.norm() + 1e-6)))


def test_weight_decay_pulls_the_vectors_towards_one_by_the_rate_and_leaves_the_head(bases: Path) -> None:
    task = make_task(bases, "encoder")
    start = copy_trained(task)["vectors"]
    settings = dataclasses.replace(SHORT, max_steps=1)
    run_loop(task, settings)
    without = copy_trained(task)
    task = make_task(bases, "encoder")
    run_loop(task, dataclasses.replace(settings, weight_decay=2.0))
    pulled = copy_trained(task)
    torch.testing.assert_close(pulled["vectors"] - without["vectors"], (1 - start) * 0.05 * 2.0)
    assert all(torch.equal(pulled[name], without[name]) for name in without if name != "vectors")


def test_vectors_and_head_follow_the_schedule_each_at_its_own_rate(
    bases: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[list[float]] = []
    _before_each_step(monkeypatch, lambda o: rates.append([group["lr"] for group in o.param_groups]))
    settings = dataclasses.replace(SHORT, warmup=0.34)
    _, watcher = run_loop(make_task(bases, "encoder"), settings)
    factors = [settings.rate(step, TOTAL) for step in range(TOTAL)]
    assert factors == pytest.approx([1 / 3, 2 / 3, 1, 3 / 4, 2 / 4, 1 / 4])
    assert rates == [[0.05 * factor, 0.01 * factor] for factor in factors]
    assert [event["learning_rate"] for event in watcher.of("step")] == [0.05 * factor for factor in factors]


def test_on_a_bf16_base_the_vectors_and_the_head_learn_what_bf16_could_not_hold(bases: Path) -> None:
    task = make_task(bases, "encoder", dtype="bfloat16")
    first = copy_trained(task)
    run_loop(task, dataclasses.replace(SHORT, max_steps=2, learning_rate=1e-4, head_learning_rate=1e-5))
    after = copy_trained(task)
    assert next(task.attachment.model.parameters()).dtype == torch.bfloat16
    for name, tensor in after.items():
        assert tensor.dtype == torch.float32 and torch.isfinite(tensor).all()
        changed = tensor != first[name]
        assert changed.any()
        if first[name].any():  # a bias begins at zero, around which bf16 is as fine as fp32
            assert (tensor.bfloat16() == first[name].bfloat16())[changed].any()


def test_on_a_float64_base_the_vectors_and_the_head_are_float64(bases: Path) -> None:
    assert {t.dtype for t in copy_trained(make_task(bases, "encoder", dtype="float64")).values()} == {torch.float64}


# -- which numbers are kept -------------------------------------------------------------------------------------------


def test_the_epoch_with_the_lowest_eval_loss_is_kept(bases: Path) -> None:
    task = make_task(bases, "causal")
    outcome, watcher = run_loop(task, dataclasses.replace(SHORT, epochs=4), losses=[3.0, 1.0, 2.0, 1.0])
    assert outcome == Outcome(steps=12, best_epoch=2, best_loss=1.0, is_stopped=False)
    assert [event["is_best"] for event in watcher.of("epoch")] == [True, True, False, False]  # of equals the first
    assert len(watcher.best) == 2 and same_bits(copy_trained(task), watcher.best[1])
    assert not same_bits(watcher.best[0], watcher.best[1])


def test_an_infinite_eval_loss_is_worse_than_any_number(bases: Path) -> None:
    outcome, watcher = run_loop(make_task(bases, "causal"), losses=[math.inf, 700.5])
    assert (outcome.best_epoch, outcome.best_loss) == (2, 700.5)
    assert [event["eval_perplexity"] for event in watcher.of("epoch")] == [None, None]


def test_with_nothing_held_out_the_last_epoch_is_kept(bases: Path) -> None:
    task = make_task(bases, "causal")
    outcome, watcher = run_loop(task)
    assert (outcome.best_epoch, outcome.is_stopped) == (2, False) and math.isnan(outcome.best_loss)
    assert len(watcher.best) == 2 and same_bits(copy_trained(task), watcher.best[-1])


def test_rows_that_are_looked_at_in_the_end_choose_nothing(bases: Path) -> None:
    task = make_task(bases, "causal")
    at_the_end = dataclasses.replace(SHORT, epochs=3, eval_strategy="end")
    outcome, watcher = run_loop(task, at_the_end, losses=[5.0])
    assert outcome == Outcome(steps=9, best_epoch=3, best_loss=5.0, is_stopped=False)
    assert [event["eval_loss"] for event in watcher.of("epoch")] == [None, None, 5.0]
    assert len(watcher.best) == 3 and same_bits(copy_trained(task), watcher.best[-1])


def test_max_steps_inside_an_epoch_ends_with_an_evaluation_of_what_is_there(bases: Path) -> None:
    task = make_task(bases, "causal")
    outcome, watcher = run_loop(task, dataclasses.replace(SHORT, max_steps=4), losses=[2.0, 1.0])
    assert outcome == Outcome(4, best_epoch=2, best_loss=1.0, is_stopped=False)
    assert [(event["epoch"], event["step"]) for event in watcher.of("epoch")] == [(1, 3), (2, 4)]
    assert watcher.of("epoch")[1]["train_loss"] == pytest.approx(watcher.of("step")[3]["loss"])


def test_max_steps_beyond_the_epochs_go_on_into_further_ones(bases: Path) -> None:
    outcome, watcher = run_loop(make_task(bases, "encoder"), dataclasses.replace(SHORT, epochs=1, max_steps=7))
    assert (outcome.steps, outcome.best_epoch) == (7, 3)
    assert [event["epoch"] for event in watcher.of("step")] == [1, 1, 1, 2, 2, 2, 3]


@pytest.mark.parametrize("rows", [ROWS, ROWS[:1]], ids=["seven rows", "one row"])
def test_a_batch_larger_than_the_table_is_one_step_an_epoch(rows: Any, bases: Path) -> None:
    outcome, watcher = run_loop(make_task(bases, "causal", rows=rows), dataclasses.replace(SHORT, batch_size=64))
    assert outcome.steps == 2 and [event["epoch"] for event in watcher.of("step")] == [1, 2]


def test_the_loss_of_an_epoch_is_the_mean_over_its_target_tokens(bases: Path) -> None:
    task = make_task(bases, "seq2seq")
    _, watcher = run_loop(task, dataclasses.replace(SHORT, epochs=1))
    batches = epoch_batches([len(e) for e in task.train], 3, 0, 0)
    tokens = [sum(len(task.train[i].target_ids) for i in batch) for batch in batches]
    summed = sum(event["loss"] * count for event, count in zip(watcher.of("step"), tokens, strict=True))
    (epoch,) = watcher.of("epoch")
    assert epoch["train_loss"] == pytest.approx(summed / sum(tokens))
    assert epoch["train_perplexity"] == pytest.approx(math.exp(epoch["train_loss"]))


def test_perplexity_is_told_of_tokens_alone(bases: Path) -> None:
    weighted = dataclasses.replace(SHORT, epochs=1, class_weights=True)
    (epoch,) = run_loop(make_task(bases, "causal"), weighted, losses=[2.0])[1].of("epoch")
    assert epoch["train_perplexity"] is None and epoch["eval_perplexity"] == pytest.approx(math.exp(2.0))
    (epoch,) = run_loop(make_task(bases, "encoder"), losses=[2.0], stop_after=3)[1].of("epoch")
    assert epoch["train_perplexity"] is None and epoch["eval_perplexity"] is None


# -- numbers that are none --------------------------------------------------------------------------------------------


def _spoil(monkeypatch: pytest.MonkeyPatch, step: int, spoil: Callable[[Task, Tensor], Tensor], task: Task) -> None:
    """Change the loss from a step on; a step is one pass or more."""
    original, whole, calls = backward.sum_loss, loop.backward, itertools.count(1)
    current = 0

    def counted(*args: Any) -> dict[str, float]:
        nonlocal current
        current = next(calls)
        return whole(*args)

    def spoilt(*args: Any) -> Tensor:
        loss = original(*args)
        return spoil(task, loss) if current >= step else loss

    monkeypatch.setattr(backward, "sum_loss", spoilt)
    monkeypatch.setattr(loop, "backward", counted)


def test_a_loss_that_is_no_number_is_an_error_with_step_and_advice_and_nothing_is_written(
    bases: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make_task(bases, "encoder")
    _spoil(monkeypatch, 2, lambda task, loss: loss * math.nan, task)
    watcher = Watcher(task)
    with pytest.raises(
        RunError, match=r"the loss is nan at step 2, expected a number\. Lower the learning rate \(0\.05\)"
    ):
        train_loop(task, SHORT, watcher.callbacks, run="a run")
    assert watcher.steps == 1 and not watcher.best
    assert all(torch.isfinite(tensor).all() for tensor in copy_trained(task).values())


def test_a_gradient_that_is_no_number_never_reaches_the_vectors(bases: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = make_task(bases, "encoder")
    _spoil(monkeypatch, 5, lambda task, loss: loss + (0 * vectors_of(task)).sqrt().sum(), task)
    watcher = Watcher(task, losses=[1.0])
    told = (
        r"Training: the norm of the gradient is (nan|inf) at step 5, expected a number\. .*load the base in float32\. "
        r"The adapter of epoch 1, the best so far, is kept\."
    )
    with pytest.raises(RunError, match=told):
        train_loop(task, dataclasses.replace(SHORT, clip=0.0), watcher.callbacks, run="a run")
    assert watcher.steps == 4 and len(watcher.best) == 1
    assert all(torch.isfinite(tensor).all() for tensor in copy_trained(task).values())

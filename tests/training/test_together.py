"""Many tasks in one run: each ends as it does alone, a diverging one harms no other, and a resumed run is the same."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ia3.adapters.attached import attach
from ia3.core.heads import Head
from ia3.data.encoding import Encoding
from ia3.data.tables import read_table
from ia3.data.templates import default_template
from ia3.errors import RunError, SettingsError
from ia3.training import backward, loop
from ia3.training.checkpoint import Checkpoint
from ia3.training.loop import train_loop, train_together
from ia3.training.sampling import Sampling
from ia3.training.settings import Settings
from ia3.training.tasks import Callbacks, Evaluation, Outcome, Task
from tests.training.tasks import KINDS, LABELS, SHORT, copy_trained, load_tiny, same_bits

WORDS = ("falls", "rises", "waits", "opens", "stops", "turns", "grows", "moves", "holds", "slows", "sinks")
SIZES = {"a": 7, "b": 5, "c": 3}  # rows
SETTINGS = {
    "a": SHORT,
    "b": dataclasses.replace(SHORT, learning_rate=0.02, batch_size=2, weight_decay=0.5, warmup=0.3, seed=4),
    "c": dataclasses.replace(SHORT, epochs=3, batch_size=4, clip=0.1, class_weights=True),
}
Tensors = dict[str, dict[str, Tensor]]


def make_tasks(
    bases: Path,
    kind: Any,
    names: Sequence[str] = tuple(SIZES),
    *,
    dtype: str = "float32",
    dropout: bool = False,
    choices: dict[str, int] | None = None,
    pooling: str = "own",
) -> dict[str, Task]:
    """Return tasks on one base, each with rows, vectors and a head of its own; every text has the same length."""
    base = load_tiny(bases, kind, dtype, LABELS if kind == "encoder" else None, dropout, pooling)
    attachment = attach(copy.deepcopy(base.model), head_modules=base.head_modules, name="first")
    attachment.bank.remove("first")
    tasks = {}
    for name in names:
        random = torch.Generator().manual_seed(sum(map(ord, name)))
        labels = tuple(f"no {i}" for i in range((choices or {}).get(name, 3)))
        encoding = Encoding(base.tokenizer, kind, default_template(kind, "label"), "text", labels)
        width, hidden = attachment.bank.plan.width, base.model.config.hidden_size
        head = None
        if base.head_modules:
            linear = nn.Linear(hidden, len(labels), dtype=attachment.bank.dtype)
            with torch.no_grad():
                linear.weight.copy_(0.5 * torch.randn(len(labels), hidden, generator=random))
                linear.bias.zero_()
            head = Head({base.head_modules[0]: linear})
        vectors = 1 + 0.2 * torch.randn(width, generator=random)
        attachment.bank.add(name, vectors, trainable=True, head=head)
        rows = [(f"{name} {WORDS[i]}", labels[i % len(labels)]) for i in range(SIZES.get(name, 6))]
        train = tuple(encoding.encode(read_table(rows).examples))
        tasks[name] = Task(attachment, name, kind, train, base.pad_id, base.decoder_start_id, len(labels), name=name)
    return tasks


class Watch:
    """Callbacks that remember what they were told of each task."""

    def __init__(self, losses: dict[str, Sequence[float]] | None = None, stop_after: int = 10**9) -> None:
        self.losses = {name: iter(values) for name, values in (losses or {}).items()}
        self.events: list[dict[str, Any]] = []
        self.best: list[str] = []
        self.checkpoints: list[Checkpoint] = []
        self.evaluated: list[list[str]] = []
        self.rounds = itertools.count()
        self.callbacks = Callbacks(
            evaluate=self.evaluate,
            on_event=self.events.append,
            on_best=self.best.append,
            on_checkpoint=self.checkpoints.append,
            should_stop=lambda: next(self.rounds) >= stop_after,
            checkpoint_seconds=0.0,
        )

    def evaluate(self, adapters: Sequence[str]) -> list[Evaluation | None]:
        self.evaluated.append(list(adapters))
        found = [next(self.losses.get(name, iter(())), None) for name in adapters]
        return [None if loss is None else Evaluation(loss, None) for loss in found]

    def of(self, kind: str, task: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == kind and event["task"] == task]


def run(
    tasks: dict[str, Task],
    settings: dict[str, Settings] | None = None,
    watch: Watch | None = None,
    **options: Any,
) -> tuple[dict[str, Outcome], Watch]:
    """Train tasks together."""
    watch = watch or Watch()
    pairs = [(task, (settings or SETTINGS)[name]) for name, task in tasks.items()]
    outcomes = train_together(pairs, watch.callbacks, run="a run", **options)
    return dict(zip(tasks, outcomes, strict=True)), watch


def trained(tasks: dict[str, Task]) -> Tensors:
    return {name: copy_trained(task) for name, task in tasks.items()}


def alone(bases: Path, kind: str, name: str, **options: Any) -> dict[str, Tensor]:
    """Return what a task ends with when it is trained by itself."""
    task = make_tasks(bases, kind, [name], **options)[name]
    train_loop(dataclasses.replace(task, name=""), SETTINGS[name], Watch().callbacks, run="a run")
    return copy_trained(task)


# -- as alone ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_in_mixed_batches_at_equal_padding_each_task_ends_as_it_does_alone(kind: str, bases: Path) -> None:
    tasks = make_tasks(bases, kind)
    outcomes, watch = run(tasks)
    assert {name: outcome.steps for name, outcome in outcomes.items()} == {"a": 6, "b": 6, "c": 3}
    for name, tensors in trained(tasks).items():
        for part, expected in alone(bases, kind, name).items():
            torch.testing.assert_close(tensors[part], expected, rtol=0, atol=1e-5)
    assert [len(watch.of("epoch", name)) for name in tasks] == [2, 2, 3]


@pytest.mark.parametrize("kind", KINDS)
def test_in_batches_of_one_task_each_ends_in_the_bits_that_it_has_alone(kind: str, bases: Path) -> None:
    tasks = make_tasks(bases, kind)
    run(tasks, is_mixed=False)
    assert all(same_bits(tensors, alone(bases, kind, name)) for name, tensors in trained(tasks).items())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_mixed", [True, False])
def test_tasks_of_other_losses_and_optimizers_end_as_alone(kind: str, is_mixed: bool, bases: Path) -> None:
    few = {"losses": "lm+ul+ln", "class_weights": False}
    settings = SETTINGS | {
        "b": dataclasses.replace(SETTINGS["b"], **few),
        "c": dataclasses.replace(SETTINGS["c"], optimizer="adafactor", **few),
    }
    tasks = make_tasks(bases, kind)
    outcomes, _ = run(tasks, settings, is_mixed=is_mixed)
    assert {name: outcome.steps for name, outcome in outcomes.items()} == {"a": 6, "b": 6, "c": 3}
    for name, tensors in trained(tasks).items():
        single = make_tasks(bases, kind, [name])
        run(single, settings)
        if not is_mixed:
            assert same_bits(tensors, trained(single)[name])
        for part, expected in trained(single)[name].items():
            torch.testing.assert_close(tensors[part], expected, rtol=0, atol=1e-4)


def test_tasks_apart_are_compiled_only_where_each_would_be_alone(bases: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    repays = lambda blocks, tokens, *rest: asked.append(tokens) or tokens == max(asked)  # noqa: E731  all tasks' tokens
    monkeypatch.setattr(loop, "repays_compiling", repays)
    monkeypatch.setattr(loop, "accelerated", lambda attachment, *, compiled: found.append(compiled) or nullcontext())
    found: list[bool] = []
    for is_mixed in (True, False):
        run(make_tasks(bases, "causal"), is_mixed=is_mixed)
    assert found == [True, False] and min(asked) < max(asked)


def test_with_dropout_and_batches_of_one_task_the_masks_are_those_of_training_alone(bases: Path) -> None:
    settings = {name: dataclasses.replace(own, dropout=True) for name, own in SETTINGS.items()}
    tasks = make_tasks(bases, "causal", dropout=True)
    run(tasks, settings, is_mixed=False)
    single = make_tasks(bases, "causal", ["b"], dropout=True)
    run(single, settings)
    assert same_bits(trained(tasks)["b"], trained(single)["b"])


def test_heads_of_different_widths_meet_in_a_batch_and_each_ends_as_alone(bases: Path) -> None:
    choices = {"a": 2, "b": 5, "c": 3}
    tasks = make_tasks(bases, "encoder", dtype="float64", choices=choices)
    run(tasks)
    for name, tensors in trained(tasks).items():
        assert tensors["head.parts.0.weight"].shape[0] == choices[name]
        for part, expected in alone(bases, "encoder", name, dtype="float64", choices=choices).items():
            torch.testing.assert_close(tensors[part], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_examples_of_a_round_meet_in_batches_and_fewer_passes_are_made(
    kind: str, bases: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[Any] = []
    original = backward.sum_loss
    monkeypatch.setattr(backward, "sum_loss", lambda *args: rows.append(args[3]) or original(*args))
    tasks = make_tasks(bases, kind)
    run(tasks)
    assert len(rows) == 6 and rows[0] == ["a"] * 3 + ["b"] * 2 + ["c"] * 3  # as many passes as the longest task
    rows.clear()
    run(make_tasks(bases, kind), is_mixed=False)
    assert len(rows) == 15 and all(isinstance(row, str) for row in rows)


def test_the_losses_that_are_told_are_those_of_training_alone(bases: Path) -> None:
    tasks = make_tasks(bases, "seq2seq", dtype="float64")
    _, watch = run(tasks)
    for name, own in SETTINGS.items():
        single, told = make_tasks(bases, "seq2seq", [name], dtype="float64"), Watch()
        train_loop(single[name], own, told.callbacks, run="a run")
        for kind, key in (("step", "loss"), ("epoch", "train_loss"), ("step", "learning_rate")):
            found, expected = ([event[key] for event in one.of(kind, name)] for one in (watch, told))
            assert found == pytest.approx(expected, rel=1e-6)


def test_epochs_that_end_in_one_round_are_evaluated_in_one_call(bases: Path) -> None:
    names = ["a", "other", "third"]
    settings = dict.fromkeys(names, SHORT)
    _, watch = run(make_tasks(bases, "causal", names), settings)
    assert watch.evaluated == [["other", "third"], ["a"], ["other", "third"], ["a"]]  # six rows and seven


def test_of_epochs_that_end_in_one_round_those_are_evaluated_that_ask_for_it(bases: Path) -> None:
    names = ["a", "other", "third"]
    settings = {name: dataclasses.replace(SHORT, eval_strategy="end" if name == "third" else "epoch") for name in names}
    outcomes, watch = run(make_tasks(bases, "causal", names), settings)
    assert [found for found in watch.evaluated if found] == [["other"], ["a"], ["other", "third"], ["a"]]
    assert outcomes["third"].best_epoch == 2


def test_the_best_epoch_is_each_tasks_own(bases: Path) -> None:
    losses = {"a": [1.0, 2.0], "b": [2.0, 1.0], "c": [3.0, 1.0, 2.0]}
    outcomes, watch = run(make_tasks(bases, "causal"), watch=Watch(losses))
    assert {name: outcome.best_epoch for name, outcome in outcomes.items()} == {"a": 1, "b": 2, "c": 2}
    assert sorted(watch.best) == ["a", "b", "b", "c", "c"]


# -- ends of its own --------------------------------------------------------------------------------------------------


def test_a_task_with_patience_ends_when_no_epoch_is_better_and_the_others_go_on(bases: Path) -> None:
    settings = {name: dataclasses.replace(SHORT, epochs=5, patience=2 * (name == "a")) for name in SIZES}
    losses = {name: [2.0, 1.0, 1.5, 1.2, 0.5] for name in SIZES}
    outcomes, _ = run(make_tasks(bases, "causal"), settings, Watch(losses))
    assert (outcomes["a"].steps, outcomes["a"].is_early, outcomes["a"].best_epoch) == (12, True, 2)
    assert not outcomes["a"].is_stopped
    assert (outcomes["b"].steps, outcomes["b"].is_early, outcomes["b"].best_epoch) == (10, False, 5)


@pytest.mark.parametrize("is_mixed", [True, False], ids=["mixed", "apart"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_task_that_diverges_is_named_and_given_up_and_the_others_are_unharmed(
    kind: str, is_mixed: bool, bases: Path
) -> None:
    tasks = make_tasks(bases, kind)
    tasks["a"].attachment.bank.set_vector("a", torch.full_like(copy_trained(tasks["a"])["vectors"], math.nan))
    before = trained(tasks)["b"]
    outcomes, watch = run(tasks, is_mixed=is_mixed)
    assert outcomes["a"].steps == 0 and not outcomes["a"].is_stopped
    fault = outcomes["a"].fault or ""
    assert fault.startswith(
        "Training 'a': the loss is nan at step 1, expected a number. Lower the learning rate (0.05)"
    )
    (event,) = watch.of("diverged", "a")
    assert event["what"] == fault and event["step"] == 1 and not watch.of("step", "a") and "a" not in watch.best
    for name in ("b", "c"):
        assert outcomes[name].fault is None
        for part, expected in alone(bases, kind, name).items():
            torch.testing.assert_close(trained(tasks)[name][part], expected, rtol=0, atol=0 if not is_mixed else 1e-5)
    assert not same_bits(before, trained(tasks)["b"])


def test_a_task_that_diverges_later_keeps_its_best_epoch(bases: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = make_tasks(bases, "causal")
    watch = Watch({"a": [1.0, 2.0]})
    monkeypatch.setattr(loop.Learner, "take_step", _diverging(loop.Learner.take_step, "a", 5))
    outcomes, _ = run(tasks, watch=watch)
    assert outcomes["a"].steps == 4 and outcomes["a"].best_epoch == 1
    assert "at step 5" in (outcomes["a"].fault or "") and "epoch 1, the best so far, is kept" in outcomes["a"].fault
    assert same_bits(copy_trained(tasks["a"]), watch.checkpoints[-1].tasks[0].best)


def _diverging(original: Any, name: str, step: int) -> Any:
    def take_step(learner: Any, summed: float, targets: float) -> float | None:
        is_bad = learner.task.name == name and learner.state.step == step - 1
        return original(learner, math.inf if is_bad else summed, targets)

    return take_step


def test_an_evaluation_without_a_number_gives_the_task_up(bases: Path) -> None:
    outcomes, _ = run(make_tasks(bases, "causal"), watch=Watch({"b": [math.nan], "a": [1.0, 1.0]}))
    assert "the loss on the rows held out is nan" in (outcomes["b"].fault or "")
    assert outcomes["a"].steps == 6 and outcomes["a"].fault is None


def test_when_every_task_has_diverged_the_run_ends_with_an_error(bases: Path) -> None:
    tasks = make_tasks(bases, "causal")
    for name, task in tasks.items():
        task.attachment.bank.set_vector(name, torch.full_like(copy_trained(task)["vectors"], math.nan))
    with pytest.raises(
        RunError, match=r"All 3 tasks have diverged\. The last: Training '.': the loss is nan at step 1"
    ):
        run(tasks)


def test_settings_of_the_model_must_be_the_same_for_all(bases: Path) -> None:
    settings = SETTINGS | {"b": dataclasses.replace(SHORT, dropout=True)}
    with pytest.raises(SettingsError, match=r"dropout is False and True, expected the same for all, since it is the"):
        run(make_tasks(bases, "causal"), settings)


# -- stopped and resumed ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "is_mixed", "stops"),
    [
        # each round with one kind, and all rounds with every kind in the slow tier
        ("causal", True, (1, 4)),
        ("encoder", True, (2, 5)),
        ("seq2seq", False, (3, 6)),
        pytest.param("causal", True, (2, 3, 5, 6), marks=pytest.mark.slow),
        pytest.param("encoder", True, (1, 3, 4, 6), marks=pytest.mark.slow),
        pytest.param("seq2seq", False, (1, 2, 4, 5), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_stopped_after_any_round_the_resumed_run_ends_in_the_same_bits(
    kind: str, is_mixed: bool, stops: Sequence[int], bases: Path
) -> None:
    losses = {"a": [1.0, 2.0], "b": [1.0, 0.5], "c": [3.0, 1.0, 2.0]}
    options: dict[str, Any] = {"is_mixed": is_mixed, "sampling": Sampling("proportional")}
    whole = make_tasks(bases, kind)
    outcomes, watched = run(whole, watch=Watch(losses), **options)
    for stop in stops:
        tasks, before = make_tasks(bases, kind), Watch(losses, stop_after=stop)
        stopped, _ = run(tasks, watch=before, **options)
        assert all(o.is_stopped == (o.steps < outcomes[name].steps) for name, o in stopped.items())
        left = {name: list(values)[len(before.of("epoch", name)) :] for name, values in losses.items()}
        again = make_tasks(bases, kind)
        resumed, after = run(again, watch=Watch(left), resume=before.checkpoints[-1], **options)
        assert resumed == outcomes
        assert all(same_bits(t, trained(whole)[name]) for name, t in trained(again).items())
        for name in SIZES:
            told = [event["loss"] for event in (*before.of("step", name), *after.of("step", name))]
            assert told == [event["loss"] for event in watched.of("step", name)]


# -- a shared stage ---------------------------------------------------------------------------------------------------


def _with_shared_stage(bases: Path, kind: str) -> tuple[dict[str, Task], dict[str, Settings]]:
    tasks = make_tasks(bases, kind, ["shared", *SIZES])
    train = tuple(encoded for name in SIZES for encoded in tasks[name].train)
    tasks["shared"] = dataclasses.replace(tasks["shared"], train=train)
    for name in SIZES:
        tasks[name] = dataclasses.replace(tasks[name], starts_from="shared")
    return tasks, SETTINGS | {"shared": dataclasses.replace(SHORT, epochs=1)}


@pytest.mark.parametrize("kind", ["causal", "encoder"])
def test_a_shared_stage_comes_first_and_every_task_begins_with_its_numbers(kind: str, bases: Path) -> None:
    tasks, settings = _with_shared_stage(bases, kind)
    _, watch = run(tasks, settings, is_mixed=False)
    order = [event["task"] for event in watch.events if event["event"] == "step"]
    assert order[:5] == ["shared"] * 5 and "shared" not in order[5:]
    shared = trained(tasks)["shared"]
    single = make_tasks(bases, kind, ["b"])
    for name, tensor in loop.trained_tensors(single["b"].attachment, "b").items():
        tensor.data.copy_(shared[name])
    run(single, is_mixed=False)
    assert same_bits(trained(tasks)["b"], trained(single)["b"])


# in it, after its last step, behind it
@pytest.mark.parametrize("stops", [(2, 5, 7), pytest.param((1, 3, 4, 6, 8, 9, 10), marks=pytest.mark.slow)], ids=str)
def test_stopped_in_or_behind_the_shared_stage_the_resumed_run_ends_in_the_same_bits(
    stops: Sequence[int], bases: Path
) -> None:
    whole, settings = _with_shared_stage(bases, "causal")
    outcomes, _ = run(whole, settings)
    for stop in stops:
        before = Watch(stop_after=stop)
        run(_with_shared_stage(bases, "causal")[0], settings, before)
        again = _with_shared_stage(bases, "causal")[0]
        assert run(again, settings, resume=before.checkpoints[-1])[0] == outcomes
        assert all(same_bits(t, trained(whole)[name]) for name, t in trained(again).items())


def test_a_shared_stage_that_diverges_ends_the_run(bases: Path) -> None:
    tasks, settings = _with_shared_stage(bases, "causal")
    bad = torch.full_like(copy_trained(tasks["shared"])["vectors"], math.nan)
    tasks["shared"].attachment.bank.set_vector("shared", bad)
    with pytest.raises(RunError, match="Training 'shared': the loss is nan at step 1"):
        run(tasks, settings)


# -- turns ------------------------------------------------------------------------------------------------------------


def test_by_their_size_tasks_end_together_and_equally_the_small_ones_first(bases: Path) -> None:
    def last_rounds(sampling: Sampling) -> dict[str, int]:
        watch = Watch()
        run(make_tasks(bases, "causal"), watch=watch, sampling=sampling)
        return {
            name: next(c.step for c in watch.checkpoints if c.tasks[i].step == watch.checkpoints[-1].tasks[i].step)
            for i, name in enumerate(SIZES)
        }

    assert last_rounds(Sampling("equal")) == {"a": 6, "b": 6, "c": 3}
    assert last_rounds(Sampling("proportional")) == {"a": 6, "b": 6, "c": 6}
    assert last_rounds(Sampling("temperature", 2.0)) == {"a": 6, "b": 6, "c": 5}

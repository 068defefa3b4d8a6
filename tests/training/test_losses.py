"""The loss: equal to plain references, whatever a step is split into, and no logits where there are no targets.

With faster passes it is the same loss.
"""

from __future__ import annotations

import operator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ia3.data.batches import IGNORED, Batch, collate, split_by_tokens
from ia3.fast.acceleration import accelerated
from ia3.inference.logits import cache_of
from ia3.training.losses import class_weights, count_targets, sum_loss
from ia3.training.tasks import Task, trained_tensors
from tests.training.tasks import ADAPTER, KINDS, make_task

FAST = pytest.mark.parametrize("is_fast", [False, True], ids=["plain", "fast"])
WEIGHTED = pytest.mark.parametrize("is_weighted", [False, True], ids=["plain", "weighted"])


def _weights(task: Task, is_weighted: bool) -> Tensor | None:
    return class_weights(task.train, task.choices) if is_weighted else None


def _batch(task: Task) -> Any:
    return collate(task.train, task.kind, task.pad_id, task.decoder_start_id)


def _loss(task: Task, batch: Batch, weights: Tensor | None) -> Tensor:
    shares = None if weights is None else weights[batch.choices]
    return sum_loss(task.attachment.model, task.kind, batch, ADAPTER, shares)


def _reference(task: Task, weights: Tensor | None) -> Tensor:
    """The step's loss by the book: every example alone, all logits, each target token's −log p, weighted mean."""
    summed, divisor = torch.zeros((), dtype=torch.float64), 0.0
    for encoded in task.train:
        weight = 1.0 if weights is None else float(weights[encoded.choice])
        prompt, target = torch.tensor([encoded.prompt_ids]), torch.tensor(encoded.target_ids)
        if task.kind == "encoder":
            logits = task.attachment.model(input_ids=prompt).logits
            target = torch.tensor([encoded.choice])
        elif task.kind == "causal":
            whole = torch.cat([prompt, target[None]], dim=1)
            logits = task.attachment.model(input_ids=whole).logits[0, prompt.shape[1] - 1 : -1]
        else:
            given = torch.tensor([[task.decoder_start_id, *encoded.target_ids[:-1]]])
            logits = task.attachment.model(input_ids=prompt, decoder_input_ids=given).logits[0]
        picked = logits.log_softmax(-1).gather(1, target[:, None])
        summed = summed - weight * picked.sum()
        divisor += weight * len(target)
    return summed / divisor


def _micro_batches(task: Task, budget: int) -> list[Batch]:
    parts = split_by_tokens(range(len(task.train)), list(map(len, task.train)), budget)
    return [collate([task.train[i] for i in part], task.kind, task.pad_id, task.decoder_start_id) for part in parts]


def _split_loss(task: Task, budget: int, weights: Tensor | None) -> Tensor:
    parts = [_loss(task, batch, weights) for batch in _micro_batches(task, budget)]
    by_example = [1.0 if weights is None else float(weights[e.choice]) for e in task.train]
    targets = [count_targets([e], task.kind) for e in task.train]
    return torch.stack(parts).sum() / sum(map(operator.mul, by_example, targets))


def _gradients(task: Task, loss: Tensor) -> dict[str, Tensor]:
    trained = {name: t for name, t in trained_tensors(task.attachment, ADAPTER).items() if t.requires_grad}
    return dict(zip(trained, torch.autograd.grad(loss, trained.values()), strict=True))


@FAST
@WEIGHTED
@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradients_are_those_of_the_plain_reference_however_the_step_is_split(
    kind: str, is_weighted: bool, is_fast: bool, bases: Path
) -> None:
    task = make_task(bases, kind)
    weights = _weights(task, is_weighted)
    expected = _reference(task, weights)
    wanted = _gradients(task, expected)
    # transformers' norms are fp32 inside a float64 model, the faster ones are not
    tolerance = {"rtol": 0, "atol": 1e-5} if is_fast else {"rtol": 1e-6, "atol": 1e-9}
    numbers = []
    with accelerated(task.attachment) if is_fast else nullcontext():
        for budget in (1, 150, 10**9):
            numbers.append(len(_micro_batches(task, budget)))
            loss = _split_loss(task, budget, weights)
            assert loss.dtype == torch.float64
            torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
            for name, gradient in _gradients(task, loss).items():
                scale = wanted[name].abs().max()
                torch.testing.assert_close(gradient / scale, wanted[name] / scale, **tolerance)
    assert numbers[0] == len(task.train) > numbers[1] >= numbers[2]


@FAST
@pytest.mark.parametrize("kind", ["causal", "seq2seq"])
def test_free_text_has_the_same_loss_as_its_reference(kind: str, is_fast: bool, bases: Path) -> None:
    task = make_task(bases, kind, labels=())
    assert {e.choice for e in task.train} == {-1}
    expected = _reference(task, None)
    with accelerated(task.attachment) if is_fast else nullcontext():
        torch.testing.assert_close(_split_loss(task, 100, None), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_of_a_batch_is_the_one_transformers_computes_from_labels(kind: str, bases: Path) -> None:
    task = make_task(bases, kind)
    batch = _batch(task)
    labels = batch.labels
    if kind == "causal":  # transformers shifts the labels itself
        labels = torch.cat([torch.full_like(labels[:, :1], IGNORED), labels[:, :-1]], dim=1)
    theirs = task.attachment.model(**batch.inputs, labels=labels).loss
    ours = sum_loss(task.attachment.model, task.kind, batch, ADAPTER) / count_targets(task.train, task.kind)
    torch.testing.assert_close(ours.float(), theirs.float())  # its causal loss is fp32


@pytest.mark.parametrize("kind", ["causal", "seq2seq"])
def test_logits_are_computed_at_the_target_tokens_alone_and_nothing_is_cached(kind: str, bases: Path) -> None:
    task = make_task(bases, kind, dtype="float32")
    model, seen, caches = task.attachment.model, [], []
    head = model.get_output_embeddings().register_forward_hook(lambda m, a, out: seen.append(out.shape))
    whole = model.register_forward_hook(lambda m, a, out: caches.append(cache_of(out)))
    sum_loss(model, task.kind, _batch(task), ADAPTER)
    head.remove(), whole.remove()
    assert seen == [(1, count_targets(task.train, task.kind), model.config.vocab_size)]
    assert caches == [None]


@pytest.mark.parametrize("kind", ["causal", "seq2seq"])
def test_with_faster_passes_no_logits_are_computed_by_the_model(kind: str, bases: Path) -> None:
    task = make_task(bases, kind, dtype="float32")
    model, seen = task.attachment.model, []
    model.get_output_embeddings().register_forward_hook(lambda m, a, out: seen.append((a[0].shape, out.shape)))
    with accelerated(task.attachment):
        seen.clear()  # of the trial
        sum_loss(model, task.kind, _batch(task), ADAPTER)
    ((given, made),) = seen
    assert made == (*given[:-1], 1)


@pytest.mark.parametrize(
    ("dtype", "wide"), [("bfloat16", torch.float32), ("float32", torch.float32), ("float64", torch.float64)]
)
@WEIGHTED
@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_summed_in_fp32_or_in_the_float64_of_the_base(
    kind: str, is_weighted: bool, dtype: str, wide: torch.dtype, bases: Path
) -> None:
    task = make_task(bases, kind, dtype=dtype)
    weights = _weights(task, is_weighted)
    loss = _loss(task, _batch(task), weights)
    assert loss.dtype == wide and loss.shape == () and torch.isfinite(loss)
    with accelerated(task.attachment):
        fast = _loss(task, _batch(task), weights)
    assert fast.dtype == wide and fast.shape == ()
    torch.testing.assert_close(fast, loss, rtol=0.02 if dtype == "bfloat16" else 1e-5, atol=0)


def test_the_classes_weigh_the_same_in_sum(bases: Path) -> None:
    task = make_task(bases, "encoder")
    weights = class_weights(task.train, 3)
    counts = torch.tensor([3.0, 2.0, 2.0])
    torch.testing.assert_close(weights * counts, torch.full((3,), 7 / 3))


def test_a_choice_that_does_not_occur_weighs_nothing(bases: Path) -> None:
    task = make_task(bases, "causal")
    without = [e for e in task.train if e.choice != 1]
    assert class_weights(without, 3).tolist() == pytest.approx([5 / 9, 0, 5 / 6])
    assert class_weights(without, 4)[3] == 0


def test_targets_are_tokens_with_the_end_token_and_for_encoders_examples(bases: Path) -> None:
    causal = make_task(bases, "causal").train  # a space, the label, the end token; one token a byte
    assert count_targets(causal[:3], "causal") == (1 + 4 + 1) + (1 + 4 + 1) + (1 + 7 + 1)
    seq2seq = make_task(bases, "seq2seq").train
    assert count_targets(seq2seq[:3], "seq2seq") == 5 + 5 + 8
    assert count_targets(make_task(bases, "encoder").train, "encoder") == 7


def test_padding_is_no_target_even_where_pad_and_end_token_are_one(bases: Path) -> None:
    task = make_task(bases, "causal")
    batch = collate(task.train, "causal", pad_id=1)
    plain = sum_loss(task.attachment.model, "causal", _batch(task), ADAPTER)
    torch.testing.assert_close(sum_loss(task.attachment.model, "causal", batch, ADAPTER), plain)
    assert int((batch.labels != IGNORED).sum()) == count_targets(task.train, "causal")


def test_a_micro_batch_without_targets_costs_nothing(bases: Path) -> None:
    task = make_task(bases, "causal", dtype="float32")
    batch = replace(_batch(task), labels=torch.full_like(_batch(task).labels, IGNORED))
    assert sum_loss(task.attachment.model, "causal", batch, ADAPTER) == 0
    with accelerated(task.attachment):
        loss = sum_loss(task.attachment.model, "causal", batch, ADAPTER)
    assert loss == 0
    assert all(not gradient.any() for gradient in _gradients(task, loss).values())


@pytest.mark.parametrize("is_fast", [False, True], ids=["plain", "fast"])
@pytest.mark.parametrize("kind", KINDS)
def test_shares_weigh_examples_and_their_gradient_is_each_examples_loss(kind: str, is_fast: bool, bases: Path) -> None:
    task = make_task(bases, kind)
    model = task.attachment.model
    shares = torch.linspace(0.1, 1, len(task.train), dtype=torch.float64).requires_grad_()
    with accelerated(task.attachment) if is_fast else nullcontext():
        loss = sum_loss(model, task.kind, _batch(task), ADAPTER, shares)
        loss.backward()
        alone = [
            sum_loss(model, task.kind, collate([e], task.kind, task.pad_id, task.decoder_start_id), ADAPTER)
            for e in task.train
        ]
    losses = torch.stack(alone).detach()
    torch.testing.assert_close(shares.grad, losses, rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(loss.detach(), (losses * shares.detach()).sum(), rtol=1e-5, atol=0)

"""The loop: optimizer steps over length-bucketed batches, an evaluation after each epoch, the best epoch kept.

It is told what to do by values and tells what happens through callbacks; it knows nothing of tables, files' names or
the command line. The same seed gives the same adapter bits on the same machine and thread count.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ia3.bases.kinds import Kind
from ia3.core.attach import Attachment
from ia3.core.fast.acceleration import accelerated
from ia3.core.fast.compiling import repays_compiling, repeated_blocks
from ia3.core.fast.products import fastest_library
from ia3.data.batches import Batch, collate, epoch_batches, split_by_tokens
from ia3.data.encoding import Encoded
from ia3.errors import RunError
from ia3.inference.evaluate import evaluating
from ia3.training.checkpoint import Checkpoint
from ia3.training.losses import class_weights, count_targets, sum_loss
from ia3.training.records import Event
from ia3.training.settings import Settings


@dataclass(frozen=True)
class Task:
    """What is trained on what."""

    attachment: Attachment  # of the base
    adapter: str  # name of the row in training
    kind: Kind
    train: tuple[Encoded, ...]
    pad_id: int
    decoder_start_id: int | None
    choices: int  # size of the closed label set; 0 for free text


@dataclass(frozen=True)
class Evaluation:
    """What the loop needs of an evaluation on held-out rows."""

    loss: float  # nats per target token; per example for encoders
    accuracy: float | None  # of the most probable choice; None for free text


@dataclass(frozen=True)
class Callbacks:
    """What the loop calls; everything but `evaluate` may do nothing."""

    evaluate: Callable[[], Evaluation | None]  # None without held-out rows
    on_event: Callable[[Event], None] = lambda event: None
    on_best: Callable[[], None] = lambda: None  # the row now holds the best epoch so far
    on_checkpoint: Callable[[Checkpoint], object] = lambda checkpoint: None
    should_stop: Callable[[], bool] = lambda: False
    clock: Callable[[], float] = time.monotonic
    checkpoint_seconds: float = 10.0


@dataclass(frozen=True)
class Outcome:
    """How a run ended; the row holds the best epoch's numbers."""

    steps: int  # done in total
    best_epoch: int  # counted from 1; 0 if it was stopped before the first ended
    best_loss: float  # eval loss of that epoch; nan if nothing was held out
    is_stopped: bool  # before its last step


def train_loop(
    task: Task, settings: Settings, callbacks: Callbacks, *, run: str, resume: Checkpoint | None = None
) -> Outcome:
    """Train one adapter and leave its row at the best epoch.

    Args:
        task: What is trained on what.
        settings: How.
        callbacks: Where results go.
        run: Identity of the run, kept in its checkpoints.
        resume: Where to go on; None starts at step 0.

    Returns:
        How it ended.

    Raises:
        RunError: If the loss is no longer a number, naming the step.
    """
    total = settings.total_steps(len(task.train))
    per_epoch = settings.steps_per_epoch(len(task.train))
    trained = trained_tensors(task.attachment, task.adapter)
    optimizer = _make_optimizer(trained, settings)
    weights = _choice_weights(task, settings)
    state = resume or Checkpoint(0, run, {}, {}, {}, 0, math.inf, 0.0, 0.0)
    if resume is not None:
        _load(trained, resume.trained)
        optimizer.load_state_dict(copy.deepcopy(resume.optimizer))  # which would be trained on in place
    lengths = [len(encoded) for encoded in task.train]
    saved_at, saved_step = callbacks.clock(), state.step
    order: list[list[int]] = []
    with (
        accelerated(task.attachment, compiled=_compiles(task, settings)),
        _training_mode(task.attachment.model, settings),
    ):
        for step in range(state.step, total):
            if callbacks.should_stop():
                break
            epoch, position = divmod(step, per_epoch)
            if position == 0 or not order:
                order = epoch_batches(lengths, settings.batch_size, settings.seed, epoch)
            began = callbacks.clock()
            chosen = [task.train[i] for i in order[position]]
            loss, targets, rate = _step(task, settings, optimizer, chosen, state, total, weights)
            state = replace(
                state, step=step + 1, epoch_loss=state.epoch_loss + loss, epoch_targets=state.epoch_targets + targets
            )
            seconds = max(callbacks.clock() - began, 1e-9)
            callbacks.on_event(_step_event(state, epoch, loss / targets, rate, len(chosen) / seconds))
            if position == per_epoch - 1 or step == total - 1:
                state = _end_epoch(task, settings, callbacks, state, epoch, trained)
                state = replace(state, epoch_loss=0.0, epoch_targets=0.0)
            elif callbacks.clock() - saved_at < callbacks.checkpoint_seconds:
                continue
            callbacks.on_checkpoint(_filled(state, trained, optimizer))
            saved_at, saved_step = callbacks.clock(), state.step
    is_stopped = state.step < total
    if state.step > saved_step:
        callbacks.on_checkpoint(_filled(state, trained, optimizer))
    if state.best:
        _load(trained, state.best)
    elif state.step:  # stopped before the first epoch ended
        callbacks.on_best()
    best_loss = state.best_loss if math.isfinite(state.best_loss) else math.nan
    return Outcome(state.step, state.best_epoch, best_loss, is_stopped)


def trained_tensors(attachment: Attachment, adapter: str) -> dict[str, Tensor]:
    """Return every tensor that an adapter trains, by name: its row and its head's parameters and buffers."""
    snapshot = attachment.bank.snapshot
    row = snapshot.row(adapter)
    tensors: dict[str, Tensor] = {"vectors": snapshot.vector(row)}
    if row in snapshot.heads:
        head = snapshot.heads[row]
        tensors |= {f"head.{name}": tensor for name, tensor in (*head.named_parameters(), *head.named_buffers())}
    return tensors


def _make_optimizer(trained: dict[str, Tensor], settings: Settings) -> torch.optim.AdamW:
    heads = [tensor for name, tensor in trained.items() if name != "vectors" and tensor.requires_grad]
    groups = [{"params": [trained["vectors"]], "lr": settings.learning_rate, "highest": settings.learning_rate}]
    if heads:
        rate = settings.head_learning_rate
        groups.append({"params": heads, "lr": rate, "highest": rate})
    # the pull towards one is done by _step: AdamW's own pulls towards zero
    return torch.optim.AdamW(groups, weight_decay=0.0, fused=True)


def _compiles(task: Task, settings: Settings) -> bool:
    """Whether the blocks are compiled: as the settings say, or where the run repays it."""
    if settings.compile != "auto":
        return settings.compile == "on"
    model = task.attachment.model
    if next(model.parameters()).device.type != "cpu":  # nothing was measured there
        return False
    blocks = sum(p.numel() for _, block in repeated_blocks(task.attachment) for p in block.parameters())
    mean = sum(map(len, task.train)) / max(1, len(task.train))
    tokens = round(mean * settings.batch_size * settings.total_steps(len(task.train)))
    return repays_compiling(blocks, tokens, torch.get_num_threads(), fastest_library())


def _choice_weights(task: Task, settings: Settings) -> Tensor | None:
    if not settings.class_weights or task.choices == 0:
        return None
    device = next(task.attachment.model.parameters()).device
    return class_weights(task.train, task.choices).to(device)


def _step(
    task: Task,
    settings: Settings,
    optimizer: torch.optim.Optimizer,
    chosen: Sequence[Encoded],
    state: Checkpoint,
    total: int,
    weights: Tensor | None,
) -> tuple[float, float, float]:
    """Take one optimizer step; return the summed loss, what it is divided by, and the vectors' learning rate."""
    if settings.dropout:  # a function of (seed, step), so that a resumed run draws the same masks
        torch.manual_seed(settings.seed * 1_000_003 + state.step)
    targets = count_targets(chosen, task.kind, None if weights is None else weights.cpu())
    summed = 0.0
    for batch in micro_batches(task, chosen, settings.token_budget):
        loss = sum_loss(task.attachment.model, task.kind, batch, task.adapter, weights)
        (loss / targets).backward()
        summed += float(loss.detach())
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    _check_finite("the loss", summed, settings, state)
    _check_finite("the norm of the gradient", float(norm), settings, state)
    if settings.clip:
        torch.nn.utils.clip_grads_with_norm_(parameters, settings.clip, norm)
    factor = settings.rate(state.step, total)
    for group in optimizer.param_groups:
        group["lr"] = group["highest"] * factor
    if settings.weight_decay:
        with torch.no_grad():
            vectors = parameters[0]
            vectors.sub_((vectors - 1) * optimizer.param_groups[0]["lr"] * settings.weight_decay)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return summed, targets, optimizer.param_groups[0]["lr"]


def _check_finite(what: str, value: float, settings: Settings, state: Checkpoint) -> None:
    if math.isfinite(value):
        return
    kept = f" The adapter of epoch {state.best_epoch}, the best so far, is kept." if state.best_epoch else ""
    raise RunError(
        f"Training: {what} is {value} at step {state.step + 1}, expected a number. Lower the learning rate "
        f"({settings.learning_rate:g}), or load the base in float32.{kept}"
    )


def micro_batches(task: Task, chosen: Sequence[Encoded], budget: int) -> Iterator[Batch]:
    """Yield the micro-batches of a step, on the model's device."""
    device = next(task.attachment.model.parameters()).device
    lengths = [len(encoded) for encoded in chosen]
    for part in split_by_tokens(range(len(chosen)), lengths, budget):
        yield collate([chosen[i] for i in part], task.kind, task.pad_id, task.decoder_start_id).to(device)


def _end_epoch(
    task: Task,
    settings: Settings,
    callbacks: Callbacks,
    state: Checkpoint,
    epoch: int,
    trained: dict[str, Tensor],
) -> Checkpoint:
    """Evaluate, tell, and keep the numbers if they are the best so far."""
    with evaluating(task.attachment.model):
        evaluation = callbacks.evaluate()
    train_loss = state.epoch_loss / state.epoch_targets
    measured = evaluation.loss if evaluation is not None else train_loss
    # without held-out rows the last epoch is the one to keep
    is_best = evaluation is None or measured < state.best_loss or not state.best
    if is_best:
        state = replace(
            state,
            best={name: tensor.detach().clone().cpu() for name, tensor in trained.items()},
            best_epoch=epoch + 1,
            best_loss=math.inf if evaluation is None else measured,
        )
    callbacks.on_event(
        {
            "event": "epoch",
            "epoch": epoch + 1,
            "step": state.step,
            "train_loss": train_loss,
            # a weighted loss is no mean over tokens
            "train_perplexity": None if settings.class_weights else _perplexity(train_loss, task.kind),
            "eval_loss": None if evaluation is None else evaluation.loss,
            "eval_perplexity": None if evaluation is None else _perplexity(evaluation.loss, task.kind),
            "eval_accuracy": None if evaluation is None else evaluation.accuracy,
            "is_best": is_best,
        }
    )
    if is_best:
        callbacks.on_best()
    return state


def _perplexity(loss: float, kind: Kind) -> float | None:
    """Return exp(loss); None for an encoder, whose loss is of examples, and where it overflows."""
    return None if kind == "encoder" or loss > 700 else math.exp(loss)


def _step_event(state: Checkpoint, epoch: int, loss: float, rate: float, speed: float) -> Event:
    return {
        "event": "step",
        "step": state.step,
        "epoch": epoch + 1,
        "loss": loss,
        "learning_rate": rate,
        "examples_per_second": speed,
    }


def _filled(state: Checkpoint, trained: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> Checkpoint:
    tensors = {name: tensor.detach().clone().cpu() for name, tensor in trained.items()}
    return replace(state, trained=tensors, optimizer=copy.deepcopy(optimizer.state_dict()))


def _load(trained: dict[str, Tensor], values: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, tensor in trained.items():
            tensor.copy_(values[name])


@contextmanager
def _training_mode(model: Any, settings: Settings) -> Iterator[None]:
    """Turn the base's dropout on or off for the run, and leave every module and the random numbers as they were."""
    before = {module: module.training for module in model.modules()}
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()), enabled=settings.dropout):
        model.train(settings.dropout)
        try:
            yield
        finally:
            for module, mode in before.items():
                module.training = mode

"""A task in training: which examples are next, its step, the end of its epoch, and its state for a checkpoint.

The order of its examples is a function of its seed and epoch alone, so it is the same beside other tasks as without
them. This file knows one task; how the examples of many go through the model together is `loop`'s matter.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from ia3.data.batches import balanced_batches, epoch_batches
from ia3.data.encoding import Encoded
from ia3.fast.first_blocks import FirstBlocks
from ia3.names import Kind
from ia3.training.checkpoint import TaskState
from ia3.training.hidden_cache import HiddenCache, make_cache
from ia3.training.losses import class_weights
from ia3.training.optimizer import by_site, gradient_norm, make_optimizer, step_optimizer
from ia3.training.records import Event
from ia3.training.settings import Settings, has_contrast
from ia3.training.tasks import Evaluation, Outcome, Task, trained_tensors
from ia3.training.variants import draw_variants


class Learner:
    """One task with its optimizer and its state; the row of the bank is what it changes."""

    def __init__(self, task: Task, settings: Settings) -> None:
        self.task, self.settings = task, settings
        self.state = TaskState()
        self.total = settings.total_steps(len(task.train))
        self.per_epoch = settings.steps_per_epoch(len(task.train))
        self.trained = trained_tensors(task.attachment, task.adapter)
        plan = task.attachment.bank.plan
        self.frozen = plan.sites_of_first_blocks(settings.frozen_blocks)
        self._moving = by_site(self.trained["vectors"], plan, self.frozen, 0.0)
        self._optimizer = make_optimizer(self.trained, settings, plan)
        self._order: tuple[int, list[list[Encoded]]] = (-1, [])  # of an epoch
        self._weights: list[float] | None = None  # of each choice
        if settings.class_weights and task.choices:
            self._weights = class_weights(task.train, task.choices).tolist()
        self.cache: HiddenCache | None = None  # of the blocks before the first trained vector
        self._keep_beginning()

    @property
    def is_active(self) -> bool:
        """Whether it has steps to take."""
        return self.state.step < self.total and self.state.fault is None and not self.state.is_early

    @property
    def is_at_an_end(self) -> bool:
        """Whether the step just taken was the last one of an epoch or of all."""
        return self.state.step % self.per_epoch == 0 or self.is_done

    @property
    def is_done(self) -> bool:
        """Whether the step just taken was the last of all."""
        return self.state.step == self.total

    @property
    def is_measured(self) -> bool:
        """Whether the rows held out are looked at after the step just taken, if it ends an epoch."""
        return self.settings.eval_strategy == "epoch" or self.is_done

    @property
    def is_fitting(self) -> bool:
        """Whether the head has to be fitted before the numbers of an epoch are worth keeping or looking at.

        At the last step all that are fitted are; before, one that learns nothing from its loss, where it is looked at.
        """
        return self.is_done or (self.settings.losses == "contrast" and self.is_measured)

    @property
    def is_unfit(self) -> bool:
        """Whether the head knows nothing of the vectors: nothing is written of them before it is fitted."""
        return self.settings.losses == "contrast" and not self.is_fitting

    @property
    def epoch(self) -> int:
        """The epoch of the step just taken, counted from 1."""
        return (self.state.step - 1) // self.per_epoch + 1

    def next_examples(self) -> list[Encoded]:
        """Return the examples of the next step."""
        epoch, position = divmod(self.state.step, self.per_epoch)
        if self._order[0] != epoch:
            self._order = epoch, self._batches(epoch)
        return self._order[1][position]

    def _batches(self, epoch: int) -> list[list[Encoded]]:
        """Return the examples of an epoch batch by batch, each with one of the templates."""
        versions, seed = (self.task.train, *self.task.variants), self.settings.seed
        drawn = draw_variants(len(self.task.train), len(versions), seed, epoch)
        examples = [versions[number][place] for place, number in enumerate(drawn)]
        size = self.settings.batch_size
        if has_contrast(self.settings.losses):
            batches = balanced_batches([e.choice for e in examples], size, seed, epoch)
        else:
            batches = epoch_batches([len(e) for e in examples], size, seed, epoch)
        return [[examples[place] for place in batch] for batch in batches]

    def make_cache(self, blocks: FirstBlocks, most_bytes: int) -> None:
        """Keep what the blocks before the first trained vector give for a row, where that spares them later.

        Args:
            blocks: Of the model.
            most_bytes: That may be kept.
        """
        self.cache = make_cache(self.task, self.settings, self.frozen, self.total, blocks, most_bytes)

    def weight(self, encoded: Encoded) -> float:
        """Return how much each target of an example counts."""
        return 1.0 if self._weights is None else self._weights[encoded.choice]

    def take_step(self, summed: float, targets: float) -> float | None:
        """Take an optimizer step with the gradients that are there; return the vectors' learning rate.

        A loss or gradient that is no number gives the task up: nothing is changed, and None comes back.

        Args:
            summed: Loss of the step's examples, in nats.
            targets: What it is divided by.
        """
        norm = gradient_norm(self._optimizer)
        wrong = [(w, v) for w, v in (("the loss", summed), ("the norm of the gradient", float(norm))) if not _is(v)]
        if wrong:
            self.give_up(*wrong[0])
            return None
        factor = self.settings.rate(self.state.step, self.total)
        rate = step_optimizer(self._optimizer, self.settings, norm, factor, self._moving)
        self.state = replace(
            self.state,
            step=self.state.step + 1,
            epoch_loss=self.state.epoch_loss + summed,
            epoch_targets=self.state.epoch_targets + targets,
        )
        return rate

    def give_up(self, what: str, value: float) -> None:
        """Train this task no further, since a number is none; its row is not touched."""
        self._optimizer.zero_grad(set_to_none=True)
        kept = f" The adapter of epoch {self.state.best_epoch}, the best so far, is kept."
        fault = (
            f"Training{f' {self.task.name!r}' if self.task.name else ''}: {what} is {value} at step "
            f"{self.state.step + 1}, expected a number. Lower the learning rate ({self.settings.learning_rate:g}), or "
            f"load the base in float32.{kept if self.state.best_epoch else ''}"
        )
        self.state = replace(self.state, fault=fault)

    def end_epoch(self, evaluation: Evaluation | None) -> Event:
        """Keep the numbers if they are the best so far, and return what is told of the epoch."""
        state, epoch = self.state, self.epoch
        train_loss = state.epoch_loss / state.epoch_targets
        measured = evaluation.loss if evaluation is not None else train_loss
        # where held-out rows are not there or not looked at, the last epoch is the one to keep
        is_best = evaluation is None or measured < state.best_loss or not state.best
        state = replace(state, epoch_loss=0.0, epoch_targets=0.0)
        if is_best:
            best_loss = math.inf if evaluation is None else measured
            state = replace(state, best=_copied(self.trained), best_epoch=epoch, best_loss=best_loss)
        patience = self.settings.patience
        self.state = replace(
            state, is_early=bool(patience) and epoch - state.best_epoch >= patience and state.step < self.total
        )
        return self.event("epoch", is_best=is_best, **self._losses(train_loss, evaluation))

    def _losses(self, train_loss: float, evaluation: Evaluation | None) -> Event:
        kind = self.task.kind
        is_mixed = self.settings.class_weights or self.settings.losses != "lm"
        return {
            "train_loss": train_loss,
            # a weighted loss, or one of several terms, is no mean over tokens
            "train_perplexity": None if is_mixed else _perplexity(train_loss, kind),
            "eval_loss": None if evaluation is None else evaluation.loss,
            "eval_perplexity": None if evaluation is None else _perplexity(evaluation.loss, kind),
            "eval_accuracy": None if evaluation is None else evaluation.accuracy,
        }

    def event(self, kind: str, **values: object) -> Event:
        """Return an event of this task."""
        named = {"task": self.task.name} if self.task.name else {}
        return {"event": kind, **named, "step": self.state.step, "epoch": self.epoch, **values}

    def start_from(self, other: Learner) -> None:
        """Begin with the best numbers of another task."""
        _load(self.trained, other.state.best)
        self._keep_beginning()

    def _keep_beginning(self) -> None:
        if self.settings.interpolation < 1:
            self.state = replace(self.state, begun=_copied(self.trained))

    @contextmanager
    def interpolated(self) -> Iterator[None]:
        """Have the row hold what is kept of its numbers inside: so much of the way from those that it began with."""
        share = self.settings.interpolation
        if share == 1:
            yield
            return
        reached = _copied(self.trained)
        _load(self.trained, {name: torch.lerp(begun, reached[name], share) for name, begun in self.state.begun.items()})
        try:
            yield
        finally:
            _load(self.trained, reached)

    def load(self, state: TaskState) -> None:
        """Go on from a state; one whose training has not begun is left as it is."""
        self.state = state
        if state.trained:
            _load(self.trained, state.trained)
            self._optimizer.load_state_dict(copy.deepcopy(state.optimizer))  # which would be trained on in place

    def filled_state(self) -> TaskState:
        """Return the state with everything that training goes on from."""
        if not self.state.step:
            return self.state
        optimizer = copy.deepcopy(self._optimizer.state_dict())
        return replace(self.state, trained=_copied(self.trained), optimizer=optimizer)

    def keep_best(self) -> None:
        """Put the best epoch's numbers into the row, if an epoch has ended."""
        if self.state.best:
            _load(self.trained, self.state.best)

    def outcome(self) -> Outcome:
        """Return how the training has ended."""
        state = self.state
        best_loss = state.best_loss if math.isfinite(state.best_loss) else math.nan
        return Outcome(state.step, state.best_epoch, best_loss, self.is_active, state.fault, state.is_early)


def _is(value: float) -> bool:
    return math.isfinite(value)


def _perplexity(loss: float, kind: Kind) -> float | None:
    """Return exp(loss); None for an encoder, whose loss is of examples, and where it overflows."""
    return None if kind == "encoder" or loss > 700 else math.exp(loss)


def _copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone().cpu() for name, tensor in tensors.items()}


def _load(trained: dict[str, Tensor], values: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, tensor in trained.items():
            tensor.copy_(values[name])

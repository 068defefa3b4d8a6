"""A method is one way to take a training step; all of them are made from the same base and take the same steps.

    recipe.prepare(model)              what is done to the base before it counts as loaded (int8)
    method = recipe.build(case, works)
    method.reset()                     the first state: the same numbers, a new optimizer
    method.step(work)                  one whole step: forward, backward, clip, update

This file knows models and optimizers; it knows nothing of PEFT, banks or clocks.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import get_linear_schedule_with_warmup

from benchmarks.bases import Case
from benchmarks.workload import Work
from ia3.data.batches import IGNORED
from ia3.inference.logits import logits_at
from ia3.names import Kind

RATE = 8e-3  # of every (IA)³
CLIP = 1.0


class NotAvailable(Exception):
    """A method that this machine or this checkout does not have; the message says what is missing."""


class Method(Protocol):
    """One way to take a training step."""

    def reset(self) -> None:
        """Go back to the first state."""

    def step(self, work: Work) -> float | None:
        """Take a step and return its loss before it; None for what has no loss."""


@dataclass(frozen=True)
class Recipe:
    """How a method is made.

    Attributes:
        build: Makes it from a base that it may change, and the steps it will take.
        prepare: Changes the base in place before it counts as loaded.
        is_training: Whether it is a whole step, with a loss and memory of its own, and not the products alone.
        is_compiled: Whether its first pass over every shape compiles.
    """

    build: Callable[[Case, Sequence[Work]], Method]
    prepare: Callable[[Any], None] | None = None
    is_training: bool = True
    is_compiled: bool = False


class Training:
    """A step of a model with trained tensors, or with none (a frozen model's passes alone).

    Args:
        model: The model; its parameters and buffers do not count as kept for the backward pass.
        compute: Gives the mean loss of a step's targets, with its graph.
        trained: What is trained.
        rate: Learning rate.
        schedule: Steps over which the rate falls linearly to zero, as in the notebooks; None for a constant rate
            and what a tuned loop has: a fused optimizer, gradients clipped at once.
    """

    def __init__(
        self,
        model: nn.Module,
        compute: Callable[[Work], Tensor],
        trained: Sequence[Tensor],
        *,
        rate: float = RATE,
        schedule: int | None = None,
    ) -> None:
        self.model = model
        self.compute = compute
        self._trained = tuple(trained)
        self._first = tuple(tensor.detach().clone() for tensor in self._trained)
        self._rate, self._steps = rate, schedule
        self.reset()

    def reset(self) -> None:
        """Go back to the first numbers, with a new optimizer."""
        self._optimizer: torch.optim.Optimizer | None = None
        self._schedule: Any = None
        with torch.no_grad():
            for tensor, first in zip(self._trained, self._first, strict=True):
                tensor.copy_(first)
                tensor.grad = None
        if self._trained and self._steps is None:
            self._optimizer = torch.optim.AdamW(self._trained, lr=self._rate, weight_decay=0.0, fused=True)
        elif self._trained:
            self._optimizer = torch.optim.AdamW(self._trained, lr=self._rate)
            self._schedule = get_linear_schedule_with_warmup(self._optimizer, 0, self._steps)

    def step(self, work: Work) -> float:
        """Take a step and return its loss before it."""
        loss = self.compute(work)
        loss.backward()
        if self._optimizer is not None:
            if self._schedule is None:
                torch.nn.utils.clip_grad_norm_(self._trained, CLIP, foreach=True)
            self._optimizer.step()
            if self._schedule is not None:
                self._schedule.step()
            self._optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())


def label_loss(model: Any, kind: Kind, work: Work) -> Tensor:
    """Return the mean loss of a step's targets, with logits at the labelled positions alone.

    Args:
        model: A transformers model.
        kind: Its kind.
        work: The step.
    """
    batch = work.batch
    if kind == "encoder":
        return functional.cross_entropy(model(**batch.inputs).logits, batch.choices)
    positions = batch.labels != IGNORED
    logits = logits_at(model, positions, {**batch.inputs, "use_cache": False})
    return functional.cross_entropy(logits, batch.labels[positions])


def shared_copy(model: Any) -> Any:
    """Return a copy of a model that shares the memory of its weights: new modules and parameters, the same numbers.

    Hooks, replaced modules and frozen parameters of one copy are none of another's.
    """
    memo: dict[int, Any] = {id(buffer): buffer for buffer in model.buffers()}
    memo |= {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in model.parameters()}
    return copy.deepcopy(model, memo)

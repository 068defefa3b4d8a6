"""The loop: rounds in which one or many tasks take an optimizer step each, an evaluation after each epoch.

In a round the examples of all tasks are pooled, sorted by length and cut by the token budget, so that a batch mixes
tasks; each example's loss is divided by the targets of its own task's step, and each row's gradient comes from its own
examples alone. Training one adapter is the same with one task. The loop is told what to do by values and tells what
happens through callbacks; it knows nothing of tables, files' names or the command line. The same seed gives the same
adapter bits on the same machine and thread count.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from ia3.core.modes import evaluating
from ia3.core.surroundings import surrounded
from ia3.core.weights import input_device
from ia3.errors import RunError, SettingsError
from ia3.fast.acceleration import accelerated
from ia3.fast.compiling import repays_compiling, repeated_blocks
from ia3.fast.first_blocks import first_blocks
from ia3.kernels.products import fastest_library
from ia3.training.backward import Turn, backward
from ia3.training.checkpoint import Checkpoint
from ia3.training.hidden_cache import MOST_BYTES
from ia3.training.learner import Learner
from ia3.training.losses import count_targets
from ia3.training.sampling import Sampling, has_turn
from ia3.training.settings import OF_THE_RUN, Settings, has_contrast
from ia3.training.t_few import check_choices, learns_from_choices
from ia3.training.tasks import Callbacks, Outcome, Task, trained_tensors

__all__ = [
    "Callbacks",
    "Outcome",
    "Task",
    "train_loop",
    "train_together",
    "trained_tensors",
]


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
    return train_together([(task, settings)], callbacks, run=run, resume=resume)[0]


def train_together(
    tasks: Sequence[tuple[Task, Settings]],
    callbacks: Callbacks,
    *,
    run: str,
    resume: Checkpoint | None = None,
    sampling: Sampling | None = None,
    is_mixed: bool = True,
) -> tuple[Outcome, ...]:
    """Train many adapters of one base and leave each row at its best epoch.

    A task whose loss or gradient is no longer a number is given up; the others go on.

    Args:
        tasks: What is trained on what, and how; they differ in their rows and share everything of the model.
        callbacks: Where results go.
        run: Identity of the run, kept in its checkpoints.
        resume: Where to go on; None starts anew.
        sampling: How turns are shared out; equally if left out.
        is_mixed: Whether examples of different tasks meet in a batch; if not, each task ends in the bits that it has
            when it is trained alone.

    Returns:
        How each ended.

    Raises:
        RunError: If every task was given up.
        SettingsError: If two tasks differ in a setting of the whole run.
    """
    _check_settings([settings for _, settings in tasks])
    for task, settings in tasks:
        for version in (task.train, *task.variants):
            check_choices(version, settings.losses, task.kind)
    learners = [Learner(task, settings) for task, settings in tasks]
    if resume is not None:
        for learner, state in zip(learners, resume.tasks, strict=True):
            learner.load(state)
    rounds = _Rounds(learners, callbacks, sampling or Sampling(), is_mixed)
    try:
        _run_rounds(rounds, run, 0 if resume is None else resume.step)
    except RunError:
        _keep_best(learners, callbacks)
        raise
    _keep_best(learners, callbacks)
    return tuple(learner.outcome() for learner in learners)


def _keep_best(learners: Sequence[Learner], callbacks: Callbacks) -> None:
    """Leave each row at its best epoch, and have those written that no epoch wrote."""
    for learner in learners:
        state, is_unfit = learner.state, learner.is_unfit  # stopped before its head was fitted
        learner.keep_best()
        if state.step and (is_unfit if state.best else not state.fault):
            callbacks.before_kept(learner.task.adapter)
            callbacks.on_best(learner.task.adapter)


def _run_rounds(rounds: _Rounds, run: str, number: int) -> None:
    """Run round after round, from a number on, and hand out a checkpoint now and then and at the end."""
    callbacks, learners = rounds.callbacks, rounds.learners
    first = learners[0]
    saved_at, saved = callbacks.clock(), number
    due: set[int] = set()  # learners that have ended an epoch since the last checkpoint

    def save() -> None:
        callbacks.on_checkpoint(Checkpoint(number, run, tuple(learner.filled_state() for learner in learners)))

    with (
        _training_mode(first.task.attachment.model, first.settings),
        accelerated(first.task.attachment, compiled=_compiles(learners, rounds.is_mixed)),
        _caches(learners, rounds.is_mixed),
    ):
        while any(learner.is_active for learner in learners) and not callbacks.should_stop():
            due |= rounds.run(number)
            number += 1
            is_due = bool(due) and all(i in due or not rounds.is_ready(one) for i, one in enumerate(learners))
            if not is_due and callbacks.clock() - saved_at < callbacks.checkpoint_seconds:
                continue
            save()
            saved_at, saved = callbacks.clock(), number
            due = set()
    if number > saved:
        save()


class _Rounds:
    """Runs rounds: the learners that have their turn take a step."""

    def __init__(self, learners: Sequence[Learner], callbacks: Callbacks, sampling: Sampling, is_mixed: bool) -> None:
        self.learners, self.callbacks, self.is_mixed = learners, callbacks, is_mixed
        self._places = {learner.task.adapter: place for place, learner in enumerate(learners)}
        counted = [learner for learner in learners if self._source(learner) or not self._is_source(learner)]
        weights = sampling.weights([learner.total for learner in counted])
        self._weights = {learner.task.adapter: weight for learner, weight in zip(counted, weights, strict=True)}

    def run(self, number: int) -> set[int]:
        """Run one round and return the places of the learners whose epoch it has ended."""
        ready = [learner for learner in self.learners if self.is_ready(learner)]
        began = self.callbacks.clock()
        turns = [self._turn(l) for l in ready if has_turn(self._weights.get(l.task.adapter, 1.0), number)]
        losses: dict[str, float] = {}
        for group in self._groups(turns):
            with surrounded(frozen=group[0].learner.frozen):
                losses |= backward(group)
        summed = [losses[turn.learner.task.adapter] for turn in turns]
        rates = [turn.learner.take_step(loss, turn.targets) for turn, loss in zip(turns, summed, strict=True)]
        seconds = max(self.callbacks.clock() - began, 1e-9)
        speed = sum(len(turn.examples) for turn in turns) / seconds
        for turn, loss, rate in zip(turns, summed, rates, strict=True):
            self._tell(turn, loss, rate, speed)
        return self._end_epochs([t.learner for t, rate in zip(turns, rates, strict=True) if rate is not None])

    def is_ready(self, learner: Learner) -> bool:
        """Whether a learner has steps to take and what it starts from is trained."""
        source = self._source(learner)
        return learner.is_active and (source is None or not source.is_active)

    def _turn(self, learner: Learner) -> Turn:
        source = self._source(learner)
        if source is not None and not learner.state.step:
            learner.start_from(source)
        examples = learner.next_examples()
        targets = sum(count_targets([e], learner.task.kind) * learner.weight(e) for e in examples)
        return Turn(learner, examples, targets)

    def _groups(self, turns: list[Turn]) -> list[list[Turn]]:
        """Return the turns whose examples may meet in a batch: those with the same loss and the same frozen sites."""
        groups: dict[Any, list[Turn]] = {}
        for number, turn in enumerate(turns):
            settings, kind = turn.learner.settings, turn.learner.task.kind
            sort = learns_from_choices(settings.losses, kind), has_contrast(settings.losses)
            key = (sort, turn.learner.frozen) if self.is_mixed else number
            groups.setdefault(key, []).append(turn)
        return [*groups.values()]

    def _tell(self, turn: Turn, loss: float, rate: float | None, speed: float) -> None:
        if rate is None:
            self._tell_fault(turn.learner)
            return
        told = {"loss": loss / turn.targets, "learning_rate": rate, "examples_per_second": speed}
        self.callbacks.on_event(turn.learner.event("step", **told))

    def _tell_fault(self, learner: Learner) -> None:
        """Tell that a task is given up, or raise if nothing is left to go on with."""
        fault = learner.state.fault
        stuck = [other for other in self.learners if self._source(other) is learner]
        if stuck or all(other.state.fault for other in self.learners):
            many = f"All {len(self.learners)} tasks have diverged. The last: " if len(self.learners) > 1 else ""
            raise RunError(f"{'' if stuck else many}{fault}")
        self.callbacks.on_event(learner.event("diverged", what=fault) | {"step": learner.state.step + 1})

    def _end_epochs(self, stepped: Sequence[Learner]) -> set[int]:
        ended = [learner for learner in stepped if learner.is_at_an_end]
        if not ended:
            return set()
        with ExitStack() as stack:
            for learner in ended:
                stack.enter_context(learner.interpolated())
            self._measure(ended)
        return {self._places[learner.task.adapter] for learner in ended}

    def _measure(self, ended: Sequence[Learner]) -> None:
        """Look at learners whose epoch has ended, and keep those that are the best so far."""
        measured = [learner for learner in ended if learner.is_measured]
        for learner in ended:
            if learner.is_fitting:
                self.callbacks.before_kept(learner.task.adapter)
        with evaluating(ended[0].task.attachment.model):
            found = self.callbacks.evaluate([learner.task.adapter for learner in measured])
        evaluations = dict(zip((learner.task.adapter for learner in measured), found, strict=True))
        for learner in ended:
            evaluation = evaluations.get(learner.task.adapter)
            if evaluation is not None and math.isnan(evaluation.loss):
                learner.give_up("the loss on the rows held out", evaluation.loss)
                self._tell_fault(learner)
                continue
            event = learner.end_epoch(evaluation)
            self.callbacks.on_event(event)
            if event["is_best"] and not learner.is_unfit:
                self.callbacks.on_best(learner.task.adapter)

    def _source(self, learner: Learner) -> Learner | None:
        name = learner.task.starts_from
        return None if name is None else self.learners[self._places[name]]

    def _is_source(self, learner: Learner) -> bool:
        return any(other.task.starts_from == learner.task.adapter for other in self.learners)


def _check_settings(settings: Sequence[Settings]) -> None:
    for name in OF_THE_RUN:
        values = sorted({str(getattr(one, name)) for one in settings})
        if len(values) > 1:
            raise SettingsError(
                f"Training tasks together: {name} is {' and '.join(values)}, expected the same for all, since it is "
                "the model's and not a row's. Give it once, for the whole run."
            )


def _compiles(learners: Sequence[Learner], is_mixed: bool) -> bool:
    """Whether the blocks are compiled: as the settings say, or where the run repays it.

    Where tasks are to end in the bits that each has alone, only if each would be compiled alone.
    """
    if not is_mixed and len(learners) > 1:
        return all(_compiles([learner], is_mixed) for learner in learners)
    settings, attachment = learners[0].settings, learners[0].task.attachment
    if settings.compile != "auto":
        return settings.compile == "on"
    if any(learns_from_choices(one.settings.losses, one.task.kind) for one in learners):  # caches are not compiled
        return False
    if input_device(attachment.model).type != "cpu":  # nothing was measured there
        return False
    # blocks whose sites are all frozen run plainly, or not at all
    frozen = frozenset.intersection(*(learner.frozen for learner in learners))
    trained = [site.module for number, site in enumerate(attachment.bank.plan.sites) if number not in frozen]
    alive = [b for path, b in repeated_blocks(attachment) if any(one.startswith(f"{path}.") for one in trained)]
    blocks = sum(parameter.numel() for block in alive for parameter in block.parameters())
    tokens = 0.0
    for learner in learners:
        mean = sum(map(len, learner.task.train)) / max(1, len(learner.task.train))
        tokens += mean * learner.settings.batch_size * learner.total
    return repays_compiling(blocks, round(tokens), torch.get_num_threads(), fastest_library())


@contextmanager
def _caches(learners: Sequence[Learner], is_mixed: bool) -> Iterator[None]:
    """Have learners inside keep what their frozen first blocks give.

    Where tasks are to end in the bits that each has alone, what one may keep does not depend on the others.
    """
    frozen = [learner for learner in learners if learner.frozen]
    if not frozen:
        yield
        return
    with first_blocks(learners[0].task.attachment) as blocks:
        if blocks is not None:
            for learner in frozen:
                learner.make_cache(blocks, MOST_BYTES // len(frozen) if is_mixed else MOST_BYTES)
        try:
            yield
        finally:
            for learner in frozen:
                learner.cache = None


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

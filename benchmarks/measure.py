"""The clock: methods in turn in one process, the same chunk of steps from the same first state in every repeat.

Turns make slow drifts of the machine fall on all methods alike; ratios are taken within a repeat. This file knows
methods and chunks; it knows nothing of what a method does.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from benchmarks.bases import Case
from benchmarks.methods import Method, NotAvailable, Recipe, Training, shared_copy
from benchmarks.workload import Work

_WARM_STEPS = 2

Say = Callable[[str], None]


@dataclass(frozen=True)
class Timing:
    """What was measured of one method on one base.

    Attributes:
        seconds: Of the chunk, one number for each repeat.
        warmup_seconds: Of the first steps; compiling falls into them.
        losses: Before each step of the chunk, and of its first batch after the last step; empty for products alone.
        skipped: Why nothing was measured; None if it was.
    """

    seconds: tuple[float, ...] = ()
    warmup_seconds: float | None = None
    losses: tuple[float, ...] = ()
    skipped: str | None = None

    @property
    def median(self) -> float:
        """The median of the seconds."""
        return statistics.median(self.seconds)


@dataclass
class _Runner:
    """A method under measurement."""

    method: Method
    warmup_seconds: float
    seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)


def time_methods(
    case: Case, works: Sequence[Work], recipes: Mapping[str, Recipe], repeats: int, say: Say
) -> dict[str, Timing]:
    """Return the timing of every method; one that cannot be built or run is skipped with the reason.

    Args:
        case: The base; each method gets a copy that shares its weights.
        works: The chunk of steps.
        recipes: The methods by name.
        repeats: How often each runs the chunk.
        say: Told what goes on.
    """
    timings: dict[str, Timing] = {}
    runners: dict[str, _Runner] = {}
    for name, recipe in recipes.items():
        say(f"{case.name}: warming up {name}")
        try:
            runners[name] = _warm(case, works, recipe)
        except Exception as error:  # one method that fails must not take the others' numbers along
            timings[name] = Timing(skipped=reason_of(error))
            say(f"{case.name}: {name} is skipped: {timings[name].skipped}")
    with still_collector():
        for repeat in range(repeats):
            say(f"{case.name}: repeat {repeat + 1} of {repeats}")
            names = [*runners]
            first = repeat % max(1, len(names))  # so that no method always comes behind the same one
            for name in names[first:] + names[:first]:
                _run_chunk(runners[name], works)
    for name, runner in runners.items():
        if isinstance(runner.method, Training):
            runner.losses.append(float(runner.method.compute(works[0]).detach()))
        timings[name] = Timing(tuple(runner.seconds), runner.warmup_seconds, tuple(runner.losses))
    return {name: timings[name] for name in recipes}


@contextmanager
def still_collector() -> Iterator[None]:
    """Keep the garbage collector away from what is there already: models of all methods, and modules."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def reason_of(error: Exception) -> str:
    """Return in one line why a method cannot be measured."""
    text = " ".join(str(error).split())[:300]
    if isinstance(error, NotAvailable | ImportError):
        return f"not available: {text}"
    return f"failed: {type(error).__name__}: {text}"


def build(case: Case, works: Sequence[Work], recipe: Recipe, *, is_shared: bool) -> Method:
    """Return a method on a base, or on a copy that shares its weights; the base is prepared first."""
    model = shared_copy(case.model) if is_shared else case.model
    if recipe.prepare is not None:
        recipe.prepare(model)
    return recipe.build(replace(case, model=model), works)


def warm_up(method: Method, works: Sequence[Work], steps: int) -> float:
    """Take some steps and return the seconds they took."""
    began = time.perf_counter()
    for step in range(steps):
        method.step(works[step % len(works)])
    return time.perf_counter() - began


def _warm(case: Case, works: Sequence[Work], recipe: Recipe) -> _Runner:
    method = build(case, works, recipe, is_shared=True)
    # what compiles does so for every shape
    steps = max(_WARM_STEPS, len(works)) if recipe.is_compiled else _WARM_STEPS
    return _Runner(method, warm_up(method, works, steps))


def _run_chunk(runner: _Runner, works: Sequence[Work]) -> None:
    method = runner.method
    method.reset()
    gc.collect()
    began = time.perf_counter()
    losses = [method.step(work) for work in works]
    runner.seconds.append(time.perf_counter() - began)
    runner.losses = [loss for loss in losses if loss is not None]


def paired_ratio(mine: Timing, rival: Timing) -> tuple[float, float, float]:
    """Return how many times as fast as a rival a method is: median, lowest and highest of the repeats' ratios."""
    ratios = [other / own for own, other in zip(mine.seconds, rival.seconds, strict=True)]
    return statistics.median(ratios), min(ratios), max(ratios)


def loss_difference(mine: Timing, reference: Timing) -> float | None:
    """Return the largest difference of two methods' losses over the chunk's steps and after them; None without both."""
    if not mine.losses or not reference.losses:
        return None
    differences = [abs(a - b) for a, b in zip(mine.losses, reference.losses, strict=True)]
    return math.nan if any(map(math.isnan, differences)) else max(differences)  # max would pass over a nan


def kept_bytes(method: Training, work: Work) -> int:
    """Return the bytes that a step's forward pass keeps for its backward pass.

    Every memory block counts once and whole; the model's parameters and buffers and the step's inputs do not count.

    Args:
        method: The method.
        work: The step.
    """
    inputs = (*work.batch.inputs.values(), *work.padded.inputs.values(), work.batch.labels, work.padded.labels)
    left_out = {_block(tensor) for tensor in (*method.model.parameters(), *method.model.buffers(), *inputs)}
    sizes: dict[int, int] = {}
    held: list[Tensor] = []  # so that no block is freed and its address given out again

    def keep(tensor: Tensor) -> Tensor:
        held.append(tensor.detach())
        if _block(tensor) not in left_out:
            sizes[_block(tensor)] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = method.compute(work)
    del loss
    return sum(sizes.values())


def _block(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()

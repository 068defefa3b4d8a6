"""Sampling: how often each of several tasks has its turn, and what a shared first stage is trained on.

Everything is a pure function of numbers and a seed, so that a resumed run goes on with the same turns. Each task takes
the steps that its own settings say; sampling decides how they are spread over the run. In a shared stage, where one row
learns from all tasks, it decides how much each of them counts. This file knows numbers of steps and examples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ia3.data.encoding import Encoded
from ia3.errors import SettingsError, near_matches
from ia3.names import SAMPLINGS


@dataclass(frozen=True)
class Sampling:
    """How turns are shared out.

    Attributes:
        by: `equal` (all alike), `proportional` (to the size of a task), or `temperature` (to size^(1/temperature)).
        temperature: 1 is proportional, infinity equal.

    Example:
        >>> Sampling("temperature", 2.0).weights([100, 400])
        (0.5, 1.0)
    """

    by: str = "equal"
    temperature: float = 2.0

    def __post_init__(self) -> None:
        if self.by not in SAMPLINGS:
            raise SettingsError(
                f"Checking the sampling: there is no {self.by!r}, expected one of {', '.join(SAMPLINGS)}."
                f"{near_matches(self.by, SAMPLINGS)}"
            )
        if not self.temperature >= 1:
            raise SettingsError(
                f"Checking the sampling: the temperature is {self.temperature}, expected at least 1 (proportional; the "
                "higher, the more equal)."
            )

    def weights(self, sizes: Sequence[int]) -> tuple[float, ...]:
        """Return the weight of each task, the largest 1.

        Args:
            sizes: Of the tasks, each at least 1.
        """
        if not sizes or self.by == "equal":
            return (1.0,) * len(sizes)
        power = 1.0 if self.by == "proportional" else 1.0 / self.temperature
        return tuple((size / max(sizes)) ** power for size in sizes)


def has_turn(weight: float, number: int) -> bool:
    """Return whether a task of this weight has its turn in a round, counted from 0; of weight 1 always.

    Example:
        >>> [has_turn(0.5, number) for number in range(4)]
        [False, True, False, True]
    """
    return math.floor((number + 1) * weight) > math.floor(number * weight)


def draw_shared(tables: Sequence[Sequence[Encoded]], count: int, sampling: Sampling, seed: int) -> tuple[Encoded, ...]:
    """Return the examples of a shared stage: drawn task by task, each task's own in passes without repetition.

    Args:
        tables: The training examples of each task.
        count: How many.
        sampling: How much each task counts; its size is its number of examples.
        seed: Decides everything.
    """
    weights = np.array(sampling.weights([len(table) for table in tables]))
    random = np.random.Generator(np.random.PCG64([seed, len(tables)]))
    tasks = random.choice(len(tables), size=count, p=weights / weights.sum())
    waiting: list[list[int]] = [[] for _ in tables]
    drawn = []
    for task in tasks.tolist():
        if not waiting[task]:
            waiting[task] = random.permutation(len(tables[task])).tolist()
        drawn.append(tables[task][waiting[task].pop()])
    return tuple(drawn)

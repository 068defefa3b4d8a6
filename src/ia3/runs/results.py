"""What runs give: how each task ended, and what is told of all of them.

This file knows values; it knows nothing of how they came about.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ia3.adapters.record import finite
from ia3.inference.metrics import Metrics
from ia3.runs.saving import RunTask
from ia3.training.settings import Settings
from ia3.training.tasks import Outcome

MEASURES = ("accuracy", "macro_f1", "loss", "calibration_error")


@dataclass(frozen=True)
class TaskResult:
    """How one task of a run ended: a table's, a repeat's, a fold's or a combination of settings'.

    Attributes:
        name: What it is called beside others; "" for an only one.
        outcome: How its training ended.
        metrics: Of its numbers on the rows that measure it; None where nothing measures it, or it has diverged.
        labels: The closed label set; empty for free text.
        settings: What it was trained with.
        rows: How many rows it has learned from.
        fingerprint: Of these rows.
        start: Name of what it began with; None for ones.
        folder: Of its adapter; None where it has none of its own.
        drawn: Where its rows come from, if they were drawn for it.
    """

    name: str
    outcome: Outcome
    metrics: Metrics | None
    labels: tuple[str, ...]
    settings: Settings
    rows: int
    fingerprint: str
    start: str | None
    folder: Path | None = None
    drawn: tuple[str, ...] = ()

    @staticmethod
    def of(
        task: RunTask, outcome: Outcome, metrics: Metrics | None, *, folder: Path | None = None, is_drawn: bool = False
    ) -> TaskResult:
        """Return how a task ended; its rows themselves are let go."""
        table = task.dataset.rows.train
        return TaskResult(
            task.name,
            outcome,
            metrics,
            task.dataset.encoding.labels,
            task.settings,
            len(table.examples),
            table.fingerprint,
            None if task.start is None else task.start.name,
            folder,
            tuple(str(example.origin) for example in table.examples) if is_drawn else (),
        )

    @property
    def seed(self) -> int:
        """Of its order, a fresh head, dropout, and the rows drawn for it."""
        return self.settings.seed

    def to_json(self) -> dict[str, Any]:
        """Return what is told of a task of several, as plain values."""
        return {
            "name": self.name,
            "output": None if self.folder is None else str(self.folder),
            "steps": self.outcome.steps,
            "best_epoch": self.outcome.best_epoch,
            "stopped": self.outcome.is_stopped,
            "early": self.outcome.is_early,
            "fault": self.outcome.fault,
            "labels": list(self.labels),
            "settings": self.settings.to_json(),
            "metrics": _metrics_to_json(self.metrics),
        }


@dataclass(frozen=True)
class RunResult:
    """What a run gives; each kind of run tells more of its tasks.

    Attributes:
        folder: Of the run.
        tasks: How each task ended, in their order.
        seconds: Of the whole run, loading included.
    """

    folder: Path
    tasks: tuple[TaskResult, ...]
    seconds: float

    @property
    def is_stopped(self) -> bool:
        """Whether the user stopped it before its last step."""
        return any(task.outcome.is_stopped for task in self.tasks)

    @property
    def steps(self) -> int:
        """Of all tasks together."""
        return sum(task.outcome.steps for task in self.tasks)

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain values, for `--json`."""
        return self.json_with(tasks=[task.to_json() for task in self.tasks])

    def json_with(self, **told: Any) -> dict[str, Any]:
        """Return where the run lies, whether it was stopped, what is told of it, and how long it took."""
        return {"output": str(self.folder), "stopped": self.is_stopped, **told, "seconds": self.seconds}


@dataclass(frozen=True)
class OneResult(RunResult):
    """What a run gives that saves one adapter: of its only task, or of the last, which has learned from all rows.

    Attributes:
        metrics: Of the saved adapter on rows that it has not learned from; of folds of all rows together, each answered
            by the adapter that has not learned from it. None without any.
        folds: Metrics of each fold; None where its adapter has diverged. Empty without folds.
    """

    metrics: Metrics | None = None
    folds: tuple[Metrics | None, ...] | None = None

    @property
    def outcome(self) -> Outcome:
        """How the training of the saved adapter ended."""
        return self.tasks[-1].outcome

    @property
    def labels(self) -> tuple[str, ...]:
        """The closed label set; empty for free text."""
        return self.tasks[-1].labels

    @property
    def settings(self) -> Settings:
        """What the saved adapter was trained with."""
        return self.tasks[-1].settings

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain values, for `ia3 train --json`."""
        told: dict[str, Any] = {"steps": self.steps, "labels": list(self.labels), "settings": self.settings.to_json()}
        told["metrics"] = _metrics_to_json(self.metrics)
        if self.folds is None:
            return self.json_with(best_epoch=self.outcome.best_epoch, **told)
        return self.json_with(**told, cross_validation=folds_to_json(self.folds))


@dataclass(frozen=True)
class Spread:
    """Five numbers of some values: the quartiles lie between the two nearest, linearly."""

    median: float
    lower: float  # quartile
    upper: float
    lowest: float
    highest: float

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        """Return the spread of at least one value."""
        lowest, lower, median, upper, highest = np.percentile(values, (0, 25, 50, 75, 100)).tolist()
        return Spread(median, lower, upper, lowest, highest)


@dataclass(frozen=True)
class RepeatsResult(RunResult):
    """What repeated training gives.

    Attributes:
        median: The run whose adapter is saved; None if it was stopped.
    """

    median: TaskResult | None = None

    @property
    def runs(self) -> tuple[TaskResult, ...]:
        """In the order of their seeds."""
        return self.tasks

    @property
    def settings(self) -> Settings:
        """Of all runs, the seed being the first one's."""
        return self.tasks[0].settings

    def spread(self, name: str) -> Spread | None:
        """Return the spread of a measure; None where no run has it."""
        values = [v for run in self.tasks if run.metrics is not None and (v := getattr(run.metrics, name)) is not None]
        return Spread.of(values) if values else None

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        spreads = {name: None if (spread := self.spread(name)) is None else vars(spread) for name in MEASURES}
        return self.json_with(
            spread={name: finite(spread) for name, spread in spreads.items()},
            saved_seed=None if self.median is None else self.median.seed,
            runs=[_repeat_to_json(run) for run in self.tasks],
            settings=self.settings.to_json(),
        )


@dataclass(frozen=True)
class Group:
    """Runs of a sweep that differ in their seed alone.

    Attributes:
        name: The settings that are compared, in words.
        changes: These settings by name.
        runs: One for each seed.
    """

    name: str
    changes: Mapping[str, Any]
    runs: tuple[TaskResult, ...]

    @property
    def losses(self) -> tuple[float, ...]:
        """The best losses of the runs that have one, sorted."""
        return tuple(sorted(r.outcome.best_loss for r in self.runs if math.isfinite(r.outcome.best_loss)))

    @property
    def accuracies(self) -> tuple[float, ...]:
        """The accuracies of the same runs, sorted; empty for free text."""
        shares = [r.metrics.accuracy for r in self.runs if r.metrics is not None and r.outcome.best_epoch]
        return tuple(sorted(share for share in shares if share is not None))

    @property
    def median_loss(self) -> float:
        """The median; infinite if every run diverged."""
        return statistics.median(self.losses) if self.losses else math.inf

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "name": self.name,
            "median_loss": self.median_loss,
            "losses": list(self.losses),
            "accuracies": list(self.accuracies),
            "runs": [self.run_to_json(one) for one in self.runs],
        }

    def run_to_json(self, run: TaskResult) -> dict[str, Any]:
        """Return one of the runs as plain values."""
        return {
            "name": run.name,
            "settings": {**self.changes, "seed": run.seed},
            "steps": run.outcome.steps,
            "best_epoch": run.outcome.best_epoch,
            "eval_loss": run.outcome.best_loss,
            "eval_accuracy": None if run.metrics is None else run.metrics.accuracy,
            "fault": run.outcome.fault,
        }


@dataclass(frozen=True)
class SweepResult(RunResult):
    """What a sweep gives.

    Attributes:
        groups: The one with the lowest median loss first.
        best: The run whose adapter is saved; None if none has ended an epoch.
    """

    groups: tuple[Group, ...] = ()
    best: TaskResult | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        best = [group.run_to_json(self.best) for group in self.groups if self.best in group.runs]
        return self.json_with(best=best[0] if best else None, groups=[group.to_json() for group in self.groups])


def folds_to_json(folds: Sequence[Metrics | None]) -> dict[str, Any]:
    """Return the metrics of folds as plain values, for the result and for the record."""
    names = ("rows", "accuracy", "loss")
    each = [None if one is None else {name: finite(getattr(one, name)) for name in names} for one in folds]
    return {"folds": len(folds), "each": each}


def _metrics_to_json(metrics: Metrics | None) -> dict[str, Any] | None:
    return None if metrics is None else metrics.to_json()


def _repeat_to_json(run: TaskResult) -> dict[str, Any]:
    metrics = run.metrics
    interval = None if metrics is None else metrics.accuracy_interval
    return {
        "seed": run.seed,
        "rows": run.rows,
        "fingerprint": run.fingerprint,
        "drawn": list(run.drawn),
        "start": run.start,
        "steps": run.outcome.steps,
        "fault": run.outcome.fault,
        "measured_rows": 0 if metrics is None else metrics.rows,
        **{name: None if metrics is None else finite(getattr(metrics, name)) for name in MEASURES},
        "accuracy_interval": None if interval is None else list(interval),
    }

"""What a run of several tasks gives.

This file knows values; it knows nothing of how they came about.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ia3.inference.metrics import Metrics
from ia3.training.settings import Settings
from ia3.training.tasks import Outcome


@dataclass(frozen=True)
class TaskResult:
    """What a run gives for one task."""

    name: str
    folder: Path | None  # of its adapter; None where none was saved
    outcome: Outcome
    metrics: Metrics | None  # of the saved adapter on the held-out rows; None without any
    labels: tuple[str, ...]
    settings: Settings

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
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
            "metrics": None if self.metrics is None else self.metrics.to_json(),
        }


@dataclass(frozen=True)
class ManyResult:
    """What a run of several tasks gives."""

    folder: Path
    tasks: tuple[TaskResult, ...]
    seconds: float  # of the whole run, loading included

    @property
    def is_stopped(self) -> bool:
        """Whether the user stopped it before its last step."""
        return any(task.outcome.is_stopped for task in self.tasks)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "output": str(self.folder),
            "stopped": self.is_stopped,
            "tasks": [task.to_json() for task in self.tasks],
            "seconds": self.seconds,
        }

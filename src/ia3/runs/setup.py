"""What a run is given: its folder, its base, its tasks, and the stage before them; values alone.

This file knows what a run needs and nothing of how it goes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ia3.bases.loading import Base
from ia3.core.attach import Attachment
from ia3.data.encoding import Encoded
from ia3.runs.saving import RunTask
from ia3.runs.watch import Watch
from ia3.starts.start import Start
from ia3.training.sampling import Sampling
from ia3.training.settings import Settings


@dataclass(frozen=True)
class SharedStage:
    """What one row is trained on before the tasks, which then begin with its numbers."""

    train: tuple[Encoded, ...]
    settings: Settings
    start: Start | None = None  # what its row begins with; None for ones


@dataclass(frozen=True)
class Setup:
    """Everything a run needs, made before it starts."""

    folder: Path
    base: Base
    attachment: Attachment
    tasks: tuple[RunTask, ...]
    watch: Watch
    shared: SharedStage | None = None
    sampling: Sampling = field(default_factory=Sampling)
    is_mixed: bool = True  # whether examples of different tasks meet in a batch

    @property
    def is_named(self) -> bool:
        """Whether events name their task."""
        return bool(self.tasks[0].name)

"""How a run is watched: who is told what, who may end it, what time it is, and how often its state is kept.

This file knows functions to call; it knows nothing of what a run does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from ia3.training.records import Event

Say = Callable[[str], None]


@dataclass(frozen=True)
class Watch:
    """What a run calls.

    Attributes:
        say: With each sentence for the user.
        on_event: With each event of the record.
        should_stop: Before every step; true ends the run with what is best so far.
        now: For the time written into the record.
        checkpoint_seconds: Least time between two checkpoints within an epoch; 0 for one after every step.
    """

    say: Say = lambda sentence: None
    on_event: Callable[[Event], None] = lambda event: None
    should_stop: Callable[[], bool] = lambda: False
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    checkpoint_seconds: float = 10.0

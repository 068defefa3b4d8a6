"""Ctrl-C and SIGTERM as a question that a run asks between its steps, rather than an exception inside one.

Before the run is under way, and at the second time, they stop the command at once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

STOPPED = 130  # the exit code of a command that was stopped
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """A scope in which the first Ctrl-C is remembered; `is_asked` tells it, `begin` says that the run is under way."""

    def __init__(self) -> None:
        self._is_running = False
        self._is_asked = False
        self._before: dict[signal.Signals, Any] = {}

    def begin(self) -> None:
        """From now on the first signal asks the run to end instead of stopping at once."""
        self._is_running = True

    def is_asked(self) -> bool:
        """Return whether the run shall end after the current step."""
        return self._is_asked

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._is_asked or not self._is_running:
            raise KeyboardInterrupt
        self._is_asked = True
        with contextlib.suppress(OSError):  # print may be what was interrupted, and must not be entered twice
            below_the_bar = b"\n" if os.isatty(2) else b""
            os.write(2, below_the_bar + b"stopping after this step; once more stops at once\n")

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            self._before = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

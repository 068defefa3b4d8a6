"""How far a command is, on stderr: a bar with rate and time left on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Self

from ia3.cli.output import say
from ia3.spelling import percent, time_in_words

_PLAIN_SECONDS = 30.0  # between two plain lines
_STEPS = "steps"
_MEMORY = 0.9  # of the rate: what a new step leaves of the old mean


class _Shown(ABC):
    """What is on the terminal for the length of a scope."""

    @abstractmethod
    def close(self) -> None:
        """Take the bar off the terminal."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Progress(_Shown):
    """A bar over a number of things, or plain lines of the same content.

    Args:
        total: How many there are; None where it is not known.
        unit: Their name in the plural, such as `rows`.
        clock: Seconds from any start.
        is_terminal: Whether stderr is one; asked of it by default.
    """

    def __init__(
        self,
        total: int | None,
        unit: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        is_terminal: bool | None = None,
    ) -> None:
        self.total = total
        self.unit = unit
        self.done = 0
        self._clock = clock
        self._began = self._told = clock()
        self._began_at = 0
        self._bar = _make_bar(total, unit) if (_is_terminal() if is_terminal is None else is_terminal) else None

    def begin_at(self, done: int) -> None:
        """Say how many were done before this command."""
        self.done = self._began_at = done
        if self._bar is not None:
            self._bar.initial = self._bar.n = done
            self._bar.refresh()

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count what was done and show it, with a note behind it."""
        self.done += count
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(count)
        elif self._clock() - self._told >= _PLAIN_SECONDS:
            self._told = self._clock()
            self.line(self._plain(note))

    def line(self, line: str) -> None:
        """Write a line of talk above the bar."""
        if self._bar is not None:
            self._bar.clear()
        say(line)
        if self._bar is not None:
            self._bar.refresh()

    def _plain(self, note: str) -> str:
        parts = [f"{self.done:,} {self.unit}" if self.total is None else f"{self.done:,} of {self.total:,} {self.unit}"]
        seconds = self._clock() - self._began
        if not note and seconds > 0:
            parts.append(f"{(self.done - self._began_at) / seconds:.1f} {self.unit}/s")
        if self.total is not None and self.done > self._began_at:
            left = seconds * (self.total - self.done) / (self.done - self._began_at)
            parts.append(f"{time_in_words(left)} left")
        return ", ".join([*parts, note] if note else parts)

    def close(self) -> None:
        """Take the bar off the terminal."""
        if self._bar is not None:
            self._bar.close()


class CountedProgress(_Shown):
    """Shows how many things are done, told by whoever does them, as often as they like."""

    def __init__(self, unit: str, **options: Any) -> None:
        self._unit = unit
        self._options = options
        self._progress: Progress | None = None

    def show(self, done: int, total: int | None) -> None:
        """Show that so many are done in all, and of how many (None: not known)."""
        if self._progress is None or done < self._progress.done:
            self.close()
            self._progress = Progress(total, self._unit, **self._options)
        self._progress.advance(done - self._progress.done)

    def close(self) -> None:
        """Take the bar off the terminal."""
        if self._progress is not None:
            self._progress.close()
            self._progress = None


class TrainingProgress:
    """Shows the events of a training run: a bar over its steps, and a line for each epoch."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        is_terminal: bool | None = None,
        tells_epochs: bool = True,
    ) -> None:
        self._options: dict[str, Any] = {"clock": clock, "is_terminal": is_terminal}
        self._tells_epochs = tells_epochs
        self._progress: Progress | None = None
        self._rate: float | None = None  # examples per second, a moving mean

    def show(self, event: Mapping[str, Any]) -> None:
        """Show one event of the run."""
        if event["event"] == "start":
            self._progress = Progress(event["total_steps"], _STEPS, **self._options)
            self._progress.begin_at(event["step"])
        elif event["event"] == "step" and self._progress is not None:
            speed = event["examples_per_second"]
            self._rate = speed if self._rate is None else _MEMORY * self._rate + (1 - _MEMORY) * speed
            self._progress.advance(note=f"{self._rate:.1f} examples/s, loss {event['loss']:.4f}")
        elif event["event"] == "epoch" and self._tells_epochs:
            self.line(epoch_line(event))
        elif event["event"] == "diverged":
            self.line(f"given up: {event['what']}")
        elif event["event"] == "end":
            self.close()

    def line(self, line: str) -> None:
        """Write a line of talk, above the bar if there is one."""
        if self._progress is None:
            say(line)
        else:
            self._progress.line(line)

    def close(self) -> None:
        """Take the bar off the terminal."""
        if self._progress is not None:
            self._progress.close()
            self._progress = None


def epoch_line(event: Mapping[str, Any]) -> str:
    """Return what is said at the end of an epoch."""
    parts = [f"train loss {event['train_loss']:.4f}"]
    if event.get("train_perplexity") is not None:
        parts[0] += f" (perplexity {event['train_perplexity']:.4g})"
    if event["eval_loss"] is not None:
        parts.append(f"eval loss {event['eval_loss']:.4f}")
        if event.get("eval_perplexity") is not None:
            parts[1] += f" (perplexity {event['eval_perplexity']:.4g})"
    if event["eval_accuracy"] is not None:
        parts.append(f"accuracy {percent(event['eval_accuracy'])}")
    if event["is_best"] and event["eval_loss"] is not None:
        parts.append("the best so far, saved")
    task = f"{event['task']}, " if event.get("task") else ""
    return f"{task}epoch {event['epoch']}: {', '.join(parts)}"


def _is_terminal() -> bool:
    """Return whether stderr is a terminal that a bar fits on; some have no width, and would show nothing."""
    try:
        return sys.stderr.isatty() and os.get_terminal_size(sys.stderr.fileno()).columns > 0
    except (OSError, ValueError):
        return False


def _make_bar(total: int | None, unit: str) -> Any:
    """Return a tqdm bar that shows its rate and the time left."""
    from tqdm import tqdm

    layout = None
    if total is not None:
        rate = "" if unit == _STEPS else "{rate_fmt}, "  # of steps the examples per second are told behind
        layout = "{percentage:3.0f} % |{bar}| {n_fmt}/{total_fmt} " + unit + ", " + rate + "{remaining} left{postfix}"
    return tqdm(
        total=total, unit=f" {unit}", miniters=1, bar_format=layout, file=sys.stderr, leave=False, dynamic_ncols=True
    )

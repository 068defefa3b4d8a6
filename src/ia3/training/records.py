"""The record of a run: one JSON line for every step and epoch, in `run.jsonl`.

Events are plain dictionaries with an `event` of `start`, `step`, `epoch`, `diverged` or `end`; in a run of several
tasks `task` names the one that it is of. A resumed run drops the lines behind its checkpoint first, so that every step
stands there once. A number that is not finite is written as null, for which JSON has a word. This file knows lines of
JSON.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from ia3.adapters.record import finite
from ia3.errors import RunError
from ia3.files import write_whole

Event = dict[str, Any]


def read_events(path: Path) -> list[Event]:
    """Return the events of a record; a last line cut off by a killed process is left out.

    Raises:
        RunError: If another line is no event.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    while lines and not lines[-1]:
        lines.pop()
    events = []
    for number, line in enumerate(lines, start=1):
        try:
            events.append(_parse(line))
        except ValueError as error:
            if number == len(lines):
                break
            raise RunError(
                f"Reading {path}: line {number} is no event of a run ({error}). Remove the line, or start again with "
                "--overwrite."
            ) from error
    return events


def keep_events(path: Path, *, step: int | None, of_tasks: Mapping[str, int] | None = None) -> None:
    """Rewrite a record without what happened after a step, and without its end.

    Args:
        path: The record.
        step: The step, which is that of every event that names no task; None leaves nothing.
        of_tasks: The step of each task, by the name in its events.
    """
    if not path.exists():
        return
    steps = of_tasks or {}
    events = [] if step is None else read_events(path)
    kept = [e for e in events if e["event"] != "end" and e["step"] <= steps.get(str(e.get("task")), step or 0)]
    write_whole(path, b"".join(map(_line, kept)))


class RunLog:
    """Appends events to a record, each handed to the system at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab")
        except OSError as error:
            raise self._cannot(error) from error

    def write(self, event: Event) -> None:
        """Append one event.

        Raises:
            RunError: If the file cannot take it.
        """
        try:
            self._file.write(_line(event))
            self._file.flush()
        except OSError as error:
            raise self._cannot(error) from error

    def sync(self) -> None:
        """Force what was written to disk, as has to be before a checkpoint that stands behind it."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._cannot(error) from error

    def _cannot(self, error: OSError) -> RunError:
        return RunError(
            f"Writing {self._path}: it cannot be written ({error.strerror or error}). Free space and give --resume to "
            "go on, or give another --output."
        )

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # every event was handed over when it was written
            self._file.close()


def _parse(line: bytes) -> Event:
    """Return the event of a line; raises ValueError (which bad JSON and bad UTF-8 are too)."""
    event = json.loads(line)
    if not isinstance(event, dict) or not isinstance(event.get("event"), str) or not isinstance(event.get("step"), int):
        raise ValueError("it has no event and step")
    return event


def _line(event: Event) -> bytes:
    plain = finite(event)
    try:
        return (json.dumps(plain, ensure_ascii=False) + "\n").encode()
    except UnicodeEncodeError:  # a lone surrogate
        return (json.dumps(plain) + "\n").encode()

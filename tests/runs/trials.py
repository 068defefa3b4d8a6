"""Whole runs on tiny bases, here or in processes that can be killed.

A child process is forked from a server that has imported everything, so that it starts in milliseconds. It can be
told to kill itself with SIGKILL just before the n-th thing it does to its folder (a file opened to write, renamed or
removed, an event told), so that a test can try every such instant.
"""

from __future__ import annotations

import functools
import hashlib
import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import ia3.runs.plans.tasks
import ia3.runs.run
from ia3.runs.folder import LOCK
from ia3.runs.plans.one import train_adapter
from ia3.runs.plans.tasks import train_tasks
from ia3.runs.results import OneResult, RunResult

ROWS = [(f"good news number {i}, {'very ' * (i % 4)}good", "up") for i in range(9)]
ROWS += [(f"bad day {i}", "down") for i in range(8)]  # 17: 15 to train on, 2 held out
SETTINGS = {"epochs": 3, "batch_size": 5, "learning_rate": 0.05}  # 3 steps an epoch
TOTAL = 9
ADAPTER_FILES = ["README.md", "adapter_config.json", "adapter_model.safetensors", "ia3.json"]
FINISHED = sorted([*ADAPTER_FILES, "confusion.png", "curves.png", "run.jsonl"])
_WRITES = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir"}


def run(base: Any, output: Path, **options: Any) -> OneResult:
    """Train on ROWS at a fixed time, with SETTINGS and whatever differs from them."""
    source = options.pop("source", ROWS)
    fixed = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    return train_adapter(source, base, output, device="auto", now=lambda: fixed, **(SETTINGS | options))


def _rows(name: str, labels: tuple[str, ...], count: int) -> list[tuple[str, str]]:
    return [(f"{name} {i} {'very ' * (i % 3)}{labels[i % len(labels)]}", labels[i % len(labels)]) for i in range(count)]


TASKS: list[dict[str, Any]] = [
    {"name": "books", "table": _rows("book", ("bad", "good"), 17)},
    {"name": "games", "table": _rows("game", ("bad", "good"), 12), "settings": {"epochs": 2, "seed": 3}},
    {"name": "mail", "table": _rows("mail", ("ham", "spam", "news"), 14), "settings": {"batch_size": 4}},
]


def run_many(base: Any, output: Path, tasks: Any = None, **options: Any) -> RunResult:
    """Train TASKS in one run at a fixed time, with SETTINGS and whatever differs from them."""
    given = {"now": lambda: datetime(2026, 1, 2, tzinfo=UTC), **SETTINGS, **options}
    return train_tasks(TASKS if tasks is None else tasks, base, output, **given)


def stop_after(steps: int) -> dict[str, Any]:
    """Return the options of a run that is asked to stop after a number of steps."""
    done: list[int] = []
    return {
        "on_event": lambda event: done.append(1) if event["event"] == "step" else None,
        "should_stop": lambda: len(done) >= steps,
    }


def read(folder: Path) -> list[dict[str, Any]]:
    """Return the events of the record."""
    return [json.loads(line) for line in (folder / "run.jsonl").read_text(encoding="utf-8").splitlines()]


def content(folder: Path) -> dict[str, Any]:
    """Return what a run left, comparable: the bytes of every file, and the record without its speeds.

    The file of the lock is left out: it stays where a process is killed after its last write, and locks nothing.
    """
    found: dict[str, Any] = {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name != LOCK
    }
    found["run.jsonl"] = [{k: v for k, v in event.items() if k != "examples_per_second"} for event in read(folder)]
    return found


def run_in_child(base: Path, output: Path, *, kill_at: int | None = None, **options: Any) -> int:
    """Run in a process of its own and return its exit code, −9 if it was killed at its n-th instant."""
    process = start_child(base, output, kill_at=kill_at, **options)
    process.join()
    return int(process.exitcode or 0)


def start_child(base: Path, output: Path, **options: Any) -> Any:
    """Start a run in a process of its own, whose `pid` can be killed, and return the process."""
    process = _server().Process(target=_child, args=(base, output, options))
    process.start()
    return process


@functools.cache
def _server() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.runs.trials", "matplotlib.backends.backend_agg"])
    return context


def draw_nothing(patched: Any) -> None:
    """Draw no pictures in any kind of run while a `MonkeyPatch` holds: they take two thirds of a tiny run's time."""
    one = [f"run.draw_{what}" for what in ("curves", "confusion", "reliability")]
    many = ["tasks.draw_tasks", "folds.draw_tasks", "repeats.draw_repeats", "sweep.draw_groups"]
    for name in (*one, *(f"plans.{what}" for what in many)):
        patched.setattr(f"ia3.runs.{name}", lambda *args: None)


def _child(base: Path, output: Path, options: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    if not options.pop("draws", False):  # two thirds of a tiny run's time
        ia3.runs.run.draw_curves = ia3.runs.run.draw_confusion = lambda *args: None  # type: ignore[assignment]
    ia3.runs.plans.tasks.draw_tasks = lambda *args: None  # type: ignore[assignment]
    kill_at = options.pop("kill_at", None)
    train = options.pop("train", run)
    reached = _killer(output, kill_at) if kill_at else lambda: None
    train(base, output, on_event=lambda event: reached(), checkpoint_seconds=0, **options)


def _killer(folder: Path, instant: int) -> Callable[[], None]:
    """Return what counts an instant and kills at the n-th; what is done to the folder is counted too."""
    count = 0

    def reached() -> None:
        nonlocal count
        count += 1
        if count == instant:
            os.kill(os.getpid(), signal.SIGKILL)

    def audit(event: str, args: tuple[Any, ...]) -> None:
        is_read = event == "open" and args[1] in ("r", "rb", None)
        if event in _WRITES and not is_read and str(args[0]).startswith(str(folder)):
            reached()

    sys.addaudithook(audit)
    return reached

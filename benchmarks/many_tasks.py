"""32 tasks trained together in one run, and the same tasks one after another, loading included in both.

Of each of four tables: its three pairs of labels, each label against the rest, and the whole table in two halves. Both
ways train every task on the same number of examples with the same settings. This file knows tables and how a run is
started; it measures whole runs and nothing inside them.
"""

from __future__ import annotations

import gc
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import ia3
from benchmarks.bases import TABLE, find_table
from benchmarks.many_report import Row, goal
from benchmarks.measure import Say
from ia3.data.tables import read_table
from ia3.runs.plans.tasks import train_tasks

BASE = "minilm"
LEAST = 1.5  # times as fast together
BATCH_SIZE = 8
OTHERS = ("vader/editorials.csv", "vader/reviews.csv", "vader/tweets.csv")
_EVAL_FRACTION = 0.02
_REST = "rest"
Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Task:
    """One task: its name and its texts with their labels."""

    name: str
    pairs: Pairs


def make_tasks(data: str | None) -> tuple[Task, ...]:
    """Return the 32 tasks.

    Args:
        data: Folder with the tables; as for `find_table`.

    Raises:
        TableError: If a table is not there.
    """
    first = find_table(data)
    folder = first.parents[len(TABLE.parts) - 1]
    tasks: list[Task] = []
    for path in (first, *(folder / other for other in OTHERS)):
        table = read_table(path, label="label")
        name = path.parent.name if path == first else path.stem
        tasks += tasks_of_table(name, tuple((e.text, str(e.label)) for e in table.examples))
    return tuple(tasks)


def tasks_of_table(name: str, pairs: Pairs) -> list[Task]:
    """Return the tasks of one table: pairs of labels, one label against the rest, and two halves.

    Args:
        name: Of the table.
        pairs: Its texts with their labels.
    """
    labels = sorted({label for _, label in pairs})
    tasks = []
    for one, other in combinations(labels, 2):
        tasks.append(Task(f"{name}-{one}-or-{other}", tuple(pair for pair in pairs if pair[1] in (one, other))))
    for one in labels:
        told = tuple((text, label if label == one else _REST) for text, label in pairs)
        tasks.append(Task(f"{name}-{one}-or-{_REST}", told))
    tasks += [Task(f"{name}-half-{half + 1}", pairs[half::2]) for half in range(2)]
    return tasks


def measure_tasks(tasks: Sequence[Task], base: Any, steps: int, repeats: int, say: Say) -> tuple[Row, Row]:
    """Return what was measured of training tasks together and one after another, and the goal.

    Args:
        tasks: The tasks.
        base: Name or folder of the base; each run loads it.
        steps: Steps of each task.
        repeats: Times that each way runs, in turn.
        say: Told what goes on.
    """
    together: list[float] = []
    apart: list[float] = []
    for repeat in range(repeats):
        for seconds, run, way in ((together, _train_together, "together"), (apart, _train_apart, "one after another")):
            say(f"{len(tasks)} tasks, repeat {repeat + 1} of {repeats}: {way}")
            gc.collect()
            with tempfile.TemporaryDirectory() as folder:
                began = time.perf_counter()
                run(tasks, base, Path(folder), steps)
                seconds.append(time.perf_counter() - began)
    row: Row = {"base": str(base), "tasks": len(tasks), "steps": steps, "batch_size": BATCH_SIZE}
    row |= {"examples": len(tasks) * steps * BATCH_SIZE, "together_seconds": together, "apart_seconds": apart}
    ratios = [a / t for a, t in zip(apart, together, strict=True)]
    spread = (statistics.median(ratios), min(ratios), max(ratios))
    return row, goal(f"{base}, {len(tasks)} tasks", "together over one after another", spread, least=LEAST)


def tasks_line(row: Row) -> str:
    """Return what was measured in one line."""
    together, apart = (statistics.median(row[name]) for name in ("together_seconds", "apart_seconds"))
    return (
        f"{row['base']}: {row['tasks']} tasks of {row['steps']} steps of {row['batch_size']} examples: together "
        f"{together:.1f} s ({row['examples'] / together:.0f} examples/s), one after another {apart:.1f} s "
        f"({row['examples'] / apart:.0f} examples/s), loading included"
    )


def _settings(steps: int) -> Mapping[str, Any]:
    return {"max_steps": steps, "batch_size": BATCH_SIZE, "eval_fraction": _EVAL_FRACTION}


def _train_together(tasks: Sequence[Task], base: Any, folder: Path, steps: int) -> None:
    result = train_tasks(
        [{"name": task.name, "table": list(task.pairs)} for task in tasks], base, folder / "all", **_settings(steps)
    )
    trained = {one.name: one.outcome.steps for one in result.tasks}
    assert trained == {task.name: steps for task in tasks}, f"expected {steps} steps of each task, got {trained}"


def _train_apart(tasks: Sequence[Task], base: Any, folder: Path, steps: int) -> None:
    for task in tasks:
        result = ia3.train(list(task.pairs), base, folder / task.name, **_settings(steps))
        assert result.outcome.steps == steps, f"expected {steps} steps of {task.name}, got {result.outcome.steps}"

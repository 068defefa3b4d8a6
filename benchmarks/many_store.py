"""A packed store of 10,000 adapters: how long opening takes, and a request whose adapter must be read first.

The store is put on a base, so that every adapter has its row and each is read when a request first needs it: that is
a cold request, the same one again a hot one. Both are one request alone. This file knows stores and one base; it knows
nothing of windows and rivals.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.bases import Case
from benchmarks.many_methods import name_of
from benchmarks.many_report import Row, goal
from benchmarks.many_requests import Task, answer, make_windows
from benchmarks.measure import Say, still_collector
from benchmarks.memory import resident_bytes
from ia3.adapters.adapter import Adapter
from ia3.adapters.attached import adapter_of, attach
from ia3.adapters.store import Store, create_store
from ia3.adapters.stored import attach_store
from ia3.fast.acceleration import keep_accelerated

MOST_OPEN_SECONDS = 1.0
MOST_COLD = 1.2  # times a hot request
_SEED = 0
_SPREAD = 0.05
_OPENED = 7  # times


def measure_store(case: Case, task: Task, count: int, requests: int, tokens: int, say: Say) -> tuple[Row, list[Row]]:
    """Return what was measured of a store of adapters of a base, and its goals.

    Args:
        case: The base; it gets a bank that is taken off again.
        task: What a request asks.
        count: Adapters in the store.
        requests: Cold requests, each for another adapter, and as many hot ones.
        tokens: New tokens of an answer, for generation.
        say: Told what goes on.
    """
    where = f"{case.name}, a store of {count:,}"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "adapters.ia3")
        say(f"{where}: writing")
        began = time.perf_counter()
        _write(case, path, count)
        row: Row = {"base": case.name, "task": task, "adapters": count, "file_bytes": path.stat().st_size}
        row["write_seconds"] = time.perf_counter() - began
        say(f"{where}: opening")
        opened, resident = _open_times(path)
        row |= {"open_seconds": opened, "open_resident_bytes": resident}
        say(f"{where}: cold and hot requests")
        with Store.open(path) as store:
            began = time.perf_counter()
            attachment = attach_store(case.model, store)
            keep_accelerated(attachment)  # as `ia3.load` answers
            row["attach_seconds"] = time.perf_counter() - began
            try:
                cold, hot = _request_times(case, task, count, requests, tokens)
            finally:
                attachment.detach()
        row |= {"cold_seconds": cold, "hot_seconds": hot}
    ratios = [c / h for c, h in zip(cold, hot, strict=True)]
    goals = [
        goal(where, "seconds to open it", _spread(opened), most=MOST_OPEN_SECONDS),
        goal(where, "a cold request over a hot one", _spread(ratios), most=MOST_COLD),
    ]
    return row, goals


def store_line(row: Row) -> str:
    """Return what was measured in one line."""
    cold, hot = (statistics.median(row[name]) * 1e3 for name in ("cold_seconds", "hot_seconds"))
    return (
        f"{row['base']}: a store of {row['adapters']:,} adapters, {row['file_bytes'] / 1e6:.0f} MB, written in "
        f"{row['write_seconds']:.1f} s, opened in {statistics.median(row['open_seconds']):.2f} s "
        f"({row['open_resident_bytes'] / 1e6:.0f} MB resident), on the base in {row['attach_seconds']:.2f} s; "
        f"{row['task']} of one request: cold {cold:.2f} ms, "
        f"hot {hot:.2f} ms"
    )


def _write(case: Case, path: Path, count: int) -> None:
    """Write a store and let go of the system's copy of its pages."""
    attachment = attach(case.model, head_modules=case.head_modules, trainable=False)
    try:
        first, plan = adapter_of(attachment, "default"), attachment.bank.plan
    finally:
        attachment.detach()
    adapters = {name_of(number): partial(_adapter, first, number) for number in range(count)}
    create_store(path, plan, base=first.record["base"], adapters=adapters).close()
    with path.open("rb") as file:
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _adapter(first: Adapter, number: int) -> Adapter:
    random = torch.Generator().manual_seed(_SEED + number)

    def draw(x: torch.Tensor) -> torch.Tensor:
        return x + _SPREAD * torch.randn(x.shape, generator=random)

    vectors = {name: draw(vector) for name, vector in first.vectors.items()}
    return replace(first, vectors=vectors, head={name: draw(tensor) for name, tensor in first.head.items()})


def _open_times(path: Path) -> tuple[list[float], int]:
    before = resident_bytes()
    times, resident = [], 0
    for _ in range(_OPENED):
        began = time.perf_counter()
        with Store.open(path):
            times.append(time.perf_counter() - began)
            resident = max(resident, resident_bytes() - before)
    return times, resident


def _request_times(case: Case, task: Task, count: int, requests: int, tokens: int) -> tuple[list[float], list[float]]:
    """Return the seconds of cold and of hot requests, in turn."""
    [window] = make_windows(case, 1)
    names = [name_of(number * count // (requests + 1)) for number in range(requests + 1)]

    def run(name: str) -> None:
        answer(case, task, case.model, window[:1], tokens, [name])

    run(names[0])  # so that all find the machine warm
    run(names[0])
    cold, hot = [], []
    with still_collector():
        for name in names[1:]:
            cold.append(_seconds(partial(run, name)))
            hot.append(_seconds(partial(run, name)))
    return cold, hot


def _seconds(run: Callable[[], Any]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def _spread(values: list[float]) -> tuple[float, float, float]:
    return statistics.median(values), min(values), max(values)

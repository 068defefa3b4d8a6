"""Memory of one method on one base, measured in a process of its own.

The child loads the base, notes its resident memory, takes the first steps, resets the system's high-water mark and
takes the chunk's longest steps. The parent starts it and reads one line of JSON. This file knows /proc; on a system
without it there are no numbers.
"""

from __future__ import annotations

import ctypes
import gc
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.bases import ROOT, load_case
from benchmarks.measure import kept_bytes, warm_up
from benchmarks.methods import Recipe, Training
from benchmarks.workload import make_chunk

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_PAGE = 4096
_RESET_PEAK = "5"  # man 5 proc: the high-water mark becomes what is resident now
FIELDS = (
    "loaded_bytes",
    "idle_bytes",
    "peak_memory_bytes",
    "peak_above_base_bytes",
    "peak_of_step_bytes",
    "kept_bytes",
)


def measure_in_child(base: str, method: str, steps: int, measured: int, table: Path | None) -> dict[str, Any]:
    """Return what a fresh process measures; `memory_skipped` says why there are no numbers.

    Args:
        base: Name of the base.
        method: Name of the method.
        steps: Of the chunk.
        measured: How many of them, the longest, are measured.
        table: The table of sentences.

    Returns:
        In bytes: `loaded_bytes` resident with the base loaded, `idle_bytes` with the method built and warm,
        `peak_memory_bytes` the most during the steps, `peak_above_base_bytes` and `peak_of_step_bytes` above the two
        first, `kept_bytes` kept for the backward pass of the longest step.
    """
    order = {"base": base, "method": method, "steps": steps, "measured": measured, "table": table and str(table)}
    command = [sys.executable, "-m", "benchmarks.training", "--child", json.dumps(order)]
    child = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if child.returncode == 0:
        found: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
        return found
    lines = child.stderr.strip().splitlines() or ["no message"]
    return {"memory_skipped": f"failed with code {child.returncode}: {lines[-1][:300]}"}


def run_child(order: Mapping[str, Any], recipes: Mapping[str, Recipe]) -> dict[str, Any]:
    """Measure in this process, which must be fresh; see `measure_in_child`.

    Args:
        order: What the parent sent.
        recipes: Every method by name.
    """
    recipe = recipes[order["method"]]
    case = load_case(order["base"], Path(order["table"]) if order["table"] else None)
    if recipe.prepare is not None:
        recipe.prepare(case.model)
    touch(case.model)
    loaded = resident_bytes()
    works = make_chunk(case, order["steps"])
    method = replace(recipe, prepare=None).build(case, works)
    warm_up(method, works, steps=len(works) if recipe.is_compiled else 1)
    idle = resident_bytes()
    longest = sorted(works, key=lambda work: -work.batch.input_ids.numel())[: order["measured"]]
    peak = peak_bytes(lambda: [method.step(work) for work in longest])
    kept = kept_bytes(method, longest[0]) if isinstance(method, Training) else None
    return dict(zip(FIELDS, (loaded, idle, peak, peak - loaded, peak - idle, kept), strict=True))


def touch(model: Any) -> None:
    """Read a number of every page of the weights, so that those in a mapped file are resident."""
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.detach().flatten()[:: _PAGE // tensor.element_size()].float().sum()


def peak_bytes(run: Callable[[], object]) -> int:
    """Return the most resident bytes of this process while something runs."""
    _RESET.write_text(_RESET_PEAK)
    run()
    return _status("VmHWM")


def resident_bytes() -> int:
    """Return the resident bytes once what is free was given back to the system."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    return _status("VmRSS")


def _status(name: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{_STATUS} has no {name}")

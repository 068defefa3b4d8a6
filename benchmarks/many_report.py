"""What was measured of many adapters as rows of plain values, the goals with what was reached, and lines of text.

This file knows numbers; it measures nothing.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from benchmarks.many_measure import Load, Measured, paired_ratio
from benchmarks.many_methods import Recipe
from benchmarks.many_requests import WINDOW, Task
from benchmarks.report import number

Row = dict[str, Any]

TOLERANCE = 1e-3  # of scores between our rows and PEFT's adapters with the same numbers
_HEAD = ("method", "adapters", "requests/s", "(min … max)", "of base", "p50 ms", "p99 ms", "ms/token", "peak MB")
_MEGA = 1e6
_MOST = 1e12  # an upper bound that is none
# the goal, the recipe that is measured, the one it is compared with, and what the quotient of their speeds must reach
_SPEEDS = (
    ("1 adapter over the base", "ia3 1", "base", 0.97),
    ("100 adapters over the base", "ia3 100", "base", 0.97),
    ("1 adapter over the base's row", "ia3 1", "ia3 0", 0.97),
    ("100 adapters over the base's row", "ia3 100", "ia3 0", 0.97),
    ("2,000 adapters over 5", "ia3 2000", "ia3 5", 0.98),
    ("over PEFT grouped by adapter", "ia3 100", "peft-grouped 100", 2.0),
)
_SHARE_OF_CEILING = 0.9
_MOST_ADDED = 0.03  # of the time of a generated token


def make_rows(
    base: str,
    task: Task,
    recipes: Sequence[Recipe],
    found: Mapping[str, Measured],
    load: Load,
    memory: Mapping[str, Any],
) -> list[Row]:
    """Return a row of plain values for each method that was to be measured.

    Args:
        base: Name of the base.
        task: What was asked.
        recipes: The methods.
        found: What was measured, by the recipe's name.
        load: What was asked of each.
        memory: What a fresh process measured of each, by the recipe's name.
    """
    requests = load.windows[task] * WINDOW
    ceiling = _ratio(found, "base", "peft-set-adapter")
    rows = []
    for recipe in recipes:
        measured = found[recipe.name]
        if not measured.seconds and measured.skipped is None:
            continue  # not asked of this task
        row: Row = {"base": base, "task": task, "method": recipe.method, "adapters": recipe.adapters}
        row |= {"is_distinct": recipe.is_distinct, "skipped": measured.skipped}
        row |= _speeds(measured, requests)
        row["of_base"] = _first(_ratio(found, recipe.name, "base"))
        row["ceiling"] = _first(ceiling)
        row |= _waits(measured.waits)
        tokens = load.windows[task] * (load.tokens - 1)
        is_one_batch = recipe.method in ("base", "ia3") and task == "generation" and tokens > 0
        row["ms_per_token"] = _middle(measured.decode_seconds, 1e3 / tokens) if is_one_batch else None
        held = memory.get(recipe.name, {})
        row |= {name: held.get(name) for name in ("peak_memory_bytes", "memory_skipped")}
        row |= {"build_seconds": measured.build_seconds, "requests": requests}
        row |= {"tokens": load.tokens if task == "generation" else 0, "seconds": [*measured.seconds.values()]}
        rows.append(row)
    return rows


def _speeds(measured: Measured, requests: int) -> Row:
    names = ("requests_per_second", "requests_per_second_low", "requests_per_second_high")
    speeds = [requests / seconds for seconds in measured.seconds.values()]
    if not speeds:
        return dict.fromkeys(names)
    return dict(zip(names, (statistics.median(speeds), min(speeds), max(speeds)), strict=True))


def _waits(waits: Sequence[float]) -> Row:
    if not waits:
        return {"p50_ms": None, "p99_ms": None}
    p50, p99 = np.quantile(waits, (0.5, 0.99)) * 1e3
    return {"p50_ms": float(p50), "p99_ms": float(p99)}


def _middle(seconds: Mapping[int, float], unit: float) -> float | None:
    return statistics.median(seconds.values()) * unit if seconds else None


def _ratio(found: Mapping[str, Measured], mine: str, rival: str) -> tuple[float, float, float] | None:
    """Return how many times as fast as a rival a method is; the rival may be named without its adapters."""
    names = {name: measured for name, measured in found.items() if name == rival or name.split(" ")[0] == rival}
    if mine not in found or not names:
        return None
    return paired_ratio(found[mine].seconds, next(iter(names.values())).seconds)


def _first(ratio: tuple[float, float, float] | None) -> float | None:
    return None if ratio is None else ratio[0]


def make_goals(base: str, task: Task, found: Mapping[str, Measured]) -> list[Row]:
    """Return every goal that what was measured tells of, with what was reached.

    Args:
        base: Name of the base.
        task: What was asked.
        found: What was measured, by the recipe's name.
    """
    where = f"{base}, {task}"
    goals = []
    for what, mine, rival, least in _SPEEDS:
        ratio = _ratio(found, mine, rival)
        if ratio is not None:
            goals.append(goal(where, what, ratio, least=least))
    over, ceiling = _ratio(found, "ia3 100", "peft-set-adapter 100"), _ratio(found, "base", "peft-set-adapter 100")
    if over is not None and ceiling is not None:
        share = _ratio(found, "ia3 100", "base") or over  # PEFT's own time is on both sides
        what = f"{over[0]:.2f} over PEFT's set_adapter, of the ceiling {ceiling[0]:.2f}"
        goals.append(goal(where, what, share, least=_SHARE_OF_CEILING))
    distinct = found.get(f"ia3 {WINDOW} distinct")
    for other, told in (("base", ""), ("ia3 0", ", over the base's row")):
        plain = found.get(other)
        if task == "generation" and distinct and plain and all(plain.decode_seconds.values()):
            added = paired_ratio(plain.decode_seconds, distinct.decode_seconds)
            if added is not None:
                low, middle, high = (added[i] - 1 for i in (1, 0, 2))
                what = f"time added to a token by {WINDOW} distinct adapters{told}"
                goals.append(goal(where, what, (middle, low, high), most=_MOST_ADDED))
    return goals


def goal(
    where: str, what: str, value: tuple[float, float, float], *, least: float | None = None, most: float | None = None
) -> Row:
    """Return a goal as plain values.

    Args:
        where: What it was measured on.
        what: Its name.
        value: What was reached: median, lowest and highest.
        least: What it must reach.
        most: What it may be.
    """
    is_met = (least is None or value[0] >= least) and value[0] <= (_MOST if most is None else most)
    bounds = {"least": least, "most": most, "is_met": is_met}
    return {"where": where, "goal": what, "value": value[0], "low": value[1], "high": value[2], **bounds}


def make_warnings(base: str, task: Task, found: Mapping[str, Measured]) -> list[str]:
    """Return a sentence where our rows and PEFT's adapters with the same numbers do not answer alike."""
    ours = next((m for name, m in found.items() if name == "ia3 100" and m.values), None)
    warnings = []
    for name, theirs in found.items():
        if ours is None or not name.startswith("peft-") or not theirs.values or not name.endswith(" 100"):
            continue
        told = _difference(task, torch.cat(ours.values), torch.cat(theirs.values))
        if told:
            warnings.append(f"warning: {base}, {task}: the answers of ia3 and {name} differ: {told}")
    return warnings


def _difference(task: Task, ours: torch.Tensor, theirs: torch.Tensor) -> str | None:
    if task == "classification":
        largest = float((ours - theirs).abs().max())
        is_near = largest <= TOLERANCE * max(1.0, float(theirs.abs().max()))
        return None if is_near else f"by {largest:.1e} at most, expected at most {TOLERANCE:.0e} of the largest score"
    # one token may be as probable as another; a padded batch and one alone then choose differently
    same = float((ours[:, 0] == theirs[:, 0]).float().mean())
    return None if same >= 0.9 else f"{same:.0%} of the first tokens are the same, expected at least 90 %"


def table_lines(rows: Sequence[Row], title: str) -> list[str]:
    """Return the rows of one base and task as a table of text, numbers to the right."""
    cells = [_HEAD, *(_cells(row) for row in rows if not row["skipped"])]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_HEAD))]
    lines = [title]
    for line in cells:
        rest = "  ".join(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))
        lines.append(f"{line[0]:<{widths[0]}}  {rest}".rstrip())
    for row in rows:
        name = f"{row['method']} {row['adapters']}"
        lines += [f"{name}: {row['skipped']}"] if row["skipped"] else []
        lines += [f"{name}: no memory number, {row['memory_skipped']}"] if row["memory_skipped"] else []
    return lines


def _cells(row: Row) -> tuple[str, ...]:
    def told(value: float | None, unit: float = 1.0) -> str:
        return "" if value is None else number(value / unit)

    low, high = row["requests_per_second_low"], row["requests_per_second_high"]
    return (
        row["method"],
        f"{row['adapters']}{' distinct' if row['is_distinct'] else ''}",
        told(row["requests_per_second"]),
        f"({number(low)} … {number(high)})",
        "" if row["of_base"] is None else f"{row['of_base']:.3f}",
        *(told(row[name]) for name in ("p50_ms", "p99_ms", "ms_per_token")),
        told(row["peak_memory_bytes"], _MEGA),
    )


def goal_lines(goals: Sequence[Row]) -> list[str]:
    """Return a line of text for each goal."""
    lines = []
    for one in goals:
        bound = f"≥ {one['least']:g}" if one["least"] is not None else f"≤ {one['most']:g}"
        spread = f"({one['low']:.3f} … {one['high']:.3f})"
        ending = "met" if one["is_met"] else "MISSED"
        lines.append(f"{one['where']}: {one['goal']}: {one['value']:.3f} {spread}, goal {bound}: {ending}")
    return lines

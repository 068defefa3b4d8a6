"""What the few-shot runs gave, in words: medians and ranges of the draws, ours beside the rivals, and what is missing.

This file knows results as plain values; it knows nothing of how they came about.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from benchmarks.fewshot_data import Cell, count_order, spell_count

Result = Mapping[str, Any]

_OURS, _PLAIN = "auto", "logistic"  # what is compared with the rivals, and with what in every draw


def summarise(results: Iterable[Result]) -> list[dict[str, Any]]:
    """Return a row for each base, table, number of rows and method, in the order they first come.

    Args:
        results: Reported numbers, with `base`, `task`, `per_label`, `method`, `accuracy` (None if it was skipped),
            `calibration_error` and `seconds`.

    Returns:
        `runs`, `median`, `lowest` and `highest` of the accuracy, and medians of the other two.
    """
    grouped: dict[tuple[Any, ...], list[Result]] = defaultdict(list)
    for result in results:
        if result["accuracy"] is not None:
            grouped[result["base"], result["task"], result["per_label"], result["method"]].append(result)
    rows = []
    for (base, task, per_label, method), group in grouped.items():
        scores = [result["accuracy"] for result in group]
        row = {"base": base, "task": task, "per_label": per_label, "method": method, "runs": len(scores)}
        row |= {"median": statistics.median(scores), "lowest": min(scores), "highest": max(scores)}
        for name in ("calibration_error", "seconds"):
            row[name] = statistics.median(result[name] for result in group)
        rows.append(row)
    return rows


def missing_cells(wanted: Iterable[Cell], results: Mapping[str, Result]) -> list[Cell]:
    """Return the cells that have no result; what was skipped with a reason has one."""
    return [cell for cell in wanted if cell.key not in results]


def table_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the summary as a table for each base and table: a line for each method, a column for each number of rows.

    Below stand the calibration error and the seconds of what a user gets.
    """
    lines = []
    for base, task in dict.fromkeys((row["base"], row["task"]) for row in rows):
        own = [row for row in rows if (row["base"], row["task"]) == (base, task)]
        counts = sorted({row["per_label"] for row in own}, key=count_order)
        lines += ["", f"{base}, {task}: median of the draws (lowest to highest), %, by rows a label"]
        lines.append(_line("", map(spell_count, counts)))
        for method in dict.fromkeys(row["method"] for row in own):
            lines.append(_line(method, _along(own, method, counts, _spread)))
        if any(row["method"] == _OURS for row in own):
            error = _along(own, _OURS, counts, lambda row: f"{row['calibration_error']:.3f}")
            seconds = _along(own, _OURS, counts, lambda row: f"{row['seconds']:.0f}")
            lines += [_line(f"{_OURS}, calibration", error), _line(f"{_OURS}, seconds", seconds)]
    return lines[1:]


def _along(
    rows: Sequence[Mapping[str, Any]], method: str, counts: Sequence[int], spell: Callable[[Mapping[str, Any]], str]
) -> list[str]:
    by_count = {row["per_label"]: row for row in rows if row["method"] == method}
    return [spell(by_count[count]) if count in by_count else "" for count in counts]


def _spread(row: Mapping[str, Any]) -> str:
    return f"{100 * row['median']:.1f} ({100 * row['lowest']:.1f} to {100 * row['highest']:.1f})"


def _line(name: str, cells: Iterable[str]) -> str:
    return "".join([f"  {name:<20}", *(f"{cell:>23}" for cell in cells)]).rstrip()


def comparison_lines(
    rows: Sequence[Mapping[str, Any]], results: Iterable[Result], rivals: Collection[str]
) -> list[str]:
    """Return where a rival's median is above that of what a user gets, and how that stands to a regression.

    Args:
        rows: The summary.
        results: The numbers of the draws.
        rivals: Names of methods.
    """
    ours = {_place(row): row["median"] for row in rows if row["method"] == _OURS}
    above = [
        f"{_told(_place(row))}: {row['method']} {100 * (row['median'] - ours[_place(row)]):+.1f}"
        for row in rows
        if row["method"] in rivals and row["median"] > ours.get(_place(row), 1)
    ]
    lines = [f"rivals above {_OURS}, points: {'; '.join(above) or 'none'}"] if ours else []
    scores = {(*_place(r), r["draw"], r["method"]): r["accuracy"] for r in results if r["accuracy"] is not None}
    gains = [
        (scores[(*place, _OURS)] - score, place)
        for (*place, method), score in scores.items()
        if method == _PLAIN and (*place, _OURS) in scores
    ]
    if gains:
        least, (*place, draw) = min(gains, key=lambda gain: gain[0])
        even = sum(gain >= 0 for gain, _ in gains)
        lines.append(
            f"{_OURS} minus {_PLAIN}, in each draw: at least 0 in {even} of {len(gains)}, the worst {100 * least:+.1f} "
            f"points ({_told(place)}, draw {draw})"
        )
    return lines


def _place(row: Mapping[str, Any]) -> tuple[str, str, int]:
    return row["base"], row["task"], row["per_label"]


def _told(place: Sequence[Any]) -> str:
    base, task, per_label = place
    return f"{base}, {task}, {spell_count(per_label)} a label"


def skipped_lines(results: Iterable[Result]) -> list[str]:
    """Return why methods were skipped, each reason once."""
    told = {
        f"skipped: {r['method']} on {r['base']}, {r['task']}: {r['skipped']}": None for r in results if r.get("skipped")
    }
    return [*told]


def missing_lines(missing: Sequence[Cell]) -> list[str]:
    """Return what is not measured, the draws of one cell together."""
    if not missing:
        return ["nothing is missing"]
    grouped: dict[tuple[str, str, int], dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for cell in missing:
        grouped[cell.base, cell.task, cell.per_label][cell.method].append(cell.draw)
    lines = [f"missing: {len(missing)} runs"]
    for place, methods in grouped.items():
        told = ", ".join(f"{method} ({_draws(draws)})" for method, draws in methods.items())
        lines.append(f"  {_told(place)}: {told}")
    return lines


def _draws(draws: Sequence[int]) -> str:
    return f"draw {draws[0]}" if len(draws) == 1 else f"draws {', '.join(map(str, draws))}"

"""What the few-shot runs gave, in words and as a picture: medians and quartiles of each cell, and what is missing.

This file knows results as plain values; it knows nothing of how they came about.
"""

from __future__ import annotations

import io
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.fewshot_data import Cell
from ia3.files import write_whole

Result = Mapping[str, Any]

_COLOURS = ("#BBBBBB", "#56B4E9", "#0072B2", "#D55E00", "#8C8C8C", "#CC79A7", "#009E73", "#E69F00")


def summarise(results: Iterable[Result]) -> list[dict[str, Any]]:
    """Return a row for each base, table, number of rows and method, in the order they first come.

    Args:
        results: Reported numbers, with `base`, `task`, `per_label`, `method`, `accuracy` (None if it was skipped),
            `calibration_error` and `seconds`.

    Returns:
        `runs`, `median`, `lower` and `upper` quartile of the accuracy, and medians of the other two.
    """
    grouped: dict[tuple[Any, ...], list[Result]] = defaultdict(list)
    for result in results:
        if result["accuracy"] is not None:
            grouped[result["base"], result["task"], result["per_label"], result["method"]].append(result)
    rows = []
    for (base, task, per_label, method), group in grouped.items():
        scores = [result["accuracy"] for result in group]
        lower, median, upper = quartiles(scores)
        row = {"base": base, "task": task, "per_label": per_label, "method": method, "runs": len(scores)}
        row |= {"median": median, "lower": lower, "upper": upper}
        for name in ("calibration_error", "seconds"):
            row[name] = statistics.median(result[name] for result in group)
        rows.append(row)
    return rows


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return lower quartile, median and upper quartile, the ends included in the range.

    Example:
        >>> quartiles([1.0, 2.0, 3.0, 4.0, 5.0])
        (2.0, 3.0, 4.0)
    """
    if len(values) == 1:
        return values[0], values[0], values[0]
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    return lower, median, upper


def missing_cells(wanted: Iterable[Cell], results: Mapping[str, Result]) -> list[Cell]:
    """Return the cells that have no result; what was skipped with a reason has one."""
    return [cell for cell in wanted if cell.key not in results]


def table_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the summary as a table, a block for each base, table and number of rows."""
    lines, before = [], None
    for row in sorted(rows, key=lambda row: (row["base"], row["task"], row["per_label"])):
        block = row["base"], row["task"], row["per_label"]
        if block != before:
            few = f"{row['per_label']} rows a label" if row["per_label"] else "no rows"
            lines += ["", f"{row['base']}, {row['task']}, {few}"]
            lines.append(
                f"  {'method':<20} {'median':>8} {'quartiles':>15} {'runs':>5} {'calibration':>12} {'seconds':>8}"
            )
        before = block
        spread = f"{100 * row['lower']:.1f} to {100 * row['upper']:.1f}"
        lines.append(
            f"  {row['method']:<20} {100 * row['median']:>6.1f} % {spread:>15} {row['runs']:>5} "
            f"{row['calibration_error']:>12.3f} {row['seconds']:>8.1f}"
        )
    return lines[1:]


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
    for (base, task, per_label), methods in grouped.items():
        told = ", ".join(f"{method} ({_draws(draws)})" for method, draws in methods.items())
        lines.append(f"  {base}, {task}, {per_label} a label: {told}")
    return lines


def _draws(draws: Sequence[int]) -> str:
    return f"draw {draws[0]}" if len(draws) == 1 else f"draws {', '.join(map(str, draws))}"


def draw_summary(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write a picture: a panel for each base and table, the medians over the rows a label, quartiles as bars.

    Raises:
        OSError: If it cannot be written.
    """
    trained = [row for row in rows if row["per_label"]]
    bases, tasks = ([*dict.fromkeys(row[name] for row in trained)] for name in ("base", "task"))
    if not trained:
        return
    methods = [*dict.fromkeys(row["method"] for row in trained)]
    figure = Figure(figsize=(1 + 3.6 * len(tasks), 0.8 + 3 * len(bases)), layout="constrained")
    grid = figure.subplots(len(bases), len(tasks), squeeze=False, sharey=True)
    for line, base in zip(grid, bases, strict=True):
        for axes, task in zip(line, tasks, strict=True):
            _draw_panel(axes, [r for r in trained if (r["base"], r["task"]) == (base, task)], methods)
            axes.set_title(f"{base}, {task}", fontsize=8)
    handles = {
        label: handle for axes in grid.flat for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize=7, frameon=False)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, content.getvalue())


def _draw_panel(axes: Any, rows: Sequence[Mapping[str, Any]], methods: Sequence[str]) -> None:
    for method in methods:
        own = sorted((row for row in rows if row["method"] == method), key=lambda row: row["per_label"])
        if not own:
            continue
        middle = [100 * row["median"] for row in own]
        spread = [
            [100 * (row["median"] - row["lower"]) for row in own],
            [100 * (row["upper"] - row["median"]) for row in own],
        ]
        colour = _COLOURS[methods.index(method) % len(_COLOURS)]
        axes.errorbar(
            [row["per_label"] for row in own], middle, yerr=spread, label=method, color=colour, marker="o",
            markersize=3, linewidth=1.2, capsize=2,
        )  # fmt: skip
    counts = sorted({row["per_label"] for row in rows})
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.set_xlabel("rows a label", fontsize=8)
    axes.set_ylabel("accuracy, %", fontsize=8)
    axes.tick_params(labelsize=7)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)

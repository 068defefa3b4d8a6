"""A picture of many adapters: requests a second, waiting and memory, a line of panels for each base and task.

This file knows rows of plain values and matplotlib.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.report import number
from ia3.files import write_whole

Row = Mapping[str, Any]

_OURS, _RIVAL, _BASE, _INK = "#0072B2", "#8C8C8C", "#D9D9D9", "#222222"
_PANELS = (
    ("requests a second", "requests_per_second", 1.0),
    ("p99 of the wait, ms", "p99_ms", 1.0),
    ("peak memory, MB", "peak_memory_bytes", 1e6),
)


def draw_rows(rows: Sequence[Row], title: str, path: Path) -> None:
    """Write the picture; a row that was skipped is left out.

    Args:
        rows: The rows of the report.
        title: What the numbers depend on.
        path: The PNG file.

    Raises:
        OSError: If it cannot be written.
    """
    asked = [*dict.fromkeys((row["base"], row["task"]) for row in rows if not row["skipped"])]
    if not asked:
        return
    panels = [panel for panel in _PANELS if any(row[panel[1]] is not None for row in rows)]
    figure = Figure(figsize=(1 + 4 * max(2, len(panels)), 0.8 + 3.1 * len(asked)), layout="constrained")
    figure.suptitle(title, fontsize=8, color=_INK)
    grid = figure.subplots(len(asked), len(panels), squeeze=False)
    for line, (base, task) in zip(grid, asked, strict=True):
        mine = [row for row in rows if (row["base"], row["task"]) == (base, task) and not row["skipped"]]
        for axes, (label, field, unit) in zip(line, panels, strict=True):
            _draw_panel(axes, mine[::-1], field, unit)  # the first one on top
            axes.set_title(f"{base}, {task}: {label}", fontsize=9, loc="left", color=_INK)
    content = io.BytesIO()
    figure.savefig(content, dpi=120, format="png", metadata={"Software": None})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, content.getvalue())


def _draw_panel(axes: Any, rows: Sequence[Row], field: str, unit: float) -> None:
    shown = [row for row in rows if row[field] is not None]
    names, values = [_name(row) for row in shown], [row[field] / unit for row in shown]
    axes.barh(names, values, color=[_colour(row["method"]) for row in shown])
    for name, value in zip(names, values, strict=True):
        place = {"textcoords": "offset points", "xytext": (4, 0), "va": "center"}
        axes.annotate(number(value), (value, name), fontsize=8, color=_INK, **place)
    axes.margins(x=0.18)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _name(row: Row) -> str:
    if row["method"] == "base":
        return "base"
    return f"{row['method']}, {row['adapters']:,}{' distinct' if row['is_distinct'] else ''}"


def _colour(method: str) -> str:
    return {"ia3": _OURS, "base": _BASE}.get(method, _RIVAL)

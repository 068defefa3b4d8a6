"""A picture of what was measured: speed, memory above the base and bytes kept, a line of panels for each base.

This file knows rows of plain values and matplotlib.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.ours import OURS
from benchmarks.products import PRODUCTS
from benchmarks.report import number
from ia3.files import write_whole

Row = Mapping[str, Any]

_OURS, _RIVAL, _PRODUCT, _INK = "#0072B2", "#8C8C8C", "#D9D9D9", "#222222"
_MEGA = 1e6
_PANELS = (
    ("examples a second", "examples_per_second", 1.0),
    ("peak memory above the base, MB", "peak_above_base_bytes", _MEGA),
    ("kept for the backward pass, MB", "kept_bytes", _MEGA),
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
    bases = [*dict.fromkeys(row["base"] for row in rows if not row["skipped"])]
    if not bases:
        return
    panels = [panel for panel in _PANELS if any(row[panel[1]] is not None for row in rows)]
    figure = Figure(figsize=(1 + 4 * max(2, len(panels)), 0.8 + 2.9 * len(bases)), layout="constrained")
    figure.suptitle(title, fontsize=8, color=_INK)
    grid = figure.subplots(len(bases), len(panels), squeeze=False)
    for line, base in zip(grid, bases, strict=True):
        mine = [row for row in rows if row["base"] == base and not row["skipped"]][::-1]  # the first one on top
        for axes, (label, field, unit) in zip(line, panels, strict=True):
            _draw_panel(axes, mine, field, unit)
            axes.set_title(f"{base}: {label}", fontsize=9, loc="left", color=_INK)
    content = io.BytesIO()
    figure.savefig(content, dpi=120, format="png", metadata={"Software": None})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, content.getvalue())


def _draw_panel(axes: Any, rows: Sequence[Row], field: str, unit: float) -> None:
    shown = [row for row in rows if row[field] is not None]
    names, values = [row["method"] for row in shown], [row[field] / unit for row in shown]
    highest = [row.get(f"{field}_high") or value * unit for row, value in zip(shown, values, strict=True)]
    axes.barh(names, values, color=[_colour(name) for name in names])
    if field == "examples_per_second":
        lowest = [row[f"{field}_low"] for row in shown]
        spread = (
            [v - low for v, low in zip(values, lowest, strict=True)],
            [h - v for v, h in zip(values, highest, strict=True)],
        )
        axes.errorbar(values, names, xerr=spread, fmt="none", ecolor=_INK, elinewidth=0.8, capsize=2)
    for name, value, high in zip(names, values, highest, strict=True):
        place = {"textcoords": "offset points", "xytext": (4, 0), "va": "center"}
        axes.annotate(number(value), (high / unit, name), fontsize=8, color=_INK, **place)
    axes.margins(x=0.18)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _colour(method: str) -> str:
    return _OURS if method in OURS else _PRODUCT if method in PRODUCTS else _RIVAL

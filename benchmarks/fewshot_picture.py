"""The few-shot runs as pictures, one for each base: medians over the rows a label, the range of the draws as bars.

This file knows the rows of a summary.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.figure import Figure

from benchmarks.fewshot_data import NONE, count_order, spell_count
from ia3.files import write_whole

Row = Mapping[str, Any]

_ACROSS = 4  # panels


def draw_summary(rows: Sequence[Row], path: Path) -> None:
    """Write a picture for each base, a panel for each table; of several bases each has its name in the file's.

    Args:
        rows: The summary; what has learned from no rows is left out.
        path: Of the picture, or of one base `PATH-BASE.png`.

    Raises:
        OSError: If one cannot be written.
    """
    trained = [row for row in rows if row["per_label"] != NONE]
    bases = [*dict.fromkeys(row["base"] for row in trained)]
    methods = [*dict.fromkeys(row["method"] for row in trained)]
    path.parent.mkdir(parents=True, exist_ok=True)
    for base in bases:
        named = path if len(bases) == 1 else path.with_name(f"{path.stem}-{Path(base).name}{path.suffix}")
        write_whole(named, _picture([row for row in trained if row["base"] == base], methods))


def _picture(rows: Sequence[Row], methods: Sequence[str]) -> bytes:
    tasks = [*dict.fromkeys(row["task"] for row in rows)]
    across = min(_ACROSS, len(tasks))
    down = math.ceil(len(tasks) / across)
    figure = Figure(figsize=(1 + 3.6 * across, 0.8 + 3 * down), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).flat
    handles: dict[str, Any] = {}
    for axes, task in zip(panels, tasks, strict=False):
        _draw_panel(axes, [row for row in rows if row["task"] == task], methods)
        axes.set_title(f"{rows[0]['base']}, {task}", fontsize=8)
        handles |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    for axes in panels:  # what is left of the last line
        axes.set_axis_off()
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=6, fontsize=7, frameon=False)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    return content.getvalue()


def _draw_panel(axes: Any, rows: Sequence[Row], methods: Sequence[str]) -> None:
    counts = sorted({row["per_label"] for row in rows}, key=count_order)
    colours = colormaps["tab20"].colors
    for place, method in enumerate(methods):
        own = sorted((row for row in rows if row["method"] == method), key=lambda row: count_order(row["per_label"]))
        if not own:
            continue
        spread = [
            [100 * (row["median"] - row["lowest"]) for row in own],
            [100 * (row["highest"] - row["median"]) for row in own],
        ]
        axes.errorbar(
            [counts.index(row["per_label"]) for row in own], [100 * row["median"] for row in own], yerr=spread,
            label=method, color=colours[place % len(colours)], marker="o", markersize=3, linewidth=1.2, capsize=2,
        )  # fmt: skip
    axes.set_xticks(range(len(counts)), [spell_count(count) for count in counts])
    axes.set_xlabel("rows a label", fontsize=8)
    axes.set_ylabel("accuracy, %", fontsize=8)
    axes.tick_params(labelsize=7)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
